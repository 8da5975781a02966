//! A service holds still while its data is copied: frozen or stopped, for a limited time, and let go whatever happens to the job, to its role or to the agent.
//!
//! That it is to be frozen is said in one place (`host::impair`), which asks here; what is frozen for another reason as well stays so afterwards.
//!
//! ```text
//! the role asks ─▶ frozen or stopped ─▶ proven: `frozen 1` of each group, or nothing runs ─▶ Quiesced ─▶ the role is done ─▶ thawed ─▶ Resumed
//! ```
//!
//! Whatever ends it early (`max`, a fence or an operator who stops it, a new run) is told by `Resumed` too: what is copied from then on is unstable.
//! The role thaws nothing while the agent lives, since only the agent knows what else wants a group frozen; it does when the agent dies, for the groups
//! that were frozen for it alone.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::CopyAction;
use super::note::CopyNews;
use super::plan::Quiesce;
use super::standstill::Standstill;
use crate::engine::Engine;
use crate::engine::action::Level;
use crate::engine::fence::gauge::Gauge;
use crate::engine::types::{ReplicaId, RunId, ServiceId, Time, human};

/// Between the first looks whether it stands still; then the last of them.
const PAUSES_MS: [u64; 6] = [1, 1, 2, 4, 8, 20];
/// A service that is stopped for a copy is started again after this long, whatever the copy does.
const STOPPED_MAX: Duration = Duration::from_secs(3_600);

/// A service that holds still for a set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Quiet {
    pub order: u64,
    pub service: ServiceId,
    pub how: How,
    /// Since when, and until when at most (mono).
    pub since: Time,
    pub until: Option<Time>,
    /// The role was told that it holds still.
    pub told: bool,
    /// What was frozen for this alone.
    pub ours: Vec<(ReplicaId, RunId)>,
    pub proof: Proof,
    /// Something else wants some of it frozen now, and the role was told to thaw nothing.
    pub kept: bool,
}

/// What is known of its standing still.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Proof {
    /// Readings of this number and later ones were asked for after it was frozen.
    asked_from: u64,
    given: Vec<(ReplicaId, RunId)>,
    looks: usize,
    /// When (mono) it is looked again.
    pub look: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum How {
    Frozen,
    Stopped,
}

impl Engine {
    /// Whether a copy wants this service frozen.
    pub(in crate::engine) fn copies_freeze(&self, service: ServiceId) -> bool {
        self.holds_still(service, How::Frozen)
    }

    /// Whether a copy wants this service stopped.
    pub(super) fn copies_quiet_stops(&self, service: ServiceId) -> bool {
        self.holds_still(service, How::Stopped)
    }

    fn holds_still(&self, service: ServiceId, how: How) -> bool {
        let mut quiet = self.copies.sets.values().filter_map(|memory| memory.quiet.as_ref());
        quiet.any(|quiet| quiet.service == service && quiet.how == how)
    }

    /// The role asks for it, or needs it no longer.
    pub(super) fn quiesce(&mut self, set: &str, order: u64, on: bool) {
        let running = self.copies.sets.get(set).and_then(|memory| memory.running.as_ref());
        if running.is_none_or(|running| running.order.id != order) {
            return self.stale();
        }
        if !on {
            return self.end_quiet(set);
        }
        let wish = match self.copy_plan(set).map(|plan| &plan.quiesce) {
            Some(Quiesce::Freeze { service, max }) => Some((service, How::Frozen, *max)),
            Some(Quiesce::Stop { service }) => Some((service, How::Stopped, STOPPED_MAX)),
            // Its command was run before the job began.
            Some(Quiesce::None | Quiesce::Exec { .. }) | None => None,
        };
        let Some((name, how, max)) = wish else {
            return self.copy_action(set, CopyAction::Quiesced { order, frozen: Vec::new(), max: STOPPED_MAX });
        };
        let Some(service) = self.service_id(name) else {
            let why = format!("there is no service {name}");
            return self.copy_action(set, CopyAction::NotQuiesced { order, why });
        };
        if how == How::Frozen && self.holds_still(service, How::Frozen) {
            // It would go on when the other set lets go of it, and nobody would know that this copy is torn.
            let why = format!("{name} is frozen for another set");
            return self.copy_action(set, CopyAction::NotQuiesced { order, why });
        }
        let until = Some(self.now.mono.after(max));
        let proof = Proof { asked_from: self.fence.asked + 1, ..Proof::default() };
        let since = self.now.mono;
        let quiet = Quiet { order, service, how, since, until, told: false, ours: Vec::new(), proof, kept: false };
        let before: Vec<ReplicaId> = self.frozen_replicas(service);
        if let Some(memory) = self.copies.sets.get_mut(set) {
            memory.quiet = Some(quiet);
        }
        self.follow_hold(service);
        if how == How::Frozen {
            // What was frozen for another reason is not the role's to thaw.
            let frozen = self.frozen_replicas(service).into_iter().filter(|id| !before.contains(id));
            let ours = frozen.map(|id| (id, self.at(id).memory.run)).collect();
            if let Some(quiet) = self.quiet_of(set) {
                quiet.ours = ours;
            }
            self.look_whether_still(set);
        }
    }

