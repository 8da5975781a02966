//! Reading a file of the sources into a new one. Nobody stops writing to it for that, so it is looked at before and after.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;

use super::file::{self, Change, FileError, Means, NotKept, dress_open};
use crate::copies::conduct::Conduct;
use crate::copies::format::entry::{Entry, Kind, Stamp};
use crate::sys::attributes;
use crate::sys::clock::clocks;
use crate::sys::dir::{Dir, FileType};
use crate::sys::scratch::Scratch;
use crate::sys::stat;

/// A file that changes while it is read, or gives errors, is read so often.
const TRIES: u32 = 3;
/// The kernel's clock for ctimes stands still for up to a tick (10 ms at 100 Hz): what changes again so soon after a change may keep its ctime.
const TICK: Duration = Duration::from_millis(20);

/// How entries of a new copy got their inodes, by their numbers.
#[derive(Debug, Default)]
pub(in crate::copies) struct Bits {
    fresh: Vec<u64>,
    shared: Vec<u64>,
}

/// How an entry got its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::copies) enum Made {
    /// It has none of its own: a directory, a socket, a name of an inode that was there.
    Linked,
    New,
    /// New, with pages of an older file.
    Shared,
}

impl Bits {
    pub(in crate::copies) fn set(&mut self, index: u64, made: Made) {
        match made {
            Made::Linked => {}
            Made::New => put(&mut self.fresh, index),
            Made::Shared => {
                put(&mut self.fresh, index);
                put(&mut self.shared, index);
            }
        }
    }

    pub(in crate::copies) fn is_fresh(&self, index: u64) -> bool {
        get(&self.fresh, index)
    }

    pub(in crate::copies) fn is_shared(&self, index: u64) -> bool {
        get(&self.shared, index)
    }
}

fn place(index: u64) -> (usize, u64) {
    (usize::try_from(index / 64).unwrap_or(usize::MAX), 1 << (index % 64))
}

fn put(bits: &mut Vec<u64>, index: u64) {
    let (word, bit) = place(index);
    if bits.len() <= word {
        bits.resize(word + 1, 0);
    }
    bits[word] |= bit;
}

fn get(bits: &[u64], index: u64) -> bool {
    let (word, bit) = place(index);
    bits.get(word).is_some_and(|bits| bits & bit != 0)
}

/// What came of reading a file.
#[derive(Debug)]
pub(in crate::copies) enum Read {
    Whole(Box<Whole>),
    /// It is not there any more, or is no file.
    Vanished,
    /// It cannot be read.
    Failed(io::Error),
}

#[derive(Debug)]
pub(in crate::copies) struct Whole {
    pub(in crate::copies) entry: Entry,
    pub(in crate::copies) written: u64,
    pub(in crate::copies) made: Made,
    pub(in crate::copies) not_kept: Vec<NotKept>,
}

/// Why nothing more is read.
#[derive(Debug)]
pub(in crate::copies) enum Stop {
    Target(io::Error),
    Cancelled,
}

#[derive(Debug)]
pub(in crate::copies) struct Fresh {
    buffer: Scratch,
    reflinks: bool,
    /// A service is to hold still meanwhile.
    quiet: bool,
}

/// A file of the sources that is open, and what it was then.
struct Opened {
    file: File,
    entry: Entry,
}

impl Fresh {
    pub(in crate::copies) fn new(reflinks: bool, quiet: bool) -> io::Result<Self> {
        Ok(Self { buffer: file::buffer()?, reflinks, quiet })
    }

    /// Whether a new version of this file can have pages of the older one.
    pub(in crate::copies) fn can_share(&self, before: &Entry) -> bool {
        self.reflinks && matches!(&before.kind, Kind::File { blocks: Some(_), .. })
    }

    /// Whether a service should hold still and does not.
    pub(in crate::copies) fn is_disturbed(&self, conduct: &dyn Conduct) -> bool {
        self.quiet && !conduct.still_quiet()
    }

    /// The entry with the hash of what is in the sources; `None` when that cannot be told, because it changes or cannot be read.
    pub(in crate::copies) fn hashed(
        &mut self,
        wanted: &Entry,
        parent: &Dir,
        conduct: &mut dyn Conduct,
    ) -> Option<Entry> {
        let opened = open(wanted, parent).ok()??;
        let mut entry = opened.entry;
        if is_of_this_tick(entry.source.ctime) {
            return None;
        }
        let mut pace = |bytes| paced(conduct, bytes);
        let mut means = Means { buffer: &mut self.buffer, pace: &mut pace };
        let hashed = file::hash(&opened.file, &mut means).ok()?;
        let after = stat::of(opened.file.as_fd()).ok()?;
        let still = after.ctime == entry.source.ctime && after.size == hashed.size;
        let holes = match &entry.kind {
            Kind::File { holes, .. } => holes.clone(),
            Kind::Dir | Kind::Link { .. } | Kind::Fifo | Kind::Socket | Kind::Char { .. } | Kind::Block { .. } => {
                return None;
            }
        };
        entry.kind = Kind::File { size: hashed.size, hash: hashed.hash, holes, blocks: hashed.blocks };
        still.then_some(entry)
    }

