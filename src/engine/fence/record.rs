//! Evidence: what was done to whom, why, when, and what proves it.

use serde::{Deserialize, Serialize};

use super::plan::FenceLevel;
use crate::engine::event::Remaining;
use crate::engine::types::{RunId, Time};

/// What led to a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    Operator,
    Restarts,
    Cpu,
    Pids,
    Pressure,
    HostMemory,
    /// It failed while on probation.
    Probation,
}

impl Trigger {
    pub const ALL: [Self; 7] =
        [Self::Operator, Self::Restarts, Self::Cpu, Self::Pids, Self::Pressure, Self::HostMemory, Self::Probation];

    /// The word of the API and the metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Restarts => "restarts",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
            Self::Pressure => "pressure",
            Self::HostMemory => "host_memory",
            Self::Probation => "probation",
        }
    }
}

/// One step that was taken. Times are of the wall clock; what they lie apart was measured on the monotonic one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepTaken {
    pub level: FenceLevel,
    pub decided: Time,
    /// When the kernel was told, and how long after the decision in microseconds.
    pub written: Option<Time>,
    pub written_after_us: Option<u64>,
    /// When it was proven, likewise.
    pub proven: Option<Time>,
    pub proven_after_us: Option<u64>,
    /// `cgroup.kill` ..
    pub method: String,
    /// What proves it (`nr_throttled 12 -> 31`, `frozen 1`, `populated 0`, `no start`), or why it is not proven.
    pub proof: String,
    pub processes_before: u32,
    pub processes_after: Option<u32>,
}

/// How a fence stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Decided, not proven yet.
    Proving,
    /// Its latest step is proven.
    Proven,
    /// What should be gone or still is not: see `remaining`.
    Incomplete,
    /// It has ended; the service is on probation.
    Probation,
    /// It has ended.
    Released,
    /// Nothing was done: a dry run, or more than may be done.
    Observed,
}

impl Standing {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Proving => "proving",
            Self::Proven => "proven",
            Self::Incomplete => "incomplete",
            Self::Probation => "probation",
            Self::Released => "released",
            Self::Observed => "observed",
        }
    }
}

/// One fence from its cause to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Never given twice on one host.
    pub id: u64,
    pub service: String,
    pub replica: u16,
    /// The run that was fenced.
    pub run: RunId,
    pub trigger: Trigger,
    /// What was read, with numbers; of an operator: who asked, and the reason that was given.
    pub evidence: Vec<String>,
    /// When the cause was first seen (wall).
    pub fault_seen: Time,
    pub standing: Standing,
    /// Why nothing was done, of `Standing::Observed`.
    pub observed_because: Option<String>,
    pub steps: Vec<StepTaken>,
    /// Balancers that it left, and when (wall).
    pub left: Vec<String>,
    pub left_at: Option<Time>,
    /// Of an incomplete one.
    pub remaining: Vec<Remaining>,
    /// When and why it ended (wall).
    pub ended: Option<(Time, String)>,
}

impl Record {
    /// The level that was last taken.
    #[must_use]
    pub fn level(&self) -> Option<FenceLevel> {
        self.steps.last().map(|step| step.level)
    }
}
