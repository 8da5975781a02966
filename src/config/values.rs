//! The scalar values of the file that are written as text: durations, sizes, shares, limits. Each has one parser that says what
//! was wrong and how to write it, and one printer that writes the same value back exactly.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The longest duration that is accepted; deadlines are added to clocks of 64-bit nanoseconds (584 years).
pub(super) const DURATION_MAX: Duration = Duration::from_secs(3_650 * 86_400);

/// A duration written `"1m 30s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dur(pub(super) Duration);

/// A size written `"256MiB"`, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

/// A share written `"50%"`, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share(pub(super) u32);

/// A time of day written `"02:30"` or `"02:30:15"`, after midnight UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clock(pub(super) Duration);

/// A resource limit, soft and hard: `65536`, `"unlimited"` or `(1024, 65536)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit(pub(super) u64, pub(super) u64);

/// The map of `env`, in the order of the file. Keys given twice are kept, so that the check can show both places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Env(pub(super) Vec<(String, String)>);

/// How often at most: `"10/h"` or `"3/15m"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    pub(super) count: u32,
    pub(super) within: Duration,
}

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
    ("w", 604_800_000_000_000),
];

const SIZES: [(&str, u64); 9] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Parses `"1m 30s"`, `"850ms"`, `"1.5s"`; units ns us ms s m h d w.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let example = "write a number and a unit, such as \"1m 30s\"";
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(format!("an empty duration; {example}"));
    }
    let mut total_ns: u128 = 0;
    while !rest.is_empty() {
        let (number, after) = split_while(rest, |c| c.is_ascii_digit() || c == '.');
        let (unit, after) = split_while(after, |c| c.is_alphabetic() || c == '%');
        if number.is_empty() {
            return Err(format!("{text:?} is not a duration; {example}"));
        }
        if unit.is_empty() {
            return Err(format!("{text:?} lacks a unit; write \"{number}s\" or \"{number}ms\""));
        }
        let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!(
                "{text:?} is not a duration: there is no unit {unit:?}, only ns, us, ms, s, m, h, d, w"
            ));
        };
        let scaled =
            scaled(number, *scale).ok_or_else(|| format!("{text:?} is not a duration: bad number {number:?}"))?;
        total_ns = total_ns.saturating_add(scaled);
        rest = after.trim_start();
    }
    if total_ns > DURATION_MAX.as_nanos() {
        return Err(format!("{text:?} is longer than {}", duration_text(DURATION_MAX)));
    }
    Ok(Duration::from_nanos(u64::try_from(total_ns).unwrap_or(u64::MAX)))
}

/// Parses `"256MiB"` (powers of 1024) and `"256MB"` (powers of 1000) into bytes.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let (number, unit) = split_while(trimmed, |c| c.is_ascii_digit() || c == '.');
    let unit = unit.trim_start();
    if number.is_empty() {
        return Err(format!("{text:?} is not a size; write a number and a unit, such as \"256MiB\""));
    }
    let Some((_, scale)) = SIZES.iter().find(|(name, _)| *name == unit) else {
        let guess = match unit.chars().next().map(|c| c.to_ascii_uppercase()) {
            Some(letter @ ('K' | 'M' | 'G' | 'T')) => format!("{letter}iB"),
            Some(_) | None => "B".to_owned(),
        };
        return Err(match unit {
            "" => format!("{text:?} lacks a unit; write \"{number}MiB\" or \"{number}B\""),
            unit => format!("{text:?} is not a size: there is no unit {unit:?}; did you mean \"{number}{guess}\"?"),
        });
    };
    scaled(number, *scale)
        .and_then(|bytes| u64::try_from(bytes).ok())
        .ok_or_else(|| format!("{text:?} is not a size: bad number {number:?}"))
}

/// Parses `"50%"` into thousandths; one decimal is possible (`"12.5%"`).
pub(super) fn parse_share(text: &str) -> Result<u32, String> {
    let bad = || format!("{text:?} is not a share; write a percentage such as \"50%\"");
    let number = text.trim().strip_suffix('%').ok_or_else(bad)?.trim_end();
    scaled(number, 10).and_then(|permille| u32::try_from(permille).ok()).ok_or_else(bad)
}

/// Parses `"10/h"` and `"3/15m"`: a count, a stroke, and a duration in which a missing number is 1.
pub(super) fn parse_rate(text: &str) -> Result<Rate, String> {
    let bad = || format!("{text:?} is not a rate; write a count and a time, such as \"10/h\" or \"3/15m\"");
    let (count, within) = text.split_once('/').ok_or_else(bad)?;
    let count = count.trim().parse().map_err(|_| bad())?;
    let within = within.trim();
    let unit_alone = within.starts_with(|c: char| c.is_alphabetic());
    let within = if unit_alone { parse_duration(&format!("1{within}")) } else { parse_duration(within) };
    Ok(Rate { count, within: within.map_err(|_| bad())? })
}

