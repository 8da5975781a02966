//! Alive probes with rise and fall, the watchdog, what a service says over its notify socket, and stalls of our own.
//!
//! Every probe carries a generation, and its deadline is kept here: an answer that does not come in time is a failed probe, and what
//! comes later is dropped. A replica that is not alive, or misses its watchdog, gets SIGABRT first, so that a core can be written.
//!
//! When the agent itself stood still, every deadline that somebody could be blamed by is moved: nobody could have been heard meanwhile.

use std::time::Duration;

use super::Engine;
use super::access::Because;
use super::action::{Action, Level, NoteKind};
use super::event::NotifyMessage;
use super::plan::Probe;
use super::service::{Phase, Replica, State, StopWhy};
use super::start::Sign;
use super::timers::{Timer, TimerKey};
use super::types::{ReplicaId, RunId, StateName, Time, human};

/// This many changes into `Starting`, `Backoff` or `Failed` within this time are flapping.
const FLAPPING_CHANGES: usize = 6;
const FLAPPING_WITHIN: Duration = Duration::from_secs(60);
/// Between two alive probes at the least, whatever the configuration says.
const PROBE_PAUSE_LEAST: Duration = Duration::from_millis(10);
/// After the host slept, a deadline that is over is given this much at most: monotonic time did not pass for the services either.
pub(super) const WAKE_GRACE_MAX: Duration = Duration::from_secs(5);

impl Engine {
    /// The deadlines of a replica that is up.
    pub(super) fn watch_health(&mut self, id: ReplicaId) {
        if self.at(id).memory.frozen {
            return;
        }
        let now = self.now.mono;
        if let Some(every) = self.plan_of(id.service).alive.as_ref().map(|alive| alive.every) {
            self.arm(id, Timer::Probe, now.after(every.max(PROBE_PAUSE_LEAST)));
        }
        self.rearm_watchdog(id);
        if let Some(at) = self.forgets_at(id) {
            self.arm(id, Timer::Forget, at);
        }
        self.arm_probation(id);
    }

    pub(super) fn rearm_watchdog(&mut self, id: ReplicaId) {
        let own = self.at(id).run.as_ref().and_then(|run| run.watchdog);
        let interval = self.plan_of(id.service).watchdog.map(|planned| own.unwrap_or(planned));
        match interval {
            Some(interval) if !interval.is_zero() => self.arm(id, Timer::Watchdog, self.now.mono.after(interval)),
            Some(_) | None => self.disarm(id, Timer::Watchdog),
        }
    }

    fn probe_of(&self, id: ReplicaId) -> Option<(Probe, Duration)> {
        if self.at(id).memory.frozen {
            return None;
        }
        match self.at(id).memory.state {
            StateName::Starting => self.readiness_probe(id),
            StateName::Ready | StateName::Degraded => {
                self.plan_of(id.service).alive.as_ref().map(|alive| (alive.probe.clone(), alive.timeout))
            }
            StateName::Waiting
            | StateName::Stopping
            | StateName::Backoff
            | StateName::Done
            | StateName::Stopped
            | StateName::Failed
            | StateName::Stuck
            | StateName::Adopting => None,
        }
    }

    pub(super) fn send_probe(&mut self, id: ReplicaId) {
        let Some((probe, timeout)) = self.probe_of(id) else {
            return;
        };
        let timeout = timeout.max(Duration::from_millis(1));
        let generation = self.next_generation;
        self.next_generation += 1;
        let now = self.now.mono;
        let replica = self.at_mut(id);
        let number = replica.memory.run;
        if let Some(run) = &mut replica.run {
            run.probe = Some(generation);
            run.probe_sent = now;
        }
        self.arm(id, Timer::Probe, now.after(timeout));
        self.out.push(Action::Probe { replica: id, run: number, generation, probe, timeout });
    }

    /// Time for a probe, or no answer to the one under way.
    pub(super) fn probe_timer(&mut self, id: ReplicaId) {
        let now = self.now.mono;
        let replica = self.at_mut(id);
        let number = replica.memory.run;
        let Some(run) = &mut replica.run else {
            return;
        };
        match run.probe.take() {
            None => self.send_probe(id),
            Some(generation) => {
                let waited = now.since(run.probe_sent);
                self.out.push(Action::CancelProbe { replica: id, run: number, generation });
                self.probe_result(id, Err(format!("no answer within {}", human(waited))));
            }
        }
    }

    pub(super) fn probe_done(&mut self, id: ReplicaId, run: RunId, generation: u64, result: Result<(), String>) {
        let Some(current) = self.current(id, run) else {
            return;
        };
        if current.probe != Some(generation) {
            return self.stale();
        }
        current.probe = None;
        self.disarm(id, Timer::Probe);
        self.probe_result(id, result);
    }

