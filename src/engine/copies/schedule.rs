//! When something is due: runs by the plan, and what is done meanwhile for the copies that are there.
//!
//! Everything is computed anew from what lies on the target (wall clock) and from what this agent has seen; nothing is counted down. So an agent's death, a
//! reboot and a clock that was set lead to one run at once at most.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::SetMemory;
use super::catalog::Cause;
use super::order::{Job, Which};
use super::plan::CopyPlan;
use super::rotate::FULL_SCAN;
use crate::engine::Engine;
use crate::engine::types::{Now, Time};

/// Between two runs for changes at least; and so many times as long as the last one took.
const CHANGES_PAUSE: Duration = Duration::from_secs(60);
const CHANGES_DUTY: u32 = 50;
/// After failures: doubles.
const RETRY_MIN: Duration = Duration::from_secs(60);
const RETRY_MAX: Duration = Duration::from_secs(3_600);
/// A copy is read from the disk, and not from a cache, so long after it was made.
const COLD_AFTER: Duration = Duration::from_secs(15 * 60);
/// Between two verifications that nobody asked for.
const VERIFY_PAUSE: Duration = Duration::from_secs(24 * 3_600);
/// Between two tries of what failed or was put off.
const UPKEEP_PAUSE: Duration = Duration::from_secs(3_600);
/// Between two parts of a scrub, each of about a minute.
const SCRUB_PAUSE: Duration = Duration::from_secs(300);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// When (boot) upkeep was last ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tried {
    pub verify: Option<Time>,
    pub scrub: Option<Time>,
    pub test: Option<Time>,
}

/// Until the next try after so many failures in a row.
pub(super) fn retry_after(failures: u32) -> Duration {
    RETRY_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(RETRY_MAX)
}

/// When (wall) the next run is due by the plan, and why: the past when it is due already. Failures are not looked at.
pub(super) fn next_run(memory: &SetMemory, plan: &CopyPlan, now: Time) -> Option<(Time, Cause)> {
    let when = &plan.when;
    let by_itself = when.every.is_some() || !when.at.is_empty() || when.on_change.is_some();
    let Some(last) = last_run(memory, now) else {
        let cause = if when.every.is_none() && !when.at.is_empty() { Cause::At } else { Cause::Every };
        return by_itself.then_some((now, cause));
    };
    let every = when.every.map(|every| (last.after(every), Cause::Every));
    let at = when.at.iter().map(|of_day| (next_of_day(last, *of_day), Cause::At)).min_by_key(|(at, _)| *at);
    let pause = CHANGES_PAUSE.max(memory.last_took.saturating_mul(CHANGES_DUTY));
    let watched = when.on_change.is_some();
    let changed = memory.changed.filter(|_| watched).map(|at| (at.max(last.after(pause)), Cause::Changed));
    // Whatever the events say.
    let scan = watched.then(|| (last.after(FULL_SCAN), Cause::Every));
    [changed, every, at, scan].into_iter().flatten().min_by_key(|(at, _)| *at)
}

/// The first time of day after `last`.
fn next_of_day(last: Time, of_day: Duration) -> Time {
    let day = u64::try_from(DAY.as_nanos()).unwrap_or(u64::MAX);
    let midnight = Time(last.0 / day * day);
    let same_day = midnight.after(of_day);
    if same_day > last { same_day } else { same_day.after(DAY) }
}

/// When (wall) the last run that succeeded was begun. What is in the future was told by another clock than this one, and counts as never.
fn last_run(memory: &SetMemory, now: Time) -> Option<Time> {
    let catalog = &memory.catalog;
    let newest = catalog.copies.last().map(|copy| copy.at);
    let unchanged = catalog.unchanged.map(|unchanged| unchanged.at);
    [memory.last_run, newest, unchanged].into_iter().flatten().filter(|at| *at <= now).max()
}

