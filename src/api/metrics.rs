//! `GET /metrics`: Prometheus text format 0.0.4. Base units, `_total` for counters, no pid in a label, one sample a service and state.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::balancers::Balancer;
use super::render::UsageOf;
use super::{metrics_balancers, metrics_copies, metrics_fences, metrics_host};
use crate::engine::action::{Next, Note, NoteKind};
use crate::engine::copies::view::CopyView;
use crate::engine::fence::view::FencesView;
use crate::engine::host::readings::Readings;
use crate::engine::host::view::CheckView;
use crate::engine::types::{Exit, StateName};
use crate::engine::view::{Counters, ReplicaView, ServiceView};

/// Why a replica was started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It exited by itself.
    Exit,
    /// It was killed by a signal that was not ours.
    Signal,
    Oom,
    /// The liveness probe failed `fall` times.
    Health,
    Watchdog,
    /// It was not ready within `start_timeout`.
    StartTimeout,
    /// No process could be made of it.
    StartFailed,
    /// The one try after the budget was spent.
    HalfOpen,
}

impl Reason {
    fn word(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Signal => "signal",
            Self::Oom => "oom",
            Self::Health => "health",
            Self::Watchdog => "watchdog",
            Self::StartTimeout => "start_timeout",
            Self::StartFailed => "start_failed",
            Self::HalfOpen => "half_open",
        }
    }
}

/// Restarts since this agent began, by service and reason, counted from the notes. A service that left the configuration leaves the
/// table with its `Removed` note, so it is as large as the configuration.
#[derive(Debug, Default)]
pub struct Tally {
    restarts: BTreeMap<String, BTreeMap<Reason, u64>>,
    /// What the agent holds against a replica whose end is still to come.
    pending: BTreeMap<(String, u16), Reason>,
    fences: metrics_fences::Over,
    pub notes: u64,
}

impl Tally {
    /// To be called with every note.
    pub fn count(&mut self, note: &Note) {
        self.notes = self.notes.saturating_add(1);
        let Some(subject) = &note.subject else { return };
        let key = (subject.service.clone(), subject.replica.unwrap_or(0));
        let pending = match &note.kind {
            NoteKind::NotReadyInTime { .. } => Reason::StartTimeout,
            NoteKind::NotAlive { .. } => Reason::Health,
            NoteKind::WatchdogMissed { .. } | NoteKind::WatchdogTriggered => Reason::Watchdog,
            NoteKind::Ended { exit, oom, next, .. } => return self.ended(key, *exit, *oom, next),
            NoteKind::EndedUnseen { exit, next, .. } => return self.ended(key, *exit, false, next),
            NoteKind::StartFailed { next: Next::Restart { .. }, .. } => return self.add(key.0, Reason::StartFailed),
            NoteKind::HalfOpen { .. } => return self.add(key.0, Reason::HalfOpen),
            NoteKind::Removed if subject.replica.is_none() => {
                self.restarts.remove(&key.0);
                self.fences.forget(&key.0);
                return self.pending.retain(|(service, _), _| *service != key.0);
            }
            NoteKind::Fence(fence) => return self.fences.count(note, fence),
            // A new run: nothing is held against it.
            NoteKind::Started { .. } => {
                self.pending.remove(&key);
                return;
            }
            NoteKind::StartFailed { .. }
            | NoteKind::Removed
            | NoteKind::Ready { .. }
            | NoteKind::Degraded { .. }
            | NoteKind::Recovered { .. }
            | NoteKind::Stopping { .. }
            | NoteKind::KillingTree { .. }
            | NoteKind::Stopped { .. }
            | NoteKind::Balance(_)
            | NoteKind::Host(_)
            | NoteKind::Copy(_)
            | NoteKind::Done { .. }
            | NoteKind::Stuck { .. }
            | NoteKind::Unstuck { .. }
            | NoteKind::Waiting { .. }
            | NoteKind::BudgetSpent { .. }
            | NoteKind::BudgetRefilled
            | NoteKind::Adopted { .. }
            | NoteKind::Status { .. }
            | NoteKind::LastLines { .. }
            | NoteKind::LinesDropped { .. }
            | NoteKind::Commanded { .. }
            | NoteKind::Reloaded { .. }
            | NoteKind::ReloadRefused { .. }
            | NoteKind::ShuttingDown { .. }
            | NoteKind::ShutDown { .. }
            | NoteKind::Stalled { .. }
            | NoteKind::NotPersisted { .. }
            | NoteKind::Remark { .. } => return,
        };
        self.pending.insert(key, pending);
    }

