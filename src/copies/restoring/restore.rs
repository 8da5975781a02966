//! Brings files of a copy back: below another directory, where nothing is overwritten, or into their place, where what is there is kept beside.
//!
//! Everything is built under another name on the file system where it is to be, with every hash compared, and synced, before any of it gets its own name. Whatever
//! ends a restore before that leaves nothing but that name, which the next one takes away.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::exchange::{Spot, SpotKind, merge, opened};
use super::materialise::{Materialise, Site, write_failed};
use super::restore_checks as checks;
use super::selection::{Selection, as_in_manifest};
use crate::copies::checking::joined::{Joined, Step, Surplus, is_at_or_below};
use crate::copies::conduct::Conduct;
use crate::copies::failure::{failure, other};
use crate::copies::format::entry::{Entry, Kind};
use crate::copies::format::layout::MANIFEST;
use crate::copies::place::target::{CommittedCopy, Set};
use crate::engine::copies::catalog::{Catalog, Copy};
use crate::engine::copies::order::{Failure, FailureKind, LINES_MAX, Outcome, Phase, Place, Progress, Restore};
use crate::engine::copies::plan::CopyPlan;
use crate::sys::dir::Dir;

/// Below the directory of a restore elsewhere.
const BUILT: &str = ".mainstay-restore";
/// Files that are named when some are in the way.
pub(in crate::copies) const NAMED_MAX: usize = 5;

pub fn restore(
    set: &mut Set,
    plan: &CopyPlan,
    wanted: &Restore,
    conduct: &mut dyn Conduct,
) -> Result<Outcome, Failure> {
    let seq = match wanted.seq {
        Some(seq) => seq,
        None => newest(set)?,
    };
    let copy = set.copy(seq)?;
    let selection = Selection::of(&wanted.paths);
    let totals = totals(&copy, &selection, set)?;
    let mut job = Job { set, copy, selection, totals, conduct };
    job.is_all_there()?;
    match &wanted.place {
        Place::Into(_) | Place::Replace | Place::Beside if wanted.dry_run => job.dry_run(plan, &wanted.place),
        Place::Into(directory) => job.elsewhere(directory),
        Place::Replace => job.replace(plan, wanted.force),
        Place::Beside => job.beside(plan),
    }
}

/// The newest good copy that was verified, else the newest good one.
fn newest(set: &Set) -> Result<u64, Failure> {
    let catalog = set.catalog().map_err(|error| set.failed("copies", &error))?;
    choose(&catalog).map(|copy| copy.seq).ok_or_else(|| {
        let what = match catalog.copies.last() {
            None => format!("{} has no copies", set.path().display()),
            Some(copy) => {
                format!("{} has no good copy; the newest of the others is {}", set.path().display(), copy.seq)
            }
        };
        let remedy = "`mainstay copies list` says what is wrong with each; one that is named is restored all the same";
        failure(FailureKind::NoCopy, what, Some(remedy))
    })
}

fn choose(catalog: &Catalog) -> Option<&Copy> {
    let good = || catalog.copies.iter().rev().filter(|copy| copy.is_good());
    good().find(|copy| copy.verified.is_some()).or_else(|| good().next())
}

/// What is to be restored.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// Without the holes.
    pub(super) data_bytes: u64,
    /// Whether each wanted path is in the copy is known by how many of them were met.
    roots: usize,
}

pub(super) fn totals(copy: &CommittedCopy, selection: &Selection, set: &Set) -> Result<Totals, Failure> {
    let mut totals = Totals::default();
    for entry in entries(copy, set)? {
        let entry = entry?;
        if !selection.takes(&entry.path) {
            continue;
        }
        totals.roots += usize::from(selection.wanted().contains(&entry.path));
        if let Kind::File { size, holes, .. } = &entry.kind {
            totals.files += 1;
            totals.bytes += size;
            totals.data_bytes += size - holes.iter().map(|(_, length)| length).sum::<u64>().min(*size);
        }
    }
    Ok(totals)
}

pub(super) fn entries<'a>(
    copy: &CommittedCopy,
    set: &'a Set,
) -> Result<impl Iterator<Item = Result<Entry, Failure>> + use<'a>, Failure> {
    let manifest = copy.manifest().map_err(|error| set.failed(MANIFEST, &error))?;
    let seq = copy.commit.seq;
    Ok(manifest.map(move |entry| entry.map_err(|error| damaged(seq, &error))))
}

fn damaged(seq: u64, error: &dyn std::fmt::Display) -> Failure {
    let what = format!("the manifest of copy {seq}: {error}");
    let remedy = "restore from another copy (`mainstay copies list`); the files of this one lie in its data/ and can be copied by hand";
    failure(FailureKind::NoCopy, what, Some(remedy))
}

