//! Rows too long for the index: slabs of one partition.
//!
//! A slab is a block of rows at a fixed stride. A row keeps its slot for life, so growth of the index never moves it. A
//! slab without rows goes back to the arena. New slabs grow with the partition, an eighth of it at a time, up to
//! 256 KiB, so small tables stay small and large ones waste little.

use std::collections::{BTreeMap, BTreeSet};

use super::blocks::{Blocks, CHUNK_ORDER, block_bytes};
use super::budget::{Budget, Short};
use super::shape::{LINE_WORDS, Shape};

/// Order of the smallest slab, 1 KiB, where that holds four rows.
const MIN_ORDER: u32 = 4;
/// Order of the largest slab, 256 KiB, where that holds four rows.
const MAX_ORDER: u32 = 12;

#[derive(Debug)]
struct Slab {
    order: u32,
    rows: u32,
    live: u32,
    /// Words of `free` before this one are 0.
    first: usize,
    /// A bit for each free row.
    free: Vec<u64>,
}

/// The slabs of one partition.
#[derive(Debug)]
pub(super) struct Slabs {
    shape: Shape,
    /// By first line.
    slabs: BTreeMap<u32, Slab>,
    /// Those with a free row.
    open: BTreeSet<u32>,
    free_rows: usize,
    bytes: u64,
}

impl Slabs {
    pub(super) fn new(shape: Shape) -> Slabs {
        Slabs { shape, slabs: BTreeMap::new(), open: BTreeSet::new(), free_rows: 0, bytes: 0 }
    }

    /// Makes room for so many new rows; taking them then can't fail. Errors leave what was made for the next try.
    pub(super) fn reserve(
        &mut self,
        rows: usize,
        blocks: &mut Blocks,
        budget: &mut Budget,
    ) -> Result<(), Short> {
        while self.free_rows < rows {
            let order = self.next_order(rows - self.free_rows);
            let line = blocks.take(order, budget)?;
            let count = ((LINE_WORDS << order) / self.shape.stride) as u32;
            let mut free = vec![u64::MAX; count.div_ceil(64) as usize];
            if !count.is_multiple_of(64)
                && let Some(last) = free.last_mut()
            {
                *last = (1 << (count % 64)) - 1;
            }
            self.slabs.insert(line, Slab { order, rows: count, live: 0, first: 0, free });
            self.open.insert(line);
            self.free_rows += count as usize;
            self.bytes += block_bytes(order);
        }
        Ok(())
    }

    /// Order of the next slab: at least four rows, near an eighth of what the partition will be.
    fn next_order(&self, rows: usize) -> u32 {
        let order_of = |words: usize| words.div_ceil(LINE_WORDS).next_power_of_two().trailing_zeros();
        let least = order_of(4 * self.shape.stride).clamp(MIN_ORDER, CHUNK_ORDER);
        let wanted = (self.bytes as usize / size_of::<u32>() + rows * self.shape.stride) / 8;
        order_of(wanted.max(1)).clamp(least, MAX_ORDER.max(least))
    }

    /// A free row. Its words hold anything.
    pub(super) fn take(&mut self) -> u32 {
        let line = self.open.first().copied();
        let slab = line.and_then(|line| self.slabs.get_mut(&line).map(|slab| (line, slab)));
        assert!(slab.is_some(), "rows were reserved before they are taken");
        let mut slot = 0;
        if let Some((line, slab)) = slab {
            let ahead = slab.free[slab.first..].iter().position(|bits| *bits != 0);
            assert!(ahead.is_some(), "an open slab has a free row");
            slab.first += ahead.unwrap_or(0);
            let word = slab.first;
            let row = word * 64 + slab.free[word].trailing_zeros() as usize;
            slab.free[word] &= slab.free[word] - 1;
            slab.live += 1;
            if slab.live == slab.rows {
                self.open.remove(&line);
            }
            slot = (line as usize * LINE_WORDS + row * self.shape.stride) / self.shape.unit;
        }
        self.free_rows -= 1;
        slot as u32
    }

    /// Gives a row back, and its slab when that was the last one in it.
    pub(super) fn give(&mut self, slot: u32, blocks: &mut Blocks, budget: &mut Budget) {
        let word = slot as usize * self.shape.unit;
        let found = self.slabs.range_mut(..=(word / LINE_WORDS) as u32).next_back();
        assert!(found.is_some(), "slot {slot} lies in a slab");
        let Some((line, slab)) = found else { return };
        let line = *line;
        let row = (word - line as usize * LINE_WORDS) / self.shape.stride;
        let bit = 1 << (row % 64);
        assert!(row < slab.rows as usize && slab.free[row / 64] & bit == 0, "slot {slot} is taken");
        slab.free[row / 64] |= bit;
        slab.first = slab.first.min(row / 64);
        slab.live -= 1;
        self.free_rows += 1;
        self.open.insert(line);
        if slab.live == 0 {
            let (order, rows) = (slab.order, slab.rows);
            self.slabs.remove(&line);
            self.open.remove(&line);
            self.free_rows -= rows as usize;
            self.bytes -= block_bytes(order);
            blocks.give(line, order, budget);
        }
    }

    /// Gives every slab back.
    pub(super) fn release(&mut self, blocks: &mut Blocks, budget: &mut Budget) {
        for (line, slab) in std::mem::take(&mut self.slabs) {
            blocks.give(line, slab.order, budget);
        }
        self.open.clear();
        self.free_rows = 0;
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn rows_never_overlap_and_all_memory_comes_back(
            row_words in prop::sample::select(vec![5_usize, 16, 17, 64, 130, 70_000]),
            steps in prop::collection::vec((0_usize..40, any::<usize>()), 1..40),
        ) {
            let shape = Shape::of(row_words);
            let mut budget = Budget::new(256 << 20);
            let mut blocks = Blocks::reserve(256 << 20, shape.addressable_words()).expect("address space");
            let mut slabs = Slabs::new(shape);
            let mut taken = BTreeSet::new();
            for (rows, give) in steps {
                if slabs.reserve(rows, &mut blocks, &mut budget).is_ok() {
                    for _ in 0..rows {
                        let slot = slabs.take();
                        let first = slot as usize * shape.unit;
                        if let Some(before) = taken.range(..=slot).next_back() {
                            prop_assert!(*before as usize * shape.unit + row_words <= first);
                        }
                        if let Some(after) = taken.range(slot..).next() {
                            prop_assert!(first + row_words <= *after as usize * shape.unit);
                        }
                        taken.insert(slot);
                    }
                }
                for _ in 0..(give % 40).min(taken.len()) {
                    let slot = *taken.iter().nth(give % taken.len()).expect("not empty");
                    taken.remove(&slot);
                    slabs.give(slot, &mut blocks, &mut budget);
                }
            }
            for slot in taken {
                slabs.give(slot, &mut blocks, &mut budget);
            }
            slabs.release(&mut blocks, &mut budget);
            prop_assert_eq!(budget.used(), 0);
        }
    }
}
