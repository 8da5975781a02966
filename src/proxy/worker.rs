//! The threads that move bytes, each with one epoll over everything it has. A connection stays with one worker from its accept to its
//! end; the workers share nothing but counters.
//!
//! `worker.rs` is the loop, `accept.rs` takes clients in, `first_bytes.rs` reads what is needed for the choice, `connect.rs` finds them a backend, `queue.rs`
//! lets them wait for one, `relay.rs` moves the bytes, `finish.rs` ends connections.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::accept::Doors;
use super::connect::attempt_lasts;
use super::pipes::Tools;
use super::relay::Expect;
use super::session::{Phase, Session, Side, Token, Way};
use super::shared::{Balancer, Command, Live, Mailbox, Order, PIPES_MAX, Shared};
use super::slab::{Handle, Slab};
use super::wheel::Wheel;
use crate::engine::balance::plan::{Replay, Rules};
use crate::engine::types::Time;
use crate::sys::clock;
use crate::sys::epoll::{EVENTS_MAX, Epoll, Interest, Ready};
use crate::sys::wake::Wake;

pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) number: usize,
    pub(super) epoll: Epoll,
    pub(super) sessions: Slab<Session>,
    pub(super) wheel: Wheel,
    pub(super) balancers: Vec<Option<Local>>,
    pub(super) doors: Doors,
    pub(super) tools: Tools,
    /// Candidates of the connection that is being placed.
    pub(super) order: Vec<u16>,
    /// Balancers whose queue must be looked at before the next wait.
    pub(super) to_wake: Vec<u32>,
    /// A descriptor that is given up when there is no other for a backend.
    pub(super) reserve: Option<Wake>,
    pub(super) draws: u64,
    /// Connections that could not be watched since that was told last, and when it was.
    pub(super) unwatched: (u64, Option<Time>),
}

/// A balancer as this worker knows it.
pub(super) struct Local {
    pub(super) balancer: Arc<Balancer>,
    pub(super) live: Arc<Live>,
    /// Of `live`.
    pub(super) generation: u64,
    pub(super) needs: Needs,
    /// Who waits for a backend, in order. Those that left meanwhile are still in it.
    pub(super) queue: VecDeque<Handle>,
    /// Its listeners are not watched since then, because its limit of connections or that of the process is reached.
    pub(super) full_since: Option<Time>,
    /// Whether clients of late had spoken by the time they were given a backend: 0 to [`EAGER_MAX`].
    pub(super) eager: u8,
}

pub(super) const EAGER_MAX: u8 = 16;

/// What the rules ask to be remembered of each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Only what every connection has.
    Little,
    /// [`super::session::Extra`].
    Extra,
}

impl Needs {
    fn of(rules: &Rules) -> Self {
        let little = rules.replay == Replay::Off
            && !rules.send_proxy
            && !rules.access_log
            && !rules.key.is_peeked()
            && rules.accept_proxy_from.is_empty()
            && rules.limits.per_source.is_none();
        if little { Self::Little } else { Self::Extra }
    }
}

impl Local {
    fn new(balancer: Arc<Balancer>) -> Self {
        // Before the table: an older number only makes the next look take it again.
        let generation = balancer.generation();
        let live = balancer.live();
        Self {
            needs: Needs::of(&live.table.rules),
            live,
            generation,
            balancer,
            queue: VecDeque::new(),
            full_since: None,
            eager: EAGER_MAX,
        }
    }

    /// Takes the newest table, if there is another.
    pub(super) fn refresh(&mut self) {
        let generation = self.balancer.generation();
        if generation != self.generation {
            self.generation = generation;
            self.live = self.balancer.live();
            self.needs = Needs::of(&self.live.table.rules);
        }
    }
}

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Continue,
    Leave,
}

/// Starts one thread for each mailbox of `shared`.
///
/// # Errors
/// No descriptors, memory or threads left.
pub fn start(shared: &Arc<Shared>) -> io::Result<Vec<JoinHandle<()>>> {
    let workers = (0..shared.mailboxes.len()).map(|number| {
        let worker = Worker::new(Arc::clone(shared), number)?;
        std::thread::Builder::new().name(format!("balance-{number}")).stack_size(STACK_BYTES).spawn(|| worker.run())
    });
    workers.collect()
}

