//! What disks, NICs and mounts that fail mean to services, with real ones in namespaces of the test.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::balance::{api, front};
use crate::support::{Agent, As, LoopDisk, SOON, SilentMount, apart, free_ports, proc, run, sample};

/// The tool itself: without it the stories below would show nothing.
#[test]
fn who_asks_a_silent_mount_cannot_be_killed_until_it_is_gone() {
    apart(|| {
        let point = std::env::temp_dir().join(format!("mainstay-silent-{}", std::process::id()));
        let mount = SilentMount::on(&point).unwrap();
        let asking = || -> Child {
            Command::new("stat").arg("-f").arg(&point).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        assert!(asking().wait().unwrap().success());
        mount.fall_silent();
        let mut stuck = asking();
        let pid = i32::try_from(stuck.id()).unwrap();
        until("it waits", || mount.unanswered() == 1);
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        until("it waits for ever", || proc::stat(pid).is_some_and(|fields| fields[0] == "D"));
        assert!(stuck.try_wait().unwrap().is_none());
        drop(mount);
        assert!(!stuck.wait().unwrap().success());
        std::fs::remove_dir(&point).unwrap();
    });
}

#[test]
fn service_on_a_failing_file_system_leaves_its_balancer_and_is_neither_killed_nor_started_again() {
    apart(|| {
        let mut agent = Agent::prepared(As::Me);
        let Some(disk) = loop_disk(&agent) else { return };
        let port = free_ports(4);
        let services = api(port, 1, "", "data: [\"$DIR/data\"]") + &sample("elsewhere", "", "");
        let lists = format!("balancers: [\n{}\n],\n{}{}", front(port, ""), filesystem_check(), alert());
        agent.configure_with(&services, &lists);
        agent.start();
        agent.wait_up("front", 1);
        agent.wait_for("elsewhere", "ready");
        agent.wait_until("the check is well", SOON, |agent| check(agent, "data")["state"] == "ok");
        let (pid, innocent) = (agent.service_pid("api"), agent.service_pid("elsewhere"));

        // The check is well with its first reading; its helper begins to wait for errors after it has written there once.
        agent.wait_until("its helper has written", SOON, |agent| agent.path("data/.mainstay-canary").exists());
        std::thread::sleep(Duration::from_millis(300));

        let broken = Instant::now();
        disk.find_an_error();
        agent.wait_until("the check fails", SOON, |agent| check(agent, "data")["state"] == "failing");
        // Told by the kernel, not found at the next reading.
        assert!(broken.elapsed() < Duration::from_secs(3), "{:?}", broken.elapsed());
        agent.wait_until("it gets no connections", SOON, |agent| agent.backend("front", "api/0")["standing"] != "up");
        assert_eq!((agent.service_pid("api"), agent.run_of("api")), (pid, 1), "it runs on");
        assert_eq!(agent.service_pid("elsewhere"), innocent);
        let why = agent.cli_ok(&["why", "api"]);
        // The kernel tells it in its log, with the device, and by fanotify, with an error number: whichever comes first is the reason.
        let reason = why.contains(&disk.device) || why.contains("EUCLEAN");
        assert!(why.contains("data") && reason, "{why}");
        agent.wait_until("the alert has come", SOON, |agent| !told(agent).is_empty());
        let alert = &told(&agent)[0];
        assert_eq!(alert["event"], "failing");
        assert!(alert["at"].as_str().unwrap().ends_with('Z') && alert["text"].is_string(), "{alert}");
        assert!(alert["services"].to_string().contains("api"), "{alert}");

        kill(Pid::from_raw(pid.unwrap()), Signal::SIGKILL).unwrap();
        agent.wait_until("its end is seen", SOON, |agent| agent.service_pid("api").is_none());
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(agent.run_of("api"), 1, "it is not started on a broken disk");
        // What is known of the disk outlives the agent.
        agent.kill();
        agent.start();
        agent.wait_until("the next agent knows it", SOON, |agent| check(agent, "data")["state"] == "failing");
        assert_eq!(agent.run_of("api"), 1);
        agent.cli_ok(&["restart", "elsewhere"]);
    });
}

#[test]
fn service_that_is_to_be_frozen_while_its_disk_fails_stays_so_over_the_death_of_the_agent_and_can_be_stopped() {
    apart(|| {
        let mut agent = Agent::prepared(As::Me);
        let Some(disk) = loop_disk(&agent) else { return };
        if proc::cgroup_root().is_none() {
            return println!("skipped: no groups can be made here");
        }
        let services = sample("db", "", "data: [\"$DIR/data\"], on_disk_failing: Freeze");
        agent.configure_with(&services, &filesystem_check());
        agent.start();
        agent.wait_for("db", "ready");
        agent.wait_until("the check is well", SOON, |agent| check(agent, "data")["state"] == "ok");
        let pid = agent.service_pid("db").unwrap();
        let freezer = || {
            let group = proc::group_of(pid);
            fs::read_to_string(format!("{}{group}/cgroup.freeze", proc::cgroup_root().unwrap().display())).unwrap()
        };
        assert_eq!(freezer().trim(), "0");
        disk.find_an_error();
        agent.wait_until("it is frozen", SOON, |_| freezer().trim() == "1");
        for _ in 0..2 {
            agent.kill();
            agent.start();
            agent.wait_until("the next agent has adopted it", SOON, |agent| agent.service_pid("db") == Some(pid));
            assert_eq!(freezer().trim(), "1");
        }
        agent.cli_ok(&["stop", "db"]);
        assert!(!proc::is_alive(pid), "what is to end is thawed");
    });
}

/// The helpers of disks of this agent that live, by pid.
fn helpers(agent: &Agent) -> Vec<i32> {
    let ours = agent.run_dir().to_string_lossy().into_owned();
    let is_helper = |pid: &i32| {
        let line = proc::command_line(*pid);
        line.contains("role disk") && line.contains(&ours)
    };
    proc::all().filter(|pid| proc::is_alive(*pid) && is_helper(pid)).collect()
}

/// The longest that the agent takes to answer.
fn slowest_answer(agent: &Agent) -> Duration {
    let ask = |_| {
        let asked = Instant::now();
        assert_eq!(agent.get("/v1/services").status, 200);
        asked.elapsed()
    };
    (0..100).map(ask).max().unwrap()
}

#[test]
fn mount_that_never_answers_costs_one_process_and_nobody_else_anything() {
    apart(|| {
        let mut agent = Agent::prepared(As::Me);
        let mount = SilentMount::on(&agent.path("mnt")).unwrap();
        let services = sample("stuck", "", "data: [\"$DIR/mnt\"]") + &sample("free", "", "");
        let lists = "checks: [(name: \"mnt\", check: DiskSpace(path: \"$DIR/mnt\"), every: \"1s\")],\n";
        agent.configure_with(&services, lists);
        agent.start();
        agent.wait_for("free", "ready");
        agent.wait_until("its room is known", SOON, |agent| check(agent, "mnt")["state"] == "ok");
        let helper = helpers(&agent);
        assert_eq!(helper.len(), 1);

        mount.fall_silent();
        until("the helper waits", || mount.unanswered() > 0);
        agent.wait_until("it is not known any more", SOON, |agent| check(agent, "mnt")["state"] != "ok");
        // A hundred answers in a row within what one stall would take.
        assert!(slowest_answer(&agent) < Duration::from_secs(1));
        let pid = agent.service_pid("free");
        agent.cli_ok(&["restart", "free"]);
        assert!(agent.service_pid("free") != pid);

        let mut descriptors = Vec::new();
        for _ in 0..3 {
            agent.kill();
            agent.start();
            agent.wait_for("free", "ready");
            assert!(slowest_answer(&agent) < Duration::from_secs(1));
            assert_eq!(helpers(&agent), helper, "no second one beside the one that waits");
            descriptors.push(proc::descriptors(agent.pid()).len());
        }
        assert!(descriptors[2] <= descriptors[0], "{descriptors:?}: {:?}", proc::descriptors(agent.pid()));

        // An ordered end does not wait for it either.
        let began = Instant::now();
        agent.signal(Signal::SIGTERM);
        agent.wait_exit(SOON);
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        assert_eq!(helpers(&agent), helper);
        let said = fs::read_to_string(agent.path("agent.log")).unwrap();
        assert!(said.contains("is not gone") && said.contains("left to the next agent"), "{said}");
        agent.start();
        agent.wait_for("free", "ready");
        assert_eq!(helpers(&agent), helper);

        drop(mount);
        until("the helper has gone with its mount", || !proc::is_alive(helper[0]));
        agent.signal(Signal::SIGTERM);
        assert_eq!(agent.wait_exit(SOON).code(), Some(0));
        until("nothing is left", || agent.survivors().is_empty() && helpers(&agent).is_empty());
    });
}

#[test]
fn service_whose_nic_has_no_carrier_gets_no_connections_until_it_has() {
    apart(|| {
        run("ip", &["link", "add", "mst0", "type", "veth", "peer", "name", "mst1"]).unwrap();
        run("ip", &["link", "set", "mst0", "up"]).unwrap();
        run("ip", &["link", "set", "mst1", "up"]).unwrap();
        let mut agent = Agent::prepared(As::Me);
        let port = free_ports(4);
        let lists = format!(
            "balancers: [\n{}\n],\nchecks: [(name: \"link\", check: NicLink(nic: \"mst0\"), every: \"2s\")],\n",
            front(port, "")
        );
        agent.configure_with(&api(port, 1, "", "nics: [\"mst0\"]"), &lists);
        agent.start();
        agent.wait_up("front", 1);
        agent.wait_until("the link is well", SOON, |agent| check(agent, "link")["state"] == "ok");
        let pid = agent.service_pid("api");
        run("ip", &["link", "set", "mst1", "down"]).unwrap();
        agent.wait_until("the link fails", SOON, |agent| check(agent, "link")["state"] == "failing");
        agent.wait_until("no connections", SOON, |agent| agent.backend("front", "api/0")["standing"] != "up");
        run("ip", &["link", "set", "mst1", "up"]).unwrap();
        // What was bad counts as bad for a minute.
        agent.wait_until("the link is well again", 5 * SOON, |agent| check(agent, "link")["state"] == "ok");
        agent.wait_up("front", 1);
        assert_eq!((agent.service_pid("api"), agent.run_of("api")), (pid, 1));
    });
}

#[test]
fn all_checks_at_once_without_an_agent_do_not_wait_for_a_mount_that_never_answers() {
    apart(|| {
        let agent = Agent::prepared(As::Me);
        let mount = SilentMount::on(&agent.path("mnt")).unwrap();
        agent.configure_with("", "checks: [(name: \"mnt\", check: DiskSpace(path: \"$DIR/mnt\"))],\n");
        let once = || {
            let began = Instant::now();
            let ended = agent.cli(&["checks", "--once", "-o", "json"]);
            let all: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
            let found = all["checks"].as_array().unwrap().iter().find(|check| check["name"] == "mnt").cloned();
            let alarms = |check: &Value| check["state"] == "degraded" || check["state"] == "failing";
            // Of the machine that runs the tests nothing is known beforehand.
            let well = !all["checks"].as_array().unwrap().iter().any(alarms);
            assert_eq!(ended.code, if well { 0 } else { 3 }, "{all}");
            (found.unwrap_or_else(|| panic!("{all}")), began.elapsed())
        };
        let (well, _) = once();
        assert_eq!(well["state"], "ok", "{well}");
        mount.fall_silent();
        let (silent, took) = once();
        assert_eq!(silent["state"], "unknown", "{silent}");
        assert!(silent["why"].as_str().unwrap().contains("no answer within 5s"), "{silent}");
        assert!(took < Duration::from_secs(12), "{took:?}");
    });
}

#[expect(clippy::print_stdout, reason = "a test says that it is skipped, and why")]
fn loop_disk(agent: &Agent) -> Option<LoopDisk> {
    LoopDisk::on(&agent.path("data")).map_err(|why| println!("skipped: {why}")).ok()
}

fn filesystem_check() -> String {
    "checks: [(name: \"data\", check: Filesystem(path: \"$DIR/data\"))],\n".to_owned()
}

fn alert() -> String {
    let exec = "exec: [\"/bin/sh\", \"-c\", \"cat >> $DIR/told\"], user: \"root\"";
    format!("alerts: [({exec}, on: [Failing, Recovered])],\n")
}

/// What the alert's command was given.
fn told(agent: &Agent) -> Vec<Value> {
    let text = fs::read_to_string(agent.path("told")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// One check as the API tells it; null when there is none.
fn check(agent: &Agent, name: &str) -> Value {
    let all = agent.try_get("/v1/checks").filter(|answer| answer.status == 200).map(|answer| answer.json());
    let all = all.unwrap_or_default();
    let found = all["checks"].as_array().and_then(|all| all.iter().find(|check| check["name"] == name));
    found.cloned().unwrap_or(Value::Null)
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
