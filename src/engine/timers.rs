//! The timer table of one clock: a set ordered by time, so that the minimum is at hand and arming costs a logarithm.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::types::{ReplicaId, RequestId, ServiceId, Time};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum TimerKey {
    Replica(ReplicaId, Timer),
    /// A service with dependents has had no replica up for too long.
    Loss(ServiceId),
    /// A decision of this request should be on disk by now.
    Request(RequestId),
    Shutdown,
    /// A reminder, the end of a window, a command that takes too long.
    Alerts,
    /// Of the hardware watchdog.
    Pet,
    /// A reading of the host is overdue.
    Host,
    /// The next reading of groups.
    Gauge,
    /// Something about copies is due; on both clocks.
    Copies,
}

/// What a replica may wait for; at most one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Timer {
    /// The deadline of the present state: start timeout, phase of a stop, back-off, hold, next look at a stuck tree.
    State,
    /// The next probe, or the deadline of the one under way.
    Probe,
    Watchdog,
    /// `reset_after` of ready time.
    Forget,
    /// An operator who drains the replica waits no longer for its connections to end.
    Drain,
    /// The next period of an `Every`; on the boot clock.
    Period,
    /// The next look at a fence, the end of its step, the end of a probation.
    Fence,
    /// A hold is over; on the boot clock.
    Hold,
}

impl Timer {
    pub(super) const ALL: [Self; 8] =
        [Self::State, Self::Probe, Self::Watchdog, Self::Forget, Self::Drain, Self::Period, Self::Fence, Self::Hold];
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(TimerKey, Time)>", into = "Vec<(TimerKey, Time)>")]
pub(super) struct Timers {
    due: BTreeSet<(Time, TimerKey)>,
    armed: BTreeMap<TimerKey, Time>,
}

impl Timers {
    pub(super) fn set(&mut self, key: TimerKey, at: Time) {
        if let Some(before) = self.armed.insert(key, at) {
            self.due.remove(&(before, key));
        }
        self.due.insert((at, key));
    }

    pub(super) fn cancel(&mut self, key: TimerKey) {
        if let Some(at) = self.armed.remove(&key) {
            self.due.remove(&(at, key));
        }
    }

    pub(super) fn get(&self, key: TimerKey) -> Option<Time> {
        self.armed.get(&key).copied()
    }

    pub(super) fn first(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes out the earliest timer that is due.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<TimerKey> {
        let (at, key) = *self.due.first()?;
        if at > now {
            return None;
        }
        self.cancel(key);
        Some(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (TimerKey, Time)> + '_ {
        self.armed.iter().map(|(key, at)| (*key, *at))
    }
}

impl From<Vec<(TimerKey, Time)>> for Timers {
    fn from(list: Vec<(TimerKey, Time)>) -> Self {
        let mut timers = Self::default();
        for (key, at) in list {
            timers.set(key, at);
        }
        timers
    }
}

impl From<Timers> for Vec<(TimerKey, Time)> {
    fn from(timers: Timers) -> Self {
        timers.armed.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arming_again_moves_a_timer() {
        let mut timers = Timers::default();
        timers.set(TimerKey::Shutdown, Time(5));
        timers.set(TimerKey::Shutdown, Time(9));
        timers.set(TimerKey::Loss(ServiceId(1)), Time(7));
        assert_eq!(timers.first(), Some(Time(7)));
        assert_eq!(timers.pop_due(Time(6)), None);
        assert_eq!(timers.pop_due(Time(9)), Some(TimerKey::Loss(ServiceId(1))));
        assert_eq!(timers.pop_due(Time(9)), Some(TimerKey::Shutdown));
        assert_eq!(timers.first(), None);
    }
}