    fn probe_result(&mut self, id: ReplicaId, result: Result<(), String>) {
        match self.at(id).state {
            State::Starting => self.readiness_answered(id, result),
            State::Ready | State::Degraded => self.alive_answered(id, result),
            State::Adopting
            | State::Stopped
            | State::Waiting { .. }
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed
            | State::Done
            | State::Stuck { .. } => debug_assert!(false, "a probe of a replica that is not probed"),
        }
    }

    fn alive_answered(&mut self, id: ReplicaId, result: Result<(), String>) {
        let Some((every, fall, rise)) =
            self.with_plan(id, |plan| plan.alive.as_ref().map(|alive| (alive.every, alive.fall, alive.rise)))
        else {
            return;
        };
        let now = self.now.mono;
        let degraded = self.at(id).state == State::Degraded;
        let Some(run) = &mut self.at_mut(id).run else {
            return;
        };
        let next = run.probe_sent.after(every).max(now.after(PROBE_PAUSE_LEAST));
        match result {
            Ok(()) => {
                self.count_on_probation(id, true);
                let Some(run) = &mut self.at_mut(id).run else {
                    return;
                };
                run.failures = 0;
                run.answer = None;
                run.successes = run.successes.saturating_add(1);
                let successes = run.successes;
                self.arm(id, Timer::Probe, next);
                if degraded && successes >= rise {
                    self.set_state(id, State::Ready, Because::Note(Level::Info, NoteKind::Recovered { successes }));
                    if let Some(at) = self.forgets_at(id) {
                        self.arm(id, Timer::Forget, at);
                    }
                }
            }
            Err(answer) => {
                self.count_on_probation(id, false);
                let excuse = self.excuse(id);
                let Some(run) = &mut self.at_mut(id).run else {
                    return;
                };
                run.successes = 0;
                if excuse.is_none() && std::mem::take(&mut run.excused) {
                    // What it did until now is not held against it.
                    run.failures = 0;
                }
                run.failures = run.failures.saturating_add(1);
                run.answer = Some(answer.as_str().into());
                let failures = run.failures;
                match excuse {
                    Some(excuse) if failures >= fall => {
                        self.leave_alone(id, &format!("not alive, {failures} probes failed: {answer}"), &excuse);
                    }
                    None if failures >= fall => {
                        self.tell(id, Level::Warn, NoteKind::NotAlive { failures, answer });
                        return self.begin_stop(id, StopWhy::NotAlive);
                    }
                    Some(_) | None => {}
                }
                self.arm(id, Timer::Probe, next);
                if !degraded {
                    let note = NoteKind::Degraded { failures, fall, answer };
                    self.set_state(id, State::Degraded, Because::Note(Level::Warn, note));
                    self.disarm(id, Timer::Forget);
                }
            }
        }
    }

    pub(super) fn watchdog_missed(&mut self, id: ReplicaId) {
        let own = self.at(id).run.as_ref().and_then(|run| run.watchdog);
        let after = own.or(self.plan_of(id.service).watchdog).unwrap_or_default();
        if self.failing_disk(id.service).is_some() {
            // Armed again by the next ping, or when the disk is well.
            return self.tell_left_alone(id, &format!("no WATCHDOG=1 for {}", human(after)));
        }
        if let Some(excuse) = self.excuse(id) {
            self.rearm_watchdog(id);
            return self.leave_alone(id, &format!("no WATCHDOG=1 for {}", human(after)), &excuse);
        }
        self.tell(id, Level::Warn, NoteKind::WatchdogMissed { after });
        self.begin_stop(id, StopWhy::Watchdog);
    }

    /// Says once that what would be done to the replica is not, and why.
    fn leave_alone(&mut self, id: ReplicaId, what: &str, excuse: &str) {
        let run = self.at_mut(id).run.as_mut();
        if run.is_some_and(|run| !std::mem::replace(&mut run.excused, true)) {
            let text = format!("{what}; left alone {excuse}");
            self.tell(id, Level::Warn, NoteKind::Remark { text });
        }
    }

