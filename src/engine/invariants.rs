//! What must hold after every step. Checked in debug builds, and by the simulation after every step of every seed.
//!
//! The strongest of these is that nothing was forgotten: every replica is settled again in thought, and must be where it should be. A
//! missed entry on the worklist, which would be a service that waits for ever, shows here at once.

use std::collections::BTreeSet;

use super::Engine;
use super::balance::table::Standing as Offer;
use super::balancing::is_same;
use super::fence::AUTOMATIC_MAX;
use super::fence::plan::FenceLevel;
use super::fence::record::Standing as Fenced;
use super::fence::records::ENDED_MAX;
use super::fence::state::Proof;
use super::memory::Memory;
use super::plan::{Kind, Readiness};
use super::service::{Blocker, Counts, Phase, Standing, State, Summary};
use super::shutdown::Shutdown;
use super::timers::{Timer, TimerKey};
use super::types::{ReplicaId, ServiceId, StateName};

/// With more services than this a look at all of them is taken only now and then.
const CHECKED_ALWAYS_MAX: usize = 64;
const CHECKED_EVERY: u64 = 64;

impl Engine {
    pub(super) fn check_sometimes(&self) {
        if self.services.len() <= CHECKED_ALWAYS_MAX || self.counters.steps.is_multiple_of(CHECKED_EVERY) {
            self.check_invariants();
        }
    }

    /// Panics where the engine has a bug.
    fn check_invariants(&self) {
        assert!(self.dirty.is_empty() && self.touched.is_empty() && self.unsaved.is_empty(), "work is left over");
        let clocks = [(self.timers.first(), self.now.mono), (self.boot_timers.first(), self.now.boot)];
        for (first, now) in clocks {
            assert!(first.is_none_or(|first| first > now), "a deadline that is over was not acted upon: {first:?}");
        }
        for (key, _) in self.timers.iter().chain(self.boot_timers.iter()) {
            match key {
                TimerKey::Replica(id, _) => assert!(self.find(id).is_some(), "{key:?}: of a replica that is gone"),
                TimerKey::Loss(id) => assert!(self.services.contains_key(&id), "{key:?}: of a service that is gone"),
                TimerKey::Request(request) => assert!(self.requests.contains_key(&request), "{key:?}: of no request"),
                TimerKey::Shutdown => assert!(self.shutdown.is_some(), "no shutdown has a deadline"),
                TimerKey::Alerts => assert!(!self.plan.alerts.is_empty(), "a deadline of no alert"),
                TimerKey::Pet => assert!(self.plan.agent.watchdog.is_some(), "a pet of no watchdog"),
                TimerKey::Gauge => {}
                TimerKey::Copies => {
                    assert!(!self.plan.copies.is_empty() || self.is_anything_restored(), "a deadline of no copies");
                }
                TimerKey::Host => assert!(self.host.deadline().is_some(), "no reading has a deadline"),
            }
        }
        for service in self.services.keys() {
            self.check_service(*service);
            for id in self.replicas_of(*service) {
                self.check_run(id);
                self.check_memory(id);
                self.check_deadlines(id);
                self.check_drain(id);
                self.check_nothing_forgotten(id);
                self.check_frozen(id);
                self.check_fence(id);
            }
        }
        let ends = matches!(self.shutdown, Some(Shutdown::InOrder | Shutdown::Killing));
        assert_eq!(self.timers.get(TimerKey::Shutdown).is_some(), ends, "the deadline of a shutdown");
        self.check_tables();
        self.check_records();
        self.check_populated();
        self.check_slots();
        self.check_requests();
    }

    fn check_service(&self, id: ServiceId) {
        let service = self.service_at(id);
        let mut counts = Counts::default();
        for replica in service.replicas.values() {
            counts.up += u32::from(replica.seen.standing == Standing::Up);
            counts.hopeful += u32::from(replica.seen.standing == Standing::Hopeful);
            counts.coming += u32::from(matches!(replica.seen.standing, Standing::Hopeful | Standing::Coming));
            let stuck = matches!(replica.state, State::Stuck { .. });
            counts.running += u32::from(replica.run.is_some() && !stuck);
            counts.starting += u32::from(replica.state == State::Starting);
            counts.leaving += u32::from(matches!(replica.state, State::Stopping { phase: Phase::Dependents, .. }));
        }
        assert_eq!(counts, service.counts, "{}: counts", self.name(id));
        let summary = Summary {
            is_up: counts.up > 0,
            is_hopeful: counts.hopeful > 0,
            is_starting: counts.starting > 0,
            is_lost: counts.up == 0 && (counts.coming == 0 || service.late),
        };
        assert_eq!(summary, service.summary, "{}: summary", self.name(id));
        assert!(!service.replicas.is_empty() || self.departed.contains(&id), "{}: gone but not dropped", self.name(id));
    }

