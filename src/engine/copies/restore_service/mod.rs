//! `copies restore --service NAME`: the data of a service is replaced by a copy, with the service down, and only for as long as that takes.
//!
//! ```text
//! build ─▶ hold ─▶ swap ─▶ prove ─▶ done
//!   │        │       │       └─(not ready)─▶ hold again ─▶ put back ─▶ come back ─▶ failed
//!   │        │       └──────(failed)─────────────────────▶ put back ─▶ come back ─▶ failed
//!   └────────┴─(failed, stuck)─▶ drop ─▶ failed
//! ```
//!
//! The copy is built beside what is there while the service goes on. Then the service is held until nothing of it runs, names are exchanged, and the service is let go. When it does not
//! become ready the names are exchanged again.
//!
//! Each step is written down as a decision (so it outlives the agent and the host) before anything that belongs to it is done, and every job may be done
//! twice: the next agent goes on where the earlier one was, or begins that step anew. INVARIANT: nothing is exchanged before it is on disk what is to be exchanged with what.
//!
//! What to restore from is chosen in `choose`, the steps are in `steps`, the orders for the roles of the sets in `jobs`.

mod choose;
mod ended;
mod jobs;
mod patience;
mod steps;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(super) use patience::Waiting;
use serde::{Deserialize, Serialize};

use super::order::Swap;
use crate::engine::Engine;
use crate::engine::action::{Action, Outcome as Answer};
use crate::engine::command::nearest;
use crate::engine::event::{Caller, Wait};
use crate::engine::types::{RequestId, ServiceId, Time};

/// What lasts of a restore under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRestore {
    /// Who asked, as the journal writes it, and when (wall).
    pub by: String,
    pub at: Time,
    /// Also over files that somebody else has open.
    pub force: bool,
    pub step: Step,
    pub parts: Vec<Part>,
    /// Why what was there comes back.
    #[serde(default)]
    pub failure: Option<String>,
    /// Where what was restored lies after what was there has come back.
    #[serde(default)]
    pub aside: Vec<PathBuf>,
}

/// What comes from one set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub set: String,
    pub seq: u64,
    /// All of its content has been read again since it was made.
    pub verified: bool,
    pub paths: Vec<PathBuf>,
    /// What was built, and what it is to be exchanged with; empty before.
    #[serde(default)]
    pub swaps: Vec<Swap>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Beside what is there; the service goes on.
    Build,
    /// Until nothing of the service runs.
    Hold,
    Swap,
    /// It is let go, and shall become ready.
    Prove,
    /// It has not: down once more.
    HoldAgain,
    PutBack,
    /// It is let go with what was there before.
    ComeBack,
    /// What was built goes away; nothing was exchanged.
    Drop,
}

impl Step {
    /// Whether the service is down in it.
    fn holds(self) -> bool {
        match self {
            Self::Hold | Self::Swap | Self::HoldAgain | Self::PutBack => true,
            Self::Build | Self::Prove | Self::ComeBack | Self::Drop => false,
        }
    }

    /// Whether nothing of it may be done before it is written down. After half of what was there has come back, the next agent is not to start the service
    /// with that, as it would where the earlier step is all that it knows.
    fn is_to_be_on_disk(self) -> bool {
        match self {
            Self::Swap | Self::PutBack => true,
            Self::Build | Self::Hold | Self::Prove | Self::HoldAgain | Self::ComeBack | Self::Drop => false,
        }
    }

    /// For `why` and the journal.
    pub(in crate::engine) fn text(self) -> &'static str {
        match self {
            Self::Build => "a copy of its data is brought beside it",
            Self::Hold => "it is stopped so that its data can be replaced by a copy",
            Self::Swap => "its data is replaced by a copy",
            Self::Prove => "it goes on with its data from a copy, and shall become ready",
            Self::HoldAgain => "it is stopped so that its data from before the restore can come back",
            Self::PutBack => "its data from before the restore comes back",
            Self::ComeBack => "it goes on with its data from before the restore",
            Self::Drop => "what was to be restored is taken away again",
        }
    }
}

