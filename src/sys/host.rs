//! The host and this process on it.

use std::fs;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// How many CPUs this process may use; at least 1.
#[must_use]
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

static NOFILE_BEFORE_RAISE: OnceLock<(u64, u64)> = OnceLock::new();

/// Enough for 100,000 connections of two descriptors each. Below systemd the hard limit is above it; other inits leave it at 4,096.
const NOFILE_WANTED: u64 = 1 << 18;

/// Raises the limit of open descriptors, the hard one too where this process may (CAP_SYS_RESOURCE), and returns what holds now. Children
/// do not inherit it.
pub fn raise_nofile() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 0 };
    for limit in [hard.max(NOFILE_WANTED), hard] {
        if soft < limit && setrlimit(Resource::RLIMIT_NOFILE, limit, limit).is_ok() {
            NOFILE_BEFORE_RAISE.get_or_init(|| (soft, hard));
            return limit;
        }
    }
    soft
}

/// Soft and hard limit as they were before [`raise_nofile`]; `None` when it changed nothing.
pub(super) fn nofile_before_raise() -> Option<(u64, u64)> {
    NOFILE_BEFORE_RAISE.get().copied()
}

/// The most descriptors a process of ours may have: the hard limit.
#[must_use]
pub fn nofile_hard() -> Option<u64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(_, hard)| hard)
}

/// The effective user id of this process.
#[must_use]
pub fn uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// The effective group id of this process.
#[must_use]
pub fn gid() -> u32 {
    nix::unistd::getegid().as_raw()
}

/// From the kernel's generator. Early in boot, before it is seeded, from what it has.
#[must_use]
#[expect(unsafe_code, reason = "getrandom has no wrapper here")]
pub fn random_u64() -> u64 {
    let mut bytes = [0_u8; 8];
    // SAFETY: pointer and length are those of `bytes`.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_NONBLOCK) };
    if got == 8 {
        return u64::from_ne_bytes(bytes);
    }
    let clocks = super::clock::clocks();
    clocks.wall_ns.rotate_left(32) ^ clocks.mono_ns ^ u64::from(std::process::id()).rotate_left(48)
}

const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";
const SCORE_NOT_READ: i32 = i32::MIN;
static SCORE: AtomicI32 = AtomicI32::new(SCORE_NOT_READ);

/// Sets this process's `oom_score_adj`, -1000 to 1000. Children get their own. Lowering it needs CAP_SYS_RESOURCE.
pub fn protect_from_oom(score: i32) -> io::Result<()> {
    fs::write(OOM_SCORE_ADJ, score.to_string())?;
    SCORE.store(score, Ordering::Relaxed);
    Ok(())
}

/// This process's own score, read once; `None` where /proc cannot tell.
pub fn oom_score_adj() -> Option<i32> {
    let known = SCORE.load(Ordering::Relaxed);
    if known != SCORE_NOT_READ {
        return Some(known);
    }
    let score = fs::read_to_string(OOM_SCORE_ADJ).ok()?.trim().parse().ok()?;
    SCORE.store(score, Ordering::Relaxed);
    Some(score)
}

/// The least of the real-time priorities (sched(7)): before everything that is not real-time, after everything else that is.
const PRIORITY: libc::c_int = 1;

/// Makes this thread run whenever it wants to: a thousand others that never sleep, in sessions (and so in scheduling groups) of their own, would
/// else keep it from its turn for seconds. Children do not inherit it (SCHED_RESET_ON_FORK). Needs CAP_SYS_NICE; EPERM also where a group of the
/// CPU controller has no real-time share. The kernel leaves a twentieth of each CPU to the others (`sched_rt_runtime_us`).
pub fn run_before_others() -> io::Result<()> {
    schedule(libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, PRIORITY)
}

/// Takes [`run_before_others`] back.
pub fn run_with_others() -> io::Result<()> {
    schedule(libc::SCHED_OTHER, 0)
}

#[expect(unsafe_code, reason = "the C library of the static build has no sched_setscheduler")]
fn schedule(policy: libc::c_int, priority: libc::c_int) -> io::Result<()> {
    // SAFETY: the kernel reads one int, which outlives the call; 0 is this thread.
    match unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const priority) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_differ() {
        assert_ne!(random_u64(), random_u64());
        assert!(cpus() >= 1);
    }
}
