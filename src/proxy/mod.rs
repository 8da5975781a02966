//! The proxy role: connections to balancers, in a process of its own that lives on when the agent dies.

mod accept;
pub mod backend;
mod connect;
pub mod counters;
mod finish;
mod first_bytes;
mod histogram;
mod key;
pub mod peek;
mod pipes;
pub mod proto;
mod queue;
mod relay;
mod session;
pub mod shared;
mod slab;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod wheel;
pub mod worker;
