//! How a role begins: its arguments, its socket, and the word that it listens.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::{ChecksError, READY_DESCRIPTOR};
use crate::sys;
use crate::sys::packet::PacketListener;

/// `--run-dir PATH`, for a disk's helper `--slot NUMBER`, and where the host's files are not at `/`, `--root DIR` and `--kmsg PATH`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arguments {
    pub(super) run_dir: PathBuf,
    pub(super) root: PathBuf,
    /// The kernel's log.
    pub(super) kmsg: PathBuf,
    pub(super) slot: Option<u8>,
}

impl Arguments {
    /// # Errors
    /// [`ChecksError::Usage`].
    pub(super) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self, ChecksError> {
        Self::read(arguments).map_err(|error| ChecksError::Usage(error.to_string()))
    }

    fn read(arguments: impl Iterator<Item = OsString>) -> Result<Self, lexopt::Error> {
        let mut parser = lexopt::Parser::from_args(arguments);
        let (mut run_dir, mut slot) = (None, None);
        let (mut root, mut kmsg) = (PathBuf::from("/"), PathBuf::from("/dev/kmsg"));
        while let Some(argument) = parser.next()? {
            match argument {
                lexopt::Arg::Long("run-dir") => run_dir = Some(PathBuf::from(parser.value()?)),
                lexopt::Arg::Long("root") => root = PathBuf::from(parser.value()?),
                lexopt::Arg::Long("kmsg") => kmsg = PathBuf::from(parser.value()?),
                lexopt::Arg::Long("slot") => slot = Some(lexopt::ValueExt::parse(&parser.value()?)?),
                lexopt::Arg::Long(_) | lexopt::Arg::Short(_) | lexopt::Arg::Value(_) => {
                    return Err(argument.unexpected());
                }
            }
        }
        let run_dir = run_dir.ok_or("--run-dir is missing")?;
        Ok(Self { run_dir, root, kmsg, slot })
    }
}

/// The descriptor on which the agent waits for the role. First of all: later, its number could be one of ours.
pub(super) fn ready_descriptor() -> Result<Option<OwnedFd>, ChecksError> {
    sys::inherited::take(READY_DESCRIPTOR).map_err(ChecksError::Ready)
}

/// Listens below the run directory.
pub(super) fn listen(run_dir: &Path, socket: &str) -> Result<PacketListener, ChecksError> {
    let path = run_dir.join(socket);
    sys::signal::ignore_role_signals().map_err(ChecksError::Signals)?;
    PacketListener::bind(&path, 0o600).map_err(|source| ChecksError::Listen { path, source })
}

/// Tells the agent.
pub(super) fn tell_ready(ready: Option<OwnedFd>) -> Result<(), ChecksError> {
    if let Some(ready) = ready {
        File::from(ready).write_all(b"\n").map_err(ChecksError::Ready)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_dir_is_the_only_argument_that_is_needed() {
        let read = |line: &str| {
            Arguments::read(line.split_whitespace().map(OsString::from)).map_err(|error| error.to_string())
        };
        let plain = Arguments { run_dir: "/run/x".into(), root: "/".into(), kmsg: "/dev/kmsg".into(), slot: None };
        assert_eq!(read("--run-dir /run/x"), Ok(plain));
        let whole = Arguments { run_dir: "/run/x".into(), root: "/tmp/r".into(), kmsg: "/tmp/k".into(), slot: Some(3) };
        assert_eq!(read("--slot 3 --run-dir /run/x --root /tmp/r --kmsg /tmp/k"), Ok(whole));
        assert_eq!(read(""), Err("--run-dir is missing".to_owned()));
        assert!(read("--run-dir").is_err());
        assert!(read("--run-dir /run/x --other").is_err());
        assert!(read("--run-dir /run/x --slot 256").is_err());
    }
}
