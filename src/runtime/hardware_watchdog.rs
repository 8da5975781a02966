//! The hardware watchdog, if the configuration names one: opened at the start, petted when the engine says so ([`Action::Pet`]), disarmed at an
//! ordered end. The keeper in the logs role holds it too, so that over the agent's death (and SIGQUIT) it stays armed and the next agent
//! goes on petting it: if none comes in time, the host is reset, which is what it is for.
//!
//! [`Action::Pet`]: crate::engine::action::Action::Pet

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;

use super::links::{Importance, Link};
use super::shell::Shell;
use super::sockets;
use crate::engine::action::Level;
use crate::engine::event::Event;
use crate::engine::plan::{Plan, WatchdogPlan};
use crate::engine::types::{Time, human};
use crate::logs::proto::ToLogs;
use crate::sys::watchdog::Watchdog;

/// The keeper's key.
pub(super) const KEY: &str = "watchdog";

/// Between two tries to open a device that could not be opened: its driver may be loaded later.
const RETRY: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub struct HardwareWatchdog {
    armed: Option<Armed>,
    /// Why there is none although one is configured, as it was told, and when it is tried again.
    failed: Option<(String, Time)>,
    /// The engine's latest word that all that is required is well.
    petted: Option<Time>,
}

#[derive(Debug)]
struct Armed {
    device: PathBuf,
    timeout: Duration,
    watchdog: Watchdog,
}

impl HardwareWatchdog {
    /// Hands a copy to a keeper that has just come.
    pub(super) fn keep(&self, logs: &mut Link) {
        if let Some(armed) = &self.armed {
            sockets::keep(logs, KEY, armed.watchdog.as_fd());
        }
    }

    /// Whether our own supervisor may be told that we are well: while a watchdog is configured, only as long as the engine pets it.
    #[must_use]
    pub(super) fn allows_heartbeat(&self, plan: Option<&WatchdogPlan>, now: Time) -> bool {
        plan.is_none_or(|plan| self.petted.is_some_and(|petted| now.since(petted) < plan.timeout))
    }
}

/// Arms what the plan asks for, and disarms what it does not ask for any more.
pub(super) fn settle(shell: &mut Shell, plan: &Plan, now: Time) {
    if let Some(descriptor) = shell.sockets.take_claimed(KEY) {
        let device = plan.agent.watchdog.as_ref().map(|wanted| wanted.device.clone()).unwrap_or_default();
        let watchdog = Watchdog::from_fd(descriptor);
        shell.watchdog.armed = Some(Armed { device, timeout: Duration::ZERO, watchdog });
    }
    let wanted = plan.agent.watchdog.as_ref();
    let armed = shell.watchdog.armed.as_ref();
    let same = |armed: &Armed| wanted.is_some_and(|wanted| armed.watchdog.is_at(&wanted.device));
    if armed.is_some_and(|armed| !same(armed)) {
        disarm(shell);
    }
    let Some(wanted) = wanted else {
        (shell.watchdog.failed, shell.watchdog.petted) = (None, None);
        return;
    };
    match shell.watchdog.armed.take() {
        Some(armed) if armed.timeout == wanted.timeout => shell.watchdog.armed = Some(armed),
        Some(armed) => arm(shell, wanted, Ok(armed.watchdog), now),
        None => arm(shell, wanted, Watchdog::open(&wanted.device), now),
    }
}

fn arm(shell: &mut Shell, wanted: &WatchdogPlan, opened: io::Result<Watchdog>, now: Time) {
    let device = wanted.device.clone();
    let prepared = opened.map_err(|error| reason(&device, &error)).and_then(|watchdog| prepare(watchdog, wanted));
    let watchdog = match prepared {
        Ok(watchdog) => watchdog,
        Err(why) => return tell_failure(shell, why, now),
    };
    if watchdog.has_reset_the_host() && !shell.watchdog.was_told() {
        tell(shell, Level::Warn, format!("watchdog {}: it has reset the host before this boot", device.display()));
    }
    log::info!("watchdog {}: armed, resets the host after {} without us", device.display(), human(wanted.timeout));
    shell.watchdog.failed = None;
    sockets::keep(&mut shell.logs, KEY, watchdog.as_fd());
    shell.watchdog.armed = Some(Armed { device, timeout: wanted.timeout, watchdog });
}

