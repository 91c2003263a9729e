//! Batched lookup: keys -> slots.
//!
//! A lookup in a small table costs instructions, one in a large table waits for memory. So blocks of keys are located and
//! compared as vectors where the CPU can (`gradwire_kernels::Walk`), and their lines are asked for `AHEAD` blocks before
//! they are compared. Fetches and comparisons alternate in blocks, since more fetches at once than the core has fill
//! buffers would only wait for one another.
//!
//! Nothing branches on whether one key is in its home bucket. The few of a chunk that are not are looked at after it: a
//! free lane says that the key has no row; a full bucket that it may be in the next one, for whose line it waits until
//! after the following chunk. What has no room there (crafted keys) is followed alone, and so are the keys that fill no
//! chunk.
//!
//! Until a key is compared, its place in `slots` holds the line to compare it with. Vectors are never read right after
//! their parts were written: such a read waits for all of the writes. No allocation: the lists are on the stack.

use gradwire_kernels::{self as kernels, BLOCK, CHUNK, Isa, Line, Plain, Prober, Walk, stored_form};

use super::index::Index;
use super::segment::Segment;
use super::shape::{LINE_WORDS, MISSING, lanes_of, lines_shift_of};

/// Blocks in flight: 64 lines cover a memory access of 100 ns at 1.5 ns a key. As many keys lie between two looks at those
/// that were not at home.
const AHEAD: usize = CHUNK / BLOCK;
/// Most overflowed keys that wait for their next bucket.
const WAITING: usize = 64;

/// A key that has no row.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Absent {
    /// Its number in the batch.
    pub(super) key: u32,
    /// The line of the bucket, from its home on, that has a free lane.
    pub(super) line: u32,
}

/// A key whose buckets so far were full of others.
#[derive(Clone, Copy)]
struct Astray {
    /// Its number in the batch.
    key: u32,
    /// The line to compare it with.
    line: u32,
    /// Buckets from its home to that line.
    steps: u32,
}

impl Astray {
    const NONE: Astray = Astray { key: 0, line: 0, steps: 0 };
}

/// The keys that wait for their next bucket.
struct Waiting {
    len: usize,
    keys: [Astray; WAITING],
}

impl Waiting {
    const EMPTY: Waiting = Waiting { len: 0, keys: [Astray::NONE; WAITING] };
}

/// Whole chunks of a batch. `PAYLOAD` are the payload's words; `INLINE` says whether it is the row, or holds its slot.
struct Resolve<'a, const PAYLOAD: usize, const INLINE: bool> {
    walk: Walk<'a>,
    segments: &'a [Segment],
    lines: &'a [Line],
    keys: &'a [[u64; CHUNK]],
    slots: &'a mut [[u32; CHUNK]],
    /// As long as there are keys; the first `missing` say which have no row.
    absent: &'a mut [Absent],
    missing: usize,
}

impl<const PAYLOAD: usize, const INLINE: bool> Plain for Resolve<'_, PAYLOAD, INLINE> {
    type Output = usize;

    #[inline(always)]
    fn run<P: Prober>(mut self, prober: P) -> usize {
        match const { lanes_of(PAYLOAD) } {
            3 => self.resolve::<P, 3>(prober),
            4 => self.resolve::<P, 4>(prober),
            _ => self.resolve::<P, 5>(prober),
        }
        self.missing
    }
}

