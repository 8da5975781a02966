//! What the agent orders of the role of a set, and what that reports. Each order has a number; what comes late for an older one is dropped.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::catalog::{Catalog, Cause, TargetState};
use crate::engine::action::Level;
use crate::engine::types::Time;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    pub id: u64,
    pub job: Job,
}

/// One at a time; each ends with one [`Report::Done`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    /// Make a copy, unless nothing has changed since the newest good one.
    Take {
        cause: Cause,
    },
    /// Read copies and compare them with their manifests; mend what is bad.
    Verify {
        which: Which,
    },
    /// Go on reading what was read longest ago, until everything has been read within the time of the plan.
    Scrub,
    /// To be removed: exactly these.
    Prune {
        copies: Vec<u64>,
    },
    Pin {
        seq: u64,
        pinned: bool,
    },
    /// What is suspect about this copy is right.
    Accept {
        seq: u64,
    },
    Restore(Box<Restore>),
    /// Exchange what was built by a restore beside with what is there, or back.
    Exchange(Box<Exchange>),
    /// Some files into scratch space beside the source, compared and removed.
    RestoreTest,
    /// Write the marker and the directories of the set; `claim` takes a target over that is marked already.
    Init {
        claim: bool,
    },
    /// Build a copy below `live/`, for a service to go on from.
    Materialise(Box<Live>),
    /// A copy of what lies in this directory below `live/`, as if it lay at the sources.
    Gather {
        directory: String,
    },
    /// Remove this directory below `live/`.
    Dismiss {
        directory: String,
    },
    /// Bring what runs from a copy back to its own disk: the agent's work, of which the role gets parts.
    Failback {
        dry_run: bool,
        force: bool,
    },
}

/// A copy that a service is to go on from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    pub seq: u64,
    /// Its name below `live/`: another one for each failure.
    pub directory: String,
    /// When (wall) the source was found failing, and how old the copy was then.
    pub since: Time,
    pub age: Duration,
    /// It is reached by its path and not through a mount: whoever runs the service must get that far.
    pub traversable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    Newest,
    One(u64),
    All,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// `None`: the newest good copy, rather a verified one.
    pub seq: Option<u64>,
    /// Absolute paths as they were at the source; empty: everything.
    pub paths: Vec<PathBuf>,
    pub place: Place,
    /// Only tell what would be done.
    pub dry_run: bool,
    /// Also over files that somebody has open.
    pub force: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Below this directory, each under its whole path. Nothing that is there is overwritten.
    Into(PathBuf),
    /// Where it was: built beside and exchanged; what was there is kept beside under the name that the report tells.
    Replace,
    /// Beside where it was, and no further: an [`Exchange`] follows.
    Beside,
}

/// Names that are exchanged, once or back. Done twice, it has done as much as once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    pub swaps: Vec<Swap>,
    pub to: SwapTo,
    /// Also over files that somebody has open.
    pub force: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SwapTo {
    /// What was built comes into its place, what was there is kept.
    New,
    /// What was there comes back; what was built is put aside where it has been in its place, and removed where not.
    Old,
}

/// Something that was built beside what it is to replace: all that is needed to tell later, without anything else, how far an exchange has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    pub path: PathBuf,
    pub kind: SwapKind,
    /// Where what was built lies before.
    pub built: PathBuf,
    /// Where what was there lies afterwards.
    pub kept: PathBuf,
    /// Where what was built lies when it has been in its place and was put back.
    pub aside: PathBuf,
    /// The inode of what was built.
    pub new: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SwapKind {
    /// Nothing is there.
    Free,
    Taken,
    /// What lies in it is exchanged.
    MountPoint,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// What lies on the target; after the beginning of a role and whenever it has changed.
    Catalog(Box<Catalog>),
    /// The target alone has changed.
    Target(TargetState),
    Progress {
        order: u64,
        progress: Progress,
    },
    /// The sources have changed (`on_change`): nothing more is said until the next copy.
    Changed,
    /// The job is where the service must hold still (`true`), or no longer needs it.
    Quiesce {
        order: u64,
        on: bool,
    },
    Done {
        order: u64,
        outcome: Outcome,
    },
    /// Something worth a line: a file that could not be read, rot that was found and mended.
    Finding(Finding),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub phase: Phase,
    pub files: u64,
    pub bytes: u64,
    /// As far as it can be told beforehand.
    pub files_in_all: Option<u64>,
    pub bytes_in_all: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    #[default]
    Scan,
    Copy,
    Sync,
    ReadBack,
    Commit,
    Verify,
    Restore,
    Prune,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Copy `seq` is committed.
    Taken {
        seq: u64,
        files: u64,
        written_bytes: u64,
        linked: u64,
    },
    /// Nothing has changed since copy `seq`.
    Unchanged {
        seq: u64,
    },
    Verified {
        copies: Vec<u64>,
        files: u64,
        bytes: u64,
        bad: u64,
        mended: u64,
    },
    Scrubbed,
    Pruned {
        copies: Vec<u64>,
    },
    /// `kept`: where what was there before lies now.
    Restored {
        seq: u64,
        files: u64,
        bytes: u64,
        kept: Vec<PathBuf>,
    },
    /// What was built beside, and what it is to be exchanged with.
    Built {
        seq: u64,
        files: u64,
        bytes: u64,
        swaps: Vec<Swap>,
    },
    /// `aside`: where what was built lies now, as far as it had been in its place.
    Swapped {
        aside: Vec<PathBuf>,
    },
    /// The data of a service come from these copies now; `kept`: where what was there before lies. `ready`: the service has shown that it goes on
    /// well with them; else `remark` says why nobody knows.
    ServiceRestored {
        copies: Vec<ServiceCopy>,
        kept: Vec<PathBuf>,
        ready: bool,
        remark: Option<String>,
    },
    /// Of a dry run: what would be done, one line each, at most [`LINES_MAX`]; `more` that do not fit.
    WouldRestore {
        seq: u64,
        lines: Vec<String>,
        more: u64,
    },
    Tested {
        seq: u64,
        files: u64,
    },
    Pinned,
    Accepted,
    Initialised {
        uuid: String,
    },
    /// It lies below `live/`, whole and synced.
    Materialised {
        seq: u64,
        files: u64,
        bytes: u64,
    },
    Dismissed,
    Failed(Failure),
}

