//! Children of the agent that are not services: the loader and exec probes. Each has its pidfd; ending one is SIGKILL and a wait.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use crate::engine::types::SIGKILL;
use crate::sys::child;
use crate::sys::spawn::{self, SpawnRequest};

/// A child by its pidfd.
#[derive(Debug)]
pub struct Helper {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

impl Helper {
    /// Kills it if it still runs. It is reaped by the wait here or, when it cannot die yet, as an orphan later.
    pub fn end(&self) {
        // ESRCH: it has ended, which is what is wanted.
        let _ = child::signal(self.pidfd.as_fd(), SIGKILL);
        // Not yet dead: the SIGCHLD of its end reaps it.
        let _ = child::wait(self.pidfd.as_fd());
    }
}

/// Runs this binary with a hidden command, stdout to `output`, stderr to the agent's own. Its gate is opened at once.
pub(super) fn own_binary(arguments: &[OsString], output: BorrowedFd<'_>) -> io::Result<Helper> {
    let mut argv = vec![c"mainstay".to_owned()];
    for argument in arguments {
        argv.push(CString::new(argument.clone().into_vec()).map_err(io::Error::other)?);
    }
    let stderr = io::stderr();
    let request = SpawnRequest {
        path: c"/proc/self/exe".to_owned(),
        argv,
        envp: own_environment(),
        stderr: stderr.as_fd(),
        ..SpawnRequest::plain(output)
    };
    let child = spawn::spawn(&request).map_err(io::Error::other)?;
    child.gate.open()?;
    Ok(Helper { pid: child.pid, pidfd: child.pidfd })
}

/// The variables that say where an unprivileged user's files live; nothing else is handed on.
fn own_environment() -> Vec<CString> {
    ["HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "PATH"]
        .iter()
        .filter_map(|name| std::env::var(name).ok().and_then(|value| CString::new(format!("{name}={value}")).ok()))
        .collect()
}