impl<const PAYLOAD: usize, const INLINE: bool> Resolve<'_, PAYLOAD, INLINE> {
    const LINES_SHIFT: u32 = lines_shift_of(PAYLOAD);

    #[inline(always)]
    fn resolve<P: Prober, const LANES: usize>(&mut self, prober: P) {
        let (mut first, mut second) = (Waiting::EMPTY, Waiting::EMPTY);
        let (mut waiting, mut later) = (&mut first, &mut second);
        let chunks = self.keys.len();
        if chunks > 0 {
            self.locate(prober, 0);
            (0..AHEAD).for_each(|block| self.fetch(0, block));
        }
        if chunks > 1 {
            self.locate(prober, 1);
        }
        // Hits of this chunk and of the one before, which is settled once all of its hits are in memory for sure.
        let (mut now, mut before) = ([0; CHUNK], [0; CHUNK]);
        for chunk in 0..chunks {
            for block in 0..AHEAD {
                if chunk + 1 < chunks {
                    self.fetch(chunk + 1, block);
                }
                self.compare::<P, LANES>(prober, chunk, block, &mut now);
            }
            if chunk + 2 < chunks {
                self.locate(prober, chunk + 2);
            }
            if chunk > 0 {
                self.settle::<P, LANES>(prober, chunk - 1, &before, later);
                self.follow::<P, LANES>(prober, waiting, later);
                std::mem::swap(&mut waiting, &mut later);
            }
            std::mem::swap(&mut now, &mut before);
        }
        if chunks > 0 {
            self.settle::<P, LANES>(prober, chunks - 1, &before, later);
        }
        for _ in 0..2 {
            while waiting.len > 0 {
                self.follow::<P, LANES>(prober, waiting, later);
                std::mem::swap(&mut waiting, &mut later);
            }
            std::mem::swap(&mut waiting, &mut later);
        }
    }

    /// Finds the home buckets of a chunk of keys.
    #[inline(always)]
    fn locate<P: Prober>(&mut self, prober: P, chunk: usize) {
        prober.locate(&self.walk, &self.keys[chunk], Self::LINES_SHIFT, &mut self.slots[chunk]);
    }

    /// Asks for the home buckets of a block of keys.
    #[inline(always)]
    fn fetch(&self, chunk: usize, block: usize) {
        for line in &self.slots[chunk].as_chunks::<BLOCK>().0[block] {
            kernels::prefetch_line_of(self.lines, *line as usize);
            if Self::LINES_SHIFT > 0 {
                kernels::prefetch_line_of(self.lines, *line as usize + 1);
            }
        }
    }

    #[inline(always)]
    fn compare<P: Prober, const LANES: usize>(
        &self,
        prober: P,
        chunk: usize,
        block: usize,
        hits: &mut [u8; CHUNK],
    ) {
        let keys = &self.keys[chunk].as_chunks::<BLOCK>().0[block];
        let at = &self.slots[chunk].as_chunks::<BLOCK>().0[block];
        prober.hits::<LANES>(self.lines, at, keys, &mut hits.as_chunks_mut::<BLOCK>().0[block]);
    }

    /// The slot of a lane. A lane that does not exist gives anything.
    #[inline(always)]
    fn slot<const LANES: usize>(lines: &[Line], line: u32, lane: u32) -> u32 {
        match INLINE {
            true => (line * LINE_WORDS as u32).wrapping_add(2 * LANES as u32 + lane * PAYLOAD as u32),
            false => lines[line as usize][(2 * LANES + lane as usize) % LINE_WORDS],
        }
    }

    /// Turns the lines and lanes of a chunk into slots, and decides about the keys that were not in their home buckets.
    #[inline(always)]
    fn settle<P: Prober, const LANES: usize>(
        &mut self,
        prober: P,
        chunk: usize,
        hits: &[u8; CHUNK],
        later: &mut Waiting,
    ) {
        let slots = &mut self.slots[chunk];
        let at = *slots;
        match INLINE {
            true => prober.payloads::<LANES, PAYLOAD, false>(self.lines, hits, slots),
            false => prober.payloads::<LANES, 1, true>(self.lines, hits, slots),
        }
        let (mut full, mut count) = ([Astray::NONE; CHUNK], 0);
        let mut absent = prober.zeros(hits);
        while absent != 0 {
            let i = absent.trailing_zeros();
            absent &= absent - 1;
            let key = Astray { key: chunk as u32 * CHUNK as u32 + i, line: at[i as usize % CHUNK], steps: 0 };
            full[count % CHUNK] = key;
            count += usize::from(self.is_full::<P, LANES>(prober, key));
        }
        for key in &full[..count] {
            self.postpone::<P, LANES>(prober, *key, later);
        }
    }

    /// Decides about a key that is not in the bucket at its line: no row, unless the bucket is full. In a growing table
    /// that is a matter of chance too, so it is no branch: what is written counts when the bucket is not full.
    #[inline(always)]
    fn is_full<P: Prober, const LANES: usize>(&mut self, prober: P, key: Astray) -> bool {
        let full = prober.lanes_with::<LANES>(&self.lines[key.line as usize], 0) == 0;
        self.answer(key.key, MISSING);
        self.absent[self.missing] = Absent { key: key.key, line: key.line };
        self.missing += usize::from(!full);
        full
    }

    /// Compares keys that had overflowed with their next buckets, and empties the list.
    #[inline(always)]
    fn follow<P: Prober, const LANES: usize>(
        &mut self,
        prober: P,
        waiting: &mut Waiting,
        later: &mut Waiting,
    ) {
        let (mut full, mut count) = ([Astray::NONE; WAITING], 0);
        let keys = &waiting.keys[..waiting.len.min(WAITING)];
        waiting.len = 0;
        for key in keys {
            let stored = stored_form(self.key(key.key));
            let hit = prober.lanes_with::<LANES>(&self.lines[key.line as usize], stored);
            if hit == 0 {
                full[count % WAITING] = *key;
                count += usize::from(self.is_full::<P, LANES>(prober, *key));
            } else {
                self.answer(key.key, Self::slot::<LANES>(self.lines, key.line, hit.trailing_zeros()));
            }
        }
        for key in &full[..count] {
            self.postpone::<P, LANES>(prober, *key, later);
        }
    }

    /// Lets a key wait for its next bucket, or goes on at once where the list has no room.
    #[inline(always)]
    fn postpone<P: Prober, const LANES: usize>(&mut self, prober: P, key: Astray, later: &mut Waiting) {
        let hash = self.walk.hash(self.key(key.key));
        let segment = &self.segments[kernels::segment_of_spot(self.walk.spot(hash)) as usize];
        let mut steps = key.steps;
        loop {
            steps += 1;
            assert!(steps < segment.buckets, "a segment has a free lane");
            let line = segment.line(segment.beyond(segment.home(hash), steps), Self::LINES_SHIFT);
            if later.len < WAITING {
                kernels::prefetch_line_of(self.lines, line as usize);
                later.keys[later.len] = Astray { key: key.key, line, steps };
                later.len += 1;
                return;
            }
            let bucket = &self.lines[line as usize];
            let hit = prober.lanes_with::<LANES>(bucket, stored_form(self.key(key.key)));
            if hit != 0 {
                return self.answer(key.key, Self::slot::<LANES>(self.lines, line, hit.trailing_zeros()));
            }
            if !self.is_full::<P, LANES>(prober, Astray { key: key.key, line, steps }) {
                return;
            }
        }
    }

    /// The key with this number.
    #[inline(always)]
    fn key(&self, number: u32) -> u64 {
        self.keys[number as usize / CHUNK][number as usize % CHUNK]
    }

    #[inline(always)]
    fn answer(&mut self, number: u32, slot: u32) {
        self.slots[number as usize / CHUNK][number as usize % CHUNK] = slot;
    }
}

