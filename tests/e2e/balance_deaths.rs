//! What the agent's death, the proxy's death and a reload mean to those who are connected.

use std::net::TcpListener;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::balance::{api, front, serving};
use crate::support::{Agent, As, Load, NOBODY, Place, SOON, ask_on, free_ports, proc, sample, shell};

#[test]
fn death_of_the_agent_is_not_noticed_and_the_next_one_finds_the_same_proxy() {
    let (mut agent, place) = serving(2, "", "");
    let proxy = agent.service_pid("@proxy").unwrap();
    let open = place.connect().unwrap();
    agent.wait_until("the connection is there", SOON, |agent| agent.balancer("front")["active"] == 1);
    let load = Load::on(&place, 8);
    load.wait_for(50);
    let before = agent.balancer("front")["accepted"].as_u64().unwrap();
    for _ in 0..3 {
        agent.kill();
        load.wait_for(50);
        agent.start();
        load.wait_for(50);
    }
    agent.wait_up("front", 2);
    assert_eq!(agent.service_pid("@proxy"), Some(proxy));
    load.end_without_failure();
    ask_on(open).expect("a connection outlives three agents");
    let after = agent.balancer("front")["accepted"].as_u64().unwrap();
    assert!(after > before + 250, "{before} {after}");
    // SIGQUIT leaves it as well.
    agent.signal(Signal::SIGQUIT);
    assert_eq!(agent.wait_exit(SOON).code(), Some(0));
    place.ask().unwrap();
    agent.start();
    agent.wait_up("front", 2);
    assert_eq!(agent.service_pid("@proxy"), Some(proxy));
}

#[test]
fn proxy_comes_back_and_clients_wait_in_the_queue_meanwhile() {
    let (mut agent, place) = serving(2, "", "");
    for _ in 0..3 {
        let proxy = agent.service_pid("@proxy").unwrap();
        kill(Pid::from_raw(proxy), Signal::SIGKILL).unwrap();
        place.ask().expect("the socket was never closed");
        agent.wait_until("another proxy", SOON, |agent| agent.service_pid("@proxy").is_some_and(|pid| pid != proxy));
        agent.wait_up("front", 2);
    }
    // By hand as well: it is told to leave, since it is deaf to signals.
    let proxy = agent.service_pid("@proxy").unwrap();
    let asked = std::time::Instant::now();
    agent.cli_ok(&["restart", "@proxy"]);
    assert!(
        asked.elapsed() < Duration::from_secs(15),
        "it was not killed after its stop timeout: {:?}",
        asked.elapsed()
    );
    assert_ne!(agent.service_pid("@proxy"), Some(proxy));
    agent.wait_up("front", 2);
    place.ask().unwrap();
}

#[test]
fn proxy_that_dies_while_no_agent_lives_is_replaced_by_the_next_agent() {
    let (mut agent, place) = serving(2, "", "");
    let proxy = agent.service_pid("@proxy").unwrap();
    agent.kill();
    kill(Pid::from_raw(proxy), Signal::SIGKILL).unwrap();
    let asked = std::thread::spawn({
        let place = place.clone();
        move || place.ask()
    });
    agent.start();
    asked.join().unwrap().expect("the socket was kept, and the client in its queue");
    agent.wait_up("front", 2);
}

#[test]
fn ordered_stop_ends_the_proxy_too() {
    let (mut agent, place) = serving(2, "", "");
    place.ask().unwrap();
    let proxy = agent.service_pid("@proxy").unwrap();
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.wait_exit(SOON).code(), Some(0));
    assert!(!proc::is_alive(proxy));
    assert!(place.connect().is_err());
    assert_eq!(agent.survivors(), []);
}

#[test]
fn reload_changes_backends_and_sockets_under_open_connections() {
    let port = free_ports(16);
    let (place, other) = (Place::Port(port), Place::Port(port + 10));
    let mut agent = Agent::balancing(As::Me, &api(port, 2, "", ""), &front(port, "algorithm: RoundRobin"));
    agent.wait_up("front", 2);
    let proxy = agent.service_pid("@proxy").unwrap();
    let open: Vec<_> = (0..2).map(|_| place.connect().unwrap()).collect();
    agent.wait_until("both are connected", SOON, |agent| agent.balancer("front")["active"] == 2);
    let load = Load::on(&place, 4);

    // A third replica, a second address, other rules.
    let two =
        front(port, "algorithm: LeastConnections").replace("\"],", &format!("\", \"tcp:127.0.0.1:{}\"],", port + 10));
    agent.configure_balanced(&api(port, 3, "", ""), &two);
    agent.cli_ok(&["reload"]);
    agent.wait_up("front", 3);
    other.ask().unwrap();
    load.wait_for(50);

    // The address goes to another balancer, and stays open while it does.
    let moved = front(port, "") + &front(port + 10, "").replace("front", "side");
    agent.configure_balanced(&api(port, 3, "", ""), &moved);
    agent.cli_ok(&["reload"]);
    agent.wait_up("side", 3);
    other.ask().unwrap();
    assert_eq!(agent.balancer("side")["accepted"], 1);

    // Back to where it began.
    agent.configure_balanced(&api(port, 2, "", ""), &front(port, ""));
    agent.cli_ok(&["reload"]);
    agent.wait_up("front", 2);
    agent.wait_until("the other address is closed", SOON, |_| other.connect().is_err());
    load.wait_for(50);
    load.end_without_failure();
    for connection in open {
        ask_on(connection).expect("open connections are kept");
    }
    assert_eq!(agent.service_pid("@proxy"), Some(proxy));
}

