//! The agent's side of a role, for the tests of the roles.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::proto::FromChecks;
use crate::sys::epoll::{Epoll, Interest};
use crate::sys::packet::{PacketSocket, Received};

/// What is not there by then fails the test.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The next message of a role; `None` when it has left.
#[track_caller]
pub(super) fn hear(agent: &PacketSocket) -> Option<FromChecks> {
    let epoll = Epoll::new().unwrap();
    epoll.add(agent.as_fd(), 0, Interest::READ).unwrap();
    let mut packet = Vec::new();
    let limit = Instant::now() + PATIENCE;
    loop {
        match agent.receive(&mut packet).unwrap() {
            Received::Message { .. } => return Some(serde_json::from_slice(&packet).unwrap()),
            Received::Closed => return None,
            Received::WouldBlock => {
                assert!(Instant::now() < limit, "the role says nothing");
                epoll.wait(&mut Vec::with_capacity(1), Some(PATIENCE)).unwrap();
            }
        }
    }
}
