//! The command after a copy is run in any case, whoever dies: that it is owed is in the memory of the set's role before the command before the copy begins, and
//! stays there until the one after it has ended. An agent that dies while it runs leaves it to the next one, so it may be run twice.

use std::time::Duration;

use super::catalog::Cause;
use super::event::Hook;
use super::order::{Failure, FailureKind, Job, Order, Outcome, Progress};
use super::work::{Running, Stage};
use crate::engine::Engine;
use crate::engine::plan::Role;
use crate::engine::types::ReplicaId;

/// The role of a copy that an earlier agent began says whether it still works on it; one that has not said so by then does not.
const HEARD_WITHIN: Duration = Duration::from_secs(30);
/// A role that is gone comes back within this time, or its copy has failed.
const BACK_WITHIN: Duration = Duration::from_secs(60);

impl Engine {
    pub(super) fn owe_post(&mut self, set: &str, owed: bool) {
        let Some(id) = self.role_of_set(set) else { return };
        if self.at(id).memory.post_owed != owed {
            self.memory_mut(id).post_owed = owed;
            self.save_now(id);
        }
    }

    fn role_of_set(&self, set: &str) -> Option<ReplicaId> {
        let service = self.service_id(&Role::copy_service(set))?;
        self.replicas_of(service).into_iter().next()
    }

    /// What an earlier agent owed, once nobody works on its copy any more.
    pub(super) fn pay_post(&mut self, set: &str) {
        let is_owed = self.role_of_set(set).is_some_and(|id| self.at(id).memory.post_owed);
        let now = self.now;
        let Some(memory) = self.copies.sets.get_mut(set).filter(|memory| is_owed && memory.running.is_none()) else {
            return;
        };
        let patience = *memory.owed_until.get_or_insert(now.mono.after(HEARD_WITHIN));
        if self.shutdown.is_some() || (!memory.heard && now.mono < patience) {
            return;
        }
        memory.owed_until = None;
        // It may be in a configuration that is no more.
        let job = Job::Take { cause: Cause::ByHand };
        let Some((command, timeout)) = self.hook_of(set, &job, Hook::Post) else { return self.owe_post(set, false) };
        self.copies.next_order = self.copies.next_order.max(self.next_generation) + 1;
        let order = Order { id: self.copies.next_order, job };
        let what = "the agent that had begun it is gone".to_owned();
        let outcome = Outcome::Failed(Failure { kind: FailureKind::Cancelled, what, remedy: None });
        if let Some(memory) = self.copies.sets.get_mut(set) {
            memory.running = Some(Running {
                order,
                stage: Stage::Post(Box::new(outcome)),
                asked: None,
                began: now.wall,
                began_boot: now.boot,
                progress: Progress::default(),
                lost: false,
                lost_until: None,
                cancelled: false,
                hook_until: None,
            });
        }
        self.run_hook(set, Hook::Post, command, timeout);
    }

    /// The role has gone while it worked on a copy with a command after it, which does not wait for the role for ever.
    pub(super) fn expect_back(&mut self, set: &str) {
        let until = self.now.mono.after(BACK_WITHIN);
        let job = self
            .copies
            .sets
            .get(set)
            .and_then(|memory| memory.running.as_ref())
            .map(|running| running.order.job.clone());
        let waits = job.is_some_and(|job| self.hook_of(set, &job, Hook::Post).is_some());
        let memory = self.copies.sets.get_mut(set).filter(|_| waits);
        if let Some(running) = memory.and_then(|memory| memory.running.as_mut()) {
            running.lost_until = Some(until);
        }
    }

    /// It has not come back.
    pub(super) fn give_up_lost(&mut self, set: &str) {
        let now = self.now.mono;
        let is_late = |running: &Running| running.lost && running.lost_until.is_some_and(|until| until <= now);
        if self.copies.sets.get(set).and_then(|memory| memory.running.as_ref()).is_some_and(is_late) {
            self.heard_first(set);
        }
    }
}
