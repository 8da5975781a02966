//! For the stories in the tests: an engine, a clock, and actions in short words.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Engine;
use super::action::{Action, Outcome, Whom};
use super::balance::plan::{Address, BalancerPlan, Delivery, Destination, Rules};
use super::balance::table::TableMemory;
use super::event::{Caller, Decision, Event, Found, FoundProcess, Target, Verb, Wait};
use super::fence::gauge::{Gauge, Written, Wrote};
use super::fence::record::Record;
use super::host::kind::CheckKind;
use super::host::{Change, CheckKey, Health};
use super::memory::Memory;
use super::plan::{Plan, Probe, ServicePlan};
use super::types::{Exit, Now, ReplicaId, RequestId, RunId, StateName, Time, signal_name};

pub(super) struct Kit {
    pub(super) engine: Engine,
    pub(super) now: Now,
    /// The whole of the last step, or of the time that passed.
    pub(super) last: Vec<Action>,
    next_request: u64,
    /// On disk.
    decisions: BTreeMap<(String, Option<u16>), Decision>,
    /// Written of balancers that leave.
    tables: Option<Box<TableMemory>>,
}

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) fn service(name: &str) -> ServicePlan {
    let mut plan = ServicePlan::with_defaults(name, &["/bin/true"]);
    plan.backoff.jitter_permille = 0;
    plan
}

/// A balancer with the defaults that leads to a service.
pub(super) fn balancer(name: &str, to: &str) -> BalancerPlan {
    BalancerPlan {
        name: name.to_owned(),
        listen: vec![Address::Unix(format!("/run/{name}.sock").into())],
        to: Destination::Service { name: to.to_owned(), socket: None, weights: Vec::new() },
        delivery: Delivery::Proxy,
        rules: Rules::default(),
    }
}

/// `Probe::Tcp` and no more.
pub(super) fn tcp() -> Probe {
    Probe::Tcp("127.0.0.1:1".into())
}

impl Kit {
    /// An agent's first life: everything is started.
    pub(super) fn new(services: Vec<ServicePlan>) -> Self {
        Self::begin(services, Vec::new(), Vec::new())
    }

    pub(super) fn plan(services: Vec<ServicePlan>) -> Plan {
        let mut plan = Plan { services, ..Plan::default() };
        plan.agent.shutdown_timeout = Duration::from_secs(90);
        plan
    }

    /// An agent with balancers.
    pub(super) fn balanced(services: Vec<ServicePlan>, balancers: Vec<BalancerPlan>) -> Self {
        let mut plan = Self::plan(services);
        plan.balancers = balancers;
        Self::begin_with(Time(1_000_000_000_000), plan, Vec::new(), Vec::new())
    }

    pub(super) fn begin(services: Vec<ServicePlan>, found: Vec<Found>, decisions: Vec<Decision>) -> Self {
        Self::begin_at(Time(1_000_000_000_000), services, found, decisions)
    }

    pub(super) fn begin_at(
        mono: Time,
        services: Vec<ServicePlan>,
        found: Vec<Found>,
        decisions: Vec<Decision>,
    ) -> Self {
        Self::begin_with(mono, Self::plan(services), found, decisions)
    }

    pub(super) fn begin_with(mono: Time, plan: Plan, found: Vec<Found>, decisions: Vec<Decision>) -> Self {
        Self::begin_on(mono, plan, Event::Begin { found, decisions, host: None, fences: None, tables: None })
    }

    pub(super) fn begin_on(mono: Time, plan: Plan, begin: Event) -> Self {
        let now = Now { mono, boot: mono, wall: mono, wall_synchronised: true };
        let engine = Engine::new(plan, 1, now);
        let mut kit = Self { engine, now, last: Vec::new(), next_request: 1, decisions: BTreeMap::new(), tables: None };
        kit.step(begin);
        kit
    }

