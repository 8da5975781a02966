//! The bounded queue between the reader, which must never wait, and one writer thread, which may wait for a disk for ever.
//!
//! The limit is in bytes. At the limit the *oldest* droppable item leaves and is counted: what was said last explains a failure
//! better than what was said first. Everything that was dropped lies before everything that is still queued, so the counts travel
//! with the next batch and the writer can say so at the right place of the file.
//!
//! Between the low and the high mark the reader may choose to leave bytes in the pipes, where they outlive this process: see `flow`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::wake::Waker;

/// What a writer takes at once; it counts as queued until the writer comes back for more.
pub(super) const TAKE_BYTES_MAX: usize = 128 << 10;
/// Buffers handed back by the writer for the reader's next reads.
const SPARE_MAX: usize = 4;
/// Items a resting queue keeps room for.
const REST_ITEMS: usize = 64;

/// What the queue must know of an item.
pub(super) trait Queued {
    /// Bytes it holds, its own size included.
    fn weight(&self) -> usize;
    /// `Some`: may be dropped at the limit; the key and the lines that are then lost.
    fn loss(&self) -> Option<(u32, u64)>;
}

/// What one [`Queue::take`] brought.
#[derive(Debug)]
pub(super) struct Batch<T> {
    pub(super) items: Vec<T>,
    /// Lines that were dropped before the first of `items`, by key.
    pub(super) gaps: BTreeMap<u32, u64>,
}

impl<T> Batch<T> {
    pub(super) const fn new() -> Self {
        Self { items: Vec::new(), gaps: BTreeMap::new() }
    }
}

/// What one [`Queue::push`] did.
#[derive(Debug)]
pub(super) struct Pushed {
    /// Bytes queued or in the writer's hands.
    pub(super) weight: usize,
    /// Lines dropped to make room, by key.
    pub(super) lost: Vec<(u32, u64)>,
}

#[derive(Debug)]
pub(super) struct Queue<T> {
    inner: Mutex<Inner<T>>,
    filled: Condvar,
    limit_bytes: usize,
    waker: Waker,
}

#[derive(Debug)]
struct Inner<T> {
    items: VecDeque<T>,
    weight: usize,
    in_hand: usize,
    gaps: BTreeMap<u32, u64>,
    /// The writer sleeps.
    resting: bool,
    /// The reader wants to be woken when no more than this is left.
    low_mark: Option<usize>,
    taken: u64,
    spare: Vec<Vec<u8>>,
}

impl<T: Queued> Queue<T> {
    pub(super) fn new(limit_bytes: usize, waker: Waker) -> Self {
        let inner = Inner {
            items: VecDeque::new(),
            weight: 0,
            in_hand: 0,
            gaps: BTreeMap::new(),
            resting: false,
            low_mark: None,
            taken: 0,
            spare: Vec::new(),
        };
        Self { inner: Mutex::new(inner), filled: Condvar::new(), limit_bytes, waker }
    }

    /// A panic aborts the process, so a poisoned lock is never seen; its content would still be good.
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never waits for the writer.
    pub(super) fn push(&self, item: T) -> Pushed {
        let mut inner = self.lock();
        inner.weight += item.weight();
        inner.items.push_back(item);
        let mut lost = Vec::new();
        while inner.weight > self.limit_bytes && inner.items.len() > 1 {
            let newest = inner.items.len() - 1;
            let Some(oldest) = inner.items.iter().take(newest).position(|item| item.loss().is_some()) else { break };
            let Some(item) = inner.items.remove(oldest) else { break };
            inner.weight -= item.weight();
            if let Some((key, lines)) = item.loss() {
                *inner.gaps.entry(key).or_default() += lines;
                lost.push((key, lines));
            }
        }
        let weight = inner.weight;
        let resting = std::mem::take(&mut inner.resting);
        drop(inner);
        if resting {
            self.filled.notify_one();
        }
        Pushed { weight, lost }
    }

