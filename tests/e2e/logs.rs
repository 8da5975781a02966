//! Output of services, the journal, and the chain of causes.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::support::{Agent, SOON, head, sample, shell};

#[test]
fn last_line_of_a_crash_is_there_even_without_its_newline() {
    let services = [
        sample("exits", "--crash-after 50ms --last-words out-of-cheese", "restart: Never"),
        sample("dies", "--crash-after 50ms --signal SEGV --last-words redo-from-start", "restart: Never"),
    ];
    let mut agent = Agent::running(&services.concat());
    for (name, words) in [("exits", "out-of-cheese"), ("dies", "redo-from-start")] {
        agent.wait_for(name, "failed");
        agent.wait_until("the last words are in the log", SOON, |agent| agent.cli_ok(&["logs", name]).contains(words));
        agent.wait_until("why shows them", SOON, |agent| agent.cli(&["why", name]).stdout.contains(words));
    }
    let why = agent.cli(&["why", "dies"]).stdout;
    assert!(why.contains("SIGSEGV"), "{why}");
    let public = agent.raw("read.sock", &head("GET", "/v1/services/dies/why", "")).body;
    assert!(public.contains("SIGSEGV") && !public.contains("redo-from-start"), "{public}");
}

#[test]
fn number_of_lines_can_be_chosen_and_lines_come_in_order() {
    let mut agent = Agent::running(&sample("a", "--flood 1000 --never-ready", ""));
    agent.wait_until("all lines are there", SOON, |agent| {
        agent.cli_ok(&["logs", "-n", "1", "a"]).contains("a 0000001000 ")
    });
    let text = agent.cli_ok(&["logs", "-n", "5", "a"]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 5, "{text}");
    for (line, number) in lines.iter().zip(996..) {
        assert!(line.contains(&format!("a {number:010} ")), "{line}");
    }
}

#[test]
fn both_output_streams_and_foreign_bytes_are_kept() {
    let mut agent =
        Agent::running(&shell("a", "echo to stdout; echo to stderr >&2; printf 'bad \\377 byte\\n'", "kind: Oneshot"));
    agent.wait_until("all three lines are there", SOON, |agent| {
        let text = agent.cli_ok(&["logs", "a"]);
        text.contains("to stdout") && text.contains("to stderr") && text.contains("byte")
    });
    let file = agent.log_text("a", 0);
    assert!(file.windows(5).any(|five| five == b"bad \xff"), "bytes are stored as they came");
}

#[test]
fn logs_of_several_services_are_prefixed() {
    let services = [sample("one", "--say hello", ""), sample("two", "--say there", "")];
    let mut agent = Agent::running(&services.concat());
    agent.wait_until("both spoke", SOON, |agent| {
        let text = agent.cli_ok(&["logs", "one", "two"]);
        let has = |name: &str, word: &str| text.lines().any(|line| line.contains(name) && line.contains(word));
        has("one", "hello") && has("two", "there")
    });
}

#[test]
fn following_logs_shows_new_lines_as_they_come() {
    let agent = Agent::running(&sample("a", "--say tick-{n}. --say-every 100ms", ""));
    agent.wait_for("a", "ready");
    let mut command = agent.cli_command(&["logs", "-f", "-n", "0", "a"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    // It says that it is ready, too.
    let mut numbers = BufReader::new(child.stdout.take().unwrap()).lines().filter_map(|line| {
        let line = line.unwrap();
        let rest = line.split("tick-").nth(1)?;
        Some(rest.split('.').next().unwrap_or_default().parse::<u32>().unwrap())
    });
    let first = numbers.next().unwrap();
    for expected in first + 1..first + 10 {
        assert_eq!(numbers.next(), Some(expected));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn follower_is_served_over_the_socket_too() {
    let agent = Agent::running(&sample("a", "--say tick-{n}. --say-every 50ms", ""));
    let mut follower = agent.follow("/v1/services/a/logs?follow=1");
    let lines = follower.lines_until("tick-5.");
    let line: serde_json::Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    assert_eq!(line["service"], "a");
    assert_eq!(line["replica"], 0);
    assert_eq!(line["line"], "tick-5.");
    assert!(line["at"].as_str().unwrap().ends_with('Z'), "{line}");
}

#[test]
fn log_files_rotate_and_no_more_than_wanted_are_kept() {
    let mut agent = Agent::running(&sample("a", "--flood 20000", "logs: (max_size: \"256KiB\", keep: 2)"));
    agent.wait_until("all lines are written", SOON, |agent| {
        String::from_utf8_lossy(&agent.log_text("a", 0)).contains("a 0000020000 ")
    });
    let files = std::fs::read_dir(agent.path("log")).unwrap().flatten();
    let of_a: Vec<_> = files.filter(|entry| entry.file_name().to_string_lossy().starts_with("a.0.log")).collect();
    assert_eq!(of_a.len(), 3, "{of_a:?}");
    for file in of_a {
        assert!(file.metadata().unwrap().len() <= (256 << 10) + (64 << 10), "{file:?}");
    }
}

#[test]
fn rate_guard_drops_are_counted() {
    let mut agent = Agent::running(&sample("a", "--flood 50000", "logs: (lines_per_second: 100)"));
    agent.wait_until("drops are in the journal", SOON, |agent| !agent.events_of("a", "lines_dropped").is_empty());
}

#[test]
fn journal_tells_what_happened_and_can_be_followed() {
    let mut agent = Agent::running(&sample("a", "--crash-after 300ms --exit-code 9", "backoff: (min: \"10ms\")"));
    let mut follower = agent.follow("/v1/events?follow=1");
    let lines = follower.lines_until("code 9");
    let events: Vec<serde_json::Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let numbers: Vec<_> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    let ended = events.last().unwrap();
    assert_eq!(ended["service"], "a");
    assert_eq!(ended["type"], "ended");
    agent.wait_until("the command tells it too", SOON, |agent| agent.cli_ok(&["events"]).contains("code 9"));
}

#[test]
fn journal_is_kept_over_an_agent_restart_and_goes_on_counting() {
    let mut agent = Agent::running(&sample("a", "", ""));
    agent.wait_for("a", "ready");
    let before = agent.events();
    agent.kill();
    agent.start();
    agent.wait_for("a", "ready");
    agent.cli_ok(&["restart", "a"]);
    let after = agent.events();
    assert_eq!(after[..before.len()], before[..]);
    let numbers: Vec<_> = after.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
}

#[test]
fn verbs_are_in_the_journal_with_who_gave_them() {
    let agent = Agent::running(&sample("a", "", ""));
    agent.wait_for("a", "ready");
    agent.cli_ok(&["restart", "a"]);
    let commanded = agent.events_of("a", "commanded");
    assert_eq!(commanded.len(), 1);
    assert_eq!(commanded[0]["caller"]["uid"], nix::unistd::geteuid().as_raw(), "{commanded:#?}");
}