    /// A check changes its state.
    pub(super) fn check(&mut self, kind: CheckKind, target: &str, to: Health, why: &str) -> Vec<String> {
        let key = CheckKey { kind, target: target.to_owned() };
        let before = self.engine.host.states.insert(key.clone(), (to, why.to_owned()));
        let from = before.map_or(Health::Unknown, |(state, _)| state);
        let name = self.engine.check_name(&key);
        self.engine.host.changed.push(Change { key, name, from, to, why: why.to_owned() });
        self.step(Event::Tick)
    }

    pub(super) fn step(&mut self, event: Event) -> Vec<String> {
        self.last = self.engine.step(self.now, event);
        for action in &self.last {
            if let Action::Decide { content, .. } = action {
                self.decisions.insert((content.service.clone(), content.replica), content.clone());
            }
            if let Action::PersistTables { memory } = action {
                self.tables = Some(memory.clone());
            }
        }
        self.words()
    }

    /// The last step, without notes and what is written.
    pub(super) fn words(&self) -> Vec<String> {
        self.last.iter().filter_map(|action| self.word(action)).collect()
    }

    pub(super) fn notes(&self) -> Vec<String> {
        let notes =
            self.last.iter().filter_map(|action| if let Action::Note(note) = action { Some(note) } else { None });
        notes.map(super::action::Note::sentence).collect()
    }

    fn word(&self, action: &Action) -> Option<String> {
        let name = |id: &ReplicaId| format!("{}/{}", self.engine.service_name(id.service).unwrap_or("?"), id.index);
        Some(match action {
            Action::Spawn { replica, run, .. } => format!("spawn {} run {}", name(replica), run.0),
            Action::Signal { replica, signal, whom, .. } => {
                let whom = if *whom == Whom::Main { "main" } else { "tree" };
                format!("{} to {whom} of {}", signal_name(*signal), name(replica))
            }
            Action::KillTree { replica, .. } => format!("kill {}", name(replica)),
            Action::Inspect { replica, .. } => format!("inspect {}", name(replica)),
            Action::Release { replica, .. } => format!("release {}", name(replica)),
            Action::Probe { replica, .. } => format!("probe {}", name(replica)),
            Action::CancelProbe { replica, .. } => format!("cancel probe of {}", name(replica)),
            Action::Balance { table } => {
                let backends: Vec<String> =
                    table.backends.iter().map(|backend| format!("{} {:?}", backend.name, backend.standing)).collect();
                format!("balance {}: {}", table.balancer, backends.join(", "))
            }
            Action::Unbalance { balancer } => format!("unbalance {balancer}"),
            Action::Forget { replica } => format!("forget {}", name(replica)),
            Action::Decide { content, .. } => {
                let drained = if content.drained { " drained" } else { "" };
                let fenced = content.fence.as_ref().map(|fence| format!(" fenced {}", fence.level.word()));
                let fences = if content.fences > 0 { format!(" fences {}", content.fences) } else { String::new() };
                let fenced = fenced.unwrap_or_default();
                format!("decide {} {:?}{drained}{fenced}{fences}", content.service, content.wanted)
            }
            Action::Answer { request, outcome } => format!("answer {}: {}", request.0, outcome_word(outcome)),
            Action::Exit { clean } => format!("exit {clean:?}"),
            Action::Freeze { replica, frozen: true, .. } => format!("freeze {}", name(replica)),
            Action::Freeze { replica, frozen: false, .. } => format!("thaw {}", name(replica)),
            Action::Alert { body, .. } => format!("alert {} {}", body.event, body.subject),
            Action::Copy { set, what } => format!("copy {set} {what:?}"),
            Action::Pet => "pet".to_owned(),
            Action::Limit { replica, .. } => format!("limit {}", name(replica)),
            Action::Gauge { runs, .. } => {
                let runs: Vec<String> = runs.iter().map(|(replica, _)| name(replica)).collect();
                format!("gauge {}", runs.join(", "))
            }
            Action::Watch { .. } | Action::PersistHost { .. } | Action::PersistFences { .. } => return None,
            Action::Refresh { .. } | Action::Persist { .. } | Action::PersistTables { .. } | Action::Note(_) => {
                return None;
            }
        })
    }

