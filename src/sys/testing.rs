//! What the tests of this layer share.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::child::{self, Ended};
use super::spawn::{Child, ExecStatus, SpawnRequest, spawn};

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

/// Waits until the descriptor has something (input, priority, or its end), at most half a minute.
#[track_caller]
pub(crate) fn await_ready(fd: BorrowedFd<'_>) {
    let mut polled = [PollFd::new(fd, PollFlags::POLLIN | PollFlags::POLLPRI)];
    assert_eq!(poll(&mut polled, PollTimeout::from(30_000_u16)), Ok(1), "nothing within half a minute");
}

/// What a busy machine may take for something that is the matter of a moment.
const EVENTUALLY: Duration = Duration::from_secs(60);

/// Asks again and again for what cannot be waited for, at most [`EVENTUALLY`].
#[track_caller]
pub(crate) fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + EVENTUALLY;
    while Instant::now() < deadline {
        if let Some(answer) = ask() {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("not within {EVENTUALLY:?}");
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
            Err(Errno::EAGAIN) => await_ready(fd.as_fd()),
            Err(errno) => panic!("{errno}"),
        }
    }
}

/// A request for `sh -c script` with nothing special; the output goes to `output`.
pub(crate) fn shell<'a>(script: &str, output: &'a OwnedFd) -> SpawnRequest<'a> {
    let words = ["sh", "-c", script].map(|word| CString::new(word).unwrap());
    SpawnRequest {
        path: c"/bin/sh".to_owned(),
        argv: words.to_vec(),
        envp: vec![c"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".to_owned()],
        ..SpawnRequest::plain(output.as_fd())
    }
}

/// Spawns, opens the gate and sees it executed.
#[track_caller]
pub(crate) fn start(request: &SpawnRequest<'_>) -> Child {
    let child = spawn(request).unwrap();
    child.gate.open().unwrap();
    assert_eq!(outcome(&child), ExecStatus::Executed);
    child
}

/// What became of exec.
#[track_caller]
pub(crate) fn outcome(child: &Child) -> ExecStatus {
    await_ready(child.gate.as_fd());
    child.gate.status().unwrap().unwrap()
}

/// The exit of a process, when it comes.
#[track_caller]
pub(crate) fn exit_of(pidfd: &OwnedFd) -> Ended {
    await_ready(pidfd.as_fd());
    child::wait(pidfd.as_fd()).unwrap().unwrap()
}

/// Reads one line and parses it.
#[track_caller]
pub(crate) fn read_pid(fd: &OwnedFd) -> i32 {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        match nix::unistd::read(fd, &mut byte) {
            Ok(1) if byte == [b'\n'] => return String::from_utf8(line).unwrap().trim().parse().unwrap(),
            Ok(1) => line.push(byte[0]),
            Err(Errno::EAGAIN) => await_ready(fd.as_fd()),
            other => panic!("{other:?} after {line:?}"),
        }
    }
}
