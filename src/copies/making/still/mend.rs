//! Brings a draft up to date: what differs is replaced in its tree, and its manifest is written anew beside the former one.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::iter::Peekable;
use std::path::PathBuf;
use std::sync::Arc;

use super::look::{Difference, GROUPS_MAX, Now, Was};
use crate::copies::conduct::Conduct;
use crate::copies::failure::{cancelled, is_missing, on_target};
use crate::copies::findings::Findings;
use crate::copies::format::entry::{Entry, Kind, order};
use crate::copies::format::layout::below_root;
use crate::copies::format::manifest::{ManifestError, Writer};
use crate::copies::making::build::{Broken, Built, Tally, is_no_more_names, make_node};
use crate::copies::making::cursor::{Cursor, is_at_or_below, parent};
use crate::copies::making::file::{self, FileError, Means, NotKept, dress, dress_open};
use crate::copies::making::fresh::{Bits, Fresh, Made, Read, Stop, Whole, paced};
use crate::engine::copies::order::{Failure, FindingKind, Phase, Progress};
use crate::sys::dir::{Dir, Rename};
use crate::sys::scratch::Scratch;

/// Beside the data of the draft: what is being replaced.
pub(super) const REPLACED: &str = "replaced";

pub(super) struct Mend<'a> {
    /// Of the copy that is being made.
    pub(super) dir: &'a Dir,
    /// Below its data.
    pub(super) newer: Cursor,
    pub(super) sources: Sources,
    pub(super) fresh: Fresh,
    pub(super) buffer: Scratch,
    pub(super) manifest: Writer<File>,
    pub(super) former: &'a Built,
    pub(super) conduct: &'a mut dyn Conduct,
    pub(super) findings: &'a mut Findings,
    pub(super) shown: String,
    /// Told after each file that was read and not cloned.
    pub(super) read_live: &'a mut dyn FnMut(&mut dyn Conduct),
    pub(super) state: State,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) bits: Bits,
    pub(super) tally: Tally,
    pub(super) progress: Progress,
    open: Vec<Open>,
    /// Names of inodes that have several.
    groups: HashMap<(u64, u64), Entry>,
}

/// A directory on the way to where the walk is.
#[derive(Debug)]
struct Open {
    entry: Entry,
    /// Its times are no longer those of the source.
    touched: bool,
}

/// An entry of the draft, and its number there.
type Before = (u64, Entry);

