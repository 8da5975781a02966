//! The sample service by itself: what the other stories rely on when they ask it to fail.

use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Agent, As, SOON, free_ports, proc};

/// A sample that is no service of any agent; `owner` cleans up after it.
fn start(owner: &Agent, knobs: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
    command.arg("sample").args(owner.expand(knobs).split_whitespace());
    command.env("E2E_TAG", &owner.tag).env("NOTIFY_SOCKET", owner.path("notify.sock"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
}

fn output(mut child: Child) -> (Option<i32>, Option<i32>, String) {
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    let status = child.wait().unwrap();
    (status.code(), status.signal(), text)
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

#[test]
fn sample_ends_as_it_is_told() {
    let owner = Agent::prepared(As::Me);
    let (code, _, text) = output(start(&owner, "--crash-after 50ms --exit-code 7 --last-words bye"));
    assert_eq!(code, Some(7));
    assert!(text.ends_with("\nbye"), "{text:?}");
    for (name, number) in [("SEGV", 11), ("ABRT", 6), ("KILL", 9)] {
        let (_, killed_by, _) = output(start(&owner, &format!("--crash-after 10ms --signal {name}")));
        assert_eq!(killed_by, Some(number), "{name}");
    }
    assert_eq!(output(start(&owner, "--exit-after 10ms")).0, Some(0));
    assert!(output(start(&owner, "--no-such-knob")).0.is_some_and(|code| code != 0));
}

#[test]
fn sample_stops_in_its_own_time_or_not_at_all() {
    let owner = Agent::prepared(As::Me);
    let socket = UnixDatagram::bind(owner.path("notify.sock")).unwrap();
    let slow = start(&owner, "--notify --slow-stop 300ms");
    // Ready means that its signals are in its hands.
    socket.recv(&mut [0; 64]).unwrap();
    let began = Instant::now();
    signal(&slow, Signal::SIGTERM);
    assert_eq!(output(slow).0, Some(0));
    assert!(began.elapsed() >= Duration::from_millis(300));

    let stubborn = start(&owner, "--notify --ignore-term");
    while !received(&socket).starts_with("READY=1") {}
    signal(&stubborn, Signal::SIGTERM);
    std::thread::sleep(Duration::from_millis(100));
    assert!(proc::is_alive(i32::try_from(stubborn.id()).unwrap()));
    signal(&stubborn, Signal::SIGKILL);
    assert_eq!(output(stubborn).1, Some(9));
}

fn received(socket: &UnixDatagram) -> String {
    socket.set_read_timeout(Some(SOON)).unwrap();
    let mut buffer = [0; 512];
    let count = socket.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

#[test]
fn sample_tells_its_readiness_and_then_its_watchdog_for_a_while() {
    let owner = Agent::prepared(As::Me);
    let socket = UnixDatagram::bind(owner.path("notify.sock")).unwrap();
    let child =
        start(&owner, "--notify --ready-after 100ms --watchdog 20ms --watchdog-stop-after 400ms --exit-after 1s");
    assert!(received(&socket).starts_with("READY=1"));
    for _ in 0..5 {
        assert_eq!(received(&socket), "WATCHDOG=1");
    }
    let (code, _, text) = output(child);
    assert_eq!(code, Some(0));
    assert!(text.contains("no longer tells the watchdog"), "{text}");
}

#[test]
fn sample_floods_with_every_number_once() {
    let owner = Agent::prepared(As::Me);
    let (_, _, text) = output(start(&owner, "--name f --flood 5000 --flood-exit --never-ready"));
    let numbers: Vec<u32> = text.lines().map(|line| line[2..12].parse().unwrap()).collect();
    assert_eq!(numbers, (1..=5000).collect::<Vec<_>>());
    assert_eq!(text.len(), 5000 * 128);
}

#[test]
fn sample_serves_its_health() {
    let owner = Agent::prepared(As::Me);
    let port = free_ports(1);
    let child = start(&owner, &format!("--name s --listen 127.0.0.1:{port} --ready-after 300ms"));
    let deadline = Instant::now() + SOON;
    let mut seen = Vec::new();
    while seen.last().map(String::as_str) != Some("ok\n") {
        assert!(Instant::now() < deadline, "{seen:?}");
        seen.extend(proc::http_get(port, "/healthz"));
        seen.dedup();
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(seen, ["not ready\n", "ok\n"]);
    assert!(proc::http_get(port, "/").unwrap().contains("\"name\":\"s\""));
    assert_eq!(proc::http_get(port, "/crash?code=5").as_deref(), Some("crashing\n"));
    assert_eq!(output(child).0, Some(5));
}

#[test]
fn strays_are_found_and_ended_by_their_owner() {
    let mut owner = Agent::prepared(As::Me);
    let tag = format!("E2E_TAG={}", owner.tag);
    let mut child = start(&owner, "--fork-child");
    owner.wait_until("its runaway is there", SOON, |owner| !owner.processes_with("--stage grandchild").is_empty());
    assert!(owner.survivors().len() >= 2, "{:?}", owner.survivors());
    drop(owner);
    child.wait().unwrap();
    let left: Vec<_> = proc::all().filter(|pid| proc::environment(*pid).contains(&tag)).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn reforker_is_another_process_at_every_look() {
    let mut owner = Agent::prepared(As::Me);
    let mut child = start(&owner, "--refork");
    let mut seen = Vec::new();
    owner.wait_until("it was five different processes", SOON, |owner| {
        seen.extend(owner.processes_with("--stage refork"));
        seen.sort_unstable();
        seen.dedup();
        seen.len() >= 5
    });
    drop(owner);
    child.wait().unwrap();
}