#[test]
fn proxy_is_there_only_while_a_balancer_needs_it() {
    let port = free_ports(8);
    let mut agent = Agent::running(&api(port, 1, "", ""));
    agent.wait_for("api", "ready");
    assert!(agent.service("@proxy").is_null());
    assert_eq!(agent.get("/v1/balancers").json()["proxy"], "not needed");
    assert!(Place::Port(port).connect().is_err());
    agent.configure_balanced(&api(port, 1, "", ""), &front(port, ""));
    agent.cli_ok(&["reload"]);
    agent.wait_up("front", 1);
    Place::Port(port).ask().unwrap();
    let proxy = agent.service_pid("@proxy").unwrap();
    agent.configure(&api(port, 1, "", ""));
    agent.cli_ok(&["reload"]);
    agent.wait_until("the proxy has left", SOON, |agent| agent.service("@proxy").is_null() && !proc::is_alive(proxy));
    // The keeper lets go of its copy when it hears of it.
    agent.wait_until("the address is closed", SOON, |_| Place::Port(port).connect().is_err());
    agent.configure_balanced(&api(port, 1, "", ""), &front(port, ""));
    agent.cli_ok(&["reload"]);
    agent.wait_up("front", 1);
    Place::Port(port).ask().unwrap();
}

#[test]
fn address_in_use_is_told_and_taken_once_it_is_free() {
    let port = free_ports(8);
    let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let mut agent = Agent::balancing(As::Me, &api(port, 1, "", ""), &front(port, ""));
    agent.wait_for("api", "ready");
    let listener = || agent.balancer("front")["listen"][0].clone();
    assert_eq!(listener()["state"], "failed");
    assert!(listener()["error"].as_str().is_some_and(|error| error.contains("in use")), "{}", listener());
    let told = |agent: &Agent, text: &str| {
        agent.events().iter().filter(|event| event["text"].to_string().contains(text)).count()
    };
    assert_eq!(told(&agent, "cannot listen on tcp:127.0.0.1"), 1);
    assert_eq!(agent.cli(&["balancers"]).code, 3);
    drop(taken);
    agent.wait_until("it listens", SOON, |agent| agent.balancer("front")["listen"][0]["state"] == "open");
    agent.wait_up("front", 1);
    Place::Port(port).ask().unwrap();
    assert_eq!(told(&agent, "cannot listen on tcp:127.0.0.1"), 1);
}

#[test]
fn replicas_share_one_socket_and_nobody_stands_between() {
    let port = free_ports(1);
    let shared = format!("(name: \"front\", listen: [\"tcp:127.0.0.1:{port}\"], to: \"api\", delivery: Shared),");
    let mut agent = Agent::balancing(
        As::Me,
        &sample("api", "--listen-fd --answer-after 5ms", "replicas: 3, backoff: (min: \"0ms\")"),
        &shared,
    );
    agent.wait_up("front", 3);
    assert!(agent.service("@proxy").is_null());
    let place = Place::Port(port);
    let load = Load::on(&place, 8);
    load.wait_for(100);
    let killed = agent.replica("api", 1)["pid"].as_i64().unwrap();
    agent.kill();
    load.wait_for(50);
    agent.start();
    agent.wait_for("api", "ready");
    let tally = load.end_without_failure();
    assert!(tally.by.len() > 1, "{tally:?}");
    let killed = i32::try_from(killed).unwrap();
    kill(Pid::from_raw(killed), Signal::SIGKILL).unwrap();
    agent.wait_until("it is gone", SOON, |_| !proc::is_alive(killed));
    place.answers(10);
    let front = agent.balancer("front");
    assert_eq!((&front["delivery"], &front["listen"][0]["state"]), (&"shared".into(), &"inherited".into()));
}

#[test]
fn accepted_connections_are_handed_to_the_replicas() {
    let port = free_ports(1);
    let hand_off = format!(
        "(name: \"front\", listen: [\"tcp:127.0.0.1:{port}\"], to: \"api\", delivery: HandOff, algorithm: RoundRobin, ramp: \"0s\"),"
    );
    // What it has taken is its own: it finishes that before it stops.
    let service = sample(
        "api",
        "--listen-fd --answer-after 5ms --slow-stop 500ms --notify",
        "ready: Notify, replicas: 2, backoff: (min: \"0ms\")",
    );
    let mut agent = Agent::balancing(As::Me, &service, &hand_off);
    agent.wait_up("front", 2);
    let place = Place::Port(port);
    assert_eq!(place.answers(10).len(), 2);
    // The channels outlive the agent and the proxy.
    agent.kill();
    assert_eq!(place.answers(10).len(), 2);
    agent.start();
    agent.wait_up("front", 2);
    let proxy = agent.service_pid("@proxy").unwrap();
    kill(Pid::from_raw(proxy), Signal::SIGKILL).unwrap();
    agent.wait_until("another proxy", SOON, |agent| agent.service_pid("@proxy").is_some_and(|pid| pid != proxy));
    agent.wait_up("front", 2);
    assert_eq!(place.answers(10).len(), 2);
    let load = Load::on(&place, 4);
    load.wait_for(20);
    agent.cli_ok(&["restart", "api"]);
    load.wait_for(50);
    load.end_without_failure();
}