struct Job<'a> {
    set: &'a mut Set,
    copy: CommittedCopy,
    selection: Selection,
    totals: Totals,
    conduct: &'a mut dyn Conduct,
}

/// Something that is put into its place as a whole.
struct Root {
    /// As in the manifest.
    path: Vec<u8>,
    spot: Spot,
}

impl Job<'_> {
    fn seq(&self) -> u64 {
        self.copy.commit.seq
    }

    fn is_all_there(&self) -> Result<(), Failure> {
        let wanted = self.selection.wanted();
        if wanted == [Vec::<u8>::new()] || self.totals.roots == wanted.len() {
            return Ok(());
        }
        for path in wanted {
            let of_one = totals(&self.copy, &Selection::of_one(path), self.set)?;
            if of_one.roots == 0 {
                let what = format!("copy {} has no {}", self.seq(), shown(path));
                return Err(failure(
                    FailureKind::NoCopy,
                    what,
                    Some("`mainstay copies list` shows older copies, which may have it"),
                ));
            }
        }
        Ok(())
    }

    /// The wanted paths, and of one that leads to sources, those.
    fn roots(&self, plan: &CopyPlan) -> Result<Vec<Root>, Failure> {
        let sources: Vec<Vec<u8>> = plan.from.iter().map(|source| as_in_manifest(source)).collect();
        let mut roots = Vec::new();
        for wanted in self.selection.wanted() {
            if sources.iter().any(|source| is_at_or_below(source, wanted)) {
                roots.push(wanted.clone());
                continue;
            }
            let below = sources.iter().filter(|source| is_at_or_below(wanted, source));
            let known = roots.len();
            for source in below {
                let of_one = totals(&self.copy, &Selection::of_one(source), self.set)?;
                if of_one.roots > 0 {
                    roots.push(source.clone());
                }
            }
            if roots.len() == known {
                let what = format!("{} is no source of this set, nor within one", shown(wanted));
                return Err(failure(FailureKind::Other, what, Some("restore it to another place with --into")));
            }
        }
        let now = self.conduct.now();
        roots
            .into_iter()
            .map(|path| {
                let place = Path::new("/").join(OsStr::from_bytes(&path));
                let spot = Spot::look(&place, &plan.from, self.seq(), now).map_err(|error| {
                    let remedy = "make the directory that it belongs in, or restore to another place with --into";
                    failure(FailureKind::Other, format!("{}: {error}", place.display()), Some(remedy))
                })?;
                Ok(Root { path, spot })
            })
            .collect()
    }

    fn replace(&mut self, plan: &CopyPlan, force: bool) -> Result<Outcome, Failure> {
        let roots = self.roots(plan)?;
        let places: Vec<PathBuf> = roots.iter().map(|root| root.spot.path.clone()).collect();
        checks::no_mounts_below(&places)?;
        if !force {
            checks::nobody_writes(&places)?;
        }
        for root in &roots {
            checks::no_database_log_is_left(&root.spot, &self.copy, &root.path, &places)?;
        }
        checks::room(roots.iter().map(|root| (&root.spot.dir, root.spot.around())), self.totals.data_bytes, self.set)?;
        let mut progress = self.progress();
        let built = self.build_roots(&roots, &mut progress);
        let replaced = built.and_then(|()| self.exchange(&roots, &plan.from));
        if replaced.is_err() {
            clear(&roots);
        }
        let kept = replaced?;
        self.conduct.progress(progress);
        Ok(Outcome::Restored { seq: self.seq(), files: progress.files, bytes: progress.bytes, kept })
    }

    /// Who uses what is there may go on: it is looked at when it is exchanged.
    fn beside(&mut self, plan: &CopyPlan) -> Result<Outcome, Failure> {
        let roots = self.roots(plan)?;
        let places: Vec<PathBuf> = roots.iter().map(|root| root.spot.path.clone()).collect();
        checks::no_mounts_below(&places)?;
        checks::room(roots.iter().map(|root| (&root.spot.dir, root.spot.around())), self.totals.data_bytes, self.set)?;
        let mut progress = self.progress();
        let built = self.build_roots(&roots, &mut progress).and_then(|()| {
            let swap = |root: &Root| root.spot.swap().map_err(|error| other(root.spot.path.display(), &error));
            roots.iter().map(swap).collect()
        });
        if built.is_err() {
            clear(&roots);
        }
        self.conduct.progress(progress);
        Ok(Outcome::Built { seq: self.seq(), files: progress.files, bytes: progress.bytes, swaps: built? })
    }

    fn build_roots(&mut self, roots: &[Root], progress: &mut Progress) -> Result<(), Failure> {
        for Root { path, spot } in roots {
            spot.clear().map_err(|error| other(spot.around().join(&spot.built).display(), &error))?;
            let base = spot.dir.again().map_err(|error| other(spot.around().display(), &error))?;
            let shown = spot.around().display().to_string();
            let site = Site { base, shown, root: path.clone(), top: Some(spot.built.clone()) };
            let selection = Selection::of_one(path);
            let entries = entries(&self.copy, self.set)?
                .filter(move |entry| entry.as_ref().map_or(true, |entry| selection.takes(&entry.path)));
            let mut work = Materialise::new(self.set, &self.copy, &mut *self.conduct, progress)?;
            work.build(&site, entries)?;
            work.finish();
            site.base.sync_fs().map_err(|error| write_failed(&site, b"", &error))?;
        }
        Ok(())
    }

    /// All that was built into its place. When one will not go, those before it come back.
    fn exchange(&mut self, roots: &[Root], sources: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
        let mut done: Vec<(&Root, bool)> = Vec::new();
        for root in roots {
            match root.spot.replace().and_then(|kept| self.dress_mount(root, sources).map(|()| kept)) {
                Ok(is_kept) => done.push((root, is_kept)),
                Err(error) => return Err(undone(root, &error, &done)),
            }
        }
        Ok(done.into_iter().filter(|(_, is_kept)| *is_kept).map(|(root, _)| root.spot.kept_path()).collect())
    }

    /// A mount point was not built anew, so it gets the metadata of its entry.
    fn dress_mount(&self, root: &Root, sources: &[PathBuf]) -> io::Result<()> {
        let (SpotKind::MountPoint, Some(parent), Some(name)) =
            (root.spot.kind, root.spot.path.parent(), root.spot.path.file_name())
        else {
            return Ok(());
        };
        let entries = entries(&self.copy, self.set).map_err(|failure| io::Error::other(failure.what))?;
        let entry = entries.filter_map(Result::ok).find(|entry| entry.path == root.path);
        match entry {
            Some(entry) => crate::copies::making::file::dress(&opened(parent, sources)?, name, &entry).map(drop),
            None => Ok(()),
        }
    }

    fn elsewhere(&mut self, directory: &Path) -> Result<Outcome, Failure> {
        if directory.starts_with(self.set.path()) {
            let what = format!("{} lies within the copies themselves, which nobody writes to", directory.display());
            return Err(failure(FailureKind::Other, what, Some("restore to another directory")));
        }
        let failed = |error: &io::Error| {
            let remedy = "give --into a directory that is there, or whose parent is";
            failure(FailureKind::Other, format!("{}: {error}", directory.display()), Some(remedy))
        };
        let base = opened_or_made(directory).map_err(|error| failed(&error))?;
        self.nothing_is_in_the_way(&base, directory)?;
        checks::room(std::iter::once((&base, directory)), self.totals.data_bytes, self.set)?;
        let built = OsStr::new(BUILT);
        let mut progress = self.progress();
        let done = self.build_into(&base, directory, &mut progress);
        if done.is_err() {
            // It failed already; what stays is taken away by the next restore.
            let _ = base.remove_tree(built, &mut || {});
        }
        done?;
        self.conduct.progress(progress);
        Ok(Outcome::Restored { seq: self.seq(), files: progress.files, bytes: progress.bytes, kept: Vec::new() })
    }

    fn build_into(&mut self, base: &Dir, directory: &Path, progress: &mut Progress) -> Result<(), Failure> {
        let built = OsStr::new(BUILT);
        let failed = |error: io::Error| other(directory.join(BUILT).display(), &error);
        match base.remove_tree(built, &mut || {}) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Ok(_) | Err(_) => {}
        }
        base.make_dir(built, 0o700).map_err(failed)?;
        let within = base.sub(Path::new(built)).map_err(failed)?;
        let site =
            Site { base: within, shown: directory.join(BUILT).display().to_string(), root: Vec::new(), top: None };
        let selection = self.selection.clone();
        let entries = entries(&self.copy, self.set)?.filter(move |entry| {
            entry.as_ref().map_or(true, |entry| selection.takes(&entry.path) || selection.leads(&entry.path))
        });
        let mut work = Materialise::new(self.set, &self.copy, &mut *self.conduct, progress)?;
        work.build(&site, entries)?;
        work.finish();
        site.base.sync_fs().map_err(failed)?;
        merge(&site.base, base).map_err(failed)?;
        base.remove_dir(built).and_then(|()| base.sync_fs()).map_err(failed)
    }

    /// Of what is to be built, nothing but directories may be there.
    fn nothing_is_in_the_way(&self, base: &Dir, directory: &Path) -> Result<(), Failure> {
        let selection = self.selection.clone();
        let entries = entries(&self.copy, self.set)?.filter(move |entry| {
            entry.as_ref().map_or(true, |entry| selection.takes(&entry.path) || selection.leads(&entry.path))
        });
        let failed = |error: io::Error| other(directory.display(), &error);
        let root = std::sync::Arc::new(base.again().map_err(failed)?);
        let mut joined = Joined::new(root, entries, Surplus::Ignore).map_err(failed)?;
        let (mut named, mut count) = (Vec::new(), 0_u64);
        while let Some(step) = joined.step() {
            let (entry, dir) = match step? {
                Step::Present { entry, dir, stat } => {
                    if matches!(entry.kind, Kind::Dir) && stat.kind() == crate::sys::dir::FileType::Dir {
                        continue;
                    }
                    (entry, Some(dir))
                }
                Step::Missing { entry } => {
                    checks::no_log_beside(&entry, joined.directory(), directory, &self.copy)?;
                    continue;
                }
                Step::Unreadable { entry, .. } => (entry, None),
                Step::Surplus { .. } => continue,
            };
            drop(dir);
            count += 1;
            if named.len() < NAMED_MAX {
                named.push(directory.join(OsStr::from_bytes(&entry.path)).display().to_string());
            }
        }
        if count == 0 {
            return Ok(());
        }
        let more =
            if count > NAMED_MAX as u64 { format!(" and {} more", count - NAMED_MAX as u64) } else { String::new() };
        let what = format!("nothing is overwritten, and these are there already: {}{more}", named.join(", "));
        Err(failure(FailureKind::InUse, what, Some("give --into an empty directory, or use --replace")))
    }

    fn progress(&self) -> Progress {
        Progress {
            phase: Phase::Restore,
            files: 0,
            bytes: 0,
            files_in_all: Some(self.totals.files),
            bytes_in_all: Some(self.totals.bytes),
        }
    }

    fn dry_run(&mut self, plan: &CopyPlan, place: &Place) -> Result<Outcome, Failure> {
        let mut lines = Lines::default();
        let live = match place {
            Place::Into(directory) => {
                lines.push(|| {
                    format!("{} files, {} bytes below {}", self.totals.files, self.totals.bytes, directory.display())
                });
                directory.clone()
            }
            Place::Replace | Place::Beside => {
                for root in self.roots(plan)? {
                    let (path, kept) = (root.spot.path.display(), root.spot.kept_path());
                    lines.push(|| match root.spot.kind {
                        SpotKind::Free => format!("{path}: nothing is there now"),
                        SpotKind::Taken => format!("{path}: what is there is kept as {}", kept.display()),
                        SpotKind::MountPoint => {
                            format!(
                                "{path}: a mount point; what is in it is kept in {}, one after the other",
                                kept.display()
                            )
                        }
                    });
                }
                PathBuf::from("/")
            }
        };
        for entry in entries(&self.copy, self.set)? {
            let entry = entry?;
            if self.conduct.is_cancelled() {
                return Err(crate::copies::failure::cancelled());
            }
            if self.selection.takes(&entry.path) {
                checks::compare(&live, &entry, &mut lines);
            }
        }
        Ok(Outcome::WouldRestore { seq: self.seq(), lines: lines.lines, more: lines.more })
    }
}

