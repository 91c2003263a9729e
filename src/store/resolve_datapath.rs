//! Batched lookup: keys -> slots.
//!
//! A lookup waits for memory, not for arithmetic, so the batch goes in chunks: while one chunk is probed, the buckets of
//! the next are on their way. The kernel compares the home buckets of a chunk in one call; a key that had overflowed is
//! followed alone. No allocation: a chunk's hashes and bucket lines are on the stack.

use gradwire_kernels::{self as kernels, Isa};

use super::index::Index;
use super::shape::{LINE_WORDS, MISSING};

/// Keys in flight. 64 lines cover a memory access of 100 ns at 1.5 ns a key, and the state of two chunks (2 KiB) stays
/// in the first-level cache.
const CHUNK: usize = 64;

/// Where the keys of one chunk are expected.
struct Chunk {
    hashes: [u64; CHUNK],
    lines: [u32; CHUNK],
}

impl Chunk {
    const EMPTY: Chunk = Chunk { hashes: [0; CHUNK], lines: [0; CHUNK] };
}

impl Index {
    /// Writes the slot of every key to `slots`, `MISSING` where it has none, and gives how many are missing.
    ///
    /// Shapes: `slots` is as long as `keys`.
    pub(super) fn resolve(&self, isa: Isa, memory: &[u32], keys: &[u64], slots: &mut [u32]) -> usize {
        assert_eq!(keys.len(), slots.len());
        let (mut now, mut ahead) = (Chunk::EMPTY, Chunk::EMPTY);
        let mut chunks = keys.chunks(CHUNK);
        let mut next = chunks.next();
        if let Some(first) = next {
            self.locate(isa, memory, first, &mut ahead);
        }
        let mut missing = 0;
        let mut slots = slots.chunks_mut(CHUNK);
        while let (Some(chunk), Some(slots)) = (next, slots.next()) {
            std::mem::swap(&mut now, &mut ahead);
            next = chunks.next();
            if let Some(following) = next {
                self.locate(isa, memory, following, &mut ahead);
            }
            missing += self.probe(isa, memory, chunk, &now, slots);
        }
        missing
    }

    /// Asks for the home buckets of keys that are about to be inserted: a growth in between may have moved them all.
    pub(super) fn prefetch(&self, memory: &[u32], hashes: &[u64]) {
        let mut lines = [0; CHUNK];
        for hashes in hashes.chunks(CHUNK) {
            for (hash, line) in hashes.iter().zip(&mut lines) {
                let segment = &self.segments[self.segment_of(*hash)];
                *line = segment.line(segment.home(*hash), self.shape.lines_shift);
            }
            kernels::prefetch_words(memory, &lines[..hashes.len()], LINE_WORDS);
        }
    }

    /// Hashes a chunk and asks for its home buckets.
    #[inline(always)]
    fn locate(&self, isa: Isa, memory: &[u32], keys: &[u64], chunk: &mut Chunk) {
        let lines_shift = self.shape.lines_shift;
        let hashes = &mut chunk.hashes[..keys.len()];
        let lines = &mut chunk.lines[..keys.len()];
        kernels::hash_keys(isa, self.seed, keys, hashes);
        for (hash, line) in hashes.iter().zip(lines.iter_mut()) {
            let segment = &self.segments[self.segment_of(*hash)];
            *line = segment.line(segment.home(*hash), lines_shift);
        }
        kernels::prefetch_words(memory, lines, LINE_WORDS);
        if lines_shift > 0 {
            let mut second = [0; CHUNK];
            for (line, second) in lines.iter().zip(&mut second) {
                *second = line + 1;
            }
            kernels::prefetch_words(memory, &second[..keys.len()], LINE_WORDS);
        }
    }

    /// Compares the home buckets of a chunk.
    #[inline(always)]
    fn probe(&self, isa: Isa, memory: &[u32], keys: &[u64], chunk: &Chunk, slots: &mut [u32]) -> usize {
        let shape = &self.shape;
        let mut hits = [0; CHUNK];
        let hits = &mut hits[..keys.len()];
        kernels::probe_buckets(isa, memory, &chunk.lines[..keys.len()], LINE_WORDS, shape.lanes, keys, hits);
        let mut missing = 0;
        for (i, slot) in slots.iter_mut().enumerate() {
            let hit = hits[i];
            *slot = if hit < shape.lanes as u32 {
                let word = chunk.lines[i] as usize * LINE_WORDS + shape.payload_at(hit as usize);
                self.slot_at(memory, word)
            } else if hit != kernels::FULL {
                MISSING
            } else {
                self.find(memory, keys[i], chunk.hashes[i])
                    .map_or(MISSING, |place| self.slot_at(memory, self.payload_word(place)))
            };
            missing += usize::from(*slot == MISSING);
        }
        missing
    }
}
