//! What operators ask for: looked at, queued, answered.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::note::CopyNews;
use super::order::{Job, Place, Which};
use super::rotate::{BUILT, Ground, Occasion, judge, prune};
use crate::engine::Engine;
use crate::engine::action::{Action, Level, Outcome as Answer};
use crate::engine::command::nearest;
use crate::engine::event::{Caller, Wait};
use crate::engine::types::{RequestId, Time};

/// Orders by hand that wait, of one set.
pub(super) const QUEUE_MAX: usize = 8;
/// A role that does not say what lies on its target by then is not waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// One order by hand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Asked {
    pub request: RequestId,
    pub job: Job,
    pub wait: Wait,
    /// It was lost with its role once.
    pub again: bool,
    /// While nothing is heard of the role: until then (mono).
    pub patience: Time,
}

impl Engine {
    pub(super) fn copy_command(&mut self, request: RequestId, caller: &Caller, set: &str, job: Job, wait: Wait) {
        let job = match self.look_at_order(set, job) {
            Ok(job) => job,
            Err(outcome) => return self.out.push(Action::Answer { request, outcome }),
        };
        let text = format!("{} is asked for by {}", job.word(), caller.text());
        let patience = self.now.mono.after(PATIENCE);
        if let Job::Failback { dry_run, force } = job {
            let asked = Asked { request, job, wait, again: false, patience };
            match self.failback(set, dry_run, force, asked) {
                Ok(()) => self.copy_note(set, Level::Info, CopyNews::Remark { text }),
                Err(outcome) => self.out.push(Action::Answer { request, outcome }),
            }
            return;
        }
        let Some(memory) = self.copies.sets.get_mut(set) else { return };
        memory.queue.push_back(Asked { request, job, wait, again: false, patience });
        self.copy_note(set, Level::Info, CopyNews::Remark { text });
        if wait == Wait::Decision {
            self.out.push(Action::Answer { request, outcome: Answer::Done { persisted: true } });
        }
    }

    /// The order as it is to be carried out.
    fn look_at_order(&self, set: &str, job: Job) -> Result<Job, Answer> {
        let conflict = |message: String| Err(Answer::Conflict { message });
        if let Some(what) = self.departure(set).filter(|_| self.copy_plan(set).is_none()) {
            return conflict(format!("copies {set}: {what}"));
        }
        let (Some(memory), Some(plan)) = (self.copies.sets.get(set), self.copy_plan(set)) else {
            let hint = nearest(set, self.copies.sets.keys()).map(|near| format!("did you mean \"{near}\"?"));
            return Err(Answer::Unknown { message: format!("no set of copies \"{set}\""), hint });
        };
        if self.shutdown.is_some() {
            return conflict("the agent shuts down".to_owned());
        }
        if memory.queue.len() >= QUEUE_MAX {
            return conflict(format!("{QUEUE_MAX} orders for copies {set} are waiting already; try again later"));
        }
        if let Some(text) = self.failover_text(set).filter(|_| job.needs_own_disk()) {
            return conflict(format!("copies {set}: not now: {text}"));
        }
        let Job::Prune { copies } = job else { return Ok(job) };
        let occasion = Occasion {
            now: self.now.wall,
            synchronised: self.now.wall_synchronised,
            built: BUILT,
            ground: Ground::ByHand,
        };
        if copies.is_empty() {
            return match prune(&memory.catalog, plan, occasion) {
                Ok(copies) if copies.is_empty() => conflict(format!("copies {set}: nothing is to be removed")),
                Ok(copies) => Ok(Job::Prune { copies }),
                Err(frozen) => conflict(format!("copies {set}: nothing is removed, as {}", frozen.text(set))),
            };
        }
        if let Some(why) = self.why_not_removed(set, &copies) {
            return conflict(why);
        }
        Ok(Job::Prune { copies: copies.into_iter().collect::<BTreeSet<u64>>().into_iter().collect() })
    }

    /// Why these are not removed by hand, as things are now.
    fn why_not_removed(&self, set: &str, copies: &[u64]) -> Option<String> {
        let judged = judge(&self.copies.sets.get(set)?.catalog, self.copy_plan(set)?, self.now.wall);
        copies.iter().find_map(|seq| {
            let Some(kept) = judged.iter().find(|kept| kept.seq == *seq) else {
                return Some(format!("copies {set}: there is no copy {seq}"));
            };
            let reason = kept.reasons.iter().find(|reason| !reason.may_go_by_hand())?;
            Some(format!("copies {set}: copy {seq} is not removed: {}", reason.word()))
        })
    }

