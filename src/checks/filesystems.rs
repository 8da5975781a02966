//! What can be told of file systems without touching them: errors that they count themselves, and a read-only that nobody wanted.
//!
//! A forced read-only of ext4 shows in no flag before Linux 6.15; `errors` does, on every kernel.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::mounts::{self, unescape};
use super::reading::{Buffer, Kept, link_name, names_in};
use crate::engine::host::sample::{BtrfsDevice, FilesystemStat};

/// Mount point, device as in /sys/fs/ext4, and type.
pub(super) type Wanted = (String, Option<String>, String);

/// A longer table of mounts (a host of containers) is not read with every round.
const TABLE_SHORT_BYTES: usize = 64 << 10;
const LONG_TABLE_EVERY: Duration = Duration::from_secs(30);
/// btrfs file systems, and devices of one.
const BTRFS_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct FilesystemsReader {
    root: PathBuf,
    buffer: Buffer,
    table: Kept,
    filesystems: Vec<Filesystem>,
    /// When the table, which is long, was read last.
    read_at: Option<Instant>,
}

#[derive(Debug)]
struct Filesystem {
    mount: String,
    device: Option<String>,
    forced_read_only: bool,
    errors: Option<Kept>,
    /// `devinfo` of btrfs.
    btrfs: Option<PathBuf>,
}

impl FilesystemsReader {
    pub(super) fn new(root: &Path, wanted: &[Wanted]) -> Self {
        let filesystems = wanted.iter().map(|(mount, device, fs_type)| {
            let device = device.as_deref().filter(|name| super::devices::is_name(name));
            let errors = device
                .map(|name| Kept::new(root.join("sys/fs").join(fs_type).join(name).join("errors_count")))
                .filter(|_| fs_type == "ext4");
            let btrfs = device.filter(|_| fs_type == "btrfs").and_then(|name| devinfo_of(root, name));
            Filesystem {
                mount: mount.clone(),
                device: device.map(str::to_owned),
                forced_read_only: false,
                errors,
                btrfs,
            }
        });
        Self {
            root: root.to_owned(),
            buffer: Buffer::new(),
            table: Kept::new(root.join("proc/self/mountinfo")),
            filesystems: filesystems.collect(),
            read_at: None,
        }
    }

    pub(super) fn read(&mut self, now: Instant) -> Vec<FilesystemStat> {
        self.look_for_forced_read_only(now);
        let buffer = &mut self.buffer;
        let stats = self.filesystems.iter_mut().map(|filesystem| FilesystemStat {
            mount: filesystem.mount.clone(),
            errors: filesystem.errors.as_mut().and_then(|errors| errors.number(buffer)),
            forced_read_only: filesystem.forced_read_only,
            btrfs: filesystem.btrfs.as_deref().map(|devinfo| read_btrfs(devinfo, buffer)).unwrap_or_default(),
        });
        stats.collect()
    }

    fn look_for_forced_read_only(&mut self, now: Instant) {
        if self.read_at.is_some_and(|at| now.saturating_duration_since(at) < LONG_TABLE_EVERY) {
            return;
        }
        let Some(text) = self.table.table(&mut self.buffer) else { return };
        self.read_at = (text.len() > TABLE_SHORT_BYTES).then_some(now);
        let wanted: BTreeMap<&str, usize> =
            self.filesystems.iter().zip(0..).map(|(filesystem, index)| (filesystem.mount.as_str(), index)).collect();
        let mut forced = vec![false; self.filesystems.len()];
        // The last of several mounts at one point is the one that is seen.
        for line in mounts::lines(text) {
            let index = match line.point.contains('\\') {
                true => wanted.get(unescape(line.point).as_str()),
                false => wanted.get(line.point),
            };
            if let Some(index) = index
                && !is_of_another(&self.root, line.number, self.filesystems[*index].device.as_deref())
            {
                forced[*index] = line.forced_read_only();
            }
        }
        for (filesystem, forced) in self.filesystems.iter_mut().zip(forced) {
            filesystem.forced_read_only = forced;
        }
    }
}

/// A directory of another file system may be mounted over it. What has a number of its own (btrfs) cannot be told by that.
fn is_of_another(root: &Path, number: &str, device: Option<&str>) -> bool {
    let of_line = link_name(&root.join("sys/dev/block").join(number));
    of_line.is_some_and(|of_line| device.is_some_and(|device| device != of_line))
}

/// The directory of the btrfs that this device is part of.
fn devinfo_of(root: &Path, device: &str) -> Option<PathBuf> {
    let base = root.join("sys/fs/btrfs");
    let mut uuids = names_in(&base, BTRFS_MAX).into_iter().map(|uuid| base.join(uuid));
    let found = uuids.find(|directory| {
        let devices = directory.join("devices");
        devices.join(device).exists() || link_name(&devices.join(device)).is_some()
    });
    found.map(|directory| directory.join("devinfo"))
}

fn read_btrfs(devinfo: &Path, buffer: &mut Buffer) -> Vec<BtrfsDevice> {
    let devices = names_in(devinfo, BTRFS_MAX).into_iter().filter_map(|name| {
        let id = name.parse().ok()?;
        let at = devinfo.join(&name);
        let missing = Kept::new(at.join("missing")).number(buffer) == Some(1);
        let mut device = BtrfsDevice { id, missing, ..BtrfsDevice::default() };
        if let Some(text) = Kept::new(at.join("error_stats")).value(buffer) {
            parse_errors(text, &mut device);
        }
        Some(device)
    });
    devices.collect()
}

