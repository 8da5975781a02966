//! Threads that read files and hash them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use super::compare::{Difference, Eyes};
use super::joined::os_name;
use crate::copies::crew::{Crew, Wanted};
use crate::copies::format::entry::{Entry, Hash, Kind};
use crate::sys::attributes::{Inode, or_none};
use crate::sys::dir::{Dir, FileType, Stat};
use crate::sys::direct::use_cache;
use crate::sys::page_cache::drop_cache;

/// Threads that read: as many questions a disk is asked at once. Each file is one or two.
const READERS: usize = 24;
/// What has been given to them and not been taken back.
const IN_FLIGHT_MAX: usize = 128;
/// Read in one go. A file that fits is read past the page cache.
const BUFFER_BYTES: usize = 128 << 10;
/// What reads past the page cache must be aligned to, in memory and on any disk.
const ALIGNMENT: usize = 4096;
/// What is kept of a file in the cache while it is read.
const CACHED_BYTES_MAX: u64 = 16 << 20;

/// Something to be looked at.
#[derive(Debug)]
pub(in crate::copies) struct Job {
    pub(in crate::copies) entry: Entry,
    pub(in crate::copies) dir: Arc<Dir>,
    pub(in crate::copies) stat: Stat,
    /// Found so far; the reader adds to it.
    pub(in crate::copies) differences: Vec<Difference>,
    pub(in crate::copies) content: Reading,
    /// Whether the file it was copied from is read too.
    pub(in crate::copies) source: bool,
}

/// Whether the content is read, from the disk and not from any cache.
#[derive(Debug)]
pub(in crate::copies) enum Reading {
    Wanted,
    /// It has been read by whoever asks.
    Done(io::Result<Hash>),
    No,
}

/// What became of it.
#[derive(Debug)]
pub(in crate::copies) struct Read {
    pub(in crate::copies) job: Job,
    pub(in crate::copies) content: Content,
    /// The source has other content although nobody has changed it.
    pub(in crate::copies) is_source_rotten: bool,
}

#[derive(Debug)]
pub(in crate::copies) enum Content {
    /// It was not asked for, or the entry has none.
    NotRead,
    Good,
    Other,
    Unreadable(io::Error),
}

#[derive(Debug)]
pub(in crate::copies) struct Readers(Crew<Job, Read>);

impl Readers {
    pub(in crate::copies) fn start(eyes: Eyes) -> io::Result<Self> {
        let hire = |wanted: Wanted| {
            let mut room = vec![0; BUFFER_BYTES + ALIGNMENT];
            let from = room.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
            Ok(move |job| look(eyes, job, &mut room[from..from + BUFFER_BYTES], &|| wanted.is_so()))
        };
        Crew::start("reader", READERS, IN_FLIGHT_MAX, hire).map(Self)
    }

    /// As of [`Crew`].
    pub(in crate::copies) fn hand(&mut self, job: Job) -> Option<Read> {
        self.0.hand(job)
    }

    pub(in crate::copies) fn ready(&mut self) -> Option<Read> {
        self.0.ready()
    }

    pub(in crate::copies) fn wait(&mut self) -> Option<Read> {
        self.0.wait()
    }
}

fn look(eyes: Eyes, mut job: Job, buffer: &mut [u8], goes_on: &dyn Fn() -> bool) -> Read {
    let name = os_name(&job.entry.path);
    let of_file = if let Kind::File { hash, size, .. } = &job.entry.kind { Some((*hash, *size)) } else { None };
    let content = std::mem::replace(&mut job.content, Reading::No);
    // Attributes are asked for by the open file where there is one: that saves looking its name up again.
    let opened = match (&content, of_file) {
        (Reading::Wanted, Some((_, size))) => Some(open(&job.dir, &name, size)),
        (Reading::Wanted | Reading::Done(_) | Reading::No, _) => None,
    };
    let rest = match &opened {
        Some(Ok(Opened { file, .. })) => {
            or_none(Inode::open(file).attributes()).map(|is| Eyes::attributes(&job.entry, is))
        }
        Some(Err(_)) | None => eyes.rest(&job.entry, &job.dir, &name),
    };
    match rest {
        Ok(differences) => job.differences.extend(differences),
        Err(error) => return Read { job, content: Content::Unreadable(error), is_source_rotten: false },
    }
    let Some((hash, size)) = of_file else {
        return Read { job, content: Content::NotRead, is_source_rotten: false };
    };
    let mut hashed = |opened: io::Result<Opened>| {
        let Opened { file, is_direct } = opened?;
        if is_direct && let Some(hash) = hash_in_one(&file, size, buffer)? {
            return Ok(hash);
        }
        hash_from_disk(&file, buffer, &mut |_| goes_on())
    };
    let content = match (opened, content) {
        (Some(file), _) => Content::of(hashed(file), &hash),
        (None, Reading::Done(result)) => Content::of(result, &hash),
        (None, Reading::Wanted | Reading::No) => Content::NotRead,
    };
    let is_source_rotten =
        job.source && matches!(content, Content::Good) && is_source_rotten(&job.entry, &hash, &mut hashed);
    Read { job, content, is_source_rotten }
}

