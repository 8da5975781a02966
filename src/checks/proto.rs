//! What the agent and the checks role say to each other: one JSON message a `SOCK_SEQPACKET` packet over
//! `{run_dir}/roles/checks.sock`. The role listens and takes orders from the newest agent; it leaves when no agent has been
//! connected for ten seconds.

use serde::{Deserialize, Serialize};

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
}
