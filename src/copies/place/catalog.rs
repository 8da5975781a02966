//! What lies on the target, read from the COMMIT of each copy and the state of the set: cheap enough to be done whenever something has changed.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::time::Duration;

use super::live;
use super::state::State;
use crate::copies::failure::is_missing;
use crate::copies::format::commit::{COMMIT_BYTES_MAX, Commit, CommitError};
use crate::copies::format::layout::{COMMIT, directory_of, seq_of};
use crate::engine::copies::catalog::{Catalog, Copy, TargetState};
use crate::sys::dir::Dir;

/// A committed copy: its directory's name and its COMMIT.
#[derive(Clone, Debug)]
pub struct Listed {
    pub directory: OsString,
    pub commit: Commit,
}

/// The copies in the order of their numbers, and the names of what is none.
pub(in crate::copies) fn listed(copies: &Dir) -> io::Result<(Vec<Listed>, Vec<OsString>)> {
    let (mut found, mut strays) = (Vec::new(), Vec::new());
    for (name, _, _) in copies.entries()? {
        match commit_of(copies, &name)? {
            Some(commit) => found.push(Listed { directory: name, commit }),
            None => strays.push(name),
        }
    }
    found.sort_by_key(|listed: &Listed| listed.commit.seq);
    Ok((found, strays))
}

/// The COMMIT of a directory below `copies/`; `None`: it is no copy. An error of the disk is neither.
fn commit_of(copies: &Dir, name: &OsStr) -> io::Result<Option<Commit>> {
    let Some(seq) = seq_of(name) else { return Ok(None) };
    let opened = copies.sub(name.as_ref()).and_then(|dir| dir.read(OsStr::new(COMMIT)));
    let file = match opened {
        Ok(file) => file,
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(COMMIT_BYTES_MAX as u64).read_to_end(&mut text)?;
    let commit = match Commit::decode(&text) {
        Ok(commit) => Some(commit),
        Err(CommitError::CutOff | CommitError::Damaged) => None,
        // Whole, and of another version: a copy, whatever this one makes of it.
        Err(error @ (CommitError::Json(_) | CommitError::Format { .. })) => return Err(io::Error::other(error)),
    };
    Ok(commit.filter(|commit| commit.seq == seq && *name == *directory_of(commit.seq, commit.at)))
}

/// Everything of a set.
pub(in crate::copies) fn read(dir: &Dir, copies: &Dir, state: &State, uuid: &str) -> io::Result<Catalog> {
    let space = dir.space()?;
    let (found, _) = listed(copies)?;
    let live = live::markers(dir)?;
    Ok(Catalog {
        target: TargetState::Ready,
        uuid: Some(uuid.to_owned()),
        copies: found
            .iter()
            .map(|listed| Copy { in_use: live.iter().any(|one| one.seq == listed.commit.seq), ..copy(listed, state) })
            .collect(),
        unchanged: state.unchanged,
        free_bytes: space.free_bytes,
        size_bytes: space.size_bytes,
        reflinks: state.reflinks,
        scrubbed: state.scrub.finished,
        scrub_permille: state.scrub.permille,
        restore_tested: state.restore_tested,
        quarantined: state.quarantined.len() as u64,
        failed_over: live.into_iter().max_by_key(|one| one.since),
    })
}

pub(in crate::copies) fn copy(listed: &Listed, state: &State) -> Copy {
    let commit = &listed.commit;
    let marks = state.marks.get(&commit.seq).cloned().unwrap_or_default();
    Copy {
        seq: commit.seq,
        directory: listed.directory.to_string_lossy().into_owned(),
        at: commit.at,
        took: Duration::from_nanos(commit.took),
        files: commit.files,
        bytes: commit.bytes,
        written_bytes: commit.written_bytes,
        cause: commit.cause,
        stale: commit.stale,
        unstable: commit.unstable,
        suspect: commit.suspect.clone(),
        clock_suspect: commit.clock_suspect,
        pinned: marks.pinned,
        accepted: marks.accepted,
        verified: marks.verified,
        bad: marks.bad,
        in_use: false,
        large: commit.large,
        large_over: commit.large_over,
    }
}
