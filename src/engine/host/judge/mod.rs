//! From what was read to what is said of it: one file a subject. A judge sees one sample and what it remembers of earlier ones ([`Seen`]),
//! and says verdicts of the checks that there are; confirmation is the business of `condition`.
//!
//! A counter is only ever compared with itself: at first sight it is the baseline, and one that went back began anew.
//! Over a gap (the host slept, a role was away) there are no rates.

mod disk;
mod filesystem;
mod fill;
mod hardware;
mod kernel;
mod nic;
mod sensors;
mod smart;
mod space;
mod system;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::condition::{Latch, Verdict};
use super::kind::CheckKind;
use super::plan::Band;
use super::rules::{Rule, is_bad_when_low};
use super::sample::{Devices, Sample};
use super::state::Check;
use super::tally::Tally;
use super::words::amount;
use super::{CheckKey, Health};
use crate::engine::types::Time;

pub(super) use disk::DiskSeen;
pub(super) use filesystem::MountSeen;
pub(super) use nic::NicSeen;
pub(super) use sensors::kind_of;
pub(super) use system::SystemSeen;

pub(super) const DAY: Duration = Duration::from_secs(24 * 3_600);
pub(super) const HOUR: Duration = Duration::from_secs(3_600);
pub(super) const TEN_MINUTES: Duration = Duration::from_secs(600);
/// Things that happened and are told, of ten minutes; the rest is counted.
const HAPPENED_MAX: u64 = 30;

/// What the judges remember.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::engine) struct Seen {
    /// What outlives the agent.
    pub(super) known: Known,
    pub(super) disks: BTreeMap<String, DiskSeen>,
    pub(super) mounts: BTreeMap<String, MountSeen>,
    /// By mount point: an error of a file system of which it is not known yet that it is mounted there.
    early_errors: BTreeMap<String, (u64, String)>,
    pub(super) nics: BTreeMap<String, NicSeen>,
    pub(super) system: SystemSeen,
    pub(super) gateway: nic::GatewaySeen,
    throttled: Option<u64>,
    happened: Tally,
    /// Not told, as there were too many.
    untold: u64,
}

/// What the judges remember beyond the agent's death.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Counters that hardly ever move, by name.
    counters: BTreeMap<String, Vec<u64>>,
    /// Counts that decide about the state of a check.
    tallies: BTreeMap<CheckKey, Tally>,
    /// NICs that have had a carrier.
    carried: BTreeSet<String>,
    /// The best speed of a NIC in Mbit/s.
    speeds: BTreeMap<String, u32>,
    /// Disks, and mounts without one, whose helper waits for them, with the sentence; until it answers, also under the next agent.
    #[serde(default)]
    pub(super) silent_disks: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) silent_mounts: BTreeMap<String, String>,
    /// By mount point, also while nothing is mounted there: the file system that a check of it is about.
    #[serde(default)]
    filesystems: BTreeMap<String, Instance>,
    #[serde(skip)]
    changed: bool,
}

/// Which time of being mounted it is, and which it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Instance {
    now: u64,
    before: Option<u64>,
}

impl Known {
    /// The helper of this disk waits for it.
    pub(super) fn disk_is_silent(&mut self, disk: &str, why: String) {
        self.changed |= self.silent_disks.insert(disk.to_owned(), why).is_none();
    }

    pub(super) fn mount_is_silent(&mut self, mount: &str, why: String) {
        self.changed |= self.silent_mounts.insert(mount.to_owned(), why).is_none();
    }

    pub(super) fn disk_answers(&mut self, disk: &str) {
        self.changed |= self.silent_disks.remove(disk).is_some();
    }

    pub(super) fn mount_answers(&mut self, mount: &str) {
        self.changed |= self.silent_mounts.remove(mount).is_some();
    }

    /// Nobody waits for a disk that has no helper any more.
    pub(super) fn only_with_helper(&mut self, helpers: &[super::watch::Helper]) {
        self.silent_disks.retain(|disk, _| helpers.iter().any(|helper| helper.disk.as_ref() == Some(disk)));
        self.silent_mounts.retain(|mount, _| helpers.iter().any(|helper| helper.mounts.contains(mount)));
    }
}

/// How a counter has moved.
enum Growth<const N: usize> {
    First,
    /// It began anew.
    Reset,
    By([u64; N]),
}

/// What a judge says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Verdict(CheckKey, Verdict),
    Latch(CheckKey, Latch),
    Release(CheckKey),
    /// The thresholds that the device itself names.
    Bands(CheckKey, Option<Band>, Option<Band>),
    Happened(String),
    /// The carrier of a NIC is another one: its speed may be, too.
    Carrier,
}

