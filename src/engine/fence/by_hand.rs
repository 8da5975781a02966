//! An operator fences a service, or lifts a fence.

use super::plan::FenceLevel;
use super::record::Trigger;
use super::records::Cause;
use super::release::Then;
use crate::engine::Engine;
use crate::engine::event::{FencedByHand, Target};
use crate::engine::timers::{Timer, TimerKey};
use crate::engine::types::{ReplicaId, RequestId};

impl Engine {
    /// `None`: the fence ends, whoever set it.
    pub(in crate::engine) fn command_fence(
        &mut self,
        request: RequestId,
        by: String,
        target: &Target,
        replicas: &[ReplicaId],
        level: Option<FenceLevel>,
    ) {
        let Some(service) = replicas.first().map(|id| id.service) else {
            return;
        };
        let fenced =
            level.map(|level| Box::new(FencedByHand { level, by, why: target.why.clone(), at: self.now.wall }));
        if fenced.is_none() {
            for id in replicas {
                if std::mem::take(&mut self.memory_mut(*id).fences) > 0 && target.replica.is_none() {
                    self.keep_count(*id);
                }
            }
        }
        self.resolve_on(request, service, target.replica, &|decided| decided.fence.clone_from(&fenced));
        for id in replicas {
            match &fenced {
                Some(fenced) => self.fence_by_hand(*id, fenced),
                None => self.unfence(*id),
            }
        }
    }

    /// Also at the beginning of an agent's life: what an operator had decided before the reboot.
    pub(in crate::engine) fn fence_by_hand(&mut self, id: ReplicaId, fenced: &FencedByHand) {
        let asked = match &fenced.why {
            Some(why) => format!("fenced by {}: {why}", fenced.by),
            None => format!("fenced by {}", fenced.by),
        };
        if let Some(fence) = self.fence(id)
            && fence.is_by_hand()
            && ends_as(fence.level) == ends_as(fenced.level)
        {
            let record = fence.id;
            self.add_evidence(record, asked.clone());
            if let Some(fence) = self.memory_mut(id).fence.as_deref_mut() {
                fence.why = asked;
            }
            return self.fence_changed(id);
        }
        let done = self.fence(id).is_some_and(|fence| fence.done);
        self.give_way(id);
        let evidence = vec![asked.clone()];
        let cause = Cause { trigger: Trigger::Operator, why: asked, evidence, seen: fenced.at };
        self.set_fence(id, &cause, fenced.level);
        if let Some(fence) = self.memory_mut(id).fence.as_deref_mut() {
            fence.done |= done;
        }
    }

    /// An operator's fence takes the place of another.
    fn give_way(&mut self, id: ReplicaId) {
        let Some(fence) = self.memory_mut(id).fence.take() else {
            return;
        };
        self.disarm(id, Timer::Fence);
        self.boot_timers.cancel(TimerKey::Replica(id, Timer::Hold));
        self.close_record(fence.id, "a fence by hand takes its place");
        if fence.throttled {
            self.limit_again(id);
        }
        self.freeze_or_thaw(id);
    }

    fn unfence(&mut self, id: ReplicaId) {
        if self.fence(id).is_some() {
            self.release(id, "by an operator", Then::Free);
        } else if self.at(id).memory.probation.is_some() {
            self.drop_probation(id, "ended by an operator");
            self.limit_again(id);
            self.fence_changed(id);
        }
        if self.at(id).memory.hold.is_some() {
            self.start_by_operator(id);
        }
    }
}

/// By hand a kill is a hold.
pub(in crate::engine) fn ends_as(level: FenceLevel) -> FenceLevel {
    match level {
        FenceLevel::Throttle => FenceLevel::Throttle,
        FenceLevel::Freeze => FenceLevel::Freeze,
        FenceLevel::Kill | FenceLevel::Hold => FenceLevel::Hold,
    }
}
