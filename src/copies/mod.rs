//! The role of one set of copies: it scans the sources, copies what has changed, commits, reads again, mends, restores. It decides nothing about
//! when, and nothing about what stays; the commands without an agent use the same functions.
//!
//! # On the target
//!
//! ```text
//! /mnt/second/                        a mount; never made by us
//!   .mainstay-target                  the marker: uuid, format, when, machine
//!   .mainstay-reserve                 16 MiB, given up first when the disk is full
//!   .mainstay/mainstay-VERSION        this binary, for a rescue shell
//!   copies/ (the plan's `to`)
//!     SET/                            flock()ed while somebody works on it
//!       copies/000123-20261122T063000Z/
//!         data/...                    each source under its whole path: `cp -a data/. /` restores
//!         MANIFEST                    every entry with its metadata and BLAKE3
//!         COMMIT                      written last; holds the hash of the manifest and of the COMMIT before
//!       latest -> copies/...          for people; never believed
//!       work/                         not committed; emptied at the beginning of a run
//!       trash/                        on its way out
//!       quarantine/                   what was found bad
//!       state/                        heartbeat, scrub cursor, verifications, pins
//! ```

mod build;
pub mod catalog;
mod codec;
pub mod commit;
mod compare;
pub mod conduct;
mod control;
mod cursor;
mod dress;
pub mod entry;
mod exchange;
pub mod exclude;
pub mod failure;
pub mod file;
mod findings;
mod fresh;
mod guard;
mod hands;
pub mod hash;
pub mod init;
mod inodes;
mod inspect;
mod job;
mod joined;
pub mod layout;
mod link;
pub mod manifest;
mod materialise;
#[cfg(test)]
mod mend_testing;
mod merge;
mod moved;
mod older;
pub mod proto;
pub mod prune;
mod readback;
mod readers;
pub mod recover;
mod repair;
mod reserve;
pub mod restore;
mod restore_checks;
pub mod restore_test;
#[cfg(test)]
mod restore_tests;
mod role;
mod same;
pub mod scan;
pub mod scrub;
mod selection;
mod serve;
#[cfg(test)]
mod serve_tests;
pub mod state;
mod survey;
pub mod take;
#[cfg(test)]
mod take_tests;
pub mod target;
pub mod verify;
#[cfg(test)]
mod verify_tests;
mod watch;

pub use hands::HANDS;
pub use job::Hands;
pub use role::{CopiesError, run};