/// The place where a sample is judged.
pub(super) struct Bench<'a> {
    pub(super) checks: &'a BTreeMap<CheckKey, Check>,
    pub(super) devices: &'a Devices,
    pub(super) seen: &'a mut Seen,
    pub(super) now: Time,
    /// A look without an agent: two readings are all there will be.
    pub(super) once: bool,
    pub(super) said: Vec<Said>,
}

impl Bench<'_> {
    pub(super) fn judge(&mut self, sample: &Sample) {
        match sample {
            Sample::System(system) => self.system(system),
            Sample::Disks(disks) => disks.iter().for_each(|disk| self.disk(disk)),
            Sample::Filesystems(all) => all.iter().for_each(|one| self.filesystem(one)),
            Sample::Nics(nics) => nics.iter().for_each(|nic| self.nic(nic)),
            Sample::Gateway(gateway) => self.gateway(gateway),
            Sample::Hardware(hardware) => self.hardware(hardware),
            Sample::Kernel(lines) => lines.iter().for_each(|line| self.kernel_line(line)),
            Sample::ClockSet { by_ms } => self.clock_set(*by_ms),
            Sample::Sensors(sensors) => sensors.iter().for_each(|sensor| self.sensor(sensor)),
            Sample::LinkModes(modes) => modes.iter().for_each(|mode| self.link_mode(mode)),
            Sample::Space(space) => self.space(space),
            Sample::Canary(canary) => self.canary(canary),
            Sample::Smart(smart) => self.smart(smart),
            Sample::FilesystemError { mount, instance, errno, count } => {
                self.filesystem_error(mount, *instance, *errno, *count);
            }
        }
    }

    fn check(&self, kind: CheckKind, target: &str) -> Option<&Check> {
        self.checks.get(&CheckKey { kind, target: target.to_owned() })
    }

    fn rule(&self, kind: CheckKind, target: &str) -> Option<&Rule> {
        self.check(kind, target).map(|check| &check.rule)
    }

    fn say(&mut self, kind: CheckKind, target: &str, verdict: Verdict) {
        self.said.push(Said::Verdict(CheckKey { kind, target: target.to_owned() }, verdict));
    }

    /// Says what the bands make of `value`; `text` has its numbers, the threshold is added.
    fn measure(&mut self, kind: CheckKind, target: &str, value: i64, text: String) {
        if let Some(check) = self.check(kind, target) {
            let verdict = banded(kind, &check.rule, check.condition.state, value, text);
            self.say(kind, target, verdict);
        }
    }

    fn absent(&mut self, kind: CheckKind, target: &str, why: &str) {
        if self.check(kind, target).is_some() {
            self.say(kind, target, Verdict::absent(why));
        }
    }

    fn latch(&mut self, kind: CheckKind, target: &str, level: Health, lasts: Option<Duration>, why: String) {
        if self.check(kind, target).is_some() {
            let until = lasts.map(|lasts| self.now.after(lasts));
            self.said.push(Said::Latch(CheckKey { kind, target: target.to_owned() }, Latch { level, until, why }));
        }
    }

    fn happened(&mut self, text: String) {
        self.seen.happened.add(self.now, TEN_MINUTES, 1, 0);
        if self.seen.happened.sums().0 > HAPPENED_MAX {
            self.seen.untold += 1;
            return;
        }
        let text = match std::mem::take(&mut self.seen.untold) {
            0 => text,
            untold => format!("{text} ({untold} more things were not told)"),
        };
        self.said.push(Said::Happened(text));
    }

    /// Compares a counter that hardly ever moves with what is known of it.
    fn growth<const N: usize>(&mut self, name: String, now: [u64; N]) -> Growth<N> {
        let known = &mut self.seen.known;
        let before = known.counters.get(&name);
        let growth = match before.and_then(|before| <[u64; N]>::try_from(before.as_slice()).ok()) {
            None => Growth::First,
            Some(before) if before == now => return Growth::By([0; N]),
            Some(before) if before.iter().zip(&now).any(|(before, now)| before > now) => Growth::Reset,
            Some(before) => Growth::By(std::array::from_fn(|index| now[index] - before[index])),
        };
        known.counters.insert(name, now.to_vec());
        known.changed = true;
        growth
    }

    /// Adds to the counts of a check and gives their sums within `span`.
    fn tally(&mut self, kind: CheckKind, target: &str, span: Duration, counts: (u64, u64)) -> (u64, u64) {
        let tally = self.seen.known.tallies.entry(CheckKey { kind, target: target.to_owned() }).or_default();
        tally.add(self.now, span, counts.0, counts.1);
        tally.sums()
    }

    /// Whether the counts of a check are of long enough for a rate.
    fn is_covered(&self, kind: CheckKind, target: &str, least: Duration) -> bool {
        let tally = self.seen.known.tallies.get(&CheckKey { kind, target: target.to_owned() });
        self.once || tally.is_some_and(|tally| tally.covers(self.now) >= least)
    }
}

