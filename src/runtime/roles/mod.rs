//! The agent's roles as services, and what is said on their links.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::handoff;
use super::key::Key;
use super::links::{Gone, Importance, Link};
use super::listeners;
use super::perform;
use super::probes;
use super::shell::Shell;
use super::sockets;
use crate::checks::proto::{FromChecks, ToChecks};
use crate::engine::Engine;
use crate::engine::action::Level;
use crate::engine::balance::plan::{Delivery, Destination};
use crate::engine::event::Event;
use crate::engine::host::HostEvent;
use crate::engine::plan::{Backoff, Launch, Plan, Readiness, RestartPolicy, Role, ServicePlan};
use crate::engine::types::{ReplicaId, RunId, SIGKILL, StateName};
use crate::logs::proto::{FromLogs, Stream, ToLogs};
use crate::proxy::proto::{FromProxy, ToProxy};
use crate::sys::epoll::Interest;
use crate::sys::{caps, child, host};

/// The descriptor on which a role says that it listens.
const READY_DESCRIPTOR: i32 = 3;

/// Beyond its drains.
const PROXY_STOP_MARGIN: Duration = Duration::from_secs(10);

/// Messages read from one link in one turn.
const MESSAGES_MAX: usize = 256;

/// Capabilities of the logs role (capability.h): CHOWN 0 and DAC_OVERRIDE 1 for pipes of other users, SYS_RESOURCE 24 for pipe sizes.
const LOGS_CAPABILITIES: [u8; 3] = [0, 1, 24];

/// Capabilities of the checks role: NET_RAW 13 for the gateway, SYSLOG 34 for the kernel's log, SYS_RESOURCE 24 for pressure triggers.
const CHECKS_CAPABILITIES: [u8; 3] = [13, 24, 34];

/// Capabilities of a disk's helper: DAC_OVERRIDE 1 for the canary, SYS_RAWIO 17 and SYS_ADMIN 21 for SMART and fanotify.
const DISK_CAPABILITIES: [u8; 3] = [1, 17, 21];

/// Capabilities that the proxy role begins with, to become another user: SETGID 6, SETUID 7. It has none of them afterwards.
const PROXY_CAPABILITIES: [u8; 2] = [6, 7];

/// The plan with the roles in front. `privileged`: the agent can hand out capabilities (it is root).
#[must_use]
pub fn with_roles(mut plan: Plan, privileged: bool) -> Plan {
    let mut services = vec![role_plan(Role::Logs, privileged), role_plan(Role::Checks, privileged)];
    if plan.balancers.iter().any(|balancer| balancer.delivery != Delivery::Shared) {
        let mut proxy = role_plan(Role::Proxy, privileged);
        // When the last balancer leaves, it stays for the connections that there are.
        let drains = plan.balancers.iter().map(|balancer| balancer.rules.drain_timeout);
        proxy.stop.timeout = drains.max().unwrap_or_default() + PROXY_STOP_MARGIN;
        services.push(proxy);
    }
    services.append(&mut plan.services);
    for service in &mut services {
        // Read from text, with room to grow that nothing will fill.
        service.process.command.shrink_to_fit();
        service.success_exit_codes.shrink_to_fit();
    }
    plan.services = services;
    plan.helper = Some(Box::new(role_plan(Role::Disk(0), privileged)));
    plan
}

/// The plan as the configuration has it.
#[must_use]
pub fn without_roles(plan: &Plan) -> Plan {
    let services = plan.services.iter().filter(|service| service.launch == Launch::Command).cloned().collect();
    Plan { services, helper: None, ..plan.clone() }
}

/// Who the proxy becomes, as its argument: the user of the plan, in its own groups and in those that it needs to reach services by Unix
/// sockets.
#[must_use]
pub fn proxy_user(plan: &Plan, launch: &Launch) -> Option<String> {
    if *launch == Launch::Role(Role::Proxy) && host::uid() == 0 { argument(plan) } else { None }
}

fn argument(plan: &Plan) -> Option<String> {
    let user = plan.agent.proxy_user.as_ref()?;
    let groups: BTreeSet<u32> = proxy_groups(plan).union(&user.groups.iter().copied().collect()).copied().collect();
    let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
    let separator = if groups.is_empty() { "" } else { ":" };
    Some(format!("{}:{}{separator}{}", user.uid, user.gid, groups.join(",")))
}

/// The primary groups of the services that the proxy reaches by Unix sockets.
fn proxy_groups(plan: &Plan) -> BTreeSet<u32> {
    let by_socket = |name: &str| {
        plan.balancers.iter().any(|balancer| match &balancer.to {
            Destination::Service { name: to, socket: Some(_), .. } => to == name,
            Destination::Service { socket: None, .. } | Destination::Backends(_) => false,
        })
    };
    let services = plan.services.iter().filter(|service| by_socket(&service.name));
    services.filter_map(|service| service.process.user.as_ref().map(|user| user.gid)).collect()
}

