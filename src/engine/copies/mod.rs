//! Copies: when they are made, what stays of them, what is done when they cannot be made or are bad.
//!
//! The role of a set reports what lies on its target ([`catalog`]) and carries out one order at a time ([`order`]); which and when is decided here:
//! when a run is due in `schedule`, what becomes of an order in `work`, what operators ask for in `by_hand`, how a service holds still in `quiet`, what
//! is wrong and who is told in `health`, how services go on from a copy when a disk fails in [`failover`], what others see in `show`. What stays is a
//! function of its own ([`rotate`]).
//!
//! All that must last lies on the target. What an agent knew beside it is lost with it, and on the safe side: what it had frozen is thawed by the next
//! one, what it had stopped is started, and nothing is removed before a run has succeeded.

pub mod catalog;
pub mod event;
pub mod failover;
pub mod note;
pub mod order;
pub mod plan;
pub mod rotate;
#[cfg(test)]
pub(in crate::engine) mod testing;
pub mod view;

mod by_hand;
mod carry_over;
mod failback;
mod health;
mod in_force;
mod moved;
mod owed;
mod prune;
pub(in crate::engine) mod quiet;
mod replan;
pub mod restore_service;
mod schedule;
mod show;
pub(in crate::engine) mod standstill;
mod work;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use by_hand::Asked;
use catalog::{Catalog, TargetState};
use event::{CopyAction, CopyEvent};
use failover::Moving;
use note::{CopyNews, CopyNote};
use order::{Failure, FindingKind, Report};
use plan::CopyPlan;
use prune::Planned;
use quiet::Quiet;
use replan::Left;
use restore_service::{Restoring, Step, Waiting};
use rotate::Frozen;
use schedule::Tried;
use work::Running;

use super::Engine;
use super::action::{Action, Level, NoteKind};
use super::timers::TimerKey;
use super::types::{ServiceId, Time};

/// All that the engine keeps of copies.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in crate::engine) struct CopiesState {
    /// Those of the plan.
    sets: BTreeMap<String, SetMemory>,
    next_order: u64,
    /// Sets whose services run from a copy, or are on the way there or back; also of sets that have left the configuration.
    #[serde(default)]
    moving: BTreeMap<String, Moving>,
    /// Of those, the sets that the configuration has no more, as they are shown.
    #[serde(default)]
    left: BTreeMap<String, Left>,
    /// Decisions about them that are not known to be on disk.
    #[serde(default)]
    saves: BTreeSet<u64>,
    /// The wall clock less the boot clock, as it was when deadlines were last computed (nanoseconds).
    wall_offset: i128,
    /// By the name of the service.
    #[serde(default)]
    restoring: BTreeMap<String, Restoring>,
    /// Restores that wait until the roles of their sets are heard, at most `by_hand::QUEUE_MAX`.
    #[serde(default)]
    waiting: Vec<Waiting>,
    /// What an earlier agent was at, as long as nobody has gone on with it.
    #[serde(default)]
    resumed: Vec<(String, Step)>,
    /// About restores, and not known to be on disk.
    #[serde(default)]
    decisions: BTreeSet<u64>,
    /// Of these, that the restore of a service is over; and services of which that could not be written down, with when (mono) it is tried again.
    #[serde(default)]
    ends: BTreeMap<u64, String>,
    #[serde(default)]
    unsaved_ends: BTreeMap<String, Time>,
    /// Sets are to be looked at.
    #[serde(skip)]
    due: bool,
}

/// A target without room for the next copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Full {
    missing_bytes: u64,
    /// That were free at that time.
    free_bytes: u64,
}

/// One set.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct SetMemory {
    catalog: Catalog,
    /// When (wall) this agent first knew it.
    since: Time,
    linked: bool,
    /// Its role has told since it was linked what lies on the target.
    heard: bool,
    running: Option<Running>,
    /// By hand, at most `by_hand::QUEUE_MAX`.
    queue: VecDeque<Asked>,
    /// When (wall) its sources were said to have changed.
    changed: Option<Time>,
    /// When (wall) the last run that succeeded was begun, and how long it took.
    last_run: Option<Time>,
    last_took: Duration,
    /// A run has succeeded in this agent's life.
    succeeded: bool,
    /// A run has ended with this copy; what follows from it is decided once the catalog shows it.
    after_run: Option<u64>,
    planned: Option<Planned>,
    /// Why nothing is removed, as it was last told.
    prune_frozen: Option<Frozen>,
    /// In a row, of runs.
    failures: u32,
    failure: Option<Failure>,
    /// No run before this (boot).
    retry: Option<Time>,
    tried: Tried,
    quiet: Option<Quiet>,
    /// What the run under way, or the last one, has found to be missing.
    #[serde(default)]
    missing: Option<u64>,
    /// The target is full.
    #[serde(default)]
    full: Option<Full>,
    too_old_told: bool,
    /// The last order in which a disk of the sources gave errors.
    bad_disk_in: Option<u64>,
    /// An earlier agent owes a command, and its role is waited for until then (mono).
    owed_until: Option<Time>,
}

