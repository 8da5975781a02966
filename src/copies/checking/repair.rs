//! Makes what was found bad in a copy right again: from the live source, if that still has the content that the manifest says, or from an inode of any
//! copy that has. A bad inode is replaced in every copy that shares it, and kept in `quarantine/`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::compare::{Difference, Eyes, listed};
use super::joined::{directory_below, name_of, os_name};
use super::readers::hash_from_disk;
use crate::copies::conduct::Conduct;
use crate::copies::format::entry::{Entry, Hash, Kind};
use crate::copies::making::file::{self, FileError};
use crate::copies::place::target::{CommittedCopy, Set};
use crate::engine::copies::order::Failure;
use crate::engine::types::Time;
use crate::sys::attributes::Inode;
use crate::sys::dir::{Dir, FileType, Rename, Stamp};
use crate::sys::scratch::Scratch;

/// What is mended in one go: for each such batch every manifest is read once.
pub(in crate::copies) const BATCH: usize = 512;
/// Other files of the same content that are tried.
const CANDIDATES_MAX: usize = 8;
/// What was found bad and mended is kept for so long.
const QUARANTINE_SECONDS: i64 = 30 * 86_400;
/// Where new inodes are made, in `work/`.
const FRESH: &str = "mend";
const FRESH_LINK: &str = "mend-link";

/// Something of a copy that is not as its manifest says.
#[derive(Debug)]
pub(in crate::copies) struct Bad {
    pub(in crate::copies) seq: u64,
    pub(in crate::copies) entry: Entry,
    /// `None`: nothing is there.
    pub(in crate::copies) ino: Option<u64>,
    pub(in crate::copies) why: Why,
}

#[derive(Debug)]
pub(in crate::copies) enum Why {
    Missing,
    Content,
    Unreadable(io::Error),
    Differs(Vec<Difference>),
}

impl Bad {
    pub(in crate::copies) fn is_of_metadata(&self) -> bool {
        matches!(&self.why, Why::Differs(differences) if !differences.iter().any(Difference::is_of_content))
    }

    pub(in crate::copies) fn detail(&self) -> String {
        match &self.why {
            Why::Missing => "it is missing".to_owned(),
            Why::Content => "its content is not what was written".to_owned(),
            Why::Unreadable(error) => format!("it cannot be read: {error}"),
            Why::Differs(differences) => listed(differences),
        }
    }
}

/// A file of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::copies) struct Place {
    pub(in crate::copies) seq: u64,
    pub(in crate::copies) path: Vec<u8>,
}

/// What became of one.
#[derive(Debug)]
pub(in crate::copies) struct Mending {
    pub(in crate::copies) bad: Bad,
    /// Everywhere that it was found, its own place first.
    pub(in crate::copies) places: Vec<Place>,
    /// Where the bad one lies now, below `quarantine/`.
    pub(in crate::copies) kept: Option<String>,
    /// From what it was made right and its inode, or why that was not possible.
    pub(in crate::copies) result: Result<(String, u64), String>,
}

/// Where else an inode is, and what has its content.
#[derive(Debug, Default)]
struct Known {
    places: Vec<Place>,
    candidates: Vec<Place>,
}

/// Mends what can be mended.
#[derive(Debug)]
pub(in crate::copies) struct Repair<'a> {
    set: &'a Set,
    eyes: Eyes,
    copies: BTreeMap<u64, CommittedCopy>,
    now: Time,
}

impl<'a> Repair<'a> {
    pub(in crate::copies) fn new(set: &'a Set, eyes: Eyes, now: Time) -> Result<Self, Failure> {
        let mut copies = BTreeMap::new();
        for listed in set.listed()? {
            copies.insert(listed.commit.seq, set.open(listed)?);
        }
        Ok(Self { set, eyes, copies, now })
    }

