//! What is read, by whom and how often, from what the checks need; and when an answer is overdue.
//!
//! Several checks feed on one source: there is one reading of /proc for all that it tells. A source is read as often as the most eager of its checks wants it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::CheckKey;
use super::kind::CheckKind;
use super::rules::Wishes;
use super::sample::{Devices, Disk, Sample};
use super::state::Check;
use super::watch::{Helper, Order, Source};
use crate::engine::plan::Role;
use crate::engine::types::Time;

/// An answer may come so much later than it is expected.
pub(super) const GRACE: Duration = Duration::from_secs(10);
/// The canary writes; flash wears.
const CANARY_TIMES: u32 = 6;
const CANARY_TIMES_FLASH: u32 = 60;
const LINK_MODES_EVERY: Duration = Duration::from_secs(600);
/// A gateway is looked for this often where there is none.
const NO_GATEWAY_EVERY: Duration = Duration::from_secs(60);

/// A source without the list of what is read of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FeedKey {
    System,
    Disks,
    Filesystems,
    Nics,
    Gateway,
    Hardware,
    Kernel,
    Sensors,
    LinkModes,
    Space(String),
    Canary(String),
    FilesystemErrors(String),
    Smart(String),
}

/// A source that is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Feed {
    pub(super) key: FeedKey,
    pub(super) role: Role,
    pub(super) every: Duration,
    /// When the next answer is overdue; `None` where none is expected.
    pub(super) deadline: Option<Time>,
    /// When the latest answer came.
    pub(super) answered: Option<Time>,
    pub(super) overdue: bool,
    /// The role cannot read it on this host: why.
    pub(super) missing: Option<String>,
}

impl FeedKey {
    /// Whether readings come by a clock and not as things happen.
    fn is_periodic(&self) -> bool {
        match self {
            Self::Kernel | Self::FilesystemErrors(_) => false,
            Self::System
            | Self::Disks
            | Self::Filesystems
            | Self::Nics
            | Self::Gateway
            | Self::Hardware
            | Self::Sensors
            | Self::LinkModes
            | Self::Space(_)
            | Self::Canary(_)
            | Self::Smart(_) => true,
        }
    }

    pub(super) fn of_sample(sample: &Sample) -> Option<Self> {
        Some(match sample {
            Sample::System(_) => Self::System,
            Sample::Disks(_) => Self::Disks,
            Sample::Filesystems(_) => Self::Filesystems,
            Sample::Nics(_) => Self::Nics,
            Sample::Gateway(_) => Self::Gateway,
            Sample::Hardware(_) => Self::Hardware,
            Sample::Kernel(_) => Self::Kernel,
            Sample::ClockSet { .. } => return None,
            Sample::Sensors(_) => Self::Sensors,
            Sample::LinkModes(_) => Self::LinkModes,
            Sample::Space(space) => Self::Space(space.mount.clone()),
            Sample::Canary(canary) => Self::Canary(canary.mount.clone()),
            Sample::Smart(smart) => Self::Smart(smart.disk.clone()),
            Sample::FilesystemError { mount, .. } => Self::FilesystemErrors(mount.clone()),
        })
    }

    pub(super) fn of_source(source: &Source) -> Self {
        match source {
            Source::System => Self::System,
            Source::Disks(_) => Self::Disks,
            Source::Filesystems(_) => Self::Filesystems,
            Source::Nics(_) => Self::Nics,
            Source::Gateway => Self::Gateway,
            Source::Hardware => Self::Hardware,
            Source::Kernel => Self::Kernel,
            Source::Sensors => Self::Sensors,
            Source::LinkModes(_) => Self::LinkModes,
            Source::Space { mount } => Self::Space(mount.clone()),
            Source::Canary { mount } => Self::Canary(mount.clone()),
            Source::FilesystemErrors { mount } => Self::FilesystemErrors(mount.clone()),
            Source::Smart { disk, .. } => Self::Smart(disk.clone()),
        }
    }

    /// The source in whose time a check is judged.
    pub(super) fn pace(key: &CheckKey) -> Self {
        use CheckKind as K;
        match key.kind {
            K::DiskSpace | K::DiskInodes | K::DiskFill => Self::Space(key.target.clone()),
            K::Filesystem | K::Btrfs => Self::Filesystems,
            K::DiskWear if key.target.starts_with("mmcblk") => Self::Disks,
            K::Smart | K::DiskWear => Self::Smart(key.target.clone()),
            K::DiskHung | K::DiskLatency | K::DiskErrors | K::Raid => Self::Disks,
            K::NicLink | K::NicErrors | K::NicDrops | K::Bond => Self::Nics,
            K::NicSpeed => Self::LinkModes,
            K::Gateway => Self::Gateway,
            K::Temperature | K::Fan | K::Power => Self::Sensors,
            K::Throttling | K::Ecc | K::Pcie => Self::Hardware,
            K::MemoryPoison
            | K::MachineCheck
            | K::PressureMemory
            | K::PressureCpu
            | K::PressureIo
            | K::Memory
            | K::Swap
            | K::BlockedTasks
            | K::Files
            | K::Pids
            | K::Conntrack
            | K::Clock
            | K::Kernel => Self::System,
        }
    }
}

