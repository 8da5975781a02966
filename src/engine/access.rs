//! How the parts of the engine reach a replica, change its state and speak of it. Everything else goes through these.

use super::Engine;
use super::action::{Action, Level, Note, NoteKind, Subject};
use super::event::Wanted;
use super::memory::{Cause, Memory};
use super::plan::{Kind, ServicePlan};
use super::service::{PlanRef, Replica, Run, Service, State, is_legal, replica_ids};
use super::timers::{Timer, TimerKey};
use super::types::{ReplicaId, RunId, ServiceId, StateName, Time};

/// The cause of a change of state.
#[derive(Clone, Debug)]
pub(super) enum Because {
    /// This note, which is emitted with it.
    Note(Level, NoteKind),
    /// What was told just before.
    Told,
}

impl Engine {
    pub(super) fn find(&self, id: ReplicaId) -> Option<&Replica> {
        self.services.get(&id.service)?.replicas.get(id.index)
    }

    /// INVARIANT: ids inside the engine are looked up in the step that uses them, and a replica is forgotten only by `settle`.
    #[expect(clippy::expect_used, reason = "an unknown id here is a bug of the engine")]
    pub(super) fn at(&self, id: ReplicaId) -> &Replica {
        self.find(id).expect("replica is known")
    }

    #[expect(clippy::expect_used, reason = "an unknown id here is a bug of the engine")]
    pub(super) fn at_mut(&mut self, id: ReplicaId) -> &mut Replica {
        self.services.get_mut(&id.service).and_then(|s| s.replicas.get_mut(id.index)).expect("replica is known")
    }

    #[expect(clippy::expect_used, reason = "an unknown id here is a bug of the engine")]
    pub(super) fn service_at(&self, id: ServiceId) -> &Service {
        self.services.get(&id).expect("service is known")
    }

    #[expect(clippy::expect_used, reason = "an unknown id here is a bug of the engine")]
    pub(super) fn service_mut(&mut self, id: ServiceId) -> &mut Service {
        self.services.get_mut(&id).expect("service is known")
    }

    pub(super) fn plan_of(&self, id: ServiceId) -> &ServicePlan {
        match &self.service_at(id).plan {
            PlanRef::At(index) => &self.plan.services[*index],
            PlanRef::Own(plan) => plan,
        }
    }

    /// A reason may outlive the service it speaks of.
    pub(super) fn name(&self, id: ServiceId) -> &str {
        if self.services.contains_key(&id) { &self.plan_of(id).name } else { "a service that is gone" }
    }

    pub(super) fn replicas_of(&self, service: ServiceId) -> Vec<ReplicaId> {
        replica_ids(&self.services, service)
    }

    /// The memory, to be changed: it will be handed out at the end of the step.
    pub(super) fn memory_mut(&mut self, id: ReplicaId) -> &mut Memory {
        self.unsaved.insert(id);
        &mut self.at_mut(id).memory
    }

    /// The run that this event speaks of, or `None` (and counted) when it is an old one.
    pub(super) fn current(&mut self, id: ReplicaId, run: RunId) -> Option<&mut Run> {
        let found = self.services.get_mut(&id.service).and_then(|service| service.replicas.get_mut(id.index));
        let current = found.filter(|replica| replica.memory.run == run).and_then(|replica| replica.run.as_mut());
        if current.is_none() {
            self.counters.stale_events += 1;
        }
        current
    }

    pub(super) fn stale(&mut self) {
        self.counters.stale_events += 1;
    }

    /// Whether this replica should have a process, were it not for its dependencies.
    pub(super) fn is_wanted(&self, id: ReplicaId) -> bool {
        self.is_meant_to_run(id) && !self.is_held(id)
    }

    /// The same but for a fence that holds it.
    pub(super) fn is_meant_to_run(&self, id: ReplicaId) -> bool {
        let replica = self.at(id);
        let leaving = self.shutdown.is_some() && !self.service_at(id.service).is_role;
        replica.memory.wanted == Wanted::Up && !replica.removed && !leaving && !self.copies_stop(id.service)
    }

    pub(super) fn is_task(&self, id: ReplicaId) -> bool {
        match self.plan_of(id.service).kind {
            Kind::Daemon => false,
            Kind::Oneshot | Kind::Every(_) => true,
        }
    }