    /// Says that the last batch is done with and waits for the next, at most until `until`; then the batch is empty.
    pub(super) fn take(&self, batch: &mut Batch<T>, until: Option<Instant>) {
        batch.items.clear();
        batch.gaps.clear();
        let mut inner = self.lock();
        inner.weight -= std::mem::take(&mut inner.in_hand);
        inner.taken += 1;
        if inner.low_mark.is_some_and(|mark| inner.weight <= mark) {
            inner.low_mark = None;
            self.waker.wake();
        }
        while inner.items.is_empty() {
            inner.rest();
            batch.items.shrink_to(REST_ITEMS);
            inner = match until {
                None => self.filled.wait(inner).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        inner.resting = false;
                        return;
                    }
                    self.filled.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        inner.resting = false;
        while inner.in_hand < TAKE_BYTES_MAX {
            let Some(item) = inner.items.pop_front() else { break };
            inner.in_hand += item.weight();
            batch.items.push(item);
        }
        batch.gaps = std::mem::take(&mut inner.gaps);
    }

    /// Bytes queued or in the writer's hands, and how often the writer came back.
    pub(super) fn fill(&self) -> (usize, u64) {
        let inner = self.lock();
        (inner.weight, inner.taken)
    }

    /// Wakes the reader once no more than `mark` bytes are left; `false`: that is so already.
    pub(super) fn call_at(&self, mark: usize) -> bool {
        let mut inner = self.lock();
        let above = inner.weight > mark;
        inner.low_mark = above.then_some(mark);
        above
    }

    /// A buffer that the writer is done with.
    pub(super) fn spare(&self) -> Option<Vec<u8>> {
        self.lock().spare.pop()
    }

    pub(super) fn give_back(&self, buffer: Vec<u8>) {
        let mut inner = self.lock();
        if inner.spare.len() < SPARE_MAX {
            inner.spare.push(buffer);
        }
    }
}

impl<T> Inner<T> {
    /// At rest the process shall be small.
    fn rest(&mut self) {
        self.resting = true;
        self.spare = Vec::new();
        self.items.shrink_to(REST_ITEMS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    enum Item {
        Lines(u32, usize),
        Order,
    }

    impl Queued for Item {
        fn weight(&self) -> usize {
            match self {
                Self::Lines(_, bytes) => *bytes,
                Self::Order => 1,
            }
        }

        fn loss(&self) -> Option<(u32, u64)> {
            match self {
                Self::Lines(key, _) => Some((*key, 2)),
                Self::Order => None,
            }
        }
    }

    #[test]
    fn a_full_queue_drops_the_oldest_lines_and_never_an_order() {
        let queue = Queue::new(100, Waker::new().unwrap());
        assert!(queue.push(Item::Order).lost.is_empty());
        assert!(queue.push(Item::Lines(1, 60)).lost.is_empty());
        let pushed = queue.push(Item::Lines(2, 60));
        assert_eq!(pushed.lost, vec![(1, 2)]);
        assert_eq!(pushed.weight, 61);
        let mut batch = Batch::new();
        queue.take(&mut batch, None);
        assert_eq!(batch.items, vec![Item::Order, Item::Lines(2, 60)]);
        assert_eq!(batch.gaps, BTreeMap::from([(1, 2)]));
    }

    #[test]
    fn what_the_writer_holds_counts_until_it_comes_back() {
        let waker = Waker::new().unwrap();
        let queue = Queue::new(100, waker.clone());
        queue.push(Item::Lines(1, 60));
        let mut batch = Batch::new();
        queue.take(&mut batch, None);
        assert_eq!(queue.fill().0, 60);
        assert!(queue.call_at(10));
        assert!(!waker.clear());
        queue.take(&mut batch, Some(Instant::now()));
        assert!(batch.items.is_empty());
        assert_eq!(queue.fill().0, 0);
        assert!(waker.clear());
        assert!(!queue.call_at(10));
    }
}
