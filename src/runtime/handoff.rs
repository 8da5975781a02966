//! Channels over which replicas take connections (`delivery: HandOff`): a `SOCK_SEQPACKET` pair for each run and balancer. One end goes to
//! the child with its LISTEN_FDS; the other is held here, kept over the agent's death by the keeper, and a copy of it is sent to the
//! proxy, which passes accepted connections through it. It ends with the run.

use std::os::fd::{AsFd, OwnedFd};

use super::links::Importance;
use super::shell::Shell;
use super::sockets;
use crate::engine::balance::plan::{Delivery, Destination};
use crate::engine::plan::Plan;
use crate::engine::types::ReplicaId;
use crate::logs::proto::ToLogs;
use crate::proxy::proto::ToProxy;
use crate::sys::packet::PacketSocket;

/// What the child finds in LISTEN_FDNAMES for its end.
pub(super) const FD_NAME: &str = "handoff";

/// Our end.
#[derive(Debug)]
pub struct Channel {
    pub balancer: String,
    socket: OwnedFd,
}

/// A channel and the child's end of it.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) channel: Channel,
    pub(super) childs: OwnedFd,
}

/// A pair for each balancer that hands connections to this service.
pub(super) fn open(plan: &Plan, service: &str) -> std::io::Result<Vec<Pair>> {
    let pair = |balancer: &str| {
        let (ours, childs) = PacketSocket::pair_with_stranger()?;
        Ok(Pair { channel: Channel { balancer: balancer.to_owned(), socket: ours.into_fd() }, childs })
    };
    balancers_of(plan, service).map(pair).collect()
}

/// The channels of a run that outlived the earlier agent.
pub(super) fn resume(shell: &mut Shell, plan: &Plan, service: &str, replica: ReplicaId) {
    for balancer in balancers_of(plan, service) {
        let Some(socket) = shell.sockets.take_claimed(&key(service, replica.index, balancer)) else { continue };
        let live = shell.stations.get_mut(&replica).and_then(|station| station.live.as_mut());
        if let Some(live) = live.filter(|live| live.main.is_some()) {
            live.channels.push(Channel { balancer: balancer.to_owned(), socket });
        }
    }
}

/// Hands the channels of a replica's run to the keeper.
pub(super) fn keep(shell: &mut Shell, replica: ReplicaId) {
    let Some(station) = shell.stations.get(&replica) else { return };
    for channel in station.live.iter().flat_map(|live| &live.channels) {
        let key = key(&station.service, station.index, &channel.balancer);
        sockets::keep(&mut shell.logs, &key, channel.socket.as_fd());
    }
}

/// Hands copies of the channels of a replica's run to the proxy.
pub(super) fn tell(shell: &mut Shell, replica: ReplicaId) {
    let Some(station) = shell.stations.get(&replica) else { return };
    let Some(live) = &station.live else { return };
    for channel in &live.channels {
        let backend = format!("{}/{}", station.service, station.index);
        let message = ToProxy::HandOff { balancer: channel.balancer.clone(), backend, run: live.run.0 };
        super::roles::send_copy(&mut shell.proxy, &message, channel.socket.as_fd(), FD_NAME);
    }
}

/// Balancers and backends between which there is no channel, because the run began before the balancer handed connections over.
pub(super) fn missing(shell: &Shell, plan: &Plan) -> Vec<(String, String)> {
    let mut missing = Vec::new();
    if plan.balancers.iter().all(|balancer| balancer.delivery != Delivery::HandOff) {
        return missing;
    }
    for station in shell.stations.values() {
        let Some(live) = station.live.as_ref().filter(|live| live.main.is_some()) else { continue };
        let without = balancers_of(plan, &station.service)
            .filter(|balancer| live.channels.iter().all(|channel| channel.balancer != *balancer));
        missing.extend(without.map(|balancer| (balancer.to_owned(), format!("{}/{}", station.service, station.index))));
    }
    missing
}

/// The run is over: its channels end, here and at the keeper's. The proxy learns it from its own copy.
pub(super) fn close(shell: &mut Shell, replica: ReplicaId) {
    let Some(station) = shell.stations.get_mut(&replica) else { return };
    let Some(live) = station.live.as_mut() else { return };
    for channel in live.channels.drain(..) {
        let key = key(&station.service, station.index, &channel.balancer);
        shell.logs.send(&ToLogs::Drop { key }, Importance::Current);
    }
}

fn balancers_of<'a>(plan: &'a Plan, service: &'a str) -> impl Iterator<Item = &'a str> {
    let takes = move |to: &Destination| match to {
        Destination::Service { name, .. } => name == service,
        Destination::Backends(_) => false,
    };
    let found = plan.balancers.iter().filter(move |one| one.delivery == Delivery::HandOff && takes(&one.to));
    found.map(|balancer| balancer.name.as_str())
}

/// `handoff/api.1/front`: the part in the middle says whose it is.
fn key(service: &str, index: u16, balancer: &str) -> String {
    format!("{}/{balancer}", sockets::replica_key(FD_NAME, service, index))
}
