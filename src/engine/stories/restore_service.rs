//! The data of a service come from a copy: it is down for the exchange only, and what was there comes back when it is not well with them.

use std::time::Duration;

use crate::engine::action::Action;
use crate::engine::copies::event::CopyEvent;
use crate::engine::copies::order::{Failure, FailureKind, Outcome, Report, Swap, SwapKind};
use crate::engine::copies::restore_service::RestoreAsked;
use crate::engine::copies::testing;
use crate::engine::event::{Caller, Decision, Event, FoundProcess, Remaining, Verb, Wait, Wanted};
use crate::engine::plan::{Needs, Plan, Readiness, ServicePlan};
use crate::engine::testkit::{Kit, ms, service, tcp};
use crate::engine::types::{Exit, RequestId, StateName, Time};

const START: Time = Time(1_000_000_000_000);
/// It has shown that it is well when it has been up for so long.
const STAYS: Duration = Duration::from_secs(2);

fn with_data(name: &str) -> ServicePlan {
    let mut plan = service(name);
    plan.needs = Some(Box::new(Needs { data: vec!["/srv/data/api".into()], ..Needs::default() }));
    plan
}

/// A service `api` that is ready, and a set that has its data: copy 1 verified, copy 2 not.
fn begin(api: ServicePlan) -> Kit {
    let plan = Plan { copies: vec![testing::plan("data")], ..Kit::plan(vec![api]) };
    let mut kit = Kit::begin_with(START, plan, Vec::new(), Vec::new());
    kit.exec("api");
    hear(&mut kit);
    kit
}

fn hear(kit: &mut Kit) {
    say(kit, CopyEvent::Linked { set: "data".to_owned() });
    let mut copies: Vec<_> = (1..=2).map(|seq| testing::copy(seq, kit.now.wall)).collect();
    copies[0].verified = Some(crate::engine::copies::catalog::Verified { at: kit.now.wall, cold: true });
    let catalog = Box::new(testing::catalog(copies));
    say(kit, CopyEvent::Report { set: "data".to_owned(), report: Report::Catalog(catalog) });
}

fn say(kit: &mut Kit, event: CopyEvent) -> Vec<String> {
    kit.step(Event::Copies(Box::new(event)))
}

fn ask(kit: &mut Kit, seq: Option<u64>, dry_run: bool) -> Vec<String> {
    let asked = RestoreAsked { seq, dry_run, force: false, wait: Wait::Outcome };
    let (request, service) = (RequestId(70), "api".to_owned());
    say(kit, CopyEvent::RestoreService { request, caller: Caller::Agent, service, asked })
}

fn done(kit: &mut Kit, outcome: Outcome) -> Vec<String> {
    let order = kit.engine.copies_order("data").expect("an order");
    say(kit, CopyEvent::Report { set: "data".to_owned(), report: Report::Done { order, outcome } })
}

fn built() -> Outcome {
    let at = |name: &str| format!("/srv/data/{name}").into();
    let swap = Swap {
        path: at("api"),
        kind: SwapKind::Taken,
        built: at(".api.mainstay-restore"),
        kept: at(".api.before-1"),
        aside: at(".api.failed-1"),
        new: 7,
    };
    Outcome::Built { seq: 1, files: 1, bytes: 1, swaps: vec![swap] }
}

fn swapped() -> Outcome {
    Outcome::Swapped { aside: Vec::new() }
}

fn back() -> Outcome {
    Outcome::Swapped { aside: vec!["/srv/data/.api.failed-1".into()] }
}

fn broken() -> Outcome {
    Outcome::Failed(Failure { kind: FailureKind::Other, what: "it would not".to_owned(), remedy: None })
}

fn has(words: &[String], what: &str) -> bool {
    words.iter().any(|word| word.contains(what))
}

/// The decision of the last step cannot be written down.
fn refuse(kit: &mut Kit) -> Vec<String> {
    let decided = |action: &Action| if let Action::Decide { decision, .. } = action { Some(*decision) } else { None };
    let decision = kit.last.iter().find_map(decided).expect("a decision");
    kit.step(Event::Persisted { decision, result: Err("no space".to_owned()) })
}

/// As far as the order to exchange.
fn until_swap(kit: &mut Kit) {
    assert!(has(&ask(kit, None, false), "Beside"), "built beside, while it goes on");
    assert_eq!(kit.state("api"), StateName::Ready);
    assert!(has(&done(kit, built()), "SIGTERM to main of api/0"));
    let words = kit.exit("api", 0);
    assert!(has(&words, "decide api") && !has(&words, "Exchange"), "not before it is on disk: {words:?}");
    let words = kit.persist();
    assert!(has(&words, "Exchange"), "{words:?}");
    assert_eq!(kit.state("api"), StateName::Stopped);
    assert!(
        kit.why("api").starts_with("its data is replaced by a copy (copies data, copy 1, asked for by"),
        "{}",
        kit.why("api")
    );
}

