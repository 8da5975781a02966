//! How much the agent may do by itself, and the word on what it does not.

use std::time::Duration;

use super::note::FenceNote;
use super::plan::FenceLevel;
use super::record::Standing;
use super::records::Cause;
use crate::engine::Engine;
use crate::engine::action::{Level, NoteKind};
use crate::engine::service::State;
use crate::engine::types::{ReplicaId, human};

/// Fences that the agent may set by itself on a whole host within [`AUTOMATIC_WITHIN`].
pub(in crate::engine) const AUTOMATIC_MAX: u32 = 3;
pub(in crate::engine) const AUTOMATIC_WITHIN: Duration = Duration::from_secs(600);
/// The same observation of the same replica is not made again so soon.
const OBSERVED_AGAIN: Duration = Duration::from_secs(600);

impl Engine {
    /// Why a fence would be too much, if it would.
    pub(in crate::engine) fn beyond_radius(&self, id: ReplicaId) -> Option<String> {
        if let Some(why) = self.fenced_beside(id) {
            return Some(why);
        }
        let replicas = self.replicas_of(id.service);
        let well =
            |id: &ReplicaId| matches!(self.at(*id).state, State::Ready | State::Done) && self.fence(*id).is_none();
        let least = usize::from(self.plan_of(id.service).min_healthy);
        let left = replicas.iter().filter(|other| **other != id && well(other)).count();
        // One that is slow for the very reason that is looked at here may be all there is.
        let serves = matches!(self.at(id).state, State::Starting | State::Ready | State::Degraded | State::Done);
        if serves && left < least {
            return Some(format!("{left} replicas would be left that are well, and min_healthy is {least}"));
        }
        self.budget_is_used()
    }

    fn fenced_beside(&self, id: ReplicaId) -> Option<String> {
        let replicas = self.replicas_of(id.service);
        let other = replicas.into_iter().find(|other| *other != id && self.fence(*other).is_some())?;
        Some(format!("{} is fenced already, and a service has one fence at a time", self.label(other)))
    }

    fn budget_is_used(&self) -> Option<String> {
        let used = self.automatic_used(self.now.mono);
        let within = human(AUTOMATIC_WITHIN);
        (used >= AUTOMATIC_MAX).then(|| format!("{used} fences have been set within {within} on this host already"))
    }

    /// The same for one whose run has ended: what serves is not taken from anybody.
    pub(in crate::engine) fn beyond_radius_of_the_failed(&self, id: ReplicaId) -> Option<String> {
        self.fenced_beside(id).or_else(|| self.budget_is_used())
    }

    /// A fence of the agent's own counts against the budget of the host.
    pub(in crate::engine) fn count_automatic(&mut self) {
        let now = self.now.mono;
        let automatic = &mut self.fence.memory.automatic;
        automatic.retain(|at| now.since(*at) < AUTOMATIC_WITHIN);
        automatic.push(now);
        self.fence.unsaved = true;
    }

    /// Nothing is done, and what would have been is on record.
    pub(in crate::engine) fn observe(&mut self, id: ReplicaId, cause: &Cause, would: FenceLevel, because: &str) {
        let now = self.now;
        let observed = &mut self.fence.observed;
        observed.retain(|(_, _, at)| now.mono.since(*at) < OBSERVED_AGAIN);
        if observed.iter().any(|(known, trigger, _)| *known == id && *trigger == cause.trigger) {
            return;
        }
        observed.push((id, cause.trigger, now.mono));
        let record = self.open_record(id, cause, Standing::Observed);
        if let Some(record) = self.record_mut(record) {
            record.observed_because = Some(because.to_owned());
            record.ended = Some((now.wall, "only observed".to_owned()));
        }
        let why = cause.why.clone();
        let note = FenceNote::Observed { id: record, would, why: why.clone(), because: because.to_owned() };
        self.tell(id, Level::Warn, NoteKind::Fence(note));
        self.close_record(record, "only observed");
        self.alert_of_observation(id, format!("would be fenced ({}): {why}; not done: {because}", would.word()));
    }

    /// A replica that is forgotten was never observed.
    pub(in crate::engine) fn forget_observed(&mut self, id: ReplicaId) {
        self.fence.observed.retain(|(known, _, _)| *known != id);
    }
}
