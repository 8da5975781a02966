//! The agent's own log lines: to stderr, which must never block the loop, and to the logs role. What neither takes is counted and said.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::links::{Importance, Link};
use crate::api::time::rfc3339_ns;
use crate::logs::proto::ToLogs;
use crate::sys::clock;

/// Lines that wait for the loop to pass them on.
const LINES_MAX: usize = 1_024;

static LINES: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());
static LOST: AtomicU64 = AtomicU64::new(0);

/// Installs the logger; `RUST_LOG` sets the level, `info` without it. Under systemd lines carry its priority prefix, elsewhere the time.
pub fn install() {
    let journald = std::env::var_os("JOURNAL_STREAM").is_some();
    let environment = env_logger::Env::default().default_filter_or("info");
    let built = env_logger::Builder::from_env(environment)
        .format(move |out, record| {
            let line = format!("{} {:<5} {}", rfc3339_ns(clock::clocks().wall_ns), record.level(), record.args());
            remember(&line);
            if journald {
                writeln!(out, "<{}>{}", priority(record.level()), record.args())
            } else {
                writeln!(out, "{line}")
            }
        })
        .target(env_logger::Target::Pipe(Box::new(PatientStderr)))
        .write_style(env_logger::WriteStyle::Never)
        .try_init();
    // Installed already: a test that starts two agents in one process.
    drop(built);
}

/// syslog(3) priorities, as sd-daemon(3) wants them in front of a line.
fn priority(level: log::Level) -> u8 {
    match level {
        log::Level::Error => 3,
        log::Level::Warn => 4,
        log::Level::Info => 6,
        log::Level::Debug | log::Level::Trace => 7,
    }
}

fn remember(line: &str) {
    let Ok(mut lines) = LINES.lock() else { return };
    if lines.len() == LINES_MAX {
        lines.pop_front();
        LOST.fetch_add(1, Ordering::Relaxed);
    }
    lines.push_back(line.to_owned());
}

/// Passes the remembered lines on to the logs role.
pub fn pass_on(logs: &mut Link) {
    let lost = LOST.swap(0, Ordering::Relaxed);
    if lost > 0 {
        let line = format!("agent: {lost} of its own log lines lost: stderr or the logs role did not take them");
        logs.send(&ToLogs::AgentLine { line }, Importance::Entry);
    }
    let lines = match LINES.lock() {
        Ok(mut lines) => std::mem::take(&mut *lines),
        Err(_) => return,
    };
    for line in lines {
        logs.send(&ToLogs::AgentLine { line }, Importance::Entry);
    }
}

/// What a pipe that says it is writable takes without waiting (PIPE_BUF).
const WRITTEN_BYTES_MAX: usize = 4096;

/// stderr that is asked first whether it takes a line: a terminal stopped by Ctrl-S or a full pipe must not stop supervision. Its
/// O_NONBLOCK flag is not touched, because it belongs to everybody who shares the terminal.
#[derive(Debug)]
struct PatientStderr;

impl Write for PatientStderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr();
        let mut rest = bytes;
        while !rest.is_empty() {
            match write_patiently(&stderr, rest) {
                Some(written) => rest = rest.get(written..).unwrap_or_default(),
                None => {
                    LOST.fetch_add(1, Ordering::Relaxed);
                    break;
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes as much as is taken at once, a part of a long line; `None` when nothing is.
fn write_patiently(out: impl AsFd, bytes: &[u8]) -> Option<usize> {
    let mut ready = [PollFd::new(out.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut ready, PollTimeout::ZERO).is_ok_and(|count| count > 0) {
        let part = &bytes[..bytes.len().min(WRITTEN_BYTES_MAX)];
        return nix::unistd::write(out.as_fd(), part).ok().filter(|written| *written > 0);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_that_is_longer_than_what_is_left_of_a_pipe_does_not_wait() {
        let (reader, writer) = crate::sys::fifo::pipe().unwrap();
        let (line, mut taken) = (vec![b'x'; 100_000], 0);
        // The writing end blocks: one write of the whole would wait for a reader for ever.
        while let Some(written) = write_patiently(&writer, &line) {
            taken += written;
        }
        assert!(taken > 0 && write_patiently(&writer, b"more").is_none());
        drop(reader);
        assert_eq!(write_patiently(&writer, b"more"), None);
    }
}
