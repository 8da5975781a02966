//! The evidence, kept: a record is opened with a fence, gets its steps and what proves them, and is closed when the fence has ended.

use super::note::FenceNote;
use super::plan::FenceLevel;
use super::record::{Record, Standing, StepTaken, Trigger};
use crate::engine::Engine;
use crate::engine::action::{Level, Note, NoteKind, Subject};
use crate::engine::event::Remaining;
use crate::engine::types::{ReplicaId, Time};

/// Records of fences that have ended; the oldest beyond it are in the journal only. One that stands is never dropped.
pub(in crate::engine) const ENDED_MAX: usize = 64;
/// Of one record; the first and the latest are kept.
const STEPS_MAX: usize = 32;
const EVIDENCE_MAX: usize = 16;
const REMAINING_MAX: usize = 16;

/// Why a fence is set.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Cause {
    pub(in crate::engine) trigger: Trigger,
    /// In a few words.
    pub(in crate::engine) why: String,
    /// What was read, with numbers.
    pub(in crate::engine) evidence: Vec<String>,
    /// When it was first seen (wall).
    pub(in crate::engine) seen: Time,
}

impl Engine {
    /// The number of a record: by the wall clock in milliseconds, so that it is above all that an earlier boot gave, and never twice.
    pub(in crate::engine) fn next_record(&mut self) -> u64 {
        const NANOS_PER_MILLI: u64 = 1_000_000;
        let memory = &mut self.fence.memory;
        let id = memory.next_id.max(self.now.wall.0 / NANOS_PER_MILLI);
        memory.next_id = id + 1;
        id
    }

    pub(in crate::engine) fn open_record(&mut self, replica: ReplicaId, cause: &Cause, standing: Standing) -> u64 {
        let id = self.next_record();
        let record = self.new_record(id, replica, cause, standing);
        self.fence.memory.records.push(record);
        self.fence.unsaved = true;
        id
    }

    pub(in crate::engine) fn new_record(
        &self,
        id: u64,
        replica: ReplicaId,
        cause: &Cause,
        standing: Standing,
    ) -> Record {
        let mut evidence = cause.evidence.clone();
        evidence.truncate(EVIDENCE_MAX);
        Record {
            id,
            service: self.name(replica.service).to_owned(),
            replica: replica.index,
            run: self.at(replica).memory.run,
            trigger: cause.trigger,
            evidence,
            fault_seen: cause.seen,
            standing,
            observed_because: None,
            steps: Vec::new(),
            left: Vec::new(),
            left_at: None,
            remaining: Vec::new(),
            ended: None,
        }
    }

    /// To be changed: it will be handed out at the end of the step.
    pub(in crate::engine) fn record_mut(&mut self, id: u64) -> Option<&mut Record> {
        let record = self.fence.memory.records.iter_mut().rev().find(|record| record.id == id)?;
        self.fence.unsaved = true;
        Some(record)
    }

    /// The record of the fence that stands.
    pub(in crate::engine) fn standing_record(&mut self, id: ReplicaId) -> Option<&mut Record> {
        let record = self.at(id).memory.fence.as_ref()?.id;
        self.record_mut(record)
    }

    pub(in crate::engine) fn add_step(&mut self, record: u64, level: FenceLevel, processes_before: u32) {
        let decided = self.now.wall;
        let Some(record) = self.record_mut(record) else {
            return;
        };
        record.standing = Standing::Proving;
        if record.steps.len() >= STEPS_MAX {
            record.steps.remove(1);
        }
        record.steps.push(StepTaken {
            level,
            decided,
            written: None,
            written_after_us: None,
            proven: None,
            proven_after_us: None,
            method: String::new(),
            proof: String::new(),
            processes_before,
            processes_after: None,
        });
    }

    pub(in crate::engine) fn add_evidence(&mut self, record: u64, text: String) {
        if let Some(record) = self.record_mut(record)
            && record.evidence.len() < EVIDENCE_MAX
        {
            record.evidence.push(text);
        }
    }

    pub(in crate::engine) fn remember_remaining(&mut self, record: u64, processes: &[Remaining]) {
        if let Some(record) = self.record_mut(record) {
            record.remaining = processes.iter().take(REMAINING_MAX).cloned().collect();
        }
    }

