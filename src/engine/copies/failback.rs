//! The way back to the own disk of a set that has moved: by hand only.
//!
//! ```text
//! Over ─▶ Stopping ─▶ Gathering ─▶ Lifting ─▶ PuttingBack ─▶ Returning ─▶ Starting ─▶ Sweeping ─▶ (nothing)
//!  ▲        whatever fails: the switch is made again, and its services go on from the live data    │
//!  └───────────────────────────────── Again ◀── not ready in time ◀───────────────────────────────┘
//! ```
//!
//! What its services have written meanwhile becomes a copy like any other (`Gathering`), and that copy is restored to where the source was, by the same code and
//! with the same care as any restore: hashes compared, synced, exchanged as a whole, and what was there kept beside.
//!
//! INVARIANT: until `Returning` is on disk the live data are what counts, whatever lies on the own disk by then; from then on it is the own disk.

use std::time::Duration;

use super::by_hand::Asked;
use super::event::Direction;
use super::failover::{Reach, Stage};
use super::order::{Job, Outcome, Place, Restore};
use crate::engine::Engine;
use crate::engine::action::{Action, Level, Outcome as Answer};
use crate::engine::event::Wait;
use crate::engine::plan::Kind;
use crate::engine::service::State;
use crate::engine::types::{ServiceId, human};

/// Beyond the longest `start_timeout` of its services.
const READY_GRACE: Duration = Duration::from_secs(10);

impl Engine {
    /// `copies failback`: looked at, and begun. `Err`: it is not, and why.
    pub(super) fn failback(&mut self, set: &str, dry_run: bool, force: bool, asked: Asked) -> Result<(), Answer> {
        let conflict = |message: String| Err(Answer::Conflict { message: format!("copies {set}: {message}") });
        let Some(moving) = self.copies.moving.get(set) else {
            return conflict("no service runs from a copy: there is nothing to bring back".to_owned());
        };
        if moving.kept.stage != Stage::Over || !moving.switched {
            return conflict(format!("not now: {}", self.failover_text(set).unwrap_or_default()));
        }
        if let Some(what) = self.departure(set) {
            return conflict(what);
        }
        if self.copies.sets.get(set).is_none_or(|memory| !memory.linked || !memory.heard) {
            return conflict(format!("its role does not answer; see `mainstay status @copy.{set}`"));
        }
        if let Some(why) = self.failing_primary(set).filter(|_| !force) {
            return conflict(format!(
                "its own disk still fails: {why}; replace or mend it first, or insist with --force"
            ));
        }
        if dry_run {
            let outcome = self.would_fail_back(set);
            self.out.push(Action::Answer { request: asked.request, outcome: Answer::Copied(Box::new(outcome)) });
            return Ok(());
        }
        if asked.wait == Wait::Decision {
            self.out.push(Action::Answer { request: asked.request, outcome: Answer::Done { persisted: true } });
        }
        if let Some(moving) = self.copies.moving.get_mut(set) {
            (moving.asked, moving.forced) = (Some(asked), force);
            (moving.gathered, moving.back, moving.trouble) = (None, None, None);
        }
        self.enter_failover(set, Stage::Stopping);
        let text = "its services are stopped, and their data brought back to their own disk".to_owned();
        self.tell_failover(set, Level::Info, text);
        self.follow_failover(set);
        Ok(())
    }

    /// What fails of the disk that the set was on, as it was when it moved.
    fn failing_primary(&self, set: &str) -> Option<String> {
        let primary = &self.copies.moving.get(set)?.kept.primary;
        self.failing_targets(primary)
    }

    fn would_fail_back(&self, set: &str) -> Outcome {
        let Some(moving) = self.copies.moving.get(set) else {
            return Outcome::WouldRestore { seq: 0, lines: Vec::new(), more: 0 };
        };
        let kept = &moving.kept;
        let services: Vec<&str> = self.services_moved_by(set).into_iter().map(|service| self.name(service)).collect();
        let mut lines = vec![format!("stopped meanwhile: {}", services.join(", "))];
        lines.push("what they have written becomes a copy of its own".to_owned());
        for one in &kept.moves {
            lines.push(match &one.link_to {
                None => format!("{}: the mount of {} is lifted", one.at.display(), one.live.display()),
                Some(own) => format!("{}: leads to {} again", one.at.display(), own.display()),
            });
        }
        for source in &kept.sources {
            lines.push(format!("{}: what is there is kept beside, under a name that is told", source.display()));
        }
        let exclude = self.copy_plan(set).map(|plan| plan.exclude.join(", ")).filter(|exclude| !exclude.is_empty());
        if let Some(exclude) = exclude {
            lines.push(format!(
                "what `exclude` names ({exclude}) is in no copy: it is not brought back, and is removed"
            ));
        }
        Outcome::WouldRestore { seq: kept.seq, lines, more: 0 }
    }

