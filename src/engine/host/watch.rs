//! What the roles are to read and how often. The engine says it (`Engine::watch_list`), the roles read by their own clock until they
//! are told otherwise.

use serde::{Deserialize, Serialize};

use super::sample::SmartBy;

/// Something to be read, by one role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub source: Source,
    pub every_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    // The checks role: nothing here can wait for a device.
    System,
    /// `/sys/block` of these.
    Disks(Vec<String>),
    /// Mount points with the device below (see `Mount::device`) and the type.
    Filesystems(Vec<(String, Option<String>, String)>),
    /// These NICs; events of the kernel besides.
    Nics(Vec<String>),
    Gateway,
    Hardware,
    /// The kernel's log, as it comes; `every_ms` is not used.
    Kernel,
    // The sensors role: a driver may take its time.
    Sensors,
    /// Speed and duplex of these NICs.
    LinkModes(Vec<String>),
    // The helper of one disk, which may wait for it for ever.
    Space {
        mount: String,
    },
    Canary {
        mount: String,
    },
    /// FAN_FS_ERROR of this mount, as it comes.
    FilesystemErrors {
        mount: String,
    },
    Smart {
        disk: String,
        by: SmartBy,
    },
}

/// The answer to a question of the role, outside of the samples.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    pub source: Source,
    /// Why this host cannot tell, and where it helps what to do about it: `no /proc/pressure: boot with psi=1`.
    pub why: String,
}

/// One helper process for what lies on one disk, or for one mount without a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Helper {
    /// `@disk.sda`, `@disk.mnt-nfs`: the service of the helper.
    pub service: String,
    /// Its number among `Role::Disk`; kept while the helper is needed.
    pub slot: u8,
    pub disk: Option<String>,
    pub mounts: Vec<String>,
}
