//! Walks the sources, in the order of the manifest. Holds the names of the directories on the way down to where it is, and what a stat says of a few hundred of
//! them; opens few directories at a time, however deep it goes; leaves no source's mount and follows no link below it.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::exclude::Exclude;
use super::scouts::{AHEAD_MAX, Scouts};
use crate::copies::format::entry::{Attribute, Entry, Kind, order};
use crate::sys::attributes::{self, Inode};
use crate::sys::dir::{Dir, FileType, Listing, Stat};
use crate::sys::trail::Trail;

/// So many names are asked for in the order of their inodes, as they lie on the disk, before they are told in the order of their names.
const WINDOW_NAMES: usize = 1024;

/// An inode of a source. Its hash and its attributes are yet to be read: the former with the content, the latter by [`Found::attributes`] or from the open file.
#[derive(Debug)]
pub struct Found {
    pub entry: Entry,
    /// Where it has its name.
    pub parent: Arc<Dir>,
    /// As many as the inode has, also outside of the sources.
    pub names: u64,
    /// A directory above a source. Its times and inode change with what others do in it, so they say nothing of the source.
    pub is_way: bool,
    /// Another file system is mounted on this directory below a source; what is in it is not part of the source.
    pub is_mount: bool,
    /// For a way, which may be reached over a link.
    itself: Option<Arc<Dir>>,
}

impl Found {
    pub fn attributes(&self) -> io::Result<Vec<Attribute>> {
        match &self.itself {
            Some(dir) => attributes::or_none(Inode::open(&**dir).attributes()),
            None => attributes::list_named(&self.parent, self.entry.name()),
        }
    }
}

/// What could not be looked at. The scan goes on with what follows.
#[derive(Debug, thiserror::Error)]
#[error("cannot look at /{}", path.escape_ascii())]
pub struct Trouble {
    /// As in [`Entry::path`].
    pub path: Vec<u8>,
    pub extent: Extent,
    #[source]
    pub error: io::Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// A source itself: it is not there, not to be opened, or a link.
    Source,
    /// A directory: nothing is known of what is in it, or of the rest of it.
    Below,
    /// This name alone.
    Name,
}

/// An iterator over everything in the sources, and the directories above them.
#[derive(Debug)]
pub struct Scan<'a> {
    exclude: &'a Exclude,
    /// In the order of the manifest, reversed.
    sources: Vec<PathBuf>,
    /// Whose ways have been told.
    last: Vec<u8>,
    ready: VecDeque<Result<Found, Trouble>>,
    walk: Option<Walk>,
    scouts: Option<Scouts>,
}

impl<'a> Scan<'a> {
    /// `from`: absolute paths, none within another. Nothing is opened yet.
    #[must_use]
    pub fn new(from: &[PathBuf], exclude: &'a Exclude) -> Self {
        let mut sources = from.to_vec();
        sources.sort_by(|a, b| order(below_root(b), below_root(a)));
        Self { exclude, sources, last: Vec::new(), ready: VecDeque::new(), walk: None, scouts: None }
    }

    /// With scouts before it. Without threads for them it only takes longer.
    #[must_use]
    pub fn scouted(self) -> Self {
        Self { scouts: Scouts::start().ok(), ..self }
    }

    fn begin(&mut self, source: &Path) {
        let path = below_root(source).to_vec();
        if let Err(error) = self.ways(&path).and_then(|()| self.source(source, &path)) {
            self.ready.push_back(Err(Trouble { path: path.clone(), extent: Extent::Source, error }));
        }
        self.last = path;
    }

    /// The directories above a source that were not told for the one before.
    fn ways(&mut self, path: &[u8]) -> io::Result<()> {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
        let mut parent = Arc::new(Dir::open(Path::new("/"))?);
        for end in ends {
            // What is above a source may be reached over links; the dot follows the last of them.
            let mut real = b"/".to_vec();
            real.extend_from_slice(&path[..end]);
            real.extend_from_slice(b"/.");
            let itself = Arc::new(Dir::open(Path::new(OsStr::from_bytes(&real)))?);
            let is_told = self.last.len() > end && self.last[..end] == path[..end] && self.last[end] == b'/';
            if !is_told && let Some(entry) = Entry::of(path[..end].to_vec(), &itself.stat_self()?) {
                let way = Some(itself.clone());
                self.ready.push_back(Ok(Found { entry, parent, names: 1, is_way: true, is_mount: false, itself: way }));
            }
            parent = itself;
        }
        Ok(())
    }

