//! `delivery: HandOff`: an accepted connection goes to the chosen replica itself, as a descriptor over the replica's channel (a
//! `SOCK_SEQPACKET` socket), with eight bytes that the replica sends back when it has it. No byte of the connection is read here, and from
//! the acknowledgement on nothing of it is known here.
//!
//! Until then our copy stays. If the replica's end closes, or another run takes its place, what it had not acknowledged goes to the
//! next candidate: never to the same run twice, and to at most [`DELIVERIES_MAX`] in all, since a connection may be what kills them. A replica
//! that lives and is silent keeps what it has, because two could not read from one connection; when it is fenced, or its time to
//! drain is over, those connections are ended for everybody.
//!
//! The control thread does all of this, workers never see such a balancer. `active` is what is not acknowledged. PROXY headers are neither
//! read nor sent (the address is the connection's own), the peeked keys give none, and of the limits `per_source` does not apply.

mod channel;
mod dispatch;
mod doors;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use channel::{Channel, Client, Held, Pulse};
use doors::Door;

use super::backend::BackendState;
use super::control::Key;
use super::shared::{Balancer, Listener, Shared};
use crate::engine::types::Time;
use crate::sys::epoll::{Epoll, Interest};

/// Replicas that get one connection.
const DELIVERIES_MAX: usize = 3;

#[derive(Debug)]
pub(super) struct HandOffs {
    epoll: Rc<Epoll>,
    shared: Arc<Shared>,
    /// Clients that wait for a replica, by balancer; those whose replica died come first.
    queues: BTreeMap<String, VecDeque<Client>>,
    /// Clients whose replica died just now.
    orphans: VecDeque<Client>,
    doors: BTreeMap<u32, Door>,
    channels: BTreeMap<u32, Channel>,
    next: u32,
    /// Doors are looked at again then, beside whenever a connection ends.
    accept_at: Option<Time>,
    draw: u64,
    order: Vec<u16>,
}

impl HandOffs {
    pub(super) fn new(epoll: Rc<Epoll>, shared: Arc<Shared>) -> Self {
        Self {
            epoll,
            shared,
            queues: BTreeMap::new(),
            orphans: VecDeque::new(),
            doors: BTreeMap::new(),
            channels: BTreeMap::new(),
            next: 0,
            accept_at: None,
            draw: 0,
            order: Vec::new(),
        }
    }

    pub(super) fn listen(&mut self, balancer: Arc<Balancer>, listener: Arc<Listener>) -> io::Result<()> {
        self.next = self.next.wrapping_add(1);
        self.epoll.add(listener.as_fd(), Key::Door(self.next).into(), Interest::READ)?;
        self.doors.insert(self.next, Door { balancer, listener, paused: None });
        Ok(())
    }

    pub(super) fn unlisten(&mut self, listener: &Arc<Listener>) {
        for (_, door) in self.doors.extract_if(.., |_, door| Arc::ptr_eq(&door.listener, listener)) {
            // It is in there: it was added with the door.
            let _ = self.epoll.remove(door.listener.as_fd());
        }
    }

    /// A channel to this run of the backend. One that is there already is kept.
    pub(super) fn open(&mut self, balancer: String, backend: String, run: u32, socket: OwnedFd) -> io::Result<()> {
        let same = |channel: &Channel| channel.balancer == balancer && channel.backend == backend && channel.run == run;
        if self.channels.values().any(same) {
            return Ok(());
        }
        self.next = self.next.wrapping_add(1);
        let channel = Channel::new(balancer, backend, run, socket);
        self.epoll.add(channel.as_fd(), Key::Channel(self.next).into(), Interest::READ)?;
        self.channels.insert(self.next, channel);
        Ok(())
    }

    /// Another table is in place: of runs that ended and of fenced replicas nothing is left, and who waits may have somebody now.
    pub(super) fn changed(&mut self, balancer: &Arc<Balancer>, now: Time) {
        let live = balancer.live();
        let entry = |name: &str| live.table.backends.iter().find(|backend| backend.name == name);
        let mine = |channel: &Channel| channel.balancer == balancer.name();
        // Its process may be frozen and not dead: whoever gets the connection now would share it.
        let of = |held: &Held| Arc::ptr_eq(&held.client.counted.balancer, balancer);
        self.abort_held(|held| of(held) && held.state.is_fenced(), "fenced", now);
        self.close_channels(now, |channel| {
            mine(channel) && entry(&channel.backend).is_some_and(|backend| channel.run < backend.run)
        });
        self.retry(balancer.name(), now);
    }

