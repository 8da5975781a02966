//! A new agent goes on with the fences of the last one, and with what operators had decided before a reboot.

use std::collections::BTreeSet;
use std::time::Duration;

use super::FenceMemory;
use super::plan::FenceLevel;
use super::record::{Record, Standing};
use super::records::Cause;
use super::state::Proof;
use crate::engine::Engine;
use crate::engine::types::{ReplicaId, StateName};

/// A proof that was awaited gets at least this much more.
const PROOF_LEFT_MIN: Duration = Duration::from_secs(2);

impl Engine {
    pub(in crate::engine) fn remember_fences(&mut self, memory: Option<FenceMemory>) {
        let mut memory = memory.unwrap_or_default();
        let above = memory.records.iter().map(|record| record.id + 1).max().unwrap_or(0);
        memory.next_id = memory.next_id.max(above);
        self.fence.memory = memory;
        self.drop_old_records();
    }

    /// After the adoption. `known`: replicas of which the last agent left a memory; what it says of a fence by hand goes before what is on
    /// disk, as the decision may not have got there.
    pub(in crate::engine) fn resume_fences(&mut self, known: &BTreeSet<ReplicaId>) {
        let all: Vec<ReplicaId> = self.services.keys().flat_map(|service| self.replicas_of(*service)).collect();
        for id in all {
            if !known.contains(&id) {
                self.fence_as_decided(id);
            } else if self.at(id).memory.fence.is_some() {
                self.resume_fence(id);
            } else {
                self.resume_probation(id);
                self.resume_budget_hold(id);
            }
            self.limit_adopted(id);
            self.note_fence(id);
        }
        self.close_orphans();
        self.look_at_memory();
        self.watch_groups();
    }

    /// A replica that this agent has never seen is fenced as an operator decided.
    pub(in crate::engine) fn fence_as_decided(&mut self, id: ReplicaId) {
        let service = self.service_at(id.service);
        let decided = self.at(id).decided.as_ref().unwrap_or(&service.decided);
        if let Some(fenced) = decided.fence.clone() {
            self.fence_by_hand(id, &fenced);
        }
    }

    fn resume_fence(&mut self, id: ReplicaId) {
        let Some(fence) = self.fence(id) else {
            return;
        };
        let cause = Cause {
            trigger: fence.trigger,
            why: fence.why.clone(),
            evidence: vec![fence.why.clone()],
            seen: fence.since_wall,
        };
        let runs = self.at(id).run.as_ref().is_some_and(|run| !run.exited);
        let awaited = match fence.proof {
            Proof::Awaited => true,
            // The last agent has not got to it.
            Proof::Idle => runs,
            Proof::Given | Proof::Missing => false,
        };
        let (record, level) = (fence.id, fence.level);
        let uncounted = !fence.is_by_hand() && self.fence_record(record).is_none();
        let decided = fence.decided;
        if uncounted {
            // Its record would have told of it, and is written together with the count.
            self.fence.memory.automatic.push(decided);
        }
        self.restore_record(id, record, &cause, Standing::Proving);
        self.bring_up_to_date(id);
        match level {
            FenceLevel::Throttle | FenceLevel::Freeze => {
                let at_least = self.now.mono.after(PROOF_LEFT_MIN);
                if let Some(fence) = self.memory_mut(id).fence.as_deref_mut() {
                    fence.prove_by = fence.prove_by.max(at_least);
                    fence.step_by = fence.step_by.max(at_least);
                    fence.asked_from = 0;
                    if awaited {
                        (fence.proof, fence.looks, fence.first) = (Proof::Awaited, 0, None);
                    }
                    // The limits are written anew, and what was refused before is not known.
                    fence.written &= fence.proof == Proof::Given;
                }
                if awaited { self.look_for_proof(id) } else { self.arm_fence(id) }
            }
            FenceLevel::Kill => {}
            FenceLevel::Hold => {
                self.arm_hold(id);
                if awaited && self.at(id).run.is_none() {
                    self.prove(id, "nothing runs, and nothing is started");
                }
            }
        }
    }

