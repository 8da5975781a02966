//! Listening sockets of balancers. The agent opens and holds them; copies go to the proxy, which accepts, and to the keeper in the logs
//! role. So neither a restart of the proxy nor the agent's death closes one: clients wait in its queue meanwhile.
//!
//! One that cannot be opened (the address is in use) is told once and tried again until it can.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use super::links::{Importance, Link};
use super::pace::Pace;
use super::shell::Shell;
use super::sockets;
use crate::engine::Engine;
use crate::engine::action::Level;
use crate::engine::balance::plan::{Address, Delivery};
use crate::engine::event::Event;
use crate::engine::plan::Plan;
use crate::engine::types::Time;
use crate::logs::proto::ToLogs;
use crate::proxy::proto::ToProxy;
use crate::sys::{host, listen};

/// Between two tries to open what cannot be opened for long.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(5);
/// Whoever may enter the directory may connect: as with a TCP port, and as sockets of systemd's units are.
const UNIX_MODE: u32 = 0o666;

/// The balancer and one of its addresses.
type Place = (String, Address);

#[derive(Debug, Default)]
pub struct Listeners {
    open: BTreeMap<Place, OwnedFd>,
    /// With the latest reason.
    failed: BTreeMap<Place, String>,
    /// Shared by replicas from now on, but the proxy accepts from them until a replica does.
    lent: BTreeSet<Place>,
    pace: Pace,
}

impl Listeners {
    /// When the next try is due, if there is something to try.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        (!self.failed.is_empty()).then(|| self.pace.deadline())
    }

    /// Why this address is not listened on; `None` when it is.
    #[must_use]
    pub fn failure(&self, balancer: &str, address: &Address) -> Option<&str> {
        self.failed.get(&(balancer.to_owned(), address.clone())).map(String::as_str)
    }
}

/// Opens, keeps and closes what this plan asks for. One whose address has gone to another balancer, or to a service that shares it, goes
/// with it, and comes back from there: no client in its queue is lost.
pub(super) fn settle(shell: &mut Shell, plan: &Plan, now: Time) {
    let wanted = places(plan);
    shell.listeners.failed.retain(|place, _| wanted.contains(place));
    shell.listeners.lent.retain(|place| !wanted.contains(place));
    let gone = shell.listeners.open.extract_if(.., |place, _| !wanted.contains(place));
    let mut freed: BTreeMap<Address, OwnedFd> = BTreeMap::new();
    for ((balancer, address), socket) in gone.collect::<Vec<_>>() {
        shell.logs.send(&ToLogs::Drop { key: key(&balancer, &address) }, Importance::Current);
        freed.insert(address.clone(), socket);
        shell.listeners.lent.insert((balancer, address));
    }
    take_back(shell, |(balancer, address)| !shares(plan, balancer, address));
    for place in wanted {
        if shell.listeners.open.contains_key(&place) || shell.listeners.failed.contains_key(&place) {
            continue;
        }
        let claimed = shell.sockets.take_claimed(&key(&place.0, &place.1));
        let kept = claimed.or_else(|| freed.remove(&place.1)).or_else(|| from_a_service(shell, &place.1));
        match kept.map_or_else(|| bind(&place.1), Ok) {
            Ok(socket) => take(shell, place, socket),
            Err(error) => {
                let text = format!("balancer {}: cannot listen on {}: {error}; it is tried again", place.0, place.1);
                shell.events.push_back(Event::Remark { level: Level::Error, text });
                shell.listeners.failed.insert(place, error.to_string());
                shell.listeners.pace.restart();
                shell.listeners.pace.back_off(now, RETRY_DELAY_MAX);
            }
        }
    }
    for (address, socket) in freed {
        if shell.sockets.take_over(&address, socket, plan, &mut shell.logs).is_err() {
            remove_name(&address);
        }
    }
}

/// The proxy accepts no more from sockets whose replicas are about to. To be called before the tables of the same step are handed out:
/// whoever was accepted finds a backend.
pub(super) fn settle_lent(shell: &mut Shell, engine: &Engine) {
    if !shell.listeners.lent.is_empty() {
        take_back(shell, |(balancer, _)| !engine.accepts_meanwhile(balancer));
    }
}

fn take_back(shell: &mut Shell, which: impl Fn(&Place) -> bool) {
    for (balancer, address) in shell.listeners.lent.extract_if(.., |place| which(place)) {
        shell.proxy.send(&ToProxy::Unlisten { balancer, address }, Importance::Current);
    }
}

fn shares(plan: &Plan, balancer: &str, address: &Address) -> bool {
    let mut named = plan.balancers.iter().filter(|plan| plan.name == balancer);
    named.any(|plan| plan.delivery == Delivery::Shared && plan.listen.contains(address))
}

