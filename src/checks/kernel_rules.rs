//! Which lines of the kernel mean something. Substrings in a table, no patterns: a storm of lines must not cost more than they are
//! worth. Some lines repeat a process's name, which its user chose (up to 15 bytes), so what such a name could imitate is only looked
//! for where the kernel's own words begin.

use crate::engine::host::sample::KernelAbout;

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known<'a> {
    pub(super) about: KernelAbout,
    pub(super) device: Option<&'a str>,
}

/// Where a rule's words are looked for.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// The line begins with them.
    Start,
    /// Anywhere: longer than a process's name.
    Anywhere,
}

/// How a line names its device.
#[derive(Clone, Copy, Debug)]
enum Device {
    None,
    /// `dev sda`
    AfterDev,
    /// `(device sda1)`, `(device sda1 state EA)`
    InParentheses,
    /// `XFS (dm-0): `, `EXT4-fs (sda1): `: the first in parentheses.
    First,
    /// `on device sda1-8.`: of a journal, named by device and inode.
    Journal,
}

struct Rule {
    about: KernelAbout,
    place: Place,
    words: &'static str,
    /// And this, somewhere; empty: nothing more.
    and: &'static str,
    device: Device,
}

const fn rule(about: KernelAbout, place: Place, words: &'static str, and: &'static str, device: Device) -> Rule {
    Rule { about, place, words, and, device }
}

use Device::{AfterDev, First, InParentheses, Journal};
use KernelAbout::{FilesystemError, HungTask, IoError, Oops, OutOfMemory};
use Place::{Anywhere, Start};

/// The first that fits counts.
const RULES: &[Rule] = &[
    rule(OutOfMemory, Start, "Out of memory: Kill", "", Device::None),
    rule(OutOfMemory, Start, "Memory cgroup out of memory: Kill", "", Device::None),
    rule(HungTask, Start, "INFO: task ", " blocked for more than ", Device::None),
    rule(Oops, Start, "Oops: ", "", Device::None),
    rule(Oops, Start, "BUG: ", "", Device::None),
    rule(Oops, Start, "kernel BUG at ", "", Device::None),
    rule(Oops, Start, "Kernel panic", "", Device::None),
    rule(Oops, Start, "general protection fault, ", "", Device::None),
    rule(Oops, Start, "general protection fault: ", "[#", Device::None),
    rule(Oops, Start, "Internal error: ", "[#", Device::None),
    rule(Oops, Start, "Unable to handle kernel ", "", Device::None),
    rule(Oops, Start, "watchdog: BUG: ", "", Device::None),
    rule(IoError, Start, "I/O error, dev ", "", AfterDev),
    rule(IoError, Start, "blk_update_request: ", " error, dev ", AfterDev),
    rule(IoError, Start, "print_req_error: ", " error, dev ", AfterDev),
    rule(IoError, Start, "critical medium error, dev ", "", AfterDev),
    rule(IoError, Start, "critical target error, dev ", "", AfterDev),
    rule(IoError, Start, "critical nexus error, dev ", "", AfterDev),
    rule(IoError, Start, "Buffer I/O error on dev", "", AfterDev),
    rule(IoError, Start, "lost async page write on dev ", "", AfterDev),
    rule(FilesystemError, Start, "EXT4-fs error (device ", "", InParentheses),
    rule(FilesystemError, Start, "EXT4-fs (", "Remounting filesystem read-only", First),
    rule(FilesystemError, Start, "EXT4-fs (", "Data will be lost", First),
    rule(FilesystemError, Start, "EXT2-fs (", "error", First),
    rule(FilesystemError, Start, "Aborting journal on device ", "", Journal),
    rule(FilesystemError, Start, "XFS (", "hutting down", First),
    rule(FilesystemError, Start, "XFS (", "orruption", First),
    rule(FilesystemError, Start, "XFS (", "metadata I/O error", First),
    rule(FilesystemError, Start, "XFS (", "log I/O error", First),
    rule(FilesystemError, Start, "BTRFS error (device ", "", InParentheses),
    rule(FilesystemError, Start, "BTRFS critical (device ", "", InParentheses),
    rule(FilesystemError, Start, "BTRFS: error (device ", "", InParentheses),
    rule(FilesystemError, Start, "BTRFS info (device ", "forced readonly", InParentheses),
    rule(FilesystemError, Start, "F2FS-fs (", "orrupt", First),
    rule(FilesystemError, Start, "FAT-fs (", "error", First),
    rule(FilesystemError, Anywhere, ": Remounting filesystem read-only", "", First),
];

