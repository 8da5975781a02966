//! A copy of a service that holds still, in two phases, so that it does so for as short a time as may be.
//!
//! 1. While the service runs, the tree is built as for any other copy: the *draft*. What is open for writing and has changed is left as it was in the older copy
//!    for now, since it would only change again. What has changed meanwhile is brought up to date, until little is left, and all that the second
//!    phase needs is prepared: the files that will have to be looked at are open and written back, and files without names lie ready for clones.
//! 2. The service holds still, which was proven to whoever says so. The sources are compared with the draft once more, entry by entry. What differs is
//!    cloned on the source's own file system where that shares pages (XFS, btrfs), the service goes on, and the draft is mended from the clones.
//!    Elsewhere the draft is mended from the files themselves before the service goes on, or for as long as it may stand still; what is
//!    read after that is marked unstable.
//!
//! The copy is of the one moment at which the service stood still: what did not differ then from what had been read before is what was there at that moment.
//!
//! Whether something differs is told by the ctime, as everywhere: each write(2) sets it, and none is under way in a process that stands still. Through a
//! mapping only the first write to a page does, so a file that the service has mapped for writing counts as different, whatever its
//! times are. A write with O_DIRECT that the disk has not answered yet is waited for by the clone.

mod clones;
mod look;
mod mend;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::PathBuf;

use self::clones::Clones;
use self::look::{Blind, Look, Looked, Mode};
use self::mend::{Mend, Sources, State};
use super::build::{Broken, Built};
use super::cursor::Cursor;
use super::exclude::Exclude;
use super::file;
use super::fresh::Fresh;
use super::merge::Merge;
use super::scan::Scan;
use crate::copies::conduct::Conduct;
use crate::copies::failure::{failure, on_target, other};
use crate::copies::findings::Findings;
use crate::copies::format::layout::{DATA, MANIFEST};
use crate::copies::format::manifest::{ManifestError, Reader, Writer};
use crate::engine::copies::order::{Failure, FailureKind, Finding, FindingKind, Progress};
use crate::engine::copies::plan::{CopyPlan, Quiesce};
use crate::engine::types::Time;
use crate::sys::dir::{Dir, Rename};
use crate::sys::writers;

/// With more differences, or more to be read for them, the draft is mended once more while the service runs.
const FEW: usize = 64;
const LITTLE_BYTES: u64 = 1 << 20;
/// So often at most.
const ROUNDS_MAX: u32 = 3;
/// Found while a draft is made, and looked for again when the service holds still.
const MAY_PASS: [FindingKind; 3] = [FindingKind::Unstable, FindingKind::Unreadable, FindingKind::BadDisk];
/// The manifest of a draft that is being mended.
const FORMER: &str = "MANIFEST.former";

/// Whether the service of this plan holds still while its files are read, and not only at some time before.
pub(in crate::copies) fn is_wanted(plan: &CopyPlan) -> bool {
    match plan.quiesce {
        Quiesce::Freeze { .. } | Quiesce::Stop { .. } => true,
        Quiesce::None | Quiesce::Exec { .. } => false,
    }
}

/// The inodes of the sources that somebody may be writing to: not worth to be read before the service holds still.
pub(in crate::copies) fn written(plan: &CopyPlan) -> BTreeSet<u64> {
    // The kernel tells paths without links in them.
    let from: Vec<_> = plan.from.iter().map(|path| path.canonicalize().unwrap_or_else(|_| path.clone())).collect();
    writers::opened_below(&from)
}

/// A tree in `work/` with its manifest, and what is needed to mend it.
pub(in crate::copies) struct Draft<'a> {
    pub(in crate::copies) plan: &'a CopyPlan,
    pub(in crate::copies) exclude: &'a Exclude,
    /// Of the copy.
    pub(in crate::copies) dir: &'a Dir,
    /// For messages: where it is.
    pub(in crate::copies) shown: String,
    pub(in crate::copies) built: Built,
    /// The target shares pages.
    pub(in crate::copies) reflinks: bool,
    pub(in crate::copies) findings: &'a mut Findings,
}

/// Who reads, and what follows from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// The service runs, and what is read may be of no moment.
    Before,
    /// It stands still; if not any more, what is read is unstable.
    Still,
}