/// Of a dry run.
#[derive(Debug, Default)]
pub(in crate::copies) struct Lines {
    lines: Vec<String>,
    more: u64,
}

impl Lines {
    pub(in crate::copies) fn push(&mut self, line: impl FnOnce() -> String) {
        if self.lines.len() < LINES_MAX { self.lines.push(line()) } else { self.more += 1 }
    }
}

/// After a failure; what stays is taken away by the next restore.
fn clear(roots: &[Root]) {
    for root in roots {
        // It failed already.
        let _ = root.spot.clear();
    }
}

fn undone(root: &Root, error: &io::Error, done: &[(&Root, bool)]) -> Failure {
    let mut what = format!("{}: {error}", root.spot.path.display());
    for (before, is_kept) in done.iter().rev() {
        if let Err(error) = before.spot.undo(*is_kept) {
            what.push_str(&format!("; {} stays restored: {error}", before.spot.path.display()));
        }
    }
    if root.spot.kind == SpotKind::MountPoint {
        what.push_str(&format!("; what was there and is not any more lies in {}", root.spot.kept_path().display()));
    }
    failure(
        FailureKind::Other,
        what,
        Some("see the health of that disk (mainstay checks), or restore to another place with --into"),
    )
}

/// The directory, which is made where only it is missing.
fn opened_or_made(directory: &Path) -> io::Result<Dir> {
    match Dir::open(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let (Some(parent), Some(name)) = (directory.parent(), directory.file_name()) else { return Err(error) };
            Dir::open(parent)?.make_dir(name, 0o700)?;
            Dir::open(directory)
        }
        opened => opened,
    }
}

pub(in crate::copies) fn shown(path: &[u8]) -> String {
    crate::copies::checking::inspect::people(path)
}
