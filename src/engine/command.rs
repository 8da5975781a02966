//! An operator's verbs.
//!
//! `start` and `stop` are decisions: they last over a reboot. `start NAME` makes what NAME requires and wants wanted as well; `stop
//! NAME` stops its dependents first, which stay wanted, wait, and come back with it. `restart` of something stopped is a start. `drain` and
//! `undrain` are decisions as well; what they do is in `drain`.

use std::collections::{BTreeMap, BTreeSet};

use super::Engine;
use super::action::{Action, Level, NoteKind, Outcome};
use super::event::{Caller, Decision, Target, Verb, Wanted};
use super::fence::plan::FenceLevel::Throttle;
use super::fence::show::being;
use super::request::{REQUESTS_MAX, Request, is_for_up};
use super::service::{Decided, Rolling, State, StopWhy};
use super::types::{ReplicaId, RequestId, RunId, ServiceId};

impl Engine {
    pub(super) fn command(&mut self, request: RequestId, caller: Caller, verb: Verb, target: &Target) {
        let (service, replicas) = match self.resolve(verb, target) {
            Ok(found) => found,
            Err(outcome) => return self.out.push(Action::Answer { request, outcome }),
        };
        let by = caller.text();
        for id in &replicas {
            if target.replica.is_some() || *id == replicas[0] {
                self.tell_command(*id, target.replica.is_none(), verb, caller.clone());
            }
        }
        if is_for_up(verb) {
            self.give_restore_up(service);
        }
        self.end_contrary_requests(service, &replicas, verb);
        let goals: BTreeMap<u16, RunId> = replicas
            .iter()
            .map(|id| {
                let beyond = match verb {
                    Verb::Start | Verb::Stop | Verb::Drain | Verb::Undrain | Verb::Fence(_) | Verb::Unfence => RunId(0),
                    Verb::RestartRolling | Verb::RestartAtOnce => self.at(*id).memory.run,
                };
                (id.index, beyond)
            })
            .collect();
        let waiting = Request {
            verb,
            service,
            goals,
            reached: BTreeSet::new(),
            wait: target.wait,
            decisions: BTreeSet::new(),
            persisted: true,
            failed: None,
        };
        self.requests.insert(request, waiting);
        self.service_mut(service).requests.push(request);
        self.touched.insert(service);
        match verb {
            Verb::Start => self.command_start(request, target.replica, service, &replicas),
            Verb::Stop => self.command_stop(request, target.replica, service, &replicas),
            Verb::RestartRolling | Verb::RestartAtOnce => {
                self.command_restart(request, target.replica, service, &replicas, verb);
            }
            Verb::Drain | Verb::Undrain => self.command_drain(request, target.replica, service, &replicas, verb),
            Verb::Fence(level) => self.command_fence(request, by, target, &replicas, Some(level)),
            Verb::Unfence => self.command_fence(request, by, target, &replicas, None),
        }
    }

    /// One line for the whole service, or for the replica.
    fn tell_command(&mut self, id: ReplicaId, whole: bool, verb: Verb, caller: Caller) {
        let mut subject = self.subject(id);
        if whole {
            subject.replica = None;
        }
        let note = super::action::Note {
            level: Level::Info,
            subject: Some(subject),
            kind: NoteKind::Commanded { verb, caller },
        };
        self.out.push(Action::Note(note));
    }

    fn resolve(&self, verb: Verb, target: &Target) -> Result<(ServiceId, Vec<ReplicaId>), Outcome> {
        let conflict = |message: String| Err(Outcome::Conflict { message });
        let name = &target.service;
        let Some(service) = self.service_id(name) else {
            let hint = nearest(name, self.names.keys()).map(|near| format!("did you mean \"{near}\"?"));
            return Err(Outcome::Unknown { message: format!("no service \"{name}\""), hint });
        };
        if self.shutdown.is_some() {
            return conflict("the agent shuts down".to_owned());
        }
        if self.requests.len() >= REQUESTS_MAX {
            return conflict(format!("{REQUESTS_MAX} requests are waiting already; try again later"));
        }
        let found = self.service_at(service);
        if found.is_role && verb == Verb::Stop {
            return conflict(format!("{name} is part of the agent and cannot be stopped; `restart` is possible"));
        }
        if found.removed && verb != Verb::Stop {
            return conflict(format!("{name} has left the configuration and is being stopped"));
        }
        if found.is_role && matches!(verb, Verb::Fence(_)) {
            return conflict(format!("{name} is part of the agent and is not fenced; `restart` is possible"));
        }
        let mut replicas = self.replicas_of(service);
        if let Some(index) = target.replica {
            replicas.retain(|id| id.index == index);
        } else if verb != Verb::Stop {
            replicas.retain(|id| !self.at(*id).removed);
        }
        if matches!(verb, Verb::Drain | Verb::Undrain) {
            let out = verb == Verb::Undrain && replicas.iter().any(|id| self.at(*id).memory.drained);
            if !out && self.balancers_of(service).next().is_none() {
                return conflict(format!(
                    "no balancer leads to {name}, so there is nothing to take it out of; see `balancers` in the configuration, or use `stop`"
                ));
            }
        }
        if replicas.is_empty() {
            let last = found.replicas.indices().next_back().unwrap_or(0);
            let message = format!("service \"{name}\" has no replica {}", target.replica.unwrap_or(0));
            return Err(Outcome::Unknown { message, hint: Some(format!("its replicas are 0 to {last}")) });
        }
        if is_for_up(verb) {
            if let Some(message) = self.restore_forbids_start(service) {
                return conflict(message);
            }
            self.without_fenced(name, &mut replicas)?;
        }
        Ok((service, replicas))
    }

