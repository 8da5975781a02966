//! An agent's death and the next agent's first step.

use std::time::Duration;

use crate::engine::event::{Event, FoundProcess, NotifyMessage, Verb};
use crate::engine::plan::{Alive, Budget, Readiness, ServicePlan};
use crate::engine::testkit::{Kit, ms, service, tcp};
use crate::engine::types::{Exit, StateName};

/// The next agent of the same boot, half a second later.
fn next(kit: &Kit, services: Vec<ServicePlan>, found: &[(&str, FoundProcess)]) -> Kit {
    let found = found.iter().map(|(name, process)| kit.found(name, process.clone())).collect();
    Kit::begin_at(kit.now.mono.after(ms(500)), services, found, Vec::new())
}

const ALIVE: FoundProcess = FoundProcess::Alive { pid: 100 };

#[test]
fn what_runs_is_adopted_as_it_was() {
    let mut kit = Kit::new(vec![service("api")]);
    kit.exec("api");
    kit.exit("api", 1);
    kit.pass(ms(100));
    kit.exec("api");
    let since = kit.memory("api").since_wall;
    let mut kit = next(&kit, vec![service("api")], &[("api", ALIVE)]);
    assert_eq!(kit.memory("api").since_wall, since, "ready since before the agents changed");
    assert!(kit.words().is_empty(), "nothing is started or signalled: {:?}", kit.words());
    assert_eq!(kit.notes(), ["service api: adopted while ready, run 2, pid 100"]);
    assert_eq!((kit.state("api"), kit.memory("api").failures, kit.memory("api").restarts), (StateName::Ready, 1, 1));
    kit.pass(Duration::from_secs(60));
    assert_eq!(kit.memory("api").failures, 0, "its ready time goes on");
}

#[test]
fn a_start_under_way_goes_on_with_the_time_that_is_left() {
    let mut api = service("api");
    api.ready = Readiness::Probe(tcp());
    api.start_timeout = Duration::from_secs(10);
    let mut kit = Kit::new(vec![api.clone()]);
    kit.exec("api");
    kit.pass(Duration::from_secs(4));
    let mut kit = next(&kit, vec![api], &[("api", ALIVE)]);
    assert_eq!(kit.words(), ["probe api/0"]);
    let words = kit.pass(ms(5_500));
    assert_eq!(words.last().map(String::as_str), Some("SIGTERM to main of api/0"));
}

#[test]
fn an_end_that_nobody_saw_is_a_failure_unless_it_was_asked_for() {
    let mut kit = Kit::new(vec![service("api"), service("web")]);
    kit.exec("api");
    kit.exec("web");
    kit.command(Verb::Stop, "web");
    let gone = |exit| FoundProcess::Gone { exit: Some(exit) };
    let found = [("api", gone(Exit::Unknown)), ("web", gone(Exit::Code(1)))];
    let kit = next(&kit, vec![service("api"), service("web")], &found);
    assert_eq!((kit.state("api"), kit.memory("api").failures), (StateName::Backoff, 1));
    assert_eq!((kit.state("web"), kit.memory("web").failures), (StateName::Stopped, 0));
}

#[test]
fn an_exit_that_was_counted_is_not_counted_again() {
    let mut kit = Kit::new(vec![service("api")]);
    kit.exec("api");
    kit.exit_leaving("api", Exit::Code(1), 2);
    let mut kit = next(&kit, vec![service("api")], &[("api", FoundProcess::Leftovers { remaining: 2 })]);
    assert_eq!(kit.words(), ["SIGTERM to tree of api/0"]);
    assert_eq!(kit.empty("api"), ["release api/0", "spawn api/0 run 2"]);
    assert_eq!(kit.memory("api").failures, 1);
}

#[test]
fn a_spawn_whose_gate_never_opened_is_simply_done_again() {
    let kit = Kit::new(vec![service("api")]);
    let kit = next(&kit, vec![service("api")], &[("api", FoundProcess::Gone { exit: None })]);
    assert_eq!(kit.words(), ["spawn api/0 run 2"]);
    assert_eq!(kit.memory("api").failures, 0);
}

#[test]
fn a_hold_is_held_by_the_next_agent() {
    let mut api = service("api");
    api.budget = Some(Budget { restarts: 1, ..Budget::default() });
    let mut kit = Kit::new(vec![api.clone()]);
    for _ in 0..2 {
        kit.exec("api");
        kit.exit("api", 1);
        kit.pass(Duration::from_secs(1));
    }
    assert_eq!(kit.state("api"), StateName::Failed);
    let mut kit = next(&kit, vec![api], &[("api", FoundProcess::Gone { exit: None })]);
    assert_eq!(kit.state("api"), StateName::Failed);
    assert!(kit.pass(Duration::from_secs(58)).is_empty());
    assert_eq!(kit.pass(Duration::from_secs(1)), ["spawn api/0 run 3"]);
}

