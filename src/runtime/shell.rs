//! The shell's state: everything the agent holds of the outside world. The engine knows none of it.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use super::alerts::Alerts;
use super::balancers::Ejections;
use super::copying::Copying;
use super::figures::Inquiry;
use super::hardware_watchdog::HardwareWatchdog;
use super::journal::Journal;
use super::key::Key;
use super::links::{Importance, Link};
use super::listeners::Listeners;
use super::pace::Pace;
use super::peeks::Peeks;
use super::probes::Probes;
use super::record;
use super::sockets::Sockets;
use super::station::{RestingGroup, Station};
use super::taker::Takers;
use crate::engine::event::Event;
use crate::engine::memory::Memory;
use crate::engine::plan::{Role, Stop, User};
use crate::engine::types::{ReplicaId, RunId, Time};
use crate::logs::proto::ToLogs;
use crate::sys::controllers::Controllers;
use crate::sys::epoll::{Epoll, Interest};
use crate::sys::group::{Group, Root};
use crate::sys::{child, host};

/// Directories of this agent; fixed for its life.
#[derive(Clone, Debug)]
pub struct Directories {
    pub run: PathBuf,
    pub state: PathBuf,
    pub log: PathBuf,
}

/// Main processes that have ended for which room is kept.
const DEAD_KEPT: usize = 8;
/// Between two tries to remove groups that are busy for long.
const BURY_DELAY_MAX: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Shell {
    pub directories: Directories,
    pub boot_id: String,
    pub instance: String,
    pub own_user: User,
    pub root: Root,
    pub controllers: Controllers,
    pub epoll: Epoll,
    pub stations: BTreeMap<ReplicaId, Box<Station>>,
    /// Station by slot; a slot is not reused while the agent lives.
    pub slots: Vec<ReplicaId>,
    /// Main processes by pid: what the reaper of orphans leaves alone.
    pub mains: BTreeMap<i32, ReplicaId>,
    /// Main processes whose exit is known and that are not reaped yet: to take one away costs as much as a tenth of the spawn that follows.
    pub dead: Vec<OwnedFd>,
    pub logs: Link,
    pub checks: Link,
    pub proxy: Link,
    /// Of the sensors role and of the helpers of disks.
    pub helpers: BTreeMap<Role, Link>,
    pub sockets: Sockets,
    pub listeners: Listeners,
    pub inquiry: Inquiry,
    pub ejections: Ejections,
    pub probes: Probes,
    pub alerts: Alerts,
    pub copying: Copying,
    pub watchdog: HardwareWatchdog,
    pub journal: Journal,
    /// What happened and has not been given to the engine yet.
    pub events: VecDeque<Event>,
    pub records: record::Writer,
    /// What was looked at and is consumed once its consequences are recorded.
    pub peeks: Peeks,
    /// Slots whose notify socket rests until then, because too much came over it.
    pub muted: Vec<(Time, u32)>,
    pub takers: Takers,
    /// Groups whose removal was refused (EBUSY: the kernel is still tearing down), tried again later.
    pub dying_groups: Vec<Group>,
    /// Children whose exec is not watched yet: its news would take the CPU from them at the very moment when they become their program.
    pub new_gates: Vec<(ReplicaId, RunId)>,
    /// Groups of runs that ended in this turn, for those that begin in it: making another costs more than the spawn itself.
    pub resting: Vec<(ReplicaId, RestingGroup)>,
    pub dying_pace: Pace,
    /// Roles whose connection ended: to be connected again, be it to their successor.
    pub lost_links: Vec<Role>,
    /// Trees without a cgroup whose end must be polled for.
    pub polled_trees: Vec<ReplicaId>,
    pub tree_pace: Pace,
}

impl Shell {
    /// The station of a replica, made on first mention.
    pub fn station(&mut self, replica: ReplicaId, service: &str, stop: Stop) -> &mut Station {
        let (slots, instance) = (&mut self.slots, &self.instance);
        self.stations.entry(replica).or_insert_with(|| {
            let slot = u32::try_from(slots.len()).unwrap_or(u32::MAX);
            slots.push(replica);
            let cookie = format!("{instance}.{service}.{}.{:016x}", replica.index, host::random_u64());
            Box::new(Station::new(slot, service, replica.index, stop, cookie))
        })
    }

    /// The replica of a slot, if its station still exists.
    #[must_use]
    pub fn replica_at(&self, slot: u32) -> Option<ReplicaId> {
        let replica = *self.slots.get(usize::try_from(slot).ok()?)?;
        let station = self.stations.get(&replica)?;
        (station.slot == slot).then_some(replica)
    }

