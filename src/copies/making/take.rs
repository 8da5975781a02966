//! Making a copy, step by step. Each step leaves on the disk what the next one needs, and whatever ends it in between leaves nothing that looks like a copy.
//!
//! 1. What has changed since the newest good copy? Nothing: that is written down, and it was all.
//! 2. The tree is built in `work/`, unchanged files linked, changed ones read ([`super::build`]), and made one of the moment at which a service holds still
//!    ([`super::still`]). Nothing is synced yet.
//! 3. One `syncfs`: all of it is on the disk, or the copy is thrown away. It is never tried twice, because the kernel forgets what it could not write.
//! 4. What was written is read again from the disk.
//! 5. `COMMIT` is written and synced: a tree with a COMMIT is whole, because 3 came before.
//! 6. The tree is renamed to `copies/`, and that is synced: the copy exists.
//! 7. `latest` and the state of the set follow. Neither is needed for anything that is in a copy.
//!
//! Older copies are at no point touched: to build is to make names and files beside them.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::build::{Broken, Build, Built, State};
use super::cursor::Cursor;
use super::databases::Databases;
use super::exclude::Exclude;
use super::fresh::Fresh;
use super::merge::Merge;
use super::older::Older;
use super::readback::{Wish, read_back};
use super::scan::Scan;
use super::still::{self, Draft, Drafting};
use super::survey::{Against, Extent, Survey};
use crate::copies::conduct::Conduct;
use crate::copies::failure::{cancelled, failure, full, on_target, other};
use crate::copies::findings::Findings;
use crate::copies::format::commit::{Commit, FORMAT};
use crate::copies::format::entry::hex;
use crate::copies::format::layout::{COMMIT, COPIES, DATA, LATEST, MANIFEST, WORK, below_root, directory_of};
use crate::copies::format::manifest::{ManifestError, Writer};
use crate::copies::place::catalog::{self, Listed};
use crate::copies::place::prune::point_latest;
use crate::copies::place::recover::{recover, remove};
use crate::copies::place::reserve;
use crate::copies::place::target::{CommittedCopy, Set};
use crate::engine::copies::catalog::{Cause, Suspicion, Unchanged};
use crate::engine::copies::order::{Failure, FailureKind, Outcome, Phase, Progress};
use crate::engine::copies::plan::{CopyPlan, Quiesce};
use crate::engine::copies::rotate::BUILT;
use crate::engine::types::Time;
use crate::sys::dir::{Dir, Rename};

/// Files that look changed and are not are read anew in each run, until a copy is made. Beyond so much of it, one is made for that.
const HASHED_BYTES_MAX: u64 = 64 << 20;
/// Inodes that others may need.
const INODES_KEPT: u64 = 1_000;
/// The clock may go back by so much between two copies.
const CLOCK_BACK_MAX: Duration = Duration::from_secs(120);
/// Without a copy for longer than this, a clock that nothing disciplines is not believed.
const CLOCK_AHEAD_MAX: Duration = Duration::from_secs(30 * 86_400);
const CLOCK_AHEAD_INTERVALS: u32 = 10;
/// 2026-01-01: before this program was written.
const CLOCK_FIRST: Time = Time(1_767_225_600_000_000_000);

/// Makes a copy, unless nothing has changed.
pub fn take(set: &mut Set, plan: &CopyPlan, cause: Cause, conduct: &mut dyn Conduct) -> Result<Outcome, Failure> {
    take_below(Path::new("/"), set, plan, cause, conduct)
}

/// The same of sources that lie below this directory, each under its whole path.
pub(in crate::copies) fn take_below(
    root: &Path,
    set: &mut Set,
    plan: &CopyPlan,
    cause: Cause,
    conduct: &mut dyn Conduct,
) -> Result<Outcome, Failure> {
    let began = conduct.now();
    recover(set, conduct)?;
    let exclude = Exclude::new(&plan.exclude).map_err(|error| other("exclude", &error))?;
    let mut run = Run {
        root,
        plan,
        exclude,
        cause,
        began,
        quiesced: false,
        put_off: BTreeSet::new(),
        findings: Findings::default(),
        missing: 1,
    };
    let taken = run.take(set, conduct);
    run.release(conduct);
    run.findings.sum_up(conduct);
    match taken {
        Ok(outcome) => Ok(outcome),
        Err(failure) => {
            // The failure is what there is to tell; whatever is left of the work is removed before the next run.
            let _ = crate::copies::place::recover::empty_work(set);
            if failure.kind == FailureKind::Full {
                conduct.full(run.missing);
            }
            Err(failure)
        }
    }
}

