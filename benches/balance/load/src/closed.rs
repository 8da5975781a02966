//! Closed loop: each client sends its next request when it has its answer.

use std::net::SocketAddrV4;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollTimeout};

use crate::Result;
use crate::args::Args;
use crate::net;
use crate::protocol::{self, REQUEST_BYTES};
use crate::tally::{Failure, Tally};

/// Of a request, before it counts as failed. With a closed loop a stall only shows as one long latency a client.
const STALLED: Duration = Duration::from_secs(5);
/// Not counted for rate and latency: the balancer finds its sizes.
const WARM_UP: Duration = Duration::from_millis(250);
/// Then something is broken, and a rate would mean nothing.
const FAILURES_MAX: u64 = 10_000;
const READ_BYTES: usize = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Churn,
    Keep,
}

#[derive(Debug)]
pub(crate) struct Options {
    mode: Mode,
    to: SocketAddrV4,
    clients: usize,
    answer_bytes: u64,
    for_: Duration,
}

impl Options {
    pub(crate) fn churn(args: &mut Args) -> Result<Self> {
        Self::parse(args, Mode::Churn)
    }

    pub(crate) fn keep(args: &mut Args) -> Result<Self> {
        Self::parse(args, Mode::Keep)
    }

    fn parse(args: &mut Args, mode: Mode) -> Result<Self> {
        let options = Self {
            mode,
            to: args.to()?,
            clients: args.number("clients", None)?,
            answer_bytes: args.number("answer", Some(64))?,
            for_: args.time("for", None)?,
        };
        args.done()?;
        Ok(options)
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let begin = Instant::now();
    let mut load = Load {
        options,
        poller: net::poller()?,
        clients: Vec::new(),
        request: protocol::request(protocol::ANSWER, options.answer_bytes),
        pattern: protocol::pattern(),
        scratch: vec![0; READ_BYTES],
        tally: Tally::new(),
        window_begin: begin + WARM_UP,
    };
    for index in 0..options.clients {
        load.clients.push(Client { fd: None, begun: begin, sent: false, got: 0 });
        load.start(index);
    }
    let end = begin + WARM_UP + options.for_;
    let mut events = vec![EpollEvent::empty(); net::EVENTS_MAX];
    loop {
        let count = load.poller.wait(&mut events, EpollTimeout::from(100_u8))?;
        if Instant::now() >= end {
            break;
        }
        for event in &events[..count] {
            load.ready(net::token(event));
        }
        if load.tally.failed() > FAILURES_MAX {
            break;
        }
        if count == 0 {
            load.fail_stalled();
        }
    }
    load.fail_stalled();
    load.tally.print(Instant::now() - load.window_begin)
}

#[derive(Debug)]
struct Client {
    /// `None`: its last connection failed.
    fd: Option<OwnedFd>,
    begun: Instant,
    sent: bool,
    got: u64,
}

#[derive(Debug)]
struct Load<'a> {
    options: &'a Options,
    poller: Epoll,
    clients: Vec<Client>,
    request: [u8; REQUEST_BYTES],
    pattern: Vec<u8>,
    scratch: Vec<u8>,
    tally: Tally,
    window_begin: Instant,
}

impl Load<'_> {
    /// A new connection for this client, with its first request on the way if the handshake is done.
    fn start(&mut self, index: usize) {
        let begun = Instant::now();
        let opened = net::dial(self.options.to, net::source(index)).and_then(|fd| {
            if self.options.mode == Mode::Keep {
                net::no_delay(fd.as_fd())?;
            }
            let sent = net::send_request(&fd, &self.request)?;
            self.poller.add(&fd, net::interest(sent, index))?;
            Ok((fd, sent))
        });
        let client = &mut self.clients[index];
        *client = Client { fd: None, begun, sent: false, got: 0 };
        match opened {
            Ok((fd, sent)) => (client.fd, client.sent) = (Some(fd), sent),
            Err(error) => self.tally.failure(Failure::of(error)),
        }
    }

    fn ready(&mut self, index: usize) {
        match self.step(index) {
            Ok(Step::Waits) => {}
            Ok(Step::Answered) => {
                let now = Instant::now();
                let client = &mut self.clients[index];
                self.tally.answer(now - client.begun, client.begun >= self.window_begin);
                if self.options.mode == Mode::Churn {
                    self.start(index);
                    return;
                }
                (client.begun, client.got) = (now, 0);
                let sent = client.fd.as_ref().map_or(Ok(false), |fd| net::send_request(fd, &self.request));
                match sent {
                    Ok(true) => {}
                    Ok(false) => self.fail(index, Failure::Other),
                    Err(error) => self.fail(index, Failure::of(error)),
                }
            }
            Err(failure) => self.fail(index, failure),
        }
    }

    fn step(&mut self, index: usize) -> std::result::Result<Step, Failure> {
        let client = &mut self.clients[index];
        // Closed since, within the same batch of events.
        let Some(fd) = &client.fd else { return Ok(Step::Waits) };
        if !client.sent {
            client.sent = net::send_request(fd, &self.request).map_err(Failure::of)?;
            if client.sent {
                self.poller.modify(fd, &mut net::interest(true, index)).map_err(Failure::of)?;
            }
            return Ok(Step::Waits);
        }
        let count = match net::receive(fd, &mut self.scratch) {
            Ok(0) => return Err(Failure::Closed),
            Ok(count) => count,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Step::Waits),
            Err(error) => return Err(Failure::of(error)),
        };
        let end = client.got + count as u64;
        if end > self.options.answer_bytes || !protocol::is_right(&self.pattern, client.got, &self.scratch[..count]) {
            return Err(Failure::Wrong);
        }
        client.got = end;
        Ok(if end == self.options.answer_bytes { Step::Answered } else { Step::Waits })
    }

    fn fail(&mut self, index: usize, failure: Failure) {
        self.tally.failure(failure);
        self.start(index);
    }

    /// Also gives those another connection whose last one could not be made.
    fn fail_stalled(&mut self) {
        for index in 0..self.clients.len() {
            let client = &self.clients[index];
            if client.fd.is_none() {
                self.start(index);
            } else if client.begun.elapsed() > STALLED {
                self.fail(index, Failure::Timeout);
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Waits,
    Answered,
}
