//! What becomes of an order: begun (after its hook), reported on, lost with its role, done.
//!
//! ```text
//! (Exec: hook pre) ─▶ order ─▶ done ─▶ (Exec: hook post) ─▶ what follows
//! ```
//!
//! The hook after the job is run whatever became of the job and of the hook before it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::SetMemory;
use super::catalog::TargetState;
use super::event::{CopyAction, Hook};
use super::note::CopyNews;
use super::order::{Failure, FailureKind, Job, Order, Outcome, Progress};
use super::plan::Quiesce;
use super::schedule::retry_after;
use crate::engine::Engine;
use crate::engine::action::{Action, Level, Outcome as Answer};
use crate::engine::event::Wait;
use crate::engine::types::{RequestId, Time, human};

use super::by_hand::Asked;

/// The shell kills a hook at the end of its time; an answer that is not there so long afterwards is not waited for.
const HOOK_GRACE: Duration = Duration::from_secs(10);

/// The order that is carried out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Running {
    pub order: Order,
    pub stage: Stage,
    /// By hand.
    pub asked: Option<Asked>,
    /// Wall and boot clock.
    pub began: Time,
    pub began_boot: Time,
    pub progress: Progress,
    /// Its role is gone, and nobody knows what became of it.
    pub lost: bool,
    /// How long it is waited for (mono).
    pub lost_until: Option<Time>,
    pub cancelled: bool,
    /// Of the hook that runs (mono).
    pub hook_until: Option<Time>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Stage {
    Pre,
    Job,
    /// With what the job has come to.
    Post(Box<Outcome>),
}

impl Running {
    /// Whether it can be ended for something more urgent: it goes on later where it was, or nobody waits for it.
    pub(super) fn gives_way(&self, to_operator: bool) -> bool {
        let by_itself = self.asked.is_none() && !self.cancelled;
        match self.order.job {
            // A copy is gone at once; only what was in it is still being unlinked.
            Job::Scrub | Job::Prune { .. } => by_itself,
            Job::Verify { .. } | Job::RestoreTest => by_itself && to_operator,
            Job::Take { .. }
            | Job::Pin { .. }
            | Job::Accept { .. }
            | Job::Restore(_)
            | Job::Exchange(_)
            | Job::Materialise(_)
            | Job::Gather { .. }
            | Job::Dismiss { .. }
            | Job::Failback { .. }
            | Job::Init { .. } => false,
        }
    }
}

impl Engine {
    /// INVARIANT: one at a time.
    pub(super) fn begin_order(&mut self, set: &str, job: Job, asked: Option<Asked>) {
        self.copies.next_order = self.copies.next_order.max(self.next_generation) + 1;
        let order = Order { id: self.copies.next_order, job };
        let hook = self.hook_of(set, &order.job, Hook::Pre);
        let now = self.now;
        let Some(memory) = self.copies.sets.get_mut(set) else { return };
        debug_assert!(memory.running.is_none(), "copies {set}: two orders at once");
        let stage = if hook.is_some() { Stage::Pre } else { Stage::Job };
        let cause = if let Job::Take { cause } = order.job { Some(cause) } else { None };
        if cause.is_some() {
            memory.changed = None;
        }
        memory.running = Some(Running {
            order: order.clone(),
            stage,
            asked,
            began: now.wall,
            began_boot: now.boot,
            progress: Progress::default(),
            lost: false,
            lost_until: None,
            cancelled: false,
            hook_until: None,
        });
        if let Some(cause) = cause {
            self.copy_note(set, Level::Debug, CopyNews::Begun { cause });
        }
        if self.hook_of(set, &order.job, Hook::Post).is_some() {
            // INVARIANT: on the disk before the command before it begins.
            self.owe_post(set, true);
        }
        match hook {
            Some((command, timeout)) => self.run_hook(set, Hook::Pre, command, timeout),
            None => self.copy_action(set, CopyAction::Order(order)),
        }
    }

