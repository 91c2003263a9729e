//! Order statistics of measured times.

use std::time::Duration;

/// The middle of `samples`, the mean of the middle two where their number is even; `None` when there are none.
pub fn median(samples: &mut [f64]) -> Option<f64> {
    samples.sort_unstable_by(f64::total_cmp);
    let upper = *samples.get(samples.len() / 2)?;
    if samples.len() % 2 == 1 {
        return Some(upper);
    }
    Some((samples[samples.len() / 2 - 1] + upper) / 2.0)
}

/// Times kept at most: a later one takes the place of the oldest.
const KEPT: usize = 1 << 20;

/// The latest million times of one operation.
#[derive(Debug, Default)]
pub struct Distribution {
    nanoseconds: Vec<u64>,
    oldest: usize,
}

impl Distribution {
    /// Notes one time.
    #[inline]
    pub fn add(&mut self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if self.nanoseconds.len() < KEPT {
            self.nanoseconds.push(nanoseconds);
        } else {
            self.nanoseconds[self.oldest] = nanoseconds;
            self.oldest = (self.oldest + 1) % KEPT;
        }
    }

    /// How many times are kept.
    pub fn len(&self) -> usize {
        self.nanoseconds.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.nanoseconds.is_empty()
    }

    /// The smallest time that at least `share` of all (0 to 1) do not pass, in microseconds (nearest rank).
    pub fn percentile_us(&mut self, share: f64) -> Option<f64> {
        self.nanoseconds.sort_unstable();
        self.oldest = 0;
        let rank = (share * self.nanoseconds.len() as f64).ceil() as usize;
        let last = self.nanoseconds.len().checked_sub(1)?;
        self.nanoseconds.get(rank.saturating_sub(1).min(last)).map(|&time| time as f64 / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_two_in_the_middle() {
        assert_eq!(median(&mut []), None);
        assert_eq!(median(&mut [7.0]), Some(7.0));
        assert_eq!(median(&mut [9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&mut [9.0, 1.0, 2.0, 4.0]), Some(3.0));
    }

    #[test]
    fn percentiles_are_times_that_occurred() {
        let mut times = Distribution::default();
        assert_eq!(times.percentile_us(0.5), None);
        for microseconds in (1..=1000).rev() {
            times.add(Duration::from_micros(microseconds));
        }
        let got = [0.0, 0.5, 0.99, 0.999, 1.0].map(|share| times.percentile_us(share));
        assert_eq!(got, [1.0, 500.0, 990.0, 999.0, 1000.0].map(Some));
    }

    #[test]
    fn the_oldest_times_give_way() {
        let mut times = Distribution::default();
        for time in 0..KEPT as u64 + 10 {
            times.add(Duration::from_nanos(time * 1000));
        }
        assert_eq!(times.len(), KEPT);
        assert_eq!(times.percentile_us(0.0), Some(10.0));
    }
}
