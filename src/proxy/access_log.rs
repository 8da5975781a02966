//! The access log: one line a connection, to the standard error of the role, which is the agent's log of it.
//!
//! ```text
//! front client=192.0.2.1:40712 backend=api/2 connect_ms=0 first_byte_ms=2 total_ms=153 bytes_in=412 bytes_out=16804 attempts=1 end=closed
//! ```
//!
//! The balancer; the client's address (`unix` without one); the backend (`-`: it never had one); milliseconds from accept until the backend was
//! reached (waiting included), from then to the first byte of its answer (`-`: that never was), and from accept to close; bytes from
//! and to the client; backends that were tried; how it ended: `closed`, or why it was reset; `handed_over` when a replica has taken the
//! connection itself, from then on nothing is known of it.
//!
//! Nothing waits for the log. What it does not take for the moment is kept up to a limit; lines beyond are counted and told.

use std::collections::VecDeque;
use std::fmt::Write;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::control::Key;
use super::shared::Finished;
use crate::sys::epoll::{Epoll, Interest};

/// What waits for the log at most.
const PENDING_BYTES_MAX: usize = 64 << 10;
/// A pipe that is writable takes so much without waiting (PIPE_BUF).
const WRITE_BYTES_MAX: usize = 4_096;

#[derive(Debug)]
pub(super) struct AccessLog {
    epoll: Rc<Epoll>,
    out: OwnedFd,
    lines: VecDeque<String>,
    bytes: usize,
    dropped: u64,
    watched: bool,
}

impl AccessLog {
    pub(super) fn new(epoll: Rc<Epoll>, out: OwnedFd) -> Self {
        Self { epoll, out, lines: VecDeque::new(), bytes: 0, dropped: 0, watched: false }
    }

    /// [`AccessLog::flush`] writes it.
    pub(super) fn add(&mut self, finished: &Finished) {
        let line = line(finished);
        if self.bytes + line.len() > PENDING_BYTES_MAX {
            return self.add_dropped(1);
        }
        self.bytes += line.len();
        self.lines.push_back(line);
    }

    /// So many lines are missing.
    pub(super) fn add_dropped(&mut self, lines: u64) {
        self.dropped += lines;
    }

    /// Writes what can be written without waiting, and is called again when more can.
    pub(super) fn flush(&mut self) {
        while !self.lines.is_empty() || self.dropped > 0 {
            match self.is_writable() {
                Ok(true) => {}
                Ok(false) => return self.watch(true),
                Err(_) => return self.give_up(),
            }
            let batch = self.take_batch();
            match nix::unistd::write(&self.out, batch.as_bytes()) {
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR | nix::errno::Errno::EAGAIN) => {
                    self.bytes += batch.len();
                    self.lines.push_front(batch);
                }
                Err(_) => return self.give_up(),
            }
        }
        self.watch(false);
    }

    /// Whole lines, at most [`WRITE_BYTES_MAX`] together; last what is said of those that are missing.
    fn take_batch(&mut self) -> String {
        let mut batch = String::new();
        while let Some(line) = self.lines.front() {
            if !batch.is_empty() && batch.len() + line.len() > WRITE_BYTES_MAX {
                return batch;
            }
            batch.push_str(line);
            self.bytes -= line.len();
            self.lines.pop_front();
        }
        if self.dropped > 0 && batch.len() < WRITE_BYTES_MAX / 2 {
            // Writing to a string does not fail.
            let _ = writeln!(batch, "access log: {} lines were dropped, the log is too slow for them", self.dropped);
            self.dropped = 0;
        }
        batch
    }

    fn is_writable(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.out.as_fd(), PollFlags::POLLOUT)];
        poll(&mut fds, PollTimeout::ZERO)?;
        let events = fds[0].revents().unwrap_or(PollFlags::empty());
        if events.intersects(PollFlags::POLLERR | PollFlags::POLLNVAL) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(events.contains(PollFlags::POLLOUT))
    }

    /// Nobody will ever read it.
    fn give_up(&mut self) {
        (self.lines, self.bytes, self.dropped) = (VecDeque::new(), 0, 0);
        self.watch(false);
    }

    fn watch(&mut self, wanted: bool) {
        if wanted == self.watched {
            return;
        }
        self.watched = match wanted {
            true => self.epoll.add(self.out.as_fd(), Key::Log.into(), Interest::WRITE).is_ok(),
            false => {
                // It is in there: that is what `watched` says.
                let _ = self.epoll.remove(self.out.as_fd());
                false
            }
        };
    }
}

