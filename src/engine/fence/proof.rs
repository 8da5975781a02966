//! Proofs: what the kernel says of a step that was taken.
//!
//! * Throttle: the limits were read back, and the group was stopped by its CPU limit since, or uses less than that. Without a CPU limit the
//!   first is all there is.
//! * Freeze: the group says that all of it stands still.
//! * Kill and Hold: the tree is empty; that is told by the end of the run (`ladder`).

use std::time::Duration;

use super::gauge::{Gauge, Written, Wrote};
use super::note::FenceNote;
use super::plan::FenceLevel;
use super::record::Standing;
use super::state::{Fence, First, Proof};
use crate::engine::Engine;
use crate::engine::action::{Level, NoteKind};
use crate::engine::health::WAKE_GRACE_MAX;
use crate::engine::service::State;
use crate::engine::timers::{Timer, TimerKey};
use crate::engine::types::{ReplicaId, RunId, Time, human};

/// Between the first looks; then the last of them.
const PAUSES_MS: [u64; 5] = [5, 10, 20, 50, 100];
/// After so many looks there is no hurry any more.
const LOOKS_IN_HASTE: u32 = 25;
const PAUSE_LONG: Duration = Duration::from_millis(500);
/// Of a proof that did not come in its time.
const PAUSE_MISSING: Duration = Duration::from_secs(5);
/// Over a shorter time what a group uses says nothing.
const USE_OVER: Duration = Duration::from_millis(500);

impl Engine {
    /// Asks the group now, and again after a while.
    pub(in crate::engine) fn look_for_proof(&mut self, id: ReplicaId) {
        let replica = self.at_mut(id);
        let run = replica.memory.run;
        let Some(fence) = replica.memory.fence.as_deref_mut() else {
            return;
        };
        fence.looks = fence.looks.saturating_add(1);
        if replica.run.as_ref().is_some_and(|run| run.spawned && !run.exited) {
            self.ask_groups(vec![(id, run)]);
        }
        self.arm_fence(id);
    }

    fn pause(looks: u32) -> Duration {
        let place = usize::try_from(looks.saturating_sub(1)).unwrap_or(usize::MAX).min(PAUSES_MS.len() - 1);
        if looks > LOOKS_IN_HASTE { PAUSE_LONG } else { Duration::from_millis(PAUSES_MS[place]) }
    }

    /// The next look at a throttled or frozen replica, or the end of the step.
    pub(in crate::engine) fn arm_fence(&mut self, id: ReplicaId) {
        let now = self.now.mono;
        let step = self.read_fence_plan(id.service, |plan| plan.step);
        let Some(fence) = self.fence(id).filter(|fence| fence.level < FenceLevel::Kill) else {
            return self.disarm(id, Timer::Fence);
        };
        // What is on its way out is looked at no more: its end is the proof.
        let up = matches!(self.at(id).state, State::Starting | State::Ready | State::Degraded);
        let look = match fence.proof {
            _ if !up => None,
            Proof::Awaited => Some(now.after(Self::pause(fence.looks)).min(fence.prove_by.max(now))),
            Proof::Missing => Some(now.after(PAUSE_MISSING)),
            Proof::Given | Proof::Idle => None,
        };
        let end = match fence.quiet_since {
            _ if fence.is_by_hand() => None,
            Some(since) => Some(since.after(step)),
            None => Some(fence.step_by),
        };
        match look.into_iter().chain(end).min() {
            Some(at) => self.arm(id, Timer::Fence, at),
            None => self.disarm(id, Timer::Fence),
        }
    }

    pub(in crate::engine) fn fence_timer(&mut self, id: ReplicaId) {
        let now = self.now.mono;
        let step = self.read_fence_plan(id.service, |plan| plan.step);
        let Some(fence) = self.fence(id).filter(|fence| fence.level < FenceLevel::Kill) else {
            return self.probation_over(id);
        };
        let late = fence.proof == Proof::Awaited && fence.prove_by <= now;
        let by_itself = !fence.is_by_hand();
        let (step_by, quiet) = (fence.step_by, fence.quiet_since);
        if late {
            self.proof_is_late(id);
        }
        match quiet {
            Some(since) if by_itself && since.after(step) <= now => {
                let why = format!("its cause has been gone for {}", human(step));
                self.release(id, &why, super::release::Then::Probation);
            }
            None if by_itself && step_by <= now => self.climb(id),
            Some(_) | None
                if self.fence(id).is_some_and(|fence| matches!(fence.proof, Proof::Awaited | Proof::Missing)) =>
            {
                self.look_for_proof(id);
            }
            Some(_) | None => self.arm_fence(id),
        }
    }

    /// A throttle by hand, and nothing runs that it could be seen on.
    pub(in crate::engine) fn throttle_at_next_start(&mut self, id: ReplicaId) {
        if let Some(fence) = self.memory_mut(id).fence.as_deref_mut() {
            fence.proof = Proof::Idle;
        }
        if let Some(record) = self.standing_record(id) {
            record.standing = Standing::Proving;
            if let Some(step) = record.steps.last_mut() {
                step.proof = "nothing runs; in force from its next start on, and proven then".to_owned();
                (step.proven, step.proven_after_us) = (None, None);
            }
        }
        self.arm_fence(id);
        self.fence_changed(id);
    }

