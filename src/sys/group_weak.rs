//! Finding a process tree without a cgroup: by session, by the `MAINSTAY_RUN` in the environment, and by descent from those. A process
//! that changes its session, clears its environment and outlives its parent is not found: that is what makes it weak.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::libc;

use super::child;
use super::group::{Freezer, reach};
use super::process::{self, Stat};

/// The variable that marks all processes of a run.
pub(super) const COOKIE_VARIABLE: &str = "MAINSTAY_RUN";

/// How much of an environment is looked at.
const ENVIRON_BYTES_MAX: u64 = 256 << 10;

/// How often, in one look at all processes, one that is inside execve(2) is looked at again: 50 ms in all, which is more than the moment in
/// question takes, also where it has to wait for a processor, unless the disk with the program hangs.
const EXEC_WAITS_MAX: u32 = 500;
const EXEC_WAIT: Duration = Duration::from_micros(100);

/// Rounds in which the tree is read again for processes that were forked during the last one.
const STOP_ROUNDS_MAX: u32 = 64;

/// Pid and start time.
type Member = (i32, u64);

#[derive(Debug)]
pub(super) struct Weak {
    /// `MAINSTAY_RUN=...`, one whole entry of an environment.
    entry: Vec<u8>,
    session: i32,
    /// Start of the process that leads the session, when it was seen to be ours. The number of a session that died out can be given to
    /// somebody else.
    leader_start: Option<u64>,
}

impl Weak {
    pub(super) fn new(cookie: &str, session: i32) -> Self {
        let entry = format!("{COOKIE_VARIABLE}={cookie}").into_bytes();
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        let leader = Stat::read(session).ok();
        let mut waits = EXEC_WAITS_MAX;
        let ours = leader.filter(|leader| leader.ppid == own || has_entry(session, &entry, &mut waits));
        Self { entry, session, leader_start: ours.map(|leader| leader.start_ticks) }
    }

    /// The tree of a main process that is known by its pid and start time, whatever it has made of its environment.
    pub(super) fn led_by(cookie: &str, session: i32, leader_start: u64) -> Self {
        let entry = format!("{COOKIE_VARIABLE}={cookie}").into_bytes();
        Self { entry, session, leader_start: Some(leader_start) }
    }

    /// All living members.
    pub(super) fn members(&self) -> io::Result<Vec<Member>> {
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        let mut found: BTreeMap<i32, Stat> = BTreeMap::new();
        for pid in process::all()? {
            // One that ends meanwhile is no member any more.
            if let Ok(stat) = Stat::read(pid) {
                found.insert(pid, stat);
            }
        }
        let leader = found.get(&self.session).map(|leader| leader.start_ticks);
        let session_is_ours = self.session > 0 && (leader.is_none() || leader == self.leader_start);
        // Nothing of the run is older than its main process.
        found.retain(|pid, stat| {
            *pid > 1
                && *pid != own
                && !stat.is_dead()
                && self.leader_start.is_none_or(|start| stat.start_ticks >= start)
        });
        let mut waits = EXEC_WAITS_MAX;
        let mut members: BTreeSet<i32> = found
            .iter()
            .filter(|(pid, stat)| {
                let in_session = session_is_ours && stat.session == self.session;
                in_session || (!stat.is_kernel_thread && has_entry(**pid, &self.entry, &mut waits))
            })
            .map(|(pid, _)| *pid)
            .collect();
        loop {
            let before = members.len();
            let children = found.iter().filter(|(_, stat)| members.contains(&stat.ppid)).map(|(pid, _)| *pid);
            let children: Vec<i32> = children.collect();
            members.extend(children);
            if members.len() == before {
                break;
            }
        }
        Ok(members.into_iter().filter_map(|pid| found.get(&pid).map(|stat| (pid, stat.start_ticks))).collect())
    }

    /// `Err`: the first of those that could not be signalled; all others were.
    pub(super) fn signal_all(&self, signal: i32) -> io::Result<u32> {
        let mut reached = 0;
        let mut outcome = Ok(());
        for member in self.members()? {
            let signalled = open_member(member).and_then(|opened| match opened {
                Some(pidfd) => reach(pidfd.as_fd(), signal),
                None => Ok(false),
            });
            match signalled {
                Ok(was_reached) => reached += u32::from(was_reached),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome.map(|()| reached)
    }

    /// By SIGSTOP and SIGCONT, which the parents of its processes can see.
    pub(super) fn freeze(&self, freezer: Freezer) -> io::Result<()> {
        match freezer {
            Freezer::Frozen => self.stop_all().1,
            Freezer::Thawed => self.signal_all(libc::SIGCONT).map(drop),
        }
    }

    /// Stops the tree until nothing new is found, so that nobody can fork out of sight.
    fn stop_all(&self) -> (BTreeMap<Member, OwnedFd>, io::Result<()>) {
        let mut stopped: BTreeMap<Member, OwnedFd> = BTreeMap::new();
        let mut outcome = Ok(());
        for _ in 0..STOP_ROUNDS_MAX {
            let before = stopped.len();
            outcome = self.stop_new(&mut stopped);
            if outcome.is_err() || stopped.len() == before {
                break;
            }
        }
        (stopped, outcome)
    }

    /// Stops the tree, then kills all of it.
    pub(super) fn kill(&self) -> io::Result<()> {
        let (stopped, mut outcome) = self.stop_all();
        // What was stopped must not stay so, whatever went wrong.
        for pidfd in stopped.values() {
            if let Err(error) = reach(pidfd.as_fd(), libc::SIGKILL) {
                outcome = Err(error);
            }
        }
        outcome
    }

    fn stop_new(&self, stopped: &mut BTreeMap<Member, OwnedFd>) -> io::Result<()> {
        for member in self.members()? {
            if stopped.contains_key(&member) {
                continue;
            }
            if let Some(pidfd) = open_member(member)? {
                reach(pidfd.as_fd(), libc::SIGSTOP)?;
                stopped.insert(member, pidfd);
            }
        }
        Ok(())
    }
}

/// `None` when it has ended meanwhile. The start time is read again after the open: the same process, or nobody.
fn open_member((pid, start_ticks): Member) -> io::Result<Option<OwnedFd>> {
    let pidfd = match child::open(pid) {
        Ok(pidfd) => pidfd,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let same = Stat::read(pid).is_ok_and(|stat| stat.start_ticks == start_ticks);
    Ok(same.then_some(pidfd))
}

/// Whether `entry` is in the environment of a process. While it executes a program there is a moment in which the old environment is gone
/// and the new one not yet there: it is waited for, or a process in a session of its own would be taken for a stranger. The environment
/// of others cannot be read without privileges; theirs is not ours then.
fn has_entry(pid: i32, entry: &[u8], waits: &mut u32) -> bool {
    loop {
        let mut environment = Vec::new();
        let read = File::open(format!("/proc/{pid}/environ"))
            .and_then(|file| file.take(ENVIRON_BYTES_MAX).read_to_end(&mut environment));
        if read.is_err() || !environment.is_empty() {
            return environment.split(|byte| *byte == 0).any(|found| found == entry);
        }
        let may_come = Stat::read(pid).is_ok_and(|stat| stat.may_get_environment());
        if !may_come || *waits == 0 {
            return false;
        }
        *waits -= 1;
        std::thread::sleep(EXEC_WAIT);
    }
}
