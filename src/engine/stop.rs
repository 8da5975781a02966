//! The stop of a whole tree: dependents first, then its connections, then signal, wait, kill, verify.
//!
//! ```text
//! Dependents ─▶ (Drain drain_timeout) ─▶ (Abort 5 s) ─▶ Term stop.timeout ─▶ Killed 5 s ─▶ Inspecting ─▶ Stuck
//!                    main gone, others remain: Linger 2 s ─▶ Killed
//! ```
//!
//! Those that need the replica may reach it through a balancer, so it serves on until they are gone, and drains (see `drain`) only then.
//! The tree being empty ends any of these at once. A stop is never taken back: who is wanted again meanwhile is started again after it.

use std::time::Duration;

use super::Engine;
use super::access::Because;
use super::action::{Action, Level, NoteKind, Whom};
use super::event::Remaining;
use super::service::{Phase, State, StopWhy, Then};
use super::timers::Timer;
use super::types::{Exit, ReplicaId, RunId, SIGABRT, SIGTERM};

/// For writing a core after SIGABRT.
const ABORT_TIMEOUT: Duration = Duration::from_secs(5);
/// For what the main process left behind, after SIGTERM; `stop.timeout` where that is less.
const LINGER: Duration = Duration::from_secs(2);
/// From the kill to the question who is still there.
pub(super) const VERIFY: Duration = Duration::from_secs(5);
/// An inspection that is not answered means stuck as well.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two looks at a stuck tree; doubles.
const STUCK_PAUSE_MIN: Duration = Duration::from_secs(1);
const STUCK_PAUSE_MAX: Duration = Duration::from_secs(30);

impl Engine {
    /// Begins the stop of a replica that runs (`Starting`, `Ready`, `Degraded`). What is no request has been told by the caller.
    pub(super) fn begin_stop(&mut self, id: ReplicaId, why: StopWhy) {
        self.thaw(id);
        self.quiet(id);
        let requested = why.is_requested();
        let served = self.served(id).filter(|_| requested);
        let replica = self.at_mut(id);
        replica.restart = None;
        if let Some(run) = &mut replica.run {
            run.served = served;
        }
        self.memory_mut(id).requested = requested;
        let because = if requested {
            let run = self.at(id).memory.run;
            Because::Note(Level::Info, NoteKind::Stopping { run, why: self.stop_text(why) })
        } else {
            Because::Told
        };
        self.set_state(id, State::Stopping { phase: Phase::Dependents, why, then: Then::Settle }, because);
        if why.is_fence() {
            self.save_now(id);
        }
        if why.is_fence() || self.disk_kills(id.service, why) {
            return self.kill_tree(id, self.stop_text(why));
        }
        if !requested || self.dependents_are_down(id) {
            self.leave_service(id, why);
        }
    }

    /// Its dependents are down, or do not matter.
    pub(super) fn leave_service(&mut self, id: ReplicaId, why: StopWhy) {
        let drains = why.is_requested() && self.may_have_connections(id);
        self.enter(id, if drains { Phase::Drain } else { Self::signal_phase(why) });
    }

    pub(super) fn signal_phase(why: StopWhy) -> Phase {
        match why {
            StopWhy::NotAlive | StopWhy::Watchdog => Phase::Abort,
            StopWhy::Operator
            | StopWhy::Restart
            | StopWhy::NewConfig
            | StopWhy::DependencyLost(_)
            | StopWhy::RestartWith(_)
            | StopWhy::DiskFailing
            | StopWhy::ForCopies
            | StopWhy::DataMove
            | StopWhy::Shutdown
            | StopWhy::Removed
            | StopWhy::NotReady
            | StopWhy::Ended
            | StopWhy::Resumed => Phase::Term,
            StopWhy::Fenced | StopWhy::FencedOnce => Phase::Killed,
        }
    }

    pub(super) fn stop_text(&self, why: StopWhy) -> String {
        match why {
            StopWhy::Operator => "stopped by an operator".to_owned(),
            StopWhy::Restart => "an operator asked for a restart".to_owned(),
            StopWhy::NewConfig => "its configuration changed".to_owned(),
            StopWhy::DependencyLost(other) => format!("it requires {}, which is not up", self.name(other)),
            StopWhy::RestartWith(other) => format!("it restarts with {}", self.name(other)),
            StopWhy::DiskFailing => "a disk that it needs fails".to_owned(),
            StopWhy::ForCopies => "its data is to be copied or restored".to_owned(),
            StopWhy::DataMove => "its data are moved".to_owned(),
            StopWhy::Shutdown => "the agent shuts down".to_owned(),
            StopWhy::Removed => "it left the configuration".to_owned(),
            StopWhy::NotReady => "it was not ready in time".to_owned(),
            StopWhy::NotAlive => "it was not alive".to_owned(),
            StopWhy::Watchdog => "it missed its watchdog".to_owned(),
            StopWhy::Ended => "its main process ended and left others behind".to_owned(),
            StopWhy::Resumed => "an earlier agent had begun to stop it".to_owned(),
            StopWhy::Fenced | StopWhy::FencedOnce => "it is fenced".to_owned(),
        }
    }

