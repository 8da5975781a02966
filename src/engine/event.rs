//! Everything that can happen to the engine. One closed list: a new variant must break the build where it matters.
//!
//! Whatever concerns a process carries the run it belongs to. A late answer of an old run is dropped and counted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::balance::table::TableMemory;
use super::copies::event::CopyEvent;
use super::copies::failover::Failover;
use super::copies::restore_service::ServiceRestore;
use super::fence::FenceMemory;
use super::fence::gauge::{Gauge, Written, Wrote};
use super::fence::plan::FenceLevel;
use super::host::{HostEvent, HostMemory};
use super::memory::Memory;
use super::plan::{Plan, Stop};
use super::types::{Exit, ReplicaId, RequestId, RunId, Time};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A deadline has come, or nothing has: look at the clock.
    Tick,
    /// The first event of an agent's life: what an earlier agent left, and what the operator had decided.
    Begin {
        found: Vec<Found>,
        decisions: Vec<Decision>,
        /// What it knew of the host, if that was in this boot.
        #[serde(default)]
        host: Option<Box<HostMemory>>,
        /// What it knew of fences, if that was in this boot.
        #[serde(default)]
        fences: Option<Box<FenceMemory>>,
        /// What it had told the proxy of balancers that have no table in its configuration any more, if that was in this boot.
        #[serde(default)]
        tables: Option<Box<TableMemory>>,
    },
    /// The child exists and its record is written; its gate is open.
    Spawned { replica: ReplicaId, run: RunId, pid: i32 },
    /// No child could be made. `ours` when the cause is the agent's side (EAGAIN, ENOMEM, EMFILE): not charged to the service's budget.
    SpawnFailed { replica: ReplicaId, run: RunId, ours: bool, error: String },
    /// exec succeeded.
    Executed { replica: ReplicaId, run: RunId },
    /// The child could not become the service, with the step that failed; its exit follows.
    ExecFailed { replica: ReplicaId, run: RunId, error: String },
    /// The main process ended. `remaining` is the number of other processes still in its tree; when not zero, `TreeEmpty` follows in time.
    Exited { replica: ReplicaId, run: RunId, exit: Exit, oom: bool, remaining: u32 },
    /// The tree of a run that had exited is empty now.
    TreeEmpty { replica: ReplicaId, run: RunId },
    /// The answer to `Action::Inspect`: who is still there.
    TreeRemains { replica: ReplicaId, run: RunId, processes: Vec<Remaining> },
    /// The last lines of a run's output, sent by the logs role after its exit.
    LastLines { replica: ReplicaId, run: RunId, lines: Vec<String> },
    /// One field of a notify datagram.
    Notified { replica: ReplicaId, run: RunId, message: NotifyMessage },
    /// The newline on the readiness descriptor.
    ReadyByFd { replica: ReplicaId, run: RunId },
    /// The text of `ready: Log(..)` was seen.
    ReadyByLog { replica: ReplicaId, run: RunId },
    /// A probe's answer; `generation` is that of `Action::Probe`.
    ProbeDone { replica: ReplicaId, run: RunId, generation: u64, result: Result<(), String> },
    /// An operator's verb.
    Command { request: RequestId, caller: Caller, verb: Verb, target: Target },
    /// A decision is on disk (or is not, with the reason).
    Persisted { decision: u64, result: Result<(), String> },
    /// A checked configuration is to be applied.
    Reload { request: Option<RequestId>, caller: Caller, plan: Box<Plan> },
    /// A configuration that was to be applied is not: why, in words.
    ReloadRefused { why: String },
    /// Stop everything in order, then `Action::Exit`. A second one kills at once.
    Shutdown { caller: Caller },
    /// The agent's own loop stood still for this long (or the host slept): deadlines are extended, nobody is blamed.
    Stalled { by: Duration, suspended: bool },
    /// Output lines of a service that had to be dropped, and why.
    LinesDropped { replica: ReplicaId, lines: u64, reason: String },
    /// A draining backend of a balancer has no connection left.
    Drained { balancer: String, replica: ReplicaId, run: RunId },
    /// The proxy keeps a backend out because connections to it fail (`Some`: why, and for how long), or takes it back.
    Ejected { balancer: String, backend: String, out: Option<(String, Duration)> },
    /// Something of the host's disks, NICs and sensors.
    Host(Box<HostEvent>),
    /// Something about a set of copies.
    Copies(Box<CopyEvent>),
    /// Something was written to the kernel for a tree, at this time (mono), or could not be, and why.
    Wrote { replica: ReplicaId, run: RunId, what: Wrote, at: Time, result: Result<Written, String> },
    /// The answer to `Action::Gauge`; a tree that is gone by now is missing.
    Gauged { asked: u64, gauges: Vec<Gauge> },
    /// Something of the shell that belongs into the journal: a configuration refused, a stranger's cgroup, a lost line.
    Remark { level: super::action::Level, text: String },
}