impl Mend<'_> {
    pub(super) fn run(
        mut self,
        former: impl Iterator<Item = Result<Entry, ManifestError>>,
        differences: Vec<Difference>,
    ) -> Result<Built, Broken> {
        self.state.tally = Tally { entries: 0, stale: 0, unstable: 0, ..self.former.tally };
        self.state.tally.differing += differences.len() as u64;
        for gone in differences.iter().rev() {
            self.take_away(gone)?;
        }
        let mut differences = differences.into_iter().peekable();
        for (index, before) in (0..).zip(former) {
            let before = before.map_err(Broken::Older)?;
            self.before(&before.path, &mut differences)?;
            match differences.next_if(|next| next.entry.path == before.path) {
                Some(difference) => self.replace(difference, Some((index, before)))?,
                None => self.stay(index, before)?,
            }
        }
        for difference in differences {
            self.replace(difference, None)?;
        }
        self.leave(None)?;
        let summary = self.manifest.finish();
        let summary = summary.map_err(|error| on_target(format!("{}/MANIFEST", self.shown), &error))?;
        Ok(Built { summary, fresh: self.state.bits, tally: self.state.tally })
    }

    /// Whatever is new before this path.
    fn before(
        &mut self,
        path: &[u8],
        differences: &mut Peekable<impl Iterator<Item = Difference>>,
    ) -> Result<(), Failure> {
        while let Some(difference) = differences.next_if(|next| order(&next.entry.path, path).is_lt()) {
            self.replace(difference, None)?;
        }
        Ok(())
    }

    /// What is not there any more, and directories that are none any more; what lay in one has been taken away before it.
    fn take_away(&mut self, difference: &Difference) -> Result<(), Failure> {
        let path = &difference.entry.path;
        let is_directory = matches!(difference.entry.kind, Kind::Dir);
        let goes = match (&difference.now, difference.was) {
            (_, Was::Nothing) | (Now::Unknown, _) => false,
            (Now::Gone, Was::Directory | Was::Inode) => true,
            (Now::Plain | Now::Clone(_) | Now::Live, Was::Directory) => !is_directory,
            // In its turn.
            (Now::Plain | Now::Clone(_) | Now::Live, Was::Inode) => false,
        };
        if !goes {
            return Ok(());
        }
        let removed = self.newer.at(parent(path)).and_then(|dir| match difference.was {
            Was::Directory => dir.remove_dir(difference.entry.name()),
            Was::Inode | Was::Nothing => dir.remove_file(difference.entry.name()),
        });
        match removed {
            Err(error) if is_missing(&error) => Ok(()),
            removed => removed.map_err(|error| self.failed(path, &error)),
        }
    }

    /// As it is in the draft.
    fn stay(&mut self, index: u64, entry: Entry) -> Result<(), Failure> {
        self.leave(Some(&entry.path))?;
        let made = match (self.former.fresh.is_fresh(index), self.former.fresh.is_shared(index)) {
            (_, true) => Made::Shared,
            (true, false) => Made::New,
            (false, false) => Made::Linked,
        };
        if entry.kind == Kind::Dir {
            self.state.open.push(Open { entry: entry.clone(), touched: false });
        }
        self.push(&entry, made)?;
        // Another name of it may follow that differs. What could not be looked at may be another inode by now.
        if !entry.marks.stale {
            self.remember(entry);
        }
        Ok(())
    }

    fn replace(&mut self, difference: Difference, before: Option<Before>) -> Result<(), Failure> {
        if self.conduct.is_cancelled() {
            return Err(cancelled());
        }
        let Difference { entry, was, now } = difference;
        let before = match (&now, before) {
            (Now::Unknown, Some((index, mut before))) => {
                before.marks.stale = true;
                return self.stay(index, before);
            }
            (_, before) => before,
        };
        self.leave(Some(&entry.path))?;
        if let Some(above) = self.state.open.last_mut() {
            above.touched = true;
        }
        match (now, &entry.kind) {
            (Now::Gone | Now::Unknown, _) => Ok(()),
            (Now::Plain | Now::Live | Now::Clone(_), Kind::Dir) => self.directory(entry, was),
            (Now::Clone(clone), _) => self.file(entry, before, Some(clone)),
            (Now::Live, _) => self.file(entry, before, None),
            (Now::Plain, Kind::Socket) => {
                self.set_aside(&entry, was == Was::Inode).and_then(|_| self.push(&entry, Made::Linked))
            }
            (Now::Plain, _) => self.node(entry, was),
        }
    }

    fn directory(&mut self, entry: Entry, was: Was) -> Result<(), Failure> {
        if was != Was::Directory {
            self.set_aside(&entry, was == Was::Inode)?;
            let made = self.newer.at(parent(&entry.path)).and_then(|dir| dir.make_dir(entry.name(), 0o700));
            made.map_err(|error| self.failed(&entry.path, &error))?;
        }
        self.push(&entry, Made::Linked)?;
        self.state.open.push(Open { entry, touched: true });
        Ok(())
    }

    fn node(&mut self, entry: Entry, was: Was) -> Result<(), Failure> {
        self.set_aside(&entry, was == Was::Inode)?;
        if self.joined(&entry)? {
            return Ok(());
        }
        let made = self.newer.at(parent(&entry.path)).and_then(|dir| make_node(&dir, &entry));
        made.map_err(|error| self.failed(&entry.path, &error))?;
        self.dress(&entry)?;
        self.keep(entry, Made::New)
    }

    /// `clone`: where its content is; else it is read at the source.
    fn file(&mut self, entry: Entry, before: Option<Before>, clone: Option<File>) -> Result<(), Failure> {
        let was_there = before.as_ref().is_some_and(|(_, before)| !matches!(before.kind, Kind::Dir | Kind::Socket));
        let aside = self.set_aside(&entry, was_there)?;
        let is_live = clone.is_none();
        let made = match self.joined(&entry)? {
            true => Ok(()),
            false => self.make_file(entry, before, aside, clone),
        };
        if is_live {
            (self.read_live)(self.conduct);
        }
        made
    }

    fn make_file(
        &mut self,
        entry: Entry,
        before: Option<Before>,
        aside: Option<File>,
        clone: Option<File>,
    ) -> Result<(), Failure> {
        let is_live = clone.is_none();
        let older = before.as_ref().map(|(_, before)| before).zip(aside.as_ref());
        let older = older.filter(|(before, _)| self.fresh.can_share(before));
        let read = match clone {
            Some(clone) => self.copy(&entry, &clone, older),
            None => self.read(&entry, older),
        };
        let read = read.map_err(|stop| self.stopped(&entry.path, stop))?;
        match read {
            Read::Whole(whole) => self.whole(*whole, is_live),
            Read::Vanished => Ok(()),
            Read::Failed(error) => {
                self.findings.add(self.conduct, FindingKind::Unreadable, &entry.path, error.to_string());
                match before.filter(|_| aside.is_some()) {
                    Some((index, before)) => self.put_back(index, before),
                    None => Ok(()),
                }
            }
        }
    }

    fn whole(&mut self, whole: Whole, is_live: bool) -> Result<(), Failure> {
        let Whole { mut entry, written, made, not_kept } = whole;
        self.state.tally.written_bytes += written;
        entry.marks.unstable |= is_live && self.fresh.is_disturbed(self.conduct);
        if entry.marks.unstable {
            let detail = "it changed each time it was read, or its service did not hold still".to_owned();
            self.findings.add(self.conduct, FindingKind::Unstable, &entry.path, detail);
        }
        self.tell_not_kept(&entry, &not_kept);
        self.keep(entry, made)
    }

    fn read(&mut self, entry: &Entry, older: Option<(&Entry, &File)>) -> Result<Read, Stop> {
        let into = self.newer.at(parent(&entry.path)).map_err(Stop::Target)?;
        match self.sources.parent_of(&entry.path) {
            Ok(parent) => self.fresh.read((entry, &parent), older, &into, self.conduct),
            Err(error) if is_missing(&error) => Ok(Read::Vanished),
            Err(error) => Ok(Read::Failed(error)),
        }
    }

    /// Copies a clone, which nobody changes, with the metadata that its original had.
    fn copy(&mut self, entry: &Entry, clone: &File, older: Option<(&Entry, &File)>) -> Result<Read, Stop> {
        match self.try_copy(entry, clone, older) {
            Ok(whole) => Ok(Read::Whole(Box::new(whole))),
            Err(FileError::Write { source, .. }) => Err(Stop::Target(source)),
            Err(FileError::Stopped(_)) => Err(Stop::Cancelled),
            Err(FileError::NotAFile) => Ok(Read::Vanished),
            Err(FileError::Stat(source) | FileError::Read { source, .. }) => Ok(Read::Failed(source)),
        }
    }

    fn try_copy(&mut self, entry: &Entry, clone: &File, older: Option<(&Entry, &File)>) -> Result<Whole, FileError> {
        let write = |source| FileError::Write { offset: 0, source };
        let mut entry = entry.clone();
        let into = self.newer.at(parent(&entry.path)).map_err(write)?;
        let target = into.create(entry.name(), 0o600).map_err(write)?;
        let conduct = &mut *self.conduct;
        let mut pace = |bytes| paced(conduct, bytes);
        let mut means = Means { buffer: &mut self.buffer, pace: &mut pace };
        let patched = match older {
            Some((Entry { kind: Kind::File { blocks: Some(blocks), .. }, .. }, older)) => {
                file::patch(clone, older, blocks, &target, &mut means)?
            }
            Some(_) | None => None,
        };
        let (copied, made) = match patched {
            Some(patched) => (patched, Made::Shared),
            None => (file::copy(clone, &target, &mut means)?, Made::New),
        };
        entry.kind = Kind::File { size: copied.size, hash: copied.hash, holes: copied.holes, blocks: copied.blocks };
        let not_kept = dress_open(&target, &into, &entry).map_err(write)?;
        Ok(Whole { entry, written: copied.written, made, not_kept })
    }

    /// Takes the name away from what lies in the draft; the file, if it is one, for a new version that shares pages with it.
    fn set_aside(&mut self, entry: &Entry, is_there: bool) -> Result<Option<File>, Failure> {
        if !is_there {
            return Ok(None);
        }
        let aside = OsStr::new(REPLACED);
        // A rename to another name of the same inode would do nothing at all.
        match self.dir.remove_file(aside) {
            Err(error) if !is_missing(&error) => return Err(self.failed(&entry.path, &error)),
            Ok(()) | Err(_) => {}
        }
        let moved = self.newer.at(parent(&entry.path)).and_then(|dir| {
            dir.rename(entry.name(), self.dir, aside, Rename::Replace)?;
            // What is no file is of no use.
            Ok(self.dir.read(aside).ok())
        });
        match moved {
            // What could not be given a name in the draft lies nowhere.
            Err(error) if is_missing(&error) => Ok(None),
            moved => moved.map_err(|error| self.failed(&entry.path, &error)),
        }
    }

    /// What cannot be read now stays as it was.
    fn put_back(&mut self, index: u64, mut before: Entry) -> Result<(), Failure> {
        let put = self
            .newer
            .at(parent(&before.path))
            .and_then(|dir| self.dir.rename(OsStr::new(REPLACED), &dir, before.name(), Rename::Replace));
        put.map_err(|error| self.failed(&before.path, &error))?;
        before.marks.stale = true;
        self.stay(index, before)
    }

    /// Gives the inode of a name that was made here another one, if this is one of its names.
    fn joined(&mut self, entry: &Entry) -> Result<bool, Failure> {
        let Some(first) = entry.link_key().and_then(|key| self.state.groups.get(&key)).cloned() else {
            return Ok(false);
        };
        let from = self.newer.at(parent(&first.path)).map_err(|error| self.failed(&first.path, &error))?;
        let linked = self.newer.at(parent(&entry.path)).and_then(|to| from.link(first.name(), &to, entry.name()));
        match linked {
            Ok(()) => self.push(&Entry { path: entry.path.clone(), ..first }, Made::Linked).map(|()| true),
            Err(error) if is_no_more_names(&error) => Ok(false),
            Err(error) => Err(self.failed(&entry.path, &error)),
        }
    }

    fn keep(&mut self, entry: Entry, made: Made) -> Result<(), Failure> {
        self.push(&entry, made)?;
        self.remember(entry);
        Ok(())
    }

    fn remember(&mut self, entry: Entry) {
        let groups = &mut self.state.groups;
        if let Some(key) = entry.link_key().filter(|_| groups.len() < GROUPS_MAX) {
            groups.insert(key, entry);
        }
    }

    fn push(&mut self, entry: &Entry, made: Made) -> Result<(), Failure> {
        self.manifest.push(entry).map_err(|error| on_target(format!("{}/MANIFEST", self.shown), &error))?;
        let tally = &mut self.state.tally;
        self.state.bits.set(tally.entries, made);
        tally.entries += 1;
        tally.stale += u64::from(entry.marks.stale);
        tally.unstable += u64::from(entry.marks.unstable);
        let progress = &mut self.state.progress;
        if let Kind::File { size, .. } = entry.kind {
            (progress.files, progress.bytes) = (progress.files + 1, progress.bytes + size);
        }
        progress.phase = Phase::Copy;
        self.conduct.progress(*progress);
        Ok(())
    }

    /// Dresses the directories in which something was done and that the walk has left, on its way to `next`.
    fn leave(&mut self, next: Option<&[u8]>) -> Result<(), Failure> {
        let is_left = |open: &mut Open| next.is_none_or(|next| !is_at_or_below(next, &open.entry.path));
        while let Some(open) = self.state.open.pop_if(is_left) {
            if open.touched {
                self.dress(&open.entry)?;
            }
        }
        Ok(())
    }

    fn dress(&mut self, entry: &Entry) -> Result<(), Failure> {
        let dressed = self.newer.at(parent(&entry.path)).and_then(|dir| dress(&dir, entry.name(), entry));
        let not_kept = dressed.map_err(|error| self.failed(&entry.path, &error))?;
        self.tell_not_kept(entry, &not_kept);
        Ok(())
    }

    fn tell_not_kept(&mut self, entry: &Entry, not_kept: &[NotKept]) {
        for what in not_kept {
            let why = std::error::Error::source(what).map(|source| format!(": {source}")).unwrap_or_default();
            self.findings.add(self.conduct, FindingKind::NotKept, &entry.path, format!("{what}{why}"));
        }
    }

    fn stopped(&self, path: &[u8], stop: Stop) -> Failure {
        match stop {
            Stop::Target(error) => self.failed(path, &error),
            Stop::Cancelled => cancelled(),
        }
    }

    fn failed(&self, path: &[u8], error: &io::Error) -> Failure {
        on_target(format!("{}/data/{}", self.shown, String::from_utf8_lossy(path)), error)
    }
}

