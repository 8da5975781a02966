//! The host's part of `GET /metrics`: every check's state and value, and the readings behind them, in base units and with counters as the
//! kernel has them, so that rates are the reader's business.

use super::host::sensor_value;
use super::metrics::{family, sample};
use crate::engine::host::Health;
use crate::engine::host::kind::Unit;
use crate::engine::host::readings::Readings;
use crate::engine::host::sample::{
    CanaryStat, DiskStat, FilesystemStat, LinkMode, NicStat, Pressure, SensorWhat, SmartStat, SpaceStat, System,
};
use crate::engine::host::view::CheckView;

const STATES: [Health; 5] = [Health::Ok, Health::Degraded, Health::Failing, Health::Unknown, Health::Absent];
/// Ticks of /proc/stat a second (USER_HZ), the same on every platform of Linux that we build for.
const TICKS_A_SECOND: u64 = 100;
/// Bytes a second of one Mbit/s.
const MEGABIT_BYTES: u64 = 125_000;

type Row<T> = (&'static str, &'static str, &'static str, fn(&T) -> Option<String>);

/// Appends every family that has something to tell.
pub(super) fn text(out: &mut String, checks: &[CheckView], readings: &Readings) {
    of_checks(out, checks);
    if let Some(system) = readings.system.as_deref() {
        rows(out, &SYSTEM, &[(vec![], system)]);
        load(out, system);
        pressures(out, system);
    }
    rows(out, &DISK, &labelled("disk", readings.disks.iter()));
    rows(out, &SMART, &labelled("disk", readings.smarts.iter()));
    filesystems(out, readings);
    rows(out, &NIC, &labelled("nic", readings.nics.iter()));
    rows(out, &LINK_MODE, &labelled("nic", readings.link_modes.iter()));
    sensors(out, readings);
    hardware(out, readings);
}

fn labelled<'a, T>(label: &'static str, all: impl Iterator<Item = (&'a String, &'a T)>) -> Vec<Labelled<'a, T>> {
    all.map(|(name, one)| (vec![(label, name.as_str())], one)).collect()
}

type Labelled<'a, T> = (Vec<(&'static str, &'a str)>, &'a T);

