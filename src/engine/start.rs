//! From the decision to start to `Ready`.
//!
//! `start_timeout` runs from the spawn until the replica is ready. A Oneshot (and an `Every`) is `Starting` for as long as it runs;
//! `start_timeout` covers only the time until its exec, since its readiness is its exit.
//!
//! Proof of readiness that arrives before the news of the exec (they come through different descriptors) counts for both.

use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::access::Because;
use super::action::{Action, Level, NoteKind};
use super::fence::plan::FenceLevel;
use super::host::impair::End;
use super::plan::{Kind, Probe, Readiness};
use super::rng::scale;
use super::service::{Blocker, Run, State, StopWhy, Then};
use super::timers::Timer;
use super::types::{ReplicaId, RunId, ServiceId, human};

/// Between the first two readiness probes; each pause is half as long again as the one before.
const PROBE_PAUSE_MIN: Duration = Duration::from_millis(50);
const PROBE_PAUSE_MAX: Duration = Duration::from_secs(1);
const PROBE_PAUSE_FACTOR_PERMILLE: u64 = 1_500;
/// A readiness probe that takes longer has failed.
const READINESS_PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// After a spawn that failed on the agent's own account (no memory, no process numbers, no descriptors).
pub(super) const SPAWN_RETRY: Duration = Duration::from_secs(1);

/// Readiness that arrives through a channel of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    Notify,
    Fd,
    Log,
}

impl Engine {
    /// Starts a replica that has no process, or lets it wait.
    pub(super) fn try_start(&mut self, id: ReplicaId) {
        let (on, hopeful) = self.blockers(id);
        if on.is_empty() {
            self.spawn(id);
        } else if matches!(self.at(id).state, State::Waiting { .. }) {
            self.at_mut(id).state = State::Waiting { on, hopeful };
            self.touched.insert(id.service);
            self.refresh(id);
        } else {
            let names = on.iter().map(|blocker| self.blocker_name(id.service, *blocker)).collect();
            let level = if self.at(id).memory.run == RunId(0) { Level::Debug } else { Level::Info };
            self.set_state(id, State::Waiting { on, hopeful }, Because::Note(level, NoteKind::Waiting { on: names }));
        }
    }

    pub(super) fn blocker_name(&self, service: ServiceId, blocker: Blocker) -> String {
        match blocker {
            Blocker::Service(id) => self.name(id).to_owned(),
            Blocker::Slot => "a start slot".to_owned(),
            Blocker::Disk => self.disk_name(service),
            Blocker::Copies => self.failover_blocks(service).unwrap_or_default(),
        }
    }

    fn spawn(&mut self, id: ReplicaId) {
        self.take_slot(id);
        let now = self.now;
        let spec_hash = self.service_at(id.service).spec_hash;
        let port = self.plan_of(id.service).port_of(id.index);
        let sockets = self.sockets_of(id);
        let limited = self.is_born_limited(id);
        let replica = self.at_mut(id);
        debug_assert!(replica.run.is_none(), "a spawn beside a live run");
        debug_assert!(
            replica.memory.fence.as_ref().is_none_or(|fence| fence.level == FenceLevel::Throttle),
            "a spawn of what is fenced"
        );
        replica.run = Some(Run::default());
        replica.restart = None;
        let unasked = std::mem::take(&mut replica.unasked);
        let was_up = std::mem::take(&mut replica.was_up);
        let memory = &mut replica.memory;
        memory.limited |= limited;
        if let Some(probation) = &mut memory.probation {
            probation.good = 0;
        }
        memory.run = RunId(memory.run.0 + 1);
        memory.restarts += u32::from(unasked && memory.run != RunId(1));
        memory.started_mono = now.mono;
        memory.started_boot = now.boot;
        memory.requested = false;
        memory.spec_hash = spec_hash;
        memory.port = port;
        memory.sockets = sockets;
        memory.status_text = None;
        let run = memory.run;
        self.count_populated(id, super::ended::Change::More);
        self.forget_ejections(id);
        self.set_state(id, State::Starting, Because::Told);
        let timeout = self.plan_of(id.service).start_timeout;
        self.arm(id, Timer::State, now.mono.after(timeout));
        self.unsaved.remove(&id);
        let memory = Arc::new(self.at(id).memory.clone());
        self.out.push(Action::Spawn { replica: id, run, memory });
        if was_up {
            self.restart_followers(id.service);
        }
    }

