//! The target: the guards before it is touched, the locked set on it, what is recorded there, what is recovered and what is removed.

pub mod catalog;
pub mod guard;
pub mod init;
pub mod live;
pub mod prune;
pub mod recover;
pub mod reserve;
pub mod state;
pub mod target;
