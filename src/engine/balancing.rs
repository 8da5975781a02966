//! The backend tables: what the states of replicas mean to the balancers that lead to them.
//!
//! A replica is offered while it is `Ready`, and for as long as those that need it go down before it; not while its disk or NIC fails
//! (it drains then, and nobody is asked to wait for it). A table is handed out when
//! something of it changes that matters to the proxy; the time since when a backend is ready moves by itself and does not.
//!
//! A replica that drains, or will because it is to be stopped, stays in the table of a balancer that does not lead to it any more
//! (removed, or turned to another service) until the proxy has said that its last connection ended: only then does a removed balancer
//! leave. Where the replicas are to share the balancer's socket, those that do not have it yet go on taking connections from the proxy, each
//! until it is its turn to be restarted. The proxy itself stays for as long as there is a table.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Engine;
use super::action::{Action, Level, Note, NoteKind};
use super::balance::note::BalanceNote;
use super::balance::plan::{Address, BalancerPlan, Delivery, Destination, Rules};
use super::balance::table::{Backend, Standing, Table, TableMemory};
use super::plan::{Launch, Role, expand};
use super::service::{Phase, State, StopWhy, Then};
use super::types::{ReplicaId, ServiceId, Time, human};

/// Nobody knows since when a fixed backend is there; it is past every ramp.
const FIXED_READY_FOR: Duration = Duration::from_secs(86_400);

/// A backend that a balancer has ejected and that has not answered again since.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct KeptOut {
    until: Time,
    why: String,
    times: u32,
}

impl Engine {
    /// Something about the replicas of a service that its balancers may have to know.
    pub(super) fn rebalance_later(&mut self, service: ServiceId) {
        if !(self.plan.balancers.is_empty() && self.told.is_empty()) {
            self.unbalanced.insert(service);
        }
    }

    /// The end of a step: whatever table has changed is handed out, before everything else that the step brought.
    pub(super) fn rebalance(&mut self) {
        let all = mem::take(&mut self.rebalance_all);
        let services = mem::take(&mut self.unbalanced);
        if !all && services.is_empty() {
            return;
        }
        for service in &services {
            self.forget_what_was_emptied(*service);
            // Whoever waits for it to be drained may have waited for what the proxy is told now.
            if self.services.get(service).is_some_and(|service| !service.requests.is_empty()) {
                self.touched.insert(*service);
            }
        }
        let planned = self.plan.balancers.iter().map(|plan| plan.name.clone());
        let names: BTreeSet<String> = planned.chain(self.told.keys().cloned()).collect();
        let mut actions = Vec::new();
        for balancer in names {
            if !all && !self.concerns(&balancer, &services) {
                continue;
            }
            match (self.table_of(&balancer, self.now.mono), self.told.get(&balancer)) {
                (Some(new), Some(old)) if is_same(old, &new) => {}
                (Some(new), Some(_) | None) => {
                    actions.push(Action::Balance { table: Box::new(new.clone()) });
                    self.told.insert(balancer, new);
                }
                (None, Some(_)) => {
                    self.told.remove(&balancer);
                    actions.push(Action::Unbalance { balancer });
                }
                (None, None) => {}
            }
        }
        if !actions.is_empty() {
            self.forget_balancers_that_left();
            let told = &self.told;
            self.ejections.retain(|backend, by| {
                let has = |table: &Table| table.backends.iter().any(|one| one.name == *backend);
                by.retain(|balancer, _| told.get(balancer).is_some_and(has));
                !by.is_empty()
            });
            self.out.splice(0..0, actions);
            self.keep_leaving_tables();
            self.release_proxy();
        }
    }

    /// Tables that no configuration tells the next agent to make.
    fn keep_leaving_tables(&mut self) {
        let planned = |name: &str| self.balancer_plan(name).is_some_and(BalancerPlan::has_table);
        let leaving = self.told.values().filter(|table| !planned(&table.balancer));
        let memory = Box::new(TableMemory { tables: leaving.cloned().collect() });
        let any = !memory.tables.is_empty();
        if any || self.tables_kept {
            self.tables_kept = any;
            self.out.push(Action::PersistTables { memory });
        }
    }

