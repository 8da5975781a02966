//! One item of `balancers`. The defaults are those of the engine's `Rules`.

use serde::Deserialize;

use super::super::values::{Dur, Share, Size};
use crate::engine::balance::plan::{self as engine, Rules};

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Balancer {
    /// Required.
    pub(in crate::config) name: String,
    /// Required.
    pub(in crate::config) listen: Vec<String>,
    /// Required, or `backends`.
    pub(in crate::config) to: Option<String>,
    pub(in crate::config) socket: Option<String>,
    pub(in crate::config) backends: Option<Vec<String>>,
    pub(in crate::config) weights: Vec<u32>,
    pub(in crate::config) delivery: Delivery,
    pub(in crate::config) algorithm: Algorithm,
    pub(in crate::config) key: Key,
    pub(in crate::config) max_load: Option<Share>,
    pub(in crate::config) replay: Replay,
    pub(in crate::config) none_left: NoneLeft,
    pub(in crate::config) drain_timeout: Dur,
    pub(in crate::config) ramp: Dur,
    pub(in crate::config) eject: Eject,
    pub(in crate::config) connect_timeout: Dur,
    pub(in crate::config) idle_timeout: Dur,
    pub(in crate::config) half_closed_timeout: Dur,
    pub(in crate::config) first_bytes_timeout: Dur,
    pub(in crate::config) max_connections: u32,
    pub(in crate::config) max_per_source: Option<u32>,
    pub(in crate::config) max_per_backend: Option<u32>,
    pub(in crate::config) max_queued: u32,
    pub(in crate::config) peek_bytes: Size,
    pub(in crate::config) send_proxy: bool,
    pub(in crate::config) accept_proxy_from: Vec<String>,
    pub(in crate::config) access_log: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename = "delivery")]
pub(in crate::config) enum Delivery {
    Proxy,
    HandOff,
    Shared,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename = "algorithm")]
pub(in crate::config) enum Algorithm {
    Rendezvous,
    Modulo,
    RoundRobin,
    LeastConnections,
    TwoChoices,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename = "key")]
pub(in crate::config) enum Key {
    Auto,
    SourceIp,
    SourceIpPort,
    PeerCred,
    TlsSni,
    HttpHeader(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename = "replay")]
pub(in crate::config) enum Replay {
    Off,
    Unanswered(Unanswered),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Unanswered {
    pub(in crate::config) max: Size,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename = "none_left")]
pub(in crate::config) enum NoneLeft {
    Queue(Dur),
    Refuse,
    FailOpen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Eject {
    pub(in crate::config) after: u32,
    pub(in crate::config) base: Dur,
    pub(in crate::config) max: Dur,
}

impl Default for Balancer {
    fn default() -> Self {
        let Rules {
            algorithm,
            key,
            max_load_permille,
            replay,
            none_left,
            drain_timeout,
            ramp,
            eject: _,
            timeouts,
            limits,
            send_proxy,
            accept_proxy_from: _,
            access_log,
        } = Rules::default();
        Self {
            name: String::new(),
            listen: Vec::new(),
            to: None,
            socket: None,
            backends: None,
            weights: Vec::new(),
            delivery: Delivery::Proxy,
            algorithm: algorithm.into(),
            key: key.into(),
            max_load: max_load_permille.map(Share),
            replay: replay.into(),
            none_left: none_left.into(),
            drain_timeout: Dur(drain_timeout),
            ramp: Dur(ramp),
            eject: Eject::default(),
            connect_timeout: Dur(timeouts.connect),
            idle_timeout: Dur(timeouts.idle),
            half_closed_timeout: Dur(timeouts.half_closed),
            first_bytes_timeout: Dur(timeouts.first_bytes),
            max_connections: limits.connections,
            max_per_source: limits.per_source,
            max_per_backend: limits.per_backend,
            max_queued: limits.queued,
            peek_bytes: Size(u64::from(limits.peek_bytes)),
            send_proxy,
            accept_proxy_from: Vec::new(),
            access_log,
        }
    }
}

impl Balancer {
    /// The keys whose values are not the defaults, where that can be without an effect.
    pub(in crate::config) fn changed(&self) -> Vec<&'static str> {
        let usual = Self::default();
        let keys = [
            ("socket", self.socket != usual.socket),
            ("weights", self.weights != usual.weights),
            ("algorithm", self.algorithm != usual.algorithm),
            ("key", self.key != usual.key),
            ("max_load", self.max_load != usual.max_load),
            ("replay", self.replay != usual.replay),
            ("none_left", self.none_left != usual.none_left),
            ("drain_timeout", self.drain_timeout != usual.drain_timeout),
            ("ramp", self.ramp != usual.ramp),
            ("eject", self.eject != usual.eject),
            ("connect_timeout", self.connect_timeout != usual.connect_timeout),
            ("idle_timeout", self.idle_timeout != usual.idle_timeout),
            ("half_closed_timeout", self.half_closed_timeout != usual.half_closed_timeout),
            ("first_bytes_timeout", self.first_bytes_timeout != usual.first_bytes_timeout),
            ("max_connections", self.max_connections != usual.max_connections),
            ("max_per_source", self.max_per_source != usual.max_per_source),
            ("max_per_backend", self.max_per_backend != usual.max_per_backend),
            ("max_queued", self.max_queued != usual.max_queued),
            ("peek_bytes", self.peek_bytes != usual.peek_bytes),
            ("send_proxy", self.send_proxy != usual.send_proxy),
            ("accept_proxy_from", self.accept_proxy_from != usual.accept_proxy_from),
            ("access_log", self.access_log != usual.access_log),
        ];
        keys.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
    }
}

