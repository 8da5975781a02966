//! What is told of fences: the sentences of the journal and of `why`.

use serde::{Deserialize, Serialize};

use super::plan::FenceLevel;
use super::record::Record;

/// Something about a fence or a limit of one replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FenceNote {
    /// A step is taken: `id` is that of its record.
    Fenced { id: u64, level: FenceLevel, why: String },
    /// The step is proven.
    Proven { id: u64, level: FenceLevel, proof: String },
    /// It is not, and why; looked at again.
    Incomplete { id: u64, level: FenceLevel, why: String },
    /// Something would have been done.
    Observed { id: u64, would: FenceLevel, why: String, because: String },
    /// The fence has ended, with what follows.
    Released { id: u64, why: String, then: String },
    /// Probation has been passed.
    Passed { id: u64 },
    /// The whole record of a fence that has ended: what the journal keeps for good.
    Closed { record: Box<Record> },
    /// Limits that are not in force, each with its reason.
    LimitsRefused { refused: Vec<String> },
}

impl FenceNote {
    /// The journal's `type`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Fenced { .. } => "fenced",
            Self::Proven { .. } => "fence_proven",
            Self::Incomplete { .. } => "fence_incomplete",
            Self::Observed { .. } => "fence_observed",
            Self::Released { .. } => "fence_released",
            Self::Passed { .. } => "fence_probation_passed",
            Self::Closed { .. } => "fence_closed",
            Self::LimitsRefused { .. } => "limits_refused",
        }
    }

    /// The sentence without `service NAME:`.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Fenced { id, level, why } => format!("fence {id}: {}: {why}", level.word()),
            Self::Proven { id, level, proof } => format!("fence {id}: {} proven: {proof}", level.word()),
            Self::Incomplete { id, level, why } => format!("fence {id}: {} incomplete: {why}", level.word()),
            Self::Observed { id, would, why, because } => {
                format!("fence {id}: would {} it: {why}; not done: {because}", would.word())
            }
            Self::Released { id, why, then } => format!("fence {id}: released: {why}; {then}"),
            Self::Passed { id } => format!("fence {id}: probation passed"),
            Self::Closed { record } => format!("fence {}: closed after {} steps", record.id, record.steps.len()),
            Self::LimitsRefused { refused } => format!("limits not in force: {}", refused.join("; ")),
        }
    }
}
