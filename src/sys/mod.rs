//! One thin, safe function per kernel facility. No policy, and nothing else of ours is used here. What allocates, waits or may fail
//! says so. All `unsafe` of the crate lives below this module.

mod ancillary;
pub mod caps;
pub mod child;
#[cfg(test)]
mod child_tests;
pub mod clock;
pub mod connect;
pub mod connection;
pub mod epoll;
pub mod fallbacks;
pub mod fifo;
pub mod files;
pub mod group;
mod group_root;
#[cfg(test)]
mod group_tests;
mod group_weak;
pub mod heap;
pub mod host;
pub mod identity;
pub mod inherited;
pub mod listen;
mod luggage;
pub mod notify;
pub mod packet;
pub mod process;
pub mod rlimit;
pub mod scratch;
pub mod signal;
pub mod spawn;
mod spawn_child;
#[cfg(test)]
mod spawn_tests;
pub mod splice;
pub mod stranger;
pub mod stream;
pub mod terminal;
#[cfg(test)]
pub(crate) mod testing;
pub mod text;
mod unix;
pub mod users;
pub mod wake;
mod xattr;

pub use fallbacks::Fallbacks;
