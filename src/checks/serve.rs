//! The loop of the checks role: one epoll over the listener, the agent and the sockets of the probes.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::outstanding::{Entry, Outstanding, Token};
use super::probe::{Probe, Progress};
use super::proto::{FromChecks, ProbeTarget, ToChecks};
use super::{ChecksError, PROBES_MAX, target};
use crate::engine::types::human;
use crate::sys::epoll::{Epoll, Interest, Ready};
use crate::sys::host;
use crate::sys::packet::{PacketListener, PacketSocket, Received};

const LISTENER: u64 = 0;
const AGENT: u64 = 1;
/// The first key of a probe.
const FIRST_TOKEN: u64 = 2;
/// Events taken from the kernel at once.
const READY_MAX: usize = 64;
/// Orders taken from the agent before probes get their turn.
const ORDERS_AT_ONCE: usize = 64;
/// With so many answers that the agent does not take, no further orders are read; the probes under way may still add theirs.
const ANSWERS_MAX: usize = 1024;
/// Between two attempts to accept an agent when the host has no descriptors left, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// A longer deadline is cut to this.
const TIMEOUT_MAX: Duration = Duration::from_secs(3_600);

pub(super) struct Server {
    epoll: Epoll,
    listener: PacketListener,
    agent: Option<Agent>,
    outstanding: Outstanding,
    next_token: u64,
    agentless_max: Duration,
    agentless_since: Instant,
}

struct Agent {
    socket: PacketSocket,
    /// Packets that did not fit into the socket.
    unsent: VecDeque<Vec<u8>>,
    interest: Interest,
}

/// What an order leads to beside its effect on the probes.
enum Next {
    Continue,
    Leave,
}

impl Server {
    pub(super) fn new(listener: PacketListener, agentless_max: Duration) -> Result<Self, ChecksError> {
        let epoll = Epoll::new().map_err(|source| ChecksError::Loop { step: "make an epoll", source })?;
        epoll
            .add(listener.as_fd(), LISTENER, Interest::READ)
            .map_err(|source| ChecksError::Loop { step: "watch the listening socket", source })?;
        Ok(Self {
            epoll,
            listener,
            agent: None,
            outstanding: Outstanding::default(),
            next_token: FIRST_TOKEN,
            agentless_max,
            agentless_since: Instant::now(),
        })
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
            if self.agent.is_none() && now.saturating_duration_since(self.agentless_since) >= self.agentless_max {
                return Ok(());
            }
            let timeout = self.next_deadline().map(|deadline| deadline.saturating_duration_since(now));
            self.epoll.wait(&mut ready, timeout).map_err(|source| ChecksError::Loop { step: "wait", source })?;
            for event in &ready {
                match event.key {
                    LISTENER => self.accept(),
                    AGENT => match self.hear(event) {
                        Next::Continue => {}
                        Next::Leave => return Ok(()),
                    },
                    token => self.advance(Token(token)),
                }
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let agentless = self.agent.is_none().then(|| self.agentless_since + self.agentless_max);
        [agentless, self.outstanding.next_deadline()].into_iter().flatten().min()
    }

    fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok(Some(socket)) => self.greet(socket),
                Ok(None) => return,
                Err(_) => return self.make_room(),
            }
        }
    }

    /// An agent that cannot be accepted has most likely met our limit of descriptors: one probe gives way at each attempt.
    fn make_room(&mut self) {
        match self.outstanding.first() {
            Some(token) => self.finish(token, Err("no descriptor is left for it".to_owned())),
            None => std::thread::sleep(ACCEPT_PAUSE),
        }
    }

    /// The newest agent counts, if it is root or of our own user; the probes of the older one are dropped.
    fn greet(&mut self, socket: PacketSocket) {
        if !socket.peer().is_ok_and(|peer| peer.uid == 0 || peer.uid == host::uid()) {
            return;
        }
        self.part();
        if self.epoll.add(socket.as_fd(), AGENT, Interest::READ).is_ok() {
            self.agent = Some(Agent { socket, unsent: VecDeque::new(), interest: Interest::READ });
            let pid = i32::try_from(std::process::id()).unwrap_or_default();
            self.tell(&FromChecks::Hello { pid });
        }
    }

    /// The agent is gone, or another takes its place. Closing its socket takes it out of the epoll.
    fn part(&mut self) {
        if self.agent.take().is_some() {
            self.outstanding.clear();
            self.agentless_since = Instant::now();
        }
    }

    fn hear(&mut self, event: &Ready) -> Next {
        if event.writable || event.hangup {
            self.flush();
        }
        if !event.readable && !event.hangup {
            return Next::Continue;
        }
        let mut packet = Vec::new();
        for _ in 0..ORDERS_AT_ONCE {
            let Some(agent) = self.agent.as_ref().filter(|agent| agent.unsent.len() < ANSWERS_MAX) else {
                break;
            };
            match agent.socket.receive(&mut packet) {
                Ok(Received::Message { .. }) => {
                    // An order that only a newer agent knows gets no answer; its deadline runs out over there.
                    let Ok(order) = serde_json::from_slice(&packet) else { continue };
                    match self.obey(order) {
                        Next::Continue => {}
                        Next::Leave => return Next::Leave,
                    }
                }
                Ok(Received::WouldBlock) => break,
                Ok(Received::Closed) | Err(_) => self.part(),
            }
        }
        self.watch_agent();
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
        self.tell(&FromChecks::Answer { id, error: result.err() });
    }

    fn tell(&mut self, message: &FromChecks) {
        if let (Some(agent), Ok(packet)) = (&mut self.agent, serde_json::to_vec(message)) {
            agent.unsent.push_back(packet);
            self.flush();
        }
    }

    fn flush(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        while let Some(packet) = agent.unsent.front() {
            match agent.socket.send(packet, &[]) {
                Ok(true) => drop(agent.unsent.pop_front()),
                Ok(false) => break,
                Err(_) => return self.part(),
            }
        }
        self.watch_agent();
    }

    /// Waits for room while answers are unsent, and for orders only while they are few.
    fn watch_agent(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        let interest = match agent.unsent.len() {
            0 => Interest::READ,
            1..ANSWERS_MAX => Interest::READ_WRITE,
            _ => Interest::WRITE,
        };
        if interest == agent.interest {
            return;
        }
        agent.interest = interest;
        if self.epoll.modify(agent.socket.as_fd(), AGENT, interest).is_err() {
            self.part();
        }
    }
}

#[cfg(test)]
mod tests;
