//! Reads copies again and compares them with their manifests: every file's content, everybody's metadata, what is missing and what is there too much,
//! the manifests with their COMMITs, and those with one another.

use std::time::Duration;

use super::inspect::{Course, Inspection};
use super::joined::Surplus;
use crate::copies::conduct::Conduct;
use crate::copies::failure::failure;
use crate::copies::format::entry::{Entry, hex};
use crate::copies::place::target::{CommittedCopy, Set};
use crate::engine::copies::catalog::Verified;
use crate::engine::copies::order::{Failure, FailureKind, FindingKind, Outcome, Which};
use crate::engine::copies::plan::CopyPlan;
use crate::engine::types::Time;
use crate::sys::clock::clocks;
use crate::sys::dir::Stat;

/// A disk may answer from its own cache for a while after it was written to.
const COLD_AFTER: Duration = Duration::from_mins(10);

/// `bad` of the outcome: what is bad and could not be mended.
pub fn verify(set: &mut Set, plan: &CopyPlan, which: Which, conduct: &mut dyn Conduct) -> Result<Outcome, Failure> {
    let seqs = chosen(set, which)?;
    let mut job = Inspection::new(set, plan, conduct)?;
    let all = job.set.listed()?;
    let of_job = all.iter().filter(|listed| seqs.contains(&listed.commit.seq));
    job.progress.files_in_all = Some(of_job.clone().map(|listed| listed.commit.files).sum());
    job.progress.bytes_in_all = Some(of_job.map(|listed| listed.commit.bytes).sum());
    for seq in &seqs {
        one(&mut job, *seq)?;
    }
    job.settle(None)?;
    job.sweep()?;
    let (files, bytes) = (job.progress.files, job.progress.bytes);
    Ok(Outcome::Verified { copies: seqs, files, bytes, bad: job.left(), mended: job.mended })
}

/// The newest first.
fn chosen(set: &Set, which: Which) -> Result<Vec<u64>, Failure> {
    let seqs: Vec<u64> = set.listed()?.iter().rev().map(|listed| listed.commit.seq).collect();
    let chosen = match which {
        Which::Newest => seqs.into_iter().take(1).collect(),
        Which::One(seq) => vec![set.copy(seq)?.commit.seq],
        Which::All => seqs,
    };
    if chosen.is_empty() {
        let what = format!("{} has no copies", set.path().display());
        return Err(failure(FailureKind::NoCopy, what, Some("`mainstay copies run` makes one")));
    }
    Ok(chosen)
}

fn one(job: &mut Inspection<'_>, seq: u64) -> Result<(), Failure> {
    let copy = job.set.copy(seq)?;
    check_chain(job, &copy)?;
    if job.manifest_is_whole(&copy)? {
        let manifest =
            copy.manifest().map_err(|error| job.set.failed(crate::copies::format::layout::MANIFEST, &error))?;
        job.pass(&copy, manifest, Surplus::Tell, &mut Everything)?;
    }
    job.settle(Some(seq))?;
    if job.left_in(seq) == 0 {
        let at = job.conduct.now();
        let verified = Verified { at, cold: is_cold(&copy, at) };
        job.set.update(|state| state.marks_of(seq).verified = Some(verified))?;
    }
    Ok(())
}

/// What a copy says of the one before is only known to be wrong when that is there: numbers are never reused, so that one before with the very number
/// before is the one.
fn check_chain(job: &mut Inspection<'_>, copy: &CommittedCopy) -> Result<(), Failure> {
    let Some(before) = copy.commit.seq.checked_sub(1) else { return Ok(()) };
    let all = job.set.listed()?;
    let Some(before) = all.iter().find(|listed| listed.commit.seq == before) else { return Ok(()) };
    let hash = before.commit.hash().map(|hash| hex(&hash)).ok();
    if hash.is_some() && hash != copy.commit.previous {
        let detail = format!("copy {}: it names another COMMIT for the copy before than that has now", copy.commit.seq);
        job.find(FindingKind::Rot, crate::copies::format::layout::COMMIT.to_owned(), detail);
    }
    Ok(())
}

/// After ten minutes, or another boot: what is read now is read from the disk.
pub(in crate::copies) fn is_cold(copy: &CommittedCopy, now: Time) -> bool {
    let written = copy.commit.at.after(Duration::from_nanos(copy.commit.took));
    let booted = Time(now.0.saturating_sub(clocks().boot_ns));
    now.since(written) >= COLD_AFTER || booted > written
}

struct Everything;

impl Course for Everything {
    fn has_been_read(&mut self, _: &Entry, _: &Stat) -> bool {
        false
    }

    fn reads_source(&self, _: &Entry) -> bool {
        false
    }
}
