//! The container of a process tree: a cgroup, or the weak substitute where there is none.
//!
//! A cgroup holds every process that was ever forked in it, whatever it did about sessions and parents, and the kernel kills all of
//! them at once. The weak substitute looks for them ([`super::group_weak`]). Nothing here signals by number: always through a pidfd, and
//! membership is looked at again after it was opened.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::libc;
use nix::sys::stat::Mode;

pub use super::group_root::{Choice, Root};
use super::group_weak::Weak;
use super::limits::Limited;
use super::process::Stat;
pub use super::process::{ProcessInfo, process};
use super::{Fallbacks, child};

/// A process tree.
#[derive(Debug)]
pub struct Group {
    kind: Kind,
    /// Of one that was ever limited.
    limited: Option<Box<Limited>>,
}

#[derive(Debug)]
enum Kind {
    Cgroup(Cgroup),
    Weak(Weak),
}

/// Whether a tree may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freezer {
    Frozen,
    Thawed,
}

/// What a tree has used. `None`: cannot be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time. In a cgroup of all processes it ever had, else of those that live.
    pub cpu_usec: Option<u64>,
    pub memory_bytes: Option<u64>,
}

impl Group {
    pub(super) fn cgroup(path: PathBuf, fallbacks: Fallbacks) -> io::Result<Self> {
        let directory = open_directory(&path)?;
        Ok(Self::of(Kind::Cgroup(Cgroup { path, directory: Some(directory), events: None, fallbacks })))
    }

    fn of(kind: Kind) -> Self {
        Self { kind, limited: None }
    }

    /// The tree of a main process with `MAINSTAY_RUN=cookie` in its environment that leads `session`. To be made while the main process
    /// lives or after, not before the spawn.
    #[must_use]
    pub fn weak(cookie: String, session: i32) -> Self {
        Self::of(Kind::Weak(Weak::new(&cookie, session)))
    }

    /// [`Group::weak`], for a main process that an earlier agent started: it is known by its start time, because it may have overwritten its
    /// environment (as those do that show their state in `ps`).
    #[must_use]
    pub fn weak_led_by(cookie: &str, session: i32, leader_start_ticks: u64) -> Self {
        Self::of(Kind::Weak(Weak::led_by(cookie, session, leader_start_ticks)))
    }

    /// Groups that an earlier agent made in v1 hierarchies, for a tree that has no other group any more: to be removed.
    #[must_use]
    pub fn of_limits_only(limited: Box<Limited>) -> Self {
        Self { kind: Kind::Weak(Weak::new("", 0)), limited: Some(limited) }
    }

    /// Makes an emptied group ready for the next run: its directory is open again. `false`: it is none, or the last run made groups below it
    /// that nobody would account for; then it is to be removed. What was killed is never used again: it may be frozen, or forbidden to fork.
    pub fn reopen(&mut self) -> bool {
        match &mut self.kind {
            Kind::Cgroup(group) => group.reopen().unwrap_or(false),
            Kind::Weak(_) => false,
        }
    }

