//! The keys of a balancer that say how connections are treated: ranges, and which of them go together.

use std::net::IpAddr;
use std::time::Duration;

use super::super::super::report::Item;
use super::super::super::schema::{self, Balancer};
use super::super::super::values::{Dur, duration_text, share_text};
use super::super::{Scope, positive};
use crate::engine::balance::plan::{
    Address, Algorithm, BalancerPlan, Delivery, Eject, Key, Limits, NoneLeft, Replay, Rules, Timeouts,
};

/// What a client has sent is kept in memory for as long as no backend has answered.
const REPLAY_BYTES_MAX: u64 = 64 << 10;
const PEEK_BYTES_MIN: u64 = 64;
const PEEK_BYTES_MAX: u64 = 64 << 10;
const CONNECTIONS_MAX: u32 = 1_000_000;
const QUEUED_MAX: u32 = 100_000;
const RAMP_MAX: Duration = Duration::from_secs(3_600);
const EJECT_AFTER_MAX: u32 = 1_000;
const HEADER_BYTES_MAX: usize = 64;
const NETWORKS_MAX: usize = 64;

/// Keys that mean something only to whoever moves the bytes.
const MOVES_BYTES: [&str; 9] = [
    "socket",
    "replay",
    "connect_timeout",
    "idle_timeout",
    "half_closed_timeout",
    "send_proxy",
    "max_per_source",
    "peek_bytes",
    "first_bytes_timeout",
];

pub(super) fn rules(item: &Item, given: &Balancer, scope: &mut Scope<'_>) -> Rules {
    let max_load = given.max_load.map(|share| share.0);
    if let Some(permille) = max_load.filter(|permille| *permille < 1_000) {
        let message =
            format!("`max_load` {} is below 100%: not all connections would find a place", share_text(permille));
        scope.report.error(item, "max_load", message).hint("\"150%\" of the mean, or None for no bound");
    }
    if given.ramp.0 > RAMP_MAX {
        scope.report.error(item, "ramp", format!("`ramp` is at most {}", duration_text(RAMP_MAX)));
    }
    let mut time = |key: &str, value: Dur| positive(item, key, value, scope);
    let timeouts = Timeouts {
        connect: time("connect_timeout", given.connect_timeout),
        idle: time("idle_timeout", given.idle_timeout),
        half_closed: time("half_closed_timeout", given.half_closed_timeout),
        first_bytes: time("first_bytes_timeout", given.first_bytes_timeout),
    };
    Rules {
        algorithm: given.algorithm.into(),
        key: key(item, given, scope),
        max_load_permille: max_load,
        replay: replay(item, given.replay, scope),
        none_left: none_left(item, given, scope),
        drain_timeout: given.drain_timeout.0,
        ramp: given.ramp.0,
        eject: eject(item, given, scope),
        timeouts,
        limits: limits(item, given, scope),
        send_proxy: given.send_proxy,
        accept_proxy_from: networks(item, &given.accept_proxy_from, scope),
        access_log: given.access_log,
    }
}

fn key(item: &Item, given: &Balancer, scope: &mut Scope<'_>) -> Key {
    let key = Key::from(given.key.clone());
    if let Key::HttpHeader(name) = &key {
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || name.len() > HEADER_BYTES_MAX || !name.chars().all(token) {
            let message = format!("{name:?} is no name of an HTTP header");
            scope.report.error(item, "key", message).hint("write HttpHeader(\"X-User\")");
        }
    }
    key
}

fn replay(item: &Item, given: schema::Replay, scope: &mut Scope<'_>) -> Replay {
    match given {
        schema::Replay::Off => Replay::Off,
        schema::Replay::Unanswered(given) => {
            let bytes = given.max.0;
            if !(1..=REPLAY_BYTES_MAX).contains(&bytes) {
                let message = format!("{bytes} bytes cannot be kept for a replay: 1B to 64KiB");
                scope.report.error(item, "replay", message).hint("Unanswered(max: \"16KiB\"), or Off");
            }
            Replay::Unanswered { max_bytes: u32::try_from(bytes.min(REPLAY_BYTES_MAX)).unwrap_or(1) }
        }
    }
}