    fn source(&mut self, source: &Path, path: &[u8]) -> io::Result<()> {
        let Some(name) = source.file_name() else {
            self.walk = Some(Walk::new(Dir::open(source)?, Vec::new())?);
            return Ok(());
        };
        let above = source.parent().unwrap_or(Path::new("/")).join(".");
        let parent = Arc::new(Dir::open(&above)?);
        let mut stat = parent.stat(name)?;
        match stat.kind() {
            FileType::Link => return Err(io::Error::other("it is a symbolic link: name what it leads to")),
            FileType::Dir => {
                let dir = Dir::open(source)?;
                stat = dir.stat_self()?;
                self.walk = Some(Walk::new(dir, path.to_vec())?);
            }
            FileType::File
            | FileType::Fifo
            | FileType::Socket
            | FileType::Char
            | FileType::Block
            | FileType::Unknown => {}
        }
        let entry = Entry::of(path.to_vec(), &stat).ok_or(io::ErrorKind::Unsupported)?;
        self.ready.push_back(Ok(Found {
            entry,
            parent,
            names: stat.nlink,
            is_way: false,
            is_mount: false,
            itself: None,
        }));
        Ok(())
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<Found, Trouble>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            if let Some(walk) = &mut self.walk {
                match walk.next(self.exclude, self.scouts.as_mut()) {
                    Some(found) => return Some(found),
                    None => self.walk = None,
                }
            }
            let source = self.sources.pop()?;
            self.begin(&source);
        }
    }
}

fn below_root(path: &Path) -> &[u8] {
    let bytes = path.as_os_str().as_bytes();
    bytes.strip_prefix(b"/").unwrap_or(bytes)
}

/// Within one source.
#[derive(Debug)]
struct Walk {
    trail: Trail,
    levels: Vec<Level>,
    /// Of the directory where the walk is.
    path: Vec<u8>,
    /// Where patterns begin.
    source_bytes: usize,
    mount_id: u64,
    dev: u64,
    /// The directory that was told last and is to be entered.
    entering: bool,
}

/// A directory on the way down, the last one being where the walk is.
#[derive(Debug)]
struct Level {
    listing: Listing,
    /// The first name that nobody has asked for.
    next: usize,
    /// Places in the listing and what a stat said, in the order of the names.
    window: std::vec::IntoIter<(usize, io::Result<Stat>)>,
    path_bytes: usize,
    /// The first name that no scout was sent for.
    unscouted: usize,
    /// Places of the directories that scouts were sent to and the walk has not reached.
    scouted: VecDeque<usize>,
}

impl Walk {
    fn new(root: Dir, path: Vec<u8>) -> io::Result<Self> {
        let stat = root.stat_self()?;
        let levels = vec![Level::new(&root, path.len())?];
        let source_bytes = path.len();
        let trail = Trail::new(Arc::new(root));
        Ok(Self { trail, levels, path, source_bytes, mount_id: stat.mount_id, dev: stat.dev, entering: false })
    }

