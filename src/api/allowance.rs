//! How much CPU time of the agent everybody on the host may take: the agent runs before every service, and `read.sock` is open to all.

/// Readers get one part of so many.
const PARTS: u64 = 10;
/// So much CPU time may be spent at once before anybody has to wait: single questions are never delayed.
const BURST_NS: u64 = 20_000_000;

/// CPU time that was spent on readers, as the time until which it is earned at a tenth of one CPU.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    earned_at_ns: u64,
}

impl Allowance {
    pub(super) fn spend(&mut self, now_ns: u64, spent_ns: u64) {
        self.earned_at_ns = self.earned_at_ns.max(now_ns).saturating_add(spent_ns.saturating_mul(PARTS));
    }

    /// When the burst is spent: until when nothing more is to be taken. Half of it is earned again then, so that there is time for requests and
    /// not for new connections only.
    pub(super) fn rests_until(&self, now_ns: u64) -> Option<u64> {
        let spent = self.earned_at_ns.saturating_sub(BURST_NS * PARTS) > now_ns;
        spent.then(|| self.earned_at_ns.saturating_sub(BURST_NS / 2 * PARTS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const START: u64 = 1_000 * MS;

    #[test]
    fn single_questions_are_never_delayed() {
        let mut allowance = Allowance::default();
        for second in 0..100 {
            let now = START + second * 1_000 * MS;
            allowance.spend(now, 20 * MS);
            assert_eq!(allowance.rests_until(now), None);
        }
    }

    #[test]
    fn who_asks_all_the_time_gets_a_tenth() {
        let mut allowance = Allowance::default();
        let (mut now, mut spent) = (START, 0);
        while now < START + 60_000 * MS {
            spent += 3 * MS;
            now += 3 * MS;
            allowance.spend(now, 3 * MS);
            now = allowance.rests_until(now).unwrap_or(now);
        }
        assert!((5_900 * MS..6_100 * MS).contains(&spent), "{spent}");
    }
}
