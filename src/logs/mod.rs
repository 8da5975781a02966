//! The logs role: reads the named pipes of all services into rotated files, keeps the event journal, the operators' decisions and the
//! agent's own lines, tells what was said (`logs`, `events`), and keeps descriptors open while no agent lives. It outlives the agent.
//!
//! It decides nothing about services. It promises:
//!
//! * A service never waits for our disk. The reader thread (`role`) touches no file; one writer thread per directory (`log_writer`,
//!   `state_writer`) may hang for ever. Between them are queues bounded in bytes (`queue`); at the limit the oldest lines go, and the loss
//!   is counted, reported to the agent and said in the file itself.
//! * Bytes stay in the pipes, where they outlive this process, while the disk keeps up (`flow`): a SIGKILL of this process costs at most
//!   320 KiB in all under a flood, and nothing when the last line was read more than a moment ago. While the disk does not answer it is
//!   up to 8 MiB.
//! * Files hold the bytes as they were written, rotated between lines (`file`, `rotate`); when a byte came is kept beside them (`times`).
//! * The past and the present meet exactly: a reader's past ends in the files where the order to serve it stood among all reads, and
//!   live lines begin there (`orders`, `clients`, `history`).
//! * At rest there are no wake-ups and no buffers.

mod clients;
mod connections;
mod decisions;
mod file;
mod flow;
mod guard;
mod history;
mod journal;
mod keep;
mod log_writer;
mod orders;
pub mod proto;
mod queue;
mod region;
mod reports;
mod rfc3339;
mod role;
mod rotate;
mod source;
mod state_writer;
mod streams;
mod tail;
#[cfg(test)]
mod testing;
mod times;
mod wake;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::sys::{host, signal};

pub use decisions::read_decisions;
pub use journal::last_seq;

/// What the role is told on its command line.
#[derive(Debug)]
pub struct RoleArguments {
    /// The role listens on `{run_dir}/roles/logs.sock`.
    pub run_dir: PathBuf,
    /// `events.ndjson` and `decisions.json`.
    pub state_dir: PathBuf,
    /// `{service}.{index}.log` and `mainstay.log`.
    pub log_dir: PathBuf,
    /// Gets a newline and is closed once the role listens: descriptor 3 when it was given one.
    pub readiness: Option<OwnedFd>,
}

/// Why the role cannot work, or why what it stored cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    #[error("cannot create {path}")]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot listen on {path}")]
    Listen {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot {what}")]
    Kernel {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot understand {path}")]
    Decisions {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("cannot understand {path}: it has version {version}")]
    DecisionsVersion { path: PathBuf, version: u32 },
}

/// Where the role listens.
#[must_use]
pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("roles").join("logs.sock")
}

/// The role's main function: returns when its agent says [`proto::ToLogs::Quit`].
///
/// # Errors
/// It cannot begin: no socket, no thread, no epoll. Troubles with disks are reported to the agent instead.
pub fn run(arguments: RoleArguments) -> Result<(), LogsError> {
    signal::ignore_role_signals().map_err(|source| LogsError::Kernel { what: "ignore signals", source })?;
    // Pipes, files and kept descriptors of a thousand services.
    let descriptors_max = host::raise_nofile();
    let roles = arguments.run_dir.join("roles");
    std::fs::create_dir_all(&roles).map_err(|source| LogsError::Directory { path: roles, source })?;
    let role = role::Role::begin(&arguments, descriptors_max)?;
    if let Some(readiness) = arguments.readiness {
        // Whoever asked may be gone; the role is ready all the same.
        let _ = File::from(readiness).write_all(b"\n");
    }
    role.work()
}

/// Newlines in `bytes`.
fn count_lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}