impl Default for Eject {
    fn default() -> Self {
        let engine::Eject { after, base, max } = Rules::default().eject;
        Self { after, base: Dur(base), max: Dur(max) }
    }
}

impl Default for Unanswered {
    fn default() -> Self {
        Self { max: Size(16 << 10) }
    }
}

impl From<engine::Algorithm> for Algorithm {
    fn from(algorithm: engine::Algorithm) -> Self {
        match algorithm {
            engine::Algorithm::Rendezvous => Self::Rendezvous,
            engine::Algorithm::Modulo => Self::Modulo,
            engine::Algorithm::RoundRobin => Self::RoundRobin,
            engine::Algorithm::LeastConnections => Self::LeastConnections,
            engine::Algorithm::TwoChoices => Self::TwoChoices,
        }
    }
}

impl From<Algorithm> for engine::Algorithm {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Rendezvous => Self::Rendezvous,
            Algorithm::Modulo => Self::Modulo,
            Algorithm::RoundRobin => Self::RoundRobin,
            Algorithm::LeastConnections => Self::LeastConnections,
            Algorithm::TwoChoices => Self::TwoChoices,
        }
    }
}

impl From<engine::Key> for Key {
    fn from(key: engine::Key) -> Self {
        match key {
            engine::Key::Auto => Self::Auto,
            engine::Key::SourceIp => Self::SourceIp,
            engine::Key::SourceIpPort => Self::SourceIpPort,
            engine::Key::PeerCred => Self::PeerCred,
            engine::Key::TlsSni => Self::TlsSni,
            engine::Key::HttpHeader(name) => Self::HttpHeader(name),
        }
    }
}

impl From<Key> for engine::Key {
    fn from(key: Key) -> Self {
        match key {
            Key::Auto => Self::Auto,
            Key::SourceIp => Self::SourceIp,
            Key::SourceIpPort => Self::SourceIpPort,
            Key::PeerCred => Self::PeerCred,
            Key::TlsSni => Self::TlsSni,
            Key::HttpHeader(name) => Self::HttpHeader(name),
        }
    }
}

impl From<engine::Replay> for Replay {
    fn from(replay: engine::Replay) -> Self {
        match replay {
            engine::Replay::Off => Self::Off,
            engine::Replay::Unanswered { max_bytes } => {
                Self::Unanswered(Unanswered { max: Size(u64::from(max_bytes)) })
            }
        }
    }
}

impl From<engine::NoneLeft> for NoneLeft {
    fn from(none_left: engine::NoneLeft) -> Self {
        match none_left {
            engine::NoneLeft::Queue(time) => Self::Queue(Dur(time)),
            engine::NoneLeft::Refuse => Self::Refuse,
            engine::NoneLeft::FailOpen => Self::FailOpen,
        }
    }
}
