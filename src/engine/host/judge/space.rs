//! Room on a file system: bytes and inodes.

use super::super::Health;
use super::super::condition::Verdict;
use super::super::kind::CheckKind;
use super::super::rules::Rule;
use super::super::sample::SpaceStat;
use super::super::words::{bytes, percent, permille};
use super::{Bench, by_bands, threshold};

/// With more left than this a file system is not short of room, however large it is; with the second it is well again.
const MUCH: (u64, u64) = (20 << 30, 25 << 30);
/// Less than this is next to nothing, even where it is more than its share; with the second it is well again.
const LITTLE: (u64, u64) = (256 << 20, 384 << 20);
/// That is said only of a file system that has so large a part in use: small ones never have much.
const LITTLE_USED_PERMILLE: i64 = 900;

impl Bench<'_> {
    pub(super) fn space(&mut self, space: &SpaceStat) {
        let mount = space.mount.as_str();
        self.seen.known.mount_answers(mount);
        if let Some(error) = &space.error {
            for kind in [CheckKind::DiskSpace, CheckKind::DiskInodes, CheckKind::DiskFill] {
                if self.check(kind, mount).is_some() {
                    self.say(kind, mount, Verdict::unknown(format!("statvfs: {error}")));
                }
            }
            return;
        }
        // Of what others than root may use: what root keeps for itself is not counted.
        let used_bytes = space.size_bytes.saturating_sub(space.free_bytes);
        let usable = used_bytes.saturating_add(space.available_bytes);
        let used = permille(used_bytes, usable);
        if let Some(check) = self.check(CheckKind::DiskSpace, mount) {
            let verdict = room(&check.rule, check.condition.state, used, space.available_bytes);
            self.say(CheckKind::DiskSpace, mount, verdict);
        }
        if space.inodes == 0 {
            self.absent(CheckKind::DiskInodes, mount, "inodes are made as needed");
        } else {
            let left = space.inodes_available;
            let used = permille(space.inodes.saturating_sub(left), space.inodes);
            self.measure(CheckKind::DiskInodes, mount, used, format!("{} used, {left} left", percent(used)));
        }
        self.fill(mount, used_bytes, usable);
    }
}

/// The share alone would call a large disk full that has room for months, and a small one well that has room for minutes.
fn room(rule: &Rule, state: Health, used: i64, available: u64) -> Verdict {
    let (mut enter, mut hold) = by_bands(rule, false, used);
    if !rule.own_degraded {
        if enter == Health::Degraded && available >= MUCH.0 {
            enter = Health::Ok;
        }
        if hold == Health::Degraded && available >= MUCH.1 {
            hold = Health::Ok;
        }
    }
    if !rule.own_failing && used >= LITTLE_USED_PERMILLE {
        if available < LITTLE.0 {
            enter = Health::Failing;
        }
        if available < LITTLE.1 {
            hold = Health::Failing;
        }
    }
    let text = format!("{} used, {} left", percent(used), bytes(available));
    let by_share = by_bands(rule, false, used).0;
    let why = if enter == Health::Failing && by_share != Health::Failing {
        format!("{text} (failing below {})", bytes(LITTLE.0))
    } else {
        threshold(CheckKind::DiskSpace, rule, (enter, hold), state)
            .map_or(text.clone(), |from| format!("{text} ({from})"))
    };
    Verdict { value: Some(used), enter, hold, why }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Desk;
    use super::*;

    const GIB: u64 = 1 << 30;

    fn desk() -> Desk {
        Desk::with_mount("/", "ext4", "sda")
    }

    fn space(size: u64, left: u64) -> super::super::Sample {
        super::super::Sample::Space(SpaceStat {
            mount: "/".into(),
            size_bytes: size,
            available_bytes: left,
            free_bytes: left,
            inodes: 1_000,
            inodes_available: 900,
            error: None,
        })
    }

    #[test]
    fn a_full_file_system_is_told_with_its_numbers() {
        let said = desk().says(CheckKind::DiskSpace, "/", &space(100 * GIB, 2 * GIB + GIB / 2));
        assert_eq!(said, "failing: 97.5 % used, 2.5 GiB left (failing from 97.0 %)");
        let said = desk().says(CheckKind::DiskSpace, "/", &space(100 * GIB, 8 * GIB));
        assert_eq!(said, "degraded: 92.0 % used, 8.0 GiB left (degraded from 90.0 %)");
        let said = desk().says(CheckKind::DiskSpace, "/", &space(100 * GIB, 12 * GIB));
        assert_eq!(said, "ok, held degraded: 88.0 % used, 12.0 GiB left");
    }

    #[test]
    fn a_tenth_of_a_large_disk_is_much() {
        let said = desk().says(CheckKind::DiskSpace, "/", &space(4_000 * GIB, 200 * GIB));
        assert_eq!(said, "ok: 95.0 % used, 200.0 GiB left");
    }

    #[test]
    fn a_small_file_system_is_not_failing_because_it_is_small() {
        let said = desk().says(CheckKind::DiskSpace, "/", &space(GIB / 4, GIB / 5));
        assert_eq!(said, "ok: 20.0 % used, 204.8 MiB left");
        let said = desk().says(CheckKind::DiskSpace, "/", &space(4 * GIB, GIB / 5));
        assert_eq!(said, "failing: 95.0 % used, 204.8 MiB left (failing below 256.0 MiB)");
    }

    #[test]
    fn what_root_keeps_for_itself_is_not_counted() {
        let stat = SpaceStat {
            mount: "/".into(),
            size_bytes: 100 * GIB,
            available_bytes: 0,
            free_bytes: 5 * GIB,
            ..SpaceStat::default()
        };
        let said = desk().says(CheckKind::DiskSpace, "/", &super::super::Sample::Space(stat.clone()));
        assert_eq!(said, "failing: 100.0 % used, 0 B left (failing from 97.0 %)");
        let said = desk().says(CheckKind::DiskInodes, "/", &super::super::Sample::Space(stat));
        assert_eq!(said, "absent: inodes are made as needed");
    }

    #[test]
    fn a_call_that_failed_says_nothing_of_the_room() {
        let stat = SpaceStat { mount: "/".into(), error: Some("Input/output error".into()), ..SpaceStat::default() };
        let said = desk().says(CheckKind::DiskSpace, "/", &super::super::Sample::Space(stat));
        assert_eq!(said, "unknown: statvfs: Input/output error");
    }
}
