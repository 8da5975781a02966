//! Triggers of /proc/pressure: the kernel tells when tasks begin to wait, instead of being asked again and again
//! (Documentation/accounting/psi.rst).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

/// Without CAP_SYS_RESOURCE the window must be a multiple of two seconds (since Linux 6.5).
const WINDOWS: [&str; 2] = ["some 150000 1000000\0", "some 300000 2000000\0"];

/// Its descriptor has EPOLLPRI, at most once a window, while some task waited for 15 % of it. It holds while it is open.
#[derive(Debug)]
pub struct Trigger(File);

impl Trigger {
    /// EOPNOTSUPP: pressure is switched off. EPERM or EINVAL: not without CAP_SYS_RESOURCE.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut refused = None;
        for window in WINDOWS {
            // A file takes one trigger in its life, and after a refusal none.
            let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)?;
            match nix::unistd::write(&file, window.as_bytes()) {
                Ok(_) => return Ok(Self(file)),
                Err(errno) => refused = refused.or(Some(errno)),
            }
        }
        Err(refused.unwrap_or(Errno::EINVAL).into())
    }
}

impl AsFd for Trigger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trigger_is_taken_or_refused_with_a_reason() {
        match Trigger::open(Path::new("/proc/pressure/memory")) {
            Ok(_) => {}
            Err(error) => eprintln!("skipped: /proc/pressure/memory takes no trigger here: {error}"),
        }
        assert!(Trigger::open(Path::new("/nonexistent/pressure")).is_err());
    }
}
