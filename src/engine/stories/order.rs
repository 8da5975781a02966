//! Dependencies, pacing, shutdown.

use std::time::Duration;

use crate::engine::event::{Caller, Event, Remaining, Verb, Wait};
use crate::engine::plan::{Kind, Readiness, ServicePlan};
use crate::engine::testkit::{Kit, ms, service};
use crate::engine::types::{Exit, StateName};
use crate::engine::view::EdgeKind;

fn needs(name: &str, requires: &[&str]) -> ServicePlan {
    let mut plan = service(name);
    plan.requires = requires.iter().map(|name| (*name).to_owned()).collect();
    plan
}

fn db_and_api() -> Kit {
    let mut kit = Kit::new(vec![service("db"), needs("api", &["db"])]);
    kit.exec("db");
    kit.exec("api");
    kit
}

#[test]
fn a_service_waits_for_what_it_requires() {
    let mut kit = Kit::new(vec![needs("api", &["db"]), service("db")]);
    assert_eq!(kit.words(), ["spawn db/0 run 1"]);
    assert_eq!(kit.why("api"), "waiting for db (starting)");
    let view = kit.engine.service("api", kit.now).expect("known");
    assert!(view.edges.iter().any(|edge| edge.to == "db" && edge.kind == EdgeKind::Requires && edge.blocking));
    assert_eq!(kit.exec("db"), ["spawn api/0 run 1"]);
}

#[test]
fn a_quick_restart_of_a_dependency_leaves_its_dependents_alone() {
    let mut kit = db_and_api();
    kit.exit("db", 1);
    kit.pass(ms(100));
    kit.exec("db");
    assert_eq!((kit.state("api"), kit.run("api").0), (StateName::Ready, 1));
}

#[test]
fn a_dependency_that_does_not_come_back_takes_its_dependents_down_and_back_up() {
    let mut kit = db_and_api();
    kit.exit("db", 1);
    kit.pass(ms(100));
    let words = kit.pass(Duration::from_secs(30));
    assert_eq!(words, ["SIGTERM to main of api/0"], "db has been starting for too long");
    kit.exit("api", 0);
    assert_eq!(kit.state("api"), StateName::Waiting);
    assert_eq!(kit.memory("api").failures, 0, "nobody's fault");
    assert_eq!(kit.exec("db"), ["spawn api/0 run 2"]);
}

#[test]
fn stopping_a_dependency_stops_its_dependents_first_and_they_come_back_with_it() {
    let mut kit = db_and_api();
    assert_eq!(kit.command(Verb::Stop, "db"), ["decide db Down", "SIGTERM to main of api/0"]);
    kit.persist();
    assert_eq!(kit.exit("api", 0), ["release api/0", "SIGTERM to main of db/0"]);
    assert_eq!(kit.exit("db", 0), ["release db/0", "answer 1: done"]);
    assert_eq!(kit.why("api"), "waiting for db (stopped)");
    kit.command(Verb::Start, "db");
    kit.exec("db");
    assert_eq!(kit.state("api"), StateName::Starting);
}

#[test]
fn a_stuck_dependent_does_not_keep_its_dependency_from_stopping() {
    let mut kit = db_and_api();
    kit.command(Verb::Stop, "db");
    let (replica, run) = (kit.id("api"), kit.run("api"));
    kit.pass(Duration::from_secs(15));
    let processes =
        vec![Remaining { pid: 9, comm: "api".into(), state: 'D', wchan: String::new(), devices: Vec::new() }];
    assert_eq!(kit.step(Event::TreeRemains { replica, run, processes }), ["SIGTERM to main of db/0"]);
}

#[test]
fn one_ready_replica_is_enough() {
    let mut db = service("db");
    db.replicas = 2;
    let mut kit = Kit::new(vec![db, needs("api", &["db"])]);
    kit.exec("db/1");
    assert_eq!(kit.state("api"), StateName::Starting);
    kit.exec("api");
    kit.exec("db/0");
    kit.command(Verb::Stop, "db/1");
    kit.exit("db/1", 0);
    assert_eq!(kit.state("api"), StateName::Ready);
}

#[test]
fn what_is_wanted_is_waited_for_until_it_has_failed_once() {
    let mut api = service("api");
    api.wants = vec!["cache".into()];
    let mut cache = service("cache");
    cache.ready = Readiness::Notify;
    let mut kit = Kit::new(vec![cache, api]);
    kit.exec("cache");
    assert_eq!(kit.why("api"), "waiting for cache (starting)");
    assert_eq!(kit.exit("cache", 1), ["release cache/0", "spawn api/0 run 1"]);
}

#[test]
fn what_waits_for_something_that_cannot_come_is_not_waited_for() {
    let mut api = service("api");
    api.after = vec!["mid".into()];
    let mut kit = Kit::new(vec![service("db"), needs("mid", &["db"]), api]);
    assert_eq!(kit.words(), ["spawn db/0 run 1"]);
    assert_eq!(kit.exit("db", 1), ["release db/0", "spawn api/0 run 1"], "mid waits for db, which has failed");
}

#[test]
fn restart_with_follows_a_new_run_but_not_the_first() {
    let mut api = needs("api", &["db"]);
    api.restart_with = vec!["db".into()];
    let mut kit = Kit::new(vec![service("db"), api]);
    kit.exec("db");
    kit.exec("api");
    kit.exit("db", 1);
    assert_eq!(kit.pass(ms(100)), ["spawn db/0 run 2", "SIGTERM to main of api/0"]);
    kit.exit("api", 0);
    assert_eq!(kit.state("api"), StateName::Waiting);
    assert_eq!(kit.exec("db"), ["spawn api/0 run 2"]);
    assert_eq!((kit.memory("api").failures, kit.memory("api").restarts), (0, 0));
}