    /// An order of an earlier agent or of an earlier connection is still worked on.
    pub(super) fn found_running(&mut self, set: &str, order: Order) {
        let now = self.now;
        let Some(memory) = self.copies.sets.get_mut(set) else { return self.stale() };
        match memory.running.as_mut() {
            Some(running) if running.order.id == order.id => running.lost = false,
            Some(running) if matches!(running.stage, Stage::Pre | Stage::Post(_)) => self.stale(),
            Some(_) | None => {
                let asked = memory.running.take().and_then(|running| running.asked);
                memory.queue.extend(asked);
                memory.running = Some(Running {
                    order,
                    stage: Stage::Job,
                    asked: None,
                    began: now.wall,
                    began_boot: now.boot,
                    progress: Progress::default(),
                    lost: false,
                    lost_until: None,
                    cancelled: false,
                    hook_until: None,
                });
            }
        }
    }

    pub(super) fn copies_linked(&mut self, set: &str) {
        match self.copies.sets.get_mut(set) {
            Some(memory) => (memory.linked, memory.heard) = (true, false),
            None => self.stale(),
        }
    }

    pub(super) fn copies_unlinked(&mut self, set: &str) {
        let Some(memory) = self.copies.sets.get_mut(set) else { return self.stale() };
        (memory.linked, memory.heard) = (false, false);
        self.end_quiet(set);
        let Some(memory) = self.copies.sets.get_mut(set) else { return };
        if let Some(running) = memory.running.as_mut().filter(|running| running.stage == Stage::Job) {
            running.lost = true;
            self.expect_back(set);
        }
        self.be_patient_anew(set);
    }

    /// The role says what lies there, and has not said that it works on what it was last ordered: that has ended without a word.
    pub(super) fn heard_first(&mut self, set: &str) {
        let lost = |memory: &&mut SetMemory| memory.running.as_ref().is_some_and(|running| running.lost);
        let Some(memory) = self.copies.sets.get_mut(set).filter(lost) else { return };
        let Some(running) = memory.running.as_mut() else { return };
        running.lost = false;
        let again = running.order.job.may_be_repeated() && running.asked.as_ref().is_some_and(|asked| !asked.again);
        if let Some(mut asked) = running.asked.take_if(|_| again) {
            asked.again = true;
            memory.queue.push_front(asked);
        }
        let id = running.order.id;
        self.restore_job_lost(set, id);
        let what = "its role ended while it worked on this; what it had done is unknown".to_owned();
        let remedy = Some(format!("see `mainstay status @copy.{set}`"));
        self.copy_done(set, id, Outcome::Failed(Failure { kind: FailureKind::Other, what, remedy }));
    }

    pub(super) fn copy_done(&mut self, set: &str, order: u64, outcome: Outcome) {
        let memory = self.copies.sets.get_mut(set);
        let Some(running) = memory.and_then(|memory| memory.running.as_mut()) else { return self.stale() };
        if running.order.id != order || running.stage != Stage::Job {
            return self.stale();
        }
        let job = running.order.job.clone();
        self.end_quiet(set);
        match self.hook_of(set, &job, Hook::Post) {
            Some((command, timeout)) => {
                self.enter_stage(set, Stage::Post(Box::new(outcome)));
                self.run_hook(set, Hook::Post, command, timeout);
            }
            None => {
                self.owe_post(set, false);
                self.finish_order(set, outcome);
            }
        }
    }

