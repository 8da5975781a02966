//! What others may see: states, and the sentences that explain them.

use std::collections::BTreeSet;

use super::Engine;
use super::event::Wanted;
use super::fence::show::being;
use super::note::remaining_text;
use super::plan::Kind;
use super::service::{Blocker, Phase, PlanRef, Run, State};
use super::timers::{Timer, TimerKey};
use super::types::{Now, ReplicaId, ServiceId, StateName, Time, human};
use super::view::{EdgeKind, EdgeView, ReplicaView, ServiceView};

impl Engine {
    pub(super) fn view_all(&self, now: Now) -> Vec<ServiceView<'_>> {
        let mut order: Vec<(usize, ServiceId)> = self
            .services
            .iter()
            .filter(|(id, _)| !self.departed.contains(id))
            .map(|(id, service)| match service.plan {
                PlanRef::At(index) => (index, *id),
                PlanRef::Own(_) => (usize::MAX, *id),
            })
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, id)| self.view_one(id, now)).collect()
    }

    pub(super) fn view_one(&self, id: ServiceId, now: Now) -> ServiceView<'_> {
        let service = self.service_at(id);
        let replicas: Vec<ReplicaView<'_>> =
            self.replicas_of(id).into_iter().map(|id| self.view_replica(id, now)).collect();
        let shown =
            replicas.iter().max_by_key(|replica| (nearness(replica.state), !replica.drained, replica.why.is_none()));
        let ready = shown.filter(|replica| matches!(replica.state, StateName::Ready | StateName::Done));
        let furthest = replicas.iter().min_by_key(|replica| nearness(replica.state));
        let telling = ready.or(furthest);
        ServiceView {
            plan: self.plan_of(id),
            wanted: service.replicas.values().any(|replica| replica.memory.wanted == Wanted::Up && !replica.removed),
            state: telling.map_or(StateName::Stopped, |replica| replica.state),
            word: telling.map_or(StateName::Stopped.word(), ReplicaView::word),
            why: telling.and_then(|replica| replica.why.clone()),
            edges: self.view_edges(id),
            impaired: self.trouble(id).map(|trouble| self.trouble_text(trouble)),
            replicas,
        }
    }

    fn view_replica(&self, id: ReplicaId, now: Now) -> ReplicaView<'_> {
        let replica = self.at(id);
        ReplicaView {
            id,
            memory: &replica.memory,
            state: replica.state.name(),
            pid: replica.run.as_ref().filter(|run| !run.exited).and_then(|run| run.pid),
            flapping: replica.is_flapping(now.mono),
            pending_restart: self.has_pending_restart(id),
            drained: replica.memory.drained,
            frozen: replica.memory.frozen,
            fence: self.fence_of(id),
            limits: self.limits_view(id),
            why: self.why_at(id, now.mono),
            next: self.next_of(id, now),
            last_lines: &replica.last_lines,
        }
    }

    fn view_edges(&self, id: ServiceId) -> Vec<EdgeView<'_>> {
        let service = self.service_at(id);
        let blocking: BTreeSet<ServiceId> = service
            .replicas
            .values()
            .filter_map(|replica| match &replica.state {
                State::Waiting { on, .. } => Some(on),
                State::Adopting
                | State::Stopped
                | State::Starting
                | State::Ready
                | State::Degraded
                | State::Stopping { .. }
                | State::Backoff { .. }
                | State::Failed
                | State::Done
                | State::Stuck { .. } => None,
            })
            .flatten()
            .filter_map(|blocker| match blocker {
                Blocker::Service(id) => Some(*id),
                Blocker::Slot | Blocker::Disk | Blocker::Copies => None,
            })
            .collect();
        let edges = &service.edges;
        [
            (EdgeKind::Requires, &edges.requires),
            (EdgeKind::Wants, &edges.wants),
            (EdgeKind::After, &edges.after),
            (EdgeKind::RestartWith, &edges.restart_with),
        ]
        .into_iter()
        .flat_map(|(kind, list)| list.iter().map(move |to| (kind, *to)))
        .map(|(kind, to)| EdgeView { to: self.name(to), kind, blocking: blocking.contains(&to) })
        .collect()
    }

    pub(super) fn why_of(&self, id: ReplicaId) -> Option<String> {
        self.why_at(id, self.now.mono)
    }

    /// Why the replica is not `ready` (or `done`).
    fn why_at(&self, id: ReplicaId, now: Time) -> Option<String> {
        let replica = self.at(id);
        let last_cause = || replica.memory.causes.back().map(|cause| self.without_subject(id, &cause.text));
        if replica.memory.fence.is_some() && !matches!(replica.state, State::Stuck { .. }) {
            return self.why_fenced(id, now);
        }
        Some(match &replica.state {
            State::Ready if replica.memory.drained => self.why_drained(id),
            State::Ready if replica.memory.probation.is_some() => return self.why_fenced(id, now),
            State::Ready => {
                let why = self.why_impaired(id).or_else(|| self.why_ejected(id, now));
                return why.or_else(|| self.runs_from_copy(id.service));
            }
            State::Done => return None,
            State::Adopting => "what an earlier agent left is being looked at".to_owned(),
            State::Stopped if replica.memory.wanted == Wanted::Down => "stopped by an operator".to_owned(),
            State::Stopped if self.copies_stop(id.service) => {
                let restored = self.restore_in_words(id.service);
                restored.unwrap_or_else(|| "stopped while its data is copied".to_owned())
            }
            State::Stopped => "stopped".to_owned(),
            State::Waiting { on, .. } => self.why_waiting(id.service, on, now),
            State::Starting => self.with_trouble(id, self.why_starting(id, replica.run.as_ref(), now)),
            State::Degraded => self.with_trouble(id, self.why_degraded(id, replica.run.as_ref())),
            State::Stopping { phase: Phase::Drain, why, .. } => {
                let left = self.armed(id, Timer::State).map(|at| at.since(now)).unwrap_or_default();
                let why = self.stop_text(*why);
                format!("{why}, draining: waiting for connections to end, at most {}", human(left))
            }
            State::Stopping { phase, why, .. } => format!("{}, {}", self.stop_text(*why), phase_text(*phase)),
            // When it is tried again is what happens next.
            State::Backoff { .. } => last_cause().unwrap_or_else(|| "it has failed".to_owned()),
            State::Failed => last_cause().unwrap_or_else(|| "failed".to_owned()),
            State::Stuck { processes, .. } => remaining_text(processes),
        })
    }

    /// Of one that is ready.
    fn why_impaired(&self, id: ReplicaId) -> Option<String> {
        if self.copies_freeze(id.service) && self.trouble(id.service).is_none() {
            return Some("frozen for a moment while its data is copied".to_owned());
        }
        let trouble = self.trouble_text(self.trouble(id.service)?);
        let trouble = self.with_copies(id.service, trouble);
        Some(if self.at(id).memory.frozen {
            format!("frozen until the disk is well; {trouble}")
        } else {
            format!("out of its balancers until this is well: {trouble}")
        })
    }

    fn with_trouble(&self, id: ReplicaId, why: String) -> String {
        match self.trouble(id.service) {
            Some(trouble) => format!("{why}; left alone meanwhile: {}", self.trouble_text(trouble)),
            None => why,
        }
    }

    /// What a start waits for: the failing disk, with what its check says.
    pub(super) fn disk_name(&self, service: ServiceId) -> String {
        let text = self.failing_disk(service).map(|disk| self.trouble_text(disk));
        text.map(|text| self.with_copies(service, text)).unwrap_or_default()
    }

    /// What fails, and what there is of its data elsewhere when that is its disk.
    fn with_copies(&self, service: ServiceId, trouble: String) -> String {
        match self.failing_disk(service).and_then(|_| self.copies_in_words(service)) {
            Some(copies) => format!("{trouble}; {copies}"),
            None => trouble,
        }
    }

    fn why_drained(&self, id: ReplicaId) -> String {
        let balancers = self.unfinished(id);
        if balancers.is_empty() {
            return "drained by an operator: takes no connections until `undrain`".to_owned();
        }
        let names: Vec<&str> = balancers.iter().map(String::as_str).collect();
        format!("drained by an operator: no new connections, those from {} may end", names.join(", "))
    }

    /// A cause is a whole sentence; beside the name of its own service the beginning is noise.
    fn without_subject(&self, id: ReplicaId, text: &str) -> String {
        let subject = format!("service {}: ", self.label(id));
        text.strip_prefix(&subject).unwrap_or(text).to_owned()
    }

    fn why_waiting(&self, service: ServiceId, on: &[Blocker], now: Time) -> String {
        let parts: Vec<String> = on
            .iter()
            .map(|blocker| match blocker {
                Blocker::Slot => format!("a start slot ({} may start at once)", self.slots_max()),
                Blocker::Service(id) => format!("{} ({})", self.name(*id), self.short_state(*id, now)),
                Blocker::Disk => self.disk_name(service),
                Blocker::Copies => self.failover_blocks(service).unwrap_or_default(),
            })
            .collect();
        format!("waiting for {}", parts.join(", "))
    }

    /// `backoff, next try in 12s`
    fn short_state(&self, id: ServiceId, now: Time) -> String {
        let ids = self.replicas_of(id);
        let Some(nearest) = ids.into_iter().max_by_key(|id| nearness(self.at(*id).memory.state)) else {
            return "gone".to_owned();
        };
        let state = self.at(nearest).memory.state;
        if let Some(being) = self.fence_level(nearest).map(being) {
            return being.to_owned();
        }
        match self.armed(nearest, Timer::State) {
            Some(at) if matches!(state, StateName::Backoff | StateName::Failed) => {
                format!("{state}, next try in {}", human(at.since(now)))
            }
            Some(_) | None => state.to_string(),
        }
    }

    fn why_starting(&self, id: ReplicaId, run: Option<&Run>, now: Time) -> String {
        let since = now.since(self.at(id).memory.started_mono);
        let limit = self.armed(id, Timer::State).map(|at| at.since(self.at(id).memory.started_mono));
        let time = match limit {
            Some(limit) => format!("for {} of {}", human(since), human(limit)),
            None => format!("for {}", human(since)),
        };
        if self.is_task(id) {
            return format!("running {time}");
        }
        match run.and_then(|run| run.exec_error.as_ref().or(run.answer.as_ref())) {
            Some(answer) => format!("not ready: {answer}, {time}"),
            None => format!("not ready {time}"),
        }
    }

    fn why_degraded(&self, id: ReplicaId, run: Option<&Run>) -> String {
        let fall = self.plan_of(id.service).alive.as_ref().map_or(0, |alive| alive.fall);
        let failures = run.map_or(0, |run| run.failures);
        match run.and_then(|run| run.answer.as_ref()) {
            Some(answer) => format!("alive probe {failures} of {fall} failed: {answer}"),
            None => "its alive probe had failed".to_owned(),
        }
    }

    /// What happens next by itself, and when.
    fn next_of(&self, id: ReplicaId, now: Now) -> Option<(String, Time)> {
        let state = self.armed(id, Timer::State);
        let period = self.boot_timers.get(TimerKey::Replica(id, Timer::Period));
        let period = period.map(|at| ("next period".to_owned(), now.mono.after(at.since(now.boot))));
        let at = |text: &str| state.map(|at| (text.to_owned(), at));
        let fence = self.fence_of(id).filter(|_| self.at(id).memory.hold.is_none_or(|hold| hold.next_try.is_none()));
        if let Some((what, at)) = fence.and_then(|fence| fence.next) {
            return Some((what.to_owned(), at));
        }
        match &self.at(id).state {
            State::Starting => at("start timeout"),
            State::Stopping { phase: Phase::Killed | Phase::Inspecting, .. } => at("stuck unless gone"),
            State::Stopping { phase: Phase::Drain, .. } => at("stop signal"),
            State::Stopping { .. } => at("kill"),
            State::Backoff { .. } | State::Failed => match (at("next try"), period) {
                (Some(state), Some(period)) if period.1 < state.1 => Some(period),
                (state, period) => state.or(period),
            },
            State::Stuck { .. } => at("next look"),
            State::Done => match self.plan_of(id.service).kind {
                Kind::Every(_) => period,
                Kind::Daemon | Kind::Oneshot => None,
            },
            State::Ready => {
                let forgets = self.armed(id, Timer::Forget);
                forgets.map(|at| ("its failures are forgotten".to_owned(), at))
            }
            State::Adopting | State::Stopped | State::Waiting { .. } | State::Degraded => None,
        }
    }
}

fn phase_text(phase: Phase) -> &'static str {
    match phase {
        Phase::Dependents => "waiting for its dependents to stop first",
        Phase::Drain => "draining",
        Phase::Abort => "SIGABRT sent",
        Phase::Term => "stop signal sent",
        Phase::Linger => "waiting for the rest of its processes",
        Phase::Killed | Phase::Inspecting => "killed, waiting for it to be gone",
    }
}

/// How near to ready a state is.
fn nearness(state: StateName) -> u8 {
    match state {
        StateName::Stuck => 0,
        StateName::Failed => 1,
        StateName::Stopped => 2,
        StateName::Backoff => 3,
        StateName::Stopping => 4,
        StateName::Waiting => 5,
        StateName::Adopting => 6,
        StateName::Starting => 7,
        StateName::Degraded => 8,
        StateName::Done => 9,
        StateName::Ready => 10,
    }
}
