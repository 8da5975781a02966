//! One connection as a worker holds it: two sockets, two directions, and how far it has come. Small, since thousands of them may be idle.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::backend::BackendState;
use super::key::Source;
use super::slab::{GENERATION_END, Handle};
use crate::engine::types::Time;
use crate::sys::epoll::Interest;
use crate::sys::splice::Pipe;
use crate::sys::stream;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// What the client says first is needed before a backend can be chosen.
    FirstBytes,
    /// It waits for a backend; nothing is read.
    Queued,
    /// The connect to the backend is under way; nothing more is read.
    Connecting,
    Open,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// From the client to the server, or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Up,
    Down,
}

impl Way {
    pub(super) fn source(self) -> Side {
        match self {
            Self::Up => Side::Client,
            Self::Down => Side::Server,
        }
    }

    pub(super) fn destination(self) -> Side {
        match self {
            Self::Up => Side::Server,
            Self::Down => Side::Client,
        }
    }
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: OwnedFd,
    pub(super) server: Option<OwnedFd>,
    /// The number of its balancer with this worker.
    pub(super) balancer: u32,
    pub(super) phase: Phase,
    /// What the epoll was told; `None`: the descriptor is not in it.
    pub(super) client_interest: Option<Interest>,
    pub(super) server_interest: Option<Interest>,
    pub(super) up: Direction,
    pub(super) down: Direction,
    pub(super) backend: Option<Arc<BackendState>>,
    /// Which run of it.
    pub(super) run: u32,
    pub(super) accepted: Time,
    /// When its phase began, or something last happened in it.
    pub(super) since: Time,
    pub(super) connected: Time,
    pub(super) extra: Option<Box<Extra>>,
    pub(super) server_kind: ServerKind,
    /// The server's socket has taken a byte.
    pub(super) delivered: bool,
    /// The server has sent a byte.
    pub(super) answered: bool,
    /// The answer was put to the backend's credit, or that there was none was held against it.
    pub(super) judged: bool,
    /// The timer knows that one direction has ended.
    pub(super) half_closed_timed: bool,
}

/// Whether Nagle's algorithm stands in the way of the server's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServerKind {
    Unix,
    /// Nothing was written yet: the first write is never delayed, so the option can wait for the second.
    FreshTcp,
    WrittenTcp,
    NoDelayTcp,
}

#[derive(Debug, Default)]
pub(super) struct Direction {
    /// Read and not yet written: what did not fit into the destination.
    pub(super) tail: Option<Box<Tail>>,
    /// Holds `in_pipe` bytes, never none.
    pub(super) pipe: Option<Pipe>,
    pub(super) in_pipe: u32,
    /// Read from the source.
    pub(super) bytes: u64,
    /// Of `bytes`, what the counters know.
    pub(super) counted: u64,
    pub(super) spliced: u64,
    pub(super) mode: Mode,
    /// The last attempt to fill a pipe found nothing.
    pub(super) spliced_nothing: bool,
    /// Large or small reads in a row: what a change of mode goes by.
    pub(super) streak: u8,
    /// The source has closed it.
    pub(super) ended: bool,
    /// The destination knows.
    pub(super) shut: bool,
    /// The destination has closed: what comes is dropped.
    pub(super) discarded: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    Copy,
    Splice,
    /// Splicing does not work here.
    CopyForGood,
}

/// An empty one waits for room in the destination.
#[derive(Debug, Default)]
pub(super) struct Tail {
    pub(super) bytes: Vec<u8>,
    pub(super) written: usize,
}

impl Direction {
    pub(super) fn is_pending(&self) -> bool {
        self.tail.is_some() || self.pipe.is_some()
    }

    pub(super) fn is_over(&self) -> bool {
        self.ended && !self.is_pending()
    }
}

/// What few connections need, or only at their begin.
#[derive(Debug, Default)]
pub(super) struct Extra {
    /// The client's address: its own, or the one that a PROXY header announced.
    pub(super) source: Option<SocketAddr>,
    pub(super) key: KeyState,
    /// Backends that were tried and failed.
    pub(super) tried: Vec<Tried>,
    /// How often what the client has sent, or its silence, was given to another backend after one had taken it.
    pub(super) replays: u8,
    /// One of those may take it when it is asked again: it is about to be restarted, or its queue was full.
    pub(super) try_again: bool,
    pub(super) attempts: u16,
    /// What the client has sent so far (and a header before it), for another backend, as long as nothing was answered.
    pub(super) kept: Option<Vec<u8>>,
    pub(super) kept_max: usize,
    /// What the kernel still had for the client and for the server, when it was too quiet last.
    pub(super) unsent: Option<[u32; 2]>,
    /// From the connect to the first byte of answer.
    pub(super) first_byte: Option<Duration>,
    /// Its handle lies in the queue.
    pub(super) in_queue: bool,
    /// Counted among those that waited.
    pub(super) was_queued: bool,
    /// Counted among those that went to another backend.
    pub(super) redispatched: bool,
    /// How often those that failed were tried again while it waits.
    pub(super) retries: u8,
    /// When the attempts to connect end, once one has failed.
    pub(super) give_up: Option<Time>,
    /// When waiting ends; set once.
    pub(super) patience: Option<Time>,
    /// Counted against the limit of its source.
    pub(super) counted_source: Option<Source>,
    /// The client closed its direction while it waited: it may still want its answer.
    pub(super) half_closed: bool,
    /// It is gone altogether: the epoll would tell that again and again.
    pub(super) hung_up: bool,
    pub(super) must_peek_proxy: bool,
}

