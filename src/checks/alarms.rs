//! What makes the host as a whole worth a look before its time: the beginning of pressure (PSI triggers), and a wall clock that was set.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use super::watch::keys;
use crate::engine::host::sample::{Pressure, System};
use crate::sys::clock::{self, SetAlarm};
use crate::sys::epoll::{Epoll, Interest};
use crate::sys::psi::Trigger;

/// Between two looks because of pressure.
const PAUSE: Duration = Duration::from_secs(1);
/// In hundredths of a percent. Above it a pressure goes on and has not just begun; its trigger would fire again and again.
const GOING_ON: u32 = 1_500;

#[derive(Debug)]
pub(super) struct Alarms {
    triggers: [Option<Armed>; 3],
    looked_at: Option<Instant>,
    clock: Option<SetAlarm>,
    ahead_ns: i64,
}

#[derive(Debug)]
struct Armed {
    trigger: Trigger,
    key: u64,
    armed: bool,
}

impl Alarms {
    pub(super) fn new(root: &Path, epoll: &Epoll) -> Self {
        // Ahead of the alarm: a change between them is told rather than missed.
        let ahead_ns = clock::wall_ahead_ns();
        let clock = SetAlarm::new().ok().filter(|alarm| epoll.add(alarm.as_fd(), keys::CLOCK, Interest::READ).is_ok());
        let trigger = |name: &str, key: u64| {
            let trigger = Trigger::open(&root.join("proc/pressure").join(name)).ok()?;
            epoll.add(trigger.as_fd(), key, Interest::PRIORITY).ok()?;
            Some(Armed { trigger, key, armed: true })
        };
        let triggers =
            [("memory", keys::MEMORY), ("cpu", keys::CPU), ("io", keys::IO)].map(|(name, key)| trigger(name, key));
        Self { triggers, looked_at: None, clock, ahead_ns }
    }

    /// A trigger fired: it rests until the pressure is over. Whether to look now.
    pub(super) fn pressed(&mut self, key: u64, now: Instant, epoll: &Epoll) -> bool {
        for armed in self.triggers.iter_mut().flatten().filter(|armed| armed.key == key && armed.armed) {
            armed.armed = epoll.remove(armed.trigger.as_fd()).is_err();
        }
        let look = self.looked_at.is_none_or(|at| now.saturating_duration_since(at) >= PAUSE);
        if look {
            self.looked_at = Some(now);
        }
        look
    }

    /// A regular reading: what is quiet again may fire again.
    pub(super) fn rearm(&mut self, system: &System, epoll: &Epoll) {
        let pressures = [&system.pressure_memory, &system.pressure_cpu, &system.pressure_io];
        for (armed, pressure) in self.triggers.iter_mut().zip(pressures) {
            let quiet = pressure.is_some_and(|pressure: Pressure| pressure.some_avg10 < GOING_ON);
            if let Some(armed) = armed
                && !armed.armed
                && quiet
            {
                armed.armed = epoll.add(armed.trigger.as_fd(), armed.key, Interest::PRIORITY).is_ok();
            }
        }
    }

    /// The wall clock was set: how far it moved, in milliseconds, if that can be told.
    pub(super) fn clock_set(&mut self, epoll: &Epoll) -> Option<i64> {
        let alarm = self.clock.as_ref()?;
        if alarm.arm().is_err() {
            // It would stay readable for ever.
            let _ = epoll.remove(alarm.as_fd());
            self.clock = None;
        }
        let ahead_ns = clock::wall_ahead_ns();
        let by_ms = (ahead_ns - self.ahead_ns) / 1_000_000;
        self.ahead_ns = ahead_ns;
        (by_ms != 0).then_some(by_ms)
    }
}