/// What the data of a service were restored from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCopy {
    pub set: String,
    pub seq: u64,
    /// Somebody had read all of it again since it was made.
    pub verified: bool,
}

/// Lines of a dry run.
pub const LINES_MAX: usize = 1_000;

/// Why a job has not done what it should. Nothing of it is left on the target but trash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    /// What failed, with its object.
    pub what: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// A guard of the target: see [`TargetState`].
    Target,
    Full,
    /// The target gave an error while it was written or synced.
    TargetIo,
    /// No source is there.
    Source,
    /// Somebody else works on this set.
    Busy,
    /// There is no such copy, or none that is good.
    NoCopy,
    /// Files in use, or files that would be overwritten.
    InUse,
    /// Its hooks or its service would not hold still.
    Quiesce,
    Cancelled,
    /// Everything else.
    Other,
}

/// One finding about a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub kind: FindingKind,
    /// Of the file, as people read it: bytes that are no UTF-8 replaced.
    pub path: String,
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// The source cannot be read.
    Unreadable,
    /// Nor this: its disk answers with errors.
    BadDisk,
    /// It changed while it was read, each time.
    Unstable,
    /// A database in use, copied as it lay.
    LiveDatabase,
    /// The copy is not what was written.
    Rot,
    /// It was, and is right again.
    Mended,
    /// The source has other content under the same size and times: the last good one stays the newest of it.
    SourceRot,
    /// Metadata that the target does not take.
    NotKept,
    /// Something in the set's directory that is no copy.
    Stray,
}

impl FindingKind {
    pub(in crate::engine) fn level(self) -> Level {
        match self {
            Self::Rot | Self::SourceRot => Level::Error,
            Self::Unreadable | Self::BadDisk | Self::Unstable | Self::LiveDatabase | Self::Stray => Level::Warn,
            Self::Mended | Self::NotKept => Level::Info,
        }
    }

    /// What it says of the file.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Unreadable => "cannot be read",
            Self::BadDisk => "cannot be read, as its disk answers with errors",
            Self::Unstable => "changed each time it was read; the copy of it is marked unstable",
            Self::LiveDatabase => "is a database in use, copied as it lay",
            Self::Rot => "is not in the copy what was written",
            Self::Mended => "was not in the copy what was written, and is right again",
            Self::SourceRot => {
                "has other content at the source under the same size and times; the last good one stays the newest of it"
            }
            Self::NotKept => "has metadata that the target does not take",
            Self::Stray => "is no copy, and left where it is",
        }
    }
}

impl Job {
    /// Of a failover, and there to be done although the disk of the source may never answer.
    #[must_use]
    pub fn shuns_source(&self) -> bool {
        match self {
            Self::Materialise(_) | Self::Gather { .. } | Self::Dismiss { .. } => true,
            Self::Take { .. }
            | Self::Verify { .. }
            | Self::Scrub
            | Self::Prune { .. }
            | Self::Pin { .. }
            | Self::Accept { .. }
            | Self::Restore(_)
            | Self::Exchange(_)
            | Self::RestoreTest
            | Self::Init { .. }
            | Self::Failback { .. } => false,
        }
    }

    /// The word of the command that asks for it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Take { .. } => "run",
            Self::Verify { .. } => "verify",
            Self::Scrub => "scrub",
            Self::Prune { .. } => "prune",
            Self::Pin { pinned: true, .. } => "pin",
            Self::Pin { pinned: false, .. } => "unpin",
            Self::Accept { .. } => "accept",
            Self::Restore(_) => "restore",
            Self::Exchange(_) => "exchange",
            Self::RestoreTest => "restore test",
            Self::Init { .. } => "init",
            Self::Materialise(_) => "materialise",
            Self::Gather { .. } => "gather",
            Self::Dismiss { .. } => "dismiss",
            Self::Failback { .. } => "failback",
        }
    }
}

impl Outcome {
    /// Of one that is not what was asked for: why.
    pub(in crate::engine) fn failure_text(&self) -> String {
        if let Self::Failed(failure) = self { failure.text() } else { format!("its role answered {self:?}") }
    }
}

impl Failure {
    /// What failed, and what to do about it.
    #[must_use]
    pub fn text(&self) -> String {
        match &self.remedy {
            Some(remedy) => format!("{}; {remedy}", self.what),
            None => self.what.clone(),
        }
    }
}
