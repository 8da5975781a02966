//! Connections over replicas: who answers, and that nobody is left without an answer when one of them ends.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Agent, As, Load, Place, SOON, free_ports, sample};

/// Clients at once.
const CLIENTS: usize = 8;

/// `replicas` of `api`, each answering after some milliseconds, at ports from the second on; the first is for the balancer.
pub(super) fn api(port: u16, replicas: u16, knobs: &str, more: &str) -> String {
    let first = port + 1;
    sample(
        "api",
        &format!("--listen 127.0.0.1:{{port}} --answer-after 10ms {knobs}"),
        &format!(
            "replicas: {replicas}, port: {first}, ready: Http(\"http://127.0.0.1:{{port}}/healthz\"), \
             backoff: (min: \"0ms\"), budget: None{}{more}",
            if more.is_empty() { "" } else { ", " }
        ),
    )
}

/// A balancer at `port` over `api`; `more` are further fields.
pub(super) fn front(port: u16, more: &str) -> String {
    format!("(name: \"front\", listen: [\"tcp:127.0.0.1:{port}\"], to: \"api\", ramp: \"0s\", {more}),")
}

pub(super) fn serving(replicas: u16, knobs: &str, more: &str) -> (Agent, Place) {
    let port = free_ports(8);
    let mut agent = Agent::balancing(As::Me, &api(port, replicas, knobs, ""), &front(port, more));
    agent.wait_up("front", usize::from(replicas));
    (agent, Place::Port(port))
}

fn pid(agent: &Agent, replica: usize) -> i32 {
    let pid = agent.replica("api", replica)["pid"].as_i64().expect("it runs");
    i32::try_from(pid).unwrap()
}

fn kill_replica(agent: &Agent, replica: usize) {
    kill(Pid::from_raw(pid(agent, replica)), Signal::SIGKILL).unwrap();
}

#[test]
fn all_replicas_answer_and_are_counted() {
    let (agent, place) = serving(2, "", "algorithm: RoundRobin");
    let answers = place.answers(20);
    assert_eq!(answers.into_iter().collect::<Vec<_>>().len(), 2);
    let front = agent.balancer("front");
    assert_eq!(
        (&front["accepted"], &front["delivery"], &front["algorithm"]),
        (&20.into(), &"proxy".into(), &"round_robin".into())
    );
    let backends = front["backends"].as_array().unwrap();
    assert_eq!(backends.iter().filter_map(|backend| backend["connections"].as_u64()).sum::<u64>(), 20, "{front:#}");
    for backend in backends {
        assert_eq!((&backend["standing"], &backend["failed"]), (&"up".into(), &0.into()));
        assert!(backend["connections"].as_u64() > Some(5), "{backend:#}");
        assert!(
            backend["bytes_in"].as_u64() > Some(0) && backend["first_byte"]["p50_us"].as_u64() > Some(0),
            "{backend:#}"
        );
    }
}

#[test]
fn killed_replicas_cost_no_request_where_unanswered_ones_are_replayed() {
    let (mut agent, place) = serving(3, "", "replay: Unanswered(max: \"16KiB\")");
    let load = Load::on(&place, CLIENTS);
    load.wait_for(50);
    for round in 0..6 {
        kill_replica(&agent, round % 3);
        load.wait_for(50);
        agent.wait_up("front", 3);
    }
    let tally = load.end_without_failure();
    assert!(tally.by.len() > 3, "{tally:?}");
}

#[test]
fn rolling_restart_costs_no_request_without_any_replay() {
    let (mut agent, place) = serving(3, "", "");
    let load = Load::on(&place, CLIENTS);
    load.wait_for(50);
    for _ in 0..2 {
        agent.cli_ok(&["restart", "api"]);
        load.wait_for(50);
    }
    let tally = load.end_without_failure();
    agent.wait_up("front", 3);
    assert!(tally.by.len() >= 6, "{tally:?}");
}

#[test]
fn clients_of_a_single_replica_wait_while_it_restarts() {
    let (mut agent, place) = serving(1, "--listen-after 500ms", "none_left: Queue(\"10s\")");
    let load = Load::on(&place, CLIENTS);
    load.wait_for(20);
    agent.cli_ok(&["restart", "api"]);
    load.wait_for(50);
    let tally = load.end_without_failure();
    assert!(tally.slowest >= Duration::from_millis(400), "somebody waited: {tally:?}");
    agent.wait_up("front", 1);
    let front = agent.balancer("front");
    assert!(front["queued_total"].as_u64() > Some(0) && front["queued"] == 0, "{front:#}");
}

#[test]
fn client_is_refused_at_once_where_nobody_is_left_and_the_rule_says_so() {
    let (mut agent, place) = serving(1, "", "none_left: Refuse");
    agent.cli_ok(&["stop", "api"]);
    agent.wait_up("front", 0);
    let asked = std::time::Instant::now();
    assert!(place.ask().is_err());
    assert!(asked.elapsed() < Duration::from_secs(3));
    let front = agent.balancer("front");
    assert_eq!(front["refused"]["no_backend"], 1, "{front:#}");
    assert_eq!(agent.cli(&["balancers"]).code, 3);
    agent.cli_ok(&["start", "api"]);
    agent.wait_up("front", 1);
    place.ask().unwrap();
}

