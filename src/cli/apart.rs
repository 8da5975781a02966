//! Runs this binary's internal commands in processes of their own, all at once and each with a deadline: what they read may lie on a disk that
//! does not answer, and then nobody can end them. They are left behind; the rest is not kept waiting.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys::listen;

/// What one may answer; more is no answer.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// What a process wrote until it ended, or until the deadline.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub text: Vec<u8>,
    /// It came to its end in time.
    pub complete: bool,
}

/// The answers in the order of the commands. What cannot be started answers nothing.
pub(super) fn run(commands: &[Vec<OsString>], within: Duration) -> Vec<Answer> {
    let deadline = Instant::now() + within;
    let mut running: Vec<Running> = commands.iter().map(|words| Running::start(words)).collect();
    while running.iter().any(|one| one.output.is_some()) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let mut ready: Vec<PollFd<'_>> = running
            .iter()
            .filter_map(|one| Some(PollFd::new(one.output.as_ref()?.as_fd(), PollFlags::POLLIN)))
            .collect();
        // EINTR: the deadline ends the loop.
        let _ = poll(&mut ready, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        running.iter_mut().for_each(Running::read);
    }
    running.into_iter().map(Running::end).collect()
}

struct Running {
    child: Option<Child>,
    /// `None`: closed.
    output: Option<File>,
    answer: Answer,
}

impl Running {
    fn start(words: &[OsString]) -> Self {
        let mut command = Command::new("/proc/self/exe");
        command.args(words).current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().ok();
        let output = child.as_mut().and_then(|child| child.stdout.take()).map(OwnedFd::from);
        let output = output.filter(|output| listen::set_nonblocking(output).is_ok());
        Self { child, output: output.map(File::from), answer: Answer::default() }
    }

    fn read(&mut self) {
        let Some(output) = &mut self.output else { return };
        let mut buffer = [0; 8 << 10];
        loop {
            match output.read(&mut buffer) {
                Ok(0) => break self.answer.complete = true,
                Ok(length) if self.answer.text.len() + length <= ANSWER_BYTES_MAX => {
                    self.answer.text.extend_from_slice(&buffer[..length]);
                }
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.output = None;
    }

    fn end(mut self) -> Answer {
        if let Some(child) = &mut self.child {
            if !self.answer.complete {
                // It may have ended just now.
                let _ = child.kill();
            }
            // One that cannot die is not waited for.
            let _ = child.try_wait();
        }
        self.answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This binary is the test program here, which knows its own options.
    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn who_answers_is_read_and_who_does_not_is_left_behind_in_time() {
        let silent = "--exact cli::apart::tests::reader_that_waits_for_ever --ignored --nocapture";
        let began = Instant::now();
        let answers = run(&[words("--list --format terse"), words(silent)], Duration::from_secs(3));
        assert!(answers[0].complete && String::from_utf8_lossy(&answers[0].text).contains("cli::apart"));
        assert!(!answers[1].complete && String::from_utf8_lossy(&answers[1].text).contains("first line"));
        assert!((Duration::from_secs(3)..Duration::from_secs(6)).contains(&began.elapsed()), "{:?}", began.elapsed());
    }

    #[test]
    #[ignore = "started by other tests"]
    fn reader_that_waits_for_ever() {
        println!("first line");
        std::thread::sleep(Duration::from_secs(60));
    }
}