#[test]
fn a_stop_is_continued() {
    let mut kit = Kit::new(vec![service("api")]);
    kit.exec("api");
    kit.command(Verb::Stop, "api");
    let mut kit = next(&kit, vec![service("api")], &[("api", ALIVE)]);
    assert_eq!(kit.words(), ["SIGTERM to main of api/0"]);
    kit.exit("api", 1);
    assert_eq!((kit.state("api"), kit.memory("api").failures), (StateName::Stopped, 0));
}

#[test]
fn what_left_the_configuration_meanwhile_is_stopped_and_forgotten() {
    let mut kit = Kit::new(vec![service("old")]);
    kit.exec("old");
    let mut kit = next(&kit, vec![service("new")], &[("old", ALIVE)]);
    assert_eq!(kit.words(), ["spawn new/0 run 1", "SIGTERM to main of old/0"]);
    assert_eq!(kit.exit("old", 0), ["release old/0", "forget old/0"]);
}

#[test]
fn another_configuration_is_only_marked() {
    let mut kit = Kit::new(vec![service("api")]);
    kit.exec("api");
    let mut changed = service("api");
    changed.process.nice = 3;
    let kit = next(&kit, vec![changed], &[("api", ALIVE)]);
    assert_eq!(kit.state("api"), StateName::Ready);
    assert!(kit.engine.service("api", kit.now).expect("known").replicas[0].pending_restart);
}

#[test]
fn an_engine_that_was_written_out_and_read_back_does_the_same() {
    let mut kit = Kit::new(vec![service("api")]);
    kit.exec("api");
    let text = serde_json::to_string(&kit.engine).expect("plain data");
    let mut copy: crate::engine::Engine = serde_json::from_str(&text).expect("plain data");
    let (replica, run) = (kit.id("api"), kit.run("api"));
    let exit = Event::Exited { replica, run, exit: Exit::Code(1), oom: false, remaining: 0 };
    assert_eq!(copy.step(kit.now, exit.clone()), kit.engine.step(kit.now, exit));
}

#[test]
fn what_was_degraded_and_is_no_longer_probed_is_ready() {
    let mut probed = service("api");
    probed.alive = Some(Box::new(Alive {
        probe: tcp(),
        every: Duration::from_secs(10),
        timeout: Duration::from_secs(2),
        fall: 3,
        rise: 2,
    }));
    let mut kit = Kit::new(vec![probed.clone()]);
    kit.exec("api");
    kit.pass(Duration::from_secs(10));
    kit.answer("api", Err("connection refused"));
    let kit = next(&kit, vec![probed], &[("api", ALIVE)]);
    assert_eq!(kit.state("api"), StateName::Degraded);
    let kit = next(&kit, vec![service("api")], &[("api", ALIVE)]);
    assert_eq!(kit.state("api"), StateName::Ready);
}

/// Found by hand: the next agent asked an unready replica ten thousand times a second.
#[test]
fn adopted_start_is_probed_at_the_usual_pace() {
    let mut api = service("api");
    api.ready = Readiness::Probe(tcp());
    let mut kit = Kit::new(vec![api.clone()]);
    kit.exec("api");
    let mut kit = next(&kit, vec![api], &[("api", ALIVE)]);
    for _ in 0..3 {
        assert!(kit.answer("api", Err("connection refused")).is_empty(), "the next probe is not sent at once");
        assert_eq!(kit.pass(ms(1_000)), ["probe api/0"]);
    }
}

#[test]
fn a_rolling_restart_goes_on_where_it_was() {
    let mut api = service("api");
    (api.replicas, api.ready) = (3, Readiness::Notify);
    let names = ["api/0", "api/1", "api/2"];
    let all = |states: [FoundProcess; 3]| names.into_iter().zip(states).collect::<Vec<_>>();
    let start = |kit: &mut Kit, name: &str| {
        kit.exec(name);
        let (replica, run) = (kit.id(name), kit.run(name));
        kit.step(Event::Notified { replica, run, message: NotifyMessage::Ready })
    };
    let mut kit = Kit::new(vec![api.clone()]);
    for name in names {
        start(&mut kit, name);
    }
    kit.command(Verb::RestartRolling, "api");
    kit.exit("api/0", 0);
    // One is on its way, and nobody else is stopped before it is up.
    let mut kit = next(&kit, vec![api.clone()], &all([ALIVE; 3]));
    assert_eq!((kit.run("api/0").0, kit.words()), (2, vec![]));
    assert_eq!(start(&mut kit, "api/0"), ["SIGTERM to main of api/1"]);
    // It is gone when the next agent comes.
    let gone = FoundProcess::Gone { exit: Some(Exit::Code(0)) };
    let mut kit = next(&kit, vec![api.clone()], &all([ALIVE, gone, ALIVE]));
    assert_eq!(kit.words(), ["spawn api/1 run 2"]);
    assert_eq!(start(&mut kit, "api/1"), ["SIGTERM to main of api/2"]);
    kit.exit("api/2", 0);
    start(&mut kit, "api/2");
    assert!(names.iter().all(|name| kit.memory(name).turn.is_none()));
    let kit = next(&kit, vec![api], &all([ALIVE; 3]));
    assert_eq!((kit.run("api/0").0, kit.words()), (2, vec![]), "it is over");
}
