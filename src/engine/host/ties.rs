//! Who is concerned: from the checks that fail to the services that need what failed.
//!
//! A path lies on the mount with the longest matching mount point; with it a service needs the mount, its disk and all disks below. The
//! members of an md array are left out: it is there to do without one of them, and says itself (as a disk, or as an array) when it cannot.
//! A NIC that is part of a bond counts through the bond, for the same reason.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::kind::{CheckKind, Scope};
use super::plan::OnDiskFailing;
use super::sample::{Devices, Disk, Mount, NicKind};
use super::{Change, CheckKey, Health};
use crate::engine::Engine;
use crate::engine::plan::Needs;
use crate::engine::types::ServiceId;

/// A failing check that keeps a service from working.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::engine) struct Trouble {
    pub key: CheckKey,
    /// The check's own sentence, as it was when it began to concern the service.
    pub why: String,
}

impl Trouble {
    /// `disk vda`
    pub(in crate::engine) fn subject(&self) -> String {
        let word = match self.key.kind.scope() {
            // A mount without a disk is watched under its own name.
            Scope::Disk if self.key.target.starts_with('/') => "file system",
            Scope::Disk => "disk",
            Scope::Mount => "file system",
            Scope::Nic => "NIC",
            Scope::Sensor => "sensor",
            Scope::Host => "host",
        };
        format!("{word} {}", self.key.target)
    }
}

/// What of the host fails under a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::engine) struct Troubles {
    /// Never with `on_disk_failing: Ignore`.
    pub disk: Option<Trouble>,
    pub nic: Option<Trouble>,
}

impl Troubles {
    pub(in crate::engine) fn is_none(&self) -> bool {
        self.disk.is_none() && self.nic.is_none()
    }
}

/// The cause rather than what follows from it.
const ORDER: [CheckKind; 6] = [
    CheckKind::DiskHung,
    CheckKind::Raid,
    CheckKind::DiskErrors,
    CheckKind::Filesystem,
    CheckKind::Bond,
    CheckKind::NicLink,
];

impl Devices {
    /// The mount that a path lies on.
    pub(in crate::engine) fn mount_of(&self, path: &Path) -> Option<&Mount> {
        let above = self.mounts.iter().filter(|mount| path.starts_with(&mount.point));
        above.max_by_key(|mount| mount.point.len())
    }

    /// The mount and the devices that something on it needs, by the targets of their checks.
    pub(in crate::engine) fn below<'a>(&'a self, mount: &'a Mount) -> BTreeSet<&'a str> {
        let mut all = BTreeSet::from([mount.point.as_str()]);
        let Some(name) = &mount.disk else {
            return all;
        };
        all.insert(name);
        let arrays = || self.disks.iter().filter(|disk| disk.name.starts_with("md"));
        let members: BTreeSet<&str> = arrays().flat_map(|array| &array.below).map(String::as_str).collect();
        if let Some(disk) = self.disks.iter().find(|disk| disk.name == *name) {
            let below = || disk.below.iter().map(String::as_str);
            all.extend(below().filter(|other| !members.contains(other)));
            let lies_on = |array: &&Disk| array.below.iter().any(|member| disk.below.contains(member));
            all.extend(arrays().filter(lies_on).map(|array| array.name.as_str()));
        }
        all
    }

    /// The NIC, or the bond that it is part of.
    fn counts_as<'a>(&'a self, nic: &'a str) -> &'a str {
        let bond = |name: &String| self.nics.iter().any(|nic| nic.name == *name && nic.kind == NicKind::Bond);
        let found = self.nics.iter().find(|other| other.name == nic);
        found.and_then(|nic| nic.master.as_ref()).filter(|master| bond(master)).map_or(nic, String::as_str)
    }

    /// Whether what this check looks at is needed.
    pub(super) fn concerns(&self, key: &CheckKey, needs: &Needs) -> bool {
        match key.kind.scope() {
            Scope::Mount | Scope::Disk => {
                let mounts = needs.data.iter().filter_map(|path| self.mount_of(path));
                mounts.into_iter().any(|mount| self.below(mount).contains(key.target.as_str()))
            }
            Scope::Nic => needs.nics.iter().any(|nic| self.counts_as(nic) == key.target),
            Scope::Sensor | Scope::Host => false,
        }
    }
}