/// Sets the time, and refuses a device that cannot wait for as long as the engine takes between two pets.
fn prepare(watchdog: Watchdog, wanted: &WatchdogPlan) -> Result<Watchdog, String> {
    let device = wanted.device.display();
    let set = watchdog.set_timeout(wanted.timeout).and_then(|timeout| watchdog.pet().map(|()| timeout));
    let why = match set {
        Ok(timeout) if timeout >= wanted.timeout / 2 => return Ok(watchdog),
        Ok(timeout) => {
            format!("watchdog {device}: it resets the host after {} at most; configure that", human(timeout))
        }
        Err(error) => format!("watchdog {device}: {error}; it is no watchdog that can be used"),
    };
    if let Err(error) = watchdog.disarm() {
        log::error!("watchdog {device}: cannot be disarmed: {error}");
    }
    Err(why)
}

fn reason(device: &Path, error: &io::Error) -> String {
    let hint = match error.raw_os_error() {
        Some(libc::EBUSY) => {
            "another program pets it; if that is systemd, let it: set RuntimeWatchdogSec= in system.conf and WatchdogSec= in the unit, \
             and remove `watchdog`"
        }
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => "this host has no such device, or its driver is not loaded",
        Some(libc::EACCES | libc::EPERM) => "the agent needs to be root",
        Some(_) | None => "it is not used",
    };
    format!("watchdog {}: {error}: {hint}", device.display())
}

impl HardwareWatchdog {
    fn was_told(&self) -> bool {
        self.failed.is_some()
    }
}

/// Once for each reason.
fn tell_failure(shell: &mut Shell, why: String, now: Time) {
    let told = shell.watchdog.failed.as_ref().is_some_and(|(before, _)| *before == why);
    shell.watchdog.failed = Some((why.clone(), now.after(RETRY)));
    if !told {
        tell(shell, Level::Error, why);
    }
}

fn tell(shell: &mut Shell, level: Level, text: String) {
    shell.events.push_back(Event::Remark { level, text });
}

/// Performs `Action::Pet`.
pub(super) fn pet(shell: &mut Shell, plan: &Plan, now: Time) {
    shell.watchdog.petted = Some(now);
    if shell.watchdog.failed.as_ref().is_some_and(|(_, again)| *again <= now) {
        settle(shell, plan, now);
    }
    let Some(armed) = &shell.watchdog.armed else { return };
    if let Err(error) = armed.watchdog.pet() {
        log::error!("watchdog {}: cannot be petted: {error}; the host will be reset", armed.device.display());
    }
}

/// At an ordered end: the host is not reset once the keeper has closed its copy as well.
pub(super) fn disarm(shell: &mut Shell) {
    let Some(Armed { device, watchdog, .. }) = shell.watchdog.armed.take() else { return };
    match watchdog.disarm() {
        Ok(()) => log::info!("watchdog {}: disarmed", device.display()),
        Err(error) => log::error!("watchdog {}: cannot be disarmed: {error}", device.display()),
    }
    shell.logs.send(&ToLogs::Drop { key: KEY.to_owned() }, Importance::Current);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(timeout: Duration) -> WatchdogPlan {
        WatchdogPlan { device: PathBuf::from("/dev/null"), timeout, require: Vec::new() }
    }

    #[test]
    fn heartbeat_ends_with_the_pets_where_a_watchdog_is_configured() {
        let plan = plan(Duration::from_secs(30));
        let mut watchdog = HardwareWatchdog::default();
        assert!(watchdog.allows_heartbeat(None, Time(1)));
        assert!(!watchdog.allows_heartbeat(Some(&plan), Time(1)));
        watchdog.petted = Some(Time(1));
        assert!(watchdog.allows_heartbeat(Some(&plan), Time(29_000_000_000)));
        assert!(!watchdog.allows_heartbeat(Some(&plan), Time(31_000_000_000)));
    }

    #[test]
    fn who_owns_the_device_and_what_to_do_about_it_is_told() {
        let busy = reason(Path::new("/dev/watchdog"), &io::Error::from_raw_os_error(libc::EBUSY));
        assert!(busy.contains("RuntimeWatchdogSec=") && busy.contains("/dev/watchdog"), "{busy}");
        let missing = reason(Path::new("/dev/watchdog"), &io::Error::from_raw_os_error(libc::ENOENT));
        assert!(missing.contains("driver is not loaded"), "{missing}");
        let no_watchdog = prepare(Watchdog::open(Path::new("/dev/null")).unwrap(), &plan(Duration::from_secs(30)));
        assert!(no_watchdog.unwrap_err().contains("no watchdog that can be used"));
    }
}
