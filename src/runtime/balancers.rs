//! What is shown of balancers: the plan, the engine's tables, the state of their sockets and the proxy's counters, put together.

use std::collections::BTreeMap;

use super::figures::Figures;
use super::listeners::Listeners;
use crate::api::balancers::{Backend, BackendCounters, Balancer, BalancerCounters, Balancers, Latency, Listener};
use crate::api::proto::Word;
use crate::api::render::Stamp;
use crate::engine::Engine;
use crate::engine::balance::plan::{Address, Algorithm, BalancerPlan, Delivery, Destination};
use crate::engine::balance::table::{self, Standing, Table};
use crate::engine::types::StateName;
use crate::engine::view::{ReplicaView, ServiceView};
use crate::proxy::proto::{BackendStats, BalancerStats, Histogram};

/// Why the proxy keeps backends out, by balancer and backend, with the run it speaks of: the next one begins without a fault. As many as
/// there are backends.
#[derive(Debug, Default)]
pub struct Ejections(BTreeMap<(String, String), (u32, String)>);

impl Ejections {
    pub(super) fn add(&mut self, balancer: &str, backend: &str, run: u32, why: &str) {
        self.0.insert((balancer.to_owned(), backend.to_owned()), (run, why.to_owned()));
    }

    pub(super) fn remove(&mut self, balancer: &str, backend: &str) {
        self.0.remove(&(balancer.to_owned(), backend.to_owned()));
    }

    /// The proxy is gone, and what it knew.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    fn why(&self, balancer: &str, backend: &table::Backend) -> Option<&String> {
        let (run, why) = self.0.get(&(balancer.to_owned(), backend.name.clone()))?;
        (*run == backend.run).then_some(why)
    }
}

/// What the listing is made from.
#[derive(Debug)]
pub(super) struct Known<'a> {
    pub engine: &'a Engine,
    pub listeners: &'a Listeners,
    pub ejections: &'a Ejections,
    /// See [`handoff::missing`](super::handoff::missing).
    pub without_channel: Vec<(String, String)>,
    pub figures: &'a Figures,
    pub stamp: Stamp,
}

impl Known<'_> {
    /// `GET /v1/balancers`
    pub(super) fn list(&self) -> Balancers {
        let proxy = match self.figures {
            Figures::NotNeeded => "not needed",
            Figures::NotConnected => "not connected",
            Figures::NoAnswer => "no answer",
            Figures::Known(_) => "ok",
        };
        Balancers { at: self.stamp.at(), seq: self.stamp.seq, proxy: proxy.into(), balancers: self.all() }
    }

    /// Every balancer, in the order of the configuration.
    pub(super) fn all(&self) -> Vec<Balancer> {
        let now = self.stamp.now;
        let tables = self.engine.tables(now);
        let views = self.engine.services(now);
        let balancers = self.engine.plan().balancers.iter();
        balancers.map(|plan| self.one(plan, tables.iter().find(|table| table.balancer == plan.name), &views)).collect()
    }

    fn one(&self, plan: &BalancerPlan, table: Option<&Table>, views: &[ServiceView<'_>]) -> Balancer {
        let stats = match self.figures {
            Figures::Known(all) => all.iter().find(|stats| stats.balancer == plan.name),
            Figures::NotNeeded | Figures::NotConnected | Figures::NoAnswer => None,
        };
        let to = match &plan.to {
            Destination::Service { name, .. } => Some(name.clone()),
            Destination::Backends(_) => None,
        };
        let service = views.iter().find(|view| Some(&view.plan.name) == to.as_ref());
        // The proxy's table of replicas that are to share the socket is on its way out.
        let backends = match (table.filter(|_| plan.has_table()), service) {
            (Some(table), _) => {
                table.backends.iter().map(|backend| self.backend(plan, backend, stats, service)).collect()
            }
            (None, Some(service)) => sharing(service),
            (None, None) => Vec::new(),
        };
        Balancer {
            name: plan.name.clone(),
            to,
            delivery: delivery_word(plan.delivery),
            algorithm: algorithm_word(plan.rules.algorithm),
            listen: plan.listen.iter().map(|address| self.listener(plan, address)).collect(),
            counters: stats.map(counters),
            backends,
        }
    }

    fn listener(&self, plan: &BalancerPlan, address: &Address) -> Listener {
        let error = self.listeners.failure(&plan.name, address);
        let state = match (plan.delivery, error) {
            (Delivery::Shared, _) => "inherited",
            (Delivery::Proxy | Delivery::HandOff, None) => "open",
            (Delivery::Proxy | Delivery::HandOff, Some(_)) => "failed",
        };
        Listener { address: address.to_string(), state: state.into(), error: error.map(str::to_owned) }
    }

    fn backend(
        &self,
        plan: &BalancerPlan,
        backend: &table::Backend,
        stats: Option<&BalancerStats>,
        service: Option<&ServiceView<'_>>,
    ) -> Backend {
        let stats = stats.and_then(|stats| stats.backends.iter().find(|one| one.name == backend.name));
        // The proxy's own word is the latest, if there is one.
        let is_in = stats.is_some_and(|stats| stats.ejected_ms.is_none()) || backend.standing != Standing::Up;
        let ejected = self.ejections.why(&plan.name, backend).filter(|_| !is_in);
        let replica = service.and_then(|view| {
            view.replicas.iter().find(|one| format!("{}/{}", view.plan.name, one.id.index) == backend.name)
        });
        let reachable = !self.without_channel.iter().any(|(to, from)| *to == plan.name && *from == backend.name);
        let (standing, why): (Word, _) = match (backend.standing, ejected) {
            (Standing::Up, _) if !reachable => {
                let why = "started before this balancer handed connections over: restart it";
                (standing_word(Standing::Out), Some(why.to_owned()))
            }
            (Standing::Up, Some(why)) => ("ejected".into(), Some(why.clone())),
            (Standing::Up, None) => ("up".into(), None),
            (standing, _) => (standing_word(standing), replica.and_then(why_not_up)),
        };
        Backend {
            name: backend.name.clone(),
            address: backend.address.to_string(),
            standing,
            weight: backend.weight,
            why,
            counters: stats.map(backend_counters),
        }
    }
}

