//! The kernel's clocks, and a timer that counts suspended time.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::libc;
use nix::sys::timerfd::{ClockId as TimerClock, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::{ClockId, clock_gettime};

/// One reading of the clocks, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// CLOCK_MONOTONIC: does not count suspended time.
    pub mono_ns: u64,
    /// CLOCK_BOOTTIME: does.
    pub boot_ns: u64,
    /// CLOCK_REALTIME, since 1970.
    pub wall_ns: u64,
    /// The kernel calls the wall clock disciplined (adjtimex without STA_UNSYNC). Looked at no more than once a second.
    pub synchronised: bool,
}

/// Reads them one after the other, so they are some ten nanoseconds apart.
#[must_use]
pub fn clocks() -> Clocks {
    let mono_ns = read(ClockId::CLOCK_MONOTONIC);
    Clocks {
        mono_ns,
        boot_ns: read(ClockId::CLOCK_BOOTTIME),
        wall_ns: read(ClockId::CLOCK_REALTIME),
        synchronised: synchronised(mono_ns),
    }
}

/// CLOCK_MONOTONIC alone, in nanoseconds.
#[must_use]
pub fn mono_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// CPU time that this thread has used, in nanoseconds.
#[must_use]
pub fn thread_cpu_ns() -> u64 {
    read(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// CLOCK_BOOTTIME alone, in nanoseconds.
#[must_use]
pub(super) fn boot_ns() -> u64 {
    read(ClockId::CLOCK_BOOTTIME)
}

/// These clocks exist on every kernel this runs on; a time before 1970 reads as 1970.
fn read(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |time| u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX))
}

const LOOK_EVERY_NS: u64 = 1_000_000_000;

fn synchronised(mono_ns: u64) -> bool {
    static LOOKED_AT_NS: AtomicU64 = AtomicU64::new(0);
    static SYNCHRONISED: AtomicBool = AtomicBool::new(false);
    let looked_at = LOOKED_AT_NS.load(Ordering::Relaxed);
    if looked_at != 0 && mono_ns.saturating_sub(looked_at) < LOOK_EVERY_NS {
        return SYNCHRONISED.load(Ordering::Relaxed);
    }
    let now = asked_kernel();
    SYNCHRONISED.store(now, Ordering::Relaxed);
    LOOKED_AT_NS.store(mono_ns.max(1), Ordering::Relaxed);
    now
}

fn asked_kernel() -> bool {
    discipline().is_some_and(|discipline| discipline.synchronised)
}

/// What keeps the wall clock right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discipline {
    pub synchronised: bool,
    /// The largest error that is possible, in microseconds; it grows while nobody sets the clock right.
    pub error_us: u64,
}

/// Asks adjtimex.
#[must_use]
#[expect(unsafe_code, reason = "adjtimex")]
pub fn discipline() -> Option<Discipline> {
    // SAFETY: all zero is a valid timex, and with no modes the kernel changes nothing.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `state` lives on this frame.
    let answer = unsafe { libc::adjtimex(&raw mut state) };
    (answer >= 0).then(|| Discipline {
        synchronised: state.status & libc::STA_UNSYNC == 0,
        error_us: u64::try_from(state.maxerror).unwrap_or_default(),
    })
}

/// How far the wall clock is ahead of CLOCK_BOOTTIME, in nanoseconds: it changes when somebody sets the clock, not by a suspend.
#[must_use]
pub fn wall_ahead_ns() -> i64 {
    let (boot, wall) = (read(ClockId::CLOCK_BOOTTIME), read(ClockId::CLOCK_REALTIME));
    i64::try_from(wall).unwrap_or(i64::MAX).saturating_sub(i64::try_from(boot).unwrap_or(i64::MAX))
}

/// Readable once the wall clock has been set (or the host has woken from a suspend).
#[derive(Debug)]
pub struct SetAlarm(TimerFd);