#[test]
fn drained_replica_runs_on_and_gets_nothing_until_it_is_undrained() {
    let (mut agent, place) = serving(2, "", "algorithm: RoundRobin");
    let drained = pid(&agent, 0);
    agent.cli_ok(&["drain", "api/0"]);
    let backend = agent.backend("front", "api/0");
    assert_ne!(backend["standing"], "up", "{backend:#}");
    assert!(backend["why"].as_str().is_some_and(|why| why.contains("drained")), "{backend:#}");
    assert_eq!(agent.replica("api", 0)["drained"], true);
    assert!(agent.cli(&["status"]).stdout.contains("drained"));
    let answers = place.answers(10);
    assert!(!answers.contains_key(&drained) && answers.len() == 1, "{answers:?}");
    assert_eq!(pid(&agent, 0), drained);

    // An operator's word outlives the agent.
    agent.kill();
    agent.start();
    agent.wait_until("the next agent knows it too", SOON, |agent| {
        agent.balancer("front")["proxy"].is_null()
            && agent.replica("api", 0)["drained"] == true
            && agent.backend("front", "api/1")["standing"] == "up"
    });
    assert!(!place.answers(10).contains_key(&drained));

    agent.cli_ok(&["undrain", "api/0"]);
    agent.wait_up("front", 2);
    assert!(place.answers(10).contains_key(&drained));
    assert_eq!(agent.cli(&["drain", "nobody"]).code, 4);
    assert_eq!(agent.cli(&["drain", "api/7"]).code, 4);
}

#[test]
fn drain_waits_for_the_connections_that_are_open() {
    let (mut agent, place) = serving(1, "", "drain_timeout: \"20s\"");
    let open = place.connect().unwrap();
    // It counts once it has reached the replica.
    agent.wait_until("the connection is there", SOON, |agent| agent.backend("front", "api/0")["active"] == 1);
    let mut drain = agent.cli_command(&["drain", "api/0"]).spawn().unwrap();
    agent.wait_until("it drains", SOON, |agent| agent.backend("front", "api/0")["standing"] == "draining");
    std::thread::sleep(Duration::from_millis(200));
    assert!(drain.try_wait().unwrap().is_none(), "it waits");
    crate::support::ask_on(open).expect("the open connection is served to its end");
    assert!(drain.wait().unwrap().success());
}

#[test]
fn drain_leaves_the_connections_that_do_not_end_in_time() {
    let (mut agent, place) = serving(1, "", "drain_timeout: \"1s\"");
    let open = place.connect().unwrap();
    agent.wait_until("the connection is there", SOON, |agent| agent.backend("front", "api/0")["active"] == 1);
    let ended = agent.cli(&["drain", "api/0"]);
    assert_ne!(ended.code, 0, "{}", ended.stdout);
    assert!(ended.stderr.contains("connections from front have not ended within"), "{}", ended.stderr);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(agent.backend("front", "api/0")["active"], 1);
    crate::support::ask_on(open).expect("the open connection is served to its end");
}

#[test]
fn replica_that_hangs_up_early_is_replaced_before_the_client_notices() {
    // Each run dies at its second request: with one connection a request, every other one is replayed.
    let (mut agent, place) = serving(2, "--die-after 2", "replay: Unanswered(max: \"16KiB\"), eject: (after: 0)");
    for _ in 0..10 {
        place.ask().unwrap();
    }
    agent.wait_until("it is counted", SOON, |agent| agent.balancer("front")["replayed"].as_u64() > Some(0));
}

#[test]
fn unix_sockets_are_backends_and_fronts() {
    // As root the proxy is somebody else, and in no group of root's: see `proxy_is_nobody_in_particular...`.
    let mut agent = Agent::prepared(As::Unprivileged);
    let path = agent.path("front.sock");
    agent.configure_balanced(
        &sample(
            "api",
            "--unix {service_dir}/{replica}.sock --answer-after 5ms --notify",
            "replicas: 2, umask: 0o007, ready: Notify",
        ),
        "(name: \"front\", listen: [\"unix:$DIR/front.sock\"], to: \"api\", socket: \"{service_dir}/{replica}.sock\", \
         algorithm: RoundRobin, ramp: \"0s\"),",
    );
    agent.start();
    agent.wait_up("front", 2);
    let place = Place::Path(path.clone());
    assert_eq!(place.answers(10).len(), 2);
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.wait_exit(SOON).code(), Some(0));
    assert!(!path.exists(), "its name goes with the agent");
    assert_eq!(agent.survivors(), []);
}

#[test]
fn fixed_addresses_are_backends_too() {
    let port = free_ports(8);
    let fixed = format!(
        "(name: \"front\", listen: [\"tcp:127.0.0.1:{port}\"], backends: [\"tcp:127.0.0.1:{}\", \"tcp:127.0.0.1:{}\"], \
         algorithm: RoundRobin),",
        port + 1,
        port + 7
    );
    let agent = Agent::balancing(As::Me, &api(port, 1, "", ""), &fixed);
    agent.wait_for("api", "ready");
    // Nobody listens at the second one: each connection goes to the first in the end.
    for _ in 0..10 {
        Place::Port(port).ask().unwrap();
    }
    let dead = agent.backend("front", &format!("tcp:127.0.0.1:{}", port + 7));
    let failed = dead["connect_failed"]["refused"].as_u64();
    assert!(failed > Some(0), "{:#}", agent.balancer("front"));
}