impl Engine {
    pub(in crate::engine) fn copy_event(&mut self, event: CopyEvent) {
        self.copies.due = true;
        match event {
            CopyEvent::Linked { set } => self.copies_linked(&set),
            CopyEvent::Unlinked { set } => self.copies_unlinked(&set),
            CopyEvent::Running { set, order } => self.found_running(&set, order),
            CopyEvent::Report { set, report } => self.copy_report(&set, report),
            CopyEvent::Command { request, caller, set, job, wait } => {
                self.copy_command(request, &caller, &set, job, wait);
            }
            CopyEvent::RestoreService { request, caller, service, asked } => {
                self.restore_command(request, caller, service, asked);
            }
            CopyEvent::Hooked { set, order, hook, result } => self.hooked(&set, order, hook, result),
            CopyEvent::Switched { set, id, result } => self.switched(&set, id, result),
        }
    }

    fn copy_report(&mut self, set: &str, report: Report) {
        let Some(memory) = self.copies.sets.get_mut(set) else { return self.stale() };
        match report {
            Report::Catalog(catalog) => {
                let before = std::mem::replace(&mut memory.catalog, *catalog).target;
                memory.heed_full();
                self.mark_in_use(set);
                let Some(memory) = self.copies.sets.get_mut(set) else { return };
                let first = !std::mem::replace(&mut memory.heard, true);
                self.target_changed(set, &before);
                if first {
                    self.tell_forgotten(set);
                    self.heard_first(set);
                }
            }
            // What follows is for the end of the run: something may go for it.
            Report::Target(TargetState::Full { missing_bytes }) => memory.missing = Some(missing_bytes),
            Report::Target(state) => {
                let before = std::mem::replace(&mut memory.catalog.target, state);
                self.target_changed(set, &before);
            }
            Report::Changed => memory.changed = Some(self.now.wall),
            Report::Progress { order, progress } => match memory.running.as_mut() {
                Some(running) if running.order.id == order => running.progress = progress,
                Some(_) | None => self.stale(),
            },
            Report::Quiesce { order, on } => self.quiesce(set, order, on),
            Report::Done { order, outcome } => self.copy_done(set, order, outcome),
            Report::Finding(finding) => {
                if finding.kind == FindingKind::BadDisk {
                    self.source_gave_error(set, &finding);
                }
                let level = finding.kind.level();
                self.copy_note(set, level, CopyNews::Finding(finding));
            }
        }
    }

    /// The target is there again: what waited for it need not wait longer.
    fn target_changed(&mut self, set: &str, before: &TargetState) {
        let Some(memory) = self.copies.sets.get_mut(set).filter(|memory| memory.catalog.target != *before) else {
            return;
        };
        let state = memory.catalog.target.clone();
        if state == TargetState::Ready {
            memory.retry = None;
        }
        let level = match state {
            TargetState::Unknown => return,
            TargetState::Ready if *before == TargetState::Unknown => return,
            TargetState::Ready => Level::Info,
            TargetState::Absent { .. }
            | TargetState::Unmarked { .. }
            | TargetState::Refused { .. }
            | TargetState::Full { .. }
            | TargetState::Failing { .. }
            | TargetState::NoSource { .. } => Level::Warn,
        };
        self.copy_note(set, level, CopyNews::Target { state });
    }

    /// The sets are those of the plan now; `before` is what they were.
    pub(in crate::engine) fn install_copies(&mut self, before: &[CopyPlan]) {
        let gone = |name: &String| self.plan.copies.iter().all(|plan| plan.name != *name);
        for name in self.copies.sets.keys().filter(|name| gone(name)).cloned().collect::<Vec<_>>() {
            self.end_copies(&name, &format!("the set {name} has left the configuration"));
            self.copies.sets.remove(&name);
        }
        for plan in self.plan.copies.clone() {
            let since = self.now.wall;
            let fresh = || SetMemory { since, ..SetMemory::default() };
            let memory = self.copies.sets.entry(plan.name.clone()).or_insert_with(fresh);
            if before.iter().any(|old| old.name == plan.name && *old != plan) {
                memory.retry = None;
                if memory.linked {
                    self.copy_action(&plan.name.clone(), CopyAction::Plan(Box::new(plan)));
                }
            }
        }
        self.copies.due = true;
    }

