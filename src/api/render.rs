//! The engine's views as the API's types. Pure; what the views do not know (use of CPU and memory) is asked through a closure.

use std::time::Duration;

use super::error::{ApiError, Code};
use super::fences;
use super::http::Response;
use super::proto::{
    Change, Config, Done, Edge, LastExit, Link, NextStep, Reloaded, Replica, ReplicaStory, Service, ServiceDetail,
    Services, Story, Why, Word,
};
use super::route::Roles;
use super::time::rfc3339_ns;
use crate::engine::action::{self, Effect, Level, Outcome};
use crate::engine::event::{Wait, Wanted};
use crate::engine::fence::plan::FenceLevel;
use crate::engine::memory;
use crate::engine::plan::{Kind, Launch, Listen, Plan};
use crate::engine::types::{Exit, Now, ReplicaId, StateName, Time};
use crate::engine::view::{EdgeKind, ReplicaView, ServiceView};

/// How far `why` goes down a chain of services that wait for each other, and how many it tells of on one level.
pub const STORY_DEPTH_MAX: usize = 8;
pub const STORY_WIDTH_MAX: usize = 8;

/// What every answer carries.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    pub now: Now,
    /// Of the latest journal entry.
    pub seq: u64,
}

/// What a replica's processes use; `None` where nobody can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Of one CPU, since the previous reading.
    pub cpu_percent: Option<f64>,
    /// Since the run began.
    pub cpu_usec: Option<u64>,
    pub memory_bytes: Option<u64>,
}

/// Asks for the use of one replica; must not block.
pub type UsageOf<'a> = &'a dyn Fn(ReplicaId) -> Usage;

impl Stamp {
    #[must_use]
    pub fn at(&self) -> String {
        rfc3339_ns(self.now.wall.0)
    }

    /// What is due at a monotonic instant.
    pub(super) fn next(&self, next: Option<&(String, Time)>) -> Option<NextStep> {
        let (what, due) = next?;
        let wait = due.since(self.now.mono);
        Some(NextStep { what: what.clone(), at: rfc3339_ns(self.now.wall.after(wait).0), in_ms: ms(wait) })
    }
}

/// `GET /v1/services`
#[must_use]
pub fn services(views: &[ServiceView<'_>], roles: Roles, usage: UsageOf<'_>, stamp: &Stamp) -> Services {
    let shown = views.iter().filter(|view| roles == Roles::Shown || !is_role(view));
    Services { at: stamp.at(), seq: stamp.seq, services: shown.map(|view| service(view, usage, stamp)).collect() }
}

/// `GET /v1/services/NAME`
#[must_use]
pub fn service_detail(view: &ServiceView<'_>, usage: UsageOf<'_>, stamp: &Stamp) -> ServiceDetail {
    let process = &view.plan.process;
    let listen = process.listen.iter().map(|listen| match listen {
        Listen::Tcp(address) => format!("tcp:{address}"),
        Listen::Udp(address) => format!("udp:{address}"),
        Listen::Unix(path) => format!("unix:{path}"),
    });
    ServiceDetail {
        at: stamp.at(),
        seq: stamp.seq,
        service: service(view, usage, stamp),
        command: process.command.clone(),
        user: process.user.as_ref().map(|user| user.name.clone()),
        listen: listen.collect(),
    }
}

fn service(view: &ServiceView<'_>, usage: UsageOf<'_>, stamp: &Stamp) -> Service {
    let kind = match view.plan.kind {
        Kind::Daemon => "daemon",
        Kind::Oneshot => "oneshot",
        Kind::Every(_) => "every",
    };
    let edges = view.edges.iter().map(|edge| Edge {
        to: edge.to.to_owned(),
        kind: edge_word(edge.kind).into(),
        blocking: edge.blocking,
    });
    Service {
        name: view.plan.name.clone(),
        state: view.word.into(),
        health: health(view).into(),
        wanted: view.wanted,
        why: view.why.clone(),
        impaired: view.impaired.clone(),
        kind: kind.into(),
        role: is_role(view),
        edges: edges.collect(),
        replicas: view.replicas.iter().map(|one| replica(view, one, usage, stamp)).collect(),
    }
}

fn replica(view: &ServiceView<'_>, one: &ReplicaView<'_>, usage: UsageOf<'_>, stamp: &Stamp) -> Replica {
    let usage = if one.pid.is_some() { usage(one.id) } else { Usage::default() };
    Replica {
        replica: one.id.index,
        state: one.word().into(),
        health: if one.memory.wanted == Wanted::Up { replica_health(one).word() } else { "unknown" }.into(),
        pid: one.pid,
        run: one.memory.run.0,
        since_ms: since_ms(one, stamp),
        restarts: one.memory.restarts,
        last_exit: one.memory.last_exit.as_ref().map(last_exit),
        cpu_percent: usage.cpu_percent.map(|percent| (percent * 10.0).round() / 10.0),
        memory_bytes: usage.memory_bytes,
        release: None,
        fence: one.fence.as_ref().map(|fence| fences::replica_fence(fence, stamp)),
        limits: fences::limits(&one.limits),
        wanted: one.memory.wanted == Wanted::Up,
        flapping: one.flapping,
        pending_restart: one.pending_restart,
        drained: one.drained,
        frozen: one.frozen,
        port: view.plan.port_of(one.id.index),
        why: one.why.clone(),
        next: stamp.next(one.next.as_ref()),
        status: one.memory.status_text.clone(),
    }
}

/// `GET /v1/services/NAME/why`. `all` is where the stories of blocking services come from.
#[must_use]
pub fn why(view: &ServiceView<'_>, all: &[ServiceView<'_>], stamp: &Stamp) -> Why {
    Why { at: stamp.at(), seq: stamp.seq, story: story(view, all, stamp, STORY_DEPTH_MAX) }
}

