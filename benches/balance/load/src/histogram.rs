//! Latencies by logarithmic buckets, 64 a power of two: quantiles are right to 1.6 %, whatever their size.

use std::time::Duration;

const SUB_BITS: u32 = 6;
const BUCKETS: usize = 64 * 60;

#[derive(Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max_ns: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max_ns: 0 }
    }

    pub(crate) fn add(&mut self, value: Duration) {
        let ns = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(ns)] += 1;
        self.total += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// In microseconds: the upper edge of the bucket that holds this share (in thousandths), never above the greatest value.
    pub(crate) fn quantile_us(&self, permille: u64) -> f64 {
        let wanted = (self.total * permille).div_ceil(1_000).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return microseconds(edge(index).min(self.max_ns));
            }
        }
        0.0
    }

    pub(crate) fn max_us(&self) -> f64 {
        microseconds(self.max_ns)
    }
}

#[expect(clippy::cast_precision_loss, reason = "52 bits of nanoseconds are seven weeks")]
fn microseconds(ns: u64) -> f64 {
    ns as f64 / 1e3
}

fn bucket(ns: u64) -> usize {
    let exponent = (63 - (ns | 1).leading_zeros()).saturating_sub(SUB_BITS);
    let index = u64::from(exponent) * 64 + (ns >> exponent);
    usize::try_from(index).unwrap_or(usize::MAX).min(BUCKETS - 1)
}

/// The greatest value of a bucket.
fn edge(index: usize) -> u64 {
    if index < 128 {
        return index as u64;
    }
    let exponent = index / 64 - 1;
    let mantissa = (index - exponent * 64) as u64;
    ((mantissa + 1) << exponent) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        let mut value: u64 = 1;
        while value < 1 << 50 {
            for ns in [value - 1, value, value + 1, value + value / 3] {
                let index = bucket(ns);
                assert!(edge(index) >= ns, "{ns}");
                assert!(index == 0 || edge(index - 1) < ns, "{ns}");
                assert!(edge(index) - ns <= ns / 60, "{ns}");
            }
            value *= 2;
        }
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut histogram = Histogram::new();
        for ms in 1..=1_000 {
            histogram.add(Duration::from_millis(ms));
        }
        assert!((histogram.quantile_us(500) - 500_000.0).abs() < 8_000.0);
        assert!((histogram.quantile_us(990) - 990_000.0).abs() < 16_000.0);
        assert!((histogram.max_us() - 1e6).abs() < 1.0);
        assert!((histogram.quantile_us(1_000) - 1e6).abs() < 1.0);
    }
}
