use super::*;
use crate::engine::host::kind::CheckKind;
use crate::engine::host::plan::CheckPlan;
use crate::engine::host::rules::Wishes;
use crate::engine::host::sample::Devices;

/// A check with the rules of `memory` (fall 3, rise 5, hold 60 s), read every five seconds.
struct Story {
    rule: Rule,
    condition: Condition,
    now: Now,
}

impl Story {
    fn new() -> Self {
        Self::of(CheckKind::Memory)
    }

    fn of(kind: CheckKind) -> Self {
        let wishes = Wishes { plans: &[], defaults: true, services: &[] };
        let found = wishes.checks(&Devices::default()).into_iter().find(|found| found.0 == kind);
        Self { rule: found.expect("a check of the host").3, condition: Condition::default(), now: Now::default() }
    }

    /// Reads `level` (that it would enter) and `hold` every five seconds, so often; the states shown when they changed.
    fn reads(&mut self, times: u32, enter: Health, hold: Health) -> Vec<Health> {
        let mut shown = Vec::new();
        for _ in 0..times {
            self.now.mono = self.now.mono.after(Duration::from_secs(5));
            let verdict = Verdict { value: Some(1), enter, hold, why: enter.word().to_owned() };
            shown.extend(self.condition.judge(&self.rule, verdict, self.now).changed.map(|(_, to)| to));
        }
        shown
    }
}

use Health::{Absent, Degraded, Failing, Ok, Unknown};

#[test]
fn the_first_good_reading_is_believed() {
    let mut story = Story::new();
    assert_eq!(story.reads(1, Ok, Ok), [Ok]);
}

#[test]
fn three_bad_readings_in_a_row_are_needed() {
    let mut story = Story::new();
    story.reads(1, Ok, Ok);
    assert_eq!(story.reads(2, Degraded, Degraded), []);
    assert_eq!(story.reads(1, Ok, Ok), []);
    assert_eq!(story.reads(2, Degraded, Degraded), []);
    assert_eq!(story.reads(1, Failing, Failing), [Degraded], "the third bad one, whatever it is beside");
    assert_eq!(story.reads(2, Failing, Failing), [Failing]);
}

#[test]
fn between_its_thresholds_nothing_changes() {
    let mut story = Story::new();
    story.reads(1, Ok, Ok);
    story.reads(3, Degraded, Degraded);
    assert_eq!(story.reads(100, Ok, Degraded), []);
    assert_eq!(story.condition.state, Degraded);
}

#[test]
fn good_comes_after_five_readings_and_a_minute() {
    let mut story = Story::new();
    story.reads(1, Ok, Ok);
    story.reads(3, Failing, Failing);
    assert_eq!(story.reads(11, Ok, Ok), [], "55 s");
    assert_eq!(story.reads(1, Ok, Ok), [Ok]);
    story.reads(120, Ok, Ok);
    story.reads(23, Failing, Failing);
    assert_eq!(story.reads(4, Ok, Ok), []);
    assert_eq!(story.reads(1, Ok, Ok), [Ok]);
}

#[test]
fn what_is_shown_for_a_while_is_told_from_what_is_so() {
    let mut story = Story::new();
    story.reads(1, Ok, Ok);
    story.reads(3, Failing, Failing);
    assert!(story.condition.is_as_shown());
    story.reads(1, Degraded, Failing);
    assert!(story.condition.is_as_shown(), "between its thresholds");
    story.reads(1, Ok, Ok);
    assert!(story.condition.state == Failing && !story.condition.is_as_shown());
    story.reads(1, Failing, Failing);
    assert!(story.condition.is_as_shown());
}

#[test]
fn failing_becomes_degraded_where_the_good_run_was_not_all_good() {
    let mut story = Story::new();
    story.reads(1, Ok, Ok);
    story.reads(15, Failing, Failing);
    assert_eq!(story.reads(4, Ok, Ok), []);
    assert_eq!(story.reads(1, Ok, Degraded), [Degraded]);
}

#[test]
fn a_latch_is_bad_at_once_and_until_it_expires() {
    let mut story = Story::new();
    story.reads(1, Ok, Ok);
    let until = Some(story.now.mono.after(Duration::from_secs(600)));
    let turn = story.condition.latch(Latch { level: Failing, until, why: "one error".into() }, story.now);
    assert_eq!(turn.changed, Some((Ok, Failing)));
    assert_eq!(story.reads(119, Ok, Ok), []);
    assert_eq!(story.condition.why, "one error");
    assert_eq!(story.reads(10, Ok, Ok), [Ok]);
}

