//! Passive ejection: a backend to which connections fail stays out for a while.
//!
//! [`Eject::after`] failures in a row put it out for [`Eject::base`], up to a fifth more or less so that several proxies do not come back
//! together. After that it is half open: it is tried again, the first success restores it, and the first failure puts it out for
//! twice as long, up to [`Eject::max`]. The defaults (3, 1 s, 30 s) are small because a long fixed time breaks rolling restarts:
//! with ten seconds, 4 replicas that restarted one after the other were all out at once.
//!
//! The last backend that is left is never put out: an attempt that may fail is better than none.

use std::time::Duration;

use super::hash::jitter;
use super::plan::Eject;
use crate::engine::types::Time;

/// What is remembered of one backend; [`Ejection::reset`] when another process takes its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ejection {
    /// In a row.
    failures: u32,
    /// Times out in a row.
    times: u32,
    /// The end of the last time out; kept beyond it, until something succeeds.
    until: Option<Time>,
}

impl Ejection {
    /// A connection could not be made, or was reset before the first byte of answer. `Some`: the backend is out from now on, for so long.
    /// A failure while it is out (of a connection that was made before) changes nothing.
    pub fn failed(&mut self, rules: Eject, now: Time, others_left: bool, draw: u64) -> Option<Duration> {
        if rules.after == 0 || self.is_out(now) {
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        let half_open = self.until.is_some();
        if !others_left || (self.failures < rules.after && !half_open) {
            return None;
        }
        let doubled = rules.base.saturating_mul(1_u32.checked_shl(self.times).unwrap_or(u32::MAX));
        let long = jitter(doubled.min(rules.max), draw).min(rules.max);
        self.times = self.times.saturating_add(1);
        self.failures = 0;
        self.until = Some(now.after(long));
        Some(long)
    }

    /// It has answered. Whether it had been out, and is restored by that.
    pub fn succeeded(&mut self) -> bool {
        let restored = self.until.is_some();
        self.reset();
        restored
    }

    #[must_use]
    pub fn is_out(&self, now: Time) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// How long it stays out; `None` when it is not.
    #[must_use]
    pub fn remaining(&self, now: Time) -> Option<Duration> {
        self.until.filter(|until| now < *until).map(|until| until.since(now))
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Eject = Eject { after: 3, base: Duration::from_secs(1), max: Duration::from_secs(30) };

    fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    fn out(draw: u64) -> (Ejection, Duration) {
        let mut ejection = Ejection::default();
        assert_eq!(ejection.failed(RULES, at(0), true, draw), None);
        assert_eq!(ejection.failed(RULES, at(0), true, draw), None);
        let long = ejection.failed(RULES, at(0), true, draw).unwrap();
        (ejection, long)
    }

    #[test]
    fn failures_in_a_row_put_it_out_and_a_success_between_them_does_not() {
        let mut ejection = Ejection::default();
        for _ in 0..10 {
            assert_eq!(ejection.failed(RULES, at(0), true, 7), None);
            assert_eq!(ejection.failed(RULES, at(0), true, 7), None);
            assert!(!ejection.succeeded());
        }
        let (ejection, long) = out(7);
        assert!(ejection.is_out(at(0)));
        assert_eq!(ejection.remaining(at(0)), Some(long));
        let end = Time::default().after(long);
        assert!(ejection.is_out(Time(end.0 - 1)));
        assert!(!ejection.is_out(end));
        assert_eq!(ejection.remaining(end), None);
    }

    #[test]
    fn times_out_differ_by_a_fifth_and_no_more() {
        let times: std::collections::BTreeSet<Duration> = (0..1_000).map(|draw| out(draw).1).collect();
        assert!(times.len() > 300, "{}", times.len());
        assert!(*times.first().unwrap() >= Duration::from_millis(800));
        assert!(*times.first().unwrap() < Duration::from_millis(810));
        assert!(*times.last().unwrap() <= Duration::from_millis(1_200));
        assert!(*times.last().unwrap() > Duration::from_millis(1_190));
    }

    #[test]
    fn half_open_backend_goes_out_again_at_its_first_failure_for_twice_as_long_up_to_the_most() {
        let (mut ejection, first) = out(3);
        let mut now = Time::default().after(first);
        let mut longest = Duration::ZERO;
        for times in 1..100_u32 {
            let doubled = RULES.base * 2_u32.pow(times.min(10));
            let long = ejection.failed(RULES, now, true, u64::from(times)).unwrap();
            assert!(long <= RULES.max && long >= doubled.min(RULES.max) * 4 / 5, "{times}: {long:?}");
            assert!(long <= doubled * 6 / 5, "{times}: {long:?}");
            assert_eq!(ejection.failed(RULES, now, true, 0), None, "it is out");
            now = now.after(long);
            longest = longest.max(long);
        }
        assert_eq!(longest, RULES.max);
        assert!(ejection.succeeded(), "restored");
        assert!(!ejection.succeeded());
        assert_eq!(ejection.failed(RULES, now, true, 0), None, "it begins anew");
    }

    #[test]
    fn last_backend_stays_and_goes_out_as_soon_as_another_is_there() {
        let mut ejection = Ejection::default();
        for _ in 0..100 {
            assert_eq!(ejection.failed(RULES, at(0), false, 1), None);
        }
        assert!(!ejection.is_out(at(0)));
        assert!(ejection.failed(RULES, at(0), true, 1).is_some());
    }

    #[test]
    fn nothing_goes_out_where_ejection_is_off_and_a_reset_forgets() {
        let off = Eject { after: 0, ..RULES };
        let mut ejection = Ejection::default();
        assert!((0..100).all(|_| ejection.failed(off, at(0), true, 1).is_none()));
        let (mut ejection, _) = out(1);
        ejection.reset();
        assert_eq!(ejection, Ejection::default());
    }
}
