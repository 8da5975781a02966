//! One replica's channel: what was passed to it and not yet acknowledged.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{Shutdown, shutdown};

use super::super::backend::BackendState;
use super::super::counters::add;
use super::super::shared::Balancer;
use crate::engine::types::Time;
use crate::sys::host::random_u64;
use crate::sys::packet::PacketSocket;

/// Acknowledgements read before others get their turn.
const ACKNOWLEDGEMENTS_PER_TURN: usize = 256;

/// An accepted connection that no replica has acknowledged yet.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) socket: OwnedFd,
    pub(super) source: Option<SocketAddr>,
    pub(super) key: Option<u64>,
    pub(super) came: Time,
    /// When it last began to wait for a replica.
    pub(super) waits_since: Time,
    /// Backend and run of each replica that had it and died: none has it twice.
    pub(super) tried: Vec<(u32, u32)>,
    pub(super) counted: Counted,
}

/// Counts a connection as active for as long as it lives.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) balancer: Arc<Balancer>,
}

impl Counted {
    pub(super) fn new(balancer: Arc<Balancer>) -> Self {
        add(&balancer.counters().active, 1);
        Self { balancer }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.balancer.counters().active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A client in the hands of a replica, and our copy of its socket.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) client: Client,
    pub(super) state: Arc<BackendState>,
    pub(super) since: Time,
}

/// What became of a client that was offered.
#[derive(Debug)]
pub(super) enum Offered {
    Taken,
    /// The replica does not keep up.
    Full(Client),
    /// The replica's end is closed.
    Broken(Client),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pulse {
    Alive,
    Gone,
}

#[derive(Debug)]
pub(super) struct Channel {
    pub(super) balancer: String,
    pub(super) backend: String,
    pub(super) run: u32,
    socket: PacketSocket,
    /// Begins anywhere: a replica may still acknowledge what an earlier proxy passed to it.
    next: u64,
    held: BTreeMap<u64, Held>,
}

impl Channel {
    pub(super) fn new(balancer: String, backend: String, run: u32, socket: OwnedFd) -> Self {
        let socket = PacketSocket::from_fd(socket);
        Self { balancer, backend, run, socket, next: random_u64(), held: BTreeMap::new() }
    }

    pub(super) fn offer(&mut self, client: Client, state: &Arc<BackendState>, now: Time) -> Offered {
        match self.socket.send(&self.next.to_le_bytes(), &[client.socket.as_fd()]) {
            Ok(true) => {
                self.held.insert(self.next, Held { client, state: Arc::clone(state), since: now });
                self.next = self.next.wrapping_add(1);
                Offered::Taken
            }
            // ETOOMANYREFS: as many descriptors of ours are on their way as we may have open.
            Ok(false) => Offered::Full(client),
            Err(error) if error.raw_os_error() == Some(nix::libc::ETOOMANYREFS) => Offered::Full(client),
            Err(_) => Offered::Broken(client),
        }
    }

    /// Reads what the replica acknowledges. Numbers that are not ours are passed over.
    pub(super) fn hear(&mut self, acknowledged: &mut Vec<Held>) -> Pulse {
        let mut packet = [0; 9];
        for _ in 0..ACKNOWLEDGEMENTS_PER_TURN {
            match self.socket.receive_short(&mut packet) {
                Ok(Some(8)) => {
                    let number = packet.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
                    acknowledged.extend(number.and_then(|number| self.held.remove(&number)));
                }
                Ok(Some(0)) | Err(_) => return Pulse::Gone,
                Ok(Some(_)) => {}
                Ok(None) => break,
            }
        }
        Pulse::Alive
    }

    /// Everything that was passed is acknowledged.
    pub(super) fn is_idle(&self) -> bool {
        self.held.is_empty()
    }

    /// Takes back what was passed and is not acknowledged.
    pub(super) fn take_held(&mut self, wanted: impl Fn(&Held) -> bool) -> Vec<Held> {
        self.held.extract_if(.., |_, held| wanted(held)).map(|(_, held)| held).collect()
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Ends a connection for everybody who holds a copy of it; TCP clients are reset.
pub(super) fn abort(client: Client) {
    // Fails when the client is gone already.
    let _ = shutdown(client.socket.as_raw_fd(), Shutdown::Both);
    crate::sys::stream::reset(client.socket);
}

/// As accept(2) would give it to the replica: without O_NONBLOCK.
pub(super) fn make_blocking(socket: &OwnedFd) -> io::Result<()> {
    fcntl(socket, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(())
}
