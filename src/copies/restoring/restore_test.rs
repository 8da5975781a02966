//! Restores some files of the newest copy into scratch space on the disk of the source, compares them and removes them: a proof that a restore works, and not
//! only that the copies are whole.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::materialise::{Materialise, Site};
use crate::copies::checking::compare::Eyes;
use crate::copies::checking::inspect::people;
use crate::copies::checking::joined::{Joined, Step, Surplus, is_at_or_below};
use crate::copies::checking::readers::hash_from_disk;
use crate::copies::conduct::Conduct;
use crate::copies::failure::{failure, other};
use crate::copies::format::entry::{Entry, Kind, order};
use crate::copies::format::layout::MANIFEST;
use crate::copies::place::target::{CommittedCopy, Set};
use crate::engine::copies::order::{Failure, FailureKind, Finding, FindingKind, Outcome, Phase, Progress};
use crate::engine::copies::plan::CopyPlan;
use crate::sys::dir::{Dir, FileType};
use crate::sys::host::random_u64;

/// Files that are chosen at random.
const RANDOM: usize = 50;
/// The largest of those that no other copy has.
const LARGEST: usize = 3;
/// Of the room on the disk of the source, this part may be used for it.
const ROOM_PART: u64 = 10;
const BUFFER_BYTES: usize = 128 << 10;

/// Candidates, in the order of the manifest.
#[derive(Debug)]
struct Chosen {
    size: u64,
    path: Vec<u8>,
}

/// `Tested` with no files: there is nothing in the copy, or nothing that there is room for.
pub fn restore_test(set: &mut Set, plan: &CopyPlan, conduct: &mut dyn Conduct) -> Result<Outcome, Failure> {
    let newest = set.listed()?.pop().ok_or_else(|| {
        let what = format!("{} has no copies", set.path().display());
        failure(FailureKind::NoCopy, what, Some("`mainstay copies run` makes one"))
    })?;
    let copy = set.open(newest)?;
    let seq = copy.commit.seq;
    let (base, scratch) = scratch(plan, set.name())?;
    let name = OsStr::new(scratch.file_name().unwrap_or_default());
    let failed = |error: io::Error| other(scratch.display(), &error);
    clear(&base, name).map_err(failed)?;
    let room = base.space().map_err(failed)?.free_bytes / ROOM_PART;
    let paths = choose(set, &copy, room)?;
    base.make_dir(name, 0o700).map_err(failed)?;
    let tested = try_out(set, &copy, &base.sub(Path::new(name)).map_err(failed)?, &scratch, &paths, conduct);
    let cleared = clear(&base, name).map_err(failed);
    let files = tested?;
    cleared?;
    let now = conduct.now();
    set.update(|state| state.restore_tested = Some(now))?;
    Ok(Outcome::Tested { seq, files })
}

/// Beside the first source that is there.
fn scratch(plan: &CopyPlan, name: &str) -> Result<(Dir, PathBuf), Failure> {
    for source in &plan.from {
        let Some(parent) = source.parent() else { continue };
        if let Ok(dir) = Dir::open(parent) {
            return Ok((dir, parent.join(format!(".mainstay-restore-test-{name}"))));
        }
    }
    let what = "no source has a directory that it lies in".to_owned();
    Err(failure(FailureKind::Source, what, Some("mount the disk of the source")))
}

