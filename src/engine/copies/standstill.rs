//! Services that are held down for their copies, with the proof that nothing of them runs: for a copy that wants them stopped, and while their data is restored.
//!
//! That they are held is said in one place (`access::is_meant_to_run`), which asks here. They go down as by hand: dependents first, drained by their balancers.

use crate::engine::Engine;
use crate::engine::note::remaining_text;
use crate::engine::service::State;
use crate::engine::types::ServiceId;

/// How far a service is that is to stand still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Standstill {
    /// The tree of each replica is known to be empty.
    Proven,
    NotYet,
    /// Killed, and not gone: which one, and what is left of it.
    Stuck(String),
}

impl Engine {
    /// Whether copies want this service down.
    pub(in crate::engine) fn copies_stop(&self, service: ServiceId) -> bool {
        self.copies_quiet_stops(service) || self.is_held_for_restore(service)
    }

    /// What is known of a service that is to stand still. One that is gone runs nothing.
    pub(in crate::engine) fn standstill(&self, service: ServiceId) -> Standstill {
        if !self.services.contains_key(&service) {
            return Standstill::Proven;
        }
        let ids = self.replicas_of(service);
        for id in &ids {
            if let State::Stuck { processes, .. } = &self.at(*id).state {
                return Standstill::Stuck(format!("{} does not stop: {}", self.label(*id), remaining_text(processes)));
            }
        }
        if ids.iter().all(|id| self.at(*id).run.is_none()) { Standstill::Proven } else { Standstill::NotYet }
    }

    /// Brings the replicas to where they should be.
    pub(super) fn follow_hold(&mut self, service: ServiceId) {
        if !self.services.contains_key(&service) {
            return;
        }
        for id in self.replicas_of(service) {
            self.freeze_or_thaw(id);
            self.refresh(id);
            self.dirty.insert(id);
        }
        self.touched.insert(service);
    }

    /// A replica has changed: whoever waits for it to be down, up or frozen, or wants it to stay so, looks again.
    pub(in crate::engine) fn quiet_changed(&mut self, service: ServiceId) {
        if self.copies_quiet_stops(service) || self.copies_freeze(service) || self.is_restoring(service) {
            self.copies.due = true;
        }
    }
}
