//! Which helpers there are: a process for what lies on one disk, or for one mount without a disk, because whoever reads there may wait for ever.
//!
//! They are services like the other roles, made from `Plan::helper`, and come and go with the devices. One that has to leave may be stuck
//! in its disk: its name and its slot stay taken until its process is gone, and it is taken back should the device return.

use std::collections::BTreeSet;

use super::kind::CheckKind;
use super::note::HostNote;
use super::sample::{Devices, Disk, Mount};
use super::watch::Helper;
use crate::engine::Engine;
use crate::engine::action::{Action, Level, NoteKind};
use crate::engine::plan::{Launch, Needs, Plan, Role, ServicePlan};

/// Of what a helper is named after; with the beginning and a number it is a name of a service.
const NAME_MAX: usize = 36;

/// What is read by a helper of a mount.
const OF_MOUNTS: [CheckKind; 4] =
    [CheckKind::DiskSpace, CheckKind::DiskInodes, CheckKind::DiskFill, CheckKind::Filesystem];
/// What is read by a helper of a disk that says something of itself.
const OF_DISKS: [CheckKind; 2] = [CheckKind::Smart, CheckKind::DiskWear];

impl Engine {
    /// `plan` with the services of the helpers that it needs, in place of those that it brings along.
    pub(in crate::engine) fn with_helpers(&mut self, mut plan: Plan) -> Plan {
        plan.services.retain(|service| !matches!(service.launch, Launch::Role(Role::Disk(_))));
        let Some(template) = plan.helper.clone() else {
            self.host.helpers.clear();
            return plan;
        };
        // Until the devices are known, those of the earlier agent are needed.
        if let Some(devices) = self.host.devices_known.then(|| self.host.devices.clone()) {
            let needed = self.needed(&plan, &devices);
            self.assign(needed);
        }
        plan.services.extend(self.host.helpers.iter().map(|helper| made_from(&template, helper)));
        plan
    }

    /// The devices may be others now: helpers come and go, and nothing else is touched.
    pub(in crate::engine) fn devices_changed(&mut self) {
        self.host.devices_known = true;
        if self.shutdown.is_none() {
            let before = self.host.helpers.clone();
            let plan = self.plan.clone();
            let plan = self.with_helpers(plan);
            if self.host.helpers != before {
                self.watch_others(&before);
                self.change_plan(plan);
            }
        }
        self.save_host();
        self.failover_mounts_changed();
        self.review_ties();
    }

    /// A helper that stays may have other mounts to look at; a new one is told when it connects.
    pub(in crate::engine) fn watch_others(&mut self, before: &[Helper]) {
        for helper in &self.host.helpers {
            let stays = before.iter().find(|old| old.slot == helper.slot && old.service == helper.service);
            if stays.is_some_and(|old| old != helper) {
                self.out.push(Action::Watch { role: Role::Disk(helper.slot) });
            }
        }
    }

    /// What needs a helper: the disk, or the mount without one, and what is mounted there.
    fn needed(&self, plan: &Plan, devices: &Devices) -> Vec<(Option<String>, Vec<String>)> {
        let mounts = |disk: &Disk| {
            let here = devices.mounts.iter().filter(|mount| mount.disk.as_ref() == Some(&disk.name));
            let looked_at = here.filter(|mount| is_looked_at(plan, devices, mount));
            looked_at.map(|mount| mount.point.clone()).collect::<Vec<_>>()
        };
        let disks = devices.disks.iter().map(|disk| (disk, mounts(disk)));
        let disks = disks.filter(|(disk, mounts)| !mounts.is_empty() || asks_disk(plan, disk));
        let mut list: Vec<(Option<String>, Vec<String>)> =
            disks.map(|(disk, mounts)| (Some(disk.name.clone()), mounts)).collect();
        let has_disk = |mount: &Mount| devices.disks.iter().any(|disk| mount.disk.as_ref() == Some(&disk.name));
        let alone = devices.mounts.iter().filter(|mount| !has_disk(mount) && is_looked_at(plan, devices, mount));
        list.extend(alone.map(|mount| (None, vec![mount.point.clone()])));
        list
    }

    /// Those that are there keep their names and slots.
    fn assign(&mut self, needed: Vec<(Option<String>, Vec<String>)>) {
        let old = std::mem::take(&mut self.host.helpers);
        let known: Vec<Helper> = old.iter().chain(&self.host.leaving).cloned().collect();
        let of = |disk: &Option<String>, mounts: &[String]| {
            known.iter().find(|helper| helper.disk == *disk && (disk.is_some() || helper.mounts == *mounts))
        };
        let (mut names, mut slots) = self.taken();
        let kept = needed.iter().filter_map(|(disk, mounts)| of(disk, mounts));
        for helper in kept {
            names.insert(helper.service.clone());
            slots.insert(helper.slot);
        }
        let mut helpers = Vec::new();
        let mut beyond = Vec::new();
        for (disk, mounts) in needed {
            let (service, slot) = match of(&disk, &mounts) {
                Some(helper) => (helper.service.clone(), helper.slot),
                None => {
                    let Some(slot) = (0..Role::DISKS_MAX).find(|slot| !slots.contains(slot)) else {
                        beyond.extend(disk.or_else(|| mounts.into_iter().next()));
                        continue;
                    };
                    (free_name(&disk, &mounts, &names), slot)
                }
            };
            names.insert(service.clone());
            slots.insert(slot);
            helpers.push(Helper { service, slot, disk, mounts });
        }
        let stays = |helper: &Helper| helpers.iter().any(|other| other.service == helper.service);
        let leaving = known.iter().filter(|helper| !stays(helper)).cloned().collect();
        self.host.leaving = leaving;
        self.host.helpers = helpers;
        self.tell_beyond(&beyond);
    }

