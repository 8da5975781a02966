//! The control thread: one epoll over the agent, what the workers tell, the access log, and all of `delivery: HandOff`.
//!
//! It moves no byte of a proxied connection. Without an agent it goes on as things are, and sleeps without a timer while nothing is to
//! be cut.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::access_log::AccessLog;
use super::agents::{Agents, Heard};
use super::handoff::HandOffs;
use super::proto::{FromProxy, ToProxy};
use super::registry::{self, CutOf, Registry};
use super::role::ProxyError;
use super::shared::{Balancer, Command, Listener, Notice, Outcome, Shared};
use crate::engine::balance::plan::{Address, Delivery};
use crate::engine::balance::table::Table;
use crate::engine::types::Time;
use crate::sys::clock::mono_ns;
use crate::sys::epoll::{Epoll, Interest, Ready};
use crate::sys::packet::PacketListener;

const READY_MAX: usize = 64;
/// Orders taken from the agent before others get their turn.
const ORDERS_PER_TURN: usize = 64;
/// After the kernel refused an agent's connection, for instance for want of descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// For an agent's connection and what comes with its first orders.
const RESERVE: usize = 8;
/// Between two looks whether a role that is to leave has connections left.
const IDLE_LOOK: Duration = Duration::from_millis(50);

/// What an epoll key stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Agents,
    Outcome,
    Log,
    Agent(u32),
    /// A listening socket of a balancer that hands over.
    Door(u32),
    /// A replica's channel.
    Channel(u32),
}

impl From<Key> for u64 {
    fn from(key: Key) -> Self {
        let (kind, id) = match key {
            Key::Agents => (0, 0),
            Key::Outcome => (1, 0),
            Key::Log => (2, 0),
            Key::Agent(id) => (3, id),
            Key::Door(id) => (4, id),
            Key::Channel(id) => (5, id),
        };
        kind << 32 | Self::from(id)
    }
}

impl Key {
    fn read(key: u64) -> Option<Self> {
        let id = u32::try_from(key & u64::from(u32::MAX)).ok()?;
        match key >> 32 {
            0 => Some(Self::Agents),
            1 => Some(Self::Outcome),
            2 => Some(Self::Log),
            3 => Some(Self::Agent(id)),
            4 => Some(Self::Door(id)),
            5 => Some(Self::Channel(id)),
            _ => None,
        }
    }
}

/// What an order leads to beside its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Continue,
    Leave,
}

#[derive(Debug)]
pub(super) struct Control {
    epoll: Rc<Epoll>,
    shared: Arc<Shared>,
    outcome: Outcome,
    agents: Agents,
    registry: Registry,
    handoffs: HandOffs,
    log: AccessLog,
    /// The agent has said everything: what happens is news to it.
    synced: bool,
    accept_at: Option<Time>,
    /// Descriptors that are given up for the orders of an agent, should there be no others left.
    reserve: Vec<OwnedFd>,
    /// It is to leave when it has no connection left, which is looked at again then.
    idle_look_at: Option<Time>,
    lost_notices: u64,
    lost_lines: u64,
}

impl Control {
    /// `uid` may connect as an agent, beside root. The access log goes to `log`.
    pub(super) fn new(
        listener: PacketListener,
        uid: u32,
        shared: Arc<Shared>,
        outcome: Outcome,
        log: OwnedFd,
    ) -> io::Result<Self> {
        let epoll = Rc::new(Epoll::new()?);
        epoll.add(outcome.as_fd(), Key::Outcome.into(), Interest::READ)?;
        Ok(Self {
            agents: Agents::new(Rc::clone(&epoll), listener, uid)?,
            handoffs: HandOffs::new(Rc::clone(&epoll), Arc::clone(&shared)),
            log: AccessLog::new(Rc::clone(&epoll), log),
            epoll,
            shared,
            outcome,
            registry: Registry::default(),
            synced: false,
            accept_at: None,
            reserve: Vec::new(),
            idle_look_at: None,
            lost_notices: 0,
            lost_lines: 0,
        })
    }