fn clear(base: &Dir, name: &OsStr) -> io::Result<()> {
    match base.remove_tree(name, &mut || {}) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Some of all files, and the largest of those that were written for this copy, as far as there is room.
fn choose(set: &Set, copy: &CommittedCopy, room: u64) -> Result<Vec<Vec<u8>>, Failure> {
    let (mut some, mut largest): (Vec<Chosen>, Vec<Chosen>) = (Vec::new(), Vec::new());
    let mut met = 0_u64;
    let data = copy.data.again().map_err(|error| set.failed("data", &error))?;
    let manifest = copy.manifest().map_err(|error| set.failed(MANIFEST, &error))?;
    let mut joined =
        Joined::new(Arc::new(data), manifest, Surplus::Ignore).map_err(|error| set.failed("data", &error))?;
    while let Some(step) = joined.step() {
        let step = step.map_err(|error| other(format!("the manifest of copy {}", copy.commit.seq), &error))?;
        let Step::Present { entry, stat, .. } = step else { continue };
        let Kind::File { size, .. } = entry.kind else { continue };
        met += 1;
        if size > room {
            continue;
        }
        if stat.nlink == 1 && largest.last().is_none_or(|last| largest.len() < LARGEST || size > last.size) {
            largest.push(Chosen { size, path: entry.path.clone() });
            largest.sort_by_key(|chosen| std::cmp::Reverse(chosen.size));
            largest.truncate(LARGEST);
        }
        // Each file so far is among them with the same probability (Vitter, algorithm R).
        let at = usize::try_from(random_u64() % met).unwrap_or(usize::MAX);
        let chosen = Chosen { size, path: entry.path };
        if some.len() < RANDOM {
            some.push(chosen);
        } else if let Some(place) = some.get_mut(at) {
            *place = chosen;
        }
    }
    let mut left = room;
    let fits = largest.into_iter().chain(some).filter(|chosen| {
        let is_room = chosen.size <= left;
        left -= if is_room { chosen.size } else { 0 };
        is_room
    });
    let mut paths: Vec<Vec<u8>> = fits.map(|chosen| chosen.path).collect();
    paths.sort_by(|a, b| order(a, b));
    paths.dedup();
    Ok(paths)
}

fn try_out(
    set: &Set,
    copy: &CommittedCopy,
    base: &Dir,
    shown: &Path,
    paths: &[Vec<u8>],
    conduct: &mut dyn Conduct,
) -> Result<u64, Failure> {
    let files_in_all = Some(paths.len() as u64);
    let mut progress = Progress { phase: Phase::Restore, files_in_all, ..Progress::default() };
    let again = base.again().map_err(|error| other(shown.display(), &error))?;
    let site = Site { base: again, shown: shown.display().to_string(), root: Vec::new(), top: None };
    let mut work = Materialise::new(set, copy, conduct, &mut progress)?;
    work.build(&site, chosen(set, copy, paths)?)?;
    work.finish();
    // What is compared is to come from the disk.
    base.sync_fs().map_err(|error| other(shown.display(), &error))?;
    let root = Arc::new(base.again().map_err(|error| other(shown.display(), &error))?);
    let mut joined =
        Joined::new(root, chosen(set, copy, paths)?, Surplus::Tell).map_err(|error| other(shown.display(), &error))?;
    let eyes = Eyes::of_this_process();
    let (mut files, mut buffer) = (0, vec![0; BUFFER_BYTES]);
    while let Some(step) = joined.step() {
        let why = match step? {
            Step::Present { entry, dir, stat } => {
                files += u64::from(stat.kind() == FileType::File);
                wrong(eyes, &entry, &dir, &stat, &mut buffer).map(|why| (entry.path, why))
            }
            Step::Missing { entry } if !eyes.expect(&entry) => None,
            Step::Missing { entry } => Some((entry.path, "it was not restored".to_owned())),
            Step::Unreadable { entry, error } => Some((entry.path, error.to_string())),
            Step::Surplus { path } => Some((path, "it is in no copy".to_owned())),
        };
        if let Some((path, why)) = why {
            return Err(not_as_it_was(&path, &why, conduct));
        }
    }
    Ok(files)
}

fn not_as_it_was(path: &[u8], why: &str, conduct: &mut dyn Conduct) -> Failure {
    let path = people(path);
    let detail = format!("restored for a test, it is not as it was: {why}");
    conduct.finding(Finding { kind: FindingKind::Rot, path: path.clone(), detail: detail.clone() });
    let remedy = "`mainstay copies verify` tells whether the copy or the disk of the source is at fault";
    failure(FailureKind::Other, format!("{path}: {detail}"), Some(remedy))
}

/// The entries of these paths and of the directories that lead to them.
fn chosen<'a>(
    set: &Set,
    copy: &CommittedCopy,
    paths: &'a [Vec<u8>],
) -> Result<impl Iterator<Item = Result<Entry, Failure>> + use<'a>, Failure> {
    let manifest = copy.manifest().map_err(|error| set.failed(MANIFEST, &error))?;
    let seq = copy.commit.seq;
    Ok(manifest.filter_map(move |entry| match entry {
        // In the order of the manifest, what is at or below a directory follows it.
        Ok(entry) => {
            let from = paths.partition_point(|path| order(path, &entry.path).is_lt());
            let leads = paths.get(from).is_some_and(|path| {
                *path == entry.path || (matches!(entry.kind, Kind::Dir) && is_at_or_below(&entry.path, path))
            });
            leads.then_some(Ok(entry))
        }
        Err(error) => Some(Err(other(format!("the manifest of copy {seq}"), &error))),
    }))
}

/// In what a restored file is not as its entry says.
fn wrong(eyes: Eyes, entry: &Entry, dir: &Dir, stat: &crate::sys::dir::Stat, buffer: &mut [u8]) -> Option<String> {
    let mut differences = eyes.stat(entry, stat);
    match eyes.rest(entry, dir, entry.name()) {
        Ok(more) => differences.extend(more),
        Err(error) => return Some(error.to_string()),
    }
    if !differences.is_empty() {
        return Some(crate::copies::checking::compare::listed(&differences));
    }
    let Kind::File { hash, .. } = &entry.kind else { return None };
    match dir.read(entry.name()).and_then(|file| hash_from_disk(&file, buffer, &mut |_| true)) {
        Ok(found) if found == *hash => None,
        Ok(_) => Some("its content is another".to_owned()),
        Err(error) => Some(error.to_string()),
    }
}
