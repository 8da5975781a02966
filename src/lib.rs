//! mainstay keeps the services of one Linux host alive.

pub mod checks;
pub mod config;
pub mod engine;
pub mod logs;
pub mod sys;
