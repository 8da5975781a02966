//! Services that behave badly toward their supervisor.

use std::time::Duration;

use crate::support::{Agent, As, SOON, proc, sample, shell};

/// Stops the service and sees that nothing of it is left.
fn ends_completely(agent: &Agent) {
    agent.cli_ok(&["stop", "a"]);
    assert_eq!(agent.state("a"), "stopped");
    assert_eq!(agent.survivors(), []);
}

#[test]
fn process_that_forks_for_ever_is_caught() {
    if proc::cgroup_root().is_none() {
        eprintln!("skipped: without cgroups a process that forks for ever may outrun its hunter");
        return;
    }
    let mut agent = Agent::running(&sample("a", "--refork", "stop: (timeout: \"500ms\")"));
    agent.wait_for("a", "ready");
    agent.wait_until("it forks", SOON, |agent| !agent.processes_with("--stage refork").is_empty());
    ends_completely(&agent);
}

#[test]
fn what_a_crashed_service_left_behind_is_gone_before_the_next_run() {
    let mut agent = Agent::running(&sample("a", "--fork-child --crash-after 300ms", "backoff: (min: \"10ms\")"));
    agent.wait_until("the third run", SOON, |agent| agent.run_of("a") >= 3);
    agent.cli_ok(&["stop", "a"]);
    assert_eq!(agent.survivors(), []);
}

#[test]
fn closed_output_is_no_end() {
    let agent = Agent::running(&sample("a", "--close-stdout", ""));
    agent.wait_for("a", "ready");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(agent.state("a"), "ready");
    assert_eq!(agent.run_of("a"), 1);
    ends_completely(&agent);
}

#[test]
fn flood_stops_nobody_else() {
    let services = [sample("a", "--flood 100000000", ""), shell("b", "exec sleep 1000", "")];
    let agent = Agent::running(&services.concat());
    agent.wait_for("b", "ready");
    agent.cli_ok(&["restart", "b"]);
    agent.cli_ok(&["stop", "a"]);
    assert!(agent.processes_with("--flood").is_empty());
}

#[test]
fn hoarder_of_descriptors_reaches_its_own_limit_only() {
    let mut agent = Agent::running(&sample("a", "--hoard-fds 100000", "rlimits: (nofile: 256)"));
    agent.wait_for("a", "ready");
    let pid = agent.service_pid("a").unwrap();
    agent.wait_until("it has all it may have", SOON, |_| {
        let held = proc::descriptors(pid).len();
        assert!(held <= 256, "{held}");
        held >= 200
    });
    agent.cli_ok(&["restart", "a"]);
    ends_completely(&agent);
}

#[test]
fn stopped_process_can_be_stopped_for_good() {
    let mut agent = Agent::running(&sample("a", "--notify --stop-self", "ready: Notify, stop: (timeout: \"1s\")"));
    agent.wait_for("a", "ready");
    let pid = agent.service_pid("a").unwrap();
    agent.wait_until("it has stopped itself", SOON, |_| proc::stat(pid).is_some_and(|fields| fields[0] == "T"));
    ends_completely(&agent);
}

#[test]
fn stopped_process_fails_its_watchdog() {
    let mut agent = Agent::running(&sample(
        "a",
        "--notify --watchdog 100ms --stop-self",
        "ready: Notify, watchdog: \"500ms\", backoff: (min: \"10ms\"), stop: (timeout: \"500ms\")",
    ));
    agent.wait_until("a second run", SOON, |agent| agent.run_of("a") >= 2);
}

#[test]
fn foreign_datagrams_do_no_harm() {
    let agent = Agent::running(&shell(
        "a",
        "i=0; while [ $i -lt 200 ]; do head -c 3000 /dev/urandom; i=$((i+1)); done | cat > /dev/null; exec sleep 1000",
        "ready: Notify, start_timeout: \"60s\", env: {\"E2E_TAG\": \"$TAG\"}",
    ));
    let mut agent = agent;
    let mut socket = None;
    // Before its exec the child has the environment of the agent.
    agent.wait_until("it runs and has its environment", SOON, |agent| {
        let environment = agent.service_pid("a").map(proc::environment).unwrap_or_default();
        socket = environment.into_iter().find_map(|pair| pair.strip_prefix("NOTIFY_SOCKET=").map(str::to_owned));
        socket.is_some()
    });
    let socket = socket.unwrap();
    let sender = std::os::unix::net::UnixDatagram::unbound().unwrap();
    for text in [&b"\0\0\0"[..], b"READY=maybe", b"MAINPID=1", b"MAINPID=99999999", &[0xff; 4096], b"", b"=\n=\n="] {
        sender.send_to(text, &socket).unwrap();
    }
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(agent.state("a"), "starting");
    assert!(proc::is_alive(1));
    ends_completely(&agent);
}

#[test]
fn hundred_services_killed_at_once_are_all_back() {
    let services: String =
        (0..100).map(|index| shell(&format!("s{index}"), "exec sleep 1000", "backoff: (min: \"0ms\")")).collect();
    let mut agent = Agent::running_as(As::Me, &services);
    let all_ready = |agent: &mut Agent| {
        let all = agent.get("/v1/services").json();
        all["services"].as_array().unwrap().iter().filter(|service| service["state"] == "ready").count() == 100
    };
    agent.wait_until("all are ready", SOON, all_ready);
    let first = agent.processes_with("sleep 1000");
    assert_eq!(first.len(), 100);
    for pid in &first {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    agent.wait_until("another hundred runs", SOON, |agent| {
        let now = agent.processes_with("sleep 1000");
        now.len() == 100 && now.iter().all(|pid| !first.contains(pid))
    });
    agent.wait_until("all are ready", SOON, all_ready);
    assert!((0..100).all(|index| agent.replica(&format!("s{index}"), 0)["restarts"] == 1));
}