#[test]
fn the_newest_verified_copy_is_built_beside_exchanged_and_proven() {
    let mut kit = begin(with_data("api"));
    until_swap(&mut kit);
    assert!(has(&done(&mut kit, swapped()), "spawn api/0 run 2"));
    kit.exec("api");
    assert!(!has(&kit.pass(STAYS - ms(1)), "answer"), "it may end again at once");
    let words = kit.pass(ms(1));
    assert!(has(&words, "answer 70: copied ServiceRestored") && has(&words, "ready: true"), "{words:?}");
    let Some(Action::Decide { content, .. }) = kit.last.iter().find(|action| matches!(action, Action::Decide { .. }))
    else {
        panic!("nothing stays on disk: {:?}", kit.last)
    };
    assert!(kit.engine.is_implied(content));
}

#[test]
fn what_was_there_comes_back_when_it_is_not_ready_with_the_copy() {
    let mut api = with_data("api");
    (api.ready, api.start_timeout) = (Readiness::Probe(tcp()), Duration::from_secs(10));
    let plan = Plan { copies: vec![testing::plan("data")], ..Kit::plan(vec![api]) };
    let mut kit = Kit::begin_with(START, plan, Vec::new(), Vec::new());
    kit.exec("api");
    kit.answer("api", Ok(()));
    hear(&mut kit);
    until_swap(&mut kit);
    done(&mut kit, swapped());
    // Three starts end at once: that is no chance.
    let mut ended = Vec::new();
    for _ in 0..3 {
        kit.exec("api");
        ended = kit.exit("api", 1);
        kit.persist();
        kit.pass(Duration::from_secs(3));
    }
    assert!(!has(&ended, "answer"), "{ended:?}");
    let order = kit.engine.copies_order("data");
    assert!(order.is_some(), "put back: {}", kit.why("api"));
    assert!(kit.why("api").contains("its data from before the restore comes back"), "{}", kit.why("api"));
    assert!(has(&done(&mut kit, back()), "spawn api/0"));
    kit.exec("api");
    kit.answer("api", Ok(()));
    let words = kit.pass(STAYS);
    assert!(has(&words, "answer 70") && has(&words, "it did not become ready with its restored data"), "{words:?}");
    assert!(has(&words, "it is ready with it") && has(&words, "/srv/data/.api.failed-1"), "{words:?}");
}

#[test]
fn a_service_that_is_stuck_is_not_restored() {
    let mut kit = begin(with_data("api"));
    ask(&mut kit, None, false);
    done(&mut kit, built());
    kit.pass(Duration::from_secs(15));
    let (replica, run) = (kit.id("api"), kit.run("api"));
    let processes =
        vec![Remaining { pid: 9, comm: "api".into(), state: 'D', wchan: String::new(), devices: Vec::new() }];
    let words = kit.step(Event::TreeRemains { replica, run, processes });
    assert!(has(&words, "Exchange") && has(&words, "Old"), "what was built goes away: {words:?}");
    let words = done(&mut kit, swapped());
    assert!(has(&words, "answer 70") && has(&words, "nothing was restored: api does not stop"), "{words:?}");
}

#[test]
fn a_failed_exchange_is_undone_and_the_service_goes_on() {
    let mut kit = begin(with_data("api"));
    until_swap(&mut kit);
    done(&mut kit, broken());
    let words = kit.persist();
    assert!(has(&words, "Exchange") && has(&words, "Old"), "{words:?}");
    let words = done(&mut kit, broken());
    assert!(has(&words, "answer 70") && has(&words, "is not back yet"), "{words:?}");
    let words = kit.pass(Duration::from_secs(60));
    assert!(has(&words, "Exchange"), "tried again: {words:?}");
    assert!(has(&done(&mut kit, swapped()), "spawn api/0"));
}

#[test]
fn an_operator_may_start_what_cannot_be_put_back() {
    let mut kit = begin(with_data("api"));
    until_swap(&mut kit);
    let words = kit.command(Verb::Start, "api");
    assert!(has(&words, "is being restored"), "{words:?}");
    done(&mut kit, broken());
    kit.persist();
    done(&mut kit, broken());
    assert!(has(&kit.command(Verb::Start, "api"), "spawn api/0"));
}

#[test]
fn what_was_stopped_stays_stopped() {
    let mut kit = begin(with_data("api"));
    kit.command(Verb::Stop, "api");
    kit.exit("api", 0);
    ask(&mut kit, None, false);
    done(&mut kit, built());
    kit.persist();
    let words = done(&mut kit, swapped());
    assert!(has(&words, "ready: false") && has(&words, "stays stopped") && !has(&words, "spawn"), "{words:?}");
}

