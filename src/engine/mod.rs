//! The engine decides. Pure: no clock, no I/O, no threads, no randomness but its own seeded generator.
//!
//! The shell calls [`Engine::step`] with what happened and performs the actions that come back, in order.
//!
//! One step has these phases:
//! 1. The event is folded into the state of the replica it concerns (`start`, `stop`, `ended`, `health`, `command`, `reload`, `adopt`).
//! 2. Until nothing is left to do: every replica on the worklist is settled (`settle`): what it is, is compared with what it should be;
//!    timers that are due fire; rolling restarts and waiting requests of the services touched are looked at.
//! 3. Balancers whose tables are others now hand them out (`balancing`); these actions come first, so that a replica is out of its
//!    tables before it is signalled.
//! 4. What changed of a replica's memory is handed out to be written.
//!
//! A replica gets on the worklist when something it depends on changes, so a step costs what it affects and never a
//! look at all services. Nothing is armed that is not needed: at rest there is no deadline at all.
//!
//! Dependencies form no cycle (over all four kinds of edges together); the configuration check sees to that.

#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::wildcard_enum_match_arm,
    clippy::float_arithmetic
)]

pub mod action;
pub mod balance;
pub mod copies;
pub mod event;
pub mod fence;
pub mod host;
pub mod memory;
pub mod note;
pub mod plan;
pub mod types;
pub mod view;

mod access;
mod adopt;
mod balancing;
mod command;
mod diff;
mod drain;
mod ended;
mod explain;
mod health;
#[cfg(debug_assertions)]
mod invariants;
mod order;
mod reload;
mod replicas;
mod request;
mod restart;
mod rng;
mod rolling;
mod service;
mod settle;
mod shutdown;
mod start;
mod stop;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod testkit;
mod timers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use action::{Action, Level, NoteKind};
use balance::table::Table;
use event::Event;
use plan::Plan;
use request::Request;
use rng::Rng;
use service::Service;
use timers::{TimerKey, Timers};
use types::{Now, ReplicaId, RequestId, RunId, ServiceId, Time};
use view::{Counters, ServiceView};

/// The whole state. It can be written to a file and read back between two steps: the same events then give the same actions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Engine {
    plan: Plan,
    services: BTreeMap<ServiceId, Box<Service>>,
    names: BTreeMap<String, ServiceId>,
    next_service: u32,
    next_generation: u64,
    next_decision: u64,
    rng: Rng,
    /// By the monotonic clock.
    timers: Timers,
    /// By the boot clock.
    boot_timers: Timers,
    requests: BTreeMap<RequestId, Request>,
    /// Decisions that are not known to be on disk, and who waits for them.
    decisions: BTreeMap<u64, RequestId>,
    slots: order::Slots,
    shutdown: Option<shutdown::Shutdown>,
    /// Services whose last replica was forgotten in the latest step: their names are still needed while its actions are performed.
    departed: Vec<ServiceId>,
    /// Replicas whose process may exist; roles are not counted.
    populated: u32,
    counters: Counters,
    /// What had been decided of services that left the configuration, and of their replicas: should they come back, it holds.
    #[serde(default)]
    kept: BTreeMap<String, (service::Decided, BTreeMap<u16, service::Kept>)>,
    /// The latest readings of the host, for whoever looks.
    #[serde(default)]
    readings: host::readings::Readings,
    /// What the proxy was told of each balancer.
    #[serde(default)]
    told: BTreeMap<String, Table>,
    /// Some of these are written down for the next agent.
    #[serde(default)]
    tables_kept: bool,
    /// Backends, and the balancers that keep them out because connections to them fail.
    #[serde(default)]
    ejections: BTreeMap<String, BTreeMap<String, balancing::KeptOut>>,
    #[serde(default)]
    host: host::HostState,
    #[serde(default)]
    fence: fence::FenceState,
    #[serde(default)]
    copies: copies::CopiesState,
    now: Now,
    /// Replicas to be settled.
    #[serde(skip)]
    dirty: BTreeSet<ReplicaId>,
    /// Services whose rolling restart and requests are to be looked at.
    #[serde(skip)]
    touched: BTreeSet<ServiceId>,
    /// Replicas whose memory is not yet handed out.
    #[serde(skip)]
    unsaved: BTreeSet<ReplicaId>,
    /// Services whose balancers' tables may have changed.
    #[serde(skip)]
    unbalanced: BTreeSet<ServiceId>,
    /// The balancers themselves may have changed.
    #[serde(skip)]
    rebalance_all: bool,
    #[serde(skip)]
    out: Vec<Action>,
}

