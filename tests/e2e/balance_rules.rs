//! The rules of a balancer as its clients meet them: keys, PROXY headers, a replica that hangs, one way of delivery after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::balance::{api, front, serving};
use crate::support::{Agent, As, Load, Place, SOON, free_ports, proc, sample};

/// The process that answers curl with these options, or `None` where there is no curl.
#[expect(clippy::print_stdout, reason = "a test that cannot run says so")]
fn curl(port: u16, options: &[&str]) -> Option<i64> {
    let url = format!("http://127.0.0.1:{port}/");
    let output = match Command::new("curl").args(["-sS", "--max-time", "20"]).args(options).arg(url).output() {
        Ok(output) => output,
        Err(error) => {
            println!("skipped: curl cannot be run: {error}");
            return None;
        }
    };
    assert!(output.status.success(), "{options:?}: {output:?}");
    let body: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    body["pid"].as_i64()
}

fn port_of(place: &Place) -> u16 {
    match place {
        Place::Port(port) => *port,
        Place::Path(path) => panic!("{path:?} is no port"),
    }
}

/// Each key must be answered by the same process again; who answers whom.
fn sticky(port: u16, options: impl Fn(u8) -> Vec<String>) -> Option<BTreeMap<u8, i64>> {
    let mut homes = BTreeMap::new();
    for round in 0..2 {
        for key in 2..14 {
            let words = options(key);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let pid = curl(port, &words)?;
            let home = *homes.entry(key).or_insert(pid);
            assert_eq!(home, pid, "key {key}, round {round}");
        }
    }
    Some(homes)
}

#[test]
fn client_keeps_its_replica_by_its_address_and_only_keys_of_a_lost_one_move() {
    let (mut agent, place) = serving(3, "", "key: SourceIp");
    let port = port_of(&place);
    let by_address = |key: u8| vec!["--interface".to_owned(), format!("127.0.0.{key}")];
    let Some(before) = sticky(port, by_address) else { return };
    assert!(before.values().collect::<BTreeSet<_>>().len() > 1, "{before:?}");
    let lost = before[&2];
    let replica = (0..3).find(|index| agent.replica("api", *index)["pid"] == lost).unwrap();
    agent.cli_ok(&["drain", &format!("api/{replica}")]);
    let after = sticky(port, by_address).unwrap();
    for (key, home) in &before {
        assert_eq!(after[key] == *home, *home != lost, "key {key}: {before:?} {after:?}");
    }
    agent.cli_ok(&["undrain", &format!("api/{replica}")]);
    agent.wait_up("front", 3);
    assert_eq!(sticky(port, by_address).unwrap(), before, "all come home");
}

#[test]
fn client_keeps_its_replica_by_a_header() {
    let (agent, place) = serving(3, "", "key: HttpHeader(\"X-User\")");
    let by_header = |key: u8| vec!["-H".to_owned(), format!("X-User: user-{key}")];
    let Some(homes) = sticky(port_of(&place), by_header) else { return };
    assert!(homes.values().collect::<BTreeSet<_>>().len() > 1, "{homes:?}");
    assert_eq!(agent.balancer("front")["keyless"], 0);
    curl(port_of(&place), &[]);
    assert_eq!(agent.balancer("front")["keyless"], 1);
}