    fn quiet_of(&mut self, set: &str) -> Option<&mut Quiet> {
        self.copies.sets.get_mut(set)?.quiet.as_mut()
    }

    fn frozen_replicas(&self, service: ServiceId) -> Vec<ReplicaId> {
        self.replicas_of(service).into_iter().filter(|id| self.at(*id).memory.frozen).collect()
    }

    /// Asks each group that has not said so yet whether it stands still; once all have, the role is told. What is about to stop is waited for.
    fn look_whether_still(&mut self, set: &str) {
        let now = self.now.mono;
        self.forget_thawed(set);
        let Some(quiet) = self.copies.sets.get(set).and_then(|memory| memory.quiet.as_ref()) else { return };
        let (service, until, given) = (quiet.service, quiet.until, quiet.proof.given.clone());
        if !self.services.contains_key(&service) {
            return self.tell_still(set);
        }
        let runs = self.replicas_of(service).into_iter().filter(|id| self.at(*id).run.is_some());
        let runs = runs.map(|id| (id, self.at(id).memory.run));
        let left: Vec<(ReplicaId, RunId)> = runs.filter(|run| !given.contains(run)).collect();
        if left.is_empty() {
            return self.tell_still(set);
        }
        let Some(quiet) = self.quiet_of(set).filter(|quiet| quiet.proof.look.is_none_or(|look| look <= now)) else {
            return;
        };
        let pause = PAUSES_MS[quiet.proof.looks.min(PAUSES_MS.len() - 1)];
        quiet.proof.looks += 1;
        let next = now.after(Duration::from_millis(pause));
        quiet.proof.look = Some(until.map_or(next, |until| until.min(next)));
        let frozen: Vec<_> = left.into_iter().filter(|(id, _)| self.at(*id).memory.frozen).collect();
        if !frozen.is_empty() {
            self.ask_groups(frozen);
        }
    }

    /// What has been thawed since, to be stopped for another reason, is waited for like what was never seen to stand still; what has ended is nobody's to thaw.
    fn forget_thawed(&mut self, set: &str) {
        let Some(quiet) = self.copies.sets.get(set).and_then(|memory| memory.quiet.as_ref()) else { return };
        let (mut ours, mut given) = (quiet.ours.clone(), quiet.proof.given.clone());
        for runs in [&mut ours, &mut given] {
            runs.retain(|(id, run)| {
                self.find(*id).is_some_and(|replica| replica.memory.frozen && replica.memory.run == *run)
            });
        }
        if let Some(quiet) = self.quiet_of(set) {
            (quiet.ours, quiet.proof.given) = (ours, given);
        }
    }

    fn tell_still(&mut self, set: &str) {
        let now = self.now.mono;
        let Some(quiet) = self.quiet_of(set) else { return };
        quiet.proof.look = None;
        let left = quiet.until.map_or(STOPPED_MAX, |until| until.since(now));
        let ours = quiet.ours.clone();
        self.tell_quiet(set, ours, left);
    }

    /// A reading of a group.
    pub(in crate::engine) fn look_at_quiet(&mut self, asked: u64, gauge: &Gauge) {
        let of_service = |quiet: &Quiet| quiet.service == gauge.replica.service && quiet.how == How::Frozen;
        let waits = |quiet: &Quiet| of_service(quiet) && !quiet.told && asked >= quiet.proof.asked_from;
        let sets = self.copies.sets.iter().filter(|(_, memory)| memory.quiet.as_ref().is_some_and(waits));
        let Some(set) = sets.map(|(set, _)| set.clone()).next() else { return };
        match gauge.frozen {
            Some(true) if self.at(gauge.replica).memory.frozen => {
                if let Some(quiet) = self.quiet_of(&set) {
                    quiet.proof.given.push((gauge.replica, gauge.run));
                }
                self.copies.due = true;
            }
            Some(_) => {}
            None => {
                let why = format!(
                    "{} has no cgroup here, so nobody can tell whether all of it stands still; take Stop or Exec",
                    self.label(gauge.replica)
                );
                self.refuse_quiet(&set, why);
            }
        }
    }

