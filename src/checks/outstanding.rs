//! The probes under way: by the agent's number, by our own, and by deadline. All three always hold the same probes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::probe::Probe;

/// Our own number of a probe, never used twice: the key of its socket in epoll, so that an event of a socket that is gone
/// cannot be taken for one of its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Token(pub(super) u64);

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: u64,
    pub(super) probe: Probe,
    pub(super) deadline: Instant,
    pub(super) timeout_ms: u64,
}

#[derive(Debug, Default)]
pub(super) struct Outstanding {
    entries: BTreeMap<Token, Entry>,
    by_id: BTreeMap<u64, Token>,
    by_deadline: BTreeSet<(Instant, Token)>,
}

impl Outstanding {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn insert(&mut self, token: Token, entry: Entry) {
        self.by_id.insert(entry.id, token);
        self.by_deadline.insert((entry.deadline, token));
        self.entries.insert(token, entry);
    }

    pub(super) fn get_mut(&mut self, token: Token) -> Option<&mut Entry> {
        self.entries.get_mut(&token)
    }

    pub(super) fn token_of(&self, id: u64) -> Option<Token> {
        self.by_id.get(&id).copied()
    }

    /// The one that is due first.
    pub(super) fn first(&self) -> Option<Token> {
        self.by_deadline.first().map(|(_, token)| *token)
    }

    pub(super) fn remove(&mut self, token: Token) -> Option<Entry> {
        let entry = self.entries.remove(&token)?;
        self.by_id.remove(&entry.id);
        self.by_deadline.remove(&(entry.deadline, token));
        Some(entry)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }

    /// Takes out one probe whose deadline is not after `now`.
    pub(super) fn take_late(&mut self, now: Instant) -> Option<Entry> {
        let (deadline, token) = *self.by_deadline.first()?;
        if deadline > now { None } else { self.remove(token) }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
