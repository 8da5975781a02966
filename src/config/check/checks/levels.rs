//! Thresholds of a check: values in the unit of its kind, and on which side of `enter` it is better.

use super::super::super::report::Item;
use super::super::super::schema::{self, Level, kind_name};
use super::super::super::values::{
    duration_text, parse_celsius, parse_duration, parse_megabits, parse_share, share_text,
};
use super::super::Scope;
use crate::engine::host::kind::{CheckKind, Unit};
use crate::engine::host::plan::Band;
use crate::engine::host::{default_bands, is_bad_when_low};

/// How much better a temperature must be.
const CELSIUS_BETTER: i64 = 5_000;
/// How much better a share must be, at most half of it.
const PERMILLE_BETTER: i64 = 50;

/// Whether `one` is worse than `other`.
fn is_worse(kind: CheckKind, one: i64, other: i64) -> bool {
    if is_bad_when_low(kind) { one < other } else { one > other }
}

/// One of `degraded` and `failing`.
pub(super) fn band(
    item: &Item,
    key: &str,
    kind: CheckKind,
    given: &schema::Band,
    scope: &mut Scope<'_>,
) -> Option<Band> {
    if kind.unit() == Unit::None {
        let message = format!("`{}` has no value that could be compared: it is well or it is not", kind_name(kind));
        scope.report.error(item, key, message).hint(format!("remove `{key}`"));
        return None;
    }
    let enter = level(item, &format!("{key}.enter"), kind, &given.enter, scope);
    let leave = given.leave.as_ref().map(|leave| level(item, &format!("{key}.leave"), kind, leave, scope));
    let enter = enter?;
    let leave = match leave {
        Some(leave) => leave?,
        None => better(kind, enter),
    };
    if is_worse(kind, leave, enter) {
        let side = if is_bad_when_low(kind) { "at or above" } else { "at or below" };
        let message = format!("it would be left at {}, which is worse than {}", text(kind, leave), text(kind, enter));
        let path = format!("{key}.leave");
        scope.report.error(item, &path, message).hint(format!("`leave` is {side} `enter`"));
        return None;
    }
    Some(Band { enter, leave })
}

/// What must hold between the two states. Where only one is given, the other is the default.
pub(super) fn both(item: &Item, kind: CheckKind, degraded: Option<Band>, failing: Option<Band>, scope: &mut Scope<'_>) {
    let [usual_degraded, usual_failing] = default_bands(kind);
    let (degraded, failing) = match (degraded, failing) {
        (Some(degraded), Some(failing)) => (degraded, failing),
        (Some(given), None) => {
            if let Some(usual) = usual_failing.filter(|usual| !is_worse(kind, usual.enter, given.enter)) {
                let message =
                    format!("it is failing from {} on by default, and not degraded before", text(kind, usual.enter));
                scope.report.warning(item, "degraded.enter", message).hint("give `failing` too");
            }
            return;
        }
        (None, Some(given)) => {
            if let Some(usual) = usual_degraded.filter(|usual| !is_worse(kind, given.enter, usual.enter)) {
                let message =
                    format!("it is degraded from {} on by default, and failing before", text(kind, usual.enter));
                scope.report.warning(item, "failing.enter", message).hint("give `degraded` too");
            }
            return;
        }
        (None, None) => return,
    };
    if is_worse(kind, degraded.enter, failing.enter) {
        let (at, after) = (text(kind, failing.enter), text(kind, degraded.enter));
        let message = format!("it would be failing at {at} and only degraded at {after}");
        scope.report.error(item, "failing.enter", message).hint("`failing` begins at a worse value than `degraded`");
    } else if degraded.enter == failing.enter {
        let message = format!("it fails at {} and is never degraded before", text(kind, failing.enter));
        scope.report.warning(item, "failing.enter", message).hint("choose a worse value for `failing`");
    } else if is_worse(kind, degraded.leave, failing.leave) {
        let (at, before) = (text(kind, failing.leave), text(kind, degraded.leave));
        let message = format!("it would be failing until {at}, but degraded only until {before}");
        scope.report.error(item, "failing.leave", message).hint("`failing` ends at a worse value than `degraded`");
    }
}

/// Where a state ends whose `leave` is not given.
fn better(kind: CheckKind, enter: i64) -> i64 {
    match kind.unit() {
        Unit::Percent => enter - PERMILLE_BETTER.min(enter / 2),
        Unit::Milliseconds if is_bad_when_low(kind) => enter.saturating_add(enter / 2),
        Unit::Milliseconds => enter / 2,
        Unit::Celsius => enter - CELSIUS_BETTER,
        Unit::Megabits | Unit::Count | Unit::None => enter,
    }
}

