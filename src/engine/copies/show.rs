//! What others see of copies.

use super::rotate::{BUILT, Ground, Occasion, frozen, judge};
use super::schedule::next_run;
use super::view::{CopyView, FailoverView};
use crate::engine::Engine;
use crate::engine::types::Now;

impl Engine {
    /// Every set, in the order of the plan.
    #[must_use]
    pub fn copies(&self, now: Now) -> Vec<CopyView<'_>> {
        self.plan.copies.iter().filter_map(|plan| self.copy_view(&plan.name, now)).collect()
    }

    fn copy_view(&self, set: &str, now: Now) -> Option<CopyView<'_>> {
        let (memory, plan) = (self.copies.sets.get(set)?, self.copy_plan(set)?);
        let (state, why) = self.copies_state(set);
        let ground = if memory.succeeded { Ground::Run } else { Ground::NoRun };
        let occasion = Occasion { now: now.wall, synchronised: now.wall_synchronised, built: BUILT, ground };
        let next = next_run(memory, plan, now.wall).map(|(at, _)| at.max(now.wall));
        let retry = memory.retry.filter(|at| *at > now.boot).map(|at| now.wall.after(at.since(now.boot)));
        Some(CopyView {
            plan,
            state,
            why,
            target: &memory.catalog.target,
            catalog: &memory.catalog,
            kept: judge(&memory.catalog, plan, now.wall),
            prune_frozen: frozen(&memory.catalog, plan, occasion).map(|frozen| frozen.text(set)),
            good_as_of: memory.good_as_of(),
            next: next.map(|at| retry.map_or(at, |retry| at.max(retry))),
            running: memory.running.as_ref().map(|running| (&running.order.job, running.began, running.progress)),
            failure: memory.failure.as_ref(),
            failures: memory.failures,
            failover: self.copies.moving.get(set).map(|moving| FailoverView {
                kept: &moving.kept,
                in_force: moving.switched,
                trouble: moving.trouble.as_deref(),
            }),
        })
    }
}
