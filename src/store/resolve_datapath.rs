//! Batched lookup: keys -> slots.
//!
//! A lookup waits for memory, not for arithmetic, so buckets are asked for `AHEAD` blocks before they are compared.
//! Fetches and comparisons alternate in blocks: more fetches at once than the core has fill buffers would only wait for
//! one another. One key in eight has overflowed its home bucket. Those go on a list while the line of their next bucket
//! comes, and are compared later, so that nothing branches on a single key; what the list has no room for (crafted keys)
//! is followed alone, and so are the keys that fill no block.
//!
//! Until a key is compared, its place in `slots` holds the line to compare it with. No allocation: the lists of
//! overflowed keys are on the stack.

use gradwire_kernels::{self as kernels, Isa, PROBED_FULL, Plain, Prober};

use super::index::Index;
use super::shape::{LINE_WORDS, MISSING, Shape};

/// Keys located between two rounds of comparisons: as many as a core has fill buffers.
const BLOCK: usize = 16;
/// Blocks in flight: 64 lines cover a memory access of 100 ns at 1.5 ns a key.
const AHEAD: usize = 4;
/// Most overflowed keys that wait for their next bucket.
const WAITING: usize = 64;

/// Keys whose buckets so far were full of others.
struct Overflow {
    len: usize,
    /// Block and number in the block.
    keys: [(u32, u32); WAITING],
    /// Buckets from the home to the one that is asked for.
    steps: [u32; WAITING],
}

impl Overflow {
    const EMPTY: Overflow = Overflow { len: 0, keys: [(0, 0); WAITING], steps: [0; WAITING] };
}

/// Whole blocks of a batch; `INLINE` says whether a payload is the row, or holds its slot.
struct Resolve<'a, const INLINE: bool> {
    index: &'a Index,
    shape: Shape,
    memory: &'a [u32],
    keys: &'a [[u64; BLOCK]],
    slots: &'a mut [[u32; BLOCK]],
    missing: usize,
}

impl<const INLINE: bool> Plain for Resolve<'_, INLINE> {
    type Output = usize;

    #[inline(always)]
    fn run<P: Prober>(mut self, prober: P) -> usize {
        let (mut first, mut second) = (Overflow::EMPTY, Overflow::EMPTY);
        let (mut waiting, mut later) = (&mut first, &mut second);
        let mut full = [(0, 0); AHEAD * BLOCK];
        let blocks = self.keys.len();
        for block in 0..blocks.min(AHEAD) {
            self.locate(block);
        }
        for chunk in (0..blocks).step_by(AHEAD) {
            let mut fulls = 0;
            for block in chunk..blocks.min(chunk + AHEAD) {
                if block + AHEAD < blocks {
                    self.locate(block + AHEAD);
                }
                self.compare(prober, block, &mut full, &mut fulls);
            }
            for key in &full[..fulls] {
                self.postpone(*key, 1, later);
            }
            self.follow(prober, waiting, later);
            std::mem::swap(&mut waiting, &mut later);
        }
        while waiting.len > 0 {
            self.follow(prober, waiting, later);
            std::mem::swap(&mut waiting, &mut later);
        }
        self.missing
    }
}

