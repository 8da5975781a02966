//! What is wrong with copies: too old, bad, not to be made; and what keeps them from being tried.

use std::path::Path;

use super::SetMemory;
use super::catalog::TargetState;
use super::note::CopyNews;
use super::order::Finding;
use super::plan::CopyPlan;
use super::view::SetState;
use crate::engine::Engine;
use crate::engine::action::Level;
use crate::engine::types::{ServiceId, Time, human};

/// A failure that a retry may mend is told of from this many in a row on.
const FAILURES_BAD: u32 = 2;

impl Engine {
    /// Why nothing is copied for now: a disk under the source or under the target fails.
    pub(super) fn paused(&self, plan: &CopyPlan) -> Option<String> {
        if let Some(text) = self.failover_text(&plan.name) {
            return Some(format!("no copies are made: {text}"));
        }
        let source = self.failing_below(&plan.from).map(|why| ("source", why));
        let target = || self.failing_below(std::slice::from_ref(&plan.to)).map(|why| ("target", why));
        let (which, why) = source.or_else(target)?;
        Some(format!("paused: the disk of the {which} is failing: {why}"))
    }

    pub(in crate::engine) fn are_copies_paused(&self, set: &str) -> bool {
        self.failover_stage(set).is_none() && self.copy_plan(set).is_some_and(|plan| self.paused(plan).is_some())
    }

    /// The services with data in these copies.
    pub(in crate::engine) fn services_copied_by(&self, set: &str) -> Vec<String> {
        let services: Vec<ServiceId> = match self.copy_plan(set) {
            Some(plan) => self.services.keys().filter(|id| self.copies_data_of(plan, **id)).copied().collect(),
            None => self.services_moved_by(set),
        };
        services.into_iter().map(|service| self.name(service).to_owned()).collect()
    }

    pub(super) fn too_old_at(&self, memory: &SetMemory, plan: &CopyPlan) -> Option<Time> {
        let good = memory.good_as_of().unwrap_or(memory.since).min(self.now.wall);
        plan.max_age.map(|max| good.after(max))
    }

    pub(super) fn is_too_old(&self, memory: &SetMemory, plan: &CopyPlan) -> bool {
        memory.heard && self.too_old_at(memory, plan).is_some_and(|at| at <= self.now.wall)
    }

    pub(super) fn review_age(&mut self, set: &str, plan: &CopyPlan) {
        let Some(memory) = self.copies.sets.get(set) else { return };
        let too_old = self.is_too_old(memory, plan);
        if too_old == memory.too_old_told || !memory.heard {
            return;
        }
        let good = memory.good_as_of().unwrap_or(memory.since);
        let age_s = self.now.wall.since(good).as_secs();
        if let Some(memory) = self.copies.sets.get_mut(set) {
            memory.too_old_told = too_old;
        }
        if too_old {
            let max_age_s = plan.max_age.unwrap_or_default().as_secs();
            self.copy_note(set, Level::Error, CopyNews::TooOld { age_s, max_age_s });
        } else {
            self.copy_note(set, Level::Info, CopyNews::FreshAgain);
        }
    }

    /// A disk that cannot be read from here may look well to every check. One error a run counts: how many files there are on bad blocks says nothing of
    /// the disk.
    pub(super) fn source_gave_error(&mut self, set: &str, finding: &Finding) {
        let Some(memory) = self.copies.sets.get_mut(set) else { return };
        let order = memory.running.as_ref().map(|running| running.order.id);
        if order.is_none() || memory.bad_disk_in == order {
            return;
        }
        memory.bad_disk_in = order;
        let text = format!("copies {set}: {} cannot be read: {}", finding.path, finding.detail);
        self.read_failed(Path::new(&finding.path), &text);
    }

    /// How a set is, and why it is not well.
    pub(in crate::engine) fn copies_state(&self, set: &str) -> (SetState, Option<String>) {
        if let (Some(stage), Some(text)) = (self.failover_stage(set), self.failover_text(set)) {
            let state = self.failover_state(set, stage);
            return (state, Some(text));
        }
        let (Some(memory), Some(plan)) = (self.copies.sets.get(set), self.copy_plan(set)) else {
            return (SetState::Unknown, None);
        };
        if !memory.heard {
            let why = format!("its role has not told yet what lies on the target; see `mainstay status @copy.{set}`");
            return (SetState::Unknown, Some(why));
        }
        let failure = memory.failure.as_ref().map(|failure| failure.text());
        if let Some(why) = self.paused(plan) {
            return (SetState::Failing, Some(why));
        }
        match &memory.catalog.target {
            TargetState::Unmarked { .. }
            | TargetState::Refused { .. }
            | TargetState::Full { .. }
            | TargetState::Failing { .. } => {
                return (SetState::Failing, Some(memory.catalog.target.text()));
            }
            TargetState::Unknown | TargetState::Ready | TargetState::Absent { .. } | TargetState::NoSource { .. } => {}
        }
        if memory.failures >= FAILURES_BAD {
            return (SetState::Failing, failure);
        }
        if self.is_too_old(memory, plan) {
            let age = memory.good_as_of().map(|good| human(self.now.wall.since(good)));
            let age =
                age.map_or("there is no good copy".to_owned(), |age| format!("the newest good copy is {age} old"));
            return (SetState::Degraded, Some(failure.map_or(age.clone(), |failure| format!("{age}; {failure}"))));
        }
        let bad: u64 = memory.catalog.copies.iter().map(|copy| copy.bad).sum::<u64>().max(memory.catalog.quarantined);
        if bad > 0 {
            return (SetState::Degraded, Some(format!("{bad} files of copies are bad and could not be mended")));
        }
        if let Some(partial) = memory.catalog.copies.last().filter(|copy| copy.stale > 0) {
            let (seq, count) = (partial.seq, partial.stale);
            let why = format!("{count} entries of copy {seq} are older or missing, as the source could not be read");
            return (SetState::Degraded, Some(why));
        }
        (SetState::Ok, failure)
    }

    /// Whether the copies of its data say that it is held while its disk fails.
    pub(in crate::engine) fn held_for_copies(&self, service: ServiceId) -> bool {
        let says = |plan: &&CopyPlan| plan.on_source_failing.is_some();
        self.plan.copies.iter().filter(says).any(|plan| self.copies_data_of(plan, service))
    }

    /// What there is of the data of a service, for the sentence about its failing disk.
    pub(in crate::engine) fn copies_in_words(&self, service: ServiceId) -> Option<String> {
        let plan = self.plan.copies.iter().find(|plan| self.copies_data_of(plan, service))?;
        let good = self.copies.sets.get(&plan.name).and_then(SetMemory::good_as_of);
        Some(match good {
            Some(good) => {
                format!(
                    "the newest good copy of its data is {} old (copies {})",
                    human(self.now.wall.since(good)),
                    plan.name
                )
            }
            None => format!("there is no good copy of its data known (copies {})", plan.name),
        })
    }
}

impl SetMemory {
    /// When (wall) the newest good copy was made, or was found to be still the same as its source.
    pub(super) fn good_as_of(&self) -> Option<Time> {
        self.catalog.good_as_of()
    }
}
