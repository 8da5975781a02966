//! One turn of the loop: what has happened goes to the engine, its actions are performed, clients are answered, and what waits for the roles
//! is handed to them. Every part is bounded.

use std::time::Duration;

use super::perform::{self, Asked};
use super::serve::Desk;
use super::{Agent, End, alerts, hardware_watchdog, hooks, listeners, logger, now, probes, roles, wait};
use crate::api::render::Stamp;
use crate::api::route::Socket;
use crate::engine::action::{Action, Level};
use crate::engine::event::Event;
use crate::engine::plan::Role;
use crate::engine::types::Now;
use crate::sys::{child, clock};

/// Events given to the engine in one turn.
const STEPS_MAX: usize = 1_024;
/// Spawns performed in one turn: each costs half a millisecond.
const SPAWNS_MAX: usize = 32;
/// Actions and events for which room is kept between turns.
const QUEUED_KEPT: usize = 64;
/// Spent on answers to clients at a time.
const SERVE_MAX: Duration = Duration::from_millis(20);
/// What has happened is written down this long after a spawn at the latest.
const TELL_AFTER: Duration = Duration::from_millis(1);

impl Agent {
    /// One bounded round of deciding and doing.
    pub(super) fn work(&mut self) {
        let now = now().mono;
        wait::poll_trees(&mut self.shell, now);
        wait::unmute(&mut self.shell, now);
        self.shell.takers.expire(now);
        self.shell.bury_groups(now);
        listeners::retry(&mut self.shell, now);
        alerts::expire(&mut self.shell, now);
        hooks::expire(&mut self.shell, now);
        self.step_engine();
        self.perform_actions();
        // A child that is to become its program now has this CPU first. Not twice in a row: there may always be one.
        self.cut_short = !self.cut_short && self.tell_at.is_some() && self.actions.is_empty() && self.end.is_none();
        if self.cut_short {
            return;
        }
        self.shell.forget_dead();
        if std::mem::take(&mut self.orphans_wait) {
            self.reap();
        }
        self.connect_roles();
        self.release_deferred();
        wait::consume_peeked(&mut self.shell);
        self.expire_reload();
        self.serve();
        self.step_engine();
        self.perform_actions();
        let stamp = self.stamp();
        self.answers.send(&mut self.server, &stamp);
        // What was answered is written at once, not at the next event.
        self.serve();
        let now = self::now();
        let well = self.shell.watchdog.allows_heartbeat(self.engine.plan().agent.watchdog.as_ref(), now.mono);
        self.systemd.tell(&self.engine, now, well);
        self.tell_dropped();
        self.arm_boot_timer();
        // Clients must not be sent where nobody is any more.
        roles::look_after(&mut self.shell, &self.engine, Role::Proxy);
        if self.tell_at.is_none() {
            self.pass_on();
        }
        // A start of a thousand services leaves room for a thousand behind.
        self.actions.shrink_to(self.actions.len().max(QUEUED_KEPT));
        self.shell.events.shrink_to(self.shell.events.len().max(QUEUED_KEPT));
    }

    /// Hands to these roles and to the recorder what this turn had for them.
    pub(super) fn pass_on(&mut self) {
        logger::pass_on(&mut self.shell.logs);
        for role in [Role::Logs, Role::Checks] {
            roles::look_after(&mut self.shell, &self.engine, role);
        }
        let helpers = self.shell.helpers.iter().filter(|(_, link)| link.needs_care()).map(|(role, _)| *role);
        for role in helpers.collect::<Vec<_>>() {
            roles::look_after(&mut self.shell, &self.engine, role);
        }
        self.recorder.flush(&self.engine);
    }

    /// Entries that had to be dropped are told once somebody is there to write that down.
    fn tell_dropped(&mut self) {
        if !self.shell.logs.is_connected() {
            return;
        }
        let dropped = self.shell.logs.take_dropped();
        if dropped > 0 {
            let text = format!("{dropped} journal entries were lost: the logs role did not take them in time");
            self.shell.events.push_back(Event::Remark { level: Level::Warn, text });
        }
    }

    pub(super) fn stamp(&self) -> Stamp {
        Stamp { now: now(), seq: self.shell.journal.seq() }
    }

    fn reap(&mut self) {
        let mains = &self.shell.mains;
        let (probes, alerts, hooks) = (&self.shell.probes, &self.shell.alerts, &self.shell.copying.hooks);
        let mut is_main = |pid: i32| {
            mains.contains_key(&pid) || probes::is_main(probes, pid) || alerts.is_main(pid) || hooks.is_main(pid)
        };
        match child::reap_orphans(&mut is_main, wait::ORPHANS_MAX) {
            Ok(again) => self.orphans_wait = again,
            Err(error) => log::error!("agent: cannot reap orphans: {error}"),
        }
    }

    /// Gives what happened to the engine, deadlines included; actions are queued in order.
    fn step_engine(&mut self) {
        let now = now();
        let due = self.engine.next_deadline().is_some_and(|deadline| deadline <= now.mono)
            || self.engine.next_boot_deadline().is_some_and(|deadline| deadline <= now.boot);
        for _ in 0..STEPS_MAX {
            let Some(event) = self.shell.events.pop_front() else { break };
            self.note_listening_role(&event);
            self.plan_changed |= matches!(event, Event::Reload { .. });
            self.step(now, event);
            self.shell.peeks.decided_one();
        }
        if due {
            self.step(now, Event::Tick);
        }
        self.shell.peeks.decided(self.actions.len());
    }

