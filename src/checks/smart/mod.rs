//! What a disk says of itself, asked by the commands of its own kind and reduced to what is judged. There is no database of drives: of
//! ATA's attributes only those are read that mean the same everywhere.
//!
//! A disk is opened for each reading and closed after it, so that it can be unplugged, and never woken where it can say that it sleeps.

mod ata;
mod nvme;
mod scsi;

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;

use crate::engine::host::sample::{SmartBy, SmartStat};

/// A command that the disk does not answer by then is given up by the kernel.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer models and serial numbers are cut.
const NAME_BYTES_MAX: usize = 64;

/// Asks a disk of `/sys/block`. May wait for it, for as long as the kernel does.
#[must_use]
pub fn read_smart(root: &Path, disk: &str, by: SmartBy) -> SmartStat {
    let described = root.join("sys/block").join(disk).join("device");
    let mut stat = SmartStat {
        disk: disk.to_owned(),
        model: model(&described),
        serial: serial(&described),
        ..SmartStat::default()
    };
    // A slash in the name of a device is an exclamation mark in /sys.
    let node = root.join("dev").join(disk.replace('!', "/"));
    let asked = open(&node).and_then(|device| match by {
        SmartBy::Nvme => nvme::ask(&device, &mut stat),
        SmartBy::Ata => ata::ask(&device, &mut stat),
        SmartBy::Scsi => scsi::ask(&device, &mut stat),
    });
    stat.error = asked.err();
    stat
}

/// Without waiting for a medium or for a disk to spin up.
fn open(node: &PathBuf) -> Result<File, String> {
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(node);
    opened.map_err(|error| sentence(&format!("open {}", node.display()), &error))
}

/// `cannot WHAT: why`, with the remedy where there is one.
fn sentence(what: &str, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::PermissionDenied => {
            format!("cannot {what}: no permission: run the agent as root, with CAP_SYS_RAWIO and CAP_SYS_ADMIN")
        }
        _ => format!("cannot {what}: {error}"),
    }
}

/// The vendor is part of it unless it is the name of the protocol.
fn model(described: &Path) -> Option<String> {
    let model = text(&described.join("model"))?;
    match text(&described.join("vendor")) {
        // PCI tells a number here, for NVMe.
        Some(vendor) if vendor != "ATA" && !vendor.starts_with("0x") => Some(format!("{vendor} {model}")),
        Some(_) | None => Some(model),
    }
}

/// NVMe's attribute, or the serial number page that the kernel read when it found a SCSI or ATA disk.
fn serial(described: &Path) -> Option<String> {
    const PAGE_HEADER_BYTES: usize = 4;
    text(&described.join("serial")).or_else(|| {
        let page = fs::read(described.join("vpd_pg80")).ok()?;
        printable(page.get(PAGE_HEADER_BYTES..)?)
    })
}

fn text(path: &Path) -> Option<String> {
    printable(&fs::read(path).ok()?)
}

fn printable(bytes: &[u8]) -> Option<String> {
    let kept = bytes.iter().take(NAME_BYTES_MAX).filter(|byte| byte.is_ascii_graphic() || **byte == b' ');
    let text = kept.map(|byte| char::from(*byte)).collect::<String>().trim().to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::TempDir;

    #[test]
    fn disk_that_cannot_be_asked_is_still_named() {
        let root = TempDir::new();
        let device = root.path().join("sys/block/sda/device");
        fs::create_dir_all(&device).unwrap();
        fs::write(device.join("vendor"), "ATA     \n").unwrap();
        fs::write(device.join("model"), "ST4000VN008-2DR1\n").unwrap();
        fs::write(device.join("vpd_pg80"), b"\0\x80\0\x14            ZDH1AB2C").unwrap();
        let stat = read_smart(root.path(), "sda", SmartBy::Ata);
        assert_eq!(stat.model.as_deref(), Some("ST4000VN008-2DR1"));
        assert_eq!(stat.serial.as_deref(), Some("ZDH1AB2C"));
        let error = stat.error.unwrap();
        assert!(error.starts_with("cannot open ") && error.contains("dev/sda: No such file"), "{error}");
        fs::write(device.join("vendor"), "SEAGATE \n").unwrap();
        let stat = read_smart(root.path(), "sda", SmartBy::Scsi);
        assert_eq!(stat.model.as_deref(), Some("SEAGATE ST4000VN008-2DR1"));
    }

    #[test]
    fn device_that_takes_no_such_command_is_an_error_and_not_a_verdict() {
        let root = TempDir::new();
        fs::create_dir_all(root.path().join("dev/cciss")).unwrap();
        for (node, disk) in [("dev/sda", "sda"), ("dev/cciss/c0d0", "cciss!c0d0")] {
            fs::write(root.path().join(node), "no device").unwrap();
            for by in [SmartBy::Nvme, SmartBy::Ata, SmartBy::Scsi] {
                let stat = read_smart(root.path(), disk, by);
                assert!(stat.error.as_ref().is_some_and(|error| error.contains("ioctl")), "{stat:?}");
                assert_eq!((stat.passed, stat.asleep), (None, false));
            }
        }
    }
}