fn none_left(item: &Item, given: &Balancer, scope: &mut Scope<'_>) -> NoneLeft {
    match given.none_left {
        schema::NoneLeft::Queue(time) if time.0.is_zero() => {
            scope.report.error(item, "none_left", "a queue in which nobody waits").hint("write Refuse");
            NoneLeft::Refuse
        }
        schema::NoneLeft::Queue(time) => {
            if given.max_queued == 0 {
                let message = "`max_queued: 0` lets nobody wait, whatever `none_left` says";
                scope.report.warning(item, "max_queued", message).hint("write none_left: Refuse");
            }
            NoneLeft::Queue(time.0)
        }
        schema::NoneLeft::Refuse => NoneLeft::Refuse,
        schema::NoneLeft::FailOpen => NoneLeft::FailOpen,
    }
}

fn eject(item: &Item, given: &Balancer, scope: &mut Scope<'_>) -> Eject {
    let given = given.eject;
    let (base, max) = (given.base.0, given.max.0);
    if given.after > EJECT_AFTER_MAX {
        let message = format!("more than {EJECT_AFTER_MAX} failures in a row");
        scope.report.error(item, "eject.after", message).hint("0 is never");
    }
    if base > max {
        let message = format!("`base` {} is longer than `max` {}", duration_text(base), duration_text(max));
        scope.report.error(item, "eject.base", message);
    }
    Eject { after: given.after, base: positive(item, "eject.base", given.base, scope), max }
}

fn limits(item: &Item, given: &Balancer, scope: &mut Scope<'_>) -> Limits {
    if !(1..=CONNECTIONS_MAX).contains(&given.max_connections) {
        let message = format!("{} connections: 1 to {CONNECTIONS_MAX} are possible", given.max_connections);
        scope.report.error(item, "max_connections", message);
    }
    for (key, limit) in [("max_per_source", given.max_per_source), ("max_per_backend", given.max_per_backend)] {
        if limit == Some(0) {
            scope.report.error(item, key, "0 would let nobody in").hint("None is no limit");
        }
    }
    if given.max_queued > QUEUED_MAX {
        scope.report.error(item, "max_queued", format!("at most {QUEUED_MAX} clients can wait"));
    }
    let peek = given.peek_bytes.0;
    if !(PEEK_BYTES_MIN..=PEEK_BYTES_MAX).contains(&peek) {
        scope.report.error(item, "peek_bytes", format!("{peek} bytes: 64B to 64KiB can be looked at"));
    }
    Limits {
        connections: given.max_connections,
        per_source: given.max_per_source,
        per_backend: given.max_per_backend,
        queued: given.max_queued,
        peek_bytes: u32::try_from(peek.min(PEEK_BYTES_MAX)).unwrap_or(0),
    }
}

fn networks(item: &Item, given: &[String], scope: &mut Scope<'_>) -> Vec<(IpAddr, u8)> {
    if given.len() > NETWORKS_MAX {
        scope.report.error(item, "accept_proxy_from", format!("at most {NETWORKS_MAX} networks"));
    }
    let mut list = Vec::new();
    for (index, text) in given.iter().enumerate() {
        let path = format!("accept_proxy_from[{index}]");
        let Some((address, bits)) = network(text) else {
            let message = format!("{text:?} is no network");
            scope.report.error(item, &path, message).hint("write \"10.0.0.0/8\", \"fd00::/8\" or \"192.0.2.7\"");
            continue;
        };
        let first = masked(address, bits);
        if first != address {
            let message = format!("{text:?} is an address inside of the network {first}/{bits}, which is what counts");
            scope.report.warning(item, &path, message).hint(format!("write \"{first}/{bits}\""));
        }
        list.push((first, bits));
    }
    list
}

fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Some(most), |bits| bits.parse().ok())?;
    (bits <= most).then_some((address, bits))
}

