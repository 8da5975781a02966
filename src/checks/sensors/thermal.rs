//! /sys/class/thermal: zones with their trip points.

use std::path::Path;
use std::time::Instant;

use super::{Sensor, Source, entries};
use crate::checks::attribute;
use crate::engine::host::sample::{SensorStat, SensorWhat};

/// The kernel's own limit of a zone.
const TRIPS_MAX: usize = 12;

pub(super) fn find(root: &Path) -> Vec<Sensor> {
    let class = root.join("sys/class/thermal");
    let names = entries(&class);
    let zones = names.iter().filter_map(|name| Some((name, name.strip_prefix("thermal_")?)));
    zones.filter(|(_, zone)| zone.starts_with("zone")).map(|(name, zone)| sensor(&class.join(name), zone)).collect()
}

fn sensor(directory: &Path, zone: &str) -> Sensor {
    let begun = Instant::now();
    let fixed = SensorStat {
        name: format!("thermal/{zone}"),
        label: attribute::word(&directory.join("type")),
        what: SensorWhat::Temperature,
        max: trip(directory, "hot"),
        critical: trip(directory, "critical"),
        ..SensorStat::default()
    };
    let took = begun.elapsed();
    let source = Source::Number { value: "temp".to_owned(), alarms: Vec::new(), fault: None };
    Sensor::new(directory.to_owned(), fixed, source, took)
}

/// The temperature of the first trip point of a type; 0 and below are put there by firmware that has none.
fn trip(directory: &Path, wanted: &str) -> Option<i64> {
    let kinds = (0..TRIPS_MAX).map_while(|number| {
        let kind = attribute::word(&directory.join(format!("trip_point_{number}_type")))?;
        Some((number, kind))
    });
    let (number, _) = kinds.into_iter().find(|(_, kind)| kind == wanted)?;
    attribute::number(&directory.join(format!("trip_point_{number}_temp"))).ok().filter(|degrees| *degrees > 0)
}
