//! The host: what its disks, NICs, sensors and kernel say, judged; and who is concerned.
//!
//! Roles read ([`watch`] says what, [`sample`] is what they say), the engine judges. A check has a state ([`Health`]) with separate
//! thresholds for entering and leaving it; a service is concerned by the checks of the disks and NICs that it declares.

pub mod kind;
pub mod note;
pub mod once;
pub mod plan;
pub mod readings;
pub mod sample;
pub mod view;
pub mod watch;

mod alerts;
mod condition;
mod feeds;
mod helpers;
pub(in crate::engine) mod impair;
mod judge;
mod lane;
pub(in crate::engine) mod pairs;
mod replaced;
mod rules;
mod show;
mod state;
mod steps;
mod tally;
mod ties;
mod watchdog;
mod words;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::plan::Role;
use condition::Condition;
use judge::Known;
use kind::CheckKind;
pub use rules::{default_bands, is_bad_when_low};
use sample::{Devices, Sample};
pub(in crate::engine) use state::HostState;
use watch::{Helper, Missing};

/// The state of a check. Only `Degraded` and `Failing` ever alarm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// This host cannot tell.
    Absent,
    /// No answer by the deadline, or none yet.
    #[default]
    Unknown,
    Ok,
    Degraded,
    Failing,
}

impl Health {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Unknown => "unknown",
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Failing => "failing",
        }
    }
}

/// What happens to the host, as far as it concerns the checks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostEvent {
    /// From the checks role.
    Devices(Box<Devices>),
    Sampled {
        role: Role,
        sample: Box<Sample>,
    },
    /// A role cannot read what it was asked for, on this host.
    Missing {
        role: Role,
        missing: Missing,
    },
    /// The connection to a role ended, or came.
    Linked {
        role: Role,
        connected: bool,
    },
    /// The command of an alert has ended.
    AlertDone {
        alert: u64,
        result: Result<(), String>,
    },
}

/// What must survive the agent's death: written to `{run_dir}/host.json` at every `Action::PersistHost`, and holding for one boot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostMemory {
    pub devices: Option<Devices>,
    pub helpers: Vec<Helper>,
    /// The state of every check, with what decides about the next one.
    #[serde(default)]
    pub checks: BTreeMap<CheckKey, Condition>,
    /// Counters as they were last seen, and other things that no reading tells.
    #[serde(default)]
    pub known: Known,
    /// What each alert of the configuration was told.
    #[serde(default)]
    pub alerts: Vec<lane::Lane>,
}

/// A check's identity. Written as `disk_space /`, so that it can be the key of a map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct CheckKey {
    pub kind: CheckKind,
    /// Empty for a check of the whole host.
    pub target: String,
}

impl From<CheckKey> for String {
    fn from(key: CheckKey) -> Self {
        rules::default_name(key.kind, &key.target)
    }
}

impl TryFrom<String> for CheckKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (word, target) = text.split_once(' ').unwrap_or((&text, ""));
        let kind = CheckKind::by_word(word).ok_or_else(|| format!("no such check: {text}"))?;
        Ok(Self { kind, target: target.to_owned() })
    }
}

/// A check that changed its state in this step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine) struct Change {
    pub key: CheckKey,
    pub name: String,
    pub from: Health,
    pub to: Health,
    pub why: String,
}
