//! A backend for a connection: the candidates one after the other, none twice, without delay.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;

use super::backend::{BackendState, Left};
use super::counters::{ConnectFailure, Refusal, add};
use super::pipes::Tools;
use super::relay::{Broken, Expect, Moved};
use super::session::{Extra, KeyState, Phase, ServerKind, Session, Side, Tried, Way};
use super::shared::{Balancer, Live, Notice};
use super::slab::Handle;
use super::worker::{EAGER_MAX, Local, Worker};
use crate::engine::balance::pick::Moment;
use crate::engine::balance::plan::{Address, Delivery, NoneLeft, Rules};
use crate::engine::types::Time;
use crate::sys::clock;
use crate::sys::stream::{self, Connecting};

/// Below this, what a client may have sent already is looked for only now and then.
const EAGER_MIN: u8 = 4;
const EAGER_PROBE: u64 = 16;

/// For one attempt to connect on loopback.
const LOOPBACK_CONNECT: Duration = Duration::from_millis(500);

/// Who is next.
enum Choice {
    Backend { slot: usize, state: Arc<BackendState> },
    Nobody(Nobody),
}

/// Why there is no candidate (any more).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nobody {
    /// None takes new connections.
    Available,
    /// All that do were tried and failed.
    Left,
    /// One that does has as many as it may have.
    WithRoom,
}

/// How far an attempt came.
enum Attempt {
    Open,
    UnderWay,
    /// The client is gone meanwhile.
    ClientGone,
    Failed(ConnectFailure, io::Error),
}

impl Worker {
    /// Gives the connection to the first candidate that takes it; without one, it waits or is refused.
    pub(super) fn place(&mut self, handle: Handle, key: Option<u64>) {
        loop {
            if self.takes_too_long(handle) {
                return self.refuse(handle, Refusal::NoBackend);
            }
            let choice = self.choose(handle, key);
            let (slot, state) = match choice {
                None => return,
                Some(Choice::Nobody(why)) => return self.nobody(handle, key, why),
                Some(Choice::Backend { slot, state }) => (slot, state),
            };
            self.count_attempt(handle);
            match self.attempt(handle, slot, state) {
                Attempt::Open => return self.settle(handle),
                Attempt::UnderWay => {
                    self.set_due(handle);
                    return self.watch_or_reset(handle);
                }
                Attempt::ClientGone => return self.reset(handle, "client reset"),
                Attempt::Failed(failure, error) => {
                    self.attempt_failed(handle, key, failure, &error);
                    if failure == ConnectFailure::Descriptors {
                        // No other candidate would help. Whoever is in goes before those who want to come in.
                        self.starve();
                        return self.nobody(handle, key, Nobody::WithRoom);
                    }
                }
            }
        }
    }

    /// Its attempts have lasted as long as one may, or as long as it might have waited, whichever is longer.
    fn takes_too_long(&mut self, handle: Handle) -> bool {
        let now = self.tools.now;
        let Some(session) = self.sessions.get(handle) else { return false };
        session.phase == Phase::Connecting && session.give_up().is_some_and(|give_up| give_up <= now)
    }

