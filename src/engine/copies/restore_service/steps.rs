//! One step after the other. Each is entered in one place ([`Engine::enter_restore`]) and left when what it waits for is there, has failed or is late.

use std::path::PathBuf;
use std::time::Duration;

use super::{Done, Part, Restoring, ServiceRestore, Step};
use crate::engine::Engine;
use crate::engine::action::{Action, Level, Note, NoteKind, Outcome as Answer, Subject};
use crate::engine::copies::note::{CopyNews, CopyNote};
use crate::engine::copies::order::{LINES_MAX, Outcome, ServiceCopy, Swap, SwapKind};
use crate::engine::copies::standstill::Standstill;
use crate::engine::event::{Decision, Wanted};
use crate::engine::service::{Decided, Standing, State};
use crate::engine::types::{ServiceId, Time, human};

/// A role that is not there for so long is not waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is to be exchanged must be on disk by then.
const SAVED_WITHIN: Duration = Duration::from_secs(10);
/// What cannot be put back is tried again.
const PUT_BACK_AGAIN: Duration = Duration::from_secs(60);
/// Beyond `start_timeout`: for what it waits for, and a second try.
const READY_MARGIN: Duration = Duration::from_secs(30);
/// A service is proven to be well when it has been up for so long.
const STAYS_UP: Duration = Duration::from_secs(2);
/// So many failed starts are no chance.
const FAILURES_MAX: u32 = 3;
/// Decisions of this kind that are not known to be on disk.
const DECISIONS_MAX: usize = 64;

/// Whether a service goes on well after its data was exchanged.
enum Proof {
    /// Nothing of it is to run, and why.
    Unneeded(&'static str),
    Up,
    NotYet,
    Failed(String),
}

impl Engine {
    pub(in crate::engine::copies) fn review_restores(&mut self) {
        self.end_waiting();
        self.save_ends_again();
        for (service, step) in std::mem::take(&mut self.copies.resumed) {
            // Nobody goes on with what was done for a service that is no more.
            if !self.is_configured(&service) {
                continue;
            }
            self.tell_restore(
                &service,
                Level::Warn,
                format!("an earlier agent was at this, and it goes on: {}", step.text()),
            );
            self.enter_restore(&service, step);
            // What is to be exchanged is on disk since then.
            let patience = self.now.mono.after(PATIENCE);
            if let Some(running) = self.copies.restoring.get_mut(&service)
                && running.saving.take().is_some()
            {
                running.until = Some(patience);
            }
        }
        for service in self.copies.restoring.keys().cloned().collect::<Vec<_>>() {
            self.restore_goes_on(&service);
        }
    }

    /// When (mono) restores are to be looked at again.
    pub(in crate::engine::copies) fn restores_deadline(&self) -> Option<Time> {
        let of_one = |running: &Restoring| running.up_since.map(|since| since.after(STAYS_UP)).or(running.until);
        let running = self
            .copies
            .restoring
            .values()
            .filter_map(of_one)
            .chain(self.waiting_deadline())
            .chain(self.ends_deadline());
        running.filter(|at| *at > self.now.mono).min()
    }

    fn restore_goes_on(&mut self, name: &str) {
        if self.shutdown.is_some() {
            return;
        }
        let Some(running) = self.copies.restoring.get(name).cloned() else { return };
        let Some(id) = self.service_id(name).filter(|_| self.is_configured(name)) else {
            return self.end_restore_unfinished(name, "the service has left the configuration");
        };
        match running.record.step {
            Step::Build => self.restore_builds(name, &running),
            Step::Hold => match self.standstill(id) {
                Standstill::Proven => self.enter_restore(name, Step::Swap),
                Standstill::NotYet => {}
                Standstill::Stuck(why) => self.restore_fails(name, Step::Drop, format!("nothing was restored: {why}")),
            },
            Step::Swap => self.restore_swaps(name, &running),
            Step::Prove => self.restore_proves(name, id, &running),
            Step::HoldAgain => match self.standstill(id) {
                Standstill::Proven => self.enter_restore(name, Step::PutBack),
                Standstill::NotYet => {}
                Standstill::Stuck(why) => self.restore_stalls(name, &why, None),
            },
            Step::PutBack => self.restore_puts_back(name, &running),
            Step::ComeBack => self.restore_comes_back(name, id, &running),
            Step::Drop => {
                if self.parts_of(&running).is_some() {
                    let why = running.record.failure.clone().unwrap_or_default();
                    self.end_restore(name, Level::Error, Answer::Failed { why });
                }
            }
        }
    }

