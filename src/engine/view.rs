//! What others may see of the engine: plain data, borrowed where it is large.

use super::fence::plan::FenceLevel;
use super::fence::view::{LimitsView, ReplicaFence};
use super::memory::Memory;
use super::plan::ServicePlan;
use super::types::{ReplicaId, StateName, Time};

/// One service as `status`, `tree`, `why` and the metrics show it.
#[derive(Clone, Debug)]
pub struct ServiceView<'a> {
    pub plan: &'a ServicePlan,
    /// Some replica is wanted up.
    pub wanted: bool,
    /// The service's own word: `ready` while one replica is, else the state of the replica that is furthest from it.
    pub state: StateName,
    /// The same as people see it: `throttled`, `frozen` and `held` go before it.
    pub word: &'static str,
    /// Why it is not `ready` (or `done`); `None` when it is.
    pub why: Option<String>,
    pub replicas: Vec<ReplicaView<'a>>,
    pub edges: Vec<EdgeView<'a>>,
    /// The failing disk or NIC that concerns it, with what its check says; it is out of its balancers.
    pub impaired: Option<String>,
}

#[derive(Clone, Debug)]
pub struct ReplicaView<'a> {
    pub id: ReplicaId,
    pub memory: &'a Memory,
    pub state: StateName,
    pub pid: Option<i32>,
    /// Many changes of state within a short time.
    pub flapping: bool,
    /// Runs with an older configuration than the accepted one.
    pub pending_restart: bool,
    /// An operator took it out of its balancers.
    pub drained: bool,
    /// Its group is frozen: because its disk fails, or by its fence.
    pub frozen: bool,
    pub fence: Option<ReplicaFence<'a>>,
    pub limits: LimitsView<'a>,
    /// Why it is not `ready`; or, of one that is, why it takes no connections.
    pub why: Option<String>,
    /// What happens next by itself, and when (mono).
    pub next: Option<(String, Time)>,
    /// Of the latest run that ended.
    pub last_lines: &'a [String],
}

impl ReplicaView<'_> {
    /// The state as people see it: that of its fence goes before its own.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self.fence.and_then(|fence| fence.level) {
            Some(FenceLevel::Throttle) => "throttled",
            Some(FenceLevel::Freeze) => "frozen",
            Some(FenceLevel::Hold) if self.state == StateName::Stopped => "held",
            Some(FenceLevel::Kill | FenceLevel::Hold) | None => self.state.word(),
        }
    }

    /// Since when it is that.
    #[must_use]
    pub fn since_wall(&self) -> Time {
        match self.fence {
            Some(fence) if self.word() != self.state.word() => fence.since_wall,
            Some(_) | None => self.memory.since_wall,
        }
    }
}

/// One dependency of a service.
#[derive(Clone, Debug)]
pub struct EdgeView<'a> {
    pub to: &'a str,
    pub kind: EdgeKind,
    /// This edge holds the service back now.
    pub blocking: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdgeKind {
    Requires,
    Wants,
    After,
    RestartWith,
}

/// Counters for the metrics and the recorder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counters {
    pub steps: u64,
    /// Answers of an old run or generation that were dropped.
    pub stale_events: u64,
    pub log_lines_dropped: u64,
}