    /// Whether something was done that there may be more to do after.
    pub(super) fn failback_step(&mut self, set: &str, stage: Stage) -> bool {
        match stage {
            Stage::Stopping => {
                if self.are_all_gone(set) {
                    self.enter_failover(set, Stage::Gathering);
                    return true;
                }
                let stuck = self.copies.moving.get(set).is_some_and(|moving| moving.told_stuck);
                if stuck {
                    self.failback_failed(set, "a process of its services does not end");
                }
                false
            }
            Stage::Gathering => {
                let Some(directory) = self.directory_of(set) else { return false };
                if self.clear_the_way(set, &|job| matches!(job, Job::Gather { .. })) {
                    self.begin_order(set, Job::Gather { directory }, None);
                }
                false
            }
            Stage::PuttingBack => {
                let Some(moving) = self.copies.moving.get(set) else { return false };
                let (seq, force) = (moving.gathered, moving.forced);
                if self.clear_the_way(set, &|job| matches!(job, Job::Restore(_))) {
                    let restore = Restore { seq, paths: Vec::new(), place: Place::Replace, dry_run: false, force };
                    self.begin_order(set, Job::Restore(Box::new(restore)), None);
                }
                false
            }
            Stage::Starting => self.starting_step(set),
            Stage::Sweeping => {
                let Some(directory) = self.directory_of(set) else { return false };
                if self.clear_the_way(set, &|job| matches!(job, Job::Dismiss { .. })) {
                    self.begin_order(set, Job::Dismiss { directory }, None);
                }
                false
            }
            Stage::Holding
            | Stage::Materialising
            | Stage::Saving
            | Stage::Switching
            | Stage::Over
            | Stage::Lifting
            | Stage::Returning
            | Stage::Again => false,
        }
    }

    fn directory_of(&self, set: &str) -> Option<String> {
        self.copies.moving.get(set).map(|moving| moving.kept.directory.clone())
    }

    /// A job of the way back has ended.
    pub(super) fn failback_job_done(&mut self, set: &str, job: &Job, outcome: &Outcome) {
        let Some(moving) = self.copies.moving.get_mut(set) else { return };
        match (moving.kept.stage, job, outcome) {
            (Stage::Gathering, Job::Gather { .. }, Outcome::Taken { seq, .. } | Outcome::Unchanged { seq }) => {
                moving.gathered = Some(*seq);
                self.enter_failover(set, Stage::Lifting);
                self.switch(set, Direction::Back);
            }
            (Stage::Gathering, Job::Gather { .. }, _) => {
                let why = format!("what was written meanwhile cannot be copied: {}", outcome.failure_text());
                self.failback_failed(set, &why);
            }
            (Stage::PuttingBack, Job::Restore(_), Outcome::Restored { .. }) => {
                moving.back = Some(outcome.clone());
                self.enter_failover(set, Stage::Returning);
                self.save_failover(set);
            }
            (Stage::PuttingBack, Job::Restore(_), _) => {
                let why = format!("it cannot be put back: {}", outcome.failure_text());
                self.failback_failed(set, &why);
            }
            (Stage::Sweeping, Job::Dismiss { .. }, _) => {
                if let Outcome::Failed(failure) = outcome {
                    let text = format!("what it ran from is not removed: {}", failure.text());
                    self.tell_failover(set, Level::Warn, text);
                }
                self.end_failover(set);
            }
            _ => {}
        }
    }

    pub(super) fn lifted(&mut self, set: &str, result: Result<(), String>) {
        if self.copies.moving.get(set).is_some_and(|moving| moving.kept.reach != Reach::Lived) {
            return self.undone(set, result);
        }
        match result {
            Ok(()) => {
                if let Some(moving) = self.copies.moving.get_mut(set) {
                    moving.switched = false;
                }
                self.enter_failover(set, Stage::PuttingBack);
            }
            Err(why) => self.failback_failed(set, &why),
        }
    }

