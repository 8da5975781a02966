//! What others see of the agent: HTTP/1.1 and JSON over two Unix sockets.
//!
//! `proto` is the wire's types, shared by both ends. `http` and `route` turn bytes into a [`route::Request`] and are pure; `connection`
//! and `server` own the sockets and never block; `render` and `metrics` turn the engine's views into answers; `client` is
//! the blocking end that the commands use. Nothing here decides anything about a service.

mod allowance;
pub mod balancers;
pub mod checks;
pub mod client;
pub mod connection;
pub mod copies;
pub mod error;
pub mod fences;
pub mod host;
pub mod http;
pub mod metrics;
mod metrics_balancers;
mod metrics_copies;
mod metrics_fences;
mod metrics_host;
pub mod proto;
pub mod render;
pub mod route;
pub mod server;
#[cfg(test)]
pub(crate) mod testing;
pub mod time;
