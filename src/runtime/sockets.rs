//! Descriptors that must stay open over every restart, the agent's included: listening sockets of services, notify sockets and pending
//! readiness pipes. The agent holds them, and hands copies to the logs role, which gives them back to the next agent.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::links::{Importance, Link};
use crate::engine::balance::plan::Address;
use crate::engine::plan::{Listen, Plan, ServicePlan, expand};
use crate::logs::proto::ToLogs;
use crate::sys::listen;

/// The service and its group.
const UNIX_MODE: u32 = 0o660;

/// Listening sockets by `SERVICE/tcp:ADDRESS`: replicas with the same address share one.
#[derive(Debug, Default)]
pub struct Sockets {
    listeners: BTreeMap<String, OwnedFd>,
    /// What the logs role gave back at the start and nobody has asked for yet.
    claimed: BTreeMap<String, Vec<OwnedFd>>,
    /// Taken over from a balancer: the proxy may still accept from them, so they become blocking only when a process is to have them.
    unblocked_at_start: BTreeSet<String>,
}

impl Sockets {
    pub fn claim(&mut self, key: String, descriptors: Vec<OwnedFd>) {
        self.claimed.insert(key, descriptors);
    }

    /// The one descriptor kept under this key by an earlier agent.
    pub fn take_claimed(&mut self, key: &str) -> Option<OwnedFd> {
        self.claimed.remove(key).and_then(|mut descriptors| descriptors.pop())
    }

    /// What was claimed and belongs to nothing any more is closed here and at the keeper's.
    pub fn drop_unclaimed(&mut self, logs: &mut Link, still_wanted: &dyn Fn(&str) -> bool) {
        let unwanted: Vec<String> = self.claimed.keys().filter(|key| !still_wanted(key)).cloned().collect();
        for key in unwanted {
            self.claimed.remove(&key);
            logs.send(&ToLogs::Drop { key }, Importance::Current);
        }
    }

    /// Opens (or takes over) the listening sockets of one replica, in the order of LISTEN_FDS.
    pub fn open(&mut self, plan: &ServicePlan, index: u16, run_dir: &Path, logs: &mut Link) -> Result<(), String> {
        for listen in expanded_listen(plan, index, run_dir) {
            let key = listener_key(&plan.name, &listen);
            if let Some(socket) = self.listeners.get(&key) {
                if self.unblocked_at_start.remove(&key) {
                    listen::set_blocking(socket).map_err(|error| format!("{}: {error}", text(&listen)))?;
                }
                continue;
            }
            let socket = match self.take_claimed(&key) {
                Some(socket) => socket,
                None => bind(plan, &listen).map_err(|error| format!("cannot listen on {}: {error}", text(&listen)))?,
            };
            keep(logs, &key, socket.as_fd());
            self.listeners.insert(key, socket);
        }
        Ok(())
    }

    /// Takes over the listening socket of a balancer that one of these services shares from now on, with the clients in its queue.
    /// Gives it back where no service listens there.
    pub(super) fn take_over(
        &mut self,
        address: &Address,
        socket: OwnedFd,
        plan: &Plan,
        logs: &mut Link,
    ) -> Result<(), OwnedFd> {
        let place = address.to_string();
        let here = |service: &&ServicePlan| {
            let mut all = (0..service.replicas).flat_map(|index| expanded_listen(service, index, &plan.agent.run_dir));
            !service.process.listen.is_empty() && all.any(|listen| text(&listen) == place)
        };
        let Some(service) = plan.services.iter().find(here) else { return Err(socket) };
        let key = format!("listen/{}/{place}", service.name);
        if self.listeners.contains_key(&key) {
            return Err(socket);
        }
        if let Address::Unix(path) = address {
            let owner = service.process.user.as_ref().map(|user| (user.uid, user.gid));
            if let Err(error) = listen::redress(path, UNIX_MODE, owner) {
                log::warn!("service {}: {}: {error}", service.name, path.display());
            }
        }
        keep(logs, &key, socket.as_fd());
        self.unblocked_at_start.insert(key.clone());
        self.listeners.insert(key, socket);
        Ok(())
    }

