//! The shell: turns ready descriptors into events, and the engine's actions into calls. One thread, one epoll, no decision.
//!
//! A turn is: wait; read what is ready (`wait`, `roles`, `probes`); give the events to the engine; perform its actions (`perform`);
//! answer clients (`serve`); hand lines to the logs role. The work of one turn is bounded, so that a thousand starts do not keep
//! an exit or a client waiting.

pub mod adopt;
mod alerts;
mod balancers;
mod connecting;
mod copying;
mod crash;
mod errand;
mod errands;
pub mod error;
mod figures;
mod freezing;
mod handoff;
mod hardware_watchdog;
mod hooks;
pub mod journal;
mod kept;
pub mod key;
mod limiting;
pub mod links;
mod listeners;
pub mod load;
pub mod logger;
pub mod notify;
mod pace;
mod peeks;
mod perform;
mod probes;
#[cfg(test)]
mod proxy_tests;
pub mod record;
pub mod recorder;
mod reload;
mod request;
pub mod roles;
mod saved_plan;
mod serve;
mod shell;
mod shutdown;
mod signals;
mod sockets;
mod spawned;
mod start;
mod start_run;
mod station;
mod streams;
pub mod switching;
mod systemd;
pub mod taker;
mod turn;
mod usage;
mod wait;

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use connecting::Connecting;
use error::RunError;
use key::Key;
use links::Link;
use recorder::Recorder;
use reload::Reloading;
use serve::{About, Answers};
use shell::Shell;
use streams::Streams;
use systemd::Systemd;
use usage::Usages;

pub use start::group_choice;

use crate::api::server::{Incoming, Server};
use crate::engine::Engine;
use crate::engine::action::{Action, Cleanness, Note};
use crate::engine::plan::Role;
use crate::engine::types::{Now, Time};
use crate::sys::clock::{self, BootTimer};
use crate::sys::epoll::{Interest, Ready};
use crate::sys::files::Lock;
use crate::sys::signal::Signals;
use crate::sys::text::Settling;

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// `None`: the compiled-in demo.
    pub config: Option<PathBuf>,
}

/// Descriptors looked at in one turn.
const READY_MAX: usize = 256;
/// A loop that was this late has stalled: nobody is blamed for deadlines that passed meanwhile.
const STALL_MIN: Duration = Duration::from_millis(500);
/// The first sleep of at least this length ends the start.
const AT_REST: Duration = Duration::from_millis(100);
/// How often something is tried again that cannot be waited for: a group that is still busy, a role that does not listen yet.
const RETRY: Duration = Duration::from_millis(50);

/// How long first starts wait for the logs role.
const LOGS_AWAITED: Duration = Duration::from_secs(2);

/// Runs the agent until it is told to stop. Returns when everything is stopped (or, after SIGQUIT, when everything is left to
/// the next agent).
pub fn run(options: &RunOptions) -> Result<(), RunError> {
    logger::install();
    start::start(options)?.run()
}

/// The four clocks as the engine takes them.
fn now() -> Now {
    let clocks = clock::clocks();
    Now {
        mono: Time(clocks.mono_ns),
        boot: Time(clocks.boot_ns),
        wall: Time(clocks.wall_ns),
        wall_synchronised: clocks.synchronised,
    }
}

/// What is on the heap need not be copied for each child. Where that fails, it only costs what it did.
fn settle_heap() {
    if let Err(error) = crate::sys::heap::keep_from_children() {
        log::debug!("agent: cannot keep its heap from its children: {error}");
    }
}

/// Why the loop ended.
#[derive(Debug)]
enum End {
    /// All services are stopped: the roles go too.
    Stopped(Cleanness),
    /// SIGQUIT: everything goes on without us.
    Left,
}

