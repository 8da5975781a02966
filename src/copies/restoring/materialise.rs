//! Builds files of a copy somewhere else, as the manifest has them: content that is compared with its hash while it is written, holes, hard links, owner,
//! mode, attributes, times. Nothing that is there is overwritten.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;

use crate::copies::checking::compare::Eyes;
use crate::copies::checking::inspect::people;
use crate::copies::checking::joined::{directory_below, is_at_or_below, name_of};
use crate::copies::checking::readers::hash_from_disk;
use crate::copies::checking::repair::{Bad, Repair, Why, copied, make};
use crate::copies::conduct::Conduct;
use crate::copies::failure::{cancelled, failure};
use crate::copies::format::entry::{Entry, Hash, Kind};
use crate::copies::making::file;
use crate::copies::place::target::{CommittedCopy, Set};
use crate::engine::copies::order::{Failure, FailureKind, Finding, FindingKind, Progress};
use crate::sys::clone::clone_file;
use crate::sys::dir::Dir;
use crate::sys::scratch::Scratch;

/// Hard-linked files whose first name is remembered; of more, each name becomes a file of its own.
const GROUPS_MAX: usize = 50_000;
/// Progress is told after so many entries.
const PROGRESS_EVERY: u64 = 64;
/// Lines about single files.
const FINDINGS_MAX: u64 = 50;

/// Where things are built.
#[derive(Debug)]
pub(in crate::copies) struct Site {
    /// The directory that holds it all.
    pub(in crate::copies) base: Dir,
    /// For messages.
    pub(in crate::copies) shown: String,
    /// What of the copy: the path that becomes `top`.
    pub(in crate::copies) root: Vec<u8>,
    /// Its name in `base`; `None`: what is below `root` lies in `base` itself.
    pub(in crate::copies) top: Option<OsString>,
}

impl Site {
    /// Where an entry goes, below `base`.
    fn place(&self, path: &[u8]) -> Vec<u8> {
        let rest = path.strip_prefix(self.root.as_slice()).unwrap_or(path);
        let rest = rest.strip_prefix(b"/").unwrap_or(rest);
        match &self.top {
            None => rest.to_vec(),
            Some(top) if rest.is_empty() => top.as_bytes().to_vec(),
            Some(top) => [top.as_bytes(), b"/", rest].concat(),
        }
    }
}

/// What it is built from, and for whom.
pub(in crate::copies) struct Materialise<'a> {
    pub(in crate::copies) set: &'a Set,
    pub(in crate::copies) copy: &'a CommittedCopy,
    pub(in crate::copies) conduct: &'a mut dyn Conduct,
    pub(in crate::copies) progress: &'a mut Progress,
    /// First names, by [`Entry::link_key`].
    groups: HashMap<(u64, u64), Vec<u8>>,
    /// Whether files of the target can be cloned to where they are built. Found out with the first.
    clones: bool,
    buffer: Scratch,
    count: u64,
    /// Findings, of which the first are told.
    found: u64,
}

/// A directory that is being filled; it gets its metadata when it is full.
struct Open {
    /// Of the entry, below the copy's root.
    entry: Entry,
    /// Where it lies, below `base`.
    place: Vec<u8>,
    dir: Dir,
}

impl<'a> Materialise<'a> {
    pub(in crate::copies) fn new(
        set: &'a Set,
        copy: &'a CommittedCopy,
        conduct: &'a mut dyn Conduct,
        progress: &'a mut Progress,
    ) -> Result<Self, Failure> {
        let buffer = file::buffer().map_err(|error| crate::copies::failure::other("a buffer", &error))?;
        let groups = HashMap::new();
        Ok(Self { set, copy, conduct, progress, groups, clones: true, buffer, count: 0, found: 0 })
    }