    /// In the order of the manifest, so that a directory is there again before what is in it.
    pub(in crate::copies) fn mend(&self, bads: Vec<Bad>, conduct: &mut dyn Conduct) -> Result<Vec<Mending>, Failure> {
        let known = self.survey(&bads, conduct)?;
        let mut mendings = Vec::new();
        for (index, bad) in bads.into_iter().enumerate() {
            let own = Place { seq: bad.seq, path: bad.entry.path.clone() };
            let mut places = vec![own.clone()];
            places.extend(known[index].places.iter().filter(|place| **place != own).cloned());
            let mut mending = Mending { bad, places, kept: None, result: Err(String::new()) };
            mending.result = self.one(&mut mending, &known[index].candidates, conduct);
            mendings.push(mending);
        }
        self.set.dir.sync_fs().map_err(|error| self.set.failed("sync", &error))?;
        Ok(mendings)
    }

    /// For each file of bad content, all files of its inode and some of its content in any copy.
    fn survey(&self, bads: &[Bad], conduct: &dyn Conduct) -> Result<Vec<Known>, Failure> {
        let mut known: Vec<Known> = bads.iter().map(|_| Known::default()).collect();
        let mut wanted: BTreeMap<[u8; 32], Vec<usize>> = BTreeMap::new();
        for (index, bad) in bads.iter().enumerate() {
            if let (Kind::File { hash, .. }, false) = (&bad.entry.kind, bad.is_of_metadata()) {
                wanted.entry(*hash).or_default().push(index);
            }
        }
        if wanted.is_empty() {
            return Ok(known);
        }
        // The newest first: theirs are the youngest inodes.
        for (seq, copy) in self.copies.iter().rev() {
            if conduct.is_cancelled() {
                return Err(crate::copies::failure::cancelled());
            }
            // A manifest that cannot be read is a finding of its own copy's.
            let Ok(manifest) = copy.manifest() else { continue };
            for entry in manifest.map_while(Result::ok) {
                let Kind::File { hash, .. } = &entry.kind else { continue };
                let Some(indices) = wanted.get(hash) else { continue };
                let name = os_name(&entry.path);
                let Ok(stat) = directory_below(&copy.data, &entry.path).and_then(|dir| dir.stat(&name)) else {
                    continue;
                };
                for index in indices {
                    let place = Place { seq: *seq, path: entry.path.clone() };
                    if bads[*index].ino == Some(stat.ino) {
                        known[*index].places.push(place);
                    } else if known[*index].candidates.len() < CANDIDATES_MAX {
                        known[*index].candidates.push(place);
                    }
                }
            }
        }
        Ok(known)
    }

    fn one(
        &self,
        mending: &mut Mending,
        candidates: &[Place],
        conduct: &mut dyn Conduct,
    ) -> Result<(String, u64), String> {
        let entry = &mending.bad.entry;
        if mending.bad.is_of_metadata() {
            return self.dress(&mending.bad).map_err(|error| error.to_string());
        }
        mending.kept = self.keep(mending).map_err(|error| format!("quarantine: {error}"))?;
        let kept = mending.kept.as_deref();
        let result = match &entry.kind {
            Kind::File { hash, size, .. } => self.file(mending, hash, *size, candidates, conduct),
            Kind::Dir | Kind::Link { .. } | Kind::Fifo | Kind::Socket | Kind::Char { .. } | Kind::Block { .. } => {
                self.remake(&mending.bad).map_err(|error| error.to_string())
            }
        };
        if let (Ok((whence, _)), Some(kept)) = (&result, kept) {
            // The record is for people; the file lies there without it too.
            let _ = self.record(mending, kept, whence);
        }
        result
    }

    /// Sets what can be set; an error if it then still is not as the entry says.
    fn dress(&self, bad: &Bad) -> io::Result<(String, u64)> {
        let (dir, name) = self.parent(bad.seq, &bad.entry.path)?;
        file::dress(&dir, &name, &bad.entry)?;
        let stat = dir.stat(&name)?;
        let mut left = self.eyes.stat(&bad.entry, &stat);
        left.extend(self.eyes.rest(&bad.entry, &dir, &name)?);
        if left.is_empty() {
            return Ok(("the manifest".to_owned(), stat.ino));
        }
        Err(io::Error::other(format!("the target does not take it: {}", listed(&left))))
    }

