//! Inputs from fixed seeds, and lists of inputs used in turn.

/// A small deterministic generator (splitmix64: Steele, Lea and Flood 2014).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// Any 64 bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0. The bias is below `bound / 2^64`.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// `count` floats in [-1, 1).
    pub fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| (self.next_u64() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    /// Puts `items` into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

/// `count` distinct keys below `space`, increasing.
///
/// Panics when there are not that many.
pub fn distinct_sorted(random: &mut Random, count: usize, space: u64) -> Vec<u64> {
    assert!(count as u64 <= space, "{count} distinct keys below {space}");
    let mut keys = Vec::with_capacity(count);
    while keys.len() < count {
        let missing = count - keys.len();
        keys.extend((0..missing).map(|_| random.below(space)));
        keys.sort_unstable();
        keys.dedup();
    }
    keys
}

/// `lists` independent lists of `count` distinct increasing keys below `space`.
pub fn lists_of(random: &mut Random, lists: usize, count: usize, space: u64) -> Vec<Vec<u64>> {
    (0..lists).map(|_| distinct_sorted(random, count, space)).collect()
}

/// Lists of `count` increasing random keys that together hold each key below `space` once; the last may be shorter.
pub fn lists_covering(random: &mut Random, count: usize, space: u64) -> Vec<Vec<u64>> {
    let mut keys: Vec<u64> = (0..space).collect();
    random.shuffle(&mut keys);
    keys.chunks_mut(count)
        .map(|list| {
            list.sort_unstable();
            list.to_vec()
        })
        .collect()
}

/// Gives the items of a slice one after the other, again from the first after the last.
#[derive(Clone, Debug)]
pub struct Turn<'a, T> {
    items: &'a [T],
    next: usize,
}

impl<'a, T> Turn<'a, T> {
    /// Starts at the first item.
    ///
    /// Panics when there is none.
    pub fn new(items: &'a [T]) -> Self {
        assert!(!items.is_empty(), "nothing to take turns");
        Self { items, next: 0 }
    }

    /// The next item.
    #[inline]
    pub fn step(&mut self) -> &'a T {
        let item = &self.items[self.next];
        self.next = if self.next + 1 == self.items.len() { 0 } else { self.next + 1 };
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_distinct_increasing_and_within_their_space() {
        let mut random = Random(1);
        for (count, space) in [(0, 1), (1, 1), (100, 100), (1000, 1 << 40)] {
            let keys = distinct_sorted(&mut random, count, space);
            assert_eq!(keys.len(), count);
            assert!(keys.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(keys.iter().all(|&key| key < space));
        }
    }

    #[test]
    fn covering_lists_hold_every_key_once() {
        let lists = lists_covering(&mut Random(2), 300, 1000);
        assert_eq!(lists.iter().map(Vec::len).collect::<Vec<_>>(), [300, 300, 300, 100]);
        assert!(lists.iter().all(|list| list.is_sorted()));
        // Random, not cut in order.
        assert!(lists[0][299] > 500);
        let mut all = lists.concat();
        all.sort_unstable();
        assert_eq!(all, (0..1000).collect::<Vec<u64>>());
    }

    #[test]
    fn turns_start_again_after_the_last() {
        let mut turn = Turn::new(&[1, 2]);
        assert_eq!([*turn.step(), *turn.step(), *turn.step()], [1, 2, 1]);
    }

    #[test]
    fn floats_stay_in_their_range() {
        let floats = Random(3).floats(1000);
        assert!(floats.iter().all(|float| (-1.0..1.0).contains(float)));
        assert!(floats.iter().any(|&float| float < -0.9) && floats.iter().any(|&float| float > 0.9));
    }
}
