//! The first event of an agent's life: what an earlier agent left is taken over, the rest starts fresh.
//!
//! The memory of a replica was written at the end of each step that changed it, so what it says is at most one step old. From it and from what
//! is found of the process follows where to go on; an exit is counted only if the memory has not counted it (`last_exit.run`).
//! No run of the earlier agent is released here: what is `Gone` has no group any more, or the shell has removed it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Engine;
use super::access::Because;
use super::action::{Level, Next, NoteKind};
use super::ended::Change;
use super::event::{Decision, Found, FoundProcess, Wanted};
use super::fence::FenceMemory;
use super::fence::plan::FenceLevel;
use super::host::HostMemory;
use super::host::impair::End;
use super::memory::{LastExit, Memory};
use super::order::is_success;
use super::plan::{Kind, Launch, Role, ServicePlan};
use super::service::{Decided, Kept, Phase, Replica, Run, State, StopWhy, Then};
use super::timers::Timer;
use super::types::{Exit, ReplicaId, ServiceId, StateName};

/// A start that was under way gets at least this much more: nobody could have heard that it was ready.
const START_LEFT_MIN: Duration = Duration::from_secs(1);

impl Engine {
    pub(super) fn begin(
        &mut self,
        found: Vec<Found>,
        decisions: Vec<Decision>,
        host: Option<HostMemory>,
        fences: Option<FenceMemory>,
    ) {
        self.remember_fences(fences);
        self.install_copies(&[]);
        let knew = host.is_some();
        self.begin_host(host.unwrap_or_default());
        let decisions = self.resume_failovers(decisions);
        self.apply_decisions(decisions);
        let mut left = BTreeMap::new();
        for found in found {
            let id = self.place_of(&found);
            if self.at(id).state == State::Adopting {
                left.insert(id, found);
            }
        }
        let known: BTreeSet<ReplicaId> = left.keys().copied().collect();
        for (id, found) in left {
            self.adopt(id, found);
        }
        for service in self.services.keys().copied().collect::<Vec<_>>() {
            for id in self.replicas_of(service) {
                if self.at(id).state == State::Adopting {
                    self.set_state(id, State::Stopped, Because::Told);
                }
                self.dirty.insert(id);
            }
            self.refresh_summary(service);
            self.resume_rolling(service);
        }
        self.resume_ties();
        self.resume_fences(&known);
        self.quiet_at_begin();
        if knew && self.host.devices_known {
            self.devices_changed();
        }
    }

    fn apply_decisions(&mut self, mut decisions: Vec<Decision>) {
        // Those about single replicas come after those about whole services.
        decisions.sort_by_key(|decision| decision.replica);
        for decision in decisions {
            let Decision { service: name, replica, wanted, drained, fence, fences, restore, failover: _ } = decision;
            let decided = Decided { wanted, drained, fence };
            let known = self.service_id(&name);
            // Of a service that is no more it is told how far it was.
            if let Some(restore) = restore {
                self.resume_restore(&name, *restore);
            }
            if known.is_some_and(|id| self.service_at(id).is_role) {
                continue;
            }
            let Some(service) =
                known.filter(|id| replica.is_none_or(|index| self.replicas_of(*id).iter().any(|id| id.index == index)))
            else {
                self.keep_decision(known, name, replica, Kept { decided, fences });
                continue;
            };
            if replica.is_none() {
                self.service_mut(service).decided = decided.clone();
            }
            for id in self.replicas_of(service) {
                let one = self.at_mut(id);
                if replica.is_none_or(|index| index == id.index) {
                    (one.memory.wanted, one.memory.drained) = (decided.wanted, decided.drained);
                }
                if replica == Some(id.index) {
                    one.decided = Some(decided.clone());
                    one.memory.fences = fences;
                }
            }
        }
    }

    /// Of what is not in the configuration: should it come back, it holds, as it does on disk.
    fn keep_decision(&mut self, known: Option<ServiceId>, service: String, replica: Option<u16>, kept: Kept) {
        if let (Some(service), Some(index)) = (known, replica) {
            self.service_mut(service).kept.insert(index, kept);
            return;
        }
        let (whole, replicas) = self.kept.entry(service).or_default();
        match replica {
            Some(index) => {
                replicas.insert(index, kept);
            }
            None => *whole = kept.decided,
        }
    }

