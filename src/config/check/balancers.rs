//! Balancers: where they accept, what they lead to, and what fits together. `rules` is the rest of their keys, `addresses` what all of
//! them take together.

mod addresses;
mod rules;

use std::path::Path;

use super::super::parse;
use super::super::report::Item;
use super::super::schema::{self, Balancer};
use super::super::suggest;
use super::{Given, SOCKET_PATH_BYTES_MAX, Scope, no_zero_byte, words};
use crate::engine::balance::plan::{Address, BalancerPlan, Delivery, Destination};
use crate::engine::plan::{Kind, Listen, Readiness, ServicePlan, User, Words, expand};

/// Balancers in one configuration.
pub const BALANCERS_MAX: usize = 256;
/// Backends of one balancer: all of them travel to the proxy in one message.
pub const BACKENDS_MAX: usize = 128;
/// Addresses at which one balancer accepts.
const LISTEN_MAX: usize = 64;
const WEIGHT_MAX: u32 = 256;

/// A balancer that was read.
struct Front {
    item: Item,
    balancer: Balancer,
}

/// The services it may lead to.
struct Services<'a> {
    given: &'a [Given],
    plans: &'a [ServicePlan],
    /// Some names may be missing, so that nothing is said about unknown ones.
    incomplete: bool,
    proxy_user: Option<&'a User>,
}

/// Checks every balancer. `Shared` ones become sockets of their services.
pub(super) fn check(
    items: Vec<Item>,
    given: &[Given],
    plans: &mut [ServicePlan],
    incomplete: bool,
    proxy_user: Option<&User>,
    scope: &mut Scope<'_>,
) -> Vec<BalancerPlan> {
    let mut fronts = Vec::new();
    for mut item in items {
        if let Some(balancer) = parse::read::<Balancer>(&mut item, scope.report) {
            fronts.push(Front { item, balancer });
        }
    }
    if let Some(first) = fronts.get(BALANCERS_MAX) {
        let message = format!("{} balancers; this version is made for at most {BALANCERS_MAX}", fronts.len());
        scope.report.error(&first.item, "", message);
    }
    names(&fronts, scope);
    proxy_without_a_user(&fronts, proxy_user, scope);
    let services = Services { given, plans, incomplete, proxy_user };
    let balancers: Vec<BalancerPlan> = fronts.iter().map(|front| balancer(front, &services, scope)).collect();
    addresses::check(&fronts, &balancers, &services, scope);
    for plan in balancers.iter().filter(|plan| plan.delivery == Delivery::Shared) {
        if let Some(service) = plans.iter_mut().find(|service| plan.service() == Some(&service.name)) {
            service.process.listen.extend(plan.listen.iter().map(inherited));
        }
    }
    balancers
}

/// Said only where somebody needs the proxy.
fn proxy_without_a_user(fronts: &[Front], proxy: Option<&User>, scope: &mut Scope<'_>) {
    let needs = |front: &&Front| front.balancer.delivery != schema::Delivery::Shared;
    if let (Some(first), Some(proxy)) = (fronts.iter().find(needs), proxy)
        && scope.context.look.user(&proxy.name).is_none()
    {
        let message =
            format!("the proxy runs as uid {}, which nobody else uses: it has no user on this host", proxy.uid);
        scope.report.note(&first.item, "", message).hint("adduser --system --group mainstay-proxy");
    }
}

fn names(fronts: &[Front], scope: &mut Scope<'_>) {
    for (index, Front { item, balancer }) in fronts.iter().enumerate() {
        super::well_named(item, &balancer.name, "balancer", "front", scope);
        let first = fronts[..index].iter().find(|other| other.balancer.name == balancer.name);
        if let Some(first) = first.filter(|_| !balancer.name.is_empty()) {
            let place = scope.report.place(&first.item, "name");
            let message = format!("there are two balancers {:?}", balancer.name);
            scope.report.error(item, "name", message).hint(format!("the other one is at {place}"));
        }
    }
}

fn balancer(front: &Front, services: &Services<'_>, scope: &mut Scope<'_>) -> BalancerPlan {
    let Front { item, balancer } = front;
    let delivery = match balancer.delivery {
        schema::Delivery::Proxy => Delivery::Proxy,
        schema::Delivery::HandOff => Delivery::HandOff,
        schema::Delivery::Shared => Delivery::Shared,
    };
    let plan = BalancerPlan {
        name: balancer.name.clone(),
        listen: listen(front, delivery, scope),
        to: destination(front, delivery, services, scope),
        delivery,
        rules: rules::rules(item, balancer, scope),
    };
    rules::lint(item, balancer, &plan, scope);
    plan
}

