//! Building the tree of a copy in `work/`: whatever has not changed is linked from the older copy, the rest is read from the sources.
//!
//! A copy is never written to once it is committed, so an inode may belong to many of them, and must then be right for each: content, owner, mode,
//! times and attributes.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;

use nix::errno::Errno;

use super::ahead::Ahead;
use super::cursor::{Cursor, is_at_or_below, name, parent};
use super::databases::{Databases, Guard};
use super::file::{NotKept, dress};
use super::fresh::{Bits, Fresh, Made, Read, Stop, Whole};
use super::merge::{Merge, Step};
use super::moved::Moved;
use super::same::{alike, learn_attributes, same_way, untouched};
use super::scan::{Found, Trouble};
use crate::copies::conduct::Conduct;
use crate::copies::failure::{cancelled, is_missing, on_target};
use crate::copies::findings::Findings;
use crate::copies::format::entry::{Entry, Kind};
use crate::copies::format::manifest::{ManifestError, Summary, Writer};
use crate::engine::copies::order::{Failure, FindingKind, Phase, Progress};
use crate::sys::dir::FileType;

/// Inodes whose other names are still to come; of more, each name becomes a file of its own.
pub(in crate::copies) const GROUPS_MAX: usize = 50_000;
/// Of what is only known from an older copy.
const NAMES_UNKNOWN: u64 = u64::MAX;
/// Entries between two reports.
const REPORT_ENTRIES: u64 = 256;

/// What came of it.
#[derive(Debug)]
pub(in crate::copies) struct Built {
    pub(in crate::copies) summary: Summary,
    /// Which entries have a new inode.
    pub(in crate::copies) fresh: Bits,
    pub(in crate::copies) tally: Tally,
}

#[derive(Clone, Copy, Debug, Default)]
pub(in crate::copies) struct Tally {
    pub(in crate::copies) entries: u64,
    pub(in crate::copies) linked: u64,
    pub(in crate::copies) written_bytes: u64,
    /// That could not be read.
    pub(in crate::copies) stale: u64,
    pub(in crate::copies) unstable: u64,
    /// Entries that are not as they were in the older copy.
    pub(in crate::copies) differing: u64,
    /// Read although it turned out to be what the older copy has.
    pub(in crate::copies) hashed_bytes: u64,
}

pub(in crate::copies) struct Build<'a> {
    pub(in crate::copies) conduct: &'a mut dyn Conduct,
    pub(in crate::copies) findings: &'a mut Findings,
    /// Below the data of the older copy.
    pub(in crate::copies) older: Option<Cursor>,
    /// Below the data of this one.
    pub(in crate::copies) newer: Cursor,
    pub(in crate::copies) manifest: Writer<File>,
    pub(in crate::copies) moved: Moved,
    pub(in crate::copies) fresh: Fresh,
    /// Inodes that are written to and will be read when that has an end: until then they stay as they were.
    pub(in crate::copies) put_off: BTreeSet<u64>,
    /// Where nobody holds still for it: databases are copied under their own locks.
    pub(in crate::copies) databases: Option<Databases>,
    /// For messages: where the copy is built.
    pub(in crate::copies) shown: String,
    pub(in crate::copies) expected: Progress,
    pub(in crate::copies) state: State,
}

#[derive(Debug, Default)]
pub(in crate::copies) struct State {
    tally: Tally,
    bits: Bits,
    /// Directories whose content is being made; they get their own metadata when it is complete.
    open: Vec<Entry>,
    groups: HashMap<(u64, u64), Box<Group>>,
}

/// An inode with several names, until all of them have been seen.
#[derive(Debug)]
struct Group {
    first: Entry,
    names_left: u64,
}

/// Whether an inode of the older copy has got a name in this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::copies) enum Linked {
    Yes,
    /// It cannot have more names, or is not there: a new one is needed.
    No,
}

