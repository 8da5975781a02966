//! Errands of one kind under way, each with whatever it is for: exec probes, alerts, hooks of copies.

use std::collections::BTreeMap;
use std::time::Duration;

use super::errand::{Errand, Order};
use super::shell::Shell;
use crate::engine::types::{Time, human};
use crate::sys::host;

/// What is told of the last line of a command's stderr.
const TOLD_CHARS_MAX: usize = 200;
/// Numbers of errands of one kind, as many as an epoll key has room for.
const SLOT_MAX: u32 = (1 << 24) - 1;

#[derive(Debug)]
pub struct Errands<T> {
    running: BTreeMap<u32, Running<T>>,
    next_slot: u32,
    /// More are refused.
    running_max: usize,
    /// What they are, for who reads it: `alerts`.
    kind: &'static str,
}

#[derive(Debug)]
struct Running<T> {
    purpose: T,
    errand: Errand,
    /// `None`: somebody else sees to it.
    limit: Option<Limit>,
}

#[derive(Clone, Copy, Debug)]
struct Limit {
    timeout: Duration,
    deadline: Time,
}

/// The errands of one kind, in the shell.
pub(super) type Of<T> = fn(&mut Shell) -> &mut Errands<T>;

/// An errand that has ended: what it was for, and how it ended.
pub(super) type Ended<T> = (T, Result<(), String>);

impl<T> Errands<T> {
    pub(super) fn new(kind: &'static str, running_max: usize) -> Self {
        // Not from 0: a group of an earlier agent's errand may not be gone yet.
        let next_slot = u32::try_from(host::random_u64() & u64::from(SLOT_MAX)).unwrap_or_default();
        Self { running: BTreeMap::new(), next_slot, running_max, kind }
    }

    /// The number of the next one; an error if there are too many.
    pub(super) fn slot(&mut self) -> Result<u32, String> {
        if self.running.len() >= self.running_max {
            return Err(format!("{} {} are under way already", self.running_max, self.kind));
        }
        let slot = self.next_slot;
        self.next_slot = (slot + 1) & SLOT_MAX;
        Ok(slot)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// When one is to be killed at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.running.values().filter_map(|running| running.limit).map(|limit| limit.deadline).min()
    }

    /// Whether a pid is that of an errand (the reaper of orphans leaves it alone).
    #[must_use]
    pub fn is_main(&self, pid: i32) -> bool {
        self.running.values().any(|running| running.errand.pid() == pid)
    }
}

/// Starts `order`, whose slot is from [`Errands::slot`], and has it killed after `timeout`.
pub(super) fn start<T>(
    shell: &mut Shell,
    of: Of<T>,
    purpose: T,
    order: &mut Order<'_>,
    timeout: Option<Duration>,
) -> Result<(), String> {
    let errand = Errand::start(shell, order)?;
    let limit = timeout.map(|timeout| Limit { timeout, deadline: super::now().mono.after(timeout) });
    of(shell).running.insert(order.slot, Running { purpose, errand, limit });
    Ok(())
}

/// The pidfd of one is readable. `None`: it has not ended, or is forgotten.
pub(super) fn ended<T>(shell: &mut Shell, of: Of<T>, slot: u32) -> Option<Ended<T>> {
    let result = of(shell).running.get(&slot)?.errand.result()?;
    finish(shell, of, slot, result)
}

/// Kills those that have taken too long.
pub(super) fn expire<T>(shell: &mut Shell, of: Of<T>, now: Time) -> Vec<Ended<T>> {
    let running = of(shell).running.iter();
    let late: Vec<(u32, Limit)> = running
        .filter_map(|(slot, running)| Some((*slot, running.limit.filter(|limit| limit.deadline <= now)?)))
        .collect();
    let killed = |limit: Limit| Err(format!("no end within {}, killed", human(limit.timeout)));
    late.into_iter().filter_map(|(slot, limit)| finish(shell, of, slot, killed(limit))).collect()
}

/// Kills the one with this purpose, if there is one.
pub(super) fn cancel<T>(shell: &mut Shell, of: Of<T>, is_it: impl Fn(&T) -> bool) {
    let slot = of(shell).running.iter().find(|(_, running)| is_it(&running.purpose)).map(|(slot, _)| *slot);
    if let Some(slot) = slot {
        finish(shell, of, slot, Ok(()));
    }
}

/// The agent leaves: so do they.
pub(super) fn end_all<T>(shell: &mut Shell, of: Of<T>) {
    for running in std::mem::take(&mut of(shell).running).into_values() {
        running.errand.end(shell);
    }
}

fn finish<T>(shell: &mut Shell, of: Of<T>, slot: u32, result: Result<(), String>) -> Option<Ended<T>> {
    let Running { purpose, errand, .. } = of(shell).running.remove(&slot)?;
    let said = errand.end(shell);
    Some((purpose, result.map_err(|why| with_last_line(why, &said))))
}

/// `exit code 7: curl: (7) Failed to connect`
fn with_last_line(why: String, said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let Some(line) = said.lines().map(str::trim).rfind(|line| !line.is_empty()) else { return why };
    let line: String = line.chars().filter(|letter| !letter.is_control()).take(TOLD_CHARS_MAX).collect();
    format!("{why}: {line}")
}
