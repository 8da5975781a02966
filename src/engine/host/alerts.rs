//! Who is told of what, and how often.
//!
//! What is wrong now (checks that are degraded or failing, replicas that are failed or stuck) is compared with what each alert of the
//! configuration was told: what is new is told, what has ended is told as recovered, what lasts is told again after 1 h, 2 h, 4 h .. 24 h.
//! So nothing is told twice, and an heir who knows what was told (`HostMemory`) goes on where the last agent ended.
//!
//! * Inhibited is what follows from something that is told itself: the checks of a mount whose disk fails, and services whose disk or NIC
//!   fails. What is still wrong a while after its cause has ended is told then.
//! * More than `at_most` within the window, or more than waits in a queue, is counted and told as one summary (`lane`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::kind::{CheckKind, Scope};
use super::lane::{Lane, Told};
use super::plan::AlertOn;
use super::view::AlertBody;
use super::{CheckKey, Health, pairs};
use crate::engine::Engine;
use crate::engine::copies::view::SetState;
use crate::engine::event::Wanted;
use crate::engine::fence::show::being;
use crate::engine::fence::state::Proof;
use crate::engine::plan::{Launch, Role};
use crate::engine::timers::TimerKey;
use crate::engine::types::{ReplicaId, StateName, Time};

/// What an earlier agent knew and did not tell is looked at again before it is told.
const QUIET_AT_BEGIN: Duration = Duration::from_secs(10);
/// What was inhibited may mend by itself once its cause is gone.
const QUIET_AFTER_CAUSE: Duration = Duration::from_secs(30);
const REMINDER_MIN: Duration = Duration::from_secs(3_600);
const REMINDER_MAX: Duration = Duration::from_secs(24 * 3_600);

/// What an alert is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::engine) enum AlertSubject {
    Check(CheckKey),
    Replica {
        service: String,
        index: u16,
    },
    /// Its fence.
    Fence {
        service: String,
        index: u16,
    },
    /// A set of copies.
    Copies {
        set: String,
    },
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in crate::engine) struct Alerts {
    /// One for each alert of the plan, in its order.
    pub lanes: Vec<Lane>,
    /// Replicas that are failed or stuck.
    bad: BTreeSet<ReplicaId>,
    /// Replicas under a fence.
    #[serde(default)]
    fenced: BTreeSet<ReplicaId>,
    /// What is wrong and not told: while its cause lasts (`None`), or until then.
    #[serde(with = "pairs")]
    quiet: BTreeMap<AlertSubject, Option<Time>>,
    pub next_alert: u64,
    /// Something may have to be told.
    #[serde(skip)]
    due: bool,
}

/// What is wrong now, and how badly.
type Wrong = BTreeMap<AlertSubject, Health>;

impl Engine {
    /// At the beginning, and when the configuration has changed: those that stay know what they were told.
    pub(in crate::engine) fn alerts_changed(&mut self, before: Vec<Lane>) {
        let mut before: Vec<Option<Lane>> = before.into_iter().map(Some).collect();
        let lanes = self.plan.alerts.iter().map(|plan| {
            let same = before.iter_mut().find(|lane| lane.as_ref().is_some_and(|lane| lane.exec == plan.exec));
            same.and_then(Option::take).unwrap_or_else(|| Lane::new(plan.exec.clone()))
        });
        self.host.alerts.lanes = lanes.collect();
        self.host.alerts.next_alert = self.host.alerts.next_alert.max(self.next_generation);
        self.host.alerts.due = true;
    }

    /// What was wrong when this agent began is no news at once.
    pub(in crate::engine) fn quiet_at_begin(&mut self) {
        let until = Some(self.now.mono.after(QUIET_AT_BEGIN));
        if !self.host.alerts.lanes.is_empty() {
            self.host.alerts.quiet = self.wrong().into_keys().map(|subject| (subject, until)).collect();
        }
    }

    pub(in crate::engine) fn alert_timer(&mut self) {
        self.host.alerts.due = true;
    }

    /// Something that was not done is told once.
    pub(in crate::engine) fn alert_of_observation(&mut self, id: ReplicaId, text: String) {
        let subject = format!("service {}", self.label(id));
        let service = self.name(id.service).to_owned();
        for index in 0..self.host.alerts.lanes.len().min(self.plan.alerts.len()) {
            if self.plan.alerts[index].on.contains(&AlertOn::Fenced) {
                let body = AlertBody {
                    event: "fence_observed".to_owned(),
                    subject: subject.clone(),
                    state: self.at(id).memory.state.word().to_owned(),
                    text: format!("{subject}: {text}"),
                    why: Vec::new(),
                    services: vec![service.clone()],
                    at_wall: self.now.wall,
                    reminder: 0,
                    suppressed: 0,
                };
                self.enqueue_alert(index, body);
            }
        }
        self.host.alerts.due = true;
    }

