//! What the shell holds of one replica: the things that outlive its runs (pipe, sockets) and the live run.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::handoff::Channel;
use super::record::{self, Record, Written};
use crate::engine::memory::Memory;
use crate::engine::plan::Stop;
use crate::engine::types::{RunId, Time};
use crate::logs::proto::Stream;
use crate::sys::fifo;
use crate::sys::group::Group;
use crate::sys::notify::NotifySocket;
use crate::sys::spawn::Gate;

/// One replica.
#[derive(Debug)]
pub struct Station {
    /// Its number in epoll keys; stable while the station exists.
    pub slot: u32,
    pub service: String,
    pub index: u16,
    pub stop: Stop,
    /// See [`Record::cookie`].
    pub cookie: String,
    pub notify: Option<NotifySocket>,
    /// The message that was looked at brings descriptors.
    pub notify_attached: bool,
    /// Directories and pipe exist, and belong to [`Station::owner`].
    pub prepared: bool,
    /// The user and group (`None`: our own) that the directories were made for, if this agent made them.
    pub owner: Option<Option<(u32, u32)>>,
    /// A hand on the log pipe: what a service wrote just before its end would be gone with its last holder, while the logs role is away.
    pub pipe_held: Option<OwnedFd>,
    pub live: Option<Live>,
    /// Notifications since then.
    notified_since: Time,
    notified: u32,
}

/// More notifications of one replica within a second wait where they are: a service that floods its socket must neither keep the agent
/// busy nor fill its log.
const NOTIFICATIONS_A_SECOND: u32 = 100;

/// The run whose process or tree exists.
#[derive(Debug)]
pub struct Live {
    pub run: RunId,
    /// The main process; `None` once it has ended and been counted.
    pub main: Option<Main>,
    pub group: Option<Group>,
    /// When the group was made, on the monotonic clock: it counts the CPU time of several runs. `None`: by an earlier agent.
    pub group_since: Option<Time>,
    /// Until exec has succeeded or failed.
    pub gate: Option<Gate>,
    /// Until the newline has come.
    pub ready_pipe: Option<OwnedFd>,
    /// `oom_kill` of the group when it was last looked at: at the beginning of the run, and at its end.
    pub oom_kills: u64,
    /// Over which it takes connections from the proxy.
    pub channels: Vec<Channel>,
    /// The tree has been reported as outliving its main process, and its end must be reported too.
    pub tree_awaited: bool,
    /// The group's events are in epoll.
    pub tree_registered: bool,
    /// Everything in the tree is to die: where there is no group to kill, again and again until nothing is left.
    pub killing: bool,
    /// The engine has frozen it.
    pub frozen: bool,
    /// It was told that a MAINPID is not one of its processes.
    pub refused_main: bool,
}

/// An empty group between two runs.
#[derive(Debug)]
pub struct RestingGroup {
    pub group: Group,
    pub since: Option<Time>,
    /// `oom_kill` when the run ended.
    pub oom_kills: u64,
}

#[derive(Debug)]
pub struct Main {
    pub process: record::Process,
    pub pidfd: OwnedFd,
}

impl Station {
    #[must_use]
    pub fn new(slot: u32, service: &str, index: u16, stop: Stop, cookie: String) -> Self {
        Self {
            slot,
            service: service.to_owned(),
            index,
            stop,
            cookie,
            notify: None,
            notify_attached: false,
            prepared: false,
            owner: None,
            pipe_held: None,
            live: None,
            notified_since: Time(0),
            notified: 0,
        }
    }

    /// Counts a notification. `Err`: it has to wait until then.
    pub fn count_notification(&mut self, now: Time) -> Result<(), Time> {
        const WINDOW: Duration = Duration::from_secs(1);
        if now.since(self.notified_since) >= WINDOW {
            (self.notified_since, self.notified) = (now, 0);
        }
        if self.notified == NOTIFICATIONS_A_SECOND {
            return Err(self.notified_since.after(WINDOW));
        }
        self.notified += 1;
        Ok(())
    }

    #[must_use]
    pub fn stream(&self) -> Stream {
        Stream { service: self.service.clone(), index: self.index }
    }

    /// `{run_dir}/log/NAME.INDEX`
    #[must_use]
    pub fn pipe(&self, run_dir: &Path) -> PathBuf {
        run_dir.join("log").join(format!("{}.{}", self.service, self.index))
    }

    /// Takes hold of the log pipe.
    pub fn hold_pipe(&mut self, run_dir: &Path) {
        match fifo::open_reader(&self.pipe(run_dir)) {
            Ok(pipe) => self.pipe_held = Some(pipe),
            Err(error) => log::warn!("service {}: cannot hold its log pipe: {error}", self.service),
        }
    }

    /// `{run_dir}/svc/NAME`
    #[must_use]
    pub fn directory(&self, run_dir: &Path) -> PathBuf {
        run_dir.join("svc").join(&self.service)
    }

    /// `{run_dir}/svc/NAME/notify.INDEX`
    #[must_use]
    pub fn notify_path(&self, run_dir: &Path) -> PathBuf {
        self.directory(run_dir).join(format!("notify.{}", self.index))
    }

    /// The record as it is now, with what the engine wants remembered.
    #[must_use]
    pub fn record<'a>(&'a self, boot_id: &'a str, instance: &'a str, memory: &'a Memory) -> Written<'a> {
        let process = self.live.as_ref().and_then(|live| live.main.as_ref()).map(|main| main.process);
        let frozen = self.live.as_ref().is_some_and(|live| live.frozen);
        Record {
            version: record::VERSION,
            boot_id,
            instance,
            service: &self.service,
            index: self.index,
            cookie: &self.cookie,
            process,
            frozen,
            stop: self.stop,
            memory,
        }
    }

    /// The live run, if it is this one.
    pub fn live_run(&mut self, run: RunId) -> Option<&mut Live> {
        self.live.as_mut().filter(|live| live.run == run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flood_of_notifications_waits_for_the_next_second() {
        let mut station = Station::new(0, "a", 0, Stop::default(), String::new());
        let (second, began) = (Duration::from_secs(1), Time(5_000_000_000));
        for _ in 0..NOTIFICATIONS_A_SECOND {
            assert_eq!(station.count_notification(began), Ok(()));
        }
        let later = began.after(second / 2);
        assert_eq!(station.count_notification(later), Err(began.after(second)));
        assert_eq!(station.count_notification(began.after(second)), Ok(()));
    }
}
