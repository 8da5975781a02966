//! The agent dies at a named point of its own code, at its first, second ... passage: in the middle of a start, of an exit, of a
//! record. Whatever the point, the next agent finds every service once, and can stop it.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use crate::support::{Agent, As, SOON, sample};

/// The first passages are those of the roles, later ones of services.
const PASSAGES: [u32; 5] = [1, 2, 3, 4, 7];

fn services() -> String {
    [
        sample("a", "--notify --ready-after 20ms", "ready: Notify"),
        sample("b", "--fork-child", "after: [\"a\"], stop: (timeout: \"500ms\")"),
        sample("crasher", "--crash-after 50ms", "restart: Always, backoff: (min: \"10ms\"), budget: None"),
    ]
    .concat()
}

/// Starts an agent that is to die there, and gives it things to do until it has.
fn die_at(agent: &mut Agent, point: &str, passage: u32) {
    agent.spawn(&[("MAINSTAY_CRASH_POINT", &format!("{point}:{passage}"))]);
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(status) = agent.ended() {
            assert_eq!(status.signal(), Some(9), "{point}:{passage}: {status}");
            return;
        }
        assert!(Instant::now() < deadline, "{point}:{passage} was never passed");
        // No answer while it starts or dies: that is what this is about.
        let _ = agent.cli(&["restart", "--no-wait", "a"]);
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn survive(who: As, point: &str) {
    if !cfg!(any(debug_assertions, feature = "crash-points")) {
        eprintln!("skipped: this build has no crash points");
        return;
    }
    for passage in PASSAGES {
        let mut agent = Agent::prepared(who);
        agent.configure(&services());
        die_at(&mut agent, point, passage);
        agent.start();
        for name in ["a", "b"] {
            agent.wait_for(name, "ready");
            let pid = agent.service_pid(name).unwrap();
            // For a moment its children look like itself: between their fork and their exec.
            agent.wait_until(&format!("{point}:{passage}: {name} runs once"), SOON, |agent| {
                agent.processes_with(&format!("--name {name} ")) == [pid]
            });
        }
        agent.wait_until("a runaway of one run of b only", SOON, |agent| {
            agent.processes_with("--stage grandchild").len() == 1
        });
        let before = agent.run_of("crasher");
        agent.wait_until("the crasher comes back", SOON, |agent| agent.run_of("crasher") > before + 1);
        assert!(agent.processes_with("--name crasher ").len() <= 1, "{point}:{passage}");
        for name in ["crasher", "b", "a"] {
            agent.cli_ok(&["stop", name]);
        }
        assert_eq!(agent.survivors(), [], "{point}:{passage}");
    }
}

#[test]
fn before_the_record() {
    survive(As::Me, "before_record");
}

#[test]
fn after_the_record() {
    survive(As::Me, "after_record");
}

#[test]
fn after_the_clone() {
    survive(As::Me, "after_clone");
}

#[test]
fn after_the_clone_without_cgroups() {
    survive(As::MeWithoutGroups, "after_clone");
}

#[test]
fn after_the_gate() {
    survive(As::Me, "after_gate");
}

#[test]
fn after_the_gate_without_cgroups() {
    survive(As::MeWithoutGroups, "after_gate");
}

#[test]
fn after_an_exit() {
    survive(As::Me, "after_exit");
}

#[test]
fn before_the_release() {
    survive(As::Me, "before_release");
}