#[derive(Debug)]
struct Agent {
    engine: Engine,
    shell: Shell,
    server: Server,
    answers: Answers,
    streams: Streams,
    usages: Usages,
    about: About,
    recorder: Recorder,
    signals: Signals,
    boot_timer: BootTimer,
    boot_deadline: Option<Time>,
    reloading: Option<Reloading>,
    systemd: Systemd,
    /// Actions decided and not yet performed.
    actions: VecDeque<Action>,
    /// First starts wait until the logs role holds their pipes and sockets too, or until this deadline.
    logs_awaited_until: Option<Time>,
    deferred: Vec<Action>,
    /// What has happened and is not yet written down.
    untold: Vec<Note>,
    /// A child was just let go, mostly on this very CPU: what would wake the roles waits until it has become its program, or until then.
    tell_at: Option<Time>,
    /// Children were spawned since the heap was last kept from them.
    heap_grows: bool,
    /// The last turn ended with that child: what was left of it comes in the next one.
    cut_short: bool,
    /// The sockets of balancers are to follow a new plan.
    plan_changed: bool,
    /// Roles that said that they listen and are not connected yet.
    connecting: Connecting,
    /// Requests that have not been looked at yet; each connection has at most one.
    asked: VecDeque<Incoming>,
    /// More orphans may wait than one turn reaps.
    orphans_wait: bool,
    end: Option<End>,
    settling: Settling,
    /// When the last turn began, and how far the boot clock was ahead of the monotonic one.
    turn_began: Time,
    asleep_ns: u64,
    _lock: Lock,
}

impl Agent {
    #[expect(clippy::too_many_arguments, reason = "the parts of one struct, put together in one place")]
    fn assemble(
        engine: Engine,
        shell: Shell,
        server: Server,
        recorder: Recorder,
        signals: Signals,
        about: About,
        actions: VecDeque<Action>,
        lock: Lock,
    ) -> Result<Self, RunError> {
        let boot_timer =
            BootTimer::new().map_err(|source| RunError::Setup { what: "the boot clock's timer", source })?;
        shell.listen_to(signals.as_fd(), Key::Signals, Interest::READ);
        shell.listen_to(boot_timer.as_fd(), Key::BootTimer, Interest::READ);
        shell.listen_to(server.as_fd(), Key::Api, Interest::READ);
        let now = now();
        let mut agent = Self {
            engine,
            shell,
            server,
            answers: Answers::default(),
            streams: Streams::default(),
            usages: Usages::default(),
            about,
            recorder,
            signals,
            boot_timer,
            boot_deadline: None,
            reloading: None,
            systemd: Systemd::from_environment(now.mono),
            actions,
            logs_awaited_until: Some(now.mono.after(LOGS_AWAITED)),
            deferred: Vec::new(),
            untold: Vec::new(),
            tell_at: None,
            heap_grows: true,
            cut_short: false,
            plan_changed: false,
            connecting: Connecting::default(),
            asked: VecDeque::new(),
            orphans_wait: true,
            end: None,
            settling: Settling::begin(),
            turn_began: now.mono,
            asleep_ns: now.boot.0.saturating_sub(now.mono.0),
            _lock: lock,
        };
        agent.greet_adopted_roles();
        Ok(agent)
    }

    /// Roles that outlived the earlier agent: one is connected since the claim, the other listens.
    fn greet_adopted_roles(&mut self) {
        if self.shell.logs.is_connected() {
            roles::watch_link(&mut self.shell, Role::Logs);
            roles::greet_logs(&mut self.shell, &self.engine);
        }
        for (role, replica) in self.engine.roles() {
            let lives = self.engine.current_run(replica).is_some();
            if lives && !self.shell.link_of(role).is_some_and(Link::is_connected) {
                self.connecting.hope(role);
            }
        }
    }

    fn run(mut self) -> Result<(), RunError> {
        self.work();
        self.systemd.ready();
        let mut ready: Vec<Ready> = Vec::with_capacity(READY_MAX);
        let mut starting = true;
        let end = loop {
            if let Some(end) = self.end.take() {
                break end;
            }
            let before = now().mono;
            let timeout = self.timeout(before);
            if self.heap_grows && timeout.is_none_or(|timeout| timeout >= AT_REST) {
                self.heap_grows = false;
                settle_heap();
                if std::mem::take(&mut starting) {
                    self.settling.again();
                }
            }
            let timeout = self.settling.before_sleep(timeout);
            self.shell.epoll.wait(&mut ready, timeout).map_err(RunError::Wait)?;
            self.notice_stall(before, timeout);
            // First, so that a long row of spawns keeps nothing back for longer than its first turn.
            if self.tell_at.is_some_and(|at| !ready.is_empty() || at <= now().mono) {
                self.tell();
                self.pass_on();
            }
            for one in ready.drain(..) {
                self.dispatch(one);
            }
            self.work();
        };
        self.tell();
        match end {
            End::Stopped(cleanness) => shutdown::leave(self.shell, &self.engine, self.server, cleanness),
            End::Left => {
                log::info!("agent: left by SIGQUIT; services and roles go on");
                logger::pass_on(&mut self.shell.logs);
                self.shell.logs.flush();
                self.recorder.flush(&self.engine);
                Ok(())
            }
        }
    }