/// An error that ends the building: of the target, or of the manifest of the older copy.
#[derive(Debug)]
pub(in crate::copies) enum Broken {
    Failure(Failure),
    Older(ManifestError),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl Build<'_> {
    pub(in crate::copies) fn run<S, M>(mut self, merge: Merge<S, M>) -> Result<Built, Broken>
    where
        S: Iterator<Item = Result<Found, Trouble>>,
        M: Iterator<Item = Result<Entry, ManifestError>>,
    {
        let mut ahead = Ahead::new(merge);
        while let Some(step) = ahead.step().map_err(Broken::Older)? {
            if self.conduct.is_cancelled() {
                return Err(cancelled().into());
            }
            self.step(step)?;
        }
        self.leave(None)?;
        let written = self.manifest.finish().map_err(|error| on_target(format!("{}/MANIFEST", self.shown), &error));
        Ok(Built { summary: written?, fresh: self.state.bits, tally: self.state.tally })
    }

    fn step(&mut self, step: Step) -> Result<(), Failure> {
        match step {
            Step::Both(found, before) => self.present(*found, Some(*before)),
            Step::New(found) => self.present(*found, None),
            Step::Gone(_) => {
                self.state.tally.differing += 1;
                Ok(())
            }
            Step::Unknown(before) => self.carry(*before),
            Step::Trouble(trouble) => {
                self.trouble(&trouble);
                Ok(())
            }
        }
    }

    fn present(&mut self, mut found: Found, before: Option<Entry>) -> Result<(), Failure> {
        self.leave(Some(&found.entry.path))?;
        if let Some(databases) = &mut self.databases {
            databases.pass(&found.entry);
        }
        self.learn(&mut found, before.as_ref());
        match &found.entry.kind {
            Kind::Dir => {
                let same = before.as_ref().is_some_and(|before| {
                    if found.is_way { same_way(&found.entry, before) } else { alike(&found.entry, before) }
                });
                self.directory(found.entry, same)
            }
            Kind::File { .. } => self.file(found, before),
            Kind::Socket => {
                let same = before.is_some_and(|before| alike(&found.entry, &before));
                self.push(found.entry, same, Made::Linked)
            }
            Kind::Link { .. } | Kind::Fifo | Kind::Char { .. } | Kind::Block { .. } => self.node(found, before),
        }
    }

    /// What is beside the content. Of a new file it is read when that is open.
    fn learn(&mut self, found: &mut Found, before: Option<&Entry>) {
        let is_file = matches!(found.entry.kind, Kind::File { .. });
        let learnt = match before {
            Some(before) => learn_attributes(found, before),
            None if is_file => Ok(()),
            None => found.attributes().map(|attributes| found.entry.attributes = attributes),
        };
        match learnt {
            Err(error) if !is_missing(&error) => {
                let detail = format!("attributes: {error}");
                self.findings.add(self.conduct, FindingKind::NotKept, &found.entry.path, detail);
            }
            Ok(()) | Err(_) => {}
        }
    }

    fn directory(&mut self, entry: Entry, same: bool) -> Result<(), Failure> {
        let made = self.newer.at(parent(&entry.path)).and_then(|dir| dir.make_dir(entry.name(), 0o700));
        made.map_err(|error| self.failed(&entry.path, &error))?;
        self.push(entry.clone(), same, Made::Linked)?;
        self.state.open.push(entry);
        Ok(())
    }

    /// Dresses the directories that the walk has left, on its way to `next`.
    fn leave(&mut self, next: Option<&[u8]>) -> Result<(), Failure> {
        while let Some(entry) = self.state.open.pop_if(|open| next.is_none_or(|next| !is_at_or_below(next, &open.path)))
        {
            self.dress(&entry)?;
        }
        Ok(())
    }

