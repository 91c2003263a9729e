//! Growth of the index: before a push inserts anything, every segment it touches is made large enough.
//!
//! Growth changes no row, so a push that runs out of memory half way through it has changed nothing: all that follows
//! can't fail. A segment is rebuilt alone, one size up; one that is at the largest size is split by the next bit of the
//! hash into two of five pages. Both read and write in hash order and cost less than 1 ms.
//!
//! Absent on purpose: merging two segments. Erasing keys shrinks their segment, down to four lines.

use super::blocks::Blocks;
use super::budget::{Budget, Short};
use super::index::{Index, set_stored_key, stored_key};
use super::segment::{Class, MAX_PAGES, Segment, Spread};
use super::shape::{LINE_WORDS, MAX_BUCKET_WORDS};

impl Index {
    /// Makes room for new keys with these hashes. After `Ok`, inserting each of them can't fail.
    ///
    /// Errors leave every key where a lookup finds it; segments that grew stay grown.
    pub(super) fn reserve(
        &mut self,
        hashes: &[u64],
        touched: &mut Vec<u32>,
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
                let segment = self.segments[number];
                let needed = u64::from(segment.rows) + u64::from(segment.pending);
                if outcome.is_ok() && needed > u64::from(segment.limit) {
                    let grown =
                        match Class::for_rows(needed, &self.shape, Spread::of(self.seed, segment.prefix)) {
                            Some(class) => self.resize(number, class, blocks, budget).map(|()| false),
                            None => self.split(number, blocks, budget).map(|()| true),
                        };
                    outcome = outcome.and_then(|again| grown.map(|split| again | split));
                }
                self.segments[number].pending = 0;
            }
            // A split may have sent most of the new keys to one side: count again.
            if !outcome? {
                return Ok(());
            }
        }
    }

    /// Gives memory back after keys left a segment, if it is worth a rebuild and there is memory to do it.
    pub(super) fn shrink(&mut self, number: usize, blocks: &mut Blocks, budget: &mut Budget) {
        let segment = &self.segments[number];
        if segment.rows >= segment.limit / 4 {
            return;
        }
        let with_room = u64::from(segment.rows) + u64::from(segment.rows / 4) + 1;
        if let Some(class) = Class::for_rows(with_room, &self.shape, Spread::of(self.seed, segment.prefix))
            && class.buckets() < segment.buckets
        {
            // A budget that has no room for the copy keeps the segment as it is.
            let _ = self.resize(number, class, blocks, budget);
        }
    }

    fn resize(
        &mut self,
        number: usize,
        class: Class,
        blocks: &mut Blocks,
        budget: &mut Budget,
    ) -> Result<(), Short> {
        let old = self.segments[number];
        let mut new = [self.take_segment(class, (old.prefix, u32::from(old.depth)), blocks, budget)?];
        self.move_keys(&old, &mut new, blocks);
        self.segments[number] = new[0];
        self.reroute(number);
        self.give_segment(&old, blocks, budget);
        Ok(())
    }

    fn split(&mut self, number: usize, blocks: &mut Blocks, budget: &mut Budget) -> Result<(), Short> {
        let old = self.segments[number];
        let depth = u32::from(old.depth);
        if depth >= self.max_depth {
            return Err(Short::Depth);
        }
        let new_entries = if depth == self.depth { self.spots.len() } else { 0 };
        let header_bytes = header_bytes(1, new_entries);
        budget.charge(header_bytes)?;
        let mut halves = match self.take_halves(&old, blocks, budget) {
            Ok(halves) => halves,
            Err(short) => {
                budget.release(header_bytes);
                return Err(short);
            }
        };
        self.charged += header_bytes;
        self.move_keys(&old, &mut halves, blocks);
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
        Ok(())
    }

    /// Two segments for the halves of one, each with room for what it gets and its next growth.
    fn take_halves(
        &self,
        old: &Segment,
        blocks: &mut Blocks,
        budget: &mut Budget,
    ) -> Result<[Segment; 2], Short> {
        let mut rows = [0_u64; 2];
        self.for_each(old, blocks.arena.words(), |_, _, hash| rows[side(hash, old)] += 1);
        // A tenth above what is there, or the halves would grow again at once. Where even that is more than one segment
        // may hold (all keys on one side, a low limit), the largest: the next round splits it.
        let class = |rows: u64, prefix| {
            let class = Class::for_rows(rows + rows / 10, &self.shape, Spread::of(self.seed, prefix));
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

    /// Visits the occupied lanes of a segment in bucket order: first word of the bucket, lane, hash.
    fn for_each(&self, segment: &Segment, memory: &[u32], mut visit: impl FnMut(usize, usize, u64)) {
        for bucket in 0..segment.buckets {
            let word = segment.word(bucket, &self.shape);
            let keys = &memory[word..word + 2 * self.shape.lanes];
            for lane in 0..self.shape.lanes {
                let stored = stored_key(keys, lane);
                if stored != 0 {
                    visit(word, lane, self.hash(!stored));
                }
            }
        }
    }

    /// Copies every key and payload of `old` into `new`: one segment, or two by the bit below the shared ones.
    fn move_keys(&mut self, old: &Segment, new: &mut [Segment], blocks: &mut Blocks) {
        let shape = self.shape;
        let bucket_words = shape.bucket_words();
        let memory = blocks.arena.words_mut();
        let mut copy = [0; MAX_BUCKET_WORDS];
        for bucket in 0..old.buckets {
            let word = old.word(bucket, &shape);
            copy[..bucket_words].copy_from_slice(&memory[word..word + bucket_words]);
            for lane in 0..shape.lanes {
                let stored = stored_key(&copy, lane);
                if stored == 0 {
                    continue;
                }
                let hash = self.hash(!stored);
                let which = if new.len() == 1 { 0 } else { side(hash, old) };
                let to = &mut new[which];
                let from = shape.payload_at(lane);
                let payload = &copy[from..from + shape.payload_words];
                let mut home = to.home(hash);
                loop {
                    let word = to.word(home, &shape);
                    let target = &mut memory[word..word + bucket_words];
                    if let Some(free) = (0..shape.lanes).find(|lane| stored_key(target, *lane) == 0) {
                        set_stored_key(target, free, stored);
                        let at = shape.payload_at(free);
                        target[at..at + shape.payload_words].copy_from_slice(payload);
                        break;
                    }
                    home = to.next(home);
                }
                to.rows += 1;
            }
        }
        let moved: u32 = new.iter().map(|segment| segment.rows).sum();
        assert_eq!(moved, old.rows, "a rebuild loses no key");
        if shape.inline && moved > 0 {
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

/// Which half of a split segment a hash belongs to: the bit below those that the segment's keys share.
fn side(hash: u64, old: &Segment) -> usize {
    ((hash >> (63 - u32::from(old.depth))) & 1) as usize
}
