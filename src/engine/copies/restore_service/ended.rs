//! That a restore is over is written down again until that has succeeded: a record that stays on disk would have a later agent hold the service, and put data
//! back that are no longer what counts.

use std::time::Duration;

use crate::engine::Engine;
use crate::engine::types::Time;

/// Between two tries.
const AGAIN: Duration = Duration::from_secs(60);

impl Engine {
    /// The first or another try.
    pub(super) fn save_end(&mut self, service: &str) {
        self.copies.unsaved_ends.remove(service);
        if let Some(decision) = self.save_restore(service) {
            self.copies.ends.insert(decision, service.to_owned());
        }
    }

    /// Whether it was such a decision; it is on disk, or is not.
    pub(super) fn end_saved(&mut self, decision: u64, result: &Result<(), String>) {
        let Some(service) = self.copies.ends.remove(&decision) else { return };
        if result.is_err() {
            self.copies.unsaved_ends.insert(service, self.now.mono.after(AGAIN));
            self.copies.due = true;
        }
    }

    pub(super) fn save_ends_again(&mut self) {
        let now = self.now.mono;
        let due = self.copies.unsaved_ends.iter().filter(|(_, at)| **at <= now);
        for service in due.map(|(service, _)| service.clone()).collect::<Vec<_>>() {
            self.save_end(&service);
        }
    }

    pub(super) fn ends_deadline(&self) -> Option<Time> {
        self.copies.unsaved_ends.values().copied().min()
    }
}
