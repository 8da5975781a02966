//! The host and this process on it.
#![allow(clippy::todo, clippy::ptr_arg, unused_variables, dead_code, reason = "signatures first; bodies follow")]

use std::io;

#[must_use]
pub fn cpus() -> usize {
    todo!()
}

pub fn raise_nofile() -> u64 {
    todo!()
}

#[must_use]
pub fn uid() -> u32 {
    todo!()
}

#[must_use]
pub fn random_u64() -> u64 {
    todo!()
}

pub fn protect_from_oom(score: i32) -> io::Result<()> {
    todo!()
}
