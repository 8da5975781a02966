//! What operators decided (stop, drain, hold, pin), by key, kept over a reboot: `{state_dir}/decisions.json`, replaced as a whole and on
//! the disk before anybody is told so.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::LogsError;
use crate::sys::files::{self, Durability};

const VERSION: u32 = 1;
/// All keys and contents together.
const DECISIONS_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    version: u32,
    decisions: BTreeMap<String, String>,
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("decisions.json")
}

/// All decisions on disk as (key, content); none when there never was one.
///
/// # Errors
/// The file cannot be read, or is not what this version writes: then nothing of it is guessed.
pub fn read_decisions(state_dir: &Path) -> Result<Vec<(String, String)>, LogsError> {
    let path = path(state_dir);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|source| LogsError::Read { path: path.clone(), source })?,
    };
    let stored: Stored =
        serde_json::from_slice(&bytes).map_err(|source| LogsError::Decisions { path: path.clone(), source })?;
    if stored.version != VERSION {
        return Err(LogsError::DecisionsVersion { path, version: stored.version });
    }
    Ok(stored.decisions.into_iter().collect())
}

/// The decisions as the writer thread holds them.
#[derive(Debug)]
pub(super) struct Decisions {
    state_dir: PathBuf,
    stored: BTreeMap<String, String>,
}

impl Decisions {
    /// Reads what is there. What cannot be understood is put aside, never overwritten; the second answer says so.
    pub(super) fn load(state_dir: &Path) -> (Self, Option<String>) {
        let (stored, trouble) = match read_decisions(state_dir) {
            Ok(stored) => (stored.into_iter().collect(), None),
            Err(error) => (BTreeMap::new(), Some(put_aside(state_dir, &error))),
        };
        (Self { state_dir: state_dir.to_path_buf(), stored }, trouble)
    }

    /// Makes all `changes` durable together, or none of them.
    pub(super) fn change(&mut self, changes: &[(String, Option<String>)]) -> io::Result<()> {
        let mut decisions = self.stored.clone();
        for (key, content) in changes {
            match content {
                Some(content) => decisions.insert(key.clone(), content.clone()),
                None => decisions.remove(key),
            };
        }
        let bytes = decisions.iter().map(|(key, content)| key.len() + content.len()).sum::<usize>();
        if bytes > DECISIONS_BYTES_MAX {
            return Err(io::Error::other(format!("more than {DECISIONS_BYTES_MAX} bytes of decisions")));
        }
        let stored = Stored { version: VERSION, decisions };
        files::write_atomically(&path(&self.state_dir), &serde_json::to_vec(&stored)?, Durability::Disk)?;
        self.stored = stored.decisions;
        Ok(())
    }
}

fn put_aside(state_dir: &Path, error: &LogsError) -> String {
    let (from, to) = (path(state_dir), state_dir.join("decisions.json.unreadable"));
    match fs::rename(&from, &to) {
        Ok(()) => format!("{error}; it is kept as {} and decisions begin anew", to.display()),
        Err(rename) => format!("{error}; it cannot be put aside either ({rename})"),
    }
}
