//! A service that holds still for its copy goes on, whoever dies meanwhile.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::copies::{configure, running, set};
use crate::support::{Agent, SOON, proc, shell};

/// From the death of whoever held it to the service going on. Half of it would be the agent that is started again.
const GOES_ON: Duration = Duration::from_secs(5);

/// A service that works without an end, with a file that takes minutes to be read: a hole, open for writing and written to. Where the source shares pages,
/// nothing of this can be seen.
#[expect(clippy::print_stderr, reason = "what is skipped is said")]
fn at_work(how: &str) -> Option<Agent> {
    if proc::cgroup_root().is_none() {
        eprintln!("skipped: no cgroup2 to freeze in");
        return None;
    }
    let script = "truncate -s 30G $DIR/src/hole; exec 3<>$DIR/src/hole; \
                  while :; do echo x >&3; echo x >> $DIR/ticks; sleep 0.02; done";
    let agent = running(&shell("a", script, ""), how);
    agent.wait_for("a", "ready");
    Some(agent)
}

fn group(agent: &Agent) -> PathBuf {
    let pid = agent.service_pid("a").unwrap();
    proc::cgroup_root().unwrap().join(proc::group_of(pid).trim_start_matches('/'))
}

fn is_frozen(group: &std::path::Path) -> bool {
    fs::read_to_string(group.join("cgroup.events")).unwrap().contains("frozen 1")
}

/// Begins a copy, and waits until the service stands still for it.
fn freeze(agent: &mut Agent) -> PathBuf {
    agent.post("/v1/copies/d/run", "{\"wait\":false}");
    let group = group(agent);
    agent.wait_until("it stands still", SOON, |_| is_frozen(&group));
    group
}

fn goes_on(agent: &mut Agent, group: &std::path::Path) {
    agent.wait_until("it goes on", GOES_ON, |_| !is_frozen(group));
    let ticks = agent.path("ticks");
    let count = || fs::metadata(&ticks).unwrap().len();
    let before = count();
    agent.wait_until("it works", SOON, |_| count() > before);
}

const LONG: &str = "quiesce: Freeze(\"a\", max: \"50s\")";

#[test]
fn death_of_the_agent_lets_the_service_go_on_before_there_is_another() {
    let Some(mut agent) = at_work(LONG) else { return };
    let pid = agent.service_pid("a");
    let group = freeze(&mut agent);
    agent.kill();
    let began = Instant::now();
    while is_frozen(&group) {
        assert!(began.elapsed() < GOES_ON, "the role does not thaw it");
        std::thread::sleep(Duration::from_millis(5));
    }
    agent.start();
    agent.wait_until("the next agent has it", SOON, |agent| agent.service_pid("a") == pid);
    goes_on(&mut agent, &group);
}

#[test]
fn death_of_the_role_lets_the_service_go_on() {
    let Some(mut agent) = at_work(LONG) else { return };
    let group = freeze(&mut agent);
    let role = agent.service_pid("@copy.d").unwrap();
    kill(Pid::from_raw(role), Signal::SIGKILL).unwrap();
    goes_on(&mut agent, &group);
    assert_eq!(agent.state("a"), "ready");
}

#[test]
fn when_both_die_the_next_agent_lets_the_service_go_on() {
    let Some(mut agent) = at_work(LONG) else { return };
    let group = freeze(&mut agent);
    let role = Pid::from_raw(agent.service_pid("@copy.d").unwrap());
    // So that it cannot thaw anything between the two.
    kill(role, Signal::SIGSTOP).unwrap();
    agent.kill();
    kill(role, Signal::SIGKILL).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(is_frozen(&group), "nobody is there who could have thawed it");
    agent.start();
    goes_on(&mut agent, &group);
}

#[test]
fn service_that_holds_still_for_too_long_goes_on_and_the_copy_says_so() {
    let Some(mut agent) = at_work("quiesce: Freeze(\"a\", max: \"300ms\")") else { return };
    let began = Instant::now();
    let group = freeze(&mut agent);
    goes_on(&mut agent, &group);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let said = agent.cli_ok(&["events", "-n", "50"]);
    assert!(said.contains("had to go on"), "{said}");
}

#[test]
fn stopping_a_service_does_not_wait_for_its_copy() {
    let Some(mut agent) = at_work(LONG) else { return };
    freeze(&mut agent);
    let began = Instant::now();
    agent.cli_ok(&["stop", "a"]);
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    assert_eq!(agent.state("a"), "stopped");
}

#[test]
fn what_a_fence_froze_during_a_copy_stays_frozen_when_the_role_dies() {
    let Some(mut agent) = at_work(LONG) else { return };
    let group = freeze(&mut agent);
    agent.cli_ok(&["fence", "a", "--level", "freeze", "--why", "test"]);
    let role = agent.service_pid("@copy.d").unwrap();
    kill(Pid::from_raw(role), Signal::SIGKILL).unwrap();
    agent.wait_until("another role", SOON, |agent| agent.service_pid("@copy.d").is_some_and(|pid| pid != role));
    assert!(is_frozen(&group));
    agent.cli_ok(&["unfence", "a"]);
    goes_on(&mut agent, &group);
}

#[test]
fn what_was_to_be_run_after_a_copy_is_run_by_the_next_agent() {
    let hooks =
        "quiesce: Exec(pre: [\"sh\", \"-c\", \"touch $DIR/pre; exec sleep 1000\"], post: [\"touch\", \"$DIR/post\"])";
    let mut agent = running("", hooks);
    agent.post("/v1/copies/d/run", "{\"wait\":false}");
    let (pre, post) = (agent.path("pre"), agent.path("post"));
    agent.wait_until("the command before it runs", SOON, |_| pre.exists());
    agent.kill();
    assert!(!post.exists());
    agent.start();
    agent.wait_until("the command after it has run", SOON, |_| post.exists());
    agent.wait_until("nothing is left", SOON, |agent| agent.processes_with("sleep 1000").is_empty());
    // Once.
    fs::remove_file(&post).unwrap();
    configure(&agent, "", hooks);
    agent.cli_ok(&["reload"]);
    assert_eq!(set(&agent)["target"]["state"], "ready");
    assert!(!post.exists());
}