    /// Builds these entries, which come in the order of the manifest and each after the directories that it is in, below the root of the site.
    pub(in crate::copies) fn build(
        &mut self,
        site: &Site,
        entries: impl Iterator<Item = Result<Entry, Failure>>,
    ) -> Result<(), Failure> {
        let mut open: Vec<Open> = Vec::new();
        self.groups.clear();
        for entry in entries {
            let entry = entry?;
            if self.conduct.is_cancelled() {
                return Err(cancelled());
            }
            self.leave(site, &mut open, Some(&entry.path))?;
            let place = site.place(&entry.path);
            if place.is_empty() {
                continue;
            }
            let base = match open.last() {
                Some(open) => &open.dir,
                None => &site.base,
            };
            let made = self.one(site, base, &entry, &place)?;
            if let Some(dir) = made {
                open.push(Open { entry, place, dir });
            }
            self.count += 1;
            if self.count.is_multiple_of(PROGRESS_EVERY) {
                self.conduct.progress(*self.progress);
            }
        }
        self.leave(site, &mut open, None)
    }

    /// Directories that the next entry is not in are full.
    fn leave(&mut self, site: &Site, open: &mut Vec<Open>, next: Option<&[u8]>) -> Result<(), Failure> {
        while let Some(last) = open.pop_if(|last| next.is_none_or(|next| !is_at_or_below(&last.entry.path, next))) {
            let above = open.last().map_or(&site.base, |above| &above.dir);
            self.dress(site, above, &last.entry, &last.place)?;
        }
        Ok(())
    }

