//! The way of a set to the disk of its copies, step by step: see `failover`.

use std::collections::BTreeSet;
use std::time::Duration;

use super::by_hand::PATIENCE;
use super::catalog::{Copy, TargetState};
use super::event::{CopyAction, Direction};
use super::failover::{Failover, Moving, Reach, Stage, directory_of, moves};
use super::in_force;
use super::order::{Failure, FailureKind, Job, Outcome};
use super::plan::{CopyPlan, OnSourceFailing};
use super::schedule::retry_after;
use crate::engine::Engine;
use crate::engine::action::Level;
use crate::engine::types::human;

/// A job that waits for the failing disk is left behind after this long.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

impl Engine {
    /// Goes on as far as it can.
    pub(super) fn review_failovers(&mut self) {
        if self.shutdown.is_some() {
            return;
        }
        for plan in self.plan.copies.clone() {
            if plan.on_source_failing == Some(OnSourceFailing::Restore) && !self.copies.moving.contains_key(&plan.name)
            {
                self.notice_failing_source(&plan);
            }
        }
        for set in self.copies.moving.keys().cloned().collect::<Vec<_>>() {
            if self.review_departure(&set) {
                continue;
            }
            self.failover_late(&set);
            // Each step leads to another stage, or is the last.
            while self.failover_step(&set) {}
        }
    }

    pub(super) fn notice_failing_source(&mut self, plan: &CopyPlan) {
        let Some(why) = self.failing_below(&plan.from) else { return };
        let mut with_data =
            self.services.keys().filter(|service| self.has_data_below(**service, &plan.from)).peekable();
        // A restore that is under way comes to its end, or to nothing, first.
        if with_data.peek().is_none() || with_data.any(|service| self.is_restoring(*service)) {
            return;
        }
        let mut primary = BTreeSet::new();
        for source in &plan.from {
            let mount = self.host.devices.mount_of(source);
            primary.extend(mount.map(|mount| self.host.devices.below(mount)).into_iter().flatten().map(str::to_owned));
        }
        let kept = Failover {
            since: self.now.wall,
            why: why.clone(),
            sources: plan.from.clone(),
            primary: primary.into_iter().collect(),
            to: plan.to.clone(),
            ..Failover::default()
        };
        let patience = Some(self.now.mono.after(plan.failover.after));
        self.copies.moving.insert(plan.name.clone(), Moving { kept, patience, ..Moving::default() });
        let wait = if plan.failover.after.is_zero() {
            String::new()
        } else {
            format!(" if it still fails in {}", human(plan.failover.after))
        };
        self.tell_failover(
            &plan.name,
            Level::Warn,
            format!("its source fails: {why}; its services are held, and go on from a copy{wait}"),
        );
        self.save_failover(&plan.name);
        self.follow_failover(&plan.name);
    }

    /// Whether something was done that there may be more to do after.
    pub(super) fn failover_step(&mut self, set: &str) -> bool {
        let Some(stage) = self.copies.moving.get(set).map(|moving| moving.kept.stage) else { return false };
        match stage {
            Stage::Holding => self.hold_step(set),
            Stage::Materialising => self.materialise_step(set),
            Stage::Over => self.over_step(set),
            Stage::Again => self.again_step(set),
            Stage::Stopping | Stage::Gathering | Stage::PuttingBack | Stage::Starting | Stage::Sweeping => {
                self.failback_step(set, stage)
            }
            Stage::Lifting => self.undo_step(set),
            Stage::Saving | Stage::Switching | Stage::Returning => false,
        }
    }

    pub(super) fn hold_step(&mut self, set: &str) -> bool {
        let Some(plan) = self.copy_plan(set).cloned() else { return false };
        let Some(moving) = self.copies.moving.get(set) else { return false };
        if self.failing_below(&moving.kept.sources).is_none() {
            return self.failover_not_needed(set);
        }
        let waits =
            moving.patience.is_some_and(|at| at > self.now.mono) || moving.retry.is_some_and(|at| at > self.now.boot);
        if waits || !self.are_all_gone(set) || !self.is_heard_or_late(set) {
            return false;
        }
        let copy = match self.copy_to_go_on_from(set, &plan) {
            Ok(copy) => copy,
            Err(why) => return self.put_off(set, &why),
        };
        let now = self.now.wall;
        let Some(moving) = self.copies.moving.get_mut(set) else { return false };
        let kept = &mut moving.kept;
        (kept.seq, kept.as_of, kept.verified) = (copy.seq, copy.at, copy.verified.is_some());
        kept.directory = directory_of(copy.seq, kept.since);
        kept.moves = moves(&plan, &kept.directory);
        let text = format!("{} is built on {}", kept.copy_text(now), kept.to.display());
        self.enter_failover(set, Stage::Materialising);
        self.save_failover(set);
        self.tell_failover(set, if copy.verified.is_some() { Level::Info } else { Level::Warn }, text);
        true
    }

