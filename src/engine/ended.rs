//! The end of a run: it is counted once, at the exit of the main process, and what follows from it happens when the tree is empty.
//!
//! With nothing left in the tree both are the same step, so a restart without delay is a `Spawn` in the step of the exit.

use super::Engine;
use super::access::Because;
use super::action::{Action, Level, Next, NoteKind};
use super::host::impair::End;
use super::memory::LastExit;
use super::order::is_success;
use super::plan::{Kind, Readiness, RestartPolicy};
use super::service::{Phase, State, StopWhy, Then};
use super::timers::Timer;
use super::types::{Exit, ReplicaId, RunId};

impl Engine {
    pub(super) fn exited(&mut self, id: ReplicaId, run: RunId, exit: Exit, oom: bool, remaining: u32) {
        let Some(current) = self.current(id, run) else {
            return;
        };
        if current.exited {
            return self.stale();
        }
        current.spawned = true;
        current.exited = true;
        current.remaining = remaining;
        self.thaw(id);
        self.quiet(id);
        let then = self.account(id, exit, oom);
        self.role_ended(id);
        if remaining == 0 {
            self.finish(id, then);
        } else {
            self.empty_tree(id, then);
        }
    }

    /// Counts an exit and says what follows from it.
    fn account(&mut self, id: ReplicaId, exit: Exit, oom: bool) -> Then {
        let now = self.now;
        let replica = self.at(id);
        let run = replica.memory.run;
        let requested = replica.memory.requested;
        let exec_error = replica.run.as_ref().and_then(|run| run.exec_error.clone()).map(String::from);
        let success = !oom && exec_error.is_none() && self.is_good_end(id, exit);
        let after = now.mono.since(replica.memory.started_mono);
        self.memory_mut(id).last_exit = Some(LastExit { exit, oom, run, at_wall: now.wall });
        // A proxy that only stayed for its connections is not started again either.
        let (then, next) = if requested || self.at(id).removed {
            (Then::Settle, self.next_after_request(id))
        } else {
            self.judge_end(id, if success { End::Good } else { End::Bad })
        };
        let level = match (requested, success) {
            (true, _) => Level::Debug,
            (false, true) => self.routine_level(id),
            (false, false) => Level::Warn,
        };
        let why = exec_error.clone().unwrap_or_else(|| exit.to_string());
        match exec_error {
            Some(why) => self.tell(id, level, NoteKind::StartFailed { run, why, next }),
            None => self.tell(id, level, NoteKind::Ended { run, exit, oom, after, requested, next }),
        }
        if !requested && !success {
            self.fail_requests(id, &why);
        }
        then
    }

    /// A periodic task that starts and ends well is no news.
    pub(super) fn routine_level(&self, id: ReplicaId) -> Level {
        match self.plan_of(id.service).kind {
            Kind::Every(_) => Level::Debug,
            Kind::Daemon | Kind::Oneshot => Level::Info,
        }
    }

    /// A good exit code, of a run that was not being stopped for a fault and had become what its plan says.
    fn is_good_end(&self, id: ReplicaId, exit: Exit) -> bool {
        let plan = self.plan_of(id.service);
        let in_time = match &self.at(id).state {
            State::Ready | State::Degraded => true,
            // A daemon that leaves before it was ready has never served, whatever its exit code.
            State::Starting => plan.kind != Kind::Daemon || plan.ready == Readiness::Started,
            State::Adopting
            | State::Stopped
            | State::Waiting { .. }
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed
            | State::Done
            | State::Stuck { .. } => false,
        };
        in_time && is_success(plan, exit)
    }

    pub(super) fn next_after_request(&self, id: ReplicaId) -> Next {
        if self.is_wanted(id) { Next::StartAgain } else { Next::Nothing { why: "stopped by request".to_owned() } }
    }

    pub(super) fn success(&mut self, id: ReplicaId) -> (Then, Next) {
        let plan = self.plan_of(id.service);
        match (plan.kind, plan.restart) {
            (Kind::Oneshot | Kind::Every(_), _) => {
                self.memory_mut(id).failures = 0;
                self.end_budget_hold(id, "it ended well");
                self.task_passes(id);
                (Then::Done, Next::Nothing { why: "done".to_owned() })
            }
            (Kind::Daemon, RestartPolicy::Always) => self.restart_uncharged(id),
            (Kind::Daemon, RestartPolicy::OnFailure | RestartPolicy::Never) => {
                (Then::Done, Next::Nothing { why: "its restart policy leaves it at that".to_owned() })
            }
        }
    }

