//! Moving the keys of a segment into a larger one, or into two.
//!
//! Buckets rise with the hash in the old segment and in the new one, so both are walked in order and nothing waits for
//! memory. Keys are collected a chunk at a time, which leaves the empty lanes behind without a branch on each; a chunk is
//! hashed as vectors; and how full the new buckets are is kept in a byte each, so that no bucket is read to be written.
//!
//! No allocation: chunk and fills are on the stack, 9 KiB for the largest segments.

use gradwire_kernels::{self as kernels, Isa, LINE_WORDS, Plain, Prober};

use super::segment::{MAX_BUCKETS, Segment};
use super::shape::{Shape, lanes_of, lines_shift_of};

/// Keys that are hashed together.
const CHUNK: usize = 64;
/// Buckets that are asked for ahead: the old segment has mostly left the caches, and every page starts anew for the
/// processor's own prefetching.
const AHEAD: u32 = 24;

/// Which half of a split segment a hash belongs to: the bit below those that the segment's keys share.
#[inline(always)]
fn side(hash: u64, depth: u8) -> usize {
    ((hash >> (63 - u32::from(depth))) & 1) as usize
}

/// The keys of a segment that are on their way: stored form, and where the payload lies.
struct Chunk {
    len: usize,
    stored: [u64; CHUNK],
    from: [usize; CHUNK],
}

impl Chunk {
    const EMPTY: Chunk = Chunk { len: 0, stored: [0; CHUNK], from: [0; CHUNK] };

    /// Room for another bucket.
    #[inline(always)]
    fn has_room(&self) -> bool {
        self.len <= CHUNK - kernels::MAX_LANES
    }

    /// Adds the keys of a bucket.
    #[inline(always)]
    fn add<const PAYLOAD: usize>(&mut self, memory: &[u32], word: usize) {
        let lanes = const { lanes_of(PAYLOAD) };
        let Some((bucket, _)) = memory[word..].split_first_chunk::<LINE_WORDS>() else { return };
        for lane in 0..lanes {
            let stored = u64::from(bucket[2 * lane]) | u64::from(bucket[2 * lane + 1]) << 32;
            self.stored[self.len % CHUNK] = stored;
            self.from[self.len % CHUNK] = word + 2 * lanes + lane * PAYLOAD;
            self.len += usize::from(stored != 0);
        }
    }

    #[inline(always)]
    fn hashes(&self, seed: (u64, u64)) -> [u64; CHUNK] {
        self.stored.map(|stored| kernels::hash_key(seed, !stored))
    }
}

/// The first words of a segment's buckets, in order; those ahead are asked for.
#[inline(always)]
fn word_of<const PAYLOAD: usize>(old: &Segment, memory: &[u32], bucket: u32) -> usize {
    let shift = lines_shift_of(PAYLOAD);
    let (lines, _) = memory.as_chunks();
    let ahead = old.line((bucket + AHEAD).min(old.buckets - 1), shift);
    kernels::prefetch_line_of(lines, ahead as usize);
    if shift > 0 {
        kernels::prefetch_line_of(lines, ahead as usize + 1);
    }
    old.line(bucket, shift) as usize * LINE_WORDS
}

/// Counts the keys of both halves of a segment.
struct Count<'a, const PAYLOAD: usize> {
    seed: (u64, u64),
    old: &'a Segment,
    memory: &'a [u32],
}

impl<const PAYLOAD: usize> Plain for Count<'_, PAYLOAD> {
    type Output = [u64; 2];

    #[inline(always)]
    fn run<P: Prober>(self, _: P) -> [u64; 2] {
        let (mut chunk, mut upper) = (Chunk::EMPTY, 0);
        for bucket in 0..self.old.buckets {
            chunk.add::<PAYLOAD>(self.memory, word_of::<PAYLOAD>(self.old, self.memory, bucket));
            if chunk.has_room() && bucket + 1 < self.old.buckets {
                continue;
            }
            for (i, hash) in chunk.hashes(self.seed).into_iter().enumerate() {
                upper += side(hash, self.old.depth) * usize::from(i < chunk.len);
            }
            chunk.len = 0;
        }
        [u64::from(self.old.rows) - upper as u64, upper as u64]
    }
}