    /// What an earlier agent had told of balancers that left.
    pub(super) fn resume_tables(&mut self, memory: TableMemory) {
        for table in memory.tables {
            if !self.balancer_plan(&table.balancer).is_some_and(BalancerPlan::has_table) {
                self.told.insert(table.balancer.clone(), table);
                self.tables_kept = true;
            }
        }
    }

    fn forget_balancers_that_left(&mut self) {
        let told = &self.told;
        for replica in self.services.values_mut().flat_map(|service| service.replicas.values_mut()) {
            replica.emptied.retain(|balancer| told.contains_key(balancer));
        }
    }

    fn concerns(&self, balancer: &str, services: &BTreeSet<ServiceId>) -> bool {
        let is_one = |name: &str| self.service_id(name).is_some_and(|id| services.contains(&id));
        let planned = self.balancer_plan(balancer);
        planned.and_then(BalancerPlan::service).is_some_and(is_one)
            || self.told.get(balancer).is_some_and(|table| {
                table.backends.iter().any(|one| one.name.rsplit_once('/').is_some_and(|(service, _)| is_one(service)))
            })
    }

    /// The present backends of a balancer; `None` for one that has no table (any more).
    pub(super) fn table_of(&self, balancer: &str, now: Time) -> Option<Table> {
        let plan = self.balancer_plan(balancer).filter(|plan| plan.has_table());
        let told = self.told.get(balancer);
        let mut backends = plan.map(|plan| self.backends_of(plan, now)).unwrap_or_default();
        let present: BTreeSet<String> = backends.iter().map(|backend| backend.name.clone()).collect();
        let before = told.iter().flat_map(|table| &table.backends);
        let gone = before.filter(|backend| !present.contains(&backend.name));
        backends.extend(gone.filter_map(|backend| self.leaving(balancer, backend, now)));
        let (delivery, rules) = match (plan, told) {
            (Some(plan), _) => (plan.delivery, plan.rules.clone()),
            (None, Some(told)) if !backends.is_empty() => (told.delivery, told.rules.clone()),
            (None, Some(_) | None) => return None,
        };
        let service = plan.and_then(BalancerPlan::service).and_then(|name| self.service_id(name));
        let hopeful = service.is_some_and(|id| self.replicas_of(id).into_iter().any(|id| self.comes_back(id)));
        Some(Table { balancer: balancer.to_owned(), delivery, rules, backends, hopeful })
    }

    fn backends_of(&self, plan: &BalancerPlan, now: Time) -> Vec<Backend> {
        let (service, socket, weights) = match &plan.to {
            Destination::Service { name, socket, weights } => (name, socket, weights),
            Destination::Backends(list) => return list.iter().map(|(to, weight)| fixed(to, *weight)).collect(),
        };
        let Some(service) = self.service_id(service) else {
            return Vec::new();
        };
        let whole = |id: ReplicaId| weights.get(usize::from(id.index)).copied().unwrap_or(1).max(1);
        // Who is on probation gets a quarter: the others four times as much, as there is nothing below 1.
        let wary = |id: ReplicaId| self.at(id).memory.probation.is_some();
        let some_wary = self.replicas_of(service).into_iter().any(wary);
        let weight = |id| if some_wary && !wary(id) { whole(id).saturating_mul(4) } else { whole(id) };
        let offered = self.replicas_of(service).into_iter().map(|id| (id, self.offered(id)));
        offered
            .filter(|(id, standing)| !self.at(*id).removed || *standing != Standing::Out)
            .filter_map(|(id, standing)| {
                Some(Backend {
                    name: self.backend_name(id),
                    address: self.address_of(id, plan, socket.as_deref())?,
                    weight: weight(id),
                    standing,
                    cut: matches!(self.at(id).state, State::Stopping { phase: Phase::Drain, .. }),
                    run: self.at(id).memory.run.0,
                    ready_for: self.ready_for(id, now),
                })
            })
            .collect()
    }