fn listen(front: &Front, delivery: Delivery, scope: &mut Scope<'_>) -> Vec<Address> {
    let Front { item, balancer } = front;
    if balancer.listen.is_empty() {
        let missing = scope.report.error(item, "listen", "the key `listen` is missing or empty");
        missing.hint("write where clients come in, such as [\"tcp:0.0.0.0:8080\"]");
    }
    if balancer.listen.len() > LISTEN_MAX {
        scope.report.error(item, "listen", format!("a balancer accepts at {LISTEN_MAX} addresses at most"));
    }
    let mut list = Vec::new();
    for (index, text) in balancer.listen.iter().enumerate() {
        let path = format!("listen[{index}]");
        let Some(address) = address(item, &path, text, &balancer.name, scope) else {
            continue;
        };
        if let (Address::Udp(_), Delivery::Proxy | Delivery::HandOff) = (&address, delivery) {
            let message = format!("{text:?}: UDP has no connections to balance");
            scope
                .report
                .error(item, &path, message)
                .hint("only `delivery: Shared` takes udp: every replica reads from it");
        }
        if let Address::Unix(socket) = &address
            && let Some(directory) = socket.parent()
            && !directory.starts_with(scope.run_dir)
            && !scope.context.look.is_directory(directory)
        {
            let message =
                format!("there is no directory {}: clients cannot come in until there is", directory.display());
            scope.report.warning(item, &path, message);
        }
        list.push(address);
    }
    list
}

/// `tcp:ADDRESS:PORT`, `udp:..` or `unix:/path`; of the words only `{run_dir}` and `{name}` mean something here.
fn address(item: &Item, path: &str, text: &str, name: &str, scope: &mut Scope<'_>) -> Option<Address> {
    let example = if path.starts_with("backends") {
        "write \"tcp:10.0.0.2:80\" or \"unix:/run/other.sock\""
    } else {
        "write \"tcp:0.0.0.0:8080\" or \"unix:{run_dir}/front.sock\""
    };
    let Some((kind, rest)) = text.split_once(':').filter(|(kind, _)| matches!(*kind, "tcp" | "udp" | "unix")) else {
        let message = format!("{text:?} is no address: it starts with none of tcp: udp: unix:");
        scope.report.error(item, path, message).hint(example);
        return None;
    };
    if !no_zero_byte(item, path, rest, scope) {
        return None;
    }
    if let Some(word) = words::braced(rest).find(|word| words::is_known(word) && !matches!(*word, "run_dir" | "name")) {
        let message = format!("`{{{word}}}` has no meaning here: it belongs to a replica");
        scope.report.error(item, path, message).hint(example);
        return None;
    }
    let run_dir = scope.run_dir.to_string_lossy().into_owned();
    let rest = expand(rest, &Words { name: name.to_owned(), run_dir, ..Words::default() });
    if kind == "unix" {
        return unix_path(item, path, &rest, scope).then(|| Address::Unix(rest.into()));
    }
    let Ok(address) = rest.parse::<std::net::SocketAddr>() else {
        let message = format!("{rest:?} is not a numeric address with a port");
        let local = rest.starts_with("localhost:");
        let hint = if local { "write 127.0.0.1 or [::1] in place of localhost" } else { example };
        scope.report.error(item, path, message).hint(hint);
        return None;
    };
    if address.port() == 0 {
        scope.report.error(item, path, "port 0 is none");
        return None;
    }
    Some(if kind == "tcp" { Address::Tcp(address) } else { Address::Udp(address) })
}

fn unix_path(item: &Item, path: &str, text: &str, scope: &mut Scope<'_>) -> bool {
    if !text.starts_with('/') {
        scope.report.error(item, path, format!("{text:?} is not an absolute path")).hint("it must start with /");
        return false;
    }
    if text.len() > SOCKET_PATH_BYTES_MAX {
        let message = format!("the path {text} has {} bytes; the kernel allows {SOCKET_PATH_BYTES_MAX}", text.len());
        scope.report.error(item, path, message);
        return false;
    }
    true
}

