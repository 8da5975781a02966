//! Operators: start, stop, restart, reload; and what they are told.

use std::time::Duration;

use crate::engine::action::{Action, Effect, Outcome};
use crate::engine::event::{Caller, Decision, Event, Verb, Wait, Wanted};
use crate::engine::plan::{Alive, Launch, Readiness, RestartPolicy, Role, ServicePlan};
use crate::engine::testkit::{Kit, ms, service, tcp};
use crate::engine::types::{RequestId, StateName};

fn three() -> Kit {
    let mut api = service("api");
    api.replicas = 3;
    let mut kit = Kit::new(vec![api]);
    for name in ["api/0", "api/1", "api/2"] {
        kit.exec(name);
    }
    kit
}

#[test]
fn a_stopped_service_is_not_restarted_and_its_exit_is_no_failure() {
    let mut kit = Kit::new(vec![service("api")]);
    kit.exec("api");
    assert_eq!(kit.command(Verb::Stop, "api"), ["decide api Down", "SIGTERM to main of api/0"]);
    assert!(kit.persist().is_empty());
    assert_eq!(kit.exit("api", 143), ["release api/0", "answer 1: done"]);
    assert_eq!((kit.state("api"), kit.memory("api").failures), (StateName::Stopped, 0));
    assert_eq!(kit.why("api"), "stopped by an operator");
    assert_eq!(kit.engine.next_deadline(), None);
}

#[test]
fn what_ignores_its_stop_signal_is_killed_with_its_tree() {
    let mut kit = Kit::new(vec![service("api")]);
    kit.exec("api");
    kit.command(Verb::Stop, "api");
    assert_eq!(kit.pass(Duration::from_secs(10)), ["answer 1: done, not on disk", "kill api/0"][1..]);
}

#[test]
fn an_answer_waits_for_the_disk_but_not_for_ever() {
    let mut kit = Kit::new(vec![service("api")]);
    kit.exec("api");
    kit.command_waiting(Verb::Stop, "api", Wait::Decision);
    assert_eq!(kit.pass(Duration::from_secs(2)), ["answer 1: done, not on disk"]);
    kit.command_waiting(Verb::Start, "api", Wait::Decision);
    assert_eq!(kit.persist(), ["answer 2: done"]);
}

#[test]
fn a_start_answers_when_ready_or_at_the_first_failure() {
    let mut api = service("api");
    api.ready = Readiness::Notify;
    let mut kit = Kit::new(vec![api]);
    kit.exec("api");
    kit.command(Verb::Start, "api");
    kit.persist();
    let words = kit.exit("api", 3);
    assert_eq!(words, ["release api/0", "answer 1: failed, api: exited with code 3"]);
    assert_eq!(kit.state("api"), StateName::Backoff, "the policy goes on");
}

#[test]
fn a_later_word_ends_an_earlier_one() {
    let mut kit = Kit::new(vec![service("api")]);
    kit.exec("api");
    kit.command(Verb::Stop, "api");
    kit.persist();
    let words = kit.command(Verb::Start, "api");
    assert_eq!(words[0], "answer 1: conflict, a later `start` of api came first");
    kit.persist();
    assert_eq!(kit.exit("api", 0), ["release api/0", "spawn api/0 run 2"], "a stop is finished, then it starts again");
    assert_eq!(kit.exec("api"), ["answer 2: done"]);
}

#[test]
fn a_rolling_restart_takes_one_replica_after_the_other() {
    let mut kit = three();
    assert_eq!(kit.command(Verb::RestartRolling, "api"), ["SIGTERM to main of api/0"]);
    assert_eq!(kit.exit("api/0", 0), ["release api/0", "spawn api/0 run 2"]);
    assert_eq!(kit.exec("api/0"), ["SIGTERM to main of api/1"]);
    kit.exit("api/1", 0);
    kit.exec("api/1");
    kit.exit("api/2", 0);
    assert_eq!(kit.exec("api/2"), ["answer 1: done"]);
    assert_eq!(kit.memory("api/2").restarts, 0, "asked for");
}

#[test]
fn a_rolling_restart_ends_where_a_replica_does_not_come_back() {
    let mut kit = three();
    kit.command(Verb::RestartRolling, "api");
    kit.exit("api/0", 0);
    let words = kit.exit("api/0", 1);
    assert_eq!(words, ["release api/0", "answer 1: failed, api/0: exited with code 1"]);
    kit.pass(ms(100));
    assert!(kit.exec("api/0").is_empty());
    assert_eq!((kit.run("api/1").0, kit.state("api/1")), (1, StateName::Ready));
}

#[test]
fn a_restart_of_all_at_once_is_what_it_says() {
    let mut kit = three();
    assert_eq!(kit.command(Verb::RestartAtOnce, "api").len(), 3);
}

#[test]
fn a_start_gives_a_failed_service_a_clean_slate() {
    let mut api = service("api");
    api.restart = RestartPolicy::Never;
    let mut kit = Kit::new(vec![api]);
    kit.exec("api");
    kit.exit("api", 1);
    assert_eq!(kit.state("api"), StateName::Failed);
    assert_eq!(kit.command(Verb::Start, "api"), ["decide api Up", "spawn api/0 run 2"]);
    assert_eq!(kit.memory("api").failures, 0);
}

#[test]
fn an_unknown_name_gets_a_hint() {
    let mut kit = Kit::new(vec![service("postgres")]);
    let words = kit.command(Verb::Start, "postgers");
    assert_eq!(words, ["answer 1: no service \"postgers\", did you mean \"postgres\"?"]);
    let words = kit.command(Verb::Start, "postgres/3");
    assert_eq!(words, ["answer 2: service \"postgres\" has no replica 3, its replicas are 0 to 0"]);
}

