//! Drains: a replica gets no new connection, and those that it has may end.
//!
//! A stop that somebody asked for drains first, if a balancer leads to the replica: until every such balancer has said that nothing is
//! left, or for the longest `drain_timeout` among them. A second word of the same kind cuts it short. A replica that is not well is not
//! drained: it is out at once.
//!
//! An operator's `drain` lasts, over restarts and reboots, until `undrain`; the replica runs on. A connection that does not end in time
//! is left alone then, and only the answer to the operator says so.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Engine;
use super::action::{Level, NoteKind};
use super::balance::note::{BalanceNote, Fate};
use super::balance::table::Standing;
use super::event::Verb;
use super::plan::{Launch, Role};
use super::service::{Phase, Served, State};
use super::timers::Timer;
use super::types::{ReplicaId, RunId, ServiceId, human};

/// A drain by hand waits this long at the least: the proxy needs a moment to say that nothing is left.
const ANSWER_MIN: Duration = Duration::from_secs(1);

impl Engine {
    /// What a replica that is up is to its balancers.
    pub(super) fn served(&self, id: ReplicaId) -> Option<Served> {
        let replica = self.at(id);
        match replica.state {
            State::Ready => Some(Served { well: true, ready_since: replica.memory.ready_since }),
            State::Degraded => Some(Served { well: false, ready_since: None }),
            State::Adopting
            | State::Stopped
            | State::Waiting { .. }
            | State::Starting
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed
            | State::Done
            | State::Stuck { .. } => None,
        }
    }

    /// The balancers in which the replica may have connections: of those that lead to it (for a stop also: that did so until now) the
    /// ones that have not said that nothing is left.
    pub(super) fn unfinished(&self, id: ReplicaId) -> BTreeSet<String> {
        if !self.proxy_lives() {
            return BTreeSet::new();
        }
        let replica = self.at(id);
        let mut names = self.leading(id);
        if matches!(replica.state, State::Stopping { .. }) {
            let name = self.backend_name(id);
            let told = self.told.values().filter(|table| table.backends.iter().any(|backend| backend.name == name));
            names.extend(told.map(|table| table.balancer.clone()));
        }
        names.retain(|name| !replica.emptied.contains(name));
        names
    }

    /// Connections end with the proxy's process, and its successor says of its own when they have ended.
    fn proxy_lives(&self) -> bool {
        let lives = |id: &ReplicaId| self.at(*id).run.as_ref().is_some_and(|run| !run.exited);
        let proxy = self.names.get(Role::Proxy.service_name());
        proxy.is_none_or(|service| self.replicas_of(*service).iter().any(lives))
    }

    /// A role has ended: with the proxy, every connection has.
    pub(super) fn role_ended(&mut self, id: ReplicaId) {
        if self.plan_of(id.service).launch != Launch::Role(Role::Proxy) {
            return;
        }
        let all: Vec<ReplicaId> = self.services.keys().flat_map(|service| self.replicas_of(*service)).collect();
        for drained in all {
            let in_stop = matches!(self.at(drained).state, State::Stopping { phase: Phase::Drain, .. });
            if in_stop || self.armed(drained, Timer::Drain).is_some() {
                self.touched.insert(drained.service);
                self.all_drained(drained);
            }
            self.forget_where_it_leaves(drained);
        }
    }

    /// In balancers that do not lead to it any more, nothing of it is left.
    fn forget_where_it_leaves(&mut self, id: ReplicaId) {
        let (name, leading) = (self.backend_name(id), self.leading(id));
        let tables = self.told.values().filter(|table| !leading.contains(&table.balancer));
        let having = tables.filter(|table| table.backends.iter().any(|backend| backend.name == name));
        let left: Vec<String> = having.map(|table| table.balancer.clone()).collect();
        if !left.is_empty() {
            self.at_mut(id).emptied.extend(left);
            self.rebalance_later(id.service);
        }
    }

    /// The names of the balancers that lead to it.
    pub(super) fn leading(&self, id: ReplicaId) -> BTreeSet<String> {
        self.balancers_of(id.service).map(|plan| plan.name.clone()).collect()
    }

    /// Whether a stop has connections to wait for.
    pub(super) fn may_have_connections(&self, id: ReplicaId) -> bool {
        let served = self.at(id).run.as_ref().is_some_and(|run| run.served.is_some() && !run.exited);
        served && !self.drain_timeout(id).is_zero()
    }

    /// The longest of the balancers that may have connections to it.
    pub(super) fn drain_timeout(&self, id: ReplicaId) -> Duration {
        let unfinished = self.unfinished(id);
        let rules = unfinished.iter().filter_map(|name| self.rules_of(name));
        rules.map(|rules| rules.drain_timeout).max().unwrap_or_default()
    }

    /// A stop enters this phase.
    pub(super) fn note_draining(&mut self, id: ReplicaId, phase: Phase) {
        let since = (phase == Phase::Drain).then_some(self.now.mono);
        if self.at(id).memory.draining_since != since {
            self.memory_mut(id).draining_since = since;
        }
        if phase == Phase::Drain {
            let balancers = self.unfinished(id).into_iter().collect();
            let at_most = self.drain_timeout(id);
            self.note(id, Level::Debug, NoteKind::Balance(BalanceNote::Draining { balancers, at_most }));
        }
    }

