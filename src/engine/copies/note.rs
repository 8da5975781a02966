//! What is told of copies: the sentences of the journal and of `why`.

use serde::{Deserialize, Serialize};

use super::catalog::{Cause, Suspicion, TargetState};
use super::order::{Failure, Finding};

/// Something about one set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CopyNote {
    pub set: String,
    pub what: CopyNews,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyNews {
    Begun {
        cause: Cause,
    },
    Taken {
        seq: u64,
        files: u64,
        written_bytes: u64,
        linked: u64,
    },
    Unchanged {
        seq: u64,
    },
    Suspect {
        seq: u64,
        suspicion: Suspicion,
    },
    Failed {
        failure: Failure,
        next: String,
    },
    Target {
        state: TargetState,
    },
    PrunePlanned {
        copies: Vec<u64>,
    },
    Pruned {
        copies: Vec<u64>,
    },
    PruneFrozen {
        why: String,
    },
    Verified {
        copies: Vec<u64>,
        files: u64,
        bad: u64,
        mended: u64,
    },
    Restored {
        seq: u64,
        files: u64,
        kept: Vec<String>,
    },
    RestoreTested {
        seq: u64,
        files: u64,
    },
    Finding(Finding),
    /// The service held still for so many milliseconds; `late`: it had to go on before the copy was ready.
    Quiesced {
        service: String,
        ms: u64,
        late: bool,
    },
    TooOld {
        age_s: u64,
        max_age_s: u64,
    },
    FreshAgain,
    /// Something about it that was asked for by hand.
    Remark {
        text: String,
    },
}

impl CopyNews {
    /// The journal's `type`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Begun { .. } => "copy_begun",
            Self::Taken { .. } => "copy_taken",
            Self::Unchanged { .. } => "copy_unchanged",
            Self::Suspect { .. } => "copy_suspect",
            Self::Failed { .. } => "copy_failed",
            Self::Target { .. } => "copy_target",
            Self::PrunePlanned { .. } => "prune_planned",
            Self::Pruned { .. } => "pruned",
            Self::PruneFrozen { .. } => "prune_frozen",
            Self::Verified { .. } => "copy_verified",
            Self::Restored { .. } => "copy_restored",
            Self::RestoreTested { .. } => "restore_tested",
            Self::Finding(_) => "copy_finding",
            Self::Quiesced { .. } => "copy_quiesced",
            Self::TooOld { .. } => "copy_too_old",
            Self::FreshAgain => "copy_fresh_again",
            Self::Remark { .. } => "copy_remark",
        }
    }
}

impl CopyNote {
    /// The sentence, which begins with the set.
    #[must_use]
    pub fn text(&self) -> String {
        format!("copies {}: {}", self.set, self.what.word())
    }
}
