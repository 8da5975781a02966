//! Dependencies: what a start waits for, what a loss stops, in which order things go down, and pacing.
//!
//! * `requires`: a start waits until one replica of the other is up. When the other is *lost*, its dependents are stopped first, wait,
//!   and come back by themselves. Lost is: nothing is up, and nothing is on its way (stopped, failed, stuck, removed, or about to be), or
//!   nothing has been up for `LOSS_AFTER`. A dependency that merely restarts does not touch its dependents.
//! * `wants`, `after`, `restart_with`: a start waits while the other is *hopeful*: on its way up without a failure so far. One that waits
//!   itself is hopeful as long as everything it requires is, so nobody waits for ever behind something that cannot come. `after` and
//!   `restart_with` wait for a later attempt as well, while it is under way.
//! * `restart_with` besides: when the other starts a new run after having been up, dependents that run are restarted, uncharged.
//! * A shutdown takes all four kinds of edges in reverse.
//!
//! What a service is to its dependents is counted per service and summed up in three words (`Summary`); only when one of these changes
//! are the dependents looked at.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Engine;
use super::plan::{Kind, Readiness, ServicePlan};
use super::service::{Blocker, Counts, Phase, Seen, Standing, State, StopWhy, Summary, Then};
use super::timers::TimerKey;
use super::types::{Exit, ReplicaId, ServiceId};

/// How long a required service may be without a replica that is up before its dependents are stopped.
pub(super) const LOSS_AFTER: Duration = Duration::from_secs(30);
/// Where the plan names no limit.
const STARTING_MAX_DEFAULT: u32 = 4;

/// Pacing: replicas with a real readiness check that start at once.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Slots {
    pub(super) held: u32,
    pub(super) queue: BTreeSet<(u64, ReplicaId)>,
    next_ticket: u64,
}

impl Engine {
    /// What holds this replica back from starting; queues for a slot when that is all. Also whether it is worth waiting for.
    pub(super) fn blockers(&mut self, id: ReplicaId) -> (Vec<Blocker>, bool) {
        let (mut on, hopeful) = self.missing(id);
        if on.is_empty() && self.needs_slot(id) && !self.may_take_slot(id) {
            on.push(Blocker::Slot);
            self.queue_for_slot(id);
        } else if !on.is_empty() {
            self.leave_queue(id);
        }
        (on, hopeful)
    }

    /// The services that this replica must wait for.
    pub(super) fn missing(&self, id: ReplicaId) -> (Vec<Blocker>, bool) {
        let edges = &self.service_at(id.service).edges;
        let mut hopeful = true;
        let mut on = Vec::new();
        if self.failing_disk(id.service).is_some() {
            hopeful = false;
            on.push(Blocker::Disk);
        }
        if self.failover_blocks(id.service).is_some() {
            on.push(Blocker::Copies);
        }
        for dependency in &edges.requires {
            let summary = self.service_at(*dependency).summary;
            if !summary.is_up {
                hopeful &= summary.is_hopeful;
                on.push(Blocker::Service(*dependency));
            }
        }
        let ordered = edges.after.iter().chain(&edges.restart_with).map(|dependency| (dependency, true));
        for (dependency, any_attempt) in edges.wants.iter().map(|dependency| (dependency, false)).chain(ordered) {
            let summary = self.service_at(*dependency).summary;
            let comes = summary.is_hopeful || (any_attempt && summary.is_starting);
            let blocker = Blocker::Service(*dependency);
            if !summary.is_up && comes && !on.contains(&blocker) {
                on.push(blocker);
            }
        }
        (on, hopeful)
    }

    /// Why this replica, which has a process, must not go on running.
    pub(super) fn must_stop(&self, id: ReplicaId) -> Option<StopWhy> {
        if self.at(id).removed {
            return (!self.keeps_proxy(id)).then_some(StopWhy::Removed);
        }
        if !self.is_wanted(id) {
            return Some(match self.shutdown {
                Some(_) => StopWhy::Shutdown,
                None if self.copies_stop(id.service) => StopWhy::ForCopies,
                None => StopWhy::Operator,
            });
        }
        if let Some(why) = self.disk_stops(id.service) {
            return Some(why);
        }
        if self.failover_stops(id.service) {
            return Some(StopWhy::DataMove);
        }
        let requires = &self.service_at(id.service).edges.requires;
        let lost = requires.iter().find(|dependency| self.service_at(**dependency).summary.is_lost);
        lost.map(|dependency| StopWhy::DependencyLost(*dependency)).or_else(|| self.restart_wish(id))
    }

