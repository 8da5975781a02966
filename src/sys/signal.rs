//! Signals as a descriptor, and what children must not inherit of them.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// A signalfd of TERM, INT, QUIT, HUP, USR2 and CHLD, which are blocked in the calling thread from then on (and in threads that it
/// makes later). Children get a clean mask from [`super::spawn`]. Non-blocking.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Also sets SIGCHLD to its default action: ignored, as a careless parent may have left it, the kernel would reap our children itself.
    pub fn agent() -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in
            [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGUSR2, Signal::SIGCHLD]
        {
            set.add(signal);
        }
        set_disposition(Signal::SIGCHLD, SigHandler::SigDfl)?;
        set.thread_block()?;
        Ok(Self(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }

    /// The next pending signal; `None` when there is none.
    pub fn next(&self) -> io::Result<Option<i32>> {
        Ok(self.0.read_signal()?.and_then(|read| i32::try_from(read.ssi_signo).ok()))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// For roles: TERM, INT, HUP and PIPE are ignored; they end when their agent says so.
pub fn ignore_role_signals() -> io::Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGPIPE] {
        set_disposition(signal, SigHandler::SigIgn)?;
    }
    Ok(())
}

#[expect(unsafe_code, reason = "sigaction")]
fn set_disposition(signal: Signal, handler: SigHandler) -> io::Result<()> {
    // SAFETY: the callers give SIG_IGN or SIG_DFL, so no code of ours runs in signal context.
    unsafe { sigaction(signal, &SigAction::new(handler, SaFlags::empty(), SigSet::empty())) }?;
    IGNORED.store(NOT_READ, Ordering::Relaxed);
    Ok(())
}

/// Orphans below this process become its children instead of init's.
pub fn become_subreaper() -> io::Result<()> {
    Ok(prctl::set_child_subreaper(true)?)
}

/// Bit 63 is SIGRTMAX, which this process never ignores by itself.
const NOT_READ: u64 = 1 << 63;
static IGNORED: AtomicU64 = AtomicU64::new(NOT_READ);

/// The signals that this process ignores, bit N for signal N + 1: those inherited from whoever started it (nohup, a shell's `&`) and
/// SIGPIPE, which the Rust runtime ignores. Read once and after a change made here.
pub(super) fn ignored() -> u64 {
    let known = IGNORED.load(Ordering::Relaxed);
    if known != NOT_READ {
        return known;
    }
    let read = fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
            u64::from_str_radix(mask.trim(), 16).ok()
        })
        .unwrap_or(1 << (libc::SIGPIPE - 1));
    let ignored = read & !NOT_READ;
    IGNORED.store(ignored, Ordering::Relaxed);
    ignored
}
