//! The walk from keys to buckets, a block of keys at a time.
//!
//! An index names the place of a bucket in three steps. The top bits of a key's hash choose an entry of a directory; the
//! entry, one word, says how the bits below choose one of a segment's buckets; and a segment lies in up to eight pages:
//! ```text
//! spot   = spots[hash >> (64 - depth of the directory)]      depth of the segment, page shift, segment, buckets
//! bucket = ((hash << depth) >> 32) * buckets >> 32           so buckets rise with the hash
//! line   = pages[8 * segment + (bucket >> page_shift)] + (bucket % 2^page_shift) * lines of a bucket
//! ```
//! In plain code that is thirty instructions a key and more than half of a lookup; with two gathers for eight keys a
//! third. Refused: one gather of a segment's whole header (a line a directory entry: four times the cache).
//!
//! Soundness: a [`Walk`] is made with a directory of exactly `2^depth` entries, so every hash has one; whether a page's
//! number lies in the table is compared before the gather, and lanes beyond are not read.
//! Notice: `a_chunk_of_keys_is_located_like_each_of_them`.

use crate::bucket::{LINE_WORDS, Line, MAX_LANES};
use crate::hash::hash_key;
use crate::vector::Vector;

/// Keys of a block: as many as a core has fill buffers for their lines.
pub const BLOCK: usize = 16;
/// Keys that are located together: enough that the steps of the walk, each of which waits for the one before, are
/// hidden behind those of the other keys.
pub const CHUNK: usize = 4 * BLOCK;
/// Pages a segment may have.
pub const SEGMENT_PAGES: usize = 8;
/// Largest segment number a [`spot`] can hold.
pub const MAX_SEGMENT: u32 = (1 << 22) - 1;

/// A directory entry: the segment with this number, whose keys share the top `depth` bits of their hashes and lie in
/// `buckets` buckets on pages of `2^page_shift`.
///
/// Panics if a number is too large for its field.
pub fn spot(segment: u32, depth: u32, page_shift: u32, buckets: u32) -> u64 {
    assert!(segment <= MAX_SEGMENT && depth < 32 && page_shift < 16, "a segment out of range");
    u64::from(depth) << 58 | u64::from(page_shift) << 54 | u64::from(segment) << 32 | u64::from(buckets)
}

/// The segment of a [`spot`].
#[inline(always)]
pub fn segment_of_spot(spot: u64) -> u32 {
    (spot >> 32) as u32 & MAX_SEGMENT
}

/// The tables of an index.
#[derive(Clone, Copy, Debug)]
pub struct Walk<'a> {
    pub(crate) seed: (u64, u64),
    pub(crate) depth: u32,
    pub(crate) spots: &'a [u64],
    pub(crate) pages: &'a [u32],
}

impl<'a> Walk<'a> {
    /// A walk over a directory of `2^depth` spots and the first lines of each segment's pages.
    ///
    /// Panics if the directory has another size.
    pub fn new(
        seed: (u64, u64),
        depth: u32,
        spots: &'a [u64],
        pages: &'a [[u32; SEGMENT_PAGES]],
    ) -> Walk<'a> {
        assert!(depth < 32 && spots.len() == 1 << depth, "a directory of another depth");
        Walk { seed, depth, spots, pages: pages.as_flattened() }
    }

    /// The hash of a key.
    #[inline(always)]
    pub fn hash(&self, key: u64) -> u64 {
        hash_key(self.seed, key)
    }

    /// The spot of a hash.
    #[inline(always)]
    pub fn spot(&self, hash: u64) -> u64 {
        self.spots[((hash >> 1) >> (63 - self.depth)) as usize]
    }

    /// First line of the bucket of a hash.
    #[inline(always)]
    pub fn line(&self, hash: u64, lines_shift: u32) -> u32 {
        let spot = self.spot(hash);
        let buckets = spot & u64::from(u32::MAX);
        let bucket = ((((hash << (spot >> 58)) >> 32) * buckets) >> 32) as u32;
        let page_shift = (spot >> 54) as u32 & 15;
        let page = segment_of_spot(spot) as usize * SEGMENT_PAGES + (bucket >> page_shift) as usize;
        self.pages[page] + ((bucket & ((1 << page_shift) - 1)) << lines_shift)
    }
}

/// [`Vector::locate`] in plain code.
#[inline(always)]
pub(crate) fn locate(walk: &Walk<'_>, keys: &[u64; CHUNK], lines_shift: u32, at: &mut [u32; CHUNK]) {
    for (keys, at) in keys.as_chunks::<BLOCK>().0.iter().zip(at.as_chunks_mut::<BLOCK>().0) {
        let hashes = keys.map(|key| walk.hash(key));
        for (at, hash) in at.iter_mut().zip(hashes) {
            *at = walk.line(hash, lines_shift);
        }
    }
}

/// [`Vector::payloads`] in plain code.
#[inline(always)]
pub(crate) fn payloads<const LANES: usize, const PAYLOAD: usize, const READ: bool>(
    lines: &[Line],
    hits: &[u8; CHUNK],
    at: &mut [u32; CHUNK],
) {
    const { assert!(LANES >= 1 && LANES <= MAX_LANES && (!READ || LANES * 3 <= LINE_WORDS)) };
    for (at, hit) in at.iter_mut().zip(hits) {
        let hit = u32::from(*hit) & ((1 << LANES) - 1);
        // No lane is as good as the first.
        let lane = (hit | 1).ilog2();
        let word = 2 * LANES as u32 + lane * PAYLOAD as u32;
        *at = match READ {
            true => lines[*at as usize][word as usize % LINE_WORDS],
            false => at.wrapping_mul(LINE_WORDS as u32).wrapping_add(word),
        };
    }
}

/// [`Vector::hits`] in terms of [`Vector::lanes_with`].
///
/// # Safety
/// The CPU has the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn hits<V: Vector, const LANES: usize>(
    lines: &[Line],
    at: &[u32; BLOCK],
    keys: &[u64; BLOCK],
    hits: &mut [u8; BLOCK],
) {
    const { assert!(LANES >= 1 && LANES <= MAX_LANES) };
    for ((hit, at), key) in hits.iter_mut().zip(at).zip(keys) {
        // SAFETY: the caller's contract is that of the callee.
        *hit = unsafe { V::lanes_with::<LANES>(&lines[*at as usize], !*key) } as u8;
    }
}
