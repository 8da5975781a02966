//! Adoption records: what the next agent needs to find a replica again. One small JSON file a replica in `{run_dir}/state`,
//! written before the gate of its process opens and at every change of what must be remembered.
//!
//! A record is a claim, not a proof: [`super::adopt`] believes it only when the boot, the kernel start time, the pidfd's inode
//! and the group all agree.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::crash;
use crate::engine::memory::Memory;
use crate::engine::plan::Stop;
use crate::sys::child::Identity;
use crate::sys::files::{self, Durability};

/// Raised when the fields change their meaning; a record of another version is not believed.
pub const VERSION: u32 = 1;

/// A record file is far smaller; what is larger was not written by us.
const RECORD_BYTES_MAX: u64 = 256 << 10;

/// `M`: a [`Memory`] as read, a reference to one as written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record<M = Memory> {
    pub version: u32,
    pub boot_id: String,
    pub instance: String,
    pub service: String,
    pub index: u16,
    /// Marks the processes of this replica where there are no cgroups. Nobody but its own processes can know it.
    #[serde(default)]
    pub cookie: String,
    /// The main process, while there is one.
    pub process: Option<Process>,
    /// The run was frozen, or about to be.
    #[serde(default)]
    pub frozen: bool,
    pub stop: Stop,
    pub memory: M,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    /// Field 22 of /proc/PID/stat, clock ticks since boot.
    pub start_ticks: u64,
    /// Unique for the boot from kernel 6.9 on.
    pub pidfd_inode: Option<u64>,
}

impl From<&Identity> for Process {
    fn from(identity: &Identity) -> Self {
        Self { pid: identity.pid, start_ticks: identity.start_ticks, pidfd_inode: identity.pidfd_inode }
    }
}

/// `{run_dir}/state`
#[must_use]
pub fn directory(run_dir: &Path) -> PathBuf {
    run_dir.join("state")
}

/// `{run_dir}/state/NAME.INDEX.json`
#[must_use]
pub fn path(run_dir: &Path, service: &str, index: u16) -> PathBuf {
    directory(run_dir).join(format!("{service}.{index}.json"))
}

pub fn write(run_dir: &Path, record: &Record<&Memory>) -> io::Result<()> {
    crash::point("before_record");
    let bytes = serde_json::to_vec(record).map_err(io::Error::other)?;
    files::write_atomically(&path(run_dir, &record.service, record.index), &bytes, Durability::Memory)?;
    crash::point("after_record");
    Ok(())
}

/// Removing what is not there is success.
pub fn remove(run_dir: &Path, service: &str, index: u16) -> io::Result<()> {
    match fs::remove_file(path(run_dir, service, index)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What was found in the directory: the records of this boot, instance and version, and a sentence for each file that is not one.
#[derive(Debug, Default)]
pub struct Records {
    pub believed: Vec<Record>,
    pub refused: Vec<String>,
}

/// Reads every record. A file that cannot be read or understood is reported, never fatal: its group is still looked at.
pub fn read_all(run_dir: &Path, boot_id: &str, instance: &str) -> io::Result<Records> {
    let mut records = Records::default();
    for entry in fs::read_dir(directory(run_dir))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        match read_one(&path, boot_id, instance) {
            Ok(Some(record)) => records.believed.push(record),
            Ok(None) => records.refused.push(format!("record {}: of another boot, agent or version", path.display())),
            Err(error) => records.refused.push(format!("record {}: {error}", path.display())),
        }
    }
    records.believed.sort_by(|a, b| (&a.service, a.index).cmp(&(&b.service, b.index)));
    Ok(records)
}

fn read_one(path: &Path, boot_id: &str, instance: &str) -> io::Result<Option<Record>> {
    if fs::symlink_metadata(path)?.len() > RECORD_BYTES_MAX {
        return Err(io::Error::other("too large to be a record"));
    }
    let record: Record = serde_json::from_slice(&fs::read(path)?).map_err(io::Error::other)?;
    let ours = record.version == VERSION && record.boot_id == boot_id && record.instance == instance;
    Ok(ours.then_some(record))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(pid: i32) -> Record {
        Record {
            version: VERSION,
            boot_id: "boot".to_owned(),
            instance: "0123456789abcdef".to_owned(),
            service: "api".to_owned(),
            index: 0,
            process: Some(Process { pid, start_ticks: 77, pidfd_inode: Some(9) }),
            frozen: false,
            stop: Stop::default(),
            memory: Memory::unknown(),
            cookie: String::new(),
        }
    }

    fn run_dir(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("mainstay-record-{name}-{}", std::process::id()));
        fs::create_dir_all(directory(&path)).unwrap();
        path
    }

    #[test]
    fn records_of_another_boot_agent_or_version_are_refused_with_a_word() {
        let run_dir = run_dir("others");
        let file = path(&run_dir, "api", 0);
        fs::write(&file, serde_json::to_vec(&record(1)).unwrap()).unwrap();
        assert_eq!(read_all(&run_dir, "boot", "0123456789abcdef").unwrap().believed.len(), 1);
        for (boot, instance) in [("other", "0123456789abcdef"), ("boot", "ffff")] {
            let records = read_all(&run_dir, boot, instance).unwrap();
            assert!(records.believed.is_empty());
            assert_eq!(records.refused.len(), 1);
        }
        let newer = Record { version: VERSION + 1, ..record(1) };
        fs::write(&file, serde_json::to_vec(&newer).unwrap()).unwrap();
        assert!(read_all(&run_dir, "boot", "0123456789abcdef").unwrap().believed.is_empty());
        fs::remove_dir_all(run_dir).unwrap();
    }

    /// Whatever a file holds (torn, bent, of another program): it is believed or refused, never both and never neither, without a panic.
    #[test]
    fn bent_records_are_believed_or_refused_without_a_panic() {
        let run_dir = run_dir("bent");
        let file = path(&run_dir, "api", 0);
        let good = serde_json::to_vec(&record(4711)).unwrap();
        let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = |limit: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(seed >> 33).unwrap() % limit.max(1)
        };
        for round in 0..2_000 {
            let mut bytes = good.clone();
            match round % 3 {
                0 => bytes.truncate(next(good.len())),
                1 => {
                    let at = next(bytes.len());
                    bytes[at] ^= 1 << next(8);
                }
                _ => {
                    let at = next(bytes.len());
                    bytes.insert(at, u8::try_from(next(256)).unwrap());
                }
            }
            fs::write(&file, &bytes).unwrap();
            let records = read_all(&run_dir, "boot", "0123456789abcdef").unwrap();
            assert_eq!(records.believed.len() + records.refused.len(), 1);
        }
        fs::remove_dir_all(run_dir).unwrap();
    }
}
