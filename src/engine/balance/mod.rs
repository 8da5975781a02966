//! Load balancing, as far as it is decided: what is configured ([`plan`]), the backends as they stand now ([`table`]), which of them a
//! connection goes to ([`pick`]) and which of them stays out for a while because connections to it fail ([`eject`]).
//!
//! The engine makes a [`table::Table`] from the states of the replicas and hands it to the proxy whenever it changes. The proxy
//! holds counts of connections, asks [`pick`] and [`eject`], and moves bytes; it decides nothing else.

pub mod eject;
mod hash;
pub mod note;
pub mod pick;
pub mod plan;
pub mod table;
