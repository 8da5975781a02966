//! What happens to copies, and what the shell is to do about them.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::order::{Job, Order, Report};
use super::plan::CopyPlan;
use super::restore_service::RestoreAsked;
use crate::engine::event::{Caller, Wait};
use crate::engine::types::{ReplicaId, RequestId, RunId};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyEvent {
    /// The role of this set listens and has been told the plan of its set.
    Linked {
        set: String,
    },
    /// Its connection has ended; what it was doing counts as unknown until it is linked again.
    Unlinked {
        set: String,
    },
    /// After `Linked` and before the first report: the role still works on what an earlier connection ordered.
    Running {
        set: String,
        order: Order,
    },
    Report {
        set: String,
        report: Report,
    },
    /// An operator's order; answered with `Outcome::Copied` or as any verb. `Wait::Decision`: once it is taken up.
    Command {
        request: RequestId,
        caller: Caller,
        set: String,
        job: Job,
        wait: Wait,
    },
    /// The data of a service are to come from copies; answered as a command.
    RestoreService {
        request: RequestId,
        caller: Caller,
        service: String,
        asked: RestoreAsked,
    },
    /// A hook has ended.
    Hooked {
        set: String,
        order: u64,
        hook: Hook,
        result: Result<(), String>,
    },
    /// A switch has ended.
    Switched {
        set: String,
        id: u64,
        result: Result<(), String>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    Pre,
    Post,
}

/// What is said to the role of a set, or done for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyAction {
    /// Its plan has changed.
    Plan(Box<CopyPlan>),
    Order(Order),
    /// The job is not wanted any more: it ends as `Cancelled`.
    Cancel {
        order: u64,
    },
    /// The service holds still, which was proven: the job goes on, for at most `max`. The shell adds the `cgroup.freeze` of `frozen`, which the role writes
    /// 0 to when it loses its agent.
    Quiesced {
        order: u64,
        frozen: Vec<(ReplicaId, RunId)>,
        max: Duration,
    },
    /// It would not, and why; the job fails.
    NotQuiesced {
        order: u64,
        why: String,
    },
    /// It does not hold still any more, and the role has nothing to thaw: if the job still needs it, what is copied from now on is unstable.
    Resumed {
        order: u64,
    },
    /// Something else wants it frozen now: it goes on holding still, and the role is to thaw nothing.
    Keep {
        order: u64,
    },
    /// Run this as a child of the agent's, in a group of its own; answered by [`CopyEvent::Hooked`].
    Hook {
        order: u64,
        hook: Hook,
        command: Vec<String>,
        timeout: Duration,
    },
    /// Let live data be seen in the place of a source, or no longer, in a child with a deadline; answered by [`CopyEvent::Switched`]. What is as it should be
    /// already is left so.
    Switch(Switch),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    pub id: u64,
    pub direction: Direction,
    pub moves: Vec<Move>,
}

impl Switch {
    /// After this long it is killed, and has failed.
    pub const TIMEOUT: Duration = Duration::from_secs(20);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// To the live data.
    Over,
    /// To the source.
    Back,
}

/// What is to be seen where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// On the disk of the copies.
    pub live: PathBuf,
    pub at: PathBuf,
    /// `at` is a symbolic link, which otherwise leads there; `None`: `live` is mounted over `at`.
    pub link_to: Option<PathBuf>,
}