    fn ended(&mut self, key: (String, u16), exit: Exit, oom: bool, next: &Next) {
        let pending = self.pending.remove(&key);
        let own = match exit {
            _ if oom => Reason::Oom,
            Exit::Signal { .. } => Reason::Signal,
            Exit::Code(_) | Exit::Unknown => Reason::Exit,
        };
        match next {
            Next::Restart { .. } => self.add(key.0, pending.unwrap_or(own)),
            Next::Nothing { .. } | Next::Hold { .. } | Next::StartAgain => {}
        }
    }

    fn add(&mut self, service: String, reason: Reason) {
        *self.restarts.entry(service).or_default().entry(reason).or_default() += 1;
    }
}

/// The agent's own figures.
#[derive(Clone, Copy, Debug)]
pub struct Agent<'a> {
    pub version: &'a str,
    /// Seconds since 1970.
    pub started_unix_s: u64,
    pub counters: Counters,
    /// Of the latest journal entry.
    pub seq: u64,
    /// Whether the latest reload (or the first load) was accepted.
    pub config_loaded: bool,
}

/// What is known of the host.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    pub checks: &'a [CheckView],
    pub fences: &'a FencesView<'a>,
    pub copies: &'a [CopyView<'a>],
    pub readings: &'a Readings,
}

