//! What the building comes to next. A few steps are taken in advance, and the files among them that will be read are asked for, so that their content is on
//! its way from the disk while others are written. That is a hint only: whatever becomes of it, the building reads them itself.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::merge::{Merge, Step};
use super::scan::{Found, Trouble};
use crate::copies::crew::Crew;
use crate::copies::format::entry::{Entry, Kind, LARGE_BYTES};
use crate::copies::format::manifest::ManifestError;
use crate::sys::dir::Dir;
use crate::sys::page_cache::read_ahead;

const STEPS_MAX: usize = 128;
/// To hand over each by itself costs as much as to ask for it.
const HINTS_A_BATCH: usize = 16;
/// Batches that are under way.
const BATCHES_MAX: usize = STEPS_MAX / HINTS_A_BATCH;
/// Of content that is asked for, and of hashes of blocks that are held.
const BYTES_MAX: u64 = 4 << 20;
/// Whoever asks waits where the file lies on the disk, but not for its content.
const THREADS: usize = 2;

#[derive(Debug)]
struct Hint {
    number: u64,
    dir: Arc<Dir>,
    name: OsString,
    bytes: u64,
}

pub(in crate::copies) struct Ahead<S, M> {
    merge: Merge<S, M>,
    /// What each of them counts of [`BYTES_MAX`], too.
    steps: VecDeque<(Step, u64)>,
    bytes: u64,
    is_at_end: bool,
    /// Steps that were given out.
    reached: Arc<AtomicU64>,
    taken: u64,
    /// `None`: no thread is to be had, so everything takes a little longer.
    crew: Option<Crew<Vec<Hint>, ()>>,
    hints: Vec<Hint>,
}

impl<S, M> Ahead<S, M>
where
    S: Iterator<Item = Result<Found, Trouble>>,
    M: Iterator<Item = Result<Entry, ManifestError>>,
{
    pub(in crate::copies) fn new(merge: Merge<S, M>) -> Self {
        let reached = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&reached);
        let hire = |_| {
            let seen = Arc::clone(&seen);
            Ok(move |hints: Vec<Hint>| {
                for hint in hints {
                    if seen.load(Ordering::Relaxed) <= hint.number
                        && let Ok(file) = hint.dir.read(&hint.name)
                    {
                        // Whoever reads it will see what is wrong with it.
                        let _ = read_ahead(&file, 0, hint.bytes);
                    }
                }
            })
        };
        let crew = Crew::start("ahead", THREADS, BATCHES_MAX, hire).ok();
        Self { merge, steps: VecDeque::new(), bytes: 0, is_at_end: false, reached, taken: 0, crew, hints: Vec::new() }
    }

    /// As of [`Merge`].
    pub(in crate::copies) fn step(&mut self) -> Result<Option<Step>, ManifestError> {
        while !self.is_at_end && self.steps.len() < STEPS_MAX && self.bytes < BYTES_MAX {
            match self.merge.step()? {
                Some(step) => {
                    let bytes = self.ask(&step) + blocks_bytes(&step);
                    self.bytes += bytes;
                    self.steps.push_back((step, bytes));
                    self.taken += 1;
                    if self.hints.len() >= HINTS_A_BATCH {
                        self.hand();
                    }
                }
                None => self.is_at_end = true,
            }
        }
        if self.is_at_end || self.bytes >= BYTES_MAX {
            self.hand();
        }
        self.reached.fetch_add(1, Ordering::Relaxed);
        let next = self.steps.pop_front();
        self.bytes -= next.as_ref().map_or(0, |(_, bytes)| *bytes);
        Ok(next.map(|(step, _)| step))
    }

    /// How much is asked for.
    fn ask(&mut self, step: &Step) -> u64 {
        let Some((found, bytes)) = to_be_read(step) else { return 0 };
        let (dir, name) = (Arc::clone(&found.parent), found.entry.name().to_os_string());
        self.hints.push(Hint { number: self.taken, dir, name, bytes });
        bytes
    }

    /// Not, if all are under way: hints are no help then.
    fn hand(&mut self) {
        let hints = std::mem::take(&mut self.hints);
        let Some(crew) = self.crew.as_mut().filter(|_| !hints.is_empty()) else { return };
        while crew.ready().is_some() {}
        if !crew.is_full() {
            crew.hand(hints);
        }
    }
}

/// Large ones are read with an eye on what was in the cache before, so nothing must come into it.
fn to_be_read(step: &Step) -> Option<(&Found, u64)> {
    let found = match step {
        Step::New(found) => found,
        Step::Both(found, before) if !found.entry.is_untouched_since(before) => found,
        Step::Both(..) | Step::Gone(_) | Step::Unknown(_) | Step::Trouble(_) => return None,
    };
    match found.entry.kind {
        Kind::File { size, .. } if size > 0 && size < LARGE_BYTES => Some((found, size)),
        Kind::File { .. }
        | Kind::Dir
        | Kind::Link { .. }
        | Kind::Fifo
        | Kind::Socket
        | Kind::Char { .. }
        | Kind::Block { .. } => None,
    }
}

fn blocks_bytes(step: &Step) -> u64 {
    let (Step::Both(_, before) | Step::Gone(before) | Step::Unknown(before)) = step else { return 0 };
    match &before.kind {
        Kind::File { blocks: Some(blocks), .. } => size_of_val(&blocks[..]) as u64,
        _ => 0,
    }
}
