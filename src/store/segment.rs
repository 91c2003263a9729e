//! A segment: the keys whose hashes share their top bits, in 4 to 8 pages of equal size.
//!
//! Inside a segment a hash names its home bucket by the 32 bits below the shared ones, multiplied into the number of
//! buckets. That map keeps order: along the buckets of a segment, and over the segments of a partition, home buckets
//! rise with the hash. So a rebuild reads and writes in order, a split cuts a segment in two halves, and a scan that
//! remembers a hash stays valid while the index grows.
//!
//! Sizes go 4, 5, 6, 7, 8 pages and then 5 pages of twice the size: each step adds at most a quarter. Pages rather than
//! one range, because pages of one size leave no gaps in the arena when all segments of a table grow one by one.

use super::shape::{LINE_WORDS, Shape};

/// Lines of the largest page: 32 KiB, so that the largest segment is 256 KiB and is rebuilt well within 1 ms.
const MAX_PAGE_LINES_SHIFT: u32 = 9;
const MIN_PAGES: u32 = 4;
/// Most pages of a segment.
pub(super) const MAX_PAGES: usize = 8;
/// Most buckets of a segment.
pub(super) const MAX_BUCKETS: usize = MAX_PAGES << MAX_PAGE_LINES_SHIFT;

/// Part of the lanes, in 1/65536, that may be taken before a segment grows, spread over the segments.
///
/// Hashes fill all segments alike, so with one limit all of them would grow in the same push, and that push would take
/// many milliseconds. The range is one size wide: segments then grow one after another, and the bytes of a key stay
/// near their mean. Beyond 0.85, a key in six has overflowed.
const LOWEST_LOAD: u64 = 70 * 65_536 / 100;
const HIGHEST_LOAD: u64 = 85 * 65_536 / 100;
/// Keys with a payload of one word take 12 bytes: for two bytes more each, half as many overflow.
const SHORT_LESS: u64 = 10 * 65_536 / 100;

/// How much room a segment gets for the keys it has, in 1/65536, before its size is rounded up: 1.3, so 1.4 on average.
///
/// Steps of a quarter moved each key four times while a table doubled, and cost half of the growth; these move it twice,
/// and leave more lanes free, so fewer keys overflow. The price is memory: 24.5 in place of 23 bytes for a key of 16.
const ROOM: u64 = 130 * 65_536 / 100;

/// So many keys and their room to grow.
pub(super) fn with_room(rows: u64) -> u64 {
    ((rows * ROOM) >> 16) + 1
}

/// The load limit of one segment, as a place in its range.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread(u32);

impl Spread {
    /// Segments that are neighbours, or halves of one, get limits far apart: the bits of the prefix, reversed.
    pub(super) fn of(seed: (u64, u64), prefix: u32) -> Spread {
        Spread(prefix.reverse_bits().wrapping_add(seed.0 as u32))
    }
}

/// A size of segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Class {
    pub(super) pages: u32,
    /// Buckets of a page, as a shift.
    pub(super) page_shift: u32,
}

impl Class {
    /// The class of a new index.
    pub(super) const SMALLEST: Class = Class { pages: MIN_PAGES, page_shift: 0 };

    pub(super) fn buckets(self) -> u32 {
        self.pages << self.page_shift
    }

    /// Keys a segment of this class may hold.
    pub(super) fn limit(self, shape: &Shape, spread: Spread) -> u32 {
        let load = LOWEST_LOAD + (((HIGHEST_LOAD - LOWEST_LOAD) * u64::from(spread.0)) >> 32);
        let load = if shape.payload_words == 1 { load - SHORT_LESS } else { load };
        let lanes = u64::from(self.buckets()) * shape.lanes as u64;
        ((lanes * load) >> 16) as u32
    }

    /// Order of the block that holds one page.
    pub(super) fn page_order(self, shape: &Shape) -> u32 {
        self.page_shift + shape.lines_shift
    }

    /// The class beyond which a segment is split.
    pub(super) fn largest(shape: &Shape) -> Class {
        Class { pages: MAX_PAGES as u32, page_shift: MAX_PAGE_LINES_SHIFT - shape.lines_shift }
    }

    /// The smallest class that may hold so many keys, if one segment can.
    pub(super) fn for_rows(rows: u64, shape: &Shape, spread: Spread) -> Option<Class> {
        let largest_shift = MAX_PAGE_LINES_SHIFT - shape.lines_shift;
        (0..=largest_shift)
            .flat_map(|page_shift| {
                (MIN_PAGES..=MAX_PAGES as u32).map(move |pages| Class { pages, page_shift })
            })
            .find(|class| u64::from(class.limit(shape, spread)) >= rows)
    }
}

/// Header of a segment: one cache line, the only thing between a hash and its bucket.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Segment {
    /// First line of each page.
    pub(super) pages: [u32; MAX_PAGES],
    pub(super) buckets: u32,
    pub(super) rows: u32,
    /// Rows beyond which it must grow.
    pub(super) limit: u32,
    /// New rows that the push being prepared will add; zero between pushes.
    pub(super) pending: u32,
    /// The top bits of the hash that its keys share.
    pub(super) prefix: u32,
    /// How many they are.
    pub(super) depth: u8,
    pub(super) page_shift: u8,
}

