//! Starting: every kind of readiness, the order, tasks that end by themselves.

use crate::support::{Agent, SOON, free_ports, proc, sample, shell};

/// Seen starting with a process, then ready, and not before the service said so.
fn becomes_ready_only_when_told(service: &str) {
    let mut agent = Agent::running(service);
    agent.wait_until("it is seen starting, with a process", SOON, |agent| {
        let state = agent.state("a");
        assert_ne!(state, "ready", "ready before its sign");
        state == "starting" && agent.service_pid("a").is_some()
    });
    std::fs::write(agent.path("flag"), "").unwrap();
    agent.wait_for("a", "ready");
    assert_eq!(agent.run_of("a"), 1);
    assert_eq!(agent.events_of("a", "ready").len(), 1);
}

#[test]
fn started_is_ready_as_soon_as_it_runs() {
    let agent = Agent::running(&shell("a", "exec sleep 1000", ""));
    agent.wait_for("a", "ready");
}

#[test]
fn notify_is_ready_when_it_says_so() {
    becomes_ready_only_when_told(&sample("a", "--notify --ready-after 700ms", "ready: Notify"));
}

#[test]
fn descriptor_is_ready_at_its_newline() {
    becomes_ready_only_when_told(&sample("a", "--ready-fd 3 --ready-after 700ms", "ready: Fd(3)"));
}

#[test]
fn descriptor_may_have_another_number() {
    becomes_ready_only_when_told(&sample("a", "--ready-fd 7 --ready-after 700ms", "ready: Fd(7)"));
}

#[test]
fn tcp_is_ready_when_it_accepts() {
    let port = free_ports(1);
    let service = sample(
        "a",
        "--listen 127.0.0.1:{port} --listen-after 700ms",
        &format!("port: {port}, ready: Tcp(\"127.0.0.1:{{port}}\")"),
    );
    becomes_ready_only_when_told(&service);
}

#[test]
fn http_is_ready_when_it_answers_well() {
    let port = free_ports(1);
    let service = sample(
        "a",
        "--listen 127.0.0.1:{port} --ready-after 700ms",
        &format!("port: {port}, ready: Http(\"http://localhost:{{port}}/healthz\")"),
    );
    becomes_ready_only_when_told(&service);
}

#[test]
fn exec_is_ready_when_its_command_succeeds() {
    becomes_ready_only_when_told(&shell(
        "a",
        "exec sleep 1000",
        "ready: Exec([\"/bin/sh\", \"-c\", \"test -e $DIR/flag\"])",
    ));
}

#[test]
fn log_is_ready_at_its_line() {
    let script =
        "echo starting up; until test -e $DIR/flag; do sleep 0.05; done; echo server: now serving; exec sleep 1000";
    becomes_ready_only_when_told(&shell("a", script, "ready: Log(\"now serving\")"));
}

#[test]
fn service_that_is_never_ready_is_given_up_after_its_start_timeout_and_why_says_what_was_missing() {
    let port = free_ports(1);
    let mut agent = Agent::running(&sample(
        "a",
        "--listen 127.0.0.1:{port} --never-ready",
        &format!("port: {port}, ready: Http(\"http://127.0.0.1:{{port}}/healthz\"), start_timeout: \"500ms\""),
    ));
    agent.wait_until("its start is given up", SOON, |agent| !agent.events_of("a", "not_ready_in_time").is_empty());
    let why = agent.cli(&["why", "a"]).stdout;
    assert!(why.contains("503"), "{why}");
    assert_eq!(agent.cli(&["status"]).code, 3);
}

#[test]
fn services_start_in_the_order_of_their_dependencies() {
    let agent = Agent::running(
        &[
            sample("web", "", "requires: [\"api\"], ready: Started"),
            sample("api", "--notify --ready-after 200ms", "requires: [\"db\"], after: [\"net\"], ready: Notify"),
            sample("db", "--notify --ready-after 200ms", "ready: Notify"),
            shell("net", "sleep 0.3", "kind: Oneshot"),
        ]
        .concat(),
    );
    agent.wait_for("web", "ready");
    let events = agent.events();
    let at = |service: &str, kind: &str| {
        events
            .iter()
            .position(|event| event["service"] == service && event["type"] == kind)
            .unwrap_or_else(|| panic!("{service} was never {kind}: {events:#?}"))
    };
    assert!(at("db", "ready") < at("api", "started"));
    assert!(at("net", "done") < at("api", "started"));
    assert!(at("api", "ready") < at("web", "started"));
}

#[test]
fn oneshot_is_done_when_it_exits_and_everything_is_well() {
    let agent = Agent::running(&shell("a", "echo once >> $DIR/ran", "kind: Oneshot"));
    agent.wait_for("a", "done");
    assert_eq!(agent.cli(&["status"]).code, 0);
    assert_eq!(std::fs::read_to_string(agent.path("ran")).unwrap(), "once\n");
    assert!(agent.service_pid("a").is_none());
}

#[test]
fn oneshot_that_fails_is_tried_again() {
    let agent = Agent::running(&shell(
        "a",
        "echo try >> $DIR/ran; test $(wc -l < $DIR/ran) -ge 3",
        "kind: Oneshot, backoff: (min: \"10ms\")",
    ));
    agent.wait_for("a", "done");
    assert_eq!(std::fs::read_to_string(agent.path("ran")).unwrap(), "try\ntry\ntry\n");
}

#[test]
fn periodic_task_runs_again_and_again() {
    let mut agent = Agent::running(&shell("a", "echo tick >> $DIR/ran", "kind: Every(\"1s\")"));
    agent.wait_until("it ran three times", SOON, |agent| agent.run_of("a") >= 3);
    let first = agent.events_of("a", "started");
    assert!(first.len() >= 3);
    let ran = std::fs::read_to_string(agent.path("ran")).unwrap();
    assert!((2..=5).contains(&ran.lines().count()), "about once a second: {ran}");
}

#[test]
fn replicas_get_their_own_port_and_number() {
    let port = free_ports(3);
    let mut agent = Agent::running(&sample(
        "a",
        "--name replica-{replica}-of-{name} --listen 127.0.0.1:{port}",
        &format!("replicas: 3, port: {port}, ready: Http(\"http://127.0.0.1:{{port}}/healthz\")"),
    ));
    agent.wait_for("a", "ready");
    for index in 0..3_u16 {
        let replica = agent.replica("a", index.into());
        assert_eq!(replica["replica"], index);
        agent.wait_until("the replica answers", SOON, |_| proc::http_get(port + index, "/").is_some());
        let body = proc::http_get(port + index, "/").unwrap();
        assert!(body.contains(&format!("replica-{index}-of-a")), "{body}");
    }
}
