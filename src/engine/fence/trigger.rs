//! The causes for which the agent fences by itself.
//!
//! * `cpu`: stopped by its own `cpu_max` in nine of ten periods for [`CPU_FOR`]. `pids`: its own `pids_max` refused forks in three readings
//!   in a row. Both begin with the first step of the ladder.
//! * `pressure`: it stalls for memory and the kernel reclaims, both, over two readings in a row, and it has more than its share.
//! * `host_memory`: the host's memory fails. Of those over their share the one of the least priority, and of these the largest; the next
//!   one only when that is proven to be gone, and [`NEXT_AFTER`] later. Both begin with the first step that gives memory back.
//!
//! On probation each of them ends in a hold at once.

use std::time::Duration;

use super::plan::{FenceLevel, Mode, Rung};
use super::record::Trigger;
use super::records::Cause;
use crate::engine::Engine;
use crate::engine::host::CheckKey;
use crate::engine::host::kind::CheckKind;
use crate::engine::types::{ReplicaId, human};

const CPU_FOR: Duration = Duration::from_secs(60);
const PIDS_READINGS: u32 = 3;
const PRESSURE_READINGS: u32 = 2;
/// Until the memory of one that is gone shows in what the host says.
const NEXT_AFTER: Duration = Duration::from_secs(15);
/// An older reading says nothing of how much it has now.
const READING_FRESH: Duration = Duration::from_secs(12);

impl Engine {
    /// A new reading of a group: what it is a cause for.
    pub(in crate::engine) fn judge_group(&mut self, id: ReplicaId) {
        if self.fence(id).is_some() {
            return;
        }
        let Some(watched) = self.fence.watched.get(&id) else {
            return;
        };
        let now = self.now.mono;
        let triggers = self.read_fence_plan(id.service, |plan| plan.triggers);
        let number = |value: Option<u64>| value.map_or_else(|| "?".to_owned(), |value| value.to_string());
        let gauge = &watched.gauge;
        let limits = self.limits(id);
        let found =
            if watched.cpu.readings > 0 && now.since(watched.cpu.since) >= CPU_FOR && limits.cpu_max_permille.is_some()
            {
                let for_ = human(now.since(watched.cpu.since));
                let evidence = vec![
                    format!("stopped by its CPU limit in nine of ten periods for {for_}"),
                    format!("nr_throttled {} of nr_periods {}", number(gauge.cpu_throttled), number(gauge.cpu_periods)),
                ];
                Some((Trigger::Cpu, triggers.cpu, "it is at its CPU limit", evidence, watched.cpu.since_wall))
            } else if watched.pids.readings >= PIDS_READINGS && limits.pids_max.is_some() {
                let evidence = vec![format!(
                    "pids.events max {} grew in {} readings in a row, pids.current {}",
                    number(gauge.pids_refused),
                    watched.pids.readings,
                    number(gauge.pids)
                )];
                Some((Trigger::Pids, triggers.pids, "it forks beyond its limit", evidence, watched.pids.since_wall))
            } else if watched.pressure.readings >= PRESSURE_READINGS {
                let full = gauge.memory_full_avg10.unwrap_or_default();
                let evidence = vec![
                    format!("memory.pressure full avg10 {}.{:02}%", full / 100, full % 100),
                    format!("pgscan {}, limit met {}", number(gauge.pages_scanned), number(gauge.memory_limit_met)),
                    self.memory_text(id, gauge.memory_bytes),
                ];
                let why = "it stalls for memory, and the kernel reclaims in vain";
                Some((Trigger::Pressure, triggers.pressure, why, evidence, watched.pressure.since_wall))
            } else {
                None
            };
        if let Some((trigger, mode, why, evidence, seen)) = found {
            self.act(id, mode, Cause { trigger, why: why.to_owned(), evidence, seen });
        }
    }