#[test]
fn a_latch_without_end_is_released() {
    let mut story = Story::new();
    story.reads(1, Ok, Ok);
    story.condition.latch(Latch { level: Failing, until: None, why: "x".into() }, story.now);
    assert_eq!(story.reads(1_000, Ok, Ok), []);
    assert!(story.condition.release().kept);
    assert_eq!(story.reads(5, Ok, Ok), [Ok]);
}

#[test]
fn silence_makes_good_unknown_and_leaves_bad_bad() {
    let mut story = Story::new();
    story.reads(1, Ok, Ok);
    assert_eq!(story.condition.overdue("no answer", story.now).changed, Some((Ok, Unknown)));
    assert_eq!(story.reads(1, Ok, Ok), [Ok]);
    story.reads(3, Degraded, Degraded);
    assert_eq!(story.condition.overdue("no answer", story.now), Turn::default());
    assert_eq!(story.condition.state, Degraded);
}

#[test]
fn silence_breaks_a_run_of_bad_readings() {
    let mut story = Story::new();
    story.reads(1, Ok, Ok);
    story.reads(2, Failing, Failing);
    story.condition.overdue("no answer", story.now);
    assert_eq!(story.reads(2, Failing, Failing), []);
    assert_eq!(story.reads(1, Failing, Failing), [Failing]);
}

#[test]
fn absence_is_told_once() {
    let mut story = Story::new();
    assert!(story.condition.become_absent("no swap".into(), story.now).absent);
    assert!(!story.condition.become_absent("no swap".into(), story.now).absent);
    assert_eq!(story.reads(1, Ok, Ok), [Ok]);
    let again = story.condition.become_absent("no swap".into(), story.now);
    assert_eq!((again.changed, again.absent), (Some((Ok, Absent)), false));
}

#[test]
fn who_goes_back_and_forth_is_pinned_to_the_worst_and_said_once() {
    let mut story = Story::of(CheckKind::MachineCheck);
    story.reads(1, Ok, Ok);
    let mut flapping = 0;
    let mut shown = Vec::new();
    for _ in 0..6 {
        for level in std::iter::once(Failing).chain(std::iter::repeat_n(Ok, 12)) {
            story.now.mono = story.now.mono.after(Duration::from_secs(5));
            let verdict = Verdict::plain(level, None, String::new());
            let turn = story.condition.judge(&story.rule, verdict, story.now);
            flapping += u32::from(turn.flapping.is_some());
            shown.extend(turn.changed.map(|(_, to)| to));
        }
    }
    assert_eq!(shown, [Failing, Ok, Failing], "the fourth change is not shown");
    assert_eq!(flapping, 1);
    // The last change was at the end of the sixth round.
    assert_eq!(story.reads(119, Ok, Ok), []);
    assert_eq!(story.reads(1, Ok, Ok), [Ok]);
    assert_eq!(story.condition.pin, None);
}

#[test]
fn the_operators_word_goes_first_key_by_key() {
    let plan = |target: Option<&str>, fall| CheckPlan {
        name: "mem".into(),
        kind: CheckKind::Memory,
        target: target.map(str::to_owned),
        enabled: true,
        every: None,
        degraded: Some(crate::engine::host::plan::Band { enter: 500, leave: 400 }),
        failing: None,
        fall,
        rise: None,
    };
    let plans = [plan(None, Some(7)), plan(Some(""), Some(2))];
    let wishes = Wishes { plans: &plans, defaults: false, services: &[] };
    let found = wishes.checks(&Devices::default());
    assert_eq!(found.len(), 1, "only what is configured");
    let (_, _, name, rule) = &found[0];
    assert_eq!(name, "mem");
    assert_eq!((rule.fall, rule.fall_failing, rule.rise), (2, 2, 5));
    assert_eq!(rule.degraded.map(|band| band.enter), Some(500));
    assert_eq!(rule.failing.map(|band| band.enter), Some(960));
    assert!(rule.own_degraded && !rule.own_failing);
}
