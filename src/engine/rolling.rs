//! A rolling restart: stop one replica, start it, wait until it is up, next. It ends where one does not come back.
//!
//! Whose turn is still to come stands in the memory of each replica, so that the next agent goes on with it.

use std::collections::VecDeque;

use super::Engine;
use super::action::{Level, NoteKind};
use super::memory::Turn;
use super::service::{Rolling, State, StopWhy};
use super::types::{ReplicaId, RunId, ServiceId};

impl Engine {
    /// Begins a rolling restart, or adds to the one under way.
    pub(super) fn roll(&mut self, service: ServiceId, mut rolling: Rolling) {
        if rolling.queue.is_empty() {
            return;
        }
        for index in rolling.queue.iter().copied().collect::<Vec<_>>() {
            self.set_turn(service, index, Some((rolling.why, None)));
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

    fn set_turn(&mut self, service: ServiceId, index: u16, turn: Option<(StopWhy, Option<RunId>)>) {
        let id = ReplicaId { service, index };
        let turn = turn.map(|(why, from)| Turn { new_config: why == StopWhy::NewConfig, from });
        if self.find(id).is_some_and(|replica| replica.memory.turn != turn) {
            self.memory_mut(id).turn = turn;
        }
    }

    /// What an earlier agent had begun.
    pub(super) fn resume_rolling(&mut self, service: ServiceId) {
        let turns = self.replicas_of(service).into_iter().filter_map(|id| Some((id, self.at(id).memory.turn?)));
        let turns: Vec<(ReplicaId, Turn)> = turns.filter(|(id, _)| !self.at(*id).removed).collect();
        let Some((_, first)) = turns.first() else { return };
        let why = if first.new_config { StopWhy::NewConfig } else { StopWhy::Restart };
        let mut rolling = Rolling { why, queue: VecDeque::new(), current: None };
        for (id, turn) in turns {
            let runs_on = |run| {
                let replica = self.at(id);
                replica.memory.run == run && matches!(replica.state, State::Starting | State::Ready | State::Degraded)
            };
            match turn.from {
                // Its stop had been decided, and no more.
                Some(run) if runs_on(run) => rolling.queue.push_front(id.index),
                Some(run) => rolling.current = Some((id.index, run)),
                None => rolling.queue.push_back(id.index),
            }
        }
        self.service_mut(service).rolling = Some(Box::new(rolling));
        self.touched.insert(service);
    }

    /// No more of it: whoever had not had its turn stays as it is.
    pub(super) fn end_rolling(&mut self, service: ServiceId) {
        let Some(rolling) = self.service_mut(service).rolling.take() else { return };
        for index in rolling.queue.into_iter().chain(rolling.current.map(|(index, _)| index)) {
            self.set_turn(service, index, None);
        }
    }

    /// These replicas are dealt with otherwise.
    pub(super) fn leave_rolling(&mut self, service: ServiceId, replicas: &[ReplicaId]) {
        let Some(rolling) = &mut self.service_mut(service).rolling else { return };
        rolling.queue.retain(|index| replicas.iter().all(|id| id.index != *index));
        let current = rolling.current.map(|(index, _)| index);
        self.touched.insert(service);
        for id in replicas.iter().filter(|id| Some(id.index) != current) {
            self.set_turn(service, id.index, None);
        }
    }

    pub(super) fn stop_rolling_at(&mut self, id: ReplicaId) {
        let rolling = &mut self.service_mut(id.service).rolling;
        let current = rolling.as_ref().and_then(|rolling| rolling.current);
        if current.is_some_and(|(index, from)| index == id.index && self.at(id).memory.run > from) {
            self.end_rolling(id.service);
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
                        self.end_rolling(service);
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
        let (done, why, next) = (rolling.current.take(), rolling.why, rolling.queue.pop_front());
        if let Some((index, _)) = done {
            self.set_turn(service, index, None);
        }
        let Some(index) = next else {
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
                self.set_turn(service, index, None);
                return self.ask_restart(id, StopWhy::NewConfig);
            }
            if let Some(rolling) = &mut self.service_mut(service).rolling {
                rolling.current = Some((index, from));
            }
            self.set_turn(service, index, Some((why, Some(from))));
            return self.ask_restart(id, why);
        }
        self.set_turn(service, index, None);
    }
}
