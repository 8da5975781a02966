//! The model of the proxy: it keeps the tables that it was told, and says (late, never, or twice) that a backend is drained. It outlives
//! the agent, and dies by itself; the next one is told everything anew.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay::engine::Engine;
use mainstay::engine::balance::table::{Backend, Standing, Table};
use mainstay::engine::event::Event;
use mainstay::engine::plan::Plan;
use mainstay::engine::types::{Now, ReplicaId, RunId, StateName, Time};

use crate::dice::Dice;

const LOOK_EVERY: u32 = 16;

#[derive(Debug, Default)]
pub(crate) struct Proxy {
    /// Each life has a number; what an earlier one was about to say is never said.
    life: u64,
    pub(crate) lives: bool,
    pub(crate) tables: BTreeMap<String, Table>,
    /// Steps since everything was compared; that is costly, so it is done when a table came and now and then.
    quiet_steps: u32,
    /// Replicas whose stop waits for connections, since when, and how much the clock had been pardoned by then.
    draining: BTreeMap<(String, u32), (Time, Duration)>,
    /// Time for which nobody could do anything: stalls, sleeps, and the absence of an agent.
    pub(crate) pardoned: Duration,
}

/// What a life is going to say of a backend, unless its table has changed by then.
#[derive(Clone, Debug)]
pub(crate) struct Word {
    life: u64,
    balancer: String,
    backend: String,
    run: u32,
}

impl Proxy {
    pub(crate) fn born(&mut self) {
        self.life += 1;
        self.lives = true;
    }

    pub(crate) fn dies(&mut self) {
        self.lives = false;
        self.tables.clear();
    }

    /// A table arrives; what will be said because of it, and when.
    pub(crate) fn told(&mut self, table: &Table, chaos: bool, dice: &mut Dice) -> Vec<(Duration, Word)> {
        if !self.lives {
            return Vec::new();
        }
        check_form(table);
        self.quiet_steps = 0;
        let mut words = Vec::new();
        for backend in table.backends.iter().filter(|backend| backend.standing == Standing::Draining) {
            let word = Word {
                life: self.life,
                balancer: table.balancer.clone(),
                backend: backend.name.clone(),
                run: backend.run,
            };
            let after = if dice.percent(50) { Duration::ZERO } else { dice.ms(0, 15_000) };
            match dice.below(10) {
                0 if chaos => {}
                1 if chaos => words.extend([(after, word.clone()), (after + dice.ms(0, 3_000), word)]),
                _ => words.push((after, word)),
            }
        }
        self.tables.insert(table.balancer.clone(), table.clone());
        words
    }

    /// What the agent hears of it.
    pub(crate) fn says(&self, engine: &Engine, word: &Word) -> Option<Event> {
        let table = self.tables.get(&word.balancer).filter(|_| self.lives && self.life == word.life)?;
        let backend = table.backends.iter().find(|backend| backend.name == word.backend && backend.run == word.run)?;
        let replica = replica_of(engine, &word.backend).filter(|_| backend.standing == Standing::Draining)?;
        Some(Event::Drained { balancer: word.balancer.clone(), replica, run: RunId(word.run) })
    }

    /// Connections to somebody fail, or not any more.
    pub(crate) fn ejects(&self, dice: &mut Dice) -> Option<Event> {
        let names: Vec<&String> = self.tables.keys().collect();
        if names.is_empty() {
            return None;
        }
        let balancer = (*dice.pick(&names)).clone();
        let backends = &self.tables[&balancer].backends;
        if backends.is_empty() {
            return None;
        }
        let backend = dice.pick(backends).name.clone();
        let out = dice.percent(60).then(|| ("connection refused".to_owned(), dice.ms(100, 30_000)));
        Some(Event::Ejected { balancer, backend, out })
    }

    /// After a step: what was told is what is, and nobody is offered who is not up.
    pub(crate) fn check(&mut self, engine: &Engine, now: Now) {
        self.quiet_steps += 1;
        if !self.lives || (self.quiet_steps > 1 && !self.quiet_steps.is_multiple_of(LOOK_EVERY)) {
            return;
        }
        self.check_drains_end(engine, now);
        let whole: BTreeMap<String, Table> =
            engine.tables(now).into_iter().map(|table| (table.balancer.clone(), timeless(table))).collect();
        let own: BTreeMap<String, Table> =
            self.tables.iter().map(|(name, table)| (name.clone(), timeless(table.clone()))).collect();
        assert_eq!(own, whole, "the proxy knows something else");
        for table in self.tables.values() {
            for backend in &table.backends {
                check_offer(engine, now, table, backend);
            }
        }
    }