    fn restore_builds(&mut self, name: &str, running: &Restoring) {
        match self.parts_of(running) {
            None => {}
            Some(Ok(lines)) if running.dry_run => {
                let seq = running.record.parts.first().map_or(0, |part| part.seq);
                let outcome = Outcome::WouldRestore { seq, lines, more: 0 };
                self.end_restore(name, Level::Debug, Answer::Copied(Box::new(outcome)));
            }
            Some(Ok(_)) => match self.end_copies_over(name) {
                None => self.enter_restore(name, Step::Hold),
                Some(set) if running.until.is_some_and(|until| until <= self.now.mono) => {
                    let why = format!(
                        "nothing was restored: copies {set} is being made of the same data, and does not end; see `mainstay status @copy.{set}`"
                    );
                    self.restore_fails(name, Step::Drop, why);
                }
                Some(_) => {}
            },
            Some(Err(why)) => self.restore_fails(name, Step::Drop, format!("nothing was restored: {why}")),
        }
    }

    fn restore_swaps(&mut self, name: &str, running: &Restoring) {
        if running.saving.is_some() {
            if running.until.is_some_and(|until| until <= self.now.mono) {
                let why = "nothing was restored: what is to be done could not be written down in time";
                self.restore_fails(name, Step::Drop, why.to_owned());
            }
            return;
        }
        match self.parts_of(running) {
            None => {}
            Some(Ok(_)) => self.enter_restore(name, Step::Prove),
            Some(Err(why)) => self.restore_fails(name, Step::PutBack, why),
        }
    }

    fn restore_proves(&mut self, name: &str, id: ServiceId, running: &Restoring) {
        match self.proof(id) {
            Proof::Unneeded(why) => self.restore_succeeds(name, running, Some(why)),
            Proof::Up if self.has_stayed_up(name) => self.restore_succeeds(name, running, None),
            Proof::Up => {}
            Proof::Failed(why) => {
                self.restore_fails(
                    name,
                    Step::HoldAgain,
                    format!("it did not become ready with its restored data: {why}"),
                );
            }
            Proof::NotYet => {
                self.forget_up(name);
                if running.until.is_some_and(|until| until <= self.now.mono) {
                    let (within, why) = (human(self.ready_within(id)), self.why_not_up(id));
                    let why = format!("it was not ready with its restored data within {within}: {why}");
                    self.restore_fails(name, Step::HoldAgain, why);
                }
            }
        }
    }

    fn restore_puts_back(&mut self, name: &str, running: &Restoring) {
        let is_late = running.until.is_some_and(|until| until <= self.now.mono);
        if running.saving.is_some() {
            if is_late {
                self.go_on_unsaved(name);
            }
            return;
        }
        match self.parts_of(running) {
            Some(Ok(_)) => self.enter_restore(name, Step::ComeBack),
            Some(Err(_)) if running.stalled && is_late => {
                let until = Some(self.now.mono.after(PUT_BACK_AGAIN));
                if let Some(running) = self.copies.restoring.get_mut(name) {
                    running.done.retain(|_, done| matches!(done, Done::Well { .. }));
                    (running.until, running.lost) = (until, 0);
                    self.copies.due = true;
                }
            }
            Some(Err(why)) if !running.stalled => self.restore_stalls(name, &why, Some(PUT_BACK_AGAIN)),
            Some(Err(_)) | None => {}
        }
    }

