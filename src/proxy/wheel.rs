//! When a connection is to be looked at again: a coarse wheel. Activity does not touch it; a connection whose time has come is looked
//! at, and goes back in if it was active meanwhile. Empty, it asks for no wake-up.

use std::time::Duration;

use crate::engine::types::Time;

/// A tick is 2^25 ns, about 34 ms.
const TICK_SHIFT: u32 = 25;
/// 34 seconds of them; what is due later is looked at once a turn.
const BUCKETS: u64 = 1_024;
const WORDS: usize = 16;
/// What is further away than this many ticks (8.6 s) falls due together with others, about once a second.
const FAR: u64 = 256;
const FAR_STEP: u64 = 32;
const NONE: u32 = u32::MAX;
const NO_BUCKET: u16 = u16::MAX;

#[derive(Debug)]
pub(super) struct Wheel {
    heads: Box<[u32]>,
    occupied: [u64; WORDS],
    links: Vec<Link>,
    /// Everything up to this tick has fallen due. INVARIANT: what is in the wheel lies within the `BUCKETS - 1` ticks behind it.
    passed: u64,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    previous: u32,
    next: u32,
    bucket: u16,
}

const UNLINKED: Link = Link { previous: NONE, next: NONE, bucket: NO_BUCKET };

impl Wheel {
    pub(super) fn new(now: Time) -> Self {
        Self {
            heads: vec![NONE; WORDS * 64].into(),
            occupied: [0; WORDS],
            links: Vec::new(),
            passed: now.0 >> TICK_SHIFT,
            len: 0,
        }
    }

    /// Looks at `index` not before `due` and at the latest one turn from now; replaces what was set for it.
    pub(super) fn set(&mut self, index: u32, due: Time) {
        self.clear(index);
        let mut tick = (due.0 >> TICK_SHIFT) + 1;
        if tick > self.passed + FAR {
            tick = tick.next_multiple_of(FAR_STEP);
        }
        let tick = tick.clamp(self.passed + 1, self.passed + BUCKETS - 1);
        let place = index as usize;
        if place >= self.links.len() {
            self.links.resize(place + 1, UNLINKED);
        }
        let bucket = bucket_of(tick);
        let head = std::mem::replace(&mut self.heads[usize::from(bucket)], index);
        self.links[place] = Link { previous: NONE, next: head, bucket };
        if head != NONE {
            self.links[head as usize].previous = index;
        }
        self.occupied[usize::from(bucket) / 64] |= 1 << (bucket % 64);
        self.len += 1;
    }

    pub(super) fn clear(&mut self, index: u32) {
        let Some(link) = self.links.get_mut(index as usize) else { return };
        if link.bucket == NO_BUCKET {
            return;
        }
        let Link { previous, next, bucket } = std::mem::replace(link, UNLINKED);
        if next != NONE {
            self.links[next as usize].previous = previous;
        }
        if previous == NONE {
            self.heads[usize::from(bucket)] = next;
            if next == NONE {
                self.occupied[usize::from(bucket) / 64] &= !(1 << (bucket % 64));
            }
        } else {
            self.links[previous as usize].next = next;
        }
        self.len -= 1;
    }

    /// How long until something falls due; `None` when nothing is set.
    pub(super) fn wait(&self, now: Time) -> Option<Duration> {
        if self.len == 0 {
            return None;
        }
        let tick = self.first_after(self.passed)?;
        Some(Time(tick << TICK_SHIFT).since(now))
    }

    /// The first occupied tick of the turn behind `tick`.
    fn first_after(&self, tick: u64) -> Option<u64> {
        let mut at = tick + 1;
        let end = tick + BUCKETS;
        while at <= end {
            let bucket = bucket_of(at);
            let rest = self.occupied[usize::from(bucket) / 64] >> (bucket % 64);
            if rest != 0 {
                return Some(at + u64::from(rest.trailing_zeros())).filter(|found| *found <= end);
            }
            at += 64 - u64::from(bucket) % 64;
        }
        None
    }

    /// Takes out one that is due by now. To be called until there is none.
    pub(super) fn take_due(&mut self, now: Time) -> Option<u32> {
        let now_tick = now.0 >> TICK_SHIFT;
        let due = if self.len == 0 { None } else { self.first_after(self.passed).filter(|tick| *tick <= now_tick) };
        let Some(tick) = due else {
            self.passed = self.passed.max(now_tick);
            return None;
        };
        // What falls due together stays in its bucket, just ahead, until all of it is taken.
        self.passed = tick - 1;
        let index = self.heads[usize::from(bucket_of(tick))];
        self.clear(index);
        Some(index)
    }
}

fn bucket_of(tick: u64) -> u16 {
    u16::try_from(tick % BUCKETS).unwrap_or(NO_BUCKET)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::testing::Random;

    const SECOND: u64 = 1_000_000_000;

    fn all_due(wheel: &mut Wheel, now: Time) -> Vec<u32> {
        let mut due: Vec<u32> = std::iter::from_fn(|| wheel.take_due(now)).collect();
        due.sort_unstable();
        due
    }

    #[test]
    fn nothing_set_asks_for_no_wake_up() {
        let mut wheel = Wheel::new(Time(5 * SECOND));
        assert_eq!(wheel.wait(Time(5 * SECOND)), None);
        wheel.set(3, Time(6 * SECOND));
        assert!(wheel.wait(Time(5 * SECOND)).unwrap() > Duration::from_millis(900));
        wheel.clear(3);
        assert_eq!(wheel.wait(Time(5 * SECOND)), None);
    }

    #[test]
    fn after_a_long_sleep_everything_is_due_and_new_ones_are_not() {
        let mut wheel = Wheel::new(Time(0));
        wheel.set(1, Time(SECOND));
        wheel.set(2, Time(30 * SECOND));
        assert_eq!(all_due(&mut wheel, Time(1_000 * SECOND)), [1, 2]);
        wheel.set(1, Time(1_001 * SECOND));
        assert_eq!(all_due(&mut wheel, Time(1_000 * SECOND)), [] as [u32; 0]);
        assert_eq!(all_due(&mut wheel, Time(1_002 * SECOND)), [1]);
    }

    #[test]
    fn nothing_is_early_and_nothing_later_than_its_step() {
        for seed in 0..20 {
            let mut random = Random::new(seed);
            let mut below = move |end: u64| random.below(end);
            let mut now = below(100 * SECOND);
            let mut wheel = Wheel::new(Time(now));
            let mut model = std::collections::BTreeMap::new();
            for _ in 0..3_000 {
                let index = u32::try_from(below(50)).unwrap();
                match below(4) {
                    0 => {
                        let due = now + below(20 * SECOND);
                        wheel.set(index, Time(due));
                        model.insert(index, due);
                    }
                    1 => {
                        wheel.clear(index);
                        model.remove(&index);
                    }
                    _ => {
                        now += below(SECOND / 10);
                        for index in all_due(&mut wheel, Time(now)) {
                            assert!(model.remove(&index).unwrap() <= now, "early");
                        }
                    }
                }
                assert!(model.values().all(|due| now < due + 1_200_000_000), "late");
                assert_eq!(wheel.len, model.len());
            }
        }
    }
}
