//! What a failing disk or NIC means to the services that need it: a fault that they do not own.
//!
//! * Disk: it leaves its balancers; it is neither killed for its liveness or its watchdog nor restarted for a new configuration; a start that
//!   does not become ready is left alone; what ends is not charged and waits (`Blocker::Disk`). `on_disk_failing` says the rest: `Freeze`
//!   stops the whole group in its tracks, `Kill` and `Hold` end the run (`StopWhy::DiskFailing`). A task that has succeeded is done.
//! * NIC: it leaves its balancers and is not killed for its liveness.
//!
//! An operator's word goes before all of it. When the disk is well again, everything goes on by itself.
//!
//! INVARIANT: a group is frozen only while its run is starting or up; whatever ends that thaws it first, for a frozen process cannot obey.

use super::note::HostNote;
use super::plan::OnDiskFailing;
use super::ties::{Trouble, Troubles};
use super::{CheckKey, Health};
use crate::engine::Engine;
use crate::engine::action::{Action, Level, Next, Note, NoteKind, Subject};
use crate::engine::fence::plan::FenceLevel;
use crate::engine::plan::{Kind, RestartPolicy};
use crate::engine::service::{State, StopWhy, Then};
use crate::engine::timers::Timer;
use crate::engine::types::{ReplicaId, ServiceId};

impl Engine {
    /// Brings what concerns services up to date, and does what follows from it.
    pub(in crate::engine) fn review_ties(&mut self) {
        let fails = |(key, (state, _)): (&CheckKey, &(Health, String))| key.kind.impairs() && *state == Health::Failing;
        if self.host.troubles.is_empty() && !self.host.states.iter().any(fails) {
            return;
        }
        for service in self.services.keys().copied().collect::<Vec<_>>() {
            let new = self.troubles_of(service);
            let old = self.host.troubles.remove(&service).unwrap_or_default();
            if !new.is_none() {
                self.host.troubles.insert(service, new.clone());
            }
            if old.is_none() && new.is_none() {
                continue;
            }
            if old != new {
                self.tell_troubles(service, &old, &new);
            }
            for id in self.replicas_of(service) {
                self.recover(id, &old, &new);
                self.freeze_or_thaw(id);
                self.refresh(id);
                self.dirty.insert(id);
            }
            self.touched.insert(service);
        }
        let services = &self.services;
        self.host.troubles.retain(|service, _| services.contains_key(service));
    }

    /// As an earlier agent left it: what it had frozen stays so where the disk still fails, and is thawed first where not.
    pub(in crate::engine) fn resume_ties(&mut self) {
        let all: Vec<ReplicaId> = self.services.keys().flat_map(|service| self.replicas_of(*service)).collect();
        for id in all {
            if self.at(id).memory.frozen && self.is_to_be_frozen(id) {
                let run = self.at(id).memory.run;
                self.out.push(Action::Freeze { replica: id, run, frozen: true });
            }
            self.freeze_or_thaw(id);
        }
    }

    /// What fails under the service was known before: nothing of it is news.
    pub(in crate::engine) fn restore_troubles(&mut self) {
        for service in self.services.keys().copied().collect::<Vec<_>>() {
            let troubles = self.troubles_of(service);
            if !troubles.is_none() {
                self.host.troubles.insert(service, troubles);
            }
        }
    }

    /// The failing disk of a service.
    pub(in crate::engine) fn failing_disk(&self, service: ServiceId) -> Option<&Trouble> {
        if self.host.troubles.is_empty() {
            return None;
        }
        self.host.troubles.get(&service)?.disk.as_ref()
    }

    /// A failing disk or NIC of a service.
    pub(in crate::engine) fn trouble(&self, service: ServiceId) -> Option<&Trouble> {
        if self.host.troubles.is_empty() {
            return None;
        }
        let troubles = self.host.troubles.get(&service)?;
        troubles.disk.as_ref().or(troubles.nic.as_ref())
    }

    /// `disk vda: no answer for 12s`
    pub(in crate::engine) fn trouble_text(&self, trouble: &Trouble) -> String {
        let now = self.host.states.get(&trouble.key).map(|(_, why)| why);
        format!("{}: {}", trouble.subject(), now.unwrap_or(&trouble.why))
    }

    /// What the service says of it, where the copies of its data say nothing else.
    pub(in crate::engine) fn policy(&self, service: ServiceId) -> OnDiskFailing {
        if self.held_for_copies(service) {
            return OnDiskFailing::Hold;
        }
        self.plan_of(service).needs.as_ref().map(|needs| needs.on_disk_failing).unwrap_or_default()
    }

    /// Whether a failing disk ends what runs.
    pub(in crate::engine) fn disk_stops(&self, service: ServiceId) -> Option<StopWhy> {
        self.failing_disk(service)?;
        match self.policy(service) {
            OnDiskFailing::Kill | OnDiskFailing::Hold => Some(StopWhy::DiskFailing),
            OnDiskFailing::Leave | OnDiskFailing::Freeze | OnDiskFailing::Ignore => None,
        }
    }