impl Engine {
    /// `seed` is for jitter. The first event is `Event::Begin`.
    #[must_use]
    pub fn new(plan: Plan, seed: u64, now: Now) -> Self {
        let mut engine = Self {
            plan: Plan::default(),
            services: BTreeMap::new(),
            names: BTreeMap::new(),
            next_service: 0,
            // Above those of any earlier agent of this boot.
            next_generation: now.boot.0,
            next_decision: 1,
            rng: Rng::new(seed),
            timers: Timers::default(),
            boot_timers: Timers::default(),
            requests: BTreeMap::new(),
            decisions: BTreeMap::new(),
            slots: order::Slots::default(),
            shutdown: None,
            departed: Vec::new(),
            populated: 0,
            counters: Counters::default(),
            kept: BTreeMap::new(),
            readings: host::readings::Readings::default(),
            told: BTreeMap::new(),
            tables_kept: false,
            ejections: BTreeMap::new(),
            host: host::HostState::default(),
            fence: fence::FenceState::default(),
            copies: copies::CopiesState::default(),
            now,
            dirty: BTreeSet::new(),
            touched: BTreeSet::new(),
            unsaved: BTreeSet::new(),
            unbalanced: BTreeSet::new(),
            rebalance_all: false,
            out: Vec::new(),
        };
        let plan = engine.with_helpers(plan);
        engine.install(plan);
        engine
    }

    /// Handles one event; the caller performs the actions in order and reports what became of them as later events.
    pub fn step(&mut self, now: Now, event: Event) -> Vec<Action> {
        self.now = now;
        self.counters.steps += 1;
        for service in std::mem::take(&mut self.departed) {
            self.drop_service(service);
        }
        self.handle(event);
        self.run_to_rest();
        self.rebalance();
        // With the last table a proxy that only stayed for it leaves.
        while !self.dirty.is_empty() || !self.touched.is_empty() {
            self.run_to_rest();
            self.rebalance();
        }
        self.check_shutdown();
        self.review_alerts();
        self.tend_watchdog();
        self.persist();
        #[cfg(debug_assertions)]
        self.check_sometimes();
        std::mem::take(&mut self.out)
    }

