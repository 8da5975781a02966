//! What has changed since an older copy, how much there is to write, and whether the sources can be believed. Nothing is written for it.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;

use super::build::GROUPS_MAX;
use super::cursor::is_at_or_below;
use super::merge::{Merge, Step};
use super::moved::Moved;
use super::same::{learn_attributes, same_way, untouched};
use super::scan::{Found, Trouble};
use crate::copies::format::commit::SourceSeen;
use crate::copies::format::entry::{Entry, Kind, LARGE_BYTES};
use crate::copies::format::layout::below_root;
use crate::copies::format::manifest::ManifestError;
use crate::engine::copies::catalog::Suspicion;

/// How far to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::copies) enum Extent {
    Whole,
    /// Only whether there is one.
    FirstDifference,
}

/// What to look at, beside the two streams.
#[derive(Clone, Copy, Debug)]
pub(in crate::copies) struct Against<'a> {
    pub(in crate::copies) from: &'a [PathBuf],
    /// Of the older copy: entries that could not be read when it was made.
    pub(in crate::copies) stale: u64,
    pub(in crate::copies) extent: Extent,
    /// Whether a large file that has changed costs only what has changed of it.
    pub(in crate::copies) reflinks: bool,
}

#[derive(Debug, Default)]
pub(in crate::copies) struct Survey {
    pub(in crate::copies) differs: bool,
    pub(in crate::copies) entries: u64,
    pub(in crate::copies) files: u64,
    pub(in crate::copies) bytes: u64,
    /// To be written, rounded up to blocks, and inodes to be made.
    pub(in crate::copies) new_bytes: u64,
    pub(in crate::copies) new_inodes: u64,
    pub(in crate::copies) moved: Moved,
    pub(in crate::copies) sources: Vec<Source>,
    /// A source that is not there, and why.
    pub(in crate::copies) lost_source: Option<String>,
}

/// One source, as it is.
#[derive(Debug)]
pub(in crate::copies) struct Source {
    path: PathBuf,
    below: Vec<u8>,
    dev: u64,
    files: u64,
    /// Entries below its root.
    entries: u64,
    entries_before: u64,
    is_other_device: bool,
}

/// What a file costs beside its content, and what a directory costs.
const BLOCK_BYTES: u64 = 4096;
/// Of the manifest, an entry; generously.
const ENTRY_BYTES: u64 = 256;
/// Of a large file that shares pages with its older version, one in so many is expected to be written.
const SHARED_DIVISOR: u64 = 8;

impl Survey {
    pub(in crate::copies) fn of<S, M>(
        mut merge: Merge<S, M>,
        against: Against<'_>,
        each: &mut dyn FnMut(&Self) -> bool,
    ) -> Result<Option<Self>, ManifestError>
    where
        S: Iterator<Item = Result<Found, Trouble>>,
        M: Iterator<Item = Result<Entry, ManifestError>>,
    {
        let sources = against.from.iter().map(|path| Source::new(path.clone())).collect();
        let mut survey = Self { sources, ..Self::default() };
        let mut groups = HashSet::new();
        while let Some(step) = merge.step()? {
            survey.take(step, against, &mut groups);
            if survey.differs && against.extent == Extent::FirstDifference {
                break;
            }
            if !each(&survey) {
                return Ok(None);
            }
        }
        survey.moved.seal();
        survey.new_bytes += survey.entries * ENTRY_BYTES;
        Ok(Some(survey))
    }

    fn take(&mut self, step: Step, against: Against<'_>, groups: &mut HashSet<(u64, u64)>) {
        match step {
            Step::Both(mut found, before) => {
                self.count_before(&before);
                self.count(&found.entry);
                // What cannot be read counts as changed: the copy will tell.
                self.differs |= learn_attributes(&mut found, &before).is_err();
                self.compare(&found, &before, against, groups);
            }
            Step::New(found) => {
                self.differs = true;
                self.count(&found.entry);
                self.cost(&found.entry, None, against, groups);
            }
            Step::Gone(before) => {
                self.differs = true;
                self.count_before(&before);
                self.moved.offer(&before);
            }
            Step::Unknown(before) => {
                self.count_before(&before);
                self.count(&before);
                self.differs |= !before.marks.stale && before.kind != Kind::Dir;
                self.new_inodes += u64::from(before.kind == Kind::Dir);
            }
            Step::Trouble(trouble) => {
                if trouble.extent == super::scan::Extent::Source && self.lost_source.is_none() {
                    self.lost_source = Some(format!("{trouble}: {}", trouble.error));
                }
                self.differs |= against.stale == 0 && trouble.error.kind() != io::ErrorKind::NotFound;
            }
        }
    }

