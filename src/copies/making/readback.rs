//! Reading a new copy again from the disk, before it is one.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::build::Built;
use super::cursor::{Cursor, parent};
use super::file::{self, FileError, Means};
use super::fresh::paced;
use crate::copies::conduct::Conduct;
use crate::copies::failure::{cancelled, on_target};
use crate::copies::format::entry::{Entry, Kind};
use crate::copies::format::layout::{DATA, MANIFEST, WORK};
use crate::copies::format::manifest::Reader;
use crate::copies::place::target::Set;
use crate::engine::copies::order::{Failure, Phase, Progress};
use crate::engine::copies::plan::ReadBack;
use crate::sys::dir::Dir;
use crate::sys::page_cache::drop_cache;
use crate::sys::scratch::Scratch;

/// What failed, below the directory of the copy.
#[derive(Debug)]
pub(in crate::copies) enum Failed {
    At(OsString, io::Error),
    Cancelled,
}

impl Failed {
    pub(in crate::copies) fn new(what: impl Into<OsString>, error: io::Error) -> Self {
        Self::At(what.into(), error)
    }

    pub(in crate::copies) fn within(self, set: &Set, work: &OsStr) -> Failure {
        match self {
            Self::At(what, error) => on_target(set.path().join(WORK).join(work).join(what).display(), &error),
            Self::Cancelled => cancelled(),
        }
    }
}

/// Compares what was written with its manifest. What was linked was compared when it was written, and is read again by the scrub.
pub(in crate::copies) fn read_back(
    copy: &Dir,
    built: &Built,
    which: ReadBack,
    conduct: &mut dyn Conduct,
) -> Result<(), Failed> {
    let failed = |error: io::Error| Failed::new(MANIFEST, error);
    let manifest = copy.read(OsStr::new(MANIFEST)).map_err(failed)?;
    drop_cache(&manifest, 0, 0).map_err(failed)?;
    let mut reader = Reader::new(manifest);
    let data = copy.sub(DATA.as_ref()).map_err(failed)?;
    let mut cursor = Cursor::new(data);
    let mut buffer = file::buffer().map_err(failed)?;
    let mut progress = Progress { phase: Phase::ReadBack, ..Progress::default() };
    let mut index = 0;
    for entry in reader.by_ref() {
        let entry = entry.map_err(|error| failed(io::Error::other(error)))?;
        let is_fresh = built.fresh.is_fresh(index);
        index += 1;
        let Kind::File { size, .. } = entry.kind else { continue };
        let wanted = match which {
            ReadBack::All => true,
            ReadBack::Written => is_fresh,
            // A clone of an older file has whatever was wrong with that.
            ReadBack::None => is_fresh && built.fresh.is_shared(index - 1),
        };
        if !wanted {
            continue;
        }
        if conduct.is_cancelled() {
            return Err(Failed::Cancelled);
        }
        check(&mut cursor, &entry, &mut buffer, conduct)?;
        progress.files += 1;
        progress.bytes += size;
        conduct.progress(progress);
    }
    match reader.summary() {
        Some(summary) if summary.hash == built.summary.hash => Ok(()),
        _ => Err(failed(io::Error::other("it is not what was written"))),
    }
}

fn check(cursor: &mut Cursor, entry: &Entry, buffer: &mut Scratch, conduct: &mut dyn Conduct) -> Result<(), Failed> {
    let path = || Path::new(DATA).join(OsStr::from_bytes(&entry.path));
    let failed = |error: io::Error| Failed::new(path(), error);
    let file = cursor.at(parent(&entry.path)).and_then(|dir| dir.read(entry.name())).map_err(failed)?;
    drop_cache(&file, 0, 0).map_err(failed)?;
    let mut pace = |bytes| paced(conduct, bytes);
    let found = match file::hash(&file, &mut Means { buffer, pace: &mut pace }) {
        Ok(found) => found,
        Err(FileError::Stopped(_)) => return Err(Failed::Cancelled),
        Err(FileError::Read { source, .. } | FileError::Stat(source)) => return Err(failed(source)),
        Err(error @ (FileError::NotAFile | FileError::Write { .. })) => return Err(failed(io::Error::other(error))),
    };
    match &entry.kind {
        Kind::File { size, hash, .. } if (found.size, found.hash) == (*size, *hash) => Ok(()),
        _ => Err(failed(io::Error::other("it reads otherwise than it was written"))),
    }
}
