//! What roles say: their messages become events.

use super::super::hardware_watchdog;
use super::super::probes;
use super::super::shell::Shell;
use crate::checks::proto::FromChecks;
use crate::engine::Engine;
use crate::engine::action::Level;
use crate::engine::event::Event;
use crate::engine::host::HostEvent;
use crate::engine::plan::Role;
use crate::engine::types::{ReplicaId, RunId};
use crate::logs::proto::{FromLogs, Stream};
use crate::proxy::proto::FromProxy;

/// One message of the logs role.
pub fn from_logs(shell: &mut Shell, engine: &Engine, message: FromLogs, descriptors: Vec<std::os::fd::OwnedFd>) {
    match message {
        FromLogs::Hello { .. } | FromLogs::KeptAll => {}
        FromLogs::Matched { stream, run } => {
            if let Some(replica) = replica_of(engine, &stream) {
                shell.events.push_back(Event::ReadyByLog { replica, run: RunId(run) });
            }
        }
        FromLogs::Drained { stream, run, tail } => {
            if let Some(replica) = replica_of(engine, &stream).filter(|_| !tail.is_empty()) {
                shell.events.push_back(Event::LastLines { replica, run: RunId(run), lines: tail });
            }
        }
        FromLogs::Dropped { stream, lines, reason } => {
            if let Some(replica) = replica_of(engine, &stream) {
                shell.events.push_back(Event::LinesDropped { replica, lines, reason });
            }
        }
        FromLogs::Persisted { decision, error } => {
            let result = error.map_or(Ok(()), Err);
            shell.events.push_back(Event::Persisted { decision, result });
        }
        FromLogs::Kept { key } => {
            let late = key == hardware_watchdog::KEY && shell.logs.is_connected();
            shell.sockets.claim(key, descriptors);
            if late {
                // Nobody else can open the device while its keeper holds it.
                hardware_watchdog::settle(shell, engine.plan(), crate::runtime::now().mono);
            }
        }
        FromLogs::Trouble { text } => shell.events.push_back(Event::Remark { level: Level::Warn, text }),
    }
}

pub(super) fn from_checks(shell: &mut Shell, role: Role, message: FromChecks) {
    if shell.link(role).hear() {
        host_event(shell, HostEvent::Linked { role, connected: true });
    }
    match message {
        FromChecks::Hello { .. } => {}
        FromChecks::Answer { id, error } => probes::answered(shell, id, error),
        FromChecks::Devices { devices } => host_event(shell, HostEvent::Devices(devices)),
        FromChecks::Sampled { sample } => host_event(shell, HostEvent::Sampled { role, sample }),
        FromChecks::Missing { missing } => host_event(shell, HostEvent::Missing { role, missing }),
    }
}

pub(super) fn host_event(shell: &mut Shell, event: HostEvent) {
    shell.events.push_back(Event::Host(Box::new(event)));
}

pub(super) fn from_proxy(shell: &mut Shell, engine: &Engine, message: FromProxy) {
    match message {
        FromProxy::Hello { .. } => {}
        FromProxy::Stats { id, stats } if engine.has_balancer(&stats.balancer) => {
            shell.inquiry.add(id, *stats, |balancer, backend| engine.has_backend(balancer, backend));
        }
        FromProxy::StatsEnd { id } => shell.inquiry.complete(id),
        FromProxy::Drained { balancer, backend, run } => {
            if let Some(replica) = engine.backend_id(&backend) {
                shell.events.push_back(Event::Drained { balancer, replica, run: RunId(run) });
            }
        }
        FromProxy::Ejected { balancer, backend, run, why, for_ } if engine.has_backend(&balancer, &backend) => {
            shell.ejections.add(&balancer, &backend, run, &why);
            shell.events.push_back(Event::Ejected { balancer, backend, out: Some((why, for_)) });
        }
        FromProxy::Restored { balancer, backend, run: _ } => {
            shell.ejections.remove(&balancer, &backend);
            shell.events.push_back(Event::Ejected { balancer, backend, out: None });
        }
        FromProxy::Trouble { text } => shell.events.push_back(Event::Remark { level: Level::Warn, text }),
        // Of what has left meanwhile; or somebody else speaks, who must not fill this process with names.
        FromProxy::Stats { .. } | FromProxy::Ejected { .. } => {}
    }
}

fn replica_of(engine: &Engine, stream: &Stream) -> Option<ReplicaId> {
    let service = engine.service_id(&stream.service)?;
    Some(ReplicaId { service, index: stream.index })
}
