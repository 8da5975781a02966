//! What is told of the host: the sentences of the journal and of `why`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Health;
use super::kind::CheckKind;
use crate::engine::types::human;

/// Something about the host; its object is part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostNote {
    /// A check changed its state.
    Check {
        name: String,
        kind: CheckKind,
        target: String,
        from: Health,
        to: Health,
        why: String,
    },
    /// It changes too often: pinned to the worst until it has been quiet for a while.
    Flapping {
        name: String,
        kind: CheckKind,
        target: String,
        changes: u32,
        within: Duration,
    },
    Settled {
        name: String,
        kind: CheckKind,
        target: String,
    },
    /// This host cannot tell; said once.
    Absent {
        name: String,
        kind: CheckKind,
        target: String,
        why: String,
    },
    /// A device came or went.
    DeviceCame {
        what: String,
    },
    DeviceWent {
        what: String,
    },
    /// A service is concerned by a failing disk or NIC.
    Impaired {
        by: String,
        then: String,
    },
    Unimpaired {
        by: String,
    },
    /// Out of memory, clock steps and other things that are no state.
    Happened {
        text: String,
    },
    AlertFailed {
        exec: String,
        why: String,
    },
    /// Alerts above the cap, told as one.
    AlertsSuppressed {
        count: u32,
    },
}

impl HostNote {
    /// The journal's `type`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Check { .. } => "check",
            Self::Flapping { .. } => "check_flapping",
            Self::Settled { .. } => "check_settled",
            Self::Absent { .. } => "check_absent",
            Self::DeviceCame { .. } => "device_came",
            Self::DeviceWent { .. } => "device_went",
            Self::Impaired { .. } => "impaired",
            Self::Unimpaired { .. } => "unimpaired",
            Self::Happened { .. } => "host",
            Self::AlertFailed { .. } => "alert_failed",
            Self::AlertsSuppressed { .. } => "alerts_suppressed",
        }
    }

    /// The sentence without `agent:` or `service NAME:`.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Check { name, from, to, why, .. } => {
                format!("check {name}: {} (was {}): {why}", to.word(), from.word())
            }
            Self::Flapping { name, changes, within, .. } => {
                format!("check {name}: {changes} changes within {}, it keeps its worst state", human(*within))
            }
            Self::Settled { name, .. } => format!("check {name}: quiet again"),
            Self::Absent { name, why, .. } => format!("check {name}: not on this host: {why}"),
            Self::DeviceCame { what } => format!("{what} is there"),
            Self::DeviceWent { what } => format!("{what} is gone"),
            Self::Impaired { by, then } => format!("concerned by {by}; {then}"),
            Self::Unimpaired { by } => format!("no longer concerned by {by}"),
            Self::Happened { text } => text.clone(),
            Self::AlertFailed { exec, why } => format!("alert {exec}: {why}"),
            Self::AlertsSuppressed { count } => format!("{count} alerts above the cap were told as one"),
        }
    }
}
