//! What is told of copies: the sentences of the journal and of `why`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::catalog::{Cause, Suspicion, TargetState};
use super::order::{Failure, Finding};
use crate::engine::types::human;

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
    /// What is done about the data of a service.
    ServiceRestore {
        service: String,
        text: String,
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
    /// Something about its services going on from a copy, or coming back.
    Failover {
        text: String,
        services: Vec<String>,
    },
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
            Self::ServiceRestore { .. } => "service_restore",
            Self::RestoreTested { .. } => "restore_tested",
            Self::Finding(_) => "copy_finding",
            Self::Quiesced { .. } => "copy_quiesced",
            Self::TooOld { .. } => "copy_too_old",
            Self::FreshAgain => "copy_fresh_again",
            Self::Failover { .. } => "failover",
            Self::Remark { .. } => "copy_remark",
        }
    }
}

impl CopyNews {
    fn text(&self) -> String {
        match self {
            Self::Begun { cause } => format!("a run has begun ({})", cause.text()),
            Self::Taken { seq, files, written_bytes, linked } => {
                format!("copy {seq} is made: {files} files, {linked} of them as before, {written_bytes} bytes written")
            }
            Self::Unchanged { seq } => format!("nothing has changed since copy {seq}"),
            Self::Suspect { seq, suspicion } => {
                format!("copy {seq} is suspect and displaces no other: {}", suspicion.text())
            }
            Self::Failed { failure, next } => format!("no copy was made: {}; {next}", failure.text()),
            Self::Target { state } => state.text(),
            Self::PrunePlanned { copies } => format!("to be removed, as nothing keeps them: {}", list(copies)),
            Self::Pruned { copies } => format!("removed: {}", list(copies)),
            Self::PruneFrozen { why } => format!("nothing is removed: {why}"),
            Self::Verified { copies, files, bad, mended } => {
                let found = if *bad == 0 && *mended == 0 {
                    "all well".to_owned()
                } else {
                    format!("{bad} bad, {mended} mended")
                };
                format!("verified: {}: {files} files, {found}", list(copies))
            }
            Self::Restored { seq, files, kept } if kept.is_empty() => format!("{files} files restored from copy {seq}"),
            Self::Restored { seq, files, kept } => {
                format!("{files} files restored from copy {seq}; what was there is kept as {}", kept.join(", "))
            }
            Self::ServiceRestore { service: _, text } => format!("restore: {text}"),
            Self::RestoreTested { seq, files } => {
                format!("{files} files of copy {seq} were restored for a test, and are right")
            }
            Self::Finding(finding) if finding.detail.is_empty() => format!("{} {}", finding.path, finding.kind.text()),
            Self::Finding(finding) => format!("{} {}: {}", finding.path, finding.kind.text(), finding.detail),
            Self::Quiesced { service, ms, late: false } => format!("service {service} held still for {ms}ms"),
            Self::Quiesced { service, ms, late: true } => {
                format!(
                    "service {service} held still for {ms}ms and had to go on before the copy was ready; the rest of it may be unstable"
                )
            }
            Self::TooOld { age_s, max_age_s } => {
                let human = |s: &u64| human(Duration::from_secs(*s));
                format!("the newest good copy is {} old, more than {}", human(age_s), human(max_age_s))
            }
            Self::FreshAgain => "the newest good copy is fresh again".to_owned(),
            Self::Failover { text, services } if services.is_empty() => text.clone(),
            Self::Failover { text, services } => format!("{}: {text}", services.join(", ")),
            Self::Remark { text } => text.clone(),
        }
    }
}

/// At most so many numbers are named.
const NAMED_MAX: usize = 12;

fn list(copies: &[u64]) -> String {
    let named: Vec<String> = copies.iter().take(NAMED_MAX).map(u64::to_string).collect();
    let rest = copies.len().saturating_sub(NAMED_MAX);
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!("copies {}{more}", named.join(", "))
}

impl CopyNote {
    /// The sentence, which begins with the set.
    #[must_use]
    pub fn text(&self) -> String {
        format!("copies {}: {}", self.set, self.what.text())
    }
}
