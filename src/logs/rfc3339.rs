//! Points in time as text: `2026-11-22T08:00:00.123Z`. Always UTC when written; any offset is understood when read.

use std::time::{SystemTime, UNIX_EPOCH};

const DAY_MS: u64 = 86_400_000;

/// CLOCK_REALTIME in milliseconds since 1970.
#[must_use]
pub(super) fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Years up to 9999; later ones are written as they come.
#[must_use]
pub(super) fn format(unix_ms: u64) -> String {
    let (days, in_day) = (unix_ms / DAY_MS, unix_ms % DAY_MS);
    let (year, month, day) = date_of(days);
    let (hour, minute) = (in_day / 3_600_000, in_day / 60_000 % 60);
    let (second, ms) = (in_day / 1_000 % 60, in_day % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Milliseconds since 1970; `None` for what is not RFC 3339 or lies before 1970.
#[must_use]
pub(super) fn parse(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| -> Option<u64> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let mark = |at: usize, allowed: &[u8]| text.as_bytes().get(at).is_some_and(|byte| allowed.contains(byte));
    if ![(4, "-"), (7, "-"), (10, "Tt "), (13, ":"), (16, ":")].iter().all(|(at, byte)| mark(*at, byte.as_bytes())) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year < 1970 || hour > 23 || minute > 59 || second > 60
    {
        return None;
    }
    let rest = text.get(19..)?;
    let fraction = rest.strip_prefix('.').unwrap_or("");
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
    let ms: u64 = format!("{:0<3}", fraction.get(..digits.min(3))?).parse().ok()?;
    let zone = if digits == 0 { rest } else { rest.get(1 + digits..)? };
    let local = days_before(year, month, day) * DAY_MS + (hour * 3_600 + minute * 60 + second) * 1_000 + ms;
    match zone.as_bytes() {
        [b'Z' | b'z'] => Some(local),
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let part = |from: usize| zone.get(from..from + 2)?.parse::<u64>().ok();
            let offset = (part(1)? * 60 + part(4)?) * 60_000;
            if *sign == b'+' { local.checked_sub(offset) } else { Some(local + offset) }
        }
        _ => None,
    }
}

/// Years are counted from March, so that the leap day is the last day of a year, in eras of 400 years (146,097 days).
fn date_of(days_since_1970: u64) -> (u64, u64, u64) {
    let days = days_since_1970 + 719_468;
    let (era, in_era) = (days / 146_097, days % 146_097);
    let year_in_era = (in_era - in_era / 1_460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year_in_era + year_in_era / 4 - year_in_era / 100);
    let from_march = (5 * in_year + 2) / 153;
    let day = in_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_in_era + u64::from(month <= 2), month, day)
}

/// The inverse of [`date_of`].
fn days_before(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_in_era) = (year / 400, year % 400);
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let in_year = (153 * from_march + 2) / 5 + day - 1;
    let in_era = year_in_era * 365 + year_in_era / 4 - year_in_era / 100 + in_year;
    (era * 146_097 + in_era).saturating_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants_are_written_and_read() {
        let known = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_334_400_123, "2026-11-22T08:00:00.123Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ];
        for (ms, text) in known {
            assert_eq!(format(ms), text);
            assert_eq!(parse(text), Some(ms));
        }
    }

    #[test]
    fn every_day_of_four_centuries_comes_back() {
        for day in 0..146_097 {
            assert_eq!(parse(&format(day * DAY_MS)), Some(day * DAY_MS));
        }
    }

    #[test]
    fn offsets_and_fractions_are_understood_and_rubbish_is_not() {
        assert_eq!(parse("1970-01-01T01:00:00+01:00"), Some(0));
        assert_eq!(parse("1970-01-01T00:00:00.5Z"), Some(500));
        assert_eq!(parse("1970-01-01T00:00:00.123456789Z"), Some(123));
        assert_eq!(parse("1969-12-31T23:00:00-01:30"), None);
        for rubbish in [
            "",
            "yesterday",
            "1970-13-01T00:00:00Z",
            "1970-01-01T00:00:00",
            "1970-01-01T00:00:00.Z",
            "é970-01-01T00:00:00Z",
        ] {
            assert_eq!(parse(rubbish), None, "{rubbish}");
        }
    }
}
