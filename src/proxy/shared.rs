//! What the control thread and the workers share: balancers with the backends as they stand now, their counters, the workers'
//! mailboxes and the notices that come back.
//!
//! The control thread alone makes balancers, replaces their tables and forgets them. Workers read: each caches the [`Live`] of a
//! balancer and compares [`Balancer::generation`], so that no lock and no reference count is touched for a connection that comes
//! while nothing changes.
//!
//! INVARIANT: a worker counts a connection in [`BackendState::begin`] and only then compares the generation again; the control thread
//! raises the generation and only then reads the count. Whichever is later sees the other, so no backend is told `Drained` and given
//! a connection afterwards.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use super::backend::BackendState;
use super::counters::Counters;
use super::proto::BalancerStats;
use crate::engine::balance::pick::Picker;
use crate::engine::balance::plan::{Address, Eject};
use crate::engine::balance::table::{Standing, Table};
use crate::engine::types::Time;
use crate::sys::wake::Wake;

/// Notices that the control thread has not taken yet; what comes beyond is lost and counted.
const NOTICES_MAX: usize = 4_096;
/// Finished connections whose line the access log has not taken yet; what comes beyond is lost and counted.
const FINISHED_MAX: usize = 4_096;
/// For the answer of a worker.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);

/// A balancer, from its first table until its last connection has ended.
#[derive(Debug)]
pub struct Balancer {
    name: String,
    live: RwLock<Arc<Live>>,
    generation: AtomicU64,
    /// A worker was told that it is removed: what others still pass on is dropped.
    forgotten: AtomicBool,
    counters: Counters,
}

/// One table and what belongs to it; never changed, only replaced.
#[derive(Debug)]
pub struct Live {
    pub table: Table,
    pub picker: Picker,
    /// CLOCK_MONOTONIC.
    pub since: Time,
    /// In the order of the table's slots.
    pub backends: Vec<Arc<BackendState>>,
}

/// What another table leaves for the control thread to do.
#[derive(Debug, Default)]
pub struct Replaced {
    /// Draining, and without a connection already: name and run.
    pub drained: Vec<(String, u32)>,
    /// No longer in the table: to be cut with [`Command::CutBackend`] when the drain timeout is over.
    pub removed: Vec<Arc<BackendState>>,
}

impl Balancer {
    /// With its first table, at `now` on CLOCK_MONOTONIC.
    #[must_use]
    pub fn new(table: Table, now: Time) -> Arc<Self> {
        let name = table.balancer.clone();
        let live = Live::new(table, now, &[]);
        Arc::new(Self {
            name,
            live: RwLock::new(Arc::new(live)),
            generation: AtomicU64::new(1),
            forgotten: AtomicBool::new(false),
            counters: Counters::default(),
        })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn forget(&self) {
        self.forgotten.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::SeqCst)
    }

    /// All counters as they stand, at `now` on CLOCK_MONOTONIC; of the backends those of the table.
    #[must_use]
    pub fn stats(&self, now: Time) -> BalancerStats {
        let backends = self.live().backends.iter().map(|state| state.stats(now)).collect();
        BalancerStats { backends, ..self.counters.read(&self.name) }
    }

    #[must_use]
    pub fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Rises with each table, after the table is there.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Puts another table in place. Backends keep their counts by name; another run forgets failures and ejection. Tell every worker
    /// [`Command::Changed`] afterwards.
    pub fn replace(&self, table: Table, now: Time) -> Replaced {
        let before = self.live();
        let live = Arc::new(Live::new(table, now, &before.backends));
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&live);
        self.generation.fetch_add(1, Ordering::SeqCst);
        let kept = |state: &Arc<BackendState>| live.backends.iter().any(|now| Arc::ptr_eq(now, state));
        let drained = live.backends.iter().filter(|state| state.is_drained());
        Replaced {
            drained: drained.map(|state| (state.name().to_owned(), state.run())).collect(),
            removed: before.backends.iter().filter(|state| !kept(state)).cloned().collect(),
        }
    }
}

impl Live {
    fn new(table: Table, now: Time, before: &[Arc<BackendState>]) -> Self {
        let known = |name: &str| before.iter().find(|state| state.name() == name);
        let backends = table
            .backends
            .iter()
            .map(|backend| {
                let state = known(&backend.name).map_or_else(|| BackendState::new(&backend.name), Arc::clone);
                state.stand(backend);
                state
            })
            .collect();
        Self { picker: Picker::new(&table), table, since: now, backends }
    }

    /// The slot of a backend, if it has one in this table.
    #[must_use]
    pub fn slot_of(&self, state: &Arc<BackendState>) -> Option<usize> {
        self.backends.iter().position(|own| Arc::ptr_eq(own, state))
    }

    /// Whether somebody else takes new connections now: the last one is never ejected.
    #[must_use]
    pub fn others_left(&self, state: &Arc<BackendState>, now: Time) -> bool {
        self.table
            .backends
            .iter()
            .zip(&self.backends)
            .any(|(backend, own)| !Arc::ptr_eq(own, state) && backend.standing == Standing::Up && !own.is_ejected(now))
    }

