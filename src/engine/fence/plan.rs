//! What the configuration says of limits and fences, checked.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Limits that the kernel can put on a process tree. `None`: none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// In thousandths of one CPU: 1500 is "150%".
    pub cpu_max_permille: Option<u32>,
    /// 1 to 10000; 100 is what a group without it has.
    pub cpu_weight: Option<u16>,
    /// Beyond it the kernel kills the whole tree (`memory.oom.group`).
    pub memory_max_bytes: Option<u64>,
    /// Processes and threads.
    pub pids_max: Option<u32>,
    /// 1 to 10000; 100 is what a group without it has.
    pub io_weight: Option<u16>,
    pub io_max: Vec<IoMax>,
}

/// For the device that a path lies on. At least one of the four is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoMax {
    /// Absolute; it need not exist before the start.
    pub path: PathBuf,
    /// Per second, as are the others.
    pub read_bytes: Option<u64>,
    pub write_bytes: Option<u64>,
    pub read_operations: Option<u64>,
    pub write_operations: Option<u64>,
}

/// `resources` of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    pub limits: Limits,
    /// A start without one of them fails; else it is told and goes on.
    pub required: bool,
}

/// `can_read` and `can_write` of a service (Landlock): what is not named is refused by the kernel. Absolute paths, each with what lies below
/// it, with `{words}` still in them. `None`: not restricted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Reading and executing. What may be written may be read too.
    pub read: Option<Vec<String>>,
    pub write: Option<Vec<String>>,
}

/// How far a tree is fenced, the mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FenceLevel {
    /// It runs on within tighter limits.
    Throttle,
    /// It stands still.
    Freeze,
    /// It is killed; what comes then is the next step of the ladder, else the restart policy.
    Kill,
    /// Nothing runs, and nothing starts.
    Hold,
}

impl FenceLevel {
    pub const ALL: [Self; 4] = [Self::Throttle, Self::Freeze, Self::Kill, Self::Hold];

    /// The word of the API and of the command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Throttle => "throttle",
            Self::Freeze => "freeze",
            Self::Kill => "kill",
            Self::Hold => "hold",
        }
    }
}

/// One step of a ladder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// The tighter of these and the service's own are in force.
    Throttle(Limits),
    Freeze,
    Kill,
    Hold,
}

impl Rung {
    #[must_use]
    pub fn level(&self) -> FenceLevel {
        match self {
            Self::Throttle(_) => FenceLevel::Throttle,
            Self::Freeze => FenceLevel::Freeze,
            Self::Kill => FenceLevel::Kill,
            Self::Hold => FenceLevel::Hold,
        }
    }
}

/// When a fence that the agent set ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseRule {
    /// After this long; twice as long each time, up to `release_max`.
    After(Duration),
    /// Only an operator ends it.
    Manual,
}

/// What a cause of a fence may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    Off,
    /// Says what would be done, and does nothing.
    DryRun,
    #[default]
    On,
}

/// The causes for which the agent acts by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Triggers {
    /// Killed and restarted when its `alive` probe or its watchdog fails. `Off`: it is only shown as degraded.
    pub liveness: Mode,
    /// Held when its restart budget is spent. `Off`: it is tried again and again with its longest delay.
    pub restarts: Mode,
    /// At its own `cpu_max` for a minute.
    pub cpu: Mode,
    /// Forks that its own `pids_max` refused, for 15 s.
    pub pids: Mode,
    /// It stalls for memory and the kernel reclaims in vain, both.
    pub pressure: Mode,
    /// The host's memory fails, and this service is the one of the least priority that has more than its share.
    pub host_memory: Mode,
}

impl Default for Triggers {
    /// A service at its CPU limit is what the limit is for: `cpu` is off.
    fn default() -> Self {
        Self {
            liveness: Mode::On,
            restarts: Mode::On,
            cpu: Mode::Off,
            pids: Mode::On,
            pressure: Mode::On,
            host_memory: Mode::On,
        }
    }
}

/// `fence` of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FencePlan {
    /// From the mildest to the hardest, no level twice, never empty.
    pub ladder: Vec<Rung>,
    /// How long the cause may last on one step before the next is taken.
    pub step: Duration,
    /// Ready time after a release until it counts as well again.
    pub probation: Duration,
    pub release: ReleaseRule,
    pub release_max: Duration,
    pub triggers: Triggers,
}

impl Default for FencePlan {
    fn default() -> Self {
        let throttle = Limits { cpu_max_permille: Some(100), ..Limits::default() };
        Self {
            ladder: vec![Rung::Throttle(throttle), Rung::Freeze, Rung::Kill, Rung::Hold],
            step: Duration::from_secs(10),
            probation: Duration::from_secs(300),
            release: ReleaseRule::After(Duration::from_secs(600)),
            release_max: Duration::from_secs(2 * 3_600),
            triggers: Triggers::default(),
        }
    }
}