impl Index {
    /// Writes the slot of every key to `slots`, `MISSING` where it has none, and lists those in `absent`. Gives how many
    /// they are.
    ///
    /// Shapes: `slots` and `absent` are as long as `keys`.
    pub(super) fn resolve(
        &self,
        isa: Isa,
        memory: &[u32],
        keys: &[u64],
        slots: &mut [u32],
        absent: &mut [Absent],
    ) -> usize {
        assert!(keys.len() == slots.len() && keys.len() == absent.len(), "one slot a key");
        let (chunks, rest) = keys.as_chunks();
        let (slot_chunks, slot_rest) = slots.as_chunks_mut();
        // A payload of one word is a slot (`shape.rs`).
        let mut missing = match self.shape.payload_words {
            1 => self.resolve_chunks::<1, false>(isa, memory, chunks, slot_chunks, absent),
            2 => self.resolve_chunks::<2, true>(isa, memory, chunks, slot_chunks, absent),
            3 => self.resolve_chunks::<3, true>(isa, memory, chunks, slot_chunks, absent),
            _ => self.resolve_chunks::<4, true>(isa, memory, chunks, slot_chunks, absent),
        };
        for key in rest {
            let line = self.walk().line(self.hash(*key), self.shape.lines_shift);
            kernels::prefetch_word(memory, line as usize * LINE_WORDS);
        }
        for (number, (key, slot)) in (keys.len() - rest.len()..).zip(rest.iter().zip(slot_rest)) {
            match self.find(memory, *key, self.hash(*key)) {
                Ok(place) => *slot = self.slot_at(memory, self.payload_word(place)),
                Err(place) => {
                    *slot = MISSING;
                    let line = self.segments[place.segment].line(place.bucket, self.shape.lines_shift);
                    absent[missing] = Absent { key: number as u32, line };
                    missing += 1;
                }
            }
        }
        missing
    }

    fn resolve_chunks<const PAYLOAD: usize, const INLINE: bool>(
        &self,
        isa: Isa,
        memory: &[u32],
        keys: &[[u64; CHUNK]],
        slots: &mut [[u32; CHUNK]],
        absent: &mut [Absent],
    ) -> usize {
        let (lines, _) = memory.as_chunks();
        let (walk, segments) = (self.walk(), &self.segments);
        let work = Resolve::<PAYLOAD, INLINE> { walk, segments, lines, keys, slots, absent, missing: 0 };
        kernels::run_compiled(isa, work)
    }
}
