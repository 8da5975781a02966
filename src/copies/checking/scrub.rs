//! Reads everything again, a little at a time: round after round through all copies, the newest first, each inode once a round. The newest copy's
//! sources are read too, as long as their inodes say that nobody has changed them.
//!
//! A round takes the copies that are there when it begins. A file whose inode is that of the same path in the copy after it has been read with that one, so
//! that nothing need be remembered from one job to the next but how far it is.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::inspect::{Course, Inspection};
use super::joined::{Surplus, parent_of};
use crate::copies::conduct::Conduct;
use crate::copies::format::entry::{Entry, order};
use crate::copies::format::layout::MANIFEST;
use crate::copies::place::target::{CommittedCopy, Set};
use crate::engine::copies::order::{Failure, Outcome};
use crate::engine::copies::plan::CopyPlan;
use crate::engine::types::Time;
use crate::sys::clock::mono_ns;
use crate::sys::dir::{Dir, Stat};

/// A job ends after about so long.
const SLICE: Duration = Duration::from_mins(1);
/// A file that was changed within this time before its copy was made is not taken for rotten: through a mapping it may change once more without any
/// new time, as long as the page has not been written back.
const SETTLED: Duration = Duration::from_mins(2);

pub fn scrub(set: &mut Set, plan: &CopyPlan, conduct: &mut dyn Conduct) -> Result<Outcome, Failure> {
    let until_ns = mono_ns().saturating_add(u64::try_from(SLICE.as_nanos()).unwrap_or(u64::MAX));
    scrub_until(set, plan, conduct, until_ns)
}

pub(in crate::copies) fn scrub_until(
    set: &mut Set,
    plan: &CopyPlan,
    conduct: &mut dyn Conduct,
    until_ns: u64,
) -> Result<Outcome, Failure> {
    let Some(every) = plan.scrub_every else { return Ok(Outcome::Scrubbed) };
    if !begin(set, every, conduct.now())? {
        return Ok(Outcome::Scrubbed);
    }
    let mut job = Inspection::new(set, plan, conduct)?;
    while let Some(seq) = job.set.state().scrub.seq {
        let is_through = slice(&mut job, seq, until_ns)?;
        job.settle(None)?;
        if !is_through {
            break;
        }
        next(&mut job, seq)?;
    }
    job.sweep()?;
    Ok(Outcome::Scrubbed)
}

/// Whether there is anything to do: a round under way, or one that is due. They begin so early that two in a row fit into the time of the plan, and so
/// each inode is read within it.
fn begin(set: &mut Set, every: Duration, now: Time) -> Result<bool, Failure> {
    let scrub = &set.state().scrub;
    if scrub.seq.is_some() {
        return Ok(true);
    }
    // A clock that was put back is no reason to wait for it.
    if scrub.began.is_some_and(|began| began <= now && now.since(began) < every / 2) {
        return Ok(false);
    }
    let Some(newest) = set.listed()?.last().map(|listed| listed.commit.seq) else { return Ok(false) };
    set.update(|state| {
        let scrub = &mut state.scrub;
        (scrub.began, scrub.top, scrub.seq) = (Some(now), newest, Some(newest));
        (scrub.after, scrub.bytes, scrub.permille) = (Vec::new(), 0, 0);
    })?;
    Ok(true)
}

