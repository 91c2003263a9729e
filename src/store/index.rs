//! The index of one partition: key -> payload, where the payload is a row or the slot of one.
//!
//! A directory, by the top bits of a private hash, names segments; inside a segment a key lives in its home bucket or,
//! when that is full, in one of the next. A probe ends at a bucket with a free lane, so removing a key from a full
//! bucket pulls a later one back into it. Keys are stored inverted: zeroed memory is an empty bucket, and `u64::MAX` is
//! the one key that can't be held.
//!
//! The hash is seeded apart from the one that made the partition, else all keys here would share bits.
//! Growth is in `grow.rs`, batches of lookups in `resolve_datapath.rs`, of insertions in `insert_datapath.rs`, all on the
//! type of this file.

use gradwire_kernels as kernels;

use super::blocks::Blocks;
use super::budget::{Budget, Short};
use super::grow::header_bytes;
use super::segment::{Class, MAX_PAGES, Segment};
use super::shape::Shape;

/// Directory depth at which a segment is no longer split. 16 GiB of full segments need 17 bits; even hashes need two
/// more at most.
pub(super) const MAX_DEPTH: u32 = 20;
const _: () = assert!(1 << MAX_DEPTH <= kernels::MAX_SEGMENT && MAX_PAGES == kernels::SEGMENT_PAGES);

/// Where a key is, or would go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) segment: usize,
    pub(super) bucket: u32,
    pub(super) lane: usize,
}

/// Keys of one partition.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) shape: Shape,
    pub(super) seed: (u64, u64),
    pub(super) max_depth: u32,
    pub(super) depth: u32,
    /// The directory, `2^depth` entries, and the pages of each segment, as lookups read them; `reroute` keeps them.
    pub(super) spots: Vec<u64>,
    pub(super) pages: Vec<[u32; MAX_PAGES]>,
    pub(super) segments: Vec<Segment>,
    pub(super) rows: u64,
    /// Raised when a payload moved.
    pub(super) moves: u64,
    /// Bytes charged for directory and headers.
    pub(super) charged: u64,
}

/// Reads the stored form of a lane's key.
#[inline(always)]
pub(super) fn stored_key(bucket: &[u32], lane: usize) -> u64 {
    u64::from(bucket[2 * lane]) | (u64::from(bucket[2 * lane + 1]) << 32)
}

/// Writes the stored form of a lane's key; zero empties the lane.
#[inline(always)]
pub(super) fn set_stored_key(bucket: &mut [u32], lane: usize, stored: u64) {
    bucket[2 * lane] = stored as u32;
    bucket[2 * lane + 1] = (stored >> 32) as u32;
}

impl Index {
    /// An index with one segment of the smallest size.
    pub(super) fn new(
        shape: Shape,
        seed: (u64, u64),
        max_depth: u32,
        blocks: &mut Blocks,
        budget: &mut Budget,
    ) -> Result<Index, Short> {
        let mut index = Index {
            shape,
            seed,
            max_depth,
            depth: 0,
            spots: vec![0],
            pages: Vec::new(),
            segments: Vec::new(),
            rows: 0,
            moves: 0,
            charged: 0,
        };
        let segment = index.take_segment(Class::SMALLEST, (0, 0), blocks, budget)?;
        if let Err(short) = budget.charge(header_bytes(1, 1)) {
            index.give_segment(&segment, blocks, budget);
            return Err(short);
        }
        index.charged = header_bytes(1, 1);
        index.segments.push(segment);
        index.pages.push(segment.pages);
        index.reroute(0);
        Ok(index)
    }

    /// Gives every page back.
    pub(super) fn release(&mut self, blocks: &mut Blocks, budget: &mut Budget) {
        for segment in std::mem::take(&mut self.segments) {
            self.give_segment(&segment, blocks, budget);
        }
        self.spots.clear();
        self.pages.clear();
        budget.release(self.charged);
        self.charged = 0;
        self.rows = 0;
    }

    #[inline(always)]
    pub(super) fn seed(&self) -> (u64, u64) {
        self.seed
    }

    pub(super) fn hash(&self, key: u64) -> u64 {
        kernels::hash_key(self.seed, key)
    }