struct Run<'a> {
    /// Where the sources are read.
    root: &'a Path,
    plan: &'a CopyPlan,
    exclude: Exclude,
    cause: Cause,
    began: Time,
    quiesced: bool,
    /// What is not read before a service holds still.
    put_off: BTreeSet<u64>,
    findings: Findings,
    /// Bytes for which there is no room, as far as that is known.
    missing: u64,
}

/// A copy on its way.
struct Making {
    seq: u64,
    /// Its name in `copies/`, and in `work/` until then.
    directory: OsString,
    work: OsString,
    dir: Dir,
}

impl Run<'_> {
    fn take(&mut self, set: &mut Set, conduct: &mut dyn Conduct) -> Result<Outcome, Failure> {
        if matches!(self.plan.quiesce, Quiesce::Exec { .. }) {
            // It may be what makes the files that are to be copied.
            self.quiesce(conduct)?;
        }
        self.sources_are_there()?;
        let listed = set.listed()?;
        let newest = listed.last().cloned();
        let base = base_of(set, &listed);
        let base = base.map(|listed| set.open(listed)).transpose()?;
        let reflinks = set.state().reflinks;
        let survey = self.survey(set, base.as_ref(), Extent::Whole, reflinks, conduct)?;
        if let Some(same) = base.as_ref().filter(|_| !survey.differs) {
            return self.unchanged(set, same.commit.seq);
        }
        let is_other = |newest: &Listed| base.as_ref().is_none_or(|base| base.commit.seq != newest.commit.seq);
        // What is bad about it may be its manifest: nothing is known to be like it.
        let other = newest.clone().filter(|newest| is_other(newest) && catalog::copy(newest, set.state()).bad == 0);
        if let Some(newest) = other {
            let seq = newest.commit.seq;
            let newest = set.open(newest)?;
            let again = self.survey(set, Some(&newest), Extent::FirstDifference, reflinks, conduct)?;
            if !again.differs {
                return self.unchanged(set, seq);
            }
        }
        let before = base.as_ref().map(|base| (base.commit.files, base.commit.bytes));
        let suspect = survey.suspicion(before, self.plan.max_shrink_permille);
        let reflinks = set.probe()?;
        // The room for it is no condition of a copy.
        let _ = reserve::make(&set.place.root);
        self.preflight(set, &survey)?;
        self.make(set, base.as_ref(), newest.as_ref(), survey, Judged { suspect, reflinks }, conduct)
    }

    fn make(
        &mut self,
        set: &mut Set,
        base: Option<&CommittedCopy>,
        newest: Option<&Listed>,
        survey: Survey,
        judged: Judged,
        conduct: &mut dyn Conduct,
    ) -> Result<Outcome, Failure> {
        let making = begin(set, self.began)?;
        let sources = survey.sources_seen();
        let built = self.build_still(set, &making, base, survey, judged.reflinks, conduct)?;
        let tally = built.tally;
        if let Some(base) = base.filter(|_| tally.differing == 0 && tally.hashed_bytes <= HASHED_BYTES_MAX) {
            remove(set, &set.work, &making.work).map_err(|error| set.failed(WORK, &error))?;
            return self.unchanged(set, base.commit.seq);
        }
        let commit = Commit {
            format: FORMAT,
            set: set.name().to_owned(),
            seq: making.seq,
            at: self.began,
            took: 0,
            cause: self.cause,
            manifest: hex(&built.summary.hash),
            entries: built.summary.entries,
            files: built.summary.files,
            bytes: built.summary.bytes,
            written_bytes: tally.written_bytes,
            stale: tally.stale,
            unstable: tally.unstable,
            suspect: judged.suspect,
            clock_suspect: self.is_clock_suspect(newest, conduct),
            large: built.summary.large,
            large_over: self.plan.space.large.map_or(0, |large| large.over),
            sources,
            previous: newest.map(|newest| hash_of(&newest.commit)).transpose()?,
        };
        self.commit(set, &making, &built, commit, conduct)?;
        Ok(Outcome::Taken {
            seq: making.seq,
            files: built.summary.files,
            written_bytes: tally.written_bytes,
            linked: tally.linked,
        })
    }

    /// Steps 3 to 7.
    fn commit(
        &mut self,
        set: &mut Set,
        making: &Making,
        built: &Built,
        mut commit: Commit,
        conduct: &mut dyn Conduct,
    ) -> Result<(), Failure> {
        let phase =
            |phase| Progress { phase, files: built.summary.files, bytes: built.summary.bytes, ..Progress::default() };
        conduct.progress(phase(Phase::Sync));
        set.dir.sync_fs().map_err(|error| set.failed(WORK, &error))?;
        let wish = Wish { which: self.plan.read_back, is_paced: self.plan.bandwidth.is_some() };
        read_back(&making.dir, built, wish, conduct).map_err(|failed| failed.within(set, &making.work))?;
        if conduct.is_cancelled() {
            return Err(cancelled());
        }
        conduct.progress(phase(Phase::Commit));
        set.still_there()?;
        commit.took = u64::try_from(conduct.now().since(self.began).as_nanos()).unwrap_or(u64::MAX);
        write_commit(&making.dir, &commit).map_err(|failed| failed.within(set, &making.work))?;
        let failed = |error: std::io::Error| set.failed(COPIES, &error);
        set.work.rename(&making.work, &set.copies, &making.directory, Rename::New).map_err(failed)?;
        // INVARIANT: from here on the copy is there. What fails now must not say otherwise, but a sync of its directory.
        set.copies.sync().and_then(|()| set.work.sync()).map_err(failed)?;
        if let Err(error) = point_latest(&set.dir, &making.directory) {
            let detail = format!("it cannot be made to lead to the newest copy: {error}");
            set.stray(LATEST.to_owned(), detail);
        }
        for stray in set.strays() {
            conduct.finding(stray);
        }
        set.update(|state| {
            state.last_seq = state.last_seq.max(making.seq);
            state.unchanged = None;
        })
    }

    /// Of one moment, where a service can be made to hold still for that.
    fn build_still(
        &mut self,
        set: &mut Set,
        making: &Making,
        base: Option<&CommittedCopy>,
        survey: Survey,
        reflinks: bool,
        conduct: &mut dyn Conduct,
    ) -> Result<Built, Failure> {
        if !still::is_wanted(self.plan) {
            self.quiesce(conduct)?;
            let built = self.build(set, making, base, survey, reflinks, conduct)?;
            self.release(conduct);
            return Ok(built);
        }
        self.put_off = still::written(self.plan);
        let built = self.build(set, making, base, survey, reflinks, &mut Drafting(conduct))?;
        if built.tally.differing == 0 {
            return Ok(built);
        }
        let shown = set.path().join(WORK).join(&making.work).display().to_string();
        let (plan, exclude, findings) = (self.plan, &self.exclude, &mut self.findings);
        Draft { plan, exclude, dir: &making.dir, shown, built, reflinks, findings }.settle(conduct)
    }

    fn build(
        &mut self,
        set: &mut Set,
        making: &Making,
        base: Option<&CommittedCopy>,
        survey: Survey,
        reflinks: bool,
        conduct: &mut dyn Conduct,
    ) -> Result<Built, Failure> {
        let shown = set.path().join(WORK).join(&making.work).display().to_string();
        let failed = |error: std::io::Error| on_target(&shown, &error);
        let manifest = making.dir.create(OsStr::new(MANIFEST), 0o600).map_err(failed)?;
        let writer = Writer::new(manifest.try_clone().map_err(failed)?)
            .large_over(self.plan.space.large.map(|large| large.over));
        let older = base.map(|base| base.data.again().map(Cursor::new)).transpose().map_err(failed)?;
        let data = making.dir.sub(DATA.as_ref()).map_err(failed)?;
        let merge = merge(self.plan, base, |from| Scan::below(self.root, from, &self.exclude))?
            .map_err(|error| damaged(set, base, &error))?;
        let build = Build {
            findings: &mut self.findings,
            older,
            newer: Cursor::new(data),
            manifest: writer,
            moved: survey.moved,
            fresh: Fresh::new(reflinks, self.quiesced).map_err(failed)?,
            put_off: std::mem::take(&mut self.put_off),
            databases: (!still::is_wanted(self.plan)).then(Databases::default),
            shown: shown.clone(),
            expected: Progress {
                files_in_all: Some(survey.files),
                bytes_in_all: Some(survey.bytes),
                ..Progress::default()
            },
            state: State::default(),
            conduct,
        };
        match build.run(merge) {
            Ok(built) => {
                manifest.sync_all().map_err(failed)?;
                Ok(built)
            }
            Err(Broken::Failure(failure)) => Err(failure),
            Err(Broken::Older(error)) => Err(damaged(set, base, &error)),
        }
    }

    fn survey(
        &self,
        set: &mut Set,
        base: Option<&CommittedCopy>,
        extent: Extent,
        reflinks: bool,
        conduct: &mut dyn Conduct,
    ) -> Result<Survey, Failure> {
        let stale = base.map_or(0, |base| base.commit.stale);
        let against = Against { from: &self.plan.from, stale, extent, reflinks };
        let mut each = |survey: &Survey| {
            if survey.entries.is_multiple_of(1024) {
                let (files, bytes) = (survey.files, survey.bytes);
                conduct.progress(Progress { phase: Phase::Scan, files, bytes, ..Progress::default() });
            }
            !conduct.is_cancelled()
        };
        let surveyed = merge(self.plan, base, |from| Scan::below(self.root, from, &self.exclude).scouted())?
            .and_then(|merge| Survey::of(merge, against, &mut each));
        match surveyed {
            Ok(Some(Survey { lost_source: Some(what), .. })) => Err(no_source(what)),
            Ok(Some(survey)) => Ok(survey),
            Ok(None) => Err(cancelled()),
            Err(error) => Err(damaged(set, base, &error)),
        }
    }

    /// Nothing is to be copied: that is worth knowing, too.
    fn unchanged(&self, set: &mut Set, seq: u64) -> Result<Outcome, Failure> {
        set.update(|state| state.unchanged = Some(Unchanged { at: self.began, seq }))?;
        Ok(Outcome::Unchanged { seq })
    }

    fn sources_are_there(&self) -> Result<(), Failure> {
        for source in &self.plan.from {
            if let Err(error) = self.root.join(below_root(source)).symlink_metadata() {
                return Err(no_source(format!("{}: {error}", source.display())));
            }
        }
        Ok(())
    }

    /// Whether there will be room for it.
    fn preflight(&mut self, set: &Set, survey: &Survey) -> Result<(), Failure> {
        let space = set.dir.space().map_err(|error| set.failed("", &error))?;
        let share = u128::from(space.size_bytes) * u128::from(self.plan.space.reserve_permille) / 1000;
        let reserve = u64::try_from(share).unwrap_or(u64::MAX).max(self.plan.space.reserve_bytes);
        let needed = survey.new_bytes.saturating_add(reserve);
        if needed > space.free_bytes {
            self.missing = needed - space.free_bytes;
            return Err(full(format!(
                "{}: {} bytes are missing: about {} are to be written, {reserve} are to stay free, {} are free",
                set.path().display(),
                self.missing,
                survey.new_bytes,
                space.free_bytes
            )));
        }
        let inodes = survey.new_inodes + INODES_KEPT;
        if space.inodes > 0 && inodes > space.free_inodes {
            let missing = inodes - space.free_inodes;
            let what = format!("{}: {missing} inodes are missing", set.path().display());
            return Err(full(what));
        }
        Ok(())
    }

    fn quiesce(&mut self, conduct: &mut dyn Conduct) -> Result<(), Failure> {
        if self.quiesced || self.plan.quiesce == Quiesce::None {
            return Ok(());
        }
        // Also when it fails half way: then it is to be let go.
        self.quiesced = true;
        conduct.quiesce(true).map_err(|why| failure(FailureKind::Quiesce, why, None))
    }

    fn release(&mut self, conduct: &mut dyn Conduct) {
        if std::mem::take(&mut self.quiesced) {
            // Whoever was asked tells about it; what has been read is not worse for it.
            let _ = conduct.quiesce(false);
        }
    }

    /// Then the copy is made, and nothing is removed by its time.
    fn is_clock_suspect(&self, newest: Option<&Listed>, conduct: &dyn Conduct) -> bool {
        let interval = self.plan.when.every.unwrap_or_default() * CLOCK_AHEAD_INTERVALS;
        let went_wrong = newest.is_some_and(|newest| {
            let newest = newest.commit.at;
            let ahead = self.began > newest.after(CLOCK_AHEAD_MAX.max(interval));
            self.began.after(CLOCK_BACK_MAX) < newest || (ahead && !conduct.is_clock_synchronised())
        });
        went_wrong || self.began < CLOCK_FIRST.max(BUILT)
    }
}