impl<const INLINE: bool> Resolve<'_, INLINE> {
    /// Hashes a block of keys, and asks for the lines of their home buckets.
    #[inline(always)]
    fn locate(&mut self, block: usize) {
        let mut hashes = [0; BLOCK];
        for (hash, key) in hashes.iter_mut().zip(&self.keys[block]) {
            *hash = self.index.hash(*key);
        }
        let index = self.index;
        let mut lines = [0; BLOCK];
        for (hash, line) in hashes.iter().zip(&mut lines) {
            let segment = &index.segments[index.segment_of(*hash)];
            *line = segment.line(segment.home(*hash), self.shape.lines_shift);
            prefetch(self.memory, *line, self.shape.lines_shift);
        }
        self.slots[block] = lines;
    }

    /// What the bucket at a line says of a key, and its slot, `MISSING` when it is not there.
    #[inline(always)]
    fn ask<P: Prober>(&self, prober: P, key: u64, line: u32) -> (u32, u32) {
        let first = line as usize * LINE_WORDS;
        let lanes = self.shape.lanes;
        let answer = prober.probe(&self.memory[first..first + 2 * lanes], lanes, key);
        // Where the key is not there, the last payload of the bucket: a load is cheaper than a branch.
        let word = first + self.shape.payload_at((answer as usize).min(lanes - 1));
        let slot = if INLINE { word as u32 } else { self.memory[word] };
        (answer, if answer < lanes as u32 { slot } else { MISSING })
    }

    /// Compares a block of keys with their home buckets; lists those whose bucket is full.
    #[inline(always)]
    fn compare<P: Prober>(
        &mut self,
        prober: P,
        block: usize,
        full: &mut [(u32, u32); AHEAD * BLOCK],
        fulls: &mut usize,
    ) {
        let (keys, lines) = (&self.keys[block], self.slots[block]);
        let mut slots = [0; BLOCK];
        let (mut missing, mut len) = (0, *fulls);
        for i in 0..BLOCK {
            let (answer, slot) = self.ask(prober, keys[i], lines[i]);
            slots[i] = slot;
            missing += usize::from((8..PROBED_FULL).contains(&answer));
            full[len % (AHEAD * BLOCK)] = (block as u32, i as u32);
            len += usize::from(answer == PROBED_FULL);
        }
        self.slots[block] = slots;
        self.missing += missing;
        *fulls = len;
    }

    /// Compares keys that had overflowed with their next buckets, and empties the list.
    #[inline(always)]
    fn follow<P: Prober>(&mut self, prober: P, waiting: &mut Overflow, later: &mut Overflow) {
        let (mut full, mut fulls) = ([0; WAITING], 0);
        for i in 0..waiting.len {
            let (block, at) = waiting.keys[i];
            let (block, at) = (block as usize, at as usize % BLOCK);
            let (answer, slot) = self.ask(prober, self.keys[block][at], self.slots[block][at]);
            self.slots[block][at] = slot;
            self.missing += usize::from((8..PROBED_FULL).contains(&answer));
            full[fulls % WAITING] = i;
            fulls += usize::from(answer == PROBED_FULL);
        }
        for i in &full[..fulls] {
            self.postpone(waiting.keys[*i], waiting.steps[*i] + 1, later);
        }
        waiting.len = 0;
    }

    /// Lets a key wait for its next bucket. Without room on the list, or when all buckets were seen, it is found now.
    #[inline(always)]
    fn postpone(&mut self, key: (u32, u32), steps: u32, later: &mut Overflow) {
        let (block, at) = (key.0 as usize, key.1 as usize % BLOCK);
        let hash = self.index.hash(self.keys[block][at]);
        let segment = &self.index.segments[self.index.segment_of(hash)];
        let i = later.len;
        if i == WAITING || steps >= segment.buckets {
            let slot = self.index.slot_of(self.memory, self.keys[block][at]);
            self.missing += usize::from(slot == MISSING);
            self.slots[block][at] = slot;
            return;
        }
        let bucket = segment.home(hash) + steps;
        let bucket = if bucket < segment.buckets { bucket } else { bucket - segment.buckets };
        let line = segment.line(bucket, self.shape.lines_shift);
        self.slots[block][at] = line;
        prefetch(self.memory, line, self.shape.lines_shift);
        (later.keys[i], later.steps[i]) = (key, steps);
        later.len = i + 1;
    }
}

/// Asks for all lines of a bucket.
#[inline(always)]
fn prefetch(memory: &[u32], first: u32, lines_shift: u32) {
    kernels::prefetch_word(memory, first as usize * LINE_WORDS);
    if lines_shift > 0 {
        kernels::prefetch_word(memory, (first as usize + 1) * LINE_WORDS);
    }
}

impl Index {
    /// Writes the slot of every key to `slots`, `MISSING` where it has none, and gives how many are missing.
    ///
    /// Shapes: `slots` is as long as `keys`.
    pub(super) fn resolve(&self, isa: Isa, memory: &[u32], keys: &[u64], slots: &mut [u32]) -> usize {
        assert_eq!(keys.len(), slots.len());
        let shape = self.shape;
        let (keys, last_keys) = keys.as_chunks();
        let (slots, last_slots) = slots.as_chunks_mut();
        for key in last_keys {
            self.prefetch(memory, &[self.hash(*key)]);
        }
        let mut missing = match shape.inline {
            true => kernels::run_compiled(
                isa,
                Resolve::<true> { index: self, shape, memory, keys, slots, missing: 0 },
            ),
            false => kernels::run_compiled(
                isa,
                Resolve::<false> { index: self, shape, memory, keys, slots, missing: 0 },
            ),
        };
        for (key, slot) in last_keys.iter().zip(last_slots) {
            *slot = self.slot_of(memory, *key);
            missing += usize::from(*slot == MISSING);
        }
        missing
    }

    /// The slot of one key.
    #[cold]
    fn slot_of(&self, memory: &[u32], key: u64) -> u32 {
        let place = self.find(memory, key, self.hash(key));
        place.map_or(MISSING, |place| self.slot_at(memory, self.payload_word(place)))
    }

    /// Asks for the home buckets of keys that are about to be inserted: a growth in between may have moved them all.
    pub(super) fn prefetch(&self, memory: &[u32], hashes: &[u64]) {
        for hash in hashes {
            let segment = &self.segments[self.segment_of(*hash)];
            let line = segment.line(segment.home(*hash), self.shape.lines_shift);
            kernels::prefetch_word(memory, line as usize * LINE_WORDS);
        }
    }
}