    /// What was there is to come back even where nothing can be written down.
    fn go_on_unsaved(&mut self, name: &str) {
        let patience = self.now.mono.after(PATIENCE);
        if let Some(running) = self.copies.restoring.get_mut(name) {
            (running.saving, running.until) = (None, Some(patience));
            self.copies.due = true;
        }
    }

    fn restore_comes_back(&mut self, name: &str, id: ServiceId, running: &Restoring) {
        let failure = running.record.failure.clone().unwrap_or_default();
        let aside = &running.record.aside;
        let aside =
            if aside.is_empty() { String::new() } else { format!("; what had been restored lies in {}", shown(aside)) };
        let then = match self.proof(id) {
            Proof::Unneeded(why) => format!("its data from before is back, and {why}"),
            Proof::Up if self.has_stayed_up(name) => "its data from before is back, and it is ready with it".to_owned(),
            Proof::Up => return,
            Proof::Failed(why) => format!("its data from before is back, but it is not ready with that either: {why}"),
            Proof::NotYet => {
                self.forget_up(name);
                if running.until.is_none_or(|until| until > self.now.mono) {
                    return;
                }
                format!("its data from before is back, but it is not ready with that either: {}", self.why_not_up(id))
            }
        };
        self.end_restore(name, Level::Error, Answer::Failed { why: format!("{failure}; {then}{aside}") });
    }

    fn restore_succeeds(&mut self, name: &str, running: &Restoring, unproven: Option<&str>) {
        let parts = &running.record.parts;
        let copies =
            parts.iter().map(|part| ServiceCopy { set: part.set.clone(), seq: part.seq, verified: part.verified });
        let outcome = Outcome::ServiceRestored {
            copies: copies.collect(),
            kept: kept(parts),
            ready: unproven.is_none(),
            remark: unproven.map(str::to_owned),
        };
        self.end_restore(name, Level::Info, Answer::Copied(Box::new(outcome)));
    }

    /// What has become of the step: `None` while something of it is under way; the lines of a dry run; or what failed.
    fn parts_of(&self, running: &Restoring) -> Option<Result<Vec<String>, String>> {
        if !running.orders.is_empty() {
            return None;
        }
        let mut lines = Vec::new();
        for part in &running.record.parts {
            match running.done.get(&part.set) {
                Some(Done::Failed(why)) => return Some(Err(why.clone())),
                Some(Done::Well { lines: more }) => {
                    let room = LINES_MAX.saturating_sub(lines.len());
                    lines.extend(std::iter::once(format!("{}:", part.text())).chain(more.iter().cloned()).take(room));
                }
                None => {
                    let set = &part.set;
                    let heard = self.copies.sets.get(set).is_some_and(|memory| memory.heard);
                    let late = running.until.is_some_and(|until| until <= self.now.mono);
                    let why = || format!("the role of copies {set} does not answer; see `mainstay status @copy.{set}`");
                    return (late && !heard).then(|| Err(why()));
                }
            }
        }
        Some(Ok(lines))
    }

    fn proof(&self, service: ServiceId) -> Proof {
        let wanted = |id: &crate::engine::types::ReplicaId| {
            let replica = self.at(*id);
            replica.memory.wanted == Wanted::Up && !replica.removed
        };
        let mut ids: Vec<_> = self.replicas_of(service).into_iter().filter(wanted).collect();
        if ids.is_empty() {
            return Proof::Unneeded("it stays stopped, as it was");
        }
        ids.retain(|id| !self.is_held(*id));
        if ids.is_empty() {
            return Proof::Unneeded("it stays held by its fence");
        }
        if self.disk_stops(service).is_some() {
            return Proof::Unneeded("it waits for its disk to be well");
        }
        for id in &ids {
            let replica = self.at(*id);
            let over = matches!(replica.state, State::Failed | State::Stuck { .. });
            if over || replica.memory.failures >= FAILURES_MAX {
                let why = self.why_of(*id).unwrap_or_else(|| "it has failed".to_owned());
                return Proof::Failed(format!("{}: {why}", self.label(*id)));
            }
        }
        if ids.iter().all(|id| self.at(*id).seen.standing == Standing::Up) { Proof::Up } else { Proof::NotYet }
    }

