//! The reader: one thread, one epoll over pipes, the socket of the agents and the connections of readers. It touches no file below
//! `log_dir` or `state_dir` and so never waits for a disk.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::clients::{CLIENTS_MAX, Clients};
use super::connections::{Connections, Heard};
use super::flow::{self, Flow};
use super::keep::Keeper;
use super::log_writer::{LOG_QUEUE_BYTES_MAX, LogItem, LogWriter};
use super::proto::{FromLogs, Serve, ToLogs};
use super::queue::Queue;
use super::reports::Reports;
use super::state_writer::{STATE_QUEUE_BYTES_MAX, StateItem, StateWriter};
use super::streams::{Moment, Outlet, READ_BYTES, Streams};
use super::wake::Waker;
use super::{LogsError, RoleArguments, rfc3339};
use crate::sys::epoll::{Epoll, Interest, Ready};
use crate::sys::text::Settling;

const READY_MAX: usize = 64;
const READS_PER_TURN: usize = 4;
const MESSAGES_PER_TURN: usize = 64;
/// What may be left in the socket of an agent that is gone.
const LEFT_MESSAGES_MAX: usize = 65_536;
/// At the end of a run: a full pipe, and what a survivor of it may still say meanwhile.
const DRAIN_BYTES_MAX: usize = 4 << 20;
/// A read of less is copied into a buffer of its own size.
const COPY_BYTES_MAX: usize = READ_BYTES / 4;
const WRITER_STACK_BYTES: usize = 128 << 10;
/// For the state disk to say how far the journal got.
pub(super) const HELLO_PATIENCE: Duration = Duration::from_secs(1);
/// Questions about the past that wait for the writer threads.
pub(super) const ENDS_MAX: usize = 2 * CLIENTS_MAX;
/// Stands for the journal among the losses.
pub(super) const JOURNAL_SLOT: u32 = u32::MAX;
/// After the kernel refused a connection, for instance for want of descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);
/// For the writers to finish when the agent says quit.
pub(super) const QUIT_PATIENCE: Duration = Duration::from_secs(5);

/// What an epoll key stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Listener,
    Wake,
    Pipe(u32),
    Agent(u32),
    Client(u32),
}

impl From<Key> for u64 {
    fn from(key: Key) -> Self {
        let (kind, id) = match key {
            Key::Listener => (0, 0),
            Key::Wake => (1, 0),
            Key::Pipe(slot) => (2, slot),
            Key::Agent(id) => (3, id),
            Key::Client(id) => (4, id),
        };
        kind << 32 | Self::from(id)
    }
}

