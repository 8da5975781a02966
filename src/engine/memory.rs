//! What the engine must still know about a replica after the agent's own death. It is part of the adoption record in `run_dir`
//! and holds for one boot (its times are readings of this boot's clocks).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::Wanted;
use super::fence::state::{Fence, Probation};
use super::service::Decided;
use super::types::{Exit, RunId, StateName, Time};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// What the operator wants of it.
    pub wanted: Wanted,
    /// The operator took it out of its balancers.
    #[serde(default)]
    pub drained: bool,
    /// Its group is frozen: because its disk fails, or by its fence.
    #[serde(default)]
    pub frozen: bool,
    /// Of the role of a set of copies: a command is to be run after the copy that is under way, whatever becomes of that.
    #[serde(default)]
    pub post_owed: bool,
    /// Some run of it was given limits: what is in force may not be what an heir's plan says.
    #[serde(default)]
    pub limited: bool,
    /// The fence that stands. Boxed, as few have one; so is the probation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Box<Fence>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probation: Option<Box<Probation>>,
    /// How often in a row the agent fenced it.
    #[serde(default)]
    pub fences: u32,
    /// As it was when last written.
    pub state: StateName,
    /// The latest run, 0 before the first.
    pub run: RunId,
    /// When the present state began, wall clock; `ready_since` on the monotonic clock while ready.
    pub since_wall: Time,
    pub ready_since: Option<Time>,
    /// When the latest run was spawned (mono and boot clocks).
    pub started_mono: Time,
    pub started_boot: Time,
    /// Starts after the first that nobody had asked for, since the agent first knew the replica.
    pub restarts: u32,
    /// Failures in a row; forgotten after `reset_after` of ready time.
    pub failures: u32,
    /// The instants (mono) of the failures that count against the budget, oldest first; at most `budget.restarts + 1` long.
    pub budget_marks: VecDeque<Time>,
    /// The present hold when the budget is spent, and when the next try is due (mono).
    pub hold: Option<Hold>,
    pub last_exit: Option<LastExit>,
    /// A requested stop or restart in progress: its exit is no failure.
    pub requested: bool,
    /// Since when (mono) the stop under way waits for the connections of the replica to end.
    #[serde(default)]
    pub draining_since: Option<Time>,
    /// The port that the latest run was given: a new configuration may say another.
    #[serde(default)]
    pub port: Option<u16>,
    /// How each balancer reaches the latest run, as the configuration said at its birth: the path of a socket, or `None` for its port.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sockets: BTreeMap<String, Option<String>>,
    /// The causes of the present state, oldest first; at most [`Memory::CAUSES_MAX`].
    pub causes: VecDeque<Cause>,
    /// The hash of what a restart would change in the plan the present run was started from.
    pub spec_hash: u64,
    /// It has a part in a rolling restart that is not over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<Turn>,
    /// The notify socket's last STATUS.
    pub status_text: Option<String>,
    /// Times of recent state changes (mono), for the flapping flag; at most [`Memory::CHANGES_MAX`].
    pub changes: VecDeque<Time>,
}

impl Memory {
    pub const CAUSES_MAX: usize = 12;
    pub const CHANGES_MAX: usize = 16;

    /// What is known of a replica without a record: that it is wanted, and nothing else.
    #[must_use]
    pub fn unknown() -> Self {
        super::service::fresh_memory(&Decided::default(), RunId::default(), 0, Time::default())
    }
}

/// Its part in a rolling restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Because of a new configuration, rather than by order.
    pub new_config: bool,
    /// The run that is being replaced; `None` while others come first.
    pub from: Option<RunId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub length: Duration,
    /// `None`: only an operator ends it.
    pub next_try: Option<Time>,
    /// The one try is under way.
    pub half_open: bool,
    /// Its record among the fences.
    #[serde(default)]
    pub record: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastExit {
    pub exit: Exit,
    pub oom: bool,
    pub run: RunId,
    pub at_wall: Time,
}

/// One link of the chain that `why` tells: a sentence with its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    pub at_wall: Time,
    pub text: String,
}
