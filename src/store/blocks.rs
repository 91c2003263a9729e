//! Blocks of a table's arena: powers of two of cache lines, from 64 B to 2 MiB.
//!
//! A buddy allocator. Index pages of one table come in few sizes that change together, so freed blocks find takers or
//! merge, and no page is ever moved. The lowest free block is taken first, which keeps the tail of the arena empty; a
//! chunk of 2 MiB that is free as a whole goes back to the kernel. Every block is charged to the store's budget.

use std::collections::BTreeSet;

use gradwire_ffi::arena::{Arena, ArenaError, HUGE_PAGE_BYTES};

use super::budget::{Budget, Short};
use super::shape::LINE_WORDS;

/// The order of a whole chunk: 2^15 lines are one huge page.
pub(super) const CHUNK_ORDER: u32 = 15;
const LINE_BYTES: usize = LINE_WORDS * size_of::<u32>();
const CHUNK_LINES: u32 = 1 << CHUNK_ORDER;
const _: () = assert!(CHUNK_LINES as usize * LINE_BYTES == HUGE_PAGE_BYTES);

/// Smallest reservation worth having.
const MIN_RESERVE_WORDS: usize = 4 * HUGE_PAGE_BYTES / size_of::<u32>();

/// Bytes of a block.
pub(super) fn block_bytes(order: u32) -> u64 {
    (LINE_BYTES as u64) << order
}

/// An arena and what of it is free.
#[derive(Debug)]
pub(super) struct Blocks {
    pub(super) arena: Arena,
    /// Free blocks by order, named by their first line.
    free: [BTreeSet<u32>; CHUNK_ORDER as usize + 1],
    /// Chunks from here on were never used.
    fresh_chunk: u32,
    chunks: u32,
}

impl Blocks {
    /// Reserves address space for a table that may fill `budget_bytes`, twice that to leave room for gaps, at most
    /// `addressable_words`. A kernel that refuses is asked for half, down to 8 MiB.
    pub(super) fn reserve(budget_bytes: u64, addressable_words: usize) -> Result<Blocks, ArenaError> {
        let budget_words = usize::try_from(budget_bytes / size_of::<u32>() as u64).unwrap_or(usize::MAX);
        let wanted = budget_words.saturating_mul(2).saturating_add(MIN_RESERVE_WORDS);
        let chunk_words = CHUNK_LINES as usize * LINE_WORDS;
        let lines = u32::MAX as usize * LINE_WORDS;
        let mut words = wanted.min(addressable_words).min(lines) / chunk_words * chunk_words;
        let arena = loop {
            match Arena::reserve(words) {
                Ok(arena) => break arena,
                Err(error) if words <= MIN_RESERVE_WORDS => return Err(error),
                Err(_) => words = (words / 2).next_multiple_of(chunk_words).max(MIN_RESERVE_WORDS),
            }
        };
        let chunks = (arena.len() / chunk_words) as u32;
        Ok(Blocks { arena, free: Default::default(), fresh_chunk: 0, chunks })
    }

    /// Takes a block of `2^order` lines and gives its first line. Its words hold anything.
    pub(super) fn take(&mut self, order: u32, budget: &mut Budget) -> Result<u32, Short> {
        let bytes = block_bytes(order);
        budget.charge(bytes)?;
        let found = (order..=CHUNK_ORDER).find(|from| !self.free[*from as usize].is_empty());
        let (line, from) = match found.and_then(|from| Some((self.free[from as usize].pop_first()?, from))) {
            Some(block) => block,
            None if self.fresh_chunk < self.chunks => {
                self.fresh_chunk += 1;
                ((self.fresh_chunk - 1) * CHUNK_LINES, CHUNK_ORDER)
            }
            None => {
                budget.release(bytes);
                return Err(Short::Arena(bytes));
            }
        };
        for half in order..from {
            self.free[half as usize].insert(line + (1 << half));
        }
        Ok(line)
    }

    /// Gives a block back.
    pub(super) fn give(&mut self, line: u32, order: u32, budget: &mut Budget) {
        budget.release(block_bytes(order));
        let (mut line, mut order) = (line, order);
        while order < CHUNK_ORDER && self.free[order as usize].remove(&(line ^ (1 << order))) {
            line &= !(1 << order);
            order += 1;
        }
        let new = self.free[order as usize].insert(line);
        assert!(new, "block {line} of order {order} given back twice");
        if order == CHUNK_ORDER {
            let first = line as usize * LINE_WORDS;
            self.arena.discard(first..first + CHUNK_LINES as usize * LINE_WORDS);
        }
    }

    /// Bytes of all chunks of which something is taken: what stays resident.
    pub(super) fn resident_bytes(&self) -> u64 {
        let whole_free = self.free[CHUNK_ORDER as usize].len() as u64;
        (u64::from(self.fresh_chunk) - whole_free) * block_bytes(CHUNK_ORDER)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn blocks_never_overlap_and_all_merge_in_the_end(steps in prop::collection::vec((any::<bool>(), 0u32..=15, any::<usize>()), 1..300)) {
            let mut budget = Budget::new(64 << 20);
            let mut blocks = Blocks::reserve(64 << 20, 1 << 32).expect("address space");
            let mut taken: BTreeMap<u32, u32> = BTreeMap::new();
            for (take, order, pick) in steps {
                if take {
                    let Ok(line) = blocks.take(order, &mut budget) else { continue };
                    prop_assert_eq!(line % (1 << order), 0);
                    if let Some((before, its)) = taken.range(..=line).next_back() {
                        prop_assert!(before + (1 << its) <= line);
                    }
                    if let Some((after, _)) = taken.range(line..).next() {
                        prop_assert!(line + (1 << order) <= *after);
                    }
                    taken.insert(line, order);
                } else if !taken.is_empty() {
                    let (&line, &order) = taken.iter().nth(pick % taken.len()).expect("not empty");
                    taken.remove(&line);
                    blocks.give(line, order, &mut budget);
                }
                prop_assert_eq!(taken.values().map(|o| block_bytes(*o)).sum::<u64>(), budget.used());
            }
            for (line, order) in taken {
                blocks.give(line, order, &mut budget);
            }
            prop_assert_eq!((blocks.resident_bytes(), budget.used()), (0, 0));
        }
    }

    #[test]
    fn a_full_budget_and_a_full_arena_are_told_apart() {
        let mut blocks = Blocks::reserve(0, 1 << 32).expect("8 MiB");
        let mut small = Budget::new(block_bytes(3));
        assert_eq!(blocks.take(4, &mut small), Err(Short::Budget(block_bytes(4))));
        let mut large = Budget::new(1 << 40);
        let mut whole = 0;
        let short = loop {
            match blocks.take(CHUNK_ORDER, &mut large) {
                Ok(_) => whole += 1,
                Err(short) => break short,
            }
        };
        assert_eq!((whole, short), (4, Short::Arena(block_bytes(CHUNK_ORDER))));
    }
}