    /// How long the loop may sleep; `None`: until something happens.
    fn timeout(&mut self, now: Time) -> Option<Duration> {
        if self.cut_short {
            return self.tell_at.map(|at| at.since(now));
        }
        let waits = !self.actions.is_empty() || !self.shell.events.is_empty() || !self.asked.is_empty();
        if waits || self.orphans_wait || !self.shell.lost_links.is_empty() {
            return Some(Duration::ZERO);
        }
        let deadlines = [
            self.engine.next_deadline(),
            self.server.next_deadline().map(Time),
            self.reloading.as_ref().map(Reloading::deadline),
            self.systemd.next_deadline(),
            self.streams.next_deadline(),
            self.connecting.next_deadline(),
            self.shell.alerts.next_deadline(),
            self.shell.copying.hooks.next_deadline(),
            (!self.shell.polled_trees.is_empty()).then(|| self.shell.tree_pace.deadline()),
            (!self.shell.dying_groups.is_empty()).then(|| self.shell.dying_pace.deadline()),
            self.shell.muted.iter().map(|(until, _)| *until).min(),
            self.shell.takers.next_deadline(),
            self.logs_awaited_until.filter(|_| !self.deferred.is_empty()),
            self.tell_at,
            self.shell.listeners.next_deadline(),
            self.shell.inquiry.next_deadline(),
        ];
        deadlines.into_iter().flatten().min().map(|deadline| deadline.since(now))
    }

    /// Compares when we woke with when we should have, and the boot clock with the monotonic one.
    fn notice_stall(&mut self, slept_from: Time, timeout: Option<Duration>) {
        let now = now();
        let busy = slept_from.since(self.turn_began);
        let late = timeout.map_or(Duration::ZERO, |timeout| now.mono.since(slept_from.after(timeout)));
        let by = busy.max(late);
        if by >= STALL_MIN {
            self.shell.stall(by, false);
        }
        let asleep_ns = now.boot.0.saturating_sub(now.mono.0);
        let slept = Duration::from_nanos(asleep_ns.saturating_sub(self.asleep_ns));
        if slept >= STALL_MIN {
            self.shell.stall(slept, true);
        }
        self.asleep_ns = asleep_ns;
        self.turn_began = now.mono;
    }

    fn dispatch(&mut self, ready: Ready) {
        let Some(key) = Key::decode(ready.key) else { return };
        match key {
            Key::Signals => self.read_signal(),
            // Served in every turn.
            Key::Api => {}
            Key::BootTimer => self.boot_timer.clear(),
            Key::LogsLink => roles::turn(&mut self.shell, &self.engine, Role::Logs),
            Key::ChecksLink => roles::turn(&mut self.shell, &self.engine, Role::Checks),
            Key::ProxyLink => roles::turn(&mut self.shell, &self.engine, Role::Proxy),
            Key::SensorsLink => roles::turn(&mut self.shell, &self.engine, Role::Sensors),
            Key::CopyLink(number) => roles::turn(&mut self.shell, &self.engine, Role::Copy(number)),
            Key::DiskLink(slot) => roles::turn(&mut self.shell, &self.engine, Role::Disk(slot)),
            Key::Alert(slot) => alerts::ended(&mut self.shell, slot),
            Key::Hook(slot) => hooks::ended(&mut self.shell, slot),
            Key::Loader => self.loader_ready(),
            Key::Main(slot, run) => wait::main_ended(&mut self.shell, slot, run),
            Key::Gate(slot, run) => wait::exec_status(&mut self.shell, slot, run),
            Key::ReadyPipe(slot, run) => wait::ready_pipe(&mut self.shell, slot, run),
            Key::Tree(slot, run) => wait::tree_changed(&mut self.shell, slot, run),
            Key::Notify(slot) => wait::notified(&mut self.shell, &self.engine, slot),
            Key::ExecProbe(slot) => probes::exec_ended(&mut self.shell, slot),
            Key::Taker(slot) => taker::ended(&mut self.shell, slot),
        }
    }
}
