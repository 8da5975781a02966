//! The proxy role: connections to balancers, in a process of its own that lives on when the agent dies.

pub mod backend;
pub mod counters;
mod histogram;
mod key;
pub mod peek;
pub mod proto;
pub mod shared;
