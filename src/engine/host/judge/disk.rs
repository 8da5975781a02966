//! Disks, without touching them: requests that stand still, how long they take, errors, arrays.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::Health;
use super::super::condition::Verdict;
use super::super::kind::CheckKind;
use super::super::sample::{DiskStat, RaidStat, ScsiStat};
use super::super::words::{millis, several, signed};
use super::{Bench, Growth, TEN_MINUTES, banded, is_gap};
use crate::engine::types::{Time, human};

/// The mean time of a request is that of so long.
const LATENCY_OVER: Duration = Duration::from_millis(9_500);
/// Of fewer requests there is no mean.
const REQUESTS_LEAST: u64 = 10;
/// A device may be suspended for a moment while it is changed.
const SUSPENDED: Duration = Duration::from_secs(30);
/// Readings in a row with a state that passes by itself.
const ODD_STATE: u32 = 3;

/// What is remembered of a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::engine::host) struct DiskSeen {
    /// Completed and busy of the reading before.
    before: Option<(Time, u64, u64)>,
    /// How long it has been busy without a completion.
    frozen: Duration,
    suspended_since: Option<Time>,
    /// Completed and spent at the beginning of the mean.
    mean_from: Option<(Time, u64, u64)>,
    odd_state: u32,
}

impl DiskSeen {
    pub(super) fn forget_rates(&mut self) {
        (self.before, self.frozen, self.mean_from) = (None, Duration::ZERO, None);
    }
}