/// Goes on in this copy until its end (`true`) or that of the slice.
fn slice(job: &mut Inspection<'_>, seq: u64, until_ns: u64) -> Result<bool, Failure> {
    let all = job.set.listed()?;
    let Some(listed) = all.iter().find(|listed| listed.commit.seq == seq) else { return Ok(true) };
    let scrub = job.set.state().scrub.clone();
    let in_round = all.iter().filter(|listed| listed.commit.seq <= scrub.top);
    let bytes_in_round: u64 = in_round.clone().map(|listed| listed.commit.bytes).sum();
    let newer = in_round.filter(|listed| listed.commit.seq > seq).min_by_key(|listed| listed.commit.seq);
    let newer = newer.filter(|newer| job.set.state().marks.get(&newer.commit.seq).is_none_or(|marks| marks.bad == 0));
    let newer = newer.map(|newer| job.set.open(newer.clone())).transpose()?;
    let copy = job.set.open(listed.clone())?;
    if scrub.after.is_empty() && !job.manifest_is_whole(&copy)? {
        return Ok(true);
    }
    let mut course = Round { newer, parent: None, made: copy.commit.at, is_newest: seq == scrub.top };
    let manifest = copy.manifest().map_err(|error| job.set.failed(MANIFEST, &error))?;
    let (mut after, mut is_through) = (scrub.after.clone(), true);
    let mut is_first = true;
    let entries = manifest
        .skip_while(|entry| entry.as_ref().is_ok_and(|entry| order(&entry.path, &scrub.after).is_le()))
        .take_while(|_| {
            // One entry at least, so that each slice gets on.
            is_through = is_first || mono_ns() < until_ns;
            is_first = false;
            is_through
        })
        .inspect(|entry| after.clone_from(entry.as_ref().map_or(&scrub.after, |entry| &entry.path)));
    let before = job.progress.bytes;
    job.pass(&copy, entries, Surplus::Ignore, &mut course)?;
    let bytes = scrub.bytes + (job.progress.bytes - before);
    let permille = bytes.saturating_mul(1000).checked_div(bytes_in_round).unwrap_or(1000).min(1000);
    job.set.update(|state| {
        (state.scrub.after, state.scrub.bytes) = (after, bytes);
        state.scrub.permille = u32::try_from(permille).unwrap_or(1000);
    })?;
    Ok(is_through)
}

/// The copy is through: on to the one before, or the round is at its end.
fn next(job: &mut Inspection<'_>, seq: u64) -> Result<(), Failure> {
    let all = job.set.listed()?;
    let older = all.iter().map(|listed| listed.commit.seq).filter(|other| *other < seq).max();
    let now = job.conduct.now();
    job.set.update(|state| {
        let began = state.scrub.began.unwrap_or_default();
        // What was not found again in this round is well, whoever saw to it.
        state.quarantined.retain(|known| known.seq != seq || known.at >= began);
        (state.scrub.seq, state.scrub.after) = (older, Vec::new());
        if older.is_none() {
            (state.scrub.finished, state.scrub.permille) = (Some(now), 1000);
        }
    })?;
    job.settle(None)
}

struct Round {
    /// The copy after this one, whose files have been read in this round.
    newer: Option<CommittedCopy>,
    /// The directory of it that was looked at last.
    parent: Option<(Vec<u8>, Option<Dir>)>,
    made: Time,
    is_newest: bool,
}

impl Course for Round {
    fn has_been_read(&mut self, entry: &Entry, stat: &Stat) -> bool {
        let Some(newer) = &self.newer else { return false };
        let parent = parent_of(&entry.path);
        if self.parent.as_ref().is_none_or(|(known, _)| known != parent) {
            let path = Path::new(OsStr::from_bytes(parent));
            let opened = if parent.is_empty() { newer.data.again() } else { newer.data.sub(path) };
            self.parent = Some((parent.to_vec(), opened.ok()));
        }
        let directory = self.parent.as_ref().and_then(|(_, directory)| directory.as_ref());
        directory.and_then(|dir| dir.stat(entry.name()).ok()).is_some_and(|other| other.ino == stat.ino)
    }

    fn reads_source(&self, entry: &Entry) -> bool {
        let seconds = |time: Time| i64::try_from(time.0 / 1_000_000_000).unwrap_or(i64::MAX);
        let settled = i64::try_from(SETTLED.as_secs()).unwrap_or(i64::MAX);
        self.is_newest && seconds(self.made).saturating_sub(entry.source.ctime.s) >= settled
    }
}