    pub(super) fn hooked(&mut self, set: &str, order: u64, hook: Hook, result: Result<(), String>) {
        let memory = self.copies.sets.get(set);
        let Some(running) = memory.and_then(|memory| memory.running.as_ref()) else { return self.stale() };
        let linked = memory.is_some_and(|memory| memory.linked);
        match (&running.stage, hook) {
            (Stage::Pre | Stage::Job | Stage::Post(_), _) if running.order.id != order => self.stale(),
            (Stage::Pre, Hook::Pre) => {
                let order = running.order.clone();
                self.enter_stage(set, Stage::Job);
                match result {
                    Ok(()) if linked && !self.is_cancelled(set) => self.copy_action(set, CopyAction::Order(order)),
                    Ok(()) => {
                        let what = "its role is gone, or nobody wants it any more".to_owned();
                        let failure = Failure { kind: FailureKind::Cancelled, what, remedy: None };
                        self.copy_done(set, order.id, Outcome::Failed(failure));
                    }
                    Err(why) => {
                        let what = format!("the command before the copy failed: {why}");
                        let failure = Failure { kind: FailureKind::Quiesce, what, remedy: None };
                        self.copy_done(set, order.id, Outcome::Failed(failure));
                    }
                }
            }
            (Stage::Post(outcome), Hook::Post) => {
                let outcome = (**outcome).clone();
                if let Err(why) = result {
                    let text = format!("the command after the copy failed: {why}");
                    self.copy_note(set, Level::Warn, CopyNews::Remark { text });
                }
                self.owe_post(set, false);
                self.finish_order(set, outcome);
            }
            (Stage::Pre, Hook::Post) | (Stage::Post(_), Hook::Pre) | (Stage::Job, Hook::Pre | Hook::Post) => {
                self.stale()
            }
        }
    }

    /// The shell should have answered by now.
    pub(super) fn hook_late(&mut self, set: &str) {
        let late = |memory: &&SetMemory| {
            memory
                .running
                .as_ref()
                .is_some_and(|running| running.hook_until.is_some_and(|until| until <= self.now.mono))
        };
        let Some(running) = self.copies.sets.get(set).filter(late).and_then(|memory| memory.running.as_ref()) else {
            return;
        };
        let hook = if running.stage == Stage::Pre { Hook::Pre } else { Hook::Post };
        self.hooked(set, running.order.id, hook, Err("nobody knows what became of it".to_owned()));
    }

    /// Ends what can wait for something more urgent.
    pub(super) fn make_way(&mut self, set: &str, urgent: bool) {
        let Some(memory) = self.copies.sets.get_mut(set).filter(|_| urgent) else { return };
        let operator = !memory.queue.is_empty();
        let makes_room = memory.missing.is_some()
            && memory.running.as_ref().is_some_and(|running| matches!(running.order.job, Job::Prune { .. }));
        if makes_room {
            return;
        }
        let Some(running) = memory.running.as_mut().filter(|running| running.gives_way(operator)) else { return };
        running.cancelled = true;
        let order = running.order.id;
        self.copy_action(set, CopyAction::Cancel { order });
    }

    /// What does not end is not waited for any more; what it comes to is not listened to.
    pub(super) fn leave_behind(&mut self, set: &str, outcome: Outcome) {
        self.end_quiet(set);
        self.finish_order(set, outcome);
    }

    fn finish_order(&mut self, set: &str, outcome: Outcome) {
        let Some(running) = self.copies.sets.get_mut(set).and_then(|memory| memory.running.take()) else { return };
        self.tell_outcome(set, &running, &outcome);
        self.restore_job_done(set, running.order.id, &outcome);
        match (&outcome, &running.order.job) {
            (Outcome::Taken { seq, .. } | Outcome::Unchanged { seq }, _) => self.run_succeeded(set, &running, *seq),
            (Outcome::Failed(failure), Job::Take { .. }) => self.run_failed(set, &running, failure),
            (Outcome::Failed(failure), Job::Prune { .. }) if running.asked.is_none() => self.prune_failed(set, failure),
            (Outcome::Pruned { .. }, _) => self.pruned(set),
            (Outcome::Initialised { .. }, _) => self.try_at_once(set),
            (
                Outcome::Verified { .. }
                | Outcome::Scrubbed
                | Outcome::Restored { .. }
                | Outcome::WouldRestore { .. }
                | Outcome::Built { .. }
                | Outcome::Swapped { .. }
                | Outcome::ServiceRestored { .. }
                | Outcome::Tested { .. }
                | Outcome::Pinned
                | Outcome::Accepted
                | Outcome::Materialised { .. }
                | Outcome::Dismissed
                | Outcome::Failed(_),
                _,
            ) => {}
        }
        if running.asked.is_none() {
            self.failover_job_done(set, &running.order.job, &outcome);
        }
        if let Some(Asked { request, wait: Wait::Outcome, .. }) = running.asked {
            self.answer_copy(request, outcome);
        }
    }

