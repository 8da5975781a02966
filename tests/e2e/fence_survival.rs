//! The agent answers while one of its services takes all it can get.

use std::time::{Duration, Instant};

use crate::support::{Agent, SOON, proc, sample, shell};

use super::fence::groups_or_skip;

/// Answers that are asked for.
const ASKED: usize = 40;
/// What at least three of four have to keep to, on a machine that other tests use too.
const AT_ONCE: Duration = Duration::from_millis(100);

/// It answers, and a neighbour is restarted meanwhile.
#[track_caller]
fn answers(agent: &Agent, what: &str) {
    let mut times: Vec<Duration> = (0..ASKED)
        .map(|_| {
            let began = Instant::now();
            assert_eq!(agent.get("/v1/services").status, 200);
            began.elapsed()
        })
        .collect();
    times.sort();
    assert!(times[ASKED * 3 / 4] < AT_ONCE, "{what}: {times:?}");
    agent.cli_ok(&["restart", "neighbour"]);
}

fn neighbour() -> String {
    shell("neighbour", "exec sleep 1000", "")
}

#[test]
fn agent_answers_beside_a_fork_bomb_and_ends_it() {
    if !groups_or_skip() {
        return;
    }
    // Bounded by itself where nothing else does: each shell forks three times, four deep.
    let bomb = "f() { [ $1 -eq 0 ] && exec sleep 1000; for i in 1 2 3; do f $(($1 - 1)) & done; wait; }; while :; do f 4; done";
    let mut agent = Agent::running(&(shell("a", bomb, "resources: (pids_max: 300)") + &neighbour()));
    agent.wait_for("neighbour", "ready");
    agent.wait_until("it is large", SOON, |agent| agent.survivors().len() > 60);
    answers(&agent, "fork bomb");
    agent.cli_ok(&["fence", "a", "--level", "kill"]);
    assert!(agent.processes_with("sleep 1000").len() <= 1);
}

#[test]
fn agent_answers_beside_a_memory_hog_that_dies_again_and_again() {
    if !groups_or_skip() {
        return;
    }
    let hog = "x=0123456789abcdef; while :; do x=$x$x; [ ${#x} -gt 200000000 ] && exit 1; done";
    let more = "resources: (memory_max: \"64MiB\"), budget: None, backoff: (min: \"10ms\", max: \"50ms\")";
    let mut agent = Agent::running(&(shell("a", hog, more) + &neighbour()));
    agent.wait_for("neighbour", "ready");
    agent.wait_until("it has died", SOON, |agent| agent.run_of("a") >= 3);
    answers(&agent, "memory hog");
    let score = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", agent.pid())).unwrap();
    let of_service = agent.service_pid("neighbour").unwrap();
    let service_score = std::fs::read_to_string(format!("/proc/{of_service}/oom_score_adj")).unwrap();
    match std::fs::read_to_string(agent.path("agent.log"))
        .unwrap()
        .contains("cannot protect itself from the OOM killer")
    {
        false => assert_eq!((score.trim(), service_score.trim()), ("-900", "0")),
        true => eprintln!("skipped: this user, or this machine, does not let it protect itself from the OOM killer"),
    }
}

#[test]
fn agent_answers_beside_a_hoarder_of_descriptors() {
    let mut agent = Agent::running(&(sample("a", "--hoard-fds 100000", "rlimits: (nofile: 20000)") + &neighbour()));
    agent.wait_for("a", "ready");
    agent.wait_for("neighbour", "ready");
    let pid = agent.service_pid("a").unwrap();
    agent.wait_until("it has all it may have", SOON, |_| proc::descriptors(pid).len() > 10_000);
    answers(&agent, "descriptors");
}

#[test]
fn agent_answers_beside_a_flood_of_lines() {
    let mut agent = Agent::running(&(sample("a", "--flood 1000000000", "") + &neighbour()));
    agent.wait_for("neighbour", "ready");
    agent.wait_until("it floods", SOON, |agent| agent.log_text("a", 0).len() > 100_000);
    answers(&agent, "flood");
}