impl Seen {
    /// Nothing of before now gives a rate.
    pub(super) fn forget_rates(&mut self) {
        for disk in self.disks.values_mut() {
            disk.forget_rates();
        }
        for nic in self.nics.values_mut() {
            nic.forget_rates();
        }
    }

    /// Notes what is mounted at this point. Whether another one was before: of that one nothing is remembered any more.
    pub(super) fn is_mounted_anew(&mut self, point: &str, instance: u64) -> bool {
        let known = self.known.filesystems.get(point).map(|known| known.now);
        if known == Some(instance) {
            return false;
        }
        self.known.filesystems.insert(point.to_owned(), Instance { now: instance, before: known });
        self.known.changed = true;
        if known.is_none() {
            return false;
        }
        self.mounts.remove(point);
        self.known.counters.remove(&format!("fs {point}"));
        true
    }

    /// Lets go of what belongs to devices that are gone.
    pub(super) fn keep_only(
        &mut self,
        devices: &Devices,
        checks: &BTreeMap<CheckKey, Check>,
        waiting: &BTreeMap<CheckKey, super::condition::Condition>,
    ) {
        self.disks.retain(|name, _| devices.disks.iter().any(|disk| disk.name == *name));
        self.mounts.retain(|point, _| devices.mounts.iter().any(|mount| mount.point == *point));
        self.nics.retain(|name, _| devices.nics.iter().any(|nic| nic.name == *name));
        self.known.carried.retain(|name| devices.nics.iter().any(|nic| nic.name == *name));
        self.known.speeds.retain(|name, _| devices.nics.iter().any(|nic| nic.name == *name));
        self.known.tallies.retain(|key, _| checks.contains_key(key));
        self.known.filesystems.retain(|point, _| {
            let key = CheckKey { kind: CheckKind::Filesystem, target: point.clone() };
            let is_mounted = devices.mounts.iter().any(|mount| mount.point == *point);
            is_mounted || checks.contains_key(&key) || waiting.contains_key(&key)
        });
        self.early_errors.retain(|point, _| self.known.filesystems.contains_key(point));
        let is_there = |name: &str| {
            devices.disks.iter().any(|disk| disk.name == name) || devices.mounts.iter().any(|mount| mount.point == name)
        };
        self.known.counters.retain(|name, _| match name.split_once(' ') {
            Some(("scsi" | "smart" | "fs" | "btrfs", target)) => {
                is_there(target.split_once(" #").map_or(target, |(target, _)| target))
            }
            Some(_) | None => true,
        });
    }

    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.known.changed)
    }
}

/// What the bands say: what it enters, and what it does not leave yet.
pub(super) fn by_bands(rule: &Rule, low_is_bad: bool, value: i64) -> (Health, Health) {
    let within = |band: Option<Band>| match band {
        None => (false, false),
        Some(Band { enter, leave }) if low_is_bad => (value <= enter, value <= enter || value < leave),
        Some(Band { enter, leave }) => (value >= enter, value >= enter || value > leave),
    };
    let (degraded, failing) = (within(rule.degraded), within(rule.failing));
    let level = |degraded, failing| match (degraded, failing) {
        (_, true) => Health::Failing,
        (true, false) => Health::Degraded,
        (false, false) => Health::Ok,
    };
    (level(degraded.0, failing.0), level(degraded.1, failing.1))
}

fn banded(kind: CheckKind, rule: &Rule, state: Health, value: i64, text: String) -> Verdict {
    let (enter, hold) = by_bands(rule, is_bad_when_low(kind), value);
    let why =
        threshold(kind, rule, (enter, hold), state).map_or(text.clone(), |threshold| format!("{text} ({threshold})"));
    Verdict { value: Some(value), enter, hold, why }
}

/// `failing from 97.0 %`; of a check in that `state` whose value is between the thresholds, `degraded until 85.0 %`.
fn threshold(kind: CheckKind, rule: &Rule, (enter, hold): (Health, Health), state: Health) -> Option<String> {
    let band = |level| match level {
        Health::Failing => rule.failing,
        Health::Degraded => rule.degraded,
        Health::Absent | Health::Unknown | Health::Ok => None,
    };
    let held = hold.min(state);
    if held > enter {
        return band(held).map(|Band { leave, .. }| format!("{} until {}", held.word(), amount(kind.unit(), leave)));
    }
    let side = if is_bad_when_low(kind) { "up to" } else { "from" };
    band(enter).map(|Band { enter: from, .. }| format!("{} {side} {}", enter.word(), amount(kind.unit(), from)))
}

/// Whether this is too long after the reading before to compare them.
fn is_gap(since: Duration, every: Duration) -> bool {
    since > every * 3 + Duration::from_secs(5)
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
