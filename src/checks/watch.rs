//! What the agent wants to know of the host: the orders, when each is due, and what is told before it is.
//!
//! All periods begin with the order, so that what is due together is read in one turn. While no agent is there, nothing is open and
//! nothing is due; only the position in the kernel's log is remembered.

mod entry;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use entry::{Entry, Reader};

use super::alarms::Alarms;
use super::gateway::Asked;
use super::inventory::Inventory;
use super::kernel::{Begin, KernelReader, Position, Turn};
use super::link_events::link_names;
use super::nics::LinkState;
use super::proto::FromChecks;
use crate::engine::host::sample::Sample;
use crate::engine::host::watch::{Missing, Order, Source};
use crate::sys::clock;
use crate::sys::epoll::{Epoll, Interest};
use crate::sys::files::{self, Durability};
use crate::sys::netlink::{Heard, Netlink};

/// Keys of the loop's epoll.
pub(super) mod keys {
    pub(in crate::checks) const MOUNTS: u64 = 2;
    pub(in crate::checks) const UEVENTS: u64 = 3;
    pub(in crate::checks) const LINKS: u64 = 4;
    pub(in crate::checks) const CLOCK: u64 = 5;
    pub(in crate::checks) const KERNEL: u64 = 6;
    pub(in crate::checks) const GATEWAY: u64 = 7;
    pub(in crate::checks) const MEMORY: u64 = 8;
    pub(in crate::checks) const CPU: u64 = 9;
    pub(in crate::checks) const IO: u64 = 10;
    /// One for each array, by its place among the disks of the order.
    pub(in crate::checks) const ARRAYS: u64 = 16;
    /// The first that is not ours.
    pub(in crate::checks) const END: u64 = 1024;
}

/// What is due within this time of another is read with it.
const TOGETHER: Duration = Duration::from_millis(50);
/// Between two readings of NICs because of events.
const LINKS_PAUSE: Duration = Duration::from_millis(100);
/// A message about a link has a kibibyte or two; the name is among the first attributes.
const LINK_BYTES: usize = 4096;
/// Messages taken in one turn.
const MESSAGES_AT_ONCE: usize = 64;
/// Orders beyond are passed over.
const ORDERS_MAX: usize = 64;
/// Below the run directory: up to where the kernel's log has been read, for the role's successor.
const KERNEL_POSITION: &str = "roles/checks.kmsg";

/// Where to read.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// `/`, or for tests a directory with the same files.
    pub(super) root: PathBuf,
    /// `/dev/kmsg`, or for tests a pipe with the same text.
    pub(super) kmsg: PathBuf,
    /// `None`: a successor knows nothing of us.
    pub(super) run_dir: Option<PathBuf>,
}

#[derive(Debug)]
pub(super) struct Watch {
    settings: Settings,
    kernel_position: Position,
    /// While an agent is there.
    active: Option<Active>,
}

#[derive(Debug)]
struct Active {
    inventory: Inventory,
    links: Option<Netlink>,
    alarms: Option<Alarms>,
    entries: Vec<Entry>,
    /// The kernel's log is not read because the agent is behind.
    paused: bool,
    /// NICs are read before their time.
    links_due: Option<Instant>,
    links_read: Option<Instant>,
}

type Told = Vec<FromChecks>;

fn sampled(sample: Sample) -> FromChecks {
    FromChecks::Sampled { sample: Box::new(sample) }
}