    fn check_run(&self, id: ReplicaId) {
        let replica = self.at(id);
        let label = self.label(id);
        let may_run = match replica.state {
            State::Starting | State::Ready | State::Degraded | State::Stopping { .. } | State::Stuck { .. } => true,
            State::Adopting
            | State::Stopped
            | State::Waiting { .. }
            | State::Backoff { .. }
            | State::Failed
            | State::Done => false,
        };
        assert_eq!(replica.run.is_some(), may_run, "{label}: a run and state {}", replica.memory.state);
        let Some(run) = &replica.run else {
            return;
        };
        let up = matches!(replica.state, State::Ready | State::Degraded);
        assert!(!up || (run.executed && !run.exited), "{label}: ready without a live run");
        assert!(!run.exited || !matches!(replica.state, State::Starting), "{label}: starting after its exit");
        if run.probe.is_some() {
            assert!(self.armed(id, Timer::Probe).is_some(), "{label}: a probe without a deadline");
        }
        if run.exited {
            let counted = replica.memory.last_exit.is_some_and(|last| last.run == replica.memory.run);
            assert!(counted, "{label}: an exit that was not counted");
        }
    }

    fn check_memory(&self, id: ReplicaId) {
        let replica = self.at(id);
        let memory = &replica.memory;
        let label = self.label(id);
        assert_eq!(memory.state, replica.state.name(), "{label}: memory of the state");
        assert_eq!(memory.ready_since.is_some(), memory.state == StateName::Ready, "{label}: ready_since");
        assert!(memory.causes.len() <= Memory::CAUSES_MAX && memory.changes.len() <= Memory::CHANGES_MAX, "{label}");
        assert!(memory.budget_marks.iter().is_sorted(), "{label}: marks are in order");
        assert!(!memory.requested || replica.run.is_some(), "{label}: requested, of nothing");
        if let Some(hold) = memory.hold {
            assert!(!(hold.half_open && hold.next_try.is_some()), "{label}: a half-open hold with a next try");
        }
    }

    fn check_deadlines(&self, id: ReplicaId) {
        let replica = self.at(id);
        let label = self.label(id);
        let plan = self.plan_of(id.service);
        let state = self.armed(id, Timer::State);
        let executed = replica.run.as_ref().is_some_and(|run| run.executed);
        let expected = match &replica.state {
            State::Starting => plan.kind == Kind::Daemon || !executed,
            State::Stopping { phase, .. } => *phase != Phase::Dependents,
            State::Backoff { .. } | State::Stuck { .. } => true,
            State::Failed => replica.memory.hold.is_some_and(|hold| hold.next_try.is_some()),
            State::Adopting | State::Stopped | State::Waiting { .. } | State::Ready | State::Degraded | State::Done => {
                false
            }
        };
        assert_eq!(state.is_some(), expected, "{label}: the deadline of state {}", replica.memory.state);
        let up = matches!(replica.state, State::Ready | State::Degraded);
        let probed = match &replica.state {
            _ if replica.memory.frozen => false,
            State::Starting => plan.kind == Kind::Daemon && executed && matches!(plan.ready, Readiness::Probe(_)),
            _ if up => plan.alive.is_some(),
            State::Adopting
            | State::Stopped
            | State::Waiting { .. }
            | State::Ready
            | State::Degraded
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed
            | State::Done
            | State::Stuck { .. } => false,
        };
        assert_eq!(self.armed(id, Timer::Probe).is_some(), probed, "{label}: probes in {}", replica.memory.state);
        let watched = up && !replica.memory.frozen;
        assert!(watched || self.armed(id, Timer::Watchdog).is_none(), "{label}: watched in {}", replica.memory.state);
        let forgets = self.armed(id, Timer::Forget).is_some();
        assert_eq!(forgets, self.forgets_at(id).is_some(), "{label}: reset_after in {}", replica.memory.state);
        let period = self.boot_timers.get(TimerKey::Replica(id, Timer::Period)).is_some();
        let rests = matches!(replica.state, State::Done | State::Failed | State::Backoff { .. });
        assert_eq!(period, rests && matches!(plan.kind, Kind::Every(_)), "{label}: period");
    }

