//! File systems: errors they count, a forced read-only, the canary; and btrfs's counts by device.
//!
//! Mount flags say nothing of a forced read-only on most kernels, so an error that was counted, reported or written to the kernel's log
//! latches: until the file system is mounted again or checked where its counter shows that, else for a day.

use serde::{Deserialize, Serialize};

use super::super::condition::Verdict;
use super::super::kind::CheckKind;
use super::super::sample::{CanaryStat, FilesystemStat};
use super::super::words::{several, signed};
use super::super::{CheckKey, Health};
use super::fill::Ring;
use super::{Bench, DAY, Growth, Said};
use crate::engine::types::human;
use std::time::Duration;

/// The canary is slow, and very slow; a disk full of dirty pages may keep one waiting for as long, so it takes several.
const SLOW: Duration = Duration::from_secs(1);
const SLOW_TIMES: u32 = 3;
const VERY_SLOW: Duration = Duration::from_secs(5);
const VERY_SLOW_TIMES: u32 = 2;

/// What is remembered of a mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::engine::host) struct MountSeen {
    pub(super) ring: Ring,
    forced_read_only: bool,
    /// Errors that were there when the agent first looked.
    old_errors: u64,
    counts_errors: bool,
    /// errno of the canary, and how many have been slow in a row.
    canary_errno: Option<i32>,
    slow: u32,
    very_slow: u32,
    took: Duration,
}

impl MountSeen {
    /// What the latest canaries say of the disk.
    pub(super) fn slowness(&self) -> Option<(Health, String)> {
        let level = if self.very_slow >= VERY_SLOW_TIMES {
            Health::Failing
        } else if self.slow >= SLOW_TIMES {
            Health::Degraded
        } else {
            return None;
        };
        Some((level, format!("a write of 4 KiB took {}, {} times in a row", human(self.took), self.slow)))
    }
}

/// Numbers of errno-base.h and errno.h that speak of the device or the file system: EIO, ENXIO, ENODEV, EROFS, ENODATA (medium error),
/// EILSEQ, ENOTCONN, ESTALE, EUCLEAN, EREMOTEIO.
const BROKEN: [i32; 10] = [5, 6, 19, 30, 61, 84, 107, 116, 117, 121];
/// ENOSPC and EDQUOT: it is full, which is another check.
const FULL: [i32; 2] = [28, 122];

fn errno_word(errno: i32) -> String {
    let known = [
        (5, "EIO"),
        (6, "ENXIO"),
        (19, "ENODEV"),
        (30, "EROFS"),
        (61, "ENODATA"),
        (84, "EILSEQ"),
        (107, "ENOTCONN"),
        (116, "ESTALE"),
        (117, "EUCLEAN"),
        (121, "EREMOTEIO"),
    ];
    let word = known.iter().find(|(number, _)| *number == errno);
    word.map_or_else(|| format!("error {errno}"), |(_, word)| (*word).to_owned())
}