    /// Counts the connection with the backend it chooses.
    fn choose(&mut self, handle: Handle, key: Option<u64>) -> Option<Choice> {
        let now = self.tools.now;
        let mut draw = self.draw();
        let Self { sessions, balancers, order, shared, .. } = self;
        let session = sessions.get(handle)?;
        let tried = session.extra.as_ref().map_or(&[][..], |extra| &extra.tried);
        let local = balancers.get_mut(session.balancer as usize)?.as_mut()?;
        'table: loop {
            local.refresh();
            let live = &local.live;
            if live.table.delivery != Delivery::Proxy {
                // Handed over since a reload: its backends have no address here, and are not to blame for that.
                return Some(Choice::Nobody(Nobody::Available));
            }
            if tried.is_empty() {
                // One turn for each connection, over all workers.
                draw = local.balancer.counters().turns.fetch_add(1, Ordering::Relaxed) + 1;
            }
            let moment = Moment {
                active: &|slot| live.backends[slot].active(),
                ejected: &|slot| live.backends[slot].is_ejected(now),
                elapsed: now.since(live.since),
                draw,
            };
            live.picker.order(key, &moment, order);
            let mut why = if order.is_empty() { Nobody::Available } else { Nobody::Left };
            for slot in order.iter().map(|slot| usize::from(*slot)) {
                let state = &live.backends[slot];
                let run = live.table.backends[slot].run;
                if tried.iter().any(|tried| (tried.id, tried.run) == (state.id, run)) {
                    continue;
                }
                if !state.begin(live.table.rules.limits.per_backend) {
                    why = Nobody::WithRoom;
                    continue;
                }
                // INVARIANT: after it is counted; see `shared`.
                if local.balancer.generation() != local.generation {
                    tell_if_drained(shared, &local.balancer, state, state.end());
                    continue 'table;
                }
                return Some(Choice::Backend { slot, state: Arc::clone(state) });
            }
            return Some(Choice::Nobody(why));
        }
    }

    fn count_attempt(&mut self, handle: Handle) {
        let Some(session) = self.sessions.get(handle) else { return };
        let was_queued = session.phase == Phase::Queued;
        session.phase = Phase::Connecting;
        let Some(Some(local)) = self.balancers.get(session.balancer as usize) else { return };
        let counters = local.balancer.counters();
        if was_queued {
            counters.queued.fetch_sub(1, Ordering::SeqCst);
        }
        if let Some(extra) = &mut session.extra {
            extra.attempts = extra.attempts.saturating_add(1);
            if !extra.tried.is_empty() && !std::mem::replace(&mut extra.redispatched, true) {
                add(&counters.redispatched, 1);
            }
        }
    }

    /// The connection is counted with `state` already, and stays so unless this fails.
    fn attempt(&mut self, handle: Handle, slot: usize, state: Arc<BackendState>) -> Attempt {
        let draw = self.draw();
        let Self { sessions, balancers, tools, reserve, .. } = self;
        let Some(session) = sessions.get(handle) else { return Attempt::ClientGone };
        let Some(Some(local)) = balancers.get_mut(session.balancer as usize) else { return Attempt::ClientGone };
        let begun = clock::mono_ns();
        session.backend = Some(state);
        session.run = local.live.table.backends[slot].run;
        session.since = tools.now;
        let Local { live, eager, .. } = local;
        let address = &live.table.backends[slot].address;
        let mut connected = connect(address);
        if connected.as_ref().is_err_and(is_starved) && reserve.take().is_some() {
            connected = connect(address);
        }
        let (server, progress) = match connected {
            Ok(connected) => connected,
            Err(error) => return Attempt::Failed(classify(&error), error),
        };
        session.server = Some(server);
        session.server_kind = match address {
            Address::Tcp(_) => ServerKind::FreshTcp,
            Address::Unix(_) | Address::Udp(_) => ServerKind::Unix,
        };
        match session.hurry(address, progress, eager, draw, tools) {
            Attempt::Open => {
                session.opened(clock::mono_ns().saturating_sub(begun), tools.now);
                Attempt::Open
            }
            other => other,
        }
    }

    /// Counts it, holds it against the backend, and remembers it for the choice of the next.
    fn attempt_failed(&mut self, handle: Handle, key: Option<u64>, failure: ConnectFailure, error: &io::Error) {
        let Self { sessions, balancers, .. } = self;
        let Some(session) = sessions.get(handle) else { return };
        let local = balancers.get(session.balancer as usize).and_then(Option::as_ref);
        let give_up = local.map(|local| session.since.after(local.live.table.rules.attempts_last()));
        session.server = None;
        session.server_interest = None;
        let Some(state) = session.backend.take() else { return };
        let run = session.run;
        let extra = session.extra.get_or_insert_default();
        extra.key = KeyState::Known(key);
        extra.give_up = extra.give_up.or(give_up);
        if failure != ConnectFailure::Descriptors {
            extra.tried.push(Tried { id: state.id, run, delivered: false });
        }
        // A supervised process that does not listen is about to be missed by its supervisor.
        extra.try_again |= run > 0 || failure == ConnectFailure::Backlog || failure.is_ours();
        let number = session.balancer;
        state.connect_failed.count(failure);
        if !failure.is_ours() {
            self.blame(number, &state, run, || format!("connect failed ({}): {error}", failure.name()));
        }
        self.leave_backend(number, &state);
    }

    /// One more failure of this run of the backend.
    pub(super) fn blame(&mut self, number: u32, state: &Arc<BackendState>, run: u32, why: impl FnOnce() -> String) {
        let now = self.tools.now;
        let draw = self.draw();
        let Some(local) = self.local(number) else { return };
        let others = local.live.others_left(state, now);
        let Some(for_) = state.blame_run(run, local.live.eject_rules(), now, others, draw) else { return };
        let notice = Notice::Ejected {
            balancer: local.balancer.name().to_owned(),
            backend: state.name().to_owned(),
            run,
            why: why(),
            for_,
        };
        self.shared.notify(notice);
    }

    /// A connection is no longer counted with this backend.
    pub(super) fn leave_backend(&mut self, number: u32, state: &Arc<BackendState>) {
        let left = state.end();
        let Some(Some(local)) = self.balancers.get(number as usize) else { return };
        tell_if_drained(&self.shared, &local.balancer, state, left);
        let limited = local.live.table.rules.limits.per_backend.is_some();
        if limited && local.balancer.counters().queued.load(Ordering::SeqCst) > 0 {
            self.wake_somebody(number);
        }
    }

    /// The attempt may be over.
    pub(super) fn connect_told(&mut self, handle: Handle) {
        let now = self.tools.now;
        let Some(session) = self.sessions.get(handle) else { return };
        let Some(server) = &session.server else { return };
        match stream::take_error(server) {
            Ok(()) => {
                let took = now.since(session.since).as_nanos();
                session.opened(u64::try_from(took).unwrap_or(u64::MAX), now);
                match session.pump(Way::Up, &mut self.tools, Expect::More) {
                    Ok(()) => self.settle(handle),
                    Err(broken) => self.broken(handle, &broken),
                }
            }
            Err(error) => self.try_next(handle, classify(&error), &error),
        }
    }

    pub(super) fn connect_timed_out(&mut self, handle: Handle) {
        self.try_next(handle, ConnectFailure::Timeout, &io::ErrorKind::TimedOut.into());
    }

    fn try_next(&mut self, handle: Handle, failure: ConnectFailure, error: &io::Error) {
        let key = self.key_again(handle);
        self.attempt_failed(handle, key, failure, error);
        self.place(handle, key);
    }
}