#[test]
fn restart_with_alone_keeps_the_order_too() {
    let mut api = service("api");
    api.restart_with = vec!["db".into()];
    let mut kit = Kit::new(vec![service("db"), api]);
    kit.exec("db");
    kit.exec("api");
    kit.exit("db", 1);
    kit.pass(ms(100));
    assert_eq!(kit.exit("api", 0), ["release api/0"]);
    assert_eq!(kit.exec("db"), ["spawn api/0 run 2"]);
}

/// Seed 2401 of the simulation.
#[test]
fn a_reason_may_outlive_the_service_it_speaks_of() {
    let mut kit = db_and_api();
    kit.command(Verb::Stop, "db");
    kit.pass(Duration::from_secs(10));
    assert_eq!(kit.why("api"), "it requires db, which is not up, killed, waiting for it to be gone");
    kit.step(Event::Reload { request: None, caller: Caller::Agent, plan: Box::new(Kit::plan(vec![service("api")])) });
    kit.exit("db", 0);
    kit.step(Event::Tick);
    assert_eq!(
        kit.why("api"),
        "it requires a service that is gone, which is not up, killed, waiting for it to be gone"
    );
}

#[test]
fn only_so_many_start_at_once() {
    let slow = |name: &str| {
        let mut plan = service(name);
        plan.ready = Readiness::Notify;
        plan
    };
    let plans = ["a", "b", "c", "d", "e", "f"].map(slow).to_vec();
    let mut kit = Kit::new(plans);
    assert_eq!(kit.words().len(), 4, "the default");
    assert_eq!(kit.why("e"), "waiting for a start slot (4 may start at once)");
    kit.exec("b");
    let (replica, run) = (kit.id("b"), kit.run("b"));
    let message = crate::engine::event::NotifyMessage::Ready;
    assert_eq!(kit.step(Event::Notified { replica, run, message }), ["spawn e/0 run 1"]);
    assert_eq!(kit.exit("a", 1), ["release a/0", "spawn f/0 run 1"]);
}

#[test]
fn a_shutdown_goes_down_in_reverse_and_leaves_when_all_is_gone() {
    let mut kit = db_and_api();
    assert_eq!(kit.step(Event::Shutdown { caller: Caller::Agent }), ["SIGTERM to main of api/0"]);
    assert_eq!(kit.exit("api", 0), ["release api/0", "SIGTERM to main of db/0"]);
    assert_eq!(kit.exit("db", 0), ["release db/0", "exit Clean"]);
    assert_eq!(kit.memory("db").wanted, crate::engine::event::Wanted::Up, "a shutdown decides nothing");
    assert!(kit.command(Verb::Start, "db")[0].contains("conflict, the agent shuts down"));
}

#[test]
fn a_shutdown_has_a_limit_and_a_second_one_does_not_wait_for_it() {
    let mut kit = db_and_api();
    kit.step(Event::Shutdown { caller: Caller::Agent });
    assert_eq!(kit.step(Event::Shutdown { caller: Caller::Agent }), ["kill db/0", "kill api/0"]);
    let words = kit.pass(Duration::from_secs(5));
    assert_eq!(words.last().map(String::as_str), Some("exit SomethingRemains"));

    let mut patient = service("patient");
    patient.stop.timeout = Duration::from_secs(600);
    let mut kit = Kit::new(vec![patient]);
    kit.exec("patient");
    kit.step(Event::Shutdown { caller: Caller::Agent });
    assert_eq!(kit.pass(Duration::from_secs(90)), ["kill patient/0"]);
}

#[test]
fn what_is_still_starting_is_stopped_by_a_shutdown_too() {
    let mut kit = Kit::new(vec![service("db"), needs("api", &["db"])]);
    let (replica, run) = (kit.id("db"), kit.run("db"));
    assert!(kit.step(Event::Shutdown { caller: Caller::Agent }).is_empty(), "no process to signal yet");
    assert_eq!(kit.step(Event::Spawned { replica, run, pid: 4 }), ["SIGTERM to main of db/0"]);
    assert_eq!(kit.exit("db", 0), ["release db/0", "exit Clean"]);
}

#[test]
fn a_task_that_is_done_is_up_for_those_who_require_it() {
    let mut migrate = service("migrate");
    migrate.kind = Kind::Oneshot;
    let mut kit = Kit::new(vec![migrate, needs("api", &["migrate"])]);
    kit.exec("migrate");
    assert_eq!(kit.state("api"), StateName::Waiting);
    kit.exit_leaving("migrate", Exit::Code(0), 0);
    assert_eq!(kit.state("api"), StateName::Starting);
}

#[test]
fn start_makes_what_it_needs_wanted_as_well() {
    let mut kit = db_and_api();
    for name in ["api", "db"] {
        kit.command(Verb::Stop, name);
        kit.persist();
        kit.exit(name, 0);
    }
    let words = kit.command_waiting(Verb::Start, "api", Wait::Outcome);
    assert_eq!(words, ["decide api Up", "decide db Up", "spawn db/0 run 2"]);
}

#[test]
fn a_thousand_services_start_in_work_proportional_to_them() {
    let plans: Vec<ServicePlan> = (0..1_000)
        .map(|number| if number < 500 { service(&format!("s{number}")) } else { needs(&format!("s{number}"), &["s0"]) })
        .collect();
    let mut kit = Kit::new(plans);
    assert_eq!(kit.words().len(), 500);
    assert_eq!(kit.exec("s0").len(), 500);
    assert!(kit.engine.next_deadline().is_some(), "start timeouts");
}