    fn compare(&mut self, found: &Found, before: &Entry, against: Against<'_>, groups: &mut HashSet<(u64, u64)>) {
        let now = &found.entry;
        if let Some(source) = self.sources.iter_mut().find(|source| source.below == now.path) {
            // A number alone may change with a reboot.
            let (is, was) = (now.source, before.source);
            source.is_other_device = is.dev != was.dev && (is.ino, is.btime) != (was.ino, was.btime);
        }
        let same = if found.is_way { same_way(now, before) } else { untouched(now, before) };
        if same {
            self.new_inodes += u64::from(now.kind == Kind::Dir);
            self.new_bytes += if now.kind == Kind::Dir { BLOCK_BYTES } else { 0 };
            return;
        }
        self.differs = true;
        if now.source.ino != before.source.ino {
            self.moved.offer(before);
        }
        self.cost(now, Some(before), against, groups);
    }

    fn count(&mut self, entry: &Entry) {
        self.entries += 1;
        let is_file = matches!(entry.kind, Kind::File { .. });
        if let Kind::File { size, .. } = entry.kind {
            self.files += 1;
            self.bytes += size;
        }
        if let Some(source) = self.sources.iter_mut().find(|source| is_at_or_below(&entry.path, &source.below)) {
            source.dev = if entry.path == source.below { entry.source.dev } else { source.dev };
            source.files += u64::from(is_file);
            source.entries += u64::from(entry.path != source.below || is_file);
        }
    }

    fn count_before(&mut self, before: &Entry) {
        if let Some(source) = self.sources.iter_mut().find(|source| is_at_or_below(&before.path, &source.below)) {
            let is_file = matches!(before.kind, Kind::File { .. });
            source.entries_before += u64::from(before.path != source.below || is_file);
        }
    }

    /// What a changed one takes at most. What was moved is found out only when it is read.
    fn cost(&mut self, now: &Entry, before: Option<&Entry>, against: Against<'_>, groups: &mut HashSet<(u64, u64)>) {
        if let Some(key) = now.link_key() {
            if groups.contains(&key) {
                return;
            }
            // Of more, each name becomes a file of its own.
            if groups.len() < GROUPS_MAX {
                groups.insert(key);
            }
        }
        self.new_inodes += 1;
        self.new_bytes += match now.kind {
            Kind::File { size, .. } => {
                let shares =
                    before.is_some_and(|before| matches!(before.kind, Kind::File { size, .. } if size >= LARGE_BYTES));
                let written = if against.reflinks && shares { size / SHARED_DIVISOR } else { size };
                written.div_ceil(BLOCK_BYTES) * BLOCK_BYTES
            }
            Kind::Dir => BLOCK_BYTES,
            Kind::Link { .. } | Kind::Fifo | Kind::Socket | Kind::Char { .. } | Kind::Block { .. } => 0,
        };
    }

    /// Why these sources may not be what they should be. `files` and `bytes`: of the copy before.
    pub(in crate::copies) fn suspicion(
        &self,
        before: Option<(u64, u64)>,
        max_shrink_permille: u32,
    ) -> Option<Suspicion> {
        let (files, bytes) = before?;
        let name = |source: &Source| source.path.to_string_lossy().into_owned();
        if let Some(source) = self.sources.iter().find(|source| source.entries == 0 && source.entries_before > 0) {
            return Some(Suspicion::Empty { source: name(source) });
        }
        if let Some(source) = self.sources.iter().find(|source| source.is_other_device) {
            return Some(Suspicion::OtherDevice { source: name(source) });
        }
        let left = |now: u64, before: u64| match before {
            0 => 1000,
            _ => u32::try_from(u128::from(now) * 1000 / u128::from(before)).unwrap_or(u32::MAX),
        };
        let (files_permille, bytes_permille) = (left(self.files, files), left(self.bytes, bytes));
        let least = 1000_u32.saturating_sub(max_shrink_permille);
        let shrunk = files_permille < least || bytes_permille < least;
        shrunk.then_some(Suspicion::Shrunk { files_permille, bytes_permille })
    }

    /// For the COMMIT.
    pub(in crate::copies) fn sources_seen(&self) -> Vec<SourceSeen> {
        let seen = |source: &Source| SourceSeen {
            path: source.path.to_string_lossy().into_owned(),
            dev: source.dev,
            files: source.files,
        };
        self.sources.iter().map(seen).collect()
    }
}

impl Source {
    fn new(path: PathBuf) -> Self {
        use std::os::unix::ffi::OsStrExt;
        let below = below_root(&path).as_os_str().as_bytes().to_vec();
        Self { path, below, dev: 0, files: 0, entries: 0, entries_before: 0, is_other_device: false }
    }
}