/// Groups that the proxy would need for `new` and has not been started with, which a reload must tell.
#[must_use]
pub fn groups_missing(old: &Plan, new: &Plan) -> Vec<u32> {
    proxy_groups(new).difference(&proxy_groups(old)).copied().collect()
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
            Role::Checks => &CHECKS_CAPABILITIES,
            Role::Sensors => &[],
            Role::Disk(_) => &DISK_CAPABILITIES,
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
        Role::Logs => "logs.sock".to_owned(),
        Role::Checks => "checks.sock".to_owned(),
        Role::Proxy => "proxy.sock".to_owned(),
        Role::Sensors => "sensors.sock".to_owned(),
        Role::Disk(slot) => format!("disk-{slot}.sock"),
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

/// The one replica of a role, if it is planned.
#[must_use]
pub fn replica_of_role(engine: &Engine, role: Role) -> Option<ReplicaId> {
    let plan = engine.plan().services.iter().find(|service| service.launch == Launch::Role(role))?;
    Some(ReplicaId { service: engine.service_id(&plan.name)?, index: 0 })
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
            host_event(shell, HostEvent::Linked { role, connected: true });
            if role == Role::Checks {
                probes::ask_held(shell);
            }
        }
        Role::Proxy => greet_proxy(shell, engine),
    }
    true
}

/// Tells a role what it is to read from now on.
pub fn watch(shell: &mut Shell, engine: &Engine, role: Role) {
    shell.link(role).send(&ToChecks::Watch { orders: engine.watch_list(role) }, Importance::Current);
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
    shell.link(role).disconnect();
    match role {
        Role::Logs => {}
        Role::Proxy => shell.ejections.clear(),
        Role::Checks | Role::Sensors | Role::Disk(_) => {
            host_event(shell, HostEvent::Linked { role, connected: false });
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
            Role::Proxy => shell.proxy.receive::<FromProxy>(&mut buffer).map(|message| message.map(Message::Proxy)),
        };
        match received {
            Ok(None) => break,
            Ok(Some(Message::Logs((message, descriptors)))) => from_logs(shell, engine, message, descriptors),
            Ok(Some(Message::Checks((message, _)))) => from_checks(shell, role, message),
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

fn from_checks(shell: &mut Shell, role: Role, message: FromChecks) {
    match message {
        FromChecks::Hello { .. } => {}
        FromChecks::Answer { id, error } => probes::answered(shell, id, error),
        FromChecks::Devices { devices } => host_event(shell, HostEvent::Devices(devices)),
        FromChecks::Sampled { sample } => host_event(shell, HostEvent::Sampled { role, sample }),
        FromChecks::Missing { missing } => host_event(shell, HostEvent::Missing { role, missing }),
    }
}

fn host_event(shell: &mut Shell, event: HostEvent) {
    shell.events.push_back(Event::Host(Box::new(event)));
}

fn from_proxy(shell: &mut Shell, engine: &Engine, message: FromProxy) {
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

fn own_pid() -> i32 {
    nix::unistd::getpid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::balance::plan::{BalancerPlan, Rules};
    use crate::engine::plan::User;

    fn user(uid: u32, gid: u32, groups: &[u32]) -> User {
        let text = String::new;
        User { name: text(), uid, gid, groups: groups.to_vec(), home: text(), shell: text() }
    }

    fn plan(delivery: Delivery, socket: Option<&str>) -> Plan {
        let mut api = ServicePlan::with_defaults("api", &["/bin/api"]);
        api.process.user = Some(Box::new(user(1_000, 33, &[33, 44])));
        let mut plan = Plan { services: vec![api], ..Plan::default() };
        plan.agent.proxy_user = Some(user(990, 991, &[991]));
        plan.balancers.push(BalancerPlan {
            name: "front".to_owned(),
            listen: Vec::new(),
            to: Destination::Service { name: "api".to_owned(), socket: socket.map(str::to_owned), weights: Vec::new() },
            delivery,
            rules: Rules::default(),
        });
        plan
    }

    #[test]
    fn proxy_is_a_role_while_a_balancer_needs_it() {
        let names = |plan: Plan| {
            let plan = with_roles(plan, false);
            plan.services.iter().map(|service| service.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(plan(Delivery::Proxy, None)), ["@logs", "@checks", "@proxy", "api"]);
        assert_eq!(names(plan(Delivery::HandOff, None)), ["@logs", "@checks", "@proxy", "api"]);
        assert_eq!(names(plan(Delivery::Shared, None)), ["@logs", "@checks", "api"]);
        assert_eq!(without_roles(&with_roles(plan(Delivery::Proxy, None), true)), plan(Delivery::Proxy, None));
    }

    #[test]
    fn proxy_is_in_the_groups_of_the_services_whose_sockets_it_uses() {
        let by_port = plan(Delivery::Proxy, None);
        let by_socket = plan(Delivery::Proxy, Some("/run/api.sock"));
        assert!(proxy_groups(&by_port).is_empty());
        assert_eq!(proxy_groups(&by_socket), BTreeSet::from([33]));
        assert_eq!(groups_missing(&by_port, &by_socket), [33]);
        assert!(groups_missing(&by_socket, &by_port).is_empty());
        assert_eq!(argument(&by_socket).as_deref(), Some("990:991:33,991"));
        assert_eq!(argument(&by_port).as_deref(), Some("990:991:991"));
        assert_eq!(argument(&Plan::default()), None);
    }
}
