//! What an end in the middle of a job has left: removed before the next one begins. Nothing of it was ever a copy.

use std::ffi::{OsStr, OsString};
use std::io;
use std::time::{Duration, Instant};

use super::catalog;
use super::target::Set;
use crate::copies::conduct::Conduct;
use crate::copies::failure::cancelled;
use crate::copies::format::layout::{COPIES, QUARANTINE, TRASH, WORK};
use crate::engine::copies::order::Failure;
use crate::sys::dir::{Dir, Rename};

/// Names that are tried for something that goes to quarantine.
const NAMES_MAX: u32 = 1_000;

/// Empties `work/` and `trash/`, and puts what lies among the copies and is none into quarantine.
pub fn recover(set: &mut Set, conduct: &mut dyn Conduct) -> Result<(), Failure> {
    empty(set, WORK, conduct)?;
    empty(set, TRASH, conduct)?;
    let (_, strays) = catalog::listed(&set.copies).map_err(|error| set.failed(COPIES, &error))?;
    for name in strays {
        let put = quarantine(&set.copies, &name, &set.quarantine);
        let now = put.map_err(|error| set.failed(QUARANTINE, &error))?;
        let detail = format!("it has no valid COMMIT and lies in {QUARANTINE}/{} now", now.to_string_lossy());
        set.stray(format!("{COPIES}/{}", name.to_string_lossy()), detail);
    }
    for finding in set.strays() {
        conduct.finding(finding);
    }
    Ok(())
}

/// Names that go at once, and how long that may take at least: removing a copy of a million files is not felt by whoever else uses the disk.
const UNLINKS_AT_ONCE: u32 = 250;
const UNLINKS_TAKE: Duration = Duration::from_millis(25);

/// Empties `trash/`, at a pace, for as long as nothing is more urgent. Whether it is empty now: what stays is for the next time.
pub(in crate::copies) fn empty_trash(set: &Set, conduct: &dyn Conduct) -> io::Result<bool> {
    for (entry, _, _) in set.trash.entries()? {
        let (mut gone, mut began) = (0, Instant::now());
        let mut pace = || {
            gone += 1;
            if gone % UNLINKS_AT_ONCE == 0 && !conduct.is_cancelled() {
                std::thread::sleep(UNLINKS_TAKE.saturating_sub(began.elapsed()));
                began = Instant::now();
            }
        };
        if conduct.is_cancelled() {
            return Ok(false);
        }
        remove_at(set, &set.trash, &entry, &mut pace)?;
    }
    Ok(true)
}

/// Removes everything in one directory of the set. That must be possible on a full disk, too.
pub(in crate::copies) fn empty(set: &Set, name: &str, conduct: &mut dyn Conduct) -> Result<(), Failure> {
    let directory = if name == WORK { &set.work } else { &set.trash };
    let entries = directory.entries().map_err(|error| set.failed(name, &error))?;
    for (entry, _, _) in entries {
        if conduct.is_cancelled() {
            return Err(cancelled());
        }
        remove(set, directory, &entry).map_err(|error| set.failed(name, &error))?;
    }
    Ok(())
}

/// Empties `work/`, to its end.
pub(in crate::copies) fn empty_work(set: &Set) -> io::Result<()> {
    for (entry, _, _) in set.work.entries()? {
        remove(set, &set.work, &entry)?;
    }
    Ok(())
}

/// Removes whatever has this name. A file system that needs room to delete gets that of the reserve.
pub(in crate::copies) fn remove(set: &Set, directory: &Dir, name: &OsStr) -> io::Result<()> {
    remove_at(set, directory, name, &mut || {})
}

fn remove_at(set: &Set, directory: &Dir, name: &OsStr, pace: &mut dyn FnMut()) -> io::Result<()> {
    match directory.remove_tree(name, pace) {
        Err(error) if crate::copies::failure::is_full(&error) => {
            super::reserve::give_up(&set.place.root)?;
            directory.remove_tree(name, pace).map(drop)
        }
        removed => removed.map(drop),
    }
}

/// Moves it there under a name that is free, which it returns.
fn quarantine(from: &Dir, name: &OsStr, to: &Dir) -> io::Result<OsString> {
    let mut fresh = name.to_owned();
    for attempt in 1..NAMES_MAX {
        match from.rename(name, to, &fresh, Rename::New) {
            Ok(()) => {
                to.sync()?;
                from.sync()?;
                return Ok(fresh);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fresh = name.to_owned();
                fresh.push(format!(".{attempt}"));
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
