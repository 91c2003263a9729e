//! From global keys to local columns.
//!
//! Sorting every entry costs a sort of all `nonzeros`; most of a minibatch's entries repeat a few keys. So each entry is
//! looked up in a small hash table that numbers keys by first appearance (a slot is free when its stamp is old, so the table
//! is never cleared), only the distinct keys are sorted, and a second pass over the entries maps first-appearance
//! numbers to ranks. The sort scatters the keys into one bucket each on average, by the bits below the common prefix:
//! hashed keys and dense ids are both near-uniform, and a skewed bucket costs an ordinary sort of that bucket.

use super::{Csr, LocalMatrix};

/// A minibatch with local columns: what is pulled, what is multiplied, what is pushed.
///
/// ```
/// use gradwire::linalg::{Csr, Localized};
/// let csr = Csr::from_parts(vec![0, 2, 3], vec![900u64, 30, 900], None)?;
/// let batch = Localized::new(&csr);
/// assert_eq!(batch.keys, [30, 900]);
/// assert_eq!(batch.x.times(&[0.5, 2.0]), [2.5, 2.0]);
/// assert_eq!(batch.x.trans_times(&[1.0, 10.0]), [1.0, 11.0]);
/// # Ok::<(), gradwire::linalg::CsrError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Localized {
    /// The distinct keys, strictly increasing.
    pub keys: Vec<u64>,
    /// The same rows, with columns that index `keys`.
    pub x: LocalMatrix,
}

impl Localized {
    /// Localizes `csr` with a scratch of its own; loops keep a [`Localizer`] and call [`Localizer::localize_into`].
    ///
    /// Panics when `csr` has more than 2^31 distinct keys.
    pub fn new(csr: &Csr<u64>) -> Self {
        let mut out = Self::default();
        Localizer::new().localize_into(csr, &mut out);
        out
    }
}

/// One slot of the table. `stamp` says which minibatch wrote it: an older one means free. The key itself is in the dense
/// list of distinct keys: eight bytes a slot keep the table of a usual minibatch in a second-level cache.
#[derive(Clone, Copy, Default)]
struct Slot {
    stamp: u32,
    /// Number of the key by first appearance.
    number: u32,
}

/// Reusable scratch of the localisation: one for each worker thread.
#[derive(Default)]
pub struct Localizer {
    slots: Vec<Slot>,
    stamp: u32,
    /// Distinct keys by first appearance.
    keys: Vec<u64>,
    /// Distinct keys with their numbers, sorted.
    sorted: Vec<(u64, u32)>,
    /// Where each bucket of the sort starts, then ends.
    buckets: Vec<u32>,
    /// From number to rank.
    ranks: Vec<u32>,
}

/// The table starts with this many slots: 8 KiB, a quarter of a first-level cache.
const FIRST_SLOTS: usize = 1 << 10;

impl Localizer {
    /// An empty scratch; it grows with the first minibatches.
    pub fn new() -> Self {
        Self::default()
    }

    /// Localizes `csr` into `out`, reusing the memory of both.
    ///
    /// Panics when `csr` has more than 2^31 distinct keys.
    pub fn localize_into(&mut self, csr: &Csr<u64>, out: &mut Localized) {
        self.begin();
        let columns = out.x.reset_rows(csr);
        self.number(csr.columns(), columns);
        self.sort();
        out.keys.clear();
        out.keys.extend(self.sorted.iter().map(|&(key, _)| key));
        for column in columns.iter_mut() {
            *column = self.ranks[*column as usize];
        }
        out.x.set_columns(self.sorted.len());
    }

    fn begin(&mut self) {
        if self.slots.is_empty() {
            self.slots.resize(FIRST_SLOTS, Slot::default());
        }
        if self.stamp == u32::MAX {
            self.slots.fill(Slot::default());
            self.stamp = 0;
        }
        self.stamp += 1;
        self.keys.clear();
    }

    /// Gives each entry the number of its key by first appearance.
    fn number(&mut self, entries: &[u64], numbers: &mut Vec<u32>) {
        numbers.reserve(entries.len());
        let mut mask = self.slots.len() - 1;
        for &key in entries {
            let mut at = hash(key) & mask;
            let number = loop {
                let slot = &mut self.slots[at];
                if slot.stamp != self.stamp {
                    assert!(self.keys.len() < 1 << 31, "a minibatch has more than 2^31 distinct keys");
                    let number = self.keys.len() as u32;
                    *slot = Slot { stamp: self.stamp, number };
                    self.keys.push(key);
                    // Half full: probes stay near one.
                    if self.keys.len() * 2 > mask {
                        self.grow();
                        mask = self.slots.len() - 1;
                    }
                    break number;
                }
                if self.keys[slot.number as usize] == key {
                    break slot.number;
                }
                at = (at + 1) & mask;
            };
            numbers.push(number);
        }
    }

    #[cold]
    fn grow(&mut self) {
        let slots = self.slots.len() * 2;
        self.slots.clear();
        self.slots.resize(slots, Slot::default());
        for (number, &key) in self.keys.iter().enumerate() {
            let mut at = hash(key) & (slots - 1);
            while self.slots[at].stamp == self.stamp {
                at = (at + 1) & (slots - 1);
            }
            self.slots[at] = Slot { stamp: self.stamp, number: number as u32 };
        }
    }

