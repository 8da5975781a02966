//! What the agent and the logs role say to each other: one JSON message a `SOCK_SEQPACKET` packet (at most [`MESSAGE_BYTES_MAX`]),
//! descriptors by SCM_RIGHTS, over `{run_dir}/roles/logs.sock`. The role listens; it takes orders from the newest agent that
//! connects and drops the older connection. It outlives the agent.
//!
//! The role is also the agent's keeper of descriptors: what must stay open while no agent lives (listening sockets, notify
//! sockets, readiness pipes) is handed over with [`ToLogs::Keep`] and given back to the next agent by [`ToLogs::Claim`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A packet's limit; far below the default socket buffer (212,992 bytes).
pub const MESSAGE_BYTES_MAX: usize = 128 << 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum ToLogs {
    /// The first message of an agent. Answered by [`FromLogs::Hello`].
    Hello { agent_pid: i32, instance: String },
    /// Read this pipe into `{log_dir}/{service}.{index}.log`, or take over new settings. Repeating it is harmless.
    Watch { stream: Stream, pipe: PathBuf, settings: Settings },
    /// Read what is left, close the pipe, keep the files.
    Unwatch { stream: Stream },
    /// What comes through the pipe from now on belongs to `run`. What is pending belongs to the one before, unless that was ended by
    /// `RunEnded` (then everything since belongs to `run`, whose process may speak before this order is heard) or the role knows of none
    /// (it was restarted in the midst of a run). `ready_text`: answer the first line that contains it with [`FromLogs::Matched`]; repeating
    /// the order repeats the answer.
    RunBegins { stream: Stream, run: u32, ready_text: Option<String> },
    /// Read the pipe until it is empty and answer with [`FromLogs::Drained`].
    RunEnded { stream: Stream, run: u32 },
    /// One journal entry: a JSON object on one line, with `seq`.
    Journal { seq: u64, line: String },
    /// A line of the agent's own log, for `{log_dir}/mainstay.log`.
    AgentLine { line: String },
    /// Put this on disk (fsync) in place of the decision with the same key, then answer [`FromLogs::Persisted`]. `content`: `None` removes it.
    Decide { decision: u64, key: String, content: Option<String> },
    /// Answer this client: the packet carries its connection, whose HTTP head has been written. The body is NDJSON until the connection closes.
    Serve { request: Serve },
    /// Keep the attached descriptors under this key; a second one replaces the first.
    Keep { key: String },
    /// Close what is kept under this key.
    Drop { key: String },
    /// Send everything that is kept: one [`FromLogs::Kept`] each, then [`FromLogs::KeptAll`]. The role keeps its own copies.
    Claim,
    /// Empty the pipes, write everything out, leave.
    Quit,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum FromLogs {
    Hello {
        pid: i32,
        last_seq: u64,
    },
    Matched {
        stream: Stream,
        run: u32,
    },
    /// The pipe of an ended run is empty; its last lines (at most 10, at most 1 KiB each).
    Drained {
        stream: Stream,
        run: u32,
        tail: Vec<String>,
    },
    /// Lines that were dropped since the last report, and why (rate guard, full disk, slow disk).
    Dropped {
        stream: Stream,
        lines: u64,
        reason: String,
    },
    Persisted {
        decision: u64,
        error: Option<String>,
    },
    /// The packet carries the descriptors.
    Kept {
        key: String,
    },
    KeptAll,
    /// Something an operator should know of the log disk (once per change).
    Trouble {
        text: String,
    },
}

/// One replica's output.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stream {
    pub service: String,
    pub index: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub max_size_bytes: u64,
    /// Rotated files beside the one being written.
    pub keep: u32,
    pub lines_per_second: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum Serve {
    /// Lines of these services (all replicas) or replicas, merged in time order. Each NDJSON line is a [`LogLine`].
    Logs { streams: Vec<StreamFilter>, tail: Option<u64>, since_unix_ms: Option<u64>, follow: bool },
    /// Journal entries with `seq` greater than `since_seq`, or not older than `since_unix_ms`; the last `tail` of them.
    Events { since_seq: Option<u64>, since_unix_ms: Option<u64>, tail: Option<u64>, follow: bool },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamFilter {
    pub service: String,
    /// `None`: every replica.
    pub index: Option<u16>,
}

/// One line of the answer to [`Serve::Logs`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// RFC 3339 with milliseconds: when the role read the line.
    pub at: String,
    pub service: String,
    pub replica: u16,
    /// Invalid UTF-8 is replaced.
    pub line: String,
}