    fn why_not_up(&self, service: ServiceId) -> String {
        let ids = self.replicas_of(service);
        let down = ids.into_iter().find(|id| self.at(*id).seen.standing != Standing::Up);
        let why = down.map(|id| format!("{}: {}", self.label(id), self.why_of(id).unwrap_or_default()));
        why.unwrap_or_default()
    }

    fn has_stayed_up(&mut self, name: &str) -> bool {
        let now = self.now.mono;
        let Some(running) = self.copies.restoring.get_mut(name) else { return false };
        running.up_since.get_or_insert(now).after(STAYS_UP) <= now
    }

    fn forget_up(&mut self, name: &str) {
        if let Some(running) = self.copies.restoring.get_mut(name) {
            running.up_since = None;
        }
    }

    fn ready_within(&self, service: ServiceId) -> Duration {
        self.plan_of(service).start_timeout.saturating_add(READY_MARGIN)
    }

    /// The one place where a step begins.
    pub(super) fn enter_restore(&mut self, name: &str, step: Step) {
        let now = self.now.mono;
        let id = self.service_id(name);
        let within = id.map(|id| self.ready_within(id)).unwrap_or_default();
        let Some(running) = self.copies.restoring.get_mut(name) else { return };
        let (record, dry_run) = (&mut running.record, running.dry_run);
        record.step = step;
        (running.lost, running.up_since, running.stalled, running.saving) = (0, None, false, None);
        running.orders.clear();
        running.done.clear();
        running.until = match step {
            Step::Build | Step::Drop => Some(now.after(PATIENCE)),
            Step::Swap | Step::PutBack => Some(now.after(SAVED_WITHIN)),
            Step::Prove | Step::ComeBack => Some(now.after(within)),
            Step::Hold | Step::HoldAgain => None,
        };
        if matches!(step, Step::Drop | Step::PutBack) {
            for part in record.parts.iter().filter(|part| part.swaps.is_empty()) {
                running.done.insert(part.set.clone(), Done::Well { lines: Vec::new() });
            }
        }
        self.copies.due = true;
        if dry_run {
            return;
        }
        let decision = self.save_restore(name);
        if let Some(running) = self.copies.restoring.get_mut(name).filter(|_| step.is_to_be_on_disk()) {
            running.saving = decision;
        }
        self.tell_restore(name, Level::Info, step.text().to_owned());
        if step == Step::Build {
            let _ = self.end_copies_over(name);
        }
        let Some(id) = id else { return };
        if matches!(step, Step::Prove | Step::ComeBack) {
            let mut ids = self.replicas_of(id);
            ids.retain(|id| self.at(*id).state == State::Stopped);
            ids.into_iter().for_each(|id| self.pardon(id));
        }
        self.follow_hold(id);
    }

    fn restore_fails(&mut self, name: &str, then: Step, why: String) {
        self.tell_restore(name, Level::Error, why.clone());
        if let Some(running) = self.copies.restoring.get_mut(name) {
            running.record.failure.get_or_insert(why);
            if running.dry_run {
                let why = running.record.failure.clone().unwrap_or_default();
                return self.end_restore(name, Level::Debug, Answer::Failed { why });
            }
        }
        self.enter_restore(name, then);
    }

    /// It cannot go on for now; who waits is told, and it is tried again.
    fn restore_stalls(&mut self, name: &str, why: &str, again: Option<Duration>) {
        let until = again.map(|again| self.now.mono.after(again));
        let Some(running) = self.copies.restoring.get_mut(name).filter(|running| !running.stalled) else { return };
        running.stalled = true;
        running.until = until;
        let failure = running.record.failure.clone().unwrap_or_default();
        let kept = shown(&kept(&running.record.parts));
        let asked = running.asked.take();
        let why = format!(
            "{failure}; its data from before ({kept}) is not back yet, and the service stays stopped until it is: {why}; `mainstay start {name}` starts it with what is there"
        );
        self.tell_restore(name, Level::Error, why.clone());
        if let Some(request) = asked {
            self.out.push(Action::Answer { request, outcome: Answer::Failed { why } });
        }
    }

