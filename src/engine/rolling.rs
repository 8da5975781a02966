//! A rolling restart: stop one replica, start it, wait until it is up, next. It ends where one does not come back.

use super::Engine;
use super::action::{Level, NoteKind};
use super::service::{Rolling, State, StopWhy};
use super::types::{ReplicaId, ServiceId};

impl Engine {
    /// Begins a rolling restart, or adds to the one under way.
    pub(super) fn roll(&mut self, service: ServiceId, mut rolling: Rolling) {
        if rolling.queue.is_empty() {
            return;
        }
        let present = &mut self.service_mut(service).rolling;
        if let Some(present) = present {
            present.queue.append(&mut rolling.queue);
            present.why = rolling.why;
        } else {
            *present = Some(Box::new(rolling));
        }
        self.touched.insert(service);
    }

    /// These replicas are dealt with otherwise.
    pub(super) fn leave_rolling(&mut self, service: ServiceId, replicas: &[ReplicaId]) {
        if let Some(rolling) = &mut self.service_mut(service).rolling {
            rolling.queue.retain(|index| replicas.iter().all(|id| id.index != *index));
            self.touched.insert(service);
        }
    }

    pub(super) fn stop_rolling_at(&mut self, id: ReplicaId) {
        let rolling = &mut self.service_mut(id.service).rolling;
        let current = rolling.as_ref().and_then(|rolling| rolling.current);
        if current.is_some_and(|(index, from)| index == id.index && self.at(id).memory.run > from) {
            self.service_mut(id.service).rolling = None;
            let text = "did not come back; the rolling restart ends here".to_owned();
            self.note(id, Level::Warn, NoteKind::Remark { text });
        }
    }

    pub(super) fn advance_rolling(&mut self, service: ServiceId) {
        while let Some(rolling) = self.services.get(&service).and_then(|service| service.rolling.as_ref()) {
            if let Some((index, from)) = rolling.current {
                let id = ReplicaId { service, index };
                let away = self.find(id).is_some() && self.is_away(id);
                match self.find(id).map(|replica| (&replica.state, replica.memory.run > from)) {
                    None | Some((State::Stopped, _)) => {}
                    Some(_) if away => {}
                    Some((State::Ready | State::Degraded | State::Done, true)) => {}
                    Some((State::Backoff { .. } | State::Failed | State::Stuck { .. }, _)) => {
                        self.service_mut(service).rolling = None;
                        let text = "did not come back; the rolling restart ends here".to_owned();
                        return self.note(id, Level::Warn, NoteKind::Remark { text });
                    }
                    Some((State::Ready | State::Degraded | State::Done, false))
                    | Some((State::Adopting | State::Waiting { .. } | State::Starting | State::Stopping { .. }, _)) => {
                        return;
                    }
                }
            }
            self.roll_next(service);
        }
    }

    fn roll_next(&mut self, service: ServiceId) {
        let Some(rolling) = &mut self.service_mut(service).rolling else {
            return;
        };
        rolling.current = None;
        let why = rolling.why;
        let Some(index) = rolling.queue.pop_front() else {
            self.service_mut(service).rolling = None;
            return;
        };
        let id = ReplicaId { service, index };
        let Some(replica) = self.find(id) else {
            return;
        };
        let from = replica.memory.run;
        if matches!(replica.state, State::Starting | State::Ready | State::Degraded) && self.is_wanted(id) {
            if self.is_away(id) {
                // It stands still: restarted when it goes on, and nobody waits for that.
                return self.ask_restart(id, StopWhy::NewConfig);
            }
            if let Some(rolling) = &mut self.service_mut(service).rolling {
                rolling.current = Some((index, from));
            }
            self.ask_restart(id, why);
        }
    }
}