    fn check_nothing_forgotten(&self, id: ReplicaId) {
        let replica = self.at(id);
        let label = self.label(id);
        let wanted = self.is_wanted(id);
        match &replica.state {
            State::Adopting => {}
            State::Stopped => assert!(!wanted && !replica.removed, "{label}: wanted but stopped"),
            State::Backoff { .. } if self.failing_disk(id.service).is_some() => {
                panic!("{label}: a start that is pending")
            }
            State::Backoff { .. } | State::Failed | State::Done => assert!(wanted, "{label}: unwanted and not stopped"),
            State::Starting | State::Ready | State::Degraded => {
                assert_eq!(self.must_stop(id), None, "{label}: runs but must stop");
            }
            State::Stopping { phase: Phase::Dependents, .. } => {
                assert!(!self.dependents_are_down(id), "{label}: waits for dependents that are down");
            }
            State::Stopping { .. } | State::Stuck { .. } => {}
            State::Waiting { on, hopeful } => {
                assert!(wanted, "{label}: waits unwanted");
                let (missing, hope) = self.missing(id);
                if missing.is_empty() {
                    assert_eq!(on, &[Blocker::Slot], "{label}: waits for nothing");
                    assert!(replica.ticket.is_some(), "{label}: waits for a slot outside of the queue");
                    let first = self.slots.queue.first().is_some_and(|(_, first)| *first == id);
                    assert!(!first || self.slots.held >= self.slots_max(), "{label}: a slot is free");
                } else {
                    assert_eq!((on, *hopeful), (&missing, hope), "{label}: waits for something else");
                }
            }
        }
        assert_eq!(replica.seen.standing, self.standing(id), "{label}: standing");
    }

    /// What the proxy was told is what holds now, and offers nobody who is not up.
    fn check_tables(&self) {
        assert!(self.unbalanced.is_empty() && !self.rebalance_all, "a table was not looked at");
        for plan in self.plan.balancers.iter().filter(|plan| plan.has_table()) {
            assert!(self.told.contains_key(&plan.name), "balancer {}: nobody was told of it", plan.name);
        }
        for (name, told) in &self.told {
            assert!(self.table_of(name, self.now.mono).is_some_and(|table| is_same(told, &table)), "{name}: table");
            for backend in &told.backends {
                let Some(id) = self.replica_of_backend(&backend.name) else {
                    continue;
                };
                let replica = self.at(id);
                let run = replica.run.as_ref().filter(|run| run.executed && !run.exited);
                let live = run.is_some() && backend.run == replica.memory.run.0;
                let waits = matches!(replica.state, State::Stopping { phase: Phase::Dependents, .. });
                match backend.standing {
                    Offer::Up => assert!(live && (replica.state == State::Ready || waits), "{name}: {backend:?}"),
                    Offer::Degraded => {
                        assert!(live && (replica.state == State::Degraded || waits), "{name}: {backend:?}")
                    }
                    Offer::Draining => assert!(live, "{name}: {backend:?} drains, but does not live"),
                    Offer::Out | Offer::Fenced => {}
                }
            }
        }
    }

    fn check_drain(&self, id: ReplicaId) {
        let (replica, label) = (self.at(id), self.label(id));
        let drains = matches!(replica.state, State::Stopping { phase: Phase::Drain, .. });
        if drains {
            assert!(replica.memory.draining_since.is_some(), "{label}: drains since nobody knows when");
            assert!(!self.unfinished(id).is_empty(), "{label}: drains, but nobody has a connection");
        }
        assert!(
            self.offered(id) == Offer::Draining || replica.emptied.is_disjoint(&self.leading(id)),
            "{label}: emptied, but not draining"
        );
        let by_hand = self.armed(id, Timer::Drain).is_some();
        let up = matches!(replica.state, State::Ready | State::Degraded);
        assert!(!by_hand || (up && replica.memory.drained), "{label}: waits for a drain by hand that is none");
    }

    fn check_frozen(&self, id: ReplicaId) {
        let (replica, label) = (self.at(id), self.label(id));
        if replica.memory.frozen {
            let fenced = self.fence_level(id) == Some(FenceLevel::Freeze);
            let stays = self.fence.thaw_again.contains(&id);
            assert!(
                fenced || stays || self.copies_freeze(id.service) || self.failing_disk(id.service).is_some(),
                "{label}: frozen although its disk is well"
            );
            let runs = replica.run.as_ref().is_some_and(|run| run.spawned && !run.exited);
            let up = matches!(replica.state, State::Starting | State::Ready | State::Degraded);
            assert!(runs && up, "{label}: frozen in {}", replica.memory.state);
        }
        let troubles = self.troubles_of(id.service);
        assert_eq!(self.host.troubles.get(&id.service).cloned().unwrap_or_default(), troubles, "{label}: troubles");
    }

