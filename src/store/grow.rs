//! Growth of the index: before a push inserts anything, every segment it touches is made large enough.
//!
//! Growth changes no row, so a push that runs out of memory half way through it has changed nothing: all that follows
//! can't fail. A segment is rebuilt alone, 1.4 times as large; one that would pass the largest size is split by the next
//! bit of the hash. Both read and write in hash order (`rebuild_datapath.rs`): a third of a millisecond for 13,000 keys.
//!
//! Absent on purpose: merging two segments. Erasing keys shrinks their segment, down to four lines.

use gradwire_kernels::Isa;

use super::blocks::Blocks;
use super::budget::{Budget, Short};
use super::index::Index;
use super::rebuild_datapath;
use super::segment::{Class, MAX_PAGES, Segment, Spread, with_room};
use super::shape::LINE_WORDS;

/// The keys of a segment that has moved: those whose hash begins with `prefix`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    prefix: u64,
    shift: u32,
}

impl Moved {
    #[inline(always)]
    pub(super) fn has(&self, hash: u64) -> bool {
        (hash >> 1) >> self.shift == self.prefix
    }
}

impl Index {
    /// Makes room for new keys with these hashes. After `Ok`, inserting each of them can't fail. `moved` gets the segments
    /// whose keys may be elsewhere now.
    ///
    /// Errors leave every key where a lookup finds it; segments that grew stay grown.
    pub(super) fn reserve(
        &mut self,
        isa: Isa,
        hashes: &[u64],
        touched: &mut Vec<u32>,
        moved: &mut Vec<Moved>,
        blocks: &mut Blocks,
        budget: &mut Budget,
    ) -> Result<(), Short> {
        loop {
            touched.clear();
            for hash in hashes {
                let number = self.segment_of(*hash);
                let segment = &mut self.segments[number];
                if segment.pending == 0 {
                    touched.push(number as u32);
                }
                segment.pending += 1;
            }
            let mut outcome = Ok(false);
            for number in touched.iter() {
                let number = *number as usize;
                let segment = &self.segments[number];
                let needed = u64::from(segment.rows) + u64::from(segment.pending);
                if outcome.is_ok() && needed > u64::from(segment.limit) {
                    let (prefix, depth) = (u64::from(segment.prefix), u32::from(segment.depth));
                    moved.push(Moved { prefix, shift: 63 - depth });
                    let grown = self.grow(isa, number, blocks, budget);
                    outcome = outcome.and_then(|again| grown.map(|narrow| again | narrow));
                }
                self.segments[number].pending = 0;
            }
            // A split may have sent most of the new keys to one side: count again.
            if !outcome? {
                return Ok(());
            }
        }
    }

    /// Panics if one of these segments has more keys than its limit: room is reserved before the first insertion.
    pub(super) fn assert_room(&self, touched: &[u32]) {
        let within = |number: &u32| {
            let segment = &self.segments[*number as usize];
            segment.rows <= segment.limit
        };
        assert!(touched.iter().all(within), "a segment beyond its limit");
    }

    /// Makes a segment large enough for its pending keys. True when it was split, and a half may still be too small.
    fn grow(
        &mut self,
        isa: Isa,
        number: usize,
        blocks: &mut Blocks,
        budget: &mut Budget,
    ) -> Result<bool, Short> {
        let segment = &self.segments[number];
        let needed = u64::from(segment.rows) + u64::from(segment.pending);
        let spread = Spread::of(self.seed, segment.prefix);
        let last = u32::from(segment.depth) >= self.max_depth;
        let class = Class::for_rows(with_room(needed), &self.shape, spread).or_else(|| {
            Class::for_rows(needed, &self.shape, spread).filter(|_| last).map(|_| Class::largest(&self.shape))
        });
        match class {
            Some(class) => self.resize(isa, number, class, blocks, budget).map(|()| false),
            None => self.split(isa, number, blocks, budget),
        }
    }

    /// Gives memory back after keys left a segment, if it is worth a rebuild and there is memory to do it.
    pub(super) fn shrink(&mut self, isa: Isa, number: usize, blocks: &mut Blocks, budget: &mut Budget) {
        let segment = &self.segments[number];
        if segment.rows >= segment.limit / 4 {
            return;
        }
        let with_room = u64::from(segment.rows) + u64::from(segment.rows / 4) + 1;
        if let Some(class) = Class::for_rows(with_room, &self.shape, Spread::of(self.seed, segment.prefix))
            && class.buckets() < segment.buckets
        {
            // A budget that has no room for the copy keeps the segment as it is.
            let _ = self.resize(isa, number, class, blocks, budget);
        }
    }