    /// Gives the bad one another name, so that it does not go when its place is taken.
    fn keep(&self, mending: &Mending) -> io::Result<Option<String>> {
        let Some(ino) = mending.bad.ino else { return Ok(None) };
        let place = &mending.places[0];
        let (dir, name) = self.parent(place.seq, &place.path)?;
        let kept = format!("file-{:06}-{ino}", place.seq);
        if dir.stat(&name)?.kind() == FileType::Dir {
            // Something else is wanted here: the directory goes there with all that is in it.
            return self.move_away(&dir, &name, &kept).map(|()| Some(kept));
        }
        match dir.link(&name, &self.set.quarantine, OsStr::new(&kept)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            Ok(()) | Err(_) => Ok(Some(kept)),
        }
    }

    fn move_away(&self, dir: &Dir, name: &OsStr, kept: &str) -> io::Result<()> {
        let times = dir.stat_self()?;
        dir.rename(name, &self.set.quarantine, OsStr::new(kept), Rename::New)?;
        set_mtime(dir, times.mtime)
    }

    fn file(
        &self,
        mending: &Mending,
        hash: &[u8; 32],
        size: u64,
        candidates: &[Place],
        conduct: &mut dyn Conduct,
    ) -> Result<(String, u64), String> {
        let mut tried = String::new();
        let path = Path::new("/").join(OsStr::from_bytes(&mending.bad.entry.path));
        let whole = |file: &File| file.metadata().is_ok_and(|found| found.is_file() && found.len() == size);
        let live = if self.set.shuns_sources { None } else { source(&path).ok() };
        match live.filter(whole).map(|file| self.fresh(&file, hash, &mending.bad.entry, conduct)) {
            Some(Ok(Some(ino))) => return self.relink(mending).map(|()| ("the source".to_owned(), ino)),
            Some(Ok(None)) | None => tried.push_str("the source has other content"),
            Some(Err(error)) => tried = format!("from the source: {error}"),
        }
        for candidate in candidates {
            let Ok((dir, name)) = self.parent(candidate.seq, &candidate.path) else { continue };
            let Some(other) = dir.read(&name).ok().filter(whole) else { continue };
            if let Ok(Some(ino)) = self.fresh(&other, hash, &mending.bad.entry, conduct) {
                return self.relink(mending).map(|()| (format!("copy {}", candidate.seq), ino));
            }
        }
        Err(format!("{tried}, and no other copy of it is good"))
    }

