//! What may never be ordered, in words of its own: nothing here is asked of the engine but its plan and what fails.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use mainstay::engine::Engine;
use mainstay::engine::copies::catalog::{Cause, Copy};
use mainstay::engine::copies::order::{Job, Swap, SwapTo};
use mainstay::engine::copies::plan::{CopyPlan, Quiesce};
use mainstay::engine::types::{ReplicaId, RunId};

use super::{Data, is_good};
use crate::world::{Tree, World};

/// What is not good stays for two weeks.
const SUSPECT_STAYS: Duration = Duration::from_secs(14 * 86_400);
const CLOCK_BEHIND_MAX: Duration = Duration::from_secs(120);

impl World {
    pub(super) fn check_order(&mut self, engine: &Engine, name: &str, job: &Job) {
        let plan = engine.plan().copies.iter().find(|plan| plan.name == name).expect("of the plan").clone();
        let by_itself = match job {
            Job::Take { cause } => *cause != Cause::ByHand,
            Job::RestoreTest | Job::Scrub | Job::Verify { .. } => false,
            Job::Prune { copies } => {
                let set = self.copies.sets.get_mut(name).expect("linked");
                let by_hand = set.by_hand > 0;
                set.by_hand = set.by_hand.saturating_sub(1);
                self.check_prune(&plan, copies, by_hand);
                !by_hand
            }
            Job::Exchange(exchange) => {
                self.check_nobody_runs(engine, &exchange.swaps, exchange.to);
                false
            }
            Job::Pin { .. } | Job::Accept { .. } | Job::Restore(_) | Job::Init { .. } => false,
            Job::Materialise(_) | Job::Gather { .. } | Job::Dismiss { .. } | Job::Failback { .. } => {
                panic!("{name}: {job:?}, and no set here says `Restore`")
            }
        };
        let impaired = engine.services(self.now).into_iter().find(|view| {
            let data = view.plan.needs.as_ref().map(|needs| needs.data.clone()).unwrap_or_default();
            let disk = view.impaired.as_ref().is_some_and(|why| !why.starts_with("NIC"));
            disk && data.iter().any(|data| plan.covers(data))
        });
        if let Some(impaired) = impaired.filter(|_| by_itself) {
            panic!("{name}: {job:?} by itself while {:?} fails", impaired.impaired);
        }
    }

    /// What may never be removed, whatever else is configured.
    fn check_prune(&mut self, plan: &CopyPlan, goes: &[u64], by_hand: bool) {
        self.copies.saw(if by_hand { "pruned by hand" } else { "pruned" });
        let set = &self.copies.sets[&plan.name];
        let copies = &set.told.copies;
        let gone = |copy: &&Copy| goes.contains(&copy.seq);
        let good: Vec<&Copy> = copies.iter().rev().filter(|copy| is_good(copy)).collect();
        let stays = usize::try_from(plan.keep.min_keep.max(1)).expect("small");
        let lost = good.iter().take(stays).copied().find(gone);
        assert!(lost.is_none(), "{}: one of the last {stays} good ones is removed: {lost:?}", plan.name);
        let cold = |copy: &&&Copy| copy.bad == 0 && copy.verified.is_some_and(|verified| verified.cold);
        let verified =
            good.iter().find(|copy| cold(copy)).copied().or_else(|| copies.iter().rev().find(|copy| cold(&copy)));
        assert!(verified.filter(gone).is_none(), "{}: the newest verified is removed: {verified:?}", plan.name);
        let pinned = copies.iter().filter(gone).find(|copy| copy.pinned);
        assert!(pinned.is_none(), "{}: pinned, and removed: {pinned:?}", plan.name);
        if by_hand {
            return;
        }
        assert!(goes.len() <= copies.len() / 2, "{}: {} of {} at once", plan.name, goes.len(), copies.len());
        assert!(set.may_prune, "{}: no run has succeeded", plan.name);
        let newest = copies.last().expect("something to remove");
        assert!(newest.suspect.is_none() || newest.accepted, "{}: the newest is suspect: {newest:?}", plan.name);
        let same = set.told.unchanged.filter(|unchanged| unchanged.seq == newest.seq).map(|unchanged| unchanged.at);
        assert!(self.now.wall.after(CLOCK_BEHIND_MAX) >= same.unwrap_or(newest.at), "{}: before the newest", plan.name);
        let young = |copy: &&Copy| {
            let doubtful = !is_good(copy) && copy.bad == 0 && !copy.clock_suspect;
            doubtful && self.now.wall.since(copy.at) < SUSPECT_STAYS
        };
        let young = copies.iter().filter(gone).find(young);
        assert!(young.is_none(), "{}: perhaps all there is of something, and removed: {young:?}", plan.name);
    }

    /// The service whose data these are does not run: of all that use them, the one that was asked for.
    fn check_nobody_runs(&mut self, engine: &Engine, swaps: &[Swap], to: SwapTo) {
        for swap in swaps {
            let data = self.copies.data.get(&swap.path).copied().unwrap_or(Data::Old);
            if to == SwapTo::Old && data == Data::Old {
                continue;
            }
            let uses = |path: &Path| path.starts_with(&swap.path) || swap.path.starts_with(path);
            let restored = self.copies.restored.iter().filter(|(_, paths)| paths.contains(&swap.path));
            let mut down = restored.filter(|(service, _)| {
                let of = |tree: &&Tree| tree.key.0 == **service && tree.is_populated();
                self.trees.values().find(of).is_none()
            });
            let users =
                engine.plan().services.iter().filter(|service| {
                    service.needs.as_ref().is_some_and(|needs| needs.data.iter().any(|data| uses(data)))
                });
            let names: BTreeSet<&str> = users.map(|service| service.name.as_str()).collect();
            assert!(down.next().is_some(), "{} is exchanged below what runs of {names:?}", swap.path.display());
            self.copies.data.insert(swap.path.clone(), Data::Half);
        }
        self.copies.saw(if to == SwapTo::New { "exchanged" } else { "put back" });
    }

    pub(super) fn check_still(&mut self, engine: &Engine, name: &str, frozen: &[(ReplicaId, RunId)]) {
        for (replica, run) in frozen {
            let key = self.key(engine, *replica);
            if let Some(number) = self.tree_of(&key, *run) {
                assert!(self.trees[&number].frozen, "{key:?} is said to stand still and does not");
                self.copies.saw("frozen for a copy");
            }
        }
        let plan = engine.plan().copies.iter().find(|plan| plan.name == name);
        if let Some(Quiesce::Stop { service }) = plan.map(|plan| &plan.quiesce) {
            let runs = self.trees.values().find(|tree| tree.key.0 == *service && tree.is_populated());
            assert!(runs.is_none(), "{service} is said to be down: {runs:?}");
            self.copies.saw("stopped for a copy");
        }
    }
}
