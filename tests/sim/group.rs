//! The model of the group of a tree: the limits in force, what it uses of them, and how long it takes until it stands still.

use std::time::Duration;

use mainstay::engine::fence::gauge::Gauge;
use mainstay::engine::fence::plan::Limits;
use mainstay::engine::types::{ReplicaId, RunId, Time};

use crate::dice::Dice;

const MIB: u64 = 1 << 20;
/// Of the simulated host.
pub(crate) const MEMORY: u64 = 1_024 * MIB;

/// What a faulty service does with what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vice {
    None,
    /// It forks without end.
    Bomb,
    /// It takes memory without end.
    Leaker,
    /// It takes all the time there is.
    Busy,
}

#[derive(Debug)]
pub(crate) struct Group {
    /// What is in force.
    pub(crate) limits: Limits,
    /// What should be in force is not, as the kernel refused it, and the agent was told.
    pub(crate) refused: bool,
    pub(crate) vice: Vice,
    /// When all of it stands still, once it is frozen.
    pub(crate) still_at: Time,
    born: Time,
    read_at: Time,
    cpu_usec: u64,
    periods: u64,
    throttled: u64,
    scanned: u64,
    limit_met: u64,
    forks_refused: u64,
}

impl Group {
    /// `faulty`: how likely it has a vice, in percent.
    pub(crate) fn new(limits: Limits, faulty: u64, now: Time, dice: &mut Dice) -> Self {
        let vices = [Vice::Bomb, Vice::Leaker, Vice::Busy];
        let vice = if dice.percent(faulty) { *dice.pick(&vices) } else { Vice::None };
        Self {
            limits,
            refused: false,
            vice,
            still_at: now,
            born: now,
            read_at: now,
            cpu_usec: 0,
            periods: 0,
            throttled: 0,
            scanned: 0,
            limit_met: 0,
            forks_refused: 0,
        }
    }

    /// Time goes by for what runs; nothing is counted of what stands still or sleeps.
    pub(crate) fn pass(&mut self, now: Time, stands: bool) {
        let passed = now.since(std::mem::replace(&mut self.read_at, now));
        if stands {
            return;
        }
        let micros = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX);
        let wants: u64 = if self.vice == Vice::Busy { 1_000 } else { 10 };
        let may = self.limits.cpu_max_permille.map_or(u64::MAX, u64::from);
        self.cpu_usec += micros / 1_000 * wants.min(may);
        if self.limits.cpu_max_permille.is_some() {
            let periods = micros / 100_000;
            self.periods += periods;
            self.throttled += if wants > may { periods } else { 0 };
        }
        let seconds = passed.as_secs();
        match self.vice {
            Vice::Bomb if self.limits.pids_max.is_some() => self.forks_refused += 100 * seconds,
            Vice::Leaker => {
                self.scanned += 10_000 * seconds;
                self.limit_met += if self.limits.memory_max_bytes.is_some() { seconds } else { 0 };
            }
            Vice::None | Vice::Bomb | Vice::Busy => {}
        }
    }

    fn memory(&self, now: Time) -> u64 {
        let grown = match self.vice {
            Vice::Leaker => 20 * MIB * now.since(self.born).as_secs(),
            Vice::None | Vice::Bomb | Vice::Busy => 8 * MIB,
        };
        grown.min(self.limits.memory_max_bytes.unwrap_or(MEMORY / 2))
    }

    /// `still`: every member is stopped by the freezer.
    pub(crate) fn gauge(&self, replica: ReplicaId, run: RunId, now: Time, still: bool) -> Gauge {
        let leaks = self.vice == Vice::Leaker && now.since(self.born) > Duration::from_secs(5);
        let most = self.limits.pids_max.map_or(5_000, u64::from);
        Gauge {
            replica,
            run,
            cpu_usec: Some(self.cpu_usec),
            cpu_periods: Some(self.periods),
            cpu_throttled: Some(self.throttled),
            memory_bytes: Some(self.memory(now)),
            pages_scanned: Some(self.scanned),
            memory_limit_met: Some(self.limit_met),
            memory_full_avg10: Some(if leaks { 7_000 } else { 100 }),
            pids: Some(if self.vice == Vice::Bomb { most } else { most.min(3) }),
            pids_refused: Some(self.forks_refused),
            frozen: Some(still),
        }
    }
}
