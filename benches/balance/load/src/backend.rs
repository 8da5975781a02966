//! A replica. With `--service-time` each answer leaves that long after its request came; with `--graceful` SIGTERM closes the listener
//! and lets every connection end, without it SIGTERM kills like any program that does not care.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::Result;
use crate::args::Args;
use crate::net::{self, Listener};
use crate::protocol::{self, REQUEST_BYTES};
use crate::tally;

const ACCEPTS_PER_EVENT: usize = 64;
const READ_BYTES: usize = 16 << 10;
/// Of HTTP headers, before the connection is dropped.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// After SIGTERM; connections on which nobody asks anything end with the process.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

const LISTENER: usize = usize::MAX;
const SIGNALS: usize = usize::MAX - 1;

#[derive(Debug)]
pub(crate) struct Options {
    listen: String,
    service_time: Duration,
    graceful: bool,
}

impl Options {
    pub(crate) fn parse(args: &mut Args) -> Result<Self> {
        let options = Self {
            listen: args.text("listen")?,
            service_time: args.time("service-time", Some(Duration::ZERO))?,
            graceful: args.flag("graceful"),
        };
        args.done()?;
        Ok(options)
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let poller = net::poller()?;
    let signals = if options.graceful { Some(terminations(&poller)?) } else { None };
    let listener = Listener::open(&options.listen)?;
    poller.add(&listener, net::interest(true, LISTENER))?;
    // What a supervisor may wait for.
    tally::line_out("listening")?;
    let mut backend = Backend {
        poller,
        listener: Some(listener),
        service_time: options.service_time,
        connections: Vec::new(),
        open: 0,
        accepted: 0,
        due: VecDeque::new(),
        pattern: protocol::pattern(),
        scratch: vec![0; READ_BYTES],
    };
    let mut events = vec![EpollEvent::empty(); net::EVENTS_MAX];
    let mut leave_at: Option<Instant> = None;
    loop {
        let count = match backend.poller.wait(&mut events, backend.timeout(leave_at.is_some())) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for event in &events[..count] {
            match net::token(event) {
                LISTENER => backend.accept(ACCEPTS_PER_EVENT)?,
                SIGNALS => {
                    let _ = signals.as_ref().map(SignalFd::read_signal).transpose()?;
                    // Who has finished its handshake is served; closing the listener would reset it.
                    backend.accept(usize::MAX)?;
                    backend.listener = None;
                    leave_at.get_or_insert_with(|| Instant::now() + LEAVE_WITHIN);
                }
                fd => backend.ready(fd),
            }
        }
        backend.answer_due();
        if leave_at.is_some_and(|at| backend.open == 0 || Instant::now() >= at) {
            return Ok(());
        }
    }
}

fn terminations(poller: &Epoll) -> Result<SignalFd> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGTERM);
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    poller.add(signals.as_fd(), net::interest(true, SIGNALS))?;
    Ok(signals)
}

#[derive(Debug)]
struct Connection {
    fd: OwnedFd,
    /// Told apart from a later one with the same descriptor.
    number: u64,
    /// What has come and is not answered yet.
    input: Vec<u8>,
    state: State,
    /// The socket took no more: it is watched for room, not for requests.
    blocked: bool,
}

/// One request at a time: what comes meanwhile waits in `input`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    /// For the service time to pass.
    Serving,
    Sending(Answer),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Pattern { at: u64, until: u64 },
    Http { at: usize, close: bool },
    Idle,
}

#[derive(Debug)]
struct Due {
    at: Instant,
    index: usize,
    number: u64,
    answer: Answer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Keep,
    Close,
}

#[derive(Debug)]
struct Backend {
    poller: Epoll,
    listener: Option<Listener>,
    service_time: Duration,
    /// By descriptor.
    connections: Vec<Option<Connection>>,
    open: usize,
    accepted: u64,
    due: VecDeque<Due>,
    pattern: Vec<u8>,
    scratch: Vec<u8>,
}

impl Backend {
    fn timeout(&self, leaving: bool) -> EpollTimeout {
        let Some(next) = self.due.front() else {
            return if leaving { EpollTimeout::from(100_u8) } else { EpollTimeout::NONE };
        };
        let wait = next.at.saturating_duration_since(Instant::now());
        // Rounded up, or the last part of a millisecond would be spun away.
        EpollTimeout::from(u16::try_from(wait.as_micros().div_ceil(1_000)).unwrap_or(u16::MAX))
    }

    fn accept(&mut self, limit: usize) -> Result<()> {
        let Some(listener) = &self.listener else { return Ok(()) };
        for _ in 0..limit {
            let Some(fd) = listener.accept()? else { return Ok(()) };
            let index = usize::try_from(fd.as_raw_fd())?;
            if index >= self.connections.len() {
                self.connections.resize_with(index + 1, || None);
            }
            self.poller.add(&fd, net::interest(true, index))?;
            self.accepted += 1;
            self.open += 1;
            self.connections[index] = Some(Connection {
                fd,
                number: self.accepted,
                input: Vec::new(),
                state: State::Reading,
                blocked: false,
            });
        }
        Ok(())
    }

    fn ready(&mut self, index: usize) {
        // It may have been closed by an earlier event of the same batch.
        let Some(connection) = self.connections.get_mut(index).and_then(Option::as_mut) else { return };
        let fate = match connection.state {
            State::Reading | State::Serving => connection.read(&mut self.scratch),
            State::Sending(_) => Fate::Keep,
        };
        self.go_on(index, fate);
    }

