//! Bringing data back: beside, in place by exchange, and as a test into scratch space.

pub mod exchange;
pub mod live;
pub mod materialise;
pub mod restore;
pub mod restore_checks;
pub mod restore_test;
#[cfg(test)]
mod restore_tests;
pub mod selection;
pub mod swap;
