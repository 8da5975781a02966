//! Temperatures, fans, voltages, power supplies and batteries, as their drivers tell them.
//!
//! What a driver has and its limits are read once, its values at each reading: limits cost some drivers a command to the device. A
//! sensor that is too slow or fails again and again is read no more until the role is told anew what to read. Left out from the
//! beginning: `drivetemp`, which keeps disks awake (SMART tells their temperature), one-wire buses, which take a second a sensor, and hwmon's copies
//! of thermal zones.

mod hwmon;
mod power;
mod thermal;

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::libc;

use super::attribute;
use crate::engine::host::sample::SensorStat;

/// More sensors than this are not read.
const SENSORS_MAX: usize = 256;
/// A sensor that took longer is read no more.
const TOOK_MAX: Duration = Duration::from_millis(200);
/// Failures in a row until a sensor is read no more.
const FAILURES_MAX: u8 = 3;
/// Whatever is to be watched is below one of these.
const CLASSES: [&str; 3] = ["sys/class/hwmon", "sys/class/thermal", "sys/class/power_supply"];

/// What the host has, and how each of it has behaved.
#[derive(Debug)]
pub(super) struct Sensors {
    root: PathBuf,
    /// `None`: to be looked for.
    known: Option<Known>,
}

#[derive(Debug)]
struct Known {
    /// The names in [`CLASSES`]: when they change, something was plugged in or out.
    listing: Vec<String>,
    sensors: Vec<Sensor>,
}

#[derive(Debug)]
struct Sensor {
    directory: PathBuf,
    /// All that does not change from reading to reading.
    fixed: SensorStat,
    source: Source,
    failures: u8,
    /// Why it is read no more.
    given_up: Option<String>,
}

/// The attributes that are read each time.
#[derive(Debug)]
enum Source {
    Number { value: String, alarms: Vec<String>, fault: Option<String> },
    Supply,
    Battery,
}

/// Reads all sensors once.
#[must_use]
pub fn read_sensors(root: &Path) -> Vec<SensorStat> {
    Sensors::new(root).read()
}

impl Sensors {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), known: None }
    }

    /// Sensors that were given up get another chance.
    pub(super) fn forget(&mut self) {
        self.known = None;
    }

    /// Empty where the host has none.
    pub(super) fn read(&mut self) -> Vec<SensorStat> {
        let listing = listing(&self.root);
        let known = match self.known.take() {
            Some(known) if known.listing == listing => known,
            Some(_) | None => Known { sensors: find(&self.root), listing },
        };
        let known = self.known.insert(known);
        let mut gone = false;
        let mut stats = Vec::with_capacity(known.sensors.len());
        for sensor in &mut known.sensors {
            match sensor.read() {
                Some(stat) => stats.push(stat),
                None => gone = true,
            }
        }
        if gone {
            // Another may have its number by the next reading.
            self.known = None;
        }
        stats
    }
}

impl Sensor {
    /// A sensor whose limits took `took` to be read.
    fn new(directory: PathBuf, fixed: SensorStat, source: Source, took: Duration) -> Self {
        Self { directory, fixed, source, failures: 0, given_up: too_slow(took) }
    }

    /// `None`: the device is gone.
    fn read(&mut self) -> Option<SensorStat> {
        let mut stat = self.fixed.clone();
        if self.given_up.is_some() {
            stat.error.clone_from(&self.given_up);
            return Some(stat);
        }
        let begun = Instant::now();
        let read = self.source.read(&self.directory, &mut stat);
        let took = begun.elapsed();
        stat.took_ms = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
        match read {
            Ok(()) => self.failures = 0,
            Err(error) if is_gone(&error) => return None,
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                stat.error = Some(error.to_string());
                if self.failures >= FAILURES_MAX {
                    self.given_up = Some(format!("{error}; read no more after {FAILURES_MAX} failures"));
                    stat.error.clone_from(&self.given_up);
                }
            }
        }
        if let Some(why) = too_slow(took) {
            stat.error = Some(why.clone());
            self.given_up = Some(why);
        }
        Some(stat)
    }
}

impl Source {
    fn read(&self, directory: &Path, stat: &mut SensorStat) -> io::Result<()> {
        match self {
            Self::Number { value, alarms, fault } => {
                let is_set = |file: &String| attribute::number(&directory.join(file)).is_ok_and(|value| value != 0);
                stat.fault = fault.as_ref().is_some_and(is_set);
                stat.alarm = alarms.iter().any(is_set);
                stat.value = Some(attribute::number(&directory.join(value))?);
                Ok(())
            }
            Self::Supply => power::read_supply(directory, stat),
            Self::Battery => power::read_battery(directory, stat),
        }
    }
}

fn too_slow(took: Duration) -> Option<String> {
    (took > TOOK_MAX).then(|| format!("reading it took {} ms; read no more", took.as_millis()))
}

/// The file or what was behind it was unplugged.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO))
}

fn find(root: &Path) -> Vec<Sensor> {
    let mut sensors = hwmon::find(root);
    sensors.extend(thermal::find(root));
    sensors.extend(power::find(root));
    sensors.truncate(SENSORS_MAX);
    sensors
}

fn listing(root: &Path) -> Vec<String> {
    CLASSES.iter().flat_map(|class| entries(&root.join(class))).collect()
}

/// The names in a directory, in order; none where it is missing. Numbers at the end count as numbers: `hwmon2` is before `hwmon10`.
fn entries(directory: &Path) -> Vec<String> {
    let listed = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let mut names: Vec<String> = listed.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_by(|one, other| (one.len(), one).cmp(&(other.len(), other)));
    names
}

#[cfg(test)]
mod tests;
