//! A spent restart budget is a fence of its own kind: `failed`, a hold, one try. Its record lasts until the budget is full again.

use std::time::Duration;

use super::plan::{FenceLevel, Mode};
use super::record::{Standing, Trigger};
use super::records::Cause;
use crate::engine::Engine;
use crate::engine::types::{ReplicaId, human};

impl Engine {
    /// Whether a spent budget holds; and if it would, that is said.
    pub(in crate::engine) fn budget_holds(&mut self, id: ReplicaId) -> bool {
        match self.read_fence_plan(id.service, |plan| plan.triggers.restarts) {
            Mode::On => true,
            Mode::Off => false,
            Mode::DryRun => {
                let cause = self.budget_cause(id);
                self.observe(id, &cause, FenceLevel::Hold, "`restarts` is a dry run");
                false
            }
        }
    }

    pub(in crate::engine) fn budget_cause(&self, id: ReplicaId) -> Cause {
        let memory = &self.at(id).memory;
        let within = self.plan_of(id.service).budget.map(|budget| budget.within).unwrap_or_default();
        let failures = format!("{} failures within {}", memory.budget_marks.len(), human(within));
        let last = memory.last_exit.map(|last| format!("run {} {}", last.run.0, last.exit));
        Cause {
            trigger: Trigger::Restarts,
            why: "its restart budget is spent".to_owned(),
            evidence: [failures].into_iter().chain(last).collect(),
            seen: self.now.wall,
        }
    }

    /// The budget is spent, for the first time or by the one try.
    pub(in crate::engine) fn record_budget_hold(&mut self, id: ReplicaId, length: Duration) {
        let known = self.at(id).memory.hold.and_then(|hold| hold.record);
        let record = match known.filter(|record| self.fence_record(*record).is_some()) {
            Some(record) => {
                self.add_evidence(record, format!("the one try failed: held for {}", human(length)));
                record
            }
            None => {
                let cause = self.budget_cause(id);
                self.open_record(id, &cause, Standing::Proving)
            }
        };
        self.add_step(record, FenceLevel::Hold, 0);
        if let Some(hold) = &mut self.memory_mut(id).hold {
            hold.record = Some(record);
        }
        self.alert_timer();
    }

    /// Nothing runs while it is held.
    pub(in crate::engine) fn prove_budget_hold(&mut self, id: ReplicaId) {
        let now = self.now.wall;
        let Some(record) = self.at(id).memory.hold.and_then(|hold| hold.record) else {
            return;
        };
        let Some(record) = self.record_mut(record).filter(|record| record.standing == Standing::Proving) else {
            return;
        };
        record.standing = Standing::Proven;
        if let Some(step) = record.steps.last_mut() {
            step.proven = Some(now);
            step.proven_after_us = u64::try_from(now.since(step.decided).as_micros()).ok();
            step.proof = "nothing runs, and nothing is started".to_owned();
            step.processes_after = Some(0);
        }
    }

    /// The one try.
    pub(in crate::engine) fn budget_hold_on_trial(&mut self, id: ReplicaId) {
        let record = self.at(id).memory.hold.and_then(|hold| hold.record);
        if let Some(record) = record.and_then(|record| self.record_mut(record)) {
            record.standing = Standing::Probation;
        }
    }

    /// The hold, or what is remembered of it, is over.
    pub(in crate::engine) fn end_budget_hold(&mut self, id: ReplicaId, why: &str) {
        if let Some(record) = self.memory_mut(id).hold.take().and_then(|hold| hold.record) {
            self.close_record(record, why);
            self.alert_timer();
        }
    }
}
