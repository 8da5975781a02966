//! Time until a file system is full: a straight line through the last hour, by least squares in whole numbers.
//!
//! Such predictions are the classic false alarm, so they are gated: half an hour of data, a line that fits, a disk that is
//! mostly full already, and more in use than it had before it was last cleaned up (a log that is rotated grows as straight as a leak).

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::Health;
use super::super::condition::Verdict;
use super::super::kind::CheckKind;
use super::super::words::{bytes, percent, permille};
use super::{Bench, DAY, by_bands, threshold};
use crate::engine::types::{Time, human};

const EVERY: Duration = Duration::from_secs(60);
const POINTS_MAX: usize = 60;
const POINTS_LEAST: usize = 30;
/// Less used than this says nothing, however steep: degraded and failing, in thousandths.
const USED_LEAST: (i64, i64) = (600, 800);
/// So much less than before (in thousandths of the size) is a clean-up.
const CLEANED: i64 = 20;
/// The share of the variance that the line explains, in hundredths.
const FIT_LEAST: i128 = 80;
/// Beyond this nobody cares.
const FAR: Duration = Duration::from_secs(365 * 24 * 3_600);

/// The use of a file system within the last hour, a point a minute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::engine::host) struct Ring {
    /// When, in seconds, and used KiB.
    points: VecDeque<(u64, u64)>,
    size_kib: u64,
    /// What was in use before it was last cleaned up, and when that was.
    peak: Option<(Time, u64)>,
}

impl Ring {
    /// Whether it was time for a point.
    fn add(&mut self, now: Time, used_bytes: u64, size_bytes: u64) -> bool {
        let (second, used, size) = (now.0 / 1_000_000_000, used_bytes >> 10, size_bytes >> 10);
        // Root's share moves with its files: only a real change of the size counts.
        if size.abs_diff(self.size_kib) > self.size_kib / 100 {
            *self = Self { size_kib: size, ..Self::default() };
        }
        let last = self.points.back().copied();
        if last.is_some_and(|(at, _)| second < at + EVERY.as_secs()) {
            return false;
        }
        if last.is_some_and(|(at, _)| second > at + 3 * EVERY.as_secs()) {
            self.points.clear();
        }
        let highest = self.points.iter().map(|(_, used)| *used).max().unwrap_or_default();
        if permille(highest.saturating_sub(used), self.size_kib) >= CLEANED {
            self.peak = Some((now, highest.max(self.peak.map_or(0, |(_, peak)| peak))));
            self.points.clear();
        }
        if self.points.len() == POINTS_MAX {
            self.points.pop_front();
        }
        self.points.push_back((second, used));
        if self.peak.is_some_and(|(at, _)| now.since(at) > DAY) {
            self.peak = None;
        }
        true
    }

    /// Less is in use than there was before it was cleaned up.
    fn is_cleaned_up(&self) -> bool {
        let used = self.points.back().map_or(0, |(_, used)| *used);
        self.peak.is_some_and(|(_, peak)| used <= peak)
    }

    /// Time until `size` is used up; `None`: not at this pace, or nobody knows.
    fn full_in(&self) -> Option<Duration> {
        let (first, _) = self.points.front()?;
        let (_, used) = self.points.back()?;
        if self.points.len() < POINTS_LEAST || self.is_cleaned_up() {
            return None;
        }
        // Small enough that no product below leaves an i128: 30 bits of use, 13 of time, 60 points.
        let lowest = self.points.iter().map(|(_, used)| *used).min()?;
        let highest = self.points.iter().map(|(_, used)| *used).max()?;
        let shift = (64 - (highest - lowest).leading_zeros()).saturating_sub(30);
        let count = i128::try_from(self.points.len()).ok()?;
        let (mut x, mut y, mut xx, mut xy, mut yy) = (0_i128, 0_i128, 0_i128, 0_i128, 0_i128);
        for (at, used) in &self.points {
            let (at, used) = (i128::from(at - first), i128::from((used - lowest) >> shift));
            x += at;
            y += used;
            xx += at * at;
            xy += at * used;
            yy += used * used;
        }
        let (sxx, sxy, syy) = (count * xx - x * x, count * xy - x * y, count * yy - y * y);
        if sxx <= 0 || sxy <= 0 || syy <= 0 || sxy * sxy * 100 < sxx * syy * FIT_LEAST {
            return None;
        }
        let left = i128::from(self.size_kib.saturating_sub(*used) >> shift);
        let seconds = left.checked_mul(sxx)?.checked_div(sxy)?;
        let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
        Some(Duration::from_secs(seconds).min(FAR))
    }
}