    pub(in crate::copies) fn dress(&mut self, entry: &Entry) -> Result<(), Failure> {
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

    fn node(&mut self, found: Found, before: Option<Entry>) -> Result<(), Failure> {
        let Found { entry, names, .. } = found;
        if self.joined(&entry, before.as_ref())? {
            return Ok(());
        }
        let same = before.is_some_and(|before| alike(&entry, &before));
        if same && self.link(&entry.path, &entry.path)? == Linked::Yes {
            return self.keep(entry, names, true, Made::Linked);
        }
        let made = self.newer.at(parent(&entry.path)).and_then(|dir| make_node(&dir, &entry));
        made.map_err(|error| self.failed(&entry.path, &error))?;
        self.dress(&entry)?;
        self.keep(entry, names, same, Made::New)
    }

    fn file(&mut self, found: Found, before: Option<Entry>) -> Result<(), Failure> {
        if self.joined(&found.entry, before.as_ref())? {
            return Ok(());
        }
        if let Some(before) = before.as_ref().filter(|before| untouched(&found.entry, before))
            && self.link(&before.path, &found.entry.path)? == Linked::Yes
        {
            self.state.tally.linked += 1;
            let entry = Entry { kind: before.kind.clone(), marks: before.marks, ..found.entry };
            return self.keep(entry, found.names, true, Made::Linked);
        }
        if self.put_off.contains(&found.entry.source.ino) {
            return before.map_or(Ok(()), |before| self.carry_file(before));
        }
        let looks_alike = before.as_ref().is_some_and(|before| alike(&found.entry, before));
        if (looks_alike || self.may_be_moved(&found.entry)) && self.linked_by_hash(&found, before.as_ref())? {
            return Ok(());
        }
        self.read(found, before)
    }

    /// Gives the inode of a name that was here before another one, if this is one of its names.
    fn joined(&mut self, entry: &Entry, before: Option<&Entry>) -> Result<bool, Failure> {
        let Some(key) = entry.link_key() else { return Ok(false) };
        let Some(first) = self.state.groups.get(&key).map(|group| group.first.clone()) else { return Ok(false) };
        let from = self.newer.at(parent(&first.path)).map_err(|error| self.failed(&first.path, &error))?;
        let linked = self.newer.at(parent(&entry.path)).and_then(|to| from.link(first.name(), &to, entry.name()));
        match linked {
            Ok(()) => {}
            Err(error) if is_no_more_names(&error) => return Ok(false),
            Err(error) => return Err(self.failed(&entry.path, &error)),
        }
        let same = before.is_some_and(|before| alike(&first, before) && before.group.is_some());
        self.state.tally.linked += 1;
        if let Some(group) = self.state.groups.get_mut(&key) {
            group.names_left -= 1;
            if group.names_left == 0 {
                self.state.groups.remove(&key);
            }
        }
        self.push(Entry { path: entry.path.clone(), ..first }, same, Made::Linked)?;
        Ok(true)
    }

    /// Links a file of the older copy.
    fn link(&mut self, older: &[u8], newer: &[u8]) -> Result<Linked, Failure> {
        let Some(cursor) = self.older.as_mut() else { return Ok(Linked::No) };
        let from = match cursor.at(parent(older)) {
            Ok(from) => from,
            // Somebody has been at the older copy: the scrub will tell.
            Err(error) if is_missing(&error) => return Ok(Linked::No),
            Err(error) => return Err(self.failed(older, &error)),
        };
        let linked = self.newer.at(parent(newer)).and_then(|to| from.link(name(older), &to, name(newer)));
        match linked {
            Ok(()) => Ok(Linked::Yes),
            Err(error) if is_no_more_names(&error) || is_missing(&error) => Ok(Linked::No),
            Err(error) => Err(self.failed(newer, &error)),
        }
    }

    fn may_be_moved(&self, entry: &Entry) -> bool {
        match entry.kind {
            Kind::File { size, .. } => size > 0 && self.moved.may_have(size, entry.mtime),
            Kind::Dir | Kind::Link { .. } | Kind::Fifo | Kind::Socket | Kind::Char { .. } | Kind::Block { .. } => false,
        }
    }

    /// Reads the source, and links what the older copy has of that content and metadata: at the same path, or where it was before it was moved.
    fn linked_by_hash(&mut self, found: &Found, before: Option<&Entry>) -> Result<bool, Failure> {
        let Some(entry) = self.fresh.hashed(&found.entry, &found.parent, &mut *self.conduct) else { return Ok(false) };
        let Kind::File { size, hash, .. } = &entry.kind else { return Ok(false) };
        self.state.tally.hashed_bytes += size;
        let is_before = |before: &&Entry| {
            matches!(&before.kind, Kind::File { hash: older, .. } if older == hash) && entry.has_metadata_of(before)
        };
        if let Some(before) = before.filter(is_before)
            && self.link(&before.path, &entry.path)? == Linked::Yes
        {
            self.state.tally.linked += 1;
            self.keep(entry, found.names, true, Made::Linked)?;
            return Ok(true);
        }
        for (index, path) in self.moved.with(*size, entry.mtime, hash) {
            if self.is_dressed_as(&path, &entry)? && self.link(&path, &entry.path)? == Linked::Yes {
                self.moved.take(index);
                self.state.tally.linked += 1;
                self.keep(entry, found.names, false, Made::Linked)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a file of the older copy has the metadata of this entry.
    fn is_dressed_as(&mut self, older: &[u8], entry: &Entry) -> Result<bool, Failure> {
        let Some(cursor) = self.older.as_mut() else { return Ok(false) };
        let seen = cursor.at(parent(older)).and_then(|dir| {
            let stat = dir.stat(name(older))?;
            Ok((stat, crate::sys::attributes::list_named(&dir, name(older))?))
        });
        match seen {
            Ok((stat, attributes)) => Ok(stat.kind() == FileType::File
                && (stat.mode & 0o7777, stat.uid, stat.gid, stat.mtime)
                    == (entry.mode, entry.uid, entry.gid, entry.mtime)
                && attributes == entry.attributes),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(self.failed(older, &error)),
        }
    }

    /// Reads the source into a new file.
    fn read(&mut self, found: Found, before: Option<Entry>) -> Result<(), Failure> {
        let into = self.newer.at(parent(&found.entry.path)).map_err(|error| self.failed(&found.entry.path, &error))?;
        let older = match (&before, self.older.as_mut()) {
            (Some(before), Some(cursor)) if self.fresh.can_share(before) => {
                cursor.at(parent(&before.path)).and_then(|dir| dir.read(before.name())).ok()
            }
            _ => None,
        };
        let older = before.as_ref().zip(older.as_ref());
        let guard = self.databases.as_mut().map_or(Guard::None, |databases| databases.guard(&found));
        let read = self.fresh.read((&found.entry, &found.parent), older, &into, &mut *self.conduct);
        match read.map_err(|stop| self.stopped(&found.entry.path, stop))? {
            Read::Whole(whole) => {
                let Whole { mut entry, written, made, not_kept } = *whole;
                self.state.tally.written_bytes += written;
                entry.marks.unstable |= self.fresh.is_disturbed(&*self.conduct);
                self.mark(&mut entry, guard, before.as_ref());
                if entry.marks.unstable {
                    self.state.tally.unstable += 1;
                    let detail = "it changed each time it was read, or its service did not hold still".to_owned();
                    self.findings.add(self.conduct, FindingKind::Unstable, &entry.path, detail);
                }
                self.tell_not_kept(&entry, &not_kept);
                self.keep(entry, found.names, false, made)
            }
            Read::Vanished => {
                self.state.tally.differing += u64::from(before.is_some());
                Ok(())
            }
            Read::Failed(error) => {
                self.findings.unreadable(self.conduct, &found.entry.path, &error);
                self.state.tally.stale += 1;
                match before {
                    Some(before) => self.carry_file(before),
                    None => Ok(()),
                }
            }
        }
    }

    /// What the locks of a database say of how it was read.
    fn mark(&mut self, entry: &mut Entry, guard: Guard, before: Option<&Entry>) {
        match guard {
            Guard::None | Guard::Database => {}
            Guard::Beside => entry.marks.unstable = false,
            Guard::Live(why) => {
                entry.marks.live_db = true;
                // Once, not with each copy.
                if before.is_none_or(|before| !before.marks.live_db) {
                    self.findings.add(self.conduct, FindingKind::LiveDatabase, &entry.path, why);
                }
            }
        }
    }

    /// What cannot be read stays as it was.
    fn carry(&mut self, before: Entry) -> Result<(), Failure> {
        self.leave(Some(&before.path))?;
        match before.kind {
            Kind::Dir => self.directory(before, true),
            Kind::File { .. }
            | Kind::Link { .. }
            | Kind::Fifo
            | Kind::Socket
            | Kind::Char { .. }
            | Kind::Block { .. } => {
                self.state.tally.stale += 1;
                self.carry_file(before)
            }
        }
    }

    fn carry_file(&mut self, mut before: Entry) -> Result<(), Failure> {
        let same = before.marks.stale;
        before.marks.stale = true;
        if before.kind == Kind::Socket {
            return self.push(before, same, Made::Linked);
        }
        // Given away under another name: two names would become one file, so this one is left out.
        if self.moved.withdraw(&before.path) && self.link(&before.path, &before.path)? == Linked::Yes {
            self.state.tally.linked += 1;
            return self.keep(before, NAMES_UNKNOWN, same, Made::Linked);
        }
        let into = self.newer.at(parent(&before.path)).map_err(|error| self.failed(&before.path, &error))?;
        let older = self.older.as_mut().map(|cursor| cursor.at(parent(&before.path)));
        let Some(Ok(older)) = older else { return Ok(()) };
        let read = self.fresh.read((&before, &older), None, &into, &mut *self.conduct);
        match read.map_err(|stop| self.stopped(&before.path, stop))? {
            Read::Whole(whole) => {
                self.state.tally.written_bytes += whole.written;
                self.keep(before, NAMES_UNKNOWN, same, whole.made)
            }
            Read::Vanished | Read::Failed(_) => Ok(()),
        }
    }

    fn trouble(&mut self, trouble: &Trouble) {
        if trouble.error.kind() == io::ErrorKind::NotFound {
            return;
        }
        self.state.tally.stale += 1;
        self.findings.unreadable(self.conduct, &trouble.path, &trouble.error);
    }

    /// Writes an entry down whose inode may have other names.
    fn keep(&mut self, entry: Entry, names: u64, same: bool, made: Made) -> Result<(), Failure> {
        if let Some(key) = entry.link_key()
            && names > 1
            && self.state.groups.len() < GROUPS_MAX
        {
            let group = Group { first: entry.clone(), names_left: names - 1 };
            self.state.groups.insert(key, Box::new(group));
        }
        self.push(entry, same, made)
    }

    fn push(&mut self, entry: Entry, same: bool, made: Made) -> Result<(), Failure> {
        self.manifest.push(&entry).map_err(|error| on_target(format!("{}/MANIFEST", self.shown), &error))?;
        let tally = &mut self.state.tally;
        self.state.bits.set(tally.entries, made);
        tally.entries += 1;
        tally.differing += u64::from(!same);
        let (files, bytes) = match entry.kind {
            Kind::File { size, .. } => (1, size),
            Kind::Dir | Kind::Link { .. } | Kind::Fifo | Kind::Socket | Kind::Char { .. } | Kind::Block { .. } => {
                (0, 0)
            }
        };
        self.expected.phase = Phase::Copy;
        self.expected.files += files;
        self.expected.bytes += bytes;
        if tally.entries.is_multiple_of(REPORT_ENTRIES) || (bytes > 0 && made != Made::Linked) {
            self.conduct.progress(self.expected);
        }
        Ok(())
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

pub(in crate::copies) fn make_node(dir: &crate::sys::dir::Dir, entry: &Entry) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    const FIFO: u32 = 0o010_000;
    const CHAR: u32 = 0o020_000;
    const BLOCK: u32 = 0o060_000;
    match &entry.kind {
        Kind::Link { target } => dir.symlink(std::ffi::OsStr::from_bytes(target), entry.name()),
        Kind::Fifo => dir.make_node(entry.name(), FIFO | 0o600, 0),
        Kind::Char { rdev } => dir.make_node(entry.name(), CHAR | 0o600, *rdev),
        Kind::Block { rdev } => dir.make_node(entry.name(), BLOCK | 0o600, *rdev),
        Kind::File { .. } | Kind::Dir | Kind::Socket => Ok(()),
    }
}

/// The inode has as many names as it may have, or may not have any more: immutable, or of another quota.
pub(in crate::copies) fn is_no_more_names(error: &io::Error) -> bool {
    [Errno::EMLINK, Errno::EPERM, Errno::EXDEV].map(|errno| errno as i32).contains(&error.raw_os_error().unwrap_or(0))
}