    /// A new run of something that had been up: those with `restart_with` follow.
    fn restart_followers(&mut self, service: ServiceId) {
        for follower in self.service_at(service).edges.restarted_by.clone() {
            for id in self.replicas_of(follower) {
                match self.at(id).state {
                    State::Starting | State::Ready | State::Degraded | State::Done => {
                        self.ask_restart(id, StopWhy::RestartWith(service));
                    }
                    State::Adopting
                    | State::Stopped
                    | State::Waiting { .. }
                    | State::Stopping { .. }
                    | State::Backoff { .. }
                    | State::Failed
                    | State::Stuck { .. } => {}
                }
            }
        }
    }

    /// Stop and start again, whatever the state; at once where nothing runs.
    pub(super) fn ask_restart(&mut self, id: ReplicaId, why: StopWhy) {
        match self.at(id).state {
            State::Starting | State::Ready | State::Degraded | State::Stopping { .. } | State::Stuck { .. } => {
                self.at_mut(id).restart = Some(why);
                self.dirty.insert(id);
            }
            State::Stopped | State::Waiting { .. } | State::Backoff { .. } | State::Failed | State::Done => {
                if self.is_wanted(id) {
                    self.at_mut(id).unasked = false;
                    self.try_start(id);
                }
            }
            State::Adopting => {}
        }
    }

    pub(super) fn spawned(&mut self, id: ReplicaId, run: RunId, pid: i32) {
        let Some(current) = self.current(id, run) else {
            return;
        };
        if current.spawned {
            return self.stale();
        }
        current.spawned = true;
        current.pid = Some(pid);
        self.touched.insert(id.service);
        let level = self.routine_level(id);
        self.note(id, level, NoteKind::Started { run, pid });
        self.signal_again(id);
        self.limit_newborn(id);
        self.freeze_or_thaw(id);
    }

    pub(super) fn spawn_failed(&mut self, id: ReplicaId, run: RunId, ours: bool, error: String) {
        let Some(current) = self.current(id, run) else {
            return;
        };
        if current.spawned || current.exited {
            return self.stale();
        }
        // No process, no tree: there is nothing to release.
        self.drop_run(id);
        let (then, next) = if self.at(id).memory.requested {
            (Then::Settle, self.next_after_request(id))
        } else if ours {
            let until = self.now.mono.after(SPAWN_RETRY);
            (Then::Backoff { until }, self.next_restart(id, SPAWN_RETRY))
        } else {
            self.judge_end(id, End::Bad)
        };
        self.tell(id, Level::Warn, NoteKind::StartFailed { run, why: error.clone(), next });
        if !matches!(then, Then::Settle) {
            self.fail_requests(id, &format!("could not be started: {error}"));
        }
        self.finish(id, then);
    }

    pub(super) fn executed(&mut self, id: ReplicaId, run: RunId) {
        let Some(current) = self.current(id, run) else {
            return;
        };
        if current.executed || current.exited {
            return self.stale();
        }
        current.executed = true;
        self.is_born(id);
        if matches!(self.at(id).state, State::Starting) {
            self.await_readiness(id);
        }
        self.freeze_or_thaw(id);
    }

    /// The service's program runs: what next proves that it is ready?
    pub(super) fn await_readiness(&mut self, id: ReplicaId) {
        let plan = self.plan_of(id.service);
        match (&plan.kind, &plan.ready) {
            (Kind::Oneshot | Kind::Every(_), _) => self.disarm(id, Timer::State),
            (Kind::Daemon, Readiness::Started) => self.become_ready(id),
            (Kind::Daemon, Readiness::Probe(_)) => self.send_probe(id),
            (Kind::Daemon, Readiness::Notify | Readiness::Fd(_) | Readiness::Log(_)) => {}
        }
    }

    /// Its exit follows and is what is acted upon.
    pub(super) fn exec_failed(&mut self, id: ReplicaId, run: RunId, error: String) {
        let Some(current) = self.current(id, run) else {
            return;
        };
        if current.executed || current.exited || current.exec_error.is_some() {
            return self.stale();
        }
        current.exec_error = Some(error.into());
        self.is_born(id);
    }

