//! The engine decides. Pure: no clock, no I/O, no threads, no randomness but its own seeded generator.
//!
//! The shell calls [`Engine::step`] with what happened and performs the actions that come back, in order.

#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::wildcard_enum_match_arm,
    clippy::float_arithmetic
)]

pub mod action;
pub mod event;
pub mod memory;
pub mod plan;
pub mod types;
pub mod view;

use action::Action;
use event::Event;
use plan::Plan;
use types::{Now, ReplicaId, RunId, ServiceId, Time};
use view::{Counters, ServiceView};

#[derive(Debug)]
pub struct Engine {}

#[expect(clippy::todo, unused_variables, reason = "replaced before this is used")]
impl Engine {
    /// `seed` is for jitter. The first event is `Event::Begin`.
    #[must_use]
    pub fn new(plan: Plan, seed: u64, now: Now) -> Self {
        todo!()
    }
    /// Handles one event; the caller performs the actions in order and reports what became of them as later events.
    pub fn step(&mut self, now: Now, event: Event) -> Vec<Action> {
        todo!()
    }
    /// When to call `step(now, Event::Tick)` at the latest, on the monotonic clock.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        todo!()
    }
    /// The same for deadlines on the boot clock (periods).
    #[must_use]
    pub fn next_boot_deadline(&self) -> Option<Time> {
        todo!()
    }
    #[must_use]
    pub fn plan(&self) -> &Plan {
        todo!()
    }
    /// Every service (roles included), in the order of the plan, those on their way out last.
    pub fn services(&self, now: Now) -> Vec<ServiceView<'_>> {
        todo!()
    }
    #[must_use]
    pub fn service(&self, name: &str, now: Now) -> Option<ServiceView<'_>> {
        todo!()
    }
    #[must_use]
    pub fn service_id(&self, name: &str) -> Option<ServiceId> {
        todo!()
    }
    #[must_use]
    pub fn service_name(&self, id: ServiceId) -> Option<&str> {
        todo!()
    }
    /// The plan this replica is (or is about to be) started from.
    #[must_use]
    pub fn service_plan(&self, id: ServiceId) -> Option<&plan::ServicePlan> {
        todo!()
    }
    /// The run whose process or tree exists (or is being made) now.
    #[must_use]
    pub fn current_run(&self, replica: ReplicaId) -> Option<RunId> {
        todo!()
    }
    #[must_use]
    pub fn counters(&self) -> Counters {
        todo!()
    }
    /// The changes that applying `plan` would bring; nothing is changed.
    #[must_use]
    pub fn preview(&self, plan: &Plan) -> Vec<action::Change> {
        todo!()
    }
}
