//! The JSON of `GET /v1/fences`, of the evidence of one fence, and of limits.

use serde::{Deserialize, Serialize};

use super::proto::{NextStep, Word};
use super::render::Stamp;
use super::time::rfc3339_ns;
use crate::engine::event;
use crate::engine::fence::plan;
use crate::engine::fence::record::{self, Record};
use crate::engine::fence::view::{self, FencesView, LimitsView};
use crate::engine::types::Time;

/// `GET /v1/fences`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fences {
    pub at: String,
    pub seq: u64,
    /// Those that stand, and those whose service is on probation.
    pub fences: Vec<Fence>,
    /// Those that have ended or were only observed, the newest first.
    pub records: Vec<PastFence>,
    pub automatic: Automatic,
}

/// What the agent may do by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Automatic {
    pub used: u32,
    pub max: u32,
    pub within_ms: u64,
}

/// One that stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    pub service: String,
    pub replica: u16,
    #[serde(flatten)]
    pub fence: ReplicaFence,
}

/// The fence of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaFence {
    /// Of its evidence, `/v1/fences/records/ID`.
    pub id: u64,
    /// `throttle`, `freeze`, `kill` or `hold`; null on probation.
    pub level: Option<Word>,
    /// `proving`, `proven`, `incomplete` or `probation`.
    pub state: Word,
    /// `operator`, `restarts`, `cpu`, `pids`, `pressure`, `host_memory` or `probation`.
    pub trigger: Word,
    pub why: String,
    pub since: String,
    /// Null: only an operator ends it.
    pub next: Option<NextStep>,
}

/// One that is over, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastFence {
    pub id: u64,
    pub service: String,
    pub replica: u16,
    pub trigger: Word,
    /// The hardest that was taken; null when nothing was done.
    pub level: Option<Word>,
    /// `released` or `observed`.
    pub state: Word,
    pub why: String,
    pub fault_seen: String,
    pub ended: Option<Ended>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub at: String,
    pub why: String,
}

/// `GET /v1/fences/records/ID`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub at: String,
    pub seq: u64,
    pub id: u64,
    pub service: String,
    pub replica: u16,
    /// The run that was fenced.
    pub run: u32,
    pub trigger: Word,
    /// What was read, with numbers; of an operator: who, and the reason that was given.
    pub evidence: Vec<String>,
    pub fault_seen: String,
    /// `proving`, `proven`, `incomplete`, `probation`, `released` or `observed`.
    pub state: Word,
    /// Of `observed`: why nothing was done.
    pub observed_because: Option<String>,
    pub steps: Vec<Step>,
    /// The balancers that it left, and when.
    pub left: Vec<String>,
    pub left_at: Option<String>,
    /// What should be gone or still, and is not.
    pub remaining: Vec<RemainingProcess>,
    pub ended: Option<Ended>,
}

/// One step of the ladder. What times lie apart was measured on a clock that nobody sets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub level: Word,
    pub decided: String,
    pub written: Option<String>,
    /// After the decision.
    pub written_after_us: Option<u64>,
    pub proven: Option<String>,
    pub proven_after_us: Option<u64>,
    pub method: String,
    pub proof: String,
    pub processes_before: u32,
    pub processes_after: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemainingProcess {
    pub pid: i32,
    pub comm: String,
    pub state: String,
    /// The kernel function it sleeps in; empty when hidden.
    pub wchan: String,
    pub devices: Vec<String>,
}

/// Limits as they should be now, a fence or a probation counted in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Of one CPU.
    pub cpu_max_percent: Option<f64>,
    pub cpu_weight: Option<u16>,
    pub memory_max_bytes: Option<u64>,
    pub pids_max: Option<u32>,
    pub io_weight: Option<u16>,
    pub io_max: Vec<IoMax>,
    /// What is not in force of it, each with its reason.
    pub refused: Vec<String>,
}

/// A second, on the device of the path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoMax {
    pub path: String,
    pub read_bytes: Option<u64>,
    pub write_bytes: Option<u64>,
    pub read_operations: Option<u64>,
    pub write_operations: Option<u64>,
}

