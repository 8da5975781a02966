//! The roles that may block: sensors, and one helper for each disk or remote mount.
//!
//! A reading blocks the process, for ever if the device never answers: that is what the process is for. It holds nothing that
//! anybody else waits for, does one reading at a time in the order in which they are due, and sleeps until the next one is.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use super::agent::{self, Accepted, Agents, Heard};
use super::proto::{FromChecks, ToChecks};
use super::readings::{Reader, Reading, Readings};
use super::start::{self, Arguments};
use super::{AGENTLESS_MAX, ChecksError};
use crate::engine::host::watch::{Missing, Order, Source};
use crate::sys::epoll::{Epoll, Ready};
use crate::sys::packet::PacketListener;
use crate::sys::text::Settling;

/// Below the run directory.
const SENSORS_SOCKET: &str = "roles/sensors.sock";
/// Orders beyond are told as missing.
const ORDERS_MAX: usize = 256;
/// Nothing is read more often.
const EVERY_MIN: Duration = Duration::from_millis(100);
/// How often it is made sure that errors of a file system are still told; they come by themselves.
const RENEW_EVERY: Duration = Duration::from_secs(60);
/// Between the first readings of two orders, so that they do not fall on the same instant for ever.
const SPREAD: Duration = Duration::from_millis(20);
/// With so many packets that the agent does not take, nothing is read: it could only grow old.
const UNSENT_MAX: usize = 64;
/// Events taken from the kernel at once.
const READY_MAX: usize = 8;
/// After errors of a file system were told.
const ERRORS_PAUSE: Duration = Duration::from_millis(200);

/// The process of `mainstay role sensors --run-dir PATH`.
///
/// # Errors
/// What keeps the role from listening or from waiting. What cannot be read is a message, never an error here.
pub fn run_sensors(arguments: impl Iterator<Item = OsString>) -> Result<(), ChecksError> {
    run(arguments, Reader::Sensors)
}

/// The process of `mainstay role disk --run-dir PATH --slot NUMBER`.
///
/// # Errors
/// As [`run_sensors`].
pub fn run_disk(arguments: impl Iterator<Item = OsString>) -> Result<(), ChecksError> {
    run(arguments, Reader::Disk)
}

fn run(arguments: impl Iterator<Item = OsString>, reader: Reader) -> Result<(), ChecksError> {
    let ready = start::ready_descriptor()?;
    let arguments = Arguments::parse(arguments)?;
    let socket = match (reader, arguments.slot) {
        (Reader::Sensors, _) => SENSORS_SOCKET.to_owned(),
        (Reader::Disk, Some(slot)) => format!("roles/disk-{slot}.sock"),
        (Reader::Disk, None) => return Err(ChecksError::Usage("--slot is missing".to_owned())),
    };
    let listener = start::listen(&arguments.run_dir, &socket)?;
    // A working directory would keep its file system mounted.
    std::env::set_current_dir("/")
        .map_err(|source| ChecksError::Loop { step: "change to the root directory", source })?;
    let helper = Helper::new(listener, Readings::new(reader, &arguments.root), AGENTLESS_MAX)?;
    start::tell_ready(ready)?;
    helper.run()
}

pub(super) struct Helper {
    epoll: Epoll,
    agents: Agents,
    /// The generation of the agent whose orders these are.
    generation: u64,
    tasks: Vec<Task>,
    readings: Readings,
}

struct Task {
    source: Source,
    every: Duration,
    due: Instant,
    /// Why it was missing the last time.
    missing: Option<String>,
}

enum Next {
    Continue,
    Leave,
}

impl Helper {
    pub(super) fn new(
        listener: PacketListener,
        readings: Readings,
        agentless_max: Duration,
    ) -> Result<Self, ChecksError> {
        let epoll = Epoll::new().map_err(|source| ChecksError::Loop { step: "make an epoll", source })?;
        let agents = Agents::new(&epoll, listener, agentless_max)?;
        Ok(Self { epoll, agents, generation: 0, tasks: Vec::new(), readings })
    }