impl Session {
    /// What can be done without waiting: on this host a connect is over when the call returns, and the client's first bytes are
    /// often here by then. Sending them is also the test whether the connect has succeeded.
    fn hurry(
        &mut self,
        address: &Address,
        progress: Connecting,
        eager: &mut u8,
        draw: u64,
        tools: &mut Tools,
    ) -> Attempt {
        let local = match address {
            Address::Tcp(address) => address.ip().is_loopback(),
            Address::Unix(_) | Address::Udp(_) => true,
        };
        if !local {
            return if progress == Connecting::Done { Attempt::Open } else { Attempt::UnderWay };
        }
        let may_read = !self.up.is_pending() && !self.up.ended;
        if may_read && (*eager >= EAGER_MIN || draw.is_multiple_of(EAGER_PROBE)) {
            match self.copy(Way::Up, tools, Expect::More) {
                Ok(Moved::Ended) => self.up.ended = true,
                Ok(Moved::More | Moved::Enough) => {}
                Err(Broken { side: Side::Client, .. }) => return Attempt::ClientGone,
                Err(Broken { side: Side::Server, error }) => return Attempt::Failed(classify(&error), error),
            }
            let spoke = self.up.bytes > 0 || self.up.ended;
            *eager = if spoke { (*eager + 1).min(EAGER_MAX) } else { eager.saturating_sub(1) };
        }
        if self.delivered || progress == Connecting::Done {
            return self.deliver_pending(tools);
        }
        let (Some(server), Address::Tcp(address)) = (&self.server, address) else { return Attempt::UnderWay };
        match stream::finish(server, *address) {
            Ok(Connecting::Done) => self.deliver_pending(tools),
            Ok(Connecting::UnderWay) => Attempt::UnderWay,
            Err(error) => Attempt::Failed(classify(&error), error),
        }
    }

