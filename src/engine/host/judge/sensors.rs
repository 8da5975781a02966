//! Temperatures against the chip's own limits; fans, voltages and supplies where the configuration asks for them.

use super::super::CheckKey;
use super::super::Health;
use super::super::condition::Verdict;
use super::super::kind::{CheckKind, Unit};
use super::super::plan::Band;
use super::super::sample::{SensorStat, SensorWhat};
use super::super::words::amount;
use super::{Bench, Said, banded};

/// What a sensor may plausibly say, in thousandths of a degree; beyond it nothing is wired.
const PLAUSIBLE: std::ops::RangeInclusive<i64> = -40_000..=150_000;
/// A limit below or above this is none.
const LIMITS: std::ops::RangeInclusive<i64> = 20_000..=150_000;
/// So much cooler than its limit it is well again.
const COOLER: i64 = 5_000;
/// In thousandths of a percent.
const BATTERY_LOW: i64 = 10_000;

/// The check that a sensor belongs to.
pub(in crate::engine::host) fn kind_of(what: SensorWhat) -> CheckKind {
    match what {
        SensorWhat::Temperature => CheckKind::Temperature,
        SensorWhat::Fan => CheckKind::Fan,
        SensorWhat::Voltage | SensorWhat::Supply | SensorWhat::Battery => CheckKind::Power,
    }
}

impl Bench<'_> {
    pub(super) fn sensor(&mut self, sensor: &SensorStat) {
        let kind = kind_of(sensor.what);
        if self.check(kind, &sensor.name).is_none() {
            return;
        }
        if let Some(error) = &sensor.error {
            return self.say(kind, &sensor.name, Verdict::absent(error));
        }
        match sensor.what {
            SensorWhat::Temperature => self.temperature(sensor),
            SensorWhat::Fan => self.fan(sensor),
            SensorWhat::Voltage => self.voltage(sensor),
            SensorWhat::Supply => {
                let gives = sensor.value == Some(1);
                let (level, word) =
                    if gives { (Health::Ok, "gives power") } else { (Health::Degraded, "gives no power") };
                self.say(kind, &sensor.name, Verdict::plain(level, sensor.value, word.to_owned()));
            }
            SensorWhat::Battery => {
                let value = sensor.value.unwrap_or_default();
                let level = if value < BATTERY_LOW { Health::Degraded } else { Health::Ok };
                let text = format!("{} % charged", value / 1_000);
                self.say(kind, &sensor.name, Verdict::plain(level, Some(value), text));
            }
        }
    }

    fn temperature(&mut self, sensor: &SensorStat) {
        const KIND: CheckKind = CheckKind::Temperature;
        let name = &sensor.name;
        let value = match sensor.value {
            Some(value) if PLAUSIBLE.contains(&value) && !sensor.fault => value,
            Some(_) | None => return self.say(KIND, name, Verdict::absent("the sensor gives no plausible value")),
        };
        let Some(check) = self.check(KIND, name) else {
            return;
        };
        let band = |limit: Option<i64>| {
            limit.filter(|limit| LIMITS.contains(limit)).map(|enter| Band { enter, leave: enter - COOLER })
        };
        let (mut rule, state) = (check.rule.clone(), check.condition.state);
        if !rule.own_failing {
            rule.failing = band(sensor.critical);
        }
        if !rule.own_degraded {
            rule.degraded = band(sensor.max).filter(|max| rule.failing.is_none_or(|failing| max.enter < failing.enter));
        }
        let label = sensor.label.as_deref().map(|label| format!("{label}: ")).unwrap_or_default();
        let verdict = banded(KIND, &rule, state, value, format!("{label}{}", amount(Unit::Celsius, value)));
        let key = CheckKey { kind: KIND, target: name.clone() };
        self.said.push(Said::Bands(key, rule.degraded, rule.failing));
        self.say(KIND, name, verdict);
    }

    /// A chip without wiring shows an alarm with limits of zero.
    fn fan(&mut self, sensor: &SensorStat) {
        let limit = sensor.min.filter(|min| *min > 0);
        let rounds = sensor.value.unwrap_or_default();
        let slow = limit.is_some_and(|min| rounds < min) || (sensor.alarm && limit.is_some());
        let level = if sensor.fault || slow { Health::Degraded } else { Health::Ok };
        let least = limit.map(|min| format!(", at least {min} are expected")).unwrap_or_default();
        let fault = if sensor.fault { ", the sensor reports a fault" } else { "" };
        let text = format!("{rounds} rounds a minute{least}{fault}");
        self.say(CheckKind::Fan, &sensor.name, Verdict::plain(level, sensor.value, text));
    }

    fn voltage(&mut self, sensor: &SensorStat) {
        let sane = matches!((sensor.min, sensor.max), (Some(min), Some(max)) if min < max);
        let level = if sane && sensor.alarm { Health::Degraded } else { Health::Ok };
        let value = sensor.value.unwrap_or_default();
        let text = format!("{}.{:03} V", value / 1_000, value.unsigned_abs() % 1_000);
        self.say(CheckKind::Power, &sensor.name, Verdict::plain(level, sensor.value, text));
    }
}
