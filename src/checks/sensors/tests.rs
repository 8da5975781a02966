use std::os::unix::fs::symlink;

use super::*;
use crate::engine::host::sample::SensorWhat;
use crate::sys::testing::TempDir;

/// Files below the root, each with its text.
fn put(root: &TempDir, directory: &str, files: &[(&str, &str)]) {
    let directory = root.path().join(directory);
    fs::create_dir_all(&directory).unwrap();
    for (file, text) in files {
        fs::write(directory.join(file), format!("{text}\n")).unwrap();
    }
}

fn device_of(root: &TempDir, chip: &str, device: &str) {
    let device = root.path().join("sys/devices").join(device);
    fs::create_dir_all(&device).unwrap();
    symlink(device, root.path().join("sys/class/hwmon").join(chip).join("device")).unwrap();
}

/// Without the time that reading took.
fn read(root: &TempDir) -> Vec<SensorStat> {
    timeless(read_sensors(root.path()))
}

fn timeless(mut stats: Vec<SensorStat>) -> Vec<SensorStat> {
    for stat in &mut stats {
        stat.took_ms = 0;
    }
    stats
}

fn names(root: &TempDir) -> Vec<String> {
    read(root).into_iter().map(|stat| stat.name).collect()
}

#[test]
fn chip_tells_values_limits_and_alarms() {
    let root = TempDir::new();
    put(
        &root,
        "sys/class/hwmon/hwmon0",
        &[
            ("name", "nct6775"),
            ("temp1_input", "42500"),
            ("temp1_max", "80000"),
            ("temp1_crit", "95000"),
            ("temp1_label", "Core 0"),
            ("temp1_crit_alarm", "1"),
            ("fan2_input", "0"),
            ("fan2_min", "300"),
            ("fan2_alarm", "1"),
            ("fan2_fault", "1"),
            ("in0_input", "3312"),
            ("in0_min", "2976"),
            ("in0_max", "3632"),
            ("in0_alarm", "0"),
            ("power1_input", "5"),
            ("beep_enable", "0"),
        ],
    );
    let stat = |name: &str, what, value| SensorStat {
        name: name.to_owned(),
        what,
        value: Some(value),
        ..SensorStat::default()
    };
    let expected = [
        SensorStat { min: Some(2976), max: Some(3632), ..stat("nct6775/in0", SensorWhat::Voltage, 3312) },
        SensorStat { min: Some(300), alarm: true, fault: true, ..stat("nct6775/fan2", SensorWhat::Fan, 0) },
        SensorStat {
            label: Some("Core 0".to_owned()),
            max: Some(80_000),
            critical: Some(95_000),
            alarm: true,
            ..stat("nct6775/temp1", SensorWhat::Temperature, 42_500)
        },
    ];
    assert_eq!(read(&root), expected);
}

#[test]
fn thermal_zone_has_its_trip_points_as_limits() {
    let root = TempDir::new();
    put(
        &root,
        "sys/class/thermal/thermal_zone0",
        &[
            ("type", "acpitz"),
            ("temp", "51000"),
            ("trip_point_0_type", "passive"),
            ("trip_point_0_temp", "80000"),
            ("trip_point_1_type", "hot"),
            ("trip_point_1_temp", "0"),
            ("trip_point_2_type", "critical"),
            ("trip_point_2_temp", "105000"),
        ],
    );
    put(&root, "sys/class/thermal/cooling_device0", &[("type", "Processor")]);
    let expected = SensorStat {
        name: "thermal/zone0".to_owned(),
        label: Some("acpitz".to_owned()),
        value: Some(51_000),
        critical: Some(105_000),
        ..SensorStat::default()
    };
    assert_eq!(read(&root), [expected]);
}

