//! Times of any number of requests in fixed memory.
//!
//! Buckets are exact below 256 ns and then 128 to each power of two, so a quantile is at most 0.8 % too large.

/// Buckets to each power of two; a power of two itself.
const PER_OCTAVE: u64 = 128;
/// Values below this have a bucket each.
const EXACT: u64 = 2 * PER_OCTAVE;

/// Counts of times in nanoseconds.
pub(super) struct Histogram {
    counts: Vec<u64>,
    count: u64,
}

impl Histogram {
    pub(super) fn new() -> Self {
        Self { counts: vec![0; bucket(u64::MAX) + 1], count: 0 }
    }

    pub(super) fn record(&mut self, nanoseconds: u64) {
        self.counts[bucket(nanoseconds)] += 1;
        self.count += 1;
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The time that a share of `quantile` of all did not exceed; 0 without any.
    pub(super) fn quantile(&self, quantile: f64) -> f64 {
        let rank = ((self.count as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, &count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return largest(bucket) as f64;
            }
        }
        0.0
    }
}

fn bucket(value: u64) -> usize {
    if value < EXACT {
        return value as usize;
    }
    // At least 1; the top bits of the value then run from PER_OCTAVE to EXACT - 1.
    let shift = u64::from(EXACT.leading_zeros() + 1 - value.leading_zeros());
    (shift * PER_OCTAVE + (value >> shift)) as usize
}

/// The largest value of a bucket.
fn largest(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < EXACT {
        return bucket;
    }
    let shift = bucket / PER_OCTAVE - 1;
    let top = bucket - shift * PER_OCTAVE;
    (top << shift) + ((1 << shift) - 1)
}

/// The middle of some figures; the mean of the two middle ones when their number is even; 0 for none.
pub(super) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        n if n.is_multiple_of(2) => (sorted[middle - 1] + sorted[middle]) / 2.0,
        _ => sorted[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_are_contiguous_and_hold_what_they_say() {
        let mut previous = None;
        for exponent in 0..64 {
            for value in
                [1_u64 << exponent, (1 << exponent) + (1 << exponent >> 1), u64::MAX >> (63 - exponent)]
            {
                let b = bucket(value);
                assert!(largest(b) >= value, "{value} in bucket {b}");
                assert!(b == 0 || largest(b - 1) < value, "{value} in bucket {b}");
                assert!(previous.is_none_or(|p| p <= b));
                previous = Some(b);
            }
        }
    }

    #[test]
    fn medians_of_odd_and_even_numbers_of_figures() {
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0]), median(&[])), (2.0, 2.5, 0.0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn quantiles_are_those_of_the_sorted_times_within_a_percent(
            mut times in prop::collection::vec(0_u64..10_000_000_000, 1..300), quantile in 0.0_f64..1.0
        ) {
            let mut histogram = Histogram::new();
            times.iter().for_each(|t| histogram.record(*t));
            times.sort_unstable();
            let rank = ((times.len() as f64 * quantile).ceil() as usize).max(1);
            let exact = times[rank - 1] as f64;
            let found = histogram.quantile(quantile);
            prop_assert!(found >= exact && found <= exact * 1.008 + 1.0, "{found} for {exact}");
        }
    }
}
