//! Level-triggered epoll with the caller's keys.
//!
//! A descriptor is removed before it is closed: closing does not remove it while a child that has not executed yet holds a copy, and
//! then events arrive under the key of something else.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{self, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Events taken from the kernel by one wait, whatever the capacity of the caller's list.
pub const EVENTS_MAX: usize = 128;

/// An epoll instance.
#[derive(Debug)]
pub struct Epoll(epoll::Epoll);

/// What to wait for. A hang-up or an error is always told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest(EpollFlags);

impl Interest {
    pub const NONE: Self = Self(EpollFlags::empty());
    pub const READ: Self = Self(EpollFlags::EPOLLIN);
    pub const WRITE: Self = Self(EpollFlags::EPOLLOUT);
    /// Also tells that the peer has closed its direction, with the last of what can be read ([`Ready::ended`]).
    pub const STREAM_READ: Self = Self(EpollFlags::EPOLLIN.union(EpollFlags::EPOLLRDHUP));
    /// Only that the peer has closed its direction.
    pub const STREAM_END: Self = Self(EpollFlags::EPOLLRDHUP);
    /// For a listener that several epolls watch: one of them is woken, not all. It can be added and removed, not modified.
    pub const SHARED_READ: Self = Self(EpollFlags::EPOLLIN.union(EpollFlags::EPOLLEXCLUSIVE));
    pub const READ_WRITE: Self = Self(EpollFlags::EPOLLIN.union(EpollFlags::EPOLLOUT));
    /// As `cgroup.events` and pressure files announce a change.
    pub const PRIORITY: Self = Self(EpollFlags::EPOLLPRI.union(EpollFlags::EPOLLERR));

    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0.union(other.0))
    }
}

/// A descriptor that is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    pub key: u64,
    pub readable: bool,
    pub writable: bool,
    pub priority: bool,
    /// EPOLLHUP or EPOLLERR. Kernel files announce a change with EPOLLERR as well, next to `priority`.
    pub hangup: bool,
    /// EPOLLRDHUP: nothing comes after what can be read now. Told where it was asked for.
    pub ended: bool,
}

impl Epoll {
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    pub fn add(&self, fd: BorrowedFd<'_>, key: u64, interest: Interest) -> io::Result<()> {
        Ok(self.0.add(fd, EpollEvent::new(interest.0, key))?)
    }

    pub fn modify(&self, fd: BorrowedFd<'_>, key: u64, interest: Interest) -> io::Result<()> {
        Ok(self.0.modify(fd, &mut EpollEvent::new(interest.0, key))?)
    }

    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(self.0.delete(fd)?)
    }

    /// Waits at most `timeout` (`None`: for ever), rounded up to milliseconds so that a deadline has passed when it returns, and replaces
    /// what is in `ready` by at most its capacity or [`EVENTS_MAX`]. A signal ends the wait with none.
    pub fn wait(&self, ready: &mut Vec<Ready>, timeout: Option<Duration>) -> io::Result<()> {
        ready.clear();
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        let room = ready.capacity().clamp(1, EVENTS_MAX);
        match self.0.wait(&mut events[..room], milliseconds(timeout)) {
            Ok(count) => ready.extend(events[..count].iter().map(Ready::from_event)),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }
}

/// Longer waits end early, at the 24.8 days that the kernel takes; the caller waits again.
fn milliseconds(timeout: Option<Duration>) -> EpollTimeout {
    let Some(timeout) = timeout else { return EpollTimeout::NONE };
    let rounded_up = timeout.as_nanos().div_ceil(1_000_000);
    i32::try_from(rounded_up).ok().and_then(|ms| EpollTimeout::try_from(ms).ok()).unwrap_or(EpollTimeout::MAX)
}

impl Ready {
    fn from_event(event: &EpollEvent) -> Self {
        let flags = event.events();
        Self {
            key: event.data(),
            readable: flags.contains(EpollFlags::EPOLLIN),
            writable: flags.contains(EpollFlags::EPOLLOUT),
            priority: flags.contains(EpollFlags::EPOLLPRI),
            hangup: flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR),
            ended: flags.contains(EpollFlags::EPOLLRDHUP),
        }
    }
}

/// Readable when one of its descriptors is ready: an epoll can be watched by another.
impl std::os::fd::AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::time::Instant;

    use super::*;

    #[test]
    fn readiness_is_told_under_the_key_until_it_is_removed() {
        let epoll = Epoll::new().unwrap();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let mut ready = Vec::with_capacity(4);
        epoll.add(reader.as_fd(), u64::MAX, Interest::READ).unwrap();
        epoll.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        assert_eq!(ready, []);
        nix::unistd::write(&writer, b"x").unwrap();
        epoll.wait(&mut ready, None).unwrap();
        assert_eq!(
            ready,
            [Ready { key: u64::MAX, readable: true, writable: false, priority: false, hangup: false, ended: false }]
        );
        epoll.modify(reader.as_fd(), 7, Interest::NONE).unwrap();
        epoll.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        assert_eq!(ready, []);
        drop(writer);
        epoll.wait(&mut ready, None).unwrap();
        assert!(ready[0].hangup && ready[0].key == 7);
        epoll.remove(reader.as_fd()).unwrap();
        epoll.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        assert_eq!(ready, []);
    }

    #[test]
    fn timeout_is_never_cut_short() {
        let epoll = Epoll::new().unwrap();
        let begun = Instant::now();
        epoll.wait(&mut Vec::new(), Some(Duration::from_micros(1_100))).unwrap();
        assert!(begun.elapsed() >= Duration::from_micros(1_100));
        assert_eq!(milliseconds(Some(Duration::from_nanos(1))), EpollTimeout::try_from(1).unwrap());
        assert_eq!(milliseconds(Some(Duration::MAX)), EpollTimeout::MAX);
    }

    #[test]
    fn no_more_than_the_capacity_is_taken() {
        let epoll = Epoll::new().unwrap();
        let pipes: Vec<_> = (0..5).map(|_| nix::unistd::pipe().unwrap()).collect();
        for (key, (_, writer)) in (0_u64..).zip(&pipes) {
            epoll.add(writer.as_fd(), key, Interest::WRITE).unwrap();
        }
        let mut ready = Vec::with_capacity(3);
        epoll.wait(&mut ready, None).unwrap();
        assert_eq!(ready.len(), 3);
        assert_eq!(ready.capacity(), 3);
    }
}