    /// A sign of life of the process of its run, which may be the first that is heard of it.
    fn is_born(&mut self, id: ReplicaId) {
        let is_news = self.at_mut(id).run.as_mut().is_some_and(|run| !std::mem::replace(&mut run.spawned, true));
        if is_news {
            self.signal_again(id);
            self.limit_newborn(id);
        }
    }

    pub(super) fn ready_by(&mut self, id: ReplicaId, run: RunId, sign: Sign) {
        if self.current(id, run).is_none() {
            return;
        }
        let plan = self.plan_of(id.service);
        let expected = match (&plan.kind, &plan.ready) {
            (Kind::Oneshot | Kind::Every(_), _) => false,
            (Kind::Daemon, Readiness::Notify) => sign == Sign::Notify,
            (Kind::Daemon, Readiness::Fd(_)) => sign == Sign::Fd,
            (Kind::Daemon, Readiness::Log(_)) => sign == Sign::Log,
            (Kind::Daemon, Readiness::Started | Readiness::Probe(_)) => false,
        };
        // READY=1 once more, or from a service that is not asked for it, is no fault.
        if expected && matches!(self.at(id).state, State::Starting) {
            self.is_born(id);
            self.become_ready(id);
        }
    }

    pub(super) fn become_ready(&mut self, id: ReplicaId) {
        let now = self.now.mono;
        // What led there stays part of the story while it lasts.
        let runs_from_copy = self.runs_from_copy(id.service).is_some();
        let replica = self.at_mut(id);
        replica.was_up = true;
        if let Some(run) = &mut replica.run {
            run.spawned = true;
            run.executed = true;
            run.answer = None;
        }
        let memory = &mut replica.memory;
        let took = now.since(memory.started_mono);
        if memory.failures == 0 && memory.hold.is_none() && !runs_from_copy {
            memory.causes.clear();
        }
        let run = memory.run;
        let level = if self.plan_of(id.service).ready == Readiness::Started { Level::Debug } else { Level::Info };
        self.set_state(id, State::Ready, Because::Note(level, NoteKind::Ready { run, took }));
        // Mostly for long.
        self.at_mut(id).memory.causes.shrink_to_fit();
        self.quiet(id);
        self.watch_health(id);
    }

    pub(super) fn start_timed_out(&mut self, id: ReplicaId) {
        if self.fence(id).is_some() {
            // It stands still, or is slow because of us.
            return self.start_time_anew(id);
        }
        if self.failing_disk(id.service).is_some() {
            let timeout = self.plan_of(id.service).start_timeout;
            self.tell_left_alone(id, &format!("not ready within {}", human(timeout)));
            return self.arm(id, Timer::State, self.now.mono.after(timeout));
        }
        let replica = self.at(id);
        let run = replica.memory.run;
        let after = self.now.mono.since(replica.memory.started_mono);
        let last_answer = replica.run.as_ref().and_then(|run| run.answer.clone());
        self.tell(id, Level::Warn, NoteKind::NotReadyInTime { run, after, last_answer: last_answer.map(String::from) });
        self.begin_stop(id, StopWhy::NotReady);
    }

    /// The probe of a starting replica, and how long its answer may take.
    pub(super) fn readiness_probe(&self, id: ReplicaId) -> Option<(Probe, Duration)> {
        let left = self.armed(id, Timer::State).map(|at| at.since(self.now.mono)).unwrap_or(READINESS_PROBE_TIMEOUT);
        match &self.plan_of(id.service).ready {
            Readiness::Probe(probe) => Some((probe.clone(), left.min(READINESS_PROBE_TIMEOUT))),
            Readiness::Started | Readiness::Notify | Readiness::Fd(_) | Readiness::Log(_) => None,
        }
    }

    pub(super) fn readiness_answered(&mut self, id: ReplicaId, result: Result<(), String>) {
        match result {
            Ok(()) => self.become_ready(id),
            Err(answer) => {
                let now = self.now.mono;
                let Some(run) = &mut self.at_mut(id).run else {
                    return;
                };
                run.answer = Some(answer.into());
                // Zero before the first one, of an adopted run as well.
                let pause = run.interval.max(PROBE_PAUSE_MIN);
                run.interval = scale(pause, PROBE_PAUSE_FACTOR_PERMILLE).min(PROBE_PAUSE_MAX);
                self.arm(id, Timer::Probe, now.after(pause));
            }
        }
    }
}
