//! Processes through pidfds: never by a number that may belong to somebody else by now.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::fstat;
use nix::sys::statfs::{FsType, fstatfs};

use super::Fallbacks;
use super::process::Stat;
use super::spawn;

/// pidfd_open (5.3); close-on-exec. ESRCH when there is no such process.
#[expect(unsafe_code, reason = "pidfd_open has no wrapper")]
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: numbers only.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// pidfd_send_signal; ESRCH when the process has been reaped. Signal 0 asks whether it has not.
#[expect(unsafe_code, reason = "pidfd_send_signal has no wrapper")]
pub fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let no_information = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo makes the kernel fill it as kill(2) does.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, no_information, 0) };
    Errno::result(result)?;
    Ok(())
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Code(i32),
    Signal {
        signal: i32,
        core: bool,
    },
    /// Not our child, and nobody can tell any more.
    Unknown,
}

impl Ended {
    /// From wait(2)'s encoding.
    fn from_wait_status(status: i32) -> Self {
        match status & 0x7f {
            0 => Self::Code((status >> 8) & 0xff),
            signal => Self::Signal { signal, core: status & 0x80 != 0 },
        }
    }
}

/// Takes the exit of a process; `None` while it lives. A child is reaped by it.
pub fn wait(pidfd: BorrowedFd<'_>) -> io::Result<Option<Ended>> {
    wait_with(pidfd, Fallbacks::NONE)
}

/// [`wait`] as on a kernel without what `fallbacks` names.
pub fn wait_with(pidfd: BorrowedFd<'_>, fallbacks: Fallbacks) -> io::Result<Option<Ended>> {
    exit_of(pidfd, libc::WEXITED | libc::WNOHANG, fallbacks)
}

/// How a process ended, as [`wait`] says it; but a child is left to be reaped. Until then it counts for the limits on processes of its user and
/// its group, and nobody else gets its number.
pub fn peek(pidfd: BorrowedFd<'_>) -> io::Result<Option<Ended>> {
    exit_of(pidfd, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT, Fallbacks::NONE)
}

fn exit_of(pidfd: BorrowedFd<'_>, flags: libc::c_int, fallbacks: Fallbacks) -> io::Result<Option<Ended>> {
    match waitid(libc::P_PIDFD, pidfd.as_raw_fd().unsigned_abs(), flags) {
        Ok(exited) => Ok(exited.map(|(_, ended)| ended)),
        Err(Errno::ECHILD) => wait_for_stranger(pidfd, fallbacks),
        Err(errno) => Err(errno.into()),
    }
}

/// Reaps a child whose exit [`peek`] has told; whoever is no child, or was reaped before, is left alone.
pub fn bury(pidfd: BorrowedFd<'_>) {
    // ECHILD: as it should be.
    let _ = waitid(libc::P_PIDFD, pidfd.as_raw_fd().unsigned_abs(), libc::WEXITED | libc::WNOHANG);
}

