//! Everything the agent can do. The shell performs actions in order and reports what became of them as later events.
//!
//! `Note` is the one source of the agent's log line, the event journal, the metrics, `why` and the tests.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::balance::note::BalanceNote;
use super::balance::table::{Table, TableMemory};
use super::copies::event::CopyAction;
use super::copies::note::CopyNote;
use super::copies::order::Outcome as CopyOutcome;
use super::event::{Caller, Decision, Remaining, Verb};
use super::fence::FenceMemory;
use super::fence::note::FenceNote;
use super::host::HostMemory;
use super::host::note::HostNote;
use super::host::view::AlertBody;
use super::memory::Memory;
use super::plan::{Probe, Role};
use super::types::{Exit, ReplicaId, RequestId, RunId, StateName};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Action {
    /// Make the process of this run. The record (identity and `memory`) is written before the gate opens. Answered by `Spawned` or
    /// `SpawnFailed`, then `Executed` or `ExecFailed`, then `Exited`.
    Spawn {
        replica: ReplicaId,
        run: RunId,
        memory: Arc<Memory>,
    },
    /// Send a signal through the pidfd (and SIGCONT after one that should end it).
    Signal {
        replica: ReplicaId,
        run: RunId,
        signal: i32,
        whom: Whom,
    },
    /// Forbid forks where the kernel can, kill every process of the tree, at once.
    KillTree {
        replica: ReplicaId,
        run: RunId,
    },
    /// Report who remains in the tree: `TreeRemains` (or `TreeEmpty`).
    Inspect {
        replica: ReplicaId,
        run: RunId,
    },
    /// The tree is empty: remove its group, close its descriptors.
    Release {
        replica: ReplicaId,
        run: RunId,
    },
    /// Answered by `ProbeDone` with the same generation; the engine keeps the deadline.
    Probe {
        replica: ReplicaId,
        run: RunId,
        generation: u64,
        probe: Probe,
        timeout: Duration,
    },
    /// Nobody waits for this probe any more.
    CancelProbe {
        replica: ReplicaId,
        run: RunId,
        generation: u64,
    },
    /// Write what must survive the agent's death (the identity is the shell's to add).
    Persist {
        replica: ReplicaId,
        memory: Arc<Memory>,
    },
    /// The replica left the configuration: remove its record, its pipe, its sockets.
    Forget {
        replica: ReplicaId,
    },
    /// The service's log settings or sockets may have changed.
    Refresh {
        replica: ReplicaId,
    },
    /// The backends of a balancer have changed: tell the proxy.
    Balance {
        table: Box<Table>,
    },
    /// The balancer left the configuration.
    Unbalance {
        balancer: String,
    },
    /// Write an operator's decision to disk; answered by `Persisted`.
    Decide {
        decision: u64,
        content: Decision,
    },
    /// The outcome of a verb.
    Answer {
        request: RequestId,
        outcome: Outcome,
    },
    /// What this role is to read has changed (`Engine::watch_list`).
    Watch {
        role: Role,
    },
    /// Write what must be known of the host after the agent's death.
    PersistHost {
        memory: Box<HostMemory>,
    },
    /// Run the command of this alert (its place in the plan) with `body` on its standard input; answered by `HostEvent::AlertDone`.
    Alert {
        alert: u64,
        plan: usize,
        body: Box<AlertBody>,
    },
    /// Freeze or thaw the group of this run; it is recorded before it is written, so that the next agent can thaw.
    Freeze {
        replica: ReplicaId,
        run: RunId,
        frozen: bool,
    },
    /// Bring the limits of this run (`Engine::limits`) into force; answered by `Event::Wrote`.
    Limit {
        replica: ReplicaId,
        run: RunId,
    },
    /// Read what these trees say of themselves; answered by `Event::Gauged` with the same number, which is a higher one each time.
    Gauge {
        asked: u64,
        runs: Vec<(ReplicaId, RunId)>,
    },
    /// Write what must be known of fences after the agent's death.
    PersistFences {
        memory: Box<FenceMemory>,
    },
    /// Something for the role of this set of copies, or a command to be run for it.
    Copy {
        set: String,
        what: Box<CopyAction>,
    },
    /// Write what the proxy has been told of balancers that leave, for the next agent.
    PersistTables {
        memory: Box<TableMemory>,
    },
    /// Pet the hardware watchdog.
    Pet,
    Note(Note),
    /// Everything is stopped (or the deadline has passed): stop the roles and leave. `clean` when nothing remains.
    Exit {
        clean: Cleanness,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Whom {
    Main,
    /// Every process of the tree.
    Tree,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cleanness {
    Clean,
    SomethingRemains,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// As asked. `persisted` is false when the decision could not be written within its time.
    Done { persisted: bool },
    /// Not as asked, and why, in words for the person who asked.
    Failed { why: String },
    /// There is no such service or replica.
    Unknown { message: String, hint: Option<String> },
    /// The state forbids it.
    Conflict { message: String },
    /// What a job of a set of copies has come to.
    Copied(Box<CopyOutcome>),
    /// What a reload did.
    Reloaded { changes: Vec<Change> },
}

/// One line of a reload's plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub service: String,
    pub effect: Effect,
    /// The fields that differ, or the reason.
    pub why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    Start,
    Stop,
    Restart,
    /// Applied without a restart.
    Live,
    Unchanged,
}

/// One thing that happened and is worth a line: object first, cause with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    pub level: Level,
    /// `None`: the agent itself.
    pub subject: Option<Subject>,
    pub kind: NoteKind,
}

/// The names are carried because a note outlives the service it speaks of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    pub service: String,
    /// `None`: the whole service.
    pub replica: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

/// What happened. `engine::note` renders the sentence and the journal's `type` word (`NoteKind::word`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoteKind {
    Started {
        run: RunId,
        pid: i32,
    },
    Ready {
        run: RunId,
        took: Duration,
    },
    /// `next`: what follows from it.
    Ended {
        run: RunId,
        exit: Exit,
        oom: bool,
        after: Duration,
        requested: bool,
        next: Next,
    },
    StartFailed {
        run: RunId,
        why: String,
        next: Next,
    },
    NotReadyInTime {
        run: RunId,
        after: Duration,
        last_answer: Option<String>,
    },
    Degraded {
        failures: u32,
        fall: u32,
        answer: String,
    },
    Recovered {
        successes: u32,
    },
    NotAlive {
        failures: u32,
        answer: String,
    },
    WatchdogMissed {
        after: Duration,
    },
    WatchdogTriggered,
    Stopping {
        run: RunId,
        why: String,
    },
    /// The main process is gone or did not go: the rest of the tree is signalled or killed.
    KillingTree {
        run: RunId,
        remaining: u32,
        why: String,
    },
    Stopped {
        run: RunId,
    },
    /// Something about its connections.
    Balance(BalanceNote),
    /// Something about disks, NICs and sensors.
    Host(HostNote),
    /// Something about fences and limits.
    Fence(FenceNote),
    /// Something about a set of copies.
    Copy(Box<CopyNote>),
    Done {
        run: RunId,
    },
    Stuck {
        run: RunId,
        processes: Vec<Remaining>,
    },
    Unstuck {
        run: RunId,
    },
    Waiting {
        on: Vec<String>,
    },
    BudgetSpent {
        failures: u32,
        within: Duration,
        next_try: Option<Duration>,
    },
    HalfOpen {
        held: Duration,
    },
    BudgetRefilled,
    Adopted {
        run: RunId,
        pid: i32,
        state: StateName,
    },
    EndedUnseen {
        run: RunId,
        exit: Exit,
        next: Next,
    },
    Status {
        text: String,
    },
    LastLines {
        run: RunId,
        lines: Vec<String>,
    },
    LinesDropped {
        lines: u64,
        reason: String,
    },
    Commanded {
        verb: Verb,
        caller: Caller,
    },
    Reloaded {
        changes: Vec<Change>,
        caller: Caller,
    },
    ReloadRefused {
        why: String,
    },
    Removed,
    ShuttingDown {
        caller: Caller,
        services: u32,
    },
    ShutDown {
        remaining: u32,
    },
    Stalled {
        by: Duration,
        suspended: bool,
    },
    NotPersisted {
        why: String,
    },
    Remark {
        text: String,
    },
}

/// What the supervisor does next about a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    Restart {
        in_: Duration,
        attempt: u32,
        of: Option<u32>,
    },
    /// Stays as it is: done, stopped by request, or the policy says so.
    Nothing {
        why: String,
    },
    /// The budget is spent.
    Hold {
        until_next_try: Option<Duration>,
    },
    /// A requested restart goes on.
    StartAgain,
}
