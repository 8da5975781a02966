//! Failures of jobs, made from the errors of the system.

use std::fmt::Display;
use std::io;

use nix::errno::Errno;

use crate::engine::copies::order::{Failure, FailureKind};

/// An error of the target while something was done to `what`. A full disk is told apart.
#[must_use]
pub fn on_target(what: impl Display, error: &io::Error) -> Failure {
    if is_full(error) {
        return full(format!("{what}: {error}"));
    }
    let remedy = "the disk of the copies answers with errors: see its health (mainstay checks), and the kernel's log";
    failure(FailureKind::TargetIo, format!("{what}: {error}"), Some(remedy))
}

#[must_use]
pub fn full(what: String) -> Failure {
    let remedy = "make room on the target: keep less, `copies prune`, or a larger disk";
    failure(FailureKind::Full, what, Some(remedy))
}

#[must_use]
pub fn cancelled() -> Failure {
    failure(FailureKind::Cancelled, "the job was cancelled".to_owned(), None)
}

#[must_use]
pub fn other(what: impl Display, error: &dyn Display) -> Failure {
    failure(FailureKind::Other, format!("{what}: {error}"), None)
}

#[must_use]
pub fn failure(kind: FailureKind, what: String, remedy: Option<&str>) -> Failure {
    Failure { kind, what, remedy: remedy.map(str::to_owned) }
}

/// No bytes, no inodes, or a quota.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Nothing of the kind is there: no such name, or something else has it.
#[must_use]
pub fn is_missing(error: &io::Error) -> bool {
    let missing = [Errno::ENOENT, Errno::ENOTDIR, Errno::ELOOP].map(|errno| errno as i32);
    error.raw_os_error().is_some_and(|errno| missing.contains(&errno))
}
