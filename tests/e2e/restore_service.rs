//! The data of a service from a copy, through the real binary: exchanged, proven, put back.

use std::fs;

use crate::support::{Agent, As, SOON, shell};

fn write(agent: &Agent, version: &str) {
    fs::create_dir_all(agent.path("data/below")).unwrap();
    fs::write(agent.path("data/version"), version).unwrap();
    fs::write(agent.path("data/below/version"), version).unwrap();
}

fn version(agent: &Agent) -> String {
    let version = fs::read_to_string(agent.path("data/version")).unwrap();
    assert_eq!(fs::read_to_string(agent.path("data/below/version")).unwrap(), version);
    version
}

/// A service that runs on the version `two` and not on `bad`, with a verified copy of `copied`.
fn running(copied: &str) -> Agent {
    let mut agent = Agent::prepared(As::Me);
    write(&agent, copied);
    fs::create_dir(agent.path("to")).unwrap();
    let script = "grep -q bad $DIR/data/version && exit 1; exec sleep 1000";
    let more = "data: [\"$DIR/data\"], backoff: (min: \"10ms\"), budget: None";
    let services = [shell("a", script, more), shell("other", "exec sleep 1000", "")].concat();
    let sets = "copies: [(name: \"d\", from: [\"$DIR/data\"], to: \"$DIR/to\", same_disk: true)],\n";
    agent.configure_with(&services, sets);
    agent.cli_ok(&["copies", "init", "d"]);
    agent.cli_ok(&["copies", "run", "d"]);
    agent.cli_ok(&["copies", "verify", "d"]);
    write(&agent, "two");
    agent.start();
    agent.wait_until("its set is looked at", SOON, |agent| {
        agent.get("/v1/copies").json()["copies"][0]["target"]["state"] == "ready"
    });
    agent.wait_for("a", "ready");
    agent
}

#[test]
fn service_gets_its_data_from_a_copy_and_goes_on() {
    let agent = running("one");
    let run = agent.run_of("a");
    let said = agent.cli_ok(&["copies", "restore", "--service", "a", "--dry-run"]);
    assert!(said.contains("copies d, copy 1") && said.contains("version"), "{said}");
    assert_eq!((version(&agent).as_str(), agent.run_of("a")), ("two", run));
    let said = agent.cli_ok(&["copies", "restore", "--service", "a"]);
    assert!(said.contains("copy 1 of d") && said.contains("it is ready"), "{said}");
    assert_eq!((version(&agent).as_str(), agent.run_of("a")), ("one", run + 1));
    let kept = said.lines().find_map(|line| line.strip_prefix("kept what was there: ")).unwrap();
    assert_eq!(fs::read_to_string(std::path::Path::new(kept).join("below/version")).unwrap(), "two");
    assert!(!agent.path(".data.mainstay-restore").exists(), "nothing else stays");
    let events = agent.cli_ok(&["events", "-n", "100"]);
    assert!(events.contains("is asked for by") && events.contains("its data is restored"), "{events}");
}

#[test]
fn data_that_it_does_not_become_ready_with_is_exchanged_back() {
    let agent = running("bad");
    let ended = agent.cli(&["copies", "restore", "--service", "a"]);
    assert_ne!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.contains("did not become ready") && ended.stderr.contains("is back"), "{ended:?}");
    assert_eq!(version(&agent), "two");
    agent.wait_for("a", "ready");
    let aside = fs::read_dir(agent.path("")).unwrap().flatten();
    let aside = aside.map(|entry| entry.path()).find(|path| path.to_string_lossy().contains(".data.failed-")).unwrap();
    assert_eq!(fs::read_to_string(aside.join("version")).unwrap(), "bad");
}

#[test]
fn service_that_is_stopped_stays_so_and_one_without_data_is_refused() {
    let agent = running("one");
    agent.cli_ok(&["stop", "a"]);
    let said = agent.cli_ok(&["copies", "restore", "--service", "a", "1"]);
    assert!(said.contains("stays stopped"), "{said}");
    assert_eq!((version(&agent).as_str(), agent.state("a").as_str()), ("one", "stopped"));
    for (arguments, why) in [
        (["--service", "other"].as_slice(), "declares no `data`"),
        (&["--service", "nobody"], "no service \"nobody\""),
        (&["--service", "a", "7"], "has no copy 7"),
        (&["--service", "a", "--replace"], "--service says where to"),
    ] {
        let ended = agent.cli(&[&["copies", "restore"], arguments].concat());
        assert_ne!(ended.code, 0, "{ended:?}");
        assert!(ended.stderr.contains(why), "{ended:?}");
    }
}
