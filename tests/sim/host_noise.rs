//! What a host that is well, and busy, has to say; and faults.

use std::collections::BTreeMap;

use mainstay::engine::host::Health;
use mainstay::engine::host::kind::CheckKind;
use mainstay::engine::host::sample::{
    CanaryStat, Devices, Disk, DiskStat, FilesystemStat, GatewayStat, Hardware, KernelAbout, KernelLine, LinkMode,
    Mount, Nic, NicKind, NicStat, Pressure, RaidStat, Sample, ScsiStat, SensorStat, SensorWhat, SmartBy, SmartStat,
    SpaceStat, System,
};
use mainstay::engine::host::watch::Source;

use crate::dice::Dice;

const GIB: u64 = 1 << 30;

/// Something that is really wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    DiskFull,
    DiskFillsUp,
    ExtError,
    CanaryFails,
    CommandsLost,
    HelperHangs,
    DiskSlow,
    MediumErrors,
    NvmeCritical,
    SectorsReallocated,
    MdDegraded,
    CableOut,
    PacketErrors,
    GatewayGone,
    Hot,
    Uncorrected,
    MachineCheck,
    MemoryPressure,
    FilesUsedUp,
    ClockLost,
    Oops,
}

impl Fault {
    pub(crate) const ALL: [Self; 21] = [
        Self::DiskFull,
        Self::DiskFillsUp,
        Self::ExtError,
        Self::CanaryFails,
        Self::CommandsLost,
        Self::HelperHangs,
        Self::DiskSlow,
        Self::MediumErrors,
        Self::NvmeCritical,
        Self::SectorsReallocated,
        Self::MdDegraded,
        Self::CableOut,
        Self::PacketErrors,
        Self::GatewayGone,
        Self::Hot,
        Self::Uncorrected,
        Self::MachineCheck,
        Self::MemoryPressure,
        Self::FilesUsedUp,
        Self::ClockLost,
        Self::Oops,
    ];

    /// The check, its state, and within how many seconds: some of these are readings lost or roles away.
    pub(crate) fn expected(self) -> (CheckKind, &'static str, Health, u64) {
        use CheckKind as K;
        match self {
            Self::DiskFull => (K::DiskSpace, "/", Health::Failing, 150),
            Self::DiskFillsUp => (K::DiskFill, "/srv", Health::Failing, 9_000),
            Self::ExtError => (K::Filesystem, "/", Health::Failing, 30),
            Self::CanaryFails => (K::Filesystem, "/srv", Health::Failing, 80),
            Self::CommandsLost => (K::DiskHung, "sda", Health::Failing, 60),
            Self::HelperHangs => (K::DiskHung, "sda", Health::Failing, 90),
            Self::DiskSlow => (K::DiskLatency, "sda", Health::Degraded, 120),
            Self::MediumErrors => (K::DiskErrors, "sda", Health::Failing, 120),
            Self::NvmeCritical => (K::Smart, "nvme0n1", Health::Failing, 1_300),
            Self::SectorsReallocated => (K::Smart, "sda", Health::Degraded, 2_000),
            Self::MdDegraded => (K::Raid, "md0", Health::Degraded, 30),
            Self::CableOut => (K::NicLink, "eth0", Health::Failing, 30),
            Self::PacketErrors => (K::NicErrors, "eth0", Health::Degraded, 400),
            Self::GatewayGone => (K::Gateway, "", Health::Failing, 120),
            Self::Hot => (K::Temperature, "coretemp/temp1", Health::Failing, 150),
            Self::Uncorrected => (K::Ecc, "mc0", Health::Failing, 90),
            Self::MachineCheck => (K::MachineCheck, "", Health::Failing, 30),
            Self::MemoryPressure => (K::PressureMemory, "", Health::Failing, 60),
            Self::FilesUsedUp => (K::Files, "", Health::Failing, 60),
            Self::ClockLost => (K::Clock, "", Health::Degraded, 900),
            Self::Oops => (K::Kernel, "", Health::Failing, 30),
        }
    }

