//! When the hardware watchdog is petted: at the end of a step, when everything that was due has been done, and only while what
//! `require` names is well. That is up, or on its way up without a failure so far (a host must be able to boot), or stopped by an
//! operator. Roles are never asked: some of them wait for devices.
//!
//! In a shutdown, which has a limit of its own, nobody is required.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::note::HostNote;
use crate::engine::Engine;
use crate::engine::action::{Action, Level, NoteKind};
use crate::engine::event::Wanted;
use crate::engine::timers::TimerKey;
use crate::engine::types::{Time, human};

/// Pets within one timeout.
const PETS: u32 = 3;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in crate::engine) struct Dog {
    timeout: Duration,
    /// Since then it counts.
    petted: Time,
    /// It was said that it is not petted.
    told: bool,
    #[serde(skip)]
    due: bool,
}

impl Engine {
    /// At the beginning, and when the configuration has changed.
    pub(in crate::engine) fn watchdog_changed(&mut self) {
        match &self.plan.agent.watchdog {
            Some(plan) if plan.timeout == self.host.dog.timeout => self.host.dog.due |= self.host.dog.told,
            Some(plan) => {
                self.host.dog = Dog { timeout: plan.timeout, petted: self.now.mono, told: false, due: true };
            }
            None => {
                self.timers.cancel(TimerKey::Pet);
                self.host.dog = Dog::default();
            }
        }
    }

    pub(in crate::engine) fn pet_timer(&mut self) {
        self.host.dog.due = true;
    }

    /// At the end of a step.
    pub(in crate::engine) fn tend_watchdog(&mut self) {
        let due = std::mem::take(&mut self.host.dog.due);
        if !due && !self.host.dog.told {
            return;
        }
        let now = self.now.mono;
        let timeout = self.host.dog.timeout;
        match self.unwell() {
            None => {
                if std::mem::take(&mut self.host.dog.told) {
                    let text = "the hardware watchdog is petted again".to_owned();
                    self.agent_note(Level::Info, NoteKind::Host(HostNote::Happened { text }));
                }
                self.host.dog.petted = now;
                self.out.push(Action::Pet);
            }
            Some(_) if !due => return,
            Some(why) => {
                if !std::mem::replace(&mut self.host.dog.told, true) {
                    let left = human(self.host.dog.petted.after(timeout).since(now));
                    let text = format!("the hardware watchdog is not petted: {why}; it resets the host in {left}");
                    self.agent_note(Level::Error, NoteKind::Host(HostNote::Happened { text }));
                }
            }
        }
        self.timers.set(TimerKey::Pet, now.after((timeout / PETS).max(Duration::from_millis(1))));
    }

    /// What is required and not well.
    fn unwell(&self) -> Option<String> {
        if self.shutdown.is_some() {
            return None;
        }
        let required = self.plan.agent.watchdog.iter().flat_map(|plan| &plan.require);
        let ids = required.filter_map(|name| self.service_id(name));
        ids.into_iter().find_map(|id| {
            let service = self.service_at(id);
            let wanted = service.replicas.values().any(|replica| replica.memory.wanted == Wanted::Up);
            // Kept down because of its disk, it is as it should be: a reset would not mend the disk, and would take everybody else down.
            let well =
                !wanted || service.summary.is_up || service.summary.is_hopeful || self.failing_disk(id).is_some();
            let why = || self.view_one(id, self.now).why.map_or_else(String::new, |why| format!(" ({why})"));
            (!well).then(|| format!("{} is not up{}", self.name(id), why()))
        })
    }
}