#[derive(Debug)]
struct Opened {
    file: File,
    /// It is read past the page cache.
    is_direct: bool,
}

/// What fits into the buffer is read past the page cache, if its file system can do that.
fn open(dir: &Dir, name: &OsStr, size: u64) -> io::Result<Opened> {
    if size <= BUFFER_BYTES as u64
        && let Some(file) = dir.read_direct(name)?
    {
        return Ok(Opened { file, is_direct: true });
    }
    dir.read(name).map(|file| Opened { file, is_direct: false })
}

/// Of a file of this size that fits into the buffer: in one read, as most of the time that many of these take goes into asking. `None`: it is to be read otherwise, and
/// can be by now.
fn hash_in_one(file: &File, size: u64, buffer: &mut [u8]) -> io::Result<Option<Hash>> {
    // A file system that cannot do without its cache does not say so.
    drop_cache(file, 0, 0)?;
    match file.read_at(buffer, 0) {
        Ok(count) if count as u64 == size => return Ok(Some(*blake3::hash(&buffer[..count]).as_bytes())),
        Ok(_) => {}
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Interrupted) => {}
        Err(error) => return Err(error),
    }
    use_cache(file)?;
    Ok(None)
}

impl Content {
    fn of(hash: io::Result<Hash>, wanted: &Hash) -> Self {
        match hash {
            Ok(hash) if hash == *wanted => Self::Good,
            Ok(_) => Self::Other,
            Err(error) => Self::Unreadable(error),
        }
    }
}

/// Pages that are in the cache say nothing about the disk, so they go first; and again afterwards, because nobody else needs them. `goes_on` is told
/// how many bytes have been read and may end it, which is an error.
pub(in crate::copies) fn hash_from_disk(
    mut file: &File,
    buffer: &mut [u8],
    goes_on: &mut dyn FnMut(u64) -> bool,
) -> io::Result<Hash> {
    drop_cache(file, 0, 0)?;
    let mut hasher = blake3::Hasher::new();
    let (mut at, mut dropped) = (0, 0);
    loop {
        let count = match file.read(buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..count]);
        at += count as u64;
        if !goes_on(count as u64) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if at - dropped >= CACHED_BYTES_MAX {
            drop_cache(file, dropped, at - dropped)?;
            dropped = at;
        }
    }
    drop_cache(file, 0, 0)?;
    Ok(*hasher.finalize().as_bytes())
}

/// Whether a file that has not been changed since it was copied, as far as its inode tells, has other content. Whoever changes the content changes the
/// inode's times, and nobody can set `ctime`.
fn is_source_rotten(
    entry: &Entry,
    wanted: &Hash,
    hashed: &mut dyn FnMut(io::Result<Opened>) -> io::Result<Hash>,
) -> bool {
    let marks = &entry.marks;
    if marks.unstable || marks.growing || marks.live_db || marks.stale {
        return false;
    }
    let path = Path::new("/").join(OsStr::from_bytes(&entry.path));
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return false };
    let Ok(dir) = Dir::open(parent) else { return false };
    let is_unchanged = |stat: &Stat| {
        let origin = &entry.source;
        stat.kind() == FileType::File
            && (stat.ino, stat.ctime, stat.mtime) == (origin.ino, origin.ctime, entry.mtime)
            && matches!(entry.kind, Kind::File { size, .. } if size == stat.size)
    };
    if !dir.stat(name).is_ok_and(|stat| is_unchanged(&stat)) {
        return false;
    }
    let Kind::File { size, .. } = entry.kind else { return false };
    let Ok(hash) = hashed(open(&dir, name, size)) else { return false };
    hash != *wanted && dir.stat(name).is_ok_and(|stat| is_unchanged(&stat))
}