    /// Returns when the agent says so.
    pub(super) fn run(mut self) -> Result<(), ProxyError> {
        let mut ready = Vec::with_capacity(READY_MAX);
        loop {
            let timeout = self.next_deadline().map(|at| at.since(now()));
            let waited = self.epoll.wait(&mut ready, timeout);
            waited.map_err(|source| ProxyError::Loop { step: "wait for events", source })?;
            for event in ready.drain(..) {
                match self.handle(event) {
                    Next::Continue => {}
                    Next::Leave => return Ok(()),
                }
            }
            self.finish_turn();
            if self.is_over(now()) {
                return Ok(());
            }
        }
    }

    fn next_deadline(&self) -> Option<Time> {
        let times = [self.registry.next_cut(), self.handoffs.next_deadline(), self.accept_at, self.idle_look_at];
        times.into_iter().flatten().min()
    }

    fn handle(&mut self, event: Ready) -> Next {
        match Key::read(event.key) {
            Some(Key::Agents) => {
                if self.agents.accept().is_err() {
                    // The listener stays readable: not looked at for a while, so that this does not spin.
                    self.agents.listen_for(Interest::NONE);
                    self.accept_at = Some(now().after(ACCEPT_AGAIN));
                }
            }
            Some(Key::Outcome) => self.outcome.clear(),
            // Written at the end of the turn.
            Some(Key::Log) | None => {}
            Some(Key::Agent(id)) => {
                self.agents.flush(id);
                if event.readable || event.hangup {
                    return self.hear(id);
                }
            }
            Some(Key::Door(id)) => self.handoffs.accept(id, now()),
            Some(Key::Channel(id)) => self.handoffs.hear(id, now()),
        }
        Next::Continue
    }

    fn hear(&mut self, id: u32) -> Next {
        for _ in 0..ORDERS_PER_TURN {
            match self.agents.hear(id) {
                Heard::Order(order, fds) => match self.obey(order, fds, now()) {
                    Next::Continue => {}
                    Next::Leave => return Next::Leave,
                },
                Heard::Noise(text) => self.agents.tell(&FromProxy::Trouble { text }),
                Heard::Nothing => break,
            }
        }
        Next::Continue
    }

    fn obey(&mut self, order: ToProxy, fds: Vec<OwnedFd>, now: Time) -> Next {
        match order {
            ToProxy::Hello { .. } => {
                self.idle_look_at = None;
                self.begin_sync();
                let pid = i32::try_from(std::process::id()).unwrap_or_default();
                self.agents.tell(&FromProxy::Hello { pid });
            }
            ToProxy::Listen { balancer, address } => self.listen(&balancer, address, fds),
            ToProxy::Unlisten { balancer, address } => self.unlisten(&balancer, &address),
            ToProxy::Table { table } => self.apply(*table, now),
            ToProxy::Remove { balancer } => self.remove(&balancer, now),
            ToProxy::HandOff { balancer, backend, run } => self.open_channel(balancer, backend, run, fds, now),
            ToProxy::Complete => self.complete(now),
            ToProxy::Stats { id } => self.tell_stats(id, now),
            ToProxy::Quit => {
                self.shared.tell(&Command::Quit);
                return Next::Leave;
            }
            ToProxy::QuitWhenIdle => {
                self.begin_sync();
                self.complete(now);
                self.idle_look_at = Some(now);
            }
        }
        Next::Continue
    }

    /// Nothing is named yet.
    fn begin_sync(&mut self) {
        self.synced = false;
        self.registry.begin_sync();
    }

    /// Whether an agent that has no use for the role is obeyed by now.
    fn is_over(&mut self, now: Time) -> bool {
        if self.idle_look_at.is_none_or(|at| at > now) {
            return false;
        }
        let over = self.registry.next_cut().is_none() || self.shared.sessions() == 0 && self.handoffs.is_idle();
        if over {
            self.shared.tell(&Command::Quit);
        }
        self.idle_look_at = Some(now.after(IDLE_LOOK));
        over
    }