#[test]
fn one_balancer_tells_the_next_who_the_client_is() {
    let port = free_ports(8);
    let (outer, inner) = (port, port + 7);
    let balancers = format!(
        "(name: \"outer\", listen: [\"tcp:127.0.0.1:{outer}\"], backends: [\"tcp:127.0.0.1:{inner}\"], send_proxy: true),
         (name: \"front\", listen: [\"tcp:127.0.0.1:{inner}\"], to: \"api\", key: SourceIp, ramp: \"0s\",
          accept_proxy_from: [\"127.0.0.1/32\"]),"
    );
    let mut agent = Agent::balancing(As::Me, &api(port, 3, "", ""), &balancers);
    agent.wait_up("front", 3);
    // The inner one sees one neighbour only, and goes by what that says.
    let Some(homes) = sticky(outer, |key| vec!["--interface".to_owned(), format!("127.0.0.{key}")]) else { return };
    assert!(homes.values().collect::<BTreeSet<_>>().len() > 1, "{homes:?}");
    // Who must send a header and does not is refused, and counted.
    assert!(Place::Port(inner).ask().is_err());
    let front = agent.balancer("front");
    assert_eq!(front["refused"]["proxy_header"], 1, "{front:#}");
}

#[test]
fn replica_that_hangs_costs_no_request_once_its_probe_has_found_it() {
    let port = free_ports(8);
    let probe =
        "alive: (probe: Http(\"http://127.0.0.1:{port}/healthz\"), every: \"100ms\", timeout: \"300ms\", fall: 2)";
    let mut agent =
        Agent::balancing(As::Me, &api(port, 3, "", probe), &front(port, "replay: Unanswered(max: \"16KiB\")"));
    agent.wait_up("front", 3);
    let load = Load::on(&Place::Port(port), 8);
    load.wait_for(50);
    let hung = i32::try_from(agent.replica("api", 1)["pid"].as_i64().unwrap()).unwrap();
    proc::halt(hung);
    agent.wait_until("it was replaced", SOON, |agent| {
        agent.replica("api", 1)["pid"].as_i64().is_some_and(|pid| pid != i64::from(hung))
    });
    agent.wait_up("front", 3);
    load.wait_for(50);
    load.end_without_failure();
}

#[test]
fn killed_replica_gives_back_what_it_had_not_taken_yet() {
    let port = free_ports(1);
    let hand_off = format!(
        "(name: \"front\", listen: [\"tcp:127.0.0.1:{port}\"], to: \"api\", delivery: HandOff, ramp: \"0s\", \
         algorithm: RoundRobin),"
    );
    let service = sample("api", "--listen-fd --answer-after 5ms", "replicas: 2, backoff: (min: \"0ms\"), budget: None");
    let mut agent = Agent::balancing(As::Me, &service, &hand_off);
    agent.wait_up("front", 2);
    let place = Place::Port(port);
    let stopped = i32::try_from(agent.replica("api", 0)["pid"].as_i64().unwrap()).unwrap();
    proc::halt(stopped);
    // Half of these are handed to the one that does not take them.
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let place = place.clone();
            std::thread::spawn(move || place.ask())
        })
        .collect();
    agent.wait_until("some were handed over", SOON, |agent| agent.balancer("front")["accepted"] == 6);
    kill(Pid::from_raw(stopped), Signal::SIGKILL).unwrap();
    for client in clients {
        client.join().unwrap().expect("the other replica takes it");
    }
    agent.wait_up("front", 2);
}

#[test]
fn program_of_the_documentation_takes_connections_under_the_agent() {
    if Command::new("python3").arg("--version").output().is_err() {
        return println!("skipped: there is no python3");
    }
    let port = free_ports(1);
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/handoff/replica.py");
    let service =
        format!("(name: \"api\", command: [\"python3\", \"{program}\"], replicas: 2, env: {{\"E2E_TAG\": \"$TAG\"}}),");
    let mut agent = Agent::balancing(As::Me, &service, &front(port, "delivery: HandOff, algorithm: RoundRobin"));
    agent.wait_up("front", 2);
    let mut greeted = BTreeSet::new();
    for _ in 0..10 {
        let mut stream = Place::Port(port).connect().unwrap();
        stream.write_all(b"x").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert!(said.starts_with("hello from ") && said.ends_with("\nx"), "{said:?}");
        greeted.insert(said);
    }
    assert_eq!(greeted.len(), 2, "{greeted:?}");
}