/// The loop is shallow, and its buffers are not on the stack.
const STACK_BYTES: usize = 256 << 10;

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, number: usize) -> io::Result<Self> {
        let now = Time(clock::mono_ns());
        let epoll = Epoll::new()?;
        epoll.add(shared.mailboxes[number].wake.as_fd(), Token::Wake.key(), Interest::READ)?;
        let pipes = (PIPES_MAX / shared.mailboxes.len()).min(shared.sessions_max as usize / 8);
        Ok(Self {
            epoll,
            number,
            sessions: Slab::new(),
            wheel: Wheel::new(now),
            balancers: Vec::new(),
            doors: Doors::default(),
            tools: Tools::new(now, pipes)?,
            order: Vec::new(),
            to_wake: Vec::new(),
            reserve: Some(Wake::new()?),
            draws: u64::try_from(number).unwrap_or_default(),
            unwatched: (0, None),
            shared,
        })
    }

    fn run(mut self) {
        let mut ready = Vec::with_capacity(EVENTS_MAX);
        loop {
            if let Err(error) = self.epoll.wait(&mut ready, self.timeout()) {
                self.trouble(format!("a worker of the balancer cannot wait for its connections: {error}"));
                return;
            }
            self.tools.now = Time(clock::mono_ns());
            for event in &ready {
                match Token::from_key(event.key) {
                    Token::Session(handle, side) => self.advance(handle, side, event),
                    Token::Listener(index) => self.accept(index),
                    Token::Wake => {
                        if self.take_orders() == Next::Leave {
                            return;
                        }
                    }
                }
            }
            self.look_at_due();
            self.wake_queues();
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let now = self.tools.now;
        let doors = self.doors.closed_until.map(|until| until.since(now));
        [self.wheel.wait(now), doors].into_iter().flatten().min()
    }

    pub(super) fn mailbox(&self) -> &Mailbox {
        &self.shared.mailboxes[self.number]
    }

    pub(super) fn trouble(&self, text: String) {
        self.shared.notify(super::shared::Notice::Trouble { text });
    }

    /// A number that is another one each time.
    pub(super) fn draw(&mut self) -> u64 {
        self.draws = self.draws.wrapping_add(1);
        self.draws
    }

    fn known_number(&self, balancer: &Arc<Balancer>) -> Option<u32> {
        let is_it = |local: &Option<Local>| local.as_ref().is_some_and(|local| Arc::ptr_eq(&local.balancer, balancer));
        self.balancers.iter().position(is_it).and_then(|place| u32::try_from(place).ok())
    }

    /// The number of a balancer with this worker, a new one if need be.
    pub(super) fn local_number(&mut self, balancer: &Arc<Balancer>) -> u32 {
        if let Some(number) = self.known_number(balancer) {
            return number;
        }
        let place = self.balancers.iter().position(Option::is_none).unwrap_or_else(|| {
            self.balancers.push(None);
            self.balancers.len() - 1
        });
        self.balancers[place] = Some(Local::new(Arc::clone(balancer)));
        u32::try_from(place).unwrap_or(u32::MAX)
    }

    pub(super) fn local(&mut self, number: u32) -> Option<&mut Local> {
        self.balancers.get_mut(number as usize)?.as_mut()
    }

    fn take_orders(&mut self) -> Next {
        self.mailbox().begin_reading();
        while let Ok(order) = self.mailbox().receiver.try_recv() {
            match order {
                Order::Take(passed) => self.take(passed),
                Order::Command(Command::Quit) => {
                    self.cut(|_| true, "proxy leaves");
                    return Next::Leave;
                }
                Order::Command(command) => self.obey(command),
            }
        }
        Next::Continue
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Listen { balancer, listener } => self.open_door(&balancer, listener),
            Command::Unlisten { listener } => self.close_door(&listener),
            Command::Changed { balancer } => {
                let Some(number) = self.known_number(&balancer) else { return };
                self.change(number);
            }
            Command::CutBackend { balancer, backend } => {
                let Some(number) = self.known_number(&balancer) else { return };
                let has_it = |own: &Session| own.backend.as_ref().is_some_and(|own| Arc::ptr_eq(own, &backend));
                self.cut(|session| session.balancer == number && has_it(session), "drain timeout");
            }
            Command::CutBalancer { balancer } => {
                balancer.forget();
                let Some(number) = self.known_number(&balancer) else { return };
                self.cut(|session| session.balancer == number, "balancer removed");
                self.close_doors_of(number);
                self.balancers[number as usize] = None;
            }
            Command::Resume { balancer } => {
                let Some(number) = self.known_number(&balancer) else { return };
                self.reopen(number);
                self.to_wake.push(number);
            }
            Command::Answer { to } => {
                let _ = to.try_send(());
            }
            // Taken out before.
            Command::Quit => {}
        }
    }

    /// Another table is in place.
    fn change(&mut self, number: u32) {
        let Some(local) = self.local(number) else { return };
        local.refresh();
        let any_fenced = local.live.backends.iter().any(|backend| backend.is_fenced());
        if any_fenced {
            let fenced = |session: &Session| session.backend.as_ref().is_some_and(|backend| backend.is_fenced());
            self.cut(|session| session.balancer == number && fenced(session), "fenced");
        }
        self.reopen(number);
        self.to_wake.push(number);
    }

    /// Resets those connections.
    fn cut(&mut self, which: impl Fn(&Session) -> bool, how: &'static str) {
        for handle in self.sessions.handles(which) {
            self.reset(handle, how);
        }
    }

    fn advance(&mut self, handle: Handle, side: Side, event: &Ready) {
        let now = self.tools.now;
        let Some(session) = self.sessions.get(handle) else { return };
        match session.phase {
            Phase::Open => {
                session.since = now;
                let expect = if event.ended || event.hangup { Expect::End } else { Expect::More };
                let (reads, writes) = match side {
                    Side::Client => (Way::Up, Way::Down),
                    Side::Server => (Way::Down, Way::Up),
                };
                let mut outcome = Ok(());
                if event.readable || event.hangup {
                    outcome = session.pump(reads, &mut self.tools, expect);
                }
                if outcome.is_ok() && (event.writable || (event.hangup && session.way(writes).is_pending())) {
                    outcome = session.pump(writes, &mut self.tools, Expect::More);
                }
                match outcome {
                    Ok(()) => self.settle(handle),
                    Err(broken) => self.broken(handle, &broken),
                }
            }
            Phase::Connecting => self.connect_told(handle),
            Phase::FirstBytes => self.read_first(handle),
            Phase::Queued => self.waiter_told(handle, event),
        }
    }

    fn look_at_due(&mut self) {
        let now = self.tools.now;
        self.feed();
        if self.tools.must_tell_full() {
            self.trouble(
                "balancer: slow readers make a worker hold 64 MiB: it holds no more, and their senders wait".to_owned(),
            );
        }
        while let Some(index) = self.wheel.take_due(now) {
            if let Some(handle) = self.sessions.handle_of(index) {
                self.look_at(handle);
            }
        }
        if self.sessions.len() == 0 {
            self.tools.let_go();
        }
    }

    /// Its time may have come.
    fn look_at(&mut self, handle: Handle) {
        let now = self.tools.now;
        let Some(due) = self.due(handle) else { return };
        if due > now {
            self.note_progress(handle);
            return self.wheel.set(handle.index, due);
        }
        let Some(session) = self.sessions.get(handle) else { return };
        match session.phase {
            Phase::Open => self.too_quiet(handle),
            Phase::Connecting => self.connect_timed_out(handle),
            Phase::FirstBytes => self.first_bytes_late(handle),
            Phase::Queued => self.waited(handle),
        }
    }

    /// When its time comes, unless something happens before.
    pub(super) fn due(&mut self, handle: Handle) -> Option<Time> {
        let session = self.sessions.get(handle)?;
        let live = &self.balancers.get(session.balancer as usize)?.as_ref()?.live;
        let timeouts = &live.table.rules.timeouts;
        Some(match session.phase {
            Phase::Open if session.is_half_closed() => session.since.after(timeouts.half_closed),
            Phase::Open => session.since.after(timeouts.idle),
            Phase::Connecting => {
                let end = session.since.after(attempt_lasts(live, session));
                session.give_up().map_or(end, |give_up| end.min(give_up))
            }
            Phase::FirstBytes => session.since.after(timeouts.first_bytes),
            Phase::Queued => session.next_try(),
        })
    }

    pub(super) fn set_due(&mut self, handle: Handle) {
        if let Some(due) = self.due(handle) {
            self.wheel.set(handle.index, due);
        }
    }

    /// Tells the epoll what the connection waits for now, where that has changed.
    pub(super) fn watch(&mut self, handle: Handle) -> io::Result<()> {
        let Some(session) = self.sessions.get(handle) else { return Ok(()) };
        for side in [Side::Client, Side::Server] {
            let wanted = session.wanted(side);
            let known = match side {
                Side::Client => session.client_interest,
                Side::Server => session.server_interest,
            };
            let Some(socket) = session.socket(side) else { continue };
            if wanted == known {
                continue;
            }
            let key = Token::Session(handle, side).key();
            match (known, wanted) {
                (None, Some(interest)) => self.epoll.add(socket.as_fd(), key, interest)?,
                (Some(_), Some(interest)) => self.epoll.modify(socket.as_fd(), key, interest)?,
                (Some(_), None) => self.epoll.remove(socket.as_fd())?,
                (None, None) => {}
            }
            match side {
                Side::Client => session.client_interest = wanted,
                Side::Server => session.server_interest = wanted,
            }
        }
        Ok(())
    }
}