fn level(item: &Item, path: &str, kind: CheckKind, level: &Level, scope: &mut Scope<'_>) -> Option<i64> {
    match read(kind, level) {
        Ok(value) => Some(value),
        Err(message) => {
            scope.report.error(item, path, message);
            None
        }
    }
}

fn read(kind: CheckKind, level: &Level) -> Result<i64, String> {
    let name = kind_name(kind);
    let text = match (level, kind.unit()) {
        (Level::Number(number), Unit::Count) if *number < 0 => return Err(format!("{number} is no count")),
        (Level::Number(number), Unit::Count) => return Ok(*number),
        (Level::Number(number), unit) => {
            return Err(format!("{number} lacks a unit; `{name}` is {}", example(unit)));
        }
        (Level::Text(text), _) => text,
    };
    let of_kind = |message: String| format!("{message} (`{name}` is {})", example(kind.unit()));
    match kind.unit() {
        Unit::Percent => match parse_share(text) {
            Ok(permille) if permille > 1_000 && kind != CheckKind::DiskWear => {
                Err(format!("{text:?} is more than everything there is"))
            }
            Ok(permille) => Ok(i64::from(permille)),
            Err(_) => Err(of_kind(format!("{text:?} is not a share"))),
        },
        Unit::Milliseconds => match parse_duration(text) {
            Ok(time) if time.subsec_nanos() % 1_000_000 != 0 => Err(format!("{text:?} is finer than milliseconds")),
            Ok(time) => Ok(i64::try_from(time.as_millis()).unwrap_or(i64::MAX)),
            Err(_) => Err(of_kind(format!("{text:?} is not a duration"))),
        },
        Unit::Celsius => parse_celsius(text),
        Unit::Megabits => parse_megabits(text),
        Unit::Count => Err(of_kind(format!("{text:?} is not a count"))),
        Unit::None => Err(format!("`{name}` has no value")),
    }
}

/// How a value of a unit is written.
fn example(unit: Unit) -> &'static str {
    match unit {
        Unit::Percent => "a share such as \"90%\"",
        Unit::Milliseconds => "a duration such as \"24h\" or \"500ms\"",
        Unit::Celsius => "a temperature such as \"85C\"",
        Unit::Megabits => "a speed such as \"1000Mbit\"",
        Unit::Count => "a count such as 3, without quotes",
        Unit::None => "well or not",
    }
}

/// A value as it is written in the file.
pub(in crate::config) fn text(kind: CheckKind, value: i64) -> String {
    match kind.unit() {
        Unit::Percent => share_text(u32::try_from(value).unwrap_or(0)),
        Unit::Milliseconds => duration_text(std::time::Duration::from_millis(u64::try_from(value).unwrap_or(0))),
        Unit::Celsius => {
            let (sign, value) = (if value < 0 { "-" } else { "" }, value.unsigned_abs());
            let fraction = format!(".{:03}", value % 1_000);
            format!("{sign}{}{}C", value / 1_000, fraction.trim_end_matches('0').trim_end_matches('.'))
        }
        Unit::Megabits => format!("{value}Mbit"),
        Unit::Count | Unit::None => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_written_as_it_is_read() {
        for (kind, written) in [
            (CheckKind::DiskSpace, "87.1%"),
            (CheckKind::DiskFill, "1d 12h"),
            (CheckKind::Temperature, "85.5C"),
            (CheckKind::Temperature, "-5C"),
            (CheckKind::NicSpeed, "1000Mbit"),
        ] {
            let value = read(kind, &Level::Text(written.to_owned())).unwrap();
            assert_eq!(text(kind, value), written);
        }
        assert_eq!(text(CheckKind::Raid, read(CheckKind::Raid, &Level::Number(2)).unwrap()), "2");
    }

    #[test]
    fn a_state_whose_leave_is_not_given_ends_at_a_better_value() {
        for (kind, enter, leave) in [
            (CheckKind::DiskSpace, 900, 850),
            (CheckKind::NicErrors, 10, 5),
            (CheckKind::DiskFill, 86_400_000, 129_600_000),
            (CheckKind::DiskLatency, 100, 50),
            (CheckKind::Temperature, 85_000, 80_000),
            (CheckKind::NicSpeed, 1_000, 1_000),
            (CheckKind::BlockedTasks, 3, 3),
        ] {
            assert_eq!(better(kind, enter), leave);
            assert!(!is_worse(kind, leave, enter));
        }
    }
}
