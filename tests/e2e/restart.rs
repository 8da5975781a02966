//! Crashes: restarts, back-off, budgets, watchdogs, and what is told of them.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Agent, SOON, free_ports, proc, sample, shell};

#[test]
fn crashed_service_comes_back_and_is_counted() {
    let mut agent = Agent::running(&sample("a", "", "backoff: (min: \"50ms\")"));
    agent.wait_for("a", "ready");
    let first = agent.service_pid("a").unwrap();
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    agent.wait_until("another process took its place", SOON, |agent| {
        agent.service_pid("a").is_some_and(|pid| pid != first) && agent.state("a") == "ready"
    });
    let replica = agent.replica("a", 0);
    assert_eq!(replica["restarts"], 1, "{replica:#}");
    assert_eq!(replica["run"], 2);
    assert_eq!(replica["last_exit"]["signal"], 9);
    assert!(replica["last_exit"]["code"].is_null());
    assert!(!proc::is_alive(first));
}

#[test]
fn exit_code_is_told_and_delays_grow() {
    let mut agent = Agent::running(&sample(
        "a",
        "--crash-after 1ms --exit-code 7",
        "backoff: (min: \"100ms\", max: \"10s\", factor: 3.0, jitter: \"0%\")",
    ));
    agent.wait_until("three runs", SOON, |agent| agent.run_of("a") >= 3);
    assert_eq!(agent.replica("a", 0)["last_exit"]["code"], 7);
    agent.wait_for("a", "backoff");
    let next = agent.replica("a", 0)["next"].clone();
    assert!(next["in_ms"].as_u64().unwrap() <= 10_000, "{next:#}");
    let why = agent.cli(&["why", "a"]).stdout;
    assert!(why.contains("code 7"), "{why}");
}

#[test]
fn success_ends_a_service_that_restarts_on_failure_only() {
    let mut agent = Agent::running(&sample("a", "--exit-after 50ms", "restart: OnFailure"));
    agent.wait_until("it has ended", SOON, |agent| !agent.events_of("a", "ended").is_empty());
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(agent.run_of("a"), 1);
}

#[test]
fn always_restarts_after_success_too_and_never_does_not_restart_at_all() {
    let services = [
        sample("again", "--exit-after 20ms", "restart: Always, backoff: (min: \"10ms\")"),
        sample("never", "--crash-after 20ms", "restart: Never"),
    ];
    let mut agent = Agent::running(&services.concat());
    agent.wait_until("three runs", SOON, |agent| agent.run_of("again") >= 3);
    agent.wait_for("never", "failed");
    assert_eq!(agent.run_of("never"), 1);
}

#[test]
fn program_that_cannot_be_executed_is_explained_by_why() {
    let agent = Agent::prepared(crate::support::As::Me);
    let script = agent.path("broken");
    std::fs::write(&script, "#!/nowhere/interpreter\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    agent.configure(
        "(name: \"a\", command: [\"$DIR/broken\"], env: {\"E2E_TAG\": \"$TAG\"}, backoff: (min: \"10ms\"), \
         budget: (restarts: 2, within: \"10m\"))",
    );
    let mut agent = agent;
    agent.start();
    agent.wait_for("a", "failed");
    let why = agent.cli(&["why", "a"]).stdout;
    assert!(why.contains("execve") && why.contains("No such file"), "{why}");
}

#[test]
fn spent_budget_is_failed_with_the_next_try_shown() {
    let agent = Agent::running(&sample(
        "a",
        "--crash-after 1ms",
        "backoff: (min: \"0ms\"), budget: (restarts: 3, within: \"10m\", hold: \"50s\")",
    ));
    agent.wait_for("a", "failed");
    let replica = agent.replica("a", 0);
    assert_eq!(replica["run"], 4, "one start and three restarts: {replica:#}");
    let next = replica["next"]["in_ms"].as_u64().unwrap();
    assert!((20_000..=50_000).contains(&next), "{replica:#}");
    assert!(replica["pid"].is_null());
    let status = agent.cli(&["status"]);
    assert_eq!(status.code, 3, "{status:?}");
}

