use std::time::Duration;

use super::*;
use crate::engine::host::plan::AlertPlan;
use crate::engine::plan::{CgroupPlan, Plan};
use crate::runtime::shell::Directories;
use crate::runtime::{now, start};
use crate::sys::testing::TempDir;

fn body(text: &str) -> AlertBody {
    AlertBody {
        event: "failing".to_owned(),
        subject: "check disk_space /".to_owned(),
        state: "failing".to_owned(),
        text: text.to_owned(),
        why: vec!["the disk is full".to_owned()],
        services: vec!["db".to_owned()],
        at_wall: Time(1_763_798_400_000_000_000),
        reminder: 0,
        suppressed: 0,
    }
}

/// What became of one alert that runs this script.
fn outcome_of(directory: &TempDir, script: &str, timeout: Duration, body: AlertBody) -> Result<(), String> {
    let here = || directory.path().to_owned();
    let directories = Directories { run: here(), state: here(), log: here() };
    let (mut shell, _) = start::make_shell(directories, &CgroupPlan::Off, 0).unwrap();
    let exec = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    let (on, within) = (Vec::new(), Duration::from_secs(3_600));
    let alert = AlertPlan { exec, user: None, on, at_most: 10, within, timeout, cwd: Some(here()) };
    let engine = Engine::new(Plan { alerts: vec![alert], ..Plan::default() }, 1, now());
    super::start(&mut shell, &engine, 7, 0, body);
    let mut ready = Vec::new();
    for _ in 0..1_000 {
        if let Some(event) = shell.events.pop_front() {
            assert!(shell.alerts.is_empty() && shell.alerts.next_deadline().is_none());
            let Event::Host(event) = event else { panic!("{event:?}") };
            let HostEvent::AlertDone { alert: 7, result } = *event else { panic!("{event:?}") };
            return result;
        }
        shell.epoll.wait(&mut ready, Some(Duration::from_millis(10))).unwrap();
        for one in ready.drain(..) {
            if let Some(Key::Alert(slot)) = Key::decode(one.key) {
                ended(&mut shell, slot);
            }
        }
        expire(&mut shell, now().mono);
    }
    panic!("no end of the alert");
}

#[test]
fn command_finds_the_event_as_json_on_its_input_and_in_its_environment() {
    let directory = TempDir::new();
    let script = "cat > body; printf '%s|%s|%s|%s' \"$MAINSTAY_EVENT\" \"$MAINSTAY_SUBJECT\" \"$MAINSTAY_STATE\" \"$MAINSTAY_TEXT\" > words";
    let result = outcome_of(&directory, script, Duration::from_secs(20), body("87 % used\0, said twice: 87 %"));
    assert_eq!(result, Ok(()));
    let text = std::fs::read_to_string(directory.path().join("body")).unwrap();
    assert!(text.ends_with("}\n") && text.lines().count() == 1, "{text}");
    let told: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(told["event"], "failing");
    assert_eq!(told["at"], "2025-11-22T08:00:00Z");
    assert_eq!(told["services"][0], "db");
    assert!(told["host"].is_string());
    let words = std::fs::read_to_string(directory.path().join("words")).unwrap();
    assert_eq!(words, "failing|check disk_space /|failing|87 % used, said twice: 87 %");
}

#[test]
fn command_that_reads_nothing_or_says_much_keeps_nobody_waiting() {
    let directory = TempDir::new();
    let long = || body(&"\u{1}é".repeat(100_000));
    let timeout = Duration::from_secs(20);
    assert_eq!(outcome_of(&directory, "exit 0", timeout, long()), Ok(()));
    assert_eq!(outcome_of(&directory, "yes | head -c 1000000; cat > body", timeout, long()), Ok(()));
    let text = std::fs::read_to_string(directory.path().join("body")).unwrap();
    assert!(text.len() <= BODY_BYTES_MAX, "{}", text.len());
    let told: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(told["subject"], "check disk_space /");
    let flooding = outcome_of(&directory, "yes 'no answer' >&2; exit 3", timeout, body(""));
    assert!(flooding.as_ref().unwrap_err().starts_with("exit code 3: no"), "{flooding:?}");
}

#[test]
fn command_that_fails_is_told_with_its_last_words() {
    let directory = TempDir::new();
    let script = "echo first >&2; echo 'curl: (7) Failed to connect' >&2; echo >&2; exit 7";
    let result = outcome_of(&directory, script, Duration::from_secs(20), body(""));
    assert_eq!(result, Err("exit code 7: curl: (7) Failed to connect".to_owned()));
}

#[test]
fn command_that_does_not_end_is_killed_with_all_it_has_started() {
    let directory = TempDir::new();
    let script = "sleep 1000 & echo $! > child; wait";
    let result = outcome_of(&directory, script, Duration::from_millis(300), body(""));
    assert_eq!(result, Err("no end within 300ms, killed".to_owned()));
    let child: i32 = std::fs::read_to_string(directory.path().join("child")).unwrap().trim().parse().unwrap();
    crate::sys::testing::eventually(|| {
        let gone = crate::sys::process::process(child).map_or(true, |found| found.state == 'Z');
        gone.then_some(())
    });
}

#[test]
fn alert_that_is_configured_no_more_is_answered() {
    let directory = TempDir::new();
    let here = || directory.path().to_owned();
    let directories = Directories { run: here(), state: here(), log: here() };
    let (mut shell, _) = start::make_shell(directories, &CgroupPlan::Off, 0).unwrap();
    let engine = Engine::new(Plan::default(), 1, now());
    super::start(&mut shell, &engine, 3, 0, body(""));
    let Some(Event::Host(event)) = shell.events.pop_front() else { panic!("no answer") };
    assert!(matches!(*event, HostEvent::AlertDone { alert: 3, result: Err(_) }));
}