#[test]
fn curl_comes_through() {
    let (_agent, place) = serving(2, "", "");
    let Place::Port(port) = place else { return };
    let curl = std::process::Command::new("curl")
        .args(["-sS", "--max-time", "20"])
        .arg(format!("http://127.0.0.1:{port}/"))
        .output();
    match curl {
        Ok(output) => {
            assert!(output.status.success(), "{output:?}");
            assert!(String::from_utf8_lossy(&output.stdout).contains("\"requests\""), "{output:?}");
        }
        Err(error) => println!("skipped: curl cannot be run: {error}"),
    }
}

#[test]
fn listing_tells_what_the_balancer_does() {
    let (agent, place) = serving(2, "", "algorithm: RoundRobin");
    place.answers(4);
    let table = agent.cli_ok(&["balancers"]);
    assert!(table.starts_with("NAME"), "{table}");
    for name in ["front", "  api/0", "  api/1"] {
        assert!(table.lines().any(|line| line.starts_with(name)), "{name}\n{table}");
    }
    let detail = agent.cli_ok(&["balancers", "front"]);
    assert!(detail.contains("front: proxy to service api, by round_robin") && detail.contains("(open)"), "{detail}");
    let json: serde_json::Value = serde_json::from_str(&agent.cli_ok(&["balancers", "-o", "json"])).unwrap();
    assert_eq!((&json["proxy"], &json["balancers"][0]["accepted"]), (&"ok".into(), &4.into()));
    assert_eq!(agent.cli_ok(&["balancers", "-o", "ndjson"]).lines().count(), 1);
    assert_eq!(agent.cli(&["balancers", "back"]).code, 4);
    let metrics = agent.get("/metrics").body;
    for line in [
        "mainstay_balancer_connections_total{balancer=\"front\",backend=\"api/0\"} ",
        "mainstay_balancer_accepted_total{balancer=\"front\"} 4",
        "mainstay_balancer_backend_up{balancer=\"front\",backend=\"api/1\"} 1",
        "mainstay_balancer_connect_seconds_bucket{balancer=\"front\",backend=\"api/0\",le=\"+Inf\"} ",
    ] {
        assert!(metrics.lines().any(|found| found.starts_with(line)), "{line}\n{metrics}");
    }
    let public = agent.raw("read.sock", &crate::support::head("GET", "/v1/balancers", ""));
    assert_eq!(public.json()["balancers"][0]["name"], "front");
}

/// A client of a database as people have it; where there is none this says so.
#[test]
fn postgresql_client_comes_through() {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let Some(bin) = versions.map(|entry| entry.path().join("bin")).find(|bin| bin.join("postgres").exists()) else {
        return println!("skipped: PostgreSQL is not installed");
    };
    let port = free_ports(2);
    let mut agent = Agent::prepared(As::Unprivileged);
    let data = agent.path("data");
    let run = |agent: &Agent, words: &[&str]| {
        let mut command = std::process::Command::new(words[0]);
        command.args(&words[1..]).current_dir("/");
        if nix::unistd::geteuid().is_root() {
            use std::os::unix::process::CommandExt;
            command.uid(crate::support::NOBODY).gid(crate::support::NOBODY);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?} {}", agent.dir.display());
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let tool = |name: &str| bin.join(name).to_str().unwrap().to_owned();
    let directory = |path: &Path| path.to_str().unwrap().to_owned();
    run(&agent, &[&tool("initdb"), "-D", &directory(&data), "-U", "tester", "-A", "trust", "-N"]);
    agent.configure_balanced(
        &format!(
            "(name: \"db\", command: [\"{}\", \"-D\", \"{}\", \"-p\", \"{}\", \"-k\", \"\", \"-h\", \"127.0.0.1\"], \
             port: {}, ready: Exec([\"{}\", \"-q\", \"-h\", \"127.0.0.1\", \"-p\", \"{{port}}\"]), stop: (signal: \"INT\"), env: {{\"E2E_TAG\": \"$TAG\"}}),",
            tool("postgres"),
            directory(&data),
            port + 1,
            port + 1,
            tool("pg_isready")
        ),
        &format!("(name: \"sql\", listen: [\"tcp:127.0.0.1:{port}\"], to: \"db\", ramp: \"0s\"),"),
    );
    agent.start();
    agent.wait_up("sql", 1);
    let query = |sql: &str| {
        run(
            &agent,
            &[&tool("psql"), "-h", "127.0.0.1", "-p", &port.to_string(), "-U", "tester", "-d", "postgres", "-Atc", sql],
        )
    };
    query("create table t (n int)");
    query("insert into t select generate_series(1, 10000)");
    assert_eq!(query("select sum(n) from t").trim(), "50005000");
}
