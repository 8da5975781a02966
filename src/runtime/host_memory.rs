//! What the engine knows of the host, kept for the next agent of this boot in `{run_dir}/host.json`. A claim like the records: of another
//! boot or agent, or not understood, it is ignored with a word.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::engine::host::HostMemory;
use crate::sys::files::{self, Durability};

/// A host with hundreds of devices needs a tenth of it; what is larger is neither written nor read.
const BYTES_MAX: usize = 1 << 20;

/// `M`: a [`HostMemory`] as read, a reference to one as written.
#[derive(Debug, Serialize, Deserialize)]
struct Saved<M> {
    boot_id: String,
    instance: String,
    memory: M,
}

fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("host.json")
}

/// Keeps it. A failure costs the next agent its knowledge, not this one.
pub(super) fn save(run_dir: &Path, boot_id: &str, instance: &str, memory: &HostMemory) -> io::Result<()> {
    let saved = Saved { boot_id: boot_id.to_owned(), instance: instance.to_owned(), memory };
    let bytes = serde_json::to_vec(&saved).map_err(io::Error::other)?;
    if bytes.len() > BYTES_MAX {
        return Err(io::Error::other(format!("{} bytes, {BYTES_MAX} are the limit", bytes.len())));
    }
    files::write_atomically(&path(run_dir), &bytes, Durability::Memory)
}

/// What an earlier agent of this boot knew; `Err`: a sentence about a file that is not believed.
pub(super) fn of_earlier_agent(
    run_dir: &Path,
    boot_id: &str,
    instance: &str,
) -> Result<Option<Box<HostMemory>>, String> {
    let path = path(run_dir);
    let ignored = |why: &str| format!("{}: {why}; what is known of the host begins anew", path.display());
    let length = match fs::symlink_metadata(&path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ignored(&error.to_string())),
    };
    if usize::try_from(length).map_or(true, |length| length > BYTES_MAX) {
        return Err(ignored("too large"));
    }
    let read = fs::read(&path).and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::other));
    let saved: Saved<Box<HostMemory>> = read.map_err(|error| ignored(&error.to_string()))?;
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
        assert_eq!(of_earlier_agent(here, "boot", "one"), Ok(None));
        save(here, "boot", "one", &memory()).unwrap();
        assert_eq!(of_earlier_agent(here, "boot", "one"), Ok(Some(Box::new(memory()))));
        assert!(of_earlier_agent(here, "later", "one").unwrap_err().contains("another boot"));
        assert!(of_earlier_agent(here, "boot", "two").unwrap_err().contains("begins anew"));
    }

    #[test]
    fn bent_or_boundless_file_is_ignored_with_a_word() {
        let directory = TempDir::new();
        let here = directory.path();
        save(here, "boot", "one", &memory()).unwrap();
        let good = fs::read(path(here)).unwrap();
        for length in 0..good.len() {
            fs::write(path(here), &good[..length]).unwrap();
            assert!(of_earlier_agent(here, "boot", "one").is_err(), "{length}");
        }
        fs::write(path(here), vec![b' '; BYTES_MAX + 1]).unwrap();
        assert!(of_earlier_agent(here, "boot", "one").unwrap_err().contains("too large"));
        let mut boundless = memory();
        boundless.helpers[0].mounts = vec!["x".repeat(1_000); 2_000];
        assert!(save(here, "boot", "one", &boundless).is_err());
    }
}