/// Parses `"85C"`, `"85.5 °C"` or `"-5C"` into thousandths of a degree.
pub(super) fn parse_celsius(text: &str) -> Result<i64, String> {
    let bad = || format!("{text:?} is not a temperature; write degrees Celsius such as \"85C\"");
    let number = text.trim().strip_suffix('C').ok_or_else(bad)?;
    let number = number.strip_suffix('°').unwrap_or(number).trim_end();
    let (sign, number) = number.strip_prefix('-').map_or((1, number), |number| (-1, number));
    let thousandths = scaled(number, 1_000).and_then(|value| i64::try_from(value).ok()).ok_or_else(bad)?;
    Ok(sign * thousandths)
}

/// Parses `"1000Mbit"` or `"2.5Gbit"` into Mbit/s.
pub(super) fn parse_megabits(text: &str) -> Result<i64, String> {
    let bad = || format!("{text:?} is not a speed; write \"100Mbit\" or \"2.5Gbit\"");
    let trimmed = text.trim();
    let (number, scale) = match (trimmed.strip_suffix("Mbit"), trimmed.strip_suffix("Gbit")) {
        (Some(number), _) => (number, 1),
        (None, Some(number)) => (number, 1_000),
        (None, None) => return Err(bad()),
    };
    scaled(number.trim_end(), scale).and_then(|value| i64::try_from(value).ok()).ok_or_else(bad)
}

impl Clock {
    /// Parses `"02:30"` and `"02:30:15"`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a time of day; write hours and minutes (UTC), such as \"02:30\"");
        let parts: Vec<&str> = text.trim().split(':').collect();
        let two =
            |part: &&str| (part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit())).then(|| part.parse());
        let numbers: Vec<u64> = parts.iter().map_while(|part| two(part)?.ok()).collect();
        match (parts.len(), numbers.as_slice()) {
            (2 | 3, [hours @ ..=23, minutes @ ..=59, rest @ ..]) => match (parts.len(), rest) {
                (2, []) => Ok(Self(Duration::from_secs(hours * 3_600 + minutes * 60))),
                (3, [seconds @ ..=59]) => Ok(Self(Duration::from_secs(hours * 3_600 + minutes * 60 + seconds))),
                (_, _) => Err(wrong()),
            },
            (_, _) => Err(wrong()),
        }
    }
}

/// A time of day as [`Clock::parse`] reads it.
pub(super) fn clock_text(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, rest) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    if rest == 0 { format!("{hours:02}:{minutes:02}") } else { format!("{hours:02}:{minutes:02}:{rest:02}") }
}

/// The shortest text that [`parse_duration`] reads back as exactly this.
pub(super) fn duration_text(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    let mut words = Vec::new();
    for (name, scale) in UNITS.iter().rev().skip(1) {
        let scale = u128::from(*scale);
        if rest >= scale {
            words.push(format!("{}{name}", rest / scale));
            rest %= scale;
        }
    }
    if words.is_empty() { "0s".to_owned() } else { words.join(" ") }
}

/// The shortest text that [`parse_size`] reads back as exactly this.
pub(super) fn size_text(bytes: u64) -> String {
    let unit = SIZES.iter().rev().find(|(_, scale)| bytes >= *scale && bytes.is_multiple_of(*scale));
    let (name, scale) = unit.unwrap_or(&SIZES[0]);
    format!("{}{name}", bytes / scale)
}

/// `12.5%` for 125 thousandths.
pub(super) fn share_text(permille: u32) -> String {
    if permille.is_multiple_of(10) {
        format!("{}%", permille / 10)
    } else {
        format!("{}.{}%", permille / 10, permille % 10)
    }
}

fn split_while(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

/// `number` (digits, perhaps a fraction) times `scale`, exact; `None` when it is no number or not a whole result.
fn scaled(number: &str, scale: u64) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 || number.ends_with('.') {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let product = digits.checked_mul(u128::from(scale))?;
    let divisor = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    (product % divisor == 0).then_some(product / divisor)
}

/// Reads a string with `parse`; a bare number gets the hint that a unit is missing.
struct Text<T> {
    expecting: &'static str,
    unit: &'static str,
    parse: fn(&str) -> Result<T, String>,
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.expecting)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        Err(E::custom(format!("{number} lacks a unit; write {:?}", format!("{number}{}", self.unit))))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        Err(E::custom(format!("{number} is not {}", self.expecting)))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        Err(E::custom(format!("{number} lacks a unit; write {:?}", format!("{number}{}", self.unit))))
    }
}