    fn check_fence(&self, id: ReplicaId) {
        let (replica, label) = (self.at(id), self.label(id));
        let (memory, hold) = (&replica.memory, self.boot_timers.get(TimerKey::Replica(id, Timer::Hold)));
        assert_eq!(hold, memory.fence.as_ref().and_then(|fence| fence.until), "{label}: the end of a hold");
        let Some(fence) = memory.fence.as_deref() else {
            if let Some(probation) = &memory.probation {
                let record = self.fence_record(probation.id);
                assert_eq!(record.map(|record| record.standing), Some(Fenced::Probation), "{label}: its record");
            }
            let on_probation = memory.probation.is_some() && memory.ready_since.is_some() && !memory.frozen;
            return assert_eq!(self.armed(id, Timer::Fence).is_some(), on_probation, "{label}: its probation's end");
        };
        assert!(memory.probation.is_none(), "{label}: fenced, and on probation");
        let standing = match fence.proof {
            Proof::Awaited => Fenced::Proving,
            Proof::Idle => {
                // An adopted run may have ended before there was anything to see on it.
                let none = replica.run.as_ref().is_none_or(|run| !run.spawned || run.exited);
                let rests = fence.level == FenceLevel::Throttle && none;
                assert!(rests && fence.is_by_hand(), "{label}: nothing runs, and yet it does");
                Fenced::Proving
            }
            Proof::Given => Fenced::Proven,
            Proof::Missing => Fenced::Incomplete,
        };
        assert_eq!(self.fence_record(fence.id).map(|record| record.standing), Some(standing), "{label}: its record");
        let ends = matches!(replica.state, State::Stopping { .. } | State::Stuck { .. });
        match fence.level {
            FenceLevel::Throttle => {}
            FenceLevel::Freeze => assert!(replica.run.is_some(), "{label}: frozen, and nothing runs"),
            FenceLevel::Kill => assert!(ends, "{label}: killed, in {}", memory.state),
            FenceLevel::Hold => {
                let rests = replica.state == State::Stopped && fence.proof == Proof::Given;
                assert!(rests || ends, "{label}: held, in {}", memory.state);
            }
        }
        assert!(fence.is_by_hand() || memory.fences > 0, "{label}: a fence that is not counted");
        assert!(fence.until.is_none() || !fence.is_by_hand(), "{label}: a fence by hand has an end");
        let offered = self.offered(id);
        assert!(!matches!(offered, Offer::Up | Offer::Degraded), "{label}: fenced, and offered as {offered:?}");
    }

    fn check_records(&self) {
        let watched = self.timers.get(TimerKey::Gauge).is_some() || self.groups_to_watch().is_empty();
        assert!(watched, "a group that should be watched is not");
        let used = self.automatic_used(self.now.mono);
        assert!(used <= AUTOMATIC_MAX, "{used} fences within the window of the host");
        let records = &self.fence.memory.records;
        let over = |standing| matches!(standing, Fenced::Released | Fenced::Observed);
        let ended = records.iter().filter(|record| over(record.standing));
        assert!(ended.count() <= ENDED_MAX, "records of fences pile up");
        let ids: BTreeSet<u64> = records.iter().map(|record| record.id).collect();
        assert_eq!(ids.len(), records.len(), "a record's number was given twice");
        assert!(ids.iter().all(|id| *id < self.fence.memory.next_id), "a record's number is given again");
        let standing = records.iter().filter(|record| !over(record.standing)).map(|record| record.id);
        let replicas = || self.services.values().flat_map(|service| service.replicas.values());
        let known = replicas().flat_map(|replica| {
            let memory = &replica.memory;
            let fence = memory.fence.as_ref().map(|fence| fence.id);
            [fence, memory.probation.as_ref().map(|one| one.id), memory.hold.and_then(|hold| hold.record)]
        });
        let known: BTreeSet<u64> = known.flatten().collect();
        assert_eq!(standing.collect::<BTreeSet<u64>>(), known, "records of fences that stand");
    }

    fn check_populated(&self) {
        let populated = self.services.values().filter(|service| !service.is_role);
        let populated = populated.flat_map(|service| service.replicas.values()).filter(|replica| replica.run.is_some());
        assert_eq!(u32::try_from(populated.count()), Ok(self.populated), "populated replicas");
    }

    fn check_slots(&self) {
        let replicas = || self.services.values().flat_map(|service| service.replicas.values());
        let held = replicas().filter(|replica| replica.has_slot).count();
        assert_eq!(u32::try_from(held), Ok(self.slots.held), "slots held");
        assert!(
            replicas().filter(|replica| replica.has_slot).all(|replica| replica.state == State::Starting),
            "a slot is held by who does not start"
        );
        assert_eq!(replicas().filter(|replica| replica.ticket.is_some()).count(), self.slots.queue.len(), "tickets");
    }

    fn check_requests(&self) {
        for (id, request) in &self.requests {
            assert!(self.outcome_of(*id).is_none(), "request {id:?} could be answered");
            assert!(self.service_at(request.service).requests.contains(id), "request {id:?} is looked at by nobody");
            let armed = self.timers.get(TimerKey::Request(*id)).is_some();
            assert_eq!(armed, !request.decisions.is_empty(), "request {id:?}: deadline of its decisions");
        }
        for request in self.decisions.values() {
            assert!(self.requests.contains_key(request), "a decision of no request");
        }
    }
}