    /// Gives up the listening socket that a service had at this address, with the clients in its queue.
    pub(super) fn give_up(&mut self, address: &Address, logs: &mut Link) -> Option<OwnedFd> {
        let place = address.to_string();
        let key = self.listeners.keys().find(|key| key.splitn(3, '/').nth(2) == Some(&place))?.clone();
        logs.send(&ToLogs::Drop { key: key.clone() }, Importance::Current);
        self.unblocked_at_start.remove(&key);
        self.listeners.remove(&key)
    }

    /// The sockets of one replica, in the order of LISTEN_FDS. `open` has succeeded before.
    #[must_use]
    pub fn of(&self, plan: &ServicePlan, index: u16, run_dir: &Path) -> Vec<BorrowedFd<'_>> {
        expanded_listen(plan, index, run_dir)
            .iter()
            .filter_map(|listen| self.listeners.get(&listener_key(&plan.name, listen)).map(AsFd::as_fd))
            .collect()
    }

    /// Closes the sockets of a service that are not among `wanted` (expanded addresses of its present replicas).
    pub fn retain(&mut self, service: &str, wanted: &[Listen], logs: &mut Link) {
        let prefix = format!("listen/{service}/");
        let keys: Vec<String> = wanted.iter().map(|listen| listener_key(service, listen)).collect();
        let gone: Vec<String> =
            self.listeners.keys().filter(|key| key.starts_with(&prefix) && !keys.contains(key)).cloned().collect();
        for key in gone {
            self.listeners.remove(&key);
            self.unblocked_at_start.remove(&key);
            logs.send(&ToLogs::Drop { key }, Importance::Current);
        }
    }

    /// Everything is handed to a keeper that has just come.
    pub fn keep_all(&self, logs: &mut Link) {
        for (key, socket) in &self.listeners {
            keep(logs, key, socket.as_fd());
        }
    }
}

/// Hands a copy to the keeper. Without one (yet), the greeting does it later.
pub(super) fn keep(logs: &mut Link, key: &str, descriptor: BorrowedFd<'_>) {
    match descriptor.try_clone_to_owned() {
        Ok(copy) => logs.send_with(&ToLogs::Keep { key: key.to_owned() }, vec![copy], Importance::Current),
        Err(error) => log::warn!("agent: no descriptor left to keep {key} over the agent's own death: {error}"),
    }
}

/// The listening addresses of a replica, with their words replaced.
#[must_use]
pub(super) fn expanded_listen(plan: &ServicePlan, index: u16, run_dir: &Path) -> Vec<Listen> {
    if plan.process.listen.is_empty() {
        return Vec::new();
    }
    let words = plan.words(index, run_dir);
    plan.process
        .listen
        .iter()
        .map(|listen| match listen {
            Listen::Tcp(address) => Listen::Tcp(expand(address, &words)),
            Listen::Udp(address) => Listen::Udp(expand(address, &words)),
            Listen::Unix(path) => Listen::Unix(expand(path, &words)),
        })
        .collect()
}

/// A listening address as the configuration writes it.
#[must_use]
pub(super) fn text(listen: &Listen) -> String {
    match listen {
        Listen::Tcp(address) => format!("tcp:{address}"),
        Listen::Udp(address) => format!("udp:{address}"),
        Listen::Unix(path) => format!("unix:{path}"),
    }
}

/// The keeper's key of a replica's own descriptor: `notify/api.1`, `ready/api.1`.
#[must_use]
pub(super) fn replica_key(kind: &str, service: &str, index: u16) -> String {
    format!("{kind}/{service}.{index}")
}

/// The keeper's keys of all listening sockets of a service.
pub(super) fn listener_keys(plan: &ServicePlan, run_dir: &Path) -> Vec<String> {
    let all = (0..plan.replicas).flat_map(|index| expanded_listen(plan, index, run_dir));
    all.map(|listen| listener_key(&plan.name, &listen)).collect()
}

fn listener_key(service: &str, listen: &Listen) -> String {
    format!("listen/{service}/{}", text(listen))
}

fn bind(plan: &ServicePlan, listen: &Listen) -> io::Result<OwnedFd> {
    let owner = plan.process.user.as_ref().map(|user| (user.uid, user.gid));
    let address =
        |text: &str| text.parse::<SocketAddr>().map_err(|_| io::Error::other("not a numeric address with a port"));
    match listen {
        Listen::Tcp(text) => listen::tcp(address(text)?),
        Listen::Udp(text) => listen::udp(address(text)?),
        Listen::Unix(path) => listen::unix(Path::new(path), UNIX_MODE, owner),
    }
}