    /// It does not hold still: the job fails, and is tried again.
    fn refuse_quiet(&mut self, set: &str, why: String) {
        let Some(order) = self.quiet_of(set).map(|quiet| quiet.order) else { return };
        self.copy_action(set, CopyAction::NotQuiesced { order, why });
        self.let_go(set, Late::No);
    }

    fn tell_quiet(&mut self, set: &str, frozen: Vec<(ReplicaId, RunId)>, max: Duration) {
        let quiet = self.copies.sets.get_mut(set).and_then(|memory| memory.quiet.as_mut());
        let Some(quiet) = quiet else { return };
        quiet.told = true;
        let order = quiet.order;
        self.copy_action(set, CopyAction::Quiesced { order, frozen, max });
    }

    /// What is stopped may be down by now, and what is frozen stand still; what holds still for too long goes on; a hook may be late.
    pub(super) fn review_quiet_set(&mut self, set: &str) {
        self.hook_late(set);
        let Some(quiet) = self.copies.sets.get(set).and_then(|memory| memory.quiet.clone()) else { return };
        if quiet.until.is_some_and(|until| until <= self.now.mono) {
            if quiet.told {
                return self.let_go(set, Late::Yes);
            }
            let within = human(self.now.mono.since(quiet.since));
            return self.refuse_quiet(set, format!("{} did not hold still within {within}", self.name(quiet.service)));
        }
        match (quiet.how, quiet.told) {
            (How::Stopped, false) => self.look_whether_down(set, &quiet),
            (How::Frozen, false) => self.look_whether_still(set),
            (How::Frozen, true) => self.look_whether_disturbed(set, &quiet),
            (How::Stopped, true) => {}
        }
    }

    /// Who ends it or starts it anew has thawed it first; who wants it frozen as well keeps it so when the copy is done, or when the agent dies. What was
    /// not running when the role was told has been seen by nobody to stand still.
    fn look_whether_disturbed(&mut self, set: &str, quiet: &Quiet) {
        let is_as_it_was = |(id, run): &(ReplicaId, RunId)| {
            self.find(*id).is_some_and(|replica| replica.memory.frozen && replica.memory.run == *run)
        };
        if !quiet.ours.iter().all(is_as_it_was) || self.runs_beyond(quiet) {
            return self.let_go(set, Late::Yes);
        }
        if !quiet.kept && quiet.ours.iter().any(|(id, _)| self.is_to_stay_frozen(*id)) {
            if let Some(quiet) = self.quiet_of(set) {
                quiet.kept = true;
            }
            self.copy_action(set, CopyAction::Keep { order: quiet.order });
        }
    }

    /// Whether anything of the service runs that was not proven to stand still.
    fn runs_beyond(&self, quiet: &Quiet) -> bool {
        let service = Some(quiet.service).filter(|service| self.services.contains_key(service));
        let mut runs = service.map(|service| self.replicas_of(service)).into_iter().flatten();
        runs.any(|id| {
            let replica = self.at(id);
            replica.run.is_some() && !quiet.proof.given.contains(&(id, replica.memory.run))
        })
    }

    fn look_whether_down(&mut self, set: &str, quiet: &Quiet) {
        match self.standstill(quiet.service) {
            Standstill::NotYet => {}
            Standstill::Proven => self.tell_quiet(set, Vec::new(), STOPPED_MAX),
            Standstill::Stuck(why) => self.refuse_quiet(set, why),
        }
    }

    /// Nobody needs it to hold still any more.
    pub(super) fn end_quiet(&mut self, set: &str) {
        if self.copies.sets.get(set).is_some_and(|memory| memory.quiet.is_some()) {
            self.let_go(set, Late::No);
        }
    }

    fn let_go(&mut self, set: &str, late: Late) {
        let Some(quiet) = self.copies.sets.get_mut(set).and_then(|memory| memory.quiet.take()) else { return };
        self.follow_hold(quiet.service);
        if self.copies.sets.get(set).is_some_and(|memory| memory.linked) {
            self.copy_action(set, CopyAction::Resumed { order: quiet.order });
        }
        let service = self.name(quiet.service).to_owned();
        let ms = u64::try_from(self.now.mono.since(quiet.since).as_millis()).unwrap_or(u64::MAX);
        let (level, late) = if late == Late::Yes { (Level::Warn, true) } else { (Level::Debug, false) };
        self.copy_note(set, level, CopyNews::Quiesced { service, ms, late });
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Late {
    Yes,
    No,
}
