//! What differs between the sources and a draft: the same comparison as between the sources and an older copy, by names, kinds, sizes and ctimes.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;

use super::clones::Clones;
use crate::copies::conduct::Conduct;
use crate::copies::failure::cancelled;
use crate::copies::findings::Findings;
use crate::copies::format::entry::{Entry, Kind};
use crate::copies::format::manifest::ManifestError;
use crate::copies::making::merge::{Merge, Step};
use crate::copies::making::same::{learn_attributes, same_way, untouched};
use crate::copies::making::scan::{Extent, Found, Trouble};
use crate::copies::making::take::no_source;
use crate::engine::copies::order::{Failure, FindingKind};

/// Held in memory at once; what differs beyond them is looked for again when these are mended.
const DIFFERENCES_MAX: usize = 20_000;
/// Inodes with several names that are remembered.
pub(super) const GROUPS_MAX: usize = 50_000;
/// Between two questions whether the job is still wanted.
const STEPS: u32 = 256;

/// When it is looked.
#[derive(Debug)]
pub(super) enum Mode<'a> {
    /// The service runs. What is written to is left out, and made ready for the clone.
    Ahead { written: &'a BTreeSet<u64> },
    /// It stands still. What it has mapped differs, whatever its times are.
    Quiet { mapped: &'a BTreeSet<u64> },
}

#[derive(Debug)]
pub(super) struct Difference {
    /// As it is, or as it was when it is gone.
    pub(super) entry: Entry,
    pub(super) was: Was,
    pub(super) now: Now,
}

/// What lies in the draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Was {
    Nothing,
    Directory,
    Inode,
}

#[derive(Debug)]
pub(super) enum Now {
    Gone,
    /// It cannot be looked at: the draft stays as it is.
    Unknown,
    /// All there is to know is in the entry.
    Plain,
    /// A file, whose content is in the clone.
    Clone(File),
    /// A file that is to be read.
    Live,
}

/// What a look has found, in the order of the manifest.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) differences: Vec<Difference>,
    /// There is more than is in memory.
    pub(super) more: bool,
}

impl Looked {
    /// Files that are to be read themselves.
    pub(super) fn live(&self) -> usize {
        self.live_sizes().count()
    }

    pub(super) fn live_bytes(&self) -> u64 {
        self.live_sizes().fold(0, u64::saturating_add)
    }

    fn live_sizes(&self) -> impl Iterator<Item = u64> {
        let live = self.differences.iter().filter(|difference| matches!(difference.now, Now::Live));
        live.map(|difference| if let Kind::File { size, .. } = difference.entry.kind { size } else { 0 })
    }
}

pub(super) struct Look<'a> {
    pub(super) mode: Mode<'a>,
    pub(super) clones: &'a mut Clones,
    pub(super) conduct: &'a mut dyn Conduct,
    pub(super) findings: &'a mut Findings,
    /// Inodes of which one name differs: then all that follow do, or they would become another inode.
    pub(super) groups: BTreeSet<(u64, u64)>,
}

/// Why it could not be looked.
#[derive(Debug)]
pub(super) enum Blind {
    Failure(Failure),
    Draft(ManifestError),
}

