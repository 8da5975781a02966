//! The JSON of `GET /v1/checks`. Values are in the natural unit of their kind: percent, milliseconds, degrees Celsius, Mbit/s, a count.

use serde::{Deserialize, Serialize};

use super::proto::Word;
use super::render::Stamp;
use super::time::rfc3339_ns;
use crate::engine::host::Health;
use crate::engine::host::kind::Unit;
use crate::engine::host::plan;
use crate::engine::host::view::CheckView;
use crate::engine::types::Time;

/// `GET /v1/checks`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checks {
    pub at: String,
    pub seq: u64,
    pub checks: Vec<Check>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    pub kind: Word,
    /// Empty for a check of the whole host.
    pub target: String,
    /// `ok`, `degraded`, `failing`, `unknown` or `absent`.
    pub state: Word,
    /// The latest one.
    pub value: Option<f64>,
    /// `percent`, `ms`, `celsius`, `mbit_s`, `count` or `none`.
    pub unit: Word,
    pub degraded: Option<Band>,
    pub failing: Option<Band>,
    /// How long it has been in this state, and when that began; null before the first answer.
    pub since_ms: Option<u64>,
    pub since_at: Option<String>,
    pub every_ms: u64,
    /// Until the next reading; null where none is expected.
    pub next_ms: Option<u64>,
    /// It changes again and again, and keeps its worst state.
    pub flapping: bool,
    pub why: Option<String>,
    /// Services that need its target.
    pub services: Vec<String>,
}

/// Where a state is entered and left.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Band {
    pub enter: f64,
    pub leave: f64,
}

impl Check {
    /// Nothing alarms.
    #[must_use]
    pub fn is_well(&self) -> bool {
        !matches!(self.state.as_ref(), "degraded" | "failing")
    }
}

/// How bad a state is, for sorting: the worst is 0.
#[must_use]
pub fn rank(state: &str) -> u8 {
    match state {
        "failing" => 0,
        "degraded" => 1,
        "unknown" => 2,
        "ok" => 3,
        _ => 4,
    }
}

/// `GET /v1/checks`
#[must_use]
pub fn checks(views: &[CheckView], stamp: &Stamp) -> Checks {
    Checks { at: stamp.at(), seq: stamp.seq, checks: views.iter().map(|view| check(view, stamp)).collect() }
}

fn check(view: &CheckView, stamp: &Stamp) -> Check {
    let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let band = |band: plan::Band| Band { enter: natural(view.unit, band.enter), leave: natural(view.unit, band.leave) };
    let begun = view.since_wall != Time(0);
    Check {
        name: view.name.clone(),
        kind: view.kind.word().into(),
        target: view.target.clone(),
        state: view.state.word().into(),
        value: view.value.filter(|_| view.unit != Unit::None).map(|value| natural(view.unit, value)),
        unit: view.unit.word().into(),
        degraded: view.degraded.map(band),
        failing: view.failing.map(band),
        since_ms: begun.then(|| ms(stamp.now.mono.since(view.since))),
        since_at: begun.then(|| rfc3339_ns(view.since_wall.0)),
        every_ms: ms(view.every),
        next_ms: view.next.filter(|_| view.state != Health::Absent).map(|at| ms(at.since(stamp.now.mono))),
        flapping: view.flapping,
        why: view.why.clone(),
        services: view.services.clone(),
    }
}

/// From the engine's whole numbers.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "no reading of a host comes near 2^53")]
fn natural(unit: Unit, value: i64) -> f64 {
    let scale = match unit {
        Unit::Percent => 10.0,
        Unit::Celsius => 1_000.0,
        Unit::Milliseconds | Unit::Megabits | Unit::Count | Unit::None => 1.0,
    };
    value as f64 / scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{check_views, stamp};

    #[test]
    fn values_are_in_natural_units() {
        let text = serde_json::to_string_pretty(&checks(&check_views(), &stamp()).checks[0]).unwrap();
        expect_test::expect![[r#"
            {
              "name": "root",
              "kind": "disk_space",
              "target": "/",
              "state": "degraded",
              "value": 91.1,
              "unit": "percent",
              "degraded": {
                "enter": 90.0,
                "leave": 85.0
              },
              "failing": {
                "enter": 97.0,
                "leave": 95.0
              },
              "since_ms": 5000,
              "since_at": "2026-11-22T07:59:55Z",
              "every_ms": 30000,
              "next_ms": 2500,
              "flapping": false,
              "why": "91.1 % used, 1.3 GiB left",
              "services": [
                "api"
              ]
            }"#]]
        .assert_eq(&text);
    }

    #[test]
    fn what_is_not_known_is_null() {
        let all = checks(&check_views(), &stamp()).checks;
        let absent = all.iter().find(|check| check.state == "absent").unwrap();
        assert_eq!((absent.value, absent.next_ms, absent.is_well()), (None, None, true));
        assert!(!all[0].is_well());
        let back: Check = serde_json::from_str(&serde_json::to_string(&all[1]).unwrap()).unwrap();
        assert_eq!(back, all[1]);
    }
}
