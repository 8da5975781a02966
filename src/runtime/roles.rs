//! The agent's roles as services, and what is said on their links.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use super::key::Key;
use super::links::{Gone, Importance};
use super::perform;
use super::probes;
use super::shell::Shell;
use super::sockets;
use crate::checks::proto::{FromChecks, ToChecks};
use crate::engine::Engine;
use crate::engine::action::Level;
use crate::engine::balance::plan::Delivery;
use crate::engine::event::Event;
use crate::engine::plan::{Backoff, Launch, Plan, Readiness, RestartPolicy, Role, ServicePlan};
use crate::engine::types::{ReplicaId, RunId, SIGKILL};
use crate::logs::proto::{FromLogs, Stream, ToLogs};
use crate::proxy::proto::{FromProxy, ToProxy};
use crate::sys::epoll::Interest;
use crate::sys::{caps, child, host};

/// The descriptor on which a role says that it listens.
const READY_DESCRIPTOR: i32 = 3;

/// Messages read from one link in one turn.
const MESSAGES_MAX: usize = 256;

/// Capabilities of the logs role (capability.h): CHOWN 0 and DAC_OVERRIDE 1 for pipes of other users, SYS_RESOURCE 24 for pipe sizes.
const LOGS_CAPABILITIES: [u8; 3] = [0, 1, 24];

/// Capabilities that the proxy role begins with, to become another user: SETGID 6, SETUID 7. It has none of them afterwards.
const PROXY_CAPABILITIES: [u8; 2] = [6, 7];

/// The plan with the roles in front. `privileged`: the agent can hand out capabilities (it is root).
#[must_use]
pub fn with_roles(mut plan: Plan, privileged: bool) -> Plan {
    let mut services = vec![role_plan(Role::Logs, privileged), role_plan(Role::Checks, privileged)];
    if plan.balancers.iter().any(|balancer| balancer.delivery != Delivery::Shared) {
        services.push(role_plan(Role::Proxy, privileged));
    }
    services.append(&mut plan.services);
    plan.services = services;
    plan
}

/// The plan as the configuration has it.
#[must_use]
pub fn without_roles(plan: &Plan) -> Plan {
    let services = plan.services.iter().filter(|service| service.launch == Launch::Command).cloned().collect();
    Plan { agent: plan.agent.clone(), services, balancers: plan.balancers.clone() }
}

fn role_plan(role: Role, privileged: bool) -> ServicePlan {
    let mut plan = ServicePlan::with_defaults(role.service_name(), &[]);
    plan.launch = Launch::Role(role);
    plan.restart = RestartPolicy::Always;
    plan.backoff = Backoff { min: Duration::ZERO, max: Duration::from_secs(5), ..Backoff::default() };
    plan.budget = None;
    plan.ready = Readiness::Fd(READY_DESCRIPTOR);
    plan.start_timeout = Duration::from_secs(30);
    plan.process.umask = 0o077;
    plan.process.no_new_privileges = true;
    if privileged {
        // As the agent itself, where the kernel let it protect itself.
        plan.process.oom_score_adj = host::oom_score_adj().unwrap_or(0);
        let wanted: &[u8] = match role {
            Role::Logs => &LOGS_CAPABILITIES,
            Role::Checks => &[],
            Role::Proxy => &PROXY_CAPABILITIES,
        };
        // In a container root may lack some of them; the role then does without.
        let permitted = caps::permitted().unwrap_or(0);
        plan.process.capabilities = Some(wanted.iter().copied().filter(|cap| permitted & (1 << cap) != 0).collect());
    }
    plan
}

/// `{run_dir}/roles/NAME.sock`
#[must_use]
pub fn socket_path(shell: &Shell, role: Role) -> PathBuf {
    let name = match role {
        Role::Logs => "logs.sock",
        Role::Checks => "checks.sock",
        Role::Proxy => "proxy.sock",
    };
    shell.directories.run.join("roles").join(name)
}

/// The role of a replica, if it is one.
#[must_use]
pub fn role_of(engine: &Engine, replica: ReplicaId) -> Option<Role> {
    match engine.service_plan(replica.service)?.launch {
        Launch::Role(role) => Some(role),
        Launch::Command => None,
    }
}