    /// For [`super::spawn::SpawnRequest::cgroup`]; `None` when weak or closed.
    #[must_use]
    pub fn directory(&self) -> Option<BorrowedFd<'_>> {
        match &self.kind {
            Kind::Cgroup(group) => group.directory.as_ref().map(AsFd::as_fd),
            Kind::Weak(_) => None,
        }
    }

    /// Saves a descriptor after the spawn.
    pub fn close_directory(&mut self) {
        match &mut self.kind {
            Kind::Cgroup(group) => group.directory = None,
            Kind::Weak(_) => {}
        }
    }

    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.kind {
            Kind::Cgroup(group) => Some(&group.path),
            Kind::Weak(_) => None,
        }
    }

    /// Whether any process lives in it. Also takes the pending change of [`Group::watch`].
    pub fn populated(&self) -> io::Result<bool> {
        match &self.kind {
            Kind::Cgroup(group) => group.populated(),
            Kind::Weak(weak) => Ok(!weak.members()?.is_empty()),
        }
    }

    /// A descriptor that has priority ([`super::epoll::Interest::PRIORITY`]) when `populated` may have changed; `None` when weak, then
    /// `populated` is to be asked now and then. It is open until [`Group::remove`] or drop: take it out of the epoll before.
    pub fn watch(&mut self) -> io::Result<Option<BorrowedFd<'_>>> {
        match &mut self.kind {
            Kind::Cgroup(group) => group.watch().map(Some),
            Kind::Weak(_) => Ok(None),
        }
    }

    /// The pids of all processes that live in it, in no order.
    pub fn processes(&self) -> io::Result<Vec<i32>> {
        match &self.kind {
            Kind::Cgroup(group) => processes_below(&group.path),
            Kind::Weak(weak) => Ok(weak.members()?.into_iter().map(|(pid, _)| pid).collect()),
        }
    }

    /// Signals each process once and returns how many it reached. What forks meanwhile may be missed: that is what [`Group::kill`] is for.
    pub fn signal_all(&self, signal: i32) -> io::Result<u32> {
        match &self.kind {
            Kind::Cgroup(group) => signal_each(&group.path, processes_below(&group.path)?.as_slice(), signal),
            Kind::Weak(weak) => weak.signal_all(signal),
        }
    }

    /// Kills every process in it, also one that keeps forking, and returns how. They are dead when `populated` says so, not when this returns.
    pub fn kill(&self) -> io::Result<&'static str> {
        if let Some(limited) = &self.limited {
            limited.open_for_kill();
        }
        match &self.kind {
            Kind::Cgroup(group) => group.kill(),
            Kind::Weak(weak) => weak.kill().map(|()| "SIGSTOP and SIGKILL to each of the process tree"),
        }
    }

    /// Stops every process of it, or lets all go on. In a cgroup also those that are born later, and asynchronously: one that waits for a disk is
    /// frozen when it returns. It stays frozen when its last process is killed, until it is thawed or removed.
    pub fn freeze(&self, freezer: Freezer) -> io::Result<()> {
        match &self.kind {
            Kind::Cgroup(group) => group.freeze(freezer),
            Kind::Weak(weak) => weak.freeze(freezer),
        }
    }

    /// Whether it is (to be) frozen; `None` where only who has done it can tell.
    #[must_use]
    pub fn freezer(&self) -> Option<Freezer> {
        match &self.kind {
            Kind::Cgroup(group) => group.freezer(),
            Kind::Weak(_) => None,
        }
    }

    /// Removes the directory, groups below it first. EBUSY while a process lives in it. One that is gone already is no error.
    pub fn remove(&mut self) -> io::Result<()> {
        match &mut self.kind {
            Kind::Cgroup(group) => {
                group.directory = None;
                group.events = None;
                remove_tree(&group.path)?;
            }
            Kind::Weak(_) => {}
        }
        self.limited.as_mut().map_or(Ok(()), |limited| limited.remove())
    }

    /// Its limits are those from now on; [`Group::limited`] has them then.
    pub fn set_limited(&mut self, limited: Option<Box<Limited>>) {
        self.limited = limited;
    }

    /// `None`: it was never limited.
    #[must_use]
    pub fn limited(&self) -> Option<&Limited> {
        self.limited.as_deref()
    }

    /// To be changed and given back.
    pub fn take_limited(&mut self) -> Option<Box<Limited>> {
        self.limited.take()
    }

    /// Moves every process of it into its groups of other hierarchies, until none is left outside. Born members are in them already.
    pub fn gather(&self) -> io::Result<()> {
        let groups = self.limited.as_ref().map(|limited| limited.groups()).unwrap_or_default();
        for group in groups {
            self.gather_in(group)?;
        }
        Ok(())
    }

    fn gather_in(&self, group: &Path) -> io::Result<()> {
        let procs = group.join("cgroup.procs");
        let mut ending = BTreeSet::new();
        for _ in 0..GATHER_ROUNDS_MAX {
            let mut passed_over: BTreeSet<i32> = processes_below(group)?.into_iter().collect();
            passed_over.extend(&ending);
            let outside: Vec<i32> = self.processes()?.into_iter().filter(|pid| !passed_over.contains(pid)).collect();
            if outside.is_empty() {
                return Ok(());
            }
            for pid in outside {
                match fs::write(&procs, pid.to_string()) {
                    // It has ended meanwhile.
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                    // The kernel takes the order and leaves it where it is; it has nothing more to do than to end, when a CPU is free for that.
                    Ok(()) if Stat::read(pid).is_ok_and(|stat| stat.is_exiting) => drop(ending.insert(pid)),
                    other => other?,
                }
            }
        }
        Err(io::Error::other(format!("processes outside {} after {GATHER_ROUNDS_MAX} rounds", group.display())))
    }

    /// Processes of it that the kernel killed for memory; 0 where the memory controller is not enabled.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        if let Some(counted) = self.limited.as_ref().and_then(|limited| limited.oom_kills()) {
            return counted;
        }
        match &self.kind {
            Kind::Cgroup(group) => group.oom_kills(),
            Kind::Weak(_) => 0,
        }
    }

    #[must_use]
    pub fn usage(&self) -> Usage {
        let counted = match &self.kind {
            Kind::Cgroup(group) => group.usage(),
            Kind::Weak(_) => Usage::default(),
        };
        if counted.cpu_usec.is_some() && counted.memory_bytes.is_some() {
            return counted;
        }
        let summed = self.summed_usage();
        Usage {
            cpu_usec: counted.cpu_usec.or(summed.cpu_usec),
            memory_bytes: counted.memory_bytes.or(summed.memory_bytes),
        }
    }

    fn summed_usage(&self) -> Usage {
        let Ok(pids) = self.processes() else { return Usage::default() };
        let (mut cpu_usec, mut memory_bytes) = (0_u64, 0_u64);
        for information in pids.into_iter().filter_map(|pid| process(pid).ok()) {
            cpu_usec = cpu_usec.saturating_add(information.cpu_usec);
            memory_bytes = memory_bytes.saturating_add(information.rss_bytes);
        }
        Usage { cpu_usec: Some(cpu_usec), memory_bytes: Some(memory_bytes) }
    }
}

