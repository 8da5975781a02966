//! Counts of the latest minutes or hours: two sums that are forgotten bit by bit, so that what happened long ago is no reason for ever.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::types::Time;

/// A span is forgotten in so many steps.
const STEPS: u32 = 12;

/// Two counts (what they are is the judge's business) within a sliding span.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::engine) struct Tally {
    /// The beginning of each step with its counts; at most `STEPS` + 1.
    steps: VecDeque<(Time, u64, u64)>,
    /// Since when it counts; `None`: not yet.
    from: Option<Time>,
}

impl Tally {
    pub(super) fn add(&mut self, now: Time, span: Duration, first: u64, second: u64) {
        self.from.get_or_insert(now);
        self.forget(now, span);
        if first == 0 && second == 0 {
            return;
        }
        match self.steps.back_mut() {
            Some((began, one, two)) if now.since(*began) < span / STEPS => {
                *one = one.saturating_add(first);
                *two = two.saturating_add(second);
            }
            Some(_) | None => self.steps.push_back((now, first, second)),
        }
    }

    pub(super) fn sums(&self) -> (u64, u64) {
        self.steps
            .iter()
            .fold((0, 0), |(one, two), (_, first, second)| (one.saturating_add(*first), two.saturating_add(*second)))
    }

    /// How long it has counted.
    pub(super) fn covers(&self, now: Time) -> Duration {
        self.from.map(|from| now.since(from)).unwrap_or_default()
    }

    fn forget(&mut self, now: Time, span: Duration) {
        while self.steps.front().is_some_and(|(began, ..)| now.since(*began) >= span) {
            self.steps.pop_front();
        }
    }
}

/// How far a counter has come; `None` when it began anew (a device that was plugged in again).
pub(super) fn grown(before: u64, now: u64) -> Option<u64> {
    now.checked_sub(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN_MINUTES: Duration = Duration::from_secs(600);

    fn at(second: u64) -> Time {
        Time(second * 1_000_000_000)
    }

    #[test]
    fn counts_are_forgotten_after_their_span() {
        let mut tally = Tally::default();
        tally.add(at(0), TEN_MINUTES, 1, 0);
        tally.add(at(300), TEN_MINUTES, 2, 5);
        assert_eq!(tally.sums(), (3, 5));
        tally.add(at(600), TEN_MINUTES, 0, 0);
        assert_eq!(tally.sums(), (2, 5));
        tally.add(at(901), TEN_MINUTES, 0, 0);
        assert_eq!(tally.sums(), (0, 0));
        assert_eq!(tally.covers(at(901)), Duration::from_secs(901));
    }

    #[test]
    fn a_long_count_stays_small() {
        let mut tally = Tally::default();
        for second in 0..10_000 {
            tally.add(at(second), TEN_MINUTES, 1, 1);
        }
        assert!(tally.steps.len() <= 13, "{}", tally.steps.len());
        let (one, _) = tally.sums();
        assert!((550..=600).contains(&one), "{one}");
    }

    #[test]
    fn a_counter_that_began_anew_has_not_grown() {
        assert_eq!(grown(7, 9), Some(2));
        assert_eq!(grown(9, 1), None);
    }
}
