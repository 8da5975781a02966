//! Requests under way: what each waits for, and its one answer.
//!
//! A request waits for its decisions to be on disk (at most `PERSIST_TIMEOUT`; then it is answered all the same, and says so) and, with
//! `Wait::Outcome`, for what it asked for. The first failure of a start ends it: the restart policy goes on, the request does not wait
//! for it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Engine;
use super::action::{Action, Level, NoteKind, Outcome};
use super::balance::table::Standing;
use super::event::{Decision, Verb, Wait};
use super::fence::by_hand::ends_as;
use super::fence::plan::FenceLevel;
use super::fence::state::Proof;
use super::note::remaining_text;
use super::service::State;
use super::timers::TimerKey;
use super::types::{ReplicaId, RequestId, RunId, ServiceId, human};

const PERSIST_TIMEOUT: Duration = Duration::from_secs(2);
/// Requests that wait at the same time; the shell's limit of connections is far below.
pub(super) const REQUESTS_MAX: usize = 256;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) verb: Verb,
    pub(super) service: ServiceId,
    /// The replicas concerned; to be up each must have got beyond this run.
    pub(super) goals: BTreeMap<u16, RunId>,
    /// Those of them that have been where they should be, be it for a moment only (a periodic task).
    pub(super) reached: BTreeSet<u16>,
    pub(super) wait: Wait,
    /// Not yet on disk.
    pub(super) decisions: BTreeSet<u64>,
    pub(super) persisted: bool,
    pub(super) failed: Option<String>,
}

enum Progress {
    Reached,
    NotYet,
    Failed(String),
}

impl Engine {
    pub(super) fn decide(&mut self, request: RequestId, content: Decision) {
        let decision = self.next_decision;
        self.next_decision += 1;
        self.decisions.insert(decision, request);
        if let Some(waiting) = self.requests.get_mut(&request) {
            waiting.decisions.insert(decision);
        }
        self.timers.set(TimerKey::Request(request), self.now.mono.after(PERSIST_TIMEOUT));
        self.out.push(Action::Decide { decision, content });
    }

    pub(super) fn persisted(&mut self, decision: u64, result: Result<(), String>) {
        let own = self.fence.decisions.remove(&decision)
            || self.restore_saved(decision, &result)
            || self.failover_saved(decision, &result);
        let asked = self.decisions.remove(&decision);
        if !own && asked.is_none() {
            return self.stale();
        }
        if let Err(why) = &result {
            self.agent_note(Level::Warn, NoteKind::NotPersisted { why: why.clone() });
        }
        let Some(waiting) = asked.and_then(|request| self.requests.get_mut(&request)) else {
            return;
        };
        waiting.decisions.remove(&decision);
        waiting.persisted &= result.is_ok();
        let service = waiting.service;
        if let Some(request) = asked.filter(|_| waiting.decisions.is_empty()) {
            self.timers.cancel(TimerKey::Request(request));
        }
        self.touched.insert(service);
    }

    pub(super) fn decision_late(&mut self, request: RequestId) {
        let Some(waiting) = self.requests.get_mut(&request) else {
            return;
        };
        for decision in std::mem::take(&mut waiting.decisions) {
            self.decisions.remove(&decision);
        }
        waiting.persisted = false;
        self.touched.insert(waiting.service);
        let why = format!("the logs role did not answer within {}", human(PERSIST_TIMEOUT));
        self.agent_note(Level::Warn, NoteKind::NotPersisted { why });
    }

    /// Answers the requests of this service that have come to their end.
    pub(super) fn review_requests(&mut self, service: ServiceId) {
        let requests = self.services.get(&service).map(|service| service.requests.clone()).unwrap_or_default();
        for request in requests {
            self.mark_reached(request);
            if let Some(outcome) = self.outcome_of(request) {
                self.finish_request(request, outcome);
            }
        }
    }

    fn mark_reached(&mut self, request: RequestId) {
        let Some(waiting) = self.requests.get(&request) else {
            return;
        };
        let reached: Vec<u16> = waiting
            .goals
            .iter()
            .filter(|(index, beyond)| {
                let id = ReplicaId { service: waiting.service, index: **index };
                matches!(self.progress(waiting, id, **beyond), Progress::Reached)
            })
            .map(|(index, _)| *index)
            .collect();
        if let Some(waiting) = self.requests.get_mut(&request) {
            waiting.reached.extend(reached);
        }
    }

