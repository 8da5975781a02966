//! The JSON of the API. Durations are whole milliseconds (`_ms`), sizes bytes (`_bytes`), instants RFC 3339 in UTC; states are
//! lower-case words. Both ends use these types: a field that this version does not know is ignored, a word that it does not know
//! is shown as it is.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::fences::{Limits, ReplicaFence};

/// A lower-case word; the agent sends constants, a client may meet new ones.
pub type Word = Cow<'static, str>;

/// `GET /v1`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    pub at: String,
    pub seq: u64,
    pub name: String,
    pub version: String,
    pub pid: u32,
    pub started_at: String,
    /// The configuration file, as given.
    pub config: String,
    /// What this agent cannot promise on this host, one sentence each.
    pub limits: Vec<String>,
    pub links: Vec<String>,
}

/// `GET /v1/services`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Services {
    pub at: String,
    pub seq: u64,
    pub services: Vec<Service>,
}

/// `GET /v1/services/NAME`: the service's own fields beside `at` and `seq`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceDetail {
    pub at: String,
    pub seq: u64,
    #[serde(flatten)]
    pub service: Service,
    /// As configured, words in braces included; empty for a role.
    pub command: Vec<String>,
    pub user: Option<String>,
    pub listen: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    pub name: String,
    pub state: Word,
    /// `ok`, `degraded`, `failing` or `unknown`.
    pub health: Word,
    pub wanted: bool,
    pub why: Option<String>,
    /// The failing disk or NIC that it needs, with what its check says; it is out of its balancers meanwhile.
    #[serde(default)]
    pub impaired: Option<String>,
    /// `daemon`, `oneshot` or `every`.
    pub kind: Word,
    /// One of the agent's own processes.
    pub role: bool,
    #[serde(default)]
    pub edges: Vec<Edge>,
    pub replicas: Vec<Replica>,
}

/// One dependency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    pub to: String,
    /// `requires`, `wants`, `after` or `restart_with`.
    pub kind: Word,
    pub blocking: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replica {
    pub replica: u16,
    pub state: Word,
    /// As the service's.
    #[serde(default)]
    pub health: Word,
    pub pid: Option<i32>,
    pub run: u32,
    /// How long it has been in this state.
    pub since_ms: u64,
    pub restarts: u32,
    pub last_exit: Option<LastExit>,
    pub cpu_percent: Option<f64>,
    pub memory_bytes: Option<u64>,
    /// Null until releases exist.
    pub release: Option<String>,
    pub fence: Option<ReplicaFence>,
    /// Null where there are none.
    #[serde(default)]
    pub limits: Option<Limits>,
    pub wanted: bool,
    pub flapping: bool,
    /// Runs with an older configuration than the accepted one.
    pub pending_restart: bool,
    /// An operator took it out of its balancers.
    #[serde(default)]
    pub drained: bool,
    /// Its processes stand still, because its disk fails or because it is fenced.
    #[serde(default)]
    pub frozen: bool,
    pub port: Option<u16>,
    pub why: Option<String>,
    pub next: Option<NextStep>,
    /// The last `STATUS=` of its notify socket.
    pub status: Option<String>,
}

/// What happens by itself, and in how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextStep {
    pub what: String,
    pub at: String,
    pub in_ms: u64,
}

/// `code` and `signal` are both null when the kernel could not tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastExit {
    pub code: Option<i32>,
    /// The signal's number.
    pub signal: Option<i32>,
    #[serde(default)]
    pub core: bool,
    pub oom: bool,
    pub at: String,
}

/// `GET /v1/services/NAME/why`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    pub at: String,
    pub seq: u64,
    #[serde(flatten)]
    pub story: Story,
}

/// One service's part of the answer to "why".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Story {
    pub service: String,
    pub state: Word,
    pub wanted: bool,
    pub why: Option<String>,
    #[serde(default)]
    pub impaired: Option<String>,
    pub replicas: Vec<ReplicaStory>,
    /// The stories of the services that hold this one back.
    #[serde(default)]
    pub blocked_by: Vec<Story>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStory {
    pub replica: u16,
    pub state: Word,
    pub since_ms: u64,
    pub why: Option<String>,
    /// From the first symptom to the present state.
    pub chain: Vec<Link>,
    pub next: Option<NextStep>,
    #[serde(default)]
    pub fence: Option<ReplicaFence>,
    /// Of the latest run that ended.
    pub last_lines: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub at: String,
    pub text: String,
}

/// One line of `GET /v1/events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub seq: u64,
    pub at: String,
    /// `error`, `warn`, `info` or `debug`.
    pub level: Word,
    /// The word of the kind: `started`, `ended`, `commanded` …
    #[serde(rename = "type")]
    pub kind: Word,
    pub service: Option<String>,
    pub replica: Option<u16>,
    /// The sentence, without the object in front.
    pub text: String,
    /// Who asked, for verbs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<EventCaller>,
    /// Facts for programs, by kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<serde_json::Value>,
}

/// SO_PEERCRED of a verb's connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventCaller {
    pub uid: u32,
    pub pid: i32,
    pub comm: String,
}

/// The answer to a verb that went well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    pub at: String,
    pub seq: u64,
    pub service: String,
    #[serde(default)]
    pub replica: Option<u16>,
    /// `done`; `accepted` when the outcome was not waited for.
    pub outcome: Word,
    /// Whether the decision outlives a reboot already.
    pub persisted: bool,
}

/// The answer to a reload or its dry run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    pub at: String,
    pub seq: u64,
    pub dry_run: bool,
    pub changes: Vec<Change>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub service: String,
    /// `start`, `stop`, `restart`, `live` or `unchanged`.
    pub effect: Word,
    pub why: String,
}

/// `GET /v1/config`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub at: String,
    pub seq: u64,
    pub file: String,
    /// The plan in force, environment values redacted.
    pub config: serde_json::Value,
}
