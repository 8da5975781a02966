//! Removing copies. Which ones is the engine's decision; that the last good one stays is checked here once more.
//!
//! A copy is gone with the rename to `trash/`: at no time is there one that is half removed and looks whole. Link counts are the reference counts, so
//! nothing else has to be swept, and nothing has to be written.

use std::ffi::OsStr;
use std::io;

use super::catalog::{self, Listed};
use super::recover::empty_trash;
use super::target::Set;
use crate::copies::conduct::Conduct;
use crate::copies::failure::failure;
use crate::copies::format::layout::{COPIES, LATEST, TRASH};
use crate::engine::copies::order::{Failure, FailureKind, Outcome, Phase, Progress};
use crate::sys::dir::{Dir, Rename};

const LATEST_FRESH: &str = "latest.new";

/// Removes exactly these; one that is not there any more counts as removed.
pub fn prune(set: &mut Set, seqs: &[u64], conduct: &mut dyn Conduct) -> Result<Outcome, Failure> {
    let listed = set.listed()?;
    refuse_to_lose(set, &listed, seqs)?;
    let (going, staying): (Vec<Listed>, Vec<Listed>) =
        listed.into_iter().partition(|listed| seqs.contains(&listed.commit.seq));
    for copy in &going {
        let moved = set.copies.rename(&copy.directory, &set.trash, &copy.directory, Rename::New);
        moved.map_err(|error| set.failed(COPIES, &error))?;
    }
    if !going.is_empty() {
        set.trash.sync().and_then(|()| set.copies.sync()).map_err(|error| set.failed(TRASH, &error))?;
    }
    let progress = Progress { phase: Phase::Prune, files_in_all: Some(going.len() as u64), ..Progress::default() };
    conduct.progress(progress);
    if let Some(newest) = staying.last() {
        point_latest(&set.dir, &newest.directory).map_err(|error| set.failed(LATEST, &error))?;
    }
    // What is left of it when something more urgent comes is swept away by the next run; the copies are gone with the rename.
    empty_trash(set, conduct).map_err(|error| set.failed(TRASH, &error))?;
    let last = going.iter().chain(&staying).map(|listed| listed.commit.seq).max().unwrap_or(0);
    set.update(|state| {
        state.last_seq = state.last_seq.max(last);
        state.retain(|seq| staying.iter().any(|listed| listed.commit.seq == seq));
    })?;
    Ok(Outcome::Pruned { copies: going.iter().map(|listed| listed.commit.seq).collect() })
}

/// The newest good copy, a pinned one, and the one that a service runs from.
fn refuse_to_lose(set: &Set, listed: &[Listed], seqs: &[u64]) -> Result<(), Failure> {
    let copies: Vec<_> = listed.iter().map(|listed| catalog::copy(listed, set.state())).collect();
    let newest_good = copies.iter().rev().find(|copy| copy.is_good()).map(|copy| copy.seq);
    for copy in copies.iter().filter(|copy| seqs.contains(&copy.seq)) {
        let why = if Some(copy.seq) == newest_good {
            "is the newest good one"
        } else if copy.pinned {
            "is pinned"
        } else if copy.in_use {
            "is in use"
        } else {
            continue;
        };
        let what = format!("copy {} {why}: nothing was removed", copy.seq);
        return Err(failure(FailureKind::InUse, what, None));
    }
    Ok(())
}

/// Has `latest` lead to this copy.
pub(in crate::copies) fn point_latest(dir: &Dir, directory: &OsStr) -> io::Result<()> {
    let mut target = std::ffi::OsString::from(COPIES);
    target.push("/");
    target.push(directory);
    let (fresh, name) = (OsStr::new(LATEST_FRESH), OsStr::new(LATEST));
    if dir.read_link(name).is_ok_and(|old| old == target) {
        return Ok(());
    }
    dir.remove_file_if_there(fresh)?;
    // Something else that was put there goes away with it, unless it is a directory.
    dir.symlink(&target, fresh)?;
    dir.rename(fresh, dir, name, Rename::Replace)?;
    dir.sync()
}
