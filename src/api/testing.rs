//! A small world of services for the tests of what is shown.

use std::collections::VecDeque;

use super::balancers::{Backend, BackendCounters, Balancer, BalancerCounters, Latency, Listener};
use super::render::{Stamp, Usage};
use crate::engine::event::Wanted;
use crate::engine::memory::{Cause, LastExit, Memory};
use crate::engine::plan::{Launch, Role, ServicePlan};
use crate::engine::types::{Exit, Now, ReplicaId, RunId, ServiceId, StateName, Time};
use crate::engine::view::{EdgeKind, EdgeView, ReplicaView, ServiceView};

/// 2026-11-22T08:00:00Z
pub(crate) const WALL: Time = Time(1_795_334_400_000_000_000);

pub(crate) fn stamp() -> Stamp {
    let mono = Time(100_000_000_000);
    Stamp { now: Now { mono, boot: mono, wall: WALL, wall_synchronised: true }, seq: 812 }
}

pub(crate) fn usage(replica: ReplicaId) -> Usage {
    let index = u64::from(replica.index);
    Usage { cpu_percent: Some(1.54), cpu_usec: Some(2_500_000 + index), memory_bytes: Some(5 << 20) }
}

fn memory(state: StateName, ago_s: u64) -> Memory {
    Memory {
        wanted: Wanted::Up,
        state,
        run: RunId(3),
        since_wall: Time(WALL.0 - ago_s * 1_000_000_000),
        ready_since: None,
        started_mono: Time(0),
        started_boot: Time(0),
        restarts: 2,
        failures: 0,
        budget_marks: VecDeque::new(),
        hold: None,
        last_exit: None,
        drained: false,
        frozen: false,
        draining_since: None,
        sockets: std::collections::BTreeMap::new(),
        port: None,
        requested: false,
        causes: VecDeque::new(),
        spec_hash: 0,
        status_text: None,
        changes: VecDeque::new(),
    }
}

/// What the views borrow from.
pub(crate) struct World {
    plans: Vec<ServicePlan>,
    memories: Vec<Vec<Memory>>,
    lines: Vec<String>,
}

impl World {
    /// `api` (two replicas, the second crashing) waits for nobody, `web` waits for `db`, which is in back-off; `job` is stopped; `@logs` is a role.
    pub(crate) fn new() -> Self {
        let mut api = ServicePlan::with_defaults("api", &["/usr/bin/api", "--port", "{port}"]);
        (api.replicas, api.port) = (2, Some(9_001));
        api.process.env.insert("TOKEN".to_owned(), "secret".to_owned());
        let mut web = ServicePlan::with_defaults("web", &["/usr/bin/web"]);
        web.requires = vec!["db".to_owned()];
        let db = ServicePlan::with_defaults("db", &["/usr/bin/db"]);
        let job = ServicePlan::with_defaults("job", &["/usr/bin/job"]);
        let mut logs = ServicePlan::with_defaults("@logs", &[]);
        logs.launch = Launch::Role(Role::Logs);
        let mut crashed = memory(StateName::Backoff, 2);
        crashed.last_exit =
            Some(LastExit { exit: Exit::Signal { signal: 11, core: true }, oom: false, run: RunId(2), at_wall: WALL });
        let mut spent = memory(StateName::Backoff, 12);
        spent.last_exit = Some(LastExit { exit: Exit::Code(1), oom: true, run: RunId(2), at_wall: WALL });
        let cause =
            |ago_s: u64, text: &str| Cause { at_wall: Time(WALL.0 - ago_s * 1_000_000_000), text: text.to_owned() };
        spent.causes = [cause(14, "started as pid 4711"), cause(12, "exited with code 1 after 2s")].into();
        let mut stopped = memory(StateName::Stopped, 86_400);
        stopped.wanted = Wanted::Down;
        Self {
            plans: vec![api, web, db, job, logs],
            memories: vec![
                vec![memory(StateName::Ready, 81), crashed],
                vec![memory(StateName::Waiting, 14)],
                vec![spent],
                vec![stopped],
                vec![memory(StateName::Ready, 90)],
            ],
            lines: vec!["cannot open the data file".to_owned()],
        }
    }