    /// What else a fault shows itself in.
    pub(crate) fn may_follow(self, kind: CheckKind, target: &str) -> bool {
        let own = self.expected();
        let besides: &[CheckKind] = match self {
            Self::DiskFull => &[CheckKind::DiskFill],
            Self::DiskFillsUp => &[CheckKind::DiskSpace],
            Self::CommandsLost | Self::HelperHangs => &[CheckKind::DiskLatency],
            _ => &[],
        };
        (kind, target) == (own.0, own.1) || besides.contains(&kind)
    }
}

pub(crate) struct Noise {
    dice: Dice,
    pub(crate) devices: Devices,
    pub(crate) fault: Option<Fault>,
    since_fault: u64,
    second: u64,
    disks: BTreeMap<String, DiskStat>,
    nics: BTreeMap<String, NicStat>,
    /// A burst of work until then.
    burst_until: u64,
    throttled: u64,
    corrected: u64,
    oom_kills: u64,
    told: bool,
}

fn mount(point: &str, fs_type: &str, device: &str, disk: &str) -> Mount {
    Mount {
        point: point.into(),
        source: format!("/dev/{device}"),
        fs_type: fs_type.into(),
        disk: Some(disk.into()),
        device: Some(device.into()),
        ..Mount::default()
    }
}

