//! Readings for the causes of fences: of whom they are asked, and what two of them in a row say.
//!
//! Asked every [`EVERY`], and nobody is where nothing could come of it: of those with a limit on CPU time or processes whose trigger is on,
//! of everybody while the host is short of memory, of those under a fence of the agent's own.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::gauge::Gauge;
use super::plan::{FenceLevel, Mode};
use super::record::Trigger;
use crate::engine::Engine;
use crate::engine::action::Action;
use crate::engine::host::Health;
use crate::engine::host::kind::CheckKind;
use crate::engine::service::State;
use crate::engine::timers::TimerKey;
use crate::engine::types::{ReplicaId, RunId, Time};

const EVERY: Duration = Duration::from_secs(5);
/// What comes sooner after another is the answer to somebody who waits for a proof.
const APART_MIN: Duration = Duration::from_secs(4);
/// In hundredths of a percent.
const STALLED_BEYOND: u32 = 4_000;
/// Of the time in which somebody waits for the host's memory, likewise: less is the noise of any host.
const TIGHT_FROM: u32 = 100;

/// The latest reading of one replica, and for how long it has been as bad as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::engine) struct Watched {
    pub(in crate::engine) at: Time,
    pub(in crate::engine) gauge: Gauge,
    pub(in crate::engine) cpu: Streak,
    pub(in crate::engine) pids: Streak,
    pub(in crate::engine) pressure: Streak,
}

/// Bad readings in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::engine) struct Streak {
    pub(in crate::engine) readings: u32,
    /// Since when: mono, and wall.
    pub(in crate::engine) since: Time,
    pub(in crate::engine) since_wall: Time,
}

impl Streak {
    /// `since`: the reading before, with which the present one was compared.
    fn next(self, bad: Option<bool>, since: Time, since_wall: Time) -> Self {
        match bad {
            Some(true) if self.readings > 0 => Self { readings: self.readings.saturating_add(1), ..self },
            Some(true) => Self { readings: 1, since, since_wall },
            Some(false) | None => Self::default(),
        }
    }
}

impl Engine {
    /// Somebody may have to be asked from now on.
    pub(in crate::engine) fn watch_groups(&mut self) {
        let somebody = !self.fence.thaw_again.is_empty() || !self.groups_to_watch().is_empty();
        if self.timers.get(TimerKey::Gauge).is_none() && somebody {
            self.timers.set(TimerKey::Gauge, self.now.mono.after(EVERY));
        }
    }

    /// A replica is up, or becomes so.
    pub(in crate::engine) fn watch_group(&mut self, id: ReplicaId) {
        let may = self.fence.tight || self.plan_of(id.service).resources.is_some();
        if may && self.timers.get(TimerKey::Gauge).is_none() && self.is_watched(id) {
            self.timers.set(TimerKey::Gauge, self.now.mono.after(EVERY));
        }
    }

    pub(in crate::engine) fn gauge_timer(&mut self) {
        self.thaw_again();
        let runs = self.groups_to_watch();
        self.fence.watched.retain(|id, _| runs.iter().any(|(watched, _)| watched == id));
        if !runs.is_empty() {
            self.ask_groups(runs);
            self.timers.set(TimerKey::Gauge, self.now.mono.after(EVERY));
        }
    }

    pub(in crate::engine) fn ask_groups(&mut self, runs: Vec<(ReplicaId, RunId)>) {
        self.fence.asked += 1;
        self.out.push(Action::Gauge { asked: self.fence.asked, runs });
    }

    pub(in crate::engine) fn groups_to_watch(&self) -> Vec<(ReplicaId, RunId)> {
        let services = self.services.iter().filter(|(_, service)| !service.is_role);
        let all = services.flat_map(|(service, _)| self.replicas_of(*service));
        all.filter(|id| self.is_watched(*id)).map(|id| (id, self.at(id).memory.run)).collect()
    }

    fn is_watched(&self, id: ReplicaId) -> bool {
        let replica = self.at(id);
        let up = matches!(replica.state, State::Starting | State::Ready | State::Degraded);
        if !up || replica.run.as_ref().is_none_or(|run| run.exited) || self.service_at(id.service).is_role {
            return false;
        }
        if let Some(fence) = replica.memory.fence.as_deref() {
            return !fence.is_by_hand() && fence.level < FenceLevel::Kill;
        }
        let limits = self.plan_of(id.service).resources.as_ref().map(|resources| &resources.limits);
        let triggers = self.read_fence_plan(id.service, |plan| plan.triggers);
        let is_on = |mode: Mode| mode != Mode::Off;
        let cpu = limits.is_some_and(|limits| limits.cpu_max_permille.is_some()) && is_on(triggers.cpu);
        let pids = limits.is_some_and(|limits| limits.pids_max.is_some()) && is_on(triggers.pids);
        cpu || pids || (self.fence.tight && (is_on(triggers.pressure) || is_on(triggers.host_memory)))
    }

    /// The host's memory may have become short, or is so no more.
    pub(in crate::engine) fn look_at_memory(&mut self) {
        let short = |kind| matches!(self.check_state(kind), Health::Degraded | Health::Failing);
        let system = self.readings.system.as_ref();
        let stalls =
            system.and_then(|system| system.pressure_memory).is_some_and(|pressure| pressure.some_avg10 >= TIGHT_FROM);
        self.fence.tight = stalls || short(CheckKind::Memory) || short(CheckKind::PressureMemory);
        if self.fence.tight {
            self.watch_groups();
        }
    }

