//! What the roles of the sets do for a restore: one job a part and step, each of which may be done twice.

use std::collections::BTreeSet;

use super::{Done, Restoring, Step};
use crate::engine::Engine;
use crate::engine::copies::event::CopyAction;
use crate::engine::copies::order::{Exchange, Job, Outcome, Place, Restore, SwapTo};
use crate::engine::copies::plan::CopyPlan;

/// An order that was lost with its role so often is not given again in the same step.
const LOST_MAX: u32 = 3;

impl Engine {
    /// Whether a job for a restore was begun on this set.
    pub(in crate::engine::copies) fn begin_for_restore(&mut self, set: &str) -> bool {
        let Some((service, job)) = self.job_for_restore(set) else { return false };
        self.begin_order(set, job, None);
        let order = self.copies_order_of(set);
        if let (Some(order), Some(running)) = (order, self.copies.restoring.get_mut(&service)) {
            running.orders.insert(set.to_owned(), order);
        }
        true
    }

    pub(in crate::engine::copies) fn is_awaited_by_restore(&self, set: &str) -> bool {
        self.job_for_restore(set).is_some()
    }

    fn copies_order_of(&self, set: &str) -> Option<u64> {
        self.copies.sets.get(set)?.running.as_ref().map(|running| running.order.id)
    }

    fn job_for_restore(&self, set: &str) -> Option<(String, Job)> {
        self.copies.restoring.iter().find_map(|(service, running)| Some((service.clone(), running.job_of(set)?)))
    }

    /// Whether no copy may be made of this set: what lies at its sources is about to be replaced, or has not proven itself yet.
    pub(in crate::engine::copies) fn waits_for_restore(&self, plan: &CopyPlan) -> bool {
        let paths = |running: &Restoring| {
            !running.dry_run && running.record.parts.iter().any(|part| part.paths.iter().any(|path| plan.covers(path)))
        };
        self.copies.restoring.values().any(paths)
    }

    /// Ends each copy that is being made of what is about to be replaced: half of it would be of before the exchange, half of after, and nobody would know.
    /// Which set has not ended its own yet.
    pub(super) fn end_copies_over(&mut self, service: &str) -> Option<String> {
        let parts = self.copies.restoring.get(service).map(|running| running.record.parts.clone()).unwrap_or_default();
        let covers = |plan: &&CopyPlan| parts.iter().any(|part| part.paths.iter().any(|path| plan.covers(path)));
        let sets: Vec<String> = self.plan.copies.iter().filter(covers).map(|plan| plan.name.clone()).collect();
        let mut left = None;
        for set in sets {
            let running = self.copies.sets.get_mut(&set).and_then(|memory| memory.running.as_mut());
            let Some(running) = running.filter(|running| matches!(running.order.job, Job::Take { .. })) else {
                continue;
            };
            let order = running.order.id;
            if !std::mem::replace(&mut running.cancelled, true) {
                self.copy_action(&set, CopyAction::Cancel { order });
            }
            left.get_or_insert(set);
        }
        left
    }

    /// The copies of a set that are about to be read for a restore.
    pub(in crate::engine::copies) fn copies_restored_from(&self, set: &str) -> BTreeSet<u64> {
        let building = self.copies.restoring.values().filter(|running| running.record.step == Step::Build);
        building.flat_map(|running| &running.record.parts).filter(|part| part.set == set).map(|part| part.seq).collect()
    }

    pub(in crate::engine::copies) fn restore_job_done(&mut self, set: &str, order: u64, outcome: &Outcome) {
        let Some(running) = self.copies.restoring.values_mut().find(|running| running.orders.get(set) == Some(&order))
        else {
            return;
        };
        running.orders.remove(set);
        let done = match outcome {
            Outcome::Built { swaps, .. } => {
                if let Some(part) = running.record.parts.iter_mut().find(|part| part.set == set) {
                    part.swaps.clone_from(swaps);
                }
                Done::Well { lines: Vec::new() }
            }
            Outcome::WouldRestore { lines, .. } => Done::Well { lines: lines.clone() },
            Outcome::Swapped { aside } => {
                running.record.aside.extend(aside.iter().cloned());
                Done::Well { lines: Vec::new() }
            }
            Outcome::Failed(failure) => Done::Failed(format!("copies {set}: {}", failure.text())),
            Outcome::Taken { .. }
            | Outcome::Unchanged { .. }
            | Outcome::Verified { .. }
            | Outcome::Scrubbed
            | Outcome::Pruned { .. }
            | Outcome::Restored { .. }
            | Outcome::ServiceRestored { .. }
            | Outcome::Tested { .. }
            | Outcome::Materialised { .. }
            | Outcome::Dismissed
            | Outcome::Pinned
            | Outcome::Accepted
            | Outcome::Initialised { .. } => Done::Failed(format!("copies {set}: its role did something else")),
        };
        running.done.insert(set.to_owned(), done);
        self.copies.due = true;
    }

    /// Its role has ended without a word about it.
    pub(in crate::engine::copies) fn restore_job_lost(&mut self, set: &str, order: u64) {
        let Some(running) = self.copies.restoring.values_mut().find(|running| running.orders.get(set) == Some(&order))
        else {
            return;
        };
        running.orders.remove(set);
        running.lost += 1;
        if running.lost >= LOST_MAX {
            let why = format!("copies {set}: its role ended {LOST_MAX} times while it worked on this");
            running.done.insert(set.to_owned(), Done::Failed(why));
        }
        self.copies.due = true;
    }
}

impl Restoring {
    /// What is to be done now with this set, if nobody does it yet.
    fn job_of(&self, set: &str) -> Option<Job> {
        let part = self.record.parts.iter().find(|part| part.set == set)?;
        if self.done.contains_key(set) || self.orders.contains_key(set) || self.saving.is_some() {
            return None;
        }
        let force = self.record.force;
        let exchange = |to| Job::Exchange(Box::new(Exchange { swaps: part.swaps.clone(), to, force }));
        match self.record.step {
            Step::Build => {
                let place = if self.dry_run { Place::Replace } else { Place::Beside };
                let (seq, paths, dry_run) = (Some(part.seq), part.paths.clone(), self.dry_run);
                Some(Job::Restore(Box::new(Restore { seq, paths, place, dry_run, force })))
            }
            Step::Swap => Some(exchange(SwapTo::New)),
            Step::PutBack | Step::Drop => Some(exchange(SwapTo::Old)),
            Step::Hold | Step::Prove | Step::HoldAgain | Step::ComeBack => None,
        }
    }
}