    /// What was throttled while nothing ran has a process, born within its limits; what of them is not in force is told after this.
    pub(in crate::engine) fn throttle_newborn(&mut self, id: ReplicaId) {
        let now = self.now;
        let (step, asked_from) = (self.read_fence_plan(id.service, |plan| plan.step), self.fence.asked + 1);
        let idle = self.memory_mut(id).fence.as_deref_mut().filter(|fence| fence.proof == Proof::Idle);
        let Some(fence) = idle else {
            return;
        };
        (fence.proof, fence.prove_by, fence.looks) = (Proof::Awaited, now.mono.after(step), 0);
        (fence.first, fence.written, fence.asked_from) = (None, true, asked_from);
        let decided = fence.decided;
        if let Some(step) = self.standing_record(id).and_then(|record| record.steps.last_mut()) {
            step.written = Some(now.wall);
            step.written_after_us = u64::try_from(now.mono.since(decided).as_micros()).ok();
            "before its start".clone_into(&mut step.method);
            step.proof.clear();
            (step.proven, step.proven_after_us) = (None, None);
        }
        self.look_for_proof(id);
        self.fence_changed(id);
    }

    fn proof_is_late(&mut self, id: ReplicaId) {
        let refused = self.refused(id).join("; ");
        let unwritten = self.unwritten(id);
        let Some(fence) = self.at_mut(id).memory.fence.as_deref_mut() else {
            return;
        };
        fence.proof = Proof::Missing;
        let why = match fence.level {
            FenceLevel::Throttle if !refused.is_empty() => format!("limits not in force: {refused}"),
            FenceLevel::Throttle => "its group does not show that its CPU limit holds".to_owned(),
            FenceLevel::Freeze | FenceLevel::Kill | FenceLevel::Hold if unwritten.is_some() => {
                unwritten.unwrap_or_default()
            }
            FenceLevel::Freeze | FenceLevel::Kill | FenceLevel::Hold => {
                "not all of its processes stand still, or this host cannot tell".to_owned()
            }
        };
        self.step_unproven(id, &why);
        self.tell_unproven(id, why);
    }

    /// Why the kernel could not be told of the present step.
    fn unwritten(&mut self, id: ReplicaId) -> Option<String> {
        let step = self.standing_record(id)?.steps.last()?;
        (step.written.is_none() && !step.proof.is_empty()).then(|| step.proof.clone())
    }

    /// The present step has had its effect.
    pub(in crate::engine) fn prove(&mut self, id: ReplicaId, proof: &str) {
        let Some(fence) = self.memory_mut(id).fence.as_deref_mut() else {
            return;
        };
        fence.proof = Proof::Given;
        let (record, level) = (fence.id, fence.level);
        self.step_proven(id, proof);
        let proof = proof.to_owned();
        self.tell(id, Level::Info, NoteKind::Fence(FenceNote::Proven { id: record, level, proof }));
        self.arm_fence(id);
        self.fence_changed(id);
    }

    /// A reading of a group under a fence.
    pub(in crate::engine) fn look_at_fence(&mut self, asked: u64, gauge: &Gauge) {
        let id = gauge.replica;
        let awaits =
            |fence: &&Fence| matches!(fence.proof, Proof::Awaited | Proof::Missing) && asked >= fence.asked_from;
        let awaited = self.fence(id).filter(awaits);
        match awaited.map(|fence| fence.level) {
            Some(FenceLevel::Freeze) if gauge.frozen == Some(true) && self.at(id).memory.frozen => {
                self.prove(id, "frozen 1");
            }
            Some(FenceLevel::Throttle) => self.look_at_throttle(id, gauge),
            Some(FenceLevel::Freeze | FenceLevel::Kill | FenceLevel::Hold) | None => {}
        }
    }

    fn look_at_throttle(&mut self, id: ReplicaId, gauge: &Gauge) {
        let now = self.now.mono;
        let wanted = self.limits(id);
        let refused = self.throttle_is_refused(id);
        let Some(fence) = self.at_mut(id).memory.fence.as_deref_mut().filter(|fence| fence.written) else {
            return;
        };
        if refused {
            return;
        }
        let Some(allowed) = wanted.cpu_max_permille else {
            return self.prove(id, "the limits were read back");
        };
        let Some(first) = fence.first else {
            fence.first = Some(First { at: now, cpu_usec: gauge.cpu_usec, cpu_throttled: gauge.cpu_throttled });
            return;
        };
        if let Some(proof) = cpu_proof(first, gauge, now, allowed) {
            self.prove(id, &proof);
        }
    }

    /// Something that the step sets is not in force. Each refusal begins with the key that it is about.
    fn throttle_is_refused(&self, id: ReplicaId) -> bool {
        let step = self.throttle(id.service);
        let sets = [
            ("cpu_max", step.cpu_max_permille.is_some()),
            ("cpu_weight", step.cpu_weight.is_some()),
            ("memory_max", step.memory_max_bytes.is_some()),
            ("pids_max", step.pids_max.is_some()),
            ("io_weight", step.io_weight.is_some()),
            ("io_max", !step.io_max.is_empty()),
        ];
        let concerns = |refused: &String| sets.iter().any(|(key, set)| *set && refused.starts_with(key));
        self.refused(id).iter().any(concerns)
    }