/// The directories of the sources, by the paths of a manifest.
#[derive(Debug)]
pub(super) struct Sources {
    from: Vec<(Vec<u8>, PathBuf)>,
    /// The one that was asked for last.
    at: Option<(usize, Cursor)>,
}

impl Sources {
    pub(super) fn new(from: &[PathBuf]) -> Self {
        let below = |path: &PathBuf| (below_root(path).as_os_str().as_encoded_bytes().to_vec(), path.clone());
        Self { from: from.iter().map(below).collect(), at: None }
    }

    fn parent_of(&mut self, path: &[u8]) -> io::Result<Arc<Dir>> {
        let place = self.from.iter().position(|(below, _)| is_at_or_below(path, below));
        let (place, (below, source)) = place.map(|place| (place, &self.from[place])).ok_or(io::ErrorKind::NotFound)?;
        if path == below {
            let above = source.parent().ok_or(io::ErrorKind::NotFound)?;
            return Ok(Arc::new(Dir::open(&above.join("."))?));
        }
        let rest = path[below.len()..].strip_prefix(b"/").unwrap_or(&path[below.len()..]);
        let cursor = match self.at.take().filter(|(at, _)| *at == place) {
            Some((_, cursor)) => cursor,
            None => Cursor::new(Dir::open(source)?),
        };
        let (_, cursor) = self.at.insert((place, cursor));
        cursor.at(parent(rest))
    }
}