    /// Nothing more is done about it, wherever it is.
    pub(super) fn end_restore_unfinished(&mut self, name: &str, because: &str) {
        let Some(running) = self.copies.restoring.get(name) else { return };
        let step = running.record.step;
        let places: Vec<String> = whereabouts(&running.record).into_iter().map(|text| format!("; {text}")).collect();
        let why = format!("{because}, so this ended where it was ({}){}", step.text(), places.concat());
        self.end_restore(name, Level::Error, Answer::Failed { why });
    }

    fn is_configured(&self, name: &str) -> bool {
        self.service_id(name).is_some_and(|id| !self.service_at(id).removed)
    }

    fn end_restore(&mut self, name: &str, level: Level, outcome: Answer) {
        let text = match &outcome {
            Answer::Copied(outcome) => outcome_text(outcome),
            Answer::Failed { why } => format!("failed: {why}"),
            Answer::Done { .. } | Answer::Unknown { .. } | Answer::Conflict { .. } | Answer::Reloaded { .. } => {
                String::new()
            }
        };
        self.tell_restore(name, level, text);
        let Some(running) = self.copies.restoring.remove(name) else { return };
        if let Some(request) = running.asked {
            self.out.push(Action::Answer { request, outcome });
        }
        self.copies.due = true;
        if running.dry_run {
            return;
        }
        self.save_end(name);
        if let Some(id) = self.service_id(name) {
            self.follow_hold(id);
        }
    }

    /// Has it written down with what else was decided of the service, which is kept when it is no more.
    pub(super) fn save_restore(&mut self, name: &str) -> Option<u64> {
        let kept = self.kept.get(name).map(|(whole, _)| whole.clone());
        let content = match (self.service_id(name), kept) {
            (Some(service), None) => self.decision(service, None, self.service_at(service).decided.clone()),
            (Some(_) | None, kept) => {
                let Decided { wanted, drained, fence } = kept.unwrap_or_default();
                let restore = self.restore_to_write(name);
                Decision { service: name.to_owned(), wanted, drained, fence, restore, ..Decision::default() }
            }
        };
        let decision = self.next_decision;
        self.next_decision += 1;
        self.copies.decisions.insert(decision);
        if self.copies.decisions.len() > DECISIONS_MAX {
            let oldest = self.copies.decisions.pop_first();
            oldest.and_then(|oldest| self.copies.ends.remove(&oldest));
        }
        self.out.push(Action::Decide { decision, content });
        Some(decision)
    }

    /// Whether it was one of these decisions; it is on disk, or is not.
    pub(in crate::engine) fn restore_saved(&mut self, decision: u64, result: &Result<(), String>) -> bool {
        if !self.copies.decisions.remove(&decision) {
            return false;
        }
        self.end_saved(decision, result);
        let patience = self.now.mono.after(PATIENCE);
        let waiting = self.copies.restoring.iter_mut().find(|(_, running)| running.saving == Some(decision));
        let Some((name, running)) = waiting else { return true };
        (running.saving, running.until) = (None, Some(patience));
        self.copies.due = true;
        if let Err(why) = result
            && running.record.step == Step::Swap
        {
            let (name, why) =
                (name.clone(), format!("nothing was restored: what is to be done cannot be written down: {why}"));
            self.restore_fails(&name, Step::Drop, why);
        }
        true
    }

    /// Who waits is told; what is under way goes on with the next agent.
    pub(in crate::engine::copies) fn leave_restores(&mut self) {
        for running in self.copies.restoring.values_mut() {
            if let Some(request) = running.asked.take() {
                let message = "the agent shuts down; the restore goes on with the next one".to_owned();
                self.out.push(Action::Answer { request, outcome: Answer::Conflict { message } });
            }
        }
    }

