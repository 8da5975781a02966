//! The end of a fence, and the probation after one that the agent had set.
//!
//! On probation a replica has half its CPU time and I/O and a quarter of its weight, and is in its balancers only when it has been ready for three
//! good alive probes, where it has such. It passes after `probation` of ready time (a task when it is done): one off the count. If it
//! fails meanwhile, it is held again, twice as long.

use super::note::FenceNote;
use super::plan::{FenceLevel, Rung};
use super::record::{Standing, Trigger};
use super::records::Cause;
use super::state::Probation;
use crate::engine::Engine;
use crate::engine::access::Because;
use crate::engine::action::{Action, Level, Next, NoteKind};
use crate::engine::service::{self, State};
use crate::engine::timers::{Timer, TimerKey};
use crate::engine::types::{ReplicaId, StateName, human};

/// Decisions of the agent itself that wait for the disk; of older ones nobody waits for the answer.
const DECISIONS_MAX: usize = 64;

/// What follows a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Then {
    Probation,
    /// An operator ended it.
    Free,
}

impl Engine {
    /// The fence ends, and all that it brought.
    pub(in crate::engine) fn release(&mut self, id: ReplicaId, why: &str, then: Then) {
        let Some(fence) = self.memory_mut(id).fence.take() else {
            return;
        };
        self.disarm(id, Timer::Fence);
        self.boot_timers.cancel(TimerKey::Replica(id, Timer::Hold));
        self.fence.watched.remove(&id);
        let text = match then {
            Then::Probation => {
                let time = self.read_fence_plan(id.service, |plan| plan.probation);
                format!("on probation until it has been ready for {}", human(time))
            }
            Then::Free => "as before".to_owned(),
        };
        let note = FenceNote::Released { id: fence.id, why: why.to_owned(), then: text };
        self.tell(id, Level::Info, NoteKind::Fence(note));
        match then {
            Then::Probation => self.begin_probation(id, fence.id, fence.trigger, fence.why, why),
            Then::Free => self.close_record(fence.id, why),
        }
        // Those of a probation before this fence are in force still.
        let limited = self.at(id).memory.limited;
        if fence.throttled || limited || then == Then::Probation {
            self.limit_again(id);
        }
        self.freeze_or_thaw(id);
        if self.at(id).state == State::Stopped && self.is_wanted(id) {
            self.at_mut(id).unasked = then == Then::Probation;
            if fence.done {
                self.set_state(id, State::Done, Because::Told);
            }
        }
        self.arm_probation(id);
        self.watch_group(id);
        self.fence_changed(id);
    }

    fn begin_probation(&mut self, id: ReplicaId, record: u64, trigger: Trigger, why: String, ended: &str) {
        let now = self.now.wall;
        let probation = Probation { id: record, trigger, why, since_wall: now, good: 0 };
        self.memory_mut(id).probation = Some(Box::new(probation));
        if let Some(record) = self.record_mut(record) {
            record.standing = Standing::Probation;
            record.remaining.clear();
            record.ended = Some((now, ended.to_owned()));
        }
    }

    /// The time of a hold is over.
    pub(in crate::engine) fn hold_over(&mut self, id: ReplicaId) {
        if !self.is_held(id) {
            return;
        }
        if self.at(id).run.is_some() {
            // Something of the last run does not get away: its end is waited for first.
            let length = self.hold_length(id);
            let now = self.now.boot;
            if let Some(fence) = self.memory_mut(id).fence.as_deref_mut() {
                fence.until = length.map(|length| now.after(length));
            }
            return self.arm_hold(id);
        }
        self.release(id, "its time is over", Then::Probation);
    }

    /// It passes when it has been ready for long enough.
    pub(in crate::engine) fn arm_probation(&mut self, id: ReplicaId) {
        let memory = &self.at(id).memory;
        if memory.probation.is_none() || memory.fence.is_some() {
            return;
        }
        match memory.ready_since.filter(|_| !memory.frozen) {
            Some(since) => {
                let time = self.read_fence_plan(id.service, |plan| plan.probation);
                self.arm(id, Timer::Fence, since.after(time));
            }
            None => self.disarm(id, Timer::Fence),
        }
    }

