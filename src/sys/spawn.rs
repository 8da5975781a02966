//! The one fork.
#![allow(clippy::todo, clippy::ptr_arg, unused_variables, dead_code, reason = "signatures first; bodies follow")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::Fallbacks;
use super::rlimit::Resource;

/// Who the child becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// Everything the child becomes between clone and exec.
#[derive(Debug)]
pub struct SpawnRequest<'a> {
    pub path: CString,
    pub argv: Vec<CString>,
    pub envp: Vec<CString>,
    /// `LISTEN_PID=0000000000` in `envp` is overwritten with the child's pid, in the child.
    pub listen_pid: bool,
    pub cwd: Option<CString>,
    /// Standard input is /dev/null.
    pub stdout: BorrowedFd<'a>,
    pub stderr: BorrowedFd<'a>,
    /// Source and its number in the child (3 or above). No other descriptor is passed on.
    pub descriptors: Vec<(BorrowedFd<'a>, i32)>,
    pub credentials: Option<Credentials>,
    pub umask: u32,
    pub rlimits: Vec<(Resource, u64, u64)>,
    pub nice: i32,
    pub oom_score_adj: i32,
    pub no_new_privileges: bool,
    /// `Some`: exactly these (bounding, permitted, inheritable, ambient).
    pub capabilities: Option<Vec<u8>>,
    /// Directory of the group to be born in.
    pub cgroup: Option<BorrowedFd<'a>>,
    pub new_session: bool,
}

/// A child that waits at its gate.
#[derive(Debug)]
pub struct Child {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub gate: Gate,
}

/// The agent's end of the socket between it and a child that has not executed yet.
#[derive(Debug)]
pub struct Gate(OwnedFd);

impl Gate {
    /// Lets the child go on to exec. A gate that is dropped unopened ends the child.
    pub fn open(&self) -> io::Result<()> {
        todo!()
    }

    /// `None`: not known yet.
    pub fn status(&self) -> io::Result<Option<ExecStatus>> {
        todo!()
    }
}

impl AsFd for Gate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What became of the child's exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecStatus {
    Executed,
    Failed { step: &'static str, errno: Errno },
}

/// Why there is no child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpawnError {
    #[error("cannot create the gate of a new process")]
    Gate(#[source] Errno),
    #[error("cannot open /dev/null")]
    Null(#[source] Errno),
    #[error("cannot create a process")]
    Clone(#[source] Errno),
    #[error("cannot open a pidfd of the new process")]
    Pidfd(#[source] Errno),
}

impl SpawnError {
    /// Whether the agent lacks something (memory, descriptors, processes): not the service's failure.
    #[must_use]
    pub fn ours(&self) -> bool {
        todo!()
    }
}

/// Creates the child, which waits at its gate.
pub fn spawn(request: &SpawnRequest<'_>) -> Result<Child, SpawnError> {
    spawn_with(request, Fallbacks::NONE)
}

/// [`spawn`] as on a kernel without what `fallbacks` names.
pub fn spawn_with(request: &SpawnRequest<'_>, fallbacks: Fallbacks) -> Result<Child, SpawnError> {
    todo!()
}