    /// Whether this stop is to be a kill.
    pub(in crate::engine) fn disk_kills(&self, service: ServiceId, why: StopWhy) -> bool {
        why == StopWhy::DiskFailing && self.policy(service) == OnDiskFailing::Kill
    }

    /// A restart that nobody is waiting for is put off until the disk is well, or the fence thaws it.
    pub(in crate::engine) fn restart_wish(&self, id: ReplicaId) -> Option<StopWhy> {
        let wish = self.at(id).restart?;
        let may_wait = matches!(wish, StopWhy::NewConfig | StopWhy::RestartWith(_));
        let frozen = self.fence_level(id) == Some(FenceLevel::Freeze);
        (!may_wait || (self.failing_disk(id.service).is_none() && !frozen)).then_some(wish)
    }

    /// The end of a run, or a start that failed: what the policy says of it, or nothing while the disk is to blame.
    pub(in crate::engine) fn judge_end(&mut self, id: ReplicaId, end: End) -> (Then, Next) {
        let plan = self.plan_of(id.service);
        let starts_again = match (end, plan.kind, plan.restart) {
            (End::Good, Kind::Daemon, RestartPolicy::Always) => true,
            (End::Good, Kind::Daemon | Kind::Oneshot | Kind::Every(_), _) => false,
            (End::Bad, _, RestartPolicy::Always | RestartPolicy::OnFailure) => true,
            (End::Bad, _, RestartPolicy::Never) => false,
        };
        match (self.failing_disk(id.service), end) {
            (Some(disk), End::Good | End::Bad) if starts_again => {
                let why = format!("to be started again when {} is well, and not charged for it", disk.subject());
                self.at_mut(id).unasked = true;
                (Then::Settle, Next::Nothing { why })
            }
            (Some(_) | None, End::Good) => self.success(id),
            (Some(_), End::Bad) => self.failure(id),
            (None, End::Bad) => self.fails_probation(id).unwrap_or_else(|| self.failure(id)),
        }
    }

    /// Says that what would be done to the replica is not, and why.
    pub(in crate::engine) fn tell_left_alone(&mut self, id: ReplicaId, what: &str) {
        if let Some(trouble) = self.trouble(id.service) {
            let text = format!("{what}; left alone while {} fails", trouble.subject());
            self.tell(id, Level::Warn, NoteKind::Remark { text });
        }
    }

    /// By the policy for its disk, by its fence, or while its data is copied: the one place that says so.
    fn is_to_be_frozen(&self, id: ReplicaId) -> bool {
        let replica = self.at(id);
        let up = matches!(replica.state, State::Starting | State::Ready | State::Degraded);
        let runs = replica.run.as_ref().is_some_and(|run| run.spawned && !run.exited);
        up && runs && (self.is_to_stay_frozen(id) || self.copies_freeze(id.service))
    }

    /// By its fence or the policy for its disk: for longer than a copy takes.
    pub(in crate::engine) fn is_to_stay_frozen(&self, id: ReplicaId) -> bool {
        let fenced = self.fence_level(id) == Some(FenceLevel::Freeze);
        fenced || (self.failing_disk(id.service).is_some() && self.policy(id.service) == OnDiskFailing::Freeze)
    }

    pub(in crate::engine) fn freeze_or_thaw(&mut self, id: ReplicaId) {
        self.quiet_changed(id.service);
        match (self.at(id).memory.frozen, self.is_to_be_frozen(id)) {
            (false, true) => self.freeze(id),
            (true, false) => {
                self.thaw(id);
                self.watch_again(id);
            }
            (true, true) | (false, false) => {}
        }
    }

    fn freeze(&mut self, id: ReplicaId) {
        self.quiet(id);
        self.memory_mut(id).frozen = true;
        self.arm_probation(id);
        let run = self.at(id).memory.run;
        self.save_now(id);
        self.out.push(Action::Freeze { replica: id, run, frozen: true });
    }

    /// Something else has frozen it: for the evidence of a fence it is written once more.
    pub(in crate::engine) fn freeze_again(&mut self, id: ReplicaId) {
        self.quiet_changed(id.service);
        let run = self.at(id).memory.run;
        self.out.push(Action::Freeze { replica: id, run, frozen: true });
    }

    /// The group may go on, whatever becomes of it.
    pub(in crate::engine) fn thaw(&mut self, id: ReplicaId) {
        if self.at(id).memory.frozen {
            self.quiet_changed(id.service);
            self.memory_mut(id).frozen = false;
            let run = self.at(id).memory.run;
            self.out.push(Action::Freeze { replica: id, run, frozen: false });
        }
    }