    /// A fence was set, proven or lifted, or is not proven.
    pub(in crate::engine) fn note_fence(&mut self, id: ReplicaId) {
        let fenced = self.fence(id).is_some();
        let alerts = &mut self.host.alerts;
        let changed = if fenced { alerts.fenced.insert(id) } else { alerts.fenced.remove(&id) };
        alerts.due |= changed || fenced;
    }

    /// A replica changes its state.
    pub(in crate::engine) fn note_state(&mut self, id: ReplicaId, to: StateName) {
        let bad = matches!(to, StateName::Failed | StateName::Stuck) && !self.is_reader(id);
        let alerts = &mut self.host.alerts;
        let changed = if bad { alerts.bad.insert(id) } else { alerts.bad.remove(&id) };
        let ends = matches!(to, StateName::Ready | StateName::Done | StateName::Stopped);
        let told = || alerts.lanes.iter().any(|lane| !lane.told.is_empty());
        alerts.due |= changed || (ends && told());
    }

    pub(in crate::engine) fn forget_state(&mut self, id: ReplicaId) {
        self.host.alerts.bad.remove(&id);
        self.host.alerts.fenced.remove(&id);
        self.host.alerts.due = true;
    }

    /// That a process which reads does not get away from its device is what its checks say.
    fn is_reader(&self, id: ReplicaId) -> bool {
        match self.plan_of(id.service).launch {
            Launch::Role(Role::Disk(_) | Role::Sensors) => true,
            Launch::Role(Role::Logs | Role::Checks | Role::Proxy | Role::Copy(_)) | Launch::Command => false,
        }
    }

    /// At the end of a step.
    pub(in crate::engine) fn review_alerts(&mut self) {
        if !std::mem::take(&mut self.host.alerts.due) || self.shutdown.is_some() {
            return;
        }
        if self.host.alerts.lanes.is_empty() {
            return self.timers.cancel(TimerKey::Alerts);
        }
        let wrong = self.wrong();
        self.review_quiet(&wrong);
        for index in 0..self.host.alerts.lanes.len() {
            self.tell_what_ended(index, &wrong);
            self.tell_what_is_wrong(index, &wrong);
            self.send_alerts(index, &wrong);
        }
        let quiet = self.host.alerts.quiet.values().flatten().copied();
        let lanes = self.host.alerts.lanes.iter().zip(&self.plan.alerts);
        let next = lanes.filter_map(|(lane, plan)| lane.next(plan)).chain(quiet).min();
        match next {
            Some(at) => self.timers.set(TimerKey::Alerts, at),
            None => self.timers.cancel(TimerKey::Alerts),
        }
    }

    fn wrong(&self) -> Wrong {
        let bad = |state: Health| matches!(state, Health::Degraded | Health::Failing);
        let checks = self.host.states.iter().filter(|(_, (state, _))| bad(*state));
        let checks = checks.map(|(key, (state, _))| (AlertSubject::Check(key.clone()), *state));
        let replicas = self.host.alerts.bad.iter().filter(|id| self.find(**id).is_some());
        let replicas = replicas.map(|id| {
            let service = self.name(id.service).to_owned();
            (AlertSubject::Replica { service, index: id.index }, Health::Failing)
        });
        let fenced = self.host.alerts.fenced.iter().filter_map(|id| {
            let fence = self.find(*id)?.memory.fence.as_deref()?;
            let (service, index) = (self.name(id.service).to_owned(), id.index);
            let state = if fence.proof == Proof::Missing { Health::Failing } else { Health::Degraded };
            Some((AlertSubject::Fence { service, index }, state))
        });
        let copies = self.copy_names().filter_map(|set| {
            let state = match self.copies_state(set).0 {
                SetState::Unknown | SetState::Ok => return None,
                SetState::Degraded => Health::Degraded,
                SetState::Failing => Health::Failing,
            };
            Some((AlertSubject::Copies { set: set.clone() }, state))
        });
        checks.chain(replicas).chain(fenced).chain(copies).collect()
    }

    fn review_quiet(&mut self, wrong: &Wrong) {
        let now = self.now.mono;
        let inhibited: Vec<&AlertSubject> = wrong.keys().filter(|subject| self.is_inhibited(subject, wrong)).collect();
        let quiet = &mut self.host.alerts.quiet;
        quiet.retain(|subject, _| wrong.contains_key(subject));
        for (subject, until) in quiet.iter_mut() {
            if until.is_none() && !inhibited.contains(&subject) {
                *until = Some(now.after(QUIET_AFTER_CAUSE));
            }
        }
        quiet.retain(|_, until| until.is_none_or(|until| until > now));
        for subject in inhibited {
            quiet.insert(subject.clone(), None);
        }
    }

