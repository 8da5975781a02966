//! Open loop: requests leave at a fixed rate, each on a connection of its own, whatever became of those before. Runs for `--for`, or until
//! SIGTERM, and then waits for what is still on its way.

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::Result;
use crate::args::Args;
use crate::net;
use crate::protocol::{self, REQUEST_BYTES};
use crate::tally::{Failure, Tally};

const TICKS: usize = usize::MAX;
const SIGNALS: usize = usize::MAX - 1;
const ANSWER_BYTES: u64 = 64;
/// On their way at once; beyond it the local machine is what fails.
const UNDER_WAY_MAX: usize = 15_000;

#[derive(Debug)]
pub(crate) struct Options {
    to: SocketAddrV4,
    rate: u32,
    sources: usize,
    for_: Duration,
    timeout: Duration,
}

impl Options {
    pub(crate) fn parse(args: &mut Args) -> Result<Self> {
        let options = Self {
            to: args.to()?,
            rate: args.number("rate", None)?,
            sources: args.number("sources", Some(200))?,
            for_: args.time("for", None)?,
            timeout: args.time("timeout", Some(Duration::from_secs(5)))?,
        };
        args.done()?;
        if options.rate == 0 || options.sources == 0 {
            return Err("--rate and --sources must not be 0".into());
        }
        Ok(options)
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let poller = net::poller()?;
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGTERM);
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    poller.add(signals.as_fd(), net::interest(true, SIGNALS))?;
    let interval = Duration::from_secs(1) / options.rate;
    let ticks = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
    ticks.set(Expiration::Interval(TimeSpec::from_duration(interval)), TimerSetTimeFlags::empty())?;
    poller.add(ticks.as_fd(), net::interest(true, TICKS))?;
    let begin = Instant::now();
    let mut load = Load {
        options,
        poller,
        begin,
        interval,
        under_way: Vec::new(),
        free: Vec::new(),
        order: VecDeque::new(),
        launched: 0,
        request: protocol::request(protocol::ANSWER, ANSWER_BYTES),
        pattern: protocol::pattern(),
        tally: Tally::new(),
    };
    let mut last = begin + options.for_;
    let mut events = vec![EpollEvent::empty(); net::EVENTS_MAX];
    loop {
        let count = load.poller.wait(&mut events, EpollTimeout::from(100_u8))?;
        for event in &events[..count] {
            match net::token(event) {
                TICKS => match ticks.wait() {
                    Ok(()) | Err(Errno::EAGAIN) => {}
                    Err(error) => return Err(error.into()),
                },
                SIGNALS => {
                    let _ = signals.read_signal()?;
                    last = last.min(Instant::now());
                }
                index => load.ready(index),
            }
        }
        load.launch_due(last);
        load.expire();
        if Instant::now() >= last && load.order.is_empty() {
            return load.tally.print(last - begin);
        }
    }
}

#[derive(Debug)]
struct Request {
    fd: OwnedFd,
    number: u64,
    /// When it was meant to leave.
    meant: Instant,
    sent: bool,
    got: u64,
}

#[derive(Debug)]
struct Load<'a> {
    options: &'a Options,
    poller: Epoll,
    begin: Instant,
    interval: Duration,
    under_way: Vec<Option<Request>>,
    free: Vec<usize>,
    /// (slot, number), the oldest first; those at the front that have ended are dropped when they are met.
    order: VecDeque<(usize, u64)>,
    launched: u64,
    request: [u8; REQUEST_BYTES],
    pattern: Vec<u8>,
    tally: Tally,
}

impl Load<'_> {
    /// All requests whose moment has come, also those of ticks that were slept through.
    fn launch_due(&mut self, last: Instant) {
        let now = Instant::now();
        loop {
            let offset = u128::from(self.launched) * self.interval.as_nanos();
            let meant = self.begin + Duration::from_nanos(u64::try_from(offset).unwrap_or(u64::MAX));
            if meant > now || meant >= last {
                return;
            }
            self.launch(meant);
        }
    }

    fn launch(&mut self, meant: Instant) {
        let number = self.launched;
        self.launched += 1;
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.under_way.len() < UNDER_WAY_MAX => {
                self.under_way.push(None);
                self.under_way.len() - 1
            }
            None => return self.tally.failure(Failure::Local),
        };
        let from = net::source(usize::try_from(number).unwrap_or(0) % self.options.sources);
        let opened = net::dial(self.options.to, from).and_then(|fd| {
            let sent = net::send_request(&fd, &self.request)?;
            self.poller.add(&fd, net::interest(sent, index))?;
            Ok(Request { fd, number, meant, sent, got: 0 })
        });
        match opened {
            Ok(request) => {
                self.under_way[index] = Some(request);
                self.order.push_back((index, number));
            }
            Err(error) => {
                self.tally.failure(Failure::of(error));
                self.free.push(index);
            }
        }
    }

    fn ready(&mut self, index: usize) {
        let Some(request) = self.under_way.get_mut(index).and_then(Option::as_mut) else { return };
        match step(request, &self.poller, index, &self.request, &self.pattern) {
            Ok(false) => return,
            Ok(true) => self.tally.answer(request.meant.elapsed(), true),
            Err(failure) => self.tally.failure(failure),
        }
        self.end(index);
    }

    fn end(&mut self, index: usize) {
        self.under_way[index] = None;
        self.free.push(index);
    }

    fn expire(&mut self) {
        while let Some(&(index, number)) = self.order.front() {
            let waiting = self.under_way[index].as_ref().filter(|request| request.number == number);
            if let Some(request) = waiting {
                if request.meant.elapsed() < self.options.timeout {
                    return;
                }
                self.tally.failure(Failure::Timeout);
                self.end(index);
            }
            self.order.pop_front();
        }
    }
}

/// `true`: the answer is complete.
fn step(
    request: &mut Request,
    poller: &Epoll,
    index: usize,
    bytes: &[u8; REQUEST_BYTES],
    pattern: &[u8],
) -> std::result::Result<bool, Failure> {
    if !request.sent {
        request.sent = net::send_request(&request.fd, bytes).map_err(Failure::of)?;
        if request.sent {
            poller.modify(&request.fd, &mut net::interest(true, index)).map_err(Failure::of)?;
        }
        return Ok(false);
    }
    let mut answer = [0; 2 * REQUEST_BYTES];
    match net::receive(&request.fd, &mut answer) {
        Ok(0) => Err(Failure::Closed),
        Ok(count) => {
            let end = request.got + count as u64;
            if end > ANSWER_BYTES || !protocol::is_right(pattern, request.got, &answer[..count]) {
                return Err(Failure::Wrong);
            }
            request.got = end;
            Ok(end == ANSWER_BYTES)
        }
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
        Err(error) => Err(Failure::of(error)),
    }
}
