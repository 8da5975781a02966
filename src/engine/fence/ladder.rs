//! The steps of a fence, and what follows from each.

use std::sync::Arc;
use std::time::Duration;

use super::note::FenceNote;
use super::plan::{FenceLevel, FencePlan, ReleaseRule, Rung};
use super::record::{Standing, Trigger};
use super::records::Cause;
use super::release::Then;
use super::state::{Fence, Proof};
use crate::engine::Engine;
use crate::engine::action::{Action, Level, NoteKind};
use crate::engine::event::Remaining;
use crate::engine::note::remaining_text;
use crate::engine::service::{Phase, State, StopWhy};
use crate::engine::stop::VERIFY;
use crate::engine::timers::{Timer, TimerKey};
use crate::engine::types::{ReplicaId, ServiceId};

/// From the freezing to the proof that everything stands still.
const FREEZE_WITHIN: Duration = Duration::from_secs(2);
/// The reading that is asked for at the end of a step still counts for it.
const READING_GRACE: Duration = Duration::from_millis(500);

impl Engine {
    /// The fence that stands on a replica.
    pub(in crate::engine) fn fence(&self, id: ReplicaId) -> Option<&Fence> {
        self.at(id).memory.fence.as_deref()
    }

    pub(in crate::engine) fn fence_level(&self, id: ReplicaId) -> Option<FenceLevel> {
        self.fence(id).map(|fence| fence.level)
    }

    /// Held: nothing starts it but the end of its fence.
    pub(in crate::engine) fn is_held(&self, id: ReplicaId) -> bool {
        self.fence_level(id) == Some(FenceLevel::Hold)
    }

    /// Frozen or held, or about to be: those that need it do not find it there.
    pub(in crate::engine) fn is_away(&self, id: ReplicaId) -> bool {
        match self.fence_level(id) {
            Some(FenceLevel::Freeze | FenceLevel::Hold) => true,
            Some(FenceLevel::Kill) => self.hold_follows(id),
            Some(FenceLevel::Throttle) | None => false,
        }
    }

    pub(in crate::engine) fn read_fence_plan<T>(&self, service: ServiceId, read: impl FnOnce(&FencePlan) -> T) -> T {
        match self.plan_of(service).fence.as_deref() {
            Some(plan) => read(plan),
            None => read(&FencePlan::default()),
        }
    }

    /// A fence where none stands, with this as its first step.
    pub(in crate::engine) fn set_fence(&mut self, id: ReplicaId, cause: &Cause, level: FenceLevel) {
        self.begin_fence(id, cause);
        self.take_step(id, level);
    }

    pub(in crate::engine) fn begin_fence(&mut self, id: ReplicaId, cause: &Cause) {
        debug_assert!(self.at(id).memory.fence.is_none(), "a fence beside another");
        self.drop_probation(id, "fenced again");
        let record = self.open_record(id, cause, Standing::Proving);
        let now = self.now;
        let automatic = cause.trigger != Trigger::Operator;
        let memory = self.memory_mut(id);
        memory.fence = Some(Box::new(Fence {
            id: record,
            trigger: cause.trigger,
            level: FenceLevel::Throttle,
            proof: Proof::Awaited,
            why: cause.why.clone(),
            since_wall: now.wall,
            decided: now.mono,
            prove_by: now.mono,
            step_by: now.mono,
            looks: 0,
            asked_from: 0,
            quiet_since: None,
            first: None,
            written: false,
            throttled: false,
            until: None,
            done: false,
        }));
        if automatic {
            memory.fences = memory.fences.saturating_add(1);
            self.keep_count(id);
        }
    }

    /// The next step; where there is no process for it, the one that needs none.
    pub(in crate::engine) fn take_step(&mut self, id: ReplicaId, level: FenceLevel) {
        let replica = self.at(id);
        let up = matches!(replica.state, State::Starting | State::Ready | State::Degraded);
        let lives = replica.run.as_ref().is_some_and(|run| !run.exited);
        let level = match level {
            FenceLevel::Throttle => FenceLevel::Throttle,
            FenceLevel::Freeze if up && lives => FenceLevel::Freeze,
            FenceLevel::Freeze | FenceLevel::Kill | FenceLevel::Hold if replica.run.is_some() => FenceLevel::Kill,
            FenceLevel::Freeze | FenceLevel::Kill | FenceLevel::Hold => FenceLevel::Hold,
        };
        self.step_to(id, level);
    }