    /// Names and slots of helpers whose service is still there, be it on its way out.
    fn taken(&self) -> (BTreeSet<String>, BTreeSet<u8>) {
        let mut names = BTreeSet::new();
        let mut slots = BTreeSet::new();
        for id in self.services.keys().filter(|id| !self.departed.contains(id)) {
            let plan = self.plan_of(*id);
            if let Launch::Role(Role::Disk(slot)) = plan.launch {
                names.insert(plan.name.clone());
                slots.insert(slot);
            }
        }
        for helper in &self.host.leaving {
            names.insert(helper.service.clone());
            slots.insert(helper.slot);
        }
        (names, slots)
    }

    fn tell_beyond(&mut self, beyond: &[String]) {
        let told = std::mem::replace(&mut self.host.beyond_told, !beyond.is_empty());
        if !beyond.is_empty() && !told {
            let text = format!(
                "{} disks and mounts have a helper, which is the most there can be; watched without touching them: {}",
                Role::DISKS_MAX,
                beyond.join(", ")
            );
            self.agent_note(Level::Warn, NoteKind::Host(HostNote::Happened { text }));
        }
    }

    /// A service has left: if it was a helper, its name and slot are free.
    pub(in crate::engine) fn helper_left(&mut self, service: &str) {
        self.host.leaving.retain(|helper| helper.service != service);
    }

    /// The helpers that an earlier agent had, before what is left of them is adopted: nothing is started beside one that is stuck.
    pub(in crate::engine) fn take_helpers(&mut self, helpers: Vec<Helper>) {
        if self.plan.helper.is_none() {
            return;
        }
        self.host.helpers = helpers;
        self.host.helpers.truncate(usize::from(Role::DISKS_MAX));
        let known = std::mem::take(&mut self.host.devices_known);
        let plan = self.plan.clone();
        let plan = self.with_helpers(plan);
        self.install(plan);
        self.host.devices_known = known;
    }
}

fn made_from(template: &ServicePlan, helper: &Helper) -> ServicePlan {
    ServicePlan { name: helper.service.clone(), launch: Launch::Role(Role::Disk(helper.slot)), ..template.clone() }
}

/// Whether a helper is to touch this mount.
fn is_looked_at(plan: &Plan, devices: &Devices, mount: &Mount) -> bool {
    if mount.remote {
        let named = |kind: &CheckKind| {
            let mut checks = plan.checks.iter();
            checks.any(|check| check.enabled && check.kind == *kind && check.target.as_ref() == Some(&mount.point))
        };
        let needs = || plan.services.iter().filter_map(|service| service.needs.as_deref());
        return OF_MOUNTS.iter().chain(&[CheckKind::DiskHung]).any(named)
            || needs().any(|needs| is_needed(devices, needs, mount));
    }
    let canary = mount.disk.as_ref().unwrap_or(&mount.point);
    OF_MOUNTS.iter().any(|kind| is_checked(plan, *kind, &mount.point)) || is_checked(plan, CheckKind::DiskHung, canary)
}

fn is_needed(devices: &Devices, needs: &Needs, mount: &Mount) -> bool {
    needs.data.iter().any(|path| devices.mount_of(path) == Some(mount))
}

fn asks_disk(plan: &Plan, disk: &Disk) -> bool {
    disk.smart.is_some() && OF_DISKS.iter().any(|kind| is_checked(plan, *kind, &disk.name))
}

/// What the configuration says of this target, or of all of its kind, or of all checks.
fn is_checked(plan: &Plan, kind: CheckKind, target: &str) -> bool {
    let of_kind = || plan.checks.iter().filter(|check| check.kind == kind);
    let own = of_kind().find(|check| check.target.as_deref() == Some(target));
    let found = own.or_else(|| of_kind().find(|check| check.target.is_none()));
    found.map_or(plan.agent.default_checks, |check| check.enabled)
}

/// `@disk.vda`, `@disk.mnt-nfs`, `@disk.root`; with a number where that is another's.
fn free_name(disk: &Option<String>, mounts: &[String], taken: &BTreeSet<String>) -> String {
    let of = disk.as_deref().or(mounts.first().map(String::as_str)).unwrap_or_default();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.' | '-');
    let escaped: String = of.chars().map(|letter| if plain(letter) { letter } else { '-' }).collect();
    let mut word = escaped.trim_matches(['-', '.']);
    word = word.get(..NAME_MAX).unwrap_or(word);
    let base = format!("{}.{}", Role::Disk(0).service_name(), if word.is_empty() { "root" } else { word });
    let others = (2..=u32::from(Role::DISKS_MAX) + 2).map(|number| format!("{base}-{number}"));
    std::iter::once(base.clone()).chain(others).find(|name| !taken.contains(name)).unwrap_or(base)
}
