//! The end: every service is stopped, dependents before what they depend on, within one limit for all.
//!
//! Nothing is decided by it: a service that was wanted is wanted again at the next start. The roles are left to the shell, which needs them
//! until the last line is written.

use serde::{Deserialize, Serialize};

use super::Engine;
use super::access::Because;
use super::action::{Action, Cleanness, Level, NoteKind};
use super::event::Caller;
use super::service::{Phase, State, StopWhy, Then};
use super::stop::VERIFY;
use super::timers::TimerKey;
use super::types::ReplicaId;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Shutdown {
    InOrder,
    /// The limit has passed, or a second shutdown was asked for.
    Killing,
    /// `Action::Exit` was given.
    Left,
}

impl Engine {
    pub(super) fn begin_shutdown(&mut self, caller: Caller) {
        match self.shutdown {
            None => {
                let services = self.populated;
                self.agent_note(Level::Info, NoteKind::ShuttingDown { caller, services });
                self.shutdown = Some(Shutdown::InOrder);
                let timeout = self.plan.agent.shutdown_timeout;
                self.timers.set(TimerKey::Shutdown, self.now.mono.after(timeout));
                for service in self.services.keys().copied().collect::<Vec<_>>() {
                    self.end_rolling(service);
                }
                self.end_requests_at_shutdown();
                self.end_copies_at_shutdown();
                for id in self.everything() {
                    self.dirty.insert(id);
                }
            }
            Some(Shutdown::InOrder) => {
                self.agent_note(Level::Warn, NoteKind::ShuttingDown { caller, services: self.populated });
                self.kill_everything();
            }
            Some(Shutdown::Killing | Shutdown::Left) => {}
        }
    }

    fn everything(&self) -> Vec<ReplicaId> {
        let services = self.services.iter().filter(|(_, service)| !service.is_role);
        services
            .flat_map(|(id, service)| service.replicas.indices().map(|index| ReplicaId { service: *id, index }))
            .collect()
    }

    fn kill_everything(&mut self) {
        self.shutdown = Some(Shutdown::Killing);
        self.timers.set(TimerKey::Shutdown, self.now.mono.after(VERIFY));
        for id in self.everything() {
            match self.at(id).state {
                State::Starting | State::Ready | State::Degraded => {
                    self.thaw(id);
                    self.quiet(id);
                    self.memory_mut(id).requested = true;
                    let state = State::Stopping { phase: Phase::Killed, why: StopWhy::Shutdown, then: Then::Settle };
                    self.set_state(id, state, Because::Told);
                    self.kill_tree(id, "the agent shuts down at once".to_owned());
                }
                State::Stopping {
                    phase: Phase::Dependents | Phase::Drain | Phase::Abort | Phase::Term | Phase::Linger,
                    ..
                } => {
                    self.kill_tree(id, "the time for the shutdown is over".to_owned());
                }
                State::Adopting
                | State::Stopped
                | State::Waiting { .. }
                | State::Stopping { .. }
                | State::Backoff { .. }
                | State::Failed
                | State::Done
                | State::Stuck { .. } => {}
            }
        }
    }

    pub(super) fn shutdown_deadline(&mut self) {
        match self.shutdown {
            Some(Shutdown::InOrder) => self.kill_everything(),
            Some(Shutdown::Killing) => self.leave(Cleanness::SomethingRemains),
            None | Some(Shutdown::Left) => {}
        }
    }

    /// At the end of every step: is everything down?
    pub(super) fn check_shutdown(&mut self) {
        match self.shutdown {
            Some(Shutdown::InOrder | Shutdown::Killing) if self.populated == 0 => self.leave(Cleanness::Clean),
            None | Some(Shutdown::InOrder | Shutdown::Killing | Shutdown::Left) => {}
        }
    }

    fn leave(&mut self, clean: Cleanness) {
        self.shutdown = Some(Shutdown::Left);
        self.timers.cancel(TimerKey::Shutdown);
        let level = if clean == Cleanness::Clean { Level::Info } else { Level::Error };
        self.agent_note(level, NoteKind::ShutDown { remaining: self.populated });
        // What was decided in this step is written before the end of it.
        self.persist();
        self.out.push(Action::Exit { clean });
    }
}
