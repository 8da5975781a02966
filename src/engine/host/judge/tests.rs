//! What the judges make of literal readings.

use super::super::sample::*;
use super::testing::Desk;
use super::*;
use CheckKind as K;

fn disk_stat(completed: u64, in_flight: u32, busy_ms: u64) -> DiskStat {
    DiskStat { name: "sda".into(), completed, in_flight, busy_ms, ..DiskStat::default() }
}

fn disks(stat: DiskStat) -> Sample {
    Sample::Disks(vec![stat])
}

fn kernel(about: KernelAbout, target: &str, text: &str) -> Sample {
    Sample::Kernel(vec![KernelLine { about, target: Some(target.into()), text: text.into() }])
}

fn nic(change: impl FnOnce(&mut NicStat)) -> Sample {
    let mut stat = NicStat { name: "eth0".into(), admin_up: true, carrier: true, ..NicStat::default() };
    change(&mut stat);
    Sample::Nics(vec![stat])
}

#[test]
fn requests_that_stand_still_are_hung_by_the_second_reading() {
    let mut desk = Desk::with_mount("/", "ext4", "sda");
    assert_eq!(desk.says(K::DiskHung, "sda", &disks(disk_stat(70, 3, 1_000))), "ok: requests complete");
    desk.wait(5);
    let said = desk.says(K::DiskHung, "sda", &disks(disk_stat(70, 3, 6_000)));
    assert_eq!(said, "degraded, held failing: 3 requests under way and none completed for 5s (degraded from 4.5s)");
    desk.wait(5);
    let said = desk.says(K::DiskHung, "sda", &disks(disk_stat(70, 3, 11_000)));
    assert_eq!(said, "failing: 3 requests under way and none completed for 10s (failing from 9.5s)");
    desk.wait(5);
    assert_eq!(desk.says(K::DiskHung, "sda", &disks(disk_stat(71, 2, 16_000))), "ok: requests complete");
}

#[test]
fn a_request_that_came_just_now_is_not_hung() {
    let mut desk = Desk::with_mount("/", "ext4", "sda");
    desk.judge(&disks(disk_stat(70, 0, 1_000)));
    desk.wait(5);
    let said = desk.says(K::DiskHung, "sda", &disks(disk_stat(70, 1, 1_010)));
    assert_eq!(said, "ok, held failing: 1 request under way and none completed for 10ms");
}

#[test]
fn a_gap_gives_no_rates() {
    let mut desk = Desk::with_mount("/", "ext4", "sda");
    desk.judge(&disks(disk_stat(70, 3, 1_000)));
    desk.wait(600);
    assert_eq!(desk.says(K::DiskHung, "sda", &disks(disk_stat(70, 3, 601_000))), "ok: requests complete");
}

#[test]
fn the_mean_of_few_requests_is_none() {
    let mut desk = Desk::with_mount("/", "ext4", "sda");
    let stat = |completed, spent_ms| disks(DiskStat { spent_ms, ..disk_stat(completed, 0, 0) });
    assert_eq!(desk.says(K::DiskLatency, "sda", &stat(0, 0)), "");
    desk.wait(10);
    assert_eq!(desk.says(K::DiskLatency, "sda", &stat(9, 90_000)), "ok: 9 requests within 10s");
    desk.wait(10);
    let said = desk.says(K::DiskLatency, "sda", &stat(29, 120_000));
    assert_eq!(said, "failing: 1500ms a request, mean of 20 (failing from 1s)");
}

#[test]
fn errors_of_a_disk_are_what_the_kernel_says_and_commands_that_time_out() {
    let mut desk = Desk::with_mount("/", "ext4", "sda");
    let stat = |errors, timeouts| {
        let scsi = Some(ScsiStat { errors, timeouts });
        disks(DiskStat { scsi, state: Some("running".into()), ..disk_stat(0, 0, 0) })
    };
    let none = "ok: 0 errors counted by the device and 0 lines of the kernel within 10m";
    assert_eq!(desk.says(K::DiskErrors, "sda", &stat(1, 0)), none);
    let said = desk.says(K::DiskErrors, "sda", &stat(2, 0));
    // A healthy ATA disk counts each question for its health as one.
    assert_eq!(said, "ok: 1 error counted by the device and 0 lines of the kernel within 10m");
    let said = desk.says(K::DiskErrors, "sda", &stat(2, 2));
    assert!(said.starts_with("failing for 10m: 2 commands timed out; "), "{said}");
    let line = kernel(KernelAbout::IoError, "sda1", "I/O error, dev sda, sector 4711");
    for _ in 0..4 {
        desk.judge(&line);
    }
    let said = desk.says(K::DiskErrors, "sda", &line);
    assert!(said.starts_with("failing: 1 error counted by the device and 5 lines"), "{said}");
    assert!(said.ends_with("kernel: `I/O error, dev sda, sector 4711`"), "{said}");
    let offline = DiskStat { state: Some("offline".into()), ..disk_stat(0, 0, 0) };
    assert_eq!(
        Desk::with_mount("/", "ext4", "sda").says(K::DiskErrors, "sda", &disks(offline)),
        "failing: the device is offline"
    );
}

