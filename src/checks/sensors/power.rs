//! /sys/class/power_supply: supplies, and the batteries of the host itself.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::{Sensor, Source, entries};
use crate::checks::attribute;
use crate::engine::host::sample::{SensorStat, SensorWhat};

pub(super) fn find(root: &Path) -> Vec<Sensor> {
    let class = root.join("sys/class/power_supply");
    entries(&class).iter().filter_map(|name| sensor(&class.join(name), name)).collect()
}

fn sensor(directory: &Path, name: &str) -> Option<Sensor> {
    // The battery of a mouse is none of the host.
    if attribute::word(&directory.join("scope")).as_deref() == Some("Device") {
        return None;
    }
    let source = match attribute::word(&directory.join("type"))?.as_str() {
        "Battery" | "UPS" if directory.join("capacity").exists() => Source::Battery,
        "Battery" | "UPS" | "Mains" | "USB" | "Wireless" if directory.join("online").exists() => Source::Supply,
        _ => return None,
    };
    let what = if matches!(source, Source::Battery) { SensorWhat::Battery } else { SensorWhat::Supply };
    let fixed = SensorStat { name: name.to_owned(), what, ..SensorStat::default() };
    Some(Sensor::new(directory.to_owned(), fixed, source, Duration::ZERO))
}

pub(super) fn read_supply(directory: &Path, stat: &mut SensorStat) -> io::Result<()> {
    // 2: it gives power at a voltage that was agreed on.
    let online = attribute::number(&directory.join("online"))?;
    stat.value = Some(i64::from(online != 0));
    stat.fault = is_unwell(directory);
    Ok(())
}

pub(super) fn read_battery(directory: &Path, stat: &mut SensorStat) -> io::Result<()> {
    const THOUSANDTHS: i64 = 1000;
    let percent = attribute::number(&directory.join("capacity"))?;
    stat.value = Some(percent.clamp(0, 100) * THOUSANDTHS);
    stat.label = attribute::word(&directory.join("status"));
    stat.alarm = attribute::word(&directory.join("capacity_level")).as_deref() == Some("Critical");
    stat.fault = is_unwell(directory);
    Ok(())
}

fn is_unwell(directory: &Path) -> bool {
    let health = attribute::word(&directory.join("health"));
    health.is_some_and(|health| !matches!(health.as_str(), "Good" | "Unknown" | "Warm" | "Cool" | "Cold"))
}