impl Draft<'_> {
    /// Makes the draft a copy of the moment at which the service holds still. It is let go as soon as it may.
    pub(in crate::copies) fn settle(mut self, conduct: &mut dyn Conduct) -> Result<Built, Failure> {
        let mut clones = Clones::default();
        for round in 1..=ROUNDS_MAX {
            let written = written(self.plan);
            clones.forget();
            let ahead = Mode::Ahead { written: &written };
            let looked = self.look(ahead, &mut clones, &mut Drafting(conduct))?;
            let is_little = looked.differences.len() <= FEW && looked.live_bytes() <= LITTLE_BYTES;
            if is_little || round == ROUNDS_MAX {
                break;
            }
            self.mend(looked, Moment::Before, &mut Drafting(conduct), &mut |_| {})?;
        }
        MAY_PASS.into_iter().for_each(|kind| self.findings.forget(kind));
        clones.make_ready(&self.plan.from);
        let mut holds = true;
        let settled = match conduct.quiesce(true) {
            Ok(()) => self.while_still(&mut clones, &mut holds, conduct),
            Err(why) => Err(failure(FailureKind::Quiesce, why, None)),
        };
        // Whatever became of it.
        let_go(&mut holds, conduct);
        settled.map(|()| self.built)
    }

    fn while_still(&mut self, clones: &mut Clones, holds: &mut bool, conduct: &mut dyn Conduct) -> Result<(), Failure> {
        let mapped = writers::writable(&writers::members(&conduct.still_groups())).mapped;
        loop {
            let looked = self.look(Mode::Quiet { mapped: &mapped }, clones, conduct)?;
            let (more, mut live) = (looked.more, looked.live());
            let mut read_live = |conduct: &mut dyn Conduct| {
                if live == 0 && !more {
                    let_go(holds, conduct);
                }
                live = live.saturating_sub(1);
            };
            read_live(conduct);
            self.mend(looked, Moment::Still, conduct, &mut read_live)?;
            if !more {
                return Ok(());
            }
            if !conduct.still_quiet() {
                let what = "more has changed than could be looked at while the service held still".to_owned();
                return Err(failure(FailureKind::Quiesce, what, Some("a larger `max`, or `Stop`, gives it the time")));
            }
        }
    }

    fn look(&mut self, mode: Mode<'_>, clones: &mut Clones, conduct: &mut dyn Conduct) -> Result<Looked, Failure> {
        let draft = self.dir.read(OsStr::new(MANIFEST)).map_err(|error| on_target(&self.shown, &error))?;
        let scan = Scan::new(&self.plan.from, self.exclude);
        let merge = Merge::new(scan, Reader::new(draft)).map_err(|error| self.unreadable(&error))?;
        let look = Look { mode, clones, conduct, findings: self.findings, groups: BTreeSet::new() };
        look.run(merge).map_err(|blind| match blind {
            Blind::Failure(failure) => failure,
            Blind::Draft(error) => self.unreadable(&error),
        })
    }

    fn mend(
        &mut self,
        looked: Looked,
        moment: Moment,
        conduct: &mut dyn Conduct,
        read_live: &mut dyn FnMut(&mut dyn Conduct),
    ) -> Result<(), Failure> {
        if looked.differences.is_empty() {
            return Ok(());
        }
        let failed = |error: std::io::Error| on_target(&self.shown, &error);
        let (name, former) = (OsStr::new(MANIFEST), OsStr::new(FORMER));
        self.dir.rename(name, self.dir, former, Rename::Replace).map_err(failed)?;
        let reader = Reader::new(self.dir.read(former).map_err(failed)?);
        let manifest = self.dir.create(name, 0o600).map_err(failed)?;
        let mend = Mend {
            dir: self.dir,
            newer: Cursor::new(self.dir.sub(DATA.as_ref()).map_err(failed)?),
            sources: Sources::new(&self.plan.from),
            fresh: Fresh::new(self.reflinks, moment == Moment::Still).map_err(failed)?,
            buffer: file::buffer().map_err(failed)?,
            manifest: Writer::new(manifest.try_clone().map_err(failed)?),
            former: &self.built,
            conduct,
            findings: self.findings,
            shown: self.shown.clone(),
            read_live,
            state: State::default(),
        };
        let built = mend.run(reader, looked.differences).map_err(|broken| match broken {
            Broken::Failure(failure) => failure,
            Broken::Older(error) => other(MANIFEST, &error),
        })?;
        manifest.sync_all().map_err(failed)?;
        self.tidy(former)?;
        self.built = built;
        Ok(())
    }

    /// What was needed for the mending lies in no copy.
    fn tidy(&self, former: &OsStr) -> Result<(), Failure> {
        for name in [former, OsStr::new(mend::REPLACED)] {
            match self.dir.remove_file(name) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(on_target(&self.shown, &error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn unreadable(&self, error: &ManifestError) -> Failure {
        other(format!("{}/{MANIFEST}", self.shown), error)
    }
}

fn let_go(holds: &mut bool, conduct: &mut dyn Conduct) {
    if std::mem::take(holds) {
        // Whoever was asked tells about it; what has been read is not worse for it.
        let _ = conduct.quiesce(false);
    }
}

/// While a draft is made: that something changes while it is read, or is gone, is no news yet.
pub(in crate::copies) struct Drafting<'a>(pub(in crate::copies) &'a mut dyn Conduct);

impl Conduct for Drafting<'_> {
    fn progress(&mut self, progress: Progress) {
        self.0.progress(progress);
    }

    fn finding(&mut self, finding: Finding) {
        if !MAY_PASS.contains(&finding.kind) {
            self.0.finding(finding);
        }
    }

    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    fn quiesce(&mut self, on: bool) -> Result<(), String> {
        self.0.quiesce(on)
    }

    fn still_quiet(&self) -> bool {
        self.0.still_quiet()
    }

    fn still_groups(&self) -> Vec<PathBuf> {
        self.0.still_groups()
    }

    fn pace(&mut self, bytes: u64) {
        self.0.pace(bytes);
    }

    fn now(&self) -> Time {
        self.0.now()
    }

    fn is_clock_synchronised(&self) -> bool {
        self.0.is_clock_synchronised()
    }
}