#[test]
fn spent_budget_tries_once_more_after_its_hold() {
    let mut agent = Agent::running(&sample(
        "a",
        "--crash-after 1ms",
        "backoff: (min: \"0ms\"), budget: (restarts: 1, within: \"10m\", hold: \"700ms\")",
    ));
    agent.wait_for("a", "failed");
    agent.wait_until("the half-open try", SOON, |agent| agent.run_of("a") == 3);
    agent.wait_for("a", "failed");
    let next = agent.replica("a", 0)["next"]["in_ms"].as_u64().unwrap();
    assert!(next > 700, "the hold doubles: {next}");
}

#[test]
fn budget_that_stays_spent_waits_for_an_operator() {
    let agent = Agent::running(&shell(
        "a",
        "test -e $DIR/mended || exit 1; exec sleep 1000",
        "backoff: (min: \"0ms\"), budget: (restarts: 1, within: \"10m\", hold: \"1s\", then: Stay)",
    ));
    agent.wait_for("a", "failed");
    assert!(agent.replica("a", 0)["next"].is_null());
    std::fs::write(agent.path("mended"), "").unwrap();
    agent.cli_ok(&["start", "a"]);
    assert_eq!(agent.state("a"), "ready");
}

#[test]
fn three_hundred_instant_exits_are_three_hundred_seen() {
    let mut agent = Agent::running(&shell("a", "exit 3", "restart: Always, backoff: (min: \"0ms\"), budget: None"));
    agent.wait_until("300 runs", Duration::from_secs(60), |agent| agent.run_of("a") > 300);
    agent.cli_ok(&["stop", "a"]);
    let runs = agent.run_of("a");
    let ended = agent.events_of("a", "ended");
    let mut seen: Vec<u64> = ended.iter().filter_map(|event| event["detail"]["run"].as_u64()).collect();
    if seen.is_empty() {
        assert_eq!(u64::try_from(ended.len()).unwrap(), runs);
    } else {
        seen.sort_unstable();
        assert_eq!(seen, (1..=runs).collect::<Vec<_>>());
    }
    assert_eq!(agent.replica("a", 0)["restarts"].as_u64().unwrap(), runs - 1);
}

#[test]
fn service_that_no_longer_tells_its_watchdog_is_restarted() {
    let mut agent = Agent::running(&sample(
        "a",
        "--notify --watchdog 100ms --watchdog-stop-after 1s",
        "ready: Notify, watchdog: \"500ms\", backoff: (min: \"10ms\")",
    ));
    agent.wait_for("a", "ready");
    agent.wait_until("the watchdog bit", SOON, |agent| !agent.events_of("a", "watchdog_missed").is_empty());
    agent.wait_until("a second run", SOON, |agent| agent.run_of("a") >= 2);
}

#[test]
fn service_that_fails_its_alive_probe_is_restarted() {
    let port = free_ports(1);
    let mut agent = Agent::running(&sample(
        "a",
        "--listen 127.0.0.1:{port}",
        &format!(
            "port: {port}, ready: Http(\"http://127.0.0.1:{{port}}/healthz\"), backoff: (min: \"10ms\"), \
             alive: (probe: Http(\"http://127.0.0.1:{{port}}/healthz\"), every: \"100ms\", timeout: \"1s\", fall: 3, rise: 1)"
        ),
    ));
    agent.wait_for("a", "ready");
    proc::http_try(port, "/fail").unwrap();
    agent.wait_until("it is restarted", SOON, |agent| agent.run_of("a") == 2 && agent.state("a") == "ready");
    assert_eq!(agent.events_of("a", "not_alive").len(), 1);
    let why = agent.cli(&["events"]).stdout;
    assert!(why.contains("503"), "{why}");
}