    /// INVARIANT: the replica is out of its balancers and the step is on record before the kernel is told (`rebalance` puts the
    /// tables before everything else, `save_now` the memory before what follows here).
    pub(in crate::engine) fn step_to(&mut self, id: ReplicaId, level: FenceLevel) {
        let now = self.now.mono;
        let asked_from = self.fence.asked + 1;
        let step = self.read_fence_plan(id.service, |plan| plan.step);
        let within = match level {
            FenceLevel::Throttle => step,
            FenceLevel::Freeze => FREEZE_WITHIN,
            FenceLevel::Kill => VERIFY,
            FenceLevel::Hold => Duration::ZERO,
        };
        let Some(fence) = self.memory_mut(id).fence.as_deref_mut() else {
            return;
        };
        fence.level = level;
        fence.proof = Proof::Awaited;
        fence.decided = now;
        fence.prove_by = now.after(within);
        fence.step_by = now.after(step).after(READING_GRACE);
        (fence.looks, fence.quiet_since, fence.first, fence.written) = (0, None, None, false);
        fence.asked_from = asked_from;
        fence.throttled |= level == FenceLevel::Throttle;
        let (record, why) = (fence.id, fence.why.clone());
        self.remember_left(id, record);
        self.add_step(record, level, 0);
        self.tell(id, Level::Warn, NoteKind::Fence(FenceNote::Fenced { id: record, level, why }));
        match level {
            FenceLevel::Throttle if self.at(id).run.is_some() => {
                self.save_now(id);
                self.limit_again(id);
                self.look_for_proof(id);
            }
            FenceLevel::Throttle => self.throttle_at_next_start(id),
            FenceLevel::Freeze => {
                if self.at(id).memory.frozen {
                    self.freeze_again(id);
                } else {
                    self.freeze_or_thaw(id);
                }
                self.look_for_proof(id);
            }
            FenceLevel::Kill => self.kill_fenced(id),
            FenceLevel::Hold => self.hold(id),
        }
        self.fence_changed(id);
    }

    /// On disk before what comes next.
    pub(in crate::engine) fn save_now(&mut self, id: ReplicaId) {
        self.unsaved.remove(&id);
        let memory = Arc::new(self.at(id).memory.clone());
        self.out.push(Action::Persist { replica: id, memory });
    }

    /// Whoever looks at the fence of this replica looks again.
    pub(in crate::engine) fn fence_changed(&mut self, id: ReplicaId) {
        self.touched.insert(id.service);
        self.dirty.insert(id);
        self.note_fence(id);
        self.refresh(id);
    }

    /// Whether a kill ends in a hold.
    pub(in crate::engine) fn hold_follows(&self, id: ReplicaId) -> bool {
        let by_hand = self.fence(id).is_some_and(Fence::is_by_hand);
        by_hand || self.read_fence_plan(id.service, |plan| plan.ladder.contains(&Rung::Hold))
    }

    fn kill_fenced(&mut self, id: ReplicaId) {
        let held = self.hold_follows(id);
        let kill = if held { StopWhy::Fenced } else { StopWhy::FencedOnce };
        if !self.at(id).run.as_ref().is_some_and(|run| run.exited) {
            self.memory_mut(id).requested = held;
        }
        let text = self.stop_text(kill);
        match &mut self.at_mut(id).state {
            State::Starting | State::Ready | State::Degraded => self.begin_stop(id, kill),
            State::Stopping { phase: Phase::Killed | Phase::Inspecting, why, .. } => *why = kill,
            State::Stopping { why, .. } => {
                *why = kill;
                self.save_now(id);
                self.kill_tree(id, text);
            }
            State::Stuck { why, processes, .. } => {
                *why = kill;
                let processes = processes.clone();
                self.stuck_under_fence(id, &processes);
            }
            State::Adopting
            | State::Stopped
            | State::Waiting { .. }
            | State::Backoff { .. }
            | State::Failed
            | State::Done => debug_assert!(false, "a kill without a process"),
        }
    }

    /// Nothing runs (or what runs is ending by itself), and nothing shall.
    fn hold(&mut self, id: ReplicaId) {
        let length = self.hold_length(id);
        let now = self.now.boot;
        let done = self.at(id).state == State::Done;
        let Some(fence) = self.memory_mut(id).fence.as_deref_mut() else {
            return;
        };
        fence.done |= done;
        fence.until = length.map(|length| now.after(length));
        self.arm_hold(id);
        if self.at(id).run.is_none() {
            self.prove(id, "nothing runs, and nothing is started");
        }
    }

