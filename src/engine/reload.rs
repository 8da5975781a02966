//! A new configuration: at the agent's start, and while everything runs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Engine;
use super::access::Because;
use super::action::{Action, Effect, Level, NoteKind, Outcome};
use super::diff;
use super::event::Caller;
use super::memory::Memory;
use super::plan::{Kind, Launch, Plan, Role};
use super::replicas::Replicas;
use super::service::{
    Counts, Decided, Edges, PlanRef, Replica, Rolling, Service, State, StopWhy, Summary, fresh_memory,
};
use super::timers::Timer;
use super::types::{ReplicaId, RequestId, ServiceId};

impl Engine {
    pub(super) fn reload(&mut self, request: Option<RequestId>, caller: Caller, plan: Plan) {
        let refused = self.shutdown.as_ref().map(|_| "the agent shuts down".to_owned());
        if let Some(message) = refused.or_else(|| self.refusal(&plan)) {
            self.agent_note(Level::Warn, NoteKind::ReloadRefused { why: message.clone() });
            if let Some(request) = request {
                self.out.push(Action::Answer { request, outcome: Outcome::Conflict { message } });
            }
            return;
        }
        let helpers = self.host.helpers.clone();
        let plan = self.with_helpers(plan);
        self.watch_others(&helpers);
        let told = diff::told(diff::changes(&self.plan, &plan));
        let noted = told.iter().filter(|change| change.effect != Effect::Unchanged).cloned().collect();
        self.agent_note(Level::Info, NoteKind::Reloaded { changes: noted, caller });
        self.change_plan(plan);
        let lanes = std::mem::take(&mut self.host.alerts.lanes);
        self.alerts_changed(lanes);
        self.watchdog_changed();
        if let Some(request) = request {
            self.out.push(Action::Answer { request, outcome: Outcome::Reloaded { changes: told } });
        }
    }

    /// Goes over to another plan: what it changes is done, and nothing else is touched.
    pub(super) fn change_plan(&mut self, plan: Plan) {
        let changes = diff::changes(&self.plan, &plan);
        let limits = self.limits_in_use();
        let copies = self.plan.copies.clone();
        self.install(plan);
        self.install_copies(&copies);
        self.host_replanned();
        self.admit_new();
        self.review_ties();
        for change in &changes {
            let Some(id) = self.service_id(&change.service) else {
                continue;
            };
            match change.effect {
                Effect::Unchanged | Effect::Stop if self.service_at(id).removed => {}
                Effect::Unchanged => {}
                Effect::Start | Effect::Stop | Effect::Live => self.apply_live(id),
                Effect::Restart => {
                    self.apply_live(id);
                    self.apply_by_restart(id);
                }
            }
        }
        self.change_limits(limits);
        // The edges may be others now.
        for id in self.services.keys().copied().collect::<Vec<_>>() {
            self.refresh_summary(id);
            self.mark(id);
        }
        self.wake_queue();
    }

    /// Makes `plan` the accepted one: services and replicas come and are marked to go, edges are resolved.
    pub(super) fn install(&mut self, plan: Plan) {
        let old = std::mem::replace(&mut self.plan, plan);
        let mut kept = BTreeSet::new();
        for index in 0..self.plan.services.len() {
            kept.insert(self.install_service(index));
        }
        let mut old: BTreeMap<String, _> = old.services.into_iter().map(|plan| (plan.name.clone(), plan)).collect();
        let leaving: Vec<(String, ServiceId)> =
            self.names.iter().filter(|(_, id)| !kept.contains(id)).map(|(name, id)| (name.clone(), *id)).collect();
        for (name, id) in leaving {
            if let Some(plan) = old.remove(&name) {
                let service = self.service_mut(id);
                service.plan = PlanRef::Own(Box::new(plan));
                service.removed = true;
                service.rolling = None;
                for replica in service.replicas.values_mut() {
                    replica.removed = true;
                }
                self.end_requests_of_removed(id);
            }
        }
        self.resolve_edges();
        self.rebalance_all = true;
        self.unbalanced.extend(self.services.keys());
        // Who waits for a drain may have one balancer less to wait for.
        let asked = self.services.iter().filter(|(_, service)| !service.requests.is_empty()).map(|(id, _)| *id);
        self.touched.extend(asked);
    }

    fn install_service(&mut self, index: usize) -> ServiceId {
        let plan = &self.plan.services[index];
        let (name, replicas) = (plan.name.clone(), plan.replicas);
        let spec_hash = diff::spec_hash(plan);
        let is_role = plan.launch != Launch::Command;
        let id = self.names.get(&name).copied().unwrap_or_else(|| {
            self.next_service += 1;
            ServiceId(self.next_service)
        });
        let kept = self.kept.remove(&name).unwrap_or_default();
        self.names.insert(name, id);
        let wall = self.now.wall;
        let service = self.services.entry(id).or_insert_with(|| {
            let mut service = Box::new(new_service(PlanRef::At(index), is_role));
            (service.decided, service.kept) = kept;
            service
        });
        service.plan = PlanRef::At(index);
        service.is_role = is_role;
        service.removed = false;
        service.spec_hash = spec_hash;
        for number in 0..replicas {
            let last_run = service.last_runs.get(&number).copied().unwrap_or_default();
            let replica = service.replicas.get_or_insert_with(number, || {
                let own = service.kept.remove(&number);
                let fences = own.as_ref().map(|own| own.fences).unwrap_or_default();
                let decided = own.map(|own| own.decided);
                let memory = fresh_memory(decided.as_ref().unwrap_or(&service.decided), last_run, spec_hash, wall);
                Replica { decided, ..Replica::new(Memory { fences, ..memory }) }
            });
            replica.removed = false;
        }
        for replica in service.replicas.starting_at_mut(replicas) {
            replica.removed = true;
        }
        id
    }