    /// A process listens where it was told to at its birth, whatever the configuration says by now.
    fn address_of(&self, id: ReplicaId, balancer: &BalancerPlan, socket: Option<&str>) -> Option<Address> {
        if balancer.delivery != Delivery::Proxy {
            return Some(Address::Unix(PathBuf::new()));
        }
        let replica = self.at(id);
        let born = replica.run.is_some();
        let socket = match replica.memory.sockets.get(&balancer.name).filter(|_| born) {
            Some(told) => told.clone(),
            None => socket.map(|socket| self.expanded(id, socket)),
        };
        if let Some(socket) = socket {
            return Some(Address::Unix(socket.into()));
        }
        let born_with = replica.memory.port.filter(|_| born);
        let port = born_with.or_else(|| self.plan_of(id.service).port_of(id.index))?;
        Some(Address::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)))
    }

    fn expanded(&self, id: ReplicaId, socket: &str) -> String {
        expand(socket, &self.plan_of(id.service).words(id.index, &self.plan.agent.run_dir))
    }

    /// How the balancers reach a run that is born now.
    pub(super) fn sockets_of(&self, id: ReplicaId) -> BTreeMap<String, Option<String>> {
        let proxied = self.balancers_of(id.service).filter(|plan| plan.delivery == Delivery::Proxy);
        proxied
            .filter_map(|plan| match &plan.to {
                Destination::Service { socket, .. } => {
                    Some((plan.name.clone(), socket.as_deref().map(|socket| self.expanded(id, socket))))
                }
                Destination::Backends(_) => None,
            })
            .collect()
    }

    /// Whatever it is, it gets no new connection.
    fn is_taken_out(&self, id: ReplicaId) -> bool {
        let memory = &self.at(id).memory;
        memory.drained
            || memory.fence.is_some()
            || (memory.probation.is_some() && self.awaits_probes(id))
            || self.trouble(id.service).is_some()
    }

    /// What a replica may be given.
    pub(super) fn offered(&self, id: ReplicaId) -> Standing {
        let replica = self.at(id);
        let leaves = self.is_taken_out(id);
        let unless_drained = |standing| if leaves { Standing::Draining } else { standing };
        match &replica.state {
            State::Ready => unless_drained(Standing::Up),
            State::Degraded => unless_drained(Standing::Degraded),
            State::Stopping { phase: Phase::Dependents, .. } => {
                match replica.run.as_ref().filter(|run| !run.exited).and_then(|run| run.served) {
                    Some(served) => unless_drained(if served.well { Standing::Up } else { Standing::Degraded }),
                    None => Standing::Out,
                }
            }
            State::Stopping { phase: Phase::Drain, .. } => Standing::Draining,
            // A process that does not get away keeps its connections open.
            State::Stopping { why: StopWhy::Fenced | StopWhy::FencedOnce, .. }
            | State::Stuck { why: StopWhy::Fenced | StopWhy::FencedOnce, .. } => Standing::Fenced,
            State::Adopting
            | State::Stopped
            | State::Waiting { .. }
            | State::Starting
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed
            | State::Done
            | State::Stuck { .. } => Standing::Out,
        }
    }

    fn ready_for(&self, id: ReplicaId, now: Time) -> Duration {
        let replica = self.at(id);
        let served = replica.run.as_ref().and_then(|run| run.served);
        let since = replica.memory.ready_since.or(served.and_then(|served| served.ready_since));
        since.map(|since| now.since(since)).unwrap_or_default()
    }

    /// It takes no connections now, and may well do so within moments.
    fn comes_back(&self, id: ReplicaId) -> bool {
        let replica = self.at(id);
        let unfenced = replica.memory.fence.is_none();
        let may = self.is_wanted(id) && unfenced && !replica.memory.drained && self.trouble(id.service).is_none();
        may && match &replica.state {
            State::Adopting | State::Starting | State::Backoff { .. } | State::Degraded => true,
            State::Waiting { hopeful, .. } => *hopeful,
            State::Stopping { why: StopWhy::DependencyLost(_), .. } => false,
            State::Stopping { then: Then::Settle | Then::Backoff { .. }, .. } => true,
            State::Stopping { then: Then::Fail | Then::Done, .. } => false,
            State::Ready | State::Stopped | State::Failed | State::Done | State::Stuck { .. } => false,
        }
    }

    /// What a backend is to a balancer that does not lead to it any more; `None` once nothing of it is left there.
    fn leaving(&self, balancer: &str, backend: &Backend, now: Time) -> Option<Backend> {
        let id = self.replica_of_backend(&backend.name)?;
        let replica = self.at(id);
        let lives = replica.run.as_ref().is_some_and(|run| !run.exited);
        if !lives || replica.memory.run.0 != backend.run || replica.emptied.contains(balancer) {
            return None;
        }
        let (stays, cut) = match replica.state {
            State::Ready | State::Degraded => (self.has_pending_restart(id), false),
            State::Stopping { phase: Phase::Dependents, .. } => (self.offered(id) != Standing::Out, false),
            State::Stopping { phase: Phase::Drain, .. } => (true, true),
            State::Stopping {
                phase: Phase::Abort | Phase::Term | Phase::Linger | Phase::Killed | Phase::Inspecting,
                ..
            }
            | State::Adopting
            | State::Stopped
            | State::Waiting { .. }
            | State::Starting
            | State::Backoff { .. }
            | State::Failed
            | State::Done
            | State::Stuck { .. } => (false, false),
        };
        let shares = self.sharer(balancer) == Some(id.service);
        let standing = if shares { self.offered(id) } else { Standing::Draining };
        stays.then(|| Backend { standing, cut, ready_for: self.ready_for(id, now), ..backend.clone() })
    }

    /// The service whose replicas inherit the sockets of this balancer.
    fn sharer(&self, balancer: &str) -> Option<ServiceId> {
        let plan = self.balancer_plan(balancer).filter(|plan| !plan.has_table())?;
        self.service_id(plan.service()?)
    }

    /// Whether the proxy goes on accepting from the sockets of a balancer that its replicas are to share from now on: while there is one
    /// that takes connections, and until the first of them is about to be replaced by a run that accepts by itself.
    #[must_use]
    pub fn accepts_meanwhile(&self, balancer: &str) -> bool {
        let (Some(service), Some(table)) = (self.sharer(balancer), self.told.get(balancer)) else {
            return false;
        };
        let has = |id: ReplicaId| table.backends.iter().any(|backend| backend.name == self.backend_name(id));
        let takes = |backend: &Backend| matches!(backend.standing, Standing::Up | Standing::Degraded);
        self.replicas_of(service).into_iter().all(has) && table.backends.iter().any(takes)
    }

    /// Whether connections go through the proxy although no balancer of the plan needs it any more.
    pub(super) fn keeps_proxy(&self, id: ReplicaId) -> bool {
        self.plan_of(id.service).launch == Launch::Role(Role::Proxy) && !self.told.is_empty()
    }

    /// The last table is gone: a proxy that only stayed for it may leave.
    fn release_proxy(&mut self) {
        let proxy = self.names.get(Role::Proxy.service_name()).copied();
        if let Some(proxy) = proxy.filter(|proxy| self.told.is_empty() && self.service_at(*proxy).removed) {
            self.mark(proxy);
        }
    }

    /// `api/0`
    pub(super) fn backend_name(&self, id: ReplicaId) -> String {
        format!("{}/{}", self.name(id.service), id.index)
    }

    pub(super) fn replica_of_backend(&self, backend: &str) -> Option<ReplicaId> {
        self.backend_id(backend).filter(|id| self.find(*id).is_some())
    }

    /// The replica that a backend's name speaks of, be it gone by now; `None` for a fixed backend.
    #[must_use]
    pub fn backend_id(&self, backend: &str) -> Option<ReplicaId> {
        let (service, index) = backend.rsplit_once('/')?;
        Some(ReplicaId { service: self.service_id(service)?, index: index.parse().ok()? })
    }

    fn balancer_plan(&self, name: &str) -> Option<&BalancerPlan> {
        self.plan.balancers.iter().find(|plan| plan.name == name)
    }

    /// The balancers that lead to a service.
    pub(super) fn balancers_of(&self, service: ServiceId) -> impl Iterator<Item = &BalancerPlan> {
        let name = self.name(service);
        self.plan.balancers.iter().filter(move |plan| plan.has_table() && plan.service() == Some(name))
    }

    /// The rules of a balancer, or those it had when it left the configuration.
    pub(super) fn rules_of(&self, balancer: &str) -> Option<&Rules> {
        self.balancer_plan(balancer)
            .map(|plan| &plan.rules)
            .or_else(|| self.told.get(balancer).map(|table| &table.rules))
    }

    /// Once more after another is no news, and would be one every few seconds: that goes into the log only for those who look closely.
    pub(super) fn ejected(&mut self, balancer: String, backend: String, out: Option<(String, Duration)>) {
        if !self.has_backend(&balancer, &backend) {
            return self.stale();
        }
        let replica = self.replica_of_backend(&backend);
        let named = replica.is_none().then(|| backend.clone());
        let (level, note) = match out {
            Some((why, for_)) => {
                let until = self.now.mono.after(for_);
                let known = self.ejections.entry(backend).or_default().entry(balancer.clone()).or_default();
                known.times = known.times.saturating_add(1);
                (known.until, known.why) = (until, why.clone());
                let level = if known.times == 1 { Level::Warn } else { Level::Debug };
                (level, BalanceNote::Ejected { balancer, backend: named, why, for_ })
            }
            None if self.ejections.get_mut(&backend).is_some_and(|by| by.remove(&balancer).is_some()) => {
                (Level::Info, BalanceNote::Restored { balancer, backend: named })
            }
            None => return self.stale(),
        };
        let kind = NoteKind::Balance(note);
        match replica {
            Some(id) if level == Level::Debug => self.note(id, level, kind),
            Some(id) => self.tell(id, level, kind),
            None => self.out.push(Action::Note(Note { level, subject: None, kind })),
        }
    }

    /// Who keeps this replica out now, although it is ready.
    pub(super) fn why_ejected(&self, id: ReplicaId, now: Time) -> Option<String> {
        if self.ejections.is_empty() {
            return None;
        }
        let by = self.ejections.get(&self.backend_name(id))?;
        let (balancer, kept) = by.iter().find(|(_, kept)| kept.until > now)?;
        let times = if kept.times > 1 { format!(" ({} times in a row)", kept.times) } else { String::new() };
        let left = human(kept.until.since(now));
        Some(format!("balancer {balancer} gives it no connections for {left} more{times}: {}", kept.why))
    }

    /// A new run is another process.
    pub(super) fn forget_ejections(&mut self, id: ReplicaId) {
        if !self.ejections.is_empty() {
            let name = self.backend_name(id);
            self.ejections.remove(&name);
        }
    }
}

fn fixed(address: &Address, weight: u32) -> Backend {
    Backend {
        name: address.to_string(),
        address: address.clone(),
        weight: weight.max(1),
        standing: Standing::Up,
        cut: false,
        run: 0,
        ready_for: FIXED_READY_FOR,
    }
}

/// Whether the proxy would do nothing else with the new table.
pub(super) fn is_same(old: &Table, new: &Table) -> bool {
    let same_backends = || old.backends.iter().zip(&new.backends).all(|(old, new)| is_same_backend(old, new));
    old.delivery == new.delivery
        && old.hopeful == new.hopeful
        && old.backends.len() == new.backends.len()
        && same_backends()
        && old.rules == new.rules
}

fn is_same_backend(old: &Backend, new: &Backend) -> bool {
    let Backend { name, address, weight, standing, cut, run, ready_for: _ } = new;
    let before = (&old.name, &old.address, &old.weight, &old.standing, &old.cut, &old.run);
    before == (name, address, weight, standing, cut, run)
}