/// waitid(2); `None` when no such child has exited. Not nix's, which has no name for real-time signals and fails on them after the child
/// was reaped.
#[expect(unsafe_code, reason = "waitid")]
fn waitid(kind: libc::idtype_t, id: libc::id_t, flags: libc::c_int) -> Result<Option<(i32, Ended)>, Errno> {
    // SAFETY: all zero is a valid siginfo, and what the kernel leaves when nothing has exited.
    let mut information: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `information` lives on this frame.
    Errno::result(unsafe { libc::waitid(kind, id, &raw mut information, flags) })?;
    // SAFETY: waitid fills the fields of SIGCHLD.
    let (pid, status) = unsafe { (information.si_pid(), information.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let ended = match information.si_code {
        libc::CLD_EXITED => Ended::Code(status),
        code => Ended::Signal { signal: status, core: code == libc::CLD_DUMPED },
    };
    Ok(Some((pid, ended)))
}

/// A process whose parent is somebody else. Between its end and its parent's wait it is a zombie, whose exit code /proc shows on every
/// kernel to those who may trace it; after that only the pidfd knows, from 6.15 on.
fn wait_for_stranger(pidfd: BorrowedFd<'_>, fallbacks: Fallbacks) -> io::Result<Option<Ended>> {
    let mut polled = [PollFd::new(pidfd, PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO)?;
    if polled[0].revents().is_none_or(|ready| ready.is_empty()) {
        return Ok(None);
    }
    if let Some(ended) = exit_of_zombie(pidfd) {
        return Ok(Some(ended));
    }
    let status = if fallbacks.no_pidfd_info { None } else { exit_information(pidfd) };
    Ok(Some(status.map_or(Ended::Unknown, Ended::from_wait_status)))
}

fn exit_of_zombie(pidfd: BorrowedFd<'_>) -> Option<Ended> {
    let pid = pid_of(pidfd)?;
    if !may_trace(pid) {
        return None;
    }
    let stat = Stat::read(pid).ok().filter(Stat::is_dead)?;
    // Still not reaped after the reading: the number was this process's all the time.
    signal(pidfd, 0).ok()?;
    Some(Ended::from_wait_status(stat.exit_status))
}

/// The kernel shows the exit code of others as 0, so it is believed only where it must be the true one.
fn may_trace(pid: i32) -> bool {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    if uid.is_root() {
        return true;
    }
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
    let all_are = |key: &str, wanted: u32| {
        let ids = status.lines().find_map(|line| line.strip_prefix(key));
        ids.is_some_and(|ids| ids.split_whitespace().all(|id| id.parse() == Ok(wanted)))
    };
    all_are("Uid:", uid.as_raw()) && all_are("Gid:", gid.as_raw())
}

/// The pid behind a pidfd; `None` when it was reaped.
fn pid_of(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let information = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let pid: i32 = information.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()?;
    (pid > 0).then_some(pid)
}

/// The kernel's `struct pidfd_info` in its first version.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    /// pid, tgid, ppid, then the user and group ids.
    ids: [u32; 11],
    exit_status: i32,
}

const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// _IOWR(0xFF, 11, struct pidfd_info), with the size of the first version; newer kernels take every size.
const PIDFD_GET_INFO: u64 = 0xc040_ff0b;
const _: () = assert!(size_of::<PidfdInfo>() == 0x40, "the request carries the size");

/// wait(2)'s status of a process that was reaped while this pidfd was open (6.15).
#[expect(unsafe_code, reason = "ioctl")]
fn exit_information(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let mut information = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the request carries the size of the structure, which lives on this frame.
    let result = unsafe { libc::syscall(libc::SYS_ioctl, pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut information) };
    (result == 0 && information.mask & PIDFD_INFO_EXIT != 0).then_some(information.exit_status)
}

/// What distinguishes a process from every other of this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`.
    pub start_ticks: u64,
    /// `None` below Linux 6.9, where all pidfds share one inode.
    pub pidfd_inode: Option<u64>,
}

/// The identity of the living process behind `pidfd`. ESRCH when it was reaped, or when `pid` is another process.
pub fn identity(pid: i32, pidfd: BorrowedFd<'_>) -> io::Result<Identity> {
    let start_ticks = Stat::read(pid)?.start_ticks;
    let pidfd_inode = inode_of(pidfd)?;
    // Still not reaped after the reading, so the number did not change hands before it.
    if pid_of(pidfd) != Some(pid) {
        return Err(Errno::ESRCH.into());
    }
    match signal(pidfd, 0) {
        Ok(()) => Ok(Identity { pid, start_ticks, pidfd_inode }),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(Identity { pid, start_ticks, pidfd_inode }),
        Err(error) => Err(error),
    }
}

/// The identity of a child of ours that waits at its gate: nobody else can have reaped it, so that no doubt needs to be removed.
pub fn identity_of_newborn(child: &spawn::Child) -> io::Result<Identity> {
    let start_ticks = match child.start_ticks {
        Some(known) => known,
        None => Stat::read(child.pid)?.start_ticks,
    };
    Ok(Identity { pid: child.pid, start_ticks, pidfd_inode: inode_of(child.pidfd.as_fd())? })
}

/// Since 6.9 pidfds have a file system, and in it each process an inode of its own.
fn inode_of(pidfd: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    static UNIQUE: OnceLock<bool> = OnceLock::new();
    let unique = match UNIQUE.get() {
        Some(unique) => *unique,
        None => *UNIQUE.get_or_init(|| fstatfs(pidfd).is_ok_and(|kind| kind.filesystem_type() == PIDFS)),
    };
    Ok(if unique { Some(fstat(pidfd)?.st_ino) } else { None })
}

const PIDFS: FsType = FsType(0x5049_4446);

/// Reaps at most `max` orphans that were handed to us; children for which `is_main` is true are left to [`wait`]. Returns whether more
/// may wait.
///
/// Peeks before it takes: a zombie's number cannot be given to another process, so what was asked is what is reaped. The kernel
/// always shows the same zombie first, hence the list of children when that one is a main process nobody has waited for yet.
pub fn reap_orphans(is_main: &mut dyn FnMut(i32) -> bool, max: usize) -> io::Result<bool> {
    for _ in 0..max {
        match waitid(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) {
            Ok(None) | Err(Errno::ECHILD) => return Ok(false),
            Ok(Some((pid, _))) if is_main(pid) => return reap_listed(is_main, max),
            Ok(Some((pid, _))) => {
                reap(pid)?;
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(true)
}

fn reap(pid: i32) -> io::Result<bool> {
    match waitid(libc::P_PID, pid.unsigned_abs(), libc::WEXITED | libc::WNOHANG) {
        Ok(exited) => Ok(exited.is_some()),
        Err(Errno::ECHILD) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn reap_listed(is_main: &mut dyn FnMut(i32) -> bool, max: usize) -> io::Result<bool> {
    let mut reaped = 0;
    for child in children()? {
        if is_main(child) {
            continue;
        }
        if reaped == max {
            return Ok(true);
        }
        if reap(child)? {
            reaped += 1;
        }
    }
    Ok(false)
}

/// The children of this process, zombies included.
fn children() -> io::Result<Vec<i32>> {
    let mut children = Vec::new();
    for task in fs::read_dir("/proc/self/task")? {
        // A thread may end meanwhile; its children go to another one and are found at the next SIGCHLD.
        let Ok(list) = fs::read_to_string(task?.path().join("children")) else { continue };
        children.extend(list.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    Ok(children)
}
