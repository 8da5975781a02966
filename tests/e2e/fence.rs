//! Fences of the real binary on real trees: what must be gone is gone, what must stand still does, and all of it ends again.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Agent, As, SOON, proc, sample, shell};

/// Says why not, where fences cannot be tested.
#[expect(clippy::print_stderr, reason = "what is skipped is said")]
pub(crate) fn groups_or_skip() -> bool {
    let there = proc::cgroup_root().is_some();
    if !there {
        eprintln!("skipped: no cgroups that this user may make");
    }
    there
}

/// A file of the group that limits a service's main process; `None` where this host cannot.
pub(crate) fn limit_file(pid: i32, hierarchy: &str, v1: &str, v2: &str) -> Option<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let group = |controller: &str| {
        groups.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            controllers.split(',').any(|one| one == controller).then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let unified = proc::cgroup_root()?.join(group("")?).join(v2);
    if unified.exists() {
        return Some(unified);
    }
    let file = PathBuf::from("/sys/fs/cgroup").join(hierarchy).join(group(hierarchy)?).join(v1);
    file.exists().then_some(file)
}

fn number_of(text: &str, key: &str) -> u64 {
    let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok());
    found.unwrap_or_default()
}

/// The evidence of the newest fence.
fn evidence(agent: &Agent) -> Value {
    let all = agent.get("/v1/fences").json();
    let ids = ["fences", "records"].into_iter().flat_map(|list| all[list].as_array().cloned().unwrap_or_default());
    let newest = ids.filter_map(|fence| fence["id"].as_u64()).max().unwrap_or_else(|| panic!("no fence in {all}"));
    agent.get(&format!("/v1/fences/records/{newest}")).json()
}

fn step<'a>(evidence: &'a Value, level: &str) -> &'a Value {
    let steps = evidence["steps"].as_array().unwrap();
    steps.iter().find(|step| step["level"] == level).unwrap_or_else(|| panic!("no {level} in {evidence}"))
}

/// Fences with a kill, and sees that nothing is left.
fn killed_completely(agent: &Agent) -> Value {
    agent.cli_ok(&["fence", "a", "--level", "kill", "--why", "test"]);
    assert_eq!(agent.survivors(), []);
    assert_eq!(agent.state("a"), "held");
    let evidence = evidence(agent);
    assert_eq!(evidence["state"], "proven", "{evidence}");
    let kill = step(&evidence, "kill");
    assert_eq!((&kill["method"], &kill["processes_after"]), (&Value::from("cgroup.kill"), &Value::from(0)), "{kill}");
    assert!(kill["processes_before"].as_u64().unwrap() > 0 && kill["proven_after_us"].is_u64(), "{kill}");
    evidence
}

#[test]
fn fork_bomb_stays_within_its_processes_and_a_kill_leaves_none_of_it() {
    if !groups_or_skip() {
        return;
    }
    let bomb = "f() { f | f & }; f 2>/dev/null; while :; do sleep 1; done";
    let mut agent = Agent::running(&shell("a", bomb, "resources: (pids_max: 60)"));
    agent.wait_for("a", "ready");
    let pid = agent.service_pid("a").unwrap();
    match limit_file(pid, "pids", "pids.events", "pids.events") {
        Some(events) => agent.wait_until("it meets its limit", SOON, |_| {
            number_of(&fs::read_to_string(&events).unwrap_or_default(), "max") > 0
        }),
        None => return eprintln!("skipped: this host cannot limit processes"),
    }
    assert!(agent.survivors().len() <= 60);
    killed_completely(&agent);
    // Started again by whoever lifts the fence.
    agent.cli_ok(&["unfence", "a"]);
    agent.wait_for("a", "ready");
    assert_eq!(agent.run_of("a"), 2);
}

#[test]
fn who_left_its_parent_its_session_and_ignores_signals_is_killed_with_the_rest() {
    if !groups_or_skip() {
        return;
    }
    let escape = "trap '' TERM HUP INT; (setsid sh -c 'trap \"\" TERM; (env -i setsid sleep 1000 &); sleep 1000' &) ; \
                  (sleep 1000 & exec sleep 1000) & while :; do sleep 1; done";
    let mut agent = Agent::running(&(shell("a", escape, "") + &sample("b", "--fork-child", "")));
    agent.wait_until("all are there", SOON, |agent| agent.processes_with("sleep 1000").len() >= 3);
    agent.wait_for("b", "ready");
    let group = PathBuf::from(proc::group_of(agent.service_pid("a").unwrap()));
    let procs = proc::cgroup_root().unwrap().join(group.strip_prefix("/").unwrap()).join("cgroup.procs");
    // The one with an empty environment is seen only here.
    let members: Vec<i32> = fs::read_to_string(&procs).unwrap().lines().map(|pid| pid.parse().unwrap()).collect();
    assert!(members.len() >= 5, "{members:?}");
    agent.cli_ok(&["fence", "b", "--level", "kill"]);
    killed_completely(&agent);
    assert!(members.iter().all(|pid| !proc::is_alive(*pid)), "{members:?}");
    assert!(!agent.processes_with("fork-child").into_iter().any(proc::is_alive));
}

