//! The container of a process tree: a cgroup, or the weak substitute.
#![allow(clippy::todo, clippy::ptr_arg, unused_variables, dead_code, reason = "signatures first; bodies follow")]

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use super::Fallbacks;
pub use super::process::{ProcessInfo, process};

/// Where groups shall live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    Auto { name: String },
    Path(PathBuf),
    Off,
}

/// Where groups live.
#[derive(Debug)]
pub struct Root {
    todo: (),
}

impl Root {
    /// Finds the place; the sentences say what cannot be promised there.
    #[must_use]
    pub fn detect(choice: Choice, instance: &str) -> (Self, Vec<String>) {
        Self::detect_with(choice, instance, Fallbacks::NONE)
    }

    #[must_use]
    pub fn detect_with(choice: Choice, instance: &str, fallbacks: Fallbacks) -> (Self, Vec<String>) {
        todo!()
    }

    pub fn create(&self, name: &str) -> io::Result<Group> {
        todo!()
    }

    pub fn open(&self, name: &str) -> io::Result<Option<Group>> {
        todo!()
    }

    pub fn list(&self) -> io::Result<Vec<(String, bool)>> {
        todo!()
    }

    #[must_use]
    pub fn is_weak(&self) -> bool {
        todo!()
    }

    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        todo!()
    }
}

/// A process tree.
#[derive(Debug)]
pub struct Group {
    todo: (),
}

/// What a tree has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu_usec: Option<u64>,
    pub memory_bytes: Option<u64>,
}

impl Group {
    #[must_use]
    pub fn weak(cookie: String, session: i32) -> Self {
        todo!()
    }

    #[must_use]
    pub fn directory(&self) -> Option<BorrowedFd<'_>> {
        todo!()
    }

    pub fn close_directory(&mut self) {
        todo!()
    }

    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        todo!()
    }

    pub fn populated(&self) -> io::Result<bool> {
        todo!()
    }

    pub fn watch(&mut self) -> io::Result<Option<BorrowedFd<'_>>> {
        todo!()
    }

    pub fn processes(&self) -> io::Result<Vec<i32>> {
        todo!()
    }

    pub fn signal_all(&self, signal: i32) -> io::Result<u32> {
        todo!()
    }

    pub fn kill(&self) -> io::Result<()> {
        todo!()
    }

    pub fn remove(&mut self) -> io::Result<()> {
        todo!()
    }

    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        todo!()
    }

    #[must_use]
    pub fn usage(&self) -> Usage {
        todo!()
    }
}
