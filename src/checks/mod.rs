//! The checks role: network probes, in a process of its own so that a slow network never slows the agent.
//!
//! It decides nothing. An agent asks ([`proto::ToChecks::Probe`]), the role answers once with success or with a short sentence.
//! One thread, one epoll: connects do not block, every probe has its deadline, and with nothing asked the role sleeps without a
//! timer. The newest agent replaces an older one, whose probes are dropped with it. Without an agent the role leaves after
//! [`AGENTLESS_MAX`].
//!
//! `serve.rs` is the loop, `probe.rs` one probe on its way, `target.rs` what an address may look like, `answer.rs` the head of an
//! HTTP answer. A new kind of probe is a variant of [`proto::ProbeTarget`] and a file here.

mod answer;
mod block;
mod devices;
mod mounts;
mod outstanding;
mod probe;
pub mod proto;
mod reading;
mod serve;
mod system;
mod target;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use crate::sys;
use crate::sys::packet::PacketListener;

/// Probes under way at once; what is asked beyond is answered "too many probes".
pub const PROBES_MAX: usize = 1024;
/// Without an agent for this long, the role leaves.
pub const AGENTLESS_MAX: Duration = Duration::from_secs(10);
/// Below the run directory.
pub const SOCKET: &str = "roles/checks.sock";
/// Where the agent reads that the role listens: a newline on this descriptor, if it is open.
const READY_DESCRIPTOR: i32 = 3;

#[derive(Debug, thiserror::Error)]
pub enum ChecksError {
    #[error("{0}: the checks role is started by the agent, with --run-dir PATH")]
    Usage(String),
    #[error("cannot listen on {path}")]
    Listen {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot tell descriptor {READY_DESCRIPTOR} that the role listens")]
    Ready(#[source] io::Error),
    #[error("cannot ignore signals")]
    Signals(#[source] io::Error),
    #[error("cannot {step}")]
    Loop {
        step: &'static str,
        #[source]
        source: io::Error,
    },
}

/// The process of the role: listens on `roles/checks.sock` below `--run-dir`, says so on descriptor 3 and serves until an agent
/// orders it to leave or none is there any more.
///
/// # Errors
/// What keeps the role from listening or from waiting. A probe that fails is an answer, never an error here.
pub fn run(arguments: impl Iterator<Item = OsString>) -> Result<(), ChecksError> {
    // First of all: later, descriptor 3 could be one of ours.
    let ready = sys::inherited::take(READY_DESCRIPTOR).map_err(ChecksError::Ready)?;
    let path = run_dir(arguments).map_err(|error| ChecksError::Usage(error.to_string()))?.join(SOCKET);
    sys::signal::ignore_role_signals().map_err(ChecksError::Signals)?;
    // A socket for each probe: more than the usual soft limit.
    sys::host::raise_nofile();
    let listener = PacketListener::bind(&path, 0o600).map_err(|source| ChecksError::Listen { path, source })?;
    let server = serve::Server::new(listener, AGENTLESS_MAX)?;
    if let Some(ready) = ready {
        File::from(ready).write_all(b"\n").map_err(ChecksError::Ready)?;
    }
    // Only memory: without it, the code of the start stays mapped.
    let _ = sys::text::forget_code();
    server.run()
}

fn run_dir(arguments: impl Iterator<Item = OsString>) -> Result<PathBuf, lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut run_dir = None;
    while let Some(argument) = parser.next()? {
        match argument {
            lexopt::Arg::Long("run-dir") => run_dir = Some(PathBuf::from(parser.value()?)),
            lexopt::Arg::Long(_) | lexopt::Arg::Short(_) | lexopt::Arg::Value(_) => return Err(argument.unexpected()),
        }
    }
    run_dir.ok_or_else(|| "--run-dir is missing".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_dir_is_the_only_argument() {
        let read = |line: &str| run_dir(line.split_whitespace().map(OsString::from)).map_err(|error| error.to_string());
        assert_eq!(read("--run-dir /run/x"), Ok(PathBuf::from("/run/x")));
        assert_eq!(read(""), Err("--run-dir is missing".to_owned()));
        assert!(read("--run-dir").is_err());
        assert!(read("--run-dir /run/x --other").is_err());
    }
}