impl Look<'_> {
    pub(super) fn run<S, M>(mut self, mut merge: Merge<S, M>) -> Result<Looked, Blind>
    where
        S: Iterator<Item = Result<Found, Trouble>>,
        M: Iterator<Item = Result<Entry, ManifestError>>,
    {
        let mut looked = Looked::default();
        let mut steps = 0_u32;
        while let Some(step) = merge.step().map_err(Blind::Draft)? {
            if looked.differences.len() >= DIFFERENCES_MAX {
                looked.more = true;
                break;
            }
            if steps.is_multiple_of(STEPS) && self.conduct.is_cancelled() {
                return Err(Blind::Failure(cancelled()));
            }
            steps = steps.wrapping_add(1);
            looked.differences.extend(self.step(step).map_err(Blind::Failure)?);
        }
        Ok(looked)
    }

    fn step(&mut self, step: Step) -> Result<Option<Difference>, Failure> {
        match step {
            Step::Both(found, before) => Ok(self.compare(*found, &before)),
            Step::New(mut found) => {
                self.learn(&mut found, None);
                Ok(self.differing(*found, Was::Nothing))
            }
            Step::Gone(before) => {
                let was = Was::of(&before);
                Ok(Some(Difference { entry: without_blocks(*before), was, now: Now::Gone }))
            }
            Step::Unknown(before) if before.marks.stale => Ok(None),
            Step::Unknown(before) => {
                let was = Was::of(&before);
                Ok(Some(Difference { entry: without_blocks(*before), was, now: Now::Unknown }))
            }
            Step::Trouble(trouble) => self.trouble(&trouble).map(|()| None),
        }
    }

    fn compare(&mut self, mut found: Found, before: &Entry) -> Option<Difference> {
        self.learn(&mut found, Some(before));
        let is_same = match found.is_way {
            true => same_way(&found.entry, before),
            false => untouched(&found.entry, before) && has_same_names(&found.entry, before),
        };
        let is_mapped = match &self.mode {
            Mode::Quiet { mapped } => is_file(&found.entry) && mapped.contains(&found.entry.source.ino),
            Mode::Ahead { .. } => false,
        };
        let has_other = found.entry.link_key().is_some_and(|key| self.groups.contains(&key));
        if is_same && !is_mapped && !has_other { None } else { self.differing(found, Was::of(before)) }
    }

    fn differing(&mut self, found: Found, was: Was) -> Option<Difference> {
        if let Some(key) = found.entry.link_key().filter(|_| self.groups.len() < GROUPS_MAX) {
            self.groups.insert(key);
        }
        if !is_file(&found.entry) {
            return Some(Difference { entry: found.entry, was, now: Now::Plain });
        }
        match &self.mode {
            Mode::Ahead { written } => {
                self.clones.prepare(&found);
                let is_written = written.contains(&found.entry.source.ino);
                (!is_written).then_some(Difference { entry: found.entry, was, now: Now::Live })
            }
            Mode::Quiet { .. } => {
                let Some((mut entry, clone)) = self.clones.clone_of(&found) else {
                    return Some(Difference { entry: found.entry, was, now: Now::Live });
                };
                // Asked after the clone was made.
                entry.marks.unstable = !self.conduct.still_quiet();
                Some(Difference { entry, was, now: Now::Clone(clone) })
            }
        }
    }

    /// What is beside the content; of a file that differs it is read with that.
    fn learn(&mut self, found: &mut Found, before: Option<&Entry>) {
        let learnt = match before {
            Some(before) => learn_attributes(found, before),
            None if is_file(&found.entry) => Ok(()),
            None => found.attributes().map(|attributes| found.entry.attributes = attributes),
        };
        if let (Err(error), Mode::Quiet { .. }) = (learnt, &self.mode) {
            let detail = format!("attributes: {error}");
            self.findings.add(self.conduct, FindingKind::NotKept, &found.entry.path, detail);
        }
    }

    fn trouble(&mut self, trouble: &Trouble) -> Result<(), Failure> {
        if trouble.extent == Extent::Source {
            return Err(no_source(format!("{trouble}: {}", trouble.error)));
        }
        let is_quiet = matches!(self.mode, Mode::Quiet { .. });
        if is_quiet && trouble.error.kind() != io::ErrorKind::NotFound {
            self.findings.unreadable(self.conduct, &trouble.path, &trouble.error);
        }
        Ok(())
    }
}

impl Was {
    fn of(before: &Entry) -> Self {
        match before.kind {
            Kind::Dir => Self::Directory,
            Kind::Socket => Self::Nothing,
            Kind::File { .. } | Kind::Link { .. } | Kind::Fifo | Kind::Char { .. } | Kind::Block { .. } => Self::Inode,
        }
    }
}

/// A name more or less sets the ctime of an inode. What is no file is not told by that elsewhere, since its content is in its entry.
fn has_same_names(now: &Entry, before: &Entry) -> bool {
    now.kind == Kind::Dir || (now.source.ino, now.source.ctime) == (before.source.ino, before.source.ctime)
}

fn is_file(entry: &Entry) -> bool {
    matches!(entry.kind, Kind::File { .. })
}

/// It is only named.
fn without_blocks(mut entry: Entry) -> Entry {
    if let Kind::File { blocks, holes, .. } = &mut entry.kind {
        (*blocks, *holes) = (None, Vec::new());
    }
    entry
}
