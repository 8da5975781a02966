//! What an agent makes of what an earlier one left.

use std::fs;
use std::process::{Child, Command};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::{Agent, As, SOON, proc, sample};

/// The file as it is when an operator's mistake is found only at the next start.
const MISTAKE: &str = "restart: Sometimes";

#[test]
fn agent_whose_file_has_become_invalid_goes_on_with_the_plan_of_the_earlier_one() {
    let mut agent = Agent::running(&[sample("a", "", ""), sample("b", "", "")].concat());
    agent.wait_for("a", "ready");
    agent.wait_for("b", "ready");
    agent.cli_ok(&["stop", "b"]);
    let pid = agent.service_pid("a");
    let last = agent.events().last().unwrap()["seq"].as_u64().unwrap();
    agent.kill();
    agent.configure(&sample("a", "", MISTAKE));
    agent.start();

    agent.wait_for("a", "ready");
    assert_eq!(agent.service_pid("a"), pid);
    assert_eq!(agent.run_of("a"), 1);
    assert_eq!(agent.state("b"), "stopped", "what an operator stopped stays stopped");
    let said = fs::read_to_string(agent.path("agent.log")).unwrap();
    assert!(said.contains("going on with the plan of the earlier agent") && said.contains("Sometimes"), "{said}");
    agent.wait_until("the journal says it", SOON, |agent| {
        agent.events().iter().any(|event| event["text"].to_string().contains("the plan of the earlier agent"))
    });
    let numbers: Vec<_> = agent.events().iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]) && numbers.last() > Some(&last), "{numbers:?}");
    assert!(agent.cli_ok(&["metrics"]).contains("mainstay_config_last_load_success 0"), "a monitor sees it too");

    kill(Pid::from_raw(pid.unwrap()), Signal::SIGKILL).unwrap();
    agent.wait_until("it is supervised as before", SOON, |agent| agent.run_of("a") == 2 && agent.state("a") == "ready");
    assert_eq!(agent.cli(&["reload"]).code, 78);
    agent.configure(&[sample("a", "", ""), sample("b", "", ""), sample("c", "", "")].concat());
    agent.cli_ok(&["reload"]);
    agent.wait_for("c", "ready");
    assert_eq!(agent.state("b"), "stopped");
    assert!(agent.cli_ok(&["metrics"]).contains("mainstay_config_last_load_success 1"));
}

#[test]
fn decision_of_before_a_reboot_holds_although_the_file_has_become_invalid() {
    let mut agent = Agent::running(&[sample("a", "", ""), sample("b", "", "")].concat());
    agent.wait_for("b", "ready");
    agent.cli_ok(&["stop", "b"]);
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.wait_exit(SOON).code(), Some(0));
    // What a reboot does to a tmpfs.
    fs::remove_dir_all(agent.run_dir()).unwrap();
    agent.start();
    agent.wait_for("a", "ready");
    assert_eq!(agent.state("b"), "stopped");
    agent.kill();
    agent.configure(&sample("a", "", MISTAKE));
    agent.start();
    agent.wait_for("a", "ready");
    assert_eq!(agent.state("b"), "stopped");
}

#[test]
fn agent_after_a_clean_stop_has_nothing_to_go_on_with() {
    let mut agent = Agent::running(&sample("a", "", ""));
    agent.wait_for("a", "ready");
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.wait_exit(SOON).code(), Some(0));
    agent.configure(&sample("a", "", MISTAKE));
    agent.spawn(&[]);
    assert_eq!(agent.wait_exit(SOON).code(), Some(78));
}

/// A process of somebody else, ended with the test.
struct Stranger(Child);