    /// What a walk from keys to buckets needs.
    pub(super) fn walk(&self) -> kernels::Walk<'_> {
        kernels::Walk::new(self.seed, self.depth, &self.spots, &self.pages)
    }

    /// Makes lookups find a segment where it is now.
    pub(super) fn reroute(&mut self, number: usize) {
        let segment = &self.segments[number];
        self.pages[number] = segment.pages;
        let (depth, page_shift) = (u32::from(segment.depth), u32::from(segment.page_shift));
        // The entries of a segment are neighbours.
        let entries = 1_usize << (self.depth - depth);
        let first = segment.prefix as usize * entries;
        self.spots[first..first + entries].fill(kernels::spot(
            number as u32,
            depth,
            page_shift,
            segment.buckets,
        ));
    }

    /// The segment of a hash.
    #[inline(always)]
    pub(super) fn segment_of(&self, hash: u64) -> usize {
        kernels::segment_of_spot(self.spots[((hash >> 1) >> (63 - self.depth)) as usize]) as usize
    }

    /// First word of the bucket of a place.
    pub(super) fn bucket_word(&self, place: Place) -> usize {
        self.segments[place.segment].word(place.bucket, &self.shape)
    }

    /// First word of the payload of a place.
    pub(super) fn payload_word(&self, place: Place) -> usize {
        self.bucket_word(place) + self.shape.payload_at(place.lane)
    }

    /// The slot that a payload at `word` stands for.
    #[inline(always)]
    pub(super) fn slot_at(&self, memory: &[u32], word: usize) -> u32 {
        if self.shape.inline { word as u32 } else { memory[word] }
    }

    /// Finds one key: `Ok` where it is, `Err` where it would go. Plain comparisons: for one bucket of at most five keys
    /// the choice of an instruction set costs more than it saves.
    pub(super) fn find(&self, memory: &[u32], key: u64, hash: u64) -> Result<Place, Place> {
        let number = self.segment_of(hash);
        let segment = &self.segments[number];
        let mut bucket = segment.home(hash);
        let mut visited = 0;
        loop {
            let word = segment.word(bucket, &self.shape);
            let keys = &memory[word..word + 2 * self.shape.lanes];
            let mut free = None;
            for lane in 0..self.shape.lanes {
                let stored = stored_key(keys, lane);
                if stored == !key {
                    return Ok(Place { segment: number, bucket, lane });
                }
                if stored == 0 && free.is_none() {
                    free = Some(lane);
                }
            }
            if let Some(lane) = free {
                return Err(Place { segment: number, bucket, lane });
            }
            visited += 1;
            assert!(visited < segment.buckets, "a segment has a free lane");
            bucket = segment.next(bucket);
        }
    }

    /// Takes the key of a place out. Later keys that had overflowed past its bucket are pulled back.
    pub(super) fn remove(&mut self, memory: &mut [u32], place: Place) {
        let shape = self.shape;
        let segment = self.segments[place.segment];
        let bucket_words = shape.bucket_words();
        let is_full = |memory: &[u32], bucket: u32| {
            let word = segment.word(bucket, &shape);
            (0..shape.lanes).all(|lane| stored_key(&memory[word..word + bucket_words], lane) != 0)
        };
        let (mut hole, mut hole_lane) = (place.bucket, place.lane);
        let mut may_have_passed = is_full(memory, hole);
        set_stored_key(&mut memory[segment.word(hole, &shape)..], hole_lane, 0);
        let mut bucket = hole;
        while may_have_passed {
            bucket = segment.next(bucket);
            let full = is_full(memory, bucket);
            let word = segment.word(bucket, &shape);
            // A key may move back when the hole lies between its home and where it is.
            let back = segment.distance(hole, bucket);
            let movable = (0..shape.lanes).find(|lane| {
                let stored = stored_key(&memory[word..], *lane);
                stored != 0 && segment.distance(segment.home(self.hash(!stored)), bucket) >= back
            });
            if let Some(lane) = movable {
                let stored = stored_key(&memory[word..], lane);
                let to = segment.word(hole, &shape);
                set_stored_key(&mut memory[to..], hole_lane, stored);
                let from = word + shape.payload_at(lane);
                memory.copy_within(from..from + shape.payload_words, to + shape.payload_at(hole_lane));
                set_stored_key(&mut memory[word..], lane, 0);
                (hole, hole_lane) = (bucket, lane);
            }
            may_have_passed = full;
        }
        self.segments[place.segment].rows -= 1;
        self.rows -= 1;
        self.moves += 1;
    }

    /// Visits keys in order of their hash, from `from` on, within one segment: at most `max_rows`, and at least one
    /// when there is one.
    /// Gives the hash to go on from, `None` at the end. What was there all along is visited exactly once, however the
    /// index grew between the steps.
    pub(super) fn scan(
        &self,
        memory: &[u32],
        from: u64,
        max_rows: usize,
        mut visit: impl FnMut(u64, usize),
    ) -> Option<u64> {
        let shape = &self.shape;
        let segment = &self.segments[self.segment_of(from)];
        let first = segment.home(from);
        let wanted = u32::try_from(max_rows / shape.lanes).unwrap_or(u32::MAX).max(1);
        let end = first.saturating_add(wanted).min(segment.buckets);
        let end_hash = segment.first_hash_at(end, from);
        // Home buckets come in the hash's order, lanes and overflow do not.
        let mut found: Vec<(u64, u64, usize)> = Vec::new();
        let mut bucket = first;
        for visited in 0..segment.buckets {
            let word = segment.word(bucket, shape);
            let mut full = true;
            for lane in 0..shape.lanes {
                let stored = stored_key(&memory[word..], lane);
                if stored == 0 {
                    full = false;
                    continue;
                }
                let hash = self.hash(!stored);
                if hash >= from && end_hash.is_none_or(|end| hash < end) {
                    found.push((hash, !stored, word + shape.payload_at(lane)));
                }
            }
            // Past the wanted homes only overflow is of interest, and that ends at a free lane.
            if !full && first + visited + 1 >= end {
                break;
            }
            bucket = segment.next(bucket);
        }
        found.sort_unstable();
        // The bound is hard, since rows must fit a record; hashes are as distinct as keys, so one is a place to go on.
        let rest = found.get(max_rows.max(1)).map(|(hash, ..)| *hash);
        for (_, key, word) in found.into_iter().take(max_rows.max(1)) {
            visit(key, word);
        }
        rest.or(end_hash)
    }
}
