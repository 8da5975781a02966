//! A service holds still for a copy: proven, for a limited time, and whatever else happens to it meanwhile.

use crate::engine::copies::event::CopyEvent;
use crate::engine::copies::order::Report;
use crate::engine::copies::plan::{CopyPlan, Quiesce};
use crate::engine::copies::testing;
use crate::engine::event::Verb;
use crate::engine::fence::gauge::Gauge;
use crate::engine::fence::plan::FenceLevel;
use crate::engine::plan::Plan;
use crate::engine::testkit::{Kit, ms, service};
use crate::engine::types::{StateName, Time};

const FREEZE: Verb = Verb::Fence(FenceLevel::Freeze);
const START: Time = Time(1_000_000_000_000);

/// A service `api` that is ready, and a set whose role works on an order; the number of that.
fn begin() -> (Kit, u64) {
    let mut copies: CopyPlan = testing::plan("data");
    copies.when.every = Some(std::time::Duration::from_secs(3_600));
    copies.quiesce = Quiesce::Freeze { service: "api".to_owned(), max: ms(2_000) };
    let plan = Plan { copies: vec![copies], ..Kit::plan(vec![service("api")]) };
    let mut kit = Kit::begin_with(START, plan, Vec::new(), Vec::new());
    kit.exec("api");
    say(&mut kit, CopyEvent::Linked { set: "data".to_owned() });
    report(&mut kit, Report::Catalog(Box::new(testing::catalog(Vec::new()))));
    let order = kit.engine.copies_order("data").expect("an order");
    (kit, order)
}

fn say(kit: &mut Kit, event: CopyEvent) -> Vec<String> {
    kit.step(crate::engine::event::Event::Copies(Box::new(event)))
}

fn report(kit: &mut Kit, report: Report) -> Vec<String> {
    say(kit, CopyEvent::Report { set: "data".to_owned(), report })
}

fn frozen(kit: &Kit, frozen: Option<bool>) -> Gauge {
    Gauge { frozen, ..kit.gauge("api") }
}

/// Frozen, and proven to be.
fn still() -> (Kit, u64) {
    let (mut kit, order) = begin();
    assert_eq!(report(&mut kit, Report::Quiesce { order, on: true }), ["freeze api/0", "gauge api/0"]);
    let gauge = frozen(&kit, Some(true));
    let words = kit.gauged(gauge);
    assert!(words.len() == 1 && words[0].contains("Quiesced"), "{words:?}");
    (kit, order)
}

#[test]
fn role_is_told_only_what_the_kernel_has_said() {
    let (mut kit, order) = begin();
    assert_eq!(report(&mut kit, Report::Quiesce { order, on: true }), ["freeze api/0", "gauge api/0"]);
    let gauge = frozen(&kit, Some(false));
    assert!(kit.gauged(gauge).is_empty());
    assert_eq!(kit.pass(ms(4)), ["gauge api/0"; 3], "after 1, 2 and 4 ms");
    let gauge = frozen(&kit, Some(true));
    let words = kit.gauged(gauge);
    assert!(words.len() == 1 && words[0].contains("Quiesced"), "{words:?}");
    assert!(kit.pass(ms(1_900)).is_empty(), "nobody looks any more");
}

#[test]
fn service_that_does_not_stand_still_in_time_goes_on_and_there_is_no_copy() {
    let (mut kit, order) = begin();
    report(&mut kit, Report::Quiesce { order, on: true });
    let words = kit.pass(ms(2_000));
    let words: Vec<_> = words.into_iter().filter(|word| !word.starts_with("gauge")).collect();
    assert!(words[0].contains("NotQuiesced") && words[0].contains("within 2s"), "{words:?}");
    assert!(words.contains(&"thaw api/0".to_owned()), "{words:?}");
    // Of a freeze that is over.
    let gauge = frozen(&kit, Some(true));
    assert!(kit.gauged(gauge).is_empty());
}

#[test]
fn host_that_cannot_tell_says_so_at_once() {
    let (mut kit, order) = begin();
    report(&mut kit, Report::Quiesce { order, on: true });
    let gauge = frozen(&kit, None);
    let words = kit.gauged(gauge);
    assert!(words[0].contains("NotQuiesced") && words[0].contains("no cgroup"), "{words:?}");
    assert!(words.contains(&"thaw api/0".to_owned()), "{words:?}");
}

#[test]
fn service_goes_on_when_the_role_is_done_and_at_the_limit_and_with_the_role() {
    let (mut kit, order) = still();
    let words = report(&mut kit, Report::Quiesce { order, on: false });
    assert!(words[0] == "thaw api/0" && words[1].contains("Resumed"), "{words:?}");
    let (mut kit, _) = still();
    assert!(kit.pass(ms(1_999)).is_empty());
    let words = kit.pass(ms(1));
    assert!(words[0] == "thaw api/0" && words[1].contains("Resumed"), "{words:?}");
    let (mut kit, _) = still();
    assert_eq!(say(&mut kit, CopyEvent::Unlinked { set: "data".to_owned() }), ["thaw api/0"]);
}

fn has(words: &[String], what: &str) -> bool {
    words.iter().any(|word| word.contains(what))
}