fn rows<T>(out: &mut String, table: &[Row<T>], all: &[Labelled<'_, T>]) {
    for (name, kind, help, value) in table {
        let mut known = all.iter().filter_map(|(labels, one)| Some((labels, value(one)?))).peekable();
        if known.peek().is_some() {
            family(out, name, kind, help);
            known.for_each(|(labels, value)| sample(out, name, labels, value));
        }
    }
}

/// `part` in units of `1 / scale`, as a decimal number without rounding.
fn decimal(part: u64, scale: u64) -> String {
    let digits = scale.ilog10() as usize;
    let text = format!("{}.{:0digits$}", part / scale, part % scale);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn signed_decimal(part: i64, scale: u64) -> String {
    let sign = if part < 0 { "-" } else { "" };
    format!("{sign}{}", decimal(part.unsigned_abs(), scale))
}

fn of_checks(out: &mut String, checks: &[CheckView]) {
    if checks.is_empty() {
        return;
    }
    let labels = |check: &CheckView| [check.name.clone(), check.kind.word().to_owned(), check.target.clone()];
    let name = "mainstay_check_state";
    family(out, name, "gauge", "1 for the state that the check is in, 0 for the others.");
    for check in checks {
        let [own, kind, target] = labels(check);
        for state in STATES {
            let labels = [("check", own.as_str()), ("kind", &kind), ("target", &target), ("state", state.word())];
            sample(out, name, &labels, u8::from(check.state == state));
        }
    }
    let name = "mainstay_check_value";
    family(
        out,
        name,
        "gauge",
        "Latest value of the check: ratio, seconds, degrees Celsius, bytes a second or a count.",
    );
    for check in checks {
        if let Some(value) = check.value.and_then(|value| base(check.unit, value)) {
            let [own, kind, target] = labels(check);
            sample(out, name, &[("check", own.as_str()), ("kind", &kind), ("target", &target)], value);
        }
    }
    let name = "mainstay_check_flapping";
    family(out, name, "gauge", "Whether the check changes its state again and again.");
    for check in checks {
        let [own, kind, target] = labels(check);
        let labels = [("check", own.as_str()), ("kind", &kind), ("target", &target)];
        sample(out, name, &labels, u8::from(check.flapping));
    }
}

/// A value of a check in base units.
fn base(unit: Unit, value: i64) -> Option<String> {
    match unit {
        Unit::Percent | Unit::Milliseconds | Unit::Celsius => Some(signed_decimal(value, 1_000)),
        Unit::Megabits => u64::try_from(value).ok().map(|value| value.saturating_mul(MEGABIT_BYTES).to_string()),
        Unit::Count => Some(value.to_string()),
        Unit::None => None,
    }
}

#[expect(clippy::unnecessary_wraps, reason = "a value of a table whose other values may be missing")]
fn some(value: impl ToString) -> Option<String> {
    Some(value.to_string())
}

#[rustfmt::skip]
const SYSTEM: [Row<System>; 21] = [
    ("mainstay_host_uptime_seconds", "gauge", "Time since the host was booted.", |one| Some(decimal(one.uptime_ms, 1_000))),
    ("mainstay_host_cpus", "gauge", "CPUs.", |one| some(one.cpus)),
    ("mainstay_host_cpu_seconds_total", "counter", "Time of all CPUs.", |one| Some(decimal(one.cpu_ticks, TICKS_A_SECOND))),
    ("mainstay_host_cpu_idle_seconds_total", "counter", "Time of all CPUs spent idle or waiting for I/O.", |one| Some(decimal(one.cpu_idle_ticks, TICKS_A_SECOND))),
    ("mainstay_host_memory_total_bytes", "gauge", "Memory.", |one| some(one.memory_total_bytes)),
    ("mainstay_host_memory_available_bytes", "gauge", "Memory that can be used without swapping.", |one| some(one.memory_available_bytes)),
    ("mainstay_host_memory_poisoned_bytes", "gauge", "Memory that the kernel has given up.", |one| one.memory_poisoned_bytes.and_then(some)),
    ("mainstay_host_swap_total_bytes", "gauge", "Swap.", |one| some(one.swap_total_bytes)),
    ("mainstay_host_swap_free_bytes", "gauge", "Swap that is free.", |one| some(one.swap_free_bytes)),
    ("mainstay_host_tasks", "gauge", "Processes and threads.", |one| some(one.tasks)),
    ("mainstay_host_tasks_max", "gauge", "Processes and threads at most.", |one| some(one.tasks_max)),
    ("mainstay_host_blocked_tasks", "gauge", "Tasks in uninterruptible sleep.", |one| some(one.blocked_tasks)),
    ("mainstay_host_open_files", "gauge", "Open files.", |one| some(one.files_open)),
    ("mainstay_host_open_files_max", "gauge", "Open files at most.", |one| some(one.files_max)),
    ("mainstay_host_conntrack_entries", "gauge", "Tracked connections.", |one| one.conntrack.and_then(|(used, _)| some(used))),
    ("mainstay_host_conntrack_entries_max", "gauge", "Tracked connections at most.", |one| one.conntrack.and_then(|(_, max)| some(max))),
    ("mainstay_host_oom_kills_total", "counter", "Processes killed for want of memory.", |one| one.oom_kills.and_then(some)),
    ("mainstay_host_oopses_total", "counter", "Oopses of the kernel.", |one| one.oopses.and_then(some)),
    ("mainstay_host_hung_tasks_total", "counter", "Tasks that the kernel found hanging.", |one| one.hung_tasks.and_then(some)),
    ("mainstay_host_clock_synchronised", "gauge", "Whether the clock is disciplined.", |one| some(u8::from(one.clock_synchronised))),
    ("mainstay_host_clock_error_seconds", "gauge", "The largest error of the clock.", |one| Some(decimal(one.clock_error_us, 1_000_000))),
];

#[rustfmt::skip]
const DISK: [Row<DiskStat>; 10] = [
    ("mainstay_host_disk_completed_total", "counter", "Requests completed.", |one| some(one.completed)),
    ("mainstay_host_disk_read_bytes_total", "counter", "Bytes read.", |one| some(one.read_bytes)),
    ("mainstay_host_disk_written_bytes_total", "counter", "Bytes written.", |one| some(one.written_bytes)),
    ("mainstay_host_disk_request_seconds_total", "counter", "Time that all requests took together.", |one| Some(decimal(one.spent_ms, 1_000))),
    ("mainstay_host_disk_busy_seconds_total", "counter", "Time in which a request was under way.", |one| Some(decimal(one.busy_ms, 1_000))),
    ("mainstay_host_disk_in_flight", "gauge", "Requests under way.", |one| some(one.in_flight)),
    ("mainstay_host_disk_errors_total", "counter", "Commands that failed, by the SCSI layer.", |one| one.scsi.and_then(|scsi| some(scsi.errors))),
    ("mainstay_host_disk_timeouts_total", "counter", "Commands without an answer, by the SCSI layer.", |one| one.scsi.and_then(|scsi| some(scsi.timeouts))),
    ("mainstay_host_disk_suspended", "gauge", "Whether the device-mapper device is suspended.", |one| one.suspended.then(|| "1".to_owned())),
    ("mainstay_host_raid_missing_members", "gauge", "Members that the array lacks.", |one| one.raid.as_ref().and_then(|raid| some(raid.degraded))),
];

#[rustfmt::skip]
const SMART: [Row<SmartStat>; 11] = [
    ("mainstay_host_smart_passed", "gauge", "The disk's own verdict.", |one| one.passed.and_then(|passed| some(u8::from(passed)))),
    ("mainstay_host_smart_critical_warning", "gauge", "NVMe's critical warning byte.", |one| one.critical_warning.and_then(some)),
    ("mainstay_host_smart_used_ratio", "gauge", "Used share of the disk's life.", |one| one.used.map(|used| decimal(u64::from(used), 100))),
    ("mainstay_host_smart_spare_ratio", "gauge", "Spare blocks that are left.", |one| one.spare.map(|(spare, _)| decimal(u64::from(spare), 100))),
    ("mainstay_host_smart_media_errors_total", "counter", "Errors of the medium.", |one| one.media_errors.and_then(some)),
    ("mainstay_host_smart_reallocated_sectors", "gauge", "Sectors that were replaced.", |one| one.reallocated.and_then(some)),
    ("mainstay_host_smart_pending_sectors", "gauge", "Sectors that cannot be read now.", |one| one.pending.and_then(some)),
    ("mainstay_host_smart_uncorrectable_sectors", "gauge", "Sectors that could not be read offline.", |one| one.uncorrectable.and_then(some)),
    ("mainstay_host_smart_interface_errors_total", "counter", "Errors between disk and host, often of a cable.", |one| one.interface_errors.and_then(some)),
    ("mainstay_host_smart_temperature_celsius", "gauge", "Temperature that the disk tells.", |one| one.temperature.and_then(some)),
    ("mainstay_host_smart_power_on_seconds_total", "counter", "Time that the disk was on.", |one| one.power_on_hours.map(|hours| hours.saturating_mul(3_600).to_string())),
];

#[rustfmt::skip]
const SPACE: [Row<SpaceStat>; 5] = [
    ("mainstay_host_filesystem_size_bytes", "gauge", "Size of the file system.", |one| told(one, one.size_bytes)),
    ("mainstay_host_filesystem_available_bytes", "gauge", "What others than root may still use.", |one| told(one, one.available_bytes)),
    ("mainstay_host_filesystem_free_bytes", "gauge", "What root may still use.", |one| told(one, one.free_bytes)),
    ("mainstay_host_filesystem_inodes", "gauge", "Inodes.", |one| told(one, one.inodes).filter(|_| one.inodes > 0)),
    ("mainstay_host_filesystem_inodes_available", "gauge", "Inodes that are left.", |one| told(one, one.inodes_available).filter(|_| one.inodes > 0)),
];

#[rustfmt::skip]
const NIC: [Row<NicStat>; 9] = [
    ("mainstay_host_nic_up", "gauge", "Whether the NIC is wanted up.", |one| some(u8::from(one.admin_up))),
    ("mainstay_host_nic_carrier", "gauge", "Whether the NIC has a carrier.", |one| some(u8::from(one.carrier))),
    ("mainstay_host_nic_carrier_changes_total", "counter", "Times that the carrier came or went.", |one| some(one.carrier_changes)),
    ("mainstay_host_nic_receive_bytes_total", "counter", "Bytes received.", |one| some(one.received_bytes)),
    ("mainstay_host_nic_transmit_bytes_total", "counter", "Bytes sent.", |one| some(one.sent_bytes)),
    ("mainstay_host_nic_receive_packets_total", "counter", "Packets received.", |one| some(one.received_packets)),
    ("mainstay_host_nic_transmit_packets_total", "counter", "Packets sent.", |one| some(one.sent_packets)),
    ("mainstay_host_nic_errors_total", "counter", "Errors of receiving and sending.", |one| some(one.errors)),
    ("mainstay_host_nic_drops_total", "counter", "Packets dropped in receiving and sending.", |one| some(one.drops)),
];

#[rustfmt::skip]
const FILESYSTEM: [Row<FilesystemStat>; 2] = [
    ("mainstay_host_filesystem_errors_total", "counter", "Errors that the file system has counted.", |one| one.errors.and_then(some)),
    ("mainstay_host_filesystem_forced_read_only", "gauge", "Whether errors made it read-only.", |one| some(u8::from(one.forced_read_only))),
];

#[rustfmt::skip]
const CANARY: [Row<CanaryStat>; 1] = [
    ("mainstay_host_filesystem_canary_seconds", "gauge", "Time of a small write that reaches the disk.",
        |one| (one.absent.is_none() && one.errno.is_none()).then(|| decimal(one.took_us, 1_000_000))),
];

#[rustfmt::skip]
const LINK_MODE: [Row<LinkMode>; 1] = [
    ("mainstay_host_nic_speed_bytes", "gauge", "Speed of the link in bytes a second.",
        |one| one.speed.map(|speed| (u64::from(speed) * MEGABIT_BYTES).to_string())),
];

fn told(space: &SpaceStat, value: u64) -> Option<String> {
    space.error.is_none().then(|| value.to_string())
}

fn load(out: &mut String, system: &System) {
    for (name, load) in
        ["mainstay_host_load1", "mainstay_host_load5", "mainstay_host_load15"].into_iter().zip(system.load_permille)
    {
        family(out, name, "gauge", "Load average.");
        sample(out, name, &[], decimal(u64::from(load), 1_000));
    }
}

fn pressures(out: &mut String, system: &System) {
    let all = [("cpu", system.pressure_cpu), ("io", system.pressure_io), ("memory", system.pressure_memory)];
    let known: Vec<(&str, Pressure)> = all.into_iter().filter_map(|(name, one)| Some((name, one?))).collect();
    if known.is_empty() {
        return;
    }
    let name = "mainstay_host_pressure_waiting_seconds_total";
    family(out, name, "counter", "Time in which some task waited for the resource.");
    for (resource, pressure) in &known {
        sample(out, name, &[("resource", resource)], decimal(pressure.some_total_us, 1_000_000));
    }
    let name = "mainstay_host_pressure_ratio";
    family(out, name, "gauge", "Share of the latest 10 s in which some, or all, tasks waited for the resource.");
    for (resource, pressure) in &known {
        let some = ("some", Some(pressure.some_avg10));
        for (who, share) in [some, ("full", pressure.full_avg10)] {
            if let Some(share) = share {
                sample(out, name, &[("resource", resource), ("tasks", who)], decimal(u64::from(share), 10_000));
            }
        }
    }
}

fn filesystems(out: &mut String, readings: &Readings) {
    let of_mount = |point: &str| readings.devices.mounts.iter().find(|mount| mount.point == point);
    let mut spaces: Vec<Labelled<'_, SpaceStat>> = labelled("mount", readings.spaces.iter());
    for (labels, space) in &mut spaces {
        if let Some(mount) = of_mount(&space.mount) {
            labels.extend([("device", mount.source.as_str()), ("fstype", mount.fs_type.as_str())]);
        }
    }
    rows(out, &SPACE, &spaces);
    rows(out, &FILESYSTEM, &labelled("mount", readings.filesystems.iter()));
    rows(out, &CANARY, &labelled("mount", readings.canaries.iter()));
}

fn sensors(out: &mut String, readings: &Readings) {
    for (what, name, help) in [
        (SensorWhat::Temperature, "mainstay_host_temperature_celsius", "Temperature."),
        (SensorWhat::Fan, "mainstay_host_fan_rpm", "Rounds a minute."),
        (SensorWhat::Voltage, "mainstay_host_voltage_volts", "Voltage."),
        (SensorWhat::Supply, "mainstay_host_power_online", "Whether the supply gives power."),
        (SensorWhat::Battery, "mainstay_host_battery_percent", "Charge of the battery."),
    ] {
        let known = readings.sensors.values().filter(|one| one.what == what && one.value.is_some());
        let mut known = known.peekable();
        if known.peek().is_some() {
            family(out, name, "gauge", help);
        }
        for one in known {
            let labels = [("sensor", one.name.as_str()), ("label", one.label.as_deref().unwrap_or_default())];
            sample(out, name, &labels, sensor_value(what, one.value.unwrap_or_default()));
        }
    }
}

fn hardware(out: &mut String, readings: &Readings) {
    let Some(hardware) = readings.hardware.as_deref() else { return };
    if !hardware.ecc.is_empty() {
        let name = "mainstay_host_ecc_errors_total";
        family(out, name, "counter", "Memory errors counted by the memory controller.");
        for (controller, (corrected, uncorrected)) in &hardware.ecc {
            sample(out, name, &[("controller", controller), ("severity", "corrected")], corrected);
            sample(out, name, &[("controller", controller), ("severity", "uncorrected")], uncorrected);
        }
    }
    if !hardware.pcie.is_empty() {
        let name = "mainstay_host_pcie_errors_total";
        family(out, name, "counter", "PCIe errors of the device.");
        for (device, (correctable, nonfatal, fatal)) in &hardware.pcie {
            for (severity, count) in [("correctable", correctable), ("nonfatal", nonfatal), ("fatal", fatal)] {
                sample(out, name, &[("device", device), ("severity", severity)], count);
            }
        }
    }
    if let Some(count) = hardware.throttled {
        let name = "mainstay_host_throttled_total";
        family(out, name, "counter", "Times that a CPU slowed itself down because of heat.");
        sample(out, name, &[], count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{check_views, readings};

    #[test]
    #[expect(clippy::too_many_lines, reason = "one whole answer")]
    fn every_reading_is_told_in_base_units() {
        let mut out = String::new();
        text(&mut out, &check_views(), &readings());
        let samples: Vec<&str> = out.lines().filter(|line| !line.starts_with('#')).collect();
        expect_test::expect![[r#"
            mainstay_check_state{check="root",kind="disk_space",target="/",state="ok"} 0
            mainstay_check_state{check="root",kind="disk_space",target="/",state="degraded"} 1
            mainstay_check_state{check="root",kind="disk_space",target="/",state="failing"} 0
            mainstay_check_state{check="root",kind="disk_space",target="/",state="unknown"} 0
            mainstay_check_state{check="root",kind="disk_space",target="/",state="absent"} 0
            mainstay_check_state{check="disk_hung sda",kind="disk_hung",target="sda",state="ok"} 0
            mainstay_check_state{check="disk_hung sda",kind="disk_hung",target="sda",state="degraded"} 0
            mainstay_check_state{check="disk_hung sda",kind="disk_hung",target="sda",state="failing"} 1
            mainstay_check_state{check="disk_hung sda",kind="disk_hung",target="sda",state="unknown"} 0
            mainstay_check_state{check="disk_hung sda",kind="disk_hung",target="sda",state="absent"} 0
            mainstay_check_state{check="nic_link eth0",kind="nic_link",target="eth0",state="ok"} 1
            mainstay_check_state{check="nic_link eth0",kind="nic_link",target="eth0",state="degraded"} 0
            mainstay_check_state{check="nic_link eth0",kind="nic_link",target="eth0",state="failing"} 0
            mainstay_check_state{check="nic_link eth0",kind="nic_link",target="eth0",state="unknown"} 0
            mainstay_check_state{check="nic_link eth0",kind="nic_link",target="eth0",state="absent"} 0
            mainstay_check_state{check="temperature coretemp/temp1",kind="temperature",target="coretemp/temp1",state="ok"} 1
            mainstay_check_state{check="temperature coretemp/temp1",kind="temperature",target="coretemp/temp1",state="degraded"} 0
            mainstay_check_state{check="temperature coretemp/temp1",kind="temperature",target="coretemp/temp1",state="failing"} 0
            mainstay_check_state{check="temperature coretemp/temp1",kind="temperature",target="coretemp/temp1",state="unknown"} 0
            mainstay_check_state{check="temperature coretemp/temp1",kind="temperature",target="coretemp/temp1",state="absent"} 0
            mainstay_check_state{check="smart sda",kind="smart",target="sda",state="ok"} 0
            mainstay_check_state{check="smart sda",kind="smart",target="sda",state="degraded"} 0
            mainstay_check_state{check="smart sda",kind="smart",target="sda",state="failing"} 0
            mainstay_check_state{check="smart sda",kind="smart",target="sda",state="unknown"} 1
            mainstay_check_state{check="smart sda",kind="smart",target="sda",state="absent"} 0
            mainstay_check_state{check="pressure_memory",kind="pressure_memory",target="",state="ok"} 0
            mainstay_check_state{check="pressure_memory",kind="pressure_memory",target="",state="degraded"} 0
            mainstay_check_state{check="pressure_memory",kind="pressure_memory",target="",state="failing"} 0
            mainstay_check_state{check="pressure_memory",kind="pressure_memory",target="",state="unknown"} 0
            mainstay_check_state{check="pressure_memory",kind="pressure_memory",target="",state="absent"} 1
            mainstay_check_value{check="root",kind="disk_space",target="/"} 0.911
            mainstay_check_value{check="disk_hung sda",kind="disk_hung",target="sda"} 12
            mainstay_check_value{check="temperature coretemp/temp1",kind="temperature",target="coretemp/temp1"} 42.5
            mainstay_check_flapping{check="root",kind="disk_space",target="/"} 0
            mainstay_check_flapping{check="disk_hung sda",kind="disk_hung",target="sda"} 1
            mainstay_check_flapping{check="nic_link eth0",kind="nic_link",target="eth0"} 0
            mainstay_check_flapping{check="temperature coretemp/temp1",kind="temperature",target="coretemp/temp1"} 0
            mainstay_check_flapping{check="smart sda",kind="smart",target="sda"} 0
            mainstay_check_flapping{check="pressure_memory",kind="pressure_memory",target=""} 0
            mainstay_host_uptime_seconds 100
            mainstay_host_cpus 2
            mainstay_host_cpu_seconds_total 123.45
            mainstay_host_cpu_idle_seconds_total 100
            mainstay_host_memory_total_bytes 2147483648
            mainstay_host_memory_available_bytes 1073741824
            mainstay_host_swap_total_bytes 0
            mainstay_host_swap_free_bytes 0
            mainstay_host_tasks 0
            mainstay_host_tasks_max 0
            mainstay_host_blocked_tasks 0
            mainstay_host_open_files 0
            mainstay_host_open_files_max 0
            mainstay_host_conntrack_entries 3
            mainstay_host_conntrack_entries_max 65536
            mainstay_host_clock_synchronised 1
            mainstay_host_clock_error_seconds 0.0015
            mainstay_host_load1 0.1
            mainstay_host_load5 1.5
            mainstay_host_load15 0.02
            mainstay_host_pressure_waiting_seconds_total{resource="io"} 1.5
            mainstay_host_pressure_ratio{resource="io",tasks="some"} 0.1234
            mainstay_host_pressure_ratio{resource="io",tasks="full"} 0.0007
            mainstay_host_disk_completed_total{disk="sda"} 100
            mainstay_host_disk_read_bytes_total{disk="sda"} 4096
            mainstay_host_disk_written_bytes_total{disk="sda"} 8192
            mainstay_host_disk_request_seconds_total{disk="sda"} 0.25
            mainstay_host_disk_busy_seconds_total{disk="sda"} 0.2
            mainstay_host_disk_in_flight{disk="sda"} 2
            mainstay_host_disk_errors_total{disk="sda"} 1
            mainstay_host_disk_timeouts_total{disk="sda"} 0
            mainstay_host_smart_passed{disk="sda"} 1
            mainstay_host_smart_used_ratio{disk="sda"} 0.07
            mainstay_host_smart_temperature_celsius{disk="sda"} 38
            mainstay_host_smart_power_on_seconds_total{disk="sda"} 7200
            mainstay_host_filesystem_size_bytes{mount="/",device="/dev/sda1",fstype="ext4"} 16000
            mainstay_host_filesystem_available_bytes{mount="/",device="/dev/sda1",fstype="ext4"} 1424
            mainstay_host_filesystem_free_bytes{mount="/",device="/dev/sda1",fstype="ext4"} 2000
            mainstay_host_filesystem_inodes{mount="/",device="/dev/sda1",fstype="ext4"} 100
            mainstay_host_filesystem_inodes_available{mount="/",device="/dev/sda1",fstype="ext4"} 60
            mainstay_host_filesystem_errors_total{mount="/"} 3
            mainstay_host_filesystem_forced_read_only{mount="/"} 0
            mainstay_host_filesystem_canary_seconds{mount="/"} 0.0008
            mainstay_host_nic_up{nic="eth0"} 1
            mainstay_host_nic_carrier{nic="eth0"} 1
            mainstay_host_nic_carrier_changes_total{nic="eth0"} 0
            mainstay_host_nic_receive_bytes_total{nic="eth0"} 1000
            mainstay_host_nic_transmit_bytes_total{nic="eth0"} 2000
            mainstay_host_nic_receive_packets_total{nic="eth0"} 0
            mainstay_host_nic_transmit_packets_total{nic="eth0"} 0
            mainstay_host_nic_errors_total{nic="eth0"} 0
            mainstay_host_nic_drops_total{nic="eth0"} 4
            mainstay_host_nic_speed_bytes{nic="eth0"} 125000000
            mainstay_host_temperature_celsius{sensor="coretemp/temp1",label="Package id 0"} 42.5
            mainstay_host_ecc_errors_total{controller="mc0",severity="corrected"} 5
            mainstay_host_ecc_errors_total{controller="mc0",severity="uncorrected"} 0
            mainstay_host_pcie_errors_total{device="0000:00:1c.0",severity="correctable"} 1
            mainstay_host_pcie_errors_total{device="0000:00:1c.0",severity="nonfatal"} 2
            mainstay_host_pcie_errors_total{device="0000:00:1c.0",severity="fatal"} 3
            mainstay_host_throttled_total 9"#]].assert_eq(&samples.join("\n"));
    }

    #[test]
    fn every_family_is_explained_once_and_none_without_a_sample() {
        let mut out = String::new();
        text(&mut out, &check_views(), &readings());
        let mut families: Vec<&str> = out.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        for family in &families {
            let (name, kind) = family.split_once(' ').unwrap();
            assert!(
                out.lines().any(|line| line.starts_with(&format!("{name} ")) || line.starts_with(&format!("{name}{{"))),
                "{name}"
            );
            assert_eq!(name.ends_with("_total"), kind == "counter", "{family}");
        }
        let count = families.len();
        families.sort_unstable();
        families.dedup();
        assert_eq!(families.len(), count);
        let mut nothing = String::new();
        text(&mut nothing, &[], &Readings::default());
        assert_eq!(nothing, "");
    }

    #[test]
    fn decimals_are_exact() {
        assert_eq!(
            [decimal(0, 1_000), decimal(871, 1_000), decimal(1_500, 1_000), decimal(12, 100)],
            ["0", "0.871", "1.5", "0.12"]
        );
        assert_eq!(signed_decimal(-5_500, 1_000), "-5.5");
        assert_eq!(decimal(100, 100), "1");
    }
}