    fn resize(
        &mut self,
        isa: Isa,
        number: usize,
        class: Class,
        blocks: &mut Blocks,
        budget: &mut Budget,
    ) -> Result<(), Short> {
        let old = self.segments[number];
        let mut new = [self.take_segment(class, (old.prefix, u32::from(old.depth)), blocks, budget)?];
        self.move_keys(isa, &old, &mut new, blocks);
        self.segments[number] = new[0];
        self.reroute(number);
        self.give_segment(&old, blocks, budget);
        Ok(())
    }

    /// Splits a segment in two. True when a half might have no room for the pending keys.
    fn split(
        &mut self,
        isa: Isa,
        number: usize,
        blocks: &mut Blocks,
        budget: &mut Budget,
    ) -> Result<bool, Short> {
        let old = self.segments[number];
        let depth = u32::from(old.depth);
        if depth >= self.max_depth {
            return Err(Short::Depth);
        }
        let new_entries = if depth == self.depth { self.spots.len() } else { 0 };
        let header_bytes = header_bytes(1, new_entries);
        budget.charge(header_bytes)?;
        let mut halves = match self.take_halves(isa, &old, blocks, budget) {
            Ok(halves) => halves,
            Err(short) => {
                budget.release(header_bytes);
                return Err(short);
            }
        };
        self.charged += header_bytes;
        self.move_keys(isa, &old, &mut halves, blocks);
        self.give_segment(&old, blocks, budget);
        if depth == self.depth {
            self.spots = self.spots.iter().flat_map(|spot| [*spot, *spot]).collect();
            self.depth += 1;
        }
        self.segments[number] = halves[0];
        self.segments.push(halves[1]);
        self.pages.push(halves[1].pages);
        self.reroute(number);
        self.reroute(self.segments.len() - 1);
        Ok(halves.iter().any(|half| half.rows + old.pending > half.limit))
    }

    /// Two segments for the halves of one, each with room for what it gets and its next growth.
    fn take_halves(
        &self,
        isa: Isa,
        old: &Segment,
        blocks: &mut Blocks,
        budget: &mut Budget,
    ) -> Result<[Segment; 2], Short> {
        let rows = rebuild_datapath::count_halves(isa, &self.shape, self.seed, old, blocks.arena.words());
        // Where even its keys are more than one segment may hold (all on one side), the largest: the next round splits it.
        let class = |rows: u64, prefix| {
            let rows = rows + u64::from(old.pending);
            let class = Class::for_rows(with_room(rows), &self.shape, Spread::of(self.seed, prefix));
            class.unwrap_or(Class::largest(&self.shape))
        };
        let (depth, low, high) = (u32::from(old.depth) + 1, 2 * old.prefix, 2 * old.prefix + 1);
        let low = self.take_segment(class(rows[0], low), (low, depth), blocks, budget)?;
        match self.take_segment(class(rows[1], high), (high, depth), blocks, budget) {
            Ok(high) => Ok([low, high]),
            Err(short) => {
                self.give_segment(&low, blocks, budget);
                Err(short)
            }
        }
    }

    /// Copies the keys of `old` into `new`; slots of inline rows change with it.
    fn move_keys<const HALVES: usize>(
        &mut self,
        isa: Isa,
        old: &Segment,
        new: &mut [Segment; HALVES],
        blocks: &mut Blocks,
    ) {
        rebuild_datapath::move_keys(isa, &self.shape, self.seed, old, new, blocks.arena.words_mut());
        if self.shape.inline && old.rows > 0 {
            self.moves += 1;
        }
    }

    /// A new segment, its buckets empty.
    pub(super) fn take_segment(
        &self,
        class: Class,
        hashes: (u32, u32),
        blocks: &mut Blocks,
        budget: &mut Budget,
    ) -> Result<Segment, Short> {
        let order = class.page_order(&self.shape);
        let mut pages = [0; MAX_PAGES];
        for taken in 0..class.pages as usize {
            match blocks.take(order, budget) {
                Ok(line) => pages[taken] = line,
                Err(short) => {
                    for line in &pages[..taken] {
                        blocks.give(*line, order, budget);
                    }
                    return Err(short);
                }
            }
        }
        for line in &pages[..class.pages as usize] {
            let first = *line as usize * LINE_WORDS;
            blocks.arena.words_mut()[first..first + (LINE_WORDS << order)].fill(0);
        }
        let limit = class.limit(&self.shape, Spread::of(self.seed, hashes.0));
        Ok(Segment::new(class, pages, hashes, limit))
    }

    pub(super) fn give_segment(&self, segment: &Segment, blocks: &mut Blocks, budget: &mut Budget) {
        let class = segment.class();
        for line in &segment.pages[..class.pages as usize] {
            blocks.give(*line, class.page_order(&self.shape), budget);
        }
    }
}

/// Bytes of segment headers and directory entries.
pub(super) fn header_bytes(segments: usize, entries: usize) -> u64 {
    (segments * (size_of::<Segment>() + size_of::<[u32; MAX_PAGES]>()) + entries * size_of::<u64>()) as u64
}
