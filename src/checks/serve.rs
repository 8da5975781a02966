//! The loop of the checks role: one epoll over the listener, the agent, the sockets of the probes and what tells of the host.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::ChecksError;
use super::link::Link;
use super::probes::Probes;
use super::proto::{FromChecks, ToChecks};
use super::watch::{Settings, Watch, keys};
use crate::sys::epoll::{Epoll, Interest, Ready};
use crate::sys::host;
use crate::sys::packet::{PacketListener, PacketSocket};

const LISTENER: u64 = 0;
const AGENT: u64 = 1;
/// Between the agent's and those of the probes are the keys of what tells of the host.
const FIRST_HOST_KEY: u64 = 2;
/// Events taken from the kernel at once.
const READY_MAX: usize = 64;
/// Orders taken from the agent before probes get their turn.
const ORDERS_AT_ONCE: usize = 64;
/// Between two attempts to accept an agent when the host has no descriptors left, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

pub(super) struct Server {
    epoll: Epoll,
    listener: PacketListener,
    link: Link,
    probes: Probes,
    watch: Watch,
    /// What is to be told of the host, in one turn.
    told: Vec<FromChecks>,
    agentless_max: Duration,
    /// While no agent is connected.
    agentless_since: Option<Instant>,
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
        epoll
            .add(listener.as_fd(), LISTENER, Interest::READ)
            .map_err(|source| ChecksError::Loop { step: "watch the listening socket", source })?;
        Ok(Self {
            epoll,
            listener,
            link: Link::default(),
            probes: Probes::new(keys::END),
            watch: Watch::new(settings),
            told: Vec::new(),
            agentless_max,
            agentless_since: Some(Instant::now()),
        })
    }

    /// Returns when an agent orders it, or when none has been there for too long.
    pub(super) fn run(mut self) -> Result<(), ChecksError> {
        let mut ready = Vec::with_capacity(READY_MAX);
        loop {
            let now = Instant::now();
            self.probes.end_late(now, &self.epoll, &mut self.link);
            self.watch.read_due(&self.epoll, now, self.link.is_behind(), &mut self.told);
            self.tell();
            self.notice_parting(now);
            if self.agentless_since.is_some_and(|since| now.saturating_duration_since(since) >= self.agentless_max) {
                return Ok(());
            }
            let timeout = self.next_deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()));
            self.epoll.wait(&mut ready, timeout).map_err(|source| ChecksError::Loop { step: "wait", source })?;
            for event in &ready {
                match event.key {
                    LISTENER => self.accept(),
                    AGENT => match self.hear(event) {
                        Next::Continue => {}
                        Next::Leave => return Ok(()),
                    },
                    FIRST_HOST_KEY..keys::END => {
                        self.watch.hear(event.key, &self.epoll, Instant::now(), &mut self.told);
                    }
                    probe => self.probes.advance(probe, &self.epoll, &mut self.link),
                }
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let agentless = self.agentless_since.map(|since| since + self.agentless_max);
        [agentless, self.probes.next_deadline(), self.watch.next_deadline()].into_iter().flatten().min()
    }

    fn tell(&mut self) {
        for message in self.told.drain(..) {
            self.link.tell(&self.epoll, &message);
        }
    }

    fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok(Some(socket)) => self.greet(socket),
                Ok(None) => return,
                Err(_) => return self.make_room(),
            }
        }
    }

    /// An agent that cannot be accepted has most likely met our limit of descriptors: one probe gives way at each attempt.
    fn make_room(&mut self) {
        if !self.probes.sacrifice(&self.epoll, &mut self.link) {
            std::thread::sleep(ACCEPT_PAUSE);
        }
    }

    /// The newest agent counts, if it is root or of our own user; the probes and orders of the older one are dropped.
    fn greet(&mut self, socket: PacketSocket) {
        if !socket.peer().is_ok_and(|peer| peer.uid == 0 || peer.uid == host::uid()) {
            return;
        }
        let now = Instant::now();
        self.link.close();
        self.notice_parting(now);
        if self.link.connect(&self.epoll, AGENT, socket) {
            self.agentless_since = None;
            let pid = i32::try_from(std::process::id()).unwrap_or_default();
            self.link.tell(&self.epoll, &FromChecks::Hello { pid });
            self.watch.begin(&self.epoll, now, &mut self.told);
            self.tell();
        }
    }

    /// The agent is gone, or another takes its place: nobody waits for anything.
    fn notice_parting(&mut self, now: Instant) {
        if !self.link.is_open() && self.agentless_since.is_none() {
            self.probes.clear();
            self.watch.end();
            self.told.clear();
            self.agentless_since = Some(now);
        }
    }

    fn hear(&mut self, event: &Ready) -> Next {
        if event.writable || event.hangup {
            self.link.flush(&self.epoll);
        }
        if !event.readable && !event.hangup {
            return Next::Continue;
        }
        let mut packet = Vec::new();
        for _ in 0..ORDERS_AT_ONCE {
            if self.link.receive(&mut packet).is_none() {
                break;
            }
            // An order that only a newer agent knows gets no answer; its deadline runs out over there.
            let Ok(order) = serde_json::from_slice(&packet) else { continue };
            match self.obey(order) {
                Next::Continue => {}
                Next::Leave => return Next::Leave,
            }
        }
        self.link.watch(&self.epoll);
        Next::Continue
    }

    fn obey(&mut self, order: ToChecks) -> Next {
        match order {
            ToChecks::Hello { .. } => {}
            ToChecks::Probe { id, target, timeout_ms } => {
                self.probes.start(id, &target, timeout_ms, &self.epoll, &mut self.link);
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
