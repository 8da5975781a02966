//! The checks role: network probes, and readings of the host that cannot block, in a process of its own so that a slow network never
//! slows the agent.
//!
//! It decides nothing. An agent asks ([`proto::ToChecks::Probe`]), the role answers once with success or with a short sentence; it says
//! what is to be watched ([`proto::ToChecks::Watch`]), the role reads it by its own clock. One thread, one epoll: connects do not
//! block, every probe has its deadline, and with nothing asked the role sleeps without a timer. The newest agent replaces an older
//! one, whose probes and orders are dropped with it. Without an agent the role leaves after [`AGENTLESS_MAX`].
//!
//! What is read here must not wait for a device, nor take a lock that a driver may hold while it does (rtnl is one): tables of /proc,
//! counters of /sys, what the kernel tells over netlink, its log, and one ARP packet to the gateway. What may wait is read by a
//! process of its own for each disk.
//!
//! `serve.rs` is the loop, `link.rs` the agent's connection. Probes: `probes.rs` those under way, `probe.rs` one of them, `target.rs`
//! what an address may look like, `answer.rs` the head of an HTTP answer. The host: `watch.rs` the orders and when each is due,
//! `inventory.rs` and `devices.rs` what there is, `alarms.rs` what does not wait for its turn, and a file a subject. A new kind of
//! probe is a variant of [`proto::ProbeTarget`] and a file here; a new reading one of `Source` and `Sample`.
//!
//! Arguments: `--run-dir PATH`; for tests `--root DIR` (below it /proc and /sys are read, and looked at once a second for other
//! devices) and `--kmsg PATH` (a pipe with records as /dev/kmsg gives them).

mod alarms;
mod answer;
mod block;
mod devices;
mod filesystems;
mod gateway;
mod hardware;
mod inventory;
mod kernel;
mod kernel_rules;
mod link;
mod link_events;
mod mounts;
mod nics;
mod once;
mod outstanding;
mod probe;
mod probes;
pub mod proto;
mod reading;
mod serve;
mod system;
mod target;
mod watch;

pub use once::{Once, read_once};

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
    let Arguments { run_dir, root, kmsg } =
        Arguments::parse(arguments).map_err(|error| ChecksError::Usage(error.to_string()))?;
    let path = run_dir.join(SOCKET);
    sys::signal::ignore_role_signals().map_err(ChecksError::Signals)?;
    // A socket for each probe: more than the usual soft limit.
    sys::host::raise_nofile();
    let listener = PacketListener::bind(&path, 0o600).map_err(|source| ChecksError::Listen { path, source })?;
    let settings = watch::Settings { root, kmsg, run_dir: Some(run_dir) };
    let server = serve::Server::new(listener, settings, AGENTLESS_MAX)?;
    if let Some(ready) = ready {
        File::from(ready).write_all(b"\n").map_err(ChecksError::Ready)?;
    }
    // Only memory: without it, the code of the start stays mapped.
    let _ = sys::text::forget_code();
    server.run()
}

#[derive(Debug, PartialEq, Eq)]
struct Arguments {
    run_dir: PathBuf,
    root: PathBuf,
    kmsg: PathBuf,
}

impl Arguments {
    fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self, lexopt::Error> {
        let mut parser = lexopt::Parser::from_args(arguments);
        let (mut run_dir, mut root, mut kmsg) = (None, PathBuf::from("/"), PathBuf::from("/dev/kmsg"));
        while let Some(argument) = parser.next()? {
            match argument {
                lexopt::Arg::Long("run-dir") => run_dir = Some(PathBuf::from(parser.value()?)),
                lexopt::Arg::Long("root") => root = PathBuf::from(parser.value()?),
                lexopt::Arg::Long("kmsg") => kmsg = PathBuf::from(parser.value()?),
                lexopt::Arg::Long(_) | lexopt::Arg::Short(_) | lexopt::Arg::Value(_) => {
                    return Err(argument.unexpected());
                }
            }
        }
        let run_dir = run_dir.ok_or("--run-dir is missing")?;
        Ok(Self { run_dir, root, kmsg })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_dir_is_needed_and_tests_say_where_to_read() {
        let read = |line: &str| {
            Arguments::parse(line.split_whitespace().map(OsString::from)).map_err(|error| error.to_string())
        };
        let arguments = |root: &str, kmsg: &str| Arguments {
            run_dir: PathBuf::from("/run/x"),
            root: PathBuf::from(root),
            kmsg: PathBuf::from(kmsg),
        };
        assert_eq!(read("--run-dir /run/x"), Ok(arguments("/", "/dev/kmsg")));
        assert_eq!(read("--run-dir /run/x --root /tmp/r --kmsg /tmp/k"), Ok(arguments("/tmp/r", "/tmp/k")));
        assert_eq!(read(""), Err("--run-dir is missing".to_owned()));
        assert!(read("--run-dir").is_err());
        assert!(read("--run-dir /run/x --other").is_err());
    }
}