impl Stranger {
    fn new() -> Self {
        Self(Command::new("/bin/sleep").arg("1000").spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn record(agent: &Agent) -> (std::path::PathBuf, Value) {
    let path = agent.run_dir().join("state/a.0.json");
    let record = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    (path, record)
}

/// The agent and its service die, a stranger gets the number of the service, and the next agent comes.
fn reuse_pid(who: As, change: impl Fn(&mut Value, &Stranger)) {
    let mut agent = Agent::running_as(who, &sample("a", "", "backoff: (min: \"0ms\")"));
    agent.wait_for("a", "ready");
    let pid = agent.service_pid("a").unwrap();
    agent.kill();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    agent.wait_until("the service is gone", SOON, |_| !proc::is_alive(pid));
    let mut stranger = Stranger::new();
    let (path, mut record) = record(&agent);
    assert_eq!(record["process"]["pid"], pid);
    record["process"]["pid"] = stranger.pid().into();
    change(&mut record["process"], &stranger);
    fs::write(&path, record.to_string()).unwrap();

    agent.start();
    agent.wait_until("a new run", SOON, |agent| agent.run_of("a") == 2 && agent.state("a") == "ready");
    assert_ne!(agent.service_pid("a"), Some(stranger.pid()));
    agent.cli_ok(&["restart", "a"]);
    agent.cli_ok(&["stop", "a"]);
    assert!(stranger.0.try_wait().unwrap().is_none(), "nobody touched the stranger");
}

#[test]
fn process_that_got_the_number_of_a_service_is_left_alone() {
    reuse_pid(As::Me, |_, _| {});
}

#[test]
fn process_that_got_the_number_of_a_service_is_left_alone_without_cgroups_too() {
    reuse_pid(As::MeWithoutGroups, |_, _| {});
}

#[test]
fn process_of_the_same_number_and_start_time_is_told_apart_by_its_pidfd() {
    for who in [As::Me, As::MeWithoutGroups] {
        let agent = Agent::running_as(who, &sample("a", "", ""));
        agent.wait_for("a", "ready");
        if record(&agent).1["process"]["pidfd_inode"].is_null() {
            eprintln!("skipped: this kernel has no unique inodes of pidfds (6.9 has)");
            return;
        }
        drop(agent);
        reuse_pid(who, |process, stranger| {
            let fields = proc::stat(stranger.pid()).unwrap();
            process["start_ticks"] = fields[22 - 3].parse::<u64>().unwrap().into();
        });
    }
}

#[test]
fn lock_that_a_child_of_a_dead_agent_still_holds_is_waited_for() {
    let mut agent = Agent::running(&sample("a", "", ""));
    agent.wait_for("a", "ready");
    agent.kill();
    // As a child does between its birth and the closing of what it inherited.
    let file = fs::File::open(agent.run_dir().join("lock")).unwrap();
    let held = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap();
    agent.spawn(&[]);
    std::thread::sleep(Duration::from_millis(300));
    assert!(agent.ended().is_none(), "it waits");
    drop(held);
    agent.wait_for("a", "ready");
    assert_eq!(agent.run_of("a"), 1);
}

#[test]
fn recording_of_a_flight_leads_to_the_same_actions_again() {
    let services = [
        sample("a", "--notify --ready-after 20ms", "ready: Notify"),
        sample(
            "b",
            "--crash-after 30ms",
            "requires: [\"a\"], backoff: (min: \"10ms\"), budget: (restarts: 3, within: \"1m\")",
        ),
    ];
    let mut agent = Agent::running(&services.concat());
    agent.wait_for("a", "ready");
    agent.wait_for("b", "failed");
    agent.cli_ok(&["restart", "a"]);
    agent.configure(&sample("a", "--notify --ready-after 20ms", "ready: Notify, restart: Always"));
    agent.cli_ok(&["reload"]);
    agent.cli_ok(&["stop", "a"]);
    let replay = |agent: &Agent, name: &str| {
        let flight = agent.run_dir().join(name);
        let ended = agent.cli(&["replay", flight.to_str().unwrap()]);
        assert_eq!(ended.code, 0, "{ended:?}");
        ended
    };
    let ended = replay(&agent, "flight.ndjson");
    for sentence in ["service a: ready", "service b: exited with code 1", "service a: stopped"] {
        assert!(ended.stdout.contains(sentence), "{sentence}: {}", ended.stdout);
    }
    assert!(!ended.stderr.starts_with("0 steps"), "{}", ended.stderr);
    // The next agent's begins with what it found; the earlier one's is kept.
    agent.kill();
    agent.start();
    agent.wait_for("a", "stopped");
    replay(&agent, "flight.ndjson");
    replay(&agent, "flight.1.ndjson");
}

#[test]
fn adopted_service_has_its_notify_socket_at_its_next_start_although_the_logs_role_stands_still() {
    let mut agent = Agent::running(&sample("a", "--notify", "ready: Notify"));
    agent.wait_for("a", "ready");
    agent.kill();
    agent.start();
    agent.wait_for("a", "ready");
    // It keeps a copy of the socket until it hears that the agent needs it no more.
    let keeper = agent.service_pid("@logs").unwrap();
    proc::halt(keeper);
    let restarted = agent.cli(&["restart", "a"]);
    kill(Pid::from_raw(keeper), Signal::SIGCONT).unwrap();
    assert_eq!(restarted.code, 0, "{restarted:?}");
    assert_eq!(agent.replica("a", 0)["run"], 2);
}
