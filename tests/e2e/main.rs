//! Stories of the real binary: real children, a directory for each, no root needed. What needs a right or a kernel that this
//! machine lacks says "skipped".

#![expect(clippy::unwrap_used, reason = "these are tests: a panic is a failure")]

#[path = "../support/mod.rs"]
mod support;

mod adoption;
mod api;
mod attack;
mod balance;
mod balance_deaths;
mod balance_rules;
mod child;
mod commands;
mod copies;
mod copies_still;
mod dependencies;
mod failover;
mod fence;
mod fence_commands;
mod fence_limits;
mod fence_survival;
mod host;
mod logs;
mod nasty;
mod readiness;
mod reload;
mod restart;
mod restore_service;
mod sampled;
mod stop;
mod unprivileged;
