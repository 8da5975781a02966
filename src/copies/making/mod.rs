//! Making a copy: the sources are scanned, merged with the manifest of the copy before, unchanged files linked, changed ones read and written,
//! everything read again, committed.

mod ahead;
pub mod build;
pub mod cursor;
pub mod databases;
pub mod dress;
pub mod exclude;
pub mod file;
pub mod fresh;
pub mod merge;
pub mod moved;
pub mod older;
pub mod readback;
pub mod same;
pub mod scan;
mod scouts;
pub mod still;
pub mod survey;
pub mod take;
#[cfg(test)]
mod take_tests;
