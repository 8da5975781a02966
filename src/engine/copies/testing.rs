//! For the tests of copies.

use std::time::Duration;

use super::catalog::{Catalog, Cause, Copy, TargetState};
use super::plan::{CopyPlan, Space};
use crate::engine::types::Time;

/// A set by hand only.
pub(in crate::engine) fn plan(name: &str) -> CopyPlan {
    CopyPlan {
        space: Space { reserve_bytes: 0, ..Space::default() },
        ..CopyPlan::with_defaults(name, "/srv/data".into(), "/mnt/second/copies".into())
    }
}

/// A good one.
pub(in crate::engine) fn copy(seq: u64, at: Time) -> Copy {
    Copy {
        seq,
        directory: format!("{seq:06}"),
        at,
        took: Duration::from_secs(1),
        files: 10,
        bytes: 1_000,
        written_bytes: 100,
        cause: Cause::Every,
        stale: 0,
        unstable: 0,
        suspect: None,
        clock_suspect: false,
        pinned: false,
        accepted: false,
        verified: None,
        bad: 0,
        in_use: false,
        large: 0,
        large_over: 0,
    }
}

/// A target that is ready and has these.
pub(in crate::engine) fn catalog(copies: Vec<Copy>) -> Catalog {
    Catalog { target: TargetState::Ready, copies, free_bytes: 1 << 40, size_bytes: 1 << 41, ..Catalog::default() }
}

impl crate::engine::Engine {
    /// The number of the order of a set that is carried out.
    pub(in crate::engine) fn copies_order(&self, set: &str) -> Option<u64> {
        self.copies.sets.get(set)?.running.as_ref().map(|running| running.order.id)
    }
}