    /// The replica that this is; made (to be removed) where the configuration does not know it.
    fn place_of(&mut self, found: &Found) -> ReplicaId {
        let service = self.service_id(&found.service).unwrap_or_else(|| {
            let mut plan = ServicePlan::with_defaults(&found.service, &[]);
            plan.stop = found.stop;
            // A role that the configuration needs no more is still to be spoken to as one.
            plan.launch = Role::of_service(&found.service).map_or(Launch::Command, Launch::Role);
            self.install_unknown(plan)
        });
        let memory = || found.memory.clone();
        let replicas = &mut self.service_mut(service).replicas;
        let replica = replicas.get_or_insert_with(found.index, || Replica { removed: true, ..Replica::new(memory()) });
        debug_assert!(replica.run.is_none(), "Begin comes first");
        ReplicaId { service, index: found.index }
    }

    fn adopt(&mut self, id: ReplicaId, found: Found) {
        let is_role = self.service_at(id.service).is_role;
        let state = found.memory.state;
        let replica = self.at_mut(id);
        replica.memory = found.memory;
        replica.was_up = matches!(state, StateName::Ready | StateName::Degraded | StateName::Done);
        if is_role {
            replica.memory.wanted = Wanted::Up;
        }
        match found.process {
            FoundProcess::Alive { pid } => self.adopt_alive(id, state, pid),
            FoundProcess::Leftovers { remaining } => self.adopt_leftovers(id, state, remaining),
            FoundProcess::Gone { exit } => self.adopt_gone(id, state, exit),
        }
    }

    fn adopt_alive(&mut self, id: ReplicaId, state: StateName, pid: i32) {
        let run = self.at(id).memory.run;
        let Memory { ready_since, since_wall, .. } = self.at(id).memory;
        self.take_over(id, Run { pid: Some(pid), spawned: true, executed: true, ..Run::default() });
        let because = Because::Note(Level::Info, NoteKind::Adopted { run, pid, state });
        match state {
            StateName::Starting => {
                self.take_slot(id);
                self.set_state(id, State::Starting, because);
                // It goes on as it was: the change of agents is no change of state.
                self.memory_mut(id).since_wall = since_wall;
                let timeout = self.plan_of(id.service).start_timeout;
                let at = self.at(id).memory.started_mono.after(timeout).max(self.now.mono.after(START_LEFT_MIN));
                self.arm(id, Timer::State, at);
                self.await_readiness(id);
            }
            StateName::Ready | StateName::Degraded => {
                // What is not probed (any more) could never become well again.
                let degraded = state == StateName::Degraded && self.plan_of(id.service).alive.is_some();
                self.set_state(id, if degraded { State::Degraded } else { State::Ready }, because);
                self.memory_mut(id).since_wall = since_wall;
                if ready_since.is_some() {
                    self.memory_mut(id).ready_since = ready_since;
                }
                self.watch_health(id);
                self.send_probe(id);
            }
            StateName::Stopping | StateName::Stuck => self.resume_stop(id, state, because),
            StateName::Waiting
            | StateName::Backoff
            | StateName::Done
            | StateName::Stopped
            | StateName::Failed
            | StateName::Adopting => {
                // By its memory it should not run: what it is now cannot be known, so it is replaced.
                self.memory_mut(id).requested = true;
                self.resume_stop(id, StateName::Stopping, because);
            }
        }
    }

    fn take_over(&mut self, id: ReplicaId, run: Run) {
        self.at_mut(id).run = Some(run);
        self.count_populated(id, Change::More);
    }

    fn resume_stop(&mut self, id: ReplicaId, state: StateName, because: Because) {
        let why = self.why_stopping(id);
        self.thaw(id);
        self.set_state(id, State::Stopping { phase: Phase::Dependents, why, then: Then::Settle }, because);
        let draining_since = self.at(id).memory.draining_since.filter(|_| state == StateName::Stopping);
        let drained_by = draining_since.map(|since| since.after(self.drain_timeout(id)));
        match drained_by.filter(|by| *by > self.now.mono) {
            Some(by) => {
                self.enter(id, Phase::Drain);
                self.memory_mut(id).draining_since = draining_since;
                self.arm(id, Timer::State, by);
            }
            None => {
                let kills = state == StateName::Stuck || why.is_fence();
                self.enter(id, if kills { Phase::Killed } else { Phase::Term });
            }
        }
    }

