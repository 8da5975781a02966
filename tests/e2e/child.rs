//! What a service finds: read from /proc, not from what the agent says.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Agent, As, SOON, proc, sample};

fn sleeper(more: &str) -> String {
    format!("(name: \"a\", command: [\"/bin/sleep\", \"1000\"], {more}),\n")
}

const TAGGED: &str = "env: {\"E2E_TAG\": \"$TAG\"}, ";

fn ready_pid(agent: &Agent) -> i32 {
    agent.wait_for("a", "ready");
    agent.service_pid("a").unwrap()
}

#[test]
fn signals_are_neither_blocked_nor_ignored() {
    let agent = Agent::running(&sleeper(TAGGED));
    let pid = ready_pid(&agent);
    for set in ["SigBlk", "SigIgn", "ShdPnd"] {
        assert_eq!(proc::status(pid, set), "0000000000000000", "{set}");
    }
}

#[test]
fn only_the_standard_descriptors_are_open() {
    let agent = Agent::running(&sleeper(TAGGED));
    let descriptors = proc::descriptors(ready_pid(&agent));
    let numbers: Vec<_> = descriptors.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [0, 1, 2], "{descriptors:?}");
    assert_eq!(descriptors[0].1.to_str(), Some("/dev/null"));
    assert!(descriptors[1].1.starts_with(agent.run_dir().join("log")), "{descriptors:?}");
    assert_eq!(descriptors[1].1, descriptors[2].1);
}

#[test]
fn service_leads_a_session_of_its_own_in_a_group_of_its_own() {
    let agent = Agent::running(&sleeper(TAGGED));
    let pid = ready_pid(&agent);
    let stat = proc::stat(pid).unwrap();
    assert_eq!(stat[3], pid.to_string(), "session");
    assert_eq!(stat[4], "0", "no terminal");
    if proc::cgroup_root().is_none() {
        eprintln!("skipped: this user cannot make cgroups here");
        return;
    }
    let group = proc::group_of(pid);
    assert!(group.contains(&agent.tag) && group.ends_with("/a.0"), "{group}");
    assert_ne!(group, proc::group_of(agent.pid()));
}

#[test]
fn limits_and_priorities_are_those_of_the_configuration() {
    let agent = Agent::running(&sleeper(&format!(
        "{TAGGED} rlimits: (nofile: 321, core: 0), oom_score_adj: 321, nice: 3, umask: 0o027, no_new_privileges: true, \
         cwd: \"$DIR\""
    )));
    let pid = ready_pid(&agent);
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let of = |name: &str| -> Vec<String> {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(of("Max open files")[..2], ["321", "321"]);
    assert_eq!(of("Max core file size")[..2], ["0", "0"]);
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim(), "321");
    assert_eq!(proc::stat(pid).unwrap()[16], "3", "nice");
    assert_eq!(proc::status(pid, "Umask"), "0027");
    assert_eq!(proc::status(pid, "NoNewPrivs"), "1");
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), agent.dir);
}

#[test]
fn nothing_of_the_agent_is_inherited_by_default() {
    let agent = Agent::running(&sleeper(TAGGED));
    let pid = ready_pid(&agent);
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim(), "0");
    assert_eq!(proc::status(pid, "Umask"), "0022");
    assert_eq!(proc::status(pid, "NoNewPrivs"), "0");
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));
    let own_limit = fs::read_to_string("/proc/self/limits").unwrap();
    let limit = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let files = |text: &str| text.lines().find(|line| line.starts_with("Max open files")).unwrap().to_owned();
    assert_eq!(files(&limit), files(&own_limit), "the agent raises its own limit, not that of others");
}

#[test]
fn environment_is_clean() {
    let mut agent = Agent::prepared(As::Me);
    agent.configure(&sleeper("env: {\"E2E_TAG\": \"$TAG\", \"WHO\": \"{name}/{replica}\"}"));
    agent.spawn(&[("LEAK", "1"), ("LD_PRELOAD", ""), ("RUST_BACKTRACE", "1")]);
    agent.wait_until("it is ready", SOON, |agent| agent.state("a") == "ready");
    let environment = proc::environment(ready_pid(&agent));
    let names: Vec<_> = environment.iter().map(|pair| pair.split('=').next().unwrap_or_default()).collect();
    for foreign in ["LEAK", "LD_PRELOAD", "RUST_BACKTRACE", "E2E_AGENT", "NOTIFY_SOCKET", "LISTEN_FDS"] {
        assert!(!names.contains(&foreign), "{environment:?}");
    }
    assert!(names.contains(&"PATH"), "{environment:?}");
    assert!(environment.contains(&"WHO=a/0".to_owned()), "{environment:?}");
}

