//! What the tests of this layer share.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A directory of one test, removed at its end.
#[derive(Debug)]
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mainstay-sys-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Waits until the descriptor has something (input, priority, or its end), at most ten seconds.
#[track_caller]
pub(crate) fn await_ready(fd: BorrowedFd<'_>) {
    let mut polled = [PollFd::new(fd, PollFlags::POLLIN | PollFlags::POLLPRI)];
    assert_eq!(poll(&mut polled, PollTimeout::from(10_000_u16)), Ok(1), "nothing within ten seconds");
}

/// Asks again and again for what cannot be waited for, at most ten seconds.
#[track_caller]
pub(crate) fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    for _ in 0..10_000 {
        if let Some(answer) = ask() {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("not within ten seconds");
}

/// Whether the test runs as root; says aloud when not.
pub(crate) fn root_or_skip(what: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: {what} needs root");
    }
    root
}

/// Reads to the end.
pub(crate) fn read_all(fd: &impl AsFd) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match nix::unistd::read(fd.as_fd(), &mut buffer) {
            Ok(0) => return String::from_utf8_lossy(&bytes).into_owned(),
            Ok(length) => bytes.extend_from_slice(&buffer[..length]),
            Err(nix::errno::Errno::EAGAIN) => await_ready(fd.as_fd()),
            Err(errno) => panic!("{errno}"),
        }
    }
}