    /// Goes on to a phase of the stop: its action and its deadline.
    pub(super) fn enter(&mut self, id: ReplicaId, next: Phase) {
        let stop = self.plan_of(id.service).stop;
        let State::Stopping { phase, .. } = &mut self.at_mut(id).state else {
            return debug_assert!(false, "a stop phase outside of a stop");
        };
        *phase = next;
        let run = self.at(id).memory.run;
        let limit = match next {
            Phase::Dependents => None,
            Phase::Drain => Some(self.drain_timeout(id)),
            Phase::Abort => Some(ABORT_TIMEOUT),
            Phase::Term => Some(stop.timeout),
            Phase::Linger => Some(LINGER.min(stop.timeout)),
            Phase::Killed => Some(VERIFY),
            Phase::Inspecting => Some(INSPECT_TIMEOUT),
        };
        self.note_draining(id, next);
        match next {
            Phase::Dependents | Phase::Drain => {}
            Phase::Abort | Phase::Term | Phase::Linger => self.signal_again(id),
            Phase::Killed => self.out.push(Action::KillTree { replica: id, run }),
            Phase::Inspecting => self.out.push(Action::Inspect { replica: id, run }),
        }
        match limit {
            Some(limit) => self.arm(id, Timer::State, self.now.mono.after(limit)),
            None => self.disarm(id, Timer::State),
        }
        self.refresh(id);
    }

    /// Does to a process that has appeared by now what the present phase does.
    pub(super) fn signal_again(&mut self, id: ReplicaId) {
        let replica = self.at(id);
        let State::Stopping { phase, .. } = &replica.state else {
            return;
        };
        let run = replica.memory.run;
        let (signal, whom) = match phase {
            Phase::Abort => (SIGABRT, Whom::Main),
            Phase::Term => (self.plan_of(id.service).stop.signal, Whom::Main),
            Phase::Linger => (SIGTERM, Whom::Tree),
            Phase::Killed | Phase::Inspecting => return self.out.push(Action::KillTree { replica: id, run }),
            Phase::Dependents | Phase::Drain => return,
        };
        if replica.run.as_ref().is_some_and(|run| run.spawned) {
            self.out.push(Action::Signal { replica: id, run, signal, whom });
        }
    }

    pub(super) fn phase_deadline(&mut self, id: ReplicaId, phase: Phase) {
        match phase {
            Phase::Dependents => debug_assert!(false, "waiting for dependents has no deadline"),
            Phase::Drain => self.drain_is_late(id),
            Phase::Abort => self.enter(id, Phase::Term),
            Phase::Term | Phase::Linger => {
                let timeout = self.plan_of(id.service).stop.timeout;
                let why = if phase == Phase::Term {
                    format!("not gone {} after the stop signal", super::types::human(timeout))
                } else {
                    "left behind by the main process, and still there after SIGTERM".to_owned()
                };
                self.kill_tree(id, why);
            }
            Phase::Killed => self.enter(id, Phase::Inspecting),
            Phase::Inspecting => self.become_stuck(id, Vec::new()),
        }
    }

    pub(super) fn kill_tree(&mut self, id: ReplicaId, why: String) {
        let replica = self.at(id);
        let remaining = replica.run.as_ref().filter(|run| run.exited).map_or(0, |run| run.remaining);
        let run = replica.memory.run;
        self.tell(id, Level::Warn, NoteKind::KillingTree { run, remaining, why });
        self.enter(id, Phase::Killed);
    }

    fn become_stuck(&mut self, id: ReplicaId, processes: Vec<Remaining>) {
        let State::Stopping { why, then, .. } = self.at(id).state else {
            return;
        };
        let run = self.at(id).memory.run;
        let note = NoteKind::Stuck { run, processes: processes.clone() };
        let state = State::Stuck { why, then, processes: processes.clone(), interval: STUCK_PAUSE_MIN };
        self.set_state(id, state, Because::Note(Level::Error, note));
        self.stuck_under_fence(id, &processes);
        self.arm(id, Timer::State, self.now.mono.after(STUCK_PAUSE_MIN));
    }

    /// Kills again (something may have been forked where no group could be killed at once) and asks who is there.
    pub(super) fn look_at_stuck(&mut self, id: ReplicaId) {
        let State::Stuck { interval, .. } = &mut self.at_mut(id).state else {
            return;
        };
        *interval = (*interval * 2).min(STUCK_PAUSE_MAX);
        let next = *interval;
        let run = self.at(id).memory.run;
        self.out.push(Action::KillTree { replica: id, run });
        self.out.push(Action::Inspect { replica: id, run });
        self.arm(id, Timer::State, self.now.mono.after(next));
    }

    pub(super) fn tree_remains(&mut self, id: ReplicaId, run: RunId, mut now_there: Vec<Remaining>) {
        if self.current(id, run).is_none() {
            return;
        }
        if now_there.is_empty() {
            return self.tree_empty(id, run);
        }
        /// Enough to see what it hangs on.
        const KEPT_MAX: usize = 16;
        now_there.truncate(KEPT_MAX);
        match &mut self.at_mut(id).state {
            State::Stopping { phase: Phase::Inspecting, .. } => self.become_stuck(id, now_there),
            State::Stuck { processes, .. } => {
                processes.clone_from(&now_there);
                self.stuck_under_fence(id, &now_there);
            }
            State::Adopting
            | State::Stopped
            | State::Waiting { .. }
            | State::Starting
            | State::Ready
            | State::Degraded
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed
            | State::Done => self.stale(),
        }
    }

    pub(super) fn tree_empty(&mut self, id: ReplicaId, run: RunId) {
        let Some(current) = self.current(id, run) else {
            return;
        };
        if !current.exited {
            // Nobody could tell how the main process ended, but it is gone.
            return self.exited(id, run, Exit::Unknown, false, 0);
        }
        match &self.at(id).state {
            State::Stopping { then, .. } | State::Stuck { then, .. } => {
                let then = *then;
                self.finish(id, then);
            }
            State::Adopting
            | State::Stopped
            | State::Waiting { .. }
            | State::Starting
            | State::Ready
            | State::Degraded
            | State::Backoff { .. }
            | State::Failed
            | State::Done => debug_assert!(false, "a run without its main process is stopping or stuck"),
        }
    }
}
