//! Restart policy, back-off, budget.
//!
//! * A failure is an exit that nobody asked for and that is no success: a bad code, a signal, no readiness in time, not alive, no
//!   watchdog ping, out of memory, an unknown exit.
//! * The delay before the n-th restart in a row is `min * factor^(n-1)`, at most `max`, give or take the jitter. n is forgotten after
//!   `reset_after` of continuous ready time, and by an operator's start or restart.
//! * The budget counts failures in a sliding window. Spent, the replica is `Failed` for `hold`; then comes one half-open start. A failure
//!   of that one doubles the hold, up to `hold_max`; `reset_after` of ready time fills the budget again.
//! * A success that the policy restarts (`Always`) is delayed like a failure, so that it cannot spin, but is not charged to the budget.

use std::time::Duration;

use super::Engine;
use super::access::Because;
use super::action::{Level, Next, NoteKind};
use super::memory::Hold;
use super::order::is_success;
use super::plan::{Backoff, BudgetSpent, RestartPolicy};
use super::rng::scale;
use super::service::{State, Then};
use super::types::{ReplicaId, Time};

impl Engine {
    /// A failure of this replica: charged, and what follows.
    pub(super) fn failure(&mut self, id: ReplicaId) -> (Then, Next) {
        let plan = self.plan_of(id.service);
        let (policy, budget) = (plan.restart, plan.budget);
        let now = self.now.mono;
        let memory = self.memory_mut(id);
        memory.failures = memory.failures.saturating_add(1);
        if policy == RestartPolicy::Never {
            self.end_budget_hold(id, "its restart policy leaves it at that");
            return (Then::Fail, Next::Nothing { why: "its restart policy leaves it at that".to_owned() });
        }
        let Some(budget) = budget else {
            self.end_budget_hold(id, "it has no budget any more");
            return self.restart_later(id);
        };
        let marks = &mut memory.budget_marks;
        marks.push_back(now);
        let room = usize::try_from(budget.restarts).unwrap_or(usize::MAX).saturating_add(1);
        while marks.len() > room || marks.front().is_some_and(|mark| now.since(*mark) > budget.within) {
            marks.pop_front();
        }
        let length = match memory.hold {
            Some(hold) if hold.half_open => scale(hold.length, 2_000).min(budget.hold_max),
            Some(_) | None if marks.len() >= room => budget.hold,
            Some(_) | None => return self.restart_later(id),
        };
        if !self.budget_holds(id) {
            let max = self.plan_of(id.service).backoff.max;
            return (Then::Backoff { until: now.after(max) }, self.next_restart(id, max));
        }
        let memory = self.memory_mut(id);
        let next_try = match budget.then {
            BudgetSpent::Retry => Some(now.after(length)),
            BudgetSpent::Stay => None,
        };
        let record = memory.hold.and_then(|hold| hold.record);
        memory.hold = Some(Hold { length, next_try, half_open: false, record });
        self.record_budget_hold(id, length);
        (Then::Fail, Next::Hold { until_next_try: next_try.map(|at| at.since(now)) })
    }

    fn restart_later(&mut self, id: ReplicaId) -> (Then, Next) {
        let backoff = self.plan_of(id.service).backoff;
        let base = delay(&backoff, self.at(id).memory.failures);
        let delay = self.rng.jitter(base, backoff.jitter_permille);
        let until = self.now.mono.after(delay);
        (Then::Backoff { until }, self.next_restart(id, delay))
    }

    pub(super) fn restart_uncharged(&mut self, id: ReplicaId) -> (Then, Next) {
        let memory = self.memory_mut(id);
        memory.failures = memory.failures.saturating_add(1);
        self.restart_later(id)
    }

    pub(super) fn next_restart(&self, id: ReplicaId, in_: Duration) -> Next {
        let of = self.plan_of(id.service).budget.map(|budget| budget.restarts);
        Next::Restart { in_, attempt: self.at(id).memory.failures.max(1), of }
    }

    /// What an interrupted stop or back-off comes to, without charging anything again.
    pub(super) fn then_by_memory(&self, id: ReplicaId) -> Then {
        let memory = &self.at(id).memory;
        let plan = self.plan_of(id.service);
        let good = memory.last_exit.is_some_and(|last| !last.oom && is_success(plan, last.exit));
        if good && memory.failures == 0 {
            return Then::Done;
        }
        let held = memory.hold.is_some_and(|hold| !hold.half_open);
        if held || (plan.restart == RestartPolicy::Never && memory.failures > 0) {
            return Then::Fail;
        }
        let from = memory.budget_marks.back().copied().unwrap_or(self.now.mono);
        Then::Backoff { until: from.after(delay(&plan.backoff, memory.failures)) }
    }

