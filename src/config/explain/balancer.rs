//! A balancer in `check --explain`.

use super::super::values::{duration_text, share_text, size_text};
use super::Lines;
use crate::engine::balance::plan::{
    Algorithm, BalancerPlan, Delivery, Destination, Key, NoneLeft, Replay, Rules, Timeouts,
};

pub(super) fn balancer(plan: &BalancerPlan, out: &mut Lines) {
    out.0.push_str(&format!("balancer {}\n", plan.name));
    let listen: Vec<String> = plan.listen.iter().map(ToString::to_string).collect();
    out.list("listen", &listen);
    destination(&plan.to, out);
    match plan.delivery {
        Delivery::Proxy => out.line("delivery", "Proxy: the proxy moves the bytes"),
        Delivery::HandOff => out.line("delivery", "HandOff: the proxy passes the connection to the replica"),
        Delivery::Shared => {
            return out.line("delivery", "Shared: every replica inherits the sockets (LISTEN_FDS)");
        }
    }
    choice(&plan.rules, out);
    if plan.delivery == Delivery::Proxy {
        moving(&plan.rules, out);
    }
    limits(&plan.rules, out);
}

fn destination(to: &Destination, out: &mut Lines) {
    match to {
        Destination::Service { name, socket, weights } => {
            let socket = socket.as_ref().map(|socket| format!(" at unix:{socket}")).unwrap_or_default();
            out.line("to", format!("the replicas of {name}{socket}"));
            let weights: Vec<String> = weights.iter().map(ToString::to_string).collect();
            out.list("weights", &weights);
        }
        Destination::Backends(list) => {
            let weight = |weight: &u32| if *weight == 1 { String::new() } else { format!(" (weight {weight})") };
            let list: Vec<String> = list.iter().map(|(to, share)| format!("{to}{}", weight(share))).collect();
            out.list("backends", &list);
        }
    }
}

fn choice(rules: &Rules, out: &mut Lines) {
    let key = match &rules.key {
        Key::Auto => "the client's address, if it has one that tells it apart".to_owned(),
        Key::SourceIp => "the client's address".to_owned(),
        Key::SourceIpPort => "the client's address and port".to_owned(),
        Key::PeerCred => "the client's user and process".to_owned(),
        Key::TlsSni => "the server name of TLS".to_owned(),
        Key::HttpHeader(name) => format!("the HTTP header {name}"),
    };
    let bound = match rules.max_load_permille {
        Some(permille) => format!(", at most {} of the mean load", share_text(permille)),
        None => String::new(),
    };
    let algorithm = match rules.algorithm {
        Algorithm::Rendezvous => format!("Rendezvous by {key}{bound}"),
        Algorithm::Modulo => format!("Modulo by {key}{bound}"),
        Algorithm::RoundRobin => "RoundRobin".to_owned(),
        Algorithm::LeastConnections => "LeastConnections".to_owned(),
        Algorithm::TwoChoices => "TwoChoices".to_owned(),
    };
    out.line("algorithm", algorithm);
    let queued = rules.limits.queued;
    out.line(
        "none_left",
        match rules.none_left {
            NoneLeft::Queue(time) => format!("clients wait {}, {queued} at most", duration_text(time)),
            NoneLeft::Refuse => "clients are reset".to_owned(),
            NoneLeft::FailOpen => "degraded and ejected backends are tried".to_owned(),
        },
    );
    out.line("drain_timeout", duration_text(rules.drain_timeout));
    out.line("ramp", duration_text(rules.ramp));
    let eject = rules.eject;
    out.line(
        "eject",
        match eject.after {
            0 => "never".to_owned(),
            after => format!(
                "after {after} failures in a row, for {}, doubling up to {}",
                duration_text(eject.base),
                duration_text(eject.max)
            ),
        },
    );
}

fn moving(rules: &Rules, out: &mut Lines) {
    out.line(
        "replay",
        match rules.replay {
            Replay::Off => "Off".to_owned(),
            Replay::Unanswered { max_bytes } => {
                format!("what is unanswered, up to {}", size_text(u64::from(max_bytes)))
            }
        },
    );
    let Timeouts { connect, idle, half_closed, first_bytes: _ } = rules.timeouts;
    let text = [("connect", connect), ("idle", idle), ("half closed", half_closed)]
        .map(|(name, time)| format!("{name} {}", duration_text(time)));
    out.list("timeouts", &text);
    if rules.send_proxy {
        out.line("send_proxy", "PROXY v2");
    }
}

fn limits(rules: &Rules, out: &mut Lines) {
    let limits = rules.limits;
    let mut text = vec![format!("{} connections", limits.connections)];
    text.extend(limits.per_source.map(|limit| format!("{limit} of one client")));
    text.extend(limits.per_backend.map(|limit| format!("{limit} of one backend")));
    out.list("limits", &text);
    if rules.key.is_peeked() || !rules.accept_proxy_from.is_empty() {
        let (bytes, time) = (size_text(u64::from(limits.peek_bytes)), duration_text(rules.timeouts.first_bytes));
        out.line("first bytes", format!("up to {bytes} within {time}"));
    }
    let networks: Vec<String> =
        rules.accept_proxy_from.iter().map(|(address, bits)| format!("{address}/{bits}")).collect();
    out.list("accept_proxy_from", &networks);
    if rules.access_log {
        out.line("access_log", "one line a connection");
    }
}