/// The next of upkeep: what, and when (boot).
pub(super) fn next_upkeep(memory: &SetMemory, plan: &CopyPlan, now: Now) -> Option<(Time, Job)> {
    let good = memory.catalog.newest_good()?;
    let boot = |wall: Time| now.boot.after(wall.since(now.wall));
    let not_before =
        |at: Time, tried: Option<Time>, pause: Duration| tried.map_or(at, |tried| at.max(tried.after(pause)));
    let copies = &memory.catalog.copies;
    let cold =
        copies.iter().filter_map(|copy| copy.verified).filter(|verified| verified.cold).map(|verified| verified.at);
    let is_cold = good.verified.is_some_and(|verified| verified.cold);
    let verify = (!is_cold).then(|| {
        let next = cold.max().filter(|at| *at <= now.wall).map(|at| at.after(VERIFY_PAUSE));
        let ripe = good.at.min(now.wall).after(COLD_AFTER);
        let at = boot(next.map_or(ripe, |next| next.max(ripe)));
        (not_before(at, memory.tried.verify, UPKEEP_PAUSE), Job::Verify { which: Which::Newest })
    });
    let test = plan.restore_test.map(|every| {
        let last = memory.catalog.restore_tested.filter(|at| *at <= now.wall);
        let at = boot(last.map_or(good.at.min(now.wall).after(COLD_AFTER), |last| last.after(every)));
        (not_before(at, memory.tried.test, UPKEEP_PAUSE), Job::RestoreTest)
    });
    let scrub = plan
        .scrub_every
        .map(|every| (not_before(boot(next_part(memory, every, now)), memory.tried.scrub, SCRUB_PAUSE), Job::Scrub));
    [verify, test, scrub].into_iter().flatten().min_by_key(|(at, _)| *at)
}

/// When (wall) the next part of a scrub is due, so that all is read within half of its time.
fn next_part(memory: &SetMemory, every: Duration, now: Now) -> Time {
    let Some(round) = memory.catalog.scrubbed.filter(|at| *at <= now.wall) else {
        return memory.since.min(now.wall).after(COLD_AFTER);
    };
    round.after((every / 2_000).saturating_mul(memory.catalog.scrub_permille.saturating_add(1)))
}

impl Engine {
    /// Gives the next order of a set, if one is due: one at a time; by hand first, then what is to be removed, then a run, then upkeep.
    pub(super) fn next_order(&mut self, set: &str, plan: &CopyPlan) {
        let Some(memory) = self.copies.sets.get(set) else { return };
        if self.shutdown.is_some() || !memory.linked || !memory.heard || self.is_moving(set) {
            return;
        }
        let paused = self.paused(plan).is_some();
        let due_run = next_run(memory, plan, self.now.wall).filter(|(at, _)| *at <= self.now.wall);
        let due_run = due_run.filter(|_| !paused && memory.retry.is_none_or(|at| at <= self.now.boot));
        let restores = self.is_awaited_by_restore(set);
        let due_run = due_run.filter(|_| !self.waits_for_restore(plan));
        let urgent = !memory.queue.is_empty() || due_run.is_some() || restores;
        if memory.running.is_some() {
            return self.make_way(set, urgent);
        }
        if self.begin_for_restore(set) || self.begin_by_hand(set) || (!paused && self.begin_prune(set, plan)) {
            return;
        }
        if let Some((_, cause)) = due_run {
            return self.begin_order(set, Job::Take { cause }, None);
        }
        let upkeep = self.copies.sets.get(set).and_then(|memory| next_upkeep(memory, plan, self.now));
        let Some((_, job)) = upkeep.filter(|(at, _)| !paused && *at <= self.now.boot) else { return };
        let boot = self.now.boot;
        if let Some(memory) = self.copies.sets.get_mut(set) {
            match &job {
                Job::Verify { .. } => memory.tried.verify = Some(boot),
                Job::Scrub => memory.tried.scrub = Some(boot),
                Job::RestoreTest => memory.tried.test = Some(boot),
                Job::Take { .. }
                | Job::Prune { .. }
                | Job::Pin { .. }
                | Job::Accept { .. }
                | Job::Restore(_)
                | Job::Exchange(_)
                | Job::Materialise(_)
                | Job::Gather { .. }
                | Job::Dismiss { .. }
                | Job::Failback { .. }
                | Job::Init { .. } => {}
            }
        }
        self.begin_order(set, job, None);
    }

    /// When (boot) the set is to be looked at again by itself. Nothing while a job runs, or while nobody could carry one out: what ends that is an event.
    pub(super) fn copies_deadline(&self, set: &str) -> Option<Time> {
        let (memory, plan) = (self.copies.sets.get(set)?, self.copy_plan(set)?);
        let age = self.too_old_at(memory, plan).map(|at| self.boot_of(at));
        if self.shutdown.is_some() || !memory.linked || !memory.heard || self.paused(plan).is_some() {
            return age;
        }
        let run = next_run(memory, plan, self.now.wall).map(|(at, _)| self.boot_of(at));
        let run = run.map(|at| memory.retry.map_or(at, |retry| at.max(retry)));
        if memory.running.is_some() {
            let gives_way = memory.running.as_ref().is_some_and(|running| running.gives_way(false));
            return [run.filter(|_| gives_way), age].into_iter().flatten().min();
        }
        let upkeep = next_upkeep(memory, plan, self.now).map(|(at, _)| at);
        [run, upkeep, age].into_iter().flatten().min()
    }
}
