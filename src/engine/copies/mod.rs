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

use catalog::Catalog;
use event::CopyEvent;

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
