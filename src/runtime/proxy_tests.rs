//! The agent's side of the link with the proxy, against a proxy that only listens and answers.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::figures::{Figures, WantedFor};
use super::shell::{Directories, Shell};
use super::{listeners, now, roles, start};
use crate::api::server::ConnectionId;
use crate::engine::Engine;
use crate::engine::balance::plan::{Address, BalancerPlan, Delivery, Destination, Rules};
use crate::engine::event::Event;
use crate::engine::plan::{CgroupPlan, Listen, Plan, Role, ServicePlan};
use crate::proxy::proto::{BalancerStats, FromProxy, ToProxy};
use crate::sys::packet::{PacketListener, PacketSocket, Received};
use crate::sys::testing::TempDir;

/// A shell in a directory of its own, and the proxy's listening socket.
fn shell(directory: &Path) -> (Shell, PacketListener) {
    std::fs::create_dir(directory.join("roles")).unwrap();
    let here = || directory.to_owned();
    let directories = Directories { run: here(), state: here(), log: here() };
    let (shell, _) = start::make_shell(directories, &CgroupPlan::Off, 0).unwrap();
    let listener = PacketListener::bind(&roles::socket_path(&shell, Role::Proxy), 0o600).unwrap();
    (shell, listener)
}

fn balancer(name: &str, listen: Vec<Address>) -> BalancerPlan {
    let to = Destination::Service { name: "api".to_owned(), socket: None, weights: Vec::new() };
    BalancerPlan { name: name.to_owned(), listen, to, delivery: Delivery::Proxy, rules: Rules::default() }
}

fn plan(balancers: Vec<BalancerPlan>) -> Plan {
    let mut api = ServicePlan::with_defaults("api", &["/bin/true"]);
    (api.replicas, api.port) = (2, Some(9_001));
    Plan { services: vec![api], balancers, ..Plan::default() }
}

fn engine(plan: &Plan) -> Engine {
    let mut engine = Engine::new(plan.clone(), 1, now());
    engine
        .step(now(), Event::Begin { found: Vec::new(), decisions: Vec::new(), host: None, fences: None, tables: None });
    engine
}

/// What the proxy has been told, with the number of descriptors that came with each.
fn heard(proxy: &PacketSocket) -> Vec<(ToProxy, Vec<OwnedFd>)> {
    let mut buffer = Vec::new();
    let mut heard = Vec::new();
    while let Received::Message { fds } = proxy.receive(&mut buffer).unwrap() {
        heard.push((serde_json::from_slice(&buffer).unwrap(), fds));
    }
    heard
}

/// One word a message.
fn words(heard: &[(ToProxy, Vec<OwnedFd>)]) -> Vec<String> {
    let word = |(message, fds): &(ToProxy, Vec<OwnedFd>)| {
        let word = serde_json::to_value(message).unwrap()["type"].as_str().unwrap().to_owned();
        if fds.is_empty() { word } else { format!("{word}+{}", fds.len()) }
    };
    heard.iter().map(word).collect()
}

#[test]
fn proxy_that_comes_is_told_everything_sockets_last() {
    let directory = TempDir::new();
    let (mut shell, listener) = shell(directory.path());
    let at = |name: &str| Address::Unix(directory.path().join(name));
    let plan = plan(vec![balancer("front", vec![at("a"), at("b")]), balancer("side", vec![at("c")])]);
    let engine = engine(&plan);
    listeners::settle(&mut shell, &plan, now().mono);
    assert!(roles::connect(&mut shell, &engine, Role::Proxy));
    roles::look_after(&mut shell, &engine, Role::Proxy);
    let proxy = listener.accept().unwrap().unwrap();
    let told = heard(&proxy);
    assert_eq!(words(&told), ["hello", "table", "table", "listen+1", "listen+1", "listen+1", "complete"]);
    // A second proxy is told the same: the sockets have stayed with the agent.
    assert!(roles::connect(&mut shell, &engine, Role::Proxy));
    roles::look_after(&mut shell, &engine, Role::Proxy);
    let proxy = listener.accept().unwrap().unwrap();
    assert_eq!(words(&heard(&proxy)).len(), 7);
}

#[test]
fn sockets_follow_the_plan_and_one_that_moves_stays_open() {
    let directory = TempDir::new();
    let (mut shell, listener) = shell(directory.path());
    let at = |name: &str| Address::Unix(directory.path().join(name));
    let before = plan(vec![balancer("front", vec![at("a"), at("b"), at("c")])]);
    let engine = engine(&before);
    listeners::settle(&mut shell, &before, now().mono);
    roles::connect(&mut shell, &engine, Role::Proxy);
    roles::look_after(&mut shell, &engine, Role::Proxy);
    let proxy = listener.accept().unwrap().unwrap();
    heard(&proxy);
    let client = std::os::unix::net::UnixStream::connect(directory.path().join("b")).unwrap();
    let after = plan(vec![balancer("front", vec![at("a")]), balancer("side", vec![at("b")])]);
    listeners::settle(&mut shell, &after, now().mono);
    shell.proxy.flush();
    let told = heard(&proxy);
    assert_eq!(words(&told), ["unlisten", "unlisten", "listen+1"]);
    let (message, fds) = &told[2];
    assert_eq!(*message, ToProxy::Listen { balancer: "side".to_owned(), address: at("b") });
    // The client that connected before it moved waits in its queue.
    let socket = std::os::unix::net::UnixListener::from(fds[0].try_clone().unwrap());
    let (accepted, _) = socket.accept().unwrap();
    drop((accepted, client));
    assert!(!directory.path().join("c").exists() && directory.path().join("b").exists());
}