    fn one(&mut self, site: &Site, dir: &Dir, entry: &Entry, place: &[u8]) -> Result<Option<Dir>, Failure> {
        let name = OsStr::from_bytes(name_of(place));
        let failed = |error: &io::Error| write_failed(site, place, error);
        match &entry.kind {
            Kind::Socket => return Ok(None),
            Kind::File { hash, size, .. } => {
                self.progress.files += 1;
                self.progress.bytes += size;
                if self.is_linked(site, dir, entry, place)? {
                    return Ok(None);
                }
                self.file(site, dir, entry, place, hash)?;
            }
            Kind::Dir => {
                make(dir, name, entry).map_err(|error| failed(&error))?;
                return dir.sub(name.as_ref()).map(Some).map_err(|error| failed(&error));
            }
            Kind::Link { .. } | Kind::Fifo | Kind::Char { .. } | Kind::Block { .. } => {
                if self.is_linked(site, dir, entry, place)? {
                    return Ok(None);
                }
                match make(dir, name, entry) {
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                        self.tell(FindingKind::NotKept, entry, format!("it was not made: {error}"));
                        return Ok(None);
                    }
                    made => made.map_err(|error| failed(&error))?,
                }
            }
        }
        self.dress(site, dir, entry, place)?;
        Ok(None)
    }

    fn dress(&mut self, site: &Site, dir: &Dir, entry: &Entry, place: &[u8]) -> Result<(), Failure> {
        let dressed = file::dress(dir, OsStr::from_bytes(name_of(place)), entry);
        let not_kept = dressed.map_err(|error| write_failed(site, place, &error))?;
        for kept in not_kept {
            self.tell(FindingKind::NotKept, entry, kept.to_string());
        }
        Ok(())
    }

    /// Another name for what has been built already, if it is that.
    fn is_linked(&mut self, site: &Site, dir: &Dir, entry: &Entry, place: &[u8]) -> Result<bool, Failure> {
        let Some(key) = entry.link_key() else { return Ok(false) };
        if let Some(first) = self.groups.get(&key) {
            let linked = directory_below(&site.base, first)
                .and_then(|from| from.link(OsStr::from_bytes(name_of(first)), dir, OsStr::from_bytes(name_of(place))));
            return linked.map(|()| true).map_err(|error| write_failed(site, place, &error));
        }
        if self.groups.len() < GROUPS_MAX {
            self.groups.insert(key, place.to_vec());
        } else {
            self.tell(
                FindingKind::NotKept,
                entry,
                "there are too many hard links: it has become a file of its own".to_owned(),
            );
        }
        Ok(false)
    }

    fn file(&mut self, site: &Site, dir: &Dir, entry: &Entry, place: &[u8], hash: &Hash) -> Result<(), Failure> {
        let name = OsStr::from_bytes(name_of(place));
        let into = dir.create(name, 0o600).map_err(|error| write_failed(site, place, &error))?;
        if self.fill(site, place, entry, &into)? == Some(*hash) {
            return Ok(());
        }
        if self.conduct.is_cancelled() {
            return Err(cancelled());
        }
        let why = self.mend(entry)?;
        into.set_len(0).map_err(|error| write_failed(site, place, &error))?;
        if self.fill(site, place, entry, &into)? == Some(*hash) {
            return Ok(());
        }
        let seq = self.copy.commit.seq;
        let what = format!("{}: its content in copy {seq} is not what was written{why}", people(&entry.path));
        let remedy = "restore the rest by naming it, or from another copy (`mainstay copies list`); `mainstay copies verify` says what else is bad";
        Err(failure(FailureKind::NoCopy, what, Some(remedy)))
    }

    /// Writes the content of the copy's file, and tells its hash; `None`: the copy's file could not be read.
    fn fill(&mut self, site: &Site, place: &[u8], entry: &Entry, into: &File) -> Result<Option<Hash>, Failure> {
        let opened = directory_below(&self.copy.data, &entry.path).and_then(|dir| dir.read(entry.name()));
        let Ok(from) =
            opened.and_then(|file| file.metadata()?.is_file().then_some(file).ok_or(io::ErrorKind::NotFound.into()))
        else {
            return Ok(None);
        };
        if self.clones {
            self.clones = clone_file(&from, into).is_ok();
        }
        if self.clones {
            let hash = hash_from_disk(&from, &mut self.buffer, &mut |bytes| {
                self.conduct.pace(bytes);
                !self.conduct.is_cancelled()
            });
            return Ok(hash.ok());
        }
        let conduct = &mut *self.conduct;
        let mut pace = |bytes| {
            conduct.pace(bytes);
            if conduct.is_cancelled() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
        };
        copied(&from, into, &mut self.buffer, &mut pace).map_err(|error| write_failed(site, place, &error))
    }

    /// Tries to make the copy's file right again; why not, to be added to a sentence.
    fn mend(&mut self, entry: &Entry) -> Result<String, Failure> {
        let seq = self.copy.commit.seq;
        let dir = directory_below(&self.copy.data, &entry.path);
        let ino = dir.and_then(|dir| dir.stat(entry.name())).ok().map(|stat| stat.ino);
        let why = if ino.is_some() { Why::Content } else { Why::Missing };
        let bad = Bad { seq, entry: entry.clone(), ino, why };
        let repair = Repair::new(self.set, Eyes::of_this_process(), self.conduct.now())?;
        let mendings = repair.mend(vec![bad], self.conduct)?;
        match mendings.first().map(|mending| &mending.result) {
            Some(Ok((whence, _))) => {
                self.tell(
                    FindingKind::Mended,
                    entry,
                    format!("copy {seq}: it was bad, and is right again, from {whence}"),
                );
                Ok(String::new())
            }
            Some(Err(why)) => {
                self.tell(FindingKind::Rot, entry, format!("copy {seq}: it is bad: {why}"));
                Ok(format!(": {why}"))
            }
            None => Ok(String::new()),
        }
    }

    /// Says how much there was beyond what was told.
    pub(in crate::copies) fn finish(self) {
        if self.found > FINDINGS_MAX {
            let detail = format!("{} more findings of this restore are not told", self.found - FINDINGS_MAX);
            let path = self.set.path().display().to_string();
            self.conduct.finding(Finding { kind: FindingKind::NotKept, path, detail });
        }
    }

    fn tell(&mut self, kind: FindingKind, entry: &Entry, detail: String) {
        self.found += 1;
        if self.found <= FINDINGS_MAX {
            self.conduct.finding(Finding { kind, path: people(&entry.path), detail });
        }
    }
}

/// An error where it is built, which is not the target.
pub(in crate::copies) fn write_failed(site: &Site, place: &[u8], error: &io::Error) -> Failure {
    let what = format!("{}/{}: {error}", site.shown, String::from_utf8_lossy(place));
    let remedy = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room there, or restore to another place with --into"
        }
        io::ErrorKind::PermissionDenied => "restore as root, or to a place of your own with --into",
        _ => "see the health of that disk (mainstay checks), or restore to another place with --into",
    };
    failure(FailureKind::Other, what, Some(remedy))
}
