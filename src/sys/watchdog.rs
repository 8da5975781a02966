//! The hardware watchdog (linux/watchdog.h): armed by the open, it resets the host unless it is petted in time. Closing it does not disarm it
//! where the driver knows the magic close; [`Watchdog::disarm`] does.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::stat::{Mode, fstat, stat};

/// _IOR('W', 2, int): why the host was last reset.
const WDIOC_GETBOOTSTATUS: u64 = 0x8004_5702;
/// _IOR('W', 5, int)
const WDIOC_KEEPALIVE: u64 = 0x8004_5705;
/// _IOWR('W', 6, int): seconds, the driver answers with what it has made of them.
const WDIOC_SETTIMEOUT: u64 = 0xc004_5706;
/// _IOR('W', 7, int)
const WDIOC_GETTIMEOUT: u64 = 0x8004_5707;

/// WDIOF_CARDRESET in the boot status.
const CARDRESET: i32 = 0x20;

/// An armed watchdog.
#[derive(Debug)]
pub struct Watchdog(OwnedFd);

impl Watchdog {
    /// Opens and thereby arms it. EBUSY: somebody else pets it.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK, Mode::empty())?))
    }

    /// One that an earlier process has armed.
    #[must_use]
    pub fn from_fd(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// Whether the device of this path is this one.
    #[must_use]
    pub fn is_at(&self, path: &Path) -> bool {
        let own = fstat(&self.0).map(|found| found.st_rdev);
        own.is_ok() && own.ok() == stat(path).ok().map(|found| found.st_rdev)
    }

    /// Asks for this time, in whole seconds, and returns what the driver has made of it.
    pub fn set_timeout(&self, timeout: Duration) -> io::Result<Duration> {
        let mut seconds = i32::try_from(timeout.as_secs()).unwrap_or(i32::MAX).max(1);
        self.call(WDIOC_SETTIMEOUT, &mut seconds)?;
        self.call(WDIOC_GETTIMEOUT, &mut seconds)?;
        Ok(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
    }

    pub fn pet(&self) -> io::Result<()> {
        let mut unused = 0;
        self.call(WDIOC_KEEPALIVE, &mut unused)
    }

    /// Whether the watchdog says that it has caused the latest start of the host. Not every driver can tell.
    #[must_use]
    pub fn has_reset_the_host(&self) -> bool {
        let mut status = 0;
        self.call(WDIOC_GETBOOTSTATUS, &mut status).is_ok() && status & CARDRESET != 0
    }

    /// The magic close: nothing is to be reset once every copy of the descriptor is closed. Not every driver can be disarmed (nowayout).
    pub fn disarm(self) -> io::Result<()> {
        nix::unistd::write(&self.0, b"V")?;
        Ok(())
    }

    #[expect(unsafe_code, reason = "ioctl")]
    fn call(&self, request: u64, value: &mut i32) -> io::Result<()> {
        // SAFETY: all requests above read or write one int, which lives in the caller's frame.
        let result = unsafe { libc::syscall(libc::SYS_ioctl, self.0.as_raw_fd(), request, std::ptr::from_mut(value)) };
        Errno::result(result)?;
        Ok(())
    }
}

impl AsFd for Watchdog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::TempDir;

    #[test]
    fn what_is_no_watchdog_refuses_and_a_missing_one_is_told() {
        let directory = TempDir::new();
        let path = directory.path().join("watchdog");
        assert_eq!(Watchdog::open(&path).unwrap_err().raw_os_error(), Some(libc::ENOENT));
        std::fs::write(&path, "").unwrap();
        let file = Watchdog::open(&path).unwrap();
        assert_eq!(file.set_timeout(Duration::from_secs(30)).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        assert_eq!(file.pet().unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        assert!(!file.has_reset_the_host());
        file.disarm().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"V");
    }

    #[test]
    fn device_is_recognised_under_another_name() {
        let null = Watchdog::open(Path::new("/dev/null")).unwrap();
        assert!(null.is_at(Path::new("/proc/self/root/dev/null")));
        assert!(!null.is_at(Path::new("/dev/zero")));
        assert!(!null.is_at(Path::new("/nowhere")));
    }
}