    fn step(&mut self, now: Now, event: Event) {
        let actions = self.engine.step(now, event.clone());
        self.recorder.record(&self.engine, now, event, &actions);
        self.actions.extend(actions);
    }

    fn note_listening_role(&mut self, event: &Event) {
        if let Event::ReadyByFd { replica, .. } = event
            && let Some(role) = roles::role_of(&self.engine, *replica)
        {
            self.connecting.hope(role);
        }
    }

    /// In order, except that notes come last: what happened can be told while the child already runs.
    fn perform_actions(&mut self) {
        if std::mem::take(&mut self.plan_changed) {
            // First: a socket may go from a balancer to a service that starts now, or back.
            listeners::settle(&mut self.shell, self.engine.plan(), now().mono);
            roles::hasten(&mut self.shell, &self.engine);
            hardware_watchdog::settle(&mut self.shell, self.engine.plan(), now().mono);
        }
        listeners::settle_lent(&mut self.shell, &self.engine);
        let spawned = self.perform_all_but_notes();
        self.heap_grows |= spawned > 0;
        if spawned > 0 && self.tell_at.is_none() {
            self.tell_at = Some(now().mono.after(TELL_AFTER));
        }
        if self.actions.is_empty() {
            self.shell.bury_resting();
        }
        if self.tell_at.is_none() {
            self.tell();
        }
    }

    /// Writes down what has happened.
    pub(super) fn tell(&mut self) {
        self.tell_at = None;
        if !self.shell.new_gates.is_empty() {
            self.shell.root.look_for_controllers();
            self.shell.watch_gates();
        }
        for note in std::mem::take(&mut self.untold) {
            self.shell.journal.write(&mut self.shell.logs, &note);
        }
    }

    /// The number of spawns.
    fn perform_all_but_notes(&mut self) -> usize {
        let mut spawns = 0;
        self.release_deferred();
        while let Some(action) = self.actions.pop_front() {
            if let Action::Spawn { replica, .. } = action {
                if self.logs_awaited_until.is_some() && roles::role_of(&self.engine, replica).is_none() {
                    self.deferred.push(action);
                    self.shell.peeks.performed_one();
                    continue;
                }
                if spawns == SPAWNS_MAX {
                    self.actions.push_front(action);
                    return spawns;
                }
                spawns += 1;
            }
            self.shell.peeks.performed_one();
            match perform::perform(&mut self.shell, &self.engine, &mut self.answers, action) {
                Asked::Nothing => {}
                Asked::Tell(note) => self.untold.push(note),
                Asked::Exit(cleanness) => self.end = Some(End::Stopped(cleanness)),
            }
        }
        spawns
    }

    /// Lets the first starts go once the logs role is there, or has not come in time.
    fn release_deferred(&mut self) {
        let Some(deadline) = self.logs_awaited_until else { return };
        if self.shell.logs.is_connected() || deadline <= now().mono {
            self.logs_awaited_until = None;
            self.actions.extend(std::mem::take(&mut self.deferred));
        }
    }

    fn connect_roles(&mut self) {
        for role in std::mem::take(&mut self.shell.lost_links) {
            self.connecting.lost(role);
        }
        let now = now().mono;
        for role in self.connecting.due(now) {
            let done = !roles::is_wanted(&self.engine, role) || roles::connect(&mut self.shell, &self.engine, role);
            match done {
                true => self.connecting.settled(role),
                false => self.connecting.in_vain(role, now),
            }
        }
    }

    /// Answers those who ask, for so long a turn: the listing of a thousand services takes a while, and everybody may ask for it.
    fn serve(&mut self) {
        let now = now();
        let incoming = self.server.turn(now.mono.0);
        self.asked.extend(incoming);
        let until = now.mono.after(SERVE_MAX);
        while let Some(incoming) = self.asked.pop_front() {
            let (socket, before_ns) = (incoming.socket, clock::thread_cpu_ns());
            if let Some(asked) = self.desk(now).handle(incoming) {
                self.start_reload(asked);
            }
            if socket == Socket::Read {
                self.server.charge_readers(now.mono.0, clock::thread_cpu_ns().saturating_sub(before_ns));
            }
            if until <= self::now().mono {
                break;
            }
        }
        self.desk(now).answer_inquiry();
        self.streams.pass_on(&mut self.server, &mut self.shell.logs, now.mono);
    }

    fn desk(&mut self, now: Now) -> Desk<'_> {
        Desk {
            shell: &mut self.shell,
            engine: &self.engine,
            server: &mut self.server,
            answers: &mut self.answers,
            streams: &mut self.streams,
            usages: &mut self.usages,
            about: &self.about,
            now,
        }
    }

    fn arm_boot_timer(&mut self) {
        let deadline = self.engine.next_boot_deadline();
        if deadline == self.boot_deadline {
            return;
        }
        if let Err(error) = self.boot_timer.arm(deadline.map(|deadline| deadline.0)) {
            log::error!("agent: cannot arm the boot clock's timer: {error}");
        }
        self.boot_deadline = deadline;
    }
}
