//! One item of `alerts`.

use serde::Deserialize;

use super::super::values::{Dur, Rate};

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Alert {
    /// Required.
    pub(in crate::config) exec: Vec<String>,
    /// `None`: nobody; without root the agent's own user.
    pub(in crate::config) user: Option<String>,
    pub(in crate::config) on: Vec<On>,
    pub(in crate::config) at_most: Rate,
    pub(in crate::config) timeout: Dur,
    pub(in crate::config) cwd: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename = "on")]
pub(in crate::config) enum On {
    Failing,
    Degraded,
    Recovered,
    Fenced,
    CopyFailed,
}

impl Default for Alert {
    fn default() -> Self {
        Self {
            exec: Vec::new(),
            user: None,
            on: vec![On::Failing, On::Recovered],
            at_most: Rate { count: 10, within: std::time::Duration::from_secs(3_600) },
            timeout: super::seconds(30),
            cwd: None,
        }
    }
}