impl Watch {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, kernel_position: Position::default(), active: None }
    }

    /// An agent is there: it is told the devices.
    pub(super) fn begin(&mut self, epoll: &Epoll, now: Instant, told: &mut Told) {
        self.end();
        let root = &self.settings.root;
        let links = (root == Path::new("/"))
            .then(|| Netlink::links().ok())
            .flatten()
            .filter(|socket| epoll.add(socket.as_fd(), keys::LINKS, Interest::READ).is_ok());
        let inventory = Inventory::new(root, epoll, links.is_some(), now);
        told.push(FromChecks::Devices { devices: Box::new(inventory.devices().clone()) });
        self.active = Some(Active {
            inventory,
            links,
            alarms: None,
            entries: Vec::new(),
            paused: false,
            links_due: None,
            links_read: None,
        });
    }

    /// The agent is gone. What is closed leaves the epoll.
    pub(super) fn end(&mut self) {
        self.active = None;
    }

    /// What is to be read from now on.
    pub(super) fn order(&mut self, orders: Vec<Order>, epoll: &Epoll, now: Instant, told: &mut Told) {
        let Some(active) = &mut self.active else { return };
        let mut before = std::mem::take(&mut active.entries);
        for order in orders.into_iter().take(ORDERS_MAX) {
            let mut entry = match before.iter().position(|entry| entry.source == order.source) {
                Some(index) => before.swap_remove(index),
                None => Entry::new(order.source),
            };
            entry.begin(order.every_ms, now);
            if matches!(entry.reader, Reader::None) {
                let begin = kernel_begin(self.kernel_position, self.settings.run_dir.as_deref());
                entry.open(&self.settings, begin, epoll, told);
            }
            active.entries.push(entry);
        }
        let system = active.entries.iter().any(|entry| matches!(entry.reader, Reader::System(_)));
        if !system {
            active.alarms = None;
        } else if active.alarms.is_none() {
            active.alarms = Some(Alarms::new(&self.settings.root, epoll));
        }
    }

    /// When [`Self::read_due`] is to be called at the latest.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let active = self.active.as_ref()?;
        let readings = active.entries.iter().filter_map(Entry::deadline);
        readings.chain(active.inventory.deadline()).chain(active.links_due).min()
    }

    /// Reads what is due. `behind`: the agent does not take what it is told, so nothing is read for it.
    pub(super) fn read_due(&mut self, epoll: &Epoll, now: Instant, behind: bool, told: &mut Told) {
        let Some(active) = &mut self.active else { return };
        active.pause(epoll, behind);
        if active.inventory.is_due(now) {
            // What the kernel said of a file system comes before the news that another one is in its place.
            if !behind {
                self.hear_kernel(told);
            }
            self.look(now, told);
        }
        let Some(active) = &mut self.active else { return };
        if active.entries.iter().filter_map(Entry::deadline).min().is_some_and(|due| due <= now) {
            for entry in &mut active.entries {
                entry.give_up(now, told);
                if entry.take_due(now + TOGETHER) && !behind {
                    entry.read(epoll, now, active.alarms.as_mut(), told);
                }
            }
        }
        if active.links_due.is_some_and(|due| due <= now) && !behind {
            active.read_links(now, told);
        }
    }

    /// Something happened to a descriptor of ours.
    pub(super) fn hear(&mut self, key: u64, epoll: &Epoll, now: Instant, told: &mut Told) {
        let Some(active) = &mut self.active else { return };
        match key {
            keys::MOUNTS => active.inventory.stir(now),
            keys::UEVENTS => active.inventory.hear(now, epoll),
            keys::LINKS => active.hear_links(now, told),
            keys::CLOCK => {
                if let Some(by_ms) = active.alarms.as_mut().and_then(|alarms| alarms.clock_set(epoll)) {
                    told.push(sampled(Sample::ClockSet { by_ms }));
                }
            }
            keys::MEMORY | keys::CPU | keys::IO => active.pressed(key, epoll, now, told),
            keys::GATEWAY => active.hear_gateway(told),
            keys::KERNEL => self.hear_kernel(told),
            keys::ARRAYS..keys::END => {
                active.read_where(|reader| matches!(reader, Reader::Disks(_)), epoll, now, told);
            }
            _ => {}
        }
    }

    fn look(&mut self, now: Instant, told: &mut Told) {
        if let Some(devices) = self.active.as_mut().and_then(|active| active.inventory.look(now)) {
            told.push(FromChecks::Devices { devices: Box::new(devices.clone()) });
        }
    }

    fn hear_kernel(&mut self, told: &mut Told) {
        let Some(active) = &mut self.active else { return };
        for entry in &mut active.entries {
            let Reader::Kernel(reader) = &mut entry.reader else { continue };
            let before = self.kernel_position;
            let (lines, ended) = match reader.read() {
                Turn::More(lines) => (lines, false),
                Turn::Ended(lines) => (lines, true),
            };
            self.kernel_position = reader.position();
            // Written for what was told, which is seldom; and once, so that a successor does not look back.
            if !lines.is_empty() || before == Position::default() {
                save_position(self.kernel_position, self.settings.run_dir.as_deref());
            }
            if !lines.is_empty() {
                told.push(sampled(Sample::Kernel(lines)));
            }
            if ended {
                entry.miss("the kernel's log cannot be read any more".to_owned(), told);
            }
        }
    }
}

