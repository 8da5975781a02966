//! What the groups of services say of themselves when the engine asks.
//!
//! `sys::gauge::Gauge` has the same numbers, of no replica. Neither module may use the other, the engine's is part of flight recordings and simulations,
//! and `runtime::limiting` has the one place where they meet: a struct literal without `..`, so that a number which is new to one of them does not compile
//! before it is given to the other. The same is true of `plan::Limits` and `sys::limits::Limits`.

use serde::{Deserialize, Serialize};

use crate::engine::types::{ReplicaId, RunId};

/// One reading of one tree. `None`: this host cannot tell. Counters are since the birth of the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gauge {
    pub replica: ReplicaId,
    pub run: RunId,
    /// User and system time.
    pub cpu_usec: Option<u64>,
    /// Periods of `cpu.max` in which it ran, and in how many of them it was stopped (`cpu.stat`).
    pub cpu_periods: Option<u64>,
    pub cpu_throttled: Option<u64>,
    pub memory_bytes: Option<u64>,
    /// Pages that the kernel looked at to take them back (`memory.stat pgscan`).
    pub pages_scanned: Option<u64>,
    /// How often it met `memory.high` or `memory.max` (`memory.events high` + `max`).
    pub memory_limit_met: Option<u64>,
    /// `memory.pressure full avg10` in hundredths of a percent.
    pub memory_full_avg10: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Forks that `pids.max` refused (`pids.events max`).
    pub pids_refused: Option<u64>,
    /// `cgroup.events frozen`: every member stands still. Without cgroups nothing can be frozen, and nobody can tell.
    pub frozen: Option<bool>,
}

impl Gauge {
    /// Of a tree of which nothing is known.
    #[must_use]
    pub fn unknown(replica: ReplicaId, run: RunId) -> Self {
        Self {
            replica,
            run,
            cpu_usec: None,
            cpu_periods: None,
            cpu_throttled: None,
            memory_bytes: None,
            pages_scanned: None,
            memory_limit_met: None,
            memory_full_avg10: None,
            pids: None,
            pids_refused: None,
            frozen: None,
        }
    }
}

/// What the shell has written to a tree that is (or may come) under a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrote {
    /// `Action::Limit`, or the limits of a spawn where one of them is not in force.
    Limits,
    /// `Action::Freeze` with `frozen: true`.
    Freeze,
    Thaw,
    /// `Action::KillTree` of a fenced replica.
    Kill,
}

/// How it was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// `cgroup.kill`, `cgroup.freeze`, `freeze and kill each`, `process tree`, `cpu.max`, `cpu.cfs_quota_us` ...
    pub method: String,
    /// In the tree when it was written (0 for limits).
    pub processes: u32,
    /// Of `Limits`: what could not be had, each with its reason. What is not named is in force.
    pub refused: Vec<String>,
}