    /// Reads it into a file of its name in `into`, and gives that all that it has beside its content.
    pub(in crate::copies) fn read(
        &mut self,
        (wanted, parent): (&Entry, &Dir),
        older: Option<(&Entry, &File)>,
        into: &Dir,
        conduct: &mut dyn Conduct,
    ) -> Result<Read, Stop> {
        let mut failed = None;
        for left in (0..TRIES).rev() {
            let opened = match open(wanted, parent) {
                Ok(Some(opened)) => opened,
                Ok(None) => return Ok(Read::Vanished),
                Err(error) if is_of_the_disk(&error) && left > 0 => {
                    failed = Some(error);
                    continue;
                }
                Err(error) => return Ok(Read::Failed(error)),
            };
            match self.once(opened, older, into, conduct) {
                Ok(whole) if whole.entry.marks.unstable && left > 0 => {
                    into.remove_file(wanted.name()).map_err(Stop::Target)?;
                }
                Ok(whole) => return Ok(Read::Whole(Box::new(whole))),
                Err(FileError::Write { source, .. }) => return Err(Stop::Target(source)),
                Err(FileError::Stopped(_)) => return Err(Stop::Cancelled),
                Err(FileError::NotAFile) => {
                    into.remove_file(wanted.name()).map_err(Stop::Target)?;
                    return Ok(Read::Vanished);
                }
                Err(FileError::Stat(source) | FileError::Read { source, .. }) => {
                    into.remove_file(wanted.name()).map_err(Stop::Target)?;
                    failed = Some(source);
                }
            }
        }
        Ok(Read::Failed(failed.unwrap_or_else(|| Errno::EIO.into())))
    }

    fn once(
        &mut self,
        opened: Opened,
        older: Option<(&Entry, &File)>,
        into: &Dir,
        conduct: &mut dyn Conduct,
    ) -> Result<Whole, FileError> {
        let write = |source| FileError::Write { offset: 0, source };
        let Opened { file: source, mut entry } = opened;
        // Nobody gets to it: the directories above it are still closed to others.
        let target = into.create(entry.name(), entry.mode & 0o777 | 0o600).map_err(write)?;
        let mut pace = |bytes| paced(conduct, bytes);
        let mut means = Means { buffer: &mut self.buffer, pace: &mut pace };
        let patched = match older {
            Some((Entry { kind: Kind::File { blocks: Some(blocks), .. }, .. }, older)) => {
                file::patch(&source, older, blocks, &target, &mut means)?
            }
            Some(_) | None => None,
        };
        let (copied, made) = match patched {
            Some(patched) => (patched, Made::Shared),
            None => (file::copy(&source, &target, &mut means)?, Made::New),
        };
        let attributes = std::mem::take(&mut entry.attributes);
        if let Some(settled) = Entry::of(std::mem::take(&mut entry.path), &copied.source) {
            entry = settled;
        }
        entry.attributes = attributes;
        entry.kind = Kind::File { size: copied.size, hash: copied.hash, holes: copied.holes, blocks: copied.blocks };
        entry.marks.growing = copied.changed == Change::Growing;
        entry.marks.unstable = copied.changed == Change::Changed;
        let not_kept = dress_open(&target, into, &entry).map_err(write)?;
        Ok(Whole { entry, written: copied.written, made, not_kept })
    }
}

/// As fast as the plan wants it, until the job is cancelled.
pub(in crate::copies) fn paced(conduct: &mut dyn Conduct, bytes: u64) -> io::Result<()> {
    conduct.pace(bytes);
    if conduct.is_cancelled() { Err(Errno::ECANCELED.into()) } else { Ok(()) }
}

/// `None`: it is not there any more, or is no file.
fn open(wanted: &Entry, parent: &Dir) -> io::Result<Option<Opened>> {
    let file = match parent.read(wanted.name()) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // A link, or the node of a device that is not there.
        Err(error) if [Errno::ELOOP, Errno::ENXIO].map(|errno| Some(errno as i32)).contains(&error.raw_os_error()) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let now = stat::of(file.as_fd())?;
    if now.kind() != FileType::File {
        return Ok(None);
    }
    let Some(mut entry) = Entry::of(wanted.path.clone(), &now) else { return Ok(None) };
    entry.attributes = attributes::list(&file)?;
    Ok(Some(Opened { file, entry }))
}

/// What changed a moment ago may change once more without its ctime telling.
fn is_of_this_tick(ctime: Stamp) -> bool {
    let changed = Duration::new(u64::try_from(ctime.s).unwrap_or(0), ctime.ns);
    let now = Duration::from_nanos(clocks().wall_ns);
    now.checked_sub(changed).is_none_or(|age| age < TICK)
}

fn is_of_the_disk(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EIO as i32)
}
