//! The proxy role: connections to balancers, in a process of its own that lives on when the agent dies.
//!
//! It decides nothing but which backend a connection goes to ([`crate::engine::balance`]). An agent tells it the tables and hands it the
//! listening sockets ([`proto`]); from then on it needs nobody. The newest agent replaces an older one and says everything anew.
//!
//! One control thread talks to the agent and serves the balancers that hand their connections over; worker threads with an epoll each move
//! the bytes of all others, and share with the control thread what [`shared`] says.
//!
//! It begins as whoever started it, to listen where the agent looks for it, and then becomes a user without rights.

mod accept;
mod access_log;
mod agents;
pub mod backend;
mod connect;
mod control;
pub mod counters;
mod finish;
mod first_bytes;
mod handoff;
mod histogram;
mod key;
pub mod peek;
mod pipes;
pub mod proto;
mod queue;
mod registry;
mod relay;
mod role;
mod session;
pub mod shared;
mod slab;
mod stats;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod wheel;
pub mod worker;

pub use role::{ProxyError, SOCKET, run};