/// The socket at this address that replicas have shared until now. Those that still run go on accepting until they are restarted.
fn from_a_service(shell: &mut Shell, address: &Address) -> Option<OwnedFd> {
    let socket = shell.sockets.give_up(address, &mut shell.logs)?;
    let prepared = listen::set_nonblocking(&socket).and_then(|()| match address {
        Address::Unix(path) => listen::redress(path, UNIX_MODE, Some((host::uid(), host::gid()))),
        Address::Tcp(_) | Address::Udp(_) => Ok(()),
    });
    if let Err(error) = prepared {
        log::warn!("agent: {address}: {error}");
    }
    Some(socket)
}

/// Tries again what could not be opened.
pub(super) fn retry(shell: &mut Shell, now: Time) {
    if shell.listeners.failed.is_empty() || !shell.listeners.pace.is_due(now) {
        return;
    }
    for (place, _) in std::mem::take(&mut shell.listeners.failed) {
        match bind(&place.1) {
            Ok(socket) => {
                let text = format!("balancer {}: listens on {} now", place.0, place.1);
                shell.events.push_back(Event::Remark { level: Level::Info, text });
                take(shell, place, socket);
            }
            Err(error) => {
                shell.listeners.failed.insert(place, error.to_string());
            }
        }
    }
    shell.listeners.pace.back_off(now, RETRY_DELAY_MAX);
}

/// Everything is handed to a keeper that has just come.
pub(super) fn keep_all(shell: &mut Shell) {
    for ((balancer, address), socket) in &shell.listeners.open {
        sockets::keep(&mut shell.logs, &key(balancer, address), socket.as_fd());
    }
}

/// Everything is handed to a proxy that has just come.
pub(super) fn tell_all(shell: &mut Shell) {
    for (place, socket) in &shell.listeners.open {
        tell(&mut shell.proxy, place, socket);
    }
}

fn tell(proxy: &mut Link, (balancer, address): &Place, socket: &OwnedFd) {
    let message = ToProxy::Listen { balancer: balancer.clone(), address: address.clone() };
    super::roles::send_copy(proxy, &message, socket.as_fd(), &address.to_string());
}

/// The names of Unix sockets go with an agent that leaves for good.
pub(super) fn remove_names(shell: &Shell) {
    shell.listeners.open.keys().for_each(|(_, address)| remove_name(address));
}

/// Whether this key of the keeper's is that of a balancer's socket.
pub(super) fn is_key(key: &str) -> bool {
    key.starts_with("balancer/")
}

fn take(shell: &mut Shell, place: Place, socket: OwnedFd) {
    sockets::keep(&mut shell.logs, &key(&place.0, &place.1), socket.as_fd());
    tell(&mut shell.proxy, &place, &socket);
    shell.listeners.open.insert(place, socket);
}

/// Where the proxy accepts. A `Shared` socket belongs to the service.
fn places(plan: &Plan) -> BTreeSet<Place> {
    let proxied = plan.balancers.iter().filter(|balancer| balancer.delivery != Delivery::Shared);
    let places = |balancer: &crate::engine::balance::plan::BalancerPlan| {
        let name = balancer.name.clone();
        balancer.listen.iter().map(move |address| (name.clone(), address.clone())).collect::<Vec<_>>()
    };
    proxied.flat_map(places).collect()
}

/// A digest of the address would be shorter, but keys are read by people too; the keeper's limit is above the longest path.
fn key(balancer: &str, address: &Address) -> String {
    format!("balancer/{balancer}/{}", address)
}

fn bind(address: &Address) -> io::Result<OwnedFd> {
    let socket = match address {
        Address::Tcp(address) => listen::tcp(*address),
        Address::Udp(address) => listen::udp(*address),
        Address::Unix(path) => listen::unix(path, UNIX_MODE, None),
    }?;
    // Several threads of the proxy accept from it.
    listen::set_nonblocking(&socket)?;
    Ok(socket)
}

fn remove_name(address: &Address) {
    let path: &Path = match address {
        Address::Unix(path) => path,
        Address::Tcp(_) | Address::Udp(_) => return,
    };
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket && let Err(error) = std::fs::remove_file(path) {
        log::warn!("agent: cannot remove {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::balance::plan::{BalancerPlan, Destination, Rules};

    fn balancer(name: &str, delivery: Delivery, listen: &[&str]) -> BalancerPlan {
        BalancerPlan {
            name: name.to_owned(),
            listen: listen.iter().map(|path| Address::Unix(path.into())).collect(),
            to: Destination::Backends(Vec::new()),
            delivery,
            rules: Rules::default(),
        }
    }

    #[test]
    fn proxy_accepts_for_all_balancers_but_those_that_share_their_socket() {
        let plan = Plan {
            balancers: vec![
                balancer("a", Delivery::Proxy, &["/a", "/b"]),
                balancer("c", Delivery::HandOff, &["/c"]),
                balancer("d", Delivery::Shared, &["/d"]),
            ],
            ..Plan::default()
        };
        let keys: Vec<String> = places(&plan).iter().map(|(name, address)| key(name, address)).collect();
        assert_eq!(keys, ["balancer/a/unix:/a", "balancer/a/unix:/b", "balancer/c/unix:/c"]);
        assert!(keys.iter().all(|key| is_key(key)));
    }
}
