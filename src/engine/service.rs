//! One replica: its states, the legal edges between them, and what is known of its present run.
//!
//! A replica has at most one run at a time: from the `Spawn` action until its process tree is known to be empty. `Replica::run` is
//! `Some` exactly in the states in which a process may exist (`Starting`, `Ready`, `Degraded`, `Stopping`, `Stuck`), and no
//! spawn is possible while it is.
//!
//! What must survive the agent's death is in `Memory`; what an adopting agent can find out again is here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::{FencedByHand, Remaining, Wanted};
use super::memory::Memory;
use super::plan::ServicePlan;
use super::replicas::Replicas;
use super::types::{ReplicaId, RequestId, RunId, ServiceId, StateName, Time};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum State {
    /// Between `Engine::new` and `Event::Begin`.
    Adopting,
    Stopped,
    /// `hopeful`: nothing it waits for has failed yet, so others may well wait for it.
    Waiting {
        on: Vec<Blocker>,
        hopeful: bool,
    },
    Starting,
    Ready,
    Degraded,
    Stopping {
        phase: Phase,
        why: StopWhy,
        then: Then,
    },
    Backoff {
        until: Time,
    },
    /// Why and until when is in `Memory::hold`; without a hold only an operator (or the next period) starts it again.
    Failed,
    Done,
    /// Killed, but its tree is not empty. `interval` is the time between two looks.
    Stuck {
        why: StopWhy,
        then: Then,
        processes: Vec<Remaining>,
        interval: Duration,
    },
}

impl State {
    pub(super) fn name(&self) -> StateName {
        match self {
            Self::Adopting => StateName::Adopting,
            Self::Stopped => StateName::Stopped,
            Self::Waiting { .. } => StateName::Waiting,
            Self::Starting => StateName::Starting,
            Self::Ready => StateName::Ready,
            Self::Degraded => StateName::Degraded,
            Self::Stopping { .. } => StateName::Stopping,
            Self::Backoff { .. } => StateName::Backoff,
            Self::Failed => StateName::Failed,
            Self::Done => StateName::Done,
            Self::Stuck { .. } => StateName::Stuck,
        }
    }
}

/// Whether a replica may go from one state to another. A restart without delay goes to `Starting` directly.
pub(super) fn is_legal(from: StateName, to: StateName) -> bool {
    use StateName as S;
    // At once stopped is what is held for how it ended, and what had left the configuration and only stayed for its connections.
    let after_a_run = matches!(to, S::Backoff | S::Failed | S::Done | S::Starting | S::Waiting | S::Stopped);
    match from {
        S::Adopting => to != S::Adopting,
        // What was done when it was held is done when the hold is over.
        S::Stopped => matches!(to, S::Waiting | S::Starting | S::Done),
        S::Waiting => matches!(to, S::Stopped | S::Starting),
        S::Starting => matches!(to, S::Ready | S::Stopping) || after_a_run,
        S::Ready => matches!(to, S::Degraded | S::Stopping) || after_a_run,
        S::Degraded => matches!(to, S::Ready | S::Stopping) || after_a_run,
        S::Stopping => to == S::Stuck || after_a_run,
        S::Stuck => after_a_run,
        S::Backoff | S::Failed | S::Done => matches!(to, S::Waiting | S::Starting | S::Stopped),
    }
}

/// What holds a waiting replica back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Blocker {
    Service(ServiceId),
    /// Pacing: too many others are starting.
    Slot,
    /// A disk that it needs fails.
    Disk,
    /// Its data are moved to the disk of their copies, or back.
    Copies,
}

/// How far a stop has come. Every phase but the first has a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// Nothing is signalled before those that need it are gone.
    Dependents,
    /// It is offered to no new client, and the connections that it has may end.
    Drain,
    /// SIGABRT was sent, so that a core can be written.
    Abort,
    /// The stop signal was sent to the main process.
    Term,
    /// The main process is gone; SIGTERM was sent to the rest of the tree.
    Linger,
    /// The whole tree was killed.
    Killed,
    /// Asked who is still there.
    Inspecting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum StopWhy {
    Operator,
    Restart,
    NewConfig,
    DependencyLost(ServiceId),
    RestartWith(ServiceId),
    /// It is started again when the disk is well.
    DiskFailing,
    /// Down while its data is copied or restored.
    ForCopies,
    /// It is started again when its data are where they are to be.
    DataMove,
    Shutdown,
    Removed,
    NotReady,
    NotAlive,
    Watchdog,
    /// The main process ended by itself and left others behind.
    Ended,
    /// An earlier agent had begun this stop on account of a failure.
    Resumed,
    /// Killed by a fence, and held then.
    Fenced,
    /// Killed by a fence, and left to the restart policy then.
    FencedOnce,
}

