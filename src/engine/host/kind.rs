//! The kinds of host checks: their words, units and what a bad one means for services. A new kind is a variant here, its defaults in
//! `rules` and its judge.

use serde::{Deserialize, Serialize};

/// What is checked. With its target it is a check's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckKind {
    /// Used share of a file system, of what others than root may use.
    DiskSpace,
    /// Used share of its inodes.
    DiskInodes,
    /// Time until it is full at the pace of the last hour.
    DiskFill,
    /// Errors counted by the file system, a forced read-only, a canary that could not be written.
    Filesystem,
    /// No completion although requests wait, or no answer of the canary.
    DiskHung,
    /// Mean time of a request.
    DiskLatency,
    /// Errors reported by the device or by the kernel about it.
    DiskErrors,
    /// What the disk says of itself: NVMe health log, ATA and SCSI SMART.
    Smart,
    /// Used share of the life of flash: NVMe percentage used, eMMC life time.
    DiskWear,
    /// Degraded or stopped md array.
    Raid,
    /// Device errors counted by btrfs, or a missing device.
    Btrfs,
    /// Carrier, and how often it changes.
    NicLink,
    /// Speed below what the NIC had, or half duplex.
    NicSpeed,
    /// Errors per packet.
    NicErrors,
    /// Drops per packet.
    NicDrops,
    /// Slaves of a bond that are up.
    Bond,
    /// Whether the default gateway answers.
    Gateway,
    /// Against the chip's own limits.
    Temperature,
    /// The CPU slowed itself down because of heat.
    Throttling,
    /// Only where configured: chips without wiring show alarms.
    Fan,
    /// Power supplies and batteries; only where configured.
    Power,
    /// Memory errors counted by EDAC.
    Ecc,
    /// Memory that the kernel has given up (HardwareCorrupted).
    MemoryPoison,
    MachineCheck,
    /// PCIe advanced error reporting.
    Pcie,
    PressureMemory,
    PressureCpu,
    PressureIo,
    /// Used share of memory (of MemTotal, by MemAvailable).
    Memory,
    /// Used share of swap.
    Swap,
    /// Tasks in uninterruptible sleep.
    BlockedTasks,
    /// Used share of the host's open files.
    Files,
    /// Used share of the host's task numbers.
    Pids,
    /// Used share of the connection tracking table.
    Conntrack,
    /// The clock is disciplined; jumps are events.
    Clock,
    /// Oopses, hung tasks and new taints.
    Kernel,
}

/// What a value of a check is counted in; the engine counts in whole numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// In thousandths: 871 is 87.1 %.
    Percent,
    /// In milliseconds.
    Milliseconds,
    /// In thousandths of a degree Celsius.
    Celsius,
    /// In Mbit/s.
    Megabits,
    Count,
    /// It has a verdict and no value.
    None,
}

impl CheckKind {
    pub const ALL: [Self; 36] = [
        Self::DiskSpace,
        Self::DiskInodes,
        Self::DiskFill,
        Self::Filesystem,
        Self::DiskHung,
        Self::DiskLatency,
        Self::DiskErrors,
        Self::Smart,
        Self::DiskWear,
        Self::Raid,
        Self::Btrfs,
        Self::NicLink,
        Self::NicSpeed,
        Self::NicErrors,
        Self::NicDrops,
        Self::Bond,
        Self::Gateway,
        Self::Temperature,
        Self::Throttling,
        Self::Fan,
        Self::Power,
        Self::Ecc,
        Self::MemoryPoison,
        Self::MachineCheck,
        Self::Pcie,
        Self::PressureMemory,
        Self::PressureCpu,
        Self::PressureIo,
        Self::Memory,
        Self::Swap,
        Self::BlockedTasks,
        Self::Files,
        Self::Pids,
        Self::Conntrack,
        Self::Clock,
        Self::Kernel,
    ];