/// Connects to a role that listens and tells it everything it must know. `false`: it does not listen (yet).
pub fn connect(shell: &mut Shell, engine: &Engine, role: Role) -> bool {
    disconnect(shell, role);
    let path = socket_path(shell, role);
    let connected = match role {
        Role::Logs => {
            let hello = hello_logs(shell);
            shell.logs.connect(&path, &hello)
        }
        Role::Checks => shell.checks.connect(&path, &ToChecks::Hello { agent_pid: own_pid() }),
        Role::Proxy => shell.proxy.connect(&path, &ToProxy::Hello { agent_pid: own_pid() }),
    };
    if connected.is_err() {
        return false;
    }
    watch_link(shell, role);
    match role {
        Role::Logs => greet_logs(shell, engine),
        Role::Checks => probes::ask_held(shell),
        Role::Proxy => shell.proxy.send(&ToProxy::Complete, Importance::Current),
    }
    true
}

/// The first message to the logs role.
pub fn hello_logs(shell: &Shell) -> ToLogs {
    ToLogs::Hello { agent_pid: own_pid(), instance: shell.instance.clone() }
}

/// Registers a link whose connection exists.
pub fn watch_link(shell: &mut Shell, role: Role) {
    let key = key_of(role);
    if let Some(descriptor) = shell.link_of(role).descriptor() {
        shell.listen_to(descriptor, key, Interest::READ);
    }
}

/// Everything the logs role must know, from the state as it is now.
pub fn greet_logs(shell: &mut Shell, engine: &Engine) {
    let replicas: Vec<ReplicaId> = shell.stations.keys().copied().collect();
    for replica in replicas {
        if shell.stations.get(&replica).is_some_and(|station| station.prepared) {
            perform::watch(shell, engine, replica);
        }
        tell_run(shell, engine, replica);
        let Some(station) = shell.stations.get(&replica) else { continue };
        if let Some(notify) = &station.notify {
            let key = sockets::replica_key("notify", &station.service, station.index);
            sockets::keep(&mut shell.logs, &key, notify.as_fd());
        }
        if let Some(pipe) = station.live.as_ref().and_then(|live| live.ready_pipe.as_ref()) {
            let key = sockets::replica_key("ready", &station.service, station.index);
            sockets::keep(&mut shell.logs, &key, pipe.as_fd());
        }
    }
    shell.sockets.keep_all(&mut shell.logs);
}

/// Which run the output belongs to, and the text that makes it ready.
fn tell_run(shell: &mut Shell, engine: &Engine, replica: ReplicaId) {
    let Some(station) = shell.stations.get(&replica) else { return };
    let Some(live) = &station.live else { return };
    let ready_text = match engine.service_plan(replica.service).map(|plan| &plan.ready) {
        Some(Readiness::Log(text)) => Some(text.clone()),
        Some(Readiness::Started | Readiness::Notify | Readiness::Fd(_) | Readiness::Probe(_)) | None => None,
    };
    let message = ToLogs::RunBegins { stream: station.stream(), run: live.run.0, ready_text };
    shell.tell_logs(&message);
}

/// Closes a link; the role's replica is restarted by the engine like any service.
pub fn disconnect(shell: &mut Shell, role: Role) {
    let Some(descriptor) = shell.link_of(role).descriptor() else { return };
    shell.forget(descriptor);
    shell.link(role).disconnect();
    match role {
        Role::Logs | Role::Proxy => {}
        Role::Checks => probes::role_lost(shell),
    }
}

/// The link is ready: sends what waits, reads what has come.
pub fn turn(shell: &mut Shell, engine: &Engine, role: Role) {
    shell.link(role).flush();
    let mut buffer = Vec::new();
    for _ in 0..MESSAGES_MAX {
        let received = match role {
            Role::Logs => shell.logs.receive::<FromLogs>(&mut buffer).map(|message| message.map(Message::Logs)),
            Role::Checks => shell.checks.receive::<FromChecks>(&mut buffer).map(|message| message.map(Message::Checks)),
            Role::Proxy => shell.proxy.receive::<FromProxy>(&mut buffer).map(|message| message.map(Message::Proxy)),
        };
        match received {
            Ok(None) => break,
            Ok(Some(Message::Logs((message, descriptors)))) => from_logs(shell, engine, message, descriptors),
            Ok(Some(Message::Checks((message, _)))) => from_checks(shell, message),
            Ok(Some(Message::Proxy((message, _)))) => from_proxy(shell, engine, message),
            Err(Gone::Closed) => {
                shell.lost_links.push(role);
                return disconnect(shell, role);
            }
            Err(Gone::Garbled) => return give_up(shell, engine, role, "says what this agent does not understand"),
        }
    }
    adjust_interest(shell, role);
}

