//! Addresses that are taken: by balancers, by the sockets and ports of services; and connections that would run in a circle.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::super::{Scope, sockets};
use super::{Front, Services};
use crate::engine::balance::plan::{Address, BalancerPlan, Delivery, Destination};
use crate::engine::plan::expand;

/// Who has an address, and where the file says so.
#[derive(Clone)]
struct Holder {
    address: Option<SocketAddr>,
    who: String,
    place: String,
}

pub(super) fn check(fronts: &[Front], plans: &[BalancerPlan], services: &Services<'_>, scope: &mut Scope<'_>) {
    if fronts.is_empty() {
        return;
    }
    let mut taken = taken_by_services(plans, services, scope);
    for (Front { item, balancer }, plan) in fronts.iter().zip(plans) {
        // Texts that are no addresses have been reported, and then the positions would not agree.
        if plan.listen.len() != balancer.listen.len() {
            continue;
        }
        for (index, address) in plan.listen.iter().enumerate() {
            let path = format!("listen[{index}]");
            let (key, socket) = key(address);
            let holders = taken.entry(key).or_default();
            if let Some(holder) = holders.iter().find(|holder| sockets::overlap(holder.address, socket)).cloned() {
                let message = format!("{address} is taken already, by {}", holder.who);
                scope.report.error(item, &path, message).hint(format!("the other one is at {}", holder.place));
                continue;
            }
            let who = format!("balancer {:?}", plan.name);
            holders.push(Holder { address: socket, who, place: scope.report.place(item, &path) });
            if let Address::Tcp(address) = address {
                port(item, &path, *address, services, scope);
            }
        }
    }
    circles(fronts, plans, scope);
}

/// The sockets that services are handed, and those at which balancers expect replicas.
fn taken_by_services(
    plans: &[BalancerPlan],
    services: &Services<'_>,
    scope: &Scope<'_>,
) -> BTreeMap<String, Vec<Holder>> {
    let mut taken: BTreeMap<String, Vec<Holder>> = BTreeMap::new();
    for (given, service) in services.given.iter().zip(services.plans) {
        for listen in &service.process.listen {
            let place = scope.report.place(&given.item, "listen");
            for replica in 0..service.replicas {
                let (key, address, _) = sockets::key(listen, service, replica, scope);
                let who = format!("service {:?}", service.name);
                taken.entry(key).or_default().push(Holder { address, who, place: place.clone() });
            }
        }
    }
    for plan in plans.iter().filter(|plan| plan.delivery == Delivery::Proxy) {
        let Destination::Service { name, socket: Some(socket), .. } = &plan.to else {
            continue;
        };
        let Some(index) = services.plans.iter().position(|service| service.name == *name) else {
            continue;
        };
        let (service, place) = (&services.plans[index], scope.report.place(&services.given[index].item, "name"));
        for replica in 0..service.replicas {
            let path = PathBuf::from(expand(socket, &service.words(replica, scope.run_dir)));
            let (key, address) = key(&Address::Unix(path));
            let who = format!("replica {name}/{replica}");
            taken.entry(key).or_default().push(Holder { address, who, place: place.clone() });
        }
    }
    taken
}

/// By protocol and port, or path.
fn key(address: &Address) -> (String, Option<SocketAddr>) {
    match address {
        Address::Tcp(socket) => (format!("tcp:{}", socket.port()), Some(*socket)),
        Address::Udp(socket) => (format!("udp:{}", socket.port()), Some(*socket)),
        Address::Unix(path) => (format!("unix:{}", path.display()), None),
    }
}

/// A replica accepts at its `port` on 127.0.0.1 at the least, perhaps on every address.
fn port(item: &super::Item, path: &str, address: SocketAddr, services: &Services<'_>, scope: &mut Scope<'_>) {
    let owner = services.plans.iter().find(|service| {
        let last = service.port_of(service.replicas.saturating_sub(1));
        service.port.zip(last).is_some_and(|(first, last)| (first..=last).contains(&address.port()))
    });
    let Some(owner) = owner else { return };
    let message = format!("tcp:{address} uses a `port` of service {}", sockets::shown(owner));
    let local = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port());
    let hint = "a balancer needs a port of its own";
    if sockets::overlap(Some(address), Some(local)) {
        scope.report.error(item, path, message).hint(hint);
    } else {
        scope.report.warning(item, path, message).hint(hint);
    }
}

/// Fixed backends that are listeners of ours: connections that lead back to where they came from never end.
fn circles(fronts: &[Front], plans: &[BalancerPlan], scope: &mut Scope<'_>) {
    let next: Vec<Vec<(usize, usize)>> = plans
        .iter()
        .map(|plan| match &plan.to {
            Destination::Service { .. } => Vec::new(),
            Destination::Backends(list) => {
                let at =
                    |address: &Address| plans.iter().position(|plan| plan.listen.iter().any(|own| hits(address, own)));
                list.iter().enumerate().filter_map(|(index, (address, _))| Some((index, at(address)?))).collect()
            }
        })
        .collect();
    for (start, edges) in next.iter().enumerate() {
        for (index, first) in edges {
            // Each circle is told at the balancer that stands first in the file.
            if let Some(trail) = way_back(&next, *first, start).filter(|trail| trail.iter().all(|at| *at >= start)) {
                let mut names = vec![plans[start].name.as_str()];
                names.extend(trail.iter().map(|at| plans[*at].name.as_str()));
                let message = format!("connections would run in a circle: {}", names.join(" -> "));
                let path = format!("backends[{index}]");
                scope.report.error(&fronts[start].item, &path, message).hint("remove this backend");
            }
        }
    }
}

/// From `from` to `to`, both named at the end of the trail.
fn way_back(next: &[Vec<(usize, usize)>], from: usize, to: usize) -> Option<Vec<usize>> {
    let mut seen = vec![false; next.len()];
    let mut trails = vec![vec![from]];
    while let Some(trail) = trails.pop() {
        let at = trail.last().copied()?;
        if at == to {
            return Some(trail);
        }
        if std::mem::replace(&mut seen[at], true) {
            continue;
        }
        trails.extend(next[at].iter().map(|(_, to)| [trail.as_slice(), &[*to]].concat()));
    }
    None
}

/// Whether a connection to `to` arrives at the listener `own`.
fn hits(to: &Address, own: &Address) -> bool {
    match (to, own) {
        (Address::Tcp(to), Address::Tcp(own)) => {
            let everywhere = own.ip().is_unspecified() && own.is_ipv4() == to.is_ipv4() && to.ip().is_loopback();
            to.port() == own.port() && (to.ip() == own.ip() || everywhere)
        }
        (Address::Unix(to), Address::Unix(own)) => to == own,
        (
            Address::Tcp(_) | Address::Udp(_) | Address::Unix(_),
            Address::Tcp(_) | Address::Udp(_) | Address::Unix(_),
        ) => false,
    }
}