fn story(view: &ServiceView<'_>, all: &[ServiceView<'_>], stamp: &Stamp, depth_left: usize) -> Story {
    let blocking = view.edges.iter().filter(|edge| edge.blocking && depth_left > 0);
    let blockers = blocking.filter_map(|edge| all.iter().find(|other| other.plan.name == edge.to));
    Story {
        service: view.plan.name.clone(),
        state: view.word.into(),
        wanted: view.wanted,
        why: view.why.clone(),
        impaired: view.impaired.clone(),
        replicas: view.replicas.iter().map(|one| replica_story(one, stamp)).collect(),
        blocked_by: blockers
            .take(STORY_WIDTH_MAX)
            .map(|other| story(other, all, stamp, depth_left.saturating_sub(1)))
            .collect(),
    }
}

fn replica_story(one: &ReplicaView<'_>, stamp: &Stamp) -> ReplicaStory {
    let chain = one.memory.causes.iter();
    ReplicaStory {
        replica: one.id.index,
        state: one.word().into(),
        since_ms: since_ms(one, stamp),
        why: one.why.clone(),
        chain: chain.map(|cause| Link { at: rfc3339_ns(cause.at_wall.0), text: cause.text.clone() }).collect(),
        next: stamp.next(one.next.as_ref()),
        fence: one.fence.as_ref().map(|fence| fences::replica_fence(fence, stamp)),
        last_lines: one.last_lines.to_vec(),
    }
}

/// What services said of themselves is taken out: every user of the host can open `read.sock`, and their output is not for everybody.
pub fn conceal(service: &mut Service) {
    for replica in &mut service.replicas {
        replica.status = None;
    }
}

/// [`conceal`], for the chain of causes and those it leads to.
pub fn conceal_story(story: &mut Story) {
    for replica in &mut story.replicas {
        replica.last_lines.clear();
    }
    story.blocked_by.iter_mut().for_each(conceal_story);
}

/// The answer to a verb or a reload.
#[must_use]
pub fn outcome(outcome: &Outcome, service: &str, replica: Option<u16>, wait: Wait, stamp: &Stamp) -> Response {
    match outcome {
        Outcome::Done { persisted } => {
            let word = match wait {
                Wait::Outcome => "done",
                Wait::Decision => "accepted",
            };
            let done = Done {
                at: stamp.at(),
                seq: stamp.seq,
                service: service.to_owned(),
                replica,
                outcome: word.into(),
                persisted: *persisted,
            };
            Response::json(200, &done)
        }
        Outcome::Failed { why } => {
            ApiError::new(Code::ServiceFailed, why.as_str()).hint(format!("mainstay why {service}")).response()
        }
        Outcome::Unknown { message, hint } => {
            let mut error = ApiError::new(Code::ServiceUnknown, message.as_str());
            error.hint.clone_from(hint);
            error.response()
        }
        Outcome::Conflict { message } => ApiError::new(Code::ServiceConflict, message.as_str()).response(),
        Outcome::Copied(outcome) => super::copies::outcome(outcome, service, stamp),
        Outcome::Reloaded { changes } => Response::json(200, &reloaded(changes, Applied::Yes, stamp)),
    }
}

/// Whether a reload's plan has been carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    Yes,
    DryRun,
}

#[must_use]
pub fn reloaded(changes: &[action::Change], applied: Applied, stamp: &Stamp) -> Reloaded {
    let changes = changes.iter().map(|change| Change {
        service: change.service.clone(),
        effect: effect_word(change.effect).into(),
        why: change.why.clone(),
    });
    Reloaded { at: stamp.at(), seq: stamp.seq, dry_run: applied == Applied::DryRun, changes: changes.collect() }
}