impl SetAlarm {
    pub fn new() -> io::Result<Self> {
        let timer = TimerFd::new(TimerClock::CLOCK_REALTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        let alarm = Self(timer);
        alarm.arm()?;
        Ok(alarm)
    }

    /// Waits for the next time.
    pub fn arm(&self) -> io::Result<()> {
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        let never = Expiration::OneShot(Duration::from_nanos(LATEST_NS).into());
        match self.0.set(never, flags) {
            // The clock was set since the last time; it is armed all the same.
            Ok(()) | Err(nix::errno::Errno::ECANCELED) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for SetAlarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// `/proc/sys/kernel/random/boot_id`, a UUID in lower case.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// A timerfd on CLOCK_BOOTTIME; non-blocking. It does not wake a suspended host, it is due when the host wakes.
#[derive(Debug)]
pub struct BootTimer(TimerFd);

impl BootTimer {
    pub fn new() -> io::Result<Self> {
        Ok(Self(TimerFd::new(TimerClock::CLOCK_BOOTTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?))
    }

    /// Readable from `at_boot_ns` on, at once if that has passed; `None` disarms.
    pub fn arm(&self, at_boot_ns: Option<u64>) -> io::Result<()> {
        // A zero would disarm.
        match at_boot_ns {
            Some(at) => {
                let expiration = Expiration::OneShot(Duration::from_nanos(at.clamp(1, LATEST_NS)).into());
                Ok(self.0.set(expiration, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?)
            }
            None => Ok(self.0.unset()?),
        }
    }

    /// Takes the expiry, so that the timer is no longer readable.
    pub fn clear(&self) {
        // Only EAGAIN is possible: nothing had expired, which is what the caller wants.
        let _ = nix::unistd::read(&self.0, &mut [0; 8]);
    }
}

/// The kernel's own latest time.
const LATEST_NS: u64 = i64::MAX.unsigned_abs();

impl AsFd for BootTimer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    /// Moves the clock by a nanosecond.
    #[expect(unsafe_code, reason = "adjtimex")]
    fn set_by_a_nanosecond() -> bool {
        // SAFETY: all zero is a valid timex.
        let mut change: libc::timex = unsafe { std::mem::zeroed() };
        change.modes = libc::ADJ_SETOFFSET | libc::ADJ_NANO;
        change.time.tv_usec = 1;
        // SAFETY: `change` lives on this frame.
        unsafe { libc::adjtimex(&raw mut change) >= 0 }
    }

    #[test]
    fn alarm_is_readable_when_the_clock_is_set_and_no_more_once_armed_again() {
        let alarm = SetAlarm::new().unwrap();
        let ready = |ms: u16| poll(&mut [PollFd::new(alarm.as_fd(), PollFlags::POLLIN)], PollTimeout::from(ms));
        assert_eq!(ready(0), Ok(0));
        let before = wall_ahead_ns();
        if !set_by_a_nanosecond() {
            return eprintln!("skipped: setting the clock needs CAP_SYS_TIME");
        }
        assert_eq!(ready(10_000), Ok(1));
        assert!((wall_ahead_ns() - before).abs() < 1_000_000);
        alarm.arm().unwrap();
        assert_eq!(ready(0), Ok(0));
    }

    #[test]
    fn clocks_go_forward() {
        let (one, other) = (clocks(), clocks());
        assert!(other.mono_ns > one.mono_ns && other.boot_ns >= other.mono_ns);
        assert!(one.wall_ns > 1_700_000_000 * 1_000_000_000);
        assert_eq!(boot_id().unwrap().len(), 36);
    }

    #[test]
    fn timer_is_due_at_its_time_and_no_more_once_cleared() {
        let timer = BootTimer::new().unwrap();
        let ready =
            |timeout: u16| poll(&mut [PollFd::new(timer.as_fd(), PollFlags::POLLIN)], PollTimeout::from(timeout));
        let at = clocks().boot_ns + 2_000_000;
        timer.arm(Some(at)).unwrap();
        assert_eq!(ready(10_000), Ok(1));
        assert!(clocks().boot_ns >= at);
        timer.clear();
        assert_eq!(ready(0), Ok(0));
        timer.arm(Some(0)).unwrap();
        assert_eq!(ready(10_000), Ok(1));
        timer.arm(Some(u64::MAX)).unwrap();
        assert_eq!(ready(0), Ok(0));
        timer.arm(None).unwrap();
        timer.clear();
        assert_eq!(ready(0), Ok(0));
    }
}
