//! A service holds still while its data is copied: frozen or stopped, for a limited time, and let go whatever happens to the job, to its role or to the agent.
//!
//! That it is to be frozen is said in one place (`host::impair`), which asks here; what is frozen for another reason as well stays so afterwards.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::CopyAction;
use super::note::CopyNews;
use super::plan::Quiesce;
use super::standstill::Standstill;
use crate::engine::Engine;
use crate::engine::action::Level;
use crate::engine::types::{ReplicaId, RunId, ServiceId, Time};

/// A service that is stopped for a copy is started again after this long, whatever the copy does.
const STOPPED_MAX: Duration = Duration::from_secs(3_600);

/// A service that holds still for a set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Quiet {
    pub order: u64,
    pub service: ServiceId,
    pub how: How,
    /// Since when, and until when at most (mono).
    pub since: Time,
    pub until: Option<Time>,
    /// The role was told that it holds still.
    pub told: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum How {
    Frozen,
    Stopped,
}

impl Engine {
    /// Whether a copy wants this service frozen.
    pub(in crate::engine) fn copies_freeze(&self, service: ServiceId) -> bool {
        self.holds_still(service, How::Frozen)
    }

    /// Whether a copy wants this service stopped.
    pub(super) fn copies_quiet_stops(&self, service: ServiceId) -> bool {
        self.holds_still(service, How::Stopped)
    }

    fn holds_still(&self, service: ServiceId, how: How) -> bool {
        let mut quiet = self.copies.sets.values().filter_map(|memory| memory.quiet.as_ref());
        quiet.any(|quiet| quiet.service == service && quiet.how == how)
    }

    /// The role asks for it, or needs it no longer.
    pub(super) fn quiesce(&mut self, set: &str, order: u64, on: bool) {
        let running = self.copies.sets.get(set).and_then(|memory| memory.running.as_ref());
        if running.is_none_or(|running| running.order.id != order) {
            return self.stale();
        }
        if !on {
            return self.end_quiet(set);
        }
        let wish = match self.copy_plan(set).map(|plan| &plan.quiesce) {
            Some(Quiesce::Freeze { service, max }) => Some((service, How::Frozen, *max)),
            Some(Quiesce::Stop { service }) => Some((service, How::Stopped, STOPPED_MAX)),
            // Its command was run before the job began.
            Some(Quiesce::None | Quiesce::Exec { .. }) | None => None,
        };
        let Some((name, how, max)) = wish else {
            return self.copy_action(set, CopyAction::Quiesced { order, frozen: Vec::new(), max: STOPPED_MAX });
        };
        let Some(service) = self.service_id(name) else {
            let why = format!("there is no service {name}");
            return self.copy_action(set, CopyAction::NotQuiesced { order, why });
        };
        if how == How::Frozen && self.holds_still(service, How::Frozen) {
            // It would go on when the other set lets go of it, and nobody would know that this copy is torn.
            let why = format!("{name} is frozen for another set");
            return self.copy_action(set, CopyAction::NotQuiesced { order, why });
        }
        let until = Some(self.now.mono.after(max));
        let quiet = Quiet { order, service, how, since: self.now.mono, until, told: false };
        let before: Vec<ReplicaId> = self.frozen_replicas(service);
        if let Some(memory) = self.copies.sets.get_mut(set) {
            memory.quiet = Some(quiet);
        }
        self.follow_hold(service);
        if how == How::Frozen {
            // What was frozen for another reason is not the role's to thaw.
            let frozen: Vec<(ReplicaId, RunId)> = self
                .frozen_replicas(service)
                .into_iter()
                .filter(|id| !before.contains(id))
                .map(|id| (id, self.at(id).memory.run))
                .collect();
            self.tell_quiet(set, frozen, max);
        }
    }

    fn frozen_replicas(&self, service: ServiceId) -> Vec<ReplicaId> {
        self.replicas_of(service).into_iter().filter(|id| self.at(*id).memory.frozen).collect()
    }

    fn tell_quiet(&mut self, set: &str, frozen: Vec<(ReplicaId, RunId)>, max: Duration) {
        let quiet = self.copies.sets.get_mut(set).and_then(|memory| memory.quiet.as_mut());
        let Some(quiet) = quiet else { return };
        quiet.told = true;
        let order = quiet.order;
        self.copy_action(set, CopyAction::Quiesced { order, frozen, max });
    }

    /// What is stopped may be down by now; what holds still for too long goes on; a hook may be late.
    pub(super) fn review_quiet_set(&mut self, set: &str) {
        self.hook_late(set);
        let Some(quiet) = self.copies.sets.get(set).and_then(|memory| memory.quiet.clone()) else { return };
        if quiet.until.is_some_and(|until| until <= self.now.mono) {
            self.let_go(set, Late::Yes);
            return self.copy_action(set, CopyAction::Resumed { order: quiet.order });
        }
        if quiet.how == How::Stopped && !quiet.told {
            self.look_whether_down(set, &quiet);
        }
    }

    fn look_whether_down(&mut self, set: &str, quiet: &Quiet) {
        match self.standstill(quiet.service) {
            Standstill::NotYet => {}
            Standstill::Proven => self.tell_quiet(set, Vec::new(), STOPPED_MAX),
            Standstill::Stuck(why) => {
                self.let_go(set, Late::No);
                self.copy_action(set, CopyAction::NotQuiesced { order: quiet.order, why });
            }
        }
    }

    /// Nobody needs it to hold still any more.
    pub(super) fn end_quiet(&mut self, set: &str) {
        if self.copies.sets.get(set).is_some_and(|memory| memory.quiet.is_some()) {
            self.let_go(set, Late::No);
        }
    }

    fn let_go(&mut self, set: &str, late: Late) {
        let Some(quiet) = self.copies.sets.get_mut(set).and_then(|memory| memory.quiet.take()) else { return };
        self.follow_hold(quiet.service);
        let service = self.name(quiet.service).to_owned();
        let ms = u64::try_from(self.now.mono.since(quiet.since).as_millis()).unwrap_or(u64::MAX);
        let (level, late) = if late == Late::Yes { (Level::Warn, true) } else { (Level::Debug, false) };
        self.copy_note(set, level, CopyNews::Quiesced { service, ms, late });
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Late {
    Yes,
    No,
}
