//! One process as /proc shows it.
#![allow(clippy::todo, clippy::ptr_arg, unused_variables, dead_code, reason = "signatures first; bodies follow")]

use std::io;

/// A process at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    pub pid: i32,
    pub comm: String,
    pub state: char,
    /// Empty when the kernel does not tell.
    pub wchan: String,
    pub ppid: i32,
    pub session: i32,
    pub start_ticks: u64,
    pub cpu_usec: u64,
    pub rss_bytes: u64,
}

pub fn process(pid: i32) -> io::Result<ProcessInfo> {
    todo!()
}