    /// Balancers that had given it connections until now, and do not any more.
    pub(in crate::engine) fn remember_left(&mut self, id: ReplicaId, record: u64) {
        use crate::engine::balance::table::Standing as Offer;
        let name = self.backend_name(id);
        let offers = |offer: Offer| matches!(offer, Offer::Up | Offer::Degraded);
        let tables = self.told.values();
        let left: Vec<String> = tables
            .filter(|table| table.backends.iter().any(|one| one.name == name && offers(one.standing)))
            .map(|table| table.balancer.clone())
            .collect();
        let now = self.now.wall;
        if let Some(record) = self.record_mut(record).filter(|record| record.left_at.is_none() && !left.is_empty()) {
            record.left = left;
            record.left_at = Some(now);
        }
    }

    /// The fence has ended, and nothing more comes of it.
    pub(in crate::engine) fn close_record(&mut self, id: u64, why: &str) {
        let now = self.now.wall;
        let Some(record) = self.record_mut(id) else {
            return;
        };
        match record.standing {
            Standing::Proving | Standing::Proven | Standing::Incomplete | Standing::Probation => {
                record.standing = Standing::Released;
            }
            Standing::Released | Standing::Observed => {}
        }
        record.ended.get_or_insert_with(|| (now, why.to_owned()));
        let record = Box::new(record.clone());
        let subject = Subject { service: record.service.clone(), replica: self.replica_in_words(&record) };
        let kind = NoteKind::Fence(FenceNote::Closed { record });
        self.out.push(crate::engine::action::Action::Note(Note { level: Level::Debug, subject: Some(subject), kind }));
        self.drop_old_records();
    }

    fn replica_in_words(&self, record: &Record) -> Option<u16> {
        let service = self.service_id(&record.service)?;
        let id = ReplicaId { service, index: record.replica };
        if self.find(id).is_some() { self.subject(id).replica } else { Some(record.replica) }
    }

    pub(in crate::engine) fn drop_old_records(&mut self) {
        let records = &mut self.fence.memory.records;
        let mut beyond = records.iter().filter(|record| is_over(record)).count().saturating_sub(ENDED_MAX);
        records.retain(|record| {
            let drops = beyond > 0 && is_over(record);
            beyond -= usize::from(drops);
            !drops
        });
    }

    /// A step has been written to the kernel, at this time (mono).
    pub(in crate::engine) fn step_written(
        &mut self,
        id: ReplicaId,
        level: FenceLevel,
        at: Time,
        written: Result<&super::gauge::Written, &str>,
    ) {
        let now = self.now;
        let Some(fence) = self.at(id).memory.fence.as_ref() else {
            return;
        };
        let decided = (fence.level == level).then_some(fence.decided);
        let record = fence.id;
        let Some(record) = self.record_mut(record) else {
            return;
        };
        let Some(step) = record.steps.iter_mut().rev().find(|step| step.level == level && step.written.is_none())
        else {
            return;
        };
        match written {
            Ok(written) => {
                let wall = Time(now.wall.0.saturating_sub(now.mono.0.saturating_sub(at.0)));
                let after = decided.map_or_else(|| wall.since(step.decided), |decided| at.since(decided));
                step.written = Some(Time(wall.0.max(step.decided.0)));
                step.written_after_us = u64::try_from(after.as_micros()).ok();
                step.method = written.method.clone();
                step.processes_before = written.processes;
            }
            Err(why) if step.proven.is_none() => step.proof = format!("could not be written: {why}"),
            // What did not run is proven until its next start, and what is refused then is told of the limits.
            Err(_) => {}
        }
    }

    /// The present step has its proof now.
    pub(in crate::engine) fn step_proven(&mut self, id: ReplicaId, proof: &str) {
        let now = self.now;
        let Some(fence) = self.at(id).memory.fence.as_deref() else {
            return;
        };
        let (level, decided) = (fence.level, fence.decided);
        let Some(record) = self.standing_record(id) else {
            return;
        };
        record.standing = Standing::Proven;
        record.remaining.clear();
        if let Some(step) = record.steps.last_mut() {
            step.proven = Some(now.wall);
            step.proven_after_us = u64::try_from(now.mono.since(decided).as_micros()).ok();
            step.proof = proof.to_owned();
            if level >= FenceLevel::Kill {
                step.processes_after = Some(0);
            }
        }
    }

    /// It has not; why is told once.
    pub(in crate::engine) fn step_unproven(&mut self, id: ReplicaId, why: &str) {
        if let Some(record) = self.standing_record(id) {
            record.standing = Standing::Incomplete;
            if let Some(step) = record.steps.last_mut() {
                step.proof = why.to_owned();
            }
        }
    }
}

fn is_over(record: &Record) -> bool {
    match record.standing {
        Standing::Released | Standing::Observed => true,
        Standing::Proving | Standing::Proven | Standing::Incomplete | Standing::Probation => false,
    }
}
