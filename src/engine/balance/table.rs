//! The backends of one balancer as they stand now: what the engine tells the proxy.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::plan::{Address, Delivery, Rules};

/// Replaces what was said of this balancer before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    pub balancer: String,
    pub delivery: Delivery,
    pub rules: Rules,
    /// In the order of the configured slots (what `Modulo` counts). Names are unique.
    pub backends: Vec<Backend>,
    /// A backend that is out may be back within moments: it starts, or waits for its next start. Where nobody may, a client need not wait.
    pub hopeful: bool,
}

/// Tables of balancers that the configuration has no table for any more (removed, or shared by now), as they were told last: connections go
/// through them until their replicas are replaced. Written at every change while there is one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TableMemory {
    pub tables: Vec<Table>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// `api/0`, or the address of a fixed one: what is hashed, so it never contains anything that changes.
    pub name: String,
    /// An empty path with `HandOff`, where nobody connects.
    pub address: Address,
    /// At least 1.
    pub weight: u32,
    pub standing: Standing,
    /// It drains because it stops: what it still has after the drain timeout is reset. Without this a drain has no end.
    #[serde(default)]
    pub cut: bool,
    /// The run of the replica; 0 for a fixed one. Another run is another process: its failures and its ejection are forgotten.
    pub run: u32,
    /// How long it had been ready when the table was made.
    pub ready_for: Duration,
}

/// What a backend may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// New connections.
    Up,
    /// Its liveness probe fails: nothing new, unless nobody else is there and the rule is `FailOpen`.
    Degraded,
    /// Nothing new; what it has may end. The proxy says when nothing is left.
    Draining,
    /// Nothing new; its process is gone or not ready.
    Out,
    /// Nothing new, and what it has is reset.
    Fenced,
}