    /// Something was written to the kernel for a replica.
    pub(in crate::engine) fn wrote(
        &mut self,
        id: ReplicaId,
        run: RunId,
        what: Wrote,
        at: Time,
        result: Result<Written, String>,
    ) {
        if self.current(id, run).is_none() {
            return;
        }
        let written = result.as_ref().map_err(String::as_str);
        match what {
            Wrote::Limits => self.limits_written(id, at, &result),
            Wrote::Freeze => self.step_written(id, FenceLevel::Freeze, at, written),
            Wrote::Kill => self.step_written(id, FenceLevel::Kill, at, written),
            Wrote::Thaw => {
                if let Err(why) = &result {
                    self.thaw_failed(id, why);
                }
            }
        }
    }

    /// It stands still although nobody wants it to: said, and tried again.
    fn thaw_failed(&mut self, id: ReplicaId, why: &str) {
        let replica = self.at(id);
        let up = matches!(replica.state, State::Starting | State::Ready | State::Degraded);
        if !up || replica.run.as_ref().is_none_or(|run| run.exited) {
            // On its way out: each signal thaws it first, and a kill needs no thaw.
            return;
        }
        if !self.at(id).memory.frozen {
            self.memory_mut(id).frozen = true;
            let text = format!("cannot be thawed: {why}; tried again until it can");
            self.tell(id, Level::Error, NoteKind::Remark { text });
        }
        self.fence.thaw_again.insert(id);
        self.watch_groups();
    }

    /// What could not be thawed.
    pub(in crate::engine) fn thaw_again(&mut self) {
        for id in std::mem::take(&mut self.fence.thaw_again) {
            if self.find(id).is_some_and(|replica| replica.run.is_some()) {
                self.freeze_or_thaw(id);
            }
        }
    }

    fn limits_written(&mut self, id: ReplicaId, at: Time, result: &Result<Written, String>) {
        let refused = match result {
            Ok(written) => written.refused.clone(),
            Err(why) => vec![why.clone()],
        };
        let known = self.refused(id).to_vec();
        if let Some(run) = &mut self.at_mut(id).run {
            run.refused = (!refused.is_empty()).then(|| refused.clone().into_boxed_slice());
        }
        if !refused.is_empty() && refused != known {
            self.note(id, Level::Warn, NoteKind::Fence(FenceNote::LimitsRefused { refused }));
        }
        if self.is_throttled(id) {
            self.step_written(id, FenceLevel::Throttle, at, result.as_ref().map_err(String::as_str));
            if let Some(fence) = self.memory_mut(id).fence.as_deref_mut() {
                fence.written = result.is_ok();
            }
        }
    }

    /// The agent stood still: proofs and steps get that time back.
    pub(in crate::engine) fn fences_stalled(&mut self, by: Duration, suspended: bool) {
        let now = self.now.mono;
        let moved = |at: Time| match suspended {
            true if at <= now => now.after(by.min(WAKE_GRACE_MAX)),
            true => at,
            false => at.after(by),
        };
        let fenced: Vec<ReplicaId> = self
            .timers
            .iter()
            .filter_map(|(key, _)| match key {
                TimerKey::Replica(id, Timer::Fence) => Some(id),
                TimerKey::Replica(..)
                | TimerKey::Loss(_)
                | TimerKey::Request(_)
                | TimerKey::Shutdown
                | TimerKey::Alerts
                | TimerKey::Pet
                | TimerKey::Host
                | TimerKey::Gauge
                | TimerKey::Copies => None,
            })
            .collect();
        for id in fenced {
            if let Some(fence) = self.memory_mut(id).fence.as_deref_mut() {
                fence.prove_by = moved(fence.prove_by);
                fence.step_by = moved(fence.step_by);
                fence.quiet_since = fence.quiet_since.map(moved);
                self.arm_fence(id);
            }
        }
    }
}

/// What two readings say of a limit on CPU time.
fn cpu_proof(first: First, gauge: &Gauge, now: Time, allowed_permille: u32) -> Option<String> {
    if let (Some(before), Some(after)) = (first.cpu_throttled, gauge.cpu_throttled)
        && after > before
    {
        return Some(format!("nr_throttled {before} -> {after}"));
    }
    let over = now.since(first.at);
    let used = gauge.cpu_usec?.checked_sub(first.cpu_usec?)?;
    let elapsed = u64::try_from(over.as_micros()).ok().filter(|_| over >= USE_OVER)?;
    let used_permille = used.saturating_mul(1_000) / elapsed;
    let percent = |permille: u64| format!("{}.{}%", permille / 10, permille % 10);
    let allowed = u64::from(allowed_permille);
    (used_permille <= allowed)
        .then(|| format!("it used {} of a CPU, {} are allowed", percent(used_permille), percent(allowed)))
}
