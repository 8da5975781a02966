//! Fences: a failing component is throttled, frozen, killed, held, each step with its proof, and comes back on probation.
//!
//! Limits are one pure function of the plan, the fence and the probation ([`Engine::limits`]): the shell brings what it says into force at
//! the spawn and at every `Action::Limit`. Proofs come from readings ([`gauge`]) that the engine asks for and from the end of the
//! tree; nothing is called proven before. Each fence leaves a [`record`].

pub mod gauge;
pub mod note;
pub mod plan;
pub mod record;
pub mod view;

mod by_hand;
mod show;

use serde::{Deserialize, Serialize};

use record::Record;

/// What must survive the agent's death: written to `{run_dir}/fences.json` at every `Action::PersistFences`, and holding for one boot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FenceMemory {
    /// The next record's number. It is above every number ever given, also after a reboot: see `Engine::new`.
    pub next_id: u64,
    /// The newest last.
    pub records: Vec<Record>,
}

/// All that the engine keeps of fences beside the memory of each replica.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in crate::engine) struct FenceState {
    pub(in crate::engine) memory: FenceMemory,
}
