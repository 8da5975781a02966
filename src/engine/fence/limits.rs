//! The limits that a replica is to have now.

use std::cmp;
use std::collections::BTreeMap;

use super::plan::{FenceLevel, FencePlan, IoMax, Limits, Rung};
use crate::engine::Engine;
use crate::engine::action::Action;
use crate::engine::types::{ReplicaId, ServiceId};

/// A share of one CPU below which nothing gets anywhere.
const CPU_LEAST_PERMILLE: u32 = 10;

impl Engine {
    /// The limits that this replica is to have now, at its birth or while it runs.
    #[must_use]
    pub fn limits(&self, replica: ReplicaId) -> Limits {
        let Some(plan) = self.service_plan(replica.service) else {
            return Limits::default();
        };
        let own = plan.resources.as_ref().map(|resources| resources.limits.clone()).unwrap_or_default();
        let memory = self.find(replica).map(|replica| &replica.memory);
        if memory.and_then(|memory| memory.fence.as_ref()).is_some_and(|fence| fence.throttled) {
            return tighter(own, &self.throttle(replica.service));
        }
        if memory.is_some_and(|memory| memory.probation.is_some()) { half(own) } else { own }
    }

    /// What `Throttle` means to a service: its ladder says so, else the default one.
    pub(in crate::engine) fn throttle(&self, service: ServiceId) -> Limits {
        let limits_of = |plan: &FencePlan| {
            plan.ladder.iter().find_map(|rung| match rung {
                Rung::Throttle(limits) => Some(limits.clone()),
                Rung::Freeze | Rung::Kill | Rung::Hold => None,
            })
        };
        let own = self.plan_of(service).fence.as_deref().and_then(limits_of);
        own.or_else(|| limits_of(&FencePlan::default())).unwrap_or_default()
    }

    /// Its limits are others now: whatever runs gets them.
    pub(in crate::engine) fn limit_again(&mut self, id: ReplicaId) {
        let replica = self.at_mut(id);
        let number = replica.memory.run;
        let Some(run) = replica.run.as_mut().filter(|run| !run.exited) else {
            return;
        };
        // One that is being spawned may have been given those that held when it was decided.
        run.limits_due = !run.spawned;
        if run.spawned {
            if !replica.memory.limited {
                self.memory_mut(id).limited = true;
            }
            self.out.push(Action::Limit { replica: id, run: number });
        }
    }

    /// The child exists.
    pub(in crate::engine) fn limit_newborn(&mut self, id: ReplicaId) {
        if self.at(id).run.as_ref().is_some_and(|run| run.limits_due) {
            self.limit_again(id);
        }
        self.throttle_newborn(id);
    }

    /// Of all that runs with limits, or may be given some: what they are.
    pub(in crate::engine) fn limits_in_use(&self) -> BTreeMap<ReplicaId, Limits> {
        let live = |id: &ReplicaId| self.at(*id).run.as_ref().is_some_and(|run| !run.exited);
        let all = self.services.keys().flat_map(|service| self.replicas_of(*service));
        all.filter(live).map(|id| (id, self.limits(id))).collect()
    }

    /// The plan is another: where it says other limits, they are brought into force. Deadlines of fences are looked at as well.
    pub(in crate::engine) fn change_limits(&mut self, before: BTreeMap<ReplicaId, Limits>) {
        for (id, limits) in before {
            if self.limits(id) != limits {
                self.limit_again(id);
            }
            if self.at(id).memory.fence.is_some() {
                self.arm_fence(id);
            }
            self.arm_probation(id);
        }
        self.watch_groups();
    }

    /// Whether a run that is born now has limits at all.
    pub(in crate::engine) fn is_born_limited(&self, id: ReplicaId) -> bool {
        let memory = &self.at(id).memory;
        let may = self.plan_of(id.service).resources.is_some() || memory.fence.is_some();
        may && self.limits(id) != Limits::default()
    }

    /// An adopted run may have been born with others, or been given others since.
    pub(in crate::engine) fn limit_adopted(&mut self, id: ReplicaId) {
        if self.at(id).memory.limited || self.limits(id) != Limits::default() {
            self.limit_again(id);
        }
    }

    /// What of the limits is not in force, each with its reason.
    pub(in crate::engine) fn refused(&self, id: ReplicaId) -> &[String] {
        let run = self.at(id).run.as_ref();
        run.and_then(|run| run.refused.as_deref()).unwrap_or_default()
    }

