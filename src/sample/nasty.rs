//! How a service can misbehave toward the one that supervises it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::SigSet;

use super::options::{AfterFlood, Flood, Stage};
use super::{SampleError, say};

/// Processes that nobody supervises end by themselves after this time, should the one that tests with them forget.
const STRAY_LIFE_MAX: Duration = Duration::from_secs(600);
/// The same for those that fork for ever, which cost a processor meanwhile.
const REFORK_LIFE_MAX: Duration = Duration::from_secs(60);
/// Between two forks of `--refork`; starting the program takes longer than that.
const REFORK_PAUSE: Duration = Duration::from_micros(200);
/// Of one line of `--flood`, newline included.
const FLOOD_LINE_BYTES: usize = 128;
/// Lines given to the kernel in one write, as fast as they are taken.
const FLOOD_LINES_AT_ONCE: u64 = 512;
/// The same at a given rate: PIPE_BUF bytes, which a pipe takes whole, so that no other line gets in between.
const RATED_LINES_AT_ONCE: u64 = 32;

/// Puts /dev/null in the place of stdout and stderr: the pipe of the supervisor is no longer held.
pub(super) fn close_output() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    Ok(())
}

/// Opens `wanted` files, or as many as it may.
pub(super) fn hoard(wanted: usize) -> Vec<File> {
    let mut files = Vec::new();
    while files.len() < wanted {
        match File::open("/dev/null") {
            Ok(file) => files.push(file),
            Err(error) => {
                // A few descriptors are given back, so that the rest of the service still works.
                files.truncate(files.len().saturating_sub(16));
                say(&format!("hoarding {} of {wanted} files: {error}", files.len()));
                return files;
            }
        }
    }
    if wanted > 0 {
        say(&format!("hoarding {wanted} files"));
    }
    files
}

/// A newline into an inherited descriptor, which is closed afterwards.
pub(super) fn tell_descriptor(number: i32) -> io::Result<()> {
    match crate::sys::inherited::take(number)? {
        Some(descriptor) => File::from(descriptor).write_all(b"\n"),
        None => Err(io::Error::other("it is not open")),
    }
}

/// A double fork with a session of its own: the grandchild has no parent here, no session of ours, and ignores TERM.
pub(super) fn run_away() -> io::Result<()> {
    let mut middle = again("middle").spawn()?;
    middle.wait()?;
    Ok(())
}

pub(super) fn start_reforker() -> io::Result<()> {
    let until = SystemTime::now() + REFORK_LIFE_MAX;
    let until_unix_ms = until.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    // Left as a zombie for as long as this process lives: one more thing that careless services do.
    again(&format!("refork:{until_unix_ms}")).spawn().map(drop)
}

fn again(stage: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("mainstay").args(["sample", "--stage", stage]).stdin(Stdio::null());
    command
}

/// The life of a process that was started by this program with `--stage`.
pub(super) fn stage(stage: Stage) -> Result<(), SampleError> {
    let done = match stage {
        Stage::Middle => {
            nix::unistd::setsid().map_err(io::Error::from).and_then(|_| again("grandchild").spawn().map(drop))
        }
        Stage::Grandchild => SigSet::all().thread_block().map_err(io::Error::from).map(|()| {
            say(&format!("runaway {}: in a session of its own", std::process::id()));
            std::thread::sleep(STRAY_LIFE_MAX);
        }),
        Stage::Refork { until_unix_ms } => refork(until_unix_ms),
    };
    done.map_err(|source| SampleError::Step { step: "be a stray process", source })
}

fn refork(until_unix_ms: u64) -> io::Result<()> {
    let until = UNIX_EPOCH + Duration::from_millis(until_unix_ms);
    std::thread::sleep(REFORK_PAUSE);
    if SystemTime::now() < until { again(&format!("refork:{until_unix_ms}")).spawn().map(drop) } else { Ok(()) }
}

/// Numbered lines of 128 bytes: `NAME 0000000001 xxx…`.
pub(super) fn flood(name: &str, flood: Flood) {
    let started = Instant::now();
    // Its own way to the output: the lock of the standard one would keep the main thread from saying anything.
    let Ok(mut out) = io::stdout().as_fd().try_clone_to_owned().map(File::from) else { return };
    let mut block = Vec::new();
    let mut next = 1;
    while next <= flood.lines {
        let (allowed, at_once) = match flood.lines_per_second {
            None => (flood.lines, FLOOD_LINES_AT_ONCE),
            Some(rate) => (allowed_after(started.elapsed(), rate).min(flood.lines), RATED_LINES_AT_ONCE),
        };
        if allowed < next {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        let last = allowed.min(next + at_once - 1);
        block.clear();
        for number in next..=last {
            push_line(&mut block, name, number);
        }
        if out.write_all(&block).is_err() {
            return;
        }
        next = last + 1;
    }
    match flood.then {
        AfterFlood::Idle => {}
        AfterFlood::Exit => std::process::exit(0),
    }
}

fn allowed_after(elapsed: Duration, lines_per_second: u64) -> u64 {
    let microseconds = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    microseconds.saturating_mul(lines_per_second) / 1_000_000 + 1
}

fn push_line(block: &mut Vec<u8>, name: &str, number: u64) {
    let begin = block.len();
    block.extend_from_slice(name.as_bytes());
    block.extend_from_slice(b" 0000000000 ");
    let mut rest = number;
    let mut at = block.len() - 2;
    for _ in 0..10 {
        block[at] = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
        at -= 1;
    }
    block.resize(begin.saturating_add(FLOOD_LINE_BYTES - 1).max(block.len()), b'x');
    block.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flood_lines_are_numbered_and_128_bytes_long() {
        let mut block = Vec::new();
        push_line(&mut block, "a", 1);
        push_line(&mut block, "a", 1_234_567_890);
        assert_eq!(block.len(), 2 * FLOOD_LINE_BYTES);
        let text = String::from_utf8(block).unwrap();
        assert!(text.starts_with("a 0000000001 xxx"), "{text}");
        assert!(text.lines().nth(1).unwrap().starts_with("a 1234567890 xxx"), "{text}");
    }

    #[test]
    fn rate_allows_the_first_line_at_once_and_the_rest_in_time() {
        assert_eq!(allowed_after(Duration::ZERO, 10), 1);
        assert_eq!(allowed_after(Duration::from_secs(2), 10), 21);
        assert_eq!(allowed_after(Duration::MAX, u64::MAX), u64::MAX / 1_000_000 + 1);
    }
}
