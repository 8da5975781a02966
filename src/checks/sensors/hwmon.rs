//! /sys/class/hwmon: chips with their temperatures, fans and voltages.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{Sensor, Source, entries};
use crate::checks::attribute;
use crate::engine::host::sample::{SensorStat, SensorWhat};

struct Chip {
    directory: PathBuf,
    name: String,
    /// The last part of the path of its device: `nvme0`, `coretemp.1`, `0-0048`.
    device: Option<String>,
}

pub(super) fn find(root: &Path) -> Vec<Sensor> {
    let class = root.join("sys/class/hwmon");
    let chips: Vec<Chip> = entries(&class).iter().filter_map(|entry| chip(class.join(entry))).collect();
    let mut namesakes: BTreeMap<&str, usize> = BTreeMap::new();
    for chip in &chips {
        *namesakes.entry(&chip.name).or_default() += 1;
    }
    chips.iter().flat_map(|chip| sensors(chip, namesakes[chip.name.as_str()] == 1)).collect()
}

/// `None`: it is not to be read.
fn chip(directory: PathBuf) -> Option<Chip> {
    // Drivers before 3.13 have their attributes at the device.
    let directory = if directory.join("name").exists() { directory } else { directory.join("device") };
    let name = attribute::word(&directory.join("name"))?;
    let device = fs::canonicalize(directory.join("device")).ok();
    let below = |part: &str| device.as_ref().is_some_and(|device| device.to_string_lossy().contains(part));
    if name == "drivetemp" || name.starts_with("w1_") || below("/w1_bus_master") {
        return None;
    }
    let device = device.and_then(|device| Some(device.file_name()?.to_string_lossy().into_owned()));
    if device.as_ref().is_some_and(|device| device.starts_with("thermal_zone")) {
        return None;
    }
    Some(Chip { directory, name, device })
}

fn sensors(chip: &Chip, is_only: bool) -> Vec<Sensor> {
    let name = match &chip.device {
        Some(device) if !is_only => format!("{}-{device}", chip.name),
        Some(_) | None => chip.name.clone(),
    };
    let files = entries(&chip.directory);
    let inputs = files.iter().filter_map(|file| file.strip_suffix("_input"));
    inputs.filter_map(|channel| sensor(chip, &name, channel, &files)).collect()
}

fn sensor(chip: &Chip, name: &str, channel: &str, files: &[String]) -> Option<Sensor> {
    let what = match channel.trim_end_matches(|digit: char| digit.is_ascii_digit()) {
        "temp" => SensorWhat::Temperature,
        "fan" => SensorWhat::Fan,
        "in" => SensorWhat::Voltage,
        _ => return None,
    };
    let has = |part: &str| {
        let file = format!("{channel}_{part}");
        files.contains(&file).then_some(file)
    };
    let limit = |part: &str| has(part).and_then(|file| attribute::number(&chip.directory.join(file)).ok());
    let begun = Instant::now();
    let fixed = SensorStat {
        name: format!("{name}/{channel}"),
        label: has("label").and_then(|file| attribute::word(&chip.directory.join(file))),
        what,
        max: limit("max"),
        critical: limit("crit").or_else(|| limit("emergency")),
        min: limit("min"),
        ..SensorStat::default()
    };
    let took = begun.elapsed();
    let alarms = ["alarm", "min_alarm", "max_alarm", "crit_alarm", "emergency_alarm"].into_iter().filter_map(has);
    let source = Source::Number { value: format!("{channel}_input"), alarms: alarms.collect(), fault: has("fault") };
    Some(Sensor::new(chip.directory.clone(), fixed, source, took))
}
