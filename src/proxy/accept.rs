//! Clients come in: listeners, limits, and who takes a connection.

use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;

use super::counters::{Refusal, add, paused_ms};
use super::key::hash_source;
use super::session::{Direction, Extra, KeyState, Phase, ServerKind, Session, Token};
use super::shared::{Balancer, Command, Listener, Order, Passed, Shared, lock};
use super::slab::Handle;
use super::worker::{Needs, Worker};
use crate::engine::balance::plan::{Algorithm, Replay, Rules};
use crate::engine::types::Time;
use crate::sys::epoll::Interest;
use crate::sys::stream;

/// Accepts of one wake-up.
const BURST_MAX: u32 = 16;
/// Without descriptors or memory, listeners are left alone for so long, or until a connection ends.
const STARVED_PAUSE: Duration = Duration::from_millis(100);
/// Says again what is wrong, such as that descriptors are used up, if it still goes on.
const STARVED_TELL: Duration = Duration::from_secs(60);
/// A worker gives a connection away when it has more than the least loaded one by this, and an eighth. Clients that stay wait for the
/// busier worker; giving away costs those that do not stay a wake-up.
const LEAD_MAX: u32 = 4;

/// The listeners of a worker.
#[derive(Debug, Default)]
pub(super) struct Doors {
    doors: Vec<Option<Door>>,
    /// No descriptors: none is watched until then.
    pub(super) closed_until: Option<Time>,
    starved_since: Option<Time>,
    told_starved: Option<Time>,
}

#[derive(Debug)]
struct Door {
    listener: Arc<Listener>,
    balancer: u32,
    watched: bool,
    /// How many are accepted at the next wake-up: grows while more are waiting.
    burst: u32,
}

impl Worker {
    pub(super) fn open_door(&mut self, balancer: &Arc<Balancer>, listener: Arc<Listener>) {
        let number = self.local_number(balancer);
        let known = |door: &Option<Door>| door.as_ref().is_some_and(|door| Arc::ptr_eq(&door.listener, &listener));
        if self.doors.doors.iter().any(known) {
            return;
        }
        let door = Some(Door { listener, balancer: number, watched: false, burst: 1 });
        match self.doors.doors.iter_mut().find(|door| door.is_none()) {
            Some(free) => *free = door,
            None => self.doors.doors.push(door),
        }
        self.watch_doors();
    }

    pub(super) fn close_door(&mut self, listener: &Arc<Listener>) {
        self.close_doors(|door| Arc::ptr_eq(&door.listener, listener));
    }

    pub(super) fn close_doors_of(&mut self, number: u32) {
        self.close_doors(|door| door.balancer == number);
        self.clear_full(number);
    }

    fn close_doors(&mut self, which: impl Fn(&Door) -> bool) {
        for place in &mut self.doors.doors {
            let Some(door) = place.take_if(|door| which(door)) else { continue };
            if door.watched {
                // The socket lives on with the agent and other workers, so closing ours would not take it out.
                let _ = self.epoll.remove(door.listener.as_fd());
            }
        }
    }

