//! A balancer as the configuration has it, checked.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One item of `balancers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalancerPlan {
    pub name: String,
    /// Not empty, no address twice in the whole configuration.
    pub listen: Vec<Address>,
    pub to: Destination,
    pub delivery: Delivery,
    pub rules: Rules,
}

/// Where connections are accepted, or a backend is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    Tcp(SocketAddr),
    /// Only as a listener with [`Delivery::Shared`].
    Udp(SocketAddr),
    /// An absolute path.
    Unix(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Destination {
    /// The replicas of a service, each at its `{port}` on 127.0.0.1, or at a Unix socket (a path, still with `{words}`). With `HandOff`
    /// and `Shared` it needs neither.
    Service {
        name: String,
        socket: Option<String>,
        /// By replica; those beyond weigh 1.
        weights: Vec<u32>,
    },
    /// Fixed addresses that nobody here supervises, with their weights. Always taken for ready; ejection is what keeps dead ones out.
    Backends(Vec<(Address, u32)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// The proxy role moves the bytes.
    Proxy,
    /// The proxy role accepts and passes the descriptor to the replica.
    HandOff,
    /// Every replica inherits the listening socket (`config::check` adds it to `ServicePlan::process.listen`); there is no table.
    Shared,
}

/// What the proxy must know beside the backends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    pub algorithm: Algorithm,
    pub key: Key,
    /// A backend takes at most this share of the mean load (in thousandths, above 1000), but always [`super::pick::LOAD_FLOOR`]
    /// connections. `None`: no bound. Only for the algorithms that go by a key.
    pub max_load_permille: Option<u32>,
    pub replay: Replay,
    pub none_left: NoneLeft,
    /// How long connections of a draining replica may go on.
    pub drain_timeout: Duration,
    /// A replica that has become ready takes its full share only after this long; zero is at once.
    pub ramp: Duration,
    pub eject: Eject,
    pub timeouts: Timeouts,
    pub limits: Limits,
    /// PROXY protocol v2 header before the first byte to the backend.
    pub send_proxy: bool,
    /// PROXY headers (v1 and v2) are required from clients in these networks (address, prefix length); others must not send one.
    pub accept_proxy_from: Vec<(IpAddr, u8)>,
    /// One line a connection, to the role's own output (the agent's log).
    pub access_log: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Highest score of a keyed hash of key and backend name: only the keys of a lost backend move.
    Rendezvous,
    /// Hash of the key modulo the number of configured backends, hashed again while the slot is unavailable.
    Modulo,
    RoundRobin,
    LeastConnections,
    /// The less loaded of two drawn at random.
    TwoChoices,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// The client's address; clients on loopback or on a Unix socket have none, and go by `LeastConnections`.
    Auto,
    /// IPv4 address, or /64 of IPv6.
    SourceIp,
    SourceIpPort,
    /// User and process of the client of a Unix socket.
    PeerCred,
    /// The server name of a TLS ClientHello.
    TlsSni,
    /// The value of this header of the first HTTP/1 request.
    HttpHeader(String),
}

impl BalancerPlan {
    /// Whether the engine makes a table of it.
    #[must_use]
    pub fn has_table(&self) -> bool {
        match self.delivery {
            Delivery::Proxy | Delivery::HandOff => true,
            Delivery::Shared => false,
        }
    }

    /// The service it leads to.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        match &self.to {
            Destination::Service { name, .. } => Some(name),
            Destination::Backends(_) => None,
        }
    }
}

/// As the configuration writes it.
impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(out, "tcp:{address}"),
            Self::Udp(address) => write!(out, "udp:{address}"),
            Self::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

impl Key {
    /// Whether the first bytes of the client are looked at before a backend is chosen.
    #[must_use]
    pub fn is_peeked(&self) -> bool {
        match self {
            Self::TlsSni | Self::HttpHeader(_) => true,
            Self::Auto | Self::SourceIp | Self::SourceIpPort | Self::PeerCred => false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replay {
    Off,
    /// If a backend dies before its first byte of answer, what the client has sent so far (up to this) goes to another.
    Unanswered {
        max_bytes: u32,
    },
}

/// What becomes of a client when no backend is available.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoneLeft {
    /// It waits this long for one, if one may come back.
    Queue(Duration),
    /// It is reset.
    Refuse,
    /// Backends that are degraded are tried, each once.
    FailOpen,
}

/// Passive ejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eject {
    /// Failures in a row (connect failed, or reset before the first byte of answer); 0: never.
    pub after: u32,
    /// The first time out; doubles each time up to `max`.
    pub base: Duration,
    pub max: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// One attempt to connect.
    pub connect: Duration,
    /// Both directions silent.
    pub idle: Duration,
    /// One direction closed and the other silent.
    pub half_closed: Duration,
    /// For the first bytes, where the key (or a PROXY header) is in them.
    pub first_bytes: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Connections of this balancer; more wait in the backlog of the listener.
    pub connections: u32,
    /// Connections of one client address; more are reset. `None`: no limit.
    pub per_source: Option<u32>,
    /// Connections of one backend; more wait in the queue.
    pub per_backend: Option<u32>,
    /// Clients that wait for a backend; more are reset.
    pub queued: u32,
    /// First bytes that are looked at for the key.
    pub peek_bytes: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Rendezvous,
            key: Key::Auto,
            max_load_permille: Some(1_500),
            replay: Replay::Off,
            none_left: NoneLeft::Queue(Duration::from_secs(5)),
            drain_timeout: Duration::from_secs(10),
            ramp: Duration::from_secs(10),
            eject: Eject { after: 3, base: Duration::from_secs(1), max: Duration::from_secs(30) },
            timeouts: Timeouts {
                connect: Duration::from_secs(3),
                idle: Duration::from_secs(3_600),
                half_closed: Duration::from_secs(30),
                first_bytes: Duration::from_secs(3),
            },
            limits: Limits {
                connections: 100_000,
                per_source: None,
                per_backend: None,
                queued: 1_024,
                peek_bytes: 4 << 10,
            },
            send_proxy: false,
            accept_proxy_from: Vec::new(),
            access_log: false,
        }
    }
}