#[test]
fn the_next_agent_goes_on_where_this_one_was() {
    for (step, job) in [("build", "Beside"), ("swap", "New"), ("prove", "")] {
        let mut kit = begin(with_data("api"));
        match step {
            "build" => drop(ask(&mut kit, None, false)),
            "swap" => until_swap(&mut kit),
            _ => {
                until_swap(&mut kit);
                done(&mut kit, swapped());
                kit.exec("api");
            }
        }
        let process = if step == "swap" {
            FoundProcess::Gone { exit: Some(Exit::Code(0)) }
        } else {
            FoundProcess::Alive { pid: 4_711 }
        };
        kit.heir(&[("api", process)]);
        let stopped = kit.state("api") == StateName::Stopped;
        assert_eq!(stopped, step == "swap", "{step}: {}", kit.state("api"));
        kit.persist();
        hear(&mut kit);
        if step == "prove" {
            kit.pass(STAYS);
            assert!(kit.engine.copies_order("data").is_none());
            continue;
        }
        kit.persist();
        let order = kit.engine.copies_order("data");
        assert!(order.is_some(), "{step}: {job}");
        if step == "swap" {
            assert!(has(&done(&mut kit, swapped()), "spawn api/0"), "{step}");
        } else {
            assert!(has(&done(&mut kit, built()), "SIGTERM to main of api/0"), "{step}");
        }
    }
}

#[test]
fn what_has_nothing_to_be_restored_from_is_refused_with_what_there_is() {
    let mut kit = begin(service("api"));
    let words = ask(&mut kit, None, false);
    assert!(has(&words, "api declares no `data`") && has(&words, "the sets are data (/srv/data)"), "{words:?}");
    let mut kit = begin(with_data("api"));
    assert!(has(&ask(&mut kit, Some(9), false), "copies data has no copy 9"));
    ask(&mut kit, Some(2), true);
    let words = ask(&mut kit, None, false);
    assert!(has(&words, "a restore of api is under way"), "one at a time: {words:?}");
    let lines = vec!["~ /srv/data/api/x".to_owned()];
    let words = done(&mut kit, Outcome::WouldRestore { seq: 2, lines, more: 0 });
    assert!(has(&words, "answer 70: copied WouldRestore") && has(&words, "nobody has verified"), "{words:?}");
    assert_eq!(kit.state("api"), StateName::Ready);
}

#[test]
fn who_asks_before_the_role_is_heard_waits_for_it_and_not_for_ever() {
    let plan = || Plan { copies: vec![testing::plan("data")], ..Kit::plan(vec![with_data("api")]) };
    let mut kit = Kit::begin_with(START, plan(), Vec::new(), Vec::new());
    kit.exec("api");
    assert!(!has(&ask(&mut kit, None, false), "answer"), "it is heard in a moment");
    hear(&mut kit);
    assert!(kit.engine.copies_order("data").is_some(), "{}", kit.why("api"));

    let mut kit = Kit::begin_with(START, plan(), Vec::new(), Vec::new());
    kit.exec("api");
    ask(&mut kit, None, false);
    assert!(!has(&kit.pass(Duration::from_secs(14)), "answer"));
    let words = kit.pass(Duration::from_secs(1));
    assert!(has(&words, "answer 70") && has(&words, "the role of copies data does not answer"), "{words:?}");
}

/// The next agent reads a configuration without the service.
fn heir_without(kit: &mut Kit, decisions: Vec<Decision>) -> String {
    let plan = Plan { copies: vec![testing::plan("data")], ..Kit::plan(vec![service("other")]) };
    let now = kit.now.mono;
    *kit = Kit::begin_with(now, plan, Vec::new(), decisions);
    kit.notes().join("\n")
}

/// What the last step had written down of the service.
fn on_disk(kit: &Kit) -> Vec<Decision> {
    let found = kit.last.iter().rev().find_map(|action| {
        let Action::Decide { content, .. } = action else { return None };
        (content.service == "api").then(|| content.clone())
    });
    found.into_iter().collect()
}