    /// The memory of a replica is written before the records: they may be one step behind it.
    fn bring_up_to_date(&mut self, id: ReplicaId) {
        let Some(fence) = self.fence(id) else {
            return;
        };
        let (record, level, proof) = (fence.id, fence.level, fence.proof);
        if self.fence_record(record).and_then(Record::level) != Some(level) {
            self.add_step(record, level, 0);
        }
        let Some(standing) = self.fence_record(record).map(|record| record.standing) else {
            return;
        };
        match proof {
            Proof::Given if standing != Standing::Proven => self.step_proven(id, "seen by an earlier agent"),
            Proof::Missing if standing != Standing::Incomplete => {
                self.step_unproven(id, "not seen by an earlier agent")
            }
            Proof::Given | Proof::Missing | Proof::Awaited | Proof::Idle => {}
        }
    }

    fn resume_probation(&mut self, id: ReplicaId) {
        if let Some(probation) = self.at(id).memory.probation.as_deref() {
            let why = probation.why.clone();
            let cause =
                Cause { trigger: probation.trigger, evidence: vec![why.clone()], why, seen: probation.since_wall };
            let record = probation.id;
            let ended = (probation.since_wall, "released by an earlier agent".to_owned());
            self.restore_record(id, record, &cause, Standing::Probation);
            if let Some(record) = self.record_mut(record) {
                record.standing = Standing::Probation;
                record.ended.get_or_insert(ended);
            }
            self.arm_probation(id);
        }
    }

    fn resume_budget_hold(&mut self, id: ReplicaId) {
        let Some(record) = self.at(id).memory.hold.and_then(|hold| hold.record) else {
            return;
        };
        if self.fence_record(record).is_none() {
            let cause = self.budget_cause(id);
            self.restore_record(id, record, &cause, Standing::Probation);
            self.add_step(record, FenceLevel::Hold, 0);
            if let Some(record) = self.record_mut(record) {
                record.standing = Standing::Probation;
            }
        }
        if self.at(id).memory.state == StateName::Failed {
            if let Some(record) = self.record_mut(record).filter(|record| record.standing == Standing::Probation) {
                record.standing = Standing::Proving;
            }
            self.prove_budget_hold(id);
        }
    }

    /// The record of a fence that stands, where it was not written in time.
    fn restore_record(&mut self, replica: ReplicaId, id: u64, cause: &Cause, standing: Standing) {
        if self.fence_record(id).is_some() {
            return;
        }
        let record = self.new_record(id, replica, cause, standing);
        self.fence.memory.records.push(record);
        self.fence.memory.next_id = self.fence.memory.next_id.max(id + 1);
        if standing == Standing::Proving
            && let Some(level) = self.fence_level(replica)
        {
            self.add_step(id, level, 0);
            if self.fence(replica).is_some_and(|fence| fence.proof == Proof::Given) {
                self.step_proven(replica, "by an earlier agent");
            }
        }
        self.fence.unsaved = true;
    }

    /// Records of fences that no replica has any more.
    fn close_orphans(&mut self) {
        let replicas = self.services.values().flat_map(|service| service.replicas.values());
        let known: BTreeSet<u64> = replicas
            .flat_map(|replica| {
                let memory = &replica.memory;
                let fence = memory.fence.as_ref().map(|fence| fence.id);
                let probation = memory.probation.as_ref().map(|probation| probation.id);
                [fence, probation, memory.hold.and_then(|hold| hold.record)]
            })
            .flatten()
            .collect();
        let records = self.fence.memory.records.iter();
        let orphans: Vec<u64> = records
            .filter(|record| record.standing != Standing::Released && record.standing != Standing::Observed)
            .map(|record| record.id)
            .filter(|id| !known.contains(id))
            .collect();
        for id in orphans {
            self.close_record(id, "it had ended when this agent began");
        }
    }

    /// The replica leaves the configuration.
    pub(in crate::engine) fn forget_fence(&mut self, id: ReplicaId) {
        let memory = &mut self.at_mut(id).memory;
        let (fence, probation, hold) = (memory.fence.take(), memory.probation.take(), memory.hold.take());
        self.forget_observed(id);
        self.fence.watched.remove(&id);
        let ids =
            [fence.map(|fence| fence.id), probation.map(|probation| probation.id), hold.and_then(|hold| hold.record)];
        for record in ids.into_iter().flatten() {
            self.close_record(record, "it left the configuration");
        }
    }
}