impl Engine {
    /// Called once a step with every check that changed its state in it.
    pub(in crate::engine) fn checks_changed(&mut self, changes: &[Change]) {
        self.alert_timer();
        self.failover_checks_changed();
        if changes.iter().any(|change| change.key.kind.impairs()) {
            self.review_ties();
        }
        let memory = [CheckKind::Memory, CheckKind::PressureMemory];
        if changes.iter().any(|change| memory.contains(&change.key.kind)) {
            self.look_at_memory();
        }
    }

    /// The services that need what this check looks at, whatever its state.
    #[must_use]
    pub fn concerned_by(&self, key: &CheckKey) -> Vec<String> {
        let services = self.plan.services.iter();
        let concerned = services
            .filter(|service| service.needs.as_deref().is_some_and(|needs| self.host.devices.concerns(key, needs)));
        concerned.map(|service| service.name.clone()).collect()
    }

    /// Somebody's read of this path has ended with an error that only its disk can give.
    pub(in crate::engine) fn read_failed(&mut self, path: &Path, text: &str) {
        let Some(disk) = self.host.devices.mount_of(path).and_then(|mount| mount.disk.clone()) else { return };
        self.host.read_failed(&disk, text, self.now);
        self.host_rests();
    }

    /// What fails below one of these paths, in words.
    pub(in crate::engine) fn failing_below(&self, paths: &[PathBuf]) -> Option<String> {
        let needs = Needs { data: paths.to_vec(), ..Needs::default() };
        let mut failing = self.host.states.iter().filter(|(key, (state, _))| {
            *state == Health::Failing && key.kind.impairs() && self.host.devices.concerns(key, &needs)
        });
        failing.next().map(|(key, (_, why))| {
            let trouble = Trouble { key: key.clone(), why: why.clone() };
            self.trouble_text(&trouble)
        })
    }

    /// What fails of these, by the targets of their checks, in words.
    pub(in crate::engine) fn failing_targets(&self, targets: &[String]) -> Option<String> {
        let mut failing = self.host.states.iter().filter(|(key, (state, _))| {
            *state == Health::Failing && key.kind.impairs() && targets.contains(&key.target)
        });
        failing.next().map(|(key, (_, why))| {
            let trouble = Trouble { key: key.clone(), why: why.clone() };
            self.trouble_text(&trouble)
        })
    }

    /// What fails now under a service. What has been its trouble stays so while it lasts.
    pub(in crate::engine) fn troubles_of(&self, service: ServiceId) -> Troubles {
        let Some(needs) = self.plan_of(service).needs.as_deref() else {
            return Troubles::default();
        };
        let moved = self.where_data_lies(service, &needs.data).map(|data| Needs { data, ..needs.clone() });
        let needs = moved.as_ref().unwrap_or(needs);
        let failing = || {
            let states = self.host.states.iter().filter(|(key, (state, _))| {
                *state == Health::Failing && key.kind.impairs() && self.host.devices.concerns(key, needs)
            });
            states.map(|(key, (_, why))| Trouble { key: key.clone(), why: why.clone() })
        };
        let before = self.host.troubles.get(&service);
        let first = |old: Option<&Trouble>, is_nic: bool| {
            let found = || failing().filter(|trouble| (trouble.key.kind.scope() == Scope::Nic) == is_nic);
            let same = old.filter(|old| found().any(|trouble| trouble.key == old.key)).cloned();
            let rank = |trouble: &Trouble| ORDER.iter().position(|kind| *kind == trouble.key.kind);
            same.or_else(|| found().min_by_key(rank))
        };
        let disk = match self.policy(service) {
            OnDiskFailing::Ignore => None,
            OnDiskFailing::Leave | OnDiskFailing::Freeze | OnDiskFailing::Kill | OnDiskFailing::Hold => {
                first(before.and_then(|before| before.disk.as_ref()), false)
            }
        };
        Troubles { disk, nic: first(before.and_then(|before| before.nic.as_ref()), true) }
    }
}
