use std::collections::BTreeSet;
use std::time::Duration;

use expect_test::expect;

use super::super::testing::{World, fence_records, fences_view, usage};
use super::*;
use crate::engine::action::{Level, Subject};
use crate::engine::fence::note::FenceNote;
use crate::engine::fence::plan::FenceLevel;
use crate::engine::types::RunId;

fn note(replica: u16, kind: NoteKind) -> Note {
    Note { level: Level::Warn, subject: Some(Subject { service: "api".to_owned(), replica: Some(replica) }), kind }
}

fn ended(exit: Exit, oom: bool, next: Next) -> NoteKind {
    NoteKind::Ended { run: RunId(1), exit, oom, after: Duration::from_secs(1), requested: false, next }
}

fn again() -> Next {
    Next::Restart { in_: Duration::ZERO, attempt: 1, of: None }
}

fn no_host() -> Host<'static> {
    static NOTHING: std::sync::LazyLock<Readings> = std::sync::LazyLock::new(Readings::default);
    static NO_FENCES: FencesView<'static> = FencesView {
        active: Vec::new(),
        past: Vec::new(),
        automatic_used: 0,
        automatic_max: 3,
        automatic_within: Duration::from_secs(600),
    };
    Host { checks: &[], copies: &[], fences: &NO_FENCES, readings: &NOTHING }
}

fn agent() -> Agent<'static> {
    let counters = Counters { steps: 10, stale_events: 1, log_lines_dropped: 2 };
    Agent { version: "0.1.0", started_unix_s: 1_795_334_300, counters, seq: 812, config_loaded: true }
}

#[test]
fn restarts_are_counted_by_what_led_to_them() {
    let mut tally = Tally::default();
    let killed = Exit::Signal { signal: 15, core: false };
    for kind in [
        ended(Exit::Code(1), false, again()),
        ended(killed, false, again()),
        ended(killed, true, again()),
        NoteKind::NotAlive { failures: 3, answer: "refused".to_owned() },
        ended(killed, false, again()),
        NoteKind::WatchdogMissed { after: Duration::from_secs(30) },
        ended(killed, false, Next::Nothing { why: "restart: Never".to_owned() }),
        ended(Exit::Code(0), false, again()),
        NoteKind::NotReadyInTime { run: RunId(1), after: Duration::from_secs(60), last_answer: None },
        NoteKind::Started { run: RunId(2), pid: 1 },
        ended(Exit::Code(0), false, Next::StartAgain),
        NoteKind::HalfOpen { held: Duration::from_secs(60) },
    ] {
        tally.count(&note(0, kind));
    }
    let counted = &tally.restarts["api"];
    let by = |reason| counted.get(&reason).copied().unwrap_or(0);
    assert_eq!((by(Reason::Exit), by(Reason::Signal), by(Reason::Oom), by(Reason::Health)), (2, 1, 1, 1));
    assert_eq!((by(Reason::Watchdog), by(Reason::StartTimeout), by(Reason::HalfOpen)), (0, 0, 1));
    tally.count(&Note {
        subject: Some(Subject { service: "api".to_owned(), replica: None }),
        ..note(0, NoteKind::Removed)
    });
    assert!(tally.restarts.is_empty() && tally.pending.is_empty());
}

