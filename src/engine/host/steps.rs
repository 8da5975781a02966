//! The host in the engine's steps: events go in, and what follows is handed out: notes, what the roles are to read, the next deadline. What
//! services have to do with it is looked at before the step rests, and what is to be kept is handed out at its end.

use std::time::Duration;

use super::rules::Wishes;
use super::watch::Order;
use super::{HostEvent, HostMemory};
use crate::engine::Engine;
use crate::engine::action::{Action, NoteKind};
use crate::engine::plan::{Plan, Role};
use crate::engine::timers::TimerKey;

impl Engine {
    pub(in crate::engine) fn host_event(&mut self, event: HostEvent) {
        let now = self.now;
        let (host, wishes) = (&mut self.host, wishes(&self.plan));
        match event {
            HostEvent::Devices(devices) => host.devices_came(*devices, wishes, now),
            HostEvent::Sampled { role, sample } => host.sampled(role, &sample, wishes, now),
            HostEvent::Missing { role: _, missing } => host.missing(missing, now),
            HostEvent::Linked { role, connected } => host.linked(role, connected, now),
            HostEvent::AlertDone { alert, result } => self.alert_done(alert, result),
        }
        self.host_rests();
    }

    /// The first event: what an earlier agent of this boot knew, before anything is adopted. Without it, the checks of a host of which nothing
    /// is known yet.
    pub(in crate::engine) fn begin_host(&mut self, mut memory: HostMemory) {
        self.take_helpers(std::mem::take(&mut memory.helpers));
        let alerts = std::mem::take(&mut memory.alerts);
        self.host.restore(memory, wishes(&self.plan), self.now);
        // What was known is no news.
        self.host.changed.clear();
        self.host_rests();
        self.restore_troubles();
        self.alerts_changed(alerts);
        self.watchdog_changed();
    }

    /// What an heir must know will be handed out at the end of the step.
    pub(in crate::engine) fn save_host(&mut self) {
        self.host.unsaved = true;
    }

    /// The plan may want other checks, or the helpers are others.
    pub(in crate::engine) fn host_replanned(&mut self) {
        self.host.replanned(wishes(&self.plan), self.now);
        self.host_rests();
    }

    pub(in crate::engine) fn host_deadline(&mut self) {
        self.host.look_at_deadlines(self.now);
        self.host_rests();
    }

    pub(in crate::engine) fn host_stalled(&mut self, by: Duration, suspended: bool, grace_max: Duration) {
        self.host.stalled(by, suspended, grace_max, self.now.mono);
        self.host_rests();
    }

    /// What must be known of the host after the agent's death.
    #[must_use]
    pub fn host_memory(&self) -> HostMemory {
        self.host.memory()
    }

    /// What a role is to read; told when it connects, and after every `Action::Watch`.
    #[must_use]
    pub fn watch_list(&self, role: Role) -> Vec<Order> {
        self.host.orders(role)
    }

    pub(super) fn host_rests(&mut self) {
        let out = std::mem::take(&mut self.host.out);
        for (level, note) in out.notes {
            self.agent_note(level, NoteKind::Host(note));
        }
        let mut watch = out.watch;
        watch.sort();
        watch.dedup();
        self.out.extend(watch.into_iter().map(|role| Action::Watch { role }));
        match self.host.deadline() {
            Some(at) if self.timers.get(TimerKey::Host) != Some(at) => self.timers.set(TimerKey::Host, at),
            Some(_) => {}
            None => self.timers.cancel(TimerKey::Host),
        }
    }
}

pub(super) fn wishes(plan: &Plan) -> Wishes<'_> {
    Wishes { plans: &plan.checks, defaults: plan.agent.default_checks, services: &plan.services }
}