/// The whole text.
#[must_use]
pub fn text(
    views: &[ServiceView<'_>],
    tally: &Tally,
    usage: UsageOf<'_>,
    agent: &Agent<'_>,
    balancers: &[Balancer],
    host: &Host<'_>,
) -> String {
    let mut out = String::with_capacity(4_096 + views.len() * 1_024);
    about_agent(&mut out, tally, agent);
    states(&mut out, views);
    restarts(&mut out, views, tally);
    of_services(&mut out, views);
    of_processes(&mut out, views, usage);
    metrics_fences::text(&mut out, views, host.fences, &tally.fences);
    metrics_copies::text(&mut out, host.copies);
    metrics_balancers::text(&mut out, balancers);
    metrics_host::text(&mut out, host.checks, host.readings);
    out
}

pub(super) fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing into a String cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

pub(super) fn sample(out: &mut String, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
    out.push_str(name);
    for (index, (label, text)) in labels.iter().enumerate() {
        out.push(if index == 0 { '{' } else { ',' });
        out.push_str(label);
        out.push_str("=\"");
        escape(out, text);
        out.push('"');
    }
    if !labels.is_empty() {
        out.push('}');
    }
    // Writing into a String cannot fail.
    let _ = writeln!(out, " {value}");
}

fn escape(out: &mut String, text: &str) {
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

fn about_agent(out: &mut String, tally: &Tally, agent: &Agent<'_>) {
    family(out, "mainstay_build_info", "gauge", "The version that runs.");
    sample(out, "mainstay_build_info", &[("version", agent.version)], 1);
    let loaded = u64::from(agent.config_loaded);
    let counters = &agent.counters;
    for (name, kind, help, value) in [
        ("mainstay_start_time_seconds", "gauge", "When this agent began, seconds since 1970.", agent.started_unix_s),
        ("mainstay_config_last_load_success", "gauge", "Whether the latest load of the file was accepted.", loaded),
        ("mainstay_events_seq", "gauge", "Number of the latest journal entry.", agent.seq),
        ("mainstay_notes_total", "counter", "Notes of the engine since this agent began.", tally.notes),
        ("mainstay_engine_steps_total", "counter", "Events that the engine has handled.", counters.steps),
        (
            "mainstay_engine_stale_events_total",
            "counter",
            "Answers of an old run that were dropped.",
            counters.stale_events,
        ),
        (
            "mainstay_log_lines_dropped_total",
            "counter",
            "Lines of services that were dropped.",
            counters.log_lines_dropped,
        ),
    ] {
        family(out, name, kind, help);
        sample(out, name, &[], value);
    }
}

/// The words of `ReplicaView::word` that are no state of the engine.
const FENCED: [&str; 3] = ["throttled", "frozen", "held"];

fn states(out: &mut String, views: &[ServiceView<'_>]) {
    let name = "mainstay_service_state";
    family(out, name, "gauge", "1 for the state that the service is in, 0 for the others.");
    for view in views {
        for state in StateName::ALL.iter().map(|state| state.word()).chain(FENCED) {
            let labels = [("service", view.plan.name.as_str()), ("state", state)];
            sample(out, name, &labels, u8::from(view.word == state));
        }
    }
}

fn restarts(out: &mut String, views: &[ServiceView<'_>], tally: &Tally) {
    let name = "mainstay_service_restarts_total";
    family(out, name, "counter", "Restarts that nobody had asked for, since this agent began.");
    for view in views {
        let service = view.plan.name.as_str();
        let counted = tally.restarts.get(service);
        // The most frequent reason is there from the start, so that its first increase is seen.
        let exits = counted.and_then(|by_reason| by_reason.get(&Reason::Exit)).copied().unwrap_or(0);
        sample(out, name, &[("service", service), ("reason", Reason::Exit.word())], exits);
        for (reason, count) in counted.into_iter().flatten().filter(|(reason, _)| **reason != Reason::Exit) {
            sample(out, name, &[("service", service), ("reason", reason.word())], count);
        }
    }
}

fn of_services(out: &mut String, views: &[ServiceView<'_>]) {
    let gauges: [(&str, &str, GaugeOf); 6] = [
        ("mainstay_service_wanted", "Whether some replica is wanted up.", |view| Some(i64::from(view.wanted))),
        ("mainstay_service_replicas", "Replicas configured.", |view| i64::try_from(view.replicas.len()).ok()),
        ("mainstay_service_replicas_ready", "Replicas that are ready, throttled ones too.", |view| {
            let ready = |one: &&ReplicaView<'_>| matches!(one.word(), "ready" | "throttled");
            i64::try_from(view.replicas.iter().filter(ready).count()).ok()
        }),
        ("mainstay_service_flapping", "Whether some replica changes its state again and again.", |view| {
            Some(i64::from(view.replicas.iter().any(|one| one.flapping)))
        }),
        ("mainstay_service_impaired", "Whether a disk or NIC that it needs fails.", |view| {
            Some(i64::from(view.impaired.is_some()))
        }),
        ("mainstay_service_last_exit_code", "Exit code of the latest end; 128 and the signal when killed.", |view| {
            let ended = view.replicas.iter().filter_map(|one| one.memory.last_exit);
            match ended.max_by_key(|last| last.at_wall)?.exit {
                Exit::Code(code) => Some(i64::from(code)),
                Exit::Signal { signal, .. } => Some(128 + i64::from(signal)),
                Exit::Unknown => None,
            }
        }),
    ];
    for (name, help, value) in gauges {
        family(out, name, "gauge", help);
        for view in views {
            if let Some(value) = value(view) {
                sample(out, name, &[("service", &view.plan.name)], value);
            }
        }
    }
}

/// A figure of one service; `None` leaves the sample out.
type GaugeOf = fn(&ServiceView<'_>) -> Option<i64>;

/// Sums over the replicas, roles included: they are how the agent's own cost is seen.
fn of_processes(out: &mut String, views: &[ServiceView<'_>], usage: UsageOf<'_>) {
    let mut cpu = String::new();
    let mut memory = String::new();
    let (cpu_name, memory_name) = ("mainstay_service_cpu_seconds_total", "mainstay_service_memory_bytes");
    for view in views {
        let used = view.replicas.iter().filter(|one| one.pid.is_some()).map(|one| usage(one.id));
        let (mut cpu_usec, mut memory_bytes) = (None::<u64>, None::<u64>);
        for usage in used {
            cpu_usec = sum(cpu_usec, usage.cpu_usec);
            memory_bytes = sum(memory_bytes, usage.memory_bytes);
        }
        let labels = [("service", view.plan.name.as_str())];
        if let Some(usec) = cpu_usec {
            let seconds = format!("{}.{:06}", usec / 1_000_000, usec % 1_000_000);
            sample(&mut cpu, cpu_name, &labels, seconds);
        }
        if let Some(bytes) = memory_bytes {
            sample(&mut memory, memory_name, &labels, bytes);
        }
    }
    family(out, cpu_name, "counter", "CPU time of the present processes.");
    out.push_str(&cpu);
    family(out, memory_name, "gauge", "Memory of the present processes.");
    out.push_str(&memory);
}

fn sum(left: Option<u64>, right: Option<u64>) -> Option<u64> {
    match (left, right) {
        (Some(left), Some(right)) => Some(left.saturating_add(right)),
        (one, None) | (None, one) => one,
    }
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
