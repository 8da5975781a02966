//! Builds a copy for a service to go on from, gathers what the service has made of it, and removes it in the end.
//!
//! It is built under another name, with every hash compared, synced, marked and only then given its own: what has its own name is whole, and what was cut off is
//! begun anew. What is there already was built for the same failure before a role or an agent died, and serves.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

use super::materialise::{Materialise, Site};
use super::restore::{entries, totals};
use super::restore_checks as checks;
use super::selection::Selection;
use crate::copies::conduct::Conduct;
use crate::copies::failure::{failure, other};
use crate::copies::format::layout::{DATA, LIVE};
use crate::copies::making::take::take_below;
use crate::copies::place::live::{marker, write_marker};
use crate::copies::place::target::{Set, directory};
use crate::engine::copies::catalog::{Cause, FailedOver};
use crate::engine::copies::order::{Failure, FailureKind, Live, Outcome, Phase, Progress};
use crate::engine::copies::plan::{CopyPlan, Quiesce};
use crate::sys::dir::{Dir, Rename};

/// Whoever may reach the data below passes through, and sees nothing of what else is there.
const PASSABLE: u32 = 0o711;
const OWN: u32 = 0o700;

/// Builds it, unless it is there.
pub(in crate::copies) fn materialise_live(
    set: &Set,
    live: &Live,
    conduct: &mut dyn Conduct,
) -> Result<Outcome, Failure> {
    let copy = set.copy(live.seq)?;
    let all = totals(&copy, &Selection::of(&[]), set)?;
    let done = Outcome::Materialised { seq: live.seq, files: all.files, bytes: all.bytes };
    let around = directory(&set.dir, Path::new(LIVE)).map_err(|error| set.failed(LIVE, &error))?;
    let name = OsStr::new(&live.directory);
    match around.sub(Path::new(name)).and_then(|dir| marker(&dir)) {
        Ok(Some(found)) if found.seq == live.seq => return Ok(done),
        Ok(_) => {
            let what =
                format!("{}/{LIVE}/{} is there already, and is something else", set.path().display(), live.directory);
            return Err(failure(FailureKind::Other, what, Some("look at what it is, and move it away")));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(set, name, &error)),
    }
    let mut built = OsString::from(".built-");
    built.push(name);
    let base = begin(set, &around, &built, live)?;
    checks::room(std::iter::once((&base, set.path())), all.data_bytes, set)?;
    let data = directory(&base, Path::new(DATA)).map_err(|error| failed(set, &built, &error))?;
    let shown = set.path().join(LIVE).join(&built).join(DATA).display().to_string();
    let site = Site { base: data, shown, root: Vec::new(), top: None };
    let (files_in_all, bytes_in_all) = (Some(all.files), Some(all.bytes));
    let mut progress = Progress { phase: Phase::Restore, files_in_all, bytes_in_all, ..Progress::default() };
    let mut work = Materialise::new(set, &copy, &mut *conduct, &mut progress)?;
    let made = work.build(&site, entries(&copy, set)?);
    work.finish();
    made?;
    conduct.progress(progress);
    let mark = FailedOver { seq: live.seq, since: live.since, age: live.age };
    finish(&Work { set, base, around, built }, name, &mark, live).map_err(|error| failed(set, name, &error))?;
    Ok(done)
}

/// An empty directory to build in.
fn begin(set: &Set, around: &Dir, built: &OsStr, live: &Live) -> Result<Dir, Failure> {
    let mode = if live.traversable { PASSABLE } else { OWN };
    clear(around, built)
        .and_then(|()| around.make_dir(built, mode))
        .and_then(|()| around.sub(Path::new(built)))
        .map_err(|error| failed(set, built, &error))
}

/// What has been built, under another name than its own.
struct Work<'a> {
    set: &'a Set,
    base: Dir,
    /// `live/`.
    around: Dir,
    built: OsString,
}

fn finish(work: &Work<'_>, name: &OsStr, mark: &FailedOver, live: &Live) -> io::Result<()> {
    let Work { set, base, around, built } = work;
    if live.traversable {
        for passed in [&base.sub(Path::new(DATA))?, base, around, &set.dir] {
            passed.set_mode(PASSABLE)?;
        }
    }
    write_marker(base, mark)?;
    // INVARIANT: all of it is on the disk before it has its name.
    base.sync_fs()?;
    around.rename(built, around, name, Rename::New)?;
    around.sync()
}

