//! The JSON of `GET /v1/balancers`: what is configured, how each backend stands, and the proxy's counters, which are absent where it gave
//! none (see [`Balancers::proxy`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::proto::Word;

/// `GET /v1/balancers`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Balancers {
    pub at: String,
    pub seq: u64,
    /// Where the counters are: `ok`, `no answer`, `not connected`, or `not needed` by any balancer.
    pub proxy: Word,
    pub balancers: Vec<Balancer>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Balancer {
    pub name: String,
    /// The service it goes to; null with fixed backends.
    pub to: Option<String>,
    /// `proxy`, `hand_off` or `shared`.
    pub delivery: Word,
    /// `rendezvous`, `modulo`, `round_robin`, `least_connections` or `two_choices`.
    pub algorithm: Word,
    pub listen: Vec<Listener>,
    #[serde(flatten)]
    pub counters: Option<BalancerCounters>,
    pub backends: Vec<Backend>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// As configured: `tcp:0.0.0.0:8080`.
    pub address: String,
    /// `open`, `failed` (it is tried again), or `inherited` by the replicas.
    pub state: Word,
    pub error: Option<String>,
}

/// Since the proxy began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalancerCounters {
    pub accepted: u64,
    pub active: u64,
    /// Clients that wait for a backend now.
    pub queued: u64,
    pub queued_total: u64,
    /// Clients that were reset, by reason.
    pub refused: BTreeMap<String, u64>,
    pub redispatched: u64,
    pub replayed: u64,
    /// Connections without a usable key.
    pub keyless: u64,
    pub idle_closed: u64,
    pub accept_paused_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// `api/0`, or the address of a fixed one.
    pub name: String,
    pub address: String,
    /// `up`, `degraded`, `draining`, `out` or `fenced`; `ejected` while the proxy keeps it out.
    pub standing: Word,
    pub weight: u32,
    /// Why it is not up.
    pub why: Option<String>,
    #[serde(flatten)]
    pub counters: Option<BackendCounters>,
}

/// Since the proxy began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackendCounters {
    pub active: u64,
    /// Established connections.
    pub connections: u64,
    /// Reset or closed by it before its first byte.
    pub failed: u64,
    /// Connections that were not established, by kind.
    pub connect_failed: BTreeMap<String, u64>,
    /// From clients to the backend.
    pub bytes_in: u64,
    /// From the backend to clients.
    pub bytes_out: u64,
    pub spliced_bytes: u64,
    /// Remaining time out.
    pub ejected_ms: Option<u64>,
    pub connect: Latency,
    pub first_byte: Latency,
}

/// Percentiles are null without a measurement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    pub count: u64,
    pub p50_us: Option<u64>,
    pub p99_us: Option<u64>,
    pub sum_us: u64,
    /// Bucket `i` counts values below `2^i` microseconds and not below half of it; the last one everything above.
    pub buckets: Vec<u64>,
}

impl Balancer {
    /// Every address is listened on, and somebody takes connections.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.listen.iter().all(|listener| listener.state != "failed")
            && self.backends.iter().any(|backend| backend.standing == "up")
    }
}
