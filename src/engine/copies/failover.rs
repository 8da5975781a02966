//! Going on from a copy when the disk of a source fails (`on_source_failing: Restore`): what is known of one such move, and its way there.
//!
//! ```text
//! Holding ─▶ Materialising ─▶ Saving ─▶ Switching ─▶ Over        the way back: see `failback`
//!    ▲   what fails is told, and tried again later │
//!    └──────────────────────────────────────────────┘
//! ```
//!
//! * Nothing is built before every process of every service with data in the set is gone, by the same proof as any stop (`populated 0`).
//! * The newest good copy that was verified is built on the disk of the copies, and then seen in the place of the source: by a bind mount over it, or by
//!   a symbolic link that is switched. The source itself is not written to.
//! * INVARIANT: that the set has moved is on disk before anything is switched, and whoever starts looks at that first; so neither the death of the agent nor
//!   a reboot lets a service start on what lies on the failing disk. Until the switch is seen to be in force, its starts wait (`Blocker::Copies`).
//! * No copies are made of a set that has moved: they would lie beside the live data, on the same disk, and help against nothing that copies are for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::by_hand::Asked;
use super::catalog::{Copy, TargetState};
use super::event::{CopyAction, Direction, Move, Switch};
use super::note::CopyNews;
use super::order::{Failure, FailureKind, Job, Live, Outcome};
use super::plan::{CopyPlan, OnSourceFailing};
use super::schedule::retry_after;
use super::view::SetState;
use crate::engine::Engine;
use crate::engine::action::{Action, Level};
use crate::engine::event::Decision;
use crate::engine::service::State;
use crate::engine::types::{ServiceId, Time, human};

/// Of the keys of decisions: no service has such a name.
const KEY: &str = "@copies/";
/// A decision that is not on disk by then counts as one that cannot be kept.
const SAVE_TIMEOUT: Duration = Duration::from_secs(15);
/// The shell kills a switch after [`Switch::TIMEOUT`]; an answer that is not there so long afterwards is not waited for.
const SWITCH_GRACE: Duration = Duration::from_secs(10);
/// A job that waits for the failing disk is left behind after this long.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// A set that has moved, or is about to: what lasts over a reboot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    pub stage: Stage,
    /// When (wall) its source was found failing, and what was said of it.
    pub since: Time,
    pub why: String,
    pub sources: Vec<PathBuf>,
    /// The targets of the checks that look at what lies below the sources.
    pub primary: Vec<String>,
    /// The copy, when (wall) it was made, and whether it had been verified. 0: none is chosen yet.
    pub seq: u64,
    pub as_of: Time,
    pub verified: bool,
    /// Below `live/` of the set.
    pub directory: String,
    /// The directory of the set's target, where the live data lie.
    pub to: PathBuf,
    pub moves: Vec<Move>,
    /// When (wall) a service could first run on it.
    pub over_since: Option<Time>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Its services are to be gone.
    #[default]
    Holding,
    Materialising,
    /// That it moves is being written down.
    Saving,
    Switching,
    /// Its services run on the copy.
    Over,
    /// On the way back: its services are to be gone; what they have is copied; the switch is undone; it is put back; that is written down.
    Stopping,
    Gathering,
    Lifting,
    PuttingBack,
    Returning,
    /// They are started on their own disk and are to become ready.
    Starting,
    /// They did not: they are to be gone, and go on from the live data.
    Again,
    /// It is over; what lies in `live/` is to be removed.
    Sweeping,
}

/// What is known of it in this agent's life only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Moving {
    pub kept: Failover,
    /// The switch is in force, as was seen.
    pub switched: bool,
    /// The decision that is awaited, and the switch that is under way.
    pub saving: Option<u64>,
    pub switching: Option<u64>,
    /// Until then (mono) what is awaited may take.
    pub until: Option<Time>,
    /// Not before this (mono) anything is done about a disk that has just begun to fail.
    pub patience: Option<Time>,
    /// Not before this (boot) it is tried again; after so many failures.
    pub retry: Option<Time>,
    pub failures: u32,
    pub trouble: Option<String>,
    /// Who waits for the way back; the copy with what was gathered, and what was kept beside.
    pub asked: Option<Asked>,
    pub forced: bool,
    pub gathered: Option<u64>,
    pub back: Option<Outcome>,
    pub told_stuck: bool,
}