#[test]
fn supplies_and_batteries_of_the_host_are_read_and_those_of_a_mouse_not() {
    let root = TempDir::new();
    put(&root, "sys/class/power_supply/AC", &[("type", "Mains"), ("online", "1")]);
    put(
        &root,
        "sys/class/power_supply/BAT0",
        &[
            ("type", "Battery"),
            ("capacity", "87"),
            ("status", "Discharging"),
            ("health", "Overheat"),
            ("capacity_level", "Critical"),
        ],
    );
    put(
        &root,
        "sys/class/power_supply/hidpp_battery_0",
        &[("type", "Battery"), ("scope", "Device"), ("capacity", "5")],
    );
    let supply =
        SensorStat { name: "AC".to_owned(), what: SensorWhat::Supply, value: Some(1), ..SensorStat::default() };
    let battery = SensorStat {
        name: "BAT0".to_owned(),
        label: Some("Discharging".to_owned()),
        what: SensorWhat::Battery,
        value: Some(87_000),
        alarm: true,
        fault: true,
        ..SensorStat::default()
    };
    assert_eq!(read(&root), [supply, battery]);
}

#[test]
fn what_would_wake_a_disk_or_crawl_over_a_wire_is_left_out() {
    let root = TempDir::new();
    for (chip, name, device) in [
        ("hwmon0", "drivetemp", "pci0/ata1/0:0:0:0"),
        ("hwmon1", "w1_slave_temp", "w1_bus_master1/28-0000"),
        ("hwmon2", "acpitz", "virtual/thermal/thermal_zone0"),
        ("hwmon3", "lm75", "i2c-0/0-0048"),
        ("hwmon10", "nvme", "pci0/nvme/nvme1"),
        ("hwmon9", "nvme", "pci0/nvme/nvme0"),
    ] {
        put(&root, &format!("sys/class/hwmon/{chip}"), &[("name", name), ("temp1_input", "30000")]);
        device_of(&root, chip, device);
    }
    assert_eq!(names(&root), ["lm75/temp1", "nvme-nvme0/temp1", "nvme-nvme1/temp1"]);
}

#[test]
fn sensor_that_fails_three_times_is_read_no_more_until_all_is_looked_for_again() {
    let root = TempDir::new();
    let chip = "sys/class/hwmon/hwmon0";
    put(&root, chip, &[("name", "bad"), ("temp1_input", "")]);
    let mut sensors = Sensors::new(root.path());
    let mut error = || sensors.read().pop().unwrap().error;
    assert_eq!(error().as_deref(), Some("\"\" is no number"));
    assert_eq!(error().as_deref(), Some("\"\" is no number"));
    assert!(error().unwrap().ends_with("read no more after 3 failures"));
    put(&root, chip, &[("temp1_input", "30000")]);
    let given_up = sensors.read().pop().unwrap();
    assert!(given_up.value.is_none() && given_up.error.unwrap().ends_with("after 3 failures"));
    sensors.forget();
    assert_eq!(sensors.read().pop().unwrap().value, Some(30_000));
}

#[test]
fn slow_sensor_is_read_no_more() {
    let mut sensor =
        Sensor::new(PathBuf::from("/gone"), SensorStat::default(), Source::Supply, TOOK_MAX + Duration::from_millis(1));
    let stat = sensor.read().unwrap();
    assert_eq!(stat.error.as_deref(), Some("reading it took 201 ms; read no more"));
    assert_eq!(too_slow(TOOK_MAX), None);
}

#[test]
fn unplugged_and_plugged_sensors_are_noticed() {
    let root = TempDir::new();
    let chip = |number: u32| format!("sys/class/hwmon/hwmon{number}");
    put(&root, &chip(0), &[("name", "one"), ("temp1_input", "1000")]);
    let mut sensors = Sensors::new(root.path());
    assert_eq!(sensors.read().len(), 1);
    put(&root, &chip(1), &[("name", "two"), ("temp1_input", "2000")]);
    assert_eq!(sensors.read().len(), 2);
    // Another chip takes its number between two readings.
    fs::remove_dir_all(root.path().join(chip(1))).unwrap();
    put(&root, &chip(1), &[("name", "three"), ("temp2_input", "3000")]);
    assert_eq!(sensors.read().len(), 1, "the second one is gone");
    let last = sensors.read().pop().unwrap();
    assert_eq!((last.name.as_str(), last.value), ("three/temp2", Some(3000)));
}

#[test]
fn host_without_sensors_has_none() {
    assert_eq!(read(&TempDir::new()), []);
}
