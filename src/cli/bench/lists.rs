//! Key lists for measurements: strictly increasing, random, the same in every run.

use crate::client::{KeyList, KeysError};

/// SplitMix64 (Steele et al. 2014): a few cycles a number, and any seed will do.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, by the high half of a product: a bias of `bound / 2^64` does not matter here.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// How a request names its keys.
#[derive(Clone)]
pub(super) enum Named {
    /// In full, each time.
    Slice(Vec<u64>),
    /// By a list that servers may remember.
    List(KeyList),
}

impl Named {
    pub(super) fn new(keys: Vec<u64>, cached: bool) -> Result<Self, KeysError> {
        Ok(if cached { Self::List(KeyList::new(keys)?) } else { Self::Slice(keys) })
    }

    /// The list.
    pub(super) fn keys(&self) -> &[u64] {
        match self {
            Self::Slice(keys) => keys,
            Self::List(keys) => keys,
        }
    }
}

/// The lists of a run.
pub(super) struct KeyLists {
    lists: Vec<Named>,
    random: Random,
    key_space: u64,
    batch: usize,
    cached: bool,
}

impl KeyLists {
    /// `count` lists of `batch` distinct keys below `key_space`.
    pub(super) fn new(key_space: u64, batch: usize, count: usize, cached: bool) -> Result<Self, KeysError> {
        let mut random = Random::new(7);
        let lists: Result<_, _> =
            (0..count).map(|_| Named::new(distinct(&mut random, key_space, batch), cached)).collect();
        Ok(Self { lists: lists?, random, key_space, batch, cached })
    }

    pub(super) fn batch(&self) -> usize {
        self.batch
    }

    /// All the lists, which take turns.
    pub(super) fn all(&self) -> &[Named] {
        &self.lists
    }

    /// A list that was never used: one random key in each of `batch` equal ranges. That is sorted and distinct as it
    /// is made, for about a nanosecond a key, which the run pays.
    pub(super) fn fresh(&mut self) -> Result<Named, KeysError> {
        let range = self.key_space / self.batch as u64;
        let keys = (0..self.batch as u64).map(|i| i * range + self.random.below(range)).collect();
        Named::new(keys, self.cached)
    }
}

/// `count` distinct keys below `space`, sorted, every such set equally likely.
fn distinct(random: &mut Random, space: u64, count: usize) -> Vec<u64> {
    if (count as u64) > space / 4 {
        // Selection sampling (Knuth, volume 2, algorithm S): one draw for each key of the space.
        let mut wanted = count as u64;
        return (0..space)
            .filter(|key| {
                let chosen = random.below(space - key) < wanted;
                wanted -= u64::from(chosen);
                chosen
            })
            .collect();
    }
    let mut keys: Vec<u64> = Vec::with_capacity(count);
    while keys.len() < count {
        let missing = count - keys.len();
        keys.extend((0..missing).map(|_| random.below(space)));
        keys.sort_unstable();
        keys.dedup();
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_distinct_sorted_keys_of_the_space() {
        let mut random = Random::new(1);
        for (space, count) in [(10, 10), (10, 3), (1000, 100), (1 << 32, 5000), (1, 1)] {
            let keys = distinct(&mut random, space, count);
            assert_eq!(keys.len(), count);
            assert!(keys.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(keys.iter().all(|k| *k < space));
        }
    }

    #[test]
    fn fresh_lists_differ_and_are_sorted() {
        let mut lists = KeyLists::new(1_000_000, 1000, 1, false).unwrap();
        let mut draw = || match lists.fresh().unwrap() {
            Named::Slice(keys) => keys,
            Named::List(_) => panic!("the cache is off"),
        };
        let (one, other) = (draw(), draw());
        assert_ne!(one, other);
        assert!(one.windows(2).all(|pair| pair[0] < pair[1]) && one.last().unwrap() < &1_000_000);
    }
}