impl Stage {
    /// No process of its services may be there.
    pub(super) fn stops(self) -> bool {
        match self {
            Self::Holding
            | Self::Materialising
            | Self::Saving
            | Self::Switching
            | Self::Stopping
            | Self::Gathering
            | Self::Lifting
            | Self::PuttingBack
            | Self::Returning
            | Self::Again => true,
            Self::Over | Self::Starting | Self::Sweeping => false,
        }
    }

    /// What its services need is what lies on the disk of the copies.
    fn lives_on_target(self) -> bool {
        match self {
            Self::Over | Self::Stopping | Self::Gathering | Self::Lifting => true,
            Self::Holding
            | Self::Materialising
            | Self::Saving
            | Self::Switching
            | Self::PuttingBack
            | Self::Returning
            | Self::Starting
            | Self::Again
            | Self::Sweeping => false,
        }
    }

    /// What it is after the agent's death: a way back that was not finished is begun anew by whoever wants it.
    fn after_death(self) -> Self {
        match self {
            Self::Stopping | Self::Gathering | Self::Lifting | Self::PuttingBack | Self::Returning => Self::Over,
            Self::Saving | Self::Switching | Self::Again => Self::Again,
            Self::Holding | Self::Materialising | Self::Over | Self::Starting | Self::Sweeping => self,
        }
    }

    /// The word of the API.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Holding => "holding",
            Self::Materialising => "materialising",
            Self::Saving => "saving",
            Self::Switching => "switching",
            Self::Over => "over",
            Self::Stopping => "stopping",
            Self::Gathering => "gathering",
            Self::Lifting => "lifting",
            Self::PuttingBack => "putting_back",
            Self::Returning => "returning",
            Self::Starting => "starting",
            Self::Again => "again",
            Self::Sweeping => "sweeping",
        }
    }
}

impl Failover {
    /// Where its data may be said to lie: a link of the configuration may have been followed before it was switched, or after.
    fn places(&self) -> Vec<PathBuf> {
        self.sources.iter().chain(self.moves.iter().map(|one| &one.live)).cloned().collect()
    }

    fn live(&self, seq: &Copy, traversable: bool) -> Live {
        let age = self.since.since(seq.at);
        Live { seq: seq.seq, directory: self.directory.clone(), since: self.since, age, traversable }
    }

    /// `copy 12, 3h old then (made 2026-..)`
    fn copy_text(&self, now: Time) -> String {
        let verified = if self.verified { "" } else { ", never verified" };
        let age = human(self.over_since.unwrap_or(now).since(self.as_of));
        format!("copy {} ({age} old when it took over{verified})", self.seq)
    }
}

/// The directory below `live/`: of this copy, for this failure.
fn directory_of(seq: u64, since: Time) -> String {
    format!("{seq:06}-{}", since.0 / 1_000_000_000)
}

impl Engine {
    /// What an earlier agent had written down of sets that have moved. The rest of the decisions is given back.
    pub(in crate::engine) fn resume_failovers(&mut self, decisions: Vec<Decision>) -> Vec<Decision> {
        let (moved, rest): (Vec<Decision>, Vec<Decision>) =
            decisions.into_iter().partition(|decision| decision.service.starts_with(KEY));
        for decision in moved {
            let (Some(set), Some(kept)) = (decision.service.strip_prefix(KEY), decision.failover) else { continue };
            let mut kept = *kept;
            kept.stage = kept.stage.after_death();
            self.copies.moving.insert(set.to_owned(), Moving { kept, ..Moving::default() });
        }
        self.copies.due = true;
        rest
    }

    fn moving_of(&self, service: ServiceId) -> impl Iterator<Item = (&String, &Moving)> {
        self.copies.moving.iter().filter(move |(_, moving)| self.has_data_below(service, &moving.kept.places()))
    }

