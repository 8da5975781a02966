//! Ports and sockets: addresses that need no name service, each taken once.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::super::report::Item;
use super::super::schema::Service;
use super::{Given, SOCKET_PATH_BYTES_MAX, Scope, no_zero_byte};
use crate::engine::plan::{Listen, ServicePlan, expand};

/// Sockets that one service may be handed.
const LISTEN_MAX: usize = 64;

/// The sockets of one service.
pub(super) fn listen(item: &Item, service: &Service, plan: &ServicePlan, scope: &mut Scope<'_>) -> Vec<Listen> {
    if service.listen.len() > LISTEN_MAX {
        scope.report.error(item, "listen", format!("at most {LISTEN_MAX} sockets are handed over"));
    }
    let sockets = service.listen.iter().enumerate();
    sockets.filter_map(|(index, text)| socket(item, &format!("listen[{index}]"), text, plan, scope)).collect()
}

/// What all services take together.
pub(super) fn check(given: &[Given], plans: &[ServicePlan], scope: &mut Scope<'_>) {
    let ranges = ports(given, plans, scope);
    sockets(given, plans, &ranges, scope);
}

fn socket(item: &Item, path: &str, text: &str, plan: &ServicePlan, scope: &mut Scope<'_>) -> Option<Listen> {
    let example = "write \"tcp:127.0.0.1:8080\", \"udp:[::1]:53\" or \"unix:{service_dir}/name.sock\"";
    let Some((kind, rest)) = text.split_once(':').filter(|(kind, _)| matches!(*kind, "tcp" | "udp" | "unix")) else {
        scope
            .report
            .error(item, path, format!("{text:?} is no socket: it starts with none of tcp: udp: unix:"))
            .hint(example);
        return None;
    };
    if !no_zero_byte(item, path, rest, scope) || item.is_broken("port") {
        return None;
    }
    let expanded = expand(rest, &plan.words(plan.replicas.saturating_sub(1), scope.run_dir));
    if kind == "unix" {
        if !expanded.starts_with('/') {
            scope.report.error(item, path, format!("{rest:?} is not an absolute path")).hint(example);
        } else if expanded.len() > SOCKET_PATH_BYTES_MAX {
            let message =
                format!("the path {expanded} has {} bytes; the kernel allows {SOCKET_PATH_BYTES_MAX}", expanded.len());
            scope.report.error(item, path, message);
        }
        return Some(Listen::Unix(rest.to_owned()));
    }
    // A missing `{port}` has been reported already.
    if expanded.parse::<SocketAddr>().is_err() && (plan.port.is_some() || !rest.contains("{port}")) {
        let message = format!("{expanded:?} is not a numeric address with a port");
        let hint =
            if expanded.starts_with("localhost:") { "write 127.0.0.1 or [::1] in place of localhost" } else { example };
        scope.report.error(item, path, message).hint(hint);
    }
    Some(if kind == "tcp" { Listen::Tcp(rest.to_owned()) } else { Listen::Udp(rest.to_owned()) })
}

/// The ports of one service: first, last, and whose.
type Ports = (u16, u16, usize);

fn ports(given: &[Given], plans: &[ServicePlan], scope: &mut Scope<'_>) -> Vec<Ports> {
    let mut ranges: Vec<Ports> = Vec::new();
    for (index, (Given { item, .. }, plan)) in given.iter().zip(plans).enumerate() {
        let Some(first) = plan.port else { continue };
        if first == 0 {
            scope.report.error(item, "port", "port 0 is none");
            continue;
        }
        match plan.port_of(plan.replicas - 1) {
            Some(last) => ranges.push((first, last, index)),
            None => {
                let message = format!("{} replicas from port {first} on would need ports above 65535", plan.replicas);
                scope.report.error(item, "port", message);
            }
        }
    }
    ranges.sort_unstable();
    let mut highest: Option<Ports> = None;
    for (first, last, index) in ranges.iter().copied() {
        if let Some((_, end, holder)) = highest.filter(|(_, end, _)| *end >= first) {
            // The finding stands at the later one in the file.
            let (late, early) = (index.max(holder), index.min(holder));
            let (late_name, early_name) = (shown(&plans[late]), shown(&plans[early]));
            let message = format!("port {first} is taken twice: by {early_name} and by {late_name}");
            let place = scope.report.place(&given[early].item, "port");
            scope.report.error(&given[late].item, "port", message).hint(format!("the other one is at {place}"));
            if last <= end {
                continue;
            }
        }
        highest = Some((first, last, index));
    }
    ranges
}

