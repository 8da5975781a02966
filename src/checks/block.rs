//! Block devices by what /sys/block counts of them; never by asking the device.
//!
//! Requests under way are those of `stat` and not of `inflight`: where accounting is switched off, the one stays at zero as the
//! completions do, and nothing looks hung.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::reading::{Buffer, Kept, names_in};
use crate::engine::host::sample::{DiskStat, RaidStat, ScsiStat};

/// A sector of /sys/block, whatever the device has.
const SECTOR_BYTES: u64 = 512;
/// Paths to one NVMe namespace.
const CONTROLLERS_MAX: usize = 16;

/// These devices, with their files kept open.
#[derive(Debug)]
pub(super) struct BlockReader {
    buffer: Buffer,
    disks: Vec<DiskFiles>,
}

#[derive(Debug)]
struct DiskFiles {
    name: String,
    stat: Kept,
    scsi: Option<(Kept, Kept)>,
    states: Vec<Kept>,
    raid: Option<RaidFiles>,
    emmc: Option<(Kept, Kept)>,
    suspended: Option<Kept>,
}

#[derive(Debug)]
struct RaidFiles {
    level: Kept,
    degraded: Kept,
    array_state: Kept,
    sync_action: Kept,
}

impl BlockReader {
    pub(super) fn new(root: &Path, names: &[String]) -> Self {
        let disks = names.iter().map(|name| DiskFiles::open(root, name)).collect();
        Self { buffer: Buffer::new(), disks }
    }

    /// Those that are there.
    pub(super) fn read(&mut self) -> Vec<DiskStat> {
        let buffer = &mut self.buffer;
        self.disks.iter_mut().filter_map(|disk| disk.read(buffer)).collect()
    }

    /// `md/degraded` of each array: the kernel tells of its changes by EPOLLPRI. Reading them arms them anew.
    pub(super) fn watched(&self) -> impl Iterator<Item = &File> {
        self.disks.iter().filter_map(|disk| disk.raid.as_ref()?.degraded.file())
    }
}

impl DiskFiles {
    fn open(root: &Path, name: &str) -> Self {
        let base = root.join("sys/block").join(name);
        let kept = |path: &str| Kept::new(base.join(path));
        let if_there = |path: &str| Some(kept(path)).filter(Kept::is_there);
        let raid = if_there("md/array_state").map(|array_state| RaidFiles {
            level: kept("md/level"),
            degraded: kept("md/degraded"),
            array_state,
            sync_action: kept("md/sync_action"),
        });
        Self {
            name: name.to_owned(),
            stat: kept("stat"),
            scsi: if_there("device/ioerr_cnt").map(|errors| (errors, kept("device/iotmo_cnt"))),
            states: state_files(&base).into_iter().map(Kept::new).collect(),
            raid,
            emmc: if_there("device/life_time").map(|life| (life, kept("device/pre_eol_info"))),
            suspended: if_there("dm/suspended"),
        }
    }

    fn read(&mut self, buffer: &mut Buffer) -> Option<DiskStat> {
        let mut stat = parse_stat(self.stat.value(buffer)?)?;
        stat.name.clone_from(&self.name);
        stat.scsi = self.scsi.as_mut().and_then(|(errors, timeouts)| {
            let errors = errors.value(buffer).and_then(hex)?;
            Some(ScsiStat { errors, timeouts: timeouts.value(buffer).and_then(hex).unwrap_or_default() })
        });
        stat.state = read_state(&mut self.states, buffer);
        stat.raid = self.raid.as_mut().map(|raid| raid.read(buffer));
        stat.emmc = self.emmc.as_mut().and_then(|(life, end)| {
            let life = life.value(buffer)?.split_ascii_whitespace().filter_map(hex).max()?;
            let end = end.value(buffer).and_then(hex).unwrap_or_default();
            Some((u32::try_from(life).ok()?, u32::try_from(end).ok()?))
        });
        stat.suspended = self.suspended.as_mut().and_then(|file| file.number(buffer)) == Some(1);
        Some(stat)
    }
}

impl RaidFiles {
    fn read(&mut self, buffer: &mut Buffer) -> RaidStat {
        let mut word = |file: &mut Kept| file.value(buffer).unwrap_or_default().trim_ascii().to_owned();
        let (level, array_state) = (word(&mut self.level), word(&mut self.array_state));
        let sync_action = word(&mut self.sync_action);
        let degraded = self.degraded.number(buffer).and_then(|count| u32::try_from(count).ok());
        RaidStat { level, degraded: degraded.unwrap_or_default(), array_state, sync_action }
    }
}

/// SCSI devices and NVMe controllers have a state; a namespace with several paths has one for each of them.
fn state_files(base: &Path) -> Vec<PathBuf> {
    let own = base.join("device/state");
    if own.exists() {
        return vec![own];
    }
    let device = base.join("device");
    let mut controllers = names_in(&device, 4 * CONTROLLERS_MAX);
    controllers.retain(|name| name.strip_prefix("nvme").is_some_and(|rest| rest.parse::<u32>().is_ok()));
    controllers.truncate(CONTROLLERS_MAX);
    controllers.iter().map(|name| device.join(name).join("state")).filter(|path| path.exists()).collect()
}

/// The best of its paths: a namespace works while one of them does.
fn read_state(files: &mut [Kept], buffer: &mut Buffer) -> Option<String> {
    let mut found: Option<String> = None;
    for file in files {
        let Some(state) = file.value(buffer).map(str::trim_ascii).filter(|state| !state.is_empty()) else { continue };
        let well = matches!(state, "live" | "running");
        if well || found.is_none() {
            found = Some(state.to_owned());
        }
        if well {
            break;
        }
    }
    found
}

