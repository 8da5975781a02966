//! What others may see of the checks.

use std::time::Duration;

use super::Health;
use super::kind::{CheckKind, Unit};
use super::plan::Band;
use crate::engine::types::Time;

/// One check, as `mainstay checks`, the API and the metrics show it.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckView {
    /// From the configuration; else the kind's word and the target: `disk_space /`.
    pub name: String,
    pub kind: CheckKind,
    /// Empty for a check of the whole host.
    pub target: String,
    pub state: Health,
    /// The latest value in `unit`.
    pub value: Option<i64>,
    pub unit: Unit,
    pub degraded: Option<Band>,
    pub failing: Option<Band>,
    /// When the state began, wall clock and monotonic.
    pub since_wall: Time,
    pub since: Time,
    /// The latest sample, monotonic.
    pub sampled: Option<Time>,
    /// When the next sample is expected (mono).
    pub next: Option<Time>,
    pub every: Duration,
    /// Pinned to the worst of its changing states.
    pub flapping: bool,
    /// Why it is not ok, or cannot tell.
    pub why: Option<String>,
    /// Services that it concerns.
    pub services: Vec<String>,
}

/// What an alert's command is given as JSON on its standard input.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct AlertBody {
    /// `failing`, `degraded`, `recovered`, `reminder`, `summary`
    pub event: String,
    /// `check disk_space /` or `service api/2`
    pub subject: String,
    pub state: String,
    /// One sentence.
    pub text: String,
    /// The chain of causes, oldest first.
    pub why: Vec<String>,
    /// Services concerned.
    pub services: Vec<String>,
    /// RFC 3339 is the shell's to add.
    pub at_wall: Time,
    /// How often this has been told before.
    pub reminder: u32,
    /// In a summary: how many were not told one by one.
    pub suppressed: u32,
}
