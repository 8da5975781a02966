//! `resources` and `fence` of a service. The defaults are those of the engine's `FencePlan`.

use serde::Deserialize;

use super::super::values::{Dur, Share, Size};
use crate::engine::fence::plan as engine;

/// `resources: (..)`: the keys of [`Limits`], and `required`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Resources {
    pub(in crate::config) cpu_max: Option<Share>,
    pub(in crate::config) cpu_weight: Option<u32>,
    pub(in crate::config) memory_max: Option<Size>,
    pub(in crate::config) pids_max: Option<u32>,
    pub(in crate::config) io_weight: Option<u32>,
    pub(in crate::config) io_max: Vec<IoMax>,
    pub(in crate::config) required: bool,
}

/// `Throttle(..)`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "Throttle", default, deny_unknown_fields)]
pub(in crate::config) struct Limits {
    pub(in crate::config) cpu_max: Option<Share>,
    pub(in crate::config) cpu_weight: Option<u32>,
    pub(in crate::config) memory_max: Option<Size>,
    pub(in crate::config) pids_max: Option<u32>,
    pub(in crate::config) io_weight: Option<u32>,
    pub(in crate::config) io_max: Vec<IoMax>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct IoMax {
    /// Required.
    pub(in crate::config) path: String,
    pub(in crate::config) read_bytes: Option<Size>,
    pub(in crate::config) write_bytes: Option<Size>,
    pub(in crate::config) read_operations: Option<u64>,
    pub(in crate::config) write_operations: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Fence {
    /// `None`: that of the engine.
    pub(in crate::config) ladder: Option<Vec<Rung>>,
    pub(in crate::config) step: Dur,
    pub(in crate::config) probation: Dur,
    pub(in crate::config) release: Release,
    pub(in crate::config) release_max: Dur,
    pub(in crate::config) triggers: Triggers,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename = "ladder")]
pub(in crate::config) enum Rung {
    Throttle(Limits),
    Freeze,
    Kill,
    Hold,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename = "release")]
pub(in crate::config) enum Release {
    After(Dur),
    Manual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename = "trigger")]
pub(in crate::config) enum Mode {
    On,
    DryRun,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Triggers {
    pub(in crate::config) liveness: Mode,
    pub(in crate::config) restarts: Mode,
    pub(in crate::config) cpu: Mode,
    pub(in crate::config) pids: Mode,
    pub(in crate::config) pressure: Mode,
    pub(in crate::config) host_memory: Mode,
}

impl Resources {
    /// Without `required`.
    pub(in crate::config) fn limits(&self) -> Limits {
        let Self { cpu_max, cpu_weight, memory_max, pids_max, io_weight, ref io_max, required: _ } = *self;
        Limits { cpu_max, cpu_weight, memory_max, pids_max, io_weight, io_max: io_max.clone() }
    }
}

impl Default for Fence {
    fn default() -> Self {
        let engine::FencePlan { ladder: _, step, probation, release, release_max, triggers } =
            engine::FencePlan::default();
        Self {
            ladder: None,
            step: Dur(step),
            probation: Dur(probation),
            release: match release {
                engine::ReleaseRule::After(after) => Release::After(Dur(after)),
                engine::ReleaseRule::Manual => Release::Manual,
            },
            release_max: Dur(release_max),
            triggers: triggers.into(),
        }
    }
}

impl Default for Triggers {
    fn default() -> Self {
        engine::Triggers::default().into()
    }
}

impl From<engine::Triggers> for Triggers {
    fn from(triggers: engine::Triggers) -> Self {
        let engine::Triggers { liveness, restarts, cpu, pids, pressure, host_memory } = triggers;
        let [liveness, restarts, cpu, pids, pressure, host_memory] =
            [liveness, restarts, cpu, pids, pressure, host_memory].map(|mode| match mode {
                engine::Mode::On => Mode::On,
                engine::Mode::DryRun => Mode::DryRun,
                engine::Mode::Off => Mode::Off,
            });
        Self { liveness, restarts, cpu, pids, pressure, host_memory }
    }
}

impl From<Triggers> for engine::Triggers {
    fn from(triggers: Triggers) -> Self {
        let Triggers { liveness, restarts, cpu, pids, pressure, host_memory } = triggers;
        let [liveness, restarts, cpu, pids, pressure, host_memory] =
            [liveness, restarts, cpu, pids, pressure, host_memory].map(|mode| match mode {
                Mode::On => engine::Mode::On,
                Mode::DryRun => engine::Mode::DryRun,
                Mode::Off => engine::Mode::Off,
            });
        Self { liveness, restarts, cpu, pids, pressure, host_memory }
    }
}
