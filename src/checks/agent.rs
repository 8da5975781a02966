//! The agent at the other end of a role's socket: the newest one that came, its orders, and what it has not taken yet.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::ChecksError;
use super::proto::{FromChecks, ToChecks};
use crate::sys::epoll::{Epoll, Interest, Ready};
use crate::sys::host;
use crate::sys::packet::{PacketListener, PacketSocket, Received};

/// Keys of the role's epoll.
pub(super) const LISTENER: u64 = 0;
pub(super) const AGENT: u64 = 1;
/// The first key that is free for others.
pub(super) const FIRST_KEY: u64 = 2;
/// Between two attempts to accept an agent when the host has no descriptors left, so that the loop does not spin.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// With so many answers that the agent does not take, no further orders are read; what is under way may still add its own.
pub(super) const ANSWERS_MAX: usize = 1024;

pub(super) struct Agents {
    listener: PacketListener,
    agent: Option<Agent>,
    generation: u64,
    agentless_max: Duration,
    agentless_since: Instant,
}

struct Agent {
    socket: PacketSocket,
    /// Packets that did not fit into the socket.
    unsent: VecDeque<Vec<u8>>,
    interest: Interest,
}

/// What became of those who wait to be accepted.
pub(super) enum Accepted {
    All,
    /// No descriptor is left for the next one.
    NoRoom,
}

/// What the agent says next.
pub(super) enum Heard {
    Order(ToChecks),
    /// An order that only a newer agent knows.
    Unknown,
    /// Nothing for now, or never again.
    Nothing,
}

impl Agents {
    pub(super) fn new(epoll: &Epoll, listener: PacketListener, agentless_max: Duration) -> Result<Self, ChecksError> {
        epoll
            .add(listener.as_fd(), LISTENER, Interest::READ)
            .map_err(|source| ChecksError::Loop { step: "watch the listening socket", source })?;
        Ok(Self { listener, agent: None, generation: 0, agentless_max, agentless_since: Instant::now() })
    }

    /// A number that changes whenever an agent comes or goes: what the one before asked for is void then.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// When the role is to leave, unless an agent comes.
    pub(super) fn leave_at(&self) -> Option<Instant> {
        self.agent.is_none().then(|| self.agentless_since + self.agentless_max)
    }

    /// Packets that the agent has not taken yet.
    pub(super) fn unsent(&self) -> usize {
        self.agent.as_ref().map_or(0, |agent| agent.unsent.len())
    }

    pub(super) fn accept(&mut self, epoll: &Epoll) -> Accepted {
        loop {
            match self.listener.accept() {
                Ok(Some(socket)) => self.greet(epoll, socket),
                Ok(None) => return Accepted::All,
                Err(_) => return Accepted::NoRoom,
            }
        }
    }

    /// The newest agent counts, if it is root or of our own user.
    fn greet(&mut self, epoll: &Epoll, socket: PacketSocket) {
        if !socket.peer().is_ok_and(|peer| peer.uid == 0 || peer.uid == host::uid()) {
            return;
        }
        self.part();
        if epoll.add(socket.as_fd(), AGENT, Interest::READ).is_ok() {
            self.agent = Some(Agent { socket, unsent: VecDeque::new(), interest: Interest::READ });
            self.generation += 1;
            let pid = i32::try_from(std::process::id()).unwrap_or_default();
            self.tell(epoll, &FromChecks::Hello { pid });
        }
    }

    /// The agent is gone, or another takes its place. Closing its socket takes it out of the epoll.
    fn part(&mut self) {
        if self.agent.take().is_some() {
            self.generation += 1;
            self.agentless_since = Instant::now();
        }
    }

    /// Sends what waits, and says whether there is something to be heard.
    pub(super) fn is_heard(&mut self, epoll: &Epoll, event: &Ready) -> bool {
        if event.writable || event.hangup {
            self.flush(epoll);
        }
        event.readable || event.hangup
    }

    /// The next order, while the agent takes its answers. After the last of a turn: [`Self::adjust`].
    pub(super) fn next_order(&mut self, packet: &mut Vec<u8>) -> Heard {
        let Some(agent) = self.agent.as_ref().filter(|agent| agent.unsent.len() < ANSWERS_MAX) else {
            return Heard::Nothing;
        };
        match agent.socket.receive(packet) {
            Ok(Received::Message { .. }) => serde_json::from_slice(packet).map_or(Heard::Unknown, Heard::Order),
            Ok(Received::WouldBlock) => Heard::Nothing,
            Ok(Received::Closed) | Err(_) => {
                self.part();
                Heard::Nothing
            }
        }
    }

    pub(super) fn tell(&mut self, epoll: &Epoll, message: &FromChecks) {
        if let (Some(agent), Ok(packet)) = (&mut self.agent, serde_json::to_vec(message)) {
            agent.unsent.push_back(packet);
            self.flush(epoll);
        }
    }

    fn flush(&mut self, epoll: &Epoll) {
        let Some(agent) = &mut self.agent else { return };
        while let Some(packet) = agent.unsent.front() {
            match agent.socket.send(packet, &[]) {
                Ok(true) => drop(agent.unsent.pop_front()),
                Ok(false) => break,
                // One that can never be sent is no end of the agent.
                Err(error) if error.raw_os_error() == Some(nix::libc::EMSGSIZE) => drop(agent.unsent.pop_front()),
                Err(_) => return self.part(),
            }
        }
        self.adjust(epoll);
    }

    /// Waits for room while answers are unsent, and for orders only while they are few.
    pub(super) fn adjust(&mut self, epoll: &Epoll) {
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
        if epoll.modify(agent.socket.as_fd(), AGENT, interest).is_err() {
            self.part();
        }
    }
}
