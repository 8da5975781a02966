//! What the roles read of the host, as raw numbers: rates, confirmation and verdicts are the engine's business. `None` is a number that
//! this host does not tell.
//!
//! Counters are as the kernel has them: they may wrap, and begin anew when a device is plugged in again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What the host has that can be checked; sent when a role is asked first and whenever it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Devices {
    pub disks: Vec<Disk>,
    pub mounts: Vec<Mount>,
    pub nics: Vec<Nic>,
}

/// A block device of /sys/block that is no loop, RAM or optical device (a loop device is listed while it is mounted).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// `sda`, `nvme0n1`, `md0`, `dm-0`
    pub name: String,
    /// `8:0`
    pub number: String,
    pub rotating: bool,
    pub removable: bool,
    /// The whole disks below a device that is made of others (md, dm): all the way down.
    #[serde(default)]
    pub below: Vec<String>,
    /// How its health is asked for, if it can be.
    pub smart: Option<SmartBy>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SmartBy {
    Nvme,
    Ata,
    Scsi,
}

/// A file system in the agent's mount namespace; of several mounts of one device the first one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub point: String,
    /// `/dev/sda1`, `server:/export`
    pub source: String,
    pub fs_type: String,
    /// The disk of /sys/block that it lies on; `None` for network, FUSE and overlay file systems.
    pub disk: Option<String>,
    /// The partition or device as in /sys/fs/ext4: `sda1`, `dm-0`.
    pub device: Option<String>,
    /// Mounted read-only on purpose.
    pub read_only: bool,
    /// May wait for another machine or process: watched only where the configuration names it.
    pub remote: bool,
    /// Another number for each time that a file system is mounted, so that one that was mended or replaced is not taken for the one before;
    /// `None` where the kernel does not tell. No meaning beyond that, and none after a reboot.
    #[serde(default)]
    pub instance: Option<u64>,
    /// A directory of another file system of this list is mounted over it: what is read and written at its point is not its own.
    #[serde(default)]
    pub covered: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    pub name: String,
    pub kind: NicKind,
    /// The bond or bridge that it is part of.
    pub master: Option<String>,
    pub wireless: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NicKind {
    /// With a device below it in /sys/class/net/X/device.
    #[default]
    Physical,
    Bond,
    /// veth, bridge, tunnel ..: watched only where the configuration names it.
    Virtual,
}

/// One reading, or one thing that the kernel said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sample {
    System(Box<System>),
    Disks(Vec<DiskStat>),
    Filesystems(Vec<FilesystemStat>),
    /// All NICs that are there; also sent at once when the kernel tells of a change.
    Nics(Vec<NicStat>),
    Gateway(GatewayStat),
    Hardware(Box<Hardware>),
    /// Lines of the kernel that mean something.
    Kernel(Vec<KernelLine>),
    /// The wall clock was set: how far it moved, in milliseconds.
    ClockSet {
        by_ms: i64,
    },
    Sensors(Vec<SensorStat>),
    LinkModes(Vec<LinkMode>),
    Space(SpaceStat),
    Canary(CanaryStat),
    Smart(SmartStat),
    /// fanotify FAN_FS_ERROR: an error of this file system, at once.
    FilesystemError {
        mount: String,
        /// As in [`Mount`]: the one that was there when its errors began to be waited for.
        #[serde(default)]
        instance: Option<u64>,
        errno: i32,
        count: u32,
    },
}