enum Message {
    Logs((FromLogs, Vec<std::os::fd::OwnedFd>)),
    Checks((FromChecks, Vec<std::os::fd::OwnedFd>)),
    Proxy((FromProxy, Vec<std::os::fd::OwnedFd>)),
}

/// A role that cannot be worked with is killed; the engine starts its successor, which is told everything anew.
fn give_up(shell: &mut Shell, engine: &Engine, role: Role, why: &str) {
    log::error!("agent: role {} {why}; killing it", role.service_name());
    let replica = engine.service_id(role.service_name()).map(|service| ReplicaId { service, index: 0 });
    let live = replica.and_then(|replica| shell.stations.get(&replica)?.live.as_ref());
    if let Some(main) = live.and_then(|live| live.main.as_ref()) {
        // ESRCH: it has just ended; its exit is on the way.
        let _ = child::signal(main.pidfd.as_fd(), SIGKILL);
    }
    shell.lost_links.push(role);
    disconnect(shell, role);
}

/// Once a turn: sends what waits, gives up a role that has ceased to read, and asks for writability only while something waits for it.
pub fn look_after(shell: &mut Shell, engine: &Engine, role: Role) {
    match shell.link(role).is_stuck() {
        true => give_up(shell, engine, role, "does not take what it is told"),
        false => {
            shell.link(role).flush();
            adjust_interest(shell, role);
        }
    }
}

fn adjust_interest(shell: &mut Shell, role: Role) {
    let Some(wants_write) = shell.link(role).change_of_interest() else { return };
    let Some(descriptor) = shell.link_of(role).descriptor() else { return };
    let interest = if wants_write { Interest::READ_WRITE } else { Interest::READ };
    if let Err(error) = shell.epoll.modify(descriptor, key_of(role).encode(), interest) {
        log::warn!("agent: cannot watch the link of role {}: {error}", role.service_name());
    }
}

fn key_of(role: Role) -> Key {
    match role {
        Role::Logs => Key::LogsLink,
        Role::Checks => Key::ChecksLink,
        Role::Proxy => Key::ProxyLink,
    }
}

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
        FromLogs::Kept { key } => shell.sockets.claim(key, descriptors),
        FromLogs::Trouble { text } => shell.events.push_back(Event::Remark { level: Level::Warn, text }),
    }
}

fn from_checks(shell: &mut Shell, message: FromChecks) {
    match message {
        FromChecks::Hello { .. } => {}
        FromChecks::Answer { id, error } => probes::answered(shell, id, error),
    }
}

fn from_proxy(shell: &mut Shell, engine: &Engine, message: FromProxy) {
    match message {
        FromProxy::Hello { .. } | FromProxy::Stats { .. } | FromProxy::StatsEnd { .. } => {}
        FromProxy::Drained { balancer, backend, run } => {
            if let Some(replica) = backend_replica(engine, &backend) {
                shell.events.push_back(Event::Drained { balancer, replica, run: RunId(run) });
            }
        }
        FromProxy::Ejected { balancer, backend, run: _, why, for_ } => {
            shell.events.push_back(Event::Ejected { balancer, backend, out: Some((why, for_)) });
        }
        FromProxy::Restored { balancer, backend, run: _ } => {
            shell.events.push_back(Event::Ejected { balancer, backend, out: None });
        }
        FromProxy::Trouble { text } => shell.events.push_back(Event::Remark { level: Level::Warn, text }),
    }
}

/// `api/0` is replica 0 of the service api.
fn backend_replica(engine: &Engine, backend: &str) -> Option<ReplicaId> {
    let (service, index) = backend.rsplit_once('/')?;
    Some(ReplicaId { service: engine.service_id(service)?, index: index.parse().ok()? })
}

fn replica_of(engine: &Engine, stream: &Stream) -> Option<ReplicaId> {
    let service = engine.service_id(&stream.service)?;
    Some(ReplicaId { service, index: stream.index })
}

fn own_pid() -> i32 {
    nix::unistd::getpid().as_raw()
}
