//! What the engine knows and the next agent of this boot must know too, in files of `run_dir`. Claims like the records: of another boot or
//! agent, or not understood, they are ignored with a word.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::shell::Shell;
use crate::engine::balance::table::TableMemory;
use crate::engine::fence::FenceMemory;
use crate::engine::host::HostMemory;
use crate::sys::files::{self, Durability};

/// A host with hundreds of devices, or a thousand fences, needs less; what is larger is neither written nor read.
const BYTES_MAX: usize = 1 << 20;

/// A part of the engine's memory with a file of its own.
pub(super) trait Knowledge: Serialize + DeserializeOwned {
    const FILE: &'static str;
    /// What it tells of.
    const SUBJECT: &'static str;
}

impl Knowledge for HostMemory {
    const FILE: &'static str = "host.json";
    const SUBJECT: &'static str = "the host";
}

impl Knowledge for FenceMemory {
    const FILE: &'static str = "fences.json";
    const SUBJECT: &'static str = "fences";
}

impl Knowledge for TableMemory {
    const FILE: &'static str = "balancers.json";
    const SUBJECT: &'static str = "balancers that leave";
}

/// `M`: as read, a reference to it as written.
#[derive(Debug, Serialize, Deserialize)]
struct Saved<M> {
    boot_id: String,
    instance: String,
    memory: M,
}

/// Keeps it. A failure costs the next agent its knowledge, not this one.
pub(super) fn keep<M: Knowledge>(shell: &Shell, memory: &M) {
    if let Err(error) = save(&shell.directories.run, &shell.boot_id, &shell.instance, memory) {
        let subject = M::SUBJECT;
        log::warn!("agent: cannot keep what is known of {subject}: {error}; a restart of the agent would forget it");
    }
}

fn path<M: Knowledge>(run_dir: &Path) -> PathBuf {
    run_dir.join(M::FILE)
}

fn save<M: Knowledge>(run_dir: &Path, boot_id: &str, instance: &str, memory: &M) -> io::Result<()> {
    let saved = Saved { boot_id: boot_id.to_owned(), instance: instance.to_owned(), memory };
    let bytes = serde_json::to_vec(&saved).map_err(io::Error::other)?;
    if bytes.len() > BYTES_MAX {
        return Err(io::Error::other(format!("{} bytes, {BYTES_MAX} are the limit", bytes.len())));
    }
    files::write_atomically(&path::<M>(run_dir), &bytes, Durability::Memory)
}

/// What an earlier agent of this boot knew. A file that is not believed is told in `ignored`.
pub(super) fn recall<M: Knowledge>(shell: &Shell, ignored: &mut Vec<String>) -> Option<Box<M>> {
    match of_earlier_agent(&shell.directories.run, &shell.boot_id, &shell.instance) {
        Ok(memory) => memory,
        Err(why) => {
            ignored.push(why);
            None
        }
    }
}

fn of_earlier_agent<M: Knowledge>(run_dir: &Path, boot_id: &str, instance: &str) -> Result<Option<Box<M>>, String> {
    let path = path::<M>(run_dir);
    let ignored = |why: &str| format!("{}: {why}; what is known of {} begins anew", path.display(), M::SUBJECT);
    let length = match fs::symlink_metadata(&path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ignored(&error.to_string())),
    };
    if usize::try_from(length).map_or(true, |length| length > BYTES_MAX) {
        return Err(ignored("too large"));
    }
    let read = fs::read(&path).and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::other));
    let saved: Saved<Box<M>> = read.map_err(|error| ignored(&error.to_string()))?;
    match saved.boot_id == boot_id && saved.instance == instance {
        true => Ok(Some(saved.memory)),
        false => Err(ignored("of another boot or agent")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::host::watch::Helper;
    use crate::sys::testing::TempDir;

    fn memory() -> HostMemory {
        let helper =
            Helper { service: "@disk.sda".to_owned(), slot: 2, disk: Some("sda".to_owned()), mounts: Vec::new() };
        HostMemory { helpers: vec![helper], ..HostMemory::default() }
    }

    #[test]
    fn next_agent_of_this_boot_knows_what_the_last_one_knew_and_no_other_does() {
        let directory = TempDir::new();
        let here = directory.path();
        assert_eq!(of_earlier_agent::<HostMemory>(here, "boot", "one"), Ok(None));
        save(here, "boot", "one", &memory()).unwrap();
        assert_eq!(of_earlier_agent::<HostMemory>(here, "boot", "one"), Ok(Some(Box::new(memory()))));
        assert!(of_earlier_agent::<HostMemory>(here, "later", "one").unwrap_err().contains("another boot"));
        assert!(of_earlier_agent::<HostMemory>(here, "boot", "two").unwrap_err().contains("begins anew"));
    }

    #[test]
    fn bent_or_boundless_file_is_ignored_with_a_word() {
        let directory = TempDir::new();
        let here = directory.path();
        save(here, "boot", "one", &memory()).unwrap();
        let good = fs::read(path::<HostMemory>(here)).unwrap();
        for length in 0..good.len() {
            fs::write(path::<HostMemory>(here), &good[..length]).unwrap();
            assert!(of_earlier_agent::<HostMemory>(here, "boot", "one").is_err(), "{length}");
        }
        fs::write(path::<HostMemory>(here), vec![b' '; BYTES_MAX + 1]).unwrap();
        assert!(of_earlier_agent::<HostMemory>(here, "boot", "one").unwrap_err().contains("too large"));
        let mut boundless = memory();
        boundless.helpers[0].mounts = vec!["x".repeat(1_000); 2_000];
        assert!(save(here, "boot", "one", &boundless).is_err());
    }

    #[test]
    fn each_knowledge_has_a_file_of_its_own() {
        let directory = TempDir::new();
        let here = directory.path();
        save(here, "boot", "one", &memory()).unwrap();
        save(here, "boot", "one", &FenceMemory { next_id: 7, ..FenceMemory::default() }).unwrap();
        let fences = of_earlier_agent::<FenceMemory>(here, "boot", "one").unwrap().unwrap();
        assert_eq!((fences.next_id, of_earlier_agent::<HostMemory>(here, "boot", "one").is_ok()), (7, true));
        assert!(
            of_earlier_agent::<FenceMemory>(here, "later", "one").unwrap_err().contains("known of fences begins anew")
        );
    }
}