/// /proc and friends; every few seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    pub memory_total_bytes: u64,
    pub memory_available_bytes: u64,
    pub swap_total_bytes: u64,
    pub swap_free_bytes: u64,
    /// meminfo HardwareCorrupted.
    pub memory_poisoned_bytes: Option<u64>,
    pub pressure_memory: Option<Pressure>,
    pub pressure_cpu: Option<Pressure>,
    pub pressure_io: Option<Pressure>,
    pub load_permille: [u32; 3],
    pub cpus: u32,
    /// Clock ticks of /proc/stat over all CPUs: all of them, and those spent idle or waiting for I/O.
    pub cpu_ticks: u64,
    pub cpu_idle_ticks: u64,
    /// procs_blocked
    pub blocked_tasks: u32,
    pub files_open: u64,
    pub files_max: u64,
    pub tasks: u32,
    pub tasks_max: u32,
    pub conntrack: Option<(u32, u32)>,
    /// vmstat oom_kill
    pub oom_kills: Option<u64>,
    /// adjtimex: whether the clock is disciplined, and the largest error in microseconds.
    pub clock_synchronised: bool,
    pub clock_error_us: u64,
    pub uptime_ms: u64,
    /// /proc/sys/kernel/tainted
    pub tainted: Option<u64>,
    pub oopses: Option<u64>,
    pub hung_tasks: Option<u64>,
}

/// Shares of time in hundredths of a percent (`avg10=12.34` is 1234), and the total in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure {
    pub some_avg10: u32,
    pub some_avg60: u32,
    pub some_total_us: u64,
    /// `full` is missing for the CPU before 5.13.
    pub full_avg10: Option<u32>,
    pub full_avg60: Option<u32>,
}

/// /sys/block/X.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStat {
    pub name: String,
    /// Reads, writes, flushes and discards completed.
    pub completed: u64,
    /// The time that these took together, in milliseconds.
    pub spent_ms: u64,
    pub in_flight: u32,
    /// io_ticks: how long at least one request was under way, in milliseconds.
    pub busy_ms: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub scsi: Option<ScsiStat>,
    /// The state of its controller or device: `running`, `live`, `offline`.
    pub state: Option<String>,
    pub raid: Option<RaidStat>,
    /// eMMC: life time used in tenths (1 to 11) of the worse type, and pre_eol_info.
    pub emmc: Option<(u32, u32)>,
    /// dm: suspended.
    pub suspended: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScsiStat {
    pub errors: u64,
    pub timeouts: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaidStat {
    /// `raid1`
    pub level: String,
    /// Missing members.
    pub degraded: u32,
    /// `clean`, `active`, `inactive`
    pub array_state: String,
    /// `idle`, `resync`, `recover`, `check`
    pub sync_action: String,
}

/// What can be told of a file system without touching it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesystemStat {
    pub mount: String,
    /// ext4's errors_count.
    pub errors: Option<u64>,
    /// `ro`, `emergency_ro` or `shutdown` among the options although it was mounted for writing.
    pub forced_read_only: bool,
    /// btrfs, by device: errors of writes, reads, flushes, corruption and generation together, and whether it is missing.
    #[serde(default)]
    pub btrfs: Vec<BtrfsDevice>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BtrfsDevice {
    pub id: u64,
    /// Of writes and flushes.
    pub write_errors: u64,
    /// Of reads, corruption and generations.
    pub other_errors: u64,
    pub missing: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicStat {
    pub name: String,
    /// IFF_UP: somebody wants it up.
    pub admin_up: bool,
    /// IFF_LOWER_UP
    pub carrier: bool,
    /// How often the carrier went down or came.
    pub carrier_changes: u32,
    pub received_packets: u64,
    pub sent_packets: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    /// Received and sent.
    pub errors: u64,
    pub drops: u64,
    /// Bond: slaves, and those whose MII status is up.
    pub bond: Option<(u32, u32)>,
}

/// The default route's gateway, if there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayStat {
    pub address: Option<String>,
    pub nic: Option<String>,
    /// Whether it answered this time (ARP or neighbour discovery).
    pub answered: bool,
}

/// Counters that change rarely; every half minute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// By memory controller: corrected and uncorrected errors.
    #[serde(default)]
    pub ecc: BTreeMap<String, (u64, u64)>,
    /// By PCI address: correctable, nonfatal and fatal errors.
    #[serde(default)]
    pub pcie: BTreeMap<String, (u64, u64, u64)>,
    /// The sum of core and package throttle counts.
    pub throttled: Option<u64>,
}

