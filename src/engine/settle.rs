//! What a replica is, compared with what it should be; and the deadlines of its states.

use super::Engine;
use super::access::Because;
use super::action::{Action, Level, NoteKind};
use super::plan::ServicePlan;
use super::service::{Decided, Kept, Phase, State};
use super::timers::{Timer, TimerKey};
use super::types::{ReplicaId, ServiceId};

impl Engine {
    pub(super) fn settle(&mut self, id: ReplicaId) {
        let Some(replica) = self.find(id) else {
            return;
        };
        let wanted = self.is_wanted(id);
        match &replica.state {
            State::Adopting => {}
            State::Stopped if replica.removed => return self.forget(id),
            State::Stopped if !wanted => {}
            State::Stopped => self.try_start(id),
            State::Waiting { .. } if wanted => self.try_start(id),
            State::Backoff { .. } if wanted && self.failing_disk(id.service).is_some() => self.try_start(id),
            State::Backoff { .. } | State::Failed | State::Done if wanted => {}
            State::Waiting { .. } | State::Backoff { .. } | State::Failed | State::Done => self.stop_at_rest(id),
            State::Starting | State::Ready | State::Degraded => {
                if let Some(why) = self.must_stop(id) {
                    self.begin_stop(id, why);
                }
            }
            State::Stopping { phase: Phase::Dependents, why, .. } => {
                let why = *why;
                if self.dependents_are_down(id) {
                    self.leave_service(id, why);
                }
            }
            State::Stopping { .. } | State::Stuck { .. } => {}
        }
        self.refresh(id);
    }

    /// Nothing runs and nothing shall.
    pub(super) fn stop_at_rest(&mut self, id: ReplicaId) {
        self.leave_queue(id);
        let run = self.at(id).memory.run;
        self.memory_mut(id).requested = false;
        self.set_state(id, State::Stopped, Because::Note(Level::Info, NoteKind::Stopped { run }));
        if self.at(id).removed {
            self.dirty.insert(id);
        }
    }

    /// The replica has left the configuration and is stopped.
    fn forget(&mut self, id: ReplicaId) {
        self.note(id, Level::Info, NoteKind::Removed);
        self.out.push(Action::Forget { replica: id });
        for timer in Timer::ALL {
            self.timers.cancel(TimerKey::Replica(id, timer));
            self.boot_timers.cancel(TimerKey::Replica(id, timer));
        }
        self.forget_fence(id);
        self.unsaved.remove(&id);
        self.forget_state(id);
        let service = self.service_mut(id.service);
        if let Some(replica) = service.replicas.remove(id.index) {
            service.last_runs.insert(id.index, replica.memory.run);
            let fences = replica.memory.fences;
            service.kept.extend(replica.decided.map(|decided| (id.index, Kept { decided, fences })));
        }
        self.touched.insert(id.service);
        let service = self.service_at(id.service);
        if service.removed && service.replicas.is_empty() {
            self.end_requests_of_removed(id.service);
            self.timers.cancel(TimerKey::Loss(id.service));
            self.departed.push(id.service);
        }
    }

    pub(super) fn drop_service(&mut self, id: ServiceId) {
        let name = self.name(id).to_owned();
        self.helper_left(&name);
        self.names.remove(&name);
        if let Some(service) = self
            .services
            .remove(&id)
            .filter(|service| service.decided != Decided::default() || !service.kept.is_empty())
        {
            self.kept.insert(name, (service.decided, service.kept));
        }
        for other in self.services.values_mut() {
            let edges = &mut other.edges;
            for list in [
                &mut edges.requires,
                &mut edges.wants,
                &mut edges.after,
                &mut edges.restart_with,
                &mut edges.dependents,
                &mut edges.required_by,
                &mut edges.restarted_by,
            ] {
                list.retain(|other| *other != id);
            }
        }
    }

    pub(super) fn replica_timer(&mut self, id: ReplicaId, timer: Timer) {
        if self.find(id).is_none() {
            return;
        }
        match timer {
            Timer::State => self.state_deadline(id),
            Timer::Probe => self.probe_timer(id),
            Timer::Watchdog => self.watchdog_missed(id),
            Timer::Forget => self.forget_failures(id),
            Timer::Drain => self.drain_by_hand_is_late(id),
            Timer::Period => self.period_begins(id),
            Timer::Fence => self.fence_timer(id),
            Timer::Hold => self.hold_over(id),
        }
    }

    fn state_deadline(&mut self, id: ReplicaId) {
        match &self.at(id).state {
            State::Starting => self.start_timed_out(id),
            State::Stopping { phase, .. } => {
                let phase = *phase;
                self.phase_deadline(id, phase);
            }
            State::Backoff { .. } => self.try_start(id),
            State::Failed => self.half_open(id),
            State::Stuck { .. } => self.look_at_stuck(id),
            State::Adopting | State::Stopped | State::Waiting { .. } | State::Ready | State::Degraded | State::Done => {
                debug_assert!(false, "{}: a deadline in state {}", self.label(id), self.at(id).memory.state);
            }
        }
    }

    /// A copy of the plan's small values is cheaper to work with than a borrow; this is for those that are not small.
    pub(super) fn with_plan<T>(&self, id: ReplicaId, read: impl FnOnce(&ServicePlan) -> T) -> T {
        read(self.plan_of(id.service))
    }
}
