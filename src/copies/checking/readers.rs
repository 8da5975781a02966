//! Four threads that read files and hash them: with cold caches a disk answers several questions at once sooner than one after the other, also on
//! two processors.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::compare::{Difference, Eyes};
use super::joined::os_name;
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
pub(in crate::copies) struct Readers {
    /// `None` at the end.
    jobs: Option<Sender<Job>>,
    read: Receiver<Read>,
    in_flight: usize,
    threads: Vec<JoinHandle<()>>,
    /// Nobody wants the results any more.
    is_over: Arc<AtomicBool>,
}

impl Readers {
    pub(in crate::copies) fn start(eyes: Eyes) -> io::Result<Self> {
        let (jobs, taken) = bounded::<Job>(IN_FLIGHT_MAX);
        let (done, read) = bounded(IN_FLIGHT_MAX);
        let is_over = Arc::new(AtomicBool::new(false));
        let mut readers =
            Self { jobs: Some(jobs), read, in_flight: 0, threads: Vec::new(), is_over: Arc::clone(&is_over) };
        for _ in 0..READERS {
            let (taken, done, is_over) = (taken.clone(), done.clone(), Arc::clone(&is_over));
            let thread = thread::Builder::new().name("reader".to_owned()).spawn(move || {
                let mut buffer = vec![0; BUFFER_BYTES];
                for job in taken {
                    let read = look(eyes, job, &mut buffer, &|| !is_over.load(Ordering::Relaxed));
                    if done.send(read).is_err() {
                        return;
                    }
                }
            })?;
            readers.threads.push(thread);
        }
        Ok(readers)
    }

    /// Hands one over. While all hands are full, one that is ready is taken back first, so that neither queue ever blocks both sides.
    pub(in crate::copies) fn hand(&mut self, job: Job) -> Option<Read> {
        let ready = if self.in_flight >= IN_FLIGHT_MAX { self.wait() } else { self.ready() };
        if let Some(jobs) = &self.jobs
            && jobs.send(job).is_ok()
        {
            self.in_flight += 1;
        }
        ready
    }

    /// One that is ready; does not wait.
    pub(in crate::copies) fn ready(&mut self) -> Option<Read> {
        let read = self.read.try_recv().ok()?;
        self.in_flight -= 1;
        Some(read)
    }

    /// The next; `None`: none is under way.
    pub(in crate::copies) fn wait(&mut self) -> Option<Read> {
        if self.in_flight == 0 {
            return None;
        }
        let read = self.read.recv().ok()?;
        self.in_flight -= 1;
        Some(read)
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.jobs = None;
        while self.wait().is_some() {}
        for thread in self.threads.drain(..) {
            // A reader that panicked has said so already.
            let _ = thread.join();
        }
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