/// All that is to be read, with the shortest interval of each.
pub(super) fn wanted(
    checks: &BTreeMap<CheckKey, Check>,
    devices: &Devices,
    helpers: &[Helper],
    wishes: Wishes<'_>,
    has_gateway: bool,
) -> BTreeMap<FeedKey, (Role, Duration)> {
    let mut found = Wanted { feeds: BTreeMap::new(), devices, helpers };
    for (key, check) in checks {
        found.add_of(key, check, has_gateway);
    }
    for kind in [CheckKind::Temperature, CheckKind::Fan, CheckKind::Power] {
        if let Some(every) = wishes.every_of_kind(kind) {
            found.add(FeedKey::Sensors, Role::Sensors, every);
        }
    }
    for kind in [CheckKind::Ecc, CheckKind::Pcie] {
        if let Some(every) = wishes.every_of_kind(kind) {
            found.add(FeedKey::Hardware, Role::Checks, every);
        }
    }
    found.feeds
}

struct Wanted<'a> {
    feeds: BTreeMap<FeedKey, (Role, Duration)>,
    devices: &'a Devices,
    helpers: &'a [Helper],
}

impl Wanted<'_> {
    fn add(&mut self, key: FeedKey, role: Role, every: Duration) {
        let entry = self.feeds.entry(key).or_insert((role, every));
        entry.1 = entry.1.min(every);
    }

    fn add_of(&mut self, key: &CheckKey, check: &Check, has_gateway: bool) {
        let every = check.rule.every;
        let pace = FeedKey::pace(key);
        match &pace {
            FeedKey::Space(mount) => {
                if let Some(role) = self.helper_of_mount(mount).filter(|_| !is_covered(self.devices, mount)) {
                    self.add(pace, role, every);
                }
            }
            FeedKey::Smart(disk) => {
                let helper = self.helpers.iter().find(|helper| helper.disk.as_deref() == Some(disk));
                if let Some(helper) = helper {
                    self.add(pace, Role::Disk(helper.slot), every);
                }
            }
            FeedKey::Sensors => self.add(pace, Role::Sensors, every),
            FeedKey::LinkModes => {
                self.add(pace, Role::Sensors, every.min(LINK_MODES_EVERY));
                self.add(FeedKey::Nics, Role::Checks, Duration::from_secs(10));
            }
            FeedKey::Gateway => {
                self.add(pace, Role::Checks, if has_gateway { every } else { every.max(NO_GATEWAY_EVERY) });
            }
            FeedKey::System
            | FeedKey::Disks
            | FeedKey::Filesystems
            | FeedKey::Nics
            | FeedKey::Hardware
            | FeedKey::Kernel
            | FeedKey::Canary(_)
            | FeedKey::FilesystemErrors(_) => self.add(pace, Role::Checks, every),
        }
        self.add_besides(key, every);
    }

    /// What else tells of this check.
    fn add_besides(&mut self, key: &CheckKey, every: Duration) {
        if matches!(
            key.kind,
            CheckKind::DiskErrors | CheckKind::Filesystem | CheckKind::MachineCheck | CheckKind::Kernel
        ) {
            self.add(FeedKey::Kernel, Role::Checks, every);
        }
        let (own, hung) = (key.kind == CheckKind::Filesystem, key.kind == CheckKind::DiskHung);
        let of_check = |point: &str, disk: Option<&str>| {
            (own && point == key.target) || (hung && disk == Some(key.target.as_str()))
        };
        let mounts = self.devices.mounts.iter().filter(|mount| !mount.covered);
        let mounts = mounts.filter(|mount| of_check(&mount.point, mount.disk.as_deref()));
        let mounts: Vec<(String, bool, u32)> = mounts
            .map(|mount| (mount.point.clone(), mount.read_only, self.canary_times(mount.disk.as_deref())))
            .collect();
        for (point, read_only, times) in mounts {
            let Some(role) = self.helper_of_mount(&point) else {
                continue;
            };
            if !read_only {
                self.add(FeedKey::Canary(point.clone()), role, every * times);
            }
            if own {
                self.add(FeedKey::FilesystemErrors(point), role, every);
            }
        }
    }

    fn canary_times(&self, disk: Option<&str>) -> u32 {
        let is_flash =
            |one: &Disk| Some(one.name.as_str()) == disk && (one.removable || one.name.starts_with("mmcblk"));
        if self.devices.disks.iter().any(is_flash) { CANARY_TIMES_FLASH } else { CANARY_TIMES }
    }

    fn helper_of_mount(&self, mount: &str) -> Option<Role> {
        let helper = self.helpers.iter().find(|helper| helper.mounts.iter().any(|own| own == mount))?;
        Some(Role::Disk(helper.slot))
    }
}

