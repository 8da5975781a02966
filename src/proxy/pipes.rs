//! What a worker has once for all its connections: the buffer that bytes pass through, and pipes for splicing.

use std::io;
use std::num::NonZeroUsize;

use crate::engine::types::Time;
use crate::sys::scratch::Scratch;
use crate::sys::splice::Pipe;

/// What is read at once. Pages beyond what connections really send are never touched.
const SCRATCH_BYTES: NonZeroUsize = NonZeroUsize::new(256 << 10).expect("not zero");
/// Unwritten tails of all connections beyond which only [`READ_BYTES_TIGHT`] are read at once: what a slow reader can make us hold.
const TAIL_BYTES_MAX: usize = 32 << 20;
pub(super) const READ_BYTES_TIGHT: usize = 16 << 10;
/// Beyond this nothing is taken from a source that the destination has no room for. So little in tests that they get there.
const TAIL_BYTES_END: usize = if cfg!(test) { 32 << 10 } else { 64 << 20 };
/// Empty pipes that are kept; beyond, they are closed.
const IDLE_PIPES_MAX: usize = 16;

#[derive(Debug)]
pub(super) struct Tools {
    pub(super) scratch: Scratch,
    /// The begin of this turn of the loop.
    pub(super) now: Time,
    /// Held in tails.
    pub(super) tail_bytes: usize,
    end_met: bool,
    end_told: bool,
    idle: Vec<Pipe>,
    /// Pipes that exist, idle or in use.
    pipes: usize,
    pipes_max: usize,
}

impl Tools {
    pub(super) fn new(now: Time, pipes_max: usize) -> io::Result<Self> {
        Ok(Self {
            scratch: Scratch::new(SCRATCH_BYTES)?,
            now,
            tail_bytes: 0,
            end_met: false,
            end_told: false,
            idle: Vec::new(),
            pipes: 0,
            pipes_max,
        })
    }

    pub(super) fn read_bytes(&self) -> usize {
        if self.tail_bytes > TAIL_BYTES_MAX { READ_BYTES_TIGHT } else { self.scratch.len() }
    }

    /// Whether nothing may be held any more.
    pub(super) fn is_full(&mut self) -> bool {
        let full = self.tail_bytes > TAIL_BYTES_END;
        self.end_met |= full;
        full
    }

    /// `true` once, after that was so for the first time.
    pub(super) fn must_tell_full(&mut self) -> bool {
        self.end_met && !std::mem::replace(&mut self.end_told, self.end_met)
    }

    /// An empty pipe; `None` at the limit, or when the kernel has none.
    pub(super) fn take_pipe(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.idle.pop() {
            return Some(pipe);
        }
        if self.pipes >= self.pipes_max {
            return None;
        }
        let pipe = Pipe::new().ok()?;
        self.pipes += 1;
        Some(pipe)
    }

    pub(super) fn give_back_empty(&mut self, pipe: Pipe) {
        if self.idle.len() < IDLE_PIPES_MAX {
            self.idle.push(pipe);
        } else {
            self.close_pipe(pipe);
        }
    }

    /// For a pipe that holds bytes nobody will get: another connection must never see them.
    pub(super) fn close_pipe(&mut self, pipe: Pipe) {
        drop(pipe);
        self.pipes -= 1;
    }

    /// When no connection is left: descriptors and kernel memory go back.
    pub(super) fn let_go(&mut self) {
        self.pipes -= self.idle.len();
        self.idle.clear();
    }
}
