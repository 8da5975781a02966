//! The checks as others see them.

use std::path::Path;

use super::feeds::{FeedKey, GRACE};
use super::kind::Scope;
use super::sample::Devices;
use super::state::{Check, HostState};
use super::view::CheckView;
use super::{CheckKey, Health};
use crate::engine::Engine;
use crate::engine::plan::{Needs, ServicePlan};
use crate::engine::types::{Now, Time};

impl Engine {
    /// Every check with its state, by kind and target.
    #[must_use]
    pub fn checks(&self, _now: Now) -> Vec<CheckView> {
        self.host.views(&self.plan.services)
    }
}

impl HostState {
    pub(super) fn views(&self, services: &[ServicePlan]) -> Vec<CheckView> {
        self.checks.iter().map(|(key, check)| self.view(key, check, services)).collect()
    }

    fn view(&self, key: &CheckKey, check: &Check, services: &[ServicePlan]) -> CheckView {
        let condition = &check.condition;
        let pace = FeedKey::pace(key);
        let feed = self.feeds.iter().find(|feed| feed.key == pace);
        let expected = feed.and_then(|feed| feed.deadline).map(|at| Time(at.0.saturating_sub(Time(0).after(GRACE).0)));
        let concerned = services
            .iter()
            .filter(|service| service.needs.as_deref().is_some_and(|needs| is_concerned(needs, key, &self.devices)));
        CheckView {
            name: check.name.clone(),
            kind: key.kind,
            target: key.target.clone(),
            state: condition.state,
            value: check.value,
            unit: key.kind.unit(),
            degraded: check.rule.degraded,
            failing: check.rule.failing,
            since_wall: condition.since_wall,
            since: condition.since,
            sampled: check.sampled,
            next: expected,
            every: feed.map_or(check.rule.every, |feed| feed.every.max(check.rule.every)),
            flapping: condition.pin.is_some(),
            why: (condition.state != Health::Ok && !condition.why.is_empty()).then(|| condition.why.clone()),
            services: concerned.map(|service| service.name.clone()).collect(),
        }
    }
}

/// Whether a service needs what this check is about.
fn is_concerned(needs: &Needs, key: &CheckKey, devices: &Devices) -> bool {
    let mounts = || needs.data.iter().filter_map(|path| mount_of(devices, path));
    match key.kind.scope() {
        Scope::Mount => mounts().any(|(point, _)| point == key.target),
        Scope::Disk => mounts().any(|(point, disk)| match disk {
            Some(disk) => lies_on(devices, disk, &key.target),
            None => point == key.target,
        }),
        Scope::Nic => needs.nics.contains(&key.target),
        Scope::Sensor | Scope::Host => false,
    }
}

fn mount_of<'a>(devices: &'a Devices, path: &Path) -> Option<(&'a str, Option<&'a str>)> {
    let mounts = devices.mounts.iter().filter(|mount| path.starts_with(&mount.point));
    mounts.max_by_key(|mount| mount.point.len()).map(|mount| (mount.point.as_str(), mount.disk.as_deref()))
}

/// On the disk itself, or on a device that is made of it.
fn lies_on(devices: &Devices, disk: &str, target: &str) -> bool {
    let below = |name: &str| devices.disks.iter().any(|one| one.name == name && one.below.iter().any(|b| b == target));
    disk == target || below(disk)
}
