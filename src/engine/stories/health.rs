//! Liveness, watchdog, stalls.

use std::time::Duration;

use crate::engine::event::{Event, NotifyMessage};
use crate::engine::plan::{Alive, Readiness, ServicePlan};
use crate::engine::testkit::{Kit, service, tcp};
use crate::engine::types::{Exit, StateName};

fn probed() -> ServicePlan {
    let mut api = service("api");
    api.alive = Some(Box::new(Alive {
        probe: tcp(),
        every: Duration::from_secs(10),
        timeout: Duration::from_secs(2),
        fall: 3,
        rise: 2,
    }));
    api
}

fn watched() -> ServicePlan {
    let mut api = service("api");
    api.watchdog = Some(Duration::from_secs(30));
    api
}

#[test]
fn a_failed_probe_degrades_and_good_ones_bring_it_back() {
    let mut kit = Kit::new(vec![probed()]);
    kit.exec("api");
    assert_eq!(kit.pass(Duration::from_secs(10)), ["probe api/0"]);
    kit.answer("api", Err("connection refused"));
    assert_eq!(kit.state("api"), StateName::Degraded);
    assert_eq!(kit.why("api"), "alive probe 1 of 3 failed: connection refused");
    for _ in 0..2 {
        kit.pass(Duration::from_secs(10));
        kit.answer("api", Ok(()));
    }
    assert_eq!(kit.state("api"), StateName::Ready);
}

#[test]
fn what_is_not_alive_is_aborted_then_stopped_then_killed_and_charged() {
    let mut kit = Kit::new(vec![probed()]);
    kit.exec("api");
    let words = kit.pass(Duration::from_secs(32));
    let expected = ["probe api/0", "cancel probe of api/0"].repeat(3);
    assert_eq!(words[..6], expected[..]);
    assert_eq!(words[6], "SIGABRT to main of api/0");
    assert_eq!(kit.pass(Duration::from_secs(5)), ["SIGTERM to main of api/0"]);
    assert_eq!(kit.pass(Duration::from_secs(10)), ["kill api/0"]);
    kit.exit_leaving("api", Exit::Signal { signal: 9, core: false }, 0);
    assert_eq!((kit.state("api"), kit.memory("api").failures), (StateName::Backoff, 1));
}

#[test]
fn an_answer_of_an_earlier_probe_is_dropped() {
    let mut kit = Kit::new(vec![probed()]);
    kit.exec("api");
    kit.pass(Duration::from_secs(12));
    let (replica, run) = (kit.id("api"), kit.run("api"));
    let before = kit.engine.counters().stale_events;
    kit.step(Event::ProbeDone { replica, run, generation: 3, result: Ok(()) });
    assert_eq!(kit.engine.counters().stale_events, before + 1);
    assert_eq!(kit.state("api"), StateName::Degraded);
}

#[test]
fn pings_keep_the_watchdog_quiet() {
    let mut kit = Kit::new(vec![watched()]);
    kit.exec("api");
    let (replica, run) = (kit.id("api"), kit.run("api"));
    for _ in 0..5 {
        assert!(kit.pass(Duration::from_secs(20)).is_empty());
        kit.step(Event::Notified { replica, run, message: NotifyMessage::Watchdog });
    }
    assert_eq!(kit.pass(Duration::from_secs(30)), ["SIGABRT to main of api/0"]);
}

#[test]
fn nobody_is_blamed_for_a_stall_of_our_own() {
    let mut kit = Kit::new(vec![watched()]);
    kit.exec("api");
    let by = Duration::from_secs(100);
    kit.now.mono = kit.now.mono.after(by);
    assert!(kit.step(Event::Stalled { by, suspended: false }).is_empty());
    assert_eq!(kit.state("api"), StateName::Ready);
    assert_eq!(kit.pass(Duration::from_secs(30)), ["SIGABRT to main of api/0"]);
}

#[test]
fn a_day_of_sleep_gives_no_day_of_grace() {
    let mut kit = Kit::new(vec![watched()]);
    kit.exec("api");
    kit.step(Event::Stalled { by: Duration::from_secs(86_400), suspended: true });
    assert_eq!(kit.pass(Duration::from_secs(30)), ["SIGABRT to main of api/0"]);
}

#[test]
fn a_start_can_ask_for_more_time() {
    let mut api = service("api");
    api.ready = Readiness::Notify;
    api.start_timeout = Duration::from_secs(5);
    let mut kit = Kit::new(vec![api]);
    kit.exec("api");
    kit.pass(Duration::from_secs(4));
    let (replica, run) = (kit.id("api"), kit.run("api"));
    let message = NotifyMessage::ExtendTimeout(Duration::from_secs(20));
    kit.step(Event::Notified { replica, run, message });
    assert!(kit.pass(Duration::from_secs(19)).is_empty());
    assert_eq!(kit.pass(Duration::from_secs(1)), ["SIGTERM to main of api/0"]);
}

#[test]
fn many_restarts_within_a_minute_are_flapping() {
    let mut kit = Kit::new(vec![service("api")]);
    let flapping = |kit: &Kit| kit.engine.service("api", kit.now).expect("known").replicas[0].flapping;
    for _ in 0..3 {
        kit.exec("api");
        kit.exit("api", 1);
        kit.pass(Duration::from_secs(1));
    }
    assert!(flapping(&kit));
    kit.exec("api");
    kit.pass(Duration::from_secs(61));
    assert!(!flapping(&kit));
}