    /// What was suspended goes on, with all its time before it.
    fn watch_again(&mut self, id: ReplicaId) {
        match self.at(id).state {
            State::Ready | State::Degraded => self.watch_health(id),
            State::Starting => {
                self.start_time_anew(id);
                if self.at(id).run.as_ref().is_some_and(|run| run.executed) {
                    self.await_readiness(id);
                }
            }
            State::Adopting
            | State::Stopped
            | State::Waiting { .. }
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed
            | State::Done
            | State::Stuck { .. } => {}
        }
    }

    pub(in crate::engine) fn start_time_anew(&mut self, id: ReplicaId) {
        let timed = self.plan_of(id.service).kind == Kind::Daemon || self.armed(id, Timer::State).is_some();
        if timed {
            let timeout = self.plan_of(id.service).start_timeout;
            self.arm(id, Timer::State, self.now.mono.after(timeout));
        }
    }

    /// What a replica did while its disk or NIC failed is not held against it afterwards.
    fn recover(&mut self, id: ReplicaId, old: &Troubles, new: &Troubles) {
        let well = !old.is_none() && new.is_none();
        let disk_well = old.disk.is_some() && new.disk.is_none();
        if well && let Some(run) = &mut self.at_mut(id).run {
            run.failures = 0;
        }
        if !disk_well || self.at(id).memory.frozen {
            return;
        }
        match self.at(id).state {
            State::Starting => self.start_time_anew(id),
            State::Ready | State::Degraded => self.rearm_watchdog(id),
            State::Adopting
            | State::Stopped
            | State::Waiting { .. }
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed
            | State::Done
            | State::Stuck { .. } => {}
        }
    }

    fn tell_troubles(&mut self, service: ServiceId, old: &Troubles, new: &Troubles) {
        for (old, new) in [(&old.disk, &new.disk), (&old.nic, &new.nic)] {
            match (old, new) {
                (Some(old), Some(new)) if old.key == new.key => {}
                (Some(_) | None, Some(new)) => {
                    let then = self.what_follows(service, new);
                    let key = &new.key;
                    let cause = format!("check {}: {}: {}", self.check_name(key), Health::Failing.word(), new.why);
                    let note = HostNote::Impaired { by: new.subject(), then };
                    self.tell_service(service, Level::Warn, note, Some(cause));
                }
                (Some(old), None) => {
                    self.tell_service(service, Level::Info, HostNote::Unimpaired { by: old.subject() }, None);
                }
                (None, None) => {}
            }
        }
    }

    fn what_follows(&self, service: ServiceId, trouble: &Trouble) -> String {
        let is_disk = self.failing_disk(service).is_some_and(|disk| disk.key == trouble.key);
        let mut text = match (is_disk, self.policy(service)) {
            (false, _) => "it runs on and is not killed for its liveness",
            (true, OnDiskFailing::Leave | OnDiskFailing::Ignore) => {
                "it runs on, neither killed nor restarted meanwhile"
            }
            (true, OnDiskFailing::Freeze) => "it is frozen until the disk is well",
            (true, OnDiskFailing::Kill) => "it is killed, and started again when the disk is well",
            (true, OnDiskFailing::Hold) => "it is stopped, and started again when the disk is well",
        }
        .to_owned();
        let balancers: Vec<&str> = self.balancers_of(service).map(|plan| plan.name.as_str()).collect();
        if !balancers.is_empty() {
            text = format!("{text}; out of {}", balancers.join(", "));
        }
        text
    }

    /// One line about the whole service, and a link in the chain of each replica.
    fn tell_service(&mut self, service: ServiceId, level: Level, note: HostNote, cause: Option<String>) {
        let subject = Subject { service: self.name(service).to_owned(), replica: None };
        let note = Note { level, subject: Some(subject), kind: NoteKind::Host(note) };
        for id in self.replicas_of(service) {
            let memory = &self.at(id).memory;
            let quiet = matches!(self.at(id).state, State::Ready | State::Done) && memory.failures == 0;
            if quiet && self.trouble(service).is_none() {
                self.memory_mut(id).causes.clear();
            }
            for text in cause.iter().cloned().chain([note.sentence()]) {
                self.add_cause(id, text);
            }
        }
        self.out.push(Action::Note(note));
    }

    /// As the configuration calls it; else its kind and target.
    pub(in crate::engine) fn check_name(&self, key: &CheckKey) -> String {
        let own = |target: &Option<String>| target.as_ref() == Some(&key.target);
        match self.plan.checks.iter().find(|check| check.kind == key.kind && own(&check.target)) {
            Some(check) => check.name.clone(),
            None if key.target.is_empty() => key.kind.word().to_owned(),
            None => format!("{} {}", key.kind.word(), key.target),
        }
    }
}

/// How a run ended, by what its plan says of exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum End {
    Good,
    Bad,
}
