//! Start, readiness, exit, restart.

use std::time::Duration;

use crate::engine::event::{Event, NotifyMessage, Remaining};
use crate::engine::plan::{BudgetSpent, Kind, Readiness, RestartPolicy};
use crate::engine::testkit::{Kit, ms, service, tcp};
use crate::engine::types::{Exit, SIGTERM, StateName};

#[test]
fn a_service_is_spawned_at_once_and_ready_when_exec_succeeded() {
    let mut kit = Kit::new(vec![service("api")]);
    assert_eq!(kit.words(), ["spawn api/0 run 1"]);
    assert_eq!(kit.state("api"), StateName::Starting);
    kit.exec("api");
    assert_eq!(kit.state("api"), StateName::Ready);
    assert_eq!(kit.engine.next_deadline(), None, "at rest there is no wake-up");
}

#[test]
fn restarts_without_delay_happen_in_the_step_of_the_exit() {
    let mut api = service("api");
    api.backoff.min = Duration::ZERO;
    let mut kit = Kit::new(vec![api]);
    kit.exec("api");
    let words = kit.exit_leaving("api", Exit::Signal { signal: 9, core: false }, 0);
    assert_eq!(words, ["release api/0", "spawn api/0 run 2"]);
    assert_eq!(kit.memory("api").restarts, 1);
    assert_eq!(kit.notes()[0], "service api: killed by SIGKILL after 0ms, restart 1 of 10 at once");
}

#[test]
fn failures_back_off_longer_and_longer_until_a_stable_ready_time() {
    let mut kit = Kit::new(vec![service("api")]);
    for delay in [100, 200, 400] {
        kit.exec("api");
        assert_eq!(kit.exit("api", 1), ["release api/0"]);
        assert_eq!(kit.state("api"), StateName::Backoff);
        assert!(kit.pass(ms(delay - 1)).is_empty());
        assert_eq!(kit.pass(ms(1)).len(), 1);
    }
    kit.exec("api");
    kit.pass(Duration::from_secs(60));
    assert_eq!(kit.memory("api").failures, 0);
    assert_eq!(kit.engine.next_deadline(), None);
}

#[test]
fn a_spent_budget_holds_then_tries_once_and_doubles_the_hold() {
    let mut api = service("api");
    api.budget = api.budget.map(|budget| crate::engine::plan::Budget { restarts: 2, ..budget });
    let mut kit = Kit::new(vec![api]);
    for _ in 0..2 {
        kit.exec("api");
        kit.exit("api", 1);
        kit.pass(Duration::from_secs(1));
    }
    kit.exec("api");
    kit.exit("api", 1);
    assert_eq!(kit.state("api"), StateName::Failed);
    assert_eq!(kit.why("api"), "restart budget spent, 3 failures within 10m; held for 1m");
    assert_eq!(kit.pass(Duration::from_secs(60)), ["spawn api/0 run 4"]);
    kit.exec("api");
    kit.exit("api", 1);
    assert_eq!(kit.memory("api").hold.map(|hold| hold.length), Some(Duration::from_secs(120)));
    kit.pass(Duration::from_secs(120));
    kit.exec("api");
    kit.pass(Duration::from_secs(60));
    assert!(kit.notes().iter().any(|note| note.contains("budget is full again")), "{:?}", kit.notes());
    assert_eq!(kit.memory("api").hold, None);
}

#[test]
fn a_budget_that_stays_spent_has_no_deadline() {
    let mut api = service("api");
    api.budget =
        api.budget.map(|budget| crate::engine::plan::Budget { restarts: 1, then: BudgetSpent::Stay, ..budget });
    let mut kit = Kit::new(vec![api]);
    for _ in 0..2 {
        kit.exec("api");
        kit.exit("api", 1);
        kit.pass(Duration::from_secs(1));
    }
    assert_eq!(kit.state("api"), StateName::Failed);
    assert_eq!(kit.engine.next_deadline(), None);
}

#[test]
fn success_is_done_unless_the_policy_says_always() {
    let mut once = service("once");
    once.restart = RestartPolicy::Always;
    let mut kit = Kit::new(vec![service("api"), once]);
    kit.exec("api");
    kit.exec("once");
    kit.exit("api", 0);
    assert_eq!(kit.state("api"), StateName::Done);
    kit.exit("once", 0);
    assert_eq!(kit.state("once"), StateName::Backoff);
    assert!(kit.memory("once").budget_marks.is_empty(), "a success is not charged");
}

#[test]
fn probes_ask_faster_then_slower_and_the_last_answer_is_told() {
    let mut api = service("api");
    api.ready = Readiness::Probe(tcp());
    api.start_timeout = Duration::from_secs(5);
    let mut kit = Kit::new(vec![api]);
    assert_eq!(kit.exec("api"), ["probe api/0"]);
    kit.answer("api", Err("connection refused"));
    assert_eq!(kit.pass(ms(50)), ["probe api/0"]);
    kit.answer("api", Err("connection refused"));
    assert!(kit.pass(ms(74)).is_empty());
    assert_eq!(kit.pass(ms(1)), ["probe api/0"]);
    assert_eq!(kit.pass(ms(1_000)), ["cancel probe of api/0"], "no answer is an answer");
    assert!(kit.why("api").starts_with("not ready: no answer within 1s, for 1.1s of 5s"), "{}", kit.why("api"));
    let words = kit.pass(Duration::from_secs(4));
    assert_eq!(words.last().map(String::as_str), Some("SIGTERM to main of api/0"));
    kit.exit_leaving("api", Exit::Signal { signal: SIGTERM, core: false }, 0);
    assert_eq!(kit.memory("api").failures, 1, "not ready in time is a failure whatever it died of");
}

