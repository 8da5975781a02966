//! mainstay keeps the services of one Linux host alive.

pub mod api;
pub mod checks;
pub mod cli;
pub mod config;
pub mod engine;
pub mod logs;
pub mod sample;
pub mod sys;