/// One that is under way in this agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Restoring {
    pub(super) record: ServiceRestore,
    /// Only tell what would be done.
    dry_run: bool,
    asked: Option<RequestId>,
    /// By set: what its role is doing for it.
    orders: BTreeMap<String, u64>,
    /// By set: what has become of this step.
    done: BTreeMap<String, Done>,
    /// How often an order of this step was lost with its role.
    lost: u32,
    /// The decision that must be on disk before the step is begun.
    saving: Option<u64>,
    /// The end of patience with this step, or when it is tried again (mono).
    until: Option<Time>,
    /// Since when (mono) every replica has been up.
    up_since: Option<Time>,
    /// It cannot go on by itself for now, and that was told.
    stalled: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Done {
    /// With the lines of a dry run.
    Well {
        lines: Vec<String>,
    },
    Failed(String),
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreAsked {
    /// `None`: the newest good copy that was verified, else the newest good one.
    pub seq: Option<u64>,
    pub dry_run: bool,
    pub force: bool,
    pub wait: Wait,
}

impl Restoring {
    fn new(record: ServiceRestore, dry_run: bool, asked: Option<RequestId>) -> Self {
        Self {
            record,
            dry_run,
            asked,
            orders: BTreeMap::new(),
            done: BTreeMap::new(),
            lost: 0,
            saving: None,
            until: None,
            up_since: None,
            stalled: false,
        }
    }
}

impl Engine {
    fn begin_restore(&mut self, request: RequestId, caller: &Caller, service: &str, asked: RestoreAsked) {
        let (id, parts) = match self.look_at_restore(service, asked) {
            Ok(found) => found,
            Err(outcome) => return self.out.push(Action::Answer { request, outcome }),
        };
        let by = caller.text();
        let named: Vec<String> = parts.iter().map(Part::text).collect();
        let what = if asked.dry_run { "what a restore would do" } else { "a restore" };
        let text = format!("{what} from {} is asked for by {by}", named.join(" and "));
        let record = ServiceRestore {
            by,
            at: self.now.wall,
            force: asked.force,
            step: Step::Build,
            parts,
            failure: None,
            aside: Vec::new(),
        };
        let waits = (asked.wait == Wait::Outcome || asked.dry_run).then_some(request);
        self.copies.restoring.insert(service.to_owned(), Restoring::new(record, asked.dry_run, waits));
        self.tell_restore(service, crate::engine::action::Level::Info, text);
        self.enter_restore(service, Step::Build);
        self.touched.insert(id);
        if waits.is_none() {
            self.out.push(Action::Answer { request, outcome: Answer::Done { persisted: true } });
        }
    }

    fn look_at_restore(&self, name: &str, asked: RestoreAsked) -> Result<(ServiceId, Vec<Part>), Answer> {
        let conflict = |message: String| Err(Answer::Conflict { message });
        let Some(service) = self.service_id(name) else {
            let hint = nearest(name, self.names.keys()).map(|near| format!("did you mean \"{near}\"?"));
            return Err(Answer::Unknown { message: format!("no service \"{name}\""), hint });
        };
        if self.shutdown.is_some() {
            return conflict("the agent shuts down".to_owned());
        }
        let found = self.service_at(service);
        if found.is_role || found.removed {
            let why = if found.is_role { "is part of the agent" } else { "has left the configuration" };
            return conflict(format!("{name} {why}: nothing of it is restored"));
        }
        if let Some(running) = self.copies.restoring.get(name) {
            return conflict(format!("a restore of {name} is under way: {}", running.record.step.text()));
        }
        let parts = self.parts_to_restore(service, asked.seq).map_err(|message| Answer::Conflict { message })?;
        if let Some((set, text)) = parts.iter().find_map(|part| Some((&part.set, self.failover_text(&part.set)?))) {
            return conflict(format!("copies {set}: not now: {text}"));
        }
        if let Some((other, path)) = self.restored_with_others(&parts) {
            return conflict(format!("{} is being restored for {other}; wait for it", path.display()));
        }
        Ok((service, parts))
    }

    /// Another service whose restore exchanges some of these data, or something above or below.
    fn restored_with_others<'a>(&self, parts: &'a [Part]) -> Option<(&str, &'a Path)> {
        let mut paths = parts.iter().flat_map(|part| &part.paths);
        paths.find_map(|path| {
            let overlaps = |other: &PathBuf| path.starts_with(other) || other.starts_with(path);
            let is_under_way = |running: &Restoring| {
                !running.dry_run && running.record.parts.iter().flat_map(|part| &part.paths).any(overlaps)
            };
            let found = self.copies.restoring.iter().find(|(_, running)| is_under_way(running));
            found.map(|(other, _)| (other.as_str(), path.as_path()))
        })
    }

    /// As an earlier agent left it.
    pub(in crate::engine) fn resume_restore(&mut self, service: &str, record: ServiceRestore) {
        let step = record.step;
        self.copies.restoring.insert(service.to_owned(), Restoring::new(record, false, None));
        self.copies.resumed.push((service.to_owned(), step));
        self.copies.due = true;
    }

    /// What is to be written down of it with what else was decided of the service.
    pub(in crate::engine) fn restore_to_write(&self, service: &str) -> Option<Box<ServiceRestore>> {
        let running = self.copies.restoring.get(service)?;
        (!running.dry_run).then(|| Box::new(running.record.clone()))
    }

    fn restoring_of(&self, service: ServiceId) -> Option<&Restoring> {
        if self.copies.restoring.is_empty() {
            return None;
        }
        self.copies.restoring.get(self.name(service))
    }

    #[cfg(debug_assertions)]
    pub(in crate::engine) fn is_anything_restored(&self) -> bool {
        !self.copies.restoring.is_empty() || !self.copies.moving.is_empty()
    }

    pub(super) fn is_restoring(&self, service: ServiceId) -> bool {
        self.restoring_of(service).is_some_and(|running| !running.dry_run)
    }

    pub(super) fn is_held_for_restore(&self, service: ServiceId) -> bool {
        self.restoring_of(service).is_some_and(|running| running.record.step.holds())
    }

    /// Why this service is down, or what it is watched for, as far as a restore has to do with it.
    pub(in crate::engine) fn restore_in_words(&self, service: ServiceId) -> Option<String> {
        let running = self.restoring_of(service).filter(|running| !running.dry_run)?;
        let record = &running.record;
        let parts: Vec<String> = record.parts.iter().map(Part::text).collect();
        let mut text = format!("{} ({}, asked for by {})", record.step.text(), parts.join(" and "), record.by);
        if let Some(failure) = &record.failure {
            text = format!("{text}; {failure}");
        }
        let failed = running.done.values().find_map(|done| match done {
            Done::Failed(why) => Some(why),
            Done::Well { .. } => None,
        });
        if let (true, Some(why)) = (running.stalled, failed) {
            text = format!("{text}; that has failed and is tried again: {why}");
        }
        Some(text)
    }

    /// Why nobody may start it at present.
    pub(in crate::engine) fn restore_forbids_start(&self, service: ServiceId) -> Option<String> {
        let running = self.restoring_of(service).filter(|running| running.record.step.holds() && !running.stalled)?;
        let name = self.name(service);
        Some(format!("{name} is being restored: {}; wait for it", running.record.step.text()))
    }

    /// An operator starts it although what was there could not be put back so far: that word counts.
    pub(in crate::engine) fn give_restore_up(&mut self, service: ServiceId) {
        let stalled = self.restoring_of(service).is_some_and(|running| running.stalled);
        if stalled {
            let name = self.name(service).to_owned();
            self.end_restore_unfinished(&name, "an operator has started the service");
        }
    }
}

impl Part {
    /// `copies api-data, copy 12`
    fn text(&self) -> String {
        let verified = if self.verified { "" } else { ", which nobody has verified" };
        format!("copies {}, copy {}{verified}", self.set, self.seq)
    }
}