/// The replicas that inherit the socket: they accept when they are ready, and nobody counts.
fn sharing(service: &ServiceView<'_>) -> Vec<Backend> {
    let backend = |replica: &ReplicaView<'_>| {
        let standing = match replica.state {
            StateName::Ready => "up",
            StateName::Degraded => "degraded",
            StateName::Stopping => "draining",
            StateName::Waiting
            | StateName::Starting
            | StateName::Backoff
            | StateName::Done
            | StateName::Stopped
            | StateName::Failed
            | StateName::Stuck
            | StateName::Adopting => "out",
        };
        Backend {
            name: format!("{}/{}", service.plan.name, replica.id.index),
            address: "inherited".to_owned(),
            standing: standing.into(),
            weight: 1,
            why: if standing == "up" { None } else { why_not_up(replica) },
            counters: None,
        }
    };
    service.replicas.iter().map(backend).collect()
}

fn why_not_up(replica: &ReplicaView<'_>) -> Option<String> {
    if replica.drained {
        return Some("drained by an operator".to_owned());
    }
    let state = replica.word();
    Some(replica.why.as_ref().map_or_else(|| state.to_owned(), |why| format!("{state}: {why}")))
}

fn counters(stats: &BalancerStats) -> BalancerCounters {
    BalancerCounters {
        accepted: stats.accepted,
        active: stats.active,
        queued: stats.queued,
        queued_total: stats.queued_total,
        refused: stats.refused.iter().cloned().collect(),
        redispatched: stats.redispatched,
        replayed: stats.replayed,
        keyless: stats.keyless,
        idle_closed: stats.idle_closed,
        accept_paused_ms: stats.accept_paused_ms,
    }
}

fn backend_counters(stats: &BackendStats) -> BackendCounters {
    BackendCounters {
        active: stats.active,
        connections: stats.connections,
        failed: stats.failed,
        connect_failed: stats.connect_failed.iter().cloned().collect(),
        bytes_in: stats.bytes_in,
        bytes_out: stats.bytes_out,
        spliced_bytes: stats.spliced_bytes,
        ejected_ms: stats.ejected_ms,
        connect: latency(&stats.connect_us),
        first_byte: latency(&stats.first_byte_us),
    }
}

fn latency(histogram: &Histogram) -> Latency {
    Latency {
        count: histogram.buckets.iter().sum(),
        p50_us: histogram.percentile_us(500),
        p99_us: histogram.percentile_us(990),
        sum_us: histogram.sum_us,
        buckets: histogram.buckets.clone(),
    }
}

fn delivery_word(delivery: Delivery) -> Word {
    match delivery {
        Delivery::Proxy => "proxy",
        Delivery::HandOff => "hand_off",
        Delivery::Shared => "shared",
    }
    .into()
}

fn algorithm_word(algorithm: Algorithm) -> Word {
    match algorithm {
        Algorithm::Rendezvous => "rendezvous",
        Algorithm::Modulo => "modulo",
        Algorithm::RoundRobin => "round_robin",
        Algorithm::LeastConnections => "least_connections",
        Algorithm::TwoChoices => "two_choices",
    }
    .into()
}

fn standing_word(standing: Standing) -> Word {
    match standing {
        Standing::Up => "up",
        Standing::Degraded => "degraded",
        Standing::Draining => "draining",
        Standing::Out => "out",
        Standing::Fenced => "fenced",
    }
    .into()
}