pub(super) fn shown(plan: &ServicePlan) -> String {
    match (plan.port, plan.port_of(plan.replicas.saturating_sub(1))) {
        (Some(first), Some(last)) if last > first => format!("{} ({first} to {last})", plan.name),
        (_, _) => plan.name.clone(),
    }
}

/// Each socket is opened once, for one replica.
fn sockets(given: &[Given], plans: &[ServicePlan], ranges: &[Ports], scope: &mut Scope<'_>) {
    // By protocol and port (or path): the addresses, and whose they are.
    let mut taken: BTreeMap<String, Vec<(Option<SocketAddr>, usize)>> = BTreeMap::new();
    for (index, (Given { item, service }, plan)) in given.iter().zip(plans).enumerate() {
        // Texts that are no sockets have been reported, and then the positions would not agree.
        if plan.process.listen.len() != service.listen.len() {
            continue;
        }
        for (position, listen) in plan.process.listen.iter().enumerate() {
            let path = format!("listen[{position}]");
            for replica in 0..plan.replicas {
                let (key, address, text) = key(listen, plan, replica, scope);
                let holders = taken.entry(key).or_default();
                let clash = holders.iter().find(|(other, _)| overlap(*other, address)).map(|(_, holder)| *holder);
                if let Some(holder) = clash {
                    let (message, hint) = if holder == index && replica > 0 {
                        let message = format!("every replica would open the same socket {text}");
                        (message, "put {port}, {replica} or {service_dir} into it".to_owned())
                    } else {
                        let place = scope.report.place(&given[holder].item, "listen");
                        (
                            format!("the socket {text} is opened twice, also by {}", plans[holder].name),
                            format!("the other one is at {place}"),
                        )
                    };
                    scope.report.error(item, &path, message).hint(hint);
                    break;
                }
                holders.push((address, index));
                let port = address.filter(|_| matches!(listen, Listen::Tcp(_))).map(|address| address.port());
                let other = port.and_then(|port| {
                    ranges.iter().find(|(first, last, owner)| (*first..=*last).contains(&port) && *owner != index)
                });
                if let Some((_, _, owner)) = other {
                    let message = format!("{text} uses a `port` of {}", plans[*owner].name);
                    scope.report.warning(item, &path, message);
                    break;
                }
            }
        }
    }
}

/// By protocol and port (or path), the address, and the whole text.
pub(super) fn key(
    listen: &Listen,
    plan: &ServicePlan,
    replica: u16,
    scope: &Scope<'_>,
) -> (String, Option<SocketAddr>, String) {
    let (kind, text) = match listen {
        Listen::Tcp(text) => ("tcp", text),
        Listen::Udp(text) => ("udp", text),
        Listen::Unix(text) => ("unix", text),
    };
    let text = expand(text, &plan.words(replica, scope.run_dir));
    match text.parse::<SocketAddr>() {
        Ok(address) if kind != "unix" => {
            (format!("{kind}:{}", address.port()), Some(address), format!("{kind}:{text}"))
        }
        Ok(_) | Err(_) => (format!("{kind}:{text}"), None, format!("{kind}:{text}")),
    }
}

/// Whether two sockets of one port exclude each other. Port 0 is a new port each time.
pub(super) fn overlap(left: Option<SocketAddr>, right: Option<SocketAddr>) -> bool {
    let (Some(left), Some(right)) = (left, right) else { return left.is_none() && right.is_none() };
    let same_family = left.is_ipv4() == right.is_ipv4();
    left.port() != 0
        && same_family
        && (left.ip() == right.ip() || left.ip().is_unspecified() || right.ip().is_unspecified())
}