#[test]
fn errors_of_a_file_system_latch_and_old_ones_only_degrade() {
    let mut desk = Desk::with_mount("/", "ext4", "sda");
    let stat = |errors| {
        Sample::Filesystems(vec![FilesystemStat {
            mount: "/".into(),
            errors: Some(errors),
            ..FilesystemStat::default()
        }])
    };
    let old = "degraded: 3 errors before the agent began to look: check it when it can be unmounted";
    assert_eq!(desk.says(K::Filesystem, "/", &stat(3)), old);
    let said = desk.says(K::Filesystem, "/", &stat(5));
    assert_eq!(said, format!("failing for ever: 2 new errors of the file system, 5 in all; {old}"));
    assert_eq!(desk.says(K::Filesystem, "/", &stat(0)), "released; ok: no errors");
    let line = kernel(KernelAbout::FilesystemError, "sda1", "EXT4-fs error (device sda1): bad header");
    let said = desk.says(K::Filesystem, "/", &line);
    assert_eq!(said, "failing for ever: kernel: `EXT4-fs error (device sda1): bad header`");
}

#[test]
fn the_canary_tells_a_read_only_disk_from_a_full_one() {
    let mut desk = Desk::with_mount("/", "xfs", "sda");
    let canary = |errno| Sample::Canary(CanaryStat { mount: "/".into(), errno, ..CanaryStat::default() });
    let said = desk.says(K::Filesystem, "/", &canary(Some(30)));
    assert_eq!(said, "failing: the canary could not be written or read: EROFS");
    assert_eq!(desk.says(K::Filesystem, "/", &canary(Some(28))), "ok: no errors");
}

#[test]
fn what_a_disk_says_of_itself_is_judged_by_growth() {
    let mut desk = Desk::with_mount("/", "ext4", "sda");
    let smart = |pending, interface_errors| {
        Sample::Smart(SmartStat {
            disk: "sda".into(),
            passed: Some(true),
            pending,
            interface_errors,
            ..SmartStat::default()
        })
    };
    assert_eq!(desk.says(K::Smart, "sda", &smart(Some(2), Some(9))), "degraded: 2 pending sectors");
    let said = desk.says(K::Smart, "sda", &smart(Some(3), Some(10)));
    let growth = "failing for 1d: 1 pending sector more, 3 in all; degraded for 1d: 1 interface error more, 10 in all: look at its cable";
    assert_eq!(said, format!("{growth}; degraded: 3 pending sectors"));
    let asleep = Sample::Smart(SmartStat { disk: "sda".into(), asleep: true, ..SmartStat::default() });
    assert_eq!(desk.says(K::Smart, "sda", &asleep), "");
    let warning =
        SmartStat { disk: "sda".into(), critical_warning: Some(5), spare: Some((0, 0)), ..SmartStat::default() };
    let said = desk.says(K::Smart, "sda", &Sample::Smart(warning));
    assert_eq!(said, "failing: critical warning 0x05: spare blocks are below the limit, it is not reliable any more");
}

#[test]
fn a_cable_that_never_was_is_no_fault() {
    let mut desk = Desk::with_nic("eth0", NicKind::Physical);
    desk.judge(&nic(|nic| nic.carrier = false));
    desk.wait(20);
    let said = desk.says(K::NicLink, "eth0", &nic(|nic| nic.carrier = false));
    assert_eq!(said, "absent: no cable since it is watched");
    desk.wait(10);
    assert_eq!(desk.says(K::NicLink, "eth0", &nic(|_| ())), "ok: it has a carrier");
    desk.wait(1);
    let said = desk.says(K::NicLink, "eth0", &nic(|nic| (nic.carrier, nic.carrier_changes) = (false, 1)));
    assert_eq!(said, "failing: no carrier, 1 change within 10m");
    let said = desk.says(K::NicLink, "eth0", &nic(|nic| (nic.admin_up, nic.carrier) = (false, false)));
    assert_eq!(said, "absent: it is set down");
    desk.wait(2);
    assert_eq!(desk.says(K::NicLink, "eth0", &nic(|nic| nic.carrier = false)), "", "it negotiates");
}

#[test]
fn shares_of_few_packets_are_none() {
    let mut desk = Desk::with_nic("eth0", NicKind::Physical);
    let mut said = String::new();
    for step in 0..13 {
        said = desk.says(K::NicErrors, "eth0", &nic(|nic| (nic.received_packets, nic.errors) = (step * 50, step * 25)));
        desk.wait(10);
    }
    assert_eq!(said, "ok: only 600 packets within 2m");
    for step in 13..26 {
        said = desk.says(
            K::NicErrors,
            "eth0",
            &nic(|nic| (nic.received_packets, nic.errors) = (step * 5_000, step * 100)),
        );
        desk.wait(10);
    }
    assert!(said.starts_with("degraded: 2.0 % of 60000 packets within 2m: "), "{said}");
}

