//! Copies: one order at a time, when it is due; and a service that holds still for one is always let go.

use std::time::Duration;

use crate::engine::action::Action;
use crate::engine::copies::catalog::{Copy, TargetState};
use crate::engine::copies::event::CopyEvent;
use crate::engine::copies::order::{Failure, FailureKind, Finding, FindingKind, Job, Outcome, Report};
use crate::engine::copies::plan::{CopyPlan, Quiesce};
use crate::engine::copies::testing;
use crate::engine::copies::view::SetState;
use crate::engine::event::{Caller, Event, Wait};
use crate::engine::host::kind::CheckKind;
use crate::engine::host::plan::{AlertOn, AlertPlan};
use crate::engine::host::view::CheckView;
use crate::engine::host::{Health, HostEvent};
use crate::engine::plan::Plan;
use crate::engine::stories::host_helpers;
use crate::engine::testkit::{Kit, ms, service};
use crate::engine::types::{RequestId, Time};

const START: Time = Time(1_000_000_000_000);
const HOUR: Duration = Duration::from_secs(3_600);

fn hourly() -> CopyPlan {
    let mut plan = testing::plan("data");
    plan.when.every = Some(HOUR);
    plan
}

/// A service `api` that is ready, and a set whose role has told of its target.
fn begin(copies: CopyPlan) -> Kit {
    let plan = Plan { copies: vec![copies], ..Kit::plan(vec![service("api")]) };
    let mut kit = Kit::begin_with(START, plan, Vec::new(), Vec::new());
    kit.exec("api");
    say(&mut kit, CopyEvent::Linked { set: "data".to_owned() });
    kit
}

fn say(kit: &mut Kit, event: CopyEvent) -> Vec<String> {
    kit.step(Event::Copies(Box::new(event)))
}

fn report(kit: &mut Kit, report: Report) -> Vec<String> {
    say(kit, CopyEvent::Report { set: "data".to_owned(), report })
}

fn catalog(kit: &mut Kit, count: u64) -> Vec<String> {
    let copies = (1..=count).map(|seq| testing::copy(seq, kit.now.wall)).collect();
    report(kit, Report::Catalog(Box::new(testing::catalog(copies))))
}

/// The number of the order under way.
fn order(kit: &Kit) -> u64 {
    kit.engine.copies_order("data").expect("an order")
}

fn done(kit: &mut Kit, outcome: Outcome) -> Vec<String> {
    let order = order(kit);
    report(kit, Report::Done { order, outcome })
}

fn failed(kind: FailureKind) -> Outcome {
    Outcome::Failed(Failure { kind, what: "it would not".to_owned(), remedy: None })
}

fn is_order(words: &[String], job: &str) -> bool {
    words.len() == 1 && words[0].contains("Order(") && words[0].contains(job)
}

#[test]
fn a_run_is_made_at_once_and_then_every_hour() {
    let mut kit = begin(hourly());
    assert!(is_order(&catalog(&mut kit, 0), "Take"));
    assert!(kit.pass(2 * HOUR).is_empty(), "one at a time");
    done(&mut kit, Outcome::Taken { seq: 1, files: 1, written_bytes: 1, linked: 0 });
    let words = kit.words();
    assert!(is_order(&words, "Take"), "the run that was missed is caught up: {words:?}");
    done(&mut kit, Outcome::Unchanged { seq: 1 });
    assert!(kit.pass(HOUR - ms(1)).is_empty());
    assert!(is_order(&kit.pass(ms(1)), "Take"));
}

#[test]
fn failures_are_tried_again_later_and_later_until_the_target_is_back() {
    let mut kit = begin(hourly());
    catalog(&mut kit, 0);
    assert!(done(&mut kit, failed(FailureKind::Target)).is_empty());
    assert!(kit.pass(ms(59_999)).is_empty());
    assert!(is_order(&kit.pass(ms(1)), "Take"));
    done(&mut kit, failed(FailureKind::Target));
    assert!(kit.pass(ms(119_999)).is_empty());
    report(&mut kit, Report::Target(TargetState::Absent { why: "gone".to_owned() }));
    assert!(is_order(&report(&mut kit, Report::Target(TargetState::Ready)), "Take"));
}

#[test]
fn an_order_by_hand_goes_first_and_is_answered_once() {
    let mut kit = begin(testing::plan("data"));
    catalog(&mut kit, 1);
    let command = |request, set: &str| CopyEvent::Command {
        request: RequestId(request),
        caller: Caller::Agent,
        set: set.to_owned(),
        job: Job::Pin { seq: 1, pinned: true },
        wait: Wait::Outcome,
    };
    assert!(is_order(&say(&mut kit, command(70, "data")), "Pin"));
    assert_eq!(done(&mut kit, Outcome::Pinned), ["answer 70: copied Pinned"]);
    let unknown = say(&mut kit, command(71, "dat"));
    assert_eq!(unknown, ["answer 71: no set of copies \"dat\", did you mean \"data\"?"]);
}

#[test]
fn a_service_is_stopped_for_a_copy_and_started_after_it() {
    let mut plan = hourly();
    plan.quiesce = Quiesce::Stop { service: "api".to_owned() };
    let mut kit = begin(plan);
    catalog(&mut kit, 0);
    let id = order(&kit);
    assert_eq!(report(&mut kit, Report::Quiesce { order: id, on: true }), ["SIGTERM to main of api/0"]);
    let words = kit.exit("api", 0);
    assert!(words.iter().any(|word| word.contains("Quiesced")), "{words:?}");
    let words = done(&mut kit, Outcome::Unchanged { seq: 1 });
    assert!(words.contains(&"spawn api/0 run 2".to_owned()), "{words:?}");
}