#[test]
fn what_lies_where_is_told_when_the_next_agent_knows_no_such_service() {
    let mut kit = begin(with_data("api"));
    ask(&mut kit, None, false);
    let building = on_disk(&kit);
    done(&mut kit, built());
    let holding = on_disk(&kit);
    kit.exit("api", 0);
    let swapping = on_disk(&kit);
    kit.persist();
    done(&mut kit, swapped());
    let proving = on_disk(&kit);

    let told = heir_without(&mut kit, building);
    assert!(told.contains("nothing was exchanged; what may have been built lies beside /srv/data/api"), "{told}");
    let told = heir_without(&mut kit, holding);
    assert!(told.contains("what was built lies in /srv/data/.api.mainstay-restore and can be removed"), "{told}");
    let told = heir_without(&mut kit, swapping);
    assert!(told.contains("what was there before lies in /srv/data/.api.before-1, or still in its place"), "{told}");
    assert!(told.contains("what comes from the copy lies in /srv/data/.api.mainstay-restore"), "{told}");
    let mut proving = proving;
    proving[0].wanted = Wanted::Down;
    let told = heir_without(&mut kit, proving);
    assert!(
        told.contains("/srv/data/api come from the copy; what was there before lies in /srv/data/.api.before-1"),
        "{told}"
    );
    // Once: what else was decided of the service stays.
    let left = on_disk(&kit);
    assert!(left[0].restore.is_none() && left[0].wanted == Wanted::Down, "{left:?}");
    let told = heir_without(&mut kit, left);
    assert!(!told.contains("restore"), "{told}");
}

#[test]
fn two_services_with_the_same_data_are_not_restored_at_the_same_time() {
    let plan = Plan { copies: vec![testing::plan("data")], ..Kit::plan(vec![with_data("api"), with_data("web")]) };
    let mut kit = Kit::begin_with(START, plan, Vec::new(), Vec::new());
    kit.exec("api");
    kit.exec("web");
    hear(&mut kit);
    let asked = RestoreAsked { seq: None, dry_run: false, force: false, wait: Wait::Outcome };
    let (request, service) = (RequestId(71), "web".to_owned());
    say(&mut kit, CopyEvent::RestoreService { request, caller: Caller::Agent, service, asked });
    let words = ask(&mut kit, None, false);
    assert!(has(&words, "/srv/data/api is being restored for web"), "{words:?}");
}

#[test]
fn a_copy_that_another_set_makes_of_the_same_data_is_ended_before_they_are_replaced() {
    for ends in [true, false] {
        let mut all = testing::plan("all");
        (all.from, all.when.every) = (vec!["/srv".into()], Some(Duration::from_secs(3_600)));
        let plan = Plan { copies: vec![all, testing::plan("data")], ..Kit::plan(vec![with_data("api")]) };
        let mut kit = Kit::begin_with(START, plan, Vec::new(), Vec::new());
        kit.exec("api");
        hear(&mut kit);
        say(&mut kit, CopyEvent::Linked { set: "all".to_owned() });
        let of_all = |report| CopyEvent::Report { set: "all".to_owned(), report };
        let words = say(&mut kit, of_all(Report::Catalog(Box::new(testing::catalog(Vec::new())))));
        assert!(has(&words, "Take"), "{words:?}");
        let order = kit.engine.copies_order("all").expect("an order");
        assert!(has(&ask(&mut kit, None, false), "copy all Cancel"));
        let words = done(&mut kit, built());
        assert!(!has(&words, "SIGTERM"), "half of that copy would be of what was there, half of what comes: {words:?}");
        if ends {
            let failure = Failure { kind: FailureKind::Cancelled, what: "cancelled".to_owned(), remedy: None };
            let words = say(&mut kit, of_all(Report::Done { order, outcome: Outcome::Failed(failure) }));
            assert!(has(&words, "SIGTERM to main of api/0") && !has(&words, "Take"), "{words:?}");
        } else {
            let words = kit.pass(Duration::from_secs(60));
            assert!(has(&words, "Old") && !has(&words, "SIGTERM"), "nobody waits for it for ever: {words:?}");
            let words = done(&mut kit, swapped());
            assert!(has(&words, "answer 70") && has(&words, "copies all"), "{words:?}");
        }
    }
}

#[test]
fn what_was_there_does_not_begin_to_come_back_before_that_is_on_disk() {
    for saved in ["yes", "no", "never"] {
        let mut kit = begin(with_data("api"));
        until_swap(&mut kit);
        let words = done(&mut kit, broken());
        assert!(has(&words, "decide api") && !has(&words, "Exchange"), "{words:?}");
        let words = match saved {
            "yes" => kit.persist(),
            "no" => refuse(&mut kit),
            _ => kit.pass(Duration::from_secs(10)),
        };
        assert!(has(&words, "Exchange") && has(&words, "Old"), "it comes back all the same: {saved}: {words:?}");
    }
}

#[test]
fn that_a_restore_is_over_is_written_down_until_it_is_on_disk() {
    let mut kit = begin(with_data("api"));
    until_swap(&mut kit);
    done(&mut kit, swapped());
    kit.exec("api");
    assert!(has(&kit.pass(STAYS), "answer 70"));
    for _ in 0..2 {
        refuse(&mut kit);
        let words = kit.pass(Duration::from_secs(60));
        assert_eq!(words, ["decide api Up"], "the next agent would go on with it");
    }
    kit.persist();
    assert!(kit.pass(Duration::from_secs(600)).is_empty());
}