    pub(super) fn outcome_of(&self, request: RequestId) -> Option<Outcome> {
        let waiting = self.requests.get(&request)?;
        let mut all_reached = true;
        if waiting.wait == Wait::Outcome {
            if let Some(why) = &waiting.failed {
                return Some(Outcome::Failed { why: why.clone() });
            }
            for (index, beyond) in waiting.goals.iter().filter(|(index, _)| !waiting.reached.contains(index)) {
                match self.progress(waiting, ReplicaId { service: waiting.service, index: *index }, *beyond) {
                    Progress::Reached => {}
                    Progress::NotYet => all_reached = false,
                    Progress::Failed(why) => return Some(Outcome::Failed { why }),
                }
            }
        }
        let done = all_reached && waiting.decisions.is_empty();
        done.then_some(Outcome::Done { persisted: waiting.persisted })
    }

    fn progress(&self, waiting: &Request, id: ReplicaId, beyond: RunId) -> Progress {
        let Some(replica) = self.find(id) else {
            return if waiting.verb == Verb::Stop {
                Progress::Reached
            } else {
                Progress::Failed("it left the configuration".to_owned())
            };
        };
        if let State::Stuck { processes, .. } = &replica.state
            && waiting.verb != Verb::Unfence
        {
            return Progress::Failed(format!("{} is stuck: {}", self.label(id), remaining_text(processes)));
        }
        match waiting.verb {
            Verb::Stop if replica.state == State::Stopped => return Progress::Reached,
            Verb::Stop => return Progress::NotYet,
            Verb::Drain if self.offered(id) == Standing::Draining && !self.unfinished(id).is_empty() => {
                return Progress::NotYet;
            }
            Verb::Fence(_) => return self.progress_of_fence(id),
            Verb::Drain | Verb::Undrain | Verb::Unfence => return Progress::Reached,
            Verb::Start | Verb::RestartRolling | Verb::RestartAtOnce => {}
        }
        let failed = |what: String| Progress::Failed(format!("{} {what}", self.label(id)));
        match &replica.state {
            _ if self.is_queued_for_rolling(id) => Progress::NotYet,
            State::Ready | State::Degraded | State::Done if replica.memory.run > beyond => Progress::Reached,
            State::Ready | State::Degraded | State::Done => Progress::NotYet,
            State::Waiting { hopeful: false, .. } => failed(self.why_of(id).unwrap_or_default()),
            State::Waiting { .. } | State::Starting | State::Stopping { .. } | State::Adopting => Progress::NotYet,
            State::Backoff { .. } | State::Failed => failed(format!("is in {}", replica.memory.state)),
            State::Stopped => failed("is stopped".to_owned()),
            State::Stuck { .. } => failed("is stuck".to_owned()),
        }
    }

    fn progress_of_fence(&self, id: ReplicaId) -> Progress {
        match self.fence(id) {
            Some(fence) if fence.level == FenceLevel::Kill => Progress::NotYet,
            Some(fence) => match fence.proof {
                Proof::Given | Proof::Idle => Progress::Reached,
                Proof::Awaited => Progress::NotYet,
                Proof::Missing => {
                    let step = self.fence_record(fence.id).and_then(|record| record.steps.last());
                    let why = step.map(|step| step.proof.as_str()).unwrap_or_default();
                    Progress::Failed(format!("{} is fenced, but that is not proven: {why}", self.label(id)))
                }
            },
            None => Progress::Failed(format!("the fence of {} has ended", self.label(id))),
        }
    }

    fn is_queued_for_rolling(&self, id: ReplicaId) -> bool {
        self.service_at(id.service).rolling.as_ref().is_some_and(|rolling| rolling.queue.contains(&id.index))
    }