    /// The probation is passed.
    pub(in crate::engine) fn probation_over(&mut self, id: ReplicaId) {
        let memory = self.memory_mut(id);
        let Some(probation) = memory.probation.take() else {
            return;
        };
        memory.fences = memory.fences.saturating_sub(1);
        self.keep_count(id);
        self.disarm(id, Timer::Fence);
        self.note(id, Level::Info, NoteKind::Fence(FenceNote::Passed { id: probation.id }));
        self.close_record(probation.id, "probation passed");
        self.limit_again(id);
        self.fence_changed(id);
    }

    /// It ends without having been passed.
    pub(in crate::engine) fn drop_probation(&mut self, id: ReplicaId, why: &str) {
        if let Some(probation) = self.memory_mut(id).probation.take() {
            self.disarm(id, Timer::Fence);
            self.close_record(probation.id, why);
        }
    }

    /// Whether it is not yet to be given connections.
    pub(in crate::engine) fn awaits_probes(&self, id: ReplicaId) -> bool {
        let probation = self.at(id).memory.probation.as_ref();
        probation.is_some_and(|probation| probation.good < Probation::GOOD_PROBES)
            && self.plan_of(id.service).alive.is_some()
    }

    /// An alive probe was answered.
    pub(in crate::engine) fn count_on_probation(&mut self, id: ReplicaId, well: bool) {
        let Some(probation) = self.at_mut(id).memory.probation.as_deref_mut() else {
            return;
        };
        let good = if well { probation.good.saturating_add(1).min(Probation::GOOD_PROBES) } else { 0 };
        if probation.good != good {
            probation.good = good;
            self.unsaved.insert(id);
            self.refresh(id);
        }
    }

    /// A failure while on probation: held again, where the ladder has a hold.
    pub(in crate::engine) fn fails_probation(&mut self, id: ReplicaId) -> Option<(service::Then, Next)> {
        let probation = self.at(id).memory.probation.as_deref()?;
        if !self.read_fence_plan(id.service, |plan| plan.ladder.contains(&Rung::Hold)) {
            return None;
        }
        let mut evidence = vec![format!("it was on probation after fence {} ({})", probation.id, probation.why)];
        let last = self.at(id).memory.last_exit.filter(|last| last.run == self.at(id).memory.run);
        evidence.extend(last.map(|last| {
            let oom = if last.oom { " (out of memory)" } else { "" };
            format!("run {} {}{oom}", last.run.0, last.exit)
        }));
        let cause = Cause {
            trigger: Trigger::Probation,
            why: "it failed on probation".to_owned(),
            evidence,
            seen: self.now.wall,
        };
        if let Some(because) = self.beyond_radius_of_the_failed(id) {
            self.observe(id, &cause, FenceLevel::Hold, &because);
            return None;
        }
        self.count_automatic();
        self.begin_fence(id, &cause);
        self.step_to(id, FenceLevel::Hold);
        let why = match self.hold_length(id) {
            Some(length) => format!("it failed on probation and is held for {}", human(length)),
            None => "it failed on probation and is held until `unfence`".to_owned(),
        };
        Some((service::Then::Settle, Next::Nothing { why }))
    }

    /// A task on probation is done.
    pub(in crate::engine) fn task_passes(&mut self, id: ReplicaId) {
        if self.at(id).memory.probation.is_some() && self.at(id).memory.state != StateName::Adopting {
            self.probation_over(id);
        }
    }

    /// The count of fences in a row outlives a reboot.
    pub(in crate::engine) fn keep_count(&mut self, id: ReplicaId) {
        if self.service_at(id.service).is_role {
            return;
        }
        let whole = self.service_at(id.service).decided.clone();
        let decided = self.at_mut(id).decided.get_or_insert(whole).clone();
        let content = self.decision(id.service, Some(id.index), decided);
        let decision = self.next_decision;
        self.next_decision += 1;
        self.fence.decisions.insert(decision);
        if self.fence.decisions.len() > DECISIONS_MAX {
            self.fence.decisions.pop_first();
        }
        self.out.push(Action::Decide { decision, content });
    }
}
