//! The agent at the other end of the role's socket: the newest one that came, its orders, and what it has not taken yet.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::proto::{FromCopies, PIECE_BYTES_MAX, ToCopies};
use crate::copies::role::CopiesError;
use crate::sys::epoll::{Epoll, Interest, Ready};
use crate::sys::host;
use crate::sys::packet::{PacketListener, PacketSocket, Received};

pub(in crate::copies) const LISTENER: u64 = 0;
pub(in crate::copies) const AGENT: u64 = 1;
/// With so many packets that the agent does not take, progress and findings are dropped: what counts comes with the end of the job.
const UNSENT_MAX: usize = 1_024;

pub(in crate::copies) struct Link {
    listener: PacketListener,
    agent: Option<Agent>,
    agentless_since: Instant,
}

struct Agent {
    socket: PacketSocket,
    unsent: VecDeque<Vec<u8>>,
    interest: Interest,
}

/// What the agent says next.
pub(in crate::copies) enum Heard {
    Order(ToCopies, Vec<OwnedFd>),
    /// An order that only a newer agent knows.
    Unknown,
    Nothing,
    /// Its end is closed.
    Gone,
}

impl Link {
    pub(in crate::copies) fn new(epoll: &Epoll, listener: PacketListener) -> Result<Self, CopiesError> {
        epoll
            .add(listener.as_fd(), LISTENER, Interest::READ)
            .map_err(|source| CopiesError::Loop { step: "watch the listening socket", source })?;
        Ok(Self { listener, agent: None, agentless_since: Instant::now() })
    }

    pub(in crate::copies) fn has_agent(&self) -> bool {
        self.agent.is_some()
    }

    /// When there will have been no agent for so long.
    pub(in crate::copies) fn without_agent_until(&self, long: Duration) -> Option<Instant> {
        self.agent.is_none().then(|| self.agentless_since + long)
    }

    /// The newest agent counts, if it is root or of our own user. `true`: there is a new one.
    pub(in crate::copies) fn accept(&mut self, epoll: &Epoll) -> bool {
        let mut is_new = false;
        // Without a descriptor left the next turn tries again.
        while let Ok(Some(socket)) = self.listener.accept() {
            let is_trusted = socket.peer().is_ok_and(|peer| peer.uid == 0 || peer.uid == host::uid());
            if is_trusted && epoll.add(socket.as_fd(), AGENT, Interest::READ).is_ok() {
                // Closing the former's socket takes it out of the epoll.
                self.agent = Some(Agent { socket, unsent: VecDeque::new(), interest: Interest::READ });
                is_new = true;
            }
        }
        is_new
    }

    /// Sends what waits, and says whether there is something to be heard.
    pub(in crate::copies) fn is_heard(&mut self, epoll: &Epoll, event: &Ready) -> bool {
        if event.writable || event.hangup {
            self.flush(epoll);
        }
        event.readable || event.hangup
    }

    pub(in crate::copies) fn next_order(&mut self, packet: &mut Vec<u8>) -> Heard {
        let Some(agent) = &self.agent else { return Heard::Nothing };
        match agent.socket.receive(packet) {
            Ok(Received::Message { fds }) => {
                serde_json::from_slice(packet).map_or(Heard::Unknown, |order| Heard::Order(order, fds))
            }
            Ok(Received::WouldBlock) => Heard::Nothing,
            Ok(Received::Closed) | Err(_) => {
                self.part();
                Heard::Gone
            }
        }
    }

    fn part(&mut self) {
        self.agent = None;
        self.agentless_since = Instant::now();
    }

    /// Whether the agent takes what it is told.
    pub(in crate::copies) fn is_behind(&self) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.unsent.len() >= UNSENT_MAX)
    }

    pub(in crate::copies) fn tell(&mut self, epoll: &Epoll, message: &FromCopies) {
        let Some(agent) = &mut self.agent else { return };
        let Ok(text) = serde_json::to_string(message) else { return };
        if text.len() <= PIECE_BYTES_MAX {
            agent.unsent.push_back(text.into_bytes());
        } else {
            agent.unsent.extend(pieces(&text));
        }
        self.flush(epoll);
    }

    fn flush(&mut self, epoll: &Epoll) {
        let Some(agent) = &mut self.agent else { return };
        while let Some(packet) = agent.unsent.front() {
            match agent.socket.send(packet, &[]) {
                Ok(true) => drop(agent.unsent.pop_front()),
                Ok(false) => break,
                // Its end is read as such.
                Err(_) => agent.unsent.clear(),
            }
        }
        let interest = if agent.unsent.is_empty() { Interest::READ } else { Interest::READ_WRITE };
        if interest != agent.interest && epoll.modify(agent.socket.as_fd(), AGENT, interest).is_ok() {
            agent.interest = interest;
        }
    }
}

/// A message that is longer than a packet.
fn pieces(text: &str) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE_BYTES_MAX.min(rest.len())));
        rest = after;
        let piece = FromCopies::Piece { text: piece.to_owned(), last: rest.is_empty() };
        pieces.extend(serde_json::to_vec(&piece).ok());
    }
    pieces
}