fn nic(name: &str, kind: NicKind) -> Nic {
    Nic { name: name.into(), kind, ..Nic::default() }
}

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        let disk = |name: &str, smart, rotating| Disk { name: name.into(), smart, rotating, ..Disk::default() };
        let devices = Devices {
            disks: vec![
                disk("nvme0n1", Some(SmartBy::Nvme), false),
                disk("sda", Some(SmartBy::Ata), true),
                disk("md0", None, false),
            ],
            mounts: vec![mount("/", "ext4", "nvme0n1p1", "nvme0n1"), mount("/srv", "xfs", "sda1", "sda")],
            nics: vec![nic("eth0", NicKind::Physical), nic("eth1", NicKind::Physical), nic("veth0", NicKind::Virtual)],
        };
        let mut noise = Self {
            dice: Dice::new(seed ^ 0xabcd),
            devices,
            fault: None,
            since_fault: 0,
            second: 0,
            disks: BTreeMap::new(),
            nics: BTreeMap::new(),
            burst_until: 0,
            throttled: 7,
            corrected: 3,
            oom_kills: 2,
            told: false,
        };
        for name in ["nvme0n1", "sda", "md0"] {
            noise.disks.insert(name.into(), DiskStat { name: name.into(), ..DiskStat::default() });
        }
        for name in ["eth0", "eth1", "usb0"] {
            noise.nics.insert(name.into(), NicStat { name: name.into(), admin_up: true, ..NicStat::default() });
        }
        noise
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// A NIC on USB comes or goes.
    pub(crate) fn plug(&mut self) {
        let was_there = self.devices.nics.iter().any(|nic| nic.name == "usb0");
        self.devices.nics.retain(|nic| nic.name != "usb0" && nic.kind != NicKind::Virtual);
        if !was_there {
            self.devices.nics.push(nic("usb0", NicKind::Physical));
            self.nics.insert("usb0".into(), NicStat { name: "usb0".into(), admin_up: true, ..NicStat::default() });
        }
        let number = self.dice.below(1_000);
        self.devices.nics.push(nic(&format!("veth{number}"), NicKind::Virtual));
    }

    /// A second of work.
    pub(crate) fn pass(&mut self, second: u64) {
        self.second = second;
        self.since_fault += u64::from(self.fault.is_some());
        if self.dice.below(120) == 0 {
            self.burst_until = second + self.dice.below(90);
        }
        let burst = second < self.burst_until;
        let (lost, slow) = (self.has(Fault::CommandsLost), self.has(Fault::DiskSlow));
        for (name, disk) in &mut self.disks {
            let sda = name == "sda";
            if lost && sda {
                disk.in_flight = 3;
                disk.busy_ms += 1_000;
                continue;
            }
            // Even a disk in a burst may stand still for a second or two.
            let still = burst && second % 5 < 2;
            let idle = !burst && self.dice.below(3) == 0;
            let requests = if still || idle { 0 } else { 1 + self.dice.below(if burst { 4_000 } else { 60 }) };
            let each = if slow && sda {
                600
            } else if sda {
                self.dice.below(120)
            } else {
                self.dice.below(40)
            };
            disk.completed += requests;
            disk.spent_ms += requests * each;
            disk.busy_ms += if burst { 1_000 } else { self.dice.below(300) };
            disk.in_flight = if burst { 32 } else { u32::try_from(self.dice.below(2)).expect("small") };
        }
        for nic in self.nics.values_mut() {
            let packets = self.dice.below(if burst { 20_000 } else { 300 });
            nic.received_packets += packets;
            nic.sent_packets += packets / 2;
            // Half a percent is lost.
            nic.drops += packets * 3 / 2 / 200;
            nic.errors += packets * 3 / 2 / 400;
            let up = match nic.name.as_str() {
                "eth1" => false,
                "usb0" => nic.received_packets > 800,
                _ => true,
            };
            if nic.carrier != up {
                nic.carrier = up;
                nic.carrier_changes += 1;
            }
        }
        if let Some(eth0) = self.nics.get_mut("eth0") {
            if self.fault == Some(Fault::CableOut) && eth0.carrier {
                eth0.carrier = false;
                eth0.carrier_changes += 1;
            }
            if self.fault == Some(Fault::PacketErrors) {
                eth0.errors += 40 + self.dice.below(600);
                eth0.received_packets += 600;
            }
        }
    }

    /// Things that the kernel tells at once.
    pub(crate) fn events(&mut self) -> Vec<Sample> {
        if self.has(Fault::MediumErrors) && self.since_fault.is_multiple_of(10) {
            return vec![line(KernelAbout::IoError, Some("sda"), "critical medium error, dev sda, sector 4711")];
        }
        if self.fault.is_none() || std::mem::replace(&mut self.told, true) {
            return Vec::new();
        }
        match self.fault {
            Some(Fault::CableOut) => {
                self.pass(self.second);
                vec![Sample::Nics(self.nics())]
            }
            Some(Fault::MachineCheck) => vec![line(KernelAbout::MachineCheck, None, "mce: [Hardware Error]: fatal")],
            Some(Fault::Oops) => vec![line(KernelAbout::Oops, None, "BUG: unable to handle page fault")],
            _ => Vec::new(),
        }
    }

    /// Lines of the kernel that mean something, but not here.
    pub(crate) fn kernel_lines(&mut self) -> Sample {
        match self.dice.below(4) {
            0 => line(KernelAbout::IoError, Some("loop7"), "I/O error, dev loop7, sector 0"),
            1 => line(KernelAbout::FilesystemError, Some("sdz9"), "EXT4-fs error (device sdz9)"),
            2 => line(KernelAbout::OutOfMemory, None, "Out of memory: Killed process 4711 (java)"),
            _ => line(KernelAbout::Lost, None, "12 records"),
        }
    }

    fn nics(&self) -> Vec<NicStat> {
        let there = self.nics.values().filter(|nic| self.devices.nics.iter().any(|own| own.name == nic.name));
        there.cloned().collect()
    }

    /// What a role reads; `None`: it does not answer.
    pub(crate) fn read(&mut self, source: &Source) -> Option<Sample> {
        Some(match source {
            Source::System => Sample::System(Box::new(self.system())),
            Source::Disks(names) => Sample::Disks(names.iter().filter_map(|name| self.disk(name)).collect()),
            Source::Filesystems(all) => {
                let errors = |mount: &str| match self.fault {
                    Some(Fault::ExtError) if mount == "/" => Some(1),
                    _ => (mount == "/").then_some(0),
                };
                let stat = |mount: &String| FilesystemStat {
                    mount: mount.clone(),
                    errors: errors(mount),
                    ..FilesystemStat::default()
                };
                Sample::Filesystems(all.iter().map(|(mount, ..)| stat(mount)).collect())
            }
            Source::Nics(_) => Sample::Nics(self.nics()),
            Source::Gateway => Sample::Gateway(GatewayStat {
                address: Some("192.0.2.1".into()),
                nic: Some("eth0".into()),
                answered: !self.has(Fault::GatewayGone) && self.dice.below(200) != 0,
            }),
            Source::Hardware => Sample::Hardware(Box::new(self.hardware())),
            Source::Sensors => Sample::Sensors(self.sensors()),
            Source::LinkModes(nics) => {
                let mode = |nic: &String| LinkMode { nic: nic.clone(), speed: Some(1_000), full_duplex: Some(true) };
                Sample::LinkModes(nics.iter().map(mode).collect())
            }
            Source::Smart { disk, .. } if self.has(Fault::HelperHangs) && disk == "sda" => return None,
            Source::Space { mount } if self.has(Fault::HelperHangs) && mount == "/srv" => return None,
            Source::Canary { mount } if self.has(Fault::HelperHangs) && mount == "/srv" => return None,
            Source::Space { mount } => Sample::Space(self.space(mount)),
            Source::Canary { mount } => {
                let slow = if self.dice.below(50) == 0 { 2_500_000 } else { 700_000 };
                let errno = (self.has(Fault::CanaryFails) && mount == "/srv").then_some(5);
                Sample::Canary(CanaryStat { mount: mount.clone(), took_us: self.dice.below(slow), errno, absent: None })
            }
            Source::Smart { disk, .. } => Sample::Smart(self.smart(disk)),
            Source::Kernel | Source::FilesystemErrors { .. } => return None,
        })
    }

    fn system(&mut self) -> System {
        let burst = self.second < self.burst_until;
        // One reading in a hundred is beyond every limit.
        let used = if self.dice.below(100) == 0 { 97 } else { 40 + self.dice.below(45) };
        let pressure = |some: u64, full: u64| {
            let part = |share: u64| u32::try_from(share).expect("small");
            Some(Pressure {
                some_avg10: part(some),
                some_avg60: part(some),
                full_avg10: Some(part(full)),
                full_avg60: Some(part(full)),
                ..Pressure::default()
            })
        };
        let full = if self.has(Fault::MemoryPressure) { 6_000 } else { self.dice.below(900) };
        let lost = self.has(Fault::ClockLost);
        self.oom_kills += u64::from(self.dice.below(300) == 0);
        System {
            memory_total_bytes: 8 * GIB,
            memory_available_bytes: 8 * GIB * (100 - used) / 100,
            swap_total_bytes: 2 * GIB,
            swap_free_bytes: GIB,
            memory_poisoned_bytes: Some(0),
            pressure_memory: pressure(full, full),
            pressure_cpu: pressure(if burst { 8_000 } else { 500 }, 0),
            pressure_io: pressure(if burst { 7_000 } else { 300 }, 100),
            blocked_tasks: if burst { u32::try_from(self.dice.below(5)).expect("small") } else { 0 },
            files_open: if self.has(Fault::FilesUsedUp) { 950 } else { 300 + self.dice.below(300) },
            files_max: 1_000,
            tasks: 300,
            tasks_max: 32_768,
            oom_kills: Some(self.oom_kills),
            clock_synchronised: !lost && self.dice.below(20) != 0,
            clock_error_us: if lost { 16_000_000 } else { 20_000 },
            uptime_ms: (3_600 + self.second) * 1_000,
            tainted: Some(4_097),
            ..System::default()
        }
    }

    fn disk(&mut self, name: &str) -> Option<DiskStat> {
        let mut disk = self.disks.get(name)?.clone();
        // A healthy ATA disk counts each question for its health.
        let errors = 1 + 2 * (self.second / 1_800);
        if name == "sda" {
            disk.scsi = Some(ScsiStat { errors, timeouts: 0 });
            disk.state = Some("running".into());
        }
        if name == "md0" {
            disk.raid = Some(RaidStat {
                level: "raid1".into(),
                degraded: u32::from(self.has(Fault::MdDegraded)),
                array_state: "active".into(),
                sync_action: if self.dice.below(3) == 0 { "check" } else { "idle" }.into(),
            });
        }
        Some(disk)
    }

    fn space(&mut self, mount: &str) -> SpaceStat {
        let size = 400 * GIB;
        // A tooth is forty minutes long on /srv and ten on /.
        let (from, tooth, height) = if mount == "/" { (50, 600, 36) } else { (30, 2_400, 27) };
        let mut used = size * from / 100 + size * height / 100 * (self.second % tooth) / tooth;
        if self.has(Fault::DiskFull) && mount == "/" {
            used = size * 98 / 100;
        }
        if self.has(Fault::DiskFillsUp) && mount == "/srv" {
            used = size * 82 / 100 + self.since_fault * (GIB / 200);
        }
        let left = size - used;
        SpaceStat {
            mount: mount.into(),
            size_bytes: size,
            available_bytes: left,
            free_bytes: left,
            inodes: 1_000_000,
            inodes_available: 600_000,
            error: None,
        }
    }

    fn hardware(&mut self) -> Hardware {
        self.corrected += u64::from(self.dice.below(60) == 0);
        let wrong = u64::from(self.has(Fault::Uncorrected));
        Hardware {
            ecc: BTreeMap::from([("mc0".to_owned(), (self.corrected, wrong))]),
            pcie: BTreeMap::from([("0000:00:1c.0".to_owned(), (self.corrected, 0, 0))]),
            throttled: Some(self.throttled),
        }
    }

    fn sensors(&mut self) -> Vec<SensorStat> {
        let degrees = |low: u64, dice: &mut Dice| i64::try_from(1_000 * (low + dice.below(30))).ok();
        let hot = self.has(Fault::Hot);
        let core = SensorStat {
            name: "coretemp/temp1".into(),
            what: SensorWhat::Temperature,
            value: if hot { Some(101_000) } else { degrees(45, &mut self.dice) },
            max: Some(80_000),
            critical: Some(100_000),
            ..SensorStat::default()
        };
        // A chip whose inputs lead nowhere.
        let unwired = SensorStat {
            name: "nct6775/temp7".into(),
            value: Some(-128_000),
            max: Some(0),
            alarm: true,
            ..SensorStat::default()
        };
        let fan = SensorStat {
            name: "nct6775/fan2".into(),
            what: SensorWhat::Fan,
            value: Some(0),
            alarm: true,
            ..unwired.clone()
        };
        vec![core, unwired, fan]
    }

    fn smart(&mut self, disk: &str) -> SmartStat {
        let stat = SmartStat { disk: disk.into(), passed: Some(true), ..SmartStat::default() };
        if disk == "sda" {
            return SmartStat {
                asleep: self.dice.below(4) == 0 && self.fault.is_none(),
                pending: Some(0),
                uncorrectable: Some(0),
                reallocated: Some(if self.has(Fault::SectorsReallocated) { 12 } else { 4 }),
                interface_errors: Some(2),
                ..stat
            };
        }
        SmartStat {
            critical_warning: Some(if self.has(Fault::NvmeCritical) { 4 } else { 0 }),
            spare: Some((100, 10)),
            used: Some(12),
            media_errors: Some(3),
            ..stat
        }
    }
}

fn line(about: KernelAbout, target: Option<&str>, text: &str) -> Sample {
    Sample::Kernel(vec![KernelLine { about, target: target.map(str::to_owned), text: text.into() }])
}
