//! One client's connection: reading a request, waiting for the runtime, writing the answer, and over again. It never blocks; whoever
//! is slow while it reads or writes is dropped at its deadline.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::error::{ApiError, Code};
use super::http::{self, After, Head, Response};
use super::route::{self, Request, Socket};
use crate::sys::epoll::Interest;
use crate::sys::packet::Peer;
use crate::sys::stranger::Stranger;

/// From the first byte of a request to its last; also how long a connection may idle between requests.
pub const READ_TIMEOUT_NS: u64 = 5_000_000_000;
/// Without progress while an answer is written.
pub const WRITE_TIMEOUT_NS: u64 = 5_000_000_000;
/// For a whole answer, however steadily it trickles.
pub const ANSWER_TIMEOUT_NS: u64 = 60_000_000_000;

const READ_BYTES_A_TURN: usize = 8 << 10;
const WRITES_A_TURN: usize = 4;

#[derive(Debug)]
pub(super) struct Connection {
    stream: Stranger,
    pub(super) peer: Peer,
    pub(super) socket: Socket,
    phase: Phase,
    input: Vec<u8>,
    after: After,
    /// `None` while the runtime owes the answer.
    pub(super) deadline_ns: Option<u64>,
}

#[derive(Debug)]
enum Phase {
    Reading { head: Option<Head> },
    Waiting,
    Writing { output: Vec<u8>, sent_bytes: usize, give_up_ns: u64 },
}

/// What became of a connection in one step.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing that concerns others.
    Pending,
    Request(Request),
    /// To be dropped.
    Closed,
}

impl Connection {
    pub(super) fn new(stream: Stranger, peer: Peer, socket: Socket, now_ns: u64) -> Self {
        Self {
            stream,
            peer,
            socket,
            phase: Phase::Reading { head: None },
            input: Vec::new(),
            after: After::Close,
            deadline_ns: Some(now_ns.saturating_add(READ_TIMEOUT_NS)),
        }
    }

    pub(super) fn stream(&self) -> &UnixStream {
        self.stream.stream()
    }

    pub(super) fn interest(&self) -> Interest {
        match self.phase {
            Phase::Reading { .. } => Interest::READ,
            // Only the client's departure is of interest, and epoll always reports that.
            Phase::Waiting => Interest::NONE,
            Phase::Writing { .. } => Interest::WRITE,
        }
    }

    /// The next step is the client's.
    pub(super) fn is_reading(&self) -> bool {
        matches!(self.phase, Phase::Reading { .. })
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Waiting)
    }

    /// The socket can be read, or written, or its other end is gone.
    pub(super) fn ready(&mut self, readable: bool, hangup: bool, now_ns: u64) -> Step {
        match self.phase {
            Phase::Reading { .. } if readable => self.read(now_ns),
            Phase::Writing { .. } if !hangup => self.write(now_ns),
            Phase::Reading { .. } | Phase::Waiting | Phase::Writing { .. } if hangup => Step::Closed,
            Phase::Reading { .. } | Phase::Waiting | Phase::Writing { .. } => Step::Pending,
        }
    }

    /// The deadline has passed.
    pub(super) fn expire(&mut self, now_ns: u64) -> Step {
        match self.phase {
            Phase::Reading { .. } if !self.input.is_empty() => {
                let error = ApiError::new(Code::RequestTimeout, "the request did not arrive within 5 s");
                self.refuse(&error, now_ns)
            }
            Phase::Reading { .. } | Phase::Writing { .. } => Step::Closed,
            Phase::Waiting => Step::Pending,
        }
    }

    /// Begins to write the answer.
    pub(super) fn respond(&mut self, response: Response, now_ns: u64) -> Step {
        self.deadline_ns = Some(now_ns.saturating_add(WRITE_TIMEOUT_NS));
        self.phase = Phase::Writing {
            output: response.into_bytes(self.after),
            sent_bytes: 0,
            give_up_ns: now_ns.saturating_add(ANSWER_TIMEOUT_NS),
        };
        self.write(now_ns)
    }

    /// Writes the head of a stream and gives the socket away; `None` when the client does not take even that.
    pub(super) fn hand_over(self, head: &[u8]) -> Option<OwnedFd> {
        // A fresh socket buffer holds a head; one that is full belongs to a client that does not read.
        match self.stream.stream().write(head) {
            Ok(bytes) if bytes == head.len() => self.stream.give_away().ok(),
            Ok(_) | Err(_) => None,
        }
    }

    fn read(&mut self, now_ns: u64) -> Step {
        let mut chunk = [0; READ_BYTES_A_TURN];
        let bytes = match self.stream.read(&mut chunk) {
            Ok(0) => return Step::Closed,
            Ok(bytes) => bytes,
            Err(error) if is_transient(&error) => return Step::Pending,
            Err(_) => return Step::Closed,
        };
        if self.input.is_empty() {
            self.deadline_ns = Some(now_ns.saturating_add(READ_TIMEOUT_NS));
        }
        self.input.extend_from_slice(&chunk[..bytes]);
        self.advance(now_ns)
    }

    /// Looks whether the request is complete. INVARIANT: `input` never grows beyond head, body and one chunk, since nothing is read
    /// once the request is complete or refused.
    fn advance(&mut self, now_ns: u64) -> Step {
        let Phase::Reading { head } = &mut self.phase else { return Step::Pending };
        if head.is_none() {
            match http::parse_head(&self.input) {
                Ok(parsed) => *head = parsed,
                Err(error) => return self.refuse(&error, now_ns),
            }
        }
        let Some(known) = head else { return Step::Pending };
        let end = known.head_bytes + known.body_bytes;
        if self.input.len() < end {
            return Step::Pending;
        }
        let Some(head) = head.take() else { return Step::Pending };
        // What follows the request is not looked at: the answer says that the connection closes.
        self.after = if head.keep_alive && self.input.len() == end { After::KeepAlive } else { After::Close };
        let routed = route::route(&head, &self.input[head.head_bytes..end], self.socket);
        self.input = Vec::new();
        match routed {
            Ok(request) => {
                self.deadline_ns = None;
                self.phase = Phase::Waiting;
                Step::Request(request)
            }
            Err(error) => self.respond(error.response(), now_ns),
        }
    }

    /// Answers with an error after which the connection cannot go on.
    fn refuse(&mut self, error: &ApiError, now_ns: u64) -> Step {
        self.after = After::Close;
        self.input = Vec::new();
        self.respond(error.response(), now_ns)
    }

    fn write(&mut self, now_ns: u64) -> Step {
        let Phase::Writing { output, sent_bytes, give_up_ns } = &mut self.phase else { return Step::Pending };
        for _ in 0..WRITES_A_TURN {
            match self.stream.stream().write(&output[*sent_bytes..]) {
                Ok(0) => return Step::Closed,
                Ok(bytes) => {
                    *sent_bytes += bytes;
                    self.deadline_ns = Some(now_ns.saturating_add(WRITE_TIMEOUT_NS).min(*give_up_ns));
                }
                Err(error) if is_transient(&error) => return Step::Pending,
                Err(_) => return Step::Closed,
            }
            if *sent_bytes == output.len() {
                return self.written(now_ns);
            }
        }
        Step::Pending
    }

    fn written(&mut self, now_ns: u64) -> Step {
        if self.after == After::Close {
            return Step::Closed;
        }
        self.phase = Phase::Reading { head: None };
        self.deadline_ns = Some(now_ns.saturating_add(READ_TIMEOUT_NS));
        Step::Pending
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
