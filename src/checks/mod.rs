//! The roles that read: network probes and what of the host cannot block here, and, each in a process of its own, what may
//! (`helper.rs`).
//!
//! The checks role decides nothing. An agent asks ([`proto::ToChecks::Probe`]), the role answers once with success or with a short
//! sentence; it says what is to be watched ([`proto::ToChecks::Watch`]), the role reads it by its own clock. One thread, one epoll:
//! connects do not block, every probe has its deadline, and with nothing asked the role sleeps without a timer. The newest agent
//! replaces an older one, whose probes and orders are dropped with it. Without an agent the role leaves after [`AGENTLESS_MAX`].
//!
//! What it reads must not wait for a device, nor take a lock that a driver may hold while it does (rtnl is one): tables of /proc,
//! counters of /sys, what the kernel tells over netlink, its log, and the answer to one ARP packet.
//!
//! `agent.rs` is the end of the agent's socket and `start.rs` how a role begins, for this role and for those that may block.
//! `serve.rs` is the loop. Probes: `probes.rs` those under way, `probe.rs` one of them, `target.rs` what an address may look like,
//! `answer.rs` the head of an HTTP answer. The host: `watch.rs` the orders and when each is due, `inventory.rs` and `devices.rs` what
//! there is, `alarms.rs` what does not wait for its turn, `once.rs` all of it without a loop, and a file a subject. A new kind of
//! probe is a variant of [`proto::ProbeTarget`] and a file here; a new reading one of `Source` and one of `Sample`.
//!
//! For tests, `--root DIR` says below which directory /proc and /sys are (looked at once a second for other devices), and `--kmsg
//! PATH` names a pipe with records as /dev/kmsg gives them.

mod agent;
mod alarms;
mod answer;
mod apart;
mod attribute;
mod block;
mod canary;
mod devices;
mod filesystems;
mod fs_errors;
mod gateway;
mod hardware;
mod helper;
mod instance;
mod inventory;
mod kernel;
mod kernel_rules;
mod link_events;
mod link_modes;
mod mount_point;
mod mounts;
mod nics;
mod once;
mod outstanding;
mod probe;
mod probes;
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
#[cfg(test)]
mod testing;
mod watch;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::sys;

pub use apart::read_blocking;
pub use canary::{CANARY, read_canary};
pub use helper::{run_disk, run_sensors};
pub use link_modes::read_link_modes;
pub use once::{Once, read_once};
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
    let listener = start::listen(&arguments.run_dir, SOCKET)?;
    let settings = watch::Settings { root: arguments.root, kmsg: arguments.kmsg, run_dir: Some(arguments.run_dir) };
    let server = serve::Server::new(listener, settings, AGENTLESS_MAX)?;
    start::tell_ready(ready)?;
    server.run()
}
