//! What others see of copies.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::plan::{CopyPlan, OnSourceFailing};
use super::rotate::{BUILT, Ground, Occasion, frozen, judge};
use super::schedule::next_run;
use super::view::{CopyView, FailoverView, Prospects};
use crate::engine::Engine;
use crate::engine::types::Now;

impl Engine {
    /// Every set, in the order of the plan; then those that have left it while their services run from a copy.
    #[must_use]
    pub fn copies(&self, now: Now) -> Vec<CopyView<'_>> {
        self.copy_names().filter_map(|set| self.copy_view(set, now)).collect()
    }

    fn copy_view(&self, set: &str, now: Now) -> Option<CopyView<'_>> {
        let left = self.copies.left.get(set).map(|(plan, memory)| (memory, plan));
        let known = self.copies.sets.get(set).zip(self.copy_plan(set));
        let (memory, plan) = known.or(left)?;
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
            left: self.copies.left.contains_key(set),
            prospects: (plan.on_source_failing == Some(OnSourceFailing::Restore)).then(|| self.prospects(plan)),
        })
    }

    /// Nothing is known of disks before the host was looked at, nor of a set that has moved: the live data are what its sources are by then.
    fn prospects(&self, plan: &CopyPlan) -> Prospects {
        let devices = &self.host.devices;
        let below = |paths: &[PathBuf]| -> BTreeSet<&str> {
            paths.iter().filter_map(|path| devices.mount_of(path)).flat_map(|mount| devices.below(mount)).collect()
        };
        let (sources, target) = (below(&plan.from), below(std::slice::from_ref(&plan.to)));
        let shared = sources.intersection(&target).map(|name| (*name).to_owned());
        let has_moved = self.copies.moving.contains_key(&plan.name);
        Prospects {
            services: self.services_copied_by(&plan.name),
            shared: if has_moved { Vec::new() } else { shared.collect() },
        }
    }
}
