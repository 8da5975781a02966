//! The loop of the checks role: one epoll over the listener, the agent, the sockets of the probes and what tells of the host.

use std::time::{Duration, Instant};

use super::ChecksError;
use super::agent::{self, Accepted, Agents, Heard};
use super::probes::Probes;
use super::proto::{FromChecks, ToChecks};
use super::watch::{Settings, Watch, keys};
use crate::sys::epoll::{Epoll, Ready};
use crate::sys::packet::PacketListener;
use crate::sys::text::Settling;

/// Events taken from the kernel at once.
const READY_MAX: usize = 64;
/// Orders taken from the agent before probes get their turn.
const ORDERS_AT_ONCE: usize = 64;
/// With so many packets that the agent does not take, nothing is read of the host: what it would say now is of no use later.
const UNSENT_MAX: usize = 64;

pub(super) struct Server {
    epoll: Epoll,
    agents: Agents,
    /// The generation of the agent that asked for what is under way.
    generation: u64,
    probes: Probes,
    watch: Watch,
    /// What is to be told of the host, in one turn.
    told: Vec<FromChecks>,
}

/// What an order leads to beside its effect on the probes.
enum Next {
    Continue,
    Leave,
}

impl Server {
    pub(super) fn new(
        listener: PacketListener,
        settings: Settings,
        agentless_max: Duration,
    ) -> Result<Self, ChecksError> {
        let epoll = Epoll::new().map_err(|source| ChecksError::Loop { step: "make an epoll", source })?;
        let agents = Agents::new(&epoll, listener, agentless_max)?;
        let (probes, watch) = (Probes::new(keys::END), Watch::new(settings));
        Ok(Self { epoll, agents, generation: 0, probes, watch, told: Vec::new() })
    }

    /// Returns when an agent orders it, or when none has been there for too long.
    pub(super) fn run(mut self) -> Result<(), ChecksError> {
        let mut ready = Vec::with_capacity(READY_MAX);
        let mut settling = Settling::begin();
        loop {
            let now = Instant::now();
            self.probes.end_late(now, &self.epoll, &mut self.agents);
            let behind = self.agents.unsent() >= UNSENT_MAX;
            self.watch.read_due(&self.epoll, now, behind, &mut self.told);
            self.tell();
            self.settle();
            if self.agents.leave_at().is_some_and(|at| at <= now) {
                return Ok(());
            }
            let timeout = self.next_deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout = settling.before_sleep(timeout);
            self.epoll.wait(&mut ready, timeout).map_err(|source| ChecksError::Loop { step: "wait", source })?;
            for event in &ready {
                match event.key {
                    agent::LISTENER => self.accept(),
                    agent::AGENT => match self.hear(event) {
                        Next::Continue => {}
                        Next::Leave => return Ok(()),
                    },
                    agent::FIRST_KEY..keys::END => {
                        self.watch.hear(event.key, &self.epoll, Instant::now(), &mut self.told);
                    }
                    probe => self.probes.advance(probe, &self.epoll, &mut self.agents),
                }
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        [self.agents.leave_at(), self.probes.next_deadline(), self.watch.next_deadline()].into_iter().flatten().min()
    }

    fn tell(&mut self) {
        for message in self.told.drain(..) {
            self.agents.tell(&self.epoll, &message);
        }
    }

    fn accept(&mut self) {
        let accepted = self.agents.accept(&self.epoll);
        self.settle();
        match accepted {
            Accepted::All => {}
            Accepted::NoRoom => self.make_room(),
        }
    }

    /// An agent that cannot be accepted has most likely met our limit of descriptors: one probe gives way at each attempt.
    fn make_room(&mut self) {
        if !self.probes.sacrifice(&self.epoll, &mut self.agents) {
            std::thread::sleep(agent::ACCEPT_PAUSE);
        }
    }

    /// The probes and orders of an agent that is gone, or has been replaced, are dropped; a new one is told the devices.
    fn settle(&mut self) {
        if self.generation == self.agents.generation() {
            return;
        }
        self.generation = self.agents.generation();
        self.probes.clear();
        self.watch.end();
        self.told.clear();
        if self.agents.leave_at().is_none() {
            self.watch.begin(&self.epoll, Instant::now(), &mut self.told);
            self.tell();
        }
    }

    fn hear(&mut self, event: &Ready) -> Next {
        if !self.agents.is_heard(&self.epoll, event) {
            return Next::Continue;
        }
        let mut packet = Vec::new();
        for _ in 0..ORDERS_AT_ONCE {
            let heard = self.agents.next_order(&mut packet);
            self.settle();
            match heard {
                Heard::Order(order) => match self.obey(order) {
                    Next::Continue => {}
                    Next::Leave => return Next::Leave,
                },
                // It gets no answer; its deadline runs out over there.
                Heard::Unknown => {}
                Heard::Nothing => break,
            }
        }
        self.agents.adjust(&self.epoll);
        Next::Continue
    }

    fn obey(&mut self, order: ToChecks) -> Next {
        match order {
            ToChecks::Hello { .. } => {}
            ToChecks::Probe { id, target, timeout_ms } => {
                self.probes.start(id, &target, timeout_ms, &self.epoll, &mut self.agents);
            }
            ToChecks::Cancel { id } => self.probes.cancel(id),
            ToChecks::Watch { orders } => self.watch.order(orders, &self.epoll, Instant::now(), &mut self.told),
            ToChecks::Quit => return Next::Leave,
        }
        Next::Continue
    }
}

#[cfg(test)]
mod tests;
