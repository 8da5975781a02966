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

pub mod checking;
pub mod conduct;
mod crew;
pub mod failure;
mod findings;
pub mod format;
pub mod making;
pub mod place;
pub mod restoring;
pub mod role;
#[cfg(test)]
mod testing;

pub use role::hands::HANDS;
pub use role::job::Hands;
pub use role::{CopiesError, run};