    fn memory_text(&self, id: ReplicaId, has: Option<u64>) -> String {
        let mib = |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), |bytes| (bytes >> 20).to_string());
        let limits = self.plan_of(id.service).resources.as_ref().map(|resources| &resources.limits);
        let own = limits.and_then(|limits| limits.memory_max_bytes);
        let own = own.map_or_else(String::new, |most| format!(", its limit {} MiB", mib(Some(most))));
        format!("{} MiB in use, its share is {} MiB{own}", mib(has), mib(self.memory_share()))
    }

    /// The first step for a cause, where the ladder has one that helps.
    fn first_step(&self, id: ReplicaId, trigger: Trigger) -> Option<FenceLevel> {
        let least = match trigger {
            Trigger::Pressure | Trigger::HostMemory => FenceLevel::Kill,
            Trigger::Operator | Trigger::Restarts | Trigger::Cpu | Trigger::Pids | Trigger::Probation => {
                FenceLevel::Throttle
            }
        };
        self.read_fence_plan(id.service, |plan| {
            let steps = plan.ladder.iter().map(Rung::level);
            let held = self.at(id).memory.probation.is_some() && plan.ladder.contains(&Rung::Hold);
            if held { Some(FenceLevel::Hold) } else { steps.filter(|level| *level >= least).min() }
        })
    }

    /// Fences it, or says why not.
    fn act(&mut self, id: ReplicaId, mode: Mode, mut cause: Cause) {
        let trigger = cause.trigger;
        let Some(level) = self.first_step(id, trigger) else {
            let because = "no step of its ladder gives memory back";
            return self.observe(id, &cause, FenceLevel::Kill, because);
        };
        match mode {
            Mode::Off => return,
            Mode::DryRun => {
                return self.observe(id, &cause, level, &format!("`{}` is a dry run", trigger.word()));
            }
            Mode::On => {}
        }
        if let Some(because) = self.beyond_radius(id) {
            return self.observe(id, &cause, level, &because);
        }
        if self.at(id).memory.probation.is_some() {
            cause.trigger = Trigger::Probation;
            cause.evidence.insert(0, format!("on probation: {}", trigger.word()));
        }
        self.count_automatic();
        self.set_fence(id, &cause, level);
        self.watch_groups();
    }

    /// The host's memory fails: somebody has to go, if it is anybody of ours.
    pub(in crate::engine) fn relieve_host(&mut self) {
        let checks = [CheckKind::Memory, CheckKind::PressureMemory];
        let Some(failing) = checks.into_iter().find(|kind| self.fails_now(*kind)) else {
            return;
        };
        let now = self.now;
        let freed = self.fence.memory.memory_freed;
        if self.is_relieving() || freed.is_some_and(|at| now.mono.since(at) < NEXT_AFTER) {
            return;
        }
        let mut over: Vec<(i32, std::cmp::Reverse<u64>, ReplicaId)> = Vec::new();
        for (id, watched) in &self.fence.watched {
            let fresh = now.mono.since(watched.at) < READING_FRESH && self.fence(*id).is_none();
            let mode = self.read_fence_plan(id.service, |plan| plan.triggers.host_memory);
            let has = watched.gauge.memory_bytes.filter(|has| self.is_over_share(Some(*has)));
            if let Some(has) = has.filter(|_| fresh && mode != Mode::Off) {
                over.push((self.plan_of(id.service).priority, std::cmp::Reverse(has), *id));
            }
        }
        over.sort_unstable();
        let allowed = |id: &ReplicaId| {
            self.read_fence_plan(id.service, |plan| plan.triggers.host_memory) == Mode::On
                && self.beyond_radius(*id).is_none()
                && self.first_step(*id, Trigger::HostMemory).is_some()
        };
        let chosen = over.iter().find(|(_, _, id)| allowed(id)).or(over.first());
        let Some((priority, has, id)) = chosen.copied() else {
            return;
        };
        let (_, said) =
            self.host.states.get(&CheckKey { kind: failing, target: String::new() }).cloned().unwrap_or_default();
        let evidence = vec![
            format!("check {}: failing: {said}", failing.word()),
            self.memory_text(id, Some(has.0)),
            format!("priority {priority}, the least of {} that have more than their share", over.len()),
        ];
        let mode = self.read_fence_plan(id.service, |plan| plan.triggers.host_memory);
        let why = "the host is short of memory and it has more than its share".to_owned();
        self.act(id, mode, Cause { trigger: Trigger::HostMemory, why, evidence, seen: now.wall });
    }

    /// Somebody is being killed for the host's memory, and is not gone yet.
    fn is_relieving(&self) -> bool {
        let replicas = self.services.values().flat_map(|service| service.replicas.values());
        let mut fences = replicas.filter_map(|replica| replica.memory.fence.as_deref());
        fences.any(|fence| fence.trigger == Trigger::HostMemory && fence.level == FenceLevel::Kill)
    }

    /// A kill is proven: what it had is the host's again.
    pub(in crate::engine) fn note_freed(&mut self, id: ReplicaId) {
        if self.fence(id).is_some_and(|fence| fence.trigger == Trigger::HostMemory) {
            self.fence.memory.memory_freed = Some(self.now.mono);
        }
    }
}