    /// Whether the role has told what there is, or was waited for long enough: an agent that has just begun hears of it in a moment.
    fn is_heard_or_late(&mut self, set: &str) -> bool {
        let is_heard = self.copies.sets.get(set).is_some_and(|memory| memory.linked && memory.heard);
        let now = self.now.mono;
        let Some(moving) = self.copies.moving.get_mut(set) else { return false };
        let is_late = *moving.until.get_or_insert(now.after(PATIENCE)) <= now;
        if is_heard || is_late {
            moving.until = None;
        }
        is_heard || is_late
    }

    /// The newest good copy that was verified, else the newest good one.
    pub(super) fn copy_to_go_on_from(&self, set: &str, plan: &CopyPlan) -> Result<Copy, String> {
        if let Some(why) = self.failing_below(std::slice::from_ref(&plan.to)) {
            return Err(format!("the disk of the copies fails too: {why}"));
        }
        let memory = self.copies.sets.get(set).filter(|memory| memory.linked && memory.heard);
        let Some(memory) = memory else {
            return Err(format!("its role does not answer; see `mainstay status @copy.{set}`"));
        };
        if matches!(memory.catalog.target, TargetState::Absent { .. } | TargetState::Unmarked { .. }) {
            return Err(memory.catalog.target.text());
        }
        let good = || memory.catalog.copies.iter().rev().filter(|copy| copy.is_good());
        let found = good().find(|copy| copy.verified.is_some()).or_else(|| good().next());
        found.cloned().ok_or_else(|| "there is no good copy".to_owned())
    }

    pub(super) fn materialise_step(&mut self, set: &str) -> bool {
        let Some(moving) = self.copies.moving.get(set) else { return false };
        if self.failing_below(&moving.kept.sources).is_none() {
            return self.failover_not_needed(set);
        }
        let (seq, directory) = (moving.kept.seq, moving.kept.directory.clone());
        let is_ours = |job: &Job| matches!(job, Job::Materialise(live) if live.directory == directory);
        if !self.clear_the_way(set, &is_ours) {
            return false;
        }
        let (Some(moving), Some(memory), Some(plan)) =
            (self.copies.moving.get(set), self.copies.sets.get(set), self.copy_plan(set))
        else {
            return false;
        };
        let Some(copy) = memory.catalog.copies.iter().find(|copy| copy.seq == seq) else {
            return self.put_off(set, &format!("copy {seq} is not there any more"));
        };
        let live = moving.kept.live(copy, plan.failover.link.is_some());
        self.begin_order(set, Job::Materialise(Box::new(live)), None);
        false
    }

    /// Whether an order of this failover can be given now. Another one that is under way is ended; one that does not end (it may wait for the failing
    /// disk, for ever) is left behind.
    pub(super) fn clear_the_way(&mut self, set: &str, is_ours: &dyn Fn(&Job) -> bool) -> bool {
        let mono = self.now.mono;
        let (Some(memory), Some(moving)) = (self.copies.sets.get_mut(set), self.copies.moving.get_mut(set)) else {
            return false;
        };
        if !memory.linked || !memory.heard {
            return false;
        }
        let Some(running) = memory.running.as_mut() else {
            moving.until = None;
            return true;
        };
        if is_ours(&running.order.job) && !running.cancelled {
            return false;
        }
        let order = running.order.id;
        match moving.until {
            None => {
                moving.until = Some(mono.after(CANCEL_TIMEOUT));
                running.cancelled = true;
                self.copy_action(set, CopyAction::Cancel { order });
                false
            }
            Some(until) if until > mono => false,
            Some(_) => {
                moving.until = None;
                let what = "it does not end, and is left behind: the disk that it waits for fails".to_owned();
                let failure = Failure { kind: FailureKind::Cancelled, what, remedy: None };
                self.leave_behind(set, Outcome::Failed(failure));
                true
            }
        }
    }

    /// The job `Materialise` has ended.
    pub(super) fn materialised(&mut self, set: &str, directory: &str, outcome: &Outcome) {
        let Some(moving) = self.copies.moving.get_mut(set) else { return };
        if moving.kept.stage != Stage::Materialising || moving.kept.directory != directory {
            return;
        }
        if let Outcome::Materialised { .. } = outcome {
            moving.kept.over_since = Some(self.now.wall);
            self.write_down_that_it_moves(set);
            return;
        }
        self.put_off(set, &format!("the copy cannot be built: {}", outcome.failure_text()));
    }

    pub(super) fn over_step(&mut self, set: &str) -> bool {
        let Some(moving) = self.copies.moving.get(set) else { return false };
        let waits = moving.retry.is_some_and(|at| at > self.now.boot);
        if !moving.switched && moving.switching.is_none() && !waits {
            self.switch(set, Direction::Over);
        }
        false
    }

    pub(super) fn again_step(&mut self, set: &str) -> bool {
        let waits = self.copies.moving.get(set).and_then(|moving| moving.retry).is_some_and(|at| at > self.now.boot);
        if !waits && self.are_all_gone(set) {
            self.write_down_that_it_moves(set);
        }
        false
    }