/// One record or populated group that an earlier agent left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    pub service: String,
    pub index: u16,
    pub memory: Memory,
    /// How to stop it, should the configuration no longer know it.
    pub stop: Stop,
    pub process: FoundProcess,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FoundProcess {
    /// The same process by every mark of its identity.
    Alive { pid: i32 },
    /// The main process is gone but its tree is populated.
    Leftovers { remaining: u32 },
    /// It ended while no agent lived (`Some`), or none was recorded as running (`None`).
    Gone { exit: Option<Exit> },
}

/// A process left in a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remaining {
    pub pid: i32,
    pub comm: String,
    /// The letter of /proc/PID/stat: `D` is uninterruptible sleep.
    pub state: char,
    /// The kernel function it sleeps in, empty when hidden.
    pub wchan: String,
    /// Of one in uninterruptible sleep: the block devices of the files that it has open (`dm-0`), as far as that can be told.
    #[serde(default)]
    pub devices: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NotifyMessage {
    Ready,
    Reloading,
    Stopping,
    Status(String),
    Errno(i32),
    Watchdog,
    /// WATCHDOG=trigger
    WatchdogTrigger,
    /// WATCHDOG_USEC: the interval changes.
    WatchdogInterval(Duration),
    ExtendTimeout(Duration),
    /// MAINPID: the runtime has verified that it is in the service's tree and watches it from now on.
    MainPid(i32),
}

/// Who asked: SO_PEERCRED of the connection, or a signal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Caller {
    Api { uid: u32, pid: i32, comm: String },
    Signal(String),
    Agent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    Start,
    Stop,
    /// One replica after the other.
    RestartRolling,
    RestartAtOnce,
    /// Takes replicas out of their balancers until `Undrain`; they go on running.
    Drain,
    Undrain,
    /// Until `Unfence`; `Kill` and `Hold` both end in a hold.
    Fence(FenceLevel),
    Unfence,
}

/// A service, or one replica of it. `wait`: answer when the outcome is known rather than when the decision is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub service: String,
    pub replica: Option<u16>,
    pub wait: Wait,
    /// The reason that the operator gave (`--why`).
    #[serde(default)]
    pub why: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wait {
    Outcome,
    Decision,
}

/// What an operator decided and what must last over a reboot: kept by the logs role in `state_dir`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub service: String,
    /// `None`: the whole service.
    pub replica: Option<u16>,
    pub wanted: Wanted,
    /// Out of its balancers, while it runs on.
    #[serde(default)]
    pub drained: bool,
    /// Fenced by hand.
    #[serde(default)]
    pub fence: Option<Box<FencedByHand>>,
    /// How often in a row the agent fenced it (of a replica): each time it is held twice as long.
    #[serde(default)]
    pub fences: u32,
    /// A restore of its data that is under way (of a whole service).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Box<ServiceRestore>>,
    /// Of a set of copies, not of a service: its services run from a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<Box<Failover>>,
}

/// A fence that an operator set: never lifted by the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FencedByHand {
    pub level: FenceLevel,
    /// Who asked, as the journal writes it.
    pub by: String,
    pub why: Option<String>,
    /// Wall clock.
    pub at: Time,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    #[default]
    Up,
    /// Stopped by an operator: nothing but `start` brings it back, not even a reboot.
    Down,
}