/// A backend that failed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tried {
    pub(super) id: u32,
    pub(super) run: u32,
    /// It had bytes of the client: it never gets them again.
    pub(super) delivered: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum KeyState {
    #[default]
    Unknown,
    /// `None`: nothing usable.
    Known(Option<u64>),
}

impl Session {
    /// `None`: a Unix client that cannot be asked any more.
    pub(super) fn identity(&self) -> Option<Source> {
        let address =
            self.extra.as_ref().and_then(|extra| extra.source).or_else(|| stream::remote_address(&self.client));
        match address {
            Some(address) => Some(Source::of(address.ip())),
            None => stream::peer(&self.client).ok().map(|peer| Source::User(peer.uid)),
        }
    }

    pub(super) fn way(&mut self, way: Way) -> &mut Direction {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }

    /// `None` while it has no server.
    pub(super) fn socket(&self, side: Side) -> Option<&OwnedFd> {
        match side {
            Side::Client => Some(&self.client),
            Side::Server => self.server.as_ref(),
        }
    }

    /// One side has ended and nothing is on its way through us: the other side has to say something soon.
    pub(super) fn is_half_closed(&self) -> bool {
        (self.up.ended || self.down.ended) && !self.up.is_pending() && !self.down.is_pending()
    }

    /// What its sockets have to be watched for; `None`: not at all, since a hang-up would be told again and again.
    pub(super) fn wanted(&self, side: Side) -> Option<Interest> {
        let open = |reads: &Direction, writes: &Direction| {
            let read = (!reads.ended && !reads.is_pending()).then_some(Interest::STREAM_READ);
            let write = writes.is_pending().then_some(Interest::WRITE);
            match (read, write) {
                (Some(read), Some(write)) => Some(read.and(write)),
                (read, write) => read.or(write),
            }
        };
        match (self.phase, side) {
            (Phase::FirstBytes, Side::Client) => Some(Interest::STREAM_READ),
            (Phase::Queued, Side::Client) if self.extra.as_ref().is_some_and(|extra| extra.hung_up) => None,
            (Phase::Queued, Side::Client) => {
                let knows = self.up.ended || self.extra.as_ref().is_some_and(|extra| extra.half_closed);
                Some(if knows { Interest::NONE } else { Interest::STREAM_END })
            }
            (Phase::FirstBytes | Phase::Queued, Side::Server) | (Phase::Connecting, Side::Client) => None,
            (Phase::Connecting, Side::Server) => Some(Interest::WRITE),
            (Phase::Open, Side::Client) => open(&self.up, &self.down),
            (Phase::Open, Side::Server) => open(&self.down, &self.up),
        }
    }
}

/// What an event of the epoll is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Wake,
    Listener(u32),
    Session(Handle, Side),
}

const WAKE: u64 = u64::MAX;

impl Token {
    pub(super) fn key(self) -> u64 {
        match self {
            Self::Wake => WAKE,
            Self::Listener(index) => u64::from(GENERATION_END) << 32 | u64::from(index),
            Self::Session(handle, side) => {
                u64::from(handle.generation) << 32 | u64::from(handle.index) << 1 | u64::from(side == Side::Server)
            }
        }
    }

    pub(super) fn from_key(key: u64) -> Self {
        let low = u32::try_from(key & u64::from(u32::MAX)).unwrap_or_default();
        let generation = u32::try_from(key >> 32).unwrap_or_default();
        if key == WAKE {
            return Self::Wake;
        }
        if generation == GENERATION_END {
            return Self::Listener(low);
        }
        let side = if low & 1 == 1 { Side::Server } else { Side::Client };
        Self::Session(Handle { index: low >> 1, generation }, side)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_epoll() {
        let handle = Handle { index: (1 << 30) - 1, generation: GENERATION_END - 1 };
        for token in [
            Token::Wake,
            Token::Listener(0),
            Token::Listener(77),
            Token::Session(handle, Side::Server),
            Token::Session(Handle { index: 0, generation: 0 }, Side::Client),
        ] {
            assert_eq!(Token::from_key(token.key()), token);
        }
    }

    #[test]
    fn idle_connection_costs_little() {
        let bytes = size_of::<Session>();
        assert!(bytes <= 288, "{bytes}");
    }
}
