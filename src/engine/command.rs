//! An operator's verbs.
//!
//! `start` and `stop` are decisions: they last over a reboot. `start NAME` makes what NAME requires and wants wanted as well; `stop
//! NAME` stops its dependents first, which stay wanted, wait, and come back with it. `restart` of something stopped is a start.

use std::collections::{BTreeMap, BTreeSet};

use super::Engine;
use super::action::{Action, Level, NoteKind, Outcome};
use super::event::{Caller, Decision, Target, Verb, Wanted};
use super::request::{REQUESTS_MAX, Request};
use super::service::{Rolling, State, StopWhy};
use super::types::{ReplicaId, RequestId, RunId, ServiceId};

impl Engine {
    pub(super) fn command(&mut self, request: RequestId, caller: Caller, verb: Verb, target: &Target) {
        let (service, replicas) = match self.resolve(verb, target) {
            Ok(found) => found,
            Err(outcome) => return self.out.push(Action::Answer { request, outcome }),
        };
        for id in &replicas {
            if target.replica.is_some() || *id == replicas[0] {
                self.tell_command(*id, target.replica.is_none(), verb, caller.clone());
            }
        }
        self.end_contrary_requests(service, &replicas, verb);
        let goals: BTreeMap<u16, RunId> = replicas
            .iter()
            .map(|id| {
                let beyond = match verb {
                    Verb::Start | Verb::Stop | Verb::Drain | Verb::Undrain => RunId(0),
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
            Verb::Drain | Verb::Undrain => {}
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
        let mut replicas = self.replicas_of(service);
        if let Some(index) = target.replica {
            replicas.retain(|id| id.index == index);
        } else if verb != Verb::Stop {
            replicas.retain(|id| !self.at(*id).removed);
        }
        if replicas.is_empty() {
            let last = found.replicas.keys().next_back().copied().unwrap_or(0);
            let message = format!("service \"{name}\" has no replica {}", target.replica.unwrap_or(0));
            return Err(Outcome::Unknown { message, hint: Some(format!("its replicas are 0 to {last}")) });
        }
        Ok((service, replicas))
    }

    fn command_start(&mut self, request: RequestId, one: Option<u16>, service: ServiceId, replicas: &[ReplicaId]) {
        self.want(request, service, one, Wanted::Up);
        for id in replicas {
            self.start_by_operator(*id);
        }
        self.start_what_it_needs(request, service);
    }

    fn start_by_operator(&mut self, id: ReplicaId) {
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

    /// Changes what is wanted, now and on disk. A decision about the whole service goes before those about single replicas.
    fn want(&mut self, request: RequestId, service: ServiceId, one: Option<u16>, wanted: Wanted) {
        let name = self.name(service).to_owned();
        let is_role = self.service_at(service).is_role;
        let mut decisions = Vec::new();
        if one.is_none() {
            self.service_mut(service).decided = wanted;
            decisions.push(None);
        }
        for id in self.replicas_of(service) {
            if one.is_some_and(|index| index != id.index) {
                continue;
            }
            let replica = self.at_mut(id);
            let differs = replica.decided.is_some_and(|decided| decided != wanted);
            if one.is_some() || differs {
                replica.decided = Some(wanted);
                decisions.push(Some(id.index));
            }
            if self.at(id).memory.wanted != wanted {
                self.memory_mut(id).wanted = wanted;
            }
            self.refresh(id);
        }
        for replica in decisions {
            if !is_role {
                self.decide(request, Decision { service: name.clone(), replica, wanted });
            }
        }
    }
}

/// The name that was probably meant: at most two edits away, or the one that begins with what was written.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a String> {
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