    pub(crate) fn views(&self) -> Vec<ServiceView<'_>> {
        let states = [StateName::Ready, StateName::Waiting, StateName::Backoff, StateName::Stopped, StateName::Ready];
        let whys = [None, Some("waits for db"), Some("exited with code 1"), Some("stopped by an operator"), None];
        let mut views = Vec::new();
        for (id, plan) in (0_u32..).zip(&self.plans) {
            let index = views.len();
            let edges = plan.requires.iter().map(|to| EdgeView { to, kind: EdgeKind::Requires, blocking: true });
            views.push(ServiceView {
                plan,
                wanted: states[index] != StateName::Stopped,
                state: states[index],
                why: whys[index].map(str::to_owned),
                replicas: (0_u16..)
                    .zip(&self.memories[index])
                    .map(|(one, memory)| self.replica(id, one, memory))
                    .collect(),
                edges: edges.collect(),
                impaired: None,
            });
        }
        views
    }

    fn replica<'a>(&'a self, service: u32, index: u16, memory: &'a Memory) -> ReplicaView<'a> {
        let in_backoff = memory.state == StateName::Backoff;
        ReplicaView {
            id: ReplicaId { service: ServiceId(service), index },
            memory,
            state: memory.state,
            pid: (memory.state == StateName::Ready).then_some(4_711),
            flapping: in_backoff && index > 0,
            pending_restart: false,
            drained: false,
            frozen: false,
            why: in_backoff.then(|| "exited with code 1".to_owned()),
            next: in_backoff.then(|| ("restart 3 of 10".to_owned(), Time(100_800_000_000))),
            last_lines: if in_backoff { &self.lines } else { &[] },
        }
    }
}

/// `front` goes to `api`, whose second replica is out and whose second address is taken.
pub(crate) fn balancers() -> Vec<Balancer> {
    let mut buckets = vec![0; 32];
    (buckets[6], buckets[7]) = (100, 20);
    let latency = Latency { count: 120, p50_us: Some(64), p99_us: Some(128), sum_us: 6_000, buckets };
    let busy = BackendCounters {
        active: 3,
        connections: 120,
        bytes_in: 1_000,
        bytes_out: 3_000_000,
        connect: latency.clone(),
        first_byte: latency,
        ..BackendCounters::default()
    };
    let broken =
        BackendCounters { connect_failed: [("refused".to_owned(), 7)].into(), failed: 1, ..BackendCounters::default() };
    let backend = |index: u32, standing: &'static str, why: Option<&str>, counters| Backend {
        name: format!("api/{index}"),
        address: format!("tcp:127.0.0.1:{}", 9_001 + index),
        standing: standing.into(),
        weight: 1,
        why: why.map(str::to_owned),
        counters: Some(counters),
    };
    let listener = |address: &str, state: &'static str, error: Option<&str>| Listener {
        address: address.to_owned(),
        state: state.into(),
        error: error.map(str::to_owned),
    };
    vec![Balancer {
        name: "front".to_owned(),
        to: Some("api".to_owned()),
        delivery: "proxy".into(),
        algorithm: "rendezvous".into(),
        listen: vec![
            listener("tcp:0.0.0.0:8080", "open", None),
            listener("tcp:0.0.0.0:8081", "failed", Some("Address already in use")),
        ],
        counters: Some(BalancerCounters {
            accepted: 124,
            active: 3,
            queued: 1,
            queued_total: 9,
            refused: [("queue_full".to_owned(), 2)].into(),
            redispatched: 4,
            replayed: 5,
            ..BalancerCounters::default()
        }),
        backends: vec![
            backend(0, "up", None, busy),
            backend(1, "out", Some("exited with code 1; restart 3 of 10 in 800ms"), broken),
        ],
    }]
}