    /// `None`: nothing was ever said to it.
    #[must_use]
    pub fn link_of(&self, role: Role) -> Option<&Link> {
        match role {
            Role::Logs => Some(&self.logs),
            Role::Checks => Some(&self.checks),
            Role::Proxy => Some(&self.proxy),
            Role::Sensors | Role::Disk(_) | Role::Copy(_) => self.helpers.get(&role),
        }
    }

    pub fn link(&mut self, role: Role) -> &mut Link {
        match role {
            Role::Logs => &mut self.logs,
            Role::Checks => &mut self.checks,
            Role::Proxy => &mut self.proxy,
            Role::Sensors | Role::Disk(_) | Role::Copy(_) => self.helpers.entry(role).or_default(),
        }
    }

    /// Registers a descriptor; failure (no memory, no descriptors) is told and costs only this event source.
    pub fn listen_to(&self, descriptor: BorrowedFd<'_>, key: Key, interest: Interest) {
        if let Err(error) = self.epoll.add(descriptor, key.encode(), interest) {
            log::error!("agent: cannot watch a descriptor ({key:?}): {error}");
        }
    }

    /// Takes a descriptor out of epoll. Must come before its close: a child may hold a copy, and then the close alone would leave
    /// a stale event behind.
    pub fn forget(&self, descriptor: BorrowedFd<'_>) {
        // ENOENT: it never was registered, or its registration failed and was told.
        let _ = self.epoll.remove(descriptor);
    }

    /// Writes the record of a replica. A full tmpfs costs the next agent this replica's counters, never its process: the group
    /// still names it.
    pub fn write_record(&mut self, replica: ReplicaId, memory: &Memory) {
        let Some(station) = self.stations.get(&replica) else { return };
        let record = station.record(&self.boot_id, &self.instance, memory);
        if let Err(error) = self.records.write(&self.directories.run, &record) {
            log::error!(
                "service {}/{}: cannot write its record: {error}; a restart of the agent would forget its counters",
                station.service,
                station.index
            );
        }
    }

    /// Sends to the logs role what only matters now.
    pub fn tell_logs(&mut self, message: &ToLogs) {
        self.logs.send(message, Importance::Current);
    }

    /// Takes away the main processes that have ended; their pidfds are closed by [`Shell::forget_dead`].
    pub fn reap_dead(&self) {
        for pidfd in &self.dead {
            child::bury(pidfd.as_fd());
        }
    }

    /// The end of the main processes that have ended.
    pub fn forget_dead(&mut self) {
        self.reap_dead();
        self.dead.clear();
        self.dead.shrink_to(DEAD_KEPT);
    }

    /// Removes a group, now or (while the kernel is still busy with it) later.
    pub fn bury(&mut self, group: Option<Group>) {
        if let Some(mut group) = group
            && group.remove().is_err()
        {
            self.dying_groups.push(group);
            self.dying_pace.restart();
        }
    }

    /// At the end of a turn: removes the groups that no new run has taken.
    pub fn bury_resting(&mut self) {
        for (_, resting) in std::mem::take(&mut self.resting) {
            self.bury(Some(resting.group));
        }
    }

    /// From now on the children say whether their exec has succeeded. Where that cannot be watched, their end says it.
    pub fn watch_gates(&mut self) {
        for (replica, run) in std::mem::take(&mut self.new_gates) {
            let Some(station) = self.stations.get(&replica) else { continue };
            let Some(live) = station.live.as_ref().filter(|live| live.run == run) else { continue };
            if let Some(gate) = &live.gate {
                self.listen_to(gate.as_fd(), Key::Gate(station.slot, run.0), Interest::READ);
            }
        }
    }

    /// The group in which the replica's run has just ended.
    pub fn take_resting(&mut self, replica: ReplicaId) -> Option<RestingGroup> {
        let place = self.resting.iter().position(|(owner, _)| *owner == replica)?;
        Some(self.resting.swap_remove(place).1)
    }

    /// Tries again to remove groups. One whose last process cannot die would otherwise keep the agent busy for ever.
    pub fn bury_groups(&mut self, now: Time) {
        if self.dying_groups.is_empty() || !self.dying_pace.is_due(now) {
            return;
        }
        self.dying_groups.retain_mut(|group| group.remove().is_err());
        self.dying_pace.back_off(now, BURY_DELAY_MAX);
    }

    /// Before all other events.
    pub fn stall(&mut self, by: Duration, suspended: bool) {
        self.events.push_front(Event::Stalled { by, suspended });
        self.peeks.overtaken();
    }
}