pub(in crate::copies) fn no_source(what: String) -> Failure {
    failure(FailureKind::Source, what, Some("is its disk mounted? Older copies stay as they are"))
}

/// The sources beside the copy that they are compared with.
fn merge<'a>(
    plan: &CopyPlan,
    base: Option<&CommittedCopy>,
    scan: impl FnOnce(&[PathBuf]) -> Scan<'a>,
) -> Result<Result<Merge<Scan<'a>, Older>, ManifestError>, Failure> {
    let older = Older::of(base).map_err(|error| on_target(MANIFEST, &error))?;
    Ok(Merge::new(scan(&plan.from), older))
}

/// What is known before the copy is made.
struct Judged {
    suspect: Option<Suspicion>,
    reflinks: bool,
}

/// The newest copy that what has changed is seen by: believable, and nothing of it is known to be bad. That some of it could not be read does not matter,
/// because each entry says so itself.
fn base_of(set: &Set, listed: &[Listed]) -> Option<Listed> {
    let good = |listed: &&Listed| {
        let copy = catalog::copy(listed, set.state());
        copy.bad == 0 && (copy.suspect.is_none() || copy.accepted)
    };
    listed.iter().rev().find(good).cloned()
}

/// The manifest of an older copy cannot be read: that copy is bad, and the next run goes by another one.
fn damaged(set: &mut Set, base: Option<&CommittedCopy>, error: &ManifestError) -> Failure {
    let Some(base) = base else { return other(MANIFEST, error) };
    let seq = base.commit.seq;
    if let ManifestError::Read { source, .. } = error {
        return set.failed(MANIFEST, source);
    }
    if let Err(failure) = set.update(|state| state.marks_of(seq).bad = state.marks_of(seq).bad.max(1)) {
        return failure;
    }
    let what = format!("the manifest of copy {seq}: {error}");
    failure(
        FailureKind::Other,
        what,
        Some("the next run goes by an older copy; `copies verify` tells what is left of this one"),
    )
}