    /// No stop waits for connections longer than the longest `drain_timeout`.
    pub(crate) fn check_drains_end(&mut self, engine: &Engine, now: Now) {
        let mut present = BTreeMap::new();
        for view in engine.services(now) {
            let drains = |why: &str| why.contains("draining: waiting for connections to end");
            for replica in view.replicas.iter().filter(|replica| replica.why.as_deref().is_some_and(drains)) {
                let key = (format!("{}/{}", view.plan.name, replica.id.index), replica.memory.run.0);
                let (since, pardoned) = self.draining.get(&key).copied().unwrap_or((now.mono, self.pardoned));
                let waited = now.mono.since(since).saturating_sub(self.pardoned - pardoned);
                assert!(waited <= crate::plans::DRAIN_MAX + Duration::from_secs(1), "{key:?} drains for {waited:?}");
                present.insert(key, (since, pardoned));
            }
        }
        self.draining = present;
    }

    /// Before a replica is signalled or killed, it has left every table.
    pub(crate) fn check_is_out(&self, backend: &str, run: RunId) {
        for table in self.tables.values() {
            let offered = table.backends.iter().find(|one| one.name == backend && one.run == run.0);
            let out = offered.is_none_or(|one| matches!(one.standing, Standing::Out | Standing::Fenced));
            assert!(out, "{backend} is signalled while {} still has it: {offered:?}", table.balancer);
        }
    }

    /// In the calm: whoever is ready is offered wherever the configuration says so.
    pub(crate) fn check_everybody_is_offered(&self, engine: &Engine, plan: &Plan, now: Now) {
        assert!(self.lives, "the proxy is back");
        for balancer in plan.balancers.iter().filter(|balancer| balancer.has_table()) {
            let table = self.tables.get(&balancer.name).expect("every balancer has a table");
            let Some(service) = balancer.service() else {
                assert!(table.backends.iter().all(|backend| backend.standing == Standing::Up), "{table:?}");
                continue;
            };
            let view = engine.service(service, now).expect("a balancer leads to what is there");
            for replica in view.replicas.iter().filter(|replica| replica.state == StateName::Ready) {
                let name = format!("{service}/{}", replica.id.index);
                // A NIC that went up and down is kept at its worst for longer than the calm may be.
                let flapped = view.impaired.as_ref().is_some_and(|why| why.starts_with("NIC"));
                let expected = if replica.drained || flapped { Standing::Draining } else { Standing::Up };
                let found = table.backends.iter().find(|backend| backend.name == name);
                assert_eq!(found.map(|backend| backend.standing), Some(expected), "{name} in {}", balancer.name);
            }
        }
    }
}

fn replica_of(engine: &Engine, backend: &str) -> Option<ReplicaId> {
    let (service, index) = backend.rsplit_once('/')?;
    Some(ReplicaId { service: engine.service_id(service)?, index: index.parse().ok()? })
}

/// Without what moves by itself.
fn timeless(mut table: Table) -> Table {
    for backend in &mut table.backends {
        backend.ready_for = Duration::ZERO;
    }
    table
}

fn check_form(table: &Table) {
    let mut names: Vec<&str> = table.backends.iter().map(|backend| backend.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), table.backends.len(), "a name twice: {table:?}");
    assert!(table.backends.iter().all(|backend| backend.weight >= 1), "a weight of nothing: {table:?}");
}

fn check_offer(engine: &Engine, now: Now, table: &Table, backend: &Backend) {
    let Some((service, index)) = backend.name.rsplit_once('/').filter(|_| backend.run > 0) else {
        return;
    };
    let view = engine.service(service, now).expect("a backend of a service that is there");
    let replica = view.replicas.iter().find(|replica| replica.id.index.to_string() == index).expect("and of a replica");
    let last = replica.why.as_deref().unwrap_or("");
    let waits = replica.state == StateName::Stopping && last.ends_with("waiting for its dependents to stop first");
    let drains = replica.state == StateName::Stopping && last.contains("draining: waiting for connections to end");
    let fenced = replica.memory.fence.is_some();
    let tried = replica.memory.probation.is_some() && view.plan.alive.is_some();
    let out = replica.drained || fenced || view.impaired.is_some();
    let up = matches!(replica.state, StateName::Ready | StateName::Degraded);
    let leads =
        engine.plan().balancers.iter().any(|plan| plan.name == table.balancer && plan.service() == Some(service));
    let is_so = match backend.standing {
        Standing::Up => (replica.state == StateName::Ready || waits) && !out,
        Standing::Degraded => (replica.state == StateName::Degraded || waits) && !out,
        Standing::Draining => drains || out || tried || (!leads && (up || waits)),
        Standing::Out => !matches!(replica.state, StateName::Ready | StateName::Degraded),
        // It is cut off until it is gone, also when the fence is lifted meanwhile.
        Standing::Fenced => matches!(replica.state, StateName::Stopping | StateName::Stuck),
    };
    assert!(is_so, "{} offers {backend:?} while it is {}: {last:?}", table.balancer, replica.state);
    assert!(backend.standing == Standing::Out || replica.memory.run.0 == backend.run, "an old run: {backend:?}");
}
