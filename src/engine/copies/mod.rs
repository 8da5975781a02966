//! Copies: when they are made, what stays of them, what is done when they cannot be made or are bad, and when a service goes on from one.
//!
//! The role of a set reports what lies on its target ([`catalog`]) and carries out one order at a time ([`order`]); which and when is decided here.

pub mod catalog;
pub mod event;
pub mod note;
pub mod order;
pub mod plan;
pub mod rotate;
#[cfg(test)]
pub(in crate::engine) mod testing;
pub mod view;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::types::Now;
use catalog::{Catalog, TargetState};
use event::CopyEvent;
use plan::CopyPlan;
use view::{CopyView, SetState};

use super::Engine;

/// All that the engine keeps of copies. What must last lies on the targets.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in crate::engine) struct CopiesState {
    sets: BTreeMap<String, SetMemory>,
}

/// One set.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct SetMemory {
    catalog: Catalog,
}

impl Engine {
    /// The sets of the plan, in its order.
    #[must_use]
    pub fn copies(&self, now: Now) -> Vec<CopyView<'_>> {
        self.plan.copies.iter().filter_map(|plan| self.copy_view(plan, now)).collect()
    }

    fn copy_view<'a>(&'a self, plan: &'a CopyPlan, now: Now) -> Option<CopyView<'a>> {
        let catalog = &self.copies.sets.get(&plan.name)?.catalog;
        let good = catalog.copies.iter().rev().find(|copy| copy.is_good());
        let state = match catalog.target {
            TargetState::Unknown => SetState::Unknown,
            TargetState::Ready => SetState::Ok,
            TargetState::Absent { .. }
            | TargetState::Unmarked { .. }
            | TargetState::Refused { .. }
            | TargetState::Full { .. }
            | TargetState::Failing { .. }
            | TargetState::NoSource { .. } => SetState::Failing,
        };
        let kept = rotate::judge(catalog, plan, now.wall);
        let (why, target) = (None, &catalog.target);
        let (good_as_of, next, running, failure) = (good.map(|copy| copy.at), None, None, None);
        Some(CopyView {
            plan,
            state,
            why,
            target,
            catalog,
            kept,
            prune_frozen: None,
            good_as_of,
            next,
            running,
            failure,
            failures: 0,
        })
    }

    pub(in crate::engine) fn copy_event(&mut self, event: CopyEvent) {
        match event {
            CopyEvent::Report { set, report: order::Report::Catalog(catalog) } => {
                self.copies.sets.entry(set).or_default().catalog = *catalog;
            }
            CopyEvent::Linked { .. }
            | CopyEvent::Unlinked { .. }
            | CopyEvent::Report { .. }
            | CopyEvent::Command { .. }
            | CopyEvent::Hooked { .. } => {}
        }
    }
}
