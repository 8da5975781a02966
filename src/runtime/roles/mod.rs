//! The agent's roles, and what is said on their links.
//!
//! A role is connected when it says that it listens, and again when the connection ends ([`super::connecting`]). One that does not
//! answer (the helper of a dead disk) costs a connection that nobody reads and nothing else.

mod heard;
mod plans;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use serde::Serialize;

use super::copying;
use super::handoff;
use super::key::Key;
use super::links::{Gone, Importance, Link};
use super::listeners;
use super::perform;
use super::probes;
use super::shell::Shell;
use super::sockets;
use crate::checks::proto::{FromChecks, ToChecks};
use crate::copies::role::proto::{FromCopies, ToCopies};
use crate::engine::Engine;
use crate::engine::host::HostEvent;
use crate::engine::plan::{Launch, Plan, Readiness, Role};
use crate::engine::types::{ReplicaId, SIGKILL, StateName};
use crate::logs::proto::{FromLogs, ToLogs};
use crate::proxy::proto::{FromProxy, ToProxy};
use crate::sys::child;
use crate::sys::epoll::Interest;

pub use heard::from_logs;
pub use plans::{groups_missing, proxy_user, with_roles, without_roles};

/// Messages read from one link in one turn.
const MESSAGES_MAX: usize = 256;

