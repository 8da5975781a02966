//! One thin, safe function per kernel facility. No policy, and nothing else of ours is used here. What allocates, waits or may fail
//! says so. All `unsafe` of the crate lives below this module.

mod ancillary;
pub mod arp;
pub mod attributes;
pub mod binding;
pub mod caps;
pub mod child;
#[cfg(test)]
mod child_tests;
pub mod clock;
pub mod clone;
pub mod connect;
pub mod connection;
pub mod controllers;
pub mod dir;
pub mod direct;
pub mod epoll;
pub mod fallbacks;
pub mod fanotify;
pub mod fifo;
pub mod files;
pub mod gauge;
pub mod group;
mod group_root;
#[cfg(test)]
mod group_tests;
mod group_weak;
pub mod heap;
pub mod host;
pub mod identity;
pub mod idle;
pub mod inherited;
pub mod kmsg;
pub mod landlock;
pub mod limits;
pub mod listen;
pub mod listing;
mod luggage;
pub mod memory_file;
pub mod mounts;
pub mod netlink;
pub mod notify;
pub mod nvme;
pub mod open_devices;
pub mod packet;
pub mod page_cache;
pub mod process;
pub mod psi;
pub mod record_lock;
mod remove;
pub mod rlimit;
pub mod scratch;
pub mod scsi_generic;
pub mod signal;
pub mod spawn;
mod spawn_child;
#[cfg(test)]
mod spawn_tests;
pub mod splice;
pub mod stat;
pub mod statfs;
pub mod stranger;
pub mod stream;
pub mod terminal;
#[cfg(test)]
pub(crate) mod testing;
pub mod text;
pub mod trail;
mod unix;
pub mod users;
pub mod wake;
pub mod watchdog;
pub mod writers;
mod xattr;

pub use fallbacks::Fallbacks;