    fn run_succeeded(&mut self, set: &str, running: &Running, seq: u64) {
        let took = self.now.boot.since(running.began_boot);
        let Some(memory) = self.copies.sets.get_mut(set) else { return };
        memory.succeeded = true;
        (memory.missing, memory.full) = (None, None);
        let before = memory.catalog.target.clone();
        if matches!(before, TargetState::Full { .. }) {
            memory.catalog.target = TargetState::Ready;
        }
        memory.last_run = Some(running.began);
        memory.last_took = took;
        memory.after_run = Some(seq);
        (memory.failures, memory.failure, memory.retry) = (0, None, None);
        self.target_changed(set, &before);
    }

    fn run_failed(&mut self, set: &str, running: &Running, failure: &Failure) {
        let boot = self.now.boot;
        let Some(memory) = self.copies.sets.get_mut(set) else { return };
        if memory.changed.is_none() && matches!(running.order.job, Job::Take { cause: super::catalog::Cause::Changed })
        {
            memory.changed = Some(running.began);
        }
        match failure.kind {
            FailureKind::Cancelled => return,
            // Somebody works on it by hand.
            FailureKind::Busy => {
                memory.retry = Some(boot.after(retry_after(1)));
                return;
            }
            FailureKind::Target
            | FailureKind::Full
            | FailureKind::TargetIo
            | FailureKind::Source
            | FailureKind::NoCopy
            | FailureKind::InUse
            | FailureKind::Quiesce
            | FailureKind::Other => {}
        }
        memory.failures = memory.failures.saturating_add(1);
        let known = memory.failure.as_ref() == Some(failure);
        memory.failure = Some(failure.clone());
        memory.retry = Some(boot.after(retry_after(memory.failures)));
        let wait = retry_after(memory.failures);
        if failure.kind == FailureKind::Full && !self.make_room(set) {
            self.is_full(set);
        }
        if !known {
            let next = format!("next try in {}", human(wait));
            self.copy_note(set, Level::Error, CopyNews::Failed { failure: failure.clone(), next });
        }
    }

    /// What stood in the way may be gone.
    pub(super) fn try_at_once(&mut self, set: &str) {
        if let Some(memory) = self.copies.sets.get_mut(set) {
            memory.retry = None;
        }
    }

    fn tell_outcome(&mut self, set: &str, running: &Running, outcome: &Outcome) {
        let (level, news) = match outcome.clone() {
            Outcome::Taken { seq, files, written_bytes, linked } => {
                (Level::Info, CopyNews::Taken { seq, files, written_bytes, linked })
            }
            Outcome::Unchanged { seq } => (Level::Debug, CopyNews::Unchanged { seq }),
            Outcome::Verified { copies, files, bad, mended, .. } => {
                let level = if bad > 0 { Level::Error } else { Level::Info };
                (level, CopyNews::Verified { copies, files, bad, mended })
            }
            Outcome::Pruned { copies } => (Level::Info, CopyNews::Pruned { copies }),
            Outcome::Restored { seq, files, kept, .. } => {
                let kept = kept.iter().map(|path| path.display().to_string()).collect();
                (Level::Info, CopyNews::Restored { seq, files, kept })
            }
            Outcome::Tested { seq, files } => (Level::Info, CopyNews::RestoreTested { seq, files }),
            Outcome::Initialised { uuid } => {
                (Level::Info, CopyNews::Remark { text: format!("its target is marked as {uuid}") })
            }
            Outcome::Failed(failure) if failure.kind != FailureKind::Cancelled && !running.order.job.is_run() => {
                let text = format!("{} failed: {}", running.order.job.word(), failure.text());
                (Level::Warn, CopyNews::Remark { text })
            }
            Outcome::Failed(_)
            | Outcome::Scrubbed
            | Outcome::WouldRestore { .. }
            | Outcome::Built { .. }
            | Outcome::Swapped { .. }
            | Outcome::ServiceRestored { .. }
            | Outcome::Pinned
            | Outcome::Materialised { .. }
            | Outcome::Dismissed
            | Outcome::Accepted => {
                return;
            }
        };
        self.copy_note(set, level, news);
    }