    fn has_data_below(&self, service: ServiceId, sources: &[PathBuf]) -> bool {
        let lies = |data: &Path| sources.iter().any(|from| data.starts_with(from) || from.starts_with(data));
        self.plan_of(service).needs.as_deref().is_some_and(|needs| needs.data.iter().any(|data| lies(data)))
    }

    /// Whether no process of this service may be there while its data move.
    pub(in crate::engine) fn failover_stops(&self, service: ServiceId) -> bool {
        !self.copies.moving.is_empty() && self.moving_of(service).any(|(_, moving)| moving.kept.stage.stops())
    }

    /// Why this service is not started for now, in words.
    pub(in crate::engine) fn failover_blocks(&self, service: ServiceId) -> Option<String> {
        if self.copies.moving.is_empty() {
            return None;
        }
        let blocks =
            |moving: &Moving| moving.kept.stage.stops() || (moving.kept.stage == Stage::Over && !moving.switched);
        let (set, _) = self.moving_of(service).find(|(_, moving)| blocks(moving))?;
        Some(format!("its data ({})", self.failover_text(set)?))
    }

    /// Where the service finds its data: what has moved lies on the target.
    pub(in crate::engine) fn where_data_lies(&self, service: ServiceId, data: &[PathBuf]) -> Option<Vec<PathBuf>> {
        let moved: Vec<&Failover> = match self.copies.moving.is_empty() {
            true => return None,
            false => self.moving_of(service).map(|(_, moving)| &moving.kept).collect(),
        };
        let moved: Vec<&Failover> = moved.into_iter().filter(|kept| kept.stage.lives_on_target()).collect();
        let lies = |path: &PathBuf| {
            let over = moved.iter().find(|kept| kept.sources.iter().any(|from| path.starts_with(from)));
            over.map_or_else(|| path.clone(), |kept| kept.to.clone())
        };
        (!moved.is_empty()).then(|| data.iter().map(lies).collect())
    }

    /// A replica of a service whose data move has changed.
    pub(in crate::engine) fn failover_changed(&mut self, service: ServiceId) {
        if !self.copies.moving.is_empty() && self.moving_of(service).next().is_some() {
            self.copies.due = true;
        }
    }

    /// Checks have changed, or mounts: what follows from it for sets is looked at.
    pub(in crate::engine) fn failover_checks_changed(&mut self) {
        let restores = |plan: &CopyPlan| plan.on_source_failing == Some(OnSourceFailing::Restore);
        if !self.copies.moving.is_empty() || self.plan.copies.iter().any(restores) {
            self.copies.due = true;
        }
    }

    /// Something was mounted, which may cover what was switched.
    pub(in crate::engine) fn failover_mounts_changed(&mut self) {
        let over = |(_, moving): &(&String, &Moving)| {
            moving.kept.stage == Stage::Over && moving.switched && moving.switching.is_none()
        };
        for set in self.copies.moving.iter().filter(over).map(|(set, _)| set.clone()).collect::<Vec<_>>() {
            self.switch(&set, Direction::Over);
        }
    }

    /// What is being done about a set, in words.
    pub(in crate::engine) fn failover_text(&self, set: &str) -> Option<String> {
        let moving = self.copies.moving.get(set)?;
        let kept = &moving.kept;
        let copy = kept.copy_text(self.now.wall);
        let text = match kept.stage {
            Stage::Holding if moving.failures == 0 => {
                format!("its disk fails: {}; once it is at rest it goes on from a copy", kept.why)
            }
            Stage::Holding => format!("held: its disk fails: {}", kept.why),
            Stage::Materialising => format!("{copy} is being built on {}", kept.to.display()),
            Stage::Saving | Stage::Switching => format!("{copy} takes its place"),
            Stage::Over if !moving.switched => format!("{copy} has taken its place, and is not (yet) seen there"),
            Stage::Over => {
                let since = human(self.now.wall.since(kept.over_since.unwrap_or(kept.since)));
                format!(
                    "runs from {copy} on {} for {since}; `mainstay copies failback {set}` brings it back",
                    kept.to.display()
                )
            }
            Stage::Stopping | Stage::Gathering | Stage::Lifting | Stage::PuttingBack | Stage::Returning => {
                "it is brought back to its own disk".to_owned()
            }
            Stage::Starting => "it is back on its own disk and is to become ready".to_owned(),
            Stage::Again => format!("it goes on from {copy} again"),
            Stage::Sweeping => "it is on its own disk; what it ran from is removed".to_owned(),
        };
        Some(match &moving.trouble {
            Some(trouble) => format!("{text}; {trouble}"),
            None => text,
        })
    }

