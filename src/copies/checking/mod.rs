//! Reading copies again: verification, the scrub, and the repair of what is bad.

pub mod compare;
pub mod inodes;
pub mod inspect;
pub mod joined;
pub mod readers;
pub mod repair;
pub mod scrub;
pub mod verify;
#[cfg(test)]
mod verify_tests;