    fn listen(&mut self, balancer: &str, address: Address, fds: Vec<OwnedFd>) {
        if self.registry.name_listener(balancer, &address) {
            return;
        }
        let Some(socket) = fds.into_iter().next() else {
            return self.ask_anew(format!("balancer {balancer}: an order to listen came without its socket"));
        };
        let listener = match Listener::new(address, socket) {
            Ok(listener) => listener,
            Err(error) => {
                return self.trouble(format!("balancer {balancer}: its listening socket is of no use: {error}"));
            }
        };
        self.registry.add_listener(balancer, Arc::clone(&listener));
        if let Some((balancer, delivery)) = self.registry.entry(balancer).and_then(|entry| entry.known.clone()) {
            self.watch(&balancer, delivery, listener);
        }
    }

    fn unlisten(&mut self, balancer: &str, address: &Address) {
        let delivery = self.registry.entry(balancer).and_then(|entry| entry.known.as_ref()).map(|known| known.1);
        if let (Some(listener), Some(delivery)) = (self.registry.remove_listener(balancer, address), delivery) {
            self.unwatch(delivery, &listener);
        }
    }

    fn watch(&mut self, balancer: &Arc<Balancer>, delivery: Delivery, listener: Arc<Listener>) {
        match delivery {
            Delivery::Proxy => self.shared.tell(&Command::Listen { balancer: Arc::clone(balancer), listener }),
            Delivery::HandOff => {
                if let Err(error) = self.handoffs.listen(Arc::clone(balancer), listener) {
                    self.trouble(format!(
                        "balancer {}: its listening socket cannot be watched: {error}",
                        balancer.name()
                    ));
                }
            }
            // The replicas accept by themselves.
            Delivery::Shared => {}
        }
    }

    fn unwatch(&mut self, delivery: Delivery, listener: &Arc<Listener>) {
        match delivery {
            Delivery::Proxy => {
                self.shared.tell(&Command::Unlisten { listener: Arc::clone(listener) });
                // INVARIANT: no connection is accepted from it under a table that is told later, which may have no backend for it.
                self.shared.wait_for_workers();
            }
            Delivery::HandOff => self.handoffs.unlisten(listener),
            Delivery::Shared => {}
        }
    }

    fn apply(&mut self, table: Table, now: Time) {
        let delivery = table.delivery;
        let entry = self.registry.entry(&table.balancer);
        let before = entry.and_then(|entry| entry.known.as_ref()).map(|known| known.1);
        let mut moved: Vec<Arc<Listener>> = Vec::new();
        if before != Some(delivery) {
            moved.extend(entry.iter().flat_map(|entry| &entry.listeners).map(|named| Arc::clone(&named.what)));
        }
        if let Some(before) = before {
            moved.iter().for_each(|listener| self.unwatch(before, listener));
        }
        let applied = self.registry.apply(table, now);
        let balancer = applied.balancer;
        for listener in moved {
            self.watch(&balancer, delivery, listener);
        }
        if applied.before.is_some() {
            self.shared.tell(&Command::Changed { balancer: Arc::clone(&balancer) });
            self.handoffs.changed(&balancer, now);
        }
        if self.synced {
            self.tell_drained(balancer.name(), applied.drained);
        }
    }

    fn remove(&mut self, balancer: &str, now: Time) {
        let Some(entry) = self.registry.remove(balancer, now) else { return };
        let Some((_, delivery)) = entry.known else { return };
        for listener in entry.listeners {
            self.unwatch(delivery, &listener.what);
        }
    }

    fn open_channel(&mut self, balancer: String, backend: String, run: u32, fds: Vec<OwnedFd>, now: Time) {
        let whose = format!("balancer {balancer}: the channel of {backend}");
        let Some(socket) = fds.into_iter().next() else {
            return self.ask_anew(format!("{whose} came without its socket"));
        };
        let name = balancer.clone();
        match self.handoffs.open(balancer, backend, run, socket) {
            Ok(()) => self.handoffs.retry(&name, now),
            Err(error) => self.trouble(format!("{whose} cannot be watched: {error}")),
        }
    }

    /// What the agent has not named is gone. Then it is told what it cannot know.
    fn complete(&mut self, now: Time) {
        let (balancers, listeners) = self.registry.unnamed();
        for balancer in balancers {
            self.remove(&balancer, now);
        }
        for (balancer, address) in listeners {
            self.unlisten(&balancer, &address);
        }
        self.synced = true;
        self.fill_reserve();
        self.tell_standing(now);
    }