    /// The switch follows once that is on disk.
    fn write_down_that_it_moves(&mut self, set: &str) {
        if let Some(moving) = self.copies.moving.get_mut(set) {
            moving.kept.reach = moving.kept.reach.max(Reach::Tried);
        }
        self.enter_failover(set, Stage::Saving);
        self.save_failover(set);
    }

    /// It cannot be done for now: the services stay held, and it is tried again.
    ///
    /// INVARIANT: live data that services have written to are never given up for the source or for a copy, whatever is well or fails by then.
    pub(super) fn put_off(&mut self, set: &str, why: &str) -> bool {
        let boot = self.now.boot;
        let Some(moving) = self.copies.moving.get_mut(set) else { return false };
        moving.failures = moving.failures.saturating_add(1);
        let wait = retry_after(moving.failures);
        let wait = if moving.kept.reach == Reach::Lived { wait.min(in_force::RETRY_MAX) } else { wait };
        moving.retry = Some(boot.after(wait));
        (moving.saving, moving.switching, moving.until) = (None, None, None);
        let stage = if moving.kept.reach == Reach::Lived { Stage::Again } else { Stage::Holding };
        if stage == Stage::Holding {
            moving.kept.over_since = None;
        }
        let trouble = format!("it cannot go on from a copy: {why}");
        let is_news = moving.trouble.as_ref() != Some(&trouble);
        let is_on_disk = moving.kept.stage == Stage::Holding;
        moving.trouble = Some(trouble.clone());
        self.enter_failover(set, stage);
        if is_news || !is_on_disk {
            self.save_failover(set);
        }
        if is_news {
            self.tell_failover(
                set,
                Level::Error,
                format!("{trouble}; its services stay held; next try in {}", human(wait)),
            );
        }
        false
    }

    /// The disk is well again, and nothing has moved.
    pub(super) fn failover_not_needed(&mut self, set: &str) -> bool {
        let Some(moving) = self.copies.moving.get(set) else { return false };
        let (built, may_be_seen) = (moving.kept.seq != 0, moving.kept.reach == Reach::Tried);
        self.cancel_build(set);
        let text = "its source is well again; its services go on where they were";
        self.tell_failover(set, Level::Info, text.to_owned());
        if may_be_seen {
            // What is to be removed may be mounted over the source, or over some of them.
            self.enter_failover(set, Stage::Lifting);
            self.switch(set, Direction::Back);
            false
        } else if built {
            self.enter_failover(set, Stage::Sweeping);
            self.save_failover(set);
            self.follow_failover(set);
            true
        } else {
            self.end_failover(set);
            false
        }
    }

    /// What a switch that failed may have left is to be lifted, as often as it takes.
    pub(super) fn undo_step(&mut self, set: &str) -> bool {
        let Some(moving) = self.copies.moving.get(set) else { return false };
        let waits = moving.retry.is_some_and(|at| at > self.now.boot);
        if moving.kept.reach == Reach::Tried && moving.switching.is_none() && !waits {
            self.switch(set, Direction::Back);
        }
        false
    }

    /// That was lifted, or not.
    pub(super) fn undone(&mut self, set: &str, result: Result<(), String>) {
        if let Err(why) = result {
            return self.not_seen_there(set, why);
        }
        if let Some(moving) = self.copies.moving.get_mut(set) {
            (moving.kept.reach, moving.failures, moving.trouble) = (Reach::Nowhere, 0, None);
        }
        self.enter_failover(set, Stage::Sweeping);
        self.save_failover(set);
        self.follow_failover(set);
    }

    pub(super) fn cancel_build(&mut self, set: &str) {
        let order = self.copies.sets.get_mut(set).and_then(|memory| memory.running.as_mut());
        let order = order.filter(|running| matches!(running.order.job, Job::Materialise(_))).map(|running| {
            running.cancelled = true;
            running.order.id
        });
        if let Some(order) = order {
            self.copy_action(set, CopyAction::Cancel { order });
        }
    }

    /// Nothing of it is left.
    pub(super) fn end_failover(&mut self, set: &str) {
        let services = self.services_moved_by(set);
        self.copies.moving.remove(set);
        self.copies.left.remove(set);
        self.save_failover(set);
        self.review_ties();
        self.follow_services(&services);
    }

    pub(super) fn enter_failover(&mut self, set: &str, stage: Stage) {
        if let Some(moving) = self.copies.moving.get_mut(set) {
            moving.kept.stage = stage;
            moving.told_stuck = false;
            moving.until = None;
            self.copies.due = true;
        }
    }

    /// A job that nobody asked for has ended.
    pub(super) fn failover_job_done(&mut self, set: &str, job: &Job, outcome: &Outcome) {
        match job {
            Job::Materialise(live) => self.materialised(set, &live.directory, outcome),
            Job::Gather { .. } | Job::Restore(_) | Job::Dismiss { .. } => self.failback_job_done(set, job, outcome),
            Job::Take { .. }
            | Job::Verify { .. }
            | Job::Scrub
            | Job::Prune { .. }
            | Job::Pin { .. }
            | Job::Accept { .. }
            | Job::Exchange(_)
            | Job::RestoreTest
            | Job::Init { .. }
            | Job::Failback { .. } => {}
        }
    }
}