const _: () = assert!(size_of::<Segment>() == 64);

impl Segment {
    /// A segment without rows, of the keys whose hash begins with the `depth` bits of `prefix`.
    pub(super) fn new(
        class: Class,
        pages: [u32; MAX_PAGES],
        (prefix, depth): (u32, u32),
        limit: u32,
    ) -> Segment {
        Segment {
            pages,
            buckets: class.buckets(),
            rows: 0,
            limit,
            pending: 0,
            prefix,
            depth: depth as u8,
            page_shift: class.page_shift as u8,
        }
    }

    /// Keys it could hold.
    pub(super) fn lanes(&self, shape: &Shape) -> u64 {
        u64::from(self.buckets) * shape.lanes as u64
    }

    pub(super) fn class(&self) -> Class {
        let page_shift = u32::from(self.page_shift);
        Class { pages: self.buckets >> page_shift, page_shift }
    }

    /// The bucket where a hash belongs.
    #[inline(always)]
    pub(super) fn home(&self, hash: u64) -> u32 {
        ((((hash << self.depth) >> 32) * u64::from(self.buckets)) >> 32) as u32
    }

    /// First line of a bucket.
    #[inline(always)]
    pub(super) fn line(&self, bucket: u32, lines_shift: u32) -> u32 {
        let page = (bucket >> self.page_shift) as usize & (MAX_PAGES - 1);
        let within = bucket & ((1 << self.page_shift) - 1);
        self.pages[page] + (within << lines_shift)
    }

    /// First word of a bucket.
    pub(super) fn word(&self, bucket: u32, shape: &Shape) -> usize {
        self.line(bucket, shape.lines_shift) as usize * LINE_WORDS
    }

    /// The bucket after this one; the last is followed by the first.
    pub(super) fn next(&self, bucket: u32) -> u32 {
        if bucket + 1 == self.buckets { 0 } else { bucket + 1 }
    }

    /// The bucket so many after this one, fewer than there are.
    #[inline(always)]
    pub(super) fn beyond(&self, bucket: u32, steps: u32) -> u32 {
        let to = bucket + steps;
        if to < self.buckets { to } else { to - self.buckets }
    }

    /// How many buckets `to` lies beyond `from`.
    pub(super) fn distance(&self, from: u32, to: u32) -> u32 {
        if to >= from { to - from } else { to + self.buckets - from }
    }

    /// The first hash, among those that share the top bits of `within`, whose home is `bucket` or later; `None` when
    /// that is past the last hash of all.
    pub(super) fn first_hash_at(&self, bucket: u32, within: u64) -> Option<u64> {
        let depth = u32::from(self.depth);
        let prefix = within & !(u64::MAX >> depth);
        if bucket == self.buckets {
            let size = 1_u128 << (64 - depth);
            return u64::try_from(u128::from(prefix) + size).ok();
        }
        let x = (u64::from(bucket) << 32).div_ceil(u64::from(self.buckets));
        Some(prefix | (x << (32 - depth)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_class_is_at_most_a_quarter_larger_than_the_one_below() {
        for (row_words, spread) in [1, 2, 3, 4, 100].into_iter().zip([0, 1 << 30, 1 << 31, 3 << 30, u32::MAX])
        {
            let (shape, spread) = (Shape::of(row_words), Spread(spread));
            let mut class = Class::SMALLEST;
            let mut largest = class;
            while let Some(next) = Class::for_rows(u64::from(class.limit(&shape, spread)) + 1, &shape, spread)
            {
                assert!(next.buckets() > class.buckets() && next.buckets() * 4 <= class.buckets() * 5);
                assert!(
                    next.limit(&shape, spread) < next.buckets() * shape.lanes as u32,
                    "a lane is always free"
                );
                class = next;
                largest = next;
            }
            assert_eq!(largest.buckets() as usize * shape.bucket_words() * 4, 256 << 10);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn homes_rise_with_the_hash_and_a_bucket_has_a_first_hash(hash: u64, other: u64, depth in 0u32..20, rows in 1u64..11_000) {
            let shape = Shape::of(2);
            let class = Class::for_rows(rows, &shape, Spread(0)).expect("small enough");
            let segment = Segment::new(class, [0; 8], (0, depth), 0);
            let other = (hash & !(u64::MAX >> depth)) | (other & (u64::MAX >> depth));
            let (low, high) = (hash.min(other), hash.max(other));
            prop_assert!(segment.home(low) <= segment.home(high));
            prop_assert!(segment.home(high) < segment.buckets);
            let first = segment.first_hash_at(segment.home(hash), hash).expect("inside");
            prop_assert!(first <= hash && segment.home(first) == segment.home(hash));
            if segment.home(hash) > 0 {
                prop_assert!(segment.home(first - 1) < segment.home(hash));
            }
            if let Some(end) = segment.first_hash_at(segment.buckets, hash) {
                prop_assert!(end > hash);
            }
        }
    }
}
