//! A tree and the entries that should be in it, side by side: what is there, what is missing, what nobody wrote there. It holds one directory of
//! each depth, whatever the size of the tree.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;

use crate::copies::format::entry::{Entry, Kind};
use crate::sys::dir::{Dir, FileType, Stat};
use crate::sys::listing::Listing;

/// Whether names that no entry has are told. It costs the listing of each directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::copies) enum Surplus {
    Tell,
    Ignore,
}

/// One step of the way.
#[derive(Debug)]
pub(in crate::copies) enum Step {
    /// Something of the entry's name is there.
    Present {
        entry: Entry,
        dir: Arc<Dir>,
        stat: Stat,
    },
    Missing {
        entry: Entry,
    },
    /// The file system would not tell.
    Unreadable {
        entry: Entry,
        error: io::Error,
    },
    /// No entry is of this name: told once, not for what is below it.
    Surplus {
        path: Vec<u8>,
    },
}

/// Goes through entries in the order of a manifest.
#[derive(Debug)]
pub(in crate::copies) struct Joined<I> {
    entries: I,
    ahead: Option<Entry>,
    surplus: Surplus,
    levels: Vec<Level>,
}

/// A directory on the way to the entry at hand.
#[derive(Debug)]
struct Level {
    path: Vec<u8>,
    /// `None`: it is not there, or no directory, so nothing below it is.
    dir: Option<Arc<Dir>>,
    names: Listing,
    /// The first of the names that no entry has been compared with.
    next: usize,
}

impl<I, E> Joined<I>
where
    I: Iterator<Item = Result<Entry, E>>,
{
    /// Of the tree below `root`, whose own entry has the empty path and is in no manifest.
    pub(in crate::copies) fn new(root: Arc<Dir>, entries: I, surplus: Surplus) -> io::Result<Self> {
        let names = names_of(&root, surplus)?;
        let level = Level { path: Vec::new(), dir: Some(root), names, next: 0 };
        Ok(Self { entries, ahead: None, surplus, levels: vec![level] })
    }

    /// `None` at the end; the error is that of the entries.
    pub(in crate::copies) fn step(&mut self) -> Option<Result<Step, E>> {
        let entry = match self.ahead.take() {
            Some(entry) => Some(entry),
            None => match self.entries.next() {
                Some(Ok(entry)) => Some(entry),
                Some(Err(error)) => return Some(Err(error)),
                None => None,
            },
        };
        let Some(entry) = entry else { return self.leave(None).map(Ok) };
        let parent = parent_of(&entry.path);
        if let Some(surplus) = self.leave(Some(parent)).or_else(|| self.surplus_before(&entry)) {
            self.ahead = Some(entry);
            return Some(Ok(surplus));
        }
        self.enter(parent);
        if let Some(surplus) = self.surplus_before(&entry) {
            self.ahead = Some(entry);
            return Some(Ok(surplus));
        }
        Some(Ok(self.look(entry)))
    }

    /// Of the entry that was looked at last, where it is there.
    pub(in crate::copies) fn directory(&self) -> Option<&Arc<Dir>> {
        self.levels.last()?.dir.as_ref()
    }

    /// Leaves the directories that `parent` is not below (`None`: all), telling what is left in them.
    fn leave(&mut self, parent: Option<&[u8]>) -> Option<Step> {
        loop {
            let level = self.levels.last_mut()?;
            if parent.is_some_and(|parent| is_at_or_below(&level.path, parent)) {
                return None;
            }
            if let Some(step) = level.surplus(None) {
                return Some(step);
            }
            self.levels.pop();
        }
    }

    /// What the directory of the entry has before its name; nothing while that is not the last level yet.
    fn surplus_before(&mut self, entry: &Entry) -> Option<Step> {
        let level = self.levels.last_mut()?;
        if level.path != parent_of(&entry.path) {
            return None;
        }
        level.surplus(Some(name_of(&entry.path)))
    }

    /// Opens what is missing of the way to this directory.
    fn enter(&mut self, directory: &[u8]) {
        while let Some(level) = self.levels.last() {
            if level.path == directory {
                return;
            }
            let skipped = if level.path.is_empty() { 0 } else { level.path.len() + 1 };
            let end =
                directory[skipped..].iter().position(|byte| *byte == b'/').map_or(directory.len(), |at| skipped + at);
            let dir =
                level.dir.as_ref().and_then(|dir| dir.sub(Path::new(OsStr::from_bytes(&directory[skipped..end]))).ok());
            let level = Level::open(directory[..end].to_vec(), dir.map(Arc::new), self.surplus);
            self.levels.push(level);
        }
    }

    fn look(&mut self, entry: Entry) -> Step {
        let surplus = self.surplus;
        let Some(level) = self.levels.last_mut() else { return Step::Missing { entry } };
        let Some(dir) = level.dir.clone() else { return Step::Missing { entry } };
        let name = OsStr::from_bytes(name_of(&entry.path));
        if level.names.get(level.next).is_some_and(|listed| listed.name == name) {
            level.next += 1;
        }
        let stat = match dir.stat(name) {
            Ok(stat) => stat,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Step::Missing { entry },
            Err(error) => return Step::Unreadable { entry, error },
        };
        // At once, so that what is in it is told although no entry is.
        if surplus == Surplus::Tell && matches!(entry.kind, Kind::Dir) && stat.kind() == FileType::Dir {
            let below = dir.sub(Path::new(name)).ok().map(Arc::new);
            self.levels.push(Level::open(entry.path.clone(), below, surplus));
        }
        Step::Present { entry, dir, stat }
    }
}