#[test]
fn sockets_are_handed_over_with_the_right_process_number() {
    let port = crate::support::free_ports(1);
    let agent = Agent::running(&sample(
        "a",
        "--listen-fd",
        &format!("listen: [\"tcp:127.0.0.1:{port}\", \"unix:{{service_dir}}/a.sock\"]"),
    ));
    let pid = ready_pid(&agent);
    let environment = proc::environment(pid);
    assert!(environment.contains(&"LISTEN_FDS=2".to_owned()), "{environment:?}");
    assert!(environment.contains(&format!("LISTEN_PID={pid}")), "{environment:?}");
    let descriptors = proc::descriptors(pid);
    let sockets = descriptors.iter().filter(|(number, what)| {
        (3..5).contains(number) && what.to_str().is_some_and(|what| what.starts_with("socket:"))
    });
    assert_eq!(sockets.count(), 2, "{descriptors:?}");
    assert!(agent.run_dir().join("svc/a/a.sock").exists());
}

#[test]
fn user_and_groups_are_dropped_to() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can start services as other users");
        return;
    }
    let agent = Agent::running(&sleeper(&format!("{TAGGED} user: \"nobody\"")));
    let pid = ready_pid(&agent);
    assert_eq!(proc::status(pid, "Uid").split_whitespace().collect::<Vec<_>>(), ["65534"; 4]);
    let gids: Vec<_> = proc::status(pid, "Gid").split_whitespace().map(str::to_owned).collect();
    assert!(gids.iter().all(|gid| gid != "0"), "{gids:?}");
    assert!(proc::status(pid, "Groups").split_whitespace().all(|gid| gid != "0"));
    assert_eq!(proc::status(pid, "CapEff"), "0000000000000000");
    let environment = proc::environment(pid);
    assert!(environment.contains(&"USER=nobody".to_owned()), "{environment:?}");
}

#[test]
fn capabilities_are_exactly_those_asked_for() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can give capabilities");
        return;
    }
    let agent = Agent::running(&sleeper(&format!("{TAGGED} user: \"nobody\", capabilities: [\"NET_BIND_SERVICE\"]")));
    let pid = ready_pid(&agent);
    for set in ["CapEff", "CapPrm", "CapAmb", "CapBnd"] {
        assert_eq!(proc::status(pid, set), "0000000000000400", "{set}");
    }
}

/// The agent keeps its heap from its children once its start is over; nothing that a child needs may lie there.
#[test]
fn child_of_an_agent_at_rest_finds_all_that_the_first_one_found() {
    let long = "x".repeat(20_000);
    let mut agent = Agent::running(&sleeper(&format!(
        "env: {{\"E2E_TAG\": \"$TAG\", \"LONG\": \"{long}\"}}, rlimits: (nofile: 321, core: 0), oom_score_adj: 321, \
         umask: 0o027, cwd: \"$DIR\", backoff: (min: \"0ms\"), listen: [\"unix:{{service_dir}}/a.sock\"]"
    )));
    let first = ready_pid(&agent);
    let kept = |agent: &mut Agent| {
        let maps = fs::read_to_string(format!("/proc/{}/smaps", agent.pid())).unwrap();
        maps.lines().any(|line| line.starts_with("VmFlags:") && line.contains(" dc"))
    };
    agent.wait_until("the heap is kept from children", SOON, kept);
    let looks = |pid: i32| {
        let mut environment = proc::environment(pid);
        environment.retain(|pair| !pair.starts_with("LISTEN_PID="));
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
        (environment, limits, score, cwd, proc::status(pid, "Umask"), proc::descriptors(pid).len())
    };
    let found = looks(first);
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    agent.wait_until("it is back", SOON, |agent| agent.service_pid("a").is_some_and(|pid| pid != first));
    let second = ready_pid(&agent);
    assert_eq!(looks(second), found);
    assert!(proc::environment(second).contains(&format!("LISTEN_PID={second}")));
}
