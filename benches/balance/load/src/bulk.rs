//! Downloads without an end, cut off after `--for`.

use std::net::SocketAddrV4;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollTimeout};

use crate::Result;
use crate::args::Args;
use crate::net;
use crate::protocol;
use crate::tally::{self, Failure};

const READ_BYTES: usize = 1 << 20;
/// Until windows and buffers have grown.
const WARM_UP: Duration = Duration::from_millis(250);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Options {
    to: SocketAddrV4,
    streams: usize,
    for_: Duration,
}

impl Options {
    pub(crate) fn parse(args: &mut Args) -> Result<Self> {
        let options = Self { to: args.to()?, streams: args.number("streams", Some(1))?, for_: args.time("for", None)? };
        args.done()?;
        Ok(options)
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let poller = net::poller()?;
    let mut streams = Vec::new();
    for index in 0..options.streams {
        let fd = connect(options.to, index)?;
        poller.add(&fd, net::interest(true, index))?;
        streams.push((fd, 0_u64));
    }
    let begin = Instant::now();
    let mut window: Option<(Instant, u64)> = None;
    let mut total = 0;
    let mut failures = 0;
    let mut scratch = vec![0; READ_BYTES];
    let mut events = vec![EpollEvent::empty(); net::EVENTS_MAX];
    loop {
        let count = poller.wait(&mut events, EpollTimeout::from(100_u8))?;
        let now = Instant::now();
        if now >= begin + WARM_UP && window.is_none() {
            window = Some((now, total));
        }
        if now >= begin + WARM_UP + options.for_ {
            break;
        }
        for event in &events[..count] {
            let (fd, bytes) = &mut streams[net::token(event)];
            match net::discard(&*fd, &mut scratch) {
                Ok(count) if count > 0 => {
                    *bytes += count as u64;
                    total += count as u64;
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Ok(_) | Err(_) => {
                    failures += 1;
                    poller.delete(&*fd)?;
                }
            }
        }
    }
    let (since, before) = window.ok_or("--for is too short")?;
    let least = streams.iter().map(|(_, bytes)| *bytes).min().unwrap_or(0);
    let most = streams.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
    tally::line_out(&format!(
        "{{\"bytes\":{total},\"in_window\":{},\"window_s\":{:.6},\"failed\":{failures},\"least\":{least},\"most\":{most}}}",
        total - before,
        since.elapsed().as_secs_f64(),
    ))
}

fn connect(to: SocketAddrV4, index: usize) -> Result<OwnedFd> {
    let fd = net::dial(to, net::source(index))?;
    net::no_delay(fd.as_fd())?;
    let request = protocol::request(protocol::DOWNLOAD, u64::MAX);
    let began = Instant::now();
    loop {
        match net::send(&fd, &request) {
            Ok(count) if count == request.len() => return Ok(fd),
            Err(Errno::EAGAIN | Errno::ENOTCONN) if began.elapsed() < CONNECT_WITHIN => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(_) => return Err("a request did not go out whole".into()),
            Err(error) => return Err(format!("stream {index}: {:?}", Failure::of(error)).into()),
        }
    }
}
