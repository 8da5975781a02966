//! The agent dies at each step of a restore of a service's data. The next one goes on: the data are the old or the new, never half, and the service runs.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::{Agent, As, SOON, shell};

/// A restart of the agent, a restore and its proof, or three failed starts and the way back, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
const FILES: [&str; 3] = ["version", "below/version", "below/other"];

fn write(agent: &Agent, version: &str) {
    fs::create_dir_all(agent.path("data/below")).unwrap();
    for file in FILES {
        fs::write(agent.path("data").join(file), version).unwrap();
    }
}

/// The version of all files, which must be one. They are read in one directory, whatever has its name by the time of the second.
fn version(agent: &Agent) -> String {
    // On the way back there is a moment without any.
    let Ok(data) = fs::File::open(agent.path("data")) else { return String::new() };
    let opened = PathBuf::from(format!("/proc/self/fd/{}", data.as_raw_fd()));
    let read = |file| fs::read_to_string(opened.join(file)).unwrap_or_default();
    let version = read(FILES[0]);
    for file in FILES {
        assert_eq!(read(file), version, "{file} is of another version");
    }
    version
}

fn is_over(agent: &Agent) -> bool {
    let decisions = fs::read_to_string(agent.path("state/decisions.json")).unwrap_or_default();
    !decisions.contains("restore")
}

/// There is a copy of the version `copied`, and `now` lies there; the service does not run on `bad`.
fn prepared(copied: &str, now: &str) -> Agent {
    let agent = Agent::prepared(As::Me);
    write(&agent, copied);
    fs::create_dir(agent.path("to")).unwrap();
    let script = "grep -q bad $DIR/data/version && exit 1; exec sleep 1000";
    let more = "data: [\"$DIR/data\"], backoff: (min: \"10ms\"), budget: None";
    let sets = "copies: [(name: \"d\", from: [\"$DIR/data\"], to: \"$DIR/to\", same_disk: true)],\n";
    agent.configure_with(&shell("a", script, more), sets);
    agent.cli_ok(&["copies", "init", "d"]);
    agent.cli_ok(&["copies", "run", "d"]);
    write(&agent, now);
    agent
}

fn die_at(agent: &mut Agent, point: &str) {
    agent.spawn(&[("MAINSTAY_CRASH_POINT", point)]);
    agent.wait_until("its set is looked at", PATIENCE, |agent| {
        agent.cli(&["copies", "list", "d", "-o", "json"]).stdout.contains("\"ready\"")
            && agent.cli(&["status", "a"]).stdout.contains("ready")
    });
    let mut restore = agent.cli_command(&["copies", "restore", "--service", "a"]).spawn().unwrap();
    agent.wait_until(&format!("death at {point}"), PATIENCE, |agent| {
        agent.ended().is_some_and(|status| {
            assert_eq!(status.signal(), Some(9), "{point}: {status}");
            true
        })
    });
    // Whatever it answers: there is nobody who could know better.
    let _ = restore.wait().unwrap();
}

fn survive(copied: &str, steps: std::ops::RangeInclusive<u32>, expected: &[&str]) {
    if !cfg!(any(debug_assertions, feature = "crash-points")) {
        eprintln!("skipped: this build has no crash points");
        return;
    }
    for step in steps {
        let point = format!("restore_step:{step}");
        let mut agent = prepared(copied, "two");
        die_at(&mut agent, &point);
        let at_death = version(&agent);
        assert!([copied, "two"].contains(&at_death.as_str()), "{point}: {at_death}");
        agent.start();
        agent.wait_until(&format!("{point}: the restore is over"), PATIENCE, |agent| {
            version(agent);
            is_over(agent) && agent.state("a") == "ready"
        });
        let now = version(&agent);
        assert!(expected.contains(&now.as_str()), "{point}: {now}");
        agent.wait_until("one process", SOON, |agent| agent.service_pid("a").is_some());
    }
}

#[test]
fn agent_that_dies_while_data_is_restored_leaves_it_to_the_next() {
    // At the first point nothing is decided yet.
    survive("one", 1..=1, &["one", "two"]);
    survive("one", 2..=4, &["one"]);
}

#[test]
fn agent_that_dies_while_data_is_put_back_leaves_that_to_the_next() {
    survive("bad", 4..=7, &["two"]);
}