    pub(super) fn id(&self, name: &str) -> ReplicaId {
        let (service, index) = name.split_once('/').unwrap_or((name, "0"));
        let service = self.engine.service_id(service).expect("service is known");
        ReplicaId { service, index: index.parse().expect("a number") }
    }

    pub(super) fn memory(&self, name: &str) -> Memory {
        self.engine.at(self.id(name)).memory.clone()
    }

    pub(super) fn run(&self, name: &str) -> RunId {
        self.memory(name).run
    }

    pub(super) fn state(&self, name: &str) -> StateName {
        self.memory(name).state
    }

    pub(super) fn why(&self, name: &str) -> String {
        self.engine.service(name, self.now).and_then(|view| view.why).unwrap_or_default()
    }

    /// The child exists and its exec succeeded.
    pub(super) fn exec(&mut self, name: &str) -> Vec<String> {
        let (replica, run) = (self.id(name), self.run(name));
        let mut words = self.step(Event::Spawned { replica, run, pid: 100 });
        words.extend(self.step(Event::Executed { replica, run }));
        words
    }

    pub(super) fn exit(&mut self, name: &str, code: i32) -> Vec<String> {
        self.exit_leaving(name, Exit::Code(code), 0)
    }

    pub(super) fn exit_leaving(&mut self, name: &str, exit: Exit, remaining: u32) -> Vec<String> {
        let (replica, run) = (self.id(name), self.run(name));
        self.step(Event::Exited { replica, run, exit, oom: false, remaining })
    }

    pub(super) fn empty(&mut self, name: &str) -> Vec<String> {
        let (replica, run) = (self.id(name), self.run(name));
        self.step(Event::TreeEmpty { replica, run })
    }

    /// The answer to the probe under way.
    pub(super) fn answer(&mut self, name: &str, result: Result<(), &str>) -> Vec<String> {
        let (replica, run) = (self.id(name), self.run(name));
        let generation = self.engine.at(replica).run.as_ref().and_then(|run| run.probe).expect("a probe is under way");
        self.step(Event::ProbeDone { replica, run, generation, result: result.map_err(str::to_owned) })
    }

    pub(super) fn command(&mut self, verb: Verb, target: &str) -> Vec<String> {
        self.command_waiting(verb, target, Wait::Outcome)
    }

    pub(super) fn command_waiting(&mut self, verb: Verb, target: &str, wait: Wait) -> Vec<String> {
        let (service, replica) = match target.split_once('/') {
            Some((service, index)) => (service, index.parse().ok()),
            None => (target, None),
        };
        let request = RequestId(self.next_request);
        self.next_request += 1;
        let target = Target { service: service.to_owned(), replica, wait, why: None };
        self.step(Event::Command { request, caller: Caller::Agent, verb, target })
    }

    /// The group of the present run, of which nothing is known.
    pub(super) fn gauge(&self, name: &str) -> Gauge {
        Gauge::unknown(self.id(name), self.run(name))
    }

    pub(super) fn gauged(&mut self, gauge: Gauge) -> Vec<String> {
        self.step(Event::Gauged { asked: self.engine.fence.asked, gauges: vec![gauge] })
    }

    /// The kernel was told of it just now.
    pub(super) fn wrote(&mut self, name: &str, what: Wrote, method: &str) -> Vec<String> {
        let (replica, run) = (self.id(name), self.run(name));
        let written = Written { method: method.to_owned(), processes: 3, refused: Vec::new() };
        self.step(Event::Wrote { replica, run, what, at: self.now.mono, result: Ok(written) })
    }

    /// The record of the fence (or of the probation) of a replica.
    pub(super) fn record(&self, name: &str) -> Record {
        let id = self.engine.fence_of(self.id(name)).expect("fenced").id;
        self.engine.fence_record(id).expect("on record").clone()
    }

    pub(super) fn fence_is_none(&self, name: &str) -> bool {
        self.engine.at(self.id(name)).memory.fence.is_none()
    }

