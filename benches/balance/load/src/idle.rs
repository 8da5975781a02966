//! Connections that are held: one byte there and one back on each, then nothing for `--hold`, then one byte again. A line once all are
//! made, a line once all have been asked again.

use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollTimeout};

use crate::Result;
use crate::args::Args;
use crate::net;
use crate::protocol;
use crate::tally::{self, Failure};

/// In the making at once.
const WINDOW: usize = 64;
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Then the balancer has shown how many it takes.
const FAILURES_MAX: usize = 64;

#[derive(Debug)]
pub(crate) struct Options {
    to: SocketAddrV4,
    count: usize,
    hold: Duration,
}

impl Options {
    pub(crate) fn parse(args: &mut Args) -> Result<Self> {
        let options = Self { to: args.to()?, count: args.number("count", None)?, hold: args.time("hold", None)? };
        args.done()?;
        Ok(options)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    /// The byte is out.
    Asked,
    Held,
    Failed,
}

#[derive(Debug)]
struct Holder {
    poller: Epoll,
    held: Vec<(Option<OwnedFd>, Stage)>,
    /// Made or asked again, and answered.
    open: usize,
    /// For their answer.
    waiting: usize,
    failed: usize,
    first_failure: Option<Failure>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut holder =
        Holder { poller: net::poller()?, held: Vec::new(), open: 0, waiting: 0, failed: 0, first_failure: None };
    let mut next = 0;
    holder.work(|holder| {
        while next < options.count && holder.waiting < WINDOW && holder.failed < FAILURES_MAX {
            holder.start(options.to, next);
            next += 1;
        }
    })?;
    holder.report("held")?;
    std::thread::sleep(options.hold);
    (holder.open, next) = (0, 0);
    holder.work(|holder| {
        while next < holder.held.len() && holder.waiting < WINDOW {
            holder.ask_again(next);
            next += 1;
        }
    })?;
    holder.report("alive")
}

impl Holder {
    /// Calls `feed` whenever there may be room for more, until nothing is on its way.
    fn work(&mut self, mut feed: impl FnMut(&mut Self)) -> Result<()> {
        let mut events = vec![EpollEvent::empty(); net::EVENTS_MAX];
        let mut last_sign = Instant::now();
        loop {
            feed(self);
            if self.waiting == 0 {
                return Ok(());
            }
            let count = self.poller.wait(&mut events, EpollTimeout::from(100_u8))?;
            if count > 0 {
                last_sign = Instant::now();
            } else if last_sign.elapsed() > SILENCE_MAX {
                self.first_failure.get_or_insert(Failure::Timeout);
                return Ok(());
            }
            for event in &events[..count] {
                self.step(net::token(event));
            }
        }
    }

    fn start(&mut self, to: SocketAddrV4, index: usize) {
        self.waiting += 1;
        let opened = net::dial(to, net::source(index)).and_then(|fd| {
            self.poller.add(&fd, net::interest(false, index))?;
            Ok(fd)
        });
        match opened {
            Ok(fd) => self.held.push((Some(fd), Stage::Connecting)),
            Err(error) => {
                self.held.push((None, Stage::Connecting));
                self.fail(index, Failure::of(error));
            }
        }
    }

    fn ask_again(&mut self, index: usize) {
        if self.held[index].1 == Stage::Held {
            self.waiting += 1;
            self.held[index].1 = Stage::Connecting;
            self.step(index);
        }
    }

    fn step(&mut self, index: usize) {
        let (Some(fd), stage) = &mut self.held[index] else { return };
        let mut byte = [0; 2];
        let outcome = match stage {
            Stage::Connecting => match net::send(&*fd, &[protocol::IDLE]) {
                Ok(_) => {
                    *stage = Stage::Asked;
                    self.poller.modify(&*fd, &mut net::interest(true, index)).map_err(Failure::of)
                }
                Err(Errno::EAGAIN | Errno::ENOTCONN) => Ok(()),
                Err(error) => Err(Failure::of(error)),
            },
            Stage::Asked => match net::receive(&*fd, &mut byte) {
                Ok(1) if byte[0] == protocol::IDLE => {
                    *stage = Stage::Held;
                    self.open += 1;
                    self.waiting -= 1;
                    Ok(())
                }
                Ok(0) => Err(Failure::Closed),
                Ok(_) => Err(Failure::Wrong),
                Err(Errno::EAGAIN) => Ok(()),
                Err(error) => Err(Failure::of(error)),
            },
            // Nobody speaks to a held connection: it was closed. Met again when it is asked again.
            Stage::Held => self.poller.delete(&*fd).map_err(Failure::of),
            Stage::Failed => Ok(()),
        };
        if let Err(failure) = outcome {
            self.fail(index, failure);
        }
    }

    fn fail(&mut self, index: usize, failure: Failure) {
        self.held[index] = (None, Stage::Failed);
        self.failed += 1;
        self.waiting -= 1;
        self.first_failure.get_or_insert(failure);
    }

    fn report(&self, word: &str) -> Result<()> {
        let why = self.first_failure.map_or_else(|| "null".to_owned(), |failure| format!("\"{failure:?}\""));
        tally::line_out(&format!("{{\"{word}\":{},\"failed\":{},\"first_failure\":{why}}}", self.open, self.failed))
    }
}
