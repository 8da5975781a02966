//! Fences: a failing component is throttled, frozen, killed, held, each step with its proof, and comes back on probation.
//!
//! Limits are one pure function of the plan, the fence and the probation ([`Engine::limits`]): the shell brings what it says into force at
//! the spawn and at every `Action::Limit`. Proofs come from readings ([`gauge`]) that the engine asks for and from the end of the
//! tree; nothing is called proven before. Each fence leaves a [`record`].
//!
//! ```text
//!            ┌── cause gone for `step`: released ──┐
//! Throttle ─▶ Freeze ─▶ Kill ─▶ Hold ─── its time ─┴─▶ probation ─▶ passed
//!        `step` each      └─▶ no Hold in the ladder: the restart policy, on probation
//! ```
//!
//! * A throttled replica keeps its state and is restarted as ever, within its tighter limits. A frozen one keeps its state and all its deadlines
//!   wait. A kill ends in a hold, by hand always, else where the ladder has one. What is held is not wanted: nothing starts it but
//!   the end of the fence. Without a process `Throttle` by hand waits for the next run, and `Freeze` and `Kill` are a hold at once.
//! * Fenced replicas leave their balancers first: they drain, and what has connections to one that is killed is cut off.
//! * By hand, a fence ends with `unfence` only, and ends without probation. It is an operator's decision and outlives a reboot.
//! * Of the agent's own fences the count in a row outlives a reboot, the fence itself does not: a hold goes by the boot clock.
//! * A failed proof is told (`Standing::Incomplete`) and looked for again. A kill is proven by an empty tree alone.
//!
//! What causes a fence is in `trigger`, what forbids it in `radius`.

pub mod gauge;
pub mod note;
pub mod plan;
pub mod record;
pub mod state;
pub mod view;

mod budget;
pub(in crate::engine) mod by_hand;
mod ladder;
mod limits;
mod liveness;
mod proof;
mod radius;
pub(in crate::engine) mod records;
mod release;
mod resume;
pub(in crate::engine) mod show;
mod trigger;
mod watch;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::host::pairs;
use super::types::{ReplicaId, Time};
pub(in crate::engine) use radius::AUTOMATIC_MAX;
use radius::AUTOMATIC_WITHIN;
use record::{Record, Trigger};
use watch::Watched;

/// What must survive the agent's death: written to `{run_dir}/fences.json` at every `Action::PersistFences`, and holding for one boot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FenceMemory {
    /// The next record's number. It is above every number ever given, also after a reboot: see `Engine::new`.
    pub next_id: u64,
    /// The newest last.
    pub records: Vec<Record>,
    /// When (mono) the agent set fences of its own, as far as that still counts.
    #[serde(default)]
    pub automatic: Vec<Time>,
    /// When (mono) the latest one that was killed for the host's memory was gone.
    #[serde(default)]
    pub memory_freed: Option<Time>,
}

/// All that the engine keeps of fences beside the memory of each replica.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in crate::engine) struct FenceState {
    pub(in crate::engine) memory: FenceMemory,
    /// Decisions of the agent itself that are not known to be on disk.
    pub(in crate::engine) decisions: BTreeSet<u64>,
    /// The number of the latest question to groups.
    #[serde(default)]
    pub(in crate::engine) asked: u64,
    /// The latest readings of groups.
    #[serde(with = "pairs")]
    pub(in crate::engine) watched: BTreeMap<ReplicaId, Watched>,
    /// What could not be thawed and is to be.
    #[serde(default)]
    pub(in crate::engine) thaw_again: BTreeSet<ReplicaId>,
    /// The host is short of memory, or may become so.
    pub(in crate::engine) tight: bool,
    /// What was observed lately, and when (mono).
    pub(in crate::engine) observed: Vec<(ReplicaId, Trigger, Time)>,
    /// The memory is to be written.
    #[serde(skip)]
    pub(in crate::engine) unsaved: bool,
}
