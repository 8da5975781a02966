//! What a histogram says.

use super::proto::Histogram;

impl Histogram {
    /// The value below which `permille` thousandths of all values are, by interpolation within its bucket; `None` when there are none. Never
    /// beyond the bound of the bucket, so it is off by less than the factor 2 that the buckets are apart. Of the last bucket, which has no
    /// bound, its begin.
    #[must_use]
    pub fn percentile_us(&self, permille: u32) -> Option<u64> {
        let total: u128 = self.buckets.iter().map(|count| u128::from(*count)).sum();
        let rank = (total * u128::from(permille.min(1_000))).div_ceil(1_000).max(1);
        let mut before = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            let count = u128::from(*count);
            if count > 0 && before + count >= rank {
                let low = lower_bound(index);
                let width = if index + 1 == self.buckets.len() { 0 } else { u128::from(lower_bound(index + 1) - low) };
                // Values are whole microseconds: the greatest in the bucket is one below the next bucket.
                let inside = (width * (rank - before) / count).saturating_sub(1);
                return Some(low + u64::try_from(inside).unwrap_or(u64::MAX));
            }
            before += count;
        }
        None
    }
}

/// Bucket 0 holds 0, bucket `i` what is not below `2^(i - 1)`.
fn lower_bound(bucket: usize) -> u64 {
    match bucket {
        0 => 0,
        _ => 1_u64.checked_shl(u32::try_from(bucket - 1).unwrap_or(u32::MAX)).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::super::counters::AtomicHistogram;
    use super::*;

    fn recorded(values: impl IntoIterator<Item = u64>) -> Histogram {
        let histogram = AtomicHistogram::default();
        values.into_iter().for_each(|us| histogram.record_ns(us * 1_000));
        histogram.read()
    }

    #[test]
    fn percentile_lies_in_the_bucket_of_the_value_and_rises() {
        for values in [vec![0], vec![1], vec![5], vec![0, 1, 2, 3, 1_000, 70_000], (0..5_000).collect::<Vec<u64>>()] {
            let histogram = recorded(values.iter().copied());
            let mut last = 0;
            for permille in 0..=1_000_u32 {
                let rank = (values.len() * permille as usize).div_ceil(1_000).max(1);
                let value = values[rank - 1];
                let percentile = histogram.percentile_us(permille).unwrap();
                let bucket = |us: u64| u64::BITS - us.leading_zeros();
                assert_eq!(bucket(percentile), bucket(value), "{permille} of {values:?}: {percentile}");
                assert!(percentile >= last);
                last = percentile;
            }
        }
    }

    #[test]
    fn even_values_are_interpolated_closely() {
        let histogram = recorded(0..4_096);
        assert_eq!([500, 750, 1_000].map(|permille| histogram.percentile_us(permille).unwrap()), [2_047, 3_071, 4_095]);
    }

    #[test]
    fn nothing_recorded_is_none_and_the_last_bucket_says_its_begin() {
        assert_eq!(recorded([]).percentile_us(500), None);
        assert_eq!(Histogram::default().percentile_us(500), None);
        let histogram = recorded([u64::MAX / 1_000]);
        assert_eq!(histogram.percentile_us(500), Some(1 << (histogram.buckets.len() - 2)));
    }
}