impl Bench<'_> {
    pub(super) fn fill(&mut self, mount: &str, used_bytes: u64, size_bytes: u64) {
        const KIND: CheckKind = CheckKind::DiskFill;
        if self.check(KIND, mount).is_none() {
            return;
        }
        let now = self.now;
        let ring = &mut self.seen.mounts.entry(mount.to_owned()).or_default().ring;
        if !ring.add(now, used_bytes, size_bytes) {
            return;
        }
        let (points, full_in) = (ring.points.len(), ring.full_in());
        let is_new = points < POINTS_LEAST && !ring.is_cleaned_up();
        if is_new && self.check(KIND, mount).is_some_and(|check| check.condition.is_bad()) {
            // Known from before a restart: too little data is no recovery.
            return;
        }
        let used = permille(used_bytes, size_bytes);
        let left = bytes(size_bytes.saturating_sub(used_bytes));
        let verdict = match full_in {
            None if points < POINTS_LEAST => {
                Verdict::plain(Health::Ok, None, format!("{points} of {POINTS_LEAST} minutes of data"))
            }
            None => {
                Verdict::plain(Health::Ok, None, format!("{} used, {left} left, and no steady growth", percent(used)))
            }
            Some(full_in) => {
                let value = i64::try_from(full_in.as_millis()).unwrap_or(i64::MAX);
                let text = format!("full in {} at the pace of the last hour, {left} left", human(full_in));
                self.gated(mount, value, used, text)
            }
        };
        self.say(KIND, mount, verdict);
    }

    fn gated(&self, mount: &str, value: i64, used: i64, text: String) -> Verdict {
        const KIND: CheckKind = CheckKind::DiskFill;
        let Some(check) = self.check(KIND, mount) else {
            return Verdict::plain(Health::Ok, Some(value), text);
        };
        let mut rule = check.rule.clone();
        if used < USED_LEAST.0 && !rule.own_degraded {
            rule.degraded = None;
        }
        if used < USED_LEAST.1 && !rule.own_failing {
            rule.failing = None;
        }
        let (enter, hold) = by_bands(&rule, true, value);
        let why = threshold(KIND, &rule, (enter, hold), check.condition.state)
            .map_or(text.clone(), |from| format!("{text} ({from})"));
        Verdict { value: Some(value), enter, hold, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const SIZE: u64 = 1_000 * GIB;

    /// A ring after these uses in GiB, one a minute.
    fn ring(uses: impl IntoIterator<Item = u64>) -> Ring {
        let mut ring = Ring::default();
        for (minute, used) in (0..).zip(uses) {
            ring.add(Time(minute * 60_000_000_000), used * GIB, SIZE);
        }
        ring
    }

    #[test]
    fn steady_growth_ends_when_it_is_full() {
        let hours = |uses: Vec<u64>| ring(uses).full_in().map(|full| full.as_secs() / 60);
        assert_eq!(hours((700..759).collect()), Some(242), "242 GiB are left at one a minute");
        assert_eq!(hours((700..728).collect()), None, "28 minutes say nothing");
        assert_eq!(hours(vec![700; 60]), None);
        assert_eq!(hours((700..760).rev().collect()), None);
    }

    #[test]
    fn the_whole_range_of_sizes_can_be_counted() {
        let mut ring = Ring::default();
        for minute in 0..60 {
            ring.add(Time(minute * 60_000_000_000), minute << 57, u64::MAX);
        }
        let left = ring.full_in().expect("it grows");
        assert!((4_000..4_300).contains(&left.as_secs()), "{left:?}");
    }

    #[test]
    fn what_jumps_about_fits_no_line() {
        let noise = |minute: u64| 700 + minute / 6 + (minute * 7_919) % 83;
        assert_eq!(ring((0..60).map(noise)).full_in(), None);
    }

    #[test]
    fn a_log_that_is_rotated_is_no_leak() {
        let mut ring = Ring::default();
        let mut alarms = 0;
        for minute in 0..600_u64 {
            // Fills a fifth of the disk within 40 minutes, then it is cleaned up.
            let used = 650 + minute % 40 * 5;
            ring.add(Time(minute * 60_000_000_000), used * GIB, SIZE);
            // The first tooth cannot be told from a leak.
            alarms += u32::from(minute >= 40 && ring.full_in().is_some());
        }
        assert_eq!(alarms, 0);
        for more in 0..60_u64 {
            ring.add(Time((600 + more) * 60_000_000_000), (840 + more) * GIB, SIZE);
        }
        assert!(ring.full_in().is_some(), "it has more in use than it ever had");
    }

    #[test]
    fn a_disk_of_another_size_begins_anew() {
        let mut ring = ring(700..760);
        assert!(ring.full_in().is_some());
        ring.add(Time(60 * 60_000_000_000), 760 * GIB, 2 * SIZE);
        assert_eq!((ring.points.len(), ring.full_in()), (1, None));
    }

    #[test]
    fn after_a_gap_nothing_is_predicted() {
        let mut ring = ring(700..760);
        ring.add(Time(70 * 60_000_000_000), 761 * GIB, SIZE);
        assert_eq!(ring.points.len(), 1);
    }
}
