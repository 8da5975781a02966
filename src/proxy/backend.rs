//! What is known of one backend beyond its line in the table: who uses it now, how it has done so far, whether it is ejected.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::counters::{AtomicHistogram, ConnectFailures, add, get};
use super::key::Source;
use super::proto::BackendStats;
use super::shared::lock;
use crate::engine::balance::eject::Ejection;
use crate::engine::balance::plan::Eject;
use crate::engine::balance::table::{Backend, Standing};
use crate::engine::types::Time;

/// Resets that one client meets at several backends within this time are more likely its own doing than theirs.
const SAME_SOURCE: Duration = Duration::from_secs(10);

/// Survives tables by the backend's name.
#[derive(Debug)]
pub struct BackendState {
    name: String,
    /// One of a kind in this process: what a connection remembers of those it has tried.
    pub(super) id: u32,
    run: AtomicU32,
    draining: AtomicBool,
    fenced: AtomicBool,
    active: AtomicU32,
    connections: AtomicU64,
    pub(super) connect_failed: ConnectFailures,
    failed: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) spliced_bytes: AtomicU64,
    pub(super) connect_us: AtomicHistogram,
    pub(super) first_byte_us: AtomicHistogram,
    ejection: Mutex<Ejection>,
    /// Nanoseconds of CLOCK_MONOTONIC; what `ejection` says, to be read without its lock.
    out_until: AtomicU64,
    /// Whose connection it reset last before it answered, and when.
    reset_by: Mutex<Option<(Source, Time)>>,
    /// There are failures that a success has not wiped out yet: without them a success takes no lock.
    blemished: AtomicBool,
}

/// What the end of a connection means for a draining backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Some,
    /// It drains, and this was the last one.
    Drained,
}

impl BackendState {
    pub(super) fn new(name: &str) -> Arc<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Arc::new(Self {
            name: name.to_owned(),
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            run: AtomicU32::new(0),
            draining: AtomicBool::new(false),
            fenced: AtomicBool::new(false),
            active: AtomicU32::new(0),
            connections: AtomicU64::new(0),
            connect_failed: ConnectFailures::default(),
            failed: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            spliced_bytes: AtomicU64::new(0),
            connect_us: AtomicHistogram::default(),
            first_byte_us: AtomicHistogram::default(),
            ejection: Mutex::new(Ejection::default()),
            out_until: AtomicU64::new(0),
            reset_by: Mutex::new(None),
            blemished: AtomicBool::new(false),
        })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn run(&self) -> u32 {
        self.run.load(Ordering::Relaxed)
    }

    /// Connections that have it now, those that are being made included.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::SeqCst)
    }

    /// Takes over what a new table says; the control thread calls it before it puts the table in place.
    pub(super) fn stand(&self, backend: &Backend) {
        let mut ejection = lock(&self.ejection);
        if self.run.swap(backend.run, Ordering::Relaxed) != backend.run {
            ejection.reset();
            self.out_until.store(0, Ordering::Relaxed);
            self.blemished.store(false, Ordering::Relaxed);
        }
        drop(ejection);
        self.draining.store(backend.standing == Standing::Draining, Ordering::SeqCst);
        self.fenced.store(backend.standing == Standing::Fenced, Ordering::SeqCst);
    }

    pub(super) fn is_drained(&self) -> bool {
        self.draining.load(Ordering::SeqCst) && self.active() == 0
    }

    pub(super) fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::SeqCst)
    }

    #[must_use]
    pub fn is_ejected(&self, now: Time) -> bool {
        self.out_until.load(Ordering::Relaxed) > now.0
    }

    /// Counts a connection that is about to be made, unless it has `max` already.
    pub(super) fn begin(&self, max: Option<u32>) -> bool {
        let before = self.active.fetch_add(1, Ordering::SeqCst);
        if max.is_some_and(|max| before >= max) {
            self.active.fetch_sub(1, Ordering::SeqCst);
            return false;
        }
        true
    }

    pub(super) fn end(&self) -> Left {
        let last = self.active.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.draining.load(Ordering::SeqCst) { Left::Drained } else { Left::Some }
    }

    pub(super) fn connected(&self) {
        add(&self.connections, 1);
    }

    /// It reset or closed a connection before it answered.
    pub(super) fn broke_off(&self) {
        add(&self.failed, 1);
    }

    /// [`BackendState::blame_run`] of the run that it has now.
    pub(super) fn blame(&self, rules: Eject, now: Time, others_left: bool, draw: u64) -> Option<Duration> {
        self.blame_run(self.run(), rules, now, others_left, draw)
    }

    /// One more failure of this run in a row; how long it stays out if that makes it ejected.
    pub(super) fn blame_run(
        &self,
        run: u32,
        rules: Eject,
        now: Time,
        others_left: bool,
        draw: u64,
    ) -> Option<Duration> {
        // INVARIANT: what says the same as `ejection`, and the run that it is about, change under its lock.
        let mut ejection = lock(&self.ejection);
        if self.run() != run {
            return None;
        }
        self.blemished.store(true, Ordering::Relaxed);
        let out_for = ejection.failed(rules, now, others_left, draw)?;
        self.out_until.store(now.after(out_for).0, Ordering::Relaxed);
        Some(out_for)
    }

    /// [`BackendState::praise_run`] of the run that it has now.
    pub(super) fn praise(&self) -> bool {
        self.praise_run(self.run())
    }

    /// This run works. `true` when it comes back from an ejection by that.
    pub(super) fn praise_run(&self, run: u32) -> bool {
        if !self.blemished.load(Ordering::Relaxed) {
            return false;
        }
        let mut ejection = lock(&self.ejection);
        if self.run() != run {
            return false;
        }
        self.blemished.store(false, Ordering::Relaxed);
        self.out_until.store(0, Ordering::Relaxed);
        ejection.succeeded()
    }

    /// It reset a connection of this client before it answered.
    pub(super) fn was_reset_by(&self, source: Source, now: Time) {
        *lock(&self.reset_by) = Some((source, now));
    }

    pub(super) fn was_reset_by_lately(&self, source: Source, now: Time) -> bool {
        lock(&self.reset_by).is_some_and(|(by, at)| by == source && now.since(at) < SAME_SOURCE)
    }

    /// The counters as they stand, at `now` on CLOCK_MONOTONIC.
    #[must_use]
    pub fn stats(&self, now: Time) -> BackendStats {
        let remaining = lock(&self.ejection).remaining(now);
        BackendStats {
            name: self.name.clone(),
            active: self.active().into(),
            connections: get(&self.connections),
            connect_failed: self.connect_failed.read(),
            failed: get(&self.failed),
            bytes_in: get(&self.bytes_in),
            bytes_out: get(&self.bytes_out),
            spliced_bytes: get(&self.spliced_bytes),
            ejected_ms: remaining.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            connect_us: self.connect_us.read(),
            first_byte_us: self.first_byte_us.read(),
        }
    }
}
