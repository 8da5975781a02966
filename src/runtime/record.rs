//! Adoption records: what the next agent needs to find a replica again. One small JSON file a replica in `{run_dir}/state`,
//! written before the gate of its process opens and at every change of what must be remembered.
//!
//! A record that is there is written over in its place, which is a third of the work of putting a new file there and needs no room on a full
//! tmpfs. It is read only by the next agent, after the death of the one that wrote it.
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

/// `M`: a [`Memory`] as read, a reference to one as written; `S` likewise.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record<M = Memory, S = String> {
    pub version: u32,
    pub boot_id: S,
    pub instance: S,
    pub service: S,
    pub index: u16,
    /// Marks the processes of this replica where there are no cgroups. Nobody but its own processes can know it.
    #[serde(default)]
    pub cookie: S,
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

/// A record as it is written.
pub type Written<'a> = Record<&'a Memory, &'a str>;

/// Kept for the next record.
const KEPT_BYTES: usize = 2 << 10;

/// Writes records.
#[derive(Debug, Default)]
pub struct Writer {
    text: Vec<u8>,
}

impl Writer {
    pub fn write(&mut self, run_dir: &Path, record: &Written<'_>) -> io::Result<()> {
        crash::point("before_record");
        self.text.clear();
        self.text.reserve(KEPT_BYTES);
        serde_json::to_writer(&mut self.text, record).map_err(io::Error::other)?;
        let path = path(run_dir, record.service, record.index);
        // The first one of a replica, or too long a one.
        if files::overwrite(&path, &mut self.text).is_err() {
            files::write_atomically(&path, &self.text, Durability::Memory)?;
        }
        self.text.clear();
        self.text.shrink_to(KEPT_BYTES);
        crash::point("after_record");
        Ok(())
    }
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

    fn as_written<'a>(record: &'a Record, memory: &'a Memory) -> Written<'a> {
        Record {
            version: record.version,
            boot_id: &record.boot_id,
            instance: &record.instance,
            service: &record.service,
            index: record.index,
            cookie: &record.cookie,
            process: record.process,
            frozen: record.frozen,
            stop: record.stop,
            memory,
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

    #[test]
    fn record_in_place_of_a_longer_or_shorter_one_is_read_as_it_was_written() {
        let run_dir = run_dir("over");
        let file = path(&run_dir, "api", 0);
        let mut writer = Writer::default();
        let mut inode = None;
        for (pid, status) in [(1, 10), (22_222, 300), (3, 0), (4, 5_000), (5, 5_000), (6, 2)] {
            let memory = Memory { status_text: Some("x".repeat(status)), ..Memory::unknown() };
            writer.write(&run_dir, &as_written(&record(pid), &memory)).unwrap();
            let read = read_all(&run_dir, "boot", "0123456789abcdef").unwrap();
            assert!(read.refused.is_empty());
            assert_eq!((read.believed[0].process.unwrap().pid, &read.believed[0].memory), (pid, &memory));
            let now = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&file).unwrap());
            // The first three fit in a page; what follows a longer one is made anew.
            assert_eq!(inode == Some(now), pid == 22_222 || pid == 3);
            inode = Some(now);
        }
        // Somebody took it away.
        fs::remove_file(&file).unwrap();
        writer.write(&run_dir, &as_written(&record(7), &Memory::unknown())).unwrap();
        assert_eq!(read_all(&run_dir, "boot", "0123456789abcdef").unwrap().believed.len(), 1);
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