fn begin(set: &Set, at: Time) -> Result<Making, Failure> {
    let seq = set.next_seq()?;
    let directory = OsString::from(directory_of(seq, at));
    let mut work = directory.clone();
    work.push(".tmp");
    let made = set.work.make_dir(&work, 0o700).and_then(|()| {
        let dir = set.work.sub(work.as_ref())?;
        dir.make_dir(OsStr::new(DATA), 0o755)?;
        Ok(dir)
    });
    let dir = made.map_err(|error| set.failed(WORK, &error))?;
    Ok(Making { seq, directory, work, dir })
}

/// Written beside and renamed: a COMMIT is whole, or there is none.
fn write_commit(dir: &Dir, commit: &Commit) -> Result<(), super::readback::Failed> {
    let (fresh, name) = (OsStr::new("COMMIT.tmp"), OsStr::new(COMMIT));
    let text = commit.encode().map_err(|error| super::readback::Failed::new(COMMIT, std::io::Error::from(error)))?;
    let written = dir.create(fresh, 0o600).and_then(|mut file| {
        file.write_all(&text)?;
        file.sync_all()?;
        dir.rename(fresh, dir, name, Rename::New)?;
        dir.sync()
    });
    written.map_err(|error| super::readback::Failed::new(COMMIT, error))
}

fn hash_of(commit: &Commit) -> Result<String, Failure> {
    Ok(hex(&commit.hash().map_err(|error| other(COMMIT, &error))?))
}