    /// The word of the API and of the journal.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::DiskSpace => "disk_space",
            Self::DiskInodes => "disk_inodes",
            Self::DiskFill => "disk_fill",
            Self::Filesystem => "filesystem",
            Self::DiskHung => "disk_hung",
            Self::DiskLatency => "disk_latency",
            Self::DiskErrors => "disk_errors",
            Self::Smart => "smart",
            Self::DiskWear => "disk_wear",
            Self::Raid => "raid",
            Self::Btrfs => "btrfs",
            Self::NicLink => "nic_link",
            Self::NicSpeed => "nic_speed",
            Self::NicErrors => "nic_errors",
            Self::NicDrops => "nic_drops",
            Self::Bond => "bond",
            Self::Gateway => "gateway",
            Self::Temperature => "temperature",
            Self::Throttling => "throttling",
            Self::Fan => "fan",
            Self::Power => "power",
            Self::Ecc => "ecc",
            Self::MemoryPoison => "memory_poison",
            Self::MachineCheck => "machine_check",
            Self::Pcie => "pcie",
            Self::PressureMemory => "pressure_memory",
            Self::PressureCpu => "pressure_cpu",
            Self::PressureIo => "pressure_io",
            Self::Memory => "memory",
            Self::Swap => "swap",
            Self::BlockedTasks => "blocked_tasks",
            Self::Files => "files",
            Self::Pids => "pids",
            Self::Conntrack => "conntrack",
            Self::Clock => "clock",
            Self::Kernel => "kernel",
        }
    }

    /// What its target names.
    #[must_use]
    pub fn scope(self) -> Scope {
        match self {
            Self::DiskSpace | Self::DiskInodes | Self::DiskFill | Self::Filesystem => Scope::Mount,
            Self::DiskHung
            | Self::DiskLatency
            | Self::DiskErrors
            | Self::Smart
            | Self::DiskWear
            | Self::Raid
            | Self::Btrfs => Scope::Disk,
            Self::NicLink | Self::NicSpeed | Self::NicErrors | Self::NicDrops | Self::Bond => Scope::Nic,
            Self::Temperature | Self::Fan | Self::Power | Self::Ecc | Self::Pcie => Scope::Sensor,
            Self::Gateway
            | Self::Throttling
            | Self::MemoryPoison
            | Self::MachineCheck
            | Self::PressureMemory
            | Self::PressureCpu
            | Self::PressureIo
            | Self::Memory
            | Self::Swap
            | Self::BlockedTasks
            | Self::Files
            | Self::Pids
            | Self::Conntrack
            | Self::Clock
            | Self::Kernel => Scope::Host,
        }
    }

    #[must_use]
    pub fn unit(self) -> Unit {
        match self {
            Self::DiskSpace
            | Self::DiskInodes
            | Self::DiskWear
            | Self::NicErrors
            | Self::NicDrops
            | Self::PressureMemory
            | Self::PressureCpu
            | Self::PressureIo
            | Self::Memory
            | Self::Swap
            | Self::Files
            | Self::Pids
            | Self::Conntrack => Unit::Percent,
            Self::DiskFill | Self::DiskHung | Self::DiskLatency | Self::Clock => Unit::Milliseconds,
            Self::Temperature => Unit::Celsius,
            Self::NicSpeed => Unit::Megabits,
            Self::Filesystem
            | Self::DiskErrors
            | Self::Raid
            | Self::Btrfs
            | Self::Bond
            | Self::Gateway
            | Self::Throttling
            | Self::Ecc
            | Self::MemoryPoison
            | Self::MachineCheck
            | Self::Pcie
            | Self::BlockedTasks
            | Self::Kernel => Unit::Count,
            Self::Smart | Self::NicLink | Self::Fan | Self::Power => Unit::None,
        }
    }

    /// Failing, it keeps services that need its target from working now: they leave their balancers and are not blamed. A disk that says
    /// that it will die, or is full, does not.
    #[must_use]
    pub fn impairs(self) -> bool {
        matches!(self, Self::Filesystem | Self::DiskHung | Self::DiskErrors | Self::Raid | Self::NicLink | Self::Bond)
    }

    /// Its targets are known from readings only.
    pub(super) fn is_found(self) -> bool {
        matches!(self, Self::Temperature | Self::Fan | Self::Power | Self::Ecc | Self::Pcie)
    }

    #[must_use]
    pub fn by_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// What a check's target is a name of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A mount point.
    Mount,
    /// A block device as in /sys/block: `sda`, `nvme0n1`, `md0`, `dm-0`.
    Disk,
    Nic,
    /// A sensor, memory controller or device: `coretemp/temp1`, `mc0`, `0000:00:1c.0`.
    Sensor,
    /// There is one a host; the target is empty.
    Host,
}

impl Unit {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Percent => "percent",
            Self::Milliseconds => "ms",
            Self::Celsius => "celsius",
            Self::Megabits => "mbit_s",
            Self::Count => "count",
            Self::None => "none",
        }
    }
}