#[test]
fn a_gateway_is_missed_after_three_times() {
    let mut desk = Desk::host();
    let lost =
        Sample::Gateway(GatewayStat { address: Some("192.0.2.1".into()), nic: Some("eth0".into()), answered: false });
    assert_eq!(desk.says(K::Gateway, "", &lost), "ok, held failing: 192.0.2.1 by eth0 did not answer 1 time");
    desk.judge(&lost);
    let said = desk.says(K::Gateway, "", &lost);
    assert_eq!(said, "degraded, held failing: 192.0.2.1 by eth0 did not answer 3 times (degraded from 3)");
    assert_eq!(
        desk.says(K::Gateway, "", &Sample::Gateway(GatewayStat::default())),
        "absent: there is no default route"
    );
}

#[test]
fn temperatures_are_held_against_the_chips_own_limits() {
    let mut desk = Desk::host().and(K::Temperature, "lm75/temp1");
    let sensor = |value, max, critical| {
        let name = "lm75/temp1".into();
        Sample::Sensors(vec![SensorStat { name, value: Some(value), max, critical, ..SensorStat::default() }])
    };
    let said = desk.says(K::Temperature, "lm75/temp1", &sensor(91_000, Some(80_000), Some(90_000)));
    assert_eq!(said, "failing: 91.0 °C (failing from 90.0 °C)");
    let said = desk.says(K::Temperature, "lm75/temp1", &sensor(76_500, Some(80_000), None));
    assert_eq!(said, "ok, held degraded: 76.5 °C");
    assert_eq!(desk.says(K::Temperature, "lm75/temp1", &sensor(91_000, Some(0), None)), "ok: 91.0 °C");
    let said = desk.says(K::Temperature, "lm75/temp1", &sensor(-128_000, None, None));
    assert_eq!(said, "absent: the sensor gives no plausible value");
}

#[test]
fn memory_errors_are_counted_by_the_day_and_uncorrected_ones_latch() {
    let mut desk = Desk::host().and(K::Ecc, "mc0");
    let hardware = |corrected, uncorrected| {
        let ecc = BTreeMap::from([("mc0".to_owned(), (corrected, uncorrected))]);
        Sample::Hardware(Box::new(Hardware { ecc, ..Hardware::default() }))
    };
    assert_eq!(desk.says(K::Ecc, "mc0", &hardware(400, 0)), "ok: 0 corrected memory errors within a day");
    let said = desk.says(K::Ecc, "mc0", &hardware(460, 0));
    assert_eq!(said, "degraded: 60 corrected memory errors within a day (degraded from 50)");
    let said = desk.says(K::Ecc, "mc0", &hardware(460, 1));
    assert!(said.starts_with("failing for 1d: 1 uncorrected memory error; "), "{said}");
}

#[test]
fn what_the_kernel_says_of_itself_latches_for_a_while() {
    let mut desk = Desk::host();
    let system = |tainted, oopses| {
        Sample::System(Box::new(System { tainted: Some(tainted), oopses: Some(oopses), ..System::default() }))
    };
    assert_eq!(desk.says(K::Kernel, "", &system(4_097, 0)), "ok: 0 hung tasks and 0 oopses within a day");
    let said = desk.says(K::Kernel, "", &system(4_097 | 1 << 7, 1));
    let taint = "degraded for 1d: the kernel is tainted by a kernel that died (bit 7 of /proc/sys/kernel/tainted)";
    assert_eq!(
        said,
        format!("failing for 1d: the kernel counted an oops; {taint}; ok: 0 hung tasks and 1 oopses within a day")
    );
    // Where it counts, its line is the same one again.
    assert_eq!(desk.says(K::Kernel, "", &kernel(KernelAbout::Oops, "", "BUG: x")), "");
}

#[test]
fn a_clock_is_given_time_and_its_steps_are_events() {
    let mut desk = Desk::host();
    let system =
        |clock_error_us, uptime_ms| Sample::System(Box::new(System { clock_error_us, uptime_ms, ..System::default() }));
    let said = desk.says(K::Clock, "", &system(16_000_000, 60_000));
    assert_eq!(said, "ok: the host has just booted, wrong by 16s at most");
    let said = desk.says(K::Clock, "", &system(16_000_000, 3_600_000));
    assert_eq!(said, "degraded: not synchronised, may be wrong by 16s (degraded from 16s)");
    assert_eq!(desk.says(K::Clock, "", &Sample::ClockSet { by_ms: -5_000 }), "the wall clock was set back by 5s");
    assert_eq!(desk.says(K::Clock, "", &Sample::ClockSet { by_ms: 900 }), "");
}

#[test]
fn what_happens_too_often_is_counted() {
    let mut desk = Desk::host();
    let told: usize =
        (0..5_000).map(|_| desk.judge(&kernel(KernelAbout::OutOfMemory, "", "Killed process")).len()).sum();
    assert_eq!(told, 30);
}
