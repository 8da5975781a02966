//! The process of a set: how it begins.

mod control;
pub mod hands;
pub mod job;
mod link;
pub mod proto;
mod serve;
#[cfg(test)]
mod serve_tests;
mod watch;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use crate::sys;
use crate::sys::packet::PacketListener;
use job::Hands;
use serve::Server;

/// The descriptor on which the agent waits for the word that the role listens.
const READY_DESCRIPTOR: i32 = 3;
/// Without an agent, and without a job.
const AGENTLESS_MAX: Duration = Duration::from_secs(10);

/// What keeps the role from doing its work. What a job fails with is a message, never an error here.
#[derive(Debug, thiserror::Error)]
pub enum CopiesError {
    #[error("cannot understand its arguments: {0}")]
    Usage(String),
    #[error("cannot tell the agent that it listens")]
    Ready(#[source] io::Error),
    #[error("cannot ignore the signals of services")]
    Signals(#[source] io::Error),
    #[error("cannot listen on {path}")]
    Listen {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot {step}")]
    Loop {
        step: &'static str,
        #[source]
        source: io::Error,
    },
}

/// The process of `mainstay role copy --run-dir PATH --number NUMBER`.
///
/// # Errors
/// What keeps it from listening or from waiting.
pub fn run(arguments: impl Iterator<Item = OsString>, hands: Hands) -> Result<(), CopiesError> {
    // First of all: later, its number could be one of ours.
    let ready: Option<OwnedFd> = sys::inherited::take(READY_DESCRIPTOR).map_err(CopiesError::Ready)?;
    let (run_dir, number) = read(arguments).map_err(|error| CopiesError::Usage(error.to_string()))?;
    sys::signal::ignore_role_signals().map_err(CopiesError::Signals)?;
    let path = run_dir.join(format!("roles/copy-{number}.sock"));
    let listener = PacketListener::bind(&path, 0o600).map_err(|source| CopiesError::Listen { path, source })?;
    // A working directory would keep its file system mounted.
    std::env::set_current_dir("/")
        .map_err(|source| CopiesError::Loop { step: "change to the root directory", source })?;
    let server = Server::new(listener, hands, AGENTLESS_MAX)?;
    if let Some(ready) = ready {
        File::from(ready).write_all(b"\n").map_err(CopiesError::Ready)?;
    }
    server.run()
}

fn read(arguments: impl Iterator<Item = OsString>) -> Result<(PathBuf, u32), lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let (mut run_dir, mut number) = (None, None);
    while let Some(argument) = parser.next()? {
        match argument {
            lexopt::Arg::Long("run-dir") => run_dir = Some(PathBuf::from(parser.value()?)),
            lexopt::Arg::Long("number") => number = Some(lexopt::ValueExt::parse(&parser.value()?)?),
            lexopt::Arg::Long(_) | lexopt::Arg::Short(_) | lexopt::Arg::Value(_) => return Err(argument.unexpected()),
        }
    }
    Ok((run_dir.ok_or("--run-dir is missing")?, number.ok_or("--number is missing")?))
}
