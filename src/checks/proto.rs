//! What the agent and the roles that read (checks, sensors, one helper a disk) say to each other: one JSON message a `SOCK_SEQPACKET`
//! packet over `{run_dir}/roles/checks.sock`, `sensors.sock` and `disk-SLOT.sock`. The role listens and takes orders from the newest
//! agent; it leaves when no agent has been connected for ten seconds.

use serde::{Deserialize, Serialize};

use crate::engine::host::sample::{Devices, Sample};
use crate::engine::host::watch::{Missing, Order};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum ToChecks {
    Hello {
        agent_pid: i32,
    },
    /// Answered once by [`FromChecks::Answer`] within `timeout_ms`, unless cancelled.
    Probe {
        id: u64,
        target: ProbeTarget,
        timeout_ms: u64,
    },
    Cancel {
        id: u64,
    },
    /// What to read from now on, instead of whatever was asked before. The first reading follows at once.
    Watch {
        orders: Vec<Order>,
    },
    Quit,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeTarget {
    /// `address:port`, numeric or `localhost`; success is a completed connect.
    Tcp(String),
    /// `http://address:port/path`; success is a status of 200 to 399.
    Http(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum FromChecks {
    Hello {
        pid: i32,
    },
    /// `error`: `None` is success; else a sentence such as `connection refused` or `status 503`.
    Answer {
        id: u64,
        error: Option<String>,
    },
    /// From the checks role: after `Hello`, and whenever it changes.
    Devices {
        devices: Box<Devices>,
    },
    Sampled {
        sample: Box<Sample>,
    },
    /// This host cannot tell; said once for each order.
    Missing {
        missing: Missing,
    },
}