/// A line of the kernel (facility 0, which nobody else can forge) that one of the rules knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelLine {
    pub about: KernelAbout,
    /// The disk, file system or device that it names, if it does.
    pub target: Option<String>,
    /// At most 200 bytes.
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelAbout {
    /// `I/O error, dev sda`, `critical medium error`, `Buffer I/O error`: target is the disk.
    IoError,
    /// `EXT4-fs error (device sda1)`, `XFS (sda1): .. Shutting down`, `Remounting filesystem read-only`: target is the device.
    FilesystemError,
    /// `[Hardware Error]`, corrected.
    MachineCheckCorrected,
    /// `[Hardware Error]`, not corrected.
    MachineCheck,
    Oops,
    /// `blocked for more than N seconds`
    HungTask,
    OutOfMemory,
    /// Records that were overwritten before they were read; the text has their number.
    Lost,
}

/// One hwmon or thermal sensor, fan, supply or battery.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SensorStat {
    /// `coretemp/temp1`, `thermal/zone0`, `nct6775/fan2`, `BAT0`
    pub name: String,
    /// `Core 0`
    pub label: Option<String>,
    pub what: SensorWhat,
    /// In thousandths: degrees, volts, percent; rounds a minute as they are.
    pub value: Option<i64>,
    /// The chip's own limits.
    pub max: Option<i64>,
    pub critical: Option<i64>,
    pub min: Option<i64>,
    pub alarm: bool,
    pub fault: bool,
    /// Reading took this long; a sensor that is too slow is read no more.
    pub took_ms: u32,
    /// Why there is no value.
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SensorWhat {
    #[default]
    Temperature,
    Fan,
    Voltage,
    /// value: 1 while it gives power.
    Supply,
    /// value: charge in thousandths of a percent.
    Battery,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkMode {
    pub nic: String,
    /// Mbit/s; `None`: it does not say.
    pub speed: Option<u32>,
    pub full_duplex: Option<bool>,
}

/// statvfs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceStat {
    pub mount: String,
    pub size_bytes: u64,
    /// f_bavail: what others than root may still use.
    pub available_bytes: u64,
    /// f_bfree
    pub free_bytes: u64,
    /// 0 where inodes are made as needed.
    pub inodes: u64,
    pub inodes_available: u64,
    /// The call failed with this.
    pub error: Option<String>,
}

/// A write of one block with fdatasync and a direct read of another, on a file kept open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryStat {
    pub mount: String,
    /// How long the slower half took, in microseconds.
    pub took_us: u64,
    /// errno of the half that failed.
    pub errno: Option<i32>,
    /// It cannot be done here, which says nothing of the disk: read-only by purpose, no directory, no permission, full.
    pub absent: Option<String>,
}

/// What a disk says of itself, reduced to what is judged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmartStat {
    pub disk: String,
    pub model: Option<String>,
    pub serial: Option<String>,
    /// Its own verdict: `Some(false)` predicts failure.
    pub passed: Option<bool>,
    /// NVMe: the critical warning byte. SCSI: 2, its bit of the temperature, while the disk warns (additional sense code 0Bh).
    pub critical_warning: Option<u8>,
    /// NVMe: available spare and its threshold, in percent.
    pub spare: Option<(u8, u8)>,
    /// Percent of its life used; may exceed 100.
    pub used: Option<u32>,
    /// NVMe media errors; SCSI: uncorrected errors.
    pub media_errors: Option<u64>,
    /// ATA attributes 5, 197, 198 and 199.
    pub reallocated: Option<u64>,
    pub pending: Option<u64>,
    pub uncorrectable: Option<u64>,
    pub interface_errors: Option<u64>,
    /// Degrees Celsius.
    pub temperature: Option<i32>,
    pub power_on_hours: Option<u64>,
    /// It sleeps and was left asleep: there is nothing new.
    pub asleep: bool,
    /// It could not be asked.
    pub error: Option<String>,
}