    pub(in crate::engine) fn arm_hold(&mut self, id: ReplicaId) {
        let key = TimerKey::Replica(id, Timer::Hold);
        match self.fence(id).and_then(|fence| fence.until) {
            Some(until) => self.boot_timers.set(key, until),
            None => self.boot_timers.cancel(key),
        }
    }

    /// Twice as long with each fence in a row. `None`: until an operator ends it.
    pub(in crate::engine) fn hold_length(&self, id: ReplicaId) -> Option<Duration> {
        /// Beyond it any configured time has met its maximum.
        const DOUBLINGS_MAX: u32 = 20;
        if self.fence(id).is_some_and(Fence::is_by_hand) {
            return None;
        }
        let again = self.at(id).memory.fences.saturating_sub(1).min(DOUBLINGS_MAX);
        self.read_fence_plan(id.service, |plan| match plan.release {
            ReleaseRule::After(first) => Some(first.saturating_mul(1 << again).min(plan.release_max.max(first))),
            ReleaseRule::Manual => None,
        })
    }

    /// The tree of a fenced replica is empty, or its start failed: before anything else follows from that.
    pub(in crate::engine) fn run_ended_under_fence(&mut self, id: ReplicaId) {
        let Some(fence) = self.fence(id) else {
            return;
        };
        let (by_hand, awaited) = (fence.is_by_hand(), fence.proof != Proof::Given);
        match fence.level {
            FenceLevel::Throttle if by_hand && awaited => self.throttle_at_next_start(id),
            FenceLevel::Throttle if by_hand => {}
            FenceLevel::Freeze if by_hand => self.step_to(id, FenceLevel::Hold),
            FenceLevel::Throttle | FenceLevel::Freeze => self.release(id, "its process has ended", Then::Probation),
            FenceLevel::Kill => {
                self.note_freed(id);
                self.prove(id, "its tree is empty");
                if self.hold_follows(id) {
                    self.step_to(id, FenceLevel::Hold);
                } else {
                    self.release(id, "it is killed", Then::Probation);
                }
            }
            FenceLevel::Hold if awaited => self.prove(id, "nothing runs, and nothing is started"),
            FenceLevel::Hold => {}
        }
    }

    /// It was killed, and somebody is still there.
    pub(in crate::engine) fn stuck_under_fence(&mut self, id: ReplicaId, processes: &[Remaining]) {
        let Some(fence) = self.at_mut(id).memory.fence.as_deref_mut() else {
            return;
        };
        let news = fence.proof != Proof::Missing;
        fence.proof = Proof::Missing;
        let record = fence.id;
        self.remember_remaining(record, processes);
        let why = remaining_text(processes);
        self.step_unproven(id, &why);
        let left = u32::try_from(processes.len()).ok().filter(|left| *left > 0);
        if let Some(step) = self.record_mut(record).and_then(|record| record.steps.last_mut()) {
            step.processes_after = left.or(step.processes_after);
        }
        if news {
            self.tell_unproven(id, why);
        }
    }

    pub(in crate::engine) fn tell_unproven(&mut self, id: ReplicaId, why: String) {
        if let Some(fence) = self.fence(id) {
            let (record, level) = (fence.id, fence.level);
            self.unsaved.insert(id);
            self.tell(id, Level::Error, NoteKind::Fence(FenceNote::Incomplete { id: record, level, why }));
            self.fence_changed(id);
        }
    }

    /// The cause lasts: the next step of the ladder, if there is one.
    pub(in crate::engine) fn climb(&mut self, id: ReplicaId) {
        let Some(level) = self.fence_level(id) else {
            return;
        };
        let next = self
            .read_fence_plan(id.service, |plan| plan.ladder.iter().map(Rung::level).filter(|next| *next > level).min());
        match next {
            Some(next) => self.take_step(id, next),
            None => {
                let step = self.read_fence_plan(id.service, |plan| plan.step);
                let now = self.now.mono;
                if let Some(fence) = self.memory_mut(id).fence.as_deref_mut() {
                    fence.step_by = now.after(step);
                }
                self.arm_fence(id);
            }
        }
    }
}