impl StopWhy {
    /// Whether the exit that follows was asked for, and so is no failure.
    pub(super) fn is_requested(self) -> bool {
        match self {
            Self::Operator
            | Self::Restart
            | Self::NewConfig
            | Self::DependencyLost(_)
            | Self::RestartWith(_)
            | Self::DiskFailing
            | Self::ForCopies
            | Self::DataMove
            | Self::Shutdown
            | Self::Removed
            | Self::Fenced => true,
            Self::NotReady | Self::NotAlive | Self::Watchdog | Self::Ended | Self::Resumed | Self::FencedOnce => false,
        }
    }

    /// Whether a fence kills: nobody is asked.
    pub(super) fn is_fence(self) -> bool {
        matches!(self, Self::Fenced | Self::FencedOnce)
    }
}

/// What becomes of a replica once its tree is empty. An operator's word in the meantime goes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Then {
    /// Start again if it is wanted.
    Settle,
    Backoff {
        until: Time,
    },
    Fail,
    Done,
}

/// What its dependents see of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Standing {
    Up,
    /// On its way up for the first time, so to speak: worth waiting for even where it is only wanted.
    Hopeful,
    /// On its way up after a failure.
    Coming,
    Gone,
}

/// What of a replica is counted in its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) standing: Standing,
    /// Its process may exist and is not known to be stuck.
    pub(super) running: bool,
    pub(super) starting: bool,
    /// In `Phase::Dependents`.
    pub(super) leaving: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Replica {
    pub(super) memory: Memory,
    pub(super) state: State,
    pub(super) run: Option<Run>,
    /// It leaves the configuration: stop, then forget.
    pub(super) removed: bool,
    /// The operator's decision about this one replica that is (or is to be) on disk.
    pub(super) decided: Option<Decided>,
    /// While it drains: the balancers that have said that it has no connection left.
    pub(super) emptied: BTreeSet<String>,
    /// To be stopped (if it runs) and started again, whatever the policy says.
    pub(super) restart: Option<StopWhy>,
    /// The next start is the policy's, not one that somebody asked for.
    pub(super) unasked: bool,
    /// The latest run has been up.
    pub(super) was_up: bool,
    /// Its place in the queue for a start slot.
    pub(super) ticket: Option<u64>,
    pub(super) has_slot: bool,
    pub(super) last_lines: Vec<String>,
    pub(super) seen: Seen,
}

impl Replica {
    pub(super) fn new(memory: Memory) -> Self {
        Self {
            memory,
            state: State::Adopting,
            run: None,
            removed: false,
            decided: None,
            emptied: BTreeSet::new(),
            restart: None,
            unasked: false,
            was_up: false,
            ticket: None,
            has_slot: false,
            last_lines: Vec::new(),
            seen: Seen { standing: Standing::Gone, running: false, starting: false, leaving: false },
        }
    }
}

/// The present run: from its spawn until its tree is empty.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) pid: Option<i32>,
    /// The child exists.
    pub(super) spawned: bool,
    pub(super) executed: bool,
    /// The main process is gone, and its exit was counted.
    pub(super) exited: bool,
    /// Other processes in the tree when the main one ended.
    pub(super) remaining: u32,
    pub(super) exec_error: Option<Box<str>>,
    /// The probe under way.
    pub(super) probe: Option<u64>,
    pub(super) probe_sent: Time,
    /// Between two readiness probes.
    pub(super) interval: Duration,
    /// Alive probes in a row.
    pub(super) failures: u32,
    pub(super) successes: u32,
    /// It was left alone, and that was told.
    pub(super) excused: bool,
    /// The latest answer of a failed probe.
    pub(super) answer: Option<Box<str>>,
    /// WATCHDOG_USEC, where it differs from the plan.
    pub(super) watchdog: Option<Duration>,
    /// Of a run that is being stopped: what it was to its balancers until then.
    pub(super) served: Option<Served>,
    /// Limits that are not in force, each with its reason.
    pub(super) refused: Option<Box<[String]>>,
    /// They have changed since its spawn was decided.
    pub(super) limits_due: bool,
}

