//! Notifications with descriptors are taken out of their socket by a child: the last holder of a descriptor waits for whatever its file
//! does at its end (SO_LINGER, a serial line that drains), and a service must not be able to keep the agent so. Meanwhile that one
//! socket rests. The child is killed when it takes long, which lets go of the descriptors too.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use super::key::Key;
use super::shell::Shell;
use super::spawned::{self, Helper};
use crate::engine::types::{SIGKILL, Time};
use crate::sys::child;
use crate::sys::epoll::Interest;
use crate::sys::notify::NotifySocket;

/// The hidden command of the child.
pub const COMMAND: &str = "take-notification";

/// Then the child is killed.
const PATIENCE: Duration = Duration::from_secs(2);

/// The children at work, by the slot of their replica, with their deadlines.
#[derive(Debug, Default)]
pub struct Takers(BTreeMap<u32, (Helper, Time)>);

impl Takers {
    #[must_use]
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.0.values().map(|(_, until)| *until).min()
    }

    /// Kills those that take long; their end is told like any other.
    pub(super) fn expire(&mut self, now: Time) {
        for (helper, until) in self.0.values_mut().filter(|(_, until)| *until <= now) {
            // ESRCH: it has just ended.
            let _ = child::signal(helper.pidfd.as_fd(), SIGKILL);
            *until = now.after(PATIENCE);
        }
    }
}

/// What the child does: its standard output is the socket.
pub fn take() -> io::Result<()> {
    let socket = io::stdout().as_fd().try_clone_to_owned()?;
    NotifySocket::from_fd(socket).receive().map(drop)
}

/// Lets the socket of this slot rest and starts a child for its first message.
pub(super) fn start(shell: &mut Shell, slot: u32) {
    let station = shell.replica_at(slot).and_then(|replica| shell.stations.get(&replica));
    let Some(socket) = station.and_then(|station| station.notify.as_ref()) else { return };
    shell.forget(socket.as_fd());
    let now = super::now().mono;
    let started = spawned::own_binary(&[OsString::from(COMMAND)], socket.as_fd()).and_then(|helper| {
        shell.epoll.add(helper.pidfd.as_fd(), Key::Taker(slot).encode(), Interest::READ)?;
        Ok(helper)
    });
    match started {
        Ok(helper) => drop(shell.takers.0.insert(slot, (helper, now.after(PATIENCE)))),
        Err(error) => {
            log::warn!("agent: no child to take a notification: {error}; tried again in 1 s");
            shell.muted.push((now.after(Duration::from_secs(1)), slot));
        }
    }
}

/// The child has ended: the socket is heard again.
pub(super) fn ended(shell: &mut Shell, slot: u32) {
    let Some((helper, _)) = shell.takers.0.remove(&slot) else { return };
    shell.forget(helper.pidfd.as_fd());
    helper.end();
    shell.muted.push((super::now().mono, slot));
}