#[derive(Debug)]
struct Cgroup {
    path: PathBuf,
    directory: Option<OwnedFd>,
    events: Option<OwnedFd>,
    fallbacks: Fallbacks,
}

fn open_directory(path: &Path) -> nix::Result<OwnedFd> {
    openat(AT_FDCWD, path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

/// Longer than any `cgroup.events` or `memory.events`.
const EVENTS_BYTES_MAX: usize = 256;

/// Rounds in which a group without `cgroup.kill` is read again for processes that were forked during the last one.
const KILL_ROUNDS_MAX: u32 = 64;

/// Rounds in which a tree is read again for processes that were forked outside a group while others were moved into it.
const GATHER_ROUNDS_MAX: u32 = 64;

impl Cgroup {
    /// In kernfs each directory below counts as a link, beside the two of any directory.
    fn reopen(&mut self) -> io::Result<bool> {
        let directory = open_directory(&self.path)?;
        let links = nix::sys::stat::fstat(&directory)?.st_nlink;
        self.directory = Some(directory);
        Ok(links == 2)
    }

    fn populated(&self) -> io::Result<bool> {
        let mut buffer = [0; EVENTS_BYTES_MAX];
        let read = match &self.events {
            Some(events) => nix::sys::uio::pread(events, &mut buffer, 0),
            None => self.open("cgroup.events").and_then(|events| nix::unistd::read(&events, &mut buffer)),
        };
        match read {
            Ok(length) => Ok(number_after(&String::from_utf8_lossy(&buffer[..length]), "populated") == Some(1)),
            Err(Errno::ENODEV | Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn open(&self, file: &str) -> nix::Result<OwnedFd> {
        openat(AT_FDCWD, &self.path.join(file), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
    }

    fn watch(&mut self) -> io::Result<BorrowedFd<'_>> {
        let events = match self.events.take() {
            Some(events) => events,
            None => self.open("cgroup.events")?,
        };
        let events: &OwnedFd = self.events.insert(events);
        Ok(events.as_fd())
    }

    fn kill(&self) -> io::Result<&'static str> {
        // Stops the forking where the controller is enabled; where it is not there is no such file.
        write_if_there(&self.path.join("pids.max"), "0")?;
        if !self.fallbacks.no_cgroup_kill {
            match fs::write(self.path.join("cgroup.kill"), "1") {
                Ok(()) => return Ok("cgroup.kill"),
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok("cgroup.kill"),
                // Before 5.14, or a threaded group.
                Err(_) => {}
            }
        }
        let method = "cgroup.freeze, SIGKILL to each, thaw";
        if !self.path.exists() {
            return Ok(method);
        }
        write_if_there(&self.path.join("cgroup.freeze"), "1")?;
        let killed = self.kill_each();
        write_if_there(&self.path.join("cgroup.freeze"), "0")?;
        killed.map(|()| method)
    }

    fn freeze(&self, freezer: Freezer) -> io::Result<()> {
        let wanted = match freezer {
            Freezer::Frozen => "1",
            Freezer::Thawed => "0",
        };
        fs::write(self.path.join("cgroup.freeze"), wanted)?;
        match self.freezer() == Some(freezer) {
            true => Ok(()),
            false => Err(io::Error::other(format!("cgroup.freeze does not say {wanted} after it was written"))),
        }
    }

    fn freezer(&self) -> Option<Freezer> {
        match fs::read_to_string(self.path.join("cgroup.freeze")).ok()?.trim() {
            "1" => Some(Freezer::Frozen),
            _ => Some(Freezer::Thawed),
        }
    }

    fn kill_each(&self) -> io::Result<()> {
        let mut met = BTreeSet::new();
        for _ in 0..KILL_ROUNDS_MAX {
            let fresh: Vec<i32> = processes_below(&self.path)?.into_iter().filter(|pid| !met.contains(pid)).collect();
            if fresh.is_empty() {
                return Ok(());
            }
            signal_each(&self.path, &fresh, libc::SIGKILL)?;
            met.extend(fresh);
        }
        Err(Errno::EAGAIN.into())
    }

    fn oom_kills(&self) -> u64 {
        let mut buffer = [0; EVENTS_BYTES_MAX];
        let length = self.open("memory.events").and_then(|events| nix::unistd::read(&events, &mut buffer));
        let text = length.map(|length| String::from_utf8_lossy(&buffer[..length]));
        text.ok().and_then(|text| number_after(&text, "oom_kill")).unwrap_or_default()
    }

    fn number_in(&self, file: &str, key: &str) -> Option<u64> {
        number_after(&fs::read_to_string(self.path.join(file)).ok()?, key)
    }

    fn usage(&self) -> Usage {
        let memory = fs::read_to_string(self.path.join("memory.current")).ok();
        Usage {
            cpu_usec: self.number_in("cpu.stat", "usage_usec"),
            memory_bytes: memory.and_then(|text| text.trim().parse().ok()),
        }
    }
}

/// The number of the line `key number`.
pub(super) fn number_after(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

pub(super) fn write_if_there(path: &Path, text: &str) -> io::Result<()> {
    // Not fs::write: creating a file in a cgroup is EACCES or EPERM, not "absent".
    match fs::File::options().write(true).open(path) {
        Ok(mut file) => match io::Write::write_all(&mut file, text.as_bytes()) {
            Err(error) if !is_gone(&error) => Err(error),
            Ok(()) | Err(_) => Ok(()),
        },
        Err(error) if is_gone(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Of this group and all below it. A group that is gone has none.
fn processes_below(path: &Path) -> io::Result<Vec<i32>> {
    let mut pids = Vec::new();
    let mut groups = vec![path.to_owned()];
    while let Some(group) = groups.pop() {
        match fs::read_to_string(group.join("cgroup.procs")) {
            // 0 is a process of another pid namespace.
            Ok(text) => pids.extend(text.lines().filter_map(|pid| pid.parse::<i32>().ok()).filter(|pid| *pid > 0)),
            // A threaded group: its processes are listed in the domain above.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(error),
        }
        groups.extend(groups_in(&group)?);
    }
    Ok(pids)
}

/// The groups directly below.
pub(super) fn groups_in(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut groups = Vec::new();
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(groups),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            groups.push(entry.path());
        }
    }
    Ok(groups)
}

/// pidfds that are open at once.
const PIDFDS_MAX: usize = 64;

/// A number read from the group may belong to somebody else by the time the pidfd is open, so the group is read again: who is listed
/// then is the process of the pidfd, or the signal finds nobody.
fn signal_each(path: &Path, pids: &[i32], signal: i32) -> io::Result<u32> {
    let mut reached = 0;
    for some in pids.chunks(PIDFDS_MAX) {
        let mut opened = Vec::with_capacity(some.len());
        for pid in some {
            match child::open(*pid) {
                Ok(pidfd) => opened.push((*pid, pidfd)),
                // Ended meanwhile; EINVAL: not the leader of its threads any more.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)) => {}
                Err(error) => return Err(error),
            }
        }
        let still: BTreeSet<i32> = processes_below(path)?.into_iter().collect();
        for (_, pidfd) in opened.iter().filter(|(pid, _)| still.contains(pid)) {
            reached += u32::from(reach(pidfd.as_fd(), signal)?);
        }
    }
    Ok(reached)
}

/// `false`: it has ended meanwhile.
pub(super) fn reach(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<bool> {
    match child::signal(pidfd, signal) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    for group in groups_in(path)? {
        remove_tree(&group)?;
    }
    match fs::remove_dir(path) {
        Err(error) if !is_gone(&error) => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