    /// Of one that is ready: that it runs from a copy, and how old that was.
    pub(in crate::engine) fn runs_from_copy(&self, service: ServiceId) -> Option<String> {
        if self.copies.moving.is_empty() {
            return None;
        }
        let over = self.moving_of(service).find(|(_, moving)| moving.kept.stage == Stage::Over)?;
        self.failover_text(over.0)
    }

    /// The services of a set, with data below its sources.
    pub(super) fn services_moved_by(&self, set: &str) -> Vec<ServiceId> {
        let Some(moving) = self.copies.moving.get(set) else { return Vec::new() };
        let services = self.services.keys().copied();
        let places = moving.kept.places();
        services.filter(|service| self.has_data_below(*service, &places)).collect()
    }

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
            self.failover_late(&set);
            // Each step leads to another stage, or is the last.
            while self.failover_step(&set) {}
        }
    }

    fn notice_failing_source(&mut self, plan: &CopyPlan) {
        let Some(why) = self.failing_below(&plan.from) else { return };
        if !self.services.keys().any(|service| self.has_data_below(*service, &plan.from)) {
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
    fn failover_step(&mut self, set: &str) -> bool {
        let Some(stage) = self.copies.moving.get(set).map(|moving| moving.kept.stage) else { return false };
        match stage {
            Stage::Holding => self.hold_step(set),
            Stage::Materialising => self.materialise_step(set),
            Stage::Over => self.over_step(set),
            Stage::Again => self.again_step(set),
            Stage::Stopping | Stage::Gathering | Stage::PuttingBack | Stage::Starting | Stage::Sweeping => {
                self.failback_step(set, stage)
            }
            Stage::Saving | Stage::Switching | Stage::Lifting | Stage::Returning => false,
        }
    }

    fn hold_step(&mut self, set: &str) -> bool {
        let (Some(moving), Some(plan)) = (self.copies.moving.get(set), self.copy_plan(set).cloned()) else {
            return false;
        };
        if self.failing_below(&moving.kept.sources).is_none() {
            return self.failover_not_needed(set);
        }
        let waits =
            moving.patience.is_some_and(|at| at > self.now.mono) || moving.retry.is_some_and(|at| at > self.now.boot);
        if waits || !self.are_all_gone(set) {
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

    /// The newest good copy that was verified, else the newest good one.
    fn copy_to_go_on_from(&self, set: &str, plan: &CopyPlan) -> Result<Copy, String> {
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

    fn materialise_step(&mut self, set: &str) -> bool {
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
    fn materialised(&mut self, set: &str, directory: &str, outcome: &Outcome) {
        let Some(moving) = self.copies.moving.get_mut(set) else { return };
        if moving.kept.stage != Stage::Materialising || moving.kept.directory != directory {
            return;
        }
        match outcome {
            Outcome::Materialised { .. } => {
                moving.kept.over_since = Some(self.now.wall);
                self.enter_failover(set, Stage::Saving);
                self.save_failover(set);
            }
            other => {
                let why = match other {
                    Outcome::Failed(failure) => failure.text(),
                    unexpected => format!("its role answered {unexpected:?}"),
                };
                self.put_off(set, &format!("the copy cannot be built: {why}"));
            }
        }
    }

    /// A decision is on disk, or is not. Whether it was one of these.
    pub(in crate::engine) fn failover_saved(&mut self, decision: u64, result: &Result<(), String>) -> bool {
        let saved = self.copies.moving.iter().find(|(_, moving)| moving.saving == Some(decision));
        let Some(set) = saved.map(|(set, _)| set.clone()) else { return self.copies.saves.remove(&decision) };
        self.copies.saves.remove(&decision);
        self.failover_is_saved(&set, result);
        true
    }

    fn failover_is_saved(&mut self, set: &str, result: &Result<(), String>) {
        let Some(moving) = self.copies.moving.get_mut(set) else { return };
        moving.saving = None;
        self.copies.due = true;
        match (moving.kept.stage, result) {
            (Stage::Saving, Ok(())) => {
                self.enter_failover(set, Stage::Switching);
                self.switch(set, Direction::Over);
            }
            (Stage::Saving, Err(why)) => {
                self.put_off(
                    set,
                    &format!("that it moves cannot be written down, so that a reboot would forget it: {why}"),
                );
            }
            (Stage::Returning, result) => self.returned(set, result.clone()),
            (
                Stage::Holding
                | Stage::Materialising
                | Stage::Switching
                | Stage::Over
                | Stage::Stopping
                | Stage::Gathering
                | Stage::Lifting
                | Stage::PuttingBack
                | Stage::Starting
                | Stage::Again
                | Stage::Sweeping,
                _,
            ) => {}
        }
    }

    /// A switch has ended.
    pub(super) fn switched(&mut self, set: &str, id: u64, result: Result<(), String>) {
        let Some(moving) = self.copies.moving.get_mut(set).filter(|moving| moving.switching == Some(id)) else {
            return self.stale();
        };
        (moving.switching, moving.until) = (None, None);
        match (moving.kept.stage, result) {
            (Stage::Switching, Ok(())) => {
                (moving.switched, moving.failures, moving.trouble) = (true, 0, None);
                moving.kept.over_since = Some(self.now.wall);
                self.enter_failover(set, Stage::Over);
                self.save_failover(set);
                let text = self.failover_text(set).unwrap_or_default();
                self.tell_failover(set, Level::Error, text);
                self.review_ties();
                self.follow_failover(set);
            }
            (Stage::Switching, Err(why)) => {
                self.put_off(set, &why);
            }
            (Stage::Over, Ok(())) => {
                let was = std::mem::replace(&mut moving.switched, true);
                (moving.failures, moving.trouble) = (0, None);
                if !was {
                    let text = self.failover_text(set).unwrap_or_default();
                    self.tell_failover(set, Level::Warn, text);
                    self.review_ties();
                    self.follow_failover(set);
                }
            }
            (Stage::Over, Err(why)) => {
                moving.switched = false;
                self.not_seen_there(set, why);
            }
            (Stage::Lifting, result) => self.lifted(set, result),
            (
                Stage::Holding
                | Stage::Materialising
                | Stage::Saving
                | Stage::Stopping
                | Stage::Gathering
                | Stage::PuttingBack
                | Stage::Returning
                | Stage::Starting
                | Stage::Again
                | Stage::Sweeping,
                _,
            ) => {}
        }
    }

    /// The live data cannot be put where they belong: nothing starts until they are.
    fn not_seen_there(&mut self, set: &str, why: String) {
        let boot = self.now.boot;
        let Some(moving) = self.copies.moving.get_mut(set) else { return };
        moving.failures = moving.failures.saturating_add(1);
        moving.retry = Some(boot.after(retry_after(moving.failures).min(Duration::from_secs(60))));
        let trouble = format!("nothing of it is started: {why}");
        if moving.trouble.as_ref() != Some(&trouble) {
            moving.trouble = Some(trouble.clone());
            self.tell_failover(set, Level::Error, trouble);
        }
        self.follow_failover(set);
    }

    fn over_step(&mut self, set: &str) -> bool {
        let Some(moving) = self.copies.moving.get(set) else { return false };
        let waits = moving.retry.is_some_and(|at| at > self.now.boot);
        if !moving.switched && moving.switching.is_none() && !waits {
            self.switch(set, Direction::Over);
        }
        false
    }

    fn again_step(&mut self, set: &str) -> bool {
        if !self.are_all_gone(set) {
            return false;
        }
        self.enter_failover(set, Stage::Saving);
        self.save_failover(set);
        false
    }

    pub(super) fn switch(&mut self, set: &str, direction: Direction) {
        self.copies.next_order = self.copies.next_order.max(self.next_generation) + 1;
        let id = self.copies.next_order;
        let until = self.now.mono.after(Switch::TIMEOUT + SWITCH_GRACE);
        let Some(moving) = self.copies.moving.get_mut(set) else { return };
        (moving.switching, moving.until) = (Some(id), Some(until));
        let moves = moving.kept.moves.clone();
        self.copy_action(set, CopyAction::Switch(Switch { id, direction, moves }));
    }

    /// What is awaited has not come.
    fn failover_late(&mut self, set: &str) {
        let Some(moving) = self.copies.moving.get(set) else { return };
        if moving.until.is_none_or(|until| until > self.now.mono) {
            return;
        }
        if let Some(id) = moving.switching {
            self.switched(set, id, Err("nobody knows what became of it".to_owned()));
        } else if moving.saving.is_some() && matches!(moving.kept.stage, Stage::Saving | Stage::Returning) {
            self.failover_is_saved(set, &Err(format!("no answer within {}", human(SAVE_TIMEOUT))));
        } else if moving.kept.stage == Stage::Starting {
            self.not_ready_at_home(set);
        }
    }

    /// It cannot be done for now: the services stay held, and it is tried again.
    fn put_off(&mut self, set: &str, why: &str) -> bool {
        let boot = self.now.boot;
        let Some(moving) = self.copies.moving.get_mut(set) else { return false };
        moving.failures = moving.failures.saturating_add(1);
        let wait = retry_after(moving.failures);
        moving.retry = Some(boot.after(wait));
        (moving.saving, moving.switching, moving.until, moving.kept.over_since) = (None, None, None, None);
        let trouble = format!("it cannot go on from a copy: {why}");
        let is_news = moving.trouble.as_ref() != Some(&trouble);
        moving.trouble = Some(trouble.clone());
        self.enter_failover(set, Stage::Holding);
        if is_news {
            self.save_failover(set);
            self.tell_failover(
                set,
                Level::Error,
                format!("{trouble}; its services stay held; next try in {}", human(wait)),
            );
        }
        false
    }

    /// The disk is well again, and nothing has moved.
    fn failover_not_needed(&mut self, set: &str) -> bool {
        let Some(moving) = self.copies.moving.get(set) else { return false };
        let built = moving.kept.seq != 0;
        let order = self.copies.sets.get_mut(set).and_then(|memory| memory.running.as_mut());
        let order = order.filter(|running| matches!(running.order.job, Job::Materialise(_))).map(|running| {
            running.cancelled = true;
            running.order.id
        });
        if let Some(order) = order {
            self.copy_action(set, CopyAction::Cancel { order });
        }
        self.tell_failover(set, Level::Info, "its source is well again; its services go on where they were".to_owned());
        if built {
            self.enter_failover(set, Stage::Sweeping);
            self.save_failover(set);
            self.follow_failover(set);
        } else {
            self.end_failover(set);
        }
        built
    }

    /// Nothing of it is left.
    pub(super) fn end_failover(&mut self, set: &str) {
        let services = self.services_moved_by(set);
        self.copies.moving.remove(set);
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

    /// Has it written down as it stands.
    pub(super) fn save_failover(&mut self, set: &str) {
        let decision = self.next_decision;
        self.next_decision += 1;
        let until = self.now.mono.after(SAVE_TIMEOUT);
        let failover = self.copies.moving.get_mut(set).map(|moving| {
            moving.saving = Some(decision);
            if matches!(moving.kept.stage, Stage::Saving | Stage::Returning) {
                moving.until = Some(until);
            }
            let mut kept = moving.kept.clone();
            if kept.stage == Stage::Returning {
                // Once this is on disk, its own disk has what counts.
                kept.stage = Stage::Starting;
            }
            Box::new(kept)
        });
        self.copies.saves.insert(decision);
        let content = Decision { service: format!("{KEY}{set}"), failover, ..Decision::default() };
        self.out.push(Action::Decide { decision, content });
    }

    /// Whether no process of any service of the set is there; of one that will not go it is told once.
    pub(super) fn are_all_gone(&mut self, set: &str) -> bool {
        let mut all = true;
        for service in self.services_moved_by(set) {
            for id in self.replicas_of(service) {
                let replica = self.at(id);
                all &= replica.run.is_none();
                if !matches!(replica.state, State::Stuck { .. }) {
                    continue;
                }
                let text = format!("{} is stuck: nothing is moved before it is gone", self.label(id));
                let Some(moving) = self.copies.moving.get_mut(set) else { return false };
                if !std::mem::replace(&mut moving.told_stuck, true) {
                    self.tell_failover(set, Level::Error, text);
                }
            }
        }
        all
    }

    /// The replicas of its services are brought to where they should be.
    pub(super) fn follow_failover(&mut self, set: &str) {
        let services = self.services_moved_by(set);
        self.follow_services(&services);
    }

    fn follow_services(&mut self, services: &[ServiceId]) {
        for service in services {
            for id in self.replicas_of(*service) {
                self.refresh(id);
                self.dirty.insert(id);
            }
            self.touched.insert(*service);
        }
    }

    /// A line in the journal, and a link in the chain of each of its services.
    pub(super) fn tell_failover(&mut self, set: &str, level: Level, text: String) {
        for service in self.services_moved_by(set) {
            for id in self.replicas_of(service) {
                self.add_cause(id, format!("copies {set}: {text}"));
            }
        }
        let services = self.services_moved_by(set).into_iter().map(|service| self.name(service).to_owned()).collect();
        self.copy_note(set, level, CopyNews::Failover { text, services });
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
            | Job::RestoreTest
            | Job::Init { .. }
            | Job::Failback { .. } => {}
        }
    }

    /// Whether its role is needed for the way there or back, and for nothing else.
    pub(super) fn is_moving(&self, set: &str) -> bool {
        self.copies.moving.get(set).is_some_and(|moving| moving.kept.stage != Stage::Over)
    }

    /// What holds a service up, and that one runs from a copy, is told at once; what is under way is not yet.
    pub(super) fn failover_state(&self, set: &str, stage: Stage) -> SetState {
        let trouble = self.copies.moving.get(set).is_some_and(|moving| moving.trouble.is_some());
        match stage {
            Stage::Over => SetState::Failing,
            Stage::Holding
            | Stage::Materialising
            | Stage::Saving
            | Stage::Switching
            | Stage::Stopping
            | Stage::Gathering
            | Stage::Lifting
            | Stage::PuttingBack
            | Stage::Returning
            | Stage::Starting
            | Stage::Again
            | Stage::Sweeping => {
                if trouble {
                    SetState::Failing
                } else {
                    SetState::Degraded
                }
            }
        }
    }

    /// The stage of a set that has moved, or is on its way.
    pub(super) fn failover_stage(&self, set: &str) -> Option<Stage> {
        self.copies.moving.get(set).map(|moving| moving.kept.stage)
    }

    /// The earliest deadlines of sets that move: on the monotonic clock, and on the boot clock.
    pub(super) fn failover_deadlines(&self) -> (Option<Time>, Option<Time>) {
        let all = || self.copies.moving.values();
        let holds = |moving: &&Moving| moving.kept.stage == Stage::Holding;
        let patience = all().filter(holds).filter_map(|moving| moving.patience).filter(|at| *at > self.now.mono);
        let until = all().filter_map(|moving| moving.until);
        let waits = |moving: &&Moving| matches!(moving.kept.stage, Stage::Holding | Stage::Over);
        let retry = all().filter(waits).filter_map(|moving| moving.retry).filter(|at| *at > self.now.boot);
        (patience.chain(until).min(), retry.min())
    }
}

/// What is to be seen where: of a link, it; else each source.
fn moves(plan: &CopyPlan, directory: &str) -> Vec<Move> {
    let data = plan.to.join(&plan.name).join("live").join(directory).join("data");
    let live = |source: &Path| data.join(source.strip_prefix("/").unwrap_or(source));
    match (&plan.failover.link, plan.from.first()) {
        (Some(link), Some(source)) => {
            vec![Move { live: live(source), at: link.clone(), link_to: Some(source.clone()) }]
        }
        (Some(_) | None, _) => {
            plan.from.iter().map(|source| Move { live: live(source), at: source.clone(), link_to: None }).collect()
        }
    }
}
