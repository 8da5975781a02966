//! The checked configuration of host checks and alerts.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::kind::CheckKind;
use crate::engine::plan::User;

/// One of the configuration's `checks`: it replaces what the defaults say of its kind and target, key by key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckPlan {
    /// Unique among the checks.
    pub name: String,
    pub kind: CheckKind,
    /// As its kind's scope wants it; `None`: all targets of the kind.
    pub target: Option<String>,
    /// False: not checked at all.
    pub enabled: bool,
    pub every: Option<Duration>,
    pub degraded: Option<Band>,
    pub failing: Option<Band>,
    /// Bad samples in a row until it is degraded; at least 1.
    pub fall: Option<u32>,
    /// Good samples in a row until it is better; at least 1.
    pub rise: Option<u32>,
}

/// Where a state is entered and where it is left, in the kind's unit (see [`super::kind::Unit`]); `leave` is on the better side of `enter`, or the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Band {
    pub enter: i64,
    pub leave: i64,
}

/// What happens to a service whose disk is failing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDiskFailing {
    /// Runs on, out of its balancers; neither restarted nor killed for its liveness meanwhile.
    #[default]
    Leave,
    /// Its group is frozen until the disk is well.
    Freeze,
    /// Killed at once, started again when the disk is well.
    Kill,
    /// Stopped in order, started again when the disk is well.
    Hold,
    /// As if nothing were known of the disk.
    Ignore,
}

/// One of the configuration's `alerts`: a command that is run for events, with the event's JSON on its standard input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertPlan {
    /// `exec[0]` is an absolute path.
    pub exec: Vec<String>,
    /// `None`: the agent's own user.
    pub user: Option<Box<User>>,
    pub on: Vec<AlertOn>,
    /// At most so many a window; the rest is told in one summary when the window ends.
    pub at_most: u32,
    pub within: Duration,
    /// The command is killed after this long.
    pub timeout: Duration,
    pub cwd: Option<PathBuf>,
}

/// What an alert is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertOn {
    /// A check becomes failing; a service is failed, stuck or has spent its budget.
    Failing,
    /// A check becomes degraded.
    Degraded,
    /// What was alerted of is well again.
    Recovered,
    /// A service is fenced, a fence is not proven, or the agent would have fenced it.
    Fenced,
    /// Accepted; there is nothing yet that would cause it.
    CopyFailed,
}