#[test]
#[expect(clippy::too_many_lines, reason = "one whole answer")]
fn the_text_has_one_state_a_service_and_the_names_of_the_interface() {
    let world = World::new();
    let mut tally = Tally::default();
    tally.count(&note(1, ended(Exit::Signal { signal: 11, core: true }, false, again())));
    expect![[r##"
        # HELP mainstay_build_info The version that runs.
        # TYPE mainstay_build_info gauge
        mainstay_build_info{version="0.1.0"} 1
        # HELP mainstay_start_time_seconds When this agent began, seconds since 1970.
        # TYPE mainstay_start_time_seconds gauge
        mainstay_start_time_seconds 1795334300
        # HELP mainstay_config_last_load_success Whether the latest load of the file was accepted.
        # TYPE mainstay_config_last_load_success gauge
        mainstay_config_last_load_success 1
        # HELP mainstay_events_seq Number of the latest journal entry.
        # TYPE mainstay_events_seq gauge
        mainstay_events_seq 812
        # HELP mainstay_notes_total Notes of the engine since this agent began.
        # TYPE mainstay_notes_total counter
        mainstay_notes_total 1
        # HELP mainstay_engine_steps_total Events that the engine has handled.
        # TYPE mainstay_engine_steps_total counter
        mainstay_engine_steps_total 10
        # HELP mainstay_engine_stale_events_total Answers of an old run that were dropped.
        # TYPE mainstay_engine_stale_events_total counter
        mainstay_engine_stale_events_total 1
        # HELP mainstay_log_lines_dropped_total Lines of services that were dropped.
        # TYPE mainstay_log_lines_dropped_total counter
        mainstay_log_lines_dropped_total 2
        # HELP mainstay_service_state 1 for the state that the service is in, 0 for the others.
        # TYPE mainstay_service_state gauge
        mainstay_service_state{service="api",state="waiting"} 0
        mainstay_service_state{service="api",state="starting"} 0
        mainstay_service_state{service="api",state="ready"} 1
        mainstay_service_state{service="api",state="degraded"} 0
        mainstay_service_state{service="api",state="stopping"} 0
        mainstay_service_state{service="api",state="backoff"} 0
        mainstay_service_state{service="api",state="done"} 0
        mainstay_service_state{service="api",state="stopped"} 0
        mainstay_service_state{service="api",state="failed"} 0
        mainstay_service_state{service="api",state="stuck"} 0
        mainstay_service_state{service="api",state="adopting"} 0
        mainstay_service_state{service="api",state="throttled"} 0
        mainstay_service_state{service="api",state="frozen"} 0
        mainstay_service_state{service="api",state="held"} 0
        # HELP mainstay_service_restarts_total Restarts that nobody had asked for, since this agent began.
        # TYPE mainstay_service_restarts_total counter
        mainstay_service_restarts_total{service="api",reason="exit"} 0
        mainstay_service_restarts_total{service="api",reason="signal"} 1
        # HELP mainstay_service_wanted Whether some replica is wanted up.
        # TYPE mainstay_service_wanted gauge
        mainstay_service_wanted{service="api"} 1
        # HELP mainstay_service_replicas Replicas configured.
        # TYPE mainstay_service_replicas gauge
        mainstay_service_replicas{service="api"} 2
        # HELP mainstay_service_replicas_ready Replicas that are ready, throttled ones too.
        # TYPE mainstay_service_replicas_ready gauge
        mainstay_service_replicas_ready{service="api"} 1
        # HELP mainstay_service_flapping Whether some replica changes its state again and again.
        # TYPE mainstay_service_flapping gauge
        mainstay_service_flapping{service="api"} 1
        # HELP mainstay_service_impaired Whether a disk or NIC that it needs fails.
        # TYPE mainstay_service_impaired gauge
        mainstay_service_impaired{service="api"} 0
        # HELP mainstay_service_last_exit_code Exit code of the latest end; 128 and the signal when killed.
        # TYPE mainstay_service_last_exit_code gauge
        mainstay_service_last_exit_code{service="api"} 139
        # HELP mainstay_service_cpu_seconds_total CPU time of the present processes.
        # TYPE mainstay_service_cpu_seconds_total counter
        mainstay_service_cpu_seconds_total{service="api"} 2.500000
        # HELP mainstay_service_memory_bytes Memory of the present processes.
        # TYPE mainstay_service_memory_bytes gauge
        mainstay_service_memory_bytes{service="api"} 5242880
        # HELP mainstay_fence_active Replicas that are fenced now, by level, and those on probation; absent where there is none.
        # TYPE mainstay_fence_active gauge
        # HELP mainstay_fences_total Fences that were set since this agent began, and those it found.
        # TYPE mainstay_fences_total counter
        # HELP mainstay_fences_observed_total Fences that were only told: dry runs, and what would have gone too far.
        # TYPE mainstay_fences_observed_total counter
        # HELP mainstay_service_limit_cpu_ratio CPUs that the present processes may use.
        # TYPE mainstay_service_limit_cpu_ratio gauge
        # HELP mainstay_service_limit_memory_bytes Memory that the present processes may have.
        # TYPE mainstay_service_limit_memory_bytes gauge
        # HELP mainstay_service_limit_pids Processes and threads that there may be.
        # TYPE mainstay_service_limit_pids gauge
    "##]]
    .assert_eq(&text(&world.views()[..1], &tally, &usage, &agent(), &[], &no_host()));
}

#[test]
fn families_are_whole_and_announced_once() {
    let world = World::new();
    let text = text(&world.views(), &Tally::default(), &usage, &agent(), &[], &no_host());
    let mut seen = BTreeSet::new();
    let mut current = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            current = rest.split(' ').next().unwrap();
            assert!(seen.insert(current), "{current} twice");
            assert_eq!(rest.ends_with(" counter"), current.ends_with("_total"), "{rest}");
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            assert_eq!(name, current);
            assert!(!line.contains("pid=") && name.starts_with("mainstay_"));
            assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
        }
    }
    for view in world.views() {
        let ones = text.lines().filter(|line| {
            line.starts_with(&format!("mainstay_service_state{{service=\"{}\"", view.plan.name)) && line.ends_with(" 1")
        });
        assert_eq!(ones.count(), 1);
    }
}