    #[must_use]
    pub fn eject_rules(&self) -> Eject {
        self.table.rules.eject
    }
}

/// A listening socket that every worker watches.
#[derive(Debug)]
pub struct Listener {
    pub address: Address,
    socket: OwnedFd,
}

impl Listener {
    /// Makes the socket non-blocking, and gives it what accepted connections inherit: no delay and keepalive.
    ///
    /// # Errors
    /// What is no socket.
    pub fn new(address: Address, socket: OwnedFd) -> io::Result<Arc<Self>> {
        match &address {
            Address::Tcp(_) => crate::sys::stream::prepare_tcp_listener(&socket)?,
            Address::Unix(_) | Address::Udp(_) => crate::sys::stream::set_nonblocking(&socket)?,
        }
        Ok(Arc::new(Self { address, socket }))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// An order to a worker. Everything the control thread orders goes to all of them.
#[derive(Clone, Debug)]
pub enum Command {
    Listen {
        balancer: Arc<Balancer>,
        listener: Arc<Listener>,
    },
    /// The socket closes when the last worker has let go of it.
    Unlisten {
        listener: Arc<Listener>,
    },
    /// Another table is in place: fenced backends are cut, clients that wait are looked at again.
    Changed {
        balancer: Arc<Balancer>,
    },
    /// Resets what this backend still has: it has left the table, or its time to drain is over.
    CutBackend {
        balancer: Arc<Balancer>,
        backend: Arc<BackendState>,
    },
    /// Resets all connections and waiting clients of a removed balancer, and forgets it.
    CutBalancer {
        balancer: Arc<Balancer>,
    },
    /// Connections are below the limit again, or a slot of a backend is free.
    Resume {
        balancer: Arc<Balancer>,
    },
    /// Say that everything before this is done.
    Answer {
        to: Sender<()>,
    },
    /// Reset everything and end the thread.
    Quit,
}

/// What lies in a mailbox.
#[derive(Debug)]
pub(super) enum Order {
    Command(Command),
    Take(Passed),
}

/// A connection that another worker accepted and that is counted already.
#[derive(Debug)]
pub(super) struct Passed {
    pub(super) balancer: Arc<Balancer>,
    pub(super) client: OwnedFd,
    pub(super) source: Option<SocketAddr>,
}

/// Orders to one worker. Not bounded by itself: the control thread sends a handful for each change, and passed connections count against
/// the limits of connections.
#[derive(Debug)]
pub(super) struct Mailbox {
    sender: Sender<Order>,
    pub(super) receiver: Receiver<Order>,
    pub(super) wake: Wake,
    /// Set while the worker has not begun to read: one wake-up is enough for many orders.
    signalled: AtomicBool,
    /// Connections of this worker, those on their way to it included.
    pub(super) load: AtomicU32,
}

impl Mailbox {
    fn new() -> io::Result<Self> {
        let (sender, receiver) = crossbeam_channel::unbounded();
        Ok(Self { sender, receiver, wake: Wake::new()?, signalled: AtomicBool::new(false), load: AtomicU32::new(0) })
    }

    pub(super) fn put(&self, order: Order) {
        // The receiver lives beside the sender, so it is never gone.
        let _ = self.sender.send(order);
        if !self.signalled.swap(true, Ordering::SeqCst) {
            self.wake.wake();
        }
    }

    /// To be called before the orders are taken: what is put from now on wakes again.
    pub(super) fn begin_reading(&self) {
        self.wake.clear();
        self.signalled.store(false, Ordering::SeqCst);
    }
}

/// What the workers tell the control thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    Drained { balancer: String, backend: String, run: u32 },
    Ejected { balancer: String, backend: String, run: u32, why: String, for_: Duration },
    Restored { balancer: String, backend: String, run: u32 },
    Trouble { text: String },
}

/// A connection that has ended, for the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    pub balancer: String,
    pub source: Option<SocketAddr>,
    /// `None`: it never had one.
    pub backend: Option<String>,
    /// From accept until the backend was reached, waiting included; `None`: it never was.
    pub connect: Option<Duration>,
    /// From then to the first byte of its answer; `None`: there was none.
    pub first_byte: Option<Duration>,
    /// From the client.
    pub bytes_in: u64,
    /// To the client.
    pub bytes_out: u64,
    pub lasted: Duration,
    pub attempts: u16,
    /// `closed`, or why it was reset.
    pub how: &'static str,
}

/// The whole data plane, as the control thread and each worker hold it.
#[derive(Debug)]
pub struct Shared {
    /// Keys of the hash.
    pub(super) secret: [u64; 2],
    pub(super) mailboxes: Vec<Mailbox>,
    /// Connections of this process.
    pub(super) sessions: AtomicU32,
    pub(super) sessions_max: u32,
    /// Workers that do not accept because `sessions_max` is reached.
    pub(super) full_workers: AtomicU32,
    /// A worker had no descriptor for a client that is in: until then (CLOCK_MONOTONIC, nanoseconds) nobody takes further ones in.
    pub(super) starved_until: AtomicU64,
    notices: Sender<Notice>,
    finished: Sender<Finished>,
    outcome_wake: Wake,
    lost_notices: AtomicU64,
    lost_lines: AtomicU64,
}

