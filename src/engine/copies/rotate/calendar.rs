//! The periods of UTC that a time lies in, as numbers that grow.

use crate::engine::types::Time;

const HOUR_S: u64 = 3_600;
const DAY_S: u64 = 24 * HOUR_S;

fn seconds(at: Time) -> u64 {
    at.0 / 1_000_000_000
}

pub(super) fn hour(at: Time) -> u64 {
    seconds(at) / HOUR_S
}

pub(super) fn day(at: Time) -> u64 {
    seconds(at) / DAY_S
}

/// Weeks begin on Monday; 1 January 1970 was a Thursday.
pub(super) fn iso_week(at: Time) -> u64 {
    (day(at) + 3) / 7
}

pub(super) fn month(at: Time) -> u64 {
    let (year, month) = civil(at);
    year * 12 + month
}

pub(super) fn year(at: Time) -> u64 {
    civil(at).0
}

/// Year and month (from 0), by the arithmetic of years that begin in March, so that a leap day is the last of its year.
fn civil(at: Time) -> (u64, u64) {
    const DAYS_400_YEARS: u64 = 146_097;
    // From 1 March of the year 0 to 1 January 1970.
    let days = day(at) + 719_468;
    let (era, of_era) = (days / DAYS_400_YEARS, days % DAYS_400_YEARS);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / (DAYS_400_YEARS - 1)) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = (from_march + 2) % 12;
    let year = era * 400 + year_of_era + u64::from(month < 2);
    (year, month)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000_000)
    }

    #[test]
    fn periods_begin_where_they_should() {
        assert_eq!(civil(at(0)), (1970, 0));
        // 2024-02-29T23:59:59Z and the second after it.
        assert_eq!(civil(at(1_709_251_199)), (2024, 1));
        assert_eq!(civil(at(1_709_251_200)), (2024, 2));
        // 2025-12-31T23:59:59Z and the second after it.
        assert_eq!(civil(at(1_767_225_599)), (2025, 11));
        assert_eq!(civil(at(1_767_225_600)), (2026, 0));
        // 2000-02-29 and 2000-03-01; 2100 has no leap day.
        assert_eq!(civil(at(951_782_400)), (2000, 1));
        assert_eq!(civil(at(951_868_800)), (2000, 2));
        assert_eq!(civil(at(4_107_542_399)), (2100, 1));
        assert_eq!(civil(at(4_107_542_400)), (2100, 2));
        // Sunday 2026-11-22 and Monday 2026-11-23.
        assert_eq!(iso_week(at(1_795_391_999)) + 1, iso_week(at(1_795_392_000)));
        // Thursday 2026-12-31 and Friday 2027-01-01 are in one week.
        assert_eq!(iso_week(at(1_798_675_200)), iso_week(at(1_798_761_600)));
    }
}