    fn answer_due(&mut self) {
        let now = Instant::now();
        while let Some(due) = self.due.pop_front_if(|due| due.at <= now) {
            let Some(connection) = self.connections.get_mut(due.index).and_then(Option::as_mut) else { continue };
            if connection.number == due.number {
                connection.state = State::Sending(due.answer);
                self.go_on(due.index, Fate::Keep);
            }
        }
    }

    /// Parses and sends as long as that leads on.
    fn go_on(&mut self, index: usize, fate: Fate) {
        let Some(connection) = self.connections.get_mut(index).and_then(Option::as_mut) else { return };
        let mut fate = fate;
        while fate == Fate::Keep {
            match connection.state {
                State::Serving => break,
                State::Reading => match parse(&mut connection.input) {
                    Parsed::Nothing => break,
                    Parsed::Nonsense => fate = Fate::Close,
                    Parsed::Ask(answer @ Answer::Pattern { .. }) if !self.service_time.is_zero() => {
                        connection.state = State::Serving;
                        let at = Instant::now() + self.service_time;
                        self.due.push_back(Due { at, index, number: connection.number, answer });
                    }
                    Parsed::Ask(answer) => connection.state = State::Sending(answer),
                },
                State::Sending(answer) => match connection.send(answer, &self.pattern) {
                    Sent::All(end) => {
                        let was_blocked = connection.blocked;
                        connection.state = State::Reading;
                        connection.blocked = false;
                        fate = end;
                        if was_blocked && fate == Fate::Keep {
                            fate = watch(&self.poller, connection, index, true);
                        }
                    }
                    Sent::Part(rest) => {
                        connection.state = State::Sending(rest);
                        if !connection.blocked {
                            connection.blocked = true;
                            fate = watch(&self.poller, connection, index, false);
                        }
                        break;
                    }
                    Sent::Gone => fate = Fate::Close,
                },
            }
        }
        if fate == Fate::Close {
            self.connections[index] = None;
            self.open -= 1;
        }
    }
}

fn watch(poller: &Epoll, connection: &Connection, index: usize, read: bool) -> Fate {
    match poller.modify(&connection.fd, &mut net::interest(read, index)) {
        Ok(()) => Fate::Keep,
        Err(_) => Fate::Close,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Nothing,
    Ask(Answer),
    Nonsense,
}

/// Takes the first request off `input`.
fn parse(input: &mut Vec<u8>) -> Parsed {
    let Some(kind) = input.first() else { return Parsed::Nothing };
    match *kind {
        protocol::IDLE => {
            input.remove(0);
            Parsed::Ask(Answer::Idle)
        }
        protocol::ANSWER | protocol::DOWNLOAD => {
            let Some(request) = input.first_chunk::<REQUEST_BYTES>() else { return Parsed::Nothing };
            let until = protocol::length_of(request);
            input.drain(..REQUEST_BYTES);
            Parsed::Ask(Answer::Pattern { at: 0, until })
        }
        b'G' | b'H' | b'O' => {
            let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") else {
                return if input.len() > HEAD_BYTES_MAX { Parsed::Nonsense } else { Parsed::Nothing };
            };
            let head = String::from_utf8_lossy(&input[..end]).to_ascii_lowercase();
            let close = head.contains(" http/1.0") || head.contains("connection: close");
            input.drain(..end + 4);
            Parsed::Ask(Answer::Http { at: 0, close })
        }
        _ => Parsed::Nonsense,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Sent {
    All(Fate),
    Part(Answer),
    Gone,
}

impl Connection {
    fn read(&mut self, scratch: &mut [u8]) -> Fate {
        match net::receive(&self.fd, scratch) {
            Ok(0) => Fate::Close,
            Ok(_) if self.input.len() > HEAD_BYTES_MAX => Fate::Close,
            Ok(count) => {
                self.input.extend_from_slice(&scratch[..count]);
                Fate::Keep
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Fate::Keep,
            Err(_) => Fate::Close,
        }
    }

    fn send(&self, answer: Answer, pattern: &[u8]) -> Sent {
        let mut answer = answer;
        loop {
            let bytes = answer.next_bytes(pattern);
            if bytes.is_empty() {
                return Sent::All(if matches!(answer, Answer::Http { close: true, .. }) {
                    Fate::Close
                } else {
                    Fate::Keep
                });
            }
            match net::send(&self.fd, bytes) {
                Ok(count) => answer = answer.after(count),
                Err(Errno::EAGAIN) => return Sent::Part(answer),
                Err(Errno::EINTR) => {}
                Err(_) => return Sent::Gone,
            }
        }
    }
}

impl Answer {
    fn next_bytes(self, pattern: &[u8]) -> &[u8] {
        match self {
            Self::Pattern { at, until } => {
                let from = usize::try_from(at % pattern.len() as u64).unwrap_or(0);
                let left = usize::try_from(until - at).unwrap_or(usize::MAX);
                &pattern[from..from.saturating_add(left).min(pattern.len())]
            }
            Self::Http { at, .. } => &protocol::HTTP_ANSWER[at..],
            Self::Idle => &[protocol::IDLE],
        }
    }

    fn after(self, count: usize) -> Self {
        match self {
            Self::Pattern { at, until } => Self::Pattern { at: at + count as u64, until },
            Self::Http { at, close } => Self::Http { at: at + count, close },
            // One byte, so it is out.
            Self::Idle => Self::Pattern { at: 0, until: 0 },
        }
    }
}