fn line(finished: &Finished) -> String {
    let mut line = format!("{} client=", finished.balancer);
    let client = match finished.source {
        Some(source) => write!(line, "{source}"),
        None => write!(line, "unix"),
    };
    let rest = writeln!(
        line,
        " backend={} connect_ms={} first_byte_ms={} total_ms={} bytes_in={} bytes_out={} attempts={} end={}",
        finished.backend.as_deref().unwrap_or("-"),
        milliseconds(finished.connect),
        milliseconds(finished.first_byte),
        finished.lasted.as_millis(),
        finished.bytes_in,
        finished.bytes_out,
        finished.attempts,
        finished.how
    );
    // Writing to a string does not fail.
    let (Ok(()) | Err(_), Ok(()) | Err(_)) = (client, rest);
    line
}

fn milliseconds(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| time.as_millis().to_string())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn finished(bytes_in: u64) -> Finished {
        Finished {
            balancer: "front".to_owned(),
            source: "192.0.2.1:40712".parse().ok(),
            backend: Some("api/2".to_owned()),
            connect: Some(Duration::from_micros(800)),
            first_byte: Some(Duration::from_millis(2)),
            bytes_in,
            bytes_out: 16_804,
            lasted: Duration::from_millis(153),
            attempts: 1,
            how: "closed",
        }
    }

    #[test]
    fn line_is_as_documented() {
        assert_eq!(
            line(&finished(412)),
            "front client=192.0.2.1:40712 backend=api/2 connect_ms=0 first_byte_ms=2 total_ms=153 bytes_in=412 \
             bytes_out=16804 attempts=1 end=closed\n"
        );
        let (connect, first_byte) = (None, None);
        let never = Finished { source: None, backend: None, connect, first_byte, how: "no_backend", ..finished(0) };
        assert!(line(&never).starts_with("front client=unix backend=- connect_ms=- first_byte_ms=- total_ms=153 "));
    }

    #[test]
    fn log_that_does_not_take_its_lines_costs_lines_and_never_time() {
        let epoll = Rc::new(Epoll::new().unwrap());
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut log = AccessLog::new(Rc::clone(&epoll), writer.into());
        for count in 0..5_000 {
            log.add(&finished(count));
            log.flush();
        }
        assert!(log.watched && log.bytes <= PENDING_BYTES_MAX && log.dropped > 1_000);
        let dropped = log.dropped;
        let mut text = String::new();
        let mut ready = Vec::with_capacity(1);
        let mut buffer = vec![0; 100_000];
        while log.watched {
            let read = reader.read(&mut buffer).unwrap();
            text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
            epoll.wait(&mut ready, Some(Duration::ZERO)).unwrap();
            ready.drain(..).for_each(|_| log.flush());
        }
        drop(log);
        reader.read_to_string(&mut text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let (told, kept): (Vec<&str>, Vec<&str>) = lines.iter().partition(|line| line.starts_with("access log: "));
        assert_eq!(told, [format!("access log: {dropped} lines were dropped, the log is too slow for them")]);
        assert_eq!(kept.len() as u64 + dropped, 5_000);
        assert!(kept.iter().all(|line| line.ends_with(" end=closed")), "no line is cut");
    }

    #[test]
    fn log_without_a_reader_is_given_up() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut log = AccessLog::new(Rc::new(Epoll::new().unwrap()), writer.into());
        log.add(&finished(1));
        log.flush();
        assert!(log.lines.is_empty() && !log.watched);
    }
}