    /// Whether it follows from a failing disk or NIC.
    fn is_inhibited(&self, subject: &AlertSubject, wrong: &Wrong) -> bool {
        let mut causes = wrong.iter().filter_map(|(subject, state)| match subject {
            AlertSubject::Check(key) if *state == Health::Failing && key.kind.impairs() => Some(key),
            AlertSubject::Check(_)
            | AlertSubject::Replica { .. }
            | AlertSubject::Fence { .. }
            | AlertSubject::Copies { .. } => None,
        });
        let devices = &self.host.devices;
        match subject {
            AlertSubject::Check(key) if key.kind == CheckKind::DiskLatency => {
                causes.any(|cause| cause.kind.scope() == Scope::Disk && cause.target == key.target)
            }
            AlertSubject::Check(key) if key.kind.scope() == Scope::Mount => {
                let Some(mount) = devices.mounts.iter().find(|mount| mount.point == key.target) else {
                    return false;
                };
                let below = devices.below(mount);
                causes.any(|cause| cause.kind.scope() == Scope::Disk && below.contains(cause.target.as_str()))
            }
            AlertSubject::Check(_) | AlertSubject::Fence { .. } => false,
            AlertSubject::Copies { set } => self.are_copies_paused(set),
            AlertSubject::Replica { service, .. } => {
                let needs = self.service_id(service).and_then(|id| self.plan_of(id).needs.as_deref());
                needs.is_some_and(|needs| causes.any(|cause| devices.concerns(cause, needs)))
            }
        }
    }

    fn tell_what_ended(&mut self, index: usize, wrong: &Wrong) {
        let on = &self.plan.alerts[index].on;
        let told = self.host.alerts.lanes[index].told.keys();
        let over: Vec<AlertSubject> = told
            .filter(|subject| !wrong.get(subject).is_some_and(|state| wants(on, subject, *state)))
            .cloned()
            .collect();
        let recovered = on.contains(&AlertOn::Recovered);
        for subject in over {
            match self.ending(&subject) {
                Ending::Well if recovered => {
                    let body = self.body("recovered", &subject, 0);
                    self.enqueue_alert(index, body);
                }
                Ending::Well | Ending::Gone => {}
                Ending::Unknown => continue,
            }
            self.host.alerts.lanes[index].told.remove(&subject);
            self.save_host();
        }
    }

    fn ending(&self, subject: &AlertSubject) -> Ending {
        match subject {
            AlertSubject::Check(key) => match self.host.states.get(key).map(|(state, _)| *state) {
                Some(Health::Ok | Health::Degraded) => Ending::Well,
                Some(Health::Unknown | Health::Absent | Health::Failing) | None => Ending::Unknown,
            },
            AlertSubject::Copies { set } if self.copy_names().all(|name| name != set) => Ending::Gone,
            AlertSubject::Copies { set } => match self.copies_state(set).0 {
                SetState::Ok => Ending::Well,
                SetState::Unknown | SetState::Degraded | SetState::Failing => Ending::Unknown,
            },
            AlertSubject::Fence { service, index } => {
                let id = self.service_id(service).map(|service| ReplicaId { service, index: *index });
                match id.and_then(|id| self.find(id)) {
                    Some(replica) if replica.memory.fence.is_none() => Ending::Well,
                    Some(_) => Ending::Unknown,
                    None => Ending::Gone,
                }
            }
            AlertSubject::Replica { service, index } => {
                let id = self.service_id(service).map(|service| ReplicaId { service, index: *index });
                let Some(replica) = id.and_then(|id| self.find(id)) else {
                    return Ending::Gone;
                };
                match replica.memory.state {
                    _ if replica.removed || replica.memory.wanted == Wanted::Down => Ending::Gone,
                    StateName::Ready | StateName::Done => Ending::Well,
                    StateName::Waiting
                    | StateName::Starting
                    | StateName::Degraded
                    | StateName::Stopping
                    | StateName::Backoff
                    | StateName::Stopped
                    | StateName::Failed
                    | StateName::Stuck
                    | StateName::Adopting => Ending::Unknown,
                }
            }
        }
    }

