//! What follows from a run: a look at the new copy, and the removal of what nothing keeps. It is told before it is ordered.

use serde::{Deserialize, Serialize};

use super::Full;
use super::catalog::TargetState;
use super::note::CopyNews;
use super::order::{Failure, Job};
use super::plan::CopyPlan;
use super::rotate::{BUILT, Frozen, Ground, Occasion, judge, prune};
use crate::engine::Engine;
use crate::engine::action::Level;

/// What was told to be removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Planned {
    pub copies: Vec<u64>,
    pub ground: Ground,
}

impl Engine {
    fn occasion(&self, ground: Ground) -> Occasion {
        Occasion { now: self.now.wall, synchronised: self.now.wall_synchronised, built: BUILT, ground }
    }

    /// A run has ended, and the catalog shows it.
    pub(super) fn after_run(&mut self, set: &str, plan: &CopyPlan) {
        let Some(memory) = self.copies.sets.get_mut(set) else { return };
        let Some(seq) = memory.after_run else { return };
        let newest = memory.catalog.copies.last();
        let Some(copy) = newest.filter(|newest| newest.seq >= seq).cloned() else { return };
        memory.after_run = None;
        let is_new = memory.last_run.is_some_and(|began| copy.at >= began);
        if let Some(suspicion) = copy.suspect.filter(|_| is_new && !copy.accepted) {
            self.copy_note(set, Level::Warn, CopyNews::Suspect { seq: copy.seq, suspicion });
        }
        self.plan_prune(set, plan, Ground::Run);
    }

    fn plan_prune(&mut self, set: &str, plan: &CopyPlan, ground: Ground) -> bool {
        let Some(memory) = self.copies.sets.get(set) else { return false };
        let would = judge(&memory.catalog, plan, self.now.wall).iter().any(|kept| kept.reasons.is_empty());
        let found = prune(&memory.catalog, plan, self.occasion(ground));
        let told = memory.prune_frozen.clone();
        let frozen: Option<Frozen> = found.as_ref().err().cloned().filter(|_| would);
        if let Some(memory) = self.copies.sets.get_mut(set) {
            memory.prune_frozen.clone_from(&frozen);
        }
        if let Some(why) = frozen.filter(|frozen| told.as_ref().is_none_or(|told| !told.is_like(frozen))) {
            self.copy_note(set, Level::Warn, CopyNews::PruneFrozen { why: why.text(set) });
        }
        let copies = found.unwrap_or_default();
        if copies.is_empty() {
            return false;
        }
        self.copy_note(set, Level::Info, CopyNews::PrunePlanned { copies: copies.clone() });
        if let Some(memory) = self.copies.sets.get_mut(set) {
            memory.planned = Some(Planned { copies, ground });
        }
        true
    }

    /// The target is full. Whether something goes for it, so that the run can be tried again: what nothing keeps, and where the plan says so, the oldest.
    pub(super) fn make_room(&mut self, set: &str) -> bool {
        let Some(plan) = self.copy_plan(set).cloned() else { return false };
        let missing_bytes = self.copies.sets.get(set).and_then(|memory| memory.missing).unwrap_or(1);
        let goes = self.plan_prune(set, &plan, Ground::Full { missing_bytes });
        if goes {
            self.try_at_once(set);
        }
        goes
    }

    /// Nothing may go for it: that is told until there is room.
    pub(super) fn is_full(&mut self, set: &str) {
        let Some(memory) = self.copies.sets.get_mut(set) else { return };
        let full = Full { missing_bytes: memory.missing.unwrap_or(1), free_bytes: memory.catalog.free_bytes };
        memory.full = Some(full);
        let before = memory.catalog.target.clone();
        if before == TargetState::Ready {
            memory.catalog.target = TargetState::Full { missing_bytes: full.missing_bytes };
        }
        self.target_changed(set, &before);
    }

    /// Whether a removal was begun: of what was planned, as far as it still is to go.
    pub(super) fn begin_prune(&mut self, set: &str, plan: &CopyPlan) -> bool {
        let Some(memory) = self.copies.sets.get_mut(set) else { return false };
        let Some(planned) = memory.planned.take() else { return false };
        let ground = planned.ground;
        let occasion = Occasion { now: self.now.wall, synchronised: self.now.wall_synchronised, built: BUILT, ground };
        let still = prune(&memory.catalog, plan, occasion).unwrap_or_default();
        let copies: Vec<u64> = planned.copies.into_iter().filter(|seq| still.contains(seq)).collect();
        if copies.is_empty() {
            return false;
        }
        self.begin_order(set, Job::Prune { copies }, None);
        true
    }

    pub(super) fn pruned(&mut self, set: &str) {
        if let Some(memory) = self.copies.sets.get_mut(set) {
            memory.planned = None;
        }
    }

    /// The next run that succeeds plans it anew; a run that waits for room waits as after any failure.
    pub(super) fn prune_failed(&mut self, set: &str, _: &Failure) {
        let boot = self.now.boot;
        if let Some(memory) = self.copies.sets.get_mut(set).filter(|memory| memory.failures > 0) {
            memory.retry = Some(boot.after(super::schedule::retry_after(memory.failures)));
        }
    }
}

impl Frozen {
    /// The same but for the figures.
    fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}
