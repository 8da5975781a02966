//! Wakes a thread out of its epoll from another thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// An eventfd: readable from a wake until it is cleared.
#[derive(Debug)]
pub struct Wake(EventFd);

impl Wake {
    /// # Errors
    /// No descriptors left.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self(EventFd::from_value_and_flags(0, flags)?))
    }

    pub fn wake(&self) {
        // Fails only when 2^64 - 2 wake-ups are pending: the reader is awake then.
        let _ = self.0.write(1);
    }

    pub fn clear(&self) {
        // Fails only when nothing was pending.
        let _ = self.0.read();
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sys::epoll::{Epoll, Interest};

    #[test]
    fn many_wakes_are_one_and_cleared_at_once() {
        let (epoll, wake) = (Epoll::new().unwrap(), Wake::new().unwrap());
        epoll.add(wake.as_fd(), 1, Interest::READ).unwrap();
        let mut ready = Vec::with_capacity(4);
        wake.wake();
        wake.wake();
        epoll.wait(&mut ready, None).unwrap();
        assert_eq!(ready.len(), 1);
        wake.clear();
        wake.clear();
        epoll.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        assert!(ready.is_empty());
    }
}