    /// A line of the journal, and a link in the chain of each replica.
    pub(super) fn tell_restore(&mut self, name: &str, level: Level, text: String) {
        let Some(running) = self.copies.restoring.get(name) else { return };
        let set = running.record.parts.first().map(|part| part.set.clone()).unwrap_or_default();
        let dry_run = running.dry_run;
        let what = CopyNews::ServiceRestore { service: name.to_owned(), text };
        let note = Note {
            level,
            subject: Some(Subject { service: name.to_owned(), replica: None }),
            kind: NoteKind::Copy(Box::new(CopyNote { set, what })),
        };
        if let Some(id) = self.service_id(name).filter(|_| !dry_run) {
            let text = note.sentence();
            self.replicas_of(id).into_iter().for_each(|id| self.add_cause(id, text.clone()));
        }
        self.out.push(Action::Note(note));
    }
}

fn outcome_text(outcome: &Outcome) -> String {
    match outcome {
        Outcome::ServiceRestored { kept, remark, .. } => {
            let then = remark.as_deref().unwrap_or("it is ready");
            let kept =
                if kept.is_empty() { String::new() } else { format!("; what was there is kept as {}", shown(kept)) };
            format!("its data is restored, and {then}{kept}")
        }
        Outcome::Taken { .. }
        | Outcome::Unchanged { .. }
        | Outcome::Verified { .. }
        | Outcome::Scrubbed
        | Outcome::Pruned { .. }
        | Outcome::Restored { .. }
        | Outcome::WouldRestore { .. }
        | Outcome::Built { .. }
        | Outcome::Swapped { .. }
        | Outcome::Tested { .. }
        | Outcome::Materialised { .. }
        | Outcome::Dismissed
        | Outcome::Pinned
        | Outcome::Accepted
        | Outcome::Initialised { .. }
        | Outcome::Failed(_) => "it was told what a restore would do".to_owned(),
    }
}

/// What of a restore that nobody goes on with lies where, as far as the record says.
fn whereabouts(record: &ServiceRestore) -> Vec<String> {
    let places: Vec<String> =
        record.parts.iter().flat_map(|part| part.paths.iter()).map(|path| path.display().to_string()).collect();
    let built: Vec<PathBuf> = record.parts.iter().flat_map(|part| &part.swaps).map(|swap| swap.built.clone()).collect();
    let aside = record.parts.iter().flat_map(|part| &part.swaps).map(|swap| swap.aside.clone()).collect();
    let kept = kept(&record.parts);
    match record.step {
        Step::Build if built.is_empty() => {
            vec![format!(
                "nothing was exchanged; what may have been built lies beside {} and can be removed",
                places.join(", ")
            )]
        }
        Step::Build | Step::Hold | Step::Drop => {
            vec![format!("nothing was exchanged; what was built lies in {} and can be removed", shown(&built))]
        }
        Step::Swap | Step::PutBack => vec![
            format!("what was there before lies in {}, or still in its place where that is not there", shown(&kept)),
            format!(
                "what comes from the copy lies in {}, or in its place where neither is there",
                shown(&[built, aside].concat())
            ),
        ],
        Step::Prove | Step::HoldAgain => {
            vec![format!("{} come from the copy; what was there before lies in {}", places.join(", "), shown(&kept))]
        }
        Step::ComeBack if record.aside.is_empty() => {
            vec![format!("what was there before is back in {}", places.join(", "))]
        }
        Step::ComeBack => vec![format!(
            "what was there before is back in {}; what had been restored lies in {}",
            places.join(", "),
            shown(&record.aside)
        )],
    }
}

/// Where what was there before lies while the restored data are in its place.
fn kept(parts: &[Part]) -> Vec<PathBuf> {
    let taken = |swap: &&Swap| swap.kind != SwapKind::Free;
    parts.iter().flat_map(|part| &part.swaps).filter(taken).map(|swap| swap.kept.clone()).collect()
}

fn shown(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
