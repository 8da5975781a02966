//! Numbers as the sentences of the checks have them.

use std::time::Duration;

use super::kind::Unit;
use crate::engine::types::human;

/// `97.2 %` of 972.
pub(super) fn percent(permille: i64) -> String {
    format!("{}.{} %", permille / 1_000 * 100 + permille % 1_000 / 10, (permille % 10).abs())
}

/// `1.3 GiB`
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1 << 10 {
        return format!("{count} B");
    }
    let mut unit = 0;
    let mut size = 1_u128 << 10;
    while u128::from(count) >= size << 10 && unit + 1 < UNITS.len() {
        size <<= 10;
        unit += 1;
    }
    let tenths = (u128::from(count) * 10 + size / 2) / size;
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A value in its kind's unit.
pub(super) fn amount(unit: Unit, value: i64) -> String {
    match unit {
        Unit::Percent => percent(value),
        Unit::Milliseconds => human(Duration::from_millis(value.unsigned_abs())),
        Unit::Celsius => {
            let sign = if value < 0 { "-" } else { "" };
            format!("{sign}{}.{} °C", value.unsigned_abs() / 1_000, value.unsigned_abs() % 1_000 / 100)
        }
        Unit::Megabits => format!("{value} Mbit/s"),
        Unit::Count | Unit::None => value.to_string(),
    }
}

/// `1 error`, `3 errors`
pub(super) fn several(count: u64, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
}

/// What somebody else wrote, shortened to a line of ours.
pub(super) fn quoted(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    let plain = text.trim().chars().map(|one| if one.is_control() { ' ' } else { one });
    format!("`{}`", plain.take(CHARS_MAX).collect::<String>())
}

/// `part` of `whole` in thousandths; 0 of nothing.
pub(super) fn permille(part: u64, whole: u64) -> i64 {
    let share = (u128::from(part) * 1_000).checked_div(u128::from(whole)).unwrap_or_default();
    i64::try_from(share).unwrap_or(i64::MAX)
}

pub(super) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(percent(972), "97.2 %");
        assert_eq!(percent(1_005), "100.5 %");
        assert_eq!(percent(3), "0.3 %");
        assert_eq!(bytes(900), "900 B");
        assert_eq!(bytes(1_395_864_371), "1.3 GiB");
        assert_eq!(bytes(256 << 20), "256.0 MiB");
        assert_eq!(amount(Unit::Celsius, -4_250), "-4.2 °C");
        assert_eq!(amount(Unit::Milliseconds, 14_400_000), "4h");
        assert_eq!(several(1, "error", "errors"), "1 error");
        assert_eq!(several(0, "error", "errors"), "0 errors");
        assert_eq!(quoted(" a\nb "), "`a b`");
        assert_eq!(permille(3, 0), 0);
        assert_eq!(permille(u64::MAX, u64::MAX), 1_000);
    }
}