fn clear(around: &Dir, name: &OsStr) -> io::Result<()> {
    match around.remove_tree(name, &mut || {}) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A copy of what the service has made of it. It is what the service wrote, whatever it looks like beside the copies before.
pub(in crate::copies) fn gather_live(
    set: &mut Set,
    plan: &CopyPlan,
    name: &str,
    conduct: &mut dyn Conduct,
) -> Result<Outcome, Failure> {
    let root = set.path().join(LIVE).join(name).join(DATA);
    // Who writes there is gone.
    let plan = CopyPlan { quiesce: Quiesce::None, ..plan.clone() };
    let outcome = take_below(&root, set, &plan, Cause::ByHand, conduct)?;
    if let Outcome::Taken { seq, .. } = outcome {
        let incomplete = set.catalog().map_err(|error| set.failed("copies", &error))?;
        let stale = incomplete.copies.iter().find(|copy| copy.seq == seq).map_or(0, |copy| copy.stale);
        if stale > 0 {
            let what = format!("{stale} entries below {} could not be read", root.display());
            return Err(failure(FailureKind::Source, what, Some("see the health of that disk (mainstay checks)")));
        }
        set.update(|state| state.marks_of(seq).accepted = true)?;
    }
    Ok(outcome)
}

/// Removes it: by another name first, so that what is half removed is never taken for whole.
pub(in crate::copies) fn dismiss_live(set: &Set, name: &str) -> Result<Outcome, Failure> {
    let around = directory(&set.dir, Path::new(LIVE)).map_err(|error| set.failed(LIVE, &error))?;
    for prefix in [".built-", ".gone-"] {
        let other_name = OsString::from(format!("{prefix}{name}"));
        if prefix == ".gone-" {
            match around.rename(OsStr::new(name), &around, &other_name, Rename::New) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(other(set.path().join(LIVE).join(name).display(), &error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        clear(&around, &other_name).map_err(|error| failed(set, &other_name, &error))?;
    }
    around.sync().map_err(|error| set.failed(LIVE, &error))?;
    Ok(Outcome::Dismissed)
}

fn failed(set: &Set, name: &OsStr, error: &io::Error) -> Failure {
    set.failed(&format!("{LIVE}/{}", name.to_string_lossy()), error)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::copies::restoring::restore::restore;
    use crate::copies::testing::Fixture;
    use crate::engine::copies::order::{Place, Restore};

    fn live(directory: &str) -> Live {
        let since = crate::engine::types::Time(1_795_329_000_000_000_000);
        Live { seq: 1, directory: directory.to_owned(), since, age: Duration::from_secs(60), traversable: false }
    }

    fn ready() -> Fixture {
        let mut fixture = Fixture::new();
        fixture.fill();
        fixture.copy();
        fixture
    }

    /// Where a source is seen below `live/`.
    fn seen(fixture: &Fixture, directory: &str) -> PathBuf {
        let data = fixture.set.path().join(LIVE).join(directory).join(DATA);
        data.join(fixture.plan.from[0].strip_prefix("/").unwrap())
    }

    #[test]
    fn copy_is_built_whole_or_not_at_all_and_once_is_enough() {
        let mut fixture = ready();
        let around = fixture.set.path().join(LIVE);
        fs::create_dir_all(around.join(".built-a/data/half")).unwrap();
        let made = materialise_live(&fixture.set, &live("a"), &mut fixture.conduct).unwrap();
        assert!(matches!(made, Outcome::Materialised { seq: 1, files: 6, .. }), "{made:?}");
        Fixture::assert_alike(&fixture.plan.from[0], &seen(&fixture, "a"));
        assert_eq!(fs::read_dir(&around).unwrap().count(), 1);
        // What a service has written since is not touched by another order for the same.
        fs::write(seen(&fixture, "a").join("a"), "written since").unwrap();
        assert_eq!(materialise_live(&fixture.set, &live("a"), &mut fixture.conduct).unwrap(), made);
        assert_eq!(fs::read(seen(&fixture, "a").join("a")).unwrap(), b"written since");
        let catalog = fixture.set.catalog().unwrap();
        assert_eq!(catalog.failed_over.map(|over| over.seq), Some(1));
        assert!(catalog.copies[0].in_use);
    }

    #[test]
    fn copy_that_is_bad_is_no_ground_to_go_on_from_and_the_source_is_not_asked() {
        let mut fixture = ready();
        Fixture::rot(&fixture.copied(1, "a"));
        fixture.set.shuns_sources = true;
        let failure = materialise_live(&fixture.set, &live("a"), &mut fixture.conduct).unwrap_err();
        assert_eq!(failure.kind, FailureKind::NoCopy, "{failure:?}");
        assert!(!fixture.set.path().join(LIVE).join("a").exists());
        assert_eq!(fixture.set.catalog().unwrap().failed_over, None);
    }

    #[test]
    fn what_was_written_since_comes_back_and_what_it_lay_in_goes() {
        let mut fixture = ready();
        materialise_live(&fixture.set, &live("a"), &mut fixture.conduct).unwrap();
        fs::write(seen(&fixture, "a").join("new"), "written since").unwrap();
        fs::remove_file(seen(&fixture, "a").join("a")).unwrap();
        let plan = fixture.plan.clone();
        let taken = gather_live(&mut fixture.set, &plan, "a", &mut fixture.conduct).unwrap();
        let Outcome::Taken { seq, .. } = taken else { panic!("{taken:?}") };
        let wanted = Restore { seq: Some(seq), paths: Vec::new(), place: Place::Replace, dry_run: false, force: true };
        let done = restore(&mut fixture.set, &plan, &wanted, &mut fixture.conduct).unwrap();
        let Outcome::Restored { kept, .. } = done else { panic!("{done:?}") };
        assert_eq!(fs::read(fixture.source("new")).unwrap(), b"written since");
        assert!(!fixture.source("a").exists() && kept[0].join("a").exists());
        assert_eq!(dismiss_live(&fixture.set, "a").unwrap(), Outcome::Dismissed);
        assert_eq!(dismiss_live(&fixture.set, "a").unwrap(), Outcome::Dismissed);
        assert_eq!(fs::read_dir(fixture.set.path().join(LIVE)).unwrap().count(), 0);
    }

    #[test]
    fn who_goes_there_by_path_gets_to_the_data_and_to_nothing_else() {
        use std::os::unix::fs::PermissionsExt;
        let mut fixture = ready();
        let wanted = Live { traversable: true, ..live("a") };
        materialise_live(&fixture.set, &wanted, &mut fixture.conduct).unwrap();
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let around = fixture.set.path().to_owned();
        for passed in ["", "live", "live/a", "live/a/data"] {
            assert_eq!(mode(around.join(passed)), PASSABLE, "{passed}");
        }
        assert_eq!(mode(around.join("copies")), OWN);
    }
}