    fn tell_what_is_wrong(&mut self, index: usize, wrong: &Wrong) {
        let now = self.now.mono;
        for (subject, state) in wrong {
            let on = &self.plan.alerts[index].on;
            let inhibits = on.contains(&AlertOn::Failing);
            if !wants(on, subject, *state) || (inhibits && self.host.alerts.quiet.contains_key(subject)) {
                continue;
            }
            let lane = &mut self.host.alerts.lanes[index];
            let (event, reminders) = match lane.told.get(subject) {
                Some(told) if told.state == *state && told.next > now => continue,
                Some(told) if told.state == *state => ("reminder", told.reminders.saturating_add(1)),
                Some(_) | None => (event_word(subject, *state), 0),
            };
            let pause = REMINDER_MIN.saturating_mul(1 << reminders.min(16)).min(REMINDER_MAX);
            lane.remember(subject.clone(), Told { state: *state, reminders, next: now.after(pause) });
            let body = self.body(event, subject, reminders);
            self.enqueue_alert(index, body);
        }
        self.put_reminders_off(index);
    }

    /// Of what is quiet now, or on its way. A check that is gone since its last reminder is forgotten: should it come back, that is news.
    fn put_reminders_off(&mut self, index: usize) {
        let now = self.now.mono;
        let states = &self.host.states;
        let told = &mut self.host.alerts.lanes[index].told;
        told.retain(|subject, told| match subject {
            AlertSubject::Check(key) => told.next > now || states.contains_key(key),
            AlertSubject::Replica { .. } | AlertSubject::Fence { .. } | AlertSubject::Copies { .. } => true,
        });
        for told in told.values_mut().filter(|told| told.next <= now) {
            told.next = now.after(REMINDER_MIN);
        }
    }

    fn body(&self, event: &str, subject: &AlertSubject, reminder: u32) -> AlertBody {
        let (subject, state, text, why, services) = match subject {
            AlertSubject::Check(key) => {
                let name = format!("check {}", self.check_name(key));
                let (state, why) = self.host.states.get(key).cloned().unwrap_or_default();
                let text = format!("{name}: {}: {why}", state.word());
                (name, state.word().to_owned(), text.clone(), vec![text], self.concerned_by(key))
            }
            AlertSubject::Copies { set } => {
                let name = format!("copies {set}");
                let (state, why) = self.copies_state(set);
                let why = why.unwrap_or_default();
                let text = if why.is_empty() {
                    format!("{name}: {}", state.word())
                } else {
                    format!("{name}: {}: {why}", state.word())
                };
                (name, state.word().to_owned(), text.clone(), vec![text], self.services_copied_by(set))
            }
            AlertSubject::Replica { service, index } | AlertSubject::Fence { service, index } => {
                let id = self.service_id(service).map(|service| ReplicaId { service, index: *index });
                let found = id.and_then(|id| Some((id, self.find(id)?)));
                let name = found.map_or_else(|| service.clone(), |(id, _)| self.label(id));
                let name = format!("service {name}");
                let level = found.and_then(|(id, _)| self.fence_level(id));
                let state = found.map_or("gone", |(_, replica)| replica.memory.state.word());
                let state = level.map_or(state, being);
                let reason = found.and_then(|(id, _)| self.why_of(id));
                let text = reason.map_or_else(|| format!("{name}: {state}"), |why| format!("{name}: {state}: {why}"));
                let causes = found.iter().flat_map(|(_, replica)| &replica.memory.causes);
                let why = causes.map(|cause| cause.text.clone()).collect();
                (name, state.to_owned(), text, why, vec![service.clone()])
            }
        };
        let event = event.to_owned();
        AlertBody { event, subject, state, text, why, services, at_wall: self.now.wall, reminder, suppressed: 0 }
    }

    /// In a summary: what is wrong by now, so that nothing is lost by the cap.
    pub(in crate::engine) fn wrong_in_words(&self, wrong: &BTreeMap<AlertSubject, Health>) -> Vec<String> {
        const NAMED_MAX: usize = 16;
        wrong.keys().take(NAMED_MAX).map(|subject| self.body("", subject, 0).text).collect()
    }
}

/// What has become of something that was told.
enum Ending {
    Well,
    /// Nobody wants it any more.
    Gone,
    /// Nobody can say.
    Unknown,
}

fn event_word(subject: &AlertSubject, state: Health) -> &'static str {
    match subject {
        AlertSubject::Fence { .. } if state == Health::Failing => "fence_incomplete",
        AlertSubject::Fence { .. } => "fenced",
        AlertSubject::Copies { .. } => "copy_failed",
        AlertSubject::Check(_) | AlertSubject::Replica { .. } => state.word(),
    }
}

fn wants(on: &[AlertOn], subject: &AlertSubject, state: Health) -> bool {
    if matches!(subject, AlertSubject::Fence { .. }) {
        return on.contains(&AlertOn::Fenced);
    }
    if matches!(subject, AlertSubject::Copies { .. }) {
        return on.contains(&AlertOn::CopyFailed);
    }
    match state {
        Health::Failing => on.contains(&AlertOn::Failing),
        Health::Degraded => on.contains(&AlertOn::Degraded),
        Health::Absent | Health::Unknown | Health::Ok => false,
    }
}