impl Key {
    fn read(key: u64) -> Option<Self> {
        let id = u32::try_from(key & u64::from(u32::MAX)).ok()?;
        match key >> 32 {
            0 => Some(Self::Listener),
            1 => Some(Self::Wake),
            2 => Some(Self::Pipe(id)),
            3 => Some(Self::Agent(id)),
            4 => Some(Self::Client(id)),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Role {
    pub(super) log_dir: PathBuf,
    pub(super) state_dir: PathBuf,
    pub(super) epoll: Rc<Epoll>,
    waker: Waker,
    pub(super) reports: Arc<Reports>,
    pub(super) streams: Streams,
    pub(super) out: Outlet,
    pub(super) keeper: Keeper,
    pub(super) state_queue: Arc<Queue<StateItem>>,
    pub(super) flow: Flow,
    pub(super) begun: Instant,
    buffer: Vec<u8>,
    /// Streams whose rate guard has something to report.
    pub(super) guarded: BTreeSet<u32>,
    pub(super) losses_at: Option<Instant>,
    pub(super) accept_at: Option<Instant>,
    pub(super) slow_told: bool,
    /// `None` until the journal was read.
    pub(super) last_seq: Option<u64>,
    pub(super) hello_until: Option<Instant>,
    /// Readers whose past was asked for.
    pub(super) asked: BTreeMap<u32, (Arc<UnixStream>, Serve)>,
    /// Questions about the past that writer threads have not answered yet.
    pub(super) ends_wanted: usize,
    pub(super) quit_until: Option<Instant>,
    pub(super) writers: usize,
}

impl Role {
    /// Listens and starts the writer threads.
    pub(super) fn begin(arguments: &RoleArguments, descriptors_max: u64) -> Result<Self, LogsError> {
        let kernel = |what: &'static str| move |source| LogsError::Kernel { what, source };
        let epoll = Rc::new(Epoll::new().map_err(kernel("create an epoll"))?);
        let waker = Waker::new().map_err(kernel("create an eventfd"))?;
        epoll.add(waker.as_fd(), Key::Wake.into(), Interest::READ).map_err(kernel("watch an eventfd"))?;
        let reports = Arc::new(Reports::new(waker.clone()));
        let queue = Arc::new(Queue::new(LOG_QUEUE_BYTES_MAX, waker.clone()));
        let state_queue = Arc::new(Queue::new(STATE_QUEUE_BYTES_MAX, waker.clone()));
        let (log_dir, state_dir) = (arguments.log_dir.clone(), arguments.state_dir.clone());
        let log_writer = LogWriter::new(log_dir.clone(), Arc::clone(&queue), Arc::clone(&reports), descriptors_max);
        let state_writer = StateWriter {
            state_dir: state_dir.clone(),
            queue: Arc::clone(&state_queue),
            reports: Arc::clone(&reports),
        };
        start("log-writer", move || log_writer.run())?;
        start("state-writer", move || state_writer.run())?;
        let path = super::socket_path(&arguments.run_dir);
        let agents =
            Connections::listen(Rc::clone(&epoll), &path).map_err(|source| LogsError::Listen { path, source })?;
        let clients = Clients::new(Rc::clone(&epoll), Arc::clone(&reports));
        let losses = BTreeMap::new();
        let out = Outlet { queue, clients, agents, losses, queued_bytes: 0, dropped_for_disk: false };
        Ok(Self {
            log_dir,
            state_dir,
            epoll,
            waker,
            reports,
            streams: Streams::default(),
            out,
            keeper: Keeper::default(),
            state_queue,
            flow: Flow::new(),
            begun: Instant::now(),
            buffer: Vec::new(),
            guarded: BTreeSet::new(),
            losses_at: None,
            accept_at: None,
            slow_told: false,
            last_seq: None,
            hello_until: None,
            asked: BTreeMap::new(),
            ends_wanted: 0,
            quit_until: None,
            writers: 2,
        })
    }

    /// Works until the agent says quit.
    pub(super) fn work(mut self) -> Result<(), LogsError> {
        let mut settling = Settling::begin();
        let mut ready = Vec::with_capacity(READY_MAX);
        loop {
            let timeout = self.deadline().map(|at| at.saturating_duration_since(Instant::now()));
            let timeout = settling.before_sleep(timeout);
            let waited = self.epoll.wait(&mut ready, timeout);
            waited.map_err(|source| LogsError::Kernel { what: "wait for events", source })?;
            let now = self.now();
            for event in ready.drain(..) {
                self.handle(event, now);
            }
            self.finish_turn(now);
            let left = self.writers == 0 || self.quit_until.is_some_and(|until| until <= now.instant);
            if self.quit_until.is_some() && left {
                return Ok(());
            }
        }
    }

    pub(super) fn now(&self) -> Moment {
        let instant = Instant::now();
        let mono_ms = u64::try_from(instant.duration_since(self.begun).as_millis()).unwrap_or(u64::MAX);
        Moment { instant, mono_ms, unix_ms: rfc3339::now_unix_ms() }
    }

    fn handle(&mut self, event: Ready, now: Moment) {
        match Key::read(event.key) {
            Some(Key::Listener) => {
                if let Err(error) = self.out.agents.accept() {
                    // The listener stays readable: not looked at for a while, so that this does not spin.
                    self.out.agents.listen_for(Interest::NONE);
                    self.accept_at = Some(now.instant + ACCEPT_AGAIN);
                    self.trouble(format!("cannot accept a connection to the logs role: {error}; tried again in 1 s"));
                }
            }
            Some(Key::Wake) => {
                self.waker.clear();
            }
            Some(Key::Pipe(slot)) => self.read_pipe(slot, now),
            Some(Key::Agent(id)) => self.hear_agent(id, event, now),
            Some(Key::Client(id)) => self.out.clients.ready(id, event),
            None => {}
        }
    }

    pub(super) fn trouble(&mut self, text: String) {
        self.out.agents.send(FromLogs::Trouble { text });
    }

    fn hear_agent(&mut self, id: u32, event: Ready, now: Moment) {
        if event.writable {
            self.out.agents.unblock(id);
        }
        if !event.readable && !event.hangup {
            return;
        }
        for _ in 0..MESSAGES_PER_TURN {
            match self.out.agents.hear(id) {
                Heard::Message(ToLogs::Hello { .. }, _) => self.welcome(id, now),
                Heard::Message(message, fds) if self.out.agents.current() == Some(id) => self.obey(message, fds, now),
                Heard::Noise(text) => self.trouble(text),
                Heard::Nothing => return,
                // A stranger that does not begin with hello is sent away.
                Heard::Message(..) | Heard::Closed => return self.out.agents.close(id),
            }
        }
    }

    /// What the former agent still had to say comes before the orders of the new one.
    fn welcome(&mut self, id: u32, now: Moment) {
        if let Some(former) = self.out.agents.current().filter(|former| *former != id) {
            for _ in 0..LEFT_MESSAGES_MAX {
                match self.out.agents.hear(former) {
                    Heard::Message(message, fds) => self.obey(message, fds, now),
                    Heard::Noise(text) => self.trouble(text),
                    Heard::Nothing | Heard::Closed => break,
                }
            }
        }
        self.out.agents.make_current(id);
        self.hello_until = Some(now.instant + HELLO_PATIENCE);
    }

    fn read_pipe(&mut self, slot: u32, now: Moment) {
        for _ in 0..READS_PER_TURN {
            if self.flow.is_paused() {
                return self.mask(slot);
            }
            if self.read_once(slot, now) < READ_BYTES {
                return;
            }
        }
    }

    /// Reads until the pipe is empty, even while pipes are left alone.
    pub(super) fn drain(&mut self, slot: u32, now: Moment) {
        let mut left = DRAIN_BYTES_MAX;
        while left > 0 {
            match self.read_once(slot, now) {
                0 => return,
                read => left = left.saturating_sub(read),
            }
        }
    }

    /// How many bytes one read brought.
    fn read_once(&mut self, slot: u32, now: Moment) -> usize {
        let Some(state) = self.streams.get_mut(slot) else { return 0 };
        let Some(pipe) = &state.pipe else { return 0 };
        if self.buffer.is_empty() {
            self.buffer = self.out.queue.spare().unwrap_or_default();
            self.buffer.resize(READ_BYTES, 0);
        }
        // Nothing there, or a signal: epoll calls again.
        let read = nix::unistd::read(pipe, &mut self.buffer).unwrap_or(0);
        if read == 0 {
            return 0;
        }
        let bytes = if read <= COPY_BYTES_MAX {
            self.buffer.get(..read).unwrap_or_default().to_vec()
        } else {
            let mut bytes = std::mem::take(&mut self.buffer);
            bytes.truncate(read);
            bytes
        };
        state.feed(bytes, now, &mut self.out);
        if state.guard_report_ms().is_some() {
            self.guarded.insert(slot);
        }
        if self.flow.is_open() && self.out.queued_bytes > flow::HIGH_BYTES {
            let (_, taken) = self.out.queue.fill();
            if self.out.queue.call_at(flow::LOW_BYTES) {
                self.flow.pause(taken, now.instant);
            }
        }
        read
    }

    /// Level-triggered readiness would spin.
    fn mask(&mut self, slot: u32) {
        let Some(pipe) = self.streams.get(slot).and_then(|state| state.pipe.as_ref()) else { return };
        if self.epoll.modify(pipe.as_fd(), Key::Pipe(slot).into(), Interest::NONE).is_ok() {
            self.flow.masked.push(slot);
        }
    }

    /// Everything out of the pipes and into the files; then the writers leave, and so do we.
    pub(super) fn quit(&mut self, now: Moment) {
        let slots: Vec<u32> = self.streams.iter().map(|state| state.slot).collect();
        for slot in slots {
            self.drain(slot, now);
        }
        self.out.queue.push(LogItem::Quit);
        self.state_queue.push(StateItem::Quit);
        self.quit_until = Some(now.instant + QUIT_PATIENCE);
    }
}

fn start(name: &'static str, work: impl FnOnce() + Send + 'static) -> Result<(), LogsError> {
    let builder = std::thread::Builder::new().name(name.to_owned()).stack_size(WRITER_STACK_BYTES);
    match builder.spawn(work) {
        // It ends by itself or with the process: a thread that waits for a dead disk cannot be joined.
        Ok(_) => Ok(()),
        Err(source) => Err(LogsError::Kernel { what: "start a writer thread", source }),
    }
}
