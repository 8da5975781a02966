//! Reading a new copy again from the disk, before it is one.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use super::build::Built;
use super::cursor::{Cursor, name, parent};
use super::file::{self, FileError, Means};
use super::fresh::paced;
use crate::copies::conduct::Conduct;
use crate::copies::crew::{Crew, Waited, Wanted};
use crate::copies::failure::{cancelled, on_target};
use crate::copies::format::entry::{Hash, Kind};
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

/// Threads that read: as for a verification.
const READERS: usize = 4;
/// Batches that have been given to them and not been taken back.
const IN_FLIGHT_MAX: usize = 8;
/// Of a batch: to hand over each small file by itself costs as much as to read it.
const BATCH_FILES_MAX: usize = 16;
const BATCH_BYTES_MAX: u64 = 1 << 20;
/// With a limit on the bandwidth, files of this size are not left to the readers, which know nothing of it.
const SLOWLY_BYTES: u64 = 8 << 20;
/// A cancelled job is noticed so soon while long files are read.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A file to be read again.
#[derive(Debug)]
struct Job {
    dir: Arc<Dir>,
    path: Vec<u8>,
    size: u64,
    hash: Hash,
}

/// Files and bytes that were read.
type Answer = Result<(u64, u64), Failed>;

/// What is wanted of it.
#[derive(Clone, Copy, Debug)]
pub(in crate::copies) struct Wish {
    pub(in crate::copies) which: ReadBack,
    /// The plan has a limit on the bandwidth.
    pub(in crate::copies) is_paced: bool,
}

/// Compares what was written with its manifest. What was linked was compared when it was written, and is read again by the scrub.
pub(in crate::copies) fn read_back(
    copy: &Dir,
    built: &Built,
    wish: Wish,
    conduct: &mut dyn Conduct,
) -> Result<(), Failed> {
    let failed = |error: io::Error| Failed::new(MANIFEST, error);
    let manifest = copy.read(OsStr::new(MANIFEST)).map_err(failed)?;
    drop_cache(&manifest, 0, 0).map_err(failed)?;
    let mut reader = Reader::new(manifest);
    let mut cursor = Cursor::new(copy.sub(DATA.as_ref()).map_err(failed)?);
    let mut eyes = Eyes::new(wish, conduct).map_err(failed)?;
    let mut index = 0;
    for entry in reader.by_ref() {
        let entry = entry.map_err(|error| failed(io::Error::other(error)))?;
        let is_fresh = built.fresh.is_fresh(index);
        index += 1;
        let Kind::File { size, hash, .. } = entry.kind else { continue };
        let wanted = match wish.which {
            ReadBack::All => true,
            ReadBack::Written => is_fresh,
            // A clone of an older file has whatever was wrong with that.
            ReadBack::None => is_fresh && built.fresh.is_shared(index - 1),
        };
        if wanted {
            let dir = cursor.at(parent(&entry.path)).map_err(|error| Failed::new(below(&entry.path), error))?;
            eyes.look(Job { dir, path: entry.path, size, hash })?;
        }
    }
    eyes.rest()?;
    match reader.summary() {
        Some(summary) if summary.hash == built.summary.hash => Ok(()),
        _ => Err(failed(io::Error::other("it is not what was written"))),
    }
}

struct Eyes<'a> {
    is_paced: bool,
    /// `None`: no thread is to be had, so everything takes longer.
    crew: Option<Crew<Vec<Job>, Answer>>,
    batch: Vec<Job>,
    batch_bytes: u64,
    buffer: Scratch,
    progress: Progress,
    conduct: &'a mut dyn Conduct,
}

impl<'a> Eyes<'a> {
    fn new(wish: Wish, conduct: &'a mut dyn Conduct) -> io::Result<Self> {
        let hire = |wanted: Wanted| {
            let mut buffer = file::buffer()?;
            Ok(move |batch: Vec<Job>| {
                let mut pace = |_| if wanted.is_so() { Ok(()) } else { Err(Errno::ECANCELED.into()) };
                for job in &batch {
                    check(job, &mut Means { buffer: &mut buffer, pace: &mut pace })?;
                }
                Ok((batch.len() as u64, batch.iter().map(|job| job.size).sum()))
            })
        };
        let crew = Crew::start("reader", READERS, IN_FLIGHT_MAX, hire).ok();
        let progress = Progress { phase: Phase::ReadBack, ..Progress::default() };
        Ok(Self {
            is_paced: wish.is_paced,
            crew,
            batch: Vec::new(),
            batch_bytes: 0,
            buffer: file::buffer()?,
            progress,
            conduct,
        })
    }

    fn look(&mut self, job: Job) -> Result<(), Failed> {
        if self.conduct.is_cancelled() {
            return Err(Failed::Cancelled);
        }
        if self.crew.is_none() || (self.is_paced && job.size >= SLOWLY_BYTES) {
            let mut pace = |bytes| paced(&mut *self.conduct, bytes);
            check(&job, &mut Means { buffer: &mut self.buffer, pace: &mut pace })?;
            return self.count(Ok((1, job.size)));
        }
        self.conduct.pace(job.size);
        self.batch_bytes += job.size;
        self.batch.push(job);
        if self.batch.len() >= BATCH_FILES_MAX || self.batch_bytes >= BATCH_BYTES_MAX { self.hand() } else { Ok(()) }
    }

    fn hand(&mut self) -> Result<(), Failed> {
        while self.crew.as_ref().is_some_and(Crew::is_full) {
            self.wait()?;
        }
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        match self.crew.as_mut().and_then(|crew| crew.hand(batch)) {
            Some(answer) => self.count(answer),
            None => Ok(()),
        }
    }

    fn rest(&mut self) -> Result<(), Failed> {
        self.hand()?;
        while self.wait()? {}
        Ok(())
    }

    /// False: there is nothing to wait for.
    fn wait(&mut self) -> Result<bool, Failed> {
        let Some(crew) = &mut self.crew else { return Ok(false) };
        match crew.wait_for(LOOK_EVERY) {
            Waited::Done(answer) => self.count(answer).map(|()| true),
            Waited::NotYet if self.conduct.is_cancelled() => Err(Failed::Cancelled),
            Waited::NotYet => Ok(true),
            Waited::Idle => Ok(false),
        }
    }

    fn count(&mut self, answer: Answer) -> Result<(), Failed> {
        let (files, bytes) = answer?;
        self.progress.files += files;
        self.progress.bytes += bytes;
        self.conduct.progress(self.progress);
        Ok(())
    }
}

fn below(path: &[u8]) -> PathBuf {
    Path::new(DATA).join(OsStr::from_bytes(path))
}

/// Pages that are in the cache say nothing about the disk, so they go first.
fn check(job: &Job, means: &mut Means<'_>) -> Result<(), Failed> {
    let failed = |error: io::Error| Failed::new(below(&job.path), error);
    let file = job.dir.read(name(&job.path)).map_err(failed)?;
    drop_cache(&file, 0, 0).map_err(failed)?;
    let found = match file::hash(&file, means) {
        Ok(found) => found,
        Err(FileError::Stopped(_)) => return Err(Failed::Cancelled),
        Err(FileError::Read { source, .. } | FileError::Stat(source)) => return Err(failed(source)),
        Err(error @ (FileError::NotAFile | FileError::Write { .. })) => return Err(failed(io::Error::other(error))),
    };
    if (found.size, found.hash) == (job.size, job.hash) {
        Ok(())
    } else {
        Err(failed(io::Error::other("it reads otherwise than it was written")))
    }
}