    /// The one place where a replica's state changes (phases of a stop apart). Arms the deadlines that follow from the state alone.
    pub(super) fn set_state(&mut self, id: ReplicaId, state: State, because: Because) {
        let (from, to) = (self.at(id).memory.state, state.name());
        debug_assert!(
            self.at(id).state == State::Adopting || is_legal(from, to),
            "{}: {from} to {to} is no legal edge",
            self.label(id)
        );
        match because {
            Because::Note(level, kind) => self.tell(id, level, kind),
            Because::Told => {}
        }
        let now = self.now;
        let deadline = match &state {
            State::Backoff { until } => Some(*until),
            State::Failed => self.at(id).memory.hold.and_then(|hold| hold.next_try),
            State::Adopting
            | State::Stopped
            | State::Waiting { .. }
            | State::Starting
            | State::Ready
            | State::Degraded
            | State::Stopping { .. }
            | State::Done
            | State::Stuck { .. } => None,
        };
        self.at_mut(id).state = state;
        if to != StateName::Starting {
            self.give_slot_back(id);
        }
        if !matches!(to, StateName::Ready | StateName::Degraded) {
            self.disarm(id, Timer::Drain);
        }
        let memory = self.memory_mut(id);
        memory.state = to;
        memory.since_wall = now.wall;
        if !matches!(to, StateName::Ready | StateName::Degraded | StateName::Stopping) {
            memory.draining_since = None;
        }
        memory.ready_since = (to == StateName::Ready).then_some(now.mono);
        if matches!(to, StateName::Starting | StateName::Backoff | StateName::Failed) {
            memory.changes.push_back(now.mono);
            if memory.changes.len() > Memory::CHANGES_MAX {
                memory.changes.pop_front();
            }
        }
        match deadline {
            Some(at) => self.arm(id, Timer::State, at),
            None => self.disarm(id, Timer::State),
        }
        self.arm_period(id);
        self.arm_probation(id);
        if matches!(to, StateName::Starting | StateName::Ready | StateName::Degraded) {
            self.watch_group(id);
        }
        self.note_state(id, to);
        self.touched.insert(id.service);
        self.refresh(id);
    }

    /// An `Every` at rest has its next period armed.
    pub(super) fn arm_period(&mut self, id: ReplicaId) {
        let key = TimerKey::Replica(id, Timer::Period);
        let replica = self.at(id);
        let rests = matches!(replica.state, State::Done | State::Failed | State::Backoff { .. });
        match self.plan_of(id.service).kind {
            Kind::Every(period) if rests => self.boot_timers.set(key, replica.memory.started_boot.after(period)),
            Kind::Every(_) | Kind::Daemon | Kind::Oneshot => self.boot_timers.cancel(key),
        }
    }

    pub(super) fn arm(&mut self, id: ReplicaId, timer: Timer, at: Time) {
        self.timers.set(TimerKey::Replica(id, timer), at);
    }

    pub(super) fn disarm(&mut self, id: ReplicaId, timer: Timer) {
        self.timers.cancel(TimerKey::Replica(id, timer));
    }

    pub(super) fn armed(&self, id: ReplicaId, timer: Timer) -> Option<Time> {
        self.timers.get(TimerKey::Replica(id, timer))
    }

    pub(super) fn subject(&self, id: ReplicaId) -> Subject {
        let plan = self.plan_of(id.service);
        let several = plan.replicas > 1 || id.index > 0 || self.service_at(id.service).replicas.len() > 1;
        Subject { service: plan.name.clone(), replica: several.then_some(id.index) }
    }

    pub(super) fn label(&self, id: ReplicaId) -> String {
        self.subject(id).label()
    }

    /// A note about a replica.
    pub(super) fn note(&mut self, id: ReplicaId, level: Level, kind: NoteKind) {
        let subject = Some(self.subject(id));
        self.out.push(Action::Note(Note { level, subject, kind }));
    }

    /// A note that is also a link in the chain of causes.
    pub(super) fn tell(&mut self, id: ReplicaId, level: Level, kind: NoteKind) {
        let note = Note { level, subject: Some(self.subject(id)), kind };
        self.add_cause(id, note.sentence());
        self.out.push(Action::Note(note));
    }

    /// A link in the chain of causes.
    pub(super) fn add_cause(&mut self, id: ReplicaId, text: String) {
        let cause = Cause { at_wall: self.now.wall, text };
        let causes = &mut self.memory_mut(id).causes;
        if causes.is_empty() {
            // Most have one, of a start that went well.
            causes.reserve_exact(1);
        }
        causes.push_back(cause);
        if causes.len() > Memory::CAUSES_MAX {
            causes.pop_front();
        }
    }
}