    /// Whether everything that has to go down before a replica of this service has done so.
    pub(super) fn dependents_are_down(&self, id: ReplicaId) -> bool {
        let service = self.service_at(id.service);
        let dependents = if self.shutdown.is_some() && !service.is_role {
            &service.edges.dependents
        } else if service.summary.is_lost {
            &service.edges.required_by
        } else {
            return true;
        };
        dependents.iter().all(|dependent| self.service_at(*dependent).counts.running == 0)
    }

    /// Brings the counts of the service up to date with this replica, and those who depend on them onto the worklist.
    pub(super) fn refresh(&mut self, id: ReplicaId) {
        self.quiet_changed(id.service);
        self.failover_changed(id.service);
        let standing = self.standing(id);
        self.rebalance_later(id.service);
        let replica = self.at(id);
        let before = replica.seen;
        let stuck = matches!(replica.state, State::Stuck { .. });
        let seen = Seen {
            standing,
            running: replica.run.is_some() && !stuck,
            starting: replica.state == State::Starting,
            leaving: matches!(replica.state, State::Stopping { phase: Phase::Dependents, .. }),
        };
        if before == seen {
            return;
        }
        let counts = &mut self.service_mut(id.service).counts;
        counts.add(before, Sign::Minus);
        counts.add(seen, Sign::Plus);
        self.at_mut(id).seen = seen;
        self.refresh_summary(id.service);
        if before.running && !seen.running && self.service_at(id.service).counts.running == 0 {
            self.wake_those_leaving_below(id.service);
        }
    }

    pub(super) fn refresh_summary(&mut self, id: ServiceId) {
        let key = TimerKey::Loss(id);
        let service = self.service_mut(id);
        let counts = service.counts;
        if counts.up > 0 {
            service.late = false;
        }
        let summary = Summary {
            is_up: counts.up > 0,
            is_hopeful: counts.hopeful > 0,
            is_starting: counts.starting > 0,
            is_lost: counts.up == 0 && (counts.coming == 0 || service.late),
        };
        let changed = service.summary != summary;
        service.summary = summary;
        let on_its_way = counts.up == 0 && counts.coming > 0 && !service.late && !service.edges.required_by.is_empty();
        match (on_its_way, self.timers.get(key)) {
            (true, None) => self.timers.set(key, self.now.mono.after(LOSS_AFTER)),
            (false, Some(_)) => self.timers.cancel(key),
            (true, Some(_)) | (false, None) => {}
        }
        if changed {
            self.mark_dependents(id);
            self.mark_if_leaving(id);
        }
    }

    /// `LOSS_AFTER` is over.
    pub(super) fn service_late(&mut self, id: ServiceId) {
        if let Some(service) = self.services.get_mut(&id) {
            service.late = true;
            self.refresh_summary(id);
        }
    }

    pub(super) fn mark(&mut self, service: ServiceId) {
        let ids = self.replicas_of(service);
        self.dirty.extend(ids);
    }

    fn mark_dependents(&mut self, id: ServiceId) {
        for dependent in self.service_at(id).edges.dependents.clone() {
            self.mark(dependent);
        }
    }

    fn mark_if_leaving(&mut self, id: ServiceId) {
        if self.service_at(id).counts.leaving > 0 {
            self.mark(id);
        }
    }

    fn wake_those_leaving_below(&mut self, id: ServiceId) {
        let dependencies: Vec<ServiceId> = self.service_at(id).edges.dependencies().collect();
        for dependency in dependencies {
            self.mark_if_leaving(dependency);
        }
    }