    fn next(&mut self, exclude: &Exclude, mut scouts: Option<&mut Scouts>) -> Option<Result<Found, Trouble>> {
        loop {
            if std::mem::take(&mut self.entering)
                && let Err(error) = self.enter()
            {
                return Some(Err(error));
            }
            let here = self.trail.here();
            let level = self.levels.last_mut()?;
            self.path.truncate(level.path_bytes);
            if let Some(scouts) = &mut scouts {
                level.scout(&here, scouts);
            }
            let Some((name, stat)) = level.next(&here) else {
                if let Some(trouble) = self.leave() {
                    return Some(Err(trouble));
                }
                continue;
            };
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.as_bytes());
            let told = match stat {
                Ok(stat) if exclude.is_excluded(self.below_source(), stat.kind() == FileType::Dir) => continue,
                Ok(stat) => self.tell(here, &stat),
                Err(error) => Err(error),
            };
            match told {
                // It went away after its name was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Some(Err(self.trouble(Extent::Name, error))),
                Ok(found) => return Some(Ok(found)),
            }
        }
    }

    fn below_source(&self) -> &[u8] {
        let below = &self.path[self.source_bytes..];
        below.strip_prefix(b"/").unwrap_or(below)
    }

    fn tell(&mut self, parent: Arc<Dir>, stat: &Stat) -> io::Result<Found> {
        let mut entry = Entry::of(self.path.clone(), stat).ok_or(io::ErrorKind::Unsupported)?;
        let is_mount =
            stat.is_mount_root || stat.mount_id != self.mount_id || (stat.mount_id == 0 && stat.dev != self.dev);
        if is_mount && entry.kind != Kind::Dir {
            return Err(io::Error::other("another file is mounted over it"));
        }
        if let Kind::Link { target } = &mut entry.kind {
            *target = parent
                .read_link(entry.path.rsplit(|byte| *byte == b'/').next().map_or(OsStr::new(""), OsStr::from_bytes))?
                .as_bytes()
                .to_vec();
        }
        self.entering = entry.kind == Kind::Dir && !is_mount;
        Ok(Found { entry, parent, names: stat.nlink, is_way: false, is_mount, itself: None })
    }

    /// The directory that `path` names.
    fn enter(&mut self) -> Result<(), Trouble> {
        let name = self.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
        let entered = self.trail.enter(OsStr::from_bytes(&name));
        let level = match entered {
            Ok(dir) => Level::new(&dir, self.path.len()).inspect_err(|_| self.give_up()),
            Err(error) => Err(error),
        };
        match level {
            Ok(level) => self.levels.push(level),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(self.trouble(Extent::Below, error)),
        }
        Ok(())
    }

    /// Out of a directory that could be entered but not read. It was the last one, so the one above is still open.
    fn give_up(&mut self) {
        if self.trail.leave().is_err() {
            self.levels.truncate(self.trail.depth() + 1);
        }
    }

    /// Up; what lay above may have been moved meanwhile, and then the rest of it is not known.
    fn leave(&mut self) -> Option<Trouble> {
        self.levels.pop();
        if self.levels.is_empty() {
            return None;
        }
        let error = self.trail.leave().err()?;
        // The first directory that is not there any more is the one below where the trail still is.
        let lost = self.levels.get(self.trail.depth() + 1).map(|level| self.path[..level.path_bytes].to_vec());
        self.levels.truncate(self.trail.depth() + 1);
        Some(Trouble { path: lost.unwrap_or_else(|| self.path.clone()), extent: Extent::Below, error })
    }

    fn trouble(&self, extent: Extent, error: io::Error) -> Trouble {
        Trouble { path: self.path.clone(), extent, error }
    }
}

impl Level {
    fn new(dir: &Dir, path_bytes: usize) -> io::Result<Self> {
        Ok(Self {
            listing: dir.listing()?,
            next: 0,
            window: Vec::new().into_iter(),
            path_bytes,
            unscouted: 0,
            scouted: VecDeque::new(),
        })
    }

    fn next(&mut self, dir: &Dir) -> Option<(&OsStr, io::Result<Stat>)> {
        if self.window.as_slice().is_empty() {
            self.window = self.ask(dir).into_iter();
        }
        let (index, stat) = self.window.next()?;
        Some((self.listing.get(index)?.name, stat))
    }

    /// Sends scouts to the directories that come next.
    fn scout(&mut self, dir: &Arc<Dir>, scouts: &mut Scouts) {
        let reached = self.window.as_slice().first().map_or(self.next, |(place, _)| *place);
        while self.scouted.pop_front_if(|place| *place <= reached).is_some() {}
        while self.scouted.len() < AHEAD_MAX
            && let Some(listed) = self.listing.get(self.unscouted)
        {
            if listed.kind == FileType::Dir && self.unscouted > reached {
                scouts.send(dir, listed.name.to_os_string());
                self.scouted.push_back(self.unscouted);
            }
            self.unscouted += 1;
        }
    }

    fn ask(&mut self, dir: &Dir) -> Vec<(usize, io::Result<Stat>)> {
        let end = self.listing.len().min(self.next + WINDOW_NAMES);
        let mut places: Vec<usize> = (self.next..end).collect();
        let ino = |place: &usize| self.listing.get(*place).map(|listed| listed.ino);
        places.sort_unstable_by_key(ino);
        let ask = |place: usize| self.listing.get(place).map(|listed| (place, dir.stat(listed.name)));
        let mut asked: Vec<_> = places.into_iter().filter_map(ask).collect();
        asked.sort_unstable_by_key(|(place, _)| *place);
        self.next = end;
        asked
    }
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