    /// As people see it.
    pub(super) fn word_of(&self, name: &str) -> &'static str {
        let id = self.id(name);
        let service = self.engine.service_name(id.service).expect("known").to_owned();
        let view = self.engine.service(&service, self.now).expect("known");
        view.replicas.iter().find(|replica| replica.id == id).expect("there").word()
    }

    /// The next agent takes over in the same boot. `processes`: what is found of each.
    pub(super) fn heir(&mut self, processes: &[(&str, FoundProcess)]) -> Vec<String> {
        let found = processes.iter().map(|(name, process)| self.found(name, process.clone())).collect();
        let fences = Some(Box::new(self.engine.fence.memory.clone()));
        let tables = self.tables.clone();
        let decisions = self.decisions.values().cloned().collect();
        let plan = self.engine.plan().clone();
        self.engine = Engine::new(plan, 2, self.now);
        self.step(Event::Begin { found, decisions, host: None, fences, tables })
    }

    /// The host is booted: of this boot nothing is left but what is on disk.
    pub(super) fn reboot(&mut self) -> Vec<String> {
        self.reboot_with(&|_| {})
    }

    /// The same with another configuration.
    pub(super) fn reboot_with(&mut self, change: &dyn Fn(&mut Plan)) -> Vec<String> {
        let decisions = self.decisions.values().cloned().collect();
        let mut plan = self.engine.plan().clone();
        change(&mut plan);
        let wall = self.now.wall.after(Duration::from_secs(60));
        self.now = Now { mono: Time(1_000_000_000), boot: Time(1_000_000_000), wall, ..self.now };
        self.engine = Engine::new(plan, 3, self.now);
        self.step(Event::Begin { found: Vec::new(), decisions, host: None, fences: None, tables: None })
    }

    /// The proxy says that a balancer has no connection to this run any more.
    pub(super) fn drained(&mut self, balancer: &str, name: &str) -> Vec<String> {
        let (replica, run) = (self.id(name), self.run(name));
        self.step(Event::Drained { balancer: balancer.to_owned(), replica, run })
    }

    /// Every decision of the last step is on disk.
    pub(super) fn persist(&mut self) -> Vec<String> {
        let decisions: Vec<u64> = self
            .last
            .iter()
            .filter_map(|action| if let Action::Decide { decision, .. } = action { Some(*decision) } else { None })
            .collect();
        decisions.into_iter().flat_map(|decision| self.step(Event::Persisted { decision, result: Ok(()) })).collect()
    }

    /// Time passes; every deadline on the way is kept.
    pub(super) fn pass(&mut self, time: Duration) -> Vec<String> {
        let end = self.now.mono.after(time);
        let mut all = Vec::new();
        loop {
            let boot = self.engine.next_boot_deadline().map(|at| at.since(self.now.boot));
            let mono = self.engine.next_deadline().map(|at| at.since(self.now.mono));
            let left = end.since(self.now.mono);
            let next = [boot, mono].into_iter().flatten().filter(|next| *next <= left).min();
            let by = next.unwrap_or(left);
            self.now = Now {
                mono: self.now.mono.after(by),
                boot: self.now.boot.after(by),
                wall: self.now.wall.after(by),
                ..self.now
            };
            self.step(Event::Tick);
            all.append(&mut self.last);
            if next.is_none() {
                self.last = all;
                return self.words();
            }
        }
    }

    /// What the next agent finds of this replica.
    pub(super) fn found(&self, name: &str, process: FoundProcess) -> Found {
        let id = self.id(name);
        Found {
            service: self.engine.service_name(id.service).expect("known").to_owned(),
            index: id.index,
            memory: self.memory(name),
            stop: self.engine.service_plan(id.service).expect("known").stop,
            process,
        }
    }
}

fn outcome_word(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done { persisted: true } => "done".to_owned(),
        Outcome::Done { persisted: false } => "done, not on disk".to_owned(),
        Outcome::Failed { why } => format!("failed, {why}"),
        Outcome::Unknown { message, hint } => format!("{message}, {}", hint.clone().unwrap_or_default()),
        Outcome::Conflict { message } => format!("conflict, {message}"),
        Outcome::Copied(outcome) => format!("copied {outcome:?}"),
        Outcome::Reloaded { changes } => format!("reloaded {}", changes.len()),
    }
}
