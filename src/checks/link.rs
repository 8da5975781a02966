//! The connection to the agent: what could not be sent yet waits here, in order.

use std::collections::VecDeque;
use std::os::fd::AsFd;

use super::proto::FromChecks;
use crate::sys::epoll::{Epoll, Interest};
use crate::sys::packet::{PacketSocket, Received};

/// With so many answers that the agent does not take, no further orders are read; the probes under way may still add theirs.
const ANSWERS_MAX: usize = 1024;
/// With so many, nothing is read of the host: what it would say now is of no use later.
const SAMPLES_MAX: usize = 64;

/// None while there is no agent.
#[derive(Debug, Default)]
pub(super) struct Link(Option<Agent>);

#[derive(Debug)]
struct Agent {
    socket: PacketSocket,
    key: u64,
    /// Packets that did not fit into the socket.
    unsent: VecDeque<Vec<u8>>,
    interest: Interest,
}

impl Link {
    /// Takes the agent; `false` if it cannot be watched.
    pub(super) fn connect(&mut self, epoll: &Epoll, key: u64, socket: PacketSocket) -> bool {
        let watched = epoll.add(socket.as_fd(), key, Interest::READ).is_ok();
        self.0 = watched.then(|| Agent { socket, key, unsent: VecDeque::new(), interest: Interest::READ });
        watched
    }

    /// Closing the socket takes it out of the epoll.
    pub(super) fn close(&mut self) {
        self.0 = None;
    }

    pub(super) fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// The agent does not take what it is told.
    pub(super) fn is_behind(&self) -> bool {
        self.0.as_ref().is_some_and(|agent| agent.unsent.len() >= SAMPLES_MAX)
    }

    /// One order of the agent. `None`: none now. The connection is closed when the agent has left.
    pub(super) fn receive(&mut self, packet: &mut Vec<u8>) -> Option<()> {
        let agent = self.0.as_ref().filter(|agent| agent.unsent.len() < ANSWERS_MAX)?;
        match agent.socket.receive(packet) {
            Ok(Received::Message { .. }) => Some(()),
            Ok(Received::WouldBlock) => None,
            Ok(Received::Closed) | Err(_) => {
                self.close();
                None
            }
        }
    }

    pub(super) fn tell(&mut self, epoll: &Epoll, message: &FromChecks) {
        if let (Some(agent), Ok(packet)) = (&mut self.0, serde_json::to_vec(message)) {
            agent.unsent.push_back(packet);
            self.flush(epoll);
        }
    }

    pub(super) fn flush(&mut self, epoll: &Epoll) {
        let Some(agent) = &mut self.0 else { return };
        while let Some(packet) = agent.unsent.front() {
            match agent.socket.send(packet, &[]) {
                Ok(true) => drop(agent.unsent.pop_front()),
                Ok(false) => break,
                Err(_) => return self.close(),
            }
        }
        self.watch(epoll);
    }

    /// Waits for room while answers are unsent, and for orders only while they are few.
    pub(super) fn watch(&mut self, epoll: &Epoll) {
        let Some(agent) = &mut self.0 else { return };
        let interest = match agent.unsent.len() {
            0 => Interest::READ,
            1..ANSWERS_MAX => Interest::READ_WRITE,
            _ => Interest::WRITE,
        };
        if interest == agent.interest {
            return;
        }
        agent.interest = interest;
        if epoll.modify(agent.socket.as_fd(), agent.key, interest).is_err() {
            self.close();
        }
    }
}
