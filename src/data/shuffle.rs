//! Random orders of rows that a seed repeats.

use super::keys::mix;

/// SplitMix64 (Steele, Lea, Flood 2014): small, fast, and the same on every machine, which is all that an order needs.
pub(super) struct Rng(u64);

impl Rng {
    /// The generator of one epoch of one seed.
    pub(super) fn new(seed: u64, epoch: u64) -> Self {
        Self(mix(mix(seed) ^ epoch.wrapping_mul(0xD1B5_4A32_D192_ED03)))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A number below `bound`; its bias is at most `bound / 2^64`.
    fn below(&mut self, bound: u32) -> u32 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u32
    }

    /// Fisher-Yates.
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = if last < u32::MAX as usize {
                self.below(last as u32 + 1) as usize
            } else {
                (self.next() % (last as u64 + 1)) as usize
            };
            items.swap(last, other);
        }
    }
}

/// Fills `order` with the numbers below `rows`, shuffled when there is a generator.
pub(super) fn fill_order(order: &mut Vec<u32>, rows: u32, rng: Option<&mut Rng>) {
    order.clear();
    order.extend(0..rows);
    if let Some(rng) = rng {
        rng.shuffle(order);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(rows: u32, seed: u64, epoch: u64) -> Vec<u32> {
        let mut order = vec![99];
        fill_order(&mut order, rows, Some(&mut Rng::new(seed, epoch)));
        order
    }

    #[test]
    fn an_order_is_a_permutation_of_its_own_for_each_seed_and_epoch() {
        let orders = [order(1000, 1, 0), order(1000, 1, 1), order(1000, 2, 0), order(1000, 0, 0)];
        for (at, one) in orders.iter().enumerate() {
            let mut sorted = one.clone();
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..1000));
            assert!(orders[at + 1..].iter().all(|other| other != one));
        }
        assert_eq!(order(1000, 1, 1), orders[1]);
        assert_eq!(order(0, 1, 1), [0_u32; 0]);
        assert_eq!(order(1, 1, 1), [0]);
    }

    #[test]
    fn every_place_is_equally_likely() {
        // Of 8 rows, row 0 lands in each place about 1000 of 8000 times (standard deviation 30).
        let mut counts = [0i32; 8];
        for seed in 0..8000 {
            counts[order(8, seed, 3).iter().position(|&row| row == 0).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (count - 1000).abs() < 180), "{counts:?}");
    }

    #[test]
    fn an_order_never_changes() {
        assert_eq!(order(8, 42, 0), [6, 0, 7, 2, 5, 1, 3, 4]);
    }
}
