//! Four threads that read files and hash them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use super::compare::{Difference, Eyes};
use super::joined::os_name;
use crate::copies::crew::{Crew, Wanted};
use crate::copies::format::entry::{Entry, Hash, Kind};
use crate::sys::dir::{Dir, FileType, Stat};
use crate::sys::page_cache::drop_cache;

/// Threads that read.
const READERS: usize = 4;
/// What has been given to them and not been taken back.
const IN_FLIGHT_MAX: usize = 64;
/// Read in one go.
const BUFFER_BYTES: usize = 128 << 10;
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
            let mut buffer = vec![0; BUFFER_BYTES];
            Ok(move |job| look(eyes, job, &mut buffer, &|| wanted.is_so()))
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
    match eyes.rest(&job.entry, &job.dir, &name) {
        Ok(differences) => job.differences.extend(differences),
        Err(error) => return Read { job, content: Content::Unreadable(error), is_source_rotten: false },
    }
    let Kind::File { hash, .. } = job.entry.kind else {
        return Read { job, content: Content::NotRead, is_source_rotten: false };
    };
    let mut hashed = |file: io::Result<File>| hash_from_disk(&file?, buffer, &mut |_| goes_on());
    let content = match job.content {
        Reading::Wanted => Content::of(hashed(job.dir.read(&name)), &hash),
        Reading::Done(result) => Content::of(result, &hash),
        Reading::No => Content::NotRead,
    };
    job.content = Reading::No;
    let is_source_rotten =
        job.source && matches!(content, Content::Good) && is_source_rotten(&job.entry, &hash, &mut hashed);
    Read { job, content, is_source_rotten }
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
    hashed: &mut dyn FnMut(io::Result<File>) -> io::Result<Hash>,
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
    let Ok(hash) = hashed(dir.read(name)) else { return false };
    hash != *wanted && dir.stat(name).is_ok_and(|stat| is_unchanged(&stat))
}