    /// The answer to `Action::Gauge`.
    pub(in crate::engine) fn gauged(&mut self, asked: u64, gauges: Vec<Gauge>) {
        let mut news = Vec::new();
        for gauge in gauges {
            let id = gauge.replica;
            if self.current(id, gauge.run).is_none() {
                continue;
            }
            self.look_at_fence(asked, &gauge);
            self.look_at_quiet(asked, &gauge);
            if self.is_watched(id) && self.read_gauge(gauge) {
                news.push(id);
            }
        }
        for id in &news {
            self.judge_group(*id);
        }
        if !news.is_empty() {
            self.relieve_host();
        }
    }

    /// Whether the reading is one to judge by.
    fn read_gauge(&mut self, gauge: Gauge) -> bool {
        let (id, now) = (gauge.replica, self.now);
        let before = self.fence.watched.get(&id).filter(|before| before.gauge.run == gauge.run);
        let Some(before) = before else {
            let (cpu, pids, pressure) = Default::default();
            self.fence.watched.insert(id, Watched { at: now.mono, gauge, cpu, pids, pressure });
            return true;
        };
        let apart = now.mono.since(before.at);
        if apart < APART_MIN {
            return false;
        }
        let (since, since_wall) = (before.at, Time(now.wall.0.saturating_sub(now.mono.0 - before.at.0)));
        let stalls = gauge.memory_full_avg10.map(|full| full > STALLED_BEYOND);
        let reclaims = [
            grew(before.gauge.pages_scanned, gauge.pages_scanned),
            grew(before.gauge.memory_limit_met, gauge.memory_limit_met),
        ];
        let reclaims = reclaims.contains(&Some(true));
        let beyond = self.is_large(id, gauge.memory_bytes);
        let cpu = before.cpu.next(at_cpu_limit(&before.gauge, &gauge), since, since_wall);
        let pids = before.pids.next(grew(before.gauge.pids_refused, gauge.pids_refused), since, since_wall);
        let pressure = before.pressure.next(stalls.map(|stalls| stalls && reclaims && beyond), since, since_wall);
        let lasts = self.fence(id).map(|fence| match fence.trigger {
            Trigger::Cpu => at_cpu_limit(&before.gauge, &gauge),
            Trigger::Pids => {
                let most = self.limits(id).pids_max.map(u64::from);
                let full = gauge.pids.zip(most).map(|(pids, most)| pids >= most);
                let refused = grew(before.gauge.pids_refused, gauge.pids_refused);
                full.into_iter().chain(refused).reduce(|one, other| one || other)
            }
            Trigger::Operator | Trigger::Restarts | Trigger::Pressure | Trigger::HostMemory | Trigger::Probation => {
                None
            }
        });
        self.fence.watched.insert(id, Watched { at: now.mono, gauge, cpu, pids, pressure });
        if let Some(lasts) = lasts {
            self.cause_lasts(id, lasts);
        }
        true
    }

    /// `None`: nothing can be said, as of one that stands still.
    fn cause_lasts(&mut self, id: ReplicaId, lasts: Option<bool>) {
        let now = self.now.mono;
        let Some(fence) = self.memory_mut(id).fence.as_deref_mut() else {
            return;
        };
        match lasts {
            Some(true) => fence.quiet_since = None,
            Some(false) => fence.quiet_since = fence.quiet_since.or(Some(now)),
            None => {}
        }
        self.arm_fence(id);
    }

    /// What each replica may have when the host's memory is short: an equal part of all there is. `None`: nobody knows how much that is.
    pub(in crate::engine) fn memory_share(&self) -> Option<u64> {
        let total = self.readings.system.as_ref().map(|system| system.memory_total_bytes);
        total.map(|total| total / u64::from(self.populated.max(1)))
    }

    pub(in crate::engine) fn is_over_share(&self, has: Option<u64>) -> bool {
        has.zip(self.memory_share()).is_some_and(|(has, share)| has > share)
    }

    /// Its own memory is what it stalls for: it is over its share of the host's, or over half of its own limit.
    fn is_large(&self, id: ReplicaId, has: Option<u64>) -> bool {
        let limits = self.plan_of(id.service).resources.as_ref().map(|resources| &resources.limits);
        let most = limits.and_then(|limits| limits.memory_max_bytes);
        self.is_over_share(has) || has.zip(most).is_some_and(|(has, most)| has > most / 2)
    }
}

fn grew(before: Option<u64>, after: Option<u64>) -> Option<bool> {
    before.zip(after).map(|(before, after)| after > before)
}

/// Stopped by its limit in nine of ten of the periods in which it ran. `None`: it did not run.
fn at_cpu_limit(before: &Gauge, after: &Gauge) -> Option<bool> {
    let ran = after.cpu_periods?.checked_sub(before.cpu_periods?).filter(|ran| *ran > 0)?;
    let stopped = after.cpu_throttled?.checked_sub(before.cpu_throttled?)?;
    Some(stopped.saturating_mul(10) >= ran.saturating_mul(9))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::types::ServiceId;

    #[test]
    fn a_group_that_did_not_run_is_not_at_its_limit_and_not_below_it() {
        let unknown = Gauge::unknown(ReplicaId { service: ServiceId(1), index: 0 }, RunId(1));
        let at = |periods, throttled| Gauge {
            cpu_periods: Some(periods),
            cpu_throttled: Some(throttled),
            ..unknown.clone()
        };
        assert_eq!(at_cpu_limit(&at(10, 5), &at(10, 5)), None);
        assert_eq!(at_cpu_limit(&at(10, 5), &at(20, 14)), Some(true));
        assert_eq!(at_cpu_limit(&at(10, 5), &at(20, 13)), Some(false));
        assert_eq!(at_cpu_limit(&unknown, &at(20, 13)), None);
    }
}
