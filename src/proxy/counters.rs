//! What is counted, as atomics that the workers raise and the control thread reads.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::key::Source;
use super::proto::{BalancerStats, Histogram};

/// The last bucket begins at 2^26 microseconds, a little over a minute.
const BUCKETS: usize = 28;

/// Why a client was reset without ever having had a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    NoBackend,
    QueueFull,
    QueueTimeout,
    PerSource,
    FirstBytes,
    ProxyHeader,
}

impl Refusal {
    const ALL: [Self; 6] =
        [Self::NoBackend, Self::QueueFull, Self::QueueTimeout, Self::PerSource, Self::FirstBytes, Self::ProxyHeader];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoBackend => "no_backend",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::PerSource => "per_source",
            Self::FirstBytes => "first_bytes",
            Self::ProxyHeader => "proxy_header",
        }
    }
}

/// Why a backend could not be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectFailure {
    /// Nobody listens there.
    Refused,
    Timeout,
    /// The queue of its Unix socket is full.
    Backlog,
    /// We have no descriptor left for it.
    Descriptors,
    /// No local port left, or no route.
    Addresses,
    Other,
}

impl ConnectFailure {
    const ALL: [Self; 6] =
        [Self::Refused, Self::Timeout, Self::Backlog, Self::Descriptors, Self::Addresses, Self::Other];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Backlog => "backlog",
            Self::Descriptors => "descriptors",
            Self::Addresses => "addresses",
            Self::Other => "other",
        }
    }

    /// What we lack is not held against the backend.
    #[must_use]
    pub fn is_ours(self) -> bool {
        match self {
            Self::Descriptors | Self::Addresses => true,
            Self::Refused | Self::Timeout | Self::Backlog | Self::Other => false,
        }
    }
}

/// Of one balancer.
#[derive(Debug, Default)]
pub struct Counters {
    pub(super) accepted: AtomicU64,
    /// First choices of a backend: each has a number of its own, whichever worker makes it.
    pub(super) turns: AtomicU64,
    /// Connections from accept to close, those that wait included.
    pub(super) active: AtomicU64,
    pub(super) queued: AtomicU64,
    pub(super) queued_total: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
    pub(super) redispatched: AtomicU64,
    pub(super) replayed: AtomicU64,
    pub(super) keyless: AtomicU64,
    pub(super) idle_closed: AtomicU64,
    pub(super) accept_paused_ms: AtomicU64,
    /// Workers that do not accept because the limit of connections is reached.
    pub(super) full_workers: AtomicU64,
    /// Connections by client; empty unless they are limited.
    pub(super) sources: Mutex<HashMap<Source, u32>>,
}

impl Counters {
    pub(super) fn refused(&self, why: Refusal) {
        add(&self.refused[why as usize], 1);
    }

    /// Everything but the backends.
    pub(super) fn read(&self, balancer: &str) -> BalancerStats {
        BalancerStats {
            balancer: balancer.to_owned(),
            accepted: get(&self.accepted),
            active: get(&self.active),
            queued: get(&self.queued),
            queued_total: get(&self.queued_total),
            refused: named(Refusal::ALL.map(Refusal::name), &self.refused),
            redispatched: get(&self.redispatched),
            replayed: get(&self.replayed),
            keyless: get(&self.keyless),
            idle_closed: get(&self.idle_closed),
            accept_paused_ms: get(&self.accept_paused_ms),
            backends: Vec::new(),
        }
    }
}

/// Connect failures of one backend.
#[derive(Debug, Default)]
pub(super) struct ConnectFailures([AtomicU64; ConnectFailure::ALL.len()]);

impl ConnectFailures {
    pub(super) fn count(&self, failure: ConnectFailure) {
        add(&self.0[failure as usize], 1);
    }

    pub(super) fn read(&self) -> Vec<(String, u64)> {
        named(ConnectFailure::ALL.map(ConnectFailure::name), &self.0)
    }
}

/// Those that are not zero.
fn named<const N: usize>(names: [&str; N], counts: &[AtomicU64; N]) -> Vec<(String, u64)> {
    let read = names.iter().zip(counts).map(|(name, count)| ((*name).to_owned(), get(count)));
    read.filter(|(_, count)| *count > 0).collect()
}

/// See [`Histogram`] for the buckets.
#[derive(Debug, Default)]
pub(super) struct AtomicHistogram {
    buckets: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

impl AtomicHistogram {
    pub(super) fn record_ns(&self, ns: u64) {
        let us = ns / 1_000;
        let bucket = (u64::BITS - us.leading_zeros()) as usize;
        add(&self.buckets[bucket.min(BUCKETS - 1)], 1);
        add(&self.sum_us, us);
    }

    pub(super) fn read(&self) -> Histogram {
        Histogram { buckets: self.buckets.iter().map(get).collect(), sum_us: get(&self.sum_us) }
    }
}

/// A pause in milliseconds, begun ones included: one that happened is never counted as none.
pub(super) fn paused_ms(pause: Duration) -> u64 {
    u64::try_from(pause.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX)
}

pub(super) fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

pub(super) fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_i_holds_what_is_below_two_to_the_i() {
        let histogram = AtomicHistogram::default();
        for us in [0, 1, 2, 3, 4, u64::MAX / 1_000] {
            histogram.record_ns(us * 1_000);
        }
        let read = histogram.read();
        assert_eq!(read.buckets[..4], [1, 1, 2, 1]);
        assert_eq!(read.buckets[BUCKETS - 1], 1);
        assert_eq!(read.buckets.iter().sum::<u64>(), 6);
    }

    #[test]
    fn only_what_happened_is_named() {
        let counters = Counters::default();
        counters.refused(Refusal::QueueTimeout);
        assert_eq!(counters.read("b").refused, [("queue_timeout".to_owned(), 1)]);
        let failures = ConnectFailures::default();
        failures.count(ConnectFailure::Other);
        assert_eq!(failures.read(), [("other".to_owned(), 1)]);
    }
}
