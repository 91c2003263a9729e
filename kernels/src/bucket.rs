//! Probing the buckets of the index.
//!
//! The first cache line of a bucket starts with up to eight u64 keys, each two little-endian words, in the stored form
//! `!key`: zeroed memory is an empty bucket. All keys of a bucket are compared at once, with a key or with 0 to find the
//! empty lanes. The key u64::MAX has the stored form of an empty lane and is refused before it comes here.
//! Soundness: a [`Line`] is a whole cache line by its type, so nothing is read that is not there.

/// Words of a cache line.
pub const LINE_WORDS: usize = 16;
/// A cache line; the first of a bucket holds all its keys.
pub type Line = [u32; LINE_WORDS];
/// Most keys of a bucket: one cache line of them.
pub const MAX_LANES: usize = LINE_WORDS / 2;

/// A key as buckets store it.
#[inline(always)]
pub const fn stored_form(key: u64) -> u64 {
    !key
}