    /// Whether an order by hand was begun. What was to be removed is judged again: another copy may be the last good one since it was asked for.
    pub(super) fn begin_by_hand(&mut self, set: &str) -> bool {
        while let Some(asked) = self.copies.sets.get_mut(set).and_then(|memory| memory.queue.pop_front()) {
            let why = match &asked.job {
                Job::Prune { copies } => self.why_not_removed(set, copies),
                Job::Take { .. }
                | Job::Verify { .. }
                | Job::Scrub
                | Job::Pin { .. }
                | Job::Accept { .. }
                | Job::Restore(_)
                | Job::Exchange(_)
                | Job::Materialise(_)
                | Job::Gather { .. }
                | Job::Dismiss { .. }
                | Job::Failback { .. }
                | Job::RestoreTest
                | Job::Init { .. } => None,
            };
            let Some(message) = why else {
                self.begin_order(set, asked.job.clone(), Some(asked));
                return true;
            };
            self.copy_note(set, Level::Warn, CopyNews::Remark { text: format!("nothing is removed: {message}") });
            if asked.wait == Wait::Outcome {
                self.out.push(Action::Answer { request: asked.request, outcome: Answer::Conflict { message } });
            }
        }
        false
    }

    /// The role has just gone: it may come back.
    pub(super) fn be_patient_anew(&mut self, set: &str) {
        let patience = self.now.mono.after(PATIENCE);
        if let Some(memory) = self.copies.sets.get_mut(set) {
            memory.queue.iter_mut().for_each(|asked| asked.patience = patience);
        }
    }

    /// Nobody waits for ever for a role that says nothing.
    pub(super) fn answer_the_impatient(&mut self, set: &str) {
        let now = self.now.mono;
        let Some(memory) = self.copies.sets.get_mut(set).filter(|memory| !memory.heard) else { return };
        while memory.queue.front().is_some_and(|asked| asked.patience <= now) {
            let Some(asked) = memory.queue.pop_front() else { return };
            let why = format!("the role of copies {set} does not answer; see `mainstay status @copy.{set}`");
            if asked.wait == Wait::Outcome {
                self.out.push(Action::Answer { request: asked.request, outcome: Answer::Failed { why } });
            }
        }
    }

    /// Nothing more will be done for this set: who waits is told.
    pub(super) fn end_copies(&mut self, set: &str, message: &str) {
        self.end_quiet(set);
        let Some(memory) = self.copies.sets.get_mut(set) else { return };
        let running = memory.running.as_mut().and_then(|running| {
            running.cancelled = true;
            running.asked.take()
        });
        let order = memory.running.as_ref().map(|running| running.order.id);
        let waiting: Vec<Asked> = memory.queue.drain(..).chain(running).collect();
        for asked in waiting.into_iter().filter(|asked| asked.wait == Wait::Outcome) {
            let outcome = Answer::Conflict { message: message.to_owned() };
            self.out.push(Action::Answer { request: asked.request, outcome });
        }
        if let Some(order) = order {
            self.copy_action(set, super::event::CopyAction::Cancel { order });
        }
    }

    pub(in crate::engine) fn end_copies_at_shutdown(&mut self) {
        for set in self.copies.sets.keys().cloned().collect::<Vec<_>>() {
            self.end_copies(&set, "the agent shuts down");
        }
        self.leave_restores();
        self.leave_failbacks();
        self.copies.due = true;
    }

    /// What is about to be read is not removed.
    pub(super) fn mark_in_use(&mut self, set: &str) {
        let mut used = self.copies_restored_from(set);
        let Some(memory) = self.copies.sets.get_mut(set) else { return };
        let running = memory.running.as_ref().map(|running| &running.order.job);
        let waiting = memory.queue.iter().map(|asked| &asked.job);
        used.extend(running.into_iter().chain(waiting).filter_map(Job::reads_from));
        for copy in &mut memory.catalog.copies {
            copy.in_use = used.contains(&copy.seq);
        }
    }
}

impl Job {
    /// The copy that it names and reads.
    fn reads_from(&self) -> Option<u64> {
        match self {
            Self::Restore(restore) => restore.seq,
            Self::Verify { which: Which::One(seq) } => Some(*seq),
            Self::Verify { which: Which::Newest | Which::All }
            | Self::Take { .. }
            | Self::Scrub
            | Self::Prune { .. }
            | Self::Pin { .. }
            | Self::Accept { .. }
            | Self::Exchange(_)
            | Self::Materialise(_)
            | Self::Gather { .. }
            | Self::Dismiss { .. }
            | Self::Failback { .. }
            | Self::RestoreTest
            | Self::Init { .. } => None,
        }
    }
}

impl Job {
    /// Looks at the sources, or writes to where they are: not while something else is seen there.
    fn needs_own_disk(&self) -> bool {
        match self {
            Self::Take { .. } | Self::RestoreTest | Self::Init { .. } => true,
            Self::Restore(restore) => restore.place == Place::Replace && !restore.dry_run,
            Self::Verify { .. }
            | Self::Scrub
            | Self::Prune { .. }
            | Self::Pin { .. }
            | Self::Accept { .. }
            | Self::Exchange(_)
            | Self::Materialise(_)
            | Self::Gather { .. }
            | Self::Dismiss { .. }
            | Self::Failback { .. } => false,
        }
    }
}
