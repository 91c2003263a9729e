//! Probing the buckets of the index.
//!
//! A bucket starts with `lanes` u64 keys, each two little-endian words, in the stored form `!key`: zeroed memory is
//! an empty bucket. All keys of a bucket are compared at once; the answer is the lane that holds the key, else the
//! first empty lane. The key u64::MAX has the stored form of an empty lane and is refused before it comes here.
//!
//! Soundness: a bucket's key words are checked to lie within the slice before keys are read through a pointer. Notice: `a_bucket_past_the_end_is_refused`.

use crate::isa::Isa;
use crate::vector::{LaneMasks, Vector, Work, run};

/// Most keys of a bucket: one cache line of them.
pub const MAX_LANES: usize = 8;

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
