//! What services mean to each other: names, dependencies without circles, ports and sockets that are taken once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::super::suggest;
use super::{Given, Scope};
use crate::engine::plan::{Listen, ServicePlan, expand};

const EDGES: [&str; 4] = ["requires", "wants", "after", "restart_with"];

/// `incomplete`: some names may be missing, so that nothing is said about unknown ones.
pub(super) fn check(given: &[Given], plans: &[ServicePlan], incomplete: bool, scope: &mut Scope<'_>) {
    let names = names(given, scope);
    let edges = edges(given, &names, incomplete, scope);
    cycles(given, &edges, scope);
    let ranges = ports(given, plans, scope);
    sockets(given, plans, &ranges, scope);
    if given.is_empty() && !incomplete && !scope.report.failed() {
        let nowhere = super::Item { source: 0, range: 0..0, prefix: "services".to_owned(), broken: Vec::new() };
        scope.report.warning(&nowhere, "", "there are no services: the agent would have nothing to do");
    }
}

/// The services by name; of equal names the first counts.
fn names<'a>(given: &'a [Given], scope: &mut Scope<'_>) -> BTreeMap<&'a str, usize> {
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, Given { item, service }) in given.iter().enumerate() {
        let name = service.name.as_str();
        match names.get(name) {
            _ if name.is_empty() => {}
            Some(first) => {
                let place = scope.report.place(&given[*first].item, "name");
                let found = scope.report.error(item, "name", format!("there are two services {name:?}"));
                found.hint(format!("the other one is at {place}"));
            }
            None => {
                names.insert(name, index);
            }
        }
    }
    names
}

/// Where one service names another.
struct Edge {
    to: usize,
    path: String,
}

fn edges(given: &[Given], names: &BTreeMap<&str, usize>, incomplete: bool, scope: &mut Scope<'_>) -> Vec<Vec<Edge>> {
    let mut all = Vec::new();
    for Given { item, service } in given {
        let mut edges = Vec::new();
        for (key, list) in
            EDGES.into_iter().zip([&service.requires, &service.wants, &service.after, &service.restart_with])
        {
            let mut seen = BTreeSet::new();
            for (index, name) in list.iter().enumerate() {
                let path = format!("{key}[{index}]");
                if !seen.insert(name) {
                    scope.report.warning(item, &path, format!("{name:?} stands here twice"));
                    continue;
                }
                match names.get(name.as_str()) {
                    Some(to) => edges.push(Edge { to: *to, path }),
                    None if incomplete => {}
                    None => {
                        let hint = suggest::did_you_mean(name, names.keys().copied());
                        scope.report.error(item, &path, format!("there is no service {name:?}")).maybe_hint(hint);
                    }
                }
            }
        }
        all.push(edges);
    }
    all
}

#[derive(Clone, Copy, PartialEq)]
enum Mark {
    New,
    Open,
    Done,
}

/// Each circle once, where it closes. Depth first with a stack of our own: a chain may be as long as there are services.
fn cycles(given: &[Given], edges: &[Vec<Edge>], scope: &mut Scope<'_>) {
    let mut marks = vec![Mark::New; given.len()];
    let mut reported: BTreeSet<Vec<usize>> = BTreeSet::new();
    for start in 0..given.len() {
        if marks[start] != Mark::New {
            continue;
        }
        marks[start] = Mark::Open;
        let mut trail: Vec<(usize, usize)> = vec![(start, 0)];
        while let Some((at, next)) = trail.last_mut() {
            let from = *at;
            let Some(edge) = edges[from].get(*next) else {
                marks[from] = Mark::Done;
                trail.pop();
                continue;
            };
            *next += 1;
            match marks[edge.to] {
                Mark::New => {
                    marks[edge.to] = Mark::Open;
                    trail.push((edge.to, 0));
                }
                Mark::Open => {
                    let circle: Vec<usize> = trail.iter().map(|(at, _)| *at).skip_while(|at| *at != edge.to).collect();
                    let mut same = circle.clone();
                    same.sort_unstable();
                    if reported.insert(same) {
                        let words: Vec<&str> =
                            circle.iter().chain([&edge.to]).map(|at| given[*at].service.name.as_str()).collect();
                        let message = format!("services wait for each other: {}", words.join(" -> "));
                        scope
                            .report
                            .error(&given[from].item, &edge.path, message)
                            .hint("remove one of these dependencies");
                    }
                }
                Mark::Done => {}
            }
        }
    }
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

fn shown(plan: &ServicePlan) -> String {
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

fn key(listen: &Listen, plan: &ServicePlan, replica: u16, scope: &Scope<'_>) -> (String, Option<SocketAddr>, String) {
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
fn overlap(left: Option<SocketAddr>, right: Option<SocketAddr>) -> bool {
    let (Some(left), Some(right)) = (left, right) else { return left.is_none() && right.is_none() };
    let same_family = left.is_ipv4() == right.is_ipv4();
    left.port() != 0
        && same_family
        && (left.ip() == right.ip() || left.ip().is_unspecified() || right.ip().is_unspecified())
}