/// Requests that a device may refuse without harm to data.
const HARMLESS: &[&str] = &["(DISCARD)", "(WRITE_ZEROES)", "(SECURE_ERASE)"];
/// A drive without a medium answers with errors.
const DRIVES: &[&str] = &["sr", "fd"];

pub(super) fn judge(text: &str) -> Option<Known<'_>> {
    if let Some(at) = text.find("[Hardware Error]: ") {
        // `{1}`, `mce: ` and the like come before it.
        return (at <= 16).then(|| machine_check(&text[at..])).flatten();
    }
    let rule = RULES.iter().find(|rule| {
        let fits = match rule.place {
            Place::Start => text.starts_with(rule.words),
            Place::Anywhere => text.contains(rule.words),
        };
        fits && text.contains(rule.and)
    })?;
    let device = match rule.device {
        Device::None => return Some(Known { about: rule.about, device: None }),
        // Before 4.5 some wrote `device`.
        Device::AfterDev => ["dev ", "device "].iter().find_map(|word| text.split_once(word)).map(|(_, rest)| rest),
        Device::InParentheses => text.find("(device ").map(|at| &text[at + "(device ".len()..]),
        Device::First => text.find('(').map(|at| &text[at + 1..]),
        Device::Journal => text.strip_prefix(rule.words).and_then(|rest| rest.rsplit_once('-')).map(|(name, _)| name),
    };
    let device = name(device?)?;
    let harmless = || {
        HARMLESS.iter().any(|request| text.contains(request))
            || DRIVES.iter().any(|drive| {
                device.strip_prefix(drive).is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
            })
    };
    if rule.about == IoError && harmless() {
        return None;
    }
    Some(Known { about: rule.about, device: Some(device) })
}

/// The name at the beginning, if it is one that the kernel gives: `sda1`, `dm-0`, `cciss!c0d0`.
fn name(text: &str) -> Option<&str> {
    let of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'!');
    let end = text.bytes().position(|byte| !of_a_name(byte)).unwrap_or(text.len());
    let name = &text[..end];
    // Partitions of some are numbered behind a colon or in a word of their own; those are no names of /sys.
    let ends_well = text[end..].bytes().next().is_none_or(|byte| matches!(byte, b',' | b' ' | b')' | b':' | b'.'));
    (name.bytes().next()?.is_ascii_alphabetic() && ends_well).then_some(name)
}

/// Only the lines that there is one of a machine check, and that say how bad it is.
fn machine_check(text: &str) -> Option<Known<'_>> {
    const CORRECTED: &[&str] = &["Corrected error", "event severity: corrected", "Machine check events logged"];
    const NOT: &[&str] = &[
        "Uncorrected",
        "Deferred error",
        "event severity: fatal",
        "event severity: recoverable",
        "Machine Check Exception: ",
        "Fatal machine check",
        "Fatal Machine check",
    ];
    let known = |about| Some(Known { about, device: None });
    if NOT.iter().any(|words| text.contains(words)) {
        return known(KernelAbout::MachineCheck);
    }
    if CORRECTED.iter().any(|words| text.contains(words)) {
        return known(KernelAbout::MachineCheckCorrected);
    }
    // `CPU 0: Machine Check: 0 Bank 4: b200000000070005`: bit 61 of the status is "not corrected".
    let status = text.split_once("Machine Check: ")?.1.split_once(" Bank ")?.1.split_once(": ")?.1;
    let status = u64::from_str_radix(status.split(' ').next()?, 16).ok()?;
    known(if status >> 61 & 1 == 1 { KernelAbout::MachineCheck } else { KernelAbout::MachineCheckCorrected })
}

#[cfg(test)]
mod tests {
    use KernelAbout::{MachineCheck, MachineCheckCorrected};

    use super::*;

    #[track_caller]
    fn known(text: &str, about: KernelAbout, device: Option<&str>) {
        assert_eq!(judge(text), Some(Known { about, device }), "{text}");
    }

    #[test]
    fn errors_of_disks_are_known_with_their_names() {
        for (text, device) in [
            ("I/O error, dev nvme0n1, sector 0 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 0", "nvme0n1"),
            ("critical medium error, dev sda, sector 4656 op 0x0:(READ) flags 0x80700", "sda"),
            ("blk_update_request: critical target error, dev sdb, sector 1", "sdb"),
            ("print_req_error: I/O error, dev dm-3, sector 8", "dm-3"),
            ("Buffer I/O error on dev sda1, logical block 0, async page read", "sda1"),
            ("Buffer I/O error on device sda2, logical block 0", "sda2"),
        ] {
            known(text, IoError, Some(device));
        }
    }