impl Active {
    fn read_where(&mut self, wanted: impl Fn(&Reader) -> bool, epoll: &Epoll, now: Instant, told: &mut Told) {
        for entry in self.entries.iter_mut().filter(|entry| wanted(&entry.reader)) {
            entry.read(epoll, now, self.alarms.as_mut(), told);
        }
    }

    /// Pressure begins: the host is looked at before its time.
    fn pressed(&mut self, key: u64, epoll: &Epoll, now: Instant, told: &mut Told) {
        if self.alarms.as_mut().is_some_and(|alarms| alarms.pressed(key, now, epoll)) {
            self.read_where(|reader| matches!(reader, Reader::System(_)), epoll, now, told);
        }
    }

    fn hear_links(&mut self, now: Instant, told: &mut Told) {
        let mut buffer = [0; LINK_BYTES];
        let (mut ours, mut others) = (false, false);
        for _ in 0..MESSAGES_AT_ONCE {
            let Some(socket) = &self.links else { break };
            match socket.receive(&mut buffer) {
                Ok(Heard::Message(length)) => {
                    for name in link_names(&buffer[..length]) {
                        let known = self.entries.iter().any(|entry| entry.reader.knows_nic(name));
                        ours |= known;
                        others |= name != "lo";
                    }
                }
                Ok(Heard::Overrun) => (ours, others) = (true, true),
                Ok(Heard::Nothing) => break,
                // Nothing more is heard of it; the NICs are still read in their turn.
                Err(_) => self.links = None,
            }
        }
        if others {
            self.inventory.stir(now);
        }
        if !ours {
            return;
        }
        let due = self.links_read.map_or(now, |at| (at + LINKS_PAUSE).max(now));
        self.links_due = Some(due);
        if due <= now {
            self.read_links(now, told);
        }
    }

    /// Told only if a link has changed: the kernel also speaks of what does not matter here.
    fn read_links(&mut self, now: Instant, told: &mut Told) {
        self.links_due = None;
        self.links_read = Some(now);
        for entry in &mut self.entries {
            let Reader::Nics { reader, told: before } = &mut entry.reader else { continue };
            let stats = reader.read();
            let state = LinkState::of(&stats);
            if state != *before {
                *before = state;
                told.push(sampled(Sample::Nics(stats)));
            }
        }
    }

    fn hear_gateway(&mut self, told: &mut Told) {
        for entry in &mut self.entries {
            if let Reader::Gateway(reader) = &mut entry.reader
                && let Some(stat) = reader.hear()
            {
                told.push(sampled(Sample::Gateway(stat)));
            }
        }
    }

    /// The kernel keeps its log, so it waits there.
    fn pause(&mut self, epoll: &Epoll, behind: bool) {
        if self.paused == behind {
            return;
        }
        for entry in &self.entries {
            if let Reader::Kernel(reader) = &entry.reader {
                let log = reader.log().as_fd();
                // A log that cannot be paused is read all the same; its lines are few. Taken out, as an overrun is told otherwise too.
                let _ = if behind { epoll.remove(log) } else { epoll.add(log, keys::KERNEL, Interest::READ) };
            }
        }
        self.paused = behind;
    }
}

/// Where a reader of the kernel's log goes on: where this process was, or its predecessor; the first of a boot looks back.
fn kernel_begin(position: Position, run_dir: Option<&Path>) -> Begin {
    if position != Position::default() {
        return Begin::At(position);
    }
    let Some(run_dir) = run_dir else { return Begin::LookBack };
    let saved = std::fs::read_to_string(run_dir.join(KERNEL_POSITION)).unwrap_or_default();
    let boot = clock::boot_id().unwrap_or_default();
    match saved.trim_ascii().split_once(' ') {
        Some((of, next)) if of == boot => match next.parse() {
            Ok(next) => Begin::At(Position::at(next)),
            Err(_) => Begin::Now,
        },
        Some(_) | None => Begin::LookBack,
    }
}

fn save_position(position: Position, run_dir: Option<&Path>) {
    let (Some(run_dir), Some(next), Ok(boot)) = (run_dir, position.next(), clock::boot_id()) else { return };
    // Only a successor would miss it, and then look back further than needed.
    let _ = files::write_atomically(
        &run_dir.join(KERNEL_POSITION),
        format!("{boot} {next}\n").as_bytes(),
        Durability::Memory,
    );
}

#[cfg(test)]
mod tests;