    pub(super) fn standing(&self, id: ReplicaId) -> Standing {
        let replica = self.at(id);
        let coming = if replica.memory.failures == 0 { Standing::Hopeful } else { Standing::Coming };
        if replica.memory.fence.is_some() && self.is_away(id) {
            return Standing::Gone;
        }
        match &replica.state {
            State::Ready | State::Degraded | State::Done => Standing::Up,
            State::Stopped | State::Failed | State::Stuck { .. } => Standing::Gone,
            State::Adopting => coming,
            State::Waiting { .. } | State::Starting if self.succeeded_before(id) => Standing::Up,
            State::Waiting { hopeful: false, .. } | State::Backoff { .. } => Standing::Coming,
            State::Waiting { hopeful: true, .. } | State::Starting => coming,
            State::Stopping { why: StopWhy::DependencyLost(_) | StopWhy::DiskFailing | StopWhy::DataMove, .. }
            | State::Stopping { then: Then::Fail, .. } => Standing::Gone,
            State::Stopping { .. } if !self.is_wanted(id) => Standing::Gone,
            State::Stopping { .. } => coming,
        }
    }

    /// A periodic task counts as up while it runs once more after a success.
    fn succeeded_before(&self, id: ReplicaId) -> bool {
        let plan = self.plan_of(id.service);
        let periodic = matches!(plan.kind, Kind::Every(_));
        let last = self.at(id).memory.last_exit;
        periodic && last.is_some_and(|last| !last.oom && is_success(plan, last.exit))
    }

    /// Only what has a real readiness check is paced; a task may run for hours, and the agent's own roles wait for nobody.
    pub(super) fn needs_slot(&self, id: ReplicaId) -> bool {
        let plan = self.plan_of(id.service);
        let has_check = match plan.ready {
            Readiness::Started => false,
            Readiness::Notify | Readiness::Fd(_) | Readiness::Probe(_) | Readiness::Log(_) => true,
        };
        has_check && plan.kind == Kind::Daemon && !self.service_at(id.service).is_role
    }

    pub(super) fn slots_max(&self) -> u32 {
        self.plan.agent.starting_max.unwrap_or(STARTING_MAX_DEFAULT).max(1)
    }

    /// In the order of the queue.
    pub(super) fn may_take_slot(&self, id: ReplicaId) -> bool {
        let first = self.slots.queue.first().is_none_or(|(_, first)| *first == id);
        self.slots.held < self.slots_max() && first
    }

    fn queue_for_slot(&mut self, id: ReplicaId) {
        if self.at(id).ticket.is_none() {
            let ticket = self.slots.next_ticket;
            self.slots.next_ticket += 1;
            self.slots.queue.insert((ticket, id));
            self.at_mut(id).ticket = Some(ticket);
        }
    }

    pub(super) fn leave_queue(&mut self, id: ReplicaId) {
        if let Some(ticket) = self.at_mut(id).ticket.take() {
            self.slots.queue.remove(&(ticket, id));
            self.wake_queue();
        }
    }

    pub(super) fn take_slot(&mut self, id: ReplicaId) {
        self.leave_queue(id);
        if self.needs_slot(id) {
            self.at_mut(id).has_slot = true;
            self.slots.held += 1;
        }
        self.wake_queue();
    }

    pub(super) fn give_slot_back(&mut self, id: ReplicaId) {
        if std::mem::take(&mut self.at_mut(id).has_slot) {
            self.slots.held -= 1;
            self.wake_queue();
        }
    }

    pub(super) fn wake_queue(&mut self) {
        if self.slots.held < self.slots_max() {
            let first = self.slots.queue.first().map(|(_, id)| *id);
            self.dirty.extend(first);
        }
    }
}

#[derive(Clone, Copy)]
enum Sign {
    Plus,
    Minus,
}

impl Counts {
    fn add(&mut self, seen: Seen, sign: Sign) {
        let change = |count: &mut u32, by: bool| match sign {
            Sign::Plus => *count += u32::from(by),
            Sign::Minus => *count -= u32::from(by),
        };
        change(&mut self.up, seen.standing == Standing::Up);
        change(&mut self.hopeful, seen.standing == Standing::Hopeful);
        change(&mut self.coming, matches!(seen.standing, Standing::Hopeful | Standing::Coming));
        change(&mut self.running, seen.running);
        change(&mut self.starting, seen.starting);
        change(&mut self.leaving, seen.leaving);
    }
}

pub(super) fn is_success(plan: &ServicePlan, exit: Exit) -> bool {
    match exit {
        Exit::Code(code) => plan.success_exit_codes.contains(&code),
        Exit::Signal { .. } | Exit::Unknown => false,
    }
}
