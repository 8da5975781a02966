//! The probes under way, from the agent's question to the answer.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::agent::Agents;
use super::outstanding::{Entry, Outstanding, Token};
use super::probe::{Probe, Progress};
use super::proto::{FromChecks, ProbeTarget};
use super::{PROBES_MAX, target};
use crate::engine::types::human;
use crate::sys::epoll::{Epoll, Interest};

/// A longer deadline is cut to this.
const TIMEOUT_MAX: Duration = Duration::from_secs(3_600);

#[derive(Debug)]
pub(super) struct Probes {
    outstanding: Outstanding,
    next_token: u64,
}

impl Probes {
    /// Keys of the epoll from `first_token` on are theirs.
    pub(super) fn new(first_token: u64) -> Self {
        Self { outstanding: Outstanding::default(), next_token: first_token }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.outstanding.next_deadline()
    }

    /// The agent is gone: nobody waits for them any more.
    pub(super) fn clear(&mut self) {
        self.outstanding.clear();
    }

    /// Answers those whose deadline has come.
    pub(super) fn end_late(&mut self, now: Instant, epoll: &Epoll, agents: &mut Agents) {
        while let Some(late) = self.outstanding.take_late(now) {
            let timeout = human(Duration::from_millis(late.timeout_ms));
            answer(epoll, agents, late.id, Err(late.probe.late(&timeout)));
        }
    }

    /// One probe gives way; `false` when there is none.
    pub(super) fn sacrifice(&mut self, epoll: &Epoll, agents: &mut Agents) -> bool {
        let first = self.outstanding.first();
        if let Some(token) = first {
            self.finish(token, Err("no descriptor is left for it".to_owned()), epoll, agents);
        }
        first.is_some()
    }

    pub(super) fn cancel(&mut self, id: u64) {
        if let Some(token) = self.outstanding.token_of(id) {
            self.outstanding.remove(token);
        }
    }

    pub(super) fn start(&mut self, id: u64, target: &ProbeTarget, timeout_ms: u64, epoll: &Epoll, agents: &mut Agents) {
        // A number in use again means that the agent no longer waits for the earlier probe.
        self.cancel(id);
        if self.outstanding.len() >= PROBES_MAX {
            return answer(epoll, agents, id, Err("too many probes".to_owned()));
        }
        let started = target::parse(target).and_then(Probe::start);
        let probe = match started {
            Ok(probe) => probe,
            Err(sentence) => return answer(epoll, agents, id, Err(sentence)),
        };
        let token = Token(self.next_token);
        self.next_token += 1;
        if let Err(error) = epoll.add(probe.socket().as_fd(), token.0, Interest::WRITE) {
            return answer(epoll, agents, id, Err(format!("cannot watch the connection: {error}")));
        }
        let deadline = Instant::now() + Duration::from_millis(timeout_ms).min(TIMEOUT_MAX);
        self.outstanding.insert(token, Entry { id, probe, deadline, timeout_ms });
    }

    /// The socket with this key is ready.
    pub(super) fn advance(&mut self, key: u64, epoll: &Epoll, agents: &mut Agents) {
        let token = Token(key);
        let Some(entry) = self.outstanding.get_mut(token) else { return };
        let progress = entry.probe.advance();
        let socket = entry.probe.socket().as_fd();
        let watched = match progress {
            Progress::Wait(interest) => epoll.modify(socket, token.0, interest),
            Progress::Replaced(interest) => epoll.add(socket, token.0, interest),
            Progress::Done(result) => return self.finish(token, result, epoll, agents),
        };
        if let Err(error) = watched {
            self.finish(token, Err(format!("cannot watch the connection: {error}")), epoll, agents);
        }
    }

    fn finish(&mut self, token: Token, result: Result<(), String>, epoll: &Epoll, agents: &mut Agents) {
        if let Some(entry) = self.outstanding.remove(token) {
            answer(epoll, agents, entry.id, result);
        }
    }
}

fn answer(epoll: &Epoll, agents: &mut Agents, id: u64, result: Result<(), String>) {
    agents.tell(epoll, &FromChecks::Answer { id, error: result.err() });
}