/// `write_errs 0`, a line each.
fn parse_errors(text: &str, device: &mut BtrfsDevice) {
    for (name, count) in text.lines().filter_map(|line| line.split_once(' ')) {
        let count = count.trim_ascii().parse::<u64>().unwrap_or_default();
        let sum = match name {
            "write_errs" | "flush_errs" => &mut device.write_errors,
            "read_errs" | "corruption_errs" | "generation_errs" => &mut device.other_errors,
            _ => continue,
        };
        *sum = sum.saturating_add(count);
    }
}

#[cfg(test)]
mod tests {
    use super::super::reading::testing::{garbage, link, put, root};
    use super::*;

    fn wanted(mount: &str, device: &str, fs_type: &str) -> Wanted {
        (mount.to_owned(), Some(device.to_owned()), fs_type.to_owned())
    }

    #[test]
    fn ext4_tells_its_errors_and_a_mount_that_it_was_forced() {
        let table = |options: &str| {
            format!("27 1 8:1 / / rw - ext4 /dev/sda1 rw\n28 27 8:2 / /mnt/a\\040b rw - ext4 /dev/sda2 {options}\n")
        };
        let root = root(&[("sys/fs/ext4/sda1/errors_count", "0\n"), ("proc/self/mountinfo", &table("rw"))]);
        let wanted = [wanted("/", "sda1", "ext4"), wanted("/mnt/a b", "sda2", "ext4")];
        let mut reader = FilesystemsReader::new(root.path(), &wanted);
        let mut read = || {
            let stats = reader.read(Instant::now());
            stats.into_iter().map(|stat| (stat.errors, stat.forced_read_only)).collect::<Vec<_>>()
        };
        assert_eq!(read(), [(Some(0), false), (None, false)]);
        put(root.path(), "sys/fs/ext4/sda1/errors_count", "3\n");
        put(root.path(), "proc/self/mountinfo", table("rw,emergency_ro"));
        assert_eq!(read(), [(Some(3), false), (None, true)]);
        put(root.path(), "proc/self/mountinfo", table("rw"));
        assert_eq!(read(), [(Some(3), false), (None, false)]);
    }

    #[test]
    fn what_is_mounted_over_it_does_not_speak_for_it() {
        let table =
            "28 27 8:2 / /data rw - ext4 /dev/sda2 rw,emergency_ro\n29 28 8:1 /live /data rw - ext4 /dev/sda1 rw\n";
        let root = root(&[("proc/self/mountinfo", table)]);
        for (number, name) in [("8:1", "sda1"), ("8:2", "sda2")] {
            link(root.path(), &format!("sys/dev/block/{number}"), &format!("../../devices/x/block/sda/{name}"));
        }
        let forced = |device: &str| {
            let mut reader = FilesystemsReader::new(root.path(), &[wanted("/data", device, "ext4")]);
            reader.read(Instant::now())[0].forced_read_only
        };
        assert!(forced("sda2") && !forced("sda1"));
    }

    #[test]
    fn btrfs_tells_the_errors_of_its_devices_and_which_is_missing() {
        let root = root(&[("proc/self/mountinfo", "")]);
        let base = "sys/fs/btrfs/1234-ab";
        link(root.path(), &format!("{base}/devices/sdb"), "../../../../devices/x/block/sdb");
        let errors = "write_errs 1\nread_errs 2\nflush_errs 10\ncorruption_errs 20\ngeneration_errs 200\n";
        put(root.path(), &format!("{base}/devinfo/1/error_stats"), errors);
        put(root.path(), &format!("{base}/devinfo/1/missing"), "0\n");
        put(root.path(), &format!("{base}/devinfo/2/missing"), "1\n");
        let mut reader = FilesystemsReader::new(root.path(), &[wanted("/data", "sdb", "btrfs")]);
        let expected = [
            BtrfsDevice { id: 1, write_errors: 11, other_errors: 222, missing: false },
            BtrfsDevice { id: 2, missing: true, ..BtrfsDevice::default() },
        ];
        assert_eq!(reader.read(Instant::now())[0].btrfs, expected);
    }

    #[test]
    fn long_table_is_not_read_with_every_round() {
        let filler = "9 27 0:44 / /var/lib/x rw - overlay overlay rw\n".repeat(2_000);
        let table = |options: &str| format!("{filler}27 1 8:1 / / rw - ext4 /dev/sda1 {options}\n");
        let root = root(&[("proc/self/mountinfo", &table("rw"))]);
        let mut reader = FilesystemsReader::new(root.path(), &[wanted("/", "sda1", "ext4")]);
        let begun = Instant::now();
        let mut forced = |after: u64| reader.read(begun + Duration::from_secs(after))[0].forced_read_only;
        assert!(!forced(0));
        put(root.path(), "proc/self/mountinfo", table("rw,shutdown"));
        assert!(!forced(5));
        assert!(forced(30));
    }

    #[test]
    fn garbage_is_read_without_a_panic() {
        let root = root(&[]);
        let pieces = ["write_errs 1\nread_errs 2\n", "1 2 8:1 / / rw - ext4 /dev/sda1 rw,emergency_ro\n"];
        link(root.path(), "sys/fs/btrfs/u/devices/sdb", "x");
        for seed in 0..100 {
            put(root.path(), "proc/self/mountinfo", garbage(seed, &pieces));
            put(root.path(), "sys/fs/btrfs/u/devinfo/1/error_stats", garbage(seed + 1_000, &pieces));
            let wanted = [wanted("/", "sda1", "ext4"), wanted("/b", "sdb", "btrfs")];
            FilesystemsReader::new(root.path(), &wanted).read(Instant::now());
        }
    }
}