#[test]
fn socket_goes_to_the_service_that_shares_it_and_comes_back_with_its_queue() {
    let directory = TempDir::new();
    let (mut shell, _listener) = shell(directory.path());
    let path = directory.path().join("a");
    let proxied = plan(vec![balancer("front", vec![Address::Unix(path.clone())])]);
    let mut shared = proxied.clone();
    shared.balancers[0].delivery = Delivery::Shared;
    shared.services[0].process.listen.push(Listen::Unix(path.display().to_string()));
    listeners::settle(&mut shell, &proxied, now().mono);
    let mode = || std::fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o666);
    let client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    listeners::settle(&mut shell, &shared, now().mono);
    assert_eq!(mode(), 0o660);
    let service = &shared.services[0];
    let run_dir = directory.path();
    assert_eq!(shell.sockets.of(service, 0, run_dir).len(), 1);
    shell.sockets.open(service, 0, run_dir, &mut shell.logs).unwrap();
    let copy = shell.sockets.of(service, 0, run_dir)[0].try_clone_to_owned().unwrap();
    let socket = std::os::unix::net::UnixListener::from(copy);
    // It blocks again, and the client is still in its queue.
    let flags = nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_GETFL).unwrap();
    assert_eq!(flags & nix::libc::O_NONBLOCK, 0);
    drop((socket.accept().unwrap(), client));
    let _second = std::os::unix::net::UnixStream::connect(&path).unwrap();
    listeners::settle(&mut shell, &proxied, now().mono);
    assert_eq!((mode(), shell.sockets.of(service, 0, run_dir).len()), (0o666, 0));
    assert!(socket.accept().is_ok(), "the one socket, with its queue");
    assert!(shell.listeners.failure("front", &proxied.balancers[0].listen[0]).is_none());
}

#[test]
fn address_in_use_is_told_once_and_tried_again_ever_more_seldom() {
    let directory = TempDir::new();
    let (mut shell, _listener) = shell(directory.path());
    let path = directory.path().join("a");
    let plan = plan(vec![balancer("front", vec![Address::Unix(path.clone())])]);
    let taken = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut at = now().mono;
    listeners::settle(&mut shell, &plan, at);
    assert_eq!(shell.events.len(), 1);
    let failure = |shell: &Shell| shell.listeners.failure("front", &plan.balancers[0].listen[0]).map(str::to_owned);
    assert!(failure(&shell).is_some_and(|why| why.contains("in use")));
    let mut tries = 0;
    while at.since(now().mono) < Duration::from_secs(60) {
        at = shell.listeners.next_deadline().unwrap();
        listeners::retry(&mut shell, at);
        tries += 1;
    }
    assert!((15..25).contains(&tries), "{tries}");
    assert_eq!(shell.events.len(), 1, "told once");
    drop(taken);
    let due = shell.listeners.next_deadline().unwrap();
    listeners::retry(&mut shell, due);
    assert_eq!((failure(&shell), shell.listeners.next_deadline()), (None, None));
    assert_eq!(shell.events.len(), 2, "and that it listens now");
}

#[test]
fn counters_come_over_the_link() {
    let directory = TempDir::new();
    let (mut shell, listener) = shell(directory.path());
    let plan = plan(vec![balancer("front", Vec::new())]);
    let engine = engine(&plan);
    roles::connect(&mut shell, &engine, Role::Proxy);
    shell.inquiry.ask(&mut shell.proxy, ConnectionId(1), WantedFor::Balancers, now().mono);
    roles::look_after(&mut shell, &engine, Role::Proxy);
    let proxy = listener.accept().unwrap().unwrap();
    let Some((ToProxy::Stats { id }, _)) = heard(&proxy).pop() else { panic!("no question") };
    let stats = BalancerStats { balancer: "front".to_owned(), accepted: 7, ..BalancerStats::default() };
    for answer in [FromProxy::Stats { id, stats: Box::new(stats.clone()) }, FromProxy::StatsEnd { id }] {
        assert!(proxy.send(&serde_json::to_vec(&answer).unwrap(), &[]).unwrap());
    }
    roles::turn(&mut shell, &engine, Role::Proxy);
    let (waiting, figures) = shell.inquiry.take(true, now().mono).unwrap();
    assert_eq!((waiting.len(), figures), (1, Figures::Known(vec![stats])));
}

#[test]
fn role_that_is_to_stop_is_told_to_quit() {
    let directory = TempDir::new();
    let (mut shell, listener) = shell(directory.path());
    let engine = engine(&plan(Vec::new()));
    roles::connect(&mut shell, &engine, Role::Proxy);
    roles::quit(&mut shell, Role::Proxy);
    roles::look_after(&mut shell, &engine, Role::Proxy);
    let proxy = listener.accept().unwrap().unwrap();
    assert_eq!(words(&heard(&proxy)), ["hello", "complete", "quit"]);
}
