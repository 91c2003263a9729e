//! Probing the buckets of the index.
//!
//! A bucket starts with `lanes` u64 keys, each two little-endian words, in the stored form `!key`: zeroed memory is
//! an empty bucket. All keys of a bucket are compared at once; the answer is the lane that holds the key, else the
//! first empty lane. The key u64::MAX has the stored form of an empty lane and is refused before it comes here.
//!
//! Soundness: every bucket's key words are checked to lie within the slice (a batch checks the highest start, once)
//! before keys are read through a pointer. Notice: `a_bucket_past_the_end_is_refused`.

use crate::isa::Isa;
use crate::update::row_fits;
use crate::vector::{LaneMasks, Vector, Work, run};

/// Most keys of a bucket: one cache line of them.
pub const MAX_LANES: usize = 8;

/// Result of [`probe_buckets`] when the key is absent and the bucket full.
pub const FULL: u32 = u32::MAX;

/// Flag in a result of [`probe_buckets`]: the key is absent, the low bits are the first empty lane.
pub const EMPTY_LANE: u32 = 1 << 31;

/// What a bucket says about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The lane that holds the key.
    pub hit: Option<u32>,
    /// The first empty lane.
    pub empty: Option<u32>,
}

/// A key as buckets store it.
#[inline(always)]
pub const fn stored_form(key: u64) -> u64 {
    !key
}

struct One {
    keys: *const u64,
    lanes: usize,
    stored_key: u64,
}

impl Work for One {
    type Output = LaneMasks;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> LaneMasks {
        // SAFETY: `probe_bucket` checked that `lanes` keys are there.
        unsafe { V::match_keys(self.keys, self.lanes, self.stored_key) }
    }
}

/// Looks for a key, given in its stored form, in one bucket.
///
/// Panics unless `1 <= lanes <= 8` and `bucket` holds that many keys.
#[inline]
pub fn probe_bucket(isa: Isa, bucket: &[u32], lanes: usize, stored_key: u64) -> Probe {
    assert!((1..=MAX_LANES).contains(&lanes) && bucket.len() >= 2 * lanes, "bucket shorter than its keys");
    // SAFETY: `lanes` keys lie within `bucket` by the assertion.
    let masks = unsafe { run(isa, One { keys: bucket.as_ptr().cast(), lanes, stored_key }) };
    let first = |mask: u32| (mask != 0).then(|| mask.trailing_zeros());
    Probe { hit: first(masks.hit), empty: first(masks.empty) }
}

struct Many<'a> {
    memory: *const u32,
    starts: &'a [u32],
    unit: usize,
    lanes: usize,
    keys: &'a [u64],
    hits: &'a mut [u32],
}

impl Work for Many<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for ((hit, &start), &key) in self.hits.iter_mut().zip(self.starts).zip(self.keys) {
            // SAFETY: `probe_buckets` checked that every bucket's keys lie within its memory.
            let masks = unsafe {
                let bucket = self.memory.add(start as usize * self.unit);
                V::match_keys(bucket.cast(), self.lanes, stored_form(key))
            };
            // Without branches: whether a key exists is not predictable. The zeros of an empty mask are 32.
            let absent = if masks.empty == 0 { FULL } else { EMPTY_LANE | masks.empty.trailing_zeros() };
            *hit = if masks.hit == 0 { absent } else { masks.hit.trailing_zeros() };
        }
    }
}

/// Looks for each of `keys` (plain, not in stored form) in the bucket at word `bucket_starts[i] * unit` of `memory`.
/// Each of `hits` becomes the lane of the key, else [`EMPTY_LANE`] with the first empty lane, else [`FULL`].
///
/// Panics if a bucket lies outside `memory`, the lengths differ, or not `1 <= lanes <= 8`.
pub fn probe_buckets(
    isa: Isa,
    memory: &[u32],
    bucket_starts: &[u32],
    unit: usize,
    lanes: usize,
    keys: &[u64],
    hits: &mut [u32],
) {
    assert!((1..=MAX_LANES).contains(&lanes), "a bucket has 1 to 8 keys");
    assert!(bucket_starts.len() == keys.len() && hits.len() == keys.len(), "one bucket and answer a key");
    let highest = bucket_starts.iter().copied().max();
    assert!(
        highest.is_none_or(|start| row_fits(start, unit, 2 * lanes, memory.len())),
        "bucket outside its memory"
    );
    let work = Many { memory: memory.as_ptr(), starts: bucket_starts, unit, lanes, keys, hits };
    // SAFETY: the bucket with the highest start lies within `memory`, hence all do.
    unsafe { run(isa, work) }
}
