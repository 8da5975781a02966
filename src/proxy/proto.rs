//! What the agent and the proxy role say to each other: one JSON message a `SOCK_SEQPACKET` packet over
//! `{run_dir}/roles/proxy.sock`. The role listens, takes orders from the newest agent, and goes on as it is without one.
//!
//! A new agent says `Hello`, then everything it knows (`Listen`, `Table`, `HandOff`), then `Complete`: what was not named is removed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::balance::plan::Address;
use crate::engine::balance::table::Table;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum ToProxy {
    Hello {
        agent_pid: i32,
    },
    /// One descriptor is attached: a listening socket for this balancer. One that is there already is kept, and the copy closed.
    Listen {
        balancer: String,
        address: Address,
    },
    Unlisten {
        balancer: String,
        address: Address,
    },
    Table {
        table: Box<Table>,
    },
    /// The balancer left the configuration: its listeners are closed, its connections go on until `drain_timeout` of its rules.
    Remove {
        balancer: String,
    },
    /// One descriptor is attached: the `SOCK_SEQPACKET` end over which this run of the backend takes connections (`delivery: HandOff`). One
    /// that is there already is kept. It goes when its other end closes or a table names a later run, not for want of being named.
    HandOff {
        balancer: String,
        backend: String,
        run: u32,
    },
    Complete,
    /// Answered by `Stats` for each balancer, in several parts where it has many backends ([`BalancerStats::collect`]), and `StatsEnd`.
    Stats {
        id: u64,
    },
    /// Leave: connections are reset.
    Quit,
    /// No balancer is left: leave when the last connection has ended, or the drain timeouts are over.
    QuitWhenIdle,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum FromProxy {
    Hello {
        pid: i32,
    },
    /// A draining backend has no connection left. Said once for each table in which it drains; at once if it has none.
    Drained {
        balancer: String,
        backend: String,
        run: u32,
    },
    /// Connections to it fail; it stays out for so long.
    Ejected {
        balancer: String,
        backend: String,
        run: u32,
        why: String,
        #[serde(with = "millis")]
        for_: Duration,
    },
    /// An ejected backend has answered again.
    Restored {
        balancer: String,
        backend: String,
        run: u32,
    },
    /// Something an operator must know: a limit that is reached, descriptors that are used up.
    Trouble {
        text: String,
    },
    Stats {
        id: u64,
        stats: Box<BalancerStats>,
    },
    StatsEnd {
        id: u64,
    },
}

/// Counters since the role began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BalancerStats {
    pub balancer: String,
    pub accepted: u64,
    pub active: u64,
    /// Clients that wait for a backend now.
    pub queued: u64,
    pub queued_total: u64,
    /// Clients reset by reason: `no_backend`, `queue_full`, `queue_timeout`, `per_source`, `first_bytes`, `proxy_header`.
    pub refused: Vec<(String, u64)>,
    pub redispatched: u64,
    pub replayed: u64,
    /// Connections without a usable key (`Auto` and the peeked keys).
    pub keyless: u64,
    pub idle_closed: u64,
    /// Milliseconds in which the listeners were not watched because a limit was reached.
    pub accept_paused_ms: u64,
    pub backends: Vec<BackendStats>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackendStats {
    pub name: String,
    pub active: u64,
    /// Connections that were established.
    pub connections: u64,
    /// Connect failures by kind: `refused`, `timeout`, `backlog`, `descriptors`, `addresses`, `other`.
    pub connect_failed: Vec<(String, u64)>,
    /// Connections reset or closed by it before its first byte of answer.
    pub failed: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub spliced_bytes: u64,
    /// Remaining time out, in milliseconds.
    pub ejected_ms: Option<u64>,
    pub connect_us: Histogram,
    pub first_byte_us: Histogram,
}

/// Counts by powers of two: bucket `i` counts values below `2^i` microseconds and not below half of it; the last one everything above.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    pub buckets: Vec<u64>,
    pub sum_us: u64,
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
        u64::deserialize(input).map(Duration::from_millis)
    }
}