/// Documentation/block/stat.rst: the fields of discards came with 4.18, those of flushes with 5.5.
fn parse_stat(text: &str) -> Option<DiskStat> {
    let mut fields = [0_u64; 17];
    let mut count = 0;
    for (field, word) in fields.iter_mut().zip(text.split_ascii_whitespace()) {
        *field = word.parse().ok()?;
        count += 1;
    }
    if count < 11 {
        return None;
    }
    let sum = |indices: [usize; 4]| indices.iter().fold(0_u64, |sum, index| sum.wrapping_add(fields[*index]));
    Some(DiskStat {
        completed: sum([0, 4, 11, 15]),
        spent_ms: sum([3, 7, 14, 16]),
        in_flight: u32::try_from(fields[8]).unwrap_or(u32::MAX),
        busy_ms: fields[9],
        read_bytes: fields[2].wrapping_mul(SECTOR_BYTES),
        written_bytes: fields[6].wrapping_mul(SECTOR_BYTES),
        ..DiskStat::default()
    })
}

/// `0x1f`
fn hex(text: &str) -> Option<u64> {
    let text = text.trim_ascii();
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::super::reading::testing::{garbage, put, root};
    use super::*;

    const STAT: &str = "    1020      30   81920     400     500      40    4096    3000        2     2500     3600        7        0      800        9       11       13\n";

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn scsi_disk_tells_its_counters_and_its_state() {
        let root = root(&[
            ("sys/block/sda/stat", STAT),
            ("sys/block/sda/device/ioerr_cnt", "0x1f\n"),
            ("sys/block/sda/device/iotmo_cnt", "0x2\n"),
            ("sys/block/sda/device/state", "running\n"),
        ]);
        let mut reader = BlockReader::new(root.path(), &names(&["sda", "sdb"]));
        let expected = DiskStat {
            name: "sda".to_owned(),
            completed: 1020 + 500 + 7 + 11,
            spent_ms: 400 + 3000 + 9 + 13,
            in_flight: 2,
            busy_ms: 2500,
            read_bytes: 81_920 * 512,
            written_bytes: 4096 * 512,
            scsi: Some(ScsiStat { errors: 31, timeouts: 2 }),
            state: Some("running".to_owned()),
            ..DiskStat::default()
        };
        assert_eq!(reader.read(), std::slice::from_ref(&expected));
        put(root.path(), "sys/block/sda/device/state", "offline\n");
        assert_eq!(reader.read(), [DiskStat { state: Some("offline".to_owned()), ..expected }]);
    }

    #[test]
    fn old_kernel_has_eleven_fields_and_fewer_are_none() {
        let short = |count: usize| STAT.split_ascii_whitespace().take(count).collect::<Vec<_>>().join(" ");
        let stat = parse_stat(&short(11)).unwrap();
        assert_eq!((stat.completed, stat.spent_ms), (1520, 3400));
        assert_eq!(parse_stat(&short(10)), None);
    }

    #[test]
    fn array_emmc_and_mapped_device_tell_what_is_theirs() {
        let root = root(&[
            ("sys/block/md0/stat", STAT),
            ("sys/block/md0/md/level", "raid1\n"),
            ("sys/block/md0/md/degraded", "1\n"),
            ("sys/block/md0/md/array_state", "clean\n"),
            ("sys/block/md0/md/sync_action", "idle\n"),
            ("sys/block/mmcblk0/stat", STAT),
            ("sys/block/mmcblk0/device/life_time", "0x01 0x0a\n"),
            ("sys/block/mmcblk0/device/pre_eol_info", "0x02\n"),
            ("sys/block/dm-0/stat", STAT),
            ("sys/block/dm-0/dm/suspended", "1\n"),
        ]);
        let mut reader = BlockReader::new(root.path(), &names(&["md0", "mmcblk0", "dm-0"]));
        let [array, flash, mapped] = reader.read().try_into().unwrap();
        let raid = RaidStat {
            level: "raid1".to_owned(),
            degraded: 1,
            array_state: "clean".to_owned(),
            sync_action: "idle".to_owned(),
        };
        assert_eq!(array.raid, Some(raid));
        assert_eq!((flash.emmc, flash.raid), (Some((10, 2)), None));
        assert!(mapped.suspended && !array.suspended);
        assert_eq!(reader.watched().count(), 1);
    }

    #[test]
    fn namespace_with_several_paths_is_live_while_one_of_them_is() {
        let root = root(&[
            ("sys/block/nvme0n1/stat", STAT),
            ("sys/block/nvme0n1/device/nvme0/state", "connecting\n"),
            ("sys/block/nvme0n1/device/nvme1/state", "live\n"),
            ("sys/block/nvme0n1/device/nvme0n1/state", "no controller\n"),
        ]);
        let mut reader = BlockReader::new(root.path(), &names(&["nvme0n1"]));
        assert_eq!(reader.read()[0].state.as_deref(), Some("live"));
        put(root.path(), "sys/block/nvme0n1/device/nvme1/state", "dead\n");
        assert_eq!(reader.read()[0].state.as_deref(), Some("connecting"));
    }

    #[test]
    fn garbage_is_read_without_a_panic() {
        let root = root(&[]);
        let files = ["stat", "device/ioerr_cnt", "device/state", "md/array_state", "md/degraded", "device/life_time"];
        for seed in 0..200 {
            for (salt, file) in (0..).zip(files) {
                let text = garbage(seed * 8 + salt, &[STAT, "0x1f", "0x01 0x0a", "running"]);
                put(root.path(), &format!("sys/block/sda/{file}"), text);
            }
            BlockReader::new(root.path(), &names(&["sda"])).read();
        }
    }
}