    /// A new inode in `work/`, on the disk, of this content or not at all (`None`).
    fn fresh(
        &self,
        from: &File,
        wanted: &[u8; 32],
        entry: &Entry,
        conduct: &mut dyn Conduct,
    ) -> io::Result<Option<u64>> {
        let (work, name) = (&self.set.work, OsStr::new(FRESH));
        // Never written over: one that an earlier repair left may be an inode of copies already.
        match work.remove_file(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let into = work.create(name, 0o600)?;
        let mut buffer = file::buffer()?;
        let mut pace = |bytes| {
            conduct.pace(bytes);
            Ok(())
        };
        if copied(from, &into, &mut buffer, &mut pace)? != Some(*wanted) {
            return Ok(None);
        }
        file::dress(work, name, entry)?;
        into.sync_all()?;
        let into = work.read(name)?;
        Ok((hash_from_disk(&into, &mut buffer, &mut |_| true)? == *wanted).then_some(work.stat(name)?.ino))
    }

    /// Puts the new inode everywhere that the bad one was.
    fn relink(&self, mending: &Mending) -> Result<(), String> {
        let work = &self.set.work;
        let (fresh, link) = (OsStr::new(FRESH), OsStr::new(FRESH_LINK));
        for place in &mending.places {
            let replaced = self.parent(place.seq, &place.path).and_then(|(dir, name)| {
                // It may be there from a run that was cut off.
                let _ = work.remove_file(link);
                work.link(fresh, work, link)?;
                let times = dir.stat_self()?;
                work.rename(link, &dir, &name, Rename::Replace)?;
                set_mtime(&dir, times.mtime)
            });
            replaced.map_err(|error| format!("copy {}: {}: {error}", place.seq, lossy(&place.path)))?;
        }
        work.remove_file(fresh).map_err(|error| format!("work: {error}"))
    }

    /// A directory, link, fifo or node; what is there lies in quarantine already.
    fn remake(&self, bad: &Bad) -> io::Result<(String, u64)> {
        let (dir, name) = self.parent(bad.seq, &bad.entry.path)?;
        let times = dir.stat_self()?;
        if let Ok(stat) = dir.stat(&name)
            && stat.kind() != FileType::Dir
        {
            dir.remove_file(&name)?;
        }
        make(&dir, &name, &bad.entry)?;
        file::dress(&dir, &name, &bad.entry)?;
        set_mtime(&dir, times.mtime)?;
        Ok(("the manifest".to_owned(), dir.stat(&name)?.ino))
    }

    fn parent(&self, seq: u64, path: &[u8]) -> io::Result<(Dir, OsString)> {
        let copy = self.copies.get(&seq).ok_or(io::ErrorKind::NotFound)?;
        Ok((directory_below(&copy.data, path)?, OsString::from_vec(name_of(path).to_vec())))
    }

    /// What is known of a bad one that has been mended, as a file of JSON beside it.
    fn record(&self, mending: &Mending, kept: &str, whence: &str) -> io::Result<()> {
        let places: Vec<String> =
            mending.places.iter().map(|place| format!("{}:/{}", place.seq, lossy(&place.path))).collect();
        let record = serde_json::json!({
            "at": self.now, "found": mending.bad.detail(), "mended_from": whence, "places": places,
        });
        let mut file = self.set.quarantine.overwrite(OsStr::new(&format!("{kept}.json")))?;
        file.write_all(record.to_string().as_bytes())?;
        file.sync_all()
    }
}

/// Makes what is no file; its metadata is set afterwards. A socket is not made.
pub(in crate::copies) fn make(dir: &Dir, name: &OsStr, entry: &Entry) -> io::Result<()> {
    match &entry.kind {
        Kind::Dir => dir.make_dir(name, 0o700),
        Kind::Link { target } => dir.symlink(OsStr::from_bytes(target), name),
        Kind::Fifo => dir.make_node(name, FIFO | 0o600, 0),
        Kind::Char { rdev } => dir.make_node(name, CHAR | 0o600, *rdev),
        Kind::Block { rdev } => dir.make_node(name, BLOCK | 0o600, *rdev),
        Kind::Socket | Kind::File { .. } => Err(io::ErrorKind::Unsupported.into()),
    }
}

const FIFO: u32 = 0o010_000;
const CHAR: u32 = 0o020_000;
const BLOCK: u32 = 0o060_000;

/// Of what has been mended, the bad ones that have been kept for long enough.
pub(in crate::copies) fn sweep(set: &Set, now: Time) -> io::Result<()> {
    let now_s = i64::try_from(now.0 / 1_000_000_000).unwrap_or(i64::MAX);
    for (name, _, _) in set.quarantine.entries()? {
        let Some(kept) = name.to_str().and_then(|name| name.strip_suffix(".json")) else { continue };
        if now_s.saturating_sub(set.quarantine.stat(&name)?.mtime.s) > QUARANTINE_SECONDS {
            set.quarantine.remove_tree(OsStr::new(kept), &mut || {})?;
            set.quarantine.remove_file(&name)?;
        }
    }
    Ok(())
}

/// Copies the content, and tells its hash; `None`: what is copied from cannot be read, or `pace` has ended it.
pub(in crate::copies) fn copied(
    from: &File,
    into: &File,
    buffer: &mut Scratch,
    pace: &mut dyn FnMut(u64) -> io::Result<()>,
) -> io::Result<Option<Hash>> {
    match file::copy(from, into, &mut file::Means { buffer, pace }) {
        Ok(copied) => Ok(Some(copied.hash)),
        Err(FileError::Write { source, .. }) => Err(source),
        Err(FileError::Stat(_) | FileError::NotAFile | FileError::Read { .. } | FileError::Stopped(_)) => Ok(None),
    }
}

/// The live file; its parents may be links.
fn source(path: &Path) -> io::Result<File> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    Dir::open(parent)?.read(name)
}

/// Of a directory in which names have been replaced.
pub(in crate::copies) fn set_mtime(dir: &Dir, mtime: Stamp) -> io::Result<()> {
    Inode::Handle(dir.as_fd().try_clone_to_owned()?).set_mtime(mtime)
}

pub(in crate::copies) fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