#[test]
fn labels_are_escaped() {
    let mut out = String::new();
    sample(&mut out, "x", &[("a", "back\\slash \"quoted\"\nline")], 1);
    assert_eq!(out, "x{a=\"back\\\\slash \\\"quoted\\\"\\nline\"} 1\n");
}

#[test]
fn fences_are_counted_once_while_they_stand_and_when_they_are_over() {
    let records = fence_records();
    let view = fences_view(&records);
    let mut tally = Tally::default();
    for record in &records[1..] {
        let subject = Subject { service: record.service.clone(), replica: None };
        let kind = NoteKind::Fence(FenceNote::Closed { record: Box::new(record.clone()) });
        tally.count(&Note { level: Level::Debug, subject: Some(subject), kind });
    }
    let observed =
        FenceNote::Observed { id: 5, would: FenceLevel::Throttle, why: String::new(), because: String::new() };
    tally.count(&note(0, NoteKind::Fence(observed)));
    let world = World::new();
    let mut views = world.views();
    views[0].replicas[0].limits.wanted.cpu_max_permille = Some(1_250);
    views[0].replicas[1].limits.wanted.cpu_max_permille = Some(1_250);
    views[4].replicas[0].limits.wanted.memory_max_bytes = Some(1 << 20);
    let mut out = String::new();
    metrics_fences::text(&mut out, &views, &view, &tally.fences);
    let samples: Vec<&str> = out.lines().filter(|line| !line.starts_with('#')).collect();
    expect![[r#"
        mainstay_fence_active{service="api",level="hold"} 1
        mainstay_fence_active{service="web",level="probation"} 1
        mainstay_fences_total{service="api",trigger="operator"} 1
        mainstay_fences_total{service="api",trigger="pressure"} 1
        mainstay_fences_total{service="web",trigger="restarts"} 2
        mainstay_fences_observed_total{service="api"} 1
        mainstay_service_limit_cpu_ratio{service="api"} 1.250
        mainstay_service_limit_memory_bytes{service="@logs"} 1048576"#]]
    .assert_eq(&samples.join("\n"));
    tally.fences.forget("api");
    out.clear();
    metrics_fences::text(&mut out, &views, &view, &tally.fences);
    assert!(!out.contains("observed_total{service=\"api\""), "{out}");
}