    /// A balancer has no connection to this run any more.
    pub(super) fn drained(&mut self, balancer: &str, id: ReplicaId, run: RunId) {
        if self.current(id, run).is_none() {
            return;
        }
        let name = self.backend_name(id);
        let drains = self.told.get(balancer).is_some_and(|table| {
            let mut backends = table.backends.iter();
            backends.any(|one| one.name == name && one.run == run.0 && one.standing == Standing::Draining)
        });
        if !drains || self.at(id).emptied.contains(balancer) {
            return self.stale();
        }
        self.at_mut(id).emptied.insert(balancer.to_owned());
        self.touched.insert(id.service);
        self.rebalance_later(id.service);
        if self.unfinished(id).is_empty() {
            self.all_drained(id);
        }
    }

    fn all_drained(&mut self, id: ReplicaId) {
        let since = self.at(id).memory.draining_since;
        let after = since.map(|since| self.now.mono.since(since));
        let by_hand = self.armed(id, Timer::Drain).is_some();
        if let Some(after) = after {
            let level = if by_hand { Level::Info } else { Level::Debug };
            self.note(id, level, NoteKind::Balance(BalanceNote::Drained { after }));
            self.memory_mut(id).draining_since = None;
        }
        self.disarm(id, Timer::Drain);
        if matches!(self.at(id).state, State::Stopping { phase: Phase::Drain, .. }) {
            self.end_drain(id);
        }
    }

    /// The time for a stop's drain is over.
    pub(super) fn drain_is_late(&mut self, id: ReplicaId) {
        let balancers = self.unfinished(id).into_iter().collect();
        let after = self.drained_for(id);
        let note = BalanceNote::NotDrained { balancers, after, fate: Fate::Cut };
        self.tell(id, Level::Warn, NoteKind::Balance(note));
        self.end_drain(id);
    }

    /// On to the stop signal; unless those that need the replica must go first by now, as in a shutdown that began meanwhile.
    pub(super) fn end_drain(&mut self, id: ReplicaId) {
        let State::Stopping { why, phase: Phase::Drain, .. } = self.at(id).state else {
            return;
        };
        let next = if self.dependents_are_down(id) { Self::signal_phase(why) } else { Phase::Dependents };
        self.enter(id, next);
    }

    fn drained_for(&self, id: ReplicaId) -> Duration {
        let since = self.at(id).memory.draining_since;
        since.map(|since| self.now.mono.since(since)).unwrap_or_default()
    }

    /// An operator has taken the replica out of its balancers, or brings it back.
    pub(super) fn drain_by_hand(&mut self, id: ReplicaId, verb: Verb) {
        self.rebalance_later(id.service);
        self.refresh(id);
        let up = matches!(self.at(id).state, State::Ready | State::Degraded);
        if !up {
            return;
        }
        if verb == Verb::Undrain {
            self.disarm(id, Timer::Drain);
            self.at_mut(id).emptied.clear();
            self.memory_mut(id).draining_since = None;
            return self.note(id, Level::Info, NoteKind::Balance(BalanceNote::Undrained));
        }
        let balancers = self.unfinished(id);
        if balancers.is_empty() {
            return;
        }
        let at_most = self.drain_timeout(id).max(ANSWER_MIN);
        self.arm(id, Timer::Drain, self.now.mono.after(at_most));
        self.memory_mut(id).draining_since = Some(self.now.mono);
        let balancers = balancers.into_iter().collect();
        self.note(id, Level::Info, NoteKind::Balance(BalanceNote::Draining { balancers, at_most }));
    }

    pub(super) fn drain_by_hand_is_late(&mut self, id: ReplicaId) {
        let balancers: Vec<String> = self.unfinished(id).into_iter().collect();
        let after = self.drained_for(id);
        let text = format!(
            "{} takes no new connection, but connections from {} have not ended within {}; `mainstay balancers` counts them",
            self.label(id),
            balancers.join(", "),
            human(after)
        );
        self.fail_drains(id, &text);
        self.memory_mut(id).draining_since = None;
        let note = BalanceNote::NotDrained { balancers, after, fate: Fate::Left };
        self.note(id, Level::Warn, NoteKind::Balance(note));
    }

    /// What balancers said of a drain does not hold for the next one, unless they do not lead to the replica any more: those give it nothing.
    pub(super) fn forget_what_was_emptied(&mut self, service: ServiceId) {
        for id in self.replicas_of(service) {
            if self.at(id).emptied.is_empty() {
                continue;
            }
            match self.offered(id) {
                Standing::Draining => {}
                Standing::Up | Standing::Degraded => {
                    let leading = self.leading(id);
                    self.at_mut(id).emptied.retain(|balancer| !leading.contains(balancer));
                }
                Standing::Out | Standing::Fenced => self.at_mut(id).emptied.clear(),
            }
        }
    }
}