#[test]
fn replica_that_has_no_channel_says_that_it_needs_a_restart() {
    let port = free_ports(1);
    let service = sample("api", "--listen-fd --answer-after 5ms", "listen: [\"tcp:127.0.0.1:0\"], replicas: 2");
    let mut agent = Agent::running(&service);
    agent.wait_for("api", "ready");
    let hand_off =
        format!("(name: \"front\", listen: [\"tcp:127.0.0.1:{port}\"], to: \"api\", delivery: HandOff, ramp: \"0s\"),");
    agent.configure_balanced(&service, &hand_off);
    agent.cli_ok(&["reload"]);
    agent.wait_until("the proxy is there", SOON, |agent| agent.balancer("front")["accepted"] == 0);
    let backend = agent.backend("front", "api/0");
    assert_eq!(backend["standing"], "out", "{backend:#}");
    assert!(backend["why"].as_str().is_some_and(|why| why.contains("restart it")), "{backend:#}");
    agent.cli_ok(&["restart", "api"]);
    agent.wait_up("front", 2);
    Place::Port(port).ask().unwrap();
}

#[test]
fn proxy_is_nobody_in_particular_and_in_the_groups_it_needs() {
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: not root");
    }
    let port = free_ports(1);
    let service = sample(
        "api",
        "--unix {service_dir}/{replica}.sock --notify",
        "replicas: 2, user: \"nobody\", umask: 0o007, ready: Notify",
    );
    let mut agent = Agent::prepared(As::Me);
    agent.configure_balanced(
        &service,
        &format!(
            "(name: \"front\", listen: [\"tcp:127.0.0.1:{port}\"], to: \"api\", socket: \"{{service_dir}}/{{replica}}.sock\", \
             algorithm: RoundRobin, ramp: \"0s\"),"
        ),
    );
    agent.start();
    agent.wait_up("front", 2);
    assert_eq!(Place::Port(port).answers(10).len(), 2);
    let proxy = agent.service_pid("@proxy").unwrap();
    let status = std::fs::read_to_string(format!("/proc/{proxy}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let uids = field("Uid:");
    assert!(uids.iter().all(|uid| uid != "0" && *uid != NOBODY.to_string()), "{uids:?}");
    assert!(field("Groups:").contains(&NOBODY.to_string()), "{status}");
    assert_eq!(field("CapEff:"), ["0000000000000000"]);
    assert_eq!(field("NoNewPrivs:"), ["1"]);
    let doctor = agent.cli(&["doctor"]).stdout;
    assert!(doctor.contains("proxy user") && doctor.contains("connections "), "{doctor}");
}

#[test]
fn agent_without_rights_balances_as_well() {
    let port = free_ports(8);
    let mut agent = Agent::balancing(As::Unprivileged, &api(port, 2, "", ""), &front(port, "algorithm: RoundRobin"));
    agent.wait_up("front", 2);
    let place = Place::Port(port);
    assert_eq!(place.answers(10).len(), 2);
    let proxy = agent.service_pid("@proxy");
    agent.kill();
    place.ask().unwrap();
    agent.start();
    agent.wait_up("front", 2);
    assert_eq!(agent.service_pid("@proxy"), proxy);
    assert_eq!(place.answers(10).len(), 2);
}

#[test]
fn silent_proxy_costs_only_its_counters() {
    let (mut agent, _) = serving(1, "", "");
    let proxy = agent.service_pid("@proxy").unwrap();
    proc::halt(proxy);
    let asked = std::time::Instant::now();
    let answer = agent.get("/v1/balancers").json();
    assert_eq!(answer["proxy"], "no answer");
    assert!(answer["balancers"][0]["accepted"].is_null() && answer["balancers"][0]["name"] == "front", "{answer:#}");
    assert!(agent.get("/metrics").body.contains("mainstay_balancer_backend_up"));
    assert!(asked.elapsed() < Duration::from_secs(10));
    assert!(agent.cli(&["balancers"]).stdout.contains("no counters"));
    kill(Pid::from_raw(proxy), Signal::SIGCONT).unwrap();
    agent.wait_up("front", 1);
}

#[test]
fn service_without_a_balancer_has_nothing_to_drain() {
    let agent = Agent::running(&shell("a", "sleep 1000", ""));
    agent.wait_for("a", "ready");
    let ended = agent.cli(&["drain", "a"]);
    assert!(ended.code != 0 && ended.stderr.contains("balancer"), "{ended:?}");
}