#[test]
fn a_role_can_be_restarted_but_not_stopped() {
    let mut logs = ServicePlan::with_defaults(Role::Logs.service_name(), &[]);
    logs.launch = Launch::Role(Role::Logs);
    let mut kit = Kit::new(vec![logs]);
    kit.exec("@logs");
    assert!(kit.command(Verb::Stop, "@logs")[0].contains("cannot be stopped"));
    assert_eq!(kit.command(Verb::RestartRolling, "@logs"), ["SIGTERM to main of @logs/0"]);
    let words = kit.step(Event::Shutdown { caller: Caller::Agent });
    assert_eq!(words, ["answer 2: conflict, the agent shuts down", "exit Clean"], "roles are left to the shell");
}

#[test]
fn decisions_of_an_earlier_boot_hold() {
    let down = |replica| Decision {
        service: "api".into(),
        replica,
        wanted: Wanted::Down,
        drained: false,
        ..Decision::default()
    };
    let mut api = service("api");
    api.replicas = 2;
    let kit = Kit::begin(vec![api.clone()], Vec::new(), vec![down(Some(1))]);
    assert_eq!(kit.words(), ["spawn api/0 run 1"]);
    let mut kit = Kit::begin(vec![api], Vec::new(), vec![down(None), Decision { wanted: Wanted::Up, ..down(Some(1)) }]);
    assert_eq!(kit.words(), ["spawn api/1 run 1"]);
    let words = kit.command(Verb::Stop, "api");
    assert_eq!(words, ["decide api Down", "decide api Down"], "the one about replica 1 must not outlive this one");
}

fn reload(kit: &mut Kit, services: Vec<ServicePlan>) -> Vec<(String, Effect)> {
    let plan = Box::new(Kit::plan(services));
    let preview = kit.engine.preview(&plan);
    kit.step(Event::Reload { request: Some(RequestId(900)), caller: Caller::Agent, plan });
    let answer = kit.last.iter().find_map(|action| {
        if let Action::Answer { outcome: Outcome::Reloaded { changes }, .. } = action {
            Some(changes.clone())
        } else {
            None
        }
    });
    assert_eq!(answer.as_ref(), Some(&preview), "the preview says what is done");
    preview.into_iter().map(|change| (change.service, change.effect)).collect()
}

#[test]
fn a_reload_applies_what_it_can_and_restarts_the_rest_one_by_one() {
    let mut kit = three();
    let mut api = service("api");
    api.replicas = 3;
    api.stop.timeout = Duration::from_secs(3);
    assert_eq!(reload(&mut kit, vec![api.clone()]), [("api".into(), Effect::Live)]);
    assert!(kit.words().iter().all(|word| word.starts_with("answer")), "{:?}", kit.words());

    api.process.nice = 7;
    assert_eq!(reload(&mut kit, vec![api.clone()]), [("api".into(), Effect::Restart)]);
    assert!(kit.words().contains(&"SIGTERM to main of api/0".to_owned()));
    let pending = |kit: &Kit| {
        let view = kit.engine.service("api", kit.now).expect("known");
        view.replicas.iter().map(|replica| replica.pending_restart).collect::<Vec<_>>()
    };
    assert_eq!(pending(&kit), [true, true, true]);
    kit.exit("api/0", 0);
    assert_eq!(kit.exec("api/0"), ["SIGTERM to main of api/1"]);
    assert_eq!(pending(&kit), [false, true, true]);
}

#[test]
fn a_reload_brings_and_removes_services_and_replicas() {
    let mut kit = three();
    let mut api = service("api");
    api.replicas = 2;
    reload(&mut kit, vec![api, service("web")]);
    assert!(kit.words().contains(&"SIGTERM to main of api/2".to_owned()));
    assert!(kit.words().contains(&"spawn web/0 run 1".to_owned()));
    assert_eq!(kit.exit("api/2", 0), ["release api/2", "forget api/2"]);

    reload(&mut kit, vec![service("web")]);
    kit.exit("api/0", 0);
    assert_eq!(kit.exit("api/1", 0), ["release api/1", "forget api/1"]);
    kit.step(Event::Tick);
    assert_eq!(kit.engine.service_id("api"), None);
    assert_eq!(kit.engine.services(kit.now).len(), 1);
}

#[test]
fn a_service_that_comes_back_while_it_is_being_removed_is_started_again() {
    let mut kit = Kit::new(vec![service("api")]);
    kit.exec("api");
    let id = kit.id("api");
    reload(&mut kit, Vec::new());
    reload(&mut kit, vec![service("api")]);
    assert_eq!(kit.id("api"), id, "ids are stable over a reload");
    assert_eq!(kit.exit("api", 0), ["release api/0", "spawn api/0 run 2"]);
}

#[test]
fn changed_role_is_told_to_nobody_and_applied_all_the_same() {
    let alive = Alive { probe: tcp(), every: ms(1_000), timeout: ms(500), fall: 3, rise: 1 };
    let role = |alive| {
        let launch = Launch::Role(Role::Logs);
        ServicePlan { launch, alive, ..ServicePlan::with_defaults(Role::Logs.service_name(), &[]) }
    };
    let mut kit = Kit::new(vec![role(Some(Box::new(alive)))]);
    kit.exec("@logs");
    kit.pass(ms(1_000));
    kit.answer("@logs", Err("connection refused"));
    assert_eq!(kit.state("@logs"), StateName::Degraded);
    assert_eq!(reload(&mut kit, vec![role(None)]), []);
    assert_eq!(kit.state("@logs"), StateName::Ready);
}