    /// Fills `sorted` and `ranks` from `keys`.
    fn sort(&mut self) {
        let keys = &self.keys;
        self.sorted.clear();
        self.sorted.resize(keys.len(), (0, 0));
        self.ranks.clear();
        self.ranks.resize(keys.len(), 0);
        let (min, max) = keys.iter().fold((u64::MAX, 0), |(min, max), &key| (min.min(key), max.max(key)));
        if keys.len() > 1 {
            // About as many buckets as keys: `key >> shift` takes the bits that differ at all, at most `wanted` of them.
            let wanted = usize::BITS - (keys.len() - 1).leading_zeros();
            let differing = u64::BITS - (max - min).leading_zeros();
            let shift = differing.saturating_sub(wanted);
            let bucket = |key: u64| ((key - min) >> shift) as usize;
            self.buckets.clear();
            self.buckets.resize(bucket(max) + 2, 0);
            for &key in keys {
                self.buckets[bucket(key) + 1] += 1;
            }
            let mut total = 0;
            for count in &mut self.buckets {
                total += *count;
                *count = total;
            }
            for (number, &key) in keys.iter().enumerate() {
                let at = &mut self.buckets[bucket(key)];
                self.sorted[*at as usize] = (key, number as u32);
                *at += 1;
            }
            let mut start = 0;
            for &end in &self.buckets[..bucket(max) + 1] {
                sort_bucket(&mut self.sorted[start..end as usize]);
                start = end as usize;
            }
        } else if let Some(&key) = keys.first() {
            self.sorted[0] = (key, 0);
        }
        for (rank, &(_, number)) in self.sorted.iter().enumerate() {
            self.ranks[number as usize] = rank as u32;
        }
    }
}

/// Most buckets hold none to three keys: insertion beats a call into the general sort.
fn sort_bucket(bucket: &mut [(u64, u32)]) {
    if bucket.len() > 16 {
        return bucket.sort_unstable();
    }
    for end in 1..bucket.len() {
        let mut at = end;
        while at > 0 && bucket[at - 1].0 > bucket[at].0 {
            bucket.swap(at - 1, at);
            at -= 1;
        }
    }
}

/// Folded multiply with 2^64 / golden ratio: both halves of the product, so no bit of the key is without effect.
#[inline]
fn hash(key: u64) -> usize {
    let product = u128::from(key ^ 0x9E37_79B9_7F4A_7C15) * 0x9E37_79B9_7F4A_7C15;
    (product as u64 ^ (product >> 64) as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sort, unique, binary search.
    fn naive(csr: &Csr<u64>) -> (Vec<u64>, Vec<u32>) {
        let mut keys = csr.columns().to_vec();
        keys.sort_unstable();
        keys.dedup();
        let columns = csr.columns().iter().map(|key| keys.binary_search(key).unwrap() as u32).collect();
        (keys, columns)
    }

    fn keys() -> impl Strategy<Value = Vec<u64>> {
        prop_oneof![
            proptest::collection::vec(0u64..40, 0..200),
            proptest::collection::vec(any::<u64>(), 0..3000),
            proptest::collection::vec((0u64..500).prop_map(|key| key << 40), 0..3000),
            // One far key makes a single crowded bucket.
            proptest::collection::vec(prop_oneof![9 => 0u64..5000, 1 => Just(u64::MAX - 1)], 0..3000),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn localizing_agrees_with_sort_and_search(batches in proptest::collection::vec(keys(), 1..4)) {
            let mut localizer = Localizer::new();
            let mut out = Localized::default();
            for keys in batches {
                let rows = vec![0, keys.len() / 2, keys.len()];
                let csr = Csr::from_parts(rows, keys, None).unwrap();
                localizer.localize_into(&csr, &mut out);
                let (keys, columns) = naive(&csr);
                prop_assert_eq!(&out.keys, &keys);
                prop_assert_eq!(out.x.rows().columns(), &columns[..]);
                prop_assert_eq!(out.x.rows().row_offsets(), csr.row_offsets());
                prop_assert_eq!(out.x.columns(), keys.len());
            }
        }
    }

    #[test]
    fn a_stamp_that_wraps_forgets_old_minibatches() {
        let mut localizer = Localizer::new();
        let mut out = Localized::default();
        let csr = Csr::from_parts(vec![0, 2], vec![3u64, 4], None).unwrap();
        localizer.localize_into(&csr, &mut out);
        localizer.stamp = u32::MAX;
        for keys in [vec![4u64, 5], vec![3, 9], vec![1, 5]] {
            let csr = Csr::from_parts(vec![0, 2], keys.clone(), None).unwrap();
            localizer.localize_into(&csr, &mut out);
            assert_eq!(out.keys, keys);
        }
    }

    #[test]
    fn the_scratch_keeps_its_memory() {
        let csr = Csr::from_parts(vec![0, 5000], (0..5000u64).map(|key| key * 77).collect(), None).unwrap();
        let mut localizer = Localizer::new();
        let mut out = Localized::default();
        localizer.localize_into(&csr, &mut out);
        let before = (localizer.slots.as_ptr(), localizer.sorted.as_ptr(), out.keys.as_ptr());
        localizer.localize_into(&csr, &mut out);
        assert_eq!(before, (localizer.slots.as_ptr(), localizer.sorted.as_ptr(), out.keys.as_ptr()));
    }
}
