//! The host: what its disks, NICs, sensors and kernel say, judged; and who is concerned.
//!
//! Roles read ([`watch`] says what, [`sample`] is what they say), the engine judges. A check has a state ([`Health`]) with separate
//! thresholds for entering and leaving it; a service is concerned by the checks of the disks and NICs that it declares.

pub mod kind;
pub mod note;
pub mod plan;
pub mod sample;
pub mod view;
pub mod watch;

mod alerts;
mod helpers;
pub(in crate::engine) mod impair;
mod lane;
mod pairs;
mod ties;
mod watchdog;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::plan::Role;
use super::types::ServiceId;
use alerts::Alerts;
use kind::CheckKind;
use sample::{Devices, Sample};
use ties::Troubles;
use watch::{Helper, Missing};
use watchdog::Dog;

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
    /// What each alert of the configuration was told.
    #[serde(default)]
    pub alerts: Vec<lane::Lane>,
}

/// A check's identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CheckKey {
    pub kind: CheckKind,
    /// Empty for a check of the whole host.
    pub target: String,
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

/// What the engine knows of the host.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in crate::engine) struct HostState {
    pub devices: Devices,
    /// The devices were told, by the checks role or by an earlier agent.
    pub devices_known: bool,
    pub helpers: Vec<Helper>,
    /// Helpers that are not needed any more, until their service is gone.
    pub leaving: Vec<Helper>,
    /// It was said that there are more disks than helpers.
    pub beyond_told: bool,
    /// The state of every check with the reason, as `ties` reads it.
    #[serde(with = "pairs")]
    pub states: BTreeMap<CheckKey, (Health, String)>,
    /// Services whose disk or NIC fails.
    pub troubles: BTreeMap<ServiceId, Troubles>,
    pub alerts: Alerts,
    pub dog: Dog,
    /// What changed in this step and is not yet looked at.
    #[serde(skip)]
    pub changed: Vec<Change>,
    /// What an heir must know is not yet handed out.
    #[serde(skip)]
    pub unsaved: bool,
}

impl super::Engine {
    pub(super) fn host_event(&mut self, event: HostEvent) {
        match event {
            HostEvent::Devices(devices) => self.host.devices = *devices,
            HostEvent::Sampled { .. } | HostEvent::Missing { .. } | HostEvent::Linked { .. } => {}
            HostEvent::AlertDone { alert, result } => self.alert_done(alert, result),
        }
    }

    /// The first event: what an earlier agent knew, before anything is adopted.
    pub(super) fn begin_host(&mut self, memory: HostMemory) {
        let HostMemory { devices, helpers, alerts } = memory;
        if let Some(devices) = devices {
            self.host.devices = devices;
            self.host.devices_known = true;
        }
        self.take_helpers(helpers);
        self.restore_troubles();
        self.alerts_changed(alerts);
        self.watchdog_changed();
    }

    /// What an heir must know will be handed out at the end of the step.
    pub(super) fn save_host(&mut self) {
        self.host.unsaved = true;
    }

    pub(super) fn host_memory(&self) -> HostMemory {
        HostMemory {
            devices: self.host.devices_known.then(|| self.host.devices.clone()),
            helpers: self.host.helpers.iter().chain(&self.host.leaving).cloned().collect(),
            alerts: self.host.alerts.lanes.iter().map(lane::Lane::for_heir).collect(),
        }
    }

    /// What a role is to read; told when it connects, and after every `Action::Watch`.
    #[must_use]
    pub fn watch_list(&self, _role: Role) -> Vec<watch::Order> {
        Vec::new()
    }

    /// Every check with its state, by kind and target.
    #[must_use]
    pub fn checks(&self, _now: super::types::Now) -> Vec<view::CheckView> {
        Vec::new()
    }
}
