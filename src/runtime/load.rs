//! The loader: a short-lived child that looks at everything a configuration names (files, users, binaries), because any of it may lie
//! on a disk that does not answer. It prints one JSON document; the agent waits for it in its own loop, with a deadline.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::spawned::{self, Helper};
use crate::config::{self, Context, Diagnostic};
use crate::engine::event::Decision;
use crate::engine::plan::Plan;
use crate::logs;
use crate::sys::host;

/// A configuration that takes longer to look at lies on a disk that does not answer.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A plan for 10,000 services is about 8 MiB.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The hidden command of the loader.
pub const COMMAND: &str = "load-config";

/// The name by which the configuration that is compiled in is asked for.
pub const EMBEDDED_DEMO: &str = "demo";

#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Accepted(Box<Accepted>),
    Refused(Refused),
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Refused {
    pub diagnostics: Vec<Diagnostic>,
    /// Where the agent's sockets and records are by this file, as far as that can be read, else by default.
    pub run_dir: PathBuf,
    pub kept: Kept,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Accepted {
    pub plan: Plan,
    pub warnings: Vec<Diagnostic>,
    pub kept: Kept,
}

/// What `state_dir` holds from before.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Kept {
    pub decisions: Vec<Decision>,
    /// The last sequence number in the journal.
    pub last_seq: u64,
    /// Sentences about kept decisions that could not be read.
    pub remarks: Vec<String>,
}

/// What the child does: reads, checks, prints. Its errors are the answer's.
pub fn answer(path: Option<&Path>) -> Answer {
    let context = Context::host(host::uid());
    let loaded = match path {
        Some(path) => config::load(path, &context),
        None => config::load_text(EMBEDDED_DEMO, config::DEMO, &context),
    };
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(diagnostics) => {
            let dirs = path.and_then(|path| config::load_dirs(path, &context).ok());
            let dirs = dirs.unwrap_or_else(|| context.default_dirs());
            let kept = kept(&dirs.state_dir);
            return Answer::Refused(Refused { diagnostics, run_dir: dirs.run_dir, kept });
        }
    };
    let kept = kept(&loaded.plan.agent.state_dir);
    Answer::Accepted(Box::new(Accepted { plan: loaded.plan, warnings: loaded.warnings, kept }))
}

fn kept(state_dir: &Path) -> Kept {
    let mut kept = Kept { last_seq: logs::last_seq(state_dir), ..Kept::default() };
    match logs::read_decisions(state_dir) {
        Ok(decisions) => {
            for (key, content) in decisions {
                match serde_json::from_str(&content) {
                    Ok(decision) => kept.decisions.push(decision),
                    Err(error) => kept.remarks.push(format!("kept decision {key}: cannot be read: {error}")),
                }
            }
        }
        Err(error) => {
            kept.remarks.push(format!("kept decisions cannot be read, all services count as wanted: {error}"));
        }
    }
    kept
}

/// A running loader.
#[derive(Debug)]
pub struct Loader {
    helper: Helper,
    answer: OwnedFd,
    bytes: Vec<u8>,
}

impl Loader {
    /// Starts the child: `None` is the compiled-in demo.
    pub fn start(config: Option<&Path>) -> io::Result<Self> {
        let (read, write) = crate::sys::fifo::pipe()?;
        let mut arguments = vec![OsString::from(COMMAND)];
        arguments.extend(config.map(|path| path.as_os_str().to_owned()));
        let helper = spawned::own_binary(&arguments, write.as_fd())?;
        Ok(Self { helper, answer: read, bytes: Vec::new() })
    }

    /// Reads what has come; `Some` when the answer is complete (or the child ended without one).
    pub fn turn(&mut self) -> Option<Result<Answer, String>> {
        let mut chunk = [0_u8; 16 << 10];
        loop {
            match nix::unistd::read(&self.answer, &mut chunk) {
                Ok(0) => return Some(self.finish()),
                Ok(count) => self.bytes.extend_from_slice(&chunk[..count]),
                Err(Errno::EAGAIN) => return None,
                Err(Errno::EINTR) => {}
                Err(error) => return Some(Err(format!("the loader's answer cannot be read: {error}"))),
            }
            if self.bytes.len() > ANSWER_BYTES_MAX {
                return Some(Err("the loader's answer is too large".to_owned()));
            }
        }
    }

    fn finish(&mut self) -> Result<Answer, String> {
        serde_json::from_slice(&self.bytes).map_err(|_| "the loader ended without an answer".to_owned())
    }

    /// The process, to be watched and reaped by whoever drops the loader.
    #[must_use]
    pub fn into_helper(self) -> Helper {
        self.helper
    }

    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.answer.as_fd()
    }
}

/// Waits for the answer of a loader before the loop runs; the deadline is the only way out of a dead disk.
pub fn load_at_start(config: Option<&Path>) -> Result<Answer, String> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut loader = Loader::start(config).map_err(|error| format!("cannot start the loader: {error}"))?;
    let began = crate::sys::clock::clocks().mono_ns;
    loop {
        if let Some(answer) = loader.turn() {
            loader.into_helper().end();
            return answer;
        }
        let waited = Duration::from_nanos(crate::sys::clock::clocks().mono_ns.saturating_sub(began));
        let Some(left) = DEADLINE.checked_sub(waited) else {
            loader.into_helper().end();
            return Err(timed_out(config));
        };
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut ready = [PollFd::new(loader.descriptor(), PollFlags::POLLIN)];
        match poll(&mut ready, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(format!("cannot wait for the loader: {error}")),
        }
    }
}

/// The sentence for a loader that did not answer.
#[must_use]
pub fn timed_out(config: Option<&Path>) -> String {
    let name = config.map_or_else(|| PathBuf::from(EMBEDDED_DEMO), Path::to_path_buf);
    format!(
        "{}: looking at it took longer than {} s; does a disk that it names not answer?",
        name.display(),
        DEADLINE.as_secs()
    )
}