/// What a replica that was up was to its balancers when its stop began. It serves on until those that need it are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Served {
    /// Not degraded.
    pub(super) well: bool,
    pub(super) ready_since: Option<Time>,
}

/// What operators decided of a service or a replica; the default is what a configured service is without them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Decided {
    pub(super) wanted: Wanted,
    pub(super) drained: bool,
    pub(super) fence: Option<Box<FencedByHand>>,
}

/// What is on disk of a replica that is not in the configuration (any more).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) decided: Decided,
    /// Fences of the agent's own in a row.
    pub(super) fences: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Service {
    pub(super) plan: PlanRef,
    /// Part of the agent itself: not stopped by operators, nor by a shutdown.
    pub(super) is_role: bool,
    pub(super) removed: bool,
    pub(super) spec_hash: u64,
    /// Up unless an operator stopped the whole service.
    pub(super) decided: Decided,
    pub(super) replicas: Replicas,
    /// The last runs of replicas that were forgotten: should they come back, their runs go on from there.
    pub(super) last_runs: BTreeMap<u16, RunId>,
    /// And what had been decided of them.
    #[serde(default)]
    pub(super) kept: BTreeMap<u16, Kept>,
    pub(super) edges: Edges,
    pub(super) counts: Counts,
    pub(super) summary: Summary,
    /// No replica has been up for longer than `LOSS_AFTER`.
    pub(super) late: bool,
    pub(super) rolling: Option<Box<Rolling>>,
    pub(super) requests: Vec<RequestId>,
}

/// Where a service's plan is: in the accepted configuration, or kept here while the service is on its way out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum PlanRef {
    At(usize),
    Own(Box<ServicePlan>),
}

/// The dependencies of a service, resolved, and the reverse of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Edges {
    pub(super) requires: Vec<ServiceId>,
    pub(super) wants: Vec<ServiceId>,
    pub(super) after: Vec<ServiceId>,
    pub(super) restart_with: Vec<ServiceId>,
    /// By any kind of edge, each once.
    pub(super) dependents: Vec<ServiceId>,
    pub(super) required_by: Vec<ServiceId>,
    pub(super) restarted_by: Vec<ServiceId>,
}

impl Edges {
    /// Every dependency, those of several kinds several times.
    pub(super) fn dependencies(&self) -> impl Iterator<Item = ServiceId> + '_ {
        self.requires.iter().chain(&self.wants).chain(&self.after).chain(&self.restart_with).copied()
    }
}

/// Replicas by what their dependents see of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    pub(super) up: u32,
    pub(super) hopeful: u32,
    /// The hopeful ones included.
    pub(super) coming: u32,
    pub(super) running: u32,
    pub(super) starting: u32,
    /// In `Phase::Dependents`.
    pub(super) leaving: u32,
}

/// What of the counts matters to dependents; when it changes they are looked at again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Summary {
    pub(super) is_up: bool,
    pub(super) is_hopeful: bool,
    pub(super) is_starting: bool,
    pub(super) is_lost: bool,
}

/// A restart of one replica after the other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Rolling {
    pub(super) why: StopWhy,
    pub(super) queue: VecDeque<u16>,
    /// The one that is on its way, and the run it had.
    pub(super) current: Option<(u16, RunId)>,
}

/// A memory of a replica that was never started.
pub(super) fn fresh_memory(decided: &Decided, run: RunId, spec_hash: u64, wall: Time) -> Memory {
    Memory {
        wanted: decided.wanted,
        drained: decided.drained,
        frozen: false,
        post_owed: false,
        limited: false,
        fence: None,
        probation: None,
        fences: 0,
        state: StateName::Adopting,
        run,
        since_wall: wall,
        ready_since: None,
        started_mono: Time(0),
        started_boot: Time(0),
        restarts: 0,
        failures: 0,
        budget_marks: VecDeque::new(),
        hold: None,
        last_exit: None,
        requested: false,
        draining_since: None,
        port: None,
        sockets: BTreeMap::new(),
        causes: VecDeque::new(),
        spec_hash,
        turn: None,
        status_text: None,
        changes: VecDeque::new(),
    }
}

/// Every replica of these services, for marking them.
pub(super) fn replica_ids(services: &BTreeMap<ServiceId, Box<Service>>, service: ServiceId) -> Vec<ReplicaId> {
    let replicas = services.get(&service).map(|service| service.replicas.indices());
    replicas.into_iter().flatten().map(|index| ReplicaId { service, index }).collect()
}
