//! What the writer and history threads tell the reader. The reader never waits for them and they never wait for the reader.

use std::sync::{Mutex, PoisonError};

use super::wake::Waker;

#[derive(Debug)]
pub(super) enum Report {
    /// Lines of a stream that were lost on the way to the disk.
    Lost {
        slot: u32,
        lines: u64,
        reason: String,
    },
    /// Something an operator should know.
    Trouble(String),
    /// The journal was read: the greatest `seq` on disk.
    LastSeq(u64),
    Persisted {
        decision: u64,
        error: Option<String>,
    },
    /// Everything queued before the question is written; where the files then ended.
    Ends {
        client: u32,
        ends: Vec<FileEnd>,
    },
    /// A history thread is done with this client; `false`: the client cannot be written to any more.
    Told {
        client: u32,
        alive: bool,
    },
    /// A writer thread has written everything and left.
    Left,
}

/// Where the past of one file ends; inode 0: there is no file yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileEnd {
    pub(super) slot: u32,
    pub(super) inode: u64,
    pub(super) size: u64,
}

#[derive(Debug)]
pub(super) struct Reports {
    pending: Mutex<Vec<Report>>,
    waker: Waker,
}

impl Reports {
    pub(super) fn new(waker: Waker) -> Self {
        Self { pending: Mutex::new(Vec::new()), waker }
    }

    /// Losses are added up, so that a disk that fails for long while nobody listens fills no memory.
    pub(super) fn push(&self, report: Report) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let same = pending.iter_mut().rev().take(16).find_map(|before| match (before, &report) {
            (
                Report::Lost { slot, lines, reason },
                Report::Lost { slot: new_slot, lines: new_lines, reason: new_reason },
            ) if slot == new_slot && reason == new_reason => Some((lines, *new_lines)),
            _ => None,
        });
        match same {
            Some((lines, more)) => *lines += more,
            None => pending.push(report),
        }
        drop(pending);
        self.waker.wake();
    }

    pub(super) fn take(&self) -> Vec<Report> {
        std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