impl Level {
    fn open(path: Vec<u8>, dir: Option<Arc<Dir>>, surplus: Surplus) -> Self {
        // What cannot be listed has nothing surplus that anybody could see.
        let names = dir.as_ref().and_then(|dir| names_of(dir, surplus).ok()).unwrap_or_default();
        Self { path, dir, names, next: 0 }
    }

    /// The next name that is before this one (`None`: any).
    fn surplus(&mut self, before: Option<&[u8]>) -> Option<Step> {
        let listed = self.names.get(self.next)?;
        if before.is_some_and(|before| listed.name.as_bytes() >= before) {
            return None;
        }
        self.next += 1;
        Some(Step::Surplus { path: joined(&self.path, listed.name.as_bytes()) })
    }
}

fn names_of(dir: &Dir, surplus: Surplus) -> io::Result<Listing> {
    match surplus {
        Surplus::Tell => dir.listing(),
        Surplus::Ignore => Ok(Listing::default()),
    }
}

/// Empty for what lies in the root.
pub(in crate::copies) fn parent_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(&[], |at| &path[..at])
}

pub(in crate::copies) fn name_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(path, |at| &path[at + 1..])
}

/// The name of an entry in its directory.
pub(in crate::copies) fn os_name(path: &[u8]) -> OsString {
    OsString::from_vec(name_of(path).to_vec())
}

pub(in crate::copies) fn joined(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

/// Everything is below the empty path.
pub(in crate::copies) fn is_at_or_below(directory: &[u8], path: &[u8]) -> bool {
    directory.is_empty() || path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// PATH_MAX of the kernel, with its end.
const PATH_BYTES_MAX: usize = 4_096;

/// The directory that holds an entry.
pub(in crate::copies) fn directory_below(root: &Dir, path: &[u8]) -> io::Result<Dir> {
    match parent_of(path) {
        b"" => root.again(),
        parent if parent.len() < PATH_BYTES_MAX => root.sub(Path::new(OsStr::from_bytes(parent))),
        // Longer than the kernel takes at once.
        parent => {
            let mut at = root.again()?;
            for name in parent.split(|byte| *byte == b'/') {
                at = at.sub(Path::new(OsStr::from_bytes(name)))?;
            }
            Ok(at)
        }
    }
}
