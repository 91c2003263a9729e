//! From global keys to local columns.
//!
//! Sorting every entry costs a sort of all `nonzeros`; most of a minibatch's entries repeat a few keys. Two ways, by the keys:
//!
//! - Keys in a narrow span, as numbered features have: one bit a possible key is set for each entry, a walk over the set
//!   bits gives the sorted keys and, in a table with a place a possible key, their ranks; a second pass looks ranks up.
//! - Any keys, such as hashes: each entry is looked up in a small hash table that numbers keys by first appearance (a slot is
//!   free when its stamp is old, so the table is never cleared), only the distinct keys are sorted, and a second pass over the
//!   entries maps numbers to ranks. Whether a key is new is as good as random, so no branch depends on it. The sort scatters
//!   the keys into one bucket each on average, by the bits below the common prefix: hashed keys are near-uniform,
//!   and a skewed bucket costs an ordinary sort of that bucket.

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
    /// A bit for each possible key of a narrow span; all zero between minibatches.
    bits: Vec<u64>,
    slots: Vec<Slot>,
    stamp: u32,
    /// Distinct keys by first appearance, and one place more: `number` writes before it knows that a key is new.
    keys: Vec<u64>,
    /// Distinct keys with their numbers, sorted.
    sorted: Vec<(u64, u32)>,
    /// Where each bucket of the sort starts, then ends.
    buckets: Vec<u32>,
    /// From number, or place in the span, to rank.
    ranks: Vec<u32>,
}

/// The table starts with this many slots: 8 KiB, a quarter of a first-level cache.
const FIRST_SLOTS: usize = 1 << 10;
/// Slots for each distinct key, at least: probes stay near one.
const SLOTS_A_KEY: usize = 4;
/// Possible keys for each entry up to which a span is narrow: its table of ranks then is as large as a hash table would be.
const SPAN_AN_ENTRY: u64 = 16;

impl Localizer {
    /// An empty scratch; it grows with the first minibatches.
    pub fn new() -> Self {
        Self::default()
    }

    /// Localizes `csr` into `out`, reusing the memory of both.
    ///
    /// Panics when `csr` has more than 2^31 distinct keys.
    pub fn localize_into(&mut self, csr: &Csr<u64>, out: &mut Localized) {
        let entries = csr.columns();
        let (min, max) = least_and_greatest(entries);
        let columns = out.x.reset_rows(csr);
        out.keys.clear();
        if !entries.is_empty() {
            columns.reserve(entries.len());
            if max - min < SPAN_AN_ENTRY * entries.len() as u64 {
                self.by_span(entries, min, (max - min) as usize, columns, &mut out.keys);
            } else {
                self.by_hash(entries, columns, &mut out.keys);
            }
        }
        assert!(out.keys.len() <= 1 << 31, "a minibatch has more than 2^31 distinct keys");
        out.x.set_columns(out.keys.len());
    }

    /// All `entries` are in `min..=min + span`.
    fn by_span(
        &mut self,
        entries: &[u64],
        min: u64,
        span: usize,
        columns: &mut Vec<u32>,
        keys: &mut Vec<u64>,
    ) {
        let words = span / 64 + 1;
        if self.bits.len() < words {
            self.bits.resize(words, 0);
        }
        if self.ranks.len() <= span {
            self.ranks.resize(span + 1, 0);
        }
        let (bits, ranks) = (&mut self.bits[..words], &mut self.ranks[..=span]);
        for &key in entries {
            let place = (key - min) as usize;
            bits[place / 64] |= 1 << (place % 64);
        }
        for (at, word) in bits.iter_mut().enumerate() {
            let mut rest = std::mem::take(word);
            while rest != 0 {
                let place = at * 64 + rest.trailing_zeros() as usize;
                ranks[place] = keys.len() as u32;
                keys.push(min + place as u64);
                rest &= rest - 1;
            }
        }
        columns.extend(entries.iter().map(|&key| ranks[(key - min) as usize]));
    }

    fn by_hash(&mut self, entries: &[u64], columns: &mut Vec<u32>, keys: &mut Vec<u64>) {
        if self.slots.is_empty() {
            self.slots.resize(FIRST_SLOTS, Slot::default());
        }
        if self.stamp == u32::MAX {
            self.slots.fill(Slot::default());
            self.stamp = 0;
        }
        self.stamp += 1;
        if self.keys.len() <= entries.len() {
            self.keys.resize(entries.len() + 1, 0);
        }
        let distinct = self.number(entries, columns);
        self.sort(distinct);
        keys.extend(self.sorted.iter().map(|&(key, _)| key));
        for column in columns.iter_mut() {
            *column = self.ranks[*column as usize];
        }
    }

