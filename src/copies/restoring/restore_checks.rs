//! What is looked at before anything is restored: mounts and writers that a restore would leave with the wrong files, the log of a database that would be applied to
//! another state of it, room.

use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::exchange::{Spot, SpotKind};
use super::restore::{Lines, NAMED_MAX, shown};
use crate::copies::checking::joined::directory_below;
use crate::copies::failure::{failure, other};
use crate::copies::format::entry::{Entry, Kind};
use crate::copies::place::target::{CommittedCopy, Set};
use crate::engine::copies::order::{Failure, FailureKind};
use crate::sys::dir::Dir;
use crate::sys::{mounts, writers};

/// What a file of SQLite begins with (sqlite.org/fileformat.html).
pub const SQLITE: &[u8; 16] = b"SQLite format 3\0";
/// What SQLite leaves beside a database when it is not closed, and applies to whatever has its name next.
pub const LOGS: [&str; 2] = ["-wal", "-journal"];
/// Of the bytes to be restored: names, inodes, and what rounding takes.
const SURCHARGE_PERCENT: u64 = 5;

/// A directory that is renamed takes what is mounted below it along.
pub(in crate::copies) fn no_mounts_below(places: &[PathBuf]) -> Result<(), Failure> {
    for place in places {
        let below = mounts::below(place).map_err(|error| other("/proc/self/mountinfo", &error))?;
        let Some(point) = below else { continue };
        let what =
            format!("{} is mounted below {}, and would be moved with what is there", point.display(), place.display());
        let remedy =
            "unmount it first, name paths that have no mount below them, or restore to another place with --into";
        return Err(failure(FailureKind::InUse, what, Some(remedy)));
    }
    Ok(())
}

pub(in crate::copies) fn nobody_writes(places: &[PathBuf]) -> Result<(), Failure> {
    // The kernel tells paths without links in them.
    let places: Vec<PathBuf> =
        places.iter().map(|place| fs::canonicalize(place).unwrap_or_else(|_| place.clone())).collect();
    let writers = writers::below(&places, NAMED_MAX).map_err(|error| other("/proc", &error))?;
    if writers.is_empty() {
        return Ok(());
    }
    let named: Vec<String> = writers
        .iter()
        .map(|writer| format!("{} (pid {}) {}", writer.name, writer.pid, writer.path.display()))
        .collect();
    let what = format!("files are open for writing: {}", named.join(", "));
    let remedy = "stop who has them open (`mainstay stop NAME`, or `restore --service NAME`), or insist with --force";
    Err(failure(FailureKind::InUse, what, Some(remedy)))
}

/// A log that stays beside a database which is replaced alone would be applied to it and break it.
pub(in crate::copies) fn no_database_log_is_left(
    spot: &Spot,
    copy: &CommittedCopy,
    root: &[u8],
    replaced: &[PathBuf],
) -> Result<(), Failure> {
    if spot.kind == SpotKind::MountPoint {
        return Ok(());
    }
    for log in LOGS {
        let mut path = spot.path.clone().into_os_string();
        path.push(log);
        let path = PathBuf::from(path);
        let Some(name) = path.file_name() else { continue };
        if replaced.contains(&path) || spot.dir.stat(name).map_or(0, |stat| stat.size) == 0 {
            continue;
        }
        if is_database(copy, root) {
            return Err(log_is_left(&path));
        }
    }
    Ok(())
}

/// The same for a file that is put into a directory which is there.
pub(in crate::copies) fn no_log_beside(
    entry: &Entry,
    dir: Option<&Arc<Dir>>,
    below: &Path,
    copy: &CommittedCopy,
) -> Result<(), Failure> {
    let (Kind::File { .. }, Some(dir)) = (&entry.kind, dir) else { return Ok(()) };
    for log in LOGS {
        let mut name = entry.name().to_os_string();
        name.push(log);
        if dir.stat(&name).is_ok_and(|stat| stat.size > 0) && is_database(copy, &entry.path) {
            let path = below.join(std::ffi::OsStr::from_bytes(entry.parent())).join(name);
            return Err(log_is_left(&path));
        }
    }
    Ok(())
}

pub fn log_is_left(path: &Path) -> Failure {
    let what = format!(
        "{} belongs to another state of the database than the one in the copy, and would break it",
        path.display()
    );
    let remedy = "restore the directory that both lie in, or stop who uses the database and move that file away";
    failure(FailureKind::InUse, what, Some(remedy))
}

fn is_database(copy: &CommittedCopy, path: &[u8]) -> bool {
    let name = crate::copies::checking::joined::os_name(path);
    let Ok(mut file) = directory_below(&copy.data, path).and_then(|dir| dir.read(&name)) else { return false };
    let mut head = [0; SQLITE.len()];
    file.read_exact(&mut head).is_ok() && head == *SQLITE
}

/// Each file system that something is built on must have room for all of it, but where files are cloned.
pub(in crate::copies) fn room<'a>(
    places: impl Iterator<Item = (&'a Dir, &'a Path)>,
    data_bytes: u64,
    set: &Set,
) -> Result<(), Failure> {
    let needed = data_bytes.saturating_add(data_bytes / 100 * SURCHARGE_PERCENT);
    for (dir, shown) in places {
        let looked = dir.space().and_then(|space| Ok((space, dir.stat_self()?.dev)));
        let (space, device) = looked.map_err(|error| other(shown.display(), &error))?;
        if set.state().reflinks && device == set.place.device {
            continue;
        }
        if space.free_bytes < needed {
            let what = format!("{}: {needed} bytes are needed, and {} are free", shown.display(), space.free_bytes);
            let remedy = "make room there, restore a part by naming paths, or to another place with --into";
            return Err(failure(FailureKind::Other, what, Some(remedy)));
        }
    }
    Ok(())
}

/// What a restore would do about one entry: nothing is said of what is the same by size, time and mode.
pub(in crate::copies) fn compare(below: &Path, entry: &Entry, lines: &mut Lines) {
    let path = below.join(std::ffi::OsStr::from_bytes(&entry.path));
    let size = match entry.kind {
        Kind::File { size, .. } => size,
        Kind::Socket => return,
        Kind::Dir | Kind::Link { .. } | Kind::Fifo | Kind::Char { .. } | Kind::Block { .. } => 0,
    };
    let Ok(live) = fs::symlink_metadata(&path) else {
        return lines.push(|| format!("+ {} ({size} bytes)", shown_at(below, entry)));
    };
    let is_file = matches!(entry.kind, Kind::File { .. });
    let is_same_time = (live.mtime(), live.mtime_nsec()) == (entry.mtime.s, i64::from(entry.mtime.ns));
    if is_file != live.is_file() || (is_file && (live.len() != size || !is_same_time)) {
        lines.push(|| format!("~ {} ({} bytes now, {size} in the copy)", shown_at(below, entry), live.len()));
    } else if live.mode() & 0o7777 != entry.mode && !live.is_symlink() {
        let now = live.mode() & 0o7777;
        lines.push(|| format!("~ {} (mode {now:04o} now, {:04o} in the copy)", shown_at(below, entry), entry.mode));
    }
}

fn shown_at(below: &Path, entry: &Entry) -> String {
    if below == Path::new("/") { shown(&entry.path) } else { format!("{}{}", below.display(), shown(&entry.path)) }
}