    pub(super) fn become_failed(&mut self, id: ReplicaId) {
        let now = self.now.mono;
        let memory = &self.at(id).memory;
        let because = match (memory.hold, self.plan_of(id.service).budget) {
            (Some(hold), Some(budget)) => {
                let next_try = hold.next_try.map(|at| at.since(now));
                let failures = memory.failures;
                Because::Note(Level::Error, NoteKind::BudgetSpent { failures, within: budget.within, next_try })
            }
            (Some(_), None) | (None, _) => Because::Told,
        };
        self.prove_budget_hold(id);
        self.set_state(id, State::Failed, because);
    }

    /// The hold is over: one try.
    pub(super) fn half_open(&mut self, id: ReplicaId) {
        let Some(hold) = &mut self.memory_mut(id).hold else {
            return debug_assert!(false, "no hold to end");
        };
        hold.half_open = true;
        hold.next_try = None;
        let held = hold.length;
        self.budget_hold_on_trial(id);
        self.tell(id, Level::Info, NoteKind::HalfOpen { held });
        self.at_mut(id).unasked = true;
        self.try_start(id);
    }

    /// `reset_after` of ready time is over.
    pub(super) fn forget_failures(&mut self, id: ReplicaId) {
        let memory = self.memory_mut(id);
        memory.failures = 0;
        // The last one is how it became ready.
        let old = memory.causes.len().saturating_sub(1);
        memory.causes.drain(..old);
        memory.causes.shrink_to_fit();
        if memory.hold.is_some() {
            memory.budget_marks.clear();
            self.end_budget_hold(id, "it has been ready long enough");
            self.note(id, Level::Info, NoteKind::BudgetRefilled);
        }
        self.refresh(id);
    }

    /// An operator starts or restarts it: with a clean slate.
    pub(super) fn pardon(&mut self, id: ReplicaId) {
        let memory = self.memory_mut(id);
        memory.failures = 0;
        memory.budget_marks.clear();
        self.end_budget_hold(id, "by an operator");
        if matches!(self.at(id).state, State::Ready | State::Degraded) {
            self.disarm(id, super::timers::Timer::Forget);
        } else {
            self.memory_mut(id).causes.clear();
        }
        self.refresh(id);
    }

    /// The next period of an `Every` begins, whatever became of the last one.
    pub(super) fn period_begins(&mut self, id: ReplicaId) {
        if let Some(hold) = &mut self.memory_mut(id).hold {
            hold.half_open = true;
            hold.next_try = None;
            self.budget_hold_on_trial(id);
        }
        let replica = self.at_mut(id);
        replica.was_up = false;
        replica.unasked = false;
        self.try_start(id);
    }

    /// Whether there is anything that ready time would mend, and when it will have.
    pub(super) fn forgets_at(&self, id: ReplicaId) -> Option<Time> {
        let memory = &self.at(id).memory;
        let something = (memory.failures > 0 || memory.hold.is_some()) && !memory.frozen;
        let reset_after = self.plan_of(id.service).backoff.reset_after;
        memory.ready_since.filter(|_| something).map(|since| since.after(reset_after))
    }
}

/// Before restart `failures` in a row, without jitter.
fn delay(backoff: &Backoff, failures: u32) -> Duration {
    let mut delay = backoff.min.min(backoff.max);
    for _ in 1..failures {
        if delay >= backoff.max || delay.is_zero() || backoff.factor_permille <= 1_000 {
            break;
        }
        delay = scale(delay, u64::from(backoff.factor_permille)).min(backoff.max);
    }
    delay
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_their_cap_and_zero_stays_zero() {
        let backoff = Backoff::default();
        let ms: Vec<u128> = (1..=11).map(|n| delay(&backoff, n).as_millis()).collect();
        assert_eq!(ms, [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000]);
        assert_eq!(delay(&backoff, u32::MAX), Duration::from_secs(30));
        assert_eq!(delay(&Backoff { min: Duration::ZERO, ..backoff }, 7), Duration::ZERO);
    }
}