#[test]
fn datagrams_are_shared_and_wait_while_the_replica_restarts() {
    if Command::new("python3").arg("--version").output().is_err() {
        return println!("skipped: there is no python3");
    }
    let port = free_ports(1);
    let echo = "import os, socket\ns = socket.socket(fileno=3)\nwhile True:\n    d, a = s.recvfrom(99)\n    s.sendto(b'%d ' % os.getpid() + d, a)";
    let service = format!(
        "(name: \"api\", command: [\"python3\", \"-c\", {echo:?}], env: {{\"E2E_TAG\": \"$TAG\"}}, backoff: (min: \"0ms\")),"
    );
    let balancer = format!("(name: \"front\", listen: [\"udp:127.0.0.1:{port}\"], to: \"api\", delivery: Shared),");
    let mut agent = Agent::balancing(As::Me, &service, &balancer);
    agent.wait_up("front", 1);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client.connect(("127.0.0.1", port)).unwrap();
    let mut answer = [0; 99];
    let mut ask = |text: &str| {
        client.send(text.as_bytes()).unwrap();
        let length = client.recv(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    };
    let first = ask("one");
    let pid = agent.service_pid("api").unwrap();
    assert_eq!(first, format!("{pid} one"));
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    agent.wait_until("it is gone", SOON, |agent| agent.service_pid("api") != Some(pid));
    let second = ask("two");
    assert!(second.ends_with(" two") && second != format!("{pid} two"), "{second}");
}

#[test]
fn group_that_the_proxy_lacks_is_told_and_had_after_its_restart() {
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: not root");
    }
    let port = free_ports(8);
    let service = sample(
        "api",
        "--unix {service_dir}/{replica}.sock --listen 127.0.0.1:{port} --notify",
        &format!("replicas: 2, port: {}, user: \"nobody\", umask: 0o007, ready: Notify", port + 1),
    );
    let mut agent = Agent::balancing(As::Me, &service, &front(port, ""));
    agent.wait_up("front", 2);
    agent.configure_balanced(&service, &front(port, "socket: \"{service_dir}/{replica}.sock\", none_left: Refuse"));
    agent.cli_ok(&["reload"]);
    agent.wait_until("it is told", SOON, |agent| {
        agent.events().iter().any(|event| event["text"].to_string().contains("runs without group"))
    });
    Place::Port(port).ask().expect("a run is reached as its birth says");
    agent.cli_ok(&["restart", "api"]);
    agent.wait_until("the proxy goes by the sockets", SOON, |_| Place::Port(port).ask().is_err());
    agent.cli_ok(&["restart", "@proxy"]);
    agent.wait_up("front", 2);
    Place::Port(port).ask().unwrap();
}

#[test]
fn delivery_may_change_by_a_reload() {
    let port = free_ports(8);
    let place = Place::Port(port);
    let service = |more: &str| {
        let listen = if more.is_empty() { "--listen 127.0.0.1:{port}" } else { "--listen-fd" };
        sample(
            "api",
            &format!("{listen} --answer-after 5ms --slow-stop 200ms --notify"),
            &format!("replicas: 2, port: {}, ready: Notify, backoff: (min: \"0ms\"), budget: None", port + 1),
        )
    };
    let mut agent = Agent::balancing(As::Me, &service(""), &front(port, ""));
    agent.wait_up("front", 2);
    place.ask().unwrap();
    for delivery in ["Shared", "HandOff", "Shared"] {
        agent.configure_balanced(&service("fd"), &front(port, &format!("delivery: {delivery}")));
        agent.cli_ok(&["reload"]);
        agent.cli_ok(&["restart", "api"]);
        agent.wait_up("front", 2);
        agent.wait_until("its socket is open", SOON, |agent| agent.balancer("front")["listen"][0]["state"] != "failed");
        assert_eq!(place.answers(4).values().sum::<u32>(), 4, "{delivery}");
        agent.wait_until("the proxy is there if it is needed", SOON, |agent| {
            agent.service("@proxy").is_null() == (delivery == "Shared")
        });
    }
    agent.configure_balanced(&service(""), &front(port, ""));
    agent.cli_ok(&["reload"]);
    agent.wait_up("front", 2);
    agent.wait_until("its socket is open", SOON, |agent| agent.balancer("front")["listen"][0]["state"] == "open");
    place.answers(4);
}

