//! Ends: of one service with its whole tree, and of the agent in its different ways.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Agent, As, SOON, proc, sample, shell};

fn nasty_tree(more: &str) -> String {
    // Ready means that its signals are in its hands.
    sample("a", "--notify --ignore-term --fork-child", &format!("ready: Notify, stop: (timeout: \"500ms\"){more}"))
}

fn stopping_leaves_nobody(who: As) {
    let services = [nasty_tree(""), sample("other", "", "")];
    let mut agent = Agent::running_as(who, &services.concat());
    agent.wait_for("a", "ready");
    agent.wait_until("the runaway is there", SOON, |agent| !agent.processes_with("--stage grandchild").is_empty());
    let runaway = agent.processes_with("--stage grandchild")[0];
    let main = agent.service_pid("a").unwrap();
    assert_ne!(proc::stat(runaway).unwrap()[3], proc::stat(main).unwrap()[3], "it has a session of its own");
    agent.cli_ok(&["stop", "a"]);
    assert_eq!(agent.state("a"), "stopped");
    assert!(!proc::is_alive(main) && !proc::is_alive(runaway));
    let survivors = agent.survivors();
    assert_eq!(survivors.len(), 1, "only the other service is left: {survivors:?}");
    assert!(proc::is_alive(agent.service_pid("other").unwrap()));
}

#[test]
fn stop_ends_the_whole_tree() {
    stopping_leaves_nobody(As::Me);
}

#[test]
fn stop_ends_the_whole_tree_without_cgroups_too() {
    stopping_leaves_nobody(As::MeWithoutGroups);
}

#[test]
fn service_has_its_time_to_stop() {
    let service = sample("a", "--notify --slow-stop 700ms --last-words bye", "ready: Notify, stop: (timeout: \"10s\")");
    let agent = Agent::running(&service);
    agent.wait_for("a", "ready");
    let began = Instant::now();
    agent.cli_ok(&["stop", "a"]);
    assert!(began.elapsed() >= Duration::from_millis(700));
    assert!(began.elapsed() < Duration::from_secs(8));
    assert_eq!(agent.replica("a", 0)["last_exit"]["code"], 0);
    assert!(agent.cli_ok(&["logs", "a"]).contains("bye"));
}

#[test]
fn service_may_be_stopped_by_another_signal() {
    let script = "trap 'echo got INT; exit 0' INT; echo armed; while :; do sleep 0.05; done";
    let agent = Agent::running(&shell("a", script, "ready: Log(\"armed\"), stop: (signal: \"INT\")"));
    agent.wait_for("a", "ready");
    agent.cli_ok(&["stop", "a"]);
    assert!(agent.cli_ok(&["logs", "a"]).contains("got INT"));
}

#[test]
fn stopped_service_stays_stopped_over_an_agent_restart() {
    let services = [sample("a", "", ""), sample("b", "", "")];
    let mut agent = Agent::running(&services.concat());
    agent.wait_for("a", "ready");
    agent.wait_for("b", "ready");
    agent.cli_ok(&["stop", "a"]);
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.wait_exit(SOON).code(), Some(0));
    // What a reboot leaves: the state directory only.
    std::fs::remove_dir_all(agent.run_dir()).unwrap();
    agent.start();
    agent.wait_for("b", "ready");
    assert_eq!(agent.state("a"), "stopped");
    assert_eq!(agent.cli(&["status"]).code, 0, "what is not wanted is not wrong");
    agent.cli_ok(&["start", "a"]);
    assert_eq!(agent.state("a"), "ready");
}

#[test]
fn term_stops_everything_in_reverse_order() {
    let services = [
        sample("db", "--notify", "ready: Notify"),
        sample("api", "--notify --slow-stop 300ms", "ready: Notify, requires: [\"db\"]"),
        nasty_tree(", after: [\"db\"]"),
    ];
    let mut agent = Agent::running(&services.concat());
    agent.wait_for("api", "ready");
    agent.wait_for("a", "ready");
    let db = agent.service_pid("db").unwrap();
    let api = agent.service_pid("api").unwrap();
    agent.signal(Signal::SIGTERM);
    let deadline = Instant::now() + SOON;
    while proc::is_alive(api) {
        assert!(proc::is_alive(db), "what others require is stopped last");
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(agent.wait_exit(SOON).code(), Some(0));
    assert_eq!(agent.survivors(), []);
    let group = proc::cgroup_root().map(|root| root.join(format!("mainstay-{}", agent.tag)));
    if let Some(group) = group.filter(|group| group.is_dir()) {
        let below = std::fs::read_dir(&group).unwrap().flatten().filter(|entry| entry.path().is_dir()).count();
        assert_eq!(below, 0, "no group of a service is left in {}", group.display());
    }
}

#[test]
fn second_term_kills_at_once() {
    let mut agent = Agent::running(&sample("a", "--notify --ignore-term", "ready: Notify, stop: (timeout: \"60s\")"));
    agent.wait_for("a", "ready");
    let began = Instant::now();
    agent.signal(Signal::SIGTERM);
    agent.wait_until("it is stopping", SOON, |agent| agent.state("a") == "stopping");
    agent.signal(Signal::SIGTERM);
    agent.wait_exit(SOON);
    assert!(began.elapsed() < Duration::from_secs(15));
    assert_eq!(agent.survivors(), []);
}

#[test]
fn quit_leaves_the_services_to_the_next_agent() {
    let mut agent = Agent::running(&sample("a", "--say tick-{n} --say-every 50ms", ""));
    agent.wait_for("a", "ready");
    let pid = agent.service_pid("a").unwrap();
    agent.signal(Signal::SIGQUIT);
    assert_eq!(agent.wait_exit(SOON).code(), Some(0));
    assert!(proc::is_alive(pid));
    agent.start();
    agent.wait_for("a", "ready");
    let replica = agent.replica("a", 0);
    assert_eq!(replica["pid"], pid, "the same process, adopted: {replica:#}");
    assert_eq!(replica["run"], 1);
    assert_eq!(replica["restarts"], 0);
    assert_eq!(agent.events_of("a", "adopted").len(), 1);
}

#[test]
fn service_that_ended_while_no_agent_lived_is_started_again() {
    let mut agent = Agent::running(&sample("a", "", "backoff: (min: \"10ms\")"));
    agent.wait_for("a", "ready");
    let pid = agent.service_pid("a").unwrap();
    agent.kill();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    agent.start();
    agent.wait_until("another process took its place", SOON, |agent| {
        agent.service_pid("a").is_some_and(|now| now != pid) && agent.state("a") == "ready"
    });
    assert_eq!(agent.replica("a", 0)["restarts"], 1);
}