impl Bench<'_> {
    pub(super) fn filesystem(&mut self, stat: &FilesystemStat) {
        let mount = stat.mount.as_str();
        if !stat.btrfs.is_empty() {
            self.btrfs(stat);
        }
        if self.check(CheckKind::Filesystem, mount).is_none() {
            return;
        }
        let growth = stat.errors.map(|errors| (errors, self.growth(format!("fs {mount}"), [errors])));
        let seen = self.seen.mounts.entry(mount.to_owned()).or_default();
        seen.forced_read_only = stat.forced_read_only;
        seen.counts_errors = stat.errors.is_some();
        match growth {
            None | Some((_, Growth::By([0]))) => {}
            Some((errors, Growth::First)) => seen.old_errors = errors,
            Some((errors, Growth::Reset)) => {
                seen.old_errors = errors;
                self.said.push(Said::Release(CheckKey { kind: CheckKind::Filesystem, target: mount.to_owned() }));
            }
            Some((errors, Growth::By([more]))) => {
                let more = several(more, "new error", "new errors");
                let why = format!("{more} of the file system, {errors} in all");
                self.latch(CheckKind::Filesystem, mount, Health::Failing, None, why);
            }
        }
        self.filesystem_verdict(mount);
    }

    /// What all that is known of the mount says together.
    pub(in crate::engine::host) fn filesystem_verdict(&mut self, mount: &str) {
        if self.check(CheckKind::Filesystem, mount).is_none() {
            return;
        }
        let Some(seen) = self.seen.mounts.get(mount) else {
            return;
        };
        let errno = seen.canary_errno.filter(|errno| !FULL.contains(errno));
        let (level, why) = if let Some(why) = self.seen.known.silent_mounts.get(mount) {
            (Health::Failing, why.clone())
        } else if seen.forced_read_only {
            (Health::Failing, "the kernel has made it read-only".to_owned())
        } else if let Some(errno) = errno.filter(|errno| BROKEN.contains(errno)) {
            (Health::Failing, format!("the canary could not be written or read: {}", errno_word(errno)))
        } else if let Some(errno) = errno {
            (Health::Degraded, format!("the canary could not be written or read: {}", errno_word(errno)))
        } else if seen.old_errors > 0 {
            let errors = several(seen.old_errors, "error", "errors");
            (Health::Degraded, format!("{errors} before the agent began to look: check it when it can be unmounted"))
        } else {
            (Health::Ok, "no errors".to_owned())
        };
        let errors = signed(seen.old_errors);
        self.say(CheckKind::Filesystem, mount, Verdict::plain(level, Some(errors), why));
    }

    pub(super) fn canary(&mut self, canary: &CanaryStat) {
        let took = Duration::from_micros(canary.took_us);
        self.seen.known.mount_answers(&canary.mount);
        let seen = self.seen.mounts.entry(canary.mount.clone()).or_default();
        if canary.absent.is_some() {
            // It says nothing of the disk: the other signs remain.
            (seen.canary_errno, seen.slow, seen.very_slow) = (None, 0, 0);
        } else {
            seen.canary_errno = canary.errno;
            seen.took = took;
            seen.slow = if took > SLOW { seen.slow.saturating_add(1) } else { 0 };
            seen.very_slow = if took > VERY_SLOW { seen.very_slow.saturating_add(1) } else { 0 };
        }
        self.filesystem_verdict(&canary.mount);
    }

    /// fanotify. An error of a file system that was there before says nothing of the one that is there now.
    pub(super) fn filesystem_error(&mut self, mount: &str, instance: Option<u64>, errno: i32, count: u32) {
        let why = format!("{} reported: {}", several(u64::from(count), "error", "errors"), errno_word(errno));
        match (instance, self.seen.known.filesystems.get(mount)) {
            (Some(of), Some(known)) if known.now != of => {
                if known.before != Some(of) {
                    self.seen.early_errors.insert(mount.to_owned(), (of, why));
                }
            }
            (Some(_) | None, Some(_) | None) => self.latch_filesystem(mount, why),
        }
    }

    /// It is known by now what is mounted there.
    pub(in crate::engine::host) fn filesystem_errors_before_it_was_known(&mut self, mount: &str, instance: u64) {
        if let Some((_, why)) = self.seen.early_errors.remove(mount).filter(|(of, _)| *of == instance) {
            self.latch_filesystem(mount, why);
        }
    }

    pub(super) fn filesystem_line(&mut self, device: &str, text: &str) {
        let of_device = |mount: &&super::super::sample::Mount| {
            let own = mount.device.as_deref() == Some(device) || mount.source.strip_prefix("/dev/") == Some(device);
            own && !device.is_empty()
        };
        let points: Vec<String> =
            self.devices.mounts.iter().filter(of_device).map(|mount| mount.point.clone()).collect();
        for point in points {
            self.latch_filesystem(&point, format!("kernel: {text}"));
        }
    }

    fn latch_filesystem(&mut self, mount: &str, why: String) {
        let counts = self.seen.mounts.get(mount).is_some_and(|seen| seen.counts_errors);
        let lasts = if counts { None } else { Some(DAY) };
        self.latch(CheckKind::Filesystem, mount, Health::Failing, lasts, why);
    }

    fn btrfs(&mut self, stat: &FilesystemStat) {
        const KIND: CheckKind = CheckKind::Btrfs;
        let mount = self.devices.mounts.iter().find(|mount| mount.point == stat.mount);
        let target = mount.and_then(|mount| mount.disk.clone()).unwrap_or_else(|| stat.mount.clone());
        if self.check(KIND, &target).is_none() {
            return;
        }
        let mut missing = 0;
        let mut counts = (0, 0);
        for device in &stat.btrfs {
            missing += u64::from(device.missing);
            let now = [device.other_errors, device.write_errors];
            match self.growth(format!("btrfs {} #{}", stat.mount, device.id), now) {
                // What it counted earlier is worth looking at, and no more.
                Growth::First => counts.0 += device.other_errors.saturating_add(device.write_errors),
                Growth::By([other, write]) => counts = (counts.0 + other, counts.1 + write),
                Growth::Reset => {}
            }
        }
        let (other, write) = self.tally(KIND, &target, DAY, counts);
        let value = signed(other.saturating_add(write));
        if write > 0 {
            let why =
                format!("{} within a day", several(write, "failed write of a device", "failed writes of devices"));
            return self.say(KIND, &target, Verdict::plain(Health::Failing, Some(value), why));
        }
        if missing > 0 {
            let why = several(missing, "device is missing", "devices are missing");
            return self.say(KIND, &target, Verdict::plain(Health::Degraded, Some(value), why));
        }
        self.measure(KIND, &target, value, format!("{} within a day", several(other, "error", "errors")));
    }
}