    /// Every set is looked at; called before a step rests.
    pub(in crate::engine) fn review_copies(&mut self) {
        self.review_failovers();
        for set in self.copies.sets.keys().cloned().collect::<Vec<_>>() {
            if let Some(plan) = self.copy_plan(&set).cloned() {
                self.mark_in_use(&set);
                self.answer_the_impatient(&set);
                self.after_run(&set, &plan);
                self.review_quiet_set(&set);
                self.give_up_lost(&set);
                self.pay_post(&set);
                self.review_age(&set, &plan);
                self.next_order(&set, &plan);
            }
        }
        self.review_restores();
        self.arm_copies();
        self.alert_timer();
    }

    /// Whether sets are to be looked at: something of them has changed, a deadline has come, or the wall clock was set.
    pub(in crate::engine) fn copies_are_due(&mut self) -> bool {
        const JUMP: u128 = 2_000_000_000;
        let jumped = self.wall_offset().abs_diff(self.copies.wall_offset) > JUMP && !self.copies.sets.is_empty();
        (std::mem::take(&mut self.copies.due) || jumped)
            && !matches!(self.shutdown, Some(super::shutdown::Shutdown::Left))
    }

    pub(in crate::engine) fn copies_timer(&mut self) {
        self.copies.due = true;
    }

    fn wall_offset(&self) -> i128 {
        i128::from(self.now.wall.0) - i128::from(self.now.boot.0)
    }

    fn arm_copies(&mut self) {
        self.copies.wall_offset = self.wall_offset();
        let later = |at: &Time| *at > self.now.boot;
        let boot = self.copies.sets.keys().filter_map(|set| self.copies_deadline(set)).filter(later).min();
        let mono = self.copies.sets.values().filter_map(SetMemory::mono_deadline);
        let restores = self.restores_deadline().filter(|at| *at > self.now.mono);
        let (moving_mono, moving_boot) = self.failover_deadlines();
        let mono = mono.chain(restores).chain(moving_mono).min().map(|at| at.max(Time(self.now.mono.0 + 1)));
        match boot.into_iter().chain(moving_boot).min() {
            Some(at) => self.boot_timers.set(TimerKey::Copies, at),
            None => self.boot_timers.cancel(TimerKey::Copies),
        }
        match mono {
            Some(at) => self.timers.set(TimerKey::Copies, at),
            None => self.timers.cancel(TimerKey::Copies),
        }
    }

    /// A reading of the wall clock that is to come, on the boot clock.
    fn boot_of(&self, wall: Time) -> Time {
        self.now.boot.after(wall.since(self.now.wall))
    }

    fn copy_plan(&self, set: &str) -> Option<&CopyPlan> {
        self.plan.copies.iter().find(|plan| plan.name == set)
    }

    fn copy_action(&mut self, set: &str, what: CopyAction) {
        self.out.push(Action::Copy { set: set.to_owned(), what: Box::new(what) });
    }

    fn copy_note(&mut self, set: &str, level: Level, what: CopyNews) {
        self.agent_note(level, NoteKind::Copy(Box::new(CopyNote { set: set.to_owned(), what })));
    }

    fn copies_data_of(&self, plan: &CopyPlan, service: ServiceId) -> bool {
        let needs = self.plan_of(service).needs.as_deref();
        needs.is_some_and(|needs| needs.data.iter().any(|data| plan.covers(data)))
    }
}

impl SetMemory {
    /// A full target counts as such until a run succeeds, or there is as much more room as was missing.
    fn heed_full(&mut self) {
        let Some(full) = self.full else { return };
        if self.catalog.free_bytes >= full.free_bytes.saturating_add(full.missing_bytes) {
            self.full = None;
        } else if self.catalog.target == TargetState::Ready {
            self.catalog.target = TargetState::Full { missing_bytes: full.missing_bytes };
        }
    }

    /// The earliest of the deadlines on the monotonic clock.
    fn mono_deadline(&self) -> Option<Time> {
        let quiet = self.quiet.as_ref().and_then(|quiet| quiet.until);
        let look = self.quiet.as_ref().and_then(|quiet| quiet.proof.look);
        let hook = self.running.as_ref().and_then(|running| running.hook_until);
        let waits = if self.heard { None } else { self.queue.front().map(|asked| asked.patience) };
        let lost = self.running.as_ref().and_then(|running| running.lost_until.filter(|_| running.lost));
        let owed = self.owed_until.filter(|_| !self.heard && self.running.is_none());
        [quiet, look, hook, waits, lost, owed].into_iter().flatten().min()
    }
}