    /// When to call `step(now, Event::Tick)` at the latest, on the monotonic clock.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.timers.first()
    }

    /// The same for deadlines on the boot clock (periods).
    #[must_use]
    pub fn next_boot_deadline(&self) -> Option<Time> {
        self.boot_timers.first()
    }

    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Every service (roles included), in the order of the plan, those on their way out last.
    #[must_use]
    pub fn services(&self, now: Now) -> Vec<ServiceView<'_>> {
        self.view_all(now)
    }

    #[must_use]
    pub fn service(&self, name: &str, now: Now) -> Option<ServiceView<'_>> {
        let known = self.names.get(name).filter(|id| !self.departed.contains(id));
        known.map(|id| self.view_one(*id, now))
    }

    #[must_use]
    pub fn service_id(&self, name: &str) -> Option<ServiceId> {
        self.names.get(name).copied()
    }

    /// Answers for a service that left in the latest step as well, so that its last actions can be performed.
    #[must_use]
    pub fn service_name(&self, id: ServiceId) -> Option<&str> {
        self.services.contains_key(&id).then(|| self.name(id))
    }

    /// The plan this replica is (or is about to be) started from.
    #[must_use]
    pub fn service_plan(&self, id: ServiceId) -> Option<&plan::ServicePlan> {
        self.services.contains_key(&id).then(|| self.plan_of(id))
    }

    /// The roles of this agent with the replica of each, also of those that the plan does not have any more and that have not left yet.
    pub fn roles(&self) -> impl Iterator<Item = (plan::Role, ReplicaId)> {
        self.services.keys().filter_map(|service| match self.plan_of(*service).launch {
            plan::Launch::Role(role) => Some((role, ReplicaId { service: *service, index: 0 })),
            plan::Launch::Command => None,
        })
    }

    /// The run whose process or tree exists (or is being made) now.
    #[must_use]
    pub fn current_run(&self, replica: ReplicaId) -> Option<RunId> {
        let found = self.services.get(&replica.service)?.replicas.get(replica.index)?;
        found.run.as_ref().map(|_| found.memory.run)
    }

    /// What is to be remembered of a replica, as it is now.
    #[must_use]
    pub fn memory(&self, replica: ReplicaId) -> Option<&memory::Memory> {
        Some(&self.services.get(&replica.service)?.replicas.get(replica.index)?.memory)
    }

    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The backends of every balancer as they stand, for a proxy that knows nothing (yet, or any more).
    #[must_use]
    pub fn tables(&self, now: Now) -> Vec<Table> {
        self.told.keys().filter_map(|name| self.table_of(name, now.mono)).collect()
    }

    /// Whether the proxy has been told of this backend: what it says of others is not listened to.
    #[must_use]
    pub fn has_backend(&self, balancer: &str, backend: &str) -> bool {
        self.told.get(balancer).is_some_and(|table| table.backends.iter().any(|one| one.name == backend))
    }

    /// Whether the proxy has been told of this balancer.
    #[must_use]
    pub fn has_balancer(&self, balancer: &str) -> bool {
        self.told.contains_key(balancer)
    }

    /// Whether a decision says what holds without it as well, so that nothing of it need be kept on disk.
    #[must_use]
    pub fn is_implied(&self, decision: &event::Decision) -> bool {
        let whole = decision.replica.and_then(|_| self.service_id(&decision.service));
        let whole = whole.map(|id| self.service_at(id).decided.clone()).unwrap_or_default();
        let same = (decision.wanted, decision.drained, &decision.fence) == (whole.wanted, whole.drained, &whole.fence);
        same && decision.fences == 0 && decision.restore.is_none() && decision.failover.is_none()
    }

    /// The changes that applying `plan` would bring; nothing is changed.
    #[must_use]
    pub fn preview(&self, plan: &Plan) -> Vec<action::Change> {
        diff::told(diff::changes(&self.plan, plan))
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Tick => {}
            Event::Begin { found, decisions, host, fences, tables } => {
                self.resume_tables(tables.map(|tables| *tables).unwrap_or_default());
                self.begin(found, decisions, host.map(|host| *host), fences.map(|fences| *fences));
            }
            Event::Spawned { replica, run, pid } => self.spawned(replica, run, pid),
            Event::SpawnFailed { replica, run, ours, error } => self.spawn_failed(replica, run, ours, error),
            Event::Executed { replica, run } => self.executed(replica, run),
            Event::ExecFailed { replica, run, error } => self.exec_failed(replica, run, error),
            Event::Exited { replica, run, exit, oom, remaining } => self.exited(replica, run, exit, oom, remaining),
            Event::TreeEmpty { replica, run } => self.tree_empty(replica, run),
            Event::TreeRemains { replica, run, processes } => self.tree_remains(replica, run, processes),
            Event::LastLines { replica, run, lines } => self.keep_last_lines(replica, run, lines),
            Event::Notified { replica, run, message } => self.notified(replica, run, message),
            Event::ReadyByFd { replica, run } => self.ready_by(replica, run, start::Sign::Fd),
            Event::ReadyByLog { replica, run } => self.ready_by(replica, run, start::Sign::Log),
            Event::ProbeDone { replica, run, generation, result } => self.probe_done(replica, run, generation, result),
            Event::Command { request, caller, verb, target } => self.command(request, caller, verb, &target),
            Event::Persisted { decision, result } => self.persisted(decision, result),
            Event::Reload { request, caller, plan } => self.reload(request, caller, *plan),
            Event::Shutdown { caller } => self.begin_shutdown(caller),
            Event::Stalled { by, suspended } => self.stalled(by, suspended),
            Event::LinesDropped { replica, lines, reason } => self.lines_dropped(replica, lines, reason),
            Event::Drained { balancer, replica, run } => self.drained(&balancer, replica, run),
            Event::Ejected { balancer, backend, out } => self.ejected(balancer, backend, out),
            Event::Host(event) => {
                self.readings.keep(&event);
                let devices = matches!(*event, host::HostEvent::Devices(_));
                let system = matches!(&*event, host::HostEvent::Sampled { sample, .. } if matches!(**sample, host::sample::Sample::System(_)));
                self.host_event(*event);
                if devices {
                    self.devices_changed();
                }
                if system {
                    self.look_at_memory();
                }
            }
            Event::Copies(event) => self.copy_event(*event),
            Event::Wrote { replica, run, what, at, result } => self.wrote(replica, run, what, at, result),
            Event::Gauged { asked, gauges } => self.gauged(asked, gauges),
            Event::ReloadRefused { why } => self.agent_note(Level::Error, NoteKind::ReloadRefused { why }),
            Event::Remark { level, text } => self.agent_note(level, NoteKind::Remark { text }),
        }
    }

    fn run_to_rest(&mut self) {
        // Far more than any legal step needs; beyond it something restarts something for ever.
        let mut rounds_left: u32 = 10_000_000;
        loop {
            rounds_left = rounds_left.saturating_sub(1);
            debug_assert!(rounds_left > 0, "a step does not come to rest");
            // INVARIANT: before any deadline, so that nobody is blamed for what a failing disk explains.
            if !self.host.changed.is_empty() {
                let changes = std::mem::take(&mut self.host.changed);
                self.checks_changed(&changes);
            } else if let Some(id) = self.dirty.pop_first() {
                self.settle(id);
            } else if let Some(key) = self.timers.pop_due(self.now.mono) {
                self.fire(key);
            } else if let Some(key) = self.boot_timers.pop_due(self.now.boot) {
                self.fire(key);
            } else if let Some(service) = self.touched.pop_first() {
                self.advance_rolling(service);
                self.review_requests(service);
            } else if self.copies_are_due() {
                self.review_copies();
            } else {
                break;
            }
        }
    }

    fn fire(&mut self, key: TimerKey) {
        match key {
            TimerKey::Replica(id, timer) => self.replica_timer(id, timer),
            TimerKey::Loss(service) => self.service_late(service),
            TimerKey::Request(request) => self.decision_late(request),
            TimerKey::Shutdown => self.shutdown_deadline(),
            TimerKey::Alerts => self.alert_timer(),
            TimerKey::Pet => self.pet_timer(),
            TimerKey::Host => self.host_deadline(),
            TimerKey::Gauge => self.gauge_timer(),
            TimerKey::Copies => self.copies_timer(),
        }
    }

    fn persist(&mut self) {
        for id in std::mem::take(&mut self.unsaved) {
            if let Some(replica) = self.find(id) {
                let memory = Arc::new(replica.memory.clone());
                self.out.push(Action::Persist { replica: id, memory });
            }
        }
        if std::mem::take(&mut self.host.unsaved) {
            let memory = Box::new(self.host_memory());
            self.out.push(Action::PersistHost { memory });
        }
        if std::mem::take(&mut self.fence.unsaved) {
            let memory = Box::new(self.fence.memory.clone());
            self.out.push(Action::PersistFences { memory });
        }
    }

    fn agent_note(&mut self, level: Level, kind: NoteKind) {
        self.out.push(Action::Note(action::Note { level, subject: None, kind }));
    }
}