    /// The main process is gone, its tree is not.
    pub(super) fn empty_tree(&mut self, id: ReplicaId, and_then: Then) {
        match &mut self.at_mut(id).state {
            State::Stopping { phase, then, .. } => {
                *then = and_then;
                match phase {
                    Phase::Dependents | Phase::Drain | Phase::Abort | Phase::Term => self.enter(id, Phase::Linger),
                    Phase::Linger | Phase::Killed | Phase::Inspecting => {}
                }
            }
            State::Stuck { then, .. } => *then = and_then,
            State::Starting | State::Ready | State::Degraded => {
                let state = State::Stopping { phase: Phase::Linger, why: StopWhy::Ended, then: and_then };
                self.set_state(id, state, Because::Told);
                self.enter(id, Phase::Linger);
            }
            State::Adopting
            | State::Stopped
            | State::Waiting { .. }
            | State::Backoff { .. }
            | State::Failed
            | State::Done => debug_assert!(false, "an exit without a run"),
        }
        self.unsaved.insert(id);
        self.refresh(id);
    }

    /// The tree is empty: release it and go on.
    pub(super) fn finish(&mut self, id: ReplicaId, then: Then) {
        let run = self.at(id).memory.run;
        if matches!(self.at(id).state, State::Stuck { .. }) {
            self.tell(id, Level::Info, NoteKind::Unstuck { run });
        }
        if self.at(id).run.is_some() {
            self.out.push(Action::Release { replica: id, run });
            self.drop_run(id);
        }
        self.run_ended_under_fence(id);
        self.memory_mut(id).requested = false;
        let asked = self.at_mut(id).restart.take().is_some();
        if !self.is_wanted(id) {
            return self.stop_at_rest(id);
        }
        let then = if asked { Then::Settle } else { then };
        match then {
            Then::Settle => self.try_start(id),
            Then::Backoff { until } => {
                self.at_mut(id).unasked = true;
                if until <= self.now.mono || self.failing_disk(id.service).is_some() {
                    self.try_start(id);
                } else {
                    self.set_state(id, State::Backoff { until }, Because::Told);
                }
            }
            Then::Fail => self.become_failed(id),
            Then::Done => {
                self.at_mut(id).was_up = true;
                self.set_state(id, State::Done, Because::Note(Level::Debug, NoteKind::Done { run }));
            }
        }
    }

    /// There is no process any more.
    pub(super) fn drop_run(&mut self, id: ReplicaId) {
        self.quiet(id);
        self.give_slot_back(id);
        if self.at_mut(id).run.take().is_some() {
            self.count_populated(id, Change::Less);
        }
    }

    pub(super) fn count_populated(&mut self, id: ReplicaId, change: Change) {
        if !self.service_at(id.service).is_role {
            match change {
                Change::More => self.populated += 1,
                Change::Less => self.populated -= 1,
            }
        }
    }

    /// No more probes, pings and counting of ready time.
    pub(super) fn quiet(&mut self, id: ReplicaId) {
        for timer in [Timer::Probe, Timer::Watchdog, Timer::Forget] {
            self.disarm(id, timer);
        }
        let replica = self.at_mut(id);
        let run = replica.memory.run;
        if let Some(generation) = replica.run.as_mut().and_then(|run| run.probe.take()) {
            self.out.push(Action::CancelProbe { replica: id, run, generation });
        }
    }

    /// The last lines of an ended run: kept for those who ask, told when it had failed.
    pub(super) fn keep_last_lines(&mut self, id: ReplicaId, run: RunId, mut lines: Vec<String>) {
        const LINES_MAX: usize = 10;
        if self.find(id).is_none_or(|replica| run > replica.memory.run) {
            return self.stale();
        }
        lines.truncate(LINES_MAX);
        let last = self.at(id).memory.last_exit.filter(|last| last.run == run);
        let failed = last.is_some_and(|last| last.oom || !is_success(self.plan_of(id.service), last.exit));
        if failed && !lines.is_empty() {
            self.note(id, Level::Info, NoteKind::LastLines { run, lines: lines.clone() });
        }
        self.at_mut(id).last_lines = lines;
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    More,
    Less,
}
