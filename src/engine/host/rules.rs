//! How each check is judged unless the configuration says otherwise: how often, where a state begins and ends, and how many readings must
//! agree. A new kind of check has its line in [`defaults`].
//!
//! What can be counted has bands; what is a verdict (a link, a self-test) has none. Good is always delayed: by `rise` readings and by
//! `hold`. Bad is believed at once where a counter or the kernel says it (`fall` of 1), and after some readings where a level says it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::kind::{CheckKind, Scope};
use super::plan::{Band, CheckPlan};
use super::sample::{Devices, NicKind, SmartBy};
use crate::engine::plan::ServicePlan;

/// A bad state lasts at least this long: what comes and goes within it is one fault.
pub(super) const HOLD: Duration = Duration::from_secs(60);
const HOUR_MS: i64 = 3_600_000;

/// How one check is judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::engine) struct Rule {
    pub every: Duration,
    pub degraded: Option<Band>,
    pub failing: Option<Band>,
    /// Bad readings in a row until it is degraded, and failing ones until it is failing.
    pub fall: u32,
    pub fall_failing: u32,
    pub rise: u32,
    pub hold: Duration,
    /// The band is the operator's: no gate stands before it.
    pub own_degraded: bool,
    pub own_failing: bool,
}

/// What the plan wants of the host.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Wishes<'a> {
    pub plans: &'a [CheckPlan],
    pub defaults: bool,
    pub services: &'a [ServicePlan],
}

/// What of a target changes its thresholds.
#[derive(Clone, Copy, Debug, Default)]
struct Target {
    rotating: bool,
    wireless: bool,
    nvme: bool,
}

impl Rule {
    fn new(every_s: u64, degraded: Option<(i64, i64)>, failing: Option<(i64, i64)>, confirm: (u32, u32, u32)) -> Self {
        let band = |(enter, leave)| Band { enter, leave };
        Self {
            every: Duration::from_secs(every_s),
            degraded: degraded.map(band),
            failing: failing.map(band),
            fall: confirm.0,
            fall_failing: confirm.1,
            rise: confirm.2,
            hold: HOLD,
            own_degraded: false,
            own_failing: false,
        }
    }

    /// The configuration's word goes before the default's, key by key.
    fn overridden(mut self, plan: &CheckPlan) -> Self {
        self.every = plan.every.unwrap_or(self.every);
        self.own_degraded = plan.degraded.is_some();
        self.own_failing = plan.failing.is_some();
        self.degraded = plan.degraded.or(self.degraded);
        self.failing = plan.failing.or(self.failing);
        if let Some(fall) = plan.fall {
            self.fall = fall.max(1);
            self.fall_failing = fall.max(1);
        }
        self.rise = plan.rise.unwrap_or(self.rise).max(1);
        self
    }

    /// For a look without an agent: one reading is believed.
    pub(super) fn unconfirmed(mut self) -> Self {
        (self.fall, self.fall_failing, self.rise) = (1, 1, 1);
        self
    }
}

/// Where a check of this kind is degraded and failing unless the configuration says otherwise; of disks those that do not rotate.
#[must_use]
pub fn default_bands(kind: CheckKind) -> [Option<Band>; 2] {
    let rule = defaults(kind, Target::default());
    [rule.degraded, rule.failing]
}

/// Whether less is worse.
#[must_use]
pub fn is_bad_when_low(kind: CheckKind) -> bool {
    matches!(kind, CheckKind::DiskFill | CheckKind::NicSpeed | CheckKind::Bond)
}

/// Whether it is checked only where the configuration asks for it: chips without wiring show alarms.
fn is_off_by_default(kind: CheckKind) -> bool {
    matches!(kind, CheckKind::Fan | CheckKind::Power)
}