impl<'de> Deserialize<'de> for Dur {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = Text { expecting: "a duration such as \"1m 30s\"", unit: "s", parse: parse_duration };
        input.deserialize_any(text).map(Self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = Text { expecting: "a size such as \"256MiB\"", unit: "B", parse: parse_size };
        input.deserialize_any(text).map(Self)
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = Text { expecting: "a share such as \"50%\"", unit: "%", parse: parse_share };
        input.deserialize_any(text).map(Self)
    }
}

impl<'de> Deserialize<'de> for Clock {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(Text { expecting: "a time such as \"02:30\"", unit: ":00", parse: Self::parse })
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(Text { expecting: "a rate such as \"10/h\"", unit: "/h", parse: parse_rate })
    }
}

struct LimitVisitor;

impl<'de> Visitor<'de> for LimitVisitor {
    type Value = Limit;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a number, \"unlimited\" or (soft, hard)")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Limit, E> {
        Ok(Limit(number, number))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Limit, E> {
        match text {
            "unlimited" => Ok(Limit(u64::MAX, u64::MAX)),
            other => Err(E::custom(format!("{other:?} is not a limit; write a number, \"unlimited\" or (soft, hard)"))),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Limit, A::Error> {
        let soft: Option<Limit> = values.next_element()?;
        let hard: Option<Limit> = values.next_element()?;
        match (soft, hard, values.next_element::<IgnoredAny>()?) {
            (Some(soft), Some(hard), None) => Ok(Limit(soft.0, hard.1)),
            (_, _, _) => Err(de::Error::custom("a pair of limits is written (soft, hard)")),
        }
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(LimitVisitor)
    }
}

struct Pairs<K, V>(PhantomData<(K, V)>);

impl<'de> Visitor<'de> for Pairs<String, String> {
    type Value = Env;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a map such as {\"RUST_LOG\": \"info\"}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Env, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = entries.next_entry()? {
            pairs.push(pair);
        }
        Ok(Env(pairs))
    }
}

impl<'de> Deserialize<'de> for Env {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_map(Pairs(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_back_exactly() {
        for (text, ms) in
            [("0s", 0), ("850ms", 850), ("1m 30s", 90_000), ("1m30s", 90_000), ("1.5s", 1_500), ("2w", 1_209_600_000)]
        {
            let parsed = parse_duration(text).unwrap();
            assert_eq!(parsed, Duration::from_millis(ms), "{text}");
            assert_eq!(parse_duration(&duration_text(parsed)).unwrap(), parsed, "{text}");
        }
        assert_eq!(duration_text(Duration::from_millis(3_661_001)), "1h 1m 1s 1ms");
        for bad in [
            "",
            " ",
            "10",
            "s",
            "10 parsecs",
            "-1s",
            "1..5s",
            "1.s",
            "1e3s",
            "99999999999999999999999999999999999999999d",
            "4000d",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_temperatures_and_speeds_are_read() {
        let rate = |count, seconds| Ok(Rate { count, within: Duration::from_secs(seconds) });
        assert_eq!(parse_rate("10/h"), rate(10, 3_600));
        assert_eq!(parse_rate("3 / 1m 30s"), rate(3, 90));
        for bad in ["", "10", "/h", "10/", "-1/h", "1.5/h", "10/hour", "10/3"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
        assert_eq!(
            [parse_celsius("85C"), parse_celsius("85.5 °C"), parse_celsius("-5C")],
            [Ok(85_000), Ok(85_500), Ok(-5_000)]
        );
        assert!(parse_celsius("85").is_err() && parse_celsius("85F").is_err() && parse_celsius("0.0001C").is_err());
        assert_eq!([parse_megabits("1000Mbit"), parse_megabits("2.5 Gbit")], [Ok(1_000), Ok(2_500)]);
        assert!(
            parse_megabits("1000").is_err() && parse_megabits("1Tbit").is_err() && parse_megabits("0.5Mbit").is_err()
        );
    }

    #[test]
    fn sizes_and_shares_are_exact_and_say_what_is_wrong() {
        assert_eq!(parse_size("10MiB").unwrap(), 10 << 20);
        assert_eq!(parse_size("1.5 GiB").unwrap(), 3 << 29);
        assert_eq!(
            parse_size("10M").unwrap_err(),
            "\"10M\" is not a size: there is no unit \"M\"; did you mean \"10MiB\"?"
        );
        assert!(parse_size("0.3B").is_err() && parse_size("99999999TiB").is_err());
        for bytes in [0, 1, 1_000, 1_024, 10 << 20, 123_456_789] {
            assert_eq!(parse_size(&size_text(bytes)).unwrap(), bytes);
        }
        assert_eq!(parse_share("12.5%").unwrap(), 125);
        assert_eq!(share_text(125), "12.5%");
        assert!(parse_share("50").is_err() && parse_share("-1%").is_err());
    }
}
