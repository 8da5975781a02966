//! The listening sockets of balancers that hand over.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::super::control::Key;
use super::super::counters::{add, get, paused_ms};
use super::super::key::hash_source;
use super::super::shared::{Balancer, Listener, Notice};
use super::HandOffs;
use super::channel::{self, Client, Counted};
use crate::engine::balance::plan::Algorithm;
use crate::engine::types::Time;
use crate::sys::epoll::Interest;
use crate::sys::stream;

/// Connections accepted before others get their turn.
const ACCEPTS_PER_TURN: usize = 16;
/// After the kernel refused a descriptor, or while the limit of connections is reached.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Whether more clients can come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Some,
    None,
}

#[derive(Debug)]
pub(super) struct Door {
    pub(super) balancer: Arc<Balancer>,
    pub(super) listener: Arc<Listener>,
    /// Not watched since then.
    pub(super) paused: Option<Time>,
}

impl HandOffs {
    /// A door is readable.
    pub(in super::super) fn accept(&mut self, id: u32, now: Time) {
        match self.let_in(id, now) {
            Room::Some => {}
            Room::None => self.pause(id, now),
        }
    }

    fn let_in(&mut self, id: u32, now: Time) -> Room {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(door) = self.doors.get(&id) else { break };
            let balancer = Arc::clone(&door.balancer);
            if !has_room(&balancer) {
                return Room::None;
            }
            match stream::accept(door.listener.as_fd()) {
                Ok(Some((socket, source))) => self.welcome(&balancer, socket, source, now),
                Ok(None) => break,
                // The client went away while it waited, or a signal came.
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {
                }
                Err(error) => {
                    if door.paused.is_none() {
                        let name = balancer.name();
                        let text =
                            format!("balancer {name}: cannot accept connections: {error}; tried again every 100 ms");
                        self.shared.notify(Notice::Trouble { text });
                    }
                    return Room::None;
                }
            }
        }
        Room::Some
    }

    fn pause(&mut self, id: u32, now: Time) {
        let Some(door) = self.doors.get_mut(&id) else { return };
        // Fails only when the listener is not in the epoll set, where it always is.
        let _ = self.epoll.modify(door.listener.as_fd(), Key::Door(id).into(), Interest::NONE);
        door.paused.get_or_insert(now);
        self.accept_at = Some(now.after(ACCEPT_AGAIN));
    }

    /// A door that was closed for want of descriptors or of room opens after a while, and is closed again if there is none.
    pub(super) fn reopen_doors(&mut self, now: Time) {
        if self.accept_at.is_none_or(|at| now < at) {
            return;
        }
        self.accept_at = None;
        let paused: Vec<u32> = self.doors.iter().filter(|(_, door)| door.paused.is_some()).map(|(id, _)| *id).collect();
        for id in paused {
            // Once without watching it: only if that succeeds is the door open again.
            match self.let_in(id, now) {
                Room::Some => self.reopen(id, now),
                Room::None => self.pause(id, now),
            }
        }
    }

    fn reopen(&mut self, id: u32, now: Time) {
        let Some(door) = self.doors.get_mut(&id) else { return };
        // As in `pause`.
        let _ = self.epoll.modify(door.listener.as_fd(), Key::Door(id).into(), Interest::READ);
        let paused = door.paused.take().map_or(0, |since| paused_ms(now.since(since)));
        add(&door.balancer.counters().accept_paused_ms, paused);
    }

    /// A connection has ended: there may be room.
    pub(super) fn look_at_doors(&mut self, now: Time) {
        self.accept_at = self.accept_at.map(|_| now);
    }

    fn welcome(&mut self, balancer: &Arc<Balancer>, socket: OwnedFd, source: Option<SocketAddr>, now: Time) {
        let counters = balancer.counters();
        add(&counters.accepted, 1);
        let live = balancer.live();
        let key = hash_source(self.shared.secret, &live.table.rules.key, source, || stream::peer(&socket).ok());
        if key.is_none() && matches!(live.table.rules.algorithm, Algorithm::Rendezvous | Algorithm::Modulo) {
            add(&counters.keyless, 1);
        }
        if channel::make_blocking(&socket).is_err() {
            // No socket refuses that; a replica could not use one that did.
            return;
        }
        let counted = Counted::new(Arc::clone(balancer));
        let client = Client { socket, source, key, came: now, waits_since: now, tried: Vec::new(), counted };
        self.dispatch(client, now);
    }
}

fn has_room(balancer: &Balancer) -> bool {
    let limit = u64::from(balancer.live().table.rules.limits.connections);
    get(&balancer.counters().active) < limit
}