    /// Which backends have drained, and which are ejected.
    fn tell_standing(&mut self, now: Time) {
        let balancers: Vec<Arc<Balancer>> =
            self.registry.balancers().map(|(balancer, _)| Arc::clone(balancer)).collect();
        for balancer in balancers {
            self.tell_drained(balancer.name(), registry::drained(&balancer));
            for state in balancer.live().backends.iter().filter(|state| state.is_ejected(now)) {
                let Some(ejected_ms) = state.stats(now).ejected_ms else { continue };
                self.agents.tell(&FromProxy::Ejected {
                    balancer: balancer.name().to_owned(),
                    backend: state.name().to_owned(),
                    run: state.run(),
                    why: "connections to it failed before this agent came".to_owned(),
                    for_: Duration::from_millis(ejected_ms),
                });
            }
        }
    }

    fn tell_drained(&mut self, balancer: &str, drained: Vec<(String, u32)>) {
        for (backend, run) in drained {
            self.agents.tell(&FromProxy::Drained { balancer: balancer.to_owned(), backend, run });
        }
    }

    fn tell_stats(&mut self, id: u64, now: Time) {
        let balancers: Vec<Arc<Balancer>> =
            self.registry.balancers().map(|(balancer, _)| Arc::clone(balancer)).collect();
        for part in balancers.iter().flat_map(|balancer| balancer.stats(now).split()) {
            self.agents.tell(&FromProxy::Stats { id, stats: Box::new(part) });
        }
        self.agents.tell(&FromProxy::StatsEnd { id });
    }

    /// The kernel had no descriptor left for what came with an order. Only an agent that comes anew says it again; for it, there is a reserve.
    fn ask_anew(&mut self, text: String) {
        self.trouble(text);
        self.reserve.clear();
        self.agents.let_go();
    }

    /// Fails while there are none left: then the next agent's word is the next try.
    fn fill_reserve(&mut self) {
        while self.reserve.len() < RESERVE {
            let Ok(copy) = self.outcome.as_fd().try_clone_to_owned() else { return };
            self.reserve.push(copy);
        }
    }

    fn trouble(&mut self, text: String) {
        self.agents.tell(&FromProxy::Trouble { text });
    }

    fn finish_turn(&mut self) {
        let now = now();
        if self.accept_at.is_some_and(|at| at <= now) {
            self.accept_at = None;
            self.agents.listen_for(Interest::READ);
        }
        for cut in self.registry.take_due(now) {
            match cut {
                CutOf::Balancer(balancer) => {
                    self.handoffs.cut_balancer(&balancer, now);
                    self.shared.tell(&Command::CutBalancer { balancer });
                }
                CutOf::Left(balancer, backend) | CutOf::Drain(balancer, backend, _) => {
                    self.handoffs.cut_backend(&backend, now);
                    self.shared.tell(&Command::CutBackend { balancer, backend });
                }
            }
        }
        self.handoffs.settle(now);
        self.pass_on_notices(now);
        self.write_log();
    }

    fn pass_on_notices(&mut self, now: Time) {
        while let Some(notice) = self.outcome.notice() {
            let message = match notice {
                Notice::Drained { balancer, backend, run } => FromProxy::Drained { balancer, backend, run },
                Notice::Ejected { balancer, backend, run, why, for_ } => {
                    FromProxy::Ejected { balancer, backend, run, why, for_ }
                }
                Notice::Restored { balancer, backend, run } => FromProxy::Restored { balancer, backend, run },
                Notice::Trouble { text } => FromProxy::Trouble { text },
            };
            // Until it has said everything, an agent is told at its end how things stand.
            if self.synced {
                self.agents.tell(&message);
            }
        }
        let lost = self.shared.lost_notices();
        if lost != self.lost_notices {
            self.lost_notices = lost;
            if self.synced {
                self.tell_standing(now);
            }
        }
    }

    fn write_log(&mut self) {
        while let Some(finished) = self.outcome.finished() {
            self.log.add(&finished);
        }
        let lost = self.shared.lost_lines();
        self.log.add_dropped(lost - self.lost_lines);
        self.lost_lines = lost;
        self.log.flush();
    }
}

fn now() -> Time {
    Time(mono_ns())
}

#[cfg(test)]
mod tests;