/// Whoever goes to that point comes to another file system.
pub(super) fn is_covered(devices: &Devices, point: &str) -> bool {
    devices.mounts.iter().any(|mount| mount.point == point && mount.covered)
}

/// The orders of one role, in the order of their sources.
pub(super) fn orders(role: Role, feeds: &[Feed], checks: &BTreeMap<CheckKey, Check>, devices: &Devices) -> Vec<Order> {
    let mine = feeds.iter().filter(|feed| feed.role == role);
    mine.filter_map(|feed| {
        let source = source(&feed.key, checks, devices)?;
        Some(Order { source, every_ms: u64::try_from(feed.every.as_millis()).unwrap_or(u64::MAX) })
    })
    .collect()
}

fn source(key: &FeedKey, checks: &BTreeMap<CheckKey, Check>, devices: &Devices) -> Option<Source> {
    let targets = |fits: &dyn Fn(&CheckKey) -> bool| {
        let mut targets: Vec<String> = checks.keys().filter(|key| fits(key)).map(|key| key.target.clone()).collect();
        targets.sort();
        targets.dedup();
        targets
    };
    Some(match key {
        FeedKey::System => Source::System,
        FeedKey::Disks => Source::Disks(targets(&|key| FeedKey::pace(key) == FeedKey::Disks)),
        FeedKey::Filesystems => Source::Filesystems(filesystems(checks, devices)),
        FeedKey::Nics => Source::Nics(targets(&|key| matches!(FeedKey::pace(key), FeedKey::Nics | FeedKey::LinkModes))),
        FeedKey::Gateway => Source::Gateway,
        FeedKey::Hardware => Source::Hardware,
        FeedKey::Kernel => Source::Kernel,
        FeedKey::Sensors => Source::Sensors,
        FeedKey::LinkModes => Source::LinkModes(targets(&|key| FeedKey::pace(key) == FeedKey::LinkModes)),
        FeedKey::Space(mount) => Source::Space { mount: mount.clone() },
        FeedKey::Canary(mount) => Source::Canary { mount: mount.clone() },
        FeedKey::FilesystemErrors(mount) => Source::FilesystemErrors { mount: mount.clone() },
        FeedKey::Smart(disk) => {
            let by = devices.disks.iter().find(|one| one.name == *disk)?.smart?;
            Source::Smart { disk: disk.clone(), by }
        }
    })
}

/// Those with a check of their own, and those of btrfs.
fn filesystems(checks: &BTreeMap<CheckKey, Check>, devices: &Devices) -> Vec<(String, Option<String>, String)> {
    let is_checked = |kind, target: &str| checks.contains_key(&CheckKey { kind, target: target.to_owned() });
    let wanted = devices.mounts.iter().filter(|mount| {
        let own = is_checked(CheckKind::Filesystem, &mount.point);
        let btrfs = mount.fs_type == "btrfs";
        own || (btrfs && is_checked(CheckKind::Btrfs, mount.disk.as_deref().unwrap_or(&mount.point)))
    });
    wanted.map(|mount| (mount.point.clone(), mount.device.clone(), mount.fs_type.clone())).collect()
}

/// Brings `feeds` to what is wanted: what goes on keeps its deadline, unless it is to come sooner. Whether anything is another.
pub(super) fn bring(feeds: &mut Vec<Feed>, wanted: BTreeMap<FeedKey, (Role, Duration)>, now: Time) -> bool {
    let mut changed = false;
    let mut next = Vec::with_capacity(wanted.len());
    for (key, (role, every)) in wanted {
        let old = feeds.iter().position(|feed| feed.key == key).map(|at| feeds.swap_remove(at));
        let same = old.filter(|feed| feed.role == role);
        changed |= same.as_ref().is_none_or(|feed| feed.every != every);
        let expected = key.is_periodic().then(|| now.after(every + GRACE));
        next.push(match same {
            None => Feed { key, role, every, deadline: expected, answered: None, overdue: false, missing: None },
            Some(feed) if feed.every == every => feed,
            Some(feed) if feed.deadline.is_none() => Feed { every, ..feed },
            Some(feed) => Feed { every, deadline: expected, ..feed },
        });
    }
    changed |= !feeds.is_empty();
    *feeds = next;
    changed
}

impl Feed {
    /// An answer has come.
    pub(super) fn answer(&mut self, now: Time) {
        self.answered = Some(now);
        self.missing = None;
        self.overdue = false;
        self.expect(now);
    }

    /// The next answer is expected an interval from now.
    pub(super) fn expect(&mut self, now: Time) {
        let waits = self.key.is_periodic() && self.missing.is_none();
        self.deadline = waits.then(|| now.after(self.every + GRACE));
    }
}
