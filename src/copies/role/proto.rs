//! What the agent and the role of a set of copies say to each other: one JSON message a `SOCK_SEQPACKET` packet over
//! `{run_dir}/roles/copy-NUMBER.sock`. The role listens and takes orders from the newest agent. A job goes on while no agent lives, but for what needs one:
//! a service that was frozen for it is thawed when the connection ends. Without a job the role leaves when no agent has been connected for ten seconds.

use serde::{Deserialize, Serialize};

use crate::engine::copies::order::{Order, Report};
use crate::engine::copies::plan::CopyPlan;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum ToCopies {
    Hello {
        agent_pid: i32,
    },
    /// The set; a catalog follows. While a job runs it holds from the next one on.
    Plan {
        plan: Box<CopyPlan>,
    },
    Order {
        order: Order,
    },
    Cancel {
        order: u64,
    },
    /// With the `cgroup.freeze` of each group that was frozen for this alone, to be thawed when this connection ends.
    Quiesced {
        order: u64,
        max_ms: u64,
    },
    NotQuiesced {
        order: u64,
        why: String,
    },
    /// The agent has thawed what it had frozen for this.
    Resumed {
        order: u64,
    },
    /// Something else wants the groups frozen as well: they are not to be thawed when this connection ends.
    Keep {
        order: u64,
    },
    Quit,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum FromCopies {
    /// `running`: the order that an earlier agent gave and that is still worked on.
    Hello {
        pid: i32,
        set: Option<String>,
        running: Option<Order>,
    },
    Report {
        report: Report,
    },
    /// A message that is longer than a packet, in pieces of its JSON; nothing else comes between them.
    Piece {
        text: String,
        last: bool,
    },
}

/// Of the JSON that goes into one packet; written as a text in JSON again it may become twice as long.
pub const PIECE_BYTES_MAX: usize = 48 << 10;
/// Of a message in pieces: a catalog of as many copies as a set may keep is a fifth of it.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
