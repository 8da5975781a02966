//! RFC 3339 in UTC, written and read. Only the proleptic Gregorian calendar from 1970 on: what a log line or an option can name.

const MS_PER_DAY: u64 = 86_400_000;

/// `2026-11-22T08:00:00.125Z`; the fraction is left out when it is zero.
#[must_use]
pub fn rfc3339(unix_ms: u64) -> String {
    let (year, month, day) = civil(unix_ms / MS_PER_DAY);
    let in_day = unix_ms % MS_PER_DAY;
    let (hour, minute, second, ms) = (in_day / 3_600_000, in_day / 60_000 % 60, in_day / 1_000 % 60, in_day % 1_000);
    let base = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if ms == 0 { format!("{base}Z") } else { format!("{base}.{ms:03}Z") }
}

/// [`rfc3339`] of nanoseconds since 1970, as the engine counts wall time.
#[must_use]
pub fn rfc3339_ns(unix_ns: u64) -> String {
    rfc3339(unix_ns / 1_000_000)
}

/// Milliseconds since 1970. A zone is needed (`Z` or an offset); a blank may stand for the `T`. `None`: not such a time, or before 1970.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    if !text.is_ascii() || bytes.len() < 20 {
        return None;
    }
    let number = |from: usize, to: usize| -> Option<u64> {
        let digits = &text[from..to];
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let separators = [(4, b"-".as_slice()), (7, b"-"), (10, b"Tt "), (13, b":"), (16, b":")];
    if separators.iter().any(|(at, allowed)| !allowed.contains(&bytes[*at])) {
        return None;
    }
    // 60 is a leap second: it is read as the first instant of the next minute.
    if year < 1970 || !(1..=12).contains(&month) || day == 0 || day > days_in(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (fraction_ms, zone) = fraction(&text[19..])?;
    let local = days(year, month, day) * MS_PER_DAY + ((hour * 60 + minute) * 60 + second) * 1_000 + fraction_ms;
    let east_ms = offset_ms(zone)?;
    u64::try_from(i64::try_from(local).ok()? - east_ms).ok()
}

/// The milliseconds of `.123…` (digits beyond are cut) and what follows.
fn fraction(text: &str) -> Option<(u64, &str)> {
    let Some(digits) = text.strip_prefix('.') else { return Some((0, text)) };
    let length = digits.bytes().take_while(u8::is_ascii_digit).count();
    if length == 0 {
        return None;
    }
    let mut ms = 0;
    for place in 0..3 {
        ms = ms * 10 + digits.as_bytes()[..length].get(place).map_or(0, |digit| u64::from(digit - b'0'));
    }
    Some((ms, &digits[length..]))
}

fn offset_ms(zone: &str) -> Option<i64> {
    if zone == "Z" || zone == "z" {
        return Some(0);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = zone[1..].split_once(':')?;
    let both_digits =
        hours.len() == 2 && minutes.len() == 2 && (hours.bytes().chain(minutes.bytes())).all(|b| b.is_ascii_digit());
    let (hours, minutes): (i64, i64) =
        both_digits.then(|| Some((hours.parse().ok()?, minutes.parse().ok()?))).flatten()?;
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes) * 60_000)
}

fn leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 if leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Leap days of the years before `year`, counted from year 1.
fn leap_days_before(year: u64) -> u64 {
    let past = year - 1;
    past / 4 - past / 100 + past / 400
}

/// Days from 1970-01-01 to this date.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let years = (year - 1970) * 365 + leap_days_before(year) - leap_days_before(1970);
    years + (1..month).map(|past| days_in(year, past)).sum::<u64>() + day - 1
}

/// The date this many days after 1970-01-01.
fn civil(days_since_1970: u64) -> (u64, u64, u64) {
    // 365.2425 days a year on average: the guess is at most one year off.
    let mut year = 1970 + days_since_1970 * 10_000 / 3_652_425;
    while days(year, 1, 1) > days_since_1970 {
        year -= 1;
    }
    while days(year + 1, 1, 1) <= days_since_1970 {
        year += 1;
    }
    let mut left = days_since_1970 - days(year, 1, 1);
    let mut month = 1;
    while left >= days_in(year, month) {
        left -= days_in(year, month);
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants_are_written_and_read() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_795_334_400_125, "2026-11-22T08:00:00.125Z"),
            (4_102_444_799_999, "2099-12-31T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(ms), text);
            assert_eq!(parse_rfc3339(text), Some(ms));
        }
    }

    #[test]
    fn every_day_of_four_centuries_survives_the_round_trip() {
        for day in 0..146_097 {
            let ms = day * MS_PER_DAY + 43_200_007;
            assert_eq!(parse_rfc3339(&rfc3339(ms)), Some(ms), "day {day}");
        }
    }

    #[test]
    fn offsets_and_long_fractions_are_understood() {
        assert_eq!(parse_rfc3339("2026-11-22T09:30:00+01:30"), parse_rfc3339("2026-11-22T08:00:00Z"));
        assert_eq!(parse_rfc3339("2026-11-21 23:00:00-09:00"), parse_rfc3339("2026-11-22T08:00:00Z"));
        assert_eq!(parse_rfc3339("2026-11-22T08:00:00.123456789Z"), Some(1_795_334_400_123));
        assert_eq!(parse_rfc3339("2026-11-22T08:00:00.5Z"), Some(1_795_334_400_500));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "now",
            "2026-11-22",
            "2026-11-22T08:00:00",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T08:00:00.Z",
            "2026-11-22T08:00:00+1:00",
            "2026-11-22T08:00:00Zjunk",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
            "+026-11-22T08:00:00Z",
            "2026-11-22T08:00:0éZ",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }
}
