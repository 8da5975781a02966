//! A look at the host without an agent: two rounds of readings, each believed at once.

use std::time::Duration;

use super::plan::CheckPlan;
use super::rules::Wishes;
use super::sample::{Devices, Sample};
use super::state::HostState;
use super::view::CheckView;
use super::watch::{Helper, Order};
use crate::engine::plan::Role;
use crate::engine::types::{Now, Time};

/// What the first round was at, on a clock of its own.
const BEGIN: Time = Time(1_000_000_000);

/// Every check after two rounds of readings that lie `apart`; rates are those between the rounds. What needs a longer look (time to full,
/// growth of a disk's own counts) has nothing to say here.
#[must_use]
pub fn judge_once(
    devices: &Devices,
    first: &[Sample],
    second: &[Sample],
    apart: Duration,
    plans: &[CheckPlan],
) -> Vec<CheckView> {
    let wishes = Wishes { plans, defaults: true, services: &[] };
    let mut host = HostState::once(one_helper(devices));
    let mut now = Now { mono: BEGIN, boot: BEGIN, wall: BEGIN, wall_synchronised: false };
    host.devices_came(devices.clone(), wishes, now);
    for round in [first, second] {
        for sample in round {
            host.sampled(Role::Checks, sample, wishes, now);
        }
        now.mono = now.mono.after(apart);
    }
    host.views()
}

/// What is to be read for them, by whichever process: the roles' orders, and those of one that reads every disk.
#[must_use]
pub fn orders_once(devices: &Devices, plans: &[CheckPlan]) -> Vec<Order> {
    let wishes = Wishes { plans, defaults: true, services: &[] };
    let now = Now { mono: BEGIN, boot: BEGIN, wall: BEGIN, wall_synchronised: false };
    let mut host = HostState::once(one_helper(devices));
    host.devices_came(devices.clone(), wishes, now);
    [Role::Checks, Role::Sensors]
        .into_iter()
        .chain((0..=u8::MAX).map(Role::Disk))
        .flat_map(|role| host.orders(role))
        .collect()
}

/// A helper for each disk and each mount without one, numbered as they come.
fn one_helper(devices: &Devices) -> Vec<Helper> {
    let mounts_of = |disk: Option<&str>| {
        let mounts = devices.mounts.iter().filter(move |mount| mount.disk.as_deref() == disk);
        mounts.map(|mount| mount.point.clone()).collect::<Vec<_>>()
    };
    let disks = devices.disks.iter().map(|disk| (Some(disk.name.clone()), mounts_of(Some(&disk.name))));
    let alone = mounts_of(None).into_iter().map(|mount| (None, vec![mount]));
    let helpers = disks.chain(alone).zip(0..=u8::MAX);
    helpers.map(|((disk, mounts), slot)| Helper { service: String::new(), slot, disk, mounts }).collect()
}