#[test]
fn frozen_service_stands_still_until_it_is_thawed_whatever_becomes_of_the_agent() {
    if !groups_or_skip() {
        return;
    }
    let mut agent = Agent::running(&shell("a", "while :; do echo x >> $DIR/ticks; sleep 0.02; done", ""));
    let ticks = agent.path("ticks");
    let count = || fs::metadata(&ticks).map_or(0, |ticks| ticks.len());
    let grows = |agent: &mut Agent| {
        let before = count();
        agent.wait_until("it runs", SOON, |_| count() > before);
    };
    grows(&mut agent);
    agent.cli_ok(&["fence", "a", "--level", "freeze", "--why", "look"]);
    let proof = evidence(&agent);
    assert_eq!(
        (&proof["state"], &step(&proof, "freeze")["method"]),
        (&"proven".into(), &"cgroup.freeze".into()),
        "{proof}"
    );
    let pid = agent.service_pid("a");
    let still = count();
    agent.kill();
    agent.start();
    agent.wait_until("the next agent has it", SOON, |agent| agent.service_pid("a") == pid);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!((count(), agent.state("a").as_str(), agent.run_of("a")), (still, "frozen", 1));
    agent.cli_ok(&["unfence", "a"]);
    grows(&mut agent);
    assert_eq!((agent.service_pid("a"), agent.state("a").as_str()), (pid, "ready"));
    // Stopping what stands still thaws it first: it ends by its signal, not by a kill.
    agent.cli_ok(&["fence", "a", "--level", "freeze"]);
    let began = Instant::now();
    agent.cli_ok(&["stop", "a"]);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!(agent.survivors(), []);
}

#[test]
fn throttled_service_gets_its_share_of_the_cpu_and_all_of_it_afterwards() {
    if !groups_or_skip() {
        return;
    }
    let burner = "while :; do :; done";
    let more = "fence: (ladder: [Throttle(cpu_max: \"10%\"), Kill])";
    let mut agent = Agent::running(&shell("a", burner, more));
    agent.wait_for("a", "ready");
    let pid = agent.service_pid("a").unwrap();
    let fenced = agent.cli(&["fence", "a", "--level", "throttle"]);
    let Some(quota) = limit_file(pid, "cpu", "cpu.cfs_quota_us", "cpu.max").filter(|_| fenced.code == 0) else {
        return eprintln!("skipped: this host cannot limit CPUs: {}", fenced.stderr);
    };
    assert!(fs::read_to_string(&quota).unwrap().starts_with("10000"));
    assert_eq!(agent.state("a"), "throttled");
    let proof = evidence(&agent);
    assert_eq!(proof["state"], "proven", "{proof}");
    let stat = quota.with_file_name("cpu.stat");
    let throttled = || number_of(&fs::read_to_string(&stat).unwrap(), "nr_throttled");
    let before = throttled();
    agent.wait_until("it is held back", SOON, |_| throttled() > before);
    // The next agent lifts what an earlier one has set.
    agent.kill();
    agent.start();
    agent.wait_until("the next agent has it", SOON, |agent| agent.state("a") == "throttled");
    agent.cli_ok(&["unfence", "a"]);
    agent.wait_until("it is free", SOON, |_| {
        let quota = fs::read_to_string(&quota).unwrap();
        quota.starts_with("-1") || quota.starts_with("max")
    });
    assert_eq!((agent.service_pid("a"), agent.state("a").as_str()), (Some(pid), "ready"));
}

#[test]
fn agent_that_dies_while_it_kills_is_followed_by_one_that_knows_of_the_fence_or_can_set_it_anew() {
    if !groups_or_skip() {
        return;
    }
    let crowd = "trap '' TERM; i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i+1)); done; wait";
    for delay_ms in [0, 5, 30] {
        let mut agent = Agent::running(&shell("a", crowd, "stop: (timeout: \"500ms\")"));
        agent.wait_until("all are there", SOON, |agent| agent.processes_with("sleep 1000").len() >= 100);
        let mut asking = agent.cli_command(&["fence", "a", "--level", "kill"]);
        let mut asking = asking.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay_ms));
        agent.kill();
        asking.wait().unwrap();
        agent.start();
        agent.cli_ok(&["fence", "a", "--level", "kill"]);
        assert_eq!((agent.state("a").as_str(), agent.survivors()), ("held", Vec::new()), "{delay_ms}");
        agent.cli_ok(&["unfence", "a"]);
        agent.wait_for("a", "ready");
    }
}

#[test]
fn without_groups_a_fence_finds_its_tree_and_kills_it() {
    let script = "trap '' TERM; (setsid sh -c 'trap \"\" TERM; sleep 1000' &); sleep 1000 & while :; do sleep 1; done";
    let mut agent = Agent::running_as(As::MeWithoutGroups, &shell("a", script, ""));
    agent.wait_until("all are there", SOON, |agent| agent.processes_with("sleep 1000").len() >= 2);
    // Nothing could prove that all of it stands still.
    let ended = agent.cli(&["fence", "a", "--level", "freeze"]);
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("this host has no freezer"), "{ended:?}");
    agent.cli_ok(&["fence", "a", "--level", "kill"]);
    assert_eq!((agent.state("a").as_str(), agent.survivors()), ("held", Vec::new()));
    assert!(step(&evidence(&agent), "kill")["method"].as_str().unwrap().contains("process tree"));
}