/// `GET /v1/fences`
#[must_use]
pub fn fences(view: &FencesView<'_>, stamp: &Stamp) -> Fences {
    let active = view.active.iter().map(|(record, fence)| Fence {
        service: record.service.clone(),
        replica: record.replica,
        fence: replica_fence(fence, stamp),
    });
    Fences {
        at: stamp.at(),
        seq: stamp.seq,
        fences: active.collect(),
        records: view.past.iter().map(|record| past(record)).collect(),
        automatic: Automatic {
            used: view.automatic_used,
            max: view.automatic_max,
            within_ms: u64::try_from(view.automatic_within.as_millis()).unwrap_or(u64::MAX),
        },
    }
}

/// Of a service's replica.
#[must_use]
pub fn replica_fence(fence: &view::ReplicaFence<'_>, stamp: &Stamp) -> ReplicaFence {
    let next = fence.next.map(|(what, due)| (what.to_owned(), due));
    ReplicaFence {
        id: fence.id,
        level: fence.level.map(|level| level.word().into()),
        state: fence.standing.word().into(),
        trigger: fence.trigger.word().into(),
        why: fence.why.to_owned(),
        since: at(fence.since_wall),
        next: stamp.next(next.as_ref()),
    }
}

fn past(record: &Record) -> PastFence {
    let why = record.evidence.first().cloned().unwrap_or_default();
    PastFence {
        id: record.id,
        service: record.service.clone(),
        replica: record.replica,
        trigger: record.trigger.word().into(),
        level: record.steps.iter().map(|step| step.level).max().map(|level| level.word().into()),
        state: record.standing.word().into(),
        why: record.observed_because.as_ref().map_or(why.clone(), |because| format!("{why}; not done: {because}")),
        fault_seen: at(record.fault_seen),
        ended: ended(record),
    }
}

/// `GET /v1/fences/records/ID`
#[must_use]
pub fn evidence(record: &Record, stamp: &Stamp) -> Evidence {
    Evidence {
        at: stamp.at(),
        seq: stamp.seq,
        id: record.id,
        service: record.service.clone(),
        replica: record.replica,
        run: record.run.0,
        trigger: record.trigger.word().into(),
        evidence: record.evidence.clone(),
        fault_seen: at(record.fault_seen),
        state: record.standing.word().into(),
        observed_because: record.observed_because.clone(),
        steps: record.steps.iter().map(step).collect(),
        left: record.left.clone(),
        left_at: record.left_at.map(at),
        remaining: record.remaining.iter().map(remaining).collect(),
        ended: ended(record),
    }
}

fn step(step: &record::StepTaken) -> Step {
    Step {
        level: step.level.word().into(),
        decided: at(step.decided),
        written: step.written.map(at),
        written_after_us: step.written_after_us,
        proven: step.proven.map(at),
        proven_after_us: step.proven_after_us,
        method: step.method.clone(),
        proof: step.proof.clone(),
        processes_before: step.processes_before,
        processes_after: step.processes_after,
    }
}

fn remaining(process: &event::Remaining) -> RemainingProcess {
    let event::Remaining { pid, comm, state, wchan, devices } = process;
    RemainingProcess {
        pid: *pid,
        comm: comm.clone(),
        state: state.to_string(),
        wchan: wchan.clone(),
        devices: devices.clone(),
    }
}

fn ended(record: &Record) -> Option<Ended> {
    record.ended.as_ref().map(|(time, why)| Ended { at: at(*time), why: why.clone() })
}

/// `None`: there are none.
#[must_use]
pub fn limits(view: &LimitsView<'_>) -> Option<Limits> {
    if view.wanted == plan::Limits::default() && view.refused.is_empty() {
        return None;
    }
    let plan::Limits { cpu_max_permille, cpu_weight, memory_max_bytes, pids_max, io_weight, io_max } = &view.wanted;
    Some(Limits {
        cpu_max_percent: cpu_max_permille.map(|permille| f64::from(permille) / 10.0),
        cpu_weight: *cpu_weight,
        memory_max_bytes: *memory_max_bytes,
        pids_max: *pids_max,
        io_weight: *io_weight,
        io_max: io_max.iter().map(self::io_max).collect(),
        refused: view.refused.to_vec(),
    })
}

fn io_max(limit: &plan::IoMax) -> IoMax {
    let plan::IoMax { path, read_bytes, write_bytes, read_operations, write_operations } = limit;
    IoMax {
        path: path.display().to_string(),
        read_bytes: *read_bytes,
        write_bytes: *write_bytes,
        read_operations: *read_operations,
        write_operations: *write_operations,
    }
}

fn at(time: Time) -> String {
    rfc3339_ns(time.0)
}

#[cfg(test)]
#[path = "fences_tests.rs"]
mod tests;