#[test]
fn delivery_changes_under_load_without_a_refused_connection() {
    let port = free_ports(8);
    let place = Place::Port(port);
    let service = |listen: &str| {
        sample(
            "api",
            &format!("{listen} --answer-after 5ms --slow-stop 200ms --notify"),
            &format!("replicas: 2, port: {}, ready: Notify, backoff: (min: \"0ms\"), budget: None", port + 1),
        )
    };
    let by_port = service("--listen 127.0.0.1:{port}");
    // One after the other gets a connection, and a stop waits for it longer than any of this takes.
    let proxied = front(port, "algorithm: RoundRobin, drain_timeout: \"120s\"");
    let mut agent = Agent::balancing(As::Me, &by_port, &proxied);
    agent.wait_up("front", 2);
    let active = |agent: &Agent, replica: usize| agent.backend("front", &format!("api/{replica}"))["active"] == 1;
    let mut held = Vec::new();
    for count in 1..=2 {
        held.push(place.connect().unwrap());
        agent.wait_until("it has reached its replica", SOON, |agent| {
            (0..2).filter(|replica| active(agent, *replica)).count() == count
        });
        if count == 1 && active(&agent, 1) {
            held.clear();
            agent.wait_until("it has ended", SOON, |agent| !active(agent, 1));
            held.push(place.connect().unwrap());
            agent.wait_until("it has reached the first", SOON, |agent| active(agent, 0));
        }
    }
    let [first, second] = <[_; 2]>::try_from(held).unwrap();
    let pids =
        [0, 1].map(|replica| agent.replica("api", replica)["pid"].as_i64().map(|pid| i32::try_from(pid).unwrap()));
    let is_new = |agent: &Agent, replica: usize| agent.replica("api", replica)["pending_restart"] == false;
    let load = Load::on(&place, 8);
    load.wait_for(50);
    agent.configure_balanced(&service("--listen-fd"), &front(port, "delivery: Shared"));
    agent.cli_ok(&["reload"]);
    // The first waits for its connection, and everybody is served by the second meanwhile.
    load.wait_for(100);
    assert!(!is_new(&agent, 0) && !is_new(&agent, 1));
    assert_eq!(crate::support::ask_on(first).ok(), pids[0], "a connection of the proxy's may end");
    agent.wait_until("the first is new", SOON, |agent| is_new(agent, 0));
    load.wait_for(100);
    assert!(!is_new(&agent, 1));
    assert_eq!(crate::support::ask_on(second).ok(), pids[1], "that of the second as well");
    agent.wait_until("both are new", SOON, |agent| (0..2).all(|replica| is_new(agent, replica)));
    load.wait_for(100);
    agent.wait_until("the proxy has left", SOON, |agent| agent.service("@proxy").is_null());
    agent.configure_balanced(&by_port, &front(port, ""));
    agent.cli_ok(&["reload"]);
    load.wait_for(100);
    agent.wait_up("front", 2);
    load.wait_for(100);
    load.end_without_failure();
}

#[test]
fn proxy_may_have_as_many_descriptors_as_the_host_allows() {
    let (agent, _place) = serving(1, "", "");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", agent.service_pid("@proxy").unwrap())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<&str> = line.split_whitespace().filter(|word| word.parse::<u64>().is_ok()).collect();
    assert_eq!(numbers[0], numbers[1], "{line}");
}

#[test]
fn agent_that_dies_while_the_delivery_changes_costs_no_connection() {
    let port = free_ports(8);
    let place = Place::Port(port);
    let service = |listen: &str| {
        sample(
            "api",
            &format!("{listen} --answer-after 5ms --slow-stop 100ms --notify"),
            &format!("replicas: 2, port: {}, ready: Notify, backoff: (min: \"0ms\"), budget: None", port + 1),
        )
    };
    let by_port = (service("--listen 127.0.0.1:{port}"), front(port, ""));
    let shared = (service("--listen-fd"), front(port, "delivery: Shared"));
    let mut agent = Agent::balancing(As::Me, &by_port.0, &by_port.1);
    agent.wait_up("front", 2);
    let load = Load::on(&place, 4);
    // From before the first stop to after the last start.
    for (turn, delay_ms) in [5, 40, 110, 160, 230, 350].into_iter().enumerate() {
        load.wait_for(20);
        let (service, front) = if turn % 2 == 0 { &shared } else { &by_port };
        agent.configure_balanced(service, front);
        agent.cli_ok(&["reload"]);
        std::thread::sleep(std::time::Duration::from_millis(delay_ms));
        agent.kill();
        std::thread::sleep(std::time::Duration::from_millis(50));
        agent.start();
        agent.wait_until("both run as the file says", SOON, |agent| {
            (0..2).all(|index| {
                let replica = agent.replica("api", index);
                replica["state"] == "ready" && replica["pending_restart"] == false
            })
        });
        agent.wait_up("front", 2);
    }
    load.wait_for(50);
    load.end_without_failure();
}