/// `{run_dir}/roles/NAME.sock`
#[must_use]
pub fn socket_path(shell: &Shell, role: Role) -> PathBuf {
    let name = match role {
        Role::Logs => "logs.sock".to_owned(),
        Role::Checks => "checks.sock".to_owned(),
        Role::Proxy => "proxy.sock".to_owned(),
        Role::Sensors => "sensors.sock".to_owned(),
        Role::Disk(slot) => format!("disk-{slot}.sock"),
        Role::Copy(number) => format!("copy-{number}.sock"),
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

/// The one replica of a role, if there is one.
#[must_use]
pub fn replica_of_role(engine: &Engine, role: Role) -> Option<ReplicaId> {
    engine.roles().find(|(one, _)| *one == role).map(|(_, replica)| replica)
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
        Role::Checks | Role::Sensors | Role::Disk(_) => {
            shell.link(role).connect(&path, &ToChecks::Hello { agent_pid: own_pid() })
        }
        Role::Copy(_) => shell.link(role).connect(&path, &ToCopies::Hello { agent_pid: own_pid() }),
        Role::Proxy => shell.proxy.connect(&path, &ToProxy::Hello { agent_pid: own_pid() }),
    };
    if connected.is_err() {
        return false;
    }
    watch_link(shell, role);
    match role {
        Role::Logs => greet_logs(shell, engine),
        Role::Checks | Role::Sensors | Role::Disk(_) => {
            watch(shell, engine, role);
            if role == Role::Checks {
                probes::ask_held(shell);
            }
        }
        Role::Copy(_) => copying::greet(shell, engine, role),
        Role::Proxy => greet_proxy(shell, engine),
    }
    if is_leaving(engine, role) {
        // The order was given while nobody was connected.
        quit_or_idle(shell, engine, role);
    }
    true
}

/// Tells a role what it is to read from now on.
pub fn watch(shell: &mut Shell, engine: &Engine, role: Role) {
    if shell.link_of(role).is_some_and(Link::is_connected) {
        shell.link(role).send(&ToChecks::Watch { orders: engine.watch_list(role) }, Importance::Latest);
    }
}

/// Whether the role is one that should be there, or is there and has still to be told that it is not needed any more.
#[must_use]
pub fn is_wanted(engine: &Engine, role: Role) -> bool {
    let Some(replica) = replica_of_role(engine, role) else { return false };
    let name = engine.service_name(replica.service);
    engine.current_run(replica).is_some()
        || name.and_then(|name| engine.service(name, super::now())).is_some_and(|view| view.wanted)
}

/// Whether its stop has been ordered.
fn is_leaving(engine: &Engine, role: Role) -> bool {
    let name = replica_of_role(engine, role).and_then(|replica| engine.service_name(replica.service));
    name.and_then(|name| engine.service(name, super::now())).is_some_and(|view| view.state == StateName::Stopping)
}

/// Drops the links of helpers that are no part of the plan any more.
pub fn drop_links_of_the_gone(shell: &mut Shell, engine: &Engine) {
    let gone: Vec<Role> = shell.helpers.keys().copied().filter(|role| !is_planned(engine.plan(), *role)).collect();
    for role in gone {
        disconnect(shell, role);
        shell.helpers.remove(&role);
    }
}

/// Tells the proxy to leave: where no balancer of this configuration needs it any more, when its connections have ended.
pub fn quit_or_idle(shell: &mut Shell, engine: &Engine, role: Role) {
    if role == Role::Proxy && !is_planned(engine.plan(), role) {
        return shell.proxy.send(&ToProxy::QuitWhenIdle, Importance::Current);
    }
    quit(shell, role);
}

/// A proxy that waits for its last connections to leave stands in the way of one that is needed again.
pub fn hasten(shell: &mut Shell, engine: &Engine) {
    let role = Role::Proxy;
    let leaves =
        engine.service(role.service_name(), super::now()).is_some_and(|view| view.state == StateName::Stopping);
    if leaves && is_planned(engine.plan(), role) {
        quit(shell, role);
    }
}

fn is_planned(plan: &Plan, role: Role) -> bool {
    plan.services.iter().any(|service| service.launch == Launch::Role(role))
}

/// Tells a role to leave.
pub fn quit(shell: &mut Shell, role: Role) {
    match role {
        Role::Logs => shell.logs.send(&ToLogs::Quit, Importance::Current),
        Role::Checks | Role::Sensors | Role::Disk(_) => shell.link(role).send(&ToChecks::Quit, Importance::Current),
        Role::Copy(_) => shell.link(role).send(&ToCopies::Quit, Importance::Current),
        Role::Proxy => shell.proxy.send(&ToProxy::Quit, Importance::Current),
    }
}

/// Sends a message with a copy of this descriptor; `what` names it should there be none left.
pub fn send_copy(link: &mut Link, message: &impl Serialize, descriptor: BorrowedFd<'_>, what: &str) {
    if !link.is_connected() {
        return;
    }
    match descriptor.try_clone_to_owned() {
        Ok(copy) => link.send_with(message, vec![copy], Importance::Current),
        Err(error) => log::error!("agent: no descriptor left to pass {what} on: {error}"),
    }
}

/// The first message to the logs role.
pub fn hello_logs(shell: &Shell) -> ToLogs {
    ToLogs::Hello { agent_pid: own_pid(), instance: shell.instance.clone() }
}

/// Registers a link whose connection exists.
pub fn watch_link(shell: &mut Shell, role: Role) {
    let key = key_of(role);
    if let Some(descriptor) = shell.link_of(role).and_then(Link::descriptor) {
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
        handoff::keep(shell, replica);
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
    listeners::keep_all(shell);
    shell.watchdog.keep(&mut shell.logs);
}

/// Everything the proxy must know. The sockets come last, so that it can answer from the first connection on.
fn greet_proxy(shell: &mut Shell, engine: &Engine) {
    for table in engine.tables(super::now()) {
        shell.proxy.send(&ToProxy::Table { table: Box::new(table) }, Importance::Current);
    }
    let replicas: Vec<ReplicaId> = shell.stations.keys().copied().collect();
    for replica in replicas {
        handoff::tell(shell, replica);
    }
    listeners::tell_all(shell);
    shell.proxy.send(&ToProxy::Complete, Importance::Current);
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
    let Some(descriptor) = shell.link_of(role).and_then(Link::descriptor) else { return };
    shell.forget(descriptor);
    let was_heard = shell.link(role).was_heard();
    shell.link(role).disconnect();
    match role {
        Role::Logs => {}
        Role::Copy(_) => copying::lost(shell, role),
        Role::Proxy => shell.ejections.clear(),
        Role::Checks | Role::Sensors | Role::Disk(_) => {
            if was_heard {
                heard::host_event(shell, HostEvent::Linked { role, connected: false });
            }
            if role == Role::Checks {
                probes::role_lost(shell);
            }
        }
    }
}

/// The link is ready: sends what waits, reads what has come.
pub fn turn(shell: &mut Shell, engine: &Engine, role: Role) {
    shell.link(role).flush();
    let mut buffer = Vec::new();
    for _ in 0..MESSAGES_MAX {
        let received = match role {
            Role::Logs => shell.logs.receive::<FromLogs>(&mut buffer).map(|message| message.map(Message::Logs)),
            Role::Checks | Role::Sensors | Role::Disk(_) => {
                shell.link(role).receive::<FromChecks>(&mut buffer).map(|message| message.map(Message::Checks))
            }
            Role::Copy(_) => {
                shell.link(role).receive::<FromCopies>(&mut buffer).map(|message| message.map(Message::Copies))
            }
            Role::Proxy => shell.proxy.receive::<FromProxy>(&mut buffer).map(|message| message.map(Message::Proxy)),
        };
        match received {
            Ok(None) => break,
            Ok(Some(Message::Logs((message, descriptors)))) => from_logs(shell, engine, message, descriptors),
            Ok(Some(Message::Checks((message, _)))) => heard::from_checks(shell, role, message),
            Ok(Some(Message::Copies((message, _)))) => copying::heard(shell, role, message),
            Ok(Some(Message::Proxy((message, _)))) => heard::from_proxy(shell, engine, message),
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
    Logs((FromLogs, Vec<OwnedFd>)),
    Checks((FromChecks, Vec<OwnedFd>)),
    Proxy((FromProxy, Vec<OwnedFd>)),
    Copies((FromCopies, Vec<OwnedFd>)),
}

/// A role that cannot be worked with is killed; the engine starts its successor, which is told everything anew.
fn give_up(shell: &mut Shell, engine: &Engine, role: Role, why: &str) {
    log::error!("agent: role {} {why}; killing it", role.service_name());
    let replica = replica_of_role(engine, role);
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
    let Some(descriptor) = shell.link_of(role).and_then(Link::descriptor) else { return };
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
        Role::Sensors => Key::SensorsLink,
        Role::Disk(slot) => Key::DiskLink(slot),
        Role::Copy(number) => Key::CopyLink(number),
    }
}

fn own_pid() -> i32 {
    nix::unistd::getpid().as_raw()
}

#[cfg(test)]
mod tests;