    /// That the own disk has what counts is on disk, or is not.
    pub(super) fn returned(&mut self, set: &str, result: Result<(), String>) {
        if let Err(why) = result {
            // It may be on disk all the same. Nobody writes to the live data before it says otherwise.
            self.enter_failover(set, Stage::Again);
            return self.answer_failback(set, &format!("that it is back cannot be written down: {why}"));
        }
        self.enter_failover(set, Stage::Starting);
        let kept = match self.copies.moving.get(set).and_then(|moving| moving.back.as_ref()) {
            Some(Outcome::Restored { kept, .. }) if !kept.is_empty() => {
                let kept: Vec<String> = kept.iter().map(|path| path.display().to_string()).collect();
                format!("; what was there is kept as {}", kept.join(", "))
            }
            Some(_) | None => String::new(),
        };
        self.tell_failover(
            set,
            Level::Info,
            format!("its data are back on their own disk{kept}; its services are started there"),
        );
        self.review_ties();
        self.follow_failover(set);
    }

    fn starting_step(&mut self, set: &str) -> bool {
        let services = self.services_moved_by(set);
        let timeout = services.iter().map(|service| self.plan_of(*service).start_timeout).max().unwrap_or_default();
        let until = self.now.mono.after(timeout + READY_GRACE);
        if !services.iter().all(|service| self.is_ready_at_home(*service)) {
            if let Some(moving) = self.copies.moving.get_mut(set) {
                moving.until.get_or_insert(until);
            }
            return false;
        }
        let Some(moving) = self.copies.moving.get_mut(set) else { return false };
        let (asked, back) = (moving.asked.take(), moving.back.take());
        self.tell_failover(set, Level::Info, "its services are ready on their own disk".to_owned());
        if let (Some(Asked { request, wait: Wait::Outcome, .. }), Some(back)) = (asked, back) {
            self.answer_copy(request, back);
        }
        self.enter_failover(set, Stage::Sweeping);
        self.save_failover(set);
        true
    }

    /// Of every replica that is meant to run.
    fn is_ready_at_home(&self, service: ServiceId) -> bool {
        let waits_for_its_time = matches!(self.plan_of(service).kind, Kind::Every(_));
        self.replicas_of(service).into_iter().all(|id| {
            !self.is_meant_to_run(id) || waits_for_its_time || matches!(self.at(id).state, State::Ready | State::Done)
        })
    }

    /// They are not ready in time: what they wrote there since stays there, and they go on from the live data.
    pub(super) fn not_ready_at_home(&mut self, set: &str) {
        let slow: Vec<String> = self
            .services_moved_by(set)
            .into_iter()
            .filter(|service| !self.is_ready_at_home(*service))
            .map(|service| self.name(service).to_owned())
            .collect();
        self.enter_failover(set, Stage::Again);
        self.save_failover(set);
        self.answer_failback(set, &format!("{} did not become ready on their own disk", slow.join(", ")));
        self.follow_failover(set);
    }

    /// It stays where it is.
    fn failback_failed(&mut self, set: &str, why: &str) {
        self.enter_failover(set, Stage::Over);
        self.save_failover(set);
        self.answer_failback(set, why);
        self.review_ties();
        self.follow_failover(set);
    }

    /// Who waits is told.
    pub(super) fn leave_failbacks(&mut self) {
        for (set, moving) in &mut self.copies.moving {
            if let Some(Asked { request, wait: Wait::Outcome, .. }) = moving.asked.take() {
                let message = format!(
                    "copies {set}: the agent shuts down; `mainstay copies` tells where it is once another runs"
                );
                self.out.push(Action::Answer { request, outcome: Answer::Conflict { message } });
            }
        }
    }

    fn answer_failback(&mut self, set: &str, why: &str) {
        let since =
            self.copies.moving.get(set).map(|moving| self.now.wall.since(moving.kept.since)).unwrap_or_default();
        let text =
            format!("it is not brought back: {why}; its services go on from the copy (moved {} ago)", human(since));
        self.tell_failover(set, Level::Error, text.clone());
        let asked = self.copies.moving.get_mut(set).and_then(|moving| {
            moving.back = None;
            moving.asked.take()
        });
        if let Some(Asked { request, wait: Wait::Outcome, .. }) = asked {
            self.out.push(Action::Answer { request, outcome: Answer::Failed { why: format!("copies {set}: {text}") } });
        }
    }
}