#[test]
fn notify_may_come_before_the_news_of_the_exec() {
    let mut api = service("api");
    api.ready = Readiness::Notify;
    let mut kit = Kit::new(vec![api]);
    let (replica, run) = (kit.id("api"), kit.run("api"));
    kit.step(Event::Spawned { replica, run, pid: 5 });
    kit.step(Event::Notified { replica, run, message: NotifyMessage::Ready });
    assert_eq!(kit.state("api"), StateName::Ready);
    kit.step(Event::Executed { replica, run });
    assert_eq!(kit.state("api"), StateName::Ready);
}

#[test]
fn a_main_process_that_leaves_others_behind_is_followed_by_the_rest() {
    let mut kit = Kit::new(vec![service("api")]);
    kit.exec("api");
    assert_eq!(kit.exit_leaving("api", Exit::Code(1), 2), ["SIGTERM to tree of api/0"]);
    assert_eq!(kit.pass(Duration::from_secs(2)), ["kill api/0"]);
    assert_eq!(kit.empty("api"), ["release api/0", "spawn api/0 run 2"], "the back-off had passed meanwhile");
}

#[test]
fn a_tree_that_survives_its_kill_is_stuck_and_nothing_starts_beside_it() {
    let mut kit = Kit::new(vec![service("api")]);
    kit.exec("api");
    let (replica, run) = (kit.id("api"), kit.run("api"));
    kit.exit_leaving("api", Exit::Code(1), 1);
    assert_eq!(kit.pass(Duration::from_secs(7)), ["kill api/0", "inspect api/0"]);
    let processes =
        vec![Remaining { pid: 9, comm: "dd".into(), state: 'D', wchan: "io_schedule".into(), devices: Vec::new() }];
    kit.step(Event::TreeRemains { replica, run, processes });
    assert_eq!(kit.state("api"), StateName::Stuck);
    assert!(kit.why("api").contains("pid 9 (dd) in state D at io_schedule"));
    let words = kit.pass(Duration::from_secs(100));
    assert!(words.iter().all(|word| !word.starts_with("spawn")), "{words:?}");
    assert!(words.iter().filter(|word| word.starts_with("inspect")).count() >= 5);
    assert_eq!(kit.empty("api"), ["release api/0", "spawn api/0 run 2"]);
}

#[test]
fn a_program_that_cannot_be_executed_says_why() {
    let mut kit = Kit::new(vec![service("api")]);
    let (replica, run) = (kit.id("api"), kit.run("api"));
    kit.step(Event::Spawned { replica, run, pid: 5 });
    kit.step(Event::ExecFailed { replica, run, error: "cannot execute /bin/nope: No such file".into() });
    kit.exit("api", 127);
    let note = "service api: could not be started: cannot execute /bin/nope: No such file; restart 1 of 10 in 100ms";
    assert_eq!(kit.notes()[0], note);
}

#[test]
fn a_spawn_that_fails_on_our_account_is_not_charged() {
    let mut kit = Kit::new(vec![service("api")]);
    let (replica, run) = (kit.id("api"), kit.run("api"));
    kit.step(Event::SpawnFailed { replica, run, ours: true, error: "EAGAIN".into() });
    assert_eq!((kit.state("api"), kit.memory("api").failures), (StateName::Backoff, 0));
    assert_eq!(kit.pass(Duration::from_secs(1)), ["spawn api/0 run 2"]);
}

#[test]
fn a_late_event_of_an_old_run_is_dropped_and_counted() {
    let mut kit = Kit::new(vec![service("api")]);
    kit.exec("api");
    let (replica, run) = (kit.id("api"), kit.run("api"));
    kit.exit("api", 1);
    kit.pass(ms(100));
    kit.exec("api");
    kit.step(Event::Exited { replica, run, exit: Exit::Code(0), oom: false, remaining: 0 });
    assert_eq!(kit.state("api"), StateName::Ready);
    assert_eq!(kit.engine.counters().stale_events, 1);
}

#[test]
fn a_periodic_task_keeps_its_period_whatever_becomes_of_it() {
    let mut task = service("task");
    task.kind = Kind::Every(Duration::from_secs(60));
    task.restart = RestartPolicy::Never;
    let mut kit = Kit::new(vec![task]);
    kit.exec("task");
    kit.pass(Duration::from_secs(10));
    kit.exit("task", 0);
    assert_eq!(kit.state("task"), StateName::Done);
    assert_eq!(kit.pass(Duration::from_secs(50)), ["spawn task/0 run 2"], "a minute after the last start");
    kit.exec("task");
    kit.exit("task", 1);
    assert_eq!(kit.state("task"), StateName::Failed);
    assert_eq!(kit.pass(Duration::from_secs(60)), ["spawn task/0 run 3"]);
    kit.exec("task");
    kit.pass(Duration::from_secs(150));
    assert_eq!(kit.exit("task", 0), ["release task/0", "spawn task/0 run 4"], "what was missed is caught up once");
}