    /// Gives each entry the number of its key by first appearance; how many distinct keys there are.
    fn number(&mut self, entries: &[u64], numbers: &mut Vec<u32>) -> usize {
        let stamp = self.stamp;
        let mut mask = self.slots.len() - 1;
        let mut distinct = 0usize;
        for &key in entries {
            let mut at = hash(key) & mask;
            let number = loop {
                let slot = self.slots[at];
                let new = slot.stamp != stamp;
                // Written before it is known to be new: then it is the key that is found.
                self.keys[distinct] = key;
                let number = if new { distinct as u32 } else { slot.number };
                if self.keys[number as usize] == key {
                    self.slots[at] = Slot { stamp, number };
                    distinct += usize::from(new);
                    break number;
                }
                at = (at + 1) & mask;
            };
            numbers.push(number);
            if distinct * SLOTS_A_KEY > mask {
                assert!(distinct <= 1 << 31, "a minibatch has more than 2^31 distinct keys");
                self.grow(distinct);
                mask = self.slots.len() - 1;
            }
        }
        distinct
    }

    #[cold]
    fn grow(&mut self, distinct: usize) {
        let slots = self.slots.len() * 2;
        self.slots.clear();
        self.slots.resize(slots, Slot::default());
        for (number, &key) in self.keys[..distinct].iter().enumerate() {
            let mut at = hash(key) & (slots - 1);
            while self.slots[at].stamp == self.stamp {
                at = (at + 1) & (slots - 1);
            }
            self.slots[at] = Slot { stamp: self.stamp, number: number as u32 };
        }
    }

    /// Fills `sorted` and `ranks` from the first `distinct` of `keys`, at least one.
    fn sort(&mut self, distinct: usize) {
        let keys = &self.keys[..distinct];
        self.sorted.clear();
        self.sorted.resize(keys.len(), (0, 0));
        if self.ranks.len() < keys.len() {
            self.ranks.resize(keys.len(), 0);
        }
        let (min, max) = least_and_greatest(keys);
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

/// In four strands, so that no comparison waits for the one before; (u64::MAX, 0) of no keys.
fn least_and_greatest(keys: &[u64]) -> (u64, u64) {
    let (quads, rest) = keys.as_chunks::<4>();
    let (mut least, mut greatest) = ([u64::MAX; 4], [0; 4]);
    for quad in quads {
        for strand in 0..4 {
            least[strand] = least[strand].min(quad[strand]);
            greatest[strand] = greatest[strand].max(quad[strand]);
        }
    }
    let least = least.iter().chain(rest).fold(u64::MAX, |least, &key| least.min(key));
    let greatest = greatest.iter().chain(rest).fold(0, |greatest, &key| greatest.max(key));
    (least, greatest)
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
            // Narrow spans at both ends of the keys.
            proptest::collection::vec((0u64..9000).prop_map(|key| u64::MAX - 1 - key), 0..3000),
            proptest::collection::vec(any::<u64>(), 0..2),
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
        let csr = Csr::from_parts(vec![0, 2], vec![3u64, 400], None).unwrap();
        localizer.localize_into(&csr, &mut out);
        localizer.stamp = u32::MAX;
        for keys in [vec![4u64, 500], vec![3, 900], vec![1, 500]] {
            let csr = Csr::from_parts(vec![0, 2], keys.clone(), None).unwrap();
            localizer.localize_into(&csr, &mut out);
            assert_eq!(out.keys, keys);
        }
    }

    #[test]
    fn the_scratch_keeps_its_memory() {
        for step in [3, 77] {
            let keys = (0..5000u64).map(|key| key * step).collect();
            let csr = Csr::from_parts(vec![0, 5000], keys, None).unwrap();
            let mut localizer = Localizer::new();
            let mut out = Localized::default();
            localizer.localize_into(&csr, &mut out);
            let places = |localizer: &Localizer, out: &Localized| {
                let scratch = (localizer.bits.as_ptr(), localizer.slots.as_ptr(), localizer.sorted.as_ptr());
                (scratch, localizer.ranks.as_ptr(), out.keys.as_ptr())
            };
            let before = places(&localizer, &out);
            localizer.localize_into(&csr, &mut out);
            assert_eq!(before, places(&localizer, &out));
        }
    }
}