    /// Brings the epoll in line with which balancers take clients now.
    fn watch_doors(&mut self) {
        let starved = self.doors.closed_until.is_some();
        let mut failed = None;
        for (index, door) in (0_u32..).zip(&mut self.doors.doors) {
            let Some(door) = door else { continue };
            let local = self.balancers.get(door.balancer as usize).and_then(Option::as_ref);
            let wanted = !starved && local.is_some_and(|local| local.full_since.is_none());
            if wanted == door.watched {
                continue;
            }
            let socket = door.listener.as_fd();
            let done = if wanted {
                self.epoll.add(socket, Token::Listener(index).key(), Interest::SHARED_READ)
            } else {
                self.epoll.remove(socket)
            };
            match done {
                Ok(()) => door.watched = wanted,
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            self.trouble(format!("balancer: a worker cannot watch a listener: {error}"));
            self.starve();
        }
    }

    pub(super) fn accept(&mut self, index: u32) {
        let Some(Some(door)) = self.doors.doors.get(index as usize) else { return };
        let (burst, number) = (door.burst, door.balancer);
        let listener = Arc::clone(&door.listener);
        if self.others_starve() {
            return self.watch_doors();
        }
        let Some(local) = self.local(number) else { return };
        local.refresh();
        let mut accepted = 0;
        while accepted < burst {
            if self.is_full(number) {
                return self.close_when_full(number);
            }
            match stream::accept(listener.as_fd()) {
                Ok(Some((client, source))) => {
                    accepted += 1;
                    self.welcome(number, client, source);
                }
                Ok(None) => return self.set_burst(index, accepted.max(1)),
                Err(error) => match Errno::from_raw(error.raw_os_error().unwrap_or_default()) {
                    Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS => return self.starve(),
                    // The network's errors of a connection that is gone already (accept(2)).
                    _ => accepted += 1,
                },
            }
        }
        self.set_burst(index, (burst * 2).min(BURST_MAX));
    }

    fn set_burst(&mut self, index: u32, burst: u32) {
        if let Some(Some(door)) = self.doors.doors.get_mut(index as usize) {
            door.burst = burst;
        }
    }

    /// Counts the client and keeps it, or passes it to a worker that has much less to do.
    fn welcome(&mut self, number: u32, client: OwnedFd, source: Option<SocketAddr>) {
        let Some(local) = self.balancers.get(number as usize).and_then(Option::as_ref) else { return };
        let counters = local.balancer.counters();
        add(&counters.accepted, 1);
        counters.active.fetch_add(1, Ordering::SeqCst);
        self.shared.sessions.fetch_add(1, Ordering::SeqCst);
        match idler(&self.shared, self.number) {
            None => {
                self.mailbox().load.fetch_add(1, Ordering::Relaxed);
                self.begin(number, client, source);
            }
            Some(other) => {
                self.shared.mailboxes[other].load.fetch_add(1, Ordering::Relaxed);
                let passed = Passed { balancer: Arc::clone(&local.balancer), client, source };
                self.shared.mailboxes[other].put(Order::Take(passed));
            }
        }
    }

    pub(super) fn take(&mut self, passed: Passed) {
        if passed.balancer.is_forgotten() {
            passed.balancer.counters().active.fetch_sub(1, Ordering::SeqCst);
            self.shared.sessions.fetch_sub(1, Ordering::SeqCst);
            self.mailbox().load.fetch_sub(1, Ordering::Relaxed);
            return stream::reset(passed.client);
        }
        let number = self.local_number(&passed.balancer);
        if let Some(local) = self.local(number) {
            local.refresh();
        }
        self.begin(number, passed.client, passed.source);
    }

    /// A client that is counted: its session, and its first step towards a backend.
    fn begin(&mut self, number: u32, client: OwnedFd, source: Option<SocketAddr>) {
        let now = self.tools.now;
        let Some(local) = self.local(number) else { return };
        let needs = local.needs;
        let handle = self.sessions.insert(Session {
            client,
            server: None,
            balancer: number,
            phase: Phase::Connecting,
            client_interest: None,
            server_interest: None,
            up: Direction::default(),
            down: Direction::default(),
            backend: None,
            run: 0,
            accepted: now,
            since: now,
            connected: now,
            extra: None,
            server_kind: ServerKind::Unix,
            delivered: false,
            answered: false,
            judged: false,
            half_closed_timed: false,
        });
        match needs {
            Needs::Little => {
                let key = self.key(number, source, handle);
                self.wheel_first(handle);
                self.place(handle, key);
            }
            Needs::Extra => self.begin_with_extra(handle, number, source),
        }
    }

    fn begin_with_extra(&mut self, handle: Handle, number: u32, source: Option<SocketAddr>) {
        let Some(local) = self.balancers.get(number as usize).and_then(Option::as_ref) else { return };
        let rules = &local.live.table.rules;
        let kept_max = match rules.replay {
            Replay::Off => 0,
            Replay::Unanswered { max_bytes } => max_bytes as usize,
        };
        let peeks_proxy = source.is_some_and(|source| is_within(source.ip(), &rules.accept_proxy_from));
        let peeks_key = goes_by_key(rules) && rules.key.is_peeked();
        let extra = Extra {
            source,
            kept: (kept_max > 0).then(Vec::new),
            kept_max,
            must_peek_proxy: peeks_proxy,
            ..Extra::default()
        };
        let Some(session) = self.sessions.get(handle) else { return };
        session.extra = Some(Box::new(extra));
        // A trusted proxy is not the client: that is known with its header.
        if !peeks_proxy && !self.count_source(handle) {
            return self.refuse(handle, Refusal::PerSource);
        }
        if peeks_proxy || peeks_key {
            let Some(session) = self.sessions.get(handle) else { return };
            session.phase = Phase::FirstBytes;
            self.wheel_first(handle);
            return self.watch_or_reset(handle);
        }
        self.wheel_first(handle);
        let key = self.key(number, source, handle);
        self.go(handle, key);
    }

    /// Looked at for the first time when its connect, or its first silence, may be over: an open connection is not set anew.
    fn wheel_first(&mut self, handle: Handle) {
        let Some(due) = self.due(handle) else { return };
        let Some(session) = self.sessions.get(handle) else { return };
        let (number, accepted) = (session.balancer, session.accepted);
        let Some(local) = self.local(number) else { return };
        let silent = accepted.after(local.live.table.rules.timeouts.idle);
        self.wheel.set(handle.index, due.min(silent));
    }

    /// `false` when it has as many as it may have: by the address, of IPv6 by its network, and a Unix client by its user.
    pub(super) fn count_source(&mut self, handle: Handle) -> bool {
        let Some(session) = self.sessions.get(handle) else { return false };
        let Some(Some(local)) = self.balancers.get(session.balancer as usize) else { return false };
        let Some(max) = local.live.table.rules.limits.per_source else { return true };
        let Some(source) = session.identity() else { return true };
        let mut sources = lock(&local.balancer.counters().sources);
        match sources.entry(source) {
            Entry::Occupied(mut entry) if *entry.get() < max => *entry.get_mut() += 1,
            Entry::Occupied(_) => return false,
            Entry::Vacant(entry) => {
                entry.insert(1);
            }
        }
        drop(sources);
        session.extra().counted_source = Some(source);
        true
    }

    /// The key by what is known without a byte of the client. Counts those that have none and should.
    pub(super) fn key(&mut self, number: u32, source: Option<SocketAddr>, handle: Handle) -> Option<u64> {
        let Some(Some(local)) = self.balancers.get(number as usize) else { return None };
        let rules = &local.live.table.rules;
        if !goes_by_key(rules) {
            return None;
        }
        let peer = || self.sessions.get(handle).and_then(|session| stream::peer(&session.client).ok());
        let key = hash_source(self.shared.secret, &rules.key, source, peer);
        if key.is_none() && !rules.key.is_peeked() {
            add(&local.balancer.counters().keyless, 1);
        }
        key
    }

    /// The key of a connection that looks for a backend again.
    pub(super) fn key_again(&mut self, handle: Handle) -> Option<u64> {
        let session = self.sessions.get(handle)?;
        let number = session.balancer;
        let source = match &session.extra {
            Some(extra) => match extra.key {
                KeyState::Known(key) => return key,
                KeyState::Unknown => extra.source,
            },
            None => stream::remote_address(&session.client),
        };
        self.key(number, source, handle)
    }

    fn is_full(&self, number: u32) -> bool {
        let Some(Some(local)) = self.balancers.get(number as usize) else { return true };
        let limit = u64::from(local.live.table.rules.limits.connections);
        self.shared.sessions.load(Ordering::SeqCst) >= self.shared.sessions_max
            || local.balancer.counters().active.load(Ordering::SeqCst) >= limit
    }

    /// Clients wait in the backlog until a connection ends.
    fn close_when_full(&mut self, number: u32) {
        let now = self.tools.now;
        let Some(local) = self.local(number) else { return };
        local.full_since = Some(now);
        local.balancer.counters().full_workers.fetch_add(1, Ordering::SeqCst);
        self.shared.full_workers.fetch_add(1, Ordering::SeqCst);
        // The last one may have ended before anybody could see that we wait for it.
        if !self.is_full(number) {
            self.clear_full(number);
        }
        self.watch_doors();
    }

    fn clear_full(&mut self, number: u32) {
        let now = self.tools.now;
        let Some(local) = self.local(number) else { return };
        let Some(since) = local.full_since.take() else { return };
        let counters = local.balancer.counters();
        add(&counters.accept_paused_ms, paused_ms(now.since(since)));
        counters.full_workers.fetch_sub(1, Ordering::SeqCst);
        self.shared.full_workers.fetch_sub(1, Ordering::SeqCst);
    }

    pub(super) fn reopen(&mut self, number: u32) {
        if self.local(number).is_some_and(|local| local.full_since.is_some()) && !self.is_full(number) {
            self.clear_full(number);
            self.watch_doors();
        }
    }

    /// A connection has ended: those who wait for that hear of it, once there is some room.
    pub(super) fn room_again(&mut self) {
        if self.is_starved() {
            // Now, rather than in this call: it may come from the middle of one that places a connection.
            self.doors.closed_until = Some(self.tools.now);
        }
        if self.shared.full_workers.load(Ordering::SeqCst) == 0 {
            return;
        }
        let below = |count: u64, limit: u64| count <= limit - limit / 20;
        let all = self.shared.sessions.load(Ordering::SeqCst);
        if !below(all.into(), self.shared.sessions_max.into()) {
            return;
        }
        // Each of them, since it may have been full by the limit of the process, and its own last connection long gone.
        for local in self.balancers.iter().flatten() {
            let counters = local.balancer.counters();
            let limit = local.live.table.rules.limits.connections;
            let waits = counters.full_workers.load(Ordering::SeqCst) > 0;
            if waits && below(counters.active.load(Ordering::SeqCst), limit.into()) {
                self.shared.tell(&Command::Resume { balancer: Arc::clone(&local.balancer) });
            }
        }
    }

    /// Out of descriptors or memory.
    pub(super) fn starve(&mut self) {
        let now = self.tools.now;
        let until = now.after(STARVED_PAUSE);
        self.doors.closed_until = Some(until);
        self.shared.starved_until.fetch_max(until.0, Ordering::Relaxed);
        self.doors.starved_since.get_or_insert(now);
        if self.doors.told_starved.is_none_or(|told| now.since(told) >= STARVED_TELL) {
            self.doors.told_starved = Some(now);
            self.trouble(
                "balancer: no descriptors left for connections: clients wait; raise the limit of open files".to_owned(),
            );
        }
        self.watch_doors();
    }

    /// What becomes free is for those that are in, with whichever worker; they look a little before this one takes further clients.
    fn others_starve(&mut self) -> bool {
        let now = self.tools.now;
        let until = Time(self.shared.starved_until.load(Ordering::Relaxed));
        if until <= now {
            return false;
        }
        self.doors.closed_until = Some(until.after(STARVED_PAUSE / 4));
        self.doors.starved_since.get_or_insert(now);
        true
    }

    pub(super) fn is_starved(&self) -> bool {
        self.doors.closed_until.is_some()
    }

    /// There may be descriptors again: those who are in and wait for one come first.
    pub(super) fn feed(&mut self) {
        let now = self.tools.now;
        if self.doors.closed_until.is_none_or(|until| until > now) {
            return;
        }
        self.doors.closed_until = None;
        self.wake_all_queues();
        if self.is_starved() {
            return;
        }
        let paused = self.doors.starved_since.take().map_or(0, |since| paused_ms(now.since(since)));
        for local in self.balancers.iter().flatten() {
            add(&local.balancer.counters().accept_paused_ms, paused);
        }
        self.watch_doors();
    }

    pub(super) fn watch_or_reset(&mut self, handle: Handle) {
        if let Err(error) = self.watch(handle) {
            self.cannot_watch(handle, &error);
        }
    }

    fn cannot_watch(&mut self, handle: Handle, error: &io::Error) {
        let now = self.tools.now;
        let (count, told) = &mut self.unwatched;
        *count += 1;
        if told.is_none_or(|told| now.since(told) >= STARVED_TELL) {
            *told = Some(now);
            let count = std::mem::take(count);
            self.trouble(format!("balancer: {count} connections were reset, since they cannot be watched: {error}"));
        }
        self.reset(handle, "cannot be watched");
    }
}

/// The worker that should have the next connection instead of `own`.
fn idler(shared: &Shared, own: usize) -> Option<usize> {
    let load = |number: usize| shared.mailboxes[number].load.load(Ordering::Relaxed);
    let least = (0..shared.mailboxes.len()).min_by_key(|number| load(*number))?;
    let least_load = load(least);
    (load(own) > least_load + least_load / 8 + LEAD_MAX).then_some(least)
}

pub(super) fn goes_by_key(rules: &Rules) -> bool {
    match rules.algorithm {
        Algorithm::Rendezvous | Algorithm::Modulo => true,
        Algorithm::RoundRobin | Algorithm::LeastConnections | Algorithm::TwoChoices => false,
    }
}

fn is_within(ip: IpAddr, networks: &[(IpAddr, u8)]) -> bool {
    networks.iter().any(|(network, length)| match (ip.to_canonical(), *network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) => {
            let differ = u32::from(ip) ^ u32::from(network);
            differ.leading_zeros() >= u32::from(*length).min(32)
        }
        (IpAddr::V6(ip), IpAddr::V6(network)) => {
            let differ = u128::from(ip) ^ u128::from(network);
            differ.leading_zeros() >= u32::from(*length).min(128)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_their_addresses() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let networks = [(ip("10.1.0.0"), 16), (ip("fd00::"), 8)];
        for (address, within) in [
            ("10.1.255.1", true),
            ("10.2.0.1", false),
            ("::ffff:10.1.2.3", true),
            ("fd12::1", true),
            ("fe80::1", false),
        ] {
            assert_eq!(is_within(ip(address), &networks), within, "{address}");
        }
        assert!(is_within(ip("9.9.9.9"), &[(ip("0.0.0.0"), 0)]));
    }
}