impl Bench<'_> {
    pub(super) fn disk(&mut self, disk: &DiskStat) {
        let name = disk.name.as_str();
        let every = self.rule(CheckKind::DiskHung, name).map_or(Duration::from_secs(5), |rule| rule.every);
        let now = self.now;
        let seen = self.seen.disks.entry(disk.name.clone()).or_default();
        let replugged = seen.before.is_some_and(|(_, completed, _)| completed > disk.completed);
        let late = seen.before.is_some_and(|(at, ..)| is_gap(now.since(at), every));
        if replugged || late {
            seen.forget_rates();
        }
        // The time that it was busy and not the time that passed: a request may have come just now.
        match seen.before.replace((now, disk.completed, disk.busy_ms)) {
            Some((_, completed, busy)) if disk.in_flight > 0 && completed == disk.completed => {
                seen.frozen += Duration::from_millis(disk.busy_ms.saturating_sub(busy));
            }
            Some(_) | None => seen.frozen = Duration::ZERO,
        }
        seen.suspended_since = if disk.suspended { seen.suspended_since.or(Some(now)) } else { None };
        self.hung(name, Some(disk.in_flight));
        self.latency(disk);
        self.errors(name, disk.scsi, disk.state.as_deref());
        if let Some(raid) = &disk.raid {
            self.raid(name, raid);
        }
        if let Some(emmc) = disk.emmc {
            self.flash(name, emmc);
        }
    }

    /// The worst of: requests that stand still, a suspended device, a helper that does not answer, a canary that takes its time.
    pub(in crate::engine::host) fn hung(&mut self, name: &str, in_flight: Option<u32>) {
        const KIND: CheckKind = CheckKind::DiskHung;
        let Some(check) = self.check(KIND, name) else {
            return;
        };
        let (rule, state) = (&check.rule, check.condition.state);
        let (now, Some(seen)) = (self.now, self.seen.disks.get(name)) else {
            return;
        };
        let frozen = seen.frozen;
        let mut verdict = if frozen.is_zero() {
            banded(KIND, rule, state, 0, "requests complete".to_owned())
        } else {
            let waiting = several(u64::from(in_flight.unwrap_or_default()), "request", "requests");
            banded(
                KIND,
                rule,
                state,
                millis(frozen),
                format!("{waiting} under way and none completed for {}", human(frozen)),
            )
        };
        let mut worse = |level: Health, why: String| {
            if level > verdict.enter {
                (verdict.enter, verdict.hold, verdict.why) = (level, verdict.hold.max(level), why);
            }
        };
        let suspended = seen.suspended_since.map(|since| now.since(since)).unwrap_or_default();
        if suspended >= SUSPENDED {
            worse(Health::Degraded, format!("the device has been suspended for {}", human(suspended)));
        }
        for mount in self.devices.mounts.iter().filter(|mount| mount.disk.as_deref() == Some(name)) {
            if let Some((level, why)) = self.seen.mounts.get(&mount.point).and_then(super::MountSeen::slowness) {
                worse(level, format!("{}: {why}", mount.point));
            }
        }
        if let Some(why) = self.seen.known.silent_disks.get(name) {
            worse(Health::Failing, why.clone());
        }
        self.say(KIND, name, verdict);
    }

    fn latency(&mut self, disk: &DiskStat) {
        const KIND: CheckKind = CheckKind::DiskLatency;
        if self.check(KIND, &disk.name).is_none() {
            return;
        }
        let now = self.now;
        let Some(seen) = self.seen.disks.get_mut(&disk.name) else {
            return;
        };
        let (from, completed, spent) = *seen.mean_from.get_or_insert((now, disk.completed, disk.spent_ms));
        let over = now.since(from);
        if over.is_zero() || (over < LATENCY_OVER && !self.once) {
            return;
        }
        seen.mean_from = Some((now, disk.completed, disk.spent_ms));
        let requests = disk.completed.saturating_sub(completed);
        if requests < REQUESTS_LEAST {
            let text = format!("{} within {}", several(requests, "request", "requests"), human(over));
            return self.say(KIND, &disk.name, Verdict::plain(Health::Ok, None, text));
        }
        let mean = disk.spent_ms.saturating_sub(spent) / requests;
        self.measure(KIND, &disk.name, signed(mean), format!("{mean}ms a request, mean of {requests}"));
    }

    fn errors(&mut self, name: &str, scsi: Option<ScsiStat>, state: Option<&str>) {
        const KIND: CheckKind = CheckKind::DiskErrors;
        if self.check(KIND, name).is_none() {
            return;
        }
        let mut more = 0;
        if let Some(ScsiStat { errors, timeouts }) = scsi
            && let Growth::By([errors, timeouts]) = self.growth(format!("scsi {name}"), [errors, timeouts])
        {
            more = errors;
            if timeouts > 0 {
                let why = format!("{} timed out", several(timeouts, "command", "commands"));
                self.latch(KIND, name, Health::Failing, Some(TEN_MINUTES), why);
            }
        }
        let verdict = self.error_verdict(name, (0, more));
        let level = self.state_level(name, state);
        match (verdict, level) {
            (Some(verdict), Some(level)) if level > verdict.enter => {
                let why = format!("the device is {}", state.unwrap_or_default());
                self.say(KIND, name, Verdict::plain(level, verdict.value, why));
            }
            (Some(verdict), Some(_) | None) => self.say(KIND, name, verdict),
            (None, Some(_) | None) => {}
        }
    }

    /// Lines of the kernel and errors that the device counted, of the last ten minutes. One line may stand for several errors, and both may
    /// tell of the same ones.
    fn error_verdict(&mut self, name: &str, more: (u64, u64)) -> Option<Verdict> {
        const KIND: CheckKind = CheckKind::DiskErrors;
        self.rule(KIND, name)?;
        let (lines, counted) = self.tally(KIND, name, TEN_MINUTES, more);
        let check = self.check(KIND, name)?;
        let text = format!(
            "{} counted by the device and {} of the kernel within 10m",
            several(counted, "error", "errors"),
            several(lines, "line", "lines")
        );
        // Not by the device's count: it grows with every question that ends with sense data, as those of SMART do on a healthy ATA disk.
        Some(banded(KIND, &check.rule, check.condition.state, signed(lines.saturating_mul(2)), text))
    }

    pub(in crate::engine::host) fn disk_error(&mut self, name: &str, text: String) {
        // A partition is named where the disk is meant.
        let disks = self.devices.disks.iter().map(|disk| disk.name.as_str());
        let Some(disk) = disks.filter(|disk| name.starts_with(disk)).max_by_key(|disk| disk.len()).map(str::to_owned)
        else {
            return;
        };
        if let Some(mut verdict) = self.error_verdict(&disk, (1, 0)) {
            verdict.why = format!("{}: {text}", verdict.why);
            self.say(CheckKind::DiskErrors, &disk, verdict);
        }
    }

    fn state_level(&mut self, name: &str, state: Option<&str>) -> Option<Health> {
        let seen = self.seen.disks.get_mut(name)?;
        match state? {
            "running" | "live" | "created" => {
                seen.odd_state = 0;
                None
            }
            "offline" | "transport-offline" | "dead" | "deleting" | "deleted" | "cancel" => Some(Health::Failing),
            // `blocked`, `quiesce`, `resetting`, `connecting`: on the way to something else.
            _ => {
                seen.odd_state = seen.odd_state.saturating_add(1);
                (seen.odd_state >= ODD_STATE).then_some(Health::Degraded)
            }
        }
    }

    fn raid(&mut self, name: &str, raid: &RaidStat) {
        const KIND: CheckKind = CheckKind::Raid;
        let missing = raid.degraded;
        if matches!(raid.array_state.as_str(), "inactive" | "clear" | "broken") {
            if self.check(KIND, name).is_some() {
                let why = format!("the array is {}", raid.array_state);
                self.say(KIND, name, Verdict::plain(Health::Failing, Some(i64::from(missing)), why));
            }
            return;
        }
        let goes_on = match raid.sync_action.as_str() {
            "" | "idle" | "none" => String::new(),
            action => format!(", {action} under way"),
        };
        let text = match missing {
            0 => format!("{} with all its members{goes_on}", raid.level),
            missing => format!("{} without {}{goes_on}", raid.level, several(u64::from(missing), "member", "members")),
        };
        self.measure(KIND, name, i64::from(missing), text);
    }

    /// eMMC says its life time in tenths.
    fn flash(&mut self, name: &str, (life, before_end): (u32, u32)) {
        const KIND: CheckKind = CheckKind::DiskWear;
        const URGENT: u32 = 3;
        // 9 is "80 to 90 %", 11 is "beyond".
        let used = match life {
            10 => 990,
            life => i64::from(life) * 100,
        };
        let text = format!("life time in tenths: {life}");
        if before_end >= URGENT && self.check(KIND, name).is_some() {
            let why = format!("{text}; its reserve of blocks is nearly used up");
            return self.say(KIND, name, Verdict::plain(Health::Failing, Some(used), why));
        }
        self.measure(KIND, name, used, text);
    }
}
