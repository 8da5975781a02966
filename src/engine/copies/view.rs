//! What others may see of copies.

use super::catalog::{Catalog, TargetState};
use super::failover::Failover;
use super::order::{Failure, Job, Progress};
use super::plan::CopyPlan;
use super::rotate::Kept;
use crate::engine::types::Time;

/// One set as it stands.
#[derive(Clone, Debug)]
pub struct CopyView<'a> {
    pub plan: &'a CopyPlan,
    pub state: SetState,
    /// In a few words, when it is not well.
    pub why: Option<String>,
    pub target: &'a TargetState,
    pub catalog: &'a Catalog,
    /// For each copy of the catalog, in its order: why it stays; what nothing keeps goes with the next prune.
    pub kept: Vec<Kept>,
    /// Why nothing is removed at present, whatever the rules say.
    pub prune_frozen: Option<String>,
    /// When (wall) the newest good copy was made, or was found to be still the same as its source.
    pub good_as_of: Option<Time>,
    /// When (wall) the next run is due.
    pub next: Option<Time>,
    /// What is done at present, since when (wall), and how far it is.
    pub running: Option<(&'a Job, Time, Progress)>,
    /// Of the latest run that failed, if none has succeeded since.
    pub failure: Option<&'a Failure>,
    pub failures: u32,
    /// Its services run from a copy, or are on the way there or back.
    pub failover: Option<FailoverView<'a>>,
    /// The configuration has it no more, while its services run from a copy.
    pub left: bool,
    /// `on_source_failing: Restore`.
    pub prospects: Option<Prospects>,
}

/// Whether going on from a copy could help, should the disk of a source fail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prospects {
    /// Those that would go on.
    pub services: Vec<String>,
    /// What would fail with it, of the disks of the copies.
    pub shared: Vec<String>,
}

/// A set whose services run from a copy.
#[derive(Clone, Copy, Debug)]
pub struct FailoverView<'a> {
    pub kept: &'a Failover,
    /// The live data are seen where they belong.
    pub in_force: bool,
    /// What went wrong last.
    pub trouble: Option<&'a str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetState {
    /// Nothing has been heard of the target yet.
    Unknown,
    Ok,
    /// The newest good copy is too old, or something of the copies is bad.
    Degraded,
    /// No copy can be made.
    Failing,
}

impl SetState {
    /// The word of the API.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Failing => "failing",
        }
    }
}
