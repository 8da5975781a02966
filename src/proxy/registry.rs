//! What the agent has said: balancers with their listeners, and when connections that may not go on for ever are cut.
//!
//! A new agent says everything anew. What it has not named by the time it says `Complete` is gone from the configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::backend::BackendState;
use super::shared::{Balancer, Listener};
use crate::engine::balance::plan::{Address, Delivery};
use crate::engine::balance::table::{Backend, Standing, Table};
use crate::engine::types::Time;

#[derive(Debug, Default)]
pub(super) struct Registry {
    entries: BTreeMap<String, Entry>,
    cuts: Vec<Cut>,
}

/// A balancer of the configuration.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// `None` until its first table.
    pub(super) known: Option<(Arc<Balancer>, Delivery)>,
    pub(super) listeners: Vec<Named<Arc<Listener>>>,
    /// The agent that is there has sent its table.
    named: bool,
}

#[derive(Debug)]
pub(super) struct Named<T> {
    pub(super) what: T,
    named: bool,
}

/// Connections that end at a time, whatever they do.
#[derive(Debug)]
struct Cut {
    at: Time,
    what: CutOf,
}

#[derive(Clone, Debug)]
pub(super) enum CutOf {
    /// It was removed.
    Balancer(Arc<Balancer>),
    /// It left its table.
    Left(Arc<Balancer>, Arc<BackendState>),
    /// Its time to drain.
    Drain(Arc<Balancer>, Arc<BackendState>, u32),
}

/// What another table means for the control thread.
#[derive(Debug)]
pub(super) struct Applied {
    pub(super) balancer: Arc<Balancer>,
    /// How connections of its listeners were delivered before; `None` when the balancer is new.
    pub(super) before: Option<Delivery>,
    /// Name and run of backends that drain and have nothing left.
    pub(super) drained: Vec<(String, u32)>,
}

impl Registry {
    /// Another agent: nothing is named yet.
    pub(super) fn begin_sync(&mut self) {
        for entry in self.entries.values_mut() {
            entry.named = false;
            entry.listeners.iter_mut().for_each(|listener| listener.named = false);
        }
    }

    /// The balancers, and the listeners of others, that this agent has not named.
    pub(super) fn unnamed(&self) -> (Vec<String>, Vec<(String, Address)>) {
        let gone = self.entries.iter().filter(|(_, entry)| !entry.named).map(|(name, _)| name.clone());
        let kept = self.entries.iter().filter(|(_, entry)| entry.named);
        let listeners = kept.flat_map(|(name, entry)| {
            let unnamed = entry.listeners.iter().filter(|listener| !listener.named);
            unnamed.map(move |listener| (name.clone(), listener.what.address.clone()))
        });
        (gone.collect(), listeners.collect())
    }

    pub(super) fn entry(&self, balancer: &str) -> Option<&Entry> {
        self.entries.get(balancer)
    }

    /// Those that have a table, in the order of their names.
    pub(super) fn balancers(&self) -> impl Iterator<Item = &(Arc<Balancer>, Delivery)> {
        self.entries.values().filter_map(|entry| entry.known.as_ref())
    }

    /// Whether this listener is there already; then it is named.
    pub(super) fn name_listener(&mut self, balancer: &str, address: &Address) -> bool {
        let entry = self.entries.get_mut(balancer);
        let listener = entry.and_then(|entry| entry.listeners.iter_mut().find(|one| one.what.address == *address));
        listener.map(|listener| listener.named = true).is_some()
    }

    pub(super) fn add_listener(&mut self, balancer: &str, listener: Arc<Listener>) {
        let entry = self.entries.entry(balancer.to_owned()).or_default();
        entry.listeners.push(Named { what: listener, named: true });
    }

    pub(super) fn remove_listener(&mut self, balancer: &str, address: &Address) -> Option<Arc<Listener>> {
        let listeners = &mut self.entries.get_mut(balancer)?.listeners;
        let index = listeners.iter().position(|listener| listener.what.address == *address)?;
        Some(listeners.swap_remove(index).what)
    }

    /// Puts a table in place.
    pub(super) fn apply(&mut self, table: Table, now: Time) -> Applied {
        let (name, delivery, patience) = (table.balancer.clone(), table.delivery, table.rules.drain_timeout);
        let entry = self.entries.entry(name).or_default();
        entry.named = true;
        let (balancer, before, replaced) = match entry.known.take() {
            Some((balancer, before)) => {
                let replaced = balancer.replace(table, now);
                (balancer, Some(before), replaced)
            }
            None => (Balancer::new(table, now), None, super::shared::Replaced::default()),
        };
        entry.known = Some((Arc::clone(&balancer), delivery));
        let at = now.after(patience);
        for state in replaced.removed {
            self.cuts.push(Cut { at, what: CutOf::Left(Arc::clone(&balancer), state) });
        }
        self.time_drains(&balancer, at);
        let drained = if before.is_none() { drained(&balancer) } else { replaced.drained };
        Applied { balancer, before, drained }
    }

    /// A backend that begins to drain for its stop has until `at`; one that did already keeps its time, and one that no longer does has
    /// none. Nor has one that drains by hand.
    fn time_drains(&mut self, balancer: &Arc<Balancer>, at: Time) {
        let live = balancer.live();
        let draining = |state: &Arc<BackendState>, run: u32| {
            let slot = live.slot_of(state).map(|slot| &live.table.backends[slot]);
            slot.is_some_and(|backend| is_timed(backend) && backend.run == run)
        };
        self.cuts.retain(|cut| match &cut.what {
            CutOf::Drain(of, state, run) if Arc::ptr_eq(of, balancer) => draining(state, *run),
            CutOf::Drain(..) | CutOf::Balancer(_) | CutOf::Left(..) => true,
        });
        for (backend, state) in live.table.backends.iter().zip(&live.backends) {
            let timed = self.cuts.iter().any(|cut| match &cut.what {
                CutOf::Drain(_, timed, _) => Arc::ptr_eq(timed, state),
                CutOf::Balancer(_) | CutOf::Left(..) => false,
            });
            if is_timed(backend) && !timed {
                let what = CutOf::Drain(Arc::clone(balancer), Arc::clone(state), backend.run);
                self.cuts.push(Cut { at, what });
            }
        }
    }

    /// Takes a balancer out; what it has goes on for the drain timeout of its rules.
    pub(super) fn remove(&mut self, balancer: &str, now: Time) -> Option<Entry> {
        let entry = self.entries.remove(balancer)?;
        if let Some((balancer, _)) = &entry.known {
            let at = now.after(balancer.live().table.rules.drain_timeout);
            self.cuts.push(Cut { at, what: CutOf::Balancer(Arc::clone(balancer)) });
        }
        Some(entry)
    }

    pub(super) fn next_cut(&self) -> Option<Time> {
        self.cuts.iter().map(|cut| cut.at).min()
    }

    /// What is to be cut now.
    pub(super) fn take_due(&mut self, now: Time) -> Vec<CutOf> {
        self.cuts.extract_if(.., |cut| cut.at <= now).map(|cut| cut.what).collect()
    }
}

fn is_timed(backend: &Backend) -> bool {
    backend.standing == Standing::Draining && backend.cut
}

/// Name and run of those that drain and have no connection.
pub(super) fn drained(balancer: &Balancer) -> Vec<(String, u32)> {
    let live = balancer.live();
    let drained = live.backends.iter().filter(|state| state.is_drained());
    drained.map(|state| (state.name().to_owned(), state.run())).collect()
}