    /// A replica failed: those who wait for it to come up are told.
    pub(super) fn fail_requests(&mut self, id: ReplicaId, why: &str) {
        if self.service_at(id.service).requests.is_empty() || self.is_queued_for_rolling(id) {
            return;
        }
        let text = format!("{}: {why}", self.label(id));
        for request in self.service_at(id.service).requests.clone() {
            if let Some(waiting) = self.requests.get_mut(&request)
                && is_for_up(waiting.verb)
                && waiting.goals.contains_key(&id.index)
                && !waiting.reached.contains(&id.index)
            {
                waiting.failed.get_or_insert_with(|| text.clone());
            }
        }
        self.touched.insert(id.service);
        self.stop_rolling_at(id);
    }

    /// A drain by hand was not over in time: those who wait for it are told.
    pub(super) fn fail_drains(&mut self, id: ReplicaId, why: &str) {
        for request in self.service_at(id.service).requests.clone() {
            if let Some(waiting) = self.requests.get_mut(&request)
                && waiting.verb == Verb::Drain
                && waiting.goals.contains_key(&id.index)
                && !waiting.reached.contains(&id.index)
            {
                waiting.failed.get_or_insert_with(|| why.to_owned());
            }
        }
        self.touched.insert(id.service);
    }

    pub(super) fn finish_request(&mut self, request: RequestId, outcome: Outcome) {
        if let Some(waiting) = self.requests.remove(&request) {
            for decision in waiting.decisions {
                self.decisions.remove(&decision);
            }
            if let Some(service) = self.services.get_mut(&waiting.service) {
                service.requests.retain(|other| *other != request);
            }
        }
        self.timers.cancel(TimerKey::Request(request));
        self.out.push(Action::Answer { request, outcome });
    }

    /// A later word goes before an earlier one that says the opposite of the same replica.
    pub(super) fn end_contrary_requests(&mut self, service: ServiceId, replicas: &[ReplicaId], verb: Verb) {
        let message = format!("a later `{}` of {} came first", verb.word(), self.name(service));
        self.end_requests(service, &message, |waiting| {
            is_contrary(waiting.verb, verb) && replicas.iter().any(|id| waiting.goals.contains_key(&id.index))
        });
    }

    pub(super) fn end_requests_at_shutdown(&mut self) {
        for service in self.services.keys().copied().collect::<Vec<_>>() {
            self.end_requests(service, "the agent shuts down", |waiting| waiting.verb != Verb::Stop);
        }
    }

    /// The service leaves the configuration: whoever waits for its stop has it, the others never will.
    pub(super) fn end_requests_of_removed(&mut self, service: ServiceId) {
        let message = format!("{} has left the configuration", self.name(service));
        self.end_requests(service, &message, |waiting| waiting.verb != Verb::Stop);
        if self.service_at(service).replicas.is_empty() {
            for request in self.service_at(service).requests.clone() {
                let persisted = self.requests.get(&request).is_some_and(|waiting| waiting.decisions.is_empty());
                self.finish_request(request, Outcome::Done { persisted });
            }
        }
    }

    fn end_requests(&mut self, service: ServiceId, message: &str, ends: impl Fn(&Request) -> bool) {
        for request in self.service_at(service).requests.clone() {
            if self.requests.get(&request).is_some_and(&ends) {
                self.finish_request(request, Outcome::Conflict { message: message.to_owned() });
            }
        }
    }
}

/// Waits for replicas to be up.
pub(super) fn is_for_up(verb: Verb) -> bool {
    match verb {
        Verb::Start | Verb::RestartRolling | Verb::RestartAtOnce => true,
        Verb::Stop | Verb::Drain | Verb::Undrain | Verb::Fence(_) | Verb::Unfence => false,
    }
}

fn is_contrary(one: Verb, other: Verb) -> bool {
    match one {
        Verb::Stop => is_for_up(other),
        Verb::Drain => other == Verb::Undrain,
        Verb::Undrain => other == Verb::Drain,
        Verb::Fence(level) => match other {
            Verb::Fence(later) => ends_as(level) != ends_as(later),
            Verb::Start | Verb::RestartRolling | Verb::RestartAtOnce | Verb::Unfence => true,
            Verb::Stop | Verb::Drain | Verb::Undrain => false,
        },
        Verb::Unfence => matches!(other, Verb::Fence(_)),
        Verb::Start | Verb::RestartRolling | Verb::RestartAtOnce => other == Verb::Stop,
    }
}