/// Copies every key and payload of `old` into `new`, which is empty: one segment, or two by the next bit.
struct Move<'a, const PAYLOAD: usize, const HALVES: usize> {
    seed: (u64, u64),
    old: &'a Segment,
    new: &'a mut [Segment; HALVES],
    memory: &'a mut [u32],
}

impl<const PAYLOAD: usize, const HALVES: usize> Plain for Move<'_, PAYLOAD, HALVES> {
    type Output = ();

    #[inline(always)]
    fn run<P: Prober>(mut self, _: P) {
        let mut chunk = Chunk::EMPTY;
        let mut fills = [[0; MAX_BUCKETS]; HALVES];
        for bucket in 0..self.old.buckets {
            chunk.add::<PAYLOAD>(self.memory, word_of::<PAYLOAD>(self.old, self.memory, bucket));
            if !chunk.has_room() {
                self.place(&mut chunk, &mut fills);
            }
        }
        self.place(&mut chunk, &mut fills);
    }
}

impl<const PAYLOAD: usize, const HALVES: usize> Move<'_, PAYLOAD, HALVES> {
    #[inline(always)]
    fn place(&mut self, chunk: &mut Chunk, fills: &mut [[u8; MAX_BUCKETS]; HALVES]) {
        let lanes = const { lanes_of(PAYLOAD) };
        let hashes = chunk.hashes(self.seed);
        let (keys, sources) = (&chunk.stored[..chunk.len], &chunk.from[..chunk.len]);
        for ((stored, from), hash) in keys.iter().zip(sources).zip(hashes) {
            let half = if HALVES == 1 { 0 } else { side(hash, self.old.depth) };
            let to = &mut self.new[half];
            let mut home = to.home(hash);
            while usize::from(fills[half][home as usize % MAX_BUCKETS]) == lanes {
                home = to.next(home);
            }
            let fill = &mut fills[half][home as usize % MAX_BUCKETS];
            let lane = usize::from(*fill);
            *fill += 1;
            to.rows += 1;
            let word = to.line(home, lines_shift_of(PAYLOAD)) as usize * LINE_WORDS;
            let mut payload = [0; PAYLOAD];
            payload.copy_from_slice(&self.memory[*from..*from + PAYLOAD]);
            let bucket = &mut self.memory[word..word + (LINE_WORDS << lines_shift_of(PAYLOAD))];
            bucket[2 * lane] = *stored as u32;
            bucket[2 * lane + 1] = (*stored >> 32) as u32;
            let at = 2 * lanes + lane * PAYLOAD;
            bucket[at..at + PAYLOAD].copy_from_slice(&payload);
        }
        chunk.len = 0;
    }
}

/// How many keys of a segment go to each of its halves.
pub(super) fn count_halves(
    isa: Isa,
    shape: &Shape,
    seed: (u64, u64),
    old: &Segment,
    memory: &[u32],
) -> [u64; 2] {
    match shape.payload_words {
        1 => kernels::run_compiled(isa, Count::<1> { seed, old, memory }),
        2 => kernels::run_compiled(isa, Count::<2> { seed, old, memory }),
        3 => kernels::run_compiled(isa, Count::<3> { seed, old, memory }),
        _ => kernels::run_compiled(isa, Count::<4> { seed, old, memory }),
    }
}

/// Copies every key and payload of `old` into `new`, which is empty and has room: one segment, or two by the bit below
/// those that the keys of `old` share.
pub(super) fn move_keys<const HALVES: usize>(
    isa: Isa,
    shape: &Shape,
    seed: (u64, u64),
    old: &Segment,
    new: &mut [Segment; HALVES],
    memory: &mut [u32],
) {
    let room: u64 = new.iter().map(|segment| segment.lanes(shape)).sum();
    assert!(room > u64::from(old.rows), "a rebuild into less room");
    match shape.payload_words {
        1 => kernels::run_compiled(isa, Move::<1, HALVES> { seed, old, new, memory }),
        2 => kernels::run_compiled(isa, Move::<2, HALVES> { seed, old, new, memory }),
        3 => kernels::run_compiled(isa, Move::<3, HALVES> { seed, old, new, memory }),
        _ => kernels::run_compiled(isa, Move::<4, HALVES> { seed, old, new, memory }),
    }
    let moved: u32 = new.iter().map(|segment| segment.rows).sum();
    assert_eq!(moved, old.rows, "a rebuild loses no key");
}