    pub(super) fn notified(&mut self, id: ReplicaId, run: RunId, message: NotifyMessage) {
        let up = self.find(id).is_some_and(|replica| matches!(replica.state, State::Ready | State::Degraded));
        let frozen = self.find(id).is_some_and(|replica| replica.memory.frozen);
        let disk_fails = self.failing_disk(id.service).is_some();
        let Some(current) = self.current(id, run) else {
            return;
        };
        match message {
            NotifyMessage::Ready => self.ready_by(id, run, Sign::Notify),
            // What it is about to do shows in what it does.
            NotifyMessage::Reloading | NotifyMessage::Stopping => {}
            NotifyMessage::Status(text) => self.status(id, text),
            NotifyMessage::Errno(number) => self.status(id, format!("errno {number}")),
            NotifyMessage::Watchdog if up && !frozen => {
                current.excused = false;
                self.rearm_watchdog(id);
            }
            NotifyMessage::WatchdogTrigger if up && disk_fails => {
                self.tell_left_alone(id, "asked for a watchdog restart (WATCHDOG=trigger)");
            }
            NotifyMessage::WatchdogTrigger if up => {
                self.tell(id, Level::Warn, NoteKind::WatchdogTriggered);
                self.begin_stop(id, StopWhy::Watchdog);
            }
            NotifyMessage::Watchdog | NotifyMessage::WatchdogTrigger => {}
            NotifyMessage::WatchdogInterval(interval) => {
                current.watchdog = Some(interval);
                if up && !frozen {
                    self.rearm_watchdog(id);
                }
            }
            NotifyMessage::ExtendTimeout(by) => self.extend(id, by),
            NotifyMessage::MainPid(pid) => {
                current.pid = Some(pid);
                self.touched.insert(id.service);
            }
        }
    }

    fn status(&mut self, id: ReplicaId, mut text: String) {
        const STATUS_CHARS_MAX: usize = 200;
        if let Some((end, _)) = text.char_indices().nth(STATUS_CHARS_MAX) {
            text.truncate(end);
        }
        if self.at(id).memory.status_text.as_ref() != Some(&text) {
            self.memory_mut(id).status_text = Some(text.clone());
            self.note(id, Level::Debug, NoteKind::Status { text });
        }
    }

    /// EXTEND_TIMEOUT_USEC: for a start, and for a stop until the kill.
    fn extend(&mut self, id: ReplicaId, by: Duration) {
        let extendable = matches!(self.at(id).state, State::Starting | State::Stopping { phase: Phase::Term, .. });
        if let Some(at) = self.armed(id, Timer::State).filter(|_| extendable) {
            self.arm(id, Timer::State, at.max(self.now.mono.after(by)));
        }
    }

    pub(super) fn lines_dropped(&mut self, id: ReplicaId, lines: u64, reason: String) {
        self.counters.log_lines_dropped = self.counters.log_lines_dropped.saturating_add(lines);
        if self.find(id).is_some() {
            self.note(id, Level::Warn, NoteKind::LinesDropped { lines, reason });
        }
    }

    /// A stall is no time: what somebody could be blamed by is moved by it. Waits of our own (back-off, hold) are not.
    pub(super) fn stalled(&mut self, by: Duration, suspended: bool) {
        let now = self.now.mono;
        let moved: Vec<(TimerKey, Time)> = self
            .timers
            .iter()
            .filter(|(key, at)| self.is_blame(*key) && (!suspended || *at <= now))
            .map(|(key, at)| if suspended { (key, now.after(by.min(WAKE_GRACE_MAX))) } else { (key, at.after(by)) })
            .collect();
        for (key, at) in moved {
            self.timers.set(key, at);
        }
        self.host_stalled(by, suspended, WAKE_GRACE_MAX);
        self.fences_stalled(by, suspended);
        self.agent_note(Level::Warn, NoteKind::Stalled { by, suspended });
    }

    fn is_blame(&self, key: TimerKey) -> bool {
        match key {
            TimerKey::Replica(id, Timer::State) => match self.at(id).state {
                State::Starting | State::Stopping { .. } => true,
                State::Adopting
                | State::Stopped
                | State::Waiting { .. }
                | State::Ready
                | State::Degraded
                | State::Backoff { .. }
                | State::Failed
                | State::Done
                | State::Stuck { .. } => false,
            },
            TimerKey::Replica(_, Timer::Probe | Timer::Watchdog) | TimerKey::Loss(_) | TimerKey::Request(_) => true,
            // The deadlines of readings and of fences are moved where they are kept.
            TimerKey::Replica(_, Timer::Forget | Timer::Drain | Timer::Period | Timer::Fence | Timer::Hold)
            | TimerKey::Shutdown
            | TimerKey::Host
            | TimerKey::Gauge
            | TimerKey::Copies
            | TimerKey::Alerts
            | TimerKey::Pet => false,
        }
    }
}

impl Replica {
    /// Many changes of state within a short time.
    pub(super) fn is_flapping(&self, now: Time) -> bool {
        let recent = self.memory.changes.iter().filter(|at| now.since(**at) <= FLAPPING_WITHIN);
        recent.count() >= FLAPPING_CHANGES
    }
}