    pub(in crate::engine) fn is_throttled(&self, id: ReplicaId) -> bool {
        let fence = self.at(id).memory.fence.as_ref();
        fence.is_some_and(|fence| fence.level == FenceLevel::Throttle)
    }
}

/// The tighter of both, one by one.
fn tighter(own: Limits, other: &Limits) -> Limits {
    let mut io_max = own.io_max;
    for limit in &other.io_max {
        match io_max.iter_mut().find(|own| own.path == limit.path) {
            Some(own) => *own = tighter_io(own, limit),
            None => io_max.push(limit.clone()),
        }
    }
    Limits {
        cpu_max_permille: least(own.cpu_max_permille, other.cpu_max_permille),
        cpu_weight: least_weight(own.cpu_weight, other.cpu_weight),
        memory_max_bytes: least(own.memory_max_bytes, other.memory_max_bytes),
        pids_max: least(own.pids_max, other.pids_max),
        io_weight: least_weight(own.io_weight, other.io_weight),
        io_max,
    }
}

fn tighter_io(own: &IoMax, other: &IoMax) -> IoMax {
    IoMax {
        path: own.path.clone(),
        read_bytes: least(own.read_bytes, other.read_bytes),
        write_bytes: least(own.write_bytes, other.write_bytes),
        read_operations: least(own.read_operations, other.read_operations),
        write_operations: least(own.write_operations, other.write_operations),
    }
}

/// `None` is no limit at all.
fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(cmp::min(one, other)),
        (one, other) => one.or(other),
    }
}

/// Without a weight a group has the usual one.
fn least_weight(own: Option<u16>, other: Option<u16>) -> Option<u16> {
    const USUAL: u16 = 100;
    match other {
        Some(other) => Some(own.unwrap_or(USUAL).min(other)),
        None => own,
    }
}

/// Half of what slows down when it is short: CPU time and I/O. Half the memory or the processes of one that was well until now would kill it, or
/// fail its forks, for what it is entitled to.
fn half(own: Limits) -> Limits {
    let half = |limit: Option<u64>| limit.map(|limit| (limit / 2).max(1));
    let io_max = own.io_max.into_iter().map(|limit| IoMax {
        path: limit.path,
        read_bytes: half(limit.read_bytes),
        write_bytes: half(limit.write_bytes),
        read_operations: half(limit.read_operations),
        write_operations: half(limit.write_operations),
    });
    Limits {
        cpu_max_permille: own.cpu_max_permille.map(|cpu| (cpu / 2).max(CPU_LEAST_PERMILLE.min(cpu))),
        io_max: io_max.collect(),
        ..own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io(path: &str, read: Option<u64>, write: Option<u64>) -> IoMax {
        IoMax { path: path.into(), read_bytes: read, write_bytes: write, ..IoMax::default() }
    }

    #[test]
    fn the_tighter_of_two_limits_is_taken_one_by_one() {
        let own = Limits {
            cpu_max_permille: Some(500),
            memory_max_bytes: Some(100),
            io_max: vec![io("/a", Some(10), None)],
            ..Limits::default()
        };
        let other = Limits {
            cpu_max_permille: Some(100),
            pids_max: Some(8),
            io_max: vec![io("/a", Some(20), Some(5)), io("/b", Some(1), None)],
            ..Limits::default()
        };
        let both = tighter(own, &other);
        assert_eq!((both.cpu_max_permille, both.memory_max_bytes, both.pids_max), (Some(100), Some(100), Some(8)));
        assert_eq!(both.io_max, [io("/a", Some(10), Some(5)), io("/b", Some(1), None)]);
    }

    #[test]
    fn half_of_no_limit_is_no_limit_and_half_of_the_least_is_the_least() {
        assert_eq!(half(Limits::default()), Limits::default());
        let own = Limits { cpu_max_permille: Some(15), cpu_weight: Some(50), pids_max: Some(8), ..Limits::default() };
        let own = Limits { memory_max_bytes: Some(100), ..own };
        let halved = half(own);
        assert_eq!((halved.cpu_max_permille, halved.cpu_weight), (Some(10), Some(50)));
        assert_eq!((halved.memory_max_bytes, halved.pids_max), (Some(100), Some(8)));
    }
}