#[test]
fn what_a_fence_froze_is_not_thawed_by_the_end_of_a_copy() {
    let (mut kit, order) = still();
    let words = [kit.command(FREEZE, "api"), kit.persist()].concat();
    assert!(has(&words, "Keep"), "the role thaws nothing any more: {words:?}");
    let gauge = frozen(&kit, Some(true));
    let words = kit.gauged(gauge);
    assert!(has(&words, "answer"), "proven: {words:?}");
    let words = report(&mut kit, Report::Quiesce { order, on: false });
    assert!(has(&words, "Resumed") && !has(&words, "thaw"), "{words:?}");
    assert_eq!(kit.word_of("api"), "frozen");
    assert!(has(&[kit.command(Verb::Unfence, "api"), kit.persist()].concat(), "thaw api/0"));
}

#[test]
fn what_is_frozen_already_is_only_proven_and_stays_so() {
    let (mut kit, order) = begin();
    kit.command(FREEZE, "api");
    kit.persist();
    let gauge = frozen(&kit, Some(true));
    kit.gauged(gauge);
    assert_eq!(report(&mut kit, Report::Quiesce { order, on: true }), ["gauge api/0"]);
    let gauge = frozen(&kit, Some(true));
    let words = kit.gauged(gauge);
    assert!(has(&words, "Quiesced") && has(&words, "frozen: []"), "it is not the role's to thaw: {words:?}");
    let words = report(&mut kit, Report::Quiesce { order, on: false });
    assert!(has(&words, "Resumed") && !has(&words, "thaw"), "{words:?}");
}

#[test]
fn fence_that_is_lifted_during_a_copy_lets_the_service_stand_still_to_its_end() {
    let (mut kit, order) = still();
    kit.command(FREEZE, "api");
    kit.persist();
    let gauge = frozen(&kit, Some(true));
    kit.gauged(gauge);
    let words = [kit.command(Verb::Unfence, "api"), kit.persist()].concat();
    assert!(!has(&words, "thaw") && !has(&words, "Resumed"), "{words:?}");
    let words = report(&mut kit, Report::Quiesce { order, on: false });
    assert!(has(&words, "thaw api/0") && has(&words, "Resumed"), "{words:?}");
}

#[test]
fn who_stops_or_restarts_a_service_does_not_wait_for_the_copy() {
    for verb in [Verb::Stop, Verb::RestartAtOnce] {
        let (mut kit, order) = still();
        let words = [kit.command(verb, "api"), kit.persist()].concat();
        let place = |what: &str| words.iter().position(|word| word.contains(what));
        let (thawed, signal) = (place("thaw api/0"), place("SIGTERM"));
        assert!(thawed.is_some() && signal.is_some() && thawed < signal, "{words:?}");
        assert!(has(&words, "Resumed"), "what is copied from now on is unstable: {words:?}");
        let words = report(&mut kit, Report::Quiesce { order, on: false });
        assert!(!has(&words, "thaw") && !has(&words, "Resumed"), "{words:?}");
    }
}

#[test]
fn service_that_ends_while_it_stands_still_is_started_and_the_copy_told() {
    let (mut kit, _) = still();
    let words = kit.exit("api", 1);
    assert!(has(&words, "Resumed"), "{words:?}");
}

#[test]
fn replica_that_begins_to_run_during_a_copy_ends_the_stillness() {
    let (mut kit, order) = begin();
    // Down, and to be started again in a moment.
    kit.exit("api", 1);
    assert_eq!(kit.state("api"), StateName::Backoff);
    let words = report(&mut kit, Report::Quiesce { order, on: true });
    assert!(has(&words, "Quiesced"), "nothing of it runs: {words:?}");
    let words = kit.pass(ms(1_500));
    assert!(has(&words, "spawn api/0"), "{words:?}");
    let words = [words, kit.exec("api")].concat();
    assert!(has(&words, "Resumed"), "it writes again, and nobody has seen it stand still: {words:?}");
    assert!(!words.contains(&"freeze api/0".to_owned()) || has(&words, "thaw api/0"), "{words:?}");
}

/// Found by the simulation.
#[test]
fn replica_that_is_thawed_to_be_stopped_is_waited_for_before_the_copy_goes_on() {
    let mut copies: CopyPlan = testing::plan("data");
    copies.when.every = Some(std::time::Duration::from_secs(3_600));
    copies.quiesce = Quiesce::Freeze { service: "api".to_owned(), max: ms(2_000) };
    let mut api = service("api");
    api.replicas = 2;
    let mut kit = Kit::begin_with(START, Plan { copies: vec![copies], ..Kit::plan(vec![api]) }, Vec::new(), Vec::new());
    kit.exec("api/0");
    kit.exec("api/1");
    say(&mut kit, CopyEvent::Linked { set: "data".to_owned() });
    report(&mut kit, Report::Catalog(Box::new(testing::catalog(Vec::new()))));
    let order = kit.engine.copies_order("data").expect("an order");
    report(&mut kit, Report::Quiesce { order, on: true });
    let stands = |kit: &Kit, name: &str| Gauge { frozen: Some(true), ..kit.gauge(name) };
    let gauge = stands(&kit, "api/0");
    assert!(!has(&kit.gauged(gauge), "Quiesced"), "the other one is not known to stand still");
    let words = kit.command(Verb::Stop, "api/0");
    assert!(has(&words, "thaw api/0") && has(&words, "SIGTERM to main of api/0"), "{words:?}");
    let gauge = stands(&kit, "api/1");
    let words = kit.gauged(gauge);
    assert!(!has(&words, "Quiesced"), "api/0 still writes: {words:?}");
    let words = kit.exit("api/0", 0);
    assert!(has(&words, "Quiesced"), "it is gone: {words:?}");
    let role_thaws = format!("{words:?}");
    assert!(role_thaws.contains("index: 1") && !role_thaws.contains("index: 0"), "{words:?}");
}