/// Numbers of a level are (enter, leave); of confirmation (fall, fall of failing, rise).
fn defaults(kind: CheckKind, target: Target) -> Rule {
    use CheckKind as K;
    let rule = Rule::new;
    match kind {
        // Less than a tenth left, and less than 20 GiB (judge/space.rs): a tenth of a large disk is much.
        K::DiskSpace | K::DiskInodes => rule(30, Some((900, 850)), Some((970, 950)), (3, 2, 3)),
        // Judged once a minute.
        K::DiskFill => rule(60, Some((24 * HOUR_MS, 36 * HOUR_MS)), Some((4 * HOUR_MS, 8 * HOUR_MS)), (5, 5, 10)),
        K::Filesystem => rule(5, None, None, (1, 1, 3)),
        // The time that it stands still is the confirmation. A disk that sleeps needs ten seconds to spin up.
        K::DiskHung if target.rotating => rule(5, Some((9_500, 0)), Some((19_500, 0)), (1, 1, 3)),
        K::DiskHung => rule(5, Some((4_500, 0)), Some((9_500, 0)), (1, 1, 3)),
        K::DiskLatency if target.rotating => rule(10, Some((250, 180)), Some((2_000, 1_400)), (3, 3, 5)),
        K::DiskLatency => rule(10, Some((100, 70)), Some((1_000, 700)), (3, 3, 5)),
        // Errors of ten minutes: the window is the delay.
        K::DiskErrors => rule(5, Some((1, 0)), Some((10, 4)), (1, 1, 1)),
        // smartd asks every half hour; an NVMe disk answers in less than a millisecond.
        K::Smart => rule(if target.nvme { 600 } else { 1_800 }, None, None, (1, 1, 2)),
        K::DiskWear => rule(if target.nvme { 600 } else { 1_800 }, Some((900, 890)), Some((1_000, 990)), (1, 1, 2)),
        K::Raid => rule(5, Some((1, 0)), None, (1, 1, 2)),
        K::Btrfs => rule(5, Some((1, 0)), None, (1, 1, 2)),
        K::NicLink => rule(10, None, None, (1, 1, 2)),
        K::NicSpeed => rule(600, None, None, (1, 1, 1)),
        // Of at least 1,000 packets in two minutes; the floor stands because one lost packet is no news.
        K::NicErrors => rule(10, Some((11, 5)), None, (3, 3, 5)),
        // Of at least 10,000 packets in ten minutes; unknown protocols are counted as drops, so never worse than degraded.
        K::NicDrops if target.wireless => rule(10, Some((100, 50)), None, (3, 3, 5)),
        K::NicDrops => rule(10, Some((21, 10)), None, (3, 3, 5)),
        // A slave may be exchanged within five minutes.
        K::Bond => rule(10, None, None, (30, 1, 3)),
        // The count of lost answers is the confirmation.
        K::Gateway => rule(5, Some((3, 0)), Some((12, 0)), (1, 1, 3)),
        // The chip's own limits.
        K::Temperature => rule(30, None, None, (2, 2, 3)),
        K::Fan | K::Power => rule(30, None, None, (3, 3, 3)),
        K::Throttling => rule(30, Some((1, 0)), None, (1, 1, 1)),
        // Corrected errors of a day: those of a good module are rare, but not none.
        K::Ecc => rule(30, Some((51, 25)), None, (1, 1, 1)),
        K::MemoryPoison => rule(5, Some((1, 0)), None, (1, 1, 3)),
        // Corrected ones of an hour.
        K::MachineCheck => rule(5, Some((11, 5)), None, (1, 1, 1)),
        K::Pcie => rule(30, Some((101, 50)), None, (1, 1, 1)),
        K::PressureMemory => rule(5, Some((101, 50)), Some((401, 200)), (3, 3, 5)),
        // A busy host is not a broken one: for ten minutes.
        K::PressureCpu => rule(5, Some((900, 700)), None, (120, 120, 5)),
        K::PressureIo => rule(5, Some((401, 250)), None, (120, 120, 5)),
        K::Memory => rule(5, Some((901, 850)), Some((961, 940)), (3, 3, 5)),
        K::Swap => rule(5, Some((901, 800)), None, (3, 3, 5)),
        // For a minute.
        K::BlockedTasks => rule(5, Some((3, 1)), None, (12, 12, 3)),
        K::Files => rule(5, Some((700, 650)), Some((900, 850)), (3, 2, 5)),
        K::Pids => rule(5, Some((850, 800)), Some((950, 900)), (3, 2, 5)),
        K::Conntrack => rule(5, Some((750, 700)), Some((900, 850)), (3, 2, 5)),
        // Undisciplined and wrong by up to 16 s, for ten minutes.
        K::Clock => rule(5, Some((16_000, 8_000)), None, (120, 120, 5)),
        K::Kernel => rule(5, None, None, (1, 1, 1)),
    }
}

impl<'a> Wishes<'a> {
    /// How a target of this kind is judged, and under which name; `None`: not at all. `by_default`: whether it is watched although
    /// nobody names it.
    fn of(&self, kind: CheckKind, target: &str, facts: Target, by_default: bool) -> Option<(String, Rule)> {
        let rule = defaults(kind, facts);
        match self.plan_of(kind, target) {
            Some(plan) if !plan.enabled => None,
            Some(plan) => Some((name_by(plan, kind, target), rule.overridden(plan))),
            None => {
                (self.defaults && by_default && !is_off_by_default(kind)).then(|| (default_name(kind, target), rule))
            }
        }
    }