/// Descriptors that are not for connections: the role socket, listeners, epolls, logs, and some pipes.
const OTHER_DESCRIPTORS: u64 = 256;
/// Pipes that all workers together may have for splicing, two descriptors each. What is beyond the reserve they take from connections:
/// without a descriptor for a pipe, bytes are copied.
pub(super) const PIPES_MAX: usize = 256;

/// How many connections (two descriptors each) a process with so many descriptors can hold beside everything else.
#[must_use]
pub fn sessions_max(descriptors: u64) -> u32 {
    let reserved = OTHER_DESCRIPTORS.min(descriptors / 2);
    u32::try_from((descriptors - reserved) / 2).unwrap_or(u32::MAX)
}

/// The control thread's end.
#[derive(Debug)]
pub struct Outcome {
    shared: Arc<Shared>,
    notices: Receiver<Notice>,
    finished: Receiver<Finished>,
}

impl Shared {
    /// `secret` decides which key goes to which backend; `sessions_max` is how many connections the
    /// descriptors suffice for ([`sessions_max`]).
    ///
    /// # Errors
    /// No descriptors left.
    pub fn new(workers: usize, secret: [u64; 2], sessions_max: u32) -> io::Result<(Arc<Self>, Outcome)> {
        let (notices, notices_out) = crossbeam_channel::bounded(NOTICES_MAX);
        let (finished, finished_out) = crossbeam_channel::bounded(FINISHED_MAX);
        let shared = Arc::new(Self {
            secret,
            mailboxes: (0..workers.max(1)).map(|_| Mailbox::new()).collect::<io::Result<_>>()?,
            sessions: AtomicU32::new(0),
            sessions_max,
            full_workers: AtomicU32::new(0),
            starved_until: AtomicU64::new(0),
            notices,
            finished,
            outcome_wake: Wake::new()?,
            lost_notices: AtomicU64::new(0),
            lost_lines: AtomicU64::new(0),
        });
        Ok((Arc::clone(&shared), Outcome { shared, notices: notices_out, finished: finished_out }))
    }

    /// To every worker.
    pub fn tell(&self, command: &Command) {
        for mailbox in &self.mailboxes {
            mailbox.put(Order::Command(command.clone()));
        }
    }

    /// Waits until every worker has done what it was told, and has taken the connections that others had passed to it by then. Not longer
    /// than [`ANSWER_PATIENCE`]: a worker never waits for anything, but may have ended.
    pub(super) fn wait_for_workers(&self) {
        // Those on the way from one worker to another are behind the first question, so they are before the second.
        for _ in 0..2 {
            let (to, answers) = crossbeam_channel::bounded(self.mailboxes.len());
            self.tell(&Command::Answer { to });
            for _ in &self.mailboxes {
                if answers.recv_timeout(ANSWER_PATIENCE).is_err() {
                    return;
                }
            }
        }
    }

    /// Connections of this process now.
    #[must_use]
    pub fn sessions(&self) -> u32 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Connections of each worker now.
    #[must_use]
    pub fn loads(&self) -> Vec<u32> {
        self.mailboxes.iter().map(|mailbox| mailbox.load.load(Ordering::Relaxed)).collect()
    }

    /// Notices that the control thread was too slow for.
    #[must_use]
    pub fn lost_notices(&self) -> u64 {
        self.lost_notices.load(Ordering::Relaxed)
    }

    /// Finished connections that it was too slow for.
    #[must_use]
    pub fn lost_lines(&self) -> u64 {
        self.lost_lines.load(Ordering::Relaxed)
    }

    pub(super) fn notify(&self, notice: Notice) {
        if self.notices.try_send(notice).is_err() {
            self.lost_notices.fetch_add(1, Ordering::Relaxed);
        }
        self.outcome_wake.wake();
    }

    pub(super) fn finished(&self, finished: Finished) {
        if self.finished.try_send(finished).is_err() {
            self.lost_lines.fetch_add(1, Ordering::Relaxed);
        }
        self.outcome_wake.wake();
    }
}

impl Outcome {
    /// Takes the wake-up; call it before [`Outcome::notice`] and [`Outcome::finished`].
    pub fn clear(&self) {
        self.shared.outcome_wake.clear();
    }

    pub fn notice(&self) -> Option<Notice> {
        self.notices.try_recv().ok()
    }

    /// Of balancers whose rules ask for an access log.
    pub fn finished(&self) -> Option<Finished> {
        self.finished.try_recv().ok()
    }
}

/// Readable when there is a notice or a finished connection.
impl AsFd for Outcome {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.outcome_wake.as_fd()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