    fn why_stopping(&self, id: ReplicaId) -> StopWhy {
        let fence = self.fence_level(id);
        match (self.at(id).memory.requested, self.is_wanted(id)) {
            (true, _) if fence == Some(FenceLevel::Kill) => StopWhy::Fenced,
            (false, _) if fence == Some(FenceLevel::Kill) => StopWhy::FencedOnce,
            (true, true) => StopWhy::Restart,
            (true, false) if self.copies_stop(id.service) => StopWhy::ForCopies,
            (true, false) => StopWhy::Operator,
            (false, _) => StopWhy::Resumed,
        }
    }

    fn adopt_leftovers(&mut self, id: ReplicaId, state: StateName, remaining: u32) {
        self.take_over(id, Run { spawned: true, executed: true, exited: true, remaining, ..Run::default() });
        self.thaw(id);
        let (then, because) = self.conclude(id, state, None);
        let why = self.why_stopping(id);
        self.set_state(id, State::Stopping { phase: Phase::Dependents, why, then }, because);
        let kills = state == StateName::Stuck || why.is_fence();
        self.enter(id, if kills { Phase::Killed } else { Phase::Linger });
    }

    fn adopt_gone(&mut self, id: ReplicaId, state: StateName, exit: Option<Exit>) {
        let never_ran = state == StateName::Starting && exit.is_none();
        let (then, because) = if never_ran { (Then::Settle, Because::Told) } else { self.conclude(id, state, exit) };
        let memory = self.memory_mut(id);
        (memory.requested, memory.frozen) = (false, false);
        self.run_ended_under_fence(id);
        if !self.is_wanted(id) {
            return self.set_state(id, State::Stopped, because);
        }
        match then {
            // `begin` puts it on the worklist; it starts from there.
            Then::Settle => self.set_state(id, State::Stopped, because),
            Then::Backoff { until } => {
                self.at_mut(id).unasked = true;
                self.set_state(id, State::Backoff { until }, because);
            }
            Then::Fail => self.set_state(id, State::Failed, because),
            Then::Done => {
                self.at_mut(id).was_up = true;
                self.set_state(id, State::Done, because);
            }
        }
    }

    /// What follows for a replica whose main process is gone; its exit is counted unless it was.
    fn conclude(&mut self, id: ReplicaId, state: StateName, exit: Option<Exit>) -> (Then, Because) {
        match state {
            StateName::Stopped | StateName::Waiting | StateName::Adopting => return (Then::Settle, Because::Told),
            StateName::Done => return (Then::Done, Because::Told),
            StateName::Backoff | StateName::Failed => return (self.then_by_memory(id), Because::Told),
            StateName::Starting | StateName::Ready | StateName::Degraded | StateName::Stopping | StateName::Stuck => {}
        }
        let memory = &self.at(id).memory;
        let (run, requested) = (memory.run, memory.requested);
        let counted = memory.last_exit.is_some_and(|last| last.run == run);
        if counted {
            return (if requested { Then::Settle } else { self.then_by_memory(id) }, Because::Told);
        }
        let exit = exit.unwrap_or(Exit::Unknown);
        let at_wall = self.now.wall;
        self.memory_mut(id).last_exit = Some(LastExit { exit, oom: false, run, at_wall });
        let (then, next) = self.conclude_unseen(id, state, exit);
        let level = if requested { Level::Info } else { Level::Warn };
        (then, Because::Note(level, NoteKind::EndedUnseen { run, exit, next }))
    }

    fn conclude_unseen(&mut self, id: ReplicaId, state: StateName, exit: Exit) -> (Then, Next) {
        let plan = self.plan_of(id.service);
        let was_well = match state {
            StateName::Ready | StateName::Degraded => true,
            StateName::Starting => plan.kind != Kind::Daemon,
            StateName::Stopping
            | StateName::Stuck
            | StateName::Waiting
            | StateName::Backoff
            | StateName::Done
            | StateName::Stopped
            | StateName::Failed
            | StateName::Adopting => false,
        };
        if self.at(id).memory.requested {
            (Then::Settle, self.next_after_request(id))
        } else {
            let good = was_well && is_success(plan, exit);
            self.judge_end(id, if good { End::Good } else { End::Bad })
        }
    }
}