    /// What is frozen or held is not started over its fence; the others are.
    fn without_fenced(&self, name: &str, replicas: &mut Vec<ReplicaId>) -> Result<(), Outcome> {
        let first = replicas.iter().copied().find(|id| self.fence_level(*id).is_some_and(|level| level > Throttle));
        replicas.retain(|id| self.fence_level(*id).is_none_or(|level| level == Throttle));
        match first {
            Some(first) if replicas.is_empty() => {
                let why = self.why_of(first).unwrap_or_default();
                let state = self.fence_level(first).map_or("fenced", being);
                let message = format!("{} is {state} ({why}); `mainstay unfence {name}` ends it", self.label(first));
                Err(Outcome::Conflict { message })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn command_start(&mut self, request: RequestId, one: Option<u16>, service: ServiceId, replicas: &[ReplicaId]) {
        self.want(request, service, one, Wanted::Up);
        for id in replicas {
            self.start_by_operator(*id);
        }
        self.start_what_it_needs(request, service);
    }

    pub(super) fn start_by_operator(&mut self, id: ReplicaId) {
        self.pardon(id);
        match self.at(id).state {
            State::Stopped | State::Backoff { .. } | State::Failed => self.ask_restart(id, StopWhy::Restart),
            // A task that is done is as up as it will be.
            State::Done if self.is_task(id) => {}
            State::Done => self.ask_restart(id, StopWhy::Restart),
            // What this stop would lead to by itself (a back-off, a hold) is not what was asked for.
            State::Stopping { .. } | State::Stuck { .. } => self.ask_restart(id, StopWhy::Restart),
            State::Adopting | State::Waiting { .. } | State::Starting | State::Ready | State::Degraded => {}
        }
        self.dirty.insert(id);
    }

    /// What the service requires and wants, all the way down, becomes wanted.
    fn start_what_it_needs(&mut self, request: RequestId, service: ServiceId) {
        let mut seen = BTreeSet::from([service]);
        let mut left = vec![service];
        while let Some(next) = left.pop() {
            let edges = &self.service_at(next).edges;
            for needed in edges.requires.iter().chain(&edges.wants).copied().collect::<Vec<_>>() {
                if seen.insert(needed) {
                    left.push(needed);
                    self.start_needed(request, needed);
                }
            }
        }
    }

    fn start_needed(&mut self, request: RequestId, service: ServiceId) {
        let replicas = self.replicas_of(service);
        let up = self.service_at(service).summary.is_up;
        let down = replicas.iter().all(|id| self.at(*id).memory.wanted == Wanted::Down);
        if down {
            self.end_contrary_requests(service, &replicas, Verb::Start);
            self.want(request, service, None, Wanted::Up);
        }
        for id in replicas {
            if down || (!up && self.at(id).state == State::Failed && self.is_wanted(id)) {
                self.start_by_operator(id);
            }
        }
    }

    fn command_stop(&mut self, request: RequestId, one: Option<u16>, service: ServiceId, replicas: &[ReplicaId]) {
        for id in replicas.iter().filter(|id| self.at(**id).memory.wanted == Wanted::Down).copied().collect::<Vec<_>>()
        {
            // Asked for a second time: whoever says so does not want to wait for connections.
            self.end_drain(id);
        }
        self.want(request, service, one, Wanted::Down);
        self.leave_rolling(service, replicas);
        for id in replicas {
            self.at_mut(*id).restart = None;
            self.dirty.insert(*id);
            self.refresh(*id);
        }
    }

    fn command_restart(
        &mut self,
        request: RequestId,
        one: Option<u16>,
        service: ServiceId,
        replicas: &[ReplicaId],
        verb: Verb,
    ) {
        if replicas.iter().any(|id| self.at(*id).memory.wanted == Wanted::Down) {
            self.want(request, service, one, Wanted::Up);
            self.start_what_it_needs(request, service);
        }
        let mut rolling = Rolling { why: StopWhy::Restart, queue: std::collections::VecDeque::new(), current: None };
        for id in replicas {
            self.pardon(*id);
            let runs = matches!(self.at(*id).state, State::Starting | State::Ready | State::Degraded);
            if runs && verb == Verb::RestartRolling {
                rolling.queue.push_back(id.index);
            } else {
                self.ask_restart(*id, StopWhy::Restart);
            }
        }
        self.leave_rolling(service, replicas);
        self.roll(service, rolling);
    }

    fn command_drain(
        &mut self,
        request: RequestId,
        one: Option<u16>,
        service: ServiceId,
        replicas: &[ReplicaId],
        verb: Verb,
    ) {
        self.resolve_on(request, service, one, &|decided| decided.drained = verb == Verb::Drain);
        for id in replicas {
            self.drain_by_hand(*id, verb);
        }
    }

    fn want(&mut self, request: RequestId, service: ServiceId, one: Option<u16>, wanted: Wanted) {
        self.resolve_on(request, service, one, &|decided| decided.wanted = wanted);
    }

    /// Changes what is decided, now and on disk. A decision about the whole service goes before those about single replicas.
    pub(super) fn resolve_on(
        &mut self,
        request: RequestId,
        service: ServiceId,
        one: Option<u16>,
        change: &dyn Fn(&mut Decided),
    ) {
        let mut decisions = Vec::new();
        if one.is_none() {
            change(&mut self.service_mut(service).decided);
            decisions.push((None, self.service_at(service).decided.clone()));
        }
        let whole = self.service_at(service).decided.clone();
        for id in self.replicas_of(service) {
            if one.is_some_and(|index| index != id.index) {
                continue;
            }
            let replica = self.at_mut(id);
            let mut decided = replica.decided.clone().unwrap_or_else(|| whole.clone());
            change(&mut decided);
            // One that has not changed may not have got to the disk.
            if one.is_some() || replica.decided.is_some() {
                replica.decided = Some(decided.clone());
                decisions.push((Some(id.index), decided));
            }
            let before = (replica.memory.wanted, replica.memory.drained);
            let mut now = Decided { wanted: before.0, drained: before.1, fence: None };
            change(&mut now);
            if (now.wanted, now.drained) != before {
                let memory = self.memory_mut(id);
                (memory.wanted, memory.drained) = (now.wanted, now.drained);
            }
            self.refresh(id);
        }
        if self.service_at(service).is_role {
            return;
        }
        for (replica, decided) in decisions {
            let content = self.decision(service, replica, decided);
            self.decide(request, content);
        }
    }

    /// What is written of a service, or of one replica of it.
    pub(super) fn decision(&self, service: ServiceId, replica: Option<u16>, decided: Decided) -> Decision {
        let Decided { wanted, drained, fence } = decided;
        let fences = replica.and_then(|index| self.find(ReplicaId { service, index }));
        let fences = fences.map_or(0, |replica| replica.memory.fences);
        let restore = if replica.is_none() { self.restore_to_write(self.name(service)) } else { None };
        let name = self.name(service).to_owned();
        Decision { service: name, replica, wanted, drained, fence, fences, restore, failover: None }
    }
}

/// The name that was probably meant: at most two edits away, or the one that begins with what was written.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    const EDITS_MAX: usize = 2;
    known
        .filter_map(|other| {
            let edits = edits(name, other);
            let prefix = !name.is_empty() && other.starts_with(name);
            let near = edits <= EDITS_MAX && 2 * edits <= name.len();
            (near || prefix).then_some((!prefix, edits, other))
        })
        .min()
        .map(|(_, _, other)| other)
}

/// Levenshtein's distance.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (above, wanted) in from.chars().enumerate() {
        let mut corner = row[0];
        row[0] = above + 1;
        for (column, have) in to.iter().enumerate() {
            let replaced = corner + usize::from(wanted != *have);
            corner = row[column + 1];
            row[column + 1] = replaced.min(corner + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_name_gets_its_neighbour() {
        let known = ["api".to_owned(), "db".to_owned(), "web-1".to_owned()];
        let near = |name| nearest(name, known.iter()).map(String::as_str);
        assert_eq!(near("ap"), Some("api"));
        assert_eq!(near("web"), Some("web-1"));
        assert_eq!(near("wbe-1"), Some("web-1"));
        assert_eq!(near("postgres"), None);
        assert_eq!(near("x"), None);
        assert_eq!(edits("kitten", "sitting"), 3);
    }
}
