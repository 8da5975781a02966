//! The loop of the checks role: one epoll over the listener, the agent and the sockets of the probes.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::agent::{self, Accepted, Agents, Heard};
use super::outstanding::{Entry, Outstanding, Token};
use super::probe::{Probe, Progress};
use super::proto::{FromChecks, ProbeTarget, ToChecks};
use super::{ChecksError, PROBES_MAX, target};
use crate::engine::types::human;
use crate::sys::epoll::{Epoll, Interest, Ready};
use crate::sys::packet::PacketListener;

/// Events taken from the kernel at once.
const READY_MAX: usize = 64;
/// Orders taken from the agent before probes get their turn.
const ORDERS_AT_ONCE: usize = 64;
/// A longer deadline is cut to this.
const TIMEOUT_MAX: Duration = Duration::from_secs(3_600);

pub(super) struct Server {
    epoll: Epoll,
    agents: Agents,
    /// The generation of the agent that asked for what is outstanding.
    generation: u64,
    outstanding: Outstanding,
    next_token: u64,
}

/// What an order leads to beside its effect on the probes.
enum Next {
    Continue,
    Leave,
}

impl Server {
    pub(super) fn new(listener: PacketListener, agentless_max: Duration) -> Result<Self, ChecksError> {
        let epoll = Epoll::new().map_err(|source| ChecksError::Loop { step: "make an epoll", source })?;
        let agents = Agents::new(&epoll, listener, agentless_max)?;
        let outstanding = Outstanding::default();
        Ok(Self { epoll, agents, generation: 0, outstanding, next_token: agent::FIRST_KEY })
    }

    /// Returns when an agent orders it, or when none has been there for too long.
    pub(super) fn run(mut self) -> Result<(), ChecksError> {
        let mut ready = Vec::with_capacity(READY_MAX);
        loop {
            let now = Instant::now();
            while let Some(late) = self.outstanding.take_late(now) {
                let timeout = human(Duration::from_millis(late.timeout_ms));
                self.answer(late.id, Err(late.probe.late(&timeout)));
            }
            self.settle();
            if self.agents.leave_at().is_some_and(|at| at <= now) {
                return Ok(());
            }
            let timeout = self.next_deadline().map(|deadline| deadline.saturating_duration_since(now));
            self.epoll.wait(&mut ready, timeout).map_err(|source| ChecksError::Loop { step: "wait", source })?;
            for event in &ready {
                match event.key {
                    agent::LISTENER => self.accept(),
                    agent::AGENT => match self.hear(event) {
                        Next::Continue => {}
                        Next::Leave => return Ok(()),
                    },
                    token => self.advance(Token(token)),
                }
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        [self.agents.leave_at(), self.outstanding.next_deadline()].into_iter().flatten().min()
    }

    fn accept(&mut self) {
        let accepted = self.agents.accept(&self.epoll);
        self.settle();
        match accepted {
            Accepted::All => {}
            Accepted::NoRoom => self.make_room(),
        }
    }

    /// An agent that cannot be accepted has most likely met our limit of descriptors: one probe gives way at each attempt.
    fn make_room(&mut self) {
        match self.outstanding.first() {
            Some(token) => self.finish(token, Err("no descriptor is left for it".to_owned())),
            None => std::thread::sleep(agent::ACCEPT_PAUSE),
        }
    }

    /// The probes of an agent that is gone, or has been replaced, are dropped.
    fn settle(&mut self) {
        if self.generation != self.agents.generation() {
            self.generation = self.agents.generation();
            self.outstanding.clear();
        }
    }

    fn hear(&mut self, event: &Ready) -> Next {
        if !self.agents.is_heard(&self.epoll, event) {
            return Next::Continue;
        }
        let mut packet = Vec::new();
        for _ in 0..ORDERS_AT_ONCE {
            let heard = self.agents.next_order(&mut packet);
            self.settle();
            match heard {
                Heard::Order(order) => match self.obey(order) {
                    Next::Continue => {}
                    Next::Leave => return Next::Leave,
                },
                // It gets no answer; its deadline runs out over there.
                Heard::Unknown => {}
                Heard::Nothing => break,
            }
        }
        self.agents.adjust(&self.epoll);
        Next::Continue
    }

    fn obey(&mut self, order: ToChecks) -> Next {
        match order {
            ToChecks::Hello { .. } => {}
            ToChecks::Probe { id, target, timeout_ms } => self.probe(id, &target, timeout_ms),
            ToChecks::Cancel { id } => self.cancel(id),
            ToChecks::Watch { .. } => {}
            ToChecks::Quit => return Next::Leave,
        }
        Next::Continue
    }

    fn cancel(&mut self, id: u64) {
        if let Some(token) = self.outstanding.token_of(id) {
            self.outstanding.remove(token);
        }
    }

    fn probe(&mut self, id: u64, target: &ProbeTarget, timeout_ms: u64) {
        // A number in use again means that the agent no longer waits for the earlier probe.
        self.cancel(id);
        if self.outstanding.len() >= PROBES_MAX {
            return self.answer(id, Err("too many probes".to_owned()));
        }
        let started = target::parse(target).and_then(Probe::start);
        let probe = match started {
            Ok(probe) => probe,
            Err(sentence) => return self.answer(id, Err(sentence)),
        };
        let token = Token(self.next_token);
        self.next_token += 1;
        if let Err(error) = self.epoll.add(probe.socket().as_fd(), token.0, Interest::WRITE) {
            return self.answer(id, Err(format!("cannot watch the connection: {error}")));
        }
        let deadline = Instant::now() + Duration::from_millis(timeout_ms).min(TIMEOUT_MAX);
        self.outstanding.insert(token, Entry { id, probe, deadline, timeout_ms });
    }

    fn advance(&mut self, token: Token) {
        let Some(entry) = self.outstanding.get_mut(token) else { return };
        let progress = entry.probe.advance();
        let socket = entry.probe.socket().as_fd();
        let watched = match progress {
            Progress::Wait(interest) => self.epoll.modify(socket, token.0, interest),
            Progress::Replaced(interest) => self.epoll.add(socket, token.0, interest),
            Progress::Done(result) => return self.finish(token, result),
        };
        if let Err(error) = watched {
            self.finish(token, Err(format!("cannot watch the connection: {error}")));
        }
    }

    fn finish(&mut self, token: Token, result: Result<(), String>) {
        if let Some(entry) = self.outstanding.remove(token) {
            self.answer(entry.id, result);
        }
    }

    fn answer(&mut self, id: u64, result: Result<(), String>) {
        self.agents.tell(&self.epoll, &FromChecks::Answer { id, error: result.err() });
    }
}

#[cfg(test)]
mod tests;
