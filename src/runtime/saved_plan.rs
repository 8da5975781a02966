//! The plan in force, kept beside the records. An agent that is started again after its death must adopt its services even if the
//! configuration has become unreadable meanwhile: it goes on with the plan it had, and says so.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::record;
use crate::engine::plan::Plan;
use crate::sys::files::{self, Durability};

#[derive(Debug, Serialize, Deserialize)]
struct Saved<P> {
    boot_id: String,
    plan: P,
}

fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("plan.json")
}

/// Keeps the plan. A failure costs only the fall-back.
pub(super) fn save(run_dir: &Path, boot_id: &str, plan: &Plan) {
    let saved = Saved { boot_id: boot_id.to_owned(), plan };
    let written = serde_json::to_vec(&saved)
        .map_err(io::Error::other)
        .and_then(|bytes| files::write_atomically(&path(run_dir), &bytes, Durability::Memory));
    if let Err(error) = written {
        log::warn!("agent: cannot keep the plan in {}: {error}", path(run_dir).display());
    }
}

/// Nothing is left to go on with: everything was stopped on purpose.
pub(super) fn remove(run_dir: &Path) {
    let path = path(run_dir);
    if let Err(error) = fs::remove_file(&path) {
        log::warn!("agent: cannot remove {}: {error}", path.display());
    }
}

/// The plan of an earlier agent of this boot, if it left services behind.
pub(super) fn of_earlier_agent(run_dir: &Path, boot_id: &str) -> Option<Plan> {
    let left_something = fs::read_dir(record::directory(run_dir)).ok()?.next().is_some();
    let saved: Saved<Plan> = serde_json::from_slice(&fs::read(path(run_dir)).ok()?).ok()?;
    (left_something && saved.boot_id == boot_id).then_some(saved.plan)
}