fn destination(front: &Front, delivery: Delivery, services: &Services<'_>, scope: &mut Scope<'_>) -> Destination {
    let Front { item, balancer } = front;
    for (index, weight) in balancer.weights.iter().enumerate() {
        if !(1..=WEIGHT_MAX).contains(weight) {
            let message = format!("{weight} is no weight: they are 1 to {WEIGHT_MAX}");
            let found = scope.report.error(item, &format!("weights[{index}]"), message);
            found.maybe_hint((*weight == 0).then(|| "`mainstay drain NAME/replica` takes one out".to_owned()));
        }
    }
    if balancer.backends.is_some() {
        if let Some(key) = [("to", balancer.to.is_some()), ("socket", balancer.socket.is_some())]
            .into_iter()
            .find_map(|(key, given)| given.then_some(key))
        {
            let message = format!("`{key}` and `backends` exclude each other");
            scope.report.error(item, key, message).hint("remove one of them; two balancers can do both");
        }
        if delivery != Delivery::Proxy {
            let message = format!("`delivery: {delivery:?}` needs replicas of our own");
            scope.report.error(item, "delivery", message).hint("use `to`, or `delivery: Proxy`");
        }
        return backends(front, scope);
    }
    let Some(name) = &balancer.to else {
        if !item.is_broken("to") && !item.is_broken("backends") {
            let message = "neither `to` nor `backends`: there is nobody to take the connections";
            scope.report.error(item, "", message).hint("to: \"NAME\" leads to the replicas of a service");
        }
        return Destination::Backends(Vec::new());
    };
    match services.given.iter().position(|given| given.service.name == *name) {
        Some(index) => service(front, delivery, index, services, scope),
        None if services.incomplete => {}
        None => {
            let names = services.given.iter().map(|given| given.service.name.as_str());
            let hint = suggest::did_you_mean(name, names);
            scope.report.error(item, "to", format!("there is no service {name:?}")).maybe_hint(hint);
        }
    }
    let (name, weights) = (name.clone(), balancer.weights.clone());
    Destination::Service { name, socket: balancer.socket.clone(), weights }
}

fn backends(front: &Front, scope: &mut Scope<'_>) -> Destination {
    let Front { item, balancer } = front;
    let list = balancer.backends.as_deref().unwrap_or_default();
    if list.is_empty() {
        scope.report.error(item, "backends", "an empty list: there is nobody to take the connections");
    }
    if list.len() > BACKENDS_MAX {
        scope.report.error(item, "backends", format!("a balancer has at most {BACKENDS_MAX} backends"));
    }
    if balancer.weights.len() > list.len() {
        let message = format!("{} weights for {} backends", balancer.weights.len(), list.len());
        scope.report.error(item, "weights", message);
    }
    let mut known: Vec<(Address, u32)> = Vec::new();
    for (index, text) in list.iter().enumerate() {
        let path = format!("backends[{index}]");
        match address(item, &path, text, &balancer.name, scope) {
            None => {}
            Some(Address::Udp(_)) => {
                let message = format!("{text:?}: UDP has no connections to balance");
                scope.report.error(item, &path, message).hint("write tcp: or unix:");
            }
            Some(address) if known.iter().any(|(other, _)| *other == address) => {
                let message = format!("{text:?} stands here twice");
                scope.report.error(item, &path, message).hint("`weights` gives one a greater share");
            }
            Some(Address::Tcp(address)) if address.ip().is_unspecified() => {
                let message = format!("{text:?} is no address of a host");
                scope.report.error(item, &path, message).hint(format!("write \"tcp:127.0.0.1:{}\"", address.port()));
            }
            Some(address) => known.push((address, balancer.weights.get(index).copied().unwrap_or(1))),
        }
    }
    Destination::Backends(known)
}

