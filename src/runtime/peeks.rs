//! Messages of services that were looked at and are left where they are until what follows from them is recorded: an agent that dies in
//! between leaves them to its successor.
//!
//! Events and actions are queues, so it is enough to count: a message may go once the events queued for it are decided and the
//! actions queued by then are performed. It does not wait for the queues to be empty, which on a busy host they may not be for long.

use crate::engine::types::{ReplicaId, RunId};

/// Where a message waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peeked {
    Notification(ReplicaId),
    ReadyPipe(ReplicaId, RunId),
}

#[derive(Clone, Copy, Debug)]
enum Until {
    /// So many events are decided.
    Decided(u64),
    /// So many actions are performed.
    Performed(u64),
}

#[derive(Debug, Default)]
pub struct Peeks {
    waiting: Vec<(Peeked, Until)>,
    decided: u64,
    performed: u64,
}

impl Peeks {
    #[must_use]
    pub fn contains(&self, what: Peeked) -> bool {
        self.waiting.iter().any(|(waits, _)| *waits == what)
    }

    /// A message was looked at; its events are the last of `queued_events`.
    pub fn add(&mut self, what: Peeked, queued_events: usize) {
        self.waiting.push((what, Until::Decided(self.decided + queued_events as u64)));
    }

    /// An event was put before all that are queued.
    pub fn overtaken(&mut self) {
        for (_, until) in &mut self.waiting {
            if let Until::Decided(count) = until {
                *count += 1;
            }
        }
    }

    /// The first event was given to the engine.
    pub fn decided_one(&mut self) {
        self.decided += 1;
    }

    /// The actions of all events decided so far are among the first `queued_actions`.
    pub fn decided(&mut self, queued_actions: usize) {
        let performed = self.performed + queued_actions as u64;
        for (_, until) in &mut self.waiting {
            if matches!(until, Until::Decided(count) if *count <= self.decided) {
                *until = Until::Performed(performed);
            }
        }
    }

    /// The first action was performed.
    pub fn performed_one(&mut self) {
        self.performed += 1;
    }

    /// What may go.
    pub fn take_due(&mut self) -> Vec<Peeked> {
        let performed = self.performed;
        self.waiting
            .extract_if(.., |(_, until)| matches!(until, Until::Performed(count) if *count <= performed))
            .map(|(what, _)| what)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::types::ServiceId;

    fn notification(service: u32) -> Peeked {
        Peeked::Notification(ReplicaId { service: ServiceId(service), index: 0 })
    }

    #[test]
    fn message_goes_when_its_own_consequences_are_performed_however_busy_the_queues_are() {
        let mut peeks = Peeks::default();
        // Two events were queued before, one is its own.
        peeks.add(notification(1), 3);
        assert!(peeks.contains(notification(1)));
        for _ in 0..2 {
            peeks.decided_one();
        }
        peeks.decided(5);
        assert_eq!(peeks.take_due(), []);
        // More arrives behind it, and a stall before it.
        peeks.add(notification(2), 4);
        peeks.overtaken();
        for _ in 0..2 {
            peeks.decided_one();
        }
        peeks.decided(2);
        assert_eq!(peeks.take_due(), []);
        peeks.performed_one();
        assert_eq!(peeks.take_due(), []);
        peeks.performed_one();
        assert_eq!(peeks.take_due(), [notification(1)]);
        assert!(!peeks.contains(notification(1)) && peeks.contains(notification(2)));
    }

    #[test]
    fn message_without_consequences_goes_at_once() {
        let mut peeks = Peeks::default();
        peeks.add(notification(1), 0);
        peeks.decided(0);
        assert_eq!(peeks.take_due(), [notification(1)]);
    }
}
