//! Files that are whole or absent, locks, and directories nobody else can write to.
#![allow(clippy::todo, clippy::ptr_arg, unused_variables, dead_code, reason = "signatures first; bodies follow")]

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// How long a written file must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    Memory,
    Disk,
}

pub fn write_atomically(path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    todo!()
}

/// A lock on a file, held until dropped.
#[derive(Debug)]
pub struct Lock(OwnedFd);

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("{path} is locked by process {pid}")]
    Held { path: PathBuf, pid: i32 },
    #[error("cannot lock {path}")]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Lock {
    pub fn take(path: &Path) -> Result<Self, LockError> {
        todo!()
    }
}

pub fn secure_directory(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    todo!()
}