    #[test]
    fn what_harms_no_data_is_passed_over() {
        for text in [
            "critical target error, dev sda, sector 0 op 0x3:(DISCARD) flags 0x800",
            "I/O error, dev sda, sector 0 op 0x9:(WRITE_ZEROES) flags 0x0",
            "I/O error, dev sr0, sector 0 op 0x0:(READ)",
            "blk_update_request: I/O error, dev fd0, sector 0",
            "EXT4-fs (sda1): mounted filesystem with ordered data mode. Opts: errors=remount-ro",
            "XFS (sda1): Unmounting Filesystem",
            "usb 1-1: new high-speed USB device",
            "",
        ] {
            assert_eq!(judge(text), None, "{text}");
        }
    }

    #[test]
    fn name_of_a_process_imitates_nothing() {
        for text in [
            "I/O error, dev [77]: segfault at 0 ip 0 sp 0 error 4",
            "traps: BUG: x[123] general protection fault, probably",
            "I/O error, dev invoked oom-killer: gfp_mask=0x1",
        ] {
            let forged = judge(text);
            assert!(forged.is_none_or(|known| known.device == Some("invoked")), "{text}: {forged:?}");
        }
    }

    #[test]
    fn errors_of_file_systems_are_known_with_their_devices() {
        for (text, device) in [
            ("EXT4-fs error (device loop0): trigger_test_error:130: comm bash: x", "loop0"),
            ("EXT4-fs error (device dm-0 state EA): ext4_find_entry", "dm-0"),
            ("EXT4-fs (sda1): Remounting filesystem read-only", "sda1"),
            ("Aborting journal on device sda1-8.", "sda1"),
            ("Aborting journal on device dm-0-8.", "dm-0"),
            ("XFS (dm-0): Metadata corruption detected at xfs_x", "dm-0"),
            ("XFS (sda1): User initiated shutdown received. Shutting down filesystem", "sda1"),
            ("XFS (sdb2): Filesystem has been shut down due to log error (0x2). shutting down", "sdb2"),
            ("BTRFS error (device sdb): bdev /dev/sdb errs: wr 1, rd 0", "sdb"),
            ("BTRFS error (device sdb state A): x", "sdb"),
            ("BTRFS info (device sdb: state E): forced readonly", "sdb"),
            ("FAT-fs (sdc1): error, fat_get_cluster: invalid", "sdc1"),
            ("FAT-fs (sdc1): Remounting filesystem read-only", "sdc1"),
        ] {
            known(text, FilesystemError, Some(device));
        }
    }

    #[test]
    fn machine_checks_are_told_apart_by_what_they_did() {
        known("mce: [Hardware Error]: Machine check events logged", MachineCheckCorrected, None);
        known("{1}[Hardware Error]: event severity: corrected", MachineCheckCorrected, None);
        known("{1}[Hardware Error]: event severity: fatal", MachineCheck, None);
        known("[Hardware Error]: Uncorrected, software restartable error.", MachineCheck, None);
        known("mce: [Hardware Error]: CPU 0: Machine Check: 0 Bank 4: b200000000070005", MachineCheck, None);
        known("mce: [Hardware Error]: CPU 0: Machine Check: 0 Bank 1: 9c00000000000000", MachineCheckCorrected, None);
        known("mce: [Hardware Error]: CPU 1: Machine Check Exception: 5 Bank 4: b2", MachineCheck, None);
        assert_eq!(judge("mce: [Hardware Error]: TSC 0 ADDR 123"), None);
        assert_eq!(judge("mce: [Hardware Error]: CPU 0: Machine Check: 0 Bank 4: zz"), None);
    }

    #[test]
    fn what_concerns_the_whole_host_is_known() {
        known("Oops: 0000 [#1] PREEMPT SMP NOPTI", Oops, None);
        known("BUG: unable to handle page fault for address: 0", Oops, None);
        known("watchdog: BUG: soft lockup - CPU#0 stuck for 22s!", Oops, None);
        known("INFO: task jbd2/dm-0-8:99 blocked for more than 120 seconds.", HungTask, None);
        known("Out of memory: Killed process 1234 (java) total-vm:1kB", OutOfMemory, None);
        known("Memory cgroup out of memory: Killed process 99 (x) total-vm:1kB", OutOfMemory, None);
        assert_eq!(judge("INFO: rcu_sched detected stalls"), None);
    }
}