    /// A plan that names the target goes before one for all of its kind.
    fn plan_of(&self, kind: CheckKind, target: &str) -> Option<&'a CheckPlan> {
        let own = self.plans.iter().find(|plan| plan.kind == kind && plan.target.as_deref() == Some(target));
        own.or_else(|| self.plans.iter().find(|plan| plan.kind == kind && plan.target.is_none()))
    }

    fn is_named(&self, kind: CheckKind, target: &str) -> bool {
        self.plans.iter().any(|plan| plan.kind == kind && plan.enabled && plan.target.as_deref() == Some(target))
    }

    /// Whether there may be checks of this kind, whose targets only the readings tell.
    pub(super) fn wants_kind(&self, kind: CheckKind) -> bool {
        let planned = self.plans.iter().any(|plan| plan.kind == kind && plan.enabled);
        planned || (self.defaults && !is_off_by_default(kind))
    }

    /// The interval of readings whose targets are not known before.
    pub(super) fn every_of_kind(&self, kind: CheckKind) -> Option<Duration> {
        if !self.wants_kind(kind) {
            return None;
        }
        let planned = self.plans.iter().filter(|plan| plan.kind == kind && plan.enabled);
        let planned = planned.filter_map(|plan| plan.every).min();
        let own = (self.defaults && !is_off_by_default(kind)) || planned.is_none();
        let own = own.then(|| defaults(kind, Target::default()).every);
        planned.into_iter().chain(own).min()
    }

    /// Whether a service says that it cannot work without this NIC.
    pub(super) fn needs_nic(&self, nic: &str) -> bool {
        self.needs().any(|needs| needs.nics.iter().any(|needed| needed == nic))
    }

    /// Whether a service's data lies on this mount.
    fn needs_mount(&self, devices: &Devices, point: &str) -> bool {
        let paths = self.needs().flat_map(|needs| &needs.data);
        paths.into_iter().any(|path| devices.mount_of(path).is_some_and(|mount| mount.point == point))
    }

    fn needs(&self) -> impl Iterator<Item = &'a crate::engine::plan::Needs> {
        self.services.iter().filter_map(|service| service.needs.as_deref())
    }

    /// Every check whose target is known from the devices, with its name and rule, in order.
    pub(super) fn checks(&self, devices: &Devices) -> Vec<(CheckKind, String, String, Rule)> {
        let mut found = Vec::new();
        let mut add = |kind, target: &str, facts, by_default| {
            if let Some((name, rule)) = self.of(kind, target, facts, by_default) {
                found.push((kind, target.to_owned(), name, rule));
            }
        };
        for kind in CheckKind::ALL.into_iter().filter(|kind| kind.scope() == Scope::Host) {
            add(kind, "", Target::default(), true);
        }
        for mount in &devices.mounts {
            let asked = self.needs_mount(devices, &mount.point);
            for kind in [CheckKind::DiskSpace, CheckKind::DiskInodes, CheckKind::DiskFill, CheckKind::Filesystem] {
                // Another machine or process may keep us waiting for a remote one.
                let one_of_all = !mount.remote || asked || self.is_named(kind, &mount.point);
                let fits = !mount.read_only || kind == CheckKind::Filesystem || self.is_named(kind, &mount.point);
                if one_of_all && fits {
                    add(kind, &mount.point, Target::default(), true);
                }
            }
            if mount.fs_type == "btrfs" {
                let target = mount.disk.as_deref().unwrap_or(&mount.point);
                add(CheckKind::Btrfs, target, Target::default(), true);
            }
        }
        for disk in &devices.disks {
            let facts =
                Target { rotating: disk.rotating, nvme: disk.smart == Some(SmartBy::Nvme), ..Target::default() };
            for kind in [CheckKind::DiskHung, CheckKind::DiskLatency, CheckKind::DiskErrors] {
                add(kind, &disk.name, facts, true);
            }
            if disk.smart.is_some() {
                add(CheckKind::Smart, &disk.name, facts, true);
            }
            if disk.smart == Some(SmartBy::Nvme) || disk.name.starts_with("mmcblk") {
                add(CheckKind::DiskWear, &disk.name, facts, true);
            }
            if disk.name.starts_with("md") {
                add(CheckKind::Raid, &disk.name, facts, true);
            }
        }
        for nic in &devices.nics {
            let by_default = nic.kind != NicKind::Virtual || self.needs_nic(&nic.name);
            let facts = Target { wireless: nic.wireless, ..Target::default() };
            for kind in [CheckKind::NicLink, CheckKind::NicErrors, CheckKind::NicDrops] {
                self.add_nic(&mut add, kind, &nic.name, facts, by_default);
            }
            if nic.kind == NicKind::Bond {
                add(CheckKind::Bond, &nic.name, facts, true);
            }
            if nic.kind == NicKind::Physical && !nic.wireless {
                add(CheckKind::NicSpeed, &nic.name, facts, true);
            }
        }
        // Two mounts of one btrfs are one check.
        found.sort_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
        found.dedup_by(|one, other| (one.0, &one.1) == (other.0, &other.1));
        found
    }

    /// A virtual NIC is watched only where it is named: a plan for all of a kind does not mean every container's.
    fn add_nic(
        &self,
        add: &mut impl FnMut(CheckKind, &str, Target, bool),
        kind: CheckKind,
        nic: &str,
        facts: Target,
        by_default: bool,
    ) {
        if by_default || self.is_named(kind, nic) {
            add(kind, nic, facts, by_default);
        }
    }

    /// A check whose target a reading has told.
    pub(super) fn found(&self, kind: CheckKind, target: &str) -> Option<(String, Rule)> {
        self.of(kind, target, Target::default(), true)
    }
}

fn name_by(plan: &CheckPlan, kind: CheckKind, target: &str) -> String {
    if plan.target.is_some() || kind.scope() == Scope::Host {
        plan.name.clone()
    } else {
        format!("{} {target}", plan.name)
    }
}

/// `disk_space /`, `memory`
pub(super) fn default_name(kind: CheckKind, target: &str) -> String {
    if target.is_empty() { kind.word().to_owned() } else { format!("{} {target}", kind.word()) }
}