/// The first address of a network.
fn masked(address: IpAddr, bits: u8) -> IpAddr {
    let bits = u32::from(bits);
    match address {
        IpAddr::V4(address) => IpAddr::V4((address.to_bits() & u32::MAX.checked_shl(32 - bits).unwrap_or(0)).into()),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & u128::MAX.checked_shl(128 - bits).unwrap_or(0)).into()),
    }
}

/// What is right by itself, but means nothing together. A default that is spelled out is not held against anybody.
pub(super) fn lint(item: &Item, given: &Balancer, plan: &BalancerPlan, scope: &mut Scope<'_>) {
    let changed = given.changed();
    let (unused, why): (Vec<&str>, _) = match plan.delivery {
        Delivery::Proxy => (Vec::new(), ""),
        Delivery::HandOff => {
            unread(item, plan, scope);
            let unused = changed.iter().copied().filter(|key| MOVES_BYTES.contains(key)).collect();
            (unused, "the replica itself speaks with the client")
        }
        Delivery::Shared => (changed.clone(), "each replica accepts from the shared socket by itself"),
    };
    for key in unused {
        let message = format!("`{key}` has no effect with `delivery: {:?}`: {why}", plan.delivery);
        scope.report.warning(item, key, message).hint("remove it");
    }
    if plan.delivery != Delivery::Shared {
        keys(item, &changed, plan, scope);
    }
}

/// What decides who is served, and cannot without a look at the bytes: silence would serve the wrong one.
fn unread(item: &Item, plan: &BalancerPlan, scope: &mut Scope<'_>) {
    if plan.rules.key.is_peeked() {
        let message = "`delivery: HandOff` looks at no byte of a connection, so it has no such key";
        scope.report.error(item, "key", message).hint("use SourceIp, or `delivery: Proxy`");
    }
    if !plan.rules.accept_proxy_from.is_empty() {
        let message = "`delivery: HandOff` reads no PROXY header: the replica would find it in front of the request";
        scope.report.error(item, "accept_proxy_from", message).hint("remove it, or use `delivery: Proxy`");
    }
}

fn keys(item: &Item, changed: &[&str], plan: &BalancerPlan, scope: &mut Scope<'_>) {
    let rules = &plan.rules;
    let by_key = match rules.algorithm {
        Algorithm::Rendezvous | Algorithm::Modulo => true,
        Algorithm::RoundRobin | Algorithm::LeastConnections | Algorithm::TwoChoices => false,
    };
    for (key, says) in [("key", true), ("max_load", rules.max_load_permille.is_some())] {
        if !by_key && says && changed.contains(&key) {
            let message =
                format!("`{key}` has no effect with `algorithm: {:?}`, which goes by no key", rules.algorithm);
            scope.report.warning(item, key, message).hint("remove it, or use Rendezvous");
        }
    }
    let is_unix = |address: &Address| matches!(address, Address::Unix(_));
    let (some_unix, all_unix) = (plan.listen.iter().any(is_unix), plan.listen.iter().all(is_unix));
    let missing = match rules.key {
        Key::PeerCred if !some_unix => Some("only clients of a Unix socket have credentials, and none comes in by one"),
        Key::SourceIp | Key::SourceIpPort if all_unix && rules.accept_proxy_from.is_empty() => {
            Some("clients of a Unix socket have no address")
        }
        Key::Auto | Key::SourceIp | Key::SourceIpPort | Key::PeerCred | Key::TlsSni | Key::HttpHeader(_) => None,
    };
    if let Some(why) = missing.filter(|_| by_key && !plan.listen.is_empty()) {
        scope.report.warning(item, "key", format!("no client has this key: {why}")).hint("use Auto");
    }
    let peeks = by_key && rules.key.is_peeked();
    let reads = peeks || !rules.accept_proxy_from.is_empty();
    for (key, used) in [("peek_bytes", peeks), ("first_bytes_timeout", reads)] {
        if !used && plan.delivery == Delivery::Proxy && changed.contains(&key) {
            let message = format!("`{key}` has no effect: nobody looks at the first bytes");
            scope.report.warning(item, key, message).hint("TlsSni and HttpHeader do, or remove it");
        }
    }
}