/// `GET /v1/config`: the plan in force, with every environment value replaced (any of them may be a secret).
#[must_use]
pub fn config(plan: &Plan, file: &str, stamp: &Stamp) -> Config {
    let mut plan = plan.clone();
    for service in &mut plan.services {
        for value in service.process.env.values_mut() {
            "redacted".clone_into(value);
        }
    }
    let config = serde_json::to_value(&plan).unwrap_or_default();
    Config { at: stamp.at(), seq: stamp.seq, file: file.to_owned(), config }
}

/// 404 with the nearest name.
#[must_use]
pub fn unknown_service(name: &str, views: &[ServiceView<'_>]) -> ApiError {
    let error = ApiError::new(Code::ServiceUnknown, format!("no service \"{name}\""));
    let names = views.iter().map(|view| view.plan.name.as_str());
    match nearest(name, names) {
        Some(near) => error.hint(format!("did you mean \"{near}\"?")),
        None => error.hint("mainstay status lists the services"),
    }
}

/// The candidate that is at most a third of its letters away; the first of equals.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = candidates.map(|candidate| (distance(word, candidate), candidate));
    let close = scored.filter(|(edits, candidate)| *edits <= candidate.chars().count().div_ceil(3));
    close.min_by_key(|(edits, _)| *edits).map(|(_, candidate)| candidate)
}

/// Levenshtein's distance; words of the API are short.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, letter) in left.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, other) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

fn is_role(view: &ServiceView<'_>) -> bool {
    match view.plan.launch {
        Launch::Role(_) => true,
        Launch::Command => false,
    }
}

/// `ok` only when every wanted replica is up (or done) and has the disks and NICs that it needs; `unknown` while that is being found out or nothing is wanted.
fn health(view: &ServiceView<'_>) -> &'static str {
    let wanted = view.replicas.iter().filter(|one| one.memory.wanted == Wanted::Up);
    let worst = wanted.map(replica_health).max();
    let some_ready = view.replicas.iter().any(|one| replica_health(one) == Health::Ok);
    match worst {
        None => "unknown",
        Some(Health::Failing) if some_ready => Health::Degraded.word(),
        Some(Health::Ok) if view.impaired.is_some() => Health::Degraded.word(),
        Some(worst) => worst.word(),
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Health {
    Ok,
    Unknown,
    Degraded,
    Failing,
}

impl Health {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Degraded => "degraded",
            Self::Failing => "failing",
        }
    }
}

fn replica_health(one: &ReplicaView<'_>) -> Health {
    match one.fence.and_then(|fence| fence.level) {
        Some(FenceLevel::Freeze | FenceLevel::Hold) => return Health::Failing,
        Some(FenceLevel::Throttle) => return state_health(one.state).max(Health::Degraded),
        Some(FenceLevel::Kill) | None => {}
    }
    state_health(one.state)
}

fn state_health(state: StateName) -> Health {
    match state {
        StateName::Ready | StateName::Done => Health::Ok,
        StateName::Degraded => Health::Degraded,
        StateName::Waiting | StateName::Starting | StateName::Stopping | StateName::Stopped | StateName::Adopting => {
            Health::Unknown
        }
        StateName::Backoff | StateName::Failed | StateName::Stuck => Health::Failing,
    }
}

fn last_exit(last: &memory::LastExit) -> LastExit {
    let (code, signal, core) = match last.exit {
        Exit::Code(code) => (Some(code), None, false),
        Exit::Signal { signal, core } => (None, Some(signal), core),
        Exit::Unknown => (None, None, false),
    };
    LastExit { code, signal, core, oom: last.oom, at: rfc3339_ns(last.at_wall.0) }
}

fn since_ms(one: &ReplicaView<'_>, stamp: &Stamp) -> u64 {
    ms(stamp.now.wall.since(one.since_wall()))
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn edge_word(kind: EdgeKind) -> &'static str {
    match kind {
        EdgeKind::Requires => "requires",
        EdgeKind::Wants => "wants",
        EdgeKind::After => "after",
        EdgeKind::RestartWith => "restart_with",
    }
}

fn effect_word(effect: Effect) -> &'static str {
    match effect {
        Effect::Start => "start",
        Effect::Stop => "stop",
        Effect::Restart => "restart",
        Effect::Live => "live",
        Effect::Unchanged => "unchanged",
    }
}

/// The word of a journal entry's level.
#[must_use]
pub fn level_word(level: Level) -> Word {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
    }
    .into()
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
