//! What others may see of fences and limits.

use super::plan::{FenceLevel, Rung};
use super::record::{Record, Standing, Trigger};
use super::state::{Fence, Proof};
use super::view::{FencesView, LimitsView, ReplicaFence};
use crate::engine::Engine;
use crate::engine::service::State;
use crate::engine::types::{Now, ReplicaId, Time, human};

impl Engine {
    /// Whether the shell is to report its kill and its freezing (`Event::Wrote`).
    #[must_use]
    pub fn is_fenced(&self, replica: ReplicaId) -> bool {
        self.find(replica).is_some_and(|replica| replica.memory.fence.is_some())
    }

    pub(in crate::engine) fn fence_of(&self, id: ReplicaId) -> Option<ReplicaFence<'_>> {
        let memory = &self.at(id).memory;
        if let Some(fence) = memory.fence.as_deref() {
            return Some(ReplicaFence {
                id: fence.id,
                level: Some(fence.level),
                standing: standing(fence),
                trigger: fence.trigger,
                why: &fence.why,
                since_wall: fence.since_wall,
                next: self.next_of_fence(id, fence),
            });
        }
        if let Some(probation) = memory.probation.as_deref() {
            let time = self.read_fence_plan(id.service, |plan| plan.probation);
            return Some(ReplicaFence {
                id: probation.id,
                level: None,
                standing: Standing::Probation,
                trigger: probation.trigger,
                why: &probation.why,
                since_wall: probation.since_wall,
                next: memory.ready_since.map(|since| ("probation passed", since.after(time))),
            });
        }
        self.budget_hold(id)
    }

    /// A spent restart budget is a hold of its own kind.
    fn budget_hold(&self, id: ReplicaId) -> Option<ReplicaFence<'_>> {
        let hold = self.at(id).memory.hold?;
        let record = self.fence_record(hold.record?)?;
        let held = self.at(id).state == State::Failed;
        Some(ReplicaFence {
            id: record.id,
            level: held.then_some(FenceLevel::Hold),
            standing: record.standing,
            trigger: Trigger::Restarts,
            why: "its restart budget is spent",
            since_wall: record.fault_seen,
            next: hold.next_try.filter(|_| held).map(|at| ("next try", at)),
        })
    }

    fn next_of_fence(&self, id: ReplicaId, fence: &Fence) -> Option<(&'static str, Time)> {
        if fence.is_by_hand() {
            return None;
        }
        match fence.level {
            FenceLevel::Hold => {
                let until = fence.until?;
                Some(("released", self.now.mono.after(until.since(self.now.boot))))
            }
            FenceLevel::Kill => None,
            FenceLevel::Throttle | FenceLevel::Freeze => match fence.quiet_since {
                Some(since) => {
                    let step = self.read_fence_plan(id.service, |plan| plan.step);
                    Some(("released", since.after(step)))
                }
                None => {
                    let next = self.read_fence_plan(id.service, |plan| {
                        plan.ladder.iter().map(Rung::level).filter(|next| *next > fence.level).min()
                    });
                    next.map(|next| (becomes(next), fence.step_by))
                }
            },
        }
    }

    /// Why a fenced replica is as it is, which its state says, and what follows.
    pub(in crate::engine) fn why_fenced(&self, id: ReplicaId, now: Time) -> Option<String> {
        let fence = self.fence_of(id)?;
        let then = match fence.next {
            Some((what, at)) => format!("{what} in {}", human(at.since(now))),
            None if fence.level.is_none() => "half its limits until then".to_owned(),
            None if fence.level == Some(FenceLevel::Kill) => "its processes are being killed".to_owned(),
            None => "until `unfence`".to_owned(),
        };
        let idle = self.fence(id).is_some_and(|fence| fence.proof == Proof::Idle);
        let proof = match fence.standing {
            Standing::Proving if idle => " (from its next start on)",
            Standing::Proving => " (not proven yet)",
            Standing::Incomplete => " (incomplete)",
            Standing::Proven | Standing::Probation | Standing::Released | Standing::Observed => "",
        };
        Some(match fence.level {
            Some(_) => format!("{}{proof}; {then}", fence.why),
            None => format!("on probation, {}; {then}", fence.why),
        })
    }

    pub(in crate::engine) fn limits_view(&self, id: ReplicaId) -> LimitsView<'_> {
        LimitsView { wanted: self.limits(id), refused: self.refused(id) }
    }

    #[must_use]
    pub fn fences(&self, now: Now) -> FencesView<'_> {
        let mut active: Vec<(&Record, ReplicaFence<'_>)> = Vec::new();
        for view in self.services(now) {
            for replica in view.replicas {
                if let Some(fence) = replica.fence
                    && let Some(record) = self.fence_record(fence.id)
                {
                    active.push((record, fence));
                }
            }
        }
        active.sort_by(|(one, _), (other, _)| {
            (&one.service, one.replica, one.id).cmp(&(&other.service, other.replica, other.id))
        });
        let over = |record: &&Record| match record.standing {
            Standing::Released | Standing::Observed => true,
            Standing::Proving | Standing::Proven | Standing::Incomplete | Standing::Probation => false,
        };
        FencesView {
            active,
            past: self.fence.memory.records.iter().rev().filter(over).collect(),
            automatic_used: self.automatic_used(now.mono),
            automatic_max: super::AUTOMATIC_MAX,
            automatic_within: super::AUTOMATIC_WITHIN,
        }
    }

    /// The evidence of one fence.
    #[must_use]
    pub fn fence_record(&self, id: u64) -> Option<&Record> {
        self.fence.memory.records.iter().find(|record| record.id == id)
    }

    /// Fences that the agent set within the window.
    pub(in crate::engine) fn automatic_used(&self, now: Time) -> u32 {
        let recent = self.fence.memory.automatic.iter().filter(|at| now.since(**at) < super::AUTOMATIC_WITHIN);
        u32::try_from(recent.count()).unwrap_or(u32::MAX)
    }
}

fn standing(fence: &Fence) -> Standing {
    match fence.proof {
        Proof::Awaited | Proof::Idle => Standing::Proving,
        Proof::Given => Standing::Proven,
        Proof::Missing => Standing::Incomplete,
    }
}

pub(in crate::engine) fn being(level: FenceLevel) -> &'static str {
    match level {
        FenceLevel::Throttle => "throttled",
        FenceLevel::Freeze => "frozen",
        FenceLevel::Kill => "killed",
        FenceLevel::Hold => "held",
    }
}

fn becomes(level: FenceLevel) -> &'static str {
    match level {
        FenceLevel::Throttle => "throttled unless it mends",
        FenceLevel::Freeze => "frozen unless it mends",
        FenceLevel::Kill => "killed unless it mends",
        FenceLevel::Hold => "held unless it mends",
    }
}