    /// A service that only an earlier agent knew.
    pub(super) fn install_unknown(&mut self, plan: super::plan::ServicePlan) -> ServiceId {
        self.next_service += 1;
        let id = ServiceId(self.next_service);
        self.names.insert(plan.name.clone(), id);
        let is_role = Role::is_service_name(&plan.name);
        let mut service = new_service(PlanRef::Own(Box::new(plan)), is_role);
        service.removed = true;
        self.services.insert(id, Box::new(service));
        id
    }

    fn resolve_edges(&mut self) {
        let resolved: BTreeMap<ServiceId, Edges> = self
            .services
            .keys()
            .map(|id| {
                let plan = self.plan_of(*id);
                let ids = |names: &[String]| names.iter().filter_map(|name| self.service_id(name)).collect();
                let edges = Edges {
                    requires: ids(&plan.requires),
                    wants: ids(&plan.wants),
                    after: ids(&plan.after),
                    restart_with: ids(&plan.restart_with),
                    ..Edges::default()
                };
                (*id, edges)
            })
            .collect();
        for (id, edges) in &resolved {
            self.service_mut(*id).edges = edges.clone();
        }
        for (id, edges) in resolved {
            for dependency in edges.dependencies().collect::<BTreeSet<_>>() {
                self.service_mut(dependency).edges.dependents.push(id);
            }
            for dependency in edges.requires {
                self.service_mut(dependency).edges.required_by.push(id);
            }
            for dependency in edges.restart_with {
                self.service_mut(dependency).edges.restarted_by.push(id);
            }
        }
    }

    /// Replicas that this configuration brought begin as stopped, and are started where they are wanted.
    fn admit_new(&mut self) {
        for service in self.services.keys().copied().collect::<Vec<_>>() {
            for id in self.replicas_of(service) {
                if self.at(id).state == State::Adopting {
                    self.set_state(id, State::Stopped, Because::Told);
                    self.fence_as_decided(id);
                }
            }
        }
    }

    /// Whatever runs goes on with the new timeouts and probes.
    fn apply_live(&mut self, service: ServiceId) {
        for id in self.replicas_of(service) {
            self.out.push(Action::Refresh { replica: id });
            let executed = self.at(id).run.as_ref().is_some_and(|run| run.executed);
            match self.at(id).state {
                State::Starting => {
                    self.quiet(id);
                    let at = self.at(id).memory.started_mono.after(self.plan_of(service).start_timeout);
                    self.arm(id, Timer::State, at);
                    if !self.needs_slot(id) {
                        self.give_slot_back(id);
                    }
                    if executed {
                        self.await_readiness(id);
                    }
                }
                State::Ready | State::Degraded => {
                    self.quiet(id);
                    let degraded = self.at(id).state == State::Degraded;
                    if degraded && self.plan_of(service).alive.is_none() {
                        let text = "is no longer probed".to_owned();
                        self.set_state(id, State::Ready, Because::Note(Level::Info, NoteKind::Remark { text }));
                    }
                    self.watch_health(id);
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
            self.arm_period(id);
            self.refresh(id);
        }
    }

    /// One replica after the other gets the new process. What had failed with the old one is tried at once.
    fn apply_by_restart(&mut self, service: ServiceId) {
        let mut rolling = Rolling { why: StopWhy::NewConfig, queue: VecDeque::new(), current: None };
        let (spec_hash, periodic) =
            (self.service_at(service).spec_hash, matches!(self.plan_of(service).kind, Kind::Every(_)));
        for id in self.replicas_of(service) {
            if !self.is_wanted(id) {
                continue;
            }
            match self.at(id).state {
                State::Starting | State::Ready | State::Degraded => {
                    if self.at(id).memory.spec_hash != spec_hash {
                        rolling.queue.push_back(id.index);
                    }
                }
                State::Backoff { .. } | State::Failed => {
                    self.pardon(id);
                    self.ask_restart(id, StopWhy::NewConfig);
                }
                State::Done if !periodic => self.ask_restart(id, StopWhy::NewConfig),
                State::Stopping { .. } | State::Stuck { .. } => self.ask_restart(id, StopWhy::NewConfig),
                State::Adopting | State::Stopped | State::Waiting { .. } | State::Done => {}
            }
        }
        self.roll(service, rolling);
    }

    /// Runs with an older configuration than the accepted one.
    pub(super) fn has_pending_restart(&self, id: ReplicaId) -> bool {
        let replica = self.at(id);
        replica.run.is_some() && replica.memory.spec_hash != self.service_at(id.service).spec_hash
    }
}

fn new_service(plan: PlanRef, is_role: bool) -> Service {
    Service {
        plan,
        is_role,
        removed: false,
        spec_hash: 0,
        decided: Decided::default(),
        replicas: Replicas::default(),
        last_runs: BTreeMap::new(),
        kept: BTreeMap::new(),
        edges: Edges::default(),
        counts: Counts::default(),
        summary: Summary::default(),
        late: false,
        rolling: None,
        requests: Vec::new(),
    }
}