    pub(super) fn answer_copy(&mut self, request: RequestId, outcome: Outcome) {
        let Outcome::Failed(failure) = outcome else {
            return self.out.push(Action::Answer { request, outcome: Answer::Copied(Box::new(outcome)) });
        };
        let outcome = match failure.kind {
            FailureKind::Busy | FailureKind::NoCopy | FailureKind::InUse | FailureKind::Cancelled => {
                Answer::Conflict { message: failure.text() }
            }
            FailureKind::Target
            | FailureKind::Full
            | FailureKind::TargetIo
            | FailureKind::Source
            | FailureKind::Quiesce
            | FailureKind::Other => Answer::Failed { why: failure.text() },
        };
        self.out.push(Action::Answer { request, outcome });
    }

    fn enter_stage(&mut self, set: &str, stage: Stage) {
        if let Some(running) = self.copies.sets.get_mut(set).and_then(|memory| memory.running.as_mut()) {
            (running.stage, running.hook_until) = (stage, None);
        }
    }

    fn is_cancelled(&self, set: &str) -> bool {
        let running = self.copies.sets.get(set).and_then(|memory| memory.running.as_ref());
        running.is_some_and(|running| running.cancelled)
    }

    pub(super) fn run_hook(&mut self, set: &str, hook: Hook, command: Vec<String>, timeout: Duration) {
        let until = self.now.mono.after(timeout.saturating_add(HOOK_GRACE));
        let Some(running) = self.copies.sets.get_mut(set).and_then(|memory| memory.running.as_mut()) else { return };
        running.hook_until = Some(until);
        let order = running.order.id;
        self.copy_action(set, CopyAction::Hook { order, hook, command, timeout });
    }

    /// The command before or after a run.
    pub(super) fn hook_of(&self, set: &str, job: &Job, hook: Hook) -> Option<(Vec<String>, Duration)> {
        match &self.copy_plan(set)?.quiesce {
            Quiesce::Exec { pre, post, timeout } if job.is_run() => {
                let command = if hook == Hook::Pre { pre } else { post };
                (!command.is_empty()).then(|| (command.clone(), *timeout))
            }
            Quiesce::Exec { .. } | Quiesce::None | Quiesce::Freeze { .. } | Quiesce::Stop { .. } => None,
        }
    }
}

impl Job {
    fn is_run(&self) -> bool {
        matches!(self, Self::Take { .. })
    }

    /// Done twice, it has done as much as once.
    fn may_be_repeated(&self) -> bool {
        match self {
            Self::Take { .. }
            | Self::Verify { .. }
            | Self::Scrub
            | Self::Prune { .. }
            | Self::Pin { .. }
            | Self::Accept { .. }
            | Self::Exchange(_)
            | Self::Materialise(_)
            | Self::Gather { .. }
            | Self::Dismiss { .. }
            | Self::RestoreTest => true,
            Self::Restore(_) | Self::Init { .. } | Self::Failback { .. } => false,
        }
    }
}
