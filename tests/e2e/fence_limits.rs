//! Limits and walls of the real binary: in force where the host can, told where it cannot.

use std::fs;

use crate::support::{Agent, SOON, shell};

use super::fence::{groups_or_skip, limit_file};

#[test]
fn memory_hog_is_killed_at_its_limit_and_that_is_told() {
    if !groups_or_skip() {
        return;
    }
    let hog = "sleep 0.2; x=0123456789abcdef; while :; do x=$x$x; done";
    let more = "resources: (memory_max: \"32MiB\"), restart: Never";
    let mut agent = Agent::running(&(shell("a", hog, more) + &shell("b", "exec sleep 1000", more)));
    agent.wait_for("b", "ready");
    if limit_file(agent.service_pid("b").unwrap(), "memory", "memory.limit_in_bytes", "memory.max").is_none() {
        return eprintln!("skipped: this host cannot limit memory");
    }
    agent.wait_until("it is gone", SOON, |agent| agent.service_pid("a").is_none());
    agent.wait_until("its end is told", SOON, |agent| !agent.events_of("a", "ended").is_empty());
    let end = &agent.events_of("a", "ended")[0];
    assert!(end.to_string().contains("oom") || end["text"].as_str().unwrap().contains("memory"), "{end}");
    assert_eq!(agent.run_of("b"), 1);
}

#[test]
fn limits_are_in_force_from_the_first_moment_and_follow_a_reload() {
    if !groups_or_skip() {
        return;
    }
    let limits = |cpu: &str| format!("resources: (cpu_max: {cpu:?}, cpu_weight: 50, pids_max: 40)");
    let service = |cpu: &str| shell("a", "cat /proc/self/cgroup; exec sleep 1000", &limits(cpu));
    let mut agent = Agent::running(&service("50%"));
    agent.wait_for("a", "ready");
    let pid = agent.service_pid("a").unwrap();
    let Some(pids) = limit_file(pid, "pids", "pids.max", "pids.max") else {
        return eprintln!("skipped: this host cannot limit processes");
    };
    let quota = limit_file(pid, "cpu", "cpu.cfs_quota_us", "cpu.max").unwrap();
    assert_eq!(fs::read_to_string(&pids).unwrap(), "40\n");
    assert!(fs::read_to_string(&quota).unwrap().starts_with("50000"));
    assert!(agent.events_of("a", "limits_refused").is_empty());
    agent.wait_until("it has said where it is", SOON, |agent| {
        let said = String::from_utf8_lossy(&agent.log_text("a", 0)).into_owned();
        said.lines().filter(|line| line.contains("/a.0")).count() >= 1
    });
    agent.configure(&service("200%"));
    agent.cli_ok(&["reload"]);
    agent.wait_until("the new limit is in force", SOON, |_| {
        fs::read_to_string(&quota).is_ok_and(|now| now.starts_with("200000"))
    });
    // Nothing stays behind.
    agent.cli_ok(&["stop", "a"]);
    agent.wait_until("its groups are gone", SOON, |_| !pids.exists() && !quota.exists());
}

#[test]
fn limit_that_cannot_be_had_is_told_and_a_required_one_is_no_start() {
    if !groups_or_skip() {
        return;
    }
    let limit = "io_max: [(path: \"/proc\", read_bytes: \"1MiB\")]";
    let services = shell("a", "exec sleep 1000", &format!("resources: ({limit})"))
        + &shell("b", "exec sleep 1000", &format!("resources: ({limit}, required: true), restart: Never"));
    let mut agent = Agent::running(&services);
    agent.wait_for("a", "ready");
    agent.wait_until("it is told", SOON, |agent| !agent.events_of("a", "limits_refused").is_empty());
    let told = agent.events_of("a", "limits_refused")[0].to_string();
    assert!(told.contains("/proc is proc, which lies on no block device"), "{told}");
    agent.wait_until("the other one has failed", SOON, |agent| !agent.events_of("b", "start_failed").is_empty());
    let why = agent.events_of("b", "start_failed")[0].to_string();
    assert!(why.contains("resources are required") && why.contains("/proc"), "{why}");
    assert_eq!(agent.service_pid("b"), None);
}

#[test]
fn service_writes_only_where_it_says() {
    let script = "echo mine > {service_dir}/mine; echo data > $DIR/data/new; echo other > $DIR/other; \
                  echo said > /dev/stderr; cat $DIR/readable; mv $DIR/data/new $DIR/data/moved; exec sleep 1000";
    let walled = "can_write: [\"$DIR/data\"], restart: Never";
    let agent = Agent::prepared(crate::support::As::Me);
    fs::create_dir(agent.path("data")).unwrap();
    fs::write(agent.path("readable"), "it was read\n").unwrap();
    let missing = "can_write: [\"$DIR/missing\"], restart: Never";
    agent.configure(&(shell("a", script, walled) + &shell("b", "exec sleep 1000", missing)));
    let mut agent = agent;
    agent.start();
    agent.wait_until("b has failed", SOON, |agent| !agent.events_of("b", "start_failed").is_empty());
    let why = agent.events_of("b", "start_failed")[0].to_string();
    if why.contains("Landlock") {
        return eprintln!("skipped: {why}");
    }
    assert!(why.contains("landlock") && why.contains(agent.path("missing").to_str().unwrap()), "{why}");
    agent.wait_until("it has said all", SOON, |agent| {
        agent.log_text("a", 0).windows(11).any(|text| text == b"it was read")
    });
    agent.wait_until("it has done all", SOON, |agent| agent.path("data/moved").exists());
    assert_eq!(fs::read_to_string(agent.run_dir().join("svc/a/mine")).unwrap(), "mine\n");
    assert!(!agent.path("other").exists());
    let said = String::from_utf8_lossy(&agent.log_text("a", 0)).into_owned();
    assert!(said.contains("Permission denied") && said.lines().any(|line| line.ends_with("said")), "{said}");
}

#[test]
fn exec_probe_stands_behind_the_wall_of_its_service() {
    let agent = Agent::prepared(crate::support::As::Me);
    fs::create_dir(agent.path("data")).unwrap();
    let probe = "echo x > $DIR/data/probed; echo x > $DIR/other || exit 7; exit 0";
    let walled = format!("can_write: [\"$DIR/data\"], restart: Never, ready: Exec([\"/bin/sh\", \"-c\", {probe:?}])");
    agent.configure(&shell("a", "exec sleep 1000", &walled));
    let mut agent = agent;
    agent.start();
    agent.wait_until("it was probed", SOON, |agent| {
        agent.path("data/probed").exists() || !agent.events_of("a", "start_failed").is_empty()
    });
    if !agent.path("data/probed").exists() {
        return eprintln!("skipped: {}", agent.events_of("a", "start_failed")[0]);
    }
    agent.wait_until("its answer is known", SOON, |agent| {
        agent.service("a")["replicas"][0]["why"].to_string().contains("exit code")
    });
    let why = agent.service("a")["replicas"][0]["why"].to_string();
    assert!(why.contains("exit code 7") && !agent.path("other").exists(), "{why}");
}
