//! What the agent says to its own supervisor, if it has one: sd_notify(3) READY, STATUS, WATCHDOG, RELOADING, STOPPING.

use std::time::Duration;

use crate::engine::Engine;
use crate::engine::types::{Now, StateName, Time};
use crate::sys::clock;
use crate::sys::notify::notify_parent;

/// STATUS is told at most this often.
const STATUS_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Systemd {
    /// There is somebody to tell.
    present: bool,
    /// Half of WATCHDOG_USEC.
    heartbeat: Option<Duration>,
    next_heartbeat: Option<Time>,
    last_status: String,
    next_status: Time,
    /// Steps of the engine at the last look: nothing happened, nothing to tell.
    seen_steps: u64,
    status_due: bool,
}

impl Systemd {
    /// Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID.
    #[must_use]
    pub(super) fn from_environment(now: Time) -> Self {
        let present = std::env::var_os("NOTIFY_SOCKET").is_some();
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let heartbeat = number("WATCHDOG_USEC")
            .filter(|usec| *usec > 0 && for_us && present)
            .map(|usec| Duration::from_micros(usec / 2));
        Self {
            present,
            heartbeat,
            next_heartbeat: heartbeat.map(|_| now),
            last_status: String::new(),
            next_status: now,
            seen_steps: 0,
            status_due: false,
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        let status = self.status_due.then_some(self.next_status);
        [self.next_heartbeat, status].into_iter().flatten().min()
    }

    pub(super) fn ready(&self) {
        self.say("READY=1");
    }

    pub(super) fn stopping(&self) {
        self.say("STOPPING=1");
    }

    pub(super) fn reloading(&self) {
        if self.present {
            self.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", clock::clocks().mono_ns / 1_000));
        }
    }

    pub(super) fn reloaded(&self) {
        self.say("READY=1");
    }

    /// The heartbeat, when due and if all is `well` that must be: only the loop sends it, so a loop that hangs is noticed. And the status, when
    /// it changed.
    pub(super) fn tell(&mut self, engine: &Engine, now: Now, well: bool) {
        if !self.present {
            return;
        }
        if let (Some(heartbeat), Some(due)) = (self.heartbeat, self.next_heartbeat)
            && due <= now.mono
        {
            if well {
                self.say("WATCHDOG=1");
            }
            self.next_heartbeat = Some(now.mono.after(heartbeat));
        }
        let steps = engine.counters().steps;
        if steps != self.seen_steps {
            self.seen_steps = steps;
            self.status_due = true;
        }
        if self.status_due && self.next_status <= now.mono {
            self.status_due = false;
            self.next_status = now.mono.after(STATUS_EVERY);
            let status = status(engine, now);
            if status != self.last_status {
                self.say(&format!("STATUS={status}"));
                self.last_status = status;
            }
        }
    }

    fn say(&self, text: &str) {
        if !self.present {
            return;
        }
        if let Err(error) = notify_parent(text) {
            log::warn!("agent: cannot tell its supervisor {text:?}: {error}");
        }
    }
}

fn status(engine: &Engine, now: Now) -> String {
    let views = engine.services(now);
    let wanted = views.iter().filter(|view| view.wanted).count();
    let unwell: Vec<&str> = views
        .iter()
        .filter(|view| view.wanted && !matches!(view.state, StateName::Ready | StateName::Done))
        .map(|view| view.plan.name.as_str())
        .collect();
    match unwell.as_slice() {
        [] => format!("{wanted} services, all well"),
        [first, rest @ ..] => {
            let others = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            format!("{} of {wanted} services well; not {first}{others}", wanted - unwell.len())
        }
    }
}
