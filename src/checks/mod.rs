//! The checks role: network probes, in a process of its own so that a slow network never slows the agent.
//!
//! It decides nothing. An agent asks ([`proto::ToChecks::Probe`]), the role answers once with success or with a short sentence.
//! One thread, one epoll: connects do not block, every probe has its deadline, and with nothing asked the role sleeps without a
//! timer. The newest agent replaces an older one, whose probes are dropped with it. Without an agent the role leaves after
//! [`AGENTLESS_MAX`].
//!
//! `agent.rs` is the end of the agent's socket and `start.rs` how a role begins, for this role and for those that may block.
//! `serve.rs` is the loop, `probe.rs` one probe on its way, `target.rs` what an address may look like, `answer.rs` the head of an
//! HTTP answer. A new kind of probe is a variant of [`proto::ProbeTarget`] and a file here.

mod agent;
mod answer;
mod attribute;
mod block;
mod canary;
mod devices;
mod fs_errors;
mod helper;
mod link_modes;
mod mount;
mod mounts;
mod outstanding;
mod probe;
pub mod proto;
mod reading;
mod readings;
mod sensors;
mod serve;
mod smart;
mod space;
mod start;
mod system;
mod target;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::sys;

pub use canary::{CANARY, read_canary};
pub use helper::{run_disk, run_sensors};
pub use link_modes::read_link_modes;
pub use sensors::read_sensors;
pub use smart::read_smart;
pub use space::read_space;

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
    #[error("{0}: the roles that check are started by the agent, with --run-dir PATH")]
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
    let ready = start::ready_descriptor()?;
    let arguments = start::Arguments::parse(arguments)?;
    // A socket for each probe: more than the usual soft limit.
    sys::host::raise_nofile();
    let server = serve::Server::new(start::listen(&arguments.run_dir, SOCKET)?, AGENTLESS_MAX)?;
    start::tell_ready(ready)?;
    server.run()
}
