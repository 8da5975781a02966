//! Restores that are asked for before the roles of their sets have told what there is: an agent that has just begun hears of that in a moment, and to say
//! meanwhile that there is nothing to restore from would be wrong.

use serde::{Deserialize, Serialize};

use super::RestoreAsked;
use crate::engine::Engine;
use crate::engine::action::{Action, Outcome as Answer};
use crate::engine::copies::by_hand::{PATIENCE, QUEUE_MAX};
use crate::engine::event::Caller;
use crate::engine::types::{RequestId, Time};

/// One that waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::engine::copies) struct Waiting {
    request: RequestId,
    caller: Caller,
    service: String,
    asked: RestoreAsked,
    /// Not longer than that (mono).
    until: Time,
}

impl Engine {
    pub(in crate::engine::copies) fn restore_command(
        &mut self,
        request: RequestId,
        caller: Caller,
        service: String,
        asked: RestoreAsked,
    ) {
        if !self.waits_for_roles(&service) {
            return self.begin_restore(request, &caller, &service, asked);
        }
        if self.copies.waiting.len() >= QUEUE_MAX {
            let message = format!("{QUEUE_MAX} restores wait for the roles of copies already; try again later");
            return self.out.push(Action::Answer { request, outcome: Answer::Conflict { message } });
        }
        let until = self.now.mono.after(PATIENCE);
        self.copies.waiting.push(Waiting { request, caller, service, asked, until });
    }

    /// Begins those that need not wait any more, or have waited for long enough: these are told what is missing.
    pub(super) fn end_waiting(&mut self) {
        for waiting in std::mem::take(&mut self.copies.waiting) {
            let is_late = waiting.until <= self.now.mono || self.shutdown.is_some();
            if is_late || !self.waits_for_roles(&waiting.service) {
                let Waiting { request, caller, service, asked, until: _ } = waiting;
                self.begin_restore(request, &caller, &service, asked);
            } else {
                self.copies.waiting.push(waiting);
            }
        }
    }

    pub(super) fn waiting_deadline(&self) -> Option<Time> {
        self.copies.waiting.iter().map(|waiting| waiting.until).min()
    }

    /// Whether the role of a set that has data of this service has not told yet what lies on its target.
    fn waits_for_roles(&self, service: &str) -> bool {
        let Some(service) = self.service_id(service) else { return false };
        let of_service = self.plan.copies.iter().filter(|plan| self.copies_data_of(plan, service));
        of_service.into_iter().any(|plan| self.copies.sets.get(&plan.name).is_some_and(|memory| !memory.heard))
    }
}
