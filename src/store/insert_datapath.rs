//! Batched insertion of keys that have no row yet, into segments that have room for all of them.
//!
//! The lookup that missed them has just found, for each, a bucket with a free lane. Unless a key of the same batch has
//! taken the last one there, that is where it goes: no second walk, and no branch that is hard to predict. Lines are asked
//! for some keys ahead, since they may have left the nearest caches, and those of segments that have grown are elsewhere.

use gradwire_kernels::{self as kernels, Isa, LINE_WORDS, Line, Plain, Prober, Walk, stored_form};

use super::index::Index;
use super::resolve_datapath::Absent;
use super::segment::Segment;
use super::shape::{lanes_of, lines_shift_of};

/// Keys whose lines are asked for.
const AHEAD: usize = 32;

/// New keys. `PAYLOAD` are the payload's words; `INLINE` says whether it is the row, which starts as zeroes, or holds the
/// slot that `take` gives.
struct Insert<'a, const PAYLOAD: usize, const INLINE: bool, F> {
    walk: Walk<'a>,
    segments: &'a mut [Segment],
    memory: &'a mut [u32],
    keys: &'a [u64],
    absent: &'a [Absent],
    slots: &'a mut [u32],
    take: F,
}

impl<const PAYLOAD: usize, const INLINE: bool, F: FnMut() -> u32> Plain for Insert<'_, PAYLOAD, INLINE, F> {
    type Output = u64;

    #[inline(always)]
    fn run<P: Prober>(mut self, prober: P) -> u64 {
        match const { lanes_of(PAYLOAD) } {
            3 => self.insert::<P, 3>(prober),
            4 => self.insert::<P, 4>(prober),
            _ => self.insert::<P, 5>(prober),
        }
    }
}

impl<const PAYLOAD: usize, const INLINE: bool, F: FnMut() -> u32> Insert<'_, PAYLOAD, INLINE, F> {
    const LINES_SHIFT: u32 = lines_shift_of(PAYLOAD);

    #[inline(always)]
    fn insert<P: Prober, const LANES: usize>(&mut self, prober: P) -> u64 {
        let (absent, mut made) = (self.absent, 0);
        for ahead in &absent[..AHEAD.min(absent.len())] {
            self.prefetch(ahead.line);
        }
        for (i, new) in absent.iter().enumerate() {
            if let Some(ahead) = absent.get(i + AHEAD) {
                self.prefetch(ahead.line);
            }
            let number = new.key as usize;
            let (slot, new) = self.insert_one::<P, LANES>(prober, self.keys[number], new.line);
            self.slots[number] = slot;
            made += u64::from(new);
        }
        made
    }

    #[inline(always)]
    fn prefetch(&self, line: u32) {
        let (lines, _) = self.memory.as_chunks();
        kernels::prefetch_line_of(lines, line as usize);
        if Self::LINES_SHIFT > 0 {
            kernels::prefetch_line_of(lines, line as usize + 1);
        }
    }

    /// The slot of a key, and whether it was made now: a key may come twice in one list (imports). Buckets before `line`
    /// are full of other keys.
    #[inline(always)]
    fn insert_one<P: Prober, const LANES: usize>(&mut self, prober: P, key: u64, line: u32) -> (u32, bool) {
        let hash = self.walk.hash(key);
        let number = kernels::segment_of_spot(self.walk.spot(hash)) as usize;
        let stored = stored_form(key);
        let (mut line, mut steps) = (line, 0);
        loop {
            let (lines, _) = self.memory.as_chunks::<LINE_WORDS>();
            let bucket: &Line = &lines[line as usize];
            let first = line as usize * LINE_WORDS + 2 * LANES;
            let hit = prober.lanes_with::<LANES>(bucket, stored);
            if hit != 0 {
                let at = first + hit.trailing_zeros() as usize * PAYLOAD;
                return (if INLINE { at as u32 } else { self.memory[at] }, false);
            }
            let empty = prober.lanes_with::<LANES>(bucket, 0);
            if empty != 0 {
                let lane = empty.trailing_zeros() as usize;
                let at = first + lane * PAYLOAD;
                let (lines, _) = self.memory.as_chunks_mut::<LINE_WORDS>();
                let bucket = &mut lines[line as usize];
                bucket[2 * lane % LINE_WORDS] = stored as u32;
                bucket[(2 * lane + 1) % LINE_WORDS] = (stored >> 32) as u32;
                self.segments[number].rows += 1;
                let slot = if INLINE { at as u32 } else { (self.take)() };
                let payload = &mut self.memory[at..at + PAYLOAD];
                payload.fill(0);
                if !INLINE {
                    payload[0] = slot;
                }
                return (slot, true);
            }
            // Rare: from the home on, since a line does not say which bucket comes next.
            let segment = &self.segments[number];
            assert!(steps < segment.buckets, "a segment has a free lane");
            line = segment.line(segment.beyond(segment.home(hash), steps), Self::LINES_SHIFT);
            steps += 1;
        }
    }
}

impl Index {
    /// Inserts keys for which `reserve` has made room, and writes the slots of their rows: for inline rows the place of
    /// zeroes, else what `take` gives. A key that is there already keeps its slot. Gives how many were made.
    ///
    /// Shapes: `slots` is as long as `keys`; `absent` names some of them.
    pub(super) fn insert_all(
        &mut self,
        isa: Isa,
        memory: &mut [u32],
        keys: &[u64],
        absent: &[Absent],
        slots: &mut [u32],
        take: impl FnMut() -> u32,
    ) -> u64 {
        assert_eq!(keys.len(), slots.len());
        // A payload of one word is a slot (`shape.rs`).
        let made = match self.shape.payload_words {
            1 => self.insert_some::<1, false>(isa, memory, keys, absent, slots, take),
            2 => self.insert_some::<2, true>(isa, memory, keys, absent, slots, take),
            3 => self.insert_some::<3, true>(isa, memory, keys, absent, slots, take),
            _ => self.insert_some::<4, true>(isa, memory, keys, absent, slots, take),
        };
        self.rows += made;
        made
    }

    fn insert_some<const PAYLOAD: usize, const INLINE: bool>(
        &mut self,
        isa: Isa,
        memory: &mut [u32],
        keys: &[u64],
        absent: &[Absent],
        slots: &mut [u32],
        take: impl FnMut() -> u32,
    ) -> u64 {
        let walk = Walk::new(self.seed, self.depth, &self.spots, &self.pages);
        let segments = &mut self.segments;
        let work = Insert::<PAYLOAD, INLINE, _> { walk, segments, memory, keys, absent, slots, take };
        kernels::run_compiled(isa, work)
    }
}
