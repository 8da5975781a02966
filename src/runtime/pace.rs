//! How often something is tried again that cannot be waited for: often at first, seldom when it lasts.

use std::time::Duration;

use super::RETRY;
use crate::engine::types::Time;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    delay: Duration,
    next: Time,
}

impl Default for Pace {
    fn default() -> Self {
        Self { delay: Duration::ZERO, next: Time(0) }
    }
}

impl Pace {
    #[must_use]
    pub fn is_due(&self, now: Time) -> bool {
        self.next <= now
    }

    #[must_use]
    pub fn deadline(&self) -> Time {
        self.next
    }

    /// It was tried in vain: the next try comes after twice the last wait.
    pub fn back_off(&mut self, now: Time, delay_max: Duration) {
        self.delay = (self.delay * 2).clamp(RETRY, delay_max);
        self.next = now.after(self.delay);
    }

    /// There is something new to try.
    pub fn restart(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_become_seldom_and_something_new_is_tried_at_once() {
        let (mut pace, mut now, mut tries) = (Pace::default(), Time(0), 0);
        let max = Duration::from_secs(5);
        while now < Time(60_000_000_000) {
            assert!(pace.is_due(now));
            pace.back_off(now, max);
            assert!(!pace.is_due(now));
            now = pace.deadline();
            tries += 1;
        }
        assert!((15..25).contains(&tries), "{tries}");
        pace.restart();
        assert!(pace.is_due(Time(0)));
    }
}
