//! Capabilities by name and number (capabilities(7)).
#![allow(clippy::todo, clippy::ptr_arg, unused_variables, dead_code, reason = "signatures first; bodies follow")]

/// The number of a capability written `NET_BIND_SERVICE` or `CAP_NET_BIND_SERVICE`, in any case.
#[must_use]
pub fn number(name: &str) -> Option<u8> {
    todo!()
}

/// The name without `CAP_`.
#[must_use]
pub fn name(number: u8) -> Option<&'static str> {
    todo!()
}
