//! When the hardware watchdog is petted.

use std::time::Duration;

use crate::engine::event::{Caller, Event, Verb};
use crate::engine::plan::{Plan, Readiness, ServicePlan, WatchdogPlan};
use crate::engine::testkit::{Kit, service};
use crate::engine::types::Time;

const START: Time = Time(1_000_000_000_000);
const TIMEOUT: Duration = Duration::from_secs(30);

fn plan(services: Vec<ServicePlan>, require: &[&str]) -> Plan {
    let mut plan = Kit::plan(services);
    let require = require.iter().map(|name| (*name).to_owned()).collect();
    plan.agent.watchdog = Some(WatchdogPlan { device: "/dev/watchdog".into(), timeout: TIMEOUT, require });
    plan
}

fn pets(words: &[String]) -> usize {
    words.iter().filter(|word| *word == "pet").count()
}

#[test]
fn it_is_petted_three_times_a_timeout_while_what_it_requires_is_well() {
    let mut db = service("db");
    db.ready = Readiness::Notify;
    let mut kit = Kit::begin_with(START, plan(vec![db], &["db"]), Vec::new(), Vec::new());
    assert_eq!(kit.words(), ["spawn db/0 run 1", "pet"], "a host must be able to boot");
    assert_eq!(kit.pass(TIMEOUT), ["pet", "pet", "pet"]);
}

#[test]
fn it_starves_with_a_reason_and_is_petted_at_once_when_all_is_well_again() {
    let mut kit = Kit::begin_with(START, plan(vec![service("db")], &["db"]), Vec::new(), Vec::new());
    kit.exec("db");
    kit.pass(Duration::from_secs(1));
    kit.exit("db", 1);
    assert_eq!(kit.pass(Duration::from_millis(100)), ["spawn db/0 run 2"]);
    kit.exec("db");
    assert_eq!(pets(&kit.pass(TIMEOUT)), 3, "a quick restart is no reason");
    let replicas_fail = |kit: &mut Kit| {
        kit.exit("db", 1);
        kit.command(Verb::Start, "db");
        kit.persist();
        let (replica, run) = (kit.id("db"), kit.run("db"));
        kit.step(Event::SpawnFailed { replica, run, ours: false, error: "no such file".into() });
    };
    let mut db = service("db");
    db.backoff.min = Duration::from_secs(25);
    let reload = Event::Reload { request: None, caller: Caller::Agent, plan: Box::new(plan(vec![db], &["db"])) };
    kit.step(reload);
    replicas_fail(&mut kit);
    assert_eq!(kit.pass(Duration::from_secs(12)), Vec::<String>::new());
    let notes: Vec<String> = kit.notes().into_iter().filter(|note| note.contains("watchdog")).collect();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("is not petted: db is not up (could not be started"), "{notes:?}");
    assert!(notes[0].contains("it resets the host in 2"), "{notes:?}");
    let words = kit.pass(Duration::from_secs(13));
    assert_eq!(words, ["spawn db/0 run 4"]);
    let words = kit.exec("db");
    assert_eq!(words, ["pet"], "not only at the next third");
    assert_eq!(pets(&kit.pass(TIMEOUT)), 3);
}

#[test]
fn an_operators_stop_and_a_shutdown_reset_no_host() {
    let mut kit = Kit::begin_with(START, plan(vec![service("db")], &["db"]), Vec::new(), Vec::new());
    kit.exec("db");
    kit.command(Verb::Stop, "db");
    kit.persist();
    kit.exit("db", 0);
    assert_eq!(pets(&kit.pass(TIMEOUT)), 3);
    kit.command(Verb::Start, "db");
    kit.exec("db");
    kit.step(Event::Shutdown { caller: Caller::Agent });
    assert_eq!(pets(&kit.pass(Duration::from_secs(10))), 1);
}

#[test]
fn a_reload_adds_and_removes_it() {
    let mut kit = Kit::begin_with(START, Kit::plan(vec![service("db")]), Vec::new(), Vec::new());
    kit.exec("db");
    assert_eq!(kit.engine.next_deadline(), None);
    let reload = |plan| Event::Reload { request: None, caller: Caller::Agent, plan: Box::new(plan) };
    assert_eq!(kit.step(reload(plan(vec![service("db")], &[]))), ["pet"]);
    assert_eq!(kit.pass(TIMEOUT), ["pet", "pet", "pet"]);
    kit.step(reload(Kit::plan(vec![service("db")])));
    assert_eq!(kit.engine.next_deadline(), None);
}