    /// Returns when an agent orders it, or when none has been there for too long.
    pub(super) fn run(mut self) -> Result<(), ChecksError> {
        let mut ready = Vec::with_capacity(READY_MAX);
        let mut settling = Settling::begin();
        loop {
            let now = Instant::now();
            if self.agents.leave_at().is_some_and(|at| at <= now) {
                return Ok(());
            }
            let timeout = self.wake_at().map(|at| at.saturating_duration_since(now));
            let timeout = settling.before_sleep(timeout);
            self.epoll.wait(&mut ready, timeout).map_err(|source| ChecksError::Loop { step: "wait", source })?;
            for event in &ready {
                match event.key {
                    agent::LISTENER => self.accept(),
                    agent::AGENT => match self.hear(event) {
                        Next::Continue => {}
                        Next::Leave => return Ok(()),
                    },
                    key => self.take(key),
                }
            }
            self.settle();
            // One, and then a look at what the agent says: it may want something else by now.
            self.read_next();
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let due = self.tasks.iter().map(|task| task.due).min().filter(|_| self.may_read());
        [self.agents.leave_at(), due].into_iter().flatten().min()
    }

    fn may_read(&self) -> bool {
        self.agents.unsent() < UNSENT_MAX
    }

    fn accept(&mut self) {
        match self.agents.accept(&self.epoll) {
            Accepted::All => {}
            Accepted::NoRoom => std::thread::sleep(agent::ACCEPT_PAUSE),
        }
        self.settle();
    }

    /// The orders of an agent that is gone are void: the next one has its own.
    fn settle(&mut self) {
        if self.generation != self.agents.generation() {
            self.generation = self.agents.generation();
            self.watch(Vec::new());
        }
    }

    fn hear(&mut self, event: &Ready) -> Next {
        if !self.agents.is_heard(&self.epoll, event) {
            return Next::Continue;
        }
        let mut packet = Vec::new();
        loop {
            let heard = self.agents.next_order(&mut packet);
            self.settle();
            match heard {
                Heard::Order(ToChecks::Watch { orders }) => self.watch(orders),
                Heard::Order(ToChecks::Quit) => return Next::Leave,
                Heard::Order(ToChecks::Probe { id, .. }) => {
                    let error = Some("another role probes".to_owned());
                    self.agents.tell(&self.epoll, &FromChecks::Answer { id, error });
                }
                Heard::Order(ToChecks::Hello { .. } | ToChecks::Cancel { .. }) | Heard::Unknown => {}
                Heard::Nothing => break,
            }
        }
        self.agents.adjust(&self.epoll);
        Next::Continue
    }

    fn watch(&mut self, orders: Vec<Order>) {
        self.readings.watch(&orders);
        let mut due = Instant::now();
        self.tasks.clear();
        for order in orders {
            if self.tasks.len() == ORDERS_MAX {
                self.miss(order.source, format!("one role reads at most {ORDERS_MAX} things"));
                continue;
            }
            let comes_by_itself = matches!(order.source, Source::FilesystemErrors { .. });
            let every =
                if comes_by_itself { RENEW_EVERY } else { Duration::from_millis(order.every_ms).max(EVERY_MIN) };
            self.tasks.push(Task { source: order.source, every, due, missing: None });
            due += SPREAD;
        }
        self.tasks.shrink_to_fit();
    }

    /// Reads what is due first, if anything is.
    fn read_next(&mut self) {
        let now = Instant::now();
        if !self.may_read() {
            return;
        }
        let Some(task) = self.tasks.iter_mut().min_by_key(|task| task.due).filter(|task| task.due <= now) else {
            return;
        };
        let reading = self.readings.read(&self.epoll, &task.source);
        let after = Instant::now();
        task.due += task.every;
        if task.due <= after {
            task.due = after + task.every;
        }
        match reading {
            Reading::Sampled(sample) => {
                task.missing = None;
                self.agents.tell(&self.epoll, &FromChecks::Sampled { sample: Box::new(sample) });
            }
            Reading::Waiting => task.missing = None,
            Reading::Missing(why) if task.missing.as_ref() == Some(&why) => {}
            Reading::Missing(why) => {
                task.missing = Some(why.clone());
                let source = task.source.clone();
                self.miss(source, why);
            }
        }
    }

    fn miss(&mut self, source: Source, why: String) {
        self.agents.tell(&self.epoll, &FromChecks::Missing { missing: Missing { source, why } });
    }

    /// Something happened that is told at once.
    fn take(&mut self, key: u64) {
        let samples = self.readings.take(key);
        if samples.is_empty() {
            return;
        }
        for sample in samples {
            self.agents.tell(&self.epoll, &FromChecks::Sampled { sample: Box::new(sample) });
        }
        // The kernel merges what comes meanwhile: a damaged directory that is walked tells of thousands of errors a second.
        std::thread::sleep(ERRORS_PAUSE);
    }
}

#[cfg(test)]
mod tests;