fn service(front: &Front, delivery: Delivery, index: usize, services: &Services<'_>, scope: &mut Scope<'_>) {
    let Front { item, balancer } = front;
    let (given, plan) = (&services.given[index], &services.plans[index]);
    let name = &plan.name;
    if plan.kind != Kind::Daemon {
        let message = format!("{name:?} is a task: it ends, and takes no connections");
        scope.report.error(item, "to", message).hint("lead to a service with `kind: Daemon`");
        return;
    }
    let replicas = usize::from(plan.replicas);
    if balancer.weights.len() > replicas {
        let message = format!("{} weights for {replicas} replicas of {name:?}", balancer.weights.len());
        scope.report.error(item, "weights", message);
    }
    if delivery != Delivery::Shared && replicas > BACKENDS_MAX {
        let message = format!("{name:?} has {replicas} replicas; a balancer leads to {BACKENDS_MAX} at most");
        scope.report.error(item, "to", message).hint("`delivery: Shared` has no such limit");
    }
    match (&balancer.socket, delivery) {
        (Some(socket), Delivery::Proxy) => self::socket(item, socket, plan, services.proxy_user, scope),
        (Some(_), Delivery::HandOff | Delivery::Shared) | (None, Delivery::HandOff | Delivery::Shared) => return,
        (None, Delivery::Proxy) if plan.port.is_none() && !given.item.is_broken("port") => {
            let message = format!("{name:?} has no `port`, so nobody knows where its replicas accept");
            let hint = format!(
                "give {name:?} a port, or the balancer a socket: \"{{service_dir}}/{{replica}}.sock\" that {name:?} makes"
            );
            scope.report.error(item, "to", message).hint(hint);
            return;
        }
        (None, Delivery::Proxy) => {}
    }
    if plan.ready == Readiness::Started && !given.item.is_broken("ready") {
        let message = format!("{name:?} counts as ready as soon as its program runs, perhaps before it accepts");
        let ready = if balancer.socket.is_some() { "Notify" } else { "Tcp(\"127.0.0.1:{port}\")" };
        scope.report.warning(item, "to", message).hint(format!("give {name:?} a check such as ready: {ready}"));
    }
}

/// The template of the replicas' own sockets.
fn socket(item: &Item, socket: &str, plan: &ServicePlan, proxy: Option<&User>, scope: &mut Scope<'_>) {
    if !no_zero_byte(item, "socket", socket, scope) {
        return;
    }
    if words::braced(socket).any(|word| word == "port") && plan.port.is_none() {
        let message = format!("`{{port}}` stands here, but {:?} has no `port`", plan.name);
        scope.report.error(item, "socket", message);
        return;
    }
    let path = |replica| expand(socket, &plan.words(replica, scope.run_dir));
    let (first, last) = (path(0), path(plan.replicas.saturating_sub(1)));
    if !unix_path(item, "socket", &last, scope) {
        return;
    }
    if plan.replicas > 1 && first == last {
        let message = format!("all {} replicas of {:?} would have the same socket {first}", plan.replicas, plan.name);
        scope.report.error(item, "socket", message).hint("put {replica} into it");
        return;
    }
    reachable(item, &first, plan, proxy, scope);
}

/// Who connects to a socket must be allowed to write it.
fn reachable(item: &Item, path: &str, plan: &ServicePlan, proxy: Option<&User>, scope: &mut Scope<'_>) {
    let Some(proxy) = proxy else { return };
    let (uid, gid) = plan.process.user.as_ref().map_or((0, 0), |user| (user.uid, user.gid));
    if uid == proxy.uid {
        return;
    }
    let member = proxy.groups.contains(&gid);
    let denied = if member { 0o020 } else { 0o002 };
    let service_dir = plan.words(0, scope.run_dir).service_dir;
    let (who, whose, umask) = (&proxy.name, &plan.name, plan.process.umask);
    let message = if !member && Path::new(path).starts_with(&service_dir) {
        // Its mode is 0750, and it belongs to the service's user.
        format!("the proxy runs as {who} and may not enter {service_dir}: it could not connect")
    } else if umask & denied != 0 {
        format!(
            "the proxy runs as {who} and may not write the sockets of {whose:?} (umask 0o{umask:03o}): it could not connect"
        )
    } else {
        return;
    };
    let hint = format!("set umask: 0o007 for {whose:?}, and `adduser {who} GROUP` with the service's group");
    scope.report.warning(item, "socket", message).hint(hint);
}

fn inherited(address: &Address) -> Listen {
    match address {
        Address::Tcp(address) => Listen::Tcp(address.to_string()),
        Address::Udp(address) => Listen::Udp(address.to_string()),
        Address::Unix(path) => Listen::Unix(path.to_string_lossy().into_owned()),
    }
}
