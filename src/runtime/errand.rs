//! A command that the agent runs for itself and whose end it awaits (an exec probe, an alert, a hook): in a session and group of its own,
//! with what it needs and nothing else. It does not outlive the agent: the next one kills its group.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::key::Key;
use super::request;
use super::shell::Shell;
use super::spawned::Helper;
use crate::engine::plan::User;
use crate::engine::types::{SIGKILL, signal_name};
use crate::sys::child::{self, Ended};
use crate::sys::epoll::Interest;
use crate::sys::group::Group;
use crate::sys::host;
use crate::sys::landlock::Wall;
use crate::sys::memory_file;
use crate::sys::spawn::{self, Credentials, SpawnRequest};

/// What is kept of a command's stderr.
const STDERR_BYTES_MAX: u16 = 4 << 10;

/// What is to be run.
#[derive(Debug)]
pub(super) struct Order<'a> {
    /// The first part of its group's name, `@probe`; the second is its number.
    pub kind: &'static str,
    pub slot: u32,
    /// Where its end is told.
    pub key: Key,
    pub argv: &'a [String],
    /// `NAME=value`, beside PATH.
    pub environment: Vec<String>,
    /// `None`: the agent's own.
    pub user: Option<&'a User>,
    pub no_new_privileges: bool,
    pub capabilities: Option<Vec<u8>>,
    /// What it may reach of the file system.
    pub wall: Option<Box<Wall>>,
    pub cwd: String,
    /// `None`: /dev/null, where its output goes.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Whether something of its stderr is kept, for [`Errand::end`]; /dev/null otherwise.
    pub keeps_stderr: bool,
}

#[derive(Debug)]
pub(super) struct Errand {
    kind: &'static str,
    helper: Helper,
    group: Option<Group>,
    stderr: Option<OwnedFd>,
}

impl Errand {
    pub(super) fn start(shell: &mut Shell, order: &mut Order<'_>) -> Result<Self, String> {
        let Order { kind, slot, .. } = order;
        let cookie = format!("{}.{kind}.{slot}.{:016x}", shell.instance, host::random_u64());
        let group = match shell.root.is_weak() {
            true => None,
            false => {
                let made = shell.root.create(&format!("{kind}.{slot}"));
                Some(made.map_err(|error| format!("cannot make a group: {error}"))?)
            }
        };
        // Without it only what the command says is lost.
        let stderr = order.keeps_stderr.then(|| memory_file::taking(STDERR_BYTES_MAX).ok()).flatten();
        let helper = match clone_child(order, &cookie, group.as_ref(), stderr.as_ref()) {
            Ok(helper) => helper,
            Err(error) => {
                shell.bury(group);
                return Err(error);
            }
        };
        let group = match group {
            Some(mut group) => {
                group.close_directory();
                group
            }
            None => Group::weak(cookie, helper.pid),
        };
        shell.listen_to(helper.pidfd.as_fd(), order.key, Interest::READ);
        Ok(Self { kind: order.kind, helper, group: Some(group), stderr })
    }

    #[must_use]
    pub(super) fn pid(&self) -> i32 {
        self.helper.pid
    }

    /// How it ended, if it has.
    #[must_use]
    pub(super) fn result(&self) -> Option<Result<(), String>> {
        Some(match child::wait(self.helper.pidfd.as_fd()) {
            Ok(None) => return None,
            Ok(Some(Ended::Code(0))) => Ok(()),
            Ok(Some(Ended::Code(code))) => Err(format!("exit code {code}")),
            Ok(Some(Ended::Signal { signal, .. })) => Err(format!("killed by {}", signal_name(signal))),
            Ok(Some(Ended::Unknown)) | Err(_) => Err("ended, exit status unknown".to_owned()),
        })
    }

    /// Kills what is left of it, its tree too. What it said on stderr, as far as it was kept.
    pub(super) fn end(mut self, shell: &mut Shell) -> Vec<u8> {
        // ESRCH: it has ended.
        let _ = child::signal(self.helper.pidfd.as_fd(), SIGKILL);
        shell.forget(self.helper.pidfd.as_fd());
        let group = self.group.take();
        if let Some(group) = &group
            && group.populated().unwrap_or(false)
            && let Err(error) = group.kill()
        {
            log::warn!("agent: cannot kill the group of {}: {error}", self.kind);
        }
        shell.bury(group);
        // Not dead yet: the SIGCHLD of its end reaps it.
        let _ = child::wait(self.helper.pidfd.as_fd());
        let stderr = self.stderr.take();
        stderr.and_then(|file| memory_file::taken(file.as_fd(), STDERR_BYTES_MAX).ok()).unwrap_or_default()
    }
}

fn clone_child(
    order: &mut Order<'_>,
    cookie: &str,
    group: Option<&Group>,
    stderr: Option<&OwnedFd>,
) -> Result<Helper, String> {
    let null = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/null")
        .map_err(|error| format!("cannot open /dev/null: {error}"))?;
    let c_string = |word: &str| CString::new(word).map_err(|_| format!("{word:?} contains a zero byte"));
    let c_strings = |words: &[String]| words.iter().map(|word| c_string(word)).collect::<Result<Vec<_>, _>>();
    let argv = c_strings(order.argv)?;
    let mut environment = vec![format!("PATH={}", request::PATH), format!("{}={cookie}", request::COOKIE)];
    environment.extend(order.environment.iter().cloned());
    let request = SpawnRequest {
        path: argv.first().cloned().ok_or("the command is empty")?,
        argv,
        envp: c_strings(&environment)?,
        stdin: order.stdin,
        stderr: stderr.map_or(null.as_fd(), AsFd::as_fd),
        credentials: order.user.map(|user| Credentials { uid: user.uid, gid: user.gid, groups: user.groups.clone() }),
        no_new_privileges: order.no_new_privileges,
        capabilities: order.capabilities.clone(),
        wall: order.wall.take(),
        cwd: Some(c_string(&order.cwd)?),
        cgroup: group.and_then(Group::directory),
        ..SpawnRequest::plain(null.as_fd())
    };
    let made = spawn::spawn(&request).map_err(|error| error.to_string())?;
    made.gate.open().map_err(|error| format!("its process ended at once: {error}"))?;
    Ok(Helper { pid: made.pid, pidfd: made.pidfd })
}