    /// The time of this backend is over. It lives and may have what it has not acknowledged, so nobody else gets it.
    pub(super) fn cut_backend(&mut self, state: &Arc<BackendState>, now: Time) {
        self.abort_held(|held| Arc::ptr_eq(&held.state, state), "drain_timeout", now);
    }

    fn abort_held(&mut self, wanted: impl Fn(&Held) -> bool, how: &'static str, now: Time) {
        let mut gone = Vec::new();
        for channel in self.channels.values_mut() {
            gone.extend(channel.take_held(&wanted));
        }
        for held in gone {
            self.leave(&held);
            self.log(&held.client, Some(held.state.name()), how, now);
            channel::abort(held.client);
        }
    }

    /// The time of this balancer is over.
    pub(super) fn cut_balancer(&mut self, balancer: &Arc<Balancer>, now: Time) {
        let mine = |client: &Client| Arc::ptr_eq(&client.counted.balancer, balancer);
        self.abort_held(|held| mine(&held.client), "removed", now);
        let waiting = self.queues.get_mut(balancer.name()).map(std::mem::take).unwrap_or_default();
        for client in waiting {
            if mine(&client) {
                dispatch::stop_waiting(balancer);
                self.log(&client, None, "removed", now);
                channel::abort(client);
            } else {
                self.queues.entry(balancer.name().to_owned()).or_default().push_back(client);
            }
        }
        self.queues.retain(|_, queue| !queue.is_empty());
    }

    /// A channel is readable.
    pub(super) fn hear(&mut self, id: u32, now: Time) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let (balancer, mut acknowledged) = (channel.balancer.clone(), Vec::new());
        let pulse = channel.hear(&mut acknowledged);
        if !acknowledged.is_empty() {
            self.look_at_doors(now);
        }
        for held in acknowledged {
            self.hand_over(held, now);
        }
        match pulse {
            Pulse::Alive => self.retry(&balancer, now),
            Pulse::Gone => self.close(id, now),
        }
    }

    fn close_channels(&mut self, now: Time, wanted: impl Fn(&Channel) -> bool) {
        let ids: Vec<u32> = self.channels.iter().filter(|(_, one)| wanted(one)).map(|(id, _)| *id).collect();
        for id in ids {
            self.close(id, now);
        }
    }

    /// What the replica had acknowledged until now is its own; the rest are orphans.
    fn close(&mut self, id: u32, now: Time) {
        let Some(mut channel) = self.channels.remove(&id) else { return };
        // It is in there: it was added with the channel.
        let _ = self.epoll.remove(channel.as_fd());
        let mut acknowledged = Vec::new();
        while channel.hear(&mut acknowledged) == Pulse::Alive && !acknowledged.is_empty() {
            acknowledged.drain(..).for_each(|held| self.hand_over(held, now));
        }
        acknowledged.drain(..).for_each(|held| self.hand_over(held, now));
        let lost = channel.take_held(|_| true);
        if let Some(held) = lost.first().filter(|held| held.state.run() == channel.run) {
            self.blame(held, now);
        }
        for held in lost {
            self.orphan(held, channel.run);
        }
    }

    /// When something is to be done without any event.
    /// Nobody waits, and everything that was handed over is acknowledged.
    pub(super) fn is_idle(&self) -> bool {
        let nobody = self.orphans.is_empty() && self.queues.values().all(VecDeque::is_empty);
        nobody && self.channels.values().all(Channel::is_idle)
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        let waiting = self.queues.values().flatten().map(dispatch::waits_until).min();
        [waiting, self.accept_at].into_iter().flatten().min()
    }

    /// To be called after each turn.
    pub(super) fn settle(&mut self, now: Time) {
        while let Some(client) = self.orphans.pop_front() {
            self.dispatch(client, now);
        }
        self.expire(now);
        self.reopen_doors(now);
    }
}
