//! A seeded generator for jitter: splitmix64 (Steele, Lea, Flood 2014). Same seed, same run.

use std::time::Duration;

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to below `end`, for tests that throw dice.
    #[cfg(test)]
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// `delay`, up to `permille` thousandths shorter or longer.
    pub(super) fn jitter(&mut self, delay: Duration, permille: u32) -> Duration {
        let permille = u64::from(permille.min(1_000));
        if permille == 0 || delay.is_zero() {
            return delay;
        }
        let factor = 1_000 - permille + self.next() % (2 * permille + 1);
        scale(delay, factor)
    }
}

/// `delay * permille / 1000`, at most `u64::MAX` nanoseconds.
pub(super) fn scale(delay: Duration, permille: u64) -> Duration {
    let nanos = delay.as_nanos().saturating_mul(u128::from(permille)) / 1_000;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_its_share_and_repeats_with_the_seed() {
        let (mut one, mut two) = (Rng::new(7), Rng::new(7));
        let delay = Duration::from_secs(10);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..1_000 {
            let jittered = one.jitter(delay, 100);
            assert!((Duration::from_secs(9)..=Duration::from_secs(11)).contains(&jittered), "{jittered:?}");
            assert_eq!(jittered, two.jitter(delay, 100));
            seen.insert(jittered);
        }
        assert!(seen.len() > 100);
        assert_eq!(one.jitter(Duration::ZERO, 100), Duration::ZERO);
    }
}
