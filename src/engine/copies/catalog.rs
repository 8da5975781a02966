//! What lies on the target of a set, as its role found it. The disk has the truth: this is read from it anew whenever it has changed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::types::Time;

/// Everything of one set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Catalog {
    pub target: TargetState,
    /// Of the marker, where there is one.
    pub uuid: Option<String>,
    /// In the order of their numbers.
    pub copies: Vec<Copy>,
    /// The latest run that found nothing to copy.
    pub unchanged: Option<Unchanged>,
    pub free_bytes: u64,
    pub size_bytes: u64,
    /// Whether files can share pages on the target (FICLONE).
    pub reflinks: bool,
    /// When the scrub last had read everything (wall), and how far it is, in thousandths.
    pub scrubbed: Option<Time>,
    pub scrub_permille: u32,
    /// When the last restore test passed (wall).
    pub restore_tested: Option<Time>,
    /// Files found bad and not mended: they lie in quarantine.
    pub quarantined: u64,
    /// Where a service runs from a copy at present.
    pub failed_over: Option<FailedOver>,
}

impl Catalog {
    #[must_use]
    pub fn newest_good(&self) -> Option<&Copy> {
        self.copies.iter().rfind(|copy| copy.is_good())
    }

    /// When (wall) the newest good copy was made, or was found to be still the same as its source.
    #[must_use]
    pub fn good_as_of(&self) -> Option<Time> {
        let good = self.newest_good()?;
        let same = self.unchanged.filter(|unchanged| unchanged.seq == good.seq).map(|unchanged| unchanged.at);
        Some(same.map_or(good.at, |at| at.max(good.at)))
    }
}

/// Whether copies can be made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetState {
    /// Nobody has looked yet.
    #[default]
    Unknown,
    Ready,
    /// Nothing is mounted there, or the device is gone.
    Absent {
        why: String,
    },
    /// It is mounted and has no marker: `copies init`.
    Unmarked {
        why: String,
    },
    /// A guard says no: another marker, the disk of the source, a file system that will not do.
    Refused {
        why: String,
    },
    /// No room: as many bytes are missing.
    Full {
        missing_bytes: u64,
    },
    /// It answers with errors, or has become read-only.
    Failing {
        why: String,
    },
    /// The source is not there.
    NoSource {
        why: String,
    },
}

impl TargetState {
    /// In words: what keeps copies from being made.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Unknown => "nobody has looked at the target yet".to_owned(),
            Self::Ready => "the target is ready".to_owned(),
            Self::Absent { why } => format!("the target is not there: {why}"),
            Self::Unmarked { why } => format!("the target has no marker: {why}"),
            Self::Refused { why } => format!("the target is refused: {why}"),
            Self::Full { missing_bytes } => format!("the target is full: {missing_bytes} bytes are missing"),
            Self::Failing { why } => format!("the target is failing: {why}"),
            Self::NoSource { why } => format!("the source is not there: {why}"),
        }
    }
}

/// One committed copy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Copy {
    /// From 1, never reused within a set.
    pub seq: u64,
    /// Its directory below `copies/`: `000123-20261122T063000Z`.
    pub directory: String,
    /// When it was begun (wall).
    pub at: Time,
    pub took: Duration,
    pub files: u64,
    /// Of the files' content, holes included.
    pub bytes: u64,
    /// Bytes that were written for it.
    pub written_bytes: u64,
    /// Why it was made.
    pub cause: Cause,
    /// Some source could not be read: as many entries are of an older copy, or missing.
    pub stale: u64,
    /// Files that changed while they were read, and databases that were copied as they lay.
    pub unstable: u64,
    pub suspect: Option<Suspicion>,
    /// The clock could not be believed.
    pub clock_suspect: bool,
    /// An operator says that it stays.
    pub pinned: bool,
    /// An operator has looked at what is suspect and says that it is right.
    pub accepted: bool,
    pub verified: Option<Verified>,
    /// Files known to be bad and not mended.
    pub bad: u64,
    /// Somebody reads from it at present.
    pub in_use: bool,
    /// Stands for all files of at least `space.large.over` with their content: another number where one of them is another. 0: there is none.
    #[serde(default)]
    pub large: u64,
    /// That size, as it was when the copy was made.
    #[serde(default)]
    pub large_over: u64,
}

impl Copy {
    /// Complete, believable, and nothing of it is known to be bad.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.stale == 0 && self.bad == 0 && (self.accepted || (self.suspect.is_none() && !self.clock_suspect))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Suspicion {
    /// A source that had entries has none.
    Empty { source: String },
    /// From the last good copy, in thousandths left.
    Shrunk { files_permille: u32, bytes_permille: u32 },
    /// The source is on another file system than before.
    OtherDevice { source: String },
}

impl Suspicion {
    /// In words.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Empty { source } => format!("{source} is empty and was not"),
            Self::Shrunk { files_permille, bytes_permille } => {
                let (files, bytes) = (files_permille / 10, bytes_permille / 10);
                format!("{files} % of the files and {bytes} % of the bytes of the last good copy are left")
            }
            Self::OtherDevice { source } => format!("{source} is on another file system than before"),
        }
    }
}

/// All of its content had the hashes of the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    pub at: Time,
    /// Ten minutes after it was written at the earliest, or after another mount: from the disk and not from any cache.
    pub cold: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unchanged {
    pub at: Time,
    /// The copy that it is like.
    pub seq: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    Every,
    At,
    Changed,
    ByHand,
    BeforeDeploy,
}

impl Cause {
    /// In words.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Every => "its interval",
            Self::At => "its time of day",
            Self::Changed => "its sources have changed",
            Self::ByHand => "by hand",
            Self::BeforeDeploy => "before a deploy",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedOver {
    pub seq: u64,
    pub since: Time,
    /// Of the data at that time.
    pub age: Duration,
}
