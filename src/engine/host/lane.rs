//! The way of alerts to one command: one at a time, a bounded queue, a cap over a sliding window, and one retry.
//!
//! What the cap or the queue keeps back is counted; when there is room again, one summary tells how many there were and what is wrong by then.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::alerts::AlertSubject;
use super::note::HostNote;
use super::plan::AlertPlan;
use super::view::AlertBody;
use super::{Health, pairs};
use crate::engine::Engine;
use crate::engine::action::{Action, Level, NoteKind};
use crate::engine::types::Time;

/// Alerts that wait for the command to end; the oldest beyond it are counted into the summary.
const QUEUE_MAX: usize = 64;
/// What is remembered as told; the oldest beyond it may be told again.
const TOLD_MAX: usize = 512;
/// A command that failed is run once more after this.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// Beyond its own timeout, until an answer that does not come counts as a failure.
const ANSWER_MARGIN: Duration = Duration::from_secs(30);

/// One alert of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lane {
    /// By which it is known over a reload.
    pub(super) exec: Vec<String>,
    /// What lasts and was told.
    #[serde(with = "pairs")]
    pub(super) told: BTreeMap<AlertSubject, Told>,
    queue: VecDeque<AlertBody>,
    /// When (mono) those within the window were sent; at most `at_most`.
    sent: VecDeque<Time>,
    suppressed: u32,
    flight: Option<Flight>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) state: Health,
    pub(super) reminders: u32,
    /// When (mono) it is told again.
    pub(super) next: Time,
}

/// The command under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Flight {
    alert: u64,
    body: AlertBody,
    stage: Stage,
    /// The end of the stage.
    until: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    First,
    Pause,
    Second,
}

impl Lane {
    pub(super) fn new(exec: Vec<String>) -> Self {
        let (told, queue, sent) = (BTreeMap::new(), VecDeque::new(), VecDeque::new());
        Self { exec, told, queue, sent, suppressed: 0, flight: None }
    }

    /// For an heir. Whether the command under way has told its alert nobody can say; it is not repeated.
    pub(super) fn for_heir(&self) -> Self {
        Self { flight: None, ..self.clone() }
    }

    pub(super) fn remember(&mut self, subject: AlertSubject, told: Told) {
        self.told.insert(subject, told);
        if self.told.len() > TOLD_MAX {
            let oldest = self.told.iter().min_by_key(|(_, told)| told.next).map(|(subject, _)| subject.clone());
            oldest.map(|oldest| self.told.remove(&oldest));
        }
    }

    /// When it is to be looked at again.
    pub(super) fn next(&self, plan: &AlertPlan) -> Option<Time> {
        let reminder = self.told.values().map(|told| told.next).min();
        let work = match &self.flight {
            Some(flight) => Some(flight.until),
            None if self.suppressed > 0 => self.sent.front().map(|first| first.after(plan.within)),
            None => None,
        };
        reminder.into_iter().chain(work).min()
    }

    fn has_room(&mut self, plan: &AlertPlan, now: Time) -> bool {
        while self.sent.front().is_some_and(|first| first.after(plan.within) <= now) {
            self.sent.pop_front();
        }
        let most = usize::try_from(plan.at_most).unwrap_or(usize::MAX).max(1);
        self.sent.len() < most
    }
}

impl Engine {
    pub(super) fn enqueue_alert(&mut self, index: usize, body: AlertBody) {
        let lane = &mut self.host.alerts.lanes[index];
        if lane.queue.len() >= QUEUE_MAX {
            lane.queue.pop_front();
            lane.suppressed = lane.suppressed.saturating_add(1);
        }
        lane.queue.push_back(body);
        self.save_host();
    }