    fn deliver_pending(&mut self, tools: &mut Tools) -> Attempt {
        if self.delivered || !self.up.is_pending() {
            return Attempt::Open;
        }
        match self.flush(Way::Up, tools) {
            Ok(_) => Attempt::Open,
            // It has a part of them, which nobody else may get without the rest: the next look at the socket tells that it is broken.
            Err(_) if self.delivered => Attempt::Open,
            Err(Broken { error, .. }) => Attempt::Failed(classify(&error), error),
        }
    }

    fn opened(&mut self, took_ns: u64, now: Time) {
        self.phase = Phase::Open;
        self.since = now;
        self.connected = now;
        if let Some(extra) = &mut self.extra {
            extra.give_up = None;
        }
        if let Some(state) = &self.backend {
            state.connected();
            state.connect_us.record_ns(took_ns);
        }
    }

    pub(super) fn give_up(&self) -> Option<Time> {
        self.extra.as_ref().and_then(|extra| extra.give_up)
    }

    /// With the source it has, for what only few connections need.
    pub(super) fn extra(&mut self) -> &mut Extra {
        let source = if self.extra.is_none() { stream::remote_address(&self.client) } else { None };
        let extra = self.extra.get_or_insert_default();
        extra.source = extra.source.or(source);
        extra
    }
}

impl Rules {
    /// For how long one backend after the other may be tried.
    fn attempts_last(&self) -> Duration {
        match self.none_left {
            NoneLeft::Queue(patience) => patience.max(self.timeouts.connect),
            NoneLeft::Refuse | NoneLeft::FailOpen => self.timeouts.connect,
        }
    }
}

/// On this host there is nothing to wait for but a queue that is full, and then the kernel tries again only after a second.
pub(super) fn attempt_lasts(live: &Live, session: &Session) -> Duration {
    let longest = live.table.rules.timeouts.connect;
    let slot = session.backend.as_ref().and_then(|state| live.slot_of(state));
    match slot.map(|slot| &live.table.backends[slot].address) {
        Some(Address::Tcp(address)) if address.ip().is_loopback() => longest.min(LOOPBACK_CONNECT),
        Some(Address::Tcp(_) | Address::Unix(_) | Address::Udp(_)) | None => longest,
    }
}

fn connect(address: &Address) -> io::Result<(OwnedFd, Connecting)> {
    match address {
        Address::Tcp(address) => stream::connect_tcp(*address),
        Address::Unix(path) => Ok((stream::connect_unix(path)?, Connecting::Done)),
        Address::Udp(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}

fn is_starved(error: &io::Error) -> bool {
    classify(error) == ConnectFailure::Descriptors
}

fn classify(error: &io::Error) -> ConnectFailure {
    match errno(error) {
        // A reset that early comes from the queue of a listener that has just gone.
        Errno::ECONNREFUSED | Errno::ENOENT | Errno::ECONNRESET | Errno::EPIPE | Errno::ENOTSOCK => {
            ConnectFailure::Refused
        }
        Errno::ETIMEDOUT => ConnectFailure::Timeout,
        Errno::EAGAIN => ConnectFailure::Backlog,
        Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS => ConnectFailure::Descriptors,
        Errno::EADDRNOTAVAIL | Errno::ENETUNREACH => ConnectFailure::Addresses,
        _ if error.kind() == io::ErrorKind::TimedOut => ConnectFailure::Timeout,
        _ => ConnectFailure::Other,
    }
}

pub(super) fn tell_if_drained(
    shared: &super::shared::Shared,
    balancer: &Arc<Balancer>,
    state: &Arc<BackendState>,
    left: Left,
) {
    match left {
        Left::Some => {}
        Left::Drained => shared.notify(Notice::Drained {
            balancer: balancer.name().to_owned(),
            backend: state.name().to_owned(),
            run: state.run(),
        }),
    }
}