#[test]
fn copies_that_cannot_be_made_are_told_and_that_they_are_made_again() {
    let alert = AlertPlan {
        exec: vec!["/bin/page".to_owned()],
        user: None,
        on: vec![AlertOn::CopyFailed, AlertOn::Recovered],
        at_most: 10,
        within: HOUR,
        timeout: Duration::from_secs(30),
        cwd: None,
    };
    let plan = Plan { copies: vec![hourly()], alerts: vec![alert], ..Kit::plan(vec![service("api")]) };
    let mut kit = Kit::begin_with(START, plan, Vec::new(), Vec::new());
    kit.exec("api");
    say(&mut kit, CopyEvent::Linked { set: "data".to_owned() });
    catalog(&mut kit, 0);
    let told = |words: Vec<String>| words.into_iter().filter(|word| word.starts_with("alert")).collect::<Vec<_>>();
    assert!(told(done(&mut kit, failed(FailureKind::TargetIo))).is_empty(), "once may be chance");
    kit.pass(Duration::from_secs(60));
    assert_eq!(told(done(&mut kit, failed(FailureKind::TargetIo))), ["alert copy_failed copies data"]);
    let flight =
        kit.last.iter().find_map(|action| if let Action::Alert { alert, .. } = action { Some(*alert) } else { None });
    let alert = flight.expect("just told");
    kit.step(Event::Host(Box::new(HostEvent::AlertDone { alert, result: Ok(()) })));
    kit.pass(Duration::from_secs(120));
    let outcome = Outcome::Taken { seq: 1, files: 1, written_bytes: 1, linked: 0 };
    catalog(&mut kit, 1);
    assert_eq!(told(done(&mut kit, outcome)), ["alert recovered copies data"]);
}

#[test]
fn a_disk_that_a_source_cannot_be_read_from_is_told_of_once_a_run_and_the_set_is_not_well() {
    let mut plan = host_helpers::plan(vec![service("api")]);
    plan.copies = vec![hourly()];
    let mut kit = Kit::begin_with(START, plan, Vec::new(), Vec::new());
    kit.step(host_helpers::devices(
        vec![host_helpers::disk("vda", &[]), host_helpers::disk("vdb", &[])],
        vec![host_helpers::mount("/", Some("vdb")), host_helpers::mount("/srv", Some("vda"))],
    ));
    say(&mut kit, CopyEvent::Linked { set: "data".to_owned() });
    catalog(&mut kit, 0);
    let finding = |path: &str| {
        let (path, detail) = (path.to_owned(), "Input/output error (os error 5)".to_owned());
        Report::Finding(Finding { kind: FindingKind::BadDisk, path, detail })
    };
    let health = |kit: &Kit, disk: &str| {
        let of_disk = |check: &&CheckView| check.kind == CheckKind::DiskErrors && check.target == disk;
        kit.engine.checks(kit.now).iter().find(of_disk).map(|check| (check.state, check.why.clone()))
    };
    report(&mut kit, finding("/srv/data/one"));
    let told = health(&kit, "vda").expect("a check");
    assert!(
        told.0 == Health::Degraded
            && told.1.as_deref().is_some_and(|why| why.contains("copies data: /srv/data/one cannot be read")),
        "{told:?}"
    );
    for other in 0..20 {
        report(&mut kit, finding(&format!("/srv/data/{other}")));
    }
    assert_eq!(health(&kit, "vda"), Some(told), "twenty files on one bad track are no failing disk");
    assert!(health(&kit, "vdb").is_none_or(|(state, _)| state != Health::Degraded));
    let partial = Copy { stale: 21, ..testing::copy(1, kit.now.wall) };
    report(&mut kit, Report::Catalog(Box::new(testing::catalog(vec![partial]))));
    done(&mut kit, Outcome::Taken { seq: 1, files: 1, written_bytes: 1, linked: 0 });
    let (state, why) = kit.engine.copies_state("data");
    assert_eq!(state, SetState::Degraded);
    assert!(why.is_some_and(|why| why.starts_with("21 entries of copy 1")));
    catalog(&mut kit, 2);
    assert_eq!(kit.engine.copies_state("data").0, SetState::Ok);
}

#[test]
fn what_was_to_be_removed_by_hand_is_judged_again_when_its_turn_comes() {
    let mut plan = testing::plan("data");
    plan.keep.min_keep = 1;
    let mut kit = begin(plan);
    catalog(&mut kit, 3);
    let command = |request, job| CopyEvent::Command {
        request: RequestId(request),
        caller: Caller::Agent,
        set: "data".to_owned(),
        job,
        wait: Wait::Outcome,
    };
    let verify = Job::Verify { which: crate::engine::copies::order::Which::One(3) };
    assert!(is_order(&say(&mut kit, command(70, verify)), "Verify"));
    assert!(say(&mut kit, command(71, Job::Prune { copies: vec![1, 2] })).is_empty(), "waits for its turn");
    // What is verified turns out to be bad, so copy 2 is the newest good one by now.
    let copies = (1..=3).map(|seq| Copy { bad: u64::from(seq == 3), ..testing::copy(seq, kit.now.wall) }).collect();
    report(&mut kit, Report::Catalog(Box::new(testing::catalog(copies))));
    let words = done(&mut kit, Outcome::Verified { copies: vec![3], files: 1, bytes: 1, bad: 1, mended: 0 });
    assert!(!words.iter().any(|word| word.contains("Prune")), "{words:?}");
    assert!(
        words.iter().any(|word| word.starts_with("answer 71: ") && word.contains("copy 2 is not removed")),
        "{words:?}"
    );
}