    /// The next one goes, if none is under way and the cap allows it.
    pub(super) fn send_alerts(&mut self, index: usize, wrong: &BTreeMap<AlertSubject, Health>) {
        let now = self.now.mono;
        self.look_after_flight(index);
        let plan = &self.plan.alerts[index];
        let timeout = plan.timeout;
        let lane = &mut self.host.alerts.lanes[index];
        if lane.flight.is_some() || (lane.queue.is_empty() && lane.suppressed == 0) {
            return;
        }
        if !lane.has_room(plan, now) {
            let kept_back = u32::try_from(lane.queue.len()).unwrap_or(u32::MAX);
            lane.suppressed = lane.suppressed.saturating_add(kept_back);
            lane.queue.clear();
            return self.save_host();
        }
        let count = std::mem::take(&mut lane.suppressed);
        let next = if count == 0 { lane.queue.pop_front() } else { None };
        let body = next.unwrap_or_else(|| self.summary(count, wrong));
        let alert = self.host.alerts.next_alert;
        self.host.alerts.next_alert += 1;
        let until = now.after(timeout).after(ANSWER_MARGIN);
        let lane = &mut self.host.alerts.lanes[index];
        lane.sent.push_back(now);
        lane.flight = Some(Flight { alert, body: body.clone(), stage: Stage::First, until });
        // It is on record before it is done: an heir does not do it again.
        let memory = Box::new(self.host_memory());
        self.out.push(Action::PersistHost { memory });
        self.out.push(Action::Alert { alert, plan: index, body: Box::new(body) });
    }

    fn summary(&mut self, count: u32, wrong: &BTreeMap<AlertSubject, Health>) -> AlertBody {
        self.agent_note(Level::Warn, NoteKind::Host(HostNote::AlertsSuppressed { count }));
        AlertBody {
            event: "summary".to_owned(),
            subject: "alerts".to_owned(),
            state: if wrong.is_empty() { "ok" } else { "failing" }.to_owned(),
            text: format!(
                "{count} alerts above the cap were not told one by one; {} things are wrong now",
                wrong.len()
            ),
            why: self.wrong_in_words(wrong),
            services: Vec::new(),
            at_wall: self.now.wall,
            reminder: 0,
            suppressed: count,
        }
    }

    /// The stage of the command under way may be over.
    fn look_after_flight(&mut self, index: usize) {
        let now = self.now.mono;
        let lane = &mut self.host.alerts.lanes[index];
        let Some(flight) = lane.flight.as_mut().filter(|flight| flight.until <= now) else {
            return;
        };
        let alert = flight.alert;
        match flight.stage {
            Stage::First | Stage::Second => self.alert_failed(index, "the command has not ended".to_owned()),
            Stage::Pause => {
                flight.stage = Stage::Second;
                flight.until = now.after(self.plan.alerts[index].timeout).after(ANSWER_MARGIN);
                let body = Box::new(flight.body.clone());
                self.out.push(Action::Alert { alert, plan: index, body });
            }
        }
    }

    pub(super) fn alert_done(&mut self, alert: u64, result: Result<(), String>) {
        let runs = |lane: &Lane| {
            lane.flight.as_ref().is_some_and(|flight| flight.alert == alert && flight.stage != Stage::Pause)
        };
        let Some(index) = self.host.alerts.lanes.iter().position(runs) else {
            return self.stale();
        };
        match result {
            Ok(()) => self.host.alerts.lanes[index].flight = None,
            Err(why) => self.alert_failed(index, why),
        }
        self.alert_timer();
    }

    fn alert_failed(&mut self, index: usize, why: String) {
        let now = self.now.mono;
        let lane = &mut self.host.alerts.lanes[index];
        let Some(flight) = &mut lane.flight else {
            return;
        };
        match flight.stage {
            Stage::First => {
                flight.stage = Stage::Pause;
                flight.until = now.after(RETRY_AFTER);
            }
            Stage::Pause | Stage::Second => {
                lane.flight = None;
                let exec = lane.exec.first().cloned().unwrap_or_default();
                self.agent_note(Level::Warn, NoteKind::Host(HostNote::AlertFailed { exec, why }));
            }
        }
    }
}
