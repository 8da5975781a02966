//! Whether pipes are read: a pipe of 1 MiB is the safest buffer there is, because what is in it outlives this process.
//!
//! While the log disk keeps up, the reader runs at most [`HIGH_BYTES`] ahead of the writer and leaves the rest in the pipes: so much, and
//! one read, is what a SIGKILL of this process can cost. When the writer does not catch up in time the disk is slow: then services
//! come first, all pipes are read again, the queue fills to its limit, and beyond it the oldest lines are dropped and counted.

use std::time::{Duration, Instant};

/// Bytes queued for the log disk at which pipes are left alone.
pub(super) const HIGH_BYTES: usize = 256 << 10;
/// ...and at which they are read again.
pub(super) const LOW_BYTES: usize = 128 << 10;
/// Without any progress of the writer.
const STALLED_AFTER: Duration = Duration::from_millis(200);
/// Without reaching the low mark.
const SLOW_AFTER: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Paused {
        since: Instant,
        taken: u64,
        progress: Instant,
    },
    /// The disk is slow; read on and drop.
    Slow,
}

#[derive(Debug)]
pub(super) struct Flow {
    state: State,
    /// Pipes that had something to say while paused; out of the epoll set until it is over.
    pub(super) masked: Vec<u32>,
}

impl Flow {
    pub(super) const fn new() -> Self {
        Self { state: State::Open, masked: Vec::new() }
    }

    pub(super) fn is_paused(&self) -> bool {
        matches!(self.state, State::Paused { .. })
    }

    pub(super) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// The queue is above the high mark.
    pub(super) fn pause(&mut self, taken: u64, now: Instant) {
        self.state = State::Paused { since: now, taken, progress: now };
    }

    /// What the queue says; `true`: read the masked pipes again.
    pub(super) fn judge(&mut self, weight: usize, taken: u64, now: Instant) -> bool {
        if self.is_open() {
            return false;
        }
        if weight <= LOW_BYTES {
            self.state = State::Open;
            return true;
        }
        let State::Paused { since, taken: before, progress } = self.state else { return false };
        let progress = if taken == before { progress } else { now };
        if now >= progress + STALLED_AFTER || now >= since + SLOW_AFTER {
            self.state = State::Slow;
            return true;
        }
        self.state = State::Paused { since, taken, progress };
        false
    }

    /// When to judge again, if nobody calls before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Paused { since, progress, .. } => Some((progress + STALLED_AFTER).min(since + SLOW_AFTER)),
            State::Open | State::Slow => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_wait_for_a_disk_that_moves_and_not_for_one_that_stands() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut flow = Flow::new();
        flow.pause(0, start);
        assert!(!flow.judge(HIGH_BYTES, 1, after(150)));
        assert!(!flow.judge(HIGH_BYTES, 1, after(300)));
        assert!(flow.judge(HIGH_BYTES, 1, after(350)));
        assert!(!flow.is_paused() && !flow.is_open());
        assert!(!flow.judge(HIGH_BYTES, 1, after(400)));
        assert!(flow.judge(LOW_BYTES, 2, after(500)));
        assert!(flow.is_open());
    }

    #[test]
    fn a_disk_that_creeps_is_slow_after_a_second() {
        let start = Instant::now();
        let mut flow = Flow::new();
        flow.pause(0, start);
        let judged = (1..=20).map(|turn| flow.judge(HIGH_BYTES, turn, start + Duration::from_millis(turn * 100)));
        assert_eq!(judged.collect::<Vec<_>>().iter().position(|slow| *slow), Some(9));
    }
}
