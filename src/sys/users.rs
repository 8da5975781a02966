//! /etc/passwd and /etc/group, without the name service switch (which cannot be linked statically).
#![allow(clippy::todo, clippy::ptr_arg, unused_variables, dead_code, reason = "signatures first; bodies follow")]

use std::io;

/// A line of /etc/passwd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserEntry {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: String,
    pub shell: String,
}

pub fn user(name_or_uid: &str) -> io::Result<Option<UserEntry>> {
    todo!()
}

pub fn group(name_or_gid: &str) -> io::Result<Option<u32>> {
    todo!()
}

pub fn groups_of(name: &str, gid: u32) -> io::Result<Vec<u32>> {
    todo!()
}
