//! The command line: exit codes, outputs, and one agent a run directory.

use crate::support::{Agent, As, SOON, sample, shell};

#[test]
fn exit_codes_are_those_of_the_manual() {
    let agent = Agent::running(&sample("a", "", ""));
    agent.wait_for("a", "ready");
    let code = |arguments: &[&str]| agent.cli(arguments).code;
    assert_eq!(code(&["status"]), 0);
    assert_eq!(code(&["status", "a"]), 0);
    assert_eq!(code(&["status", "nope"]), 4);
    assert_eq!(code(&["restart", "nope"]), 4);
    assert_eq!(code(&["why", "nope"]), 4);
    assert_eq!(code(&["logs", "nope"]), 4);
    assert_eq!(code(&["no-such-command"]), 2);
    assert_eq!(code(&["status", "--no-such-option"]), 2);
    assert_eq!(code(&["--socket", "/nowhere/mainstay.sock", "status"]), 5);
    assert_eq!(code(&["stop", "a"]), 0);
    assert_eq!(code(&["start", "a"]), 0);
    let hint = agent.cli(&["status", "aa"]);
    assert!(hint.stderr.contains("did you mean") && hint.stderr.contains('a'), "{hint:?}");
}

#[test]
fn status_is_not_well_while_something_wanted_is_down() {
    let services = [sample("a", "", ""), shell("b", "exit 1", "restart: Never")];
    let agent = Agent::running(&services.concat());
    agent.wait_for("a", "ready");
    agent.wait_for("b", "failed");
    assert_eq!(agent.cli(&["status"]).code, 3);
    assert_eq!(agent.cli(&["status", "a"]).code, 0);
    assert_eq!(agent.cli(&["status", "b"]).code, 3);
    let table = agent.cli(&["status"]).stdout;
    let head = table.lines().next().unwrap_or_default();
    let columns: Vec<_> = head.split_whitespace().collect();
    assert_eq!(columns, ["NAME", "STATE", "HEALTH", "SINCE", "RESTARTS", "PID", "CPU", "MEM", "WHY"], "{table}");
    assert!(!table.contains('\u{1b}'), "no colour where there is no terminal");
}

#[test]
fn status_as_json_is_the_document_of_the_api() {
    let mut agent = Agent::running(&sample("a", "", "replicas: 2"));
    agent.wait_for("a", "ready");
    // The first readings of its disks and NICs may come after that.
    agent.wait_until("its health is known", SOON, |agent| agent.status("a")["health"] == "ok");
    let service = agent.status("a");
    assert_eq!(service["state"], "ready");
    assert_eq!(service["health"], "ok");
    assert_eq!(service["wanted"], true);
    assert_eq!(service["replicas"].as_array().unwrap().len(), 2);
    for key in ["replica", "state", "pid", "run", "since_ms", "restarts", "last_exit", "cpu_percent", "memory_bytes"] {
        assert!(service["replicas"][0].get(key).is_some(), "{key} in {service:#}");
    }
}

#[test]
fn second_agent_on_the_same_run_directory_ends_and_names_the_first() {
    let agent = Agent::running(&sample("a", "", ""));
    agent.wait_for("a", "ready");
    let second = agent.cli(&["run"]);
    assert_eq!(second.code, 1, "{second:?}");
    assert!(second.stderr.contains(&agent.pid().to_string()), "{second:?}");
    assert_eq!(agent.state("a"), "ready");
    assert_eq!(agent.run_of("a"), 1);
}

#[test]
fn check_needs_no_agent() {
    let agent = Agent::prepared(As::Me);
    agent.configure(&sample("a", "", ""));
    let config = agent.config();
    let config = config.to_str().unwrap();
    assert_eq!(agent.cli(&["check", config]).code, 0);
    let explained = agent.cli(&["check", "--explain", config]);
    assert_eq!(explained.code, 0);
    assert!(explained.stdout.contains('a'), "{explained:?}");
    agent.configure(&sample("a", "", "requires: [\"a\"]"));
    assert_eq!(agent.cli(&["check", config]).code, 78);
    assert_eq!(agent.cli(&["status"]).code, 5);
}

#[test]
fn run_directory_that_others_can_write_is_refused() {
    let mut agent = Agent::prepared(As::Me);
    agent.configure(&sample("a", "", ""));
    std::fs::create_dir(agent.run_dir()).unwrap();
    std::fs::set_permissions(agent.run_dir(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    agent.spawn(&[]);
    assert_eq!(agent.wait_exit(SOON).code(), Some(1));
}

#[test]
fn verbs_wait_for_their_outcome_unless_told_otherwise() {
    let agent = Agent::running(&sample("a", "--notify --ready-after 500ms", "ready: Notify"));
    agent.wait_for("a", "ready");
    agent.cli_ok(&["restart", "a"]);
    assert_eq!(agent.state("a"), "ready");
    agent.cli_ok(&["restart", "--no-wait", "a"]);
    assert_ne!((agent.state("a").as_str(), agent.run_of("a")), ("ready", 3));
    agent.wait_for("a", "ready");
}

#[test]
fn start_of_what_cannot_start_fails_and_says_why() {
    let agent = Agent::running(&shell("a", "exit 4", "restart: Never"));
    agent.wait_for("a", "failed");
    let ended = agent.cli(&["start", "a"]);
    // exec succeeds, so the start itself may count as done; what it must never do is claim that all is well.
    assert!(ended.code == 1 || agent.cli(&["status"]).code == 3, "{ended:?}");
}

#[test]
fn summary_doctor_and_metrics_answer() {
    let agent = Agent::running(&sample("a", "", ""));
    agent.wait_for("a", "ready");
    let summary = agent.cli_ok(&[]);
    assert!(summary.contains('a') && summary.lines().count() <= 24, "{summary}");
    let metrics = agent.cli_ok(&["metrics"]);
    assert!(metrics.contains("mainstay_service_state{service=\"a\",state=\"ready\"} 1"), "{metrics}");
    assert!(metrics.contains("mainstay_service_restarts_total"), "{metrics}");
    let doctor = agent.cli(&["doctor"]);
    assert!([0, 1, 3].contains(&doctor.code) && doctor.stdout.contains("ok"), "{doctor:?}");
}

#[test]
fn agent_tells_its_own_supervisor() {
    let mut agent = Agent::prepared(As::Me);
    agent.configure(&sample("a", "", ""));
    let path = agent.path("notify.sock");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    agent.spawn(&[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    let mut said = String::new();
    let mut buffer = [0; 4096];
    while !said.contains("READY=1") {
        let count = socket.recv(&mut buffer).expect("READY=1 in time");
        said.push_str(&String::from_utf8_lossy(&buffer[..count]));
        said.push('\n');
    }
    agent.wait_for("a", "ready");
    agent.signal(nix::sys::signal::Signal::SIGTERM);
    while !said.contains("STOPPING=1") {
        let count = socket.recv(&mut buffer).expect("STOPPING=1 in time");
        said.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    assert_eq!(agent.wait_exit(SOON).code(), Some(0));
}
