//! One partition of a sparse table: its index and, for longer rows, its slabs.
//!
//! Two counters tell holders of resolved slots when to look again: `generation` rises when a row may have moved or gone,
//! `created` when a missing key may have got a row.

use super::blocks::Blocks;
use super::budget::{Budget, Short};
use super::index::Index;
use super::row_maker::RowMaker;
use super::shape::{MISSING, Shape};
use super::slabs::Slabs;

/// New keys whose buckets are fetched ahead of their insertion.
const PREFETCH_KEYS: usize = 32;

/// Lists that a creation needs; kept by the store so that a push does not allocate.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    hashes: Vec<u64>,
    touched: Vec<u32>,
}

/// Rows of one partition.
#[derive(Debug)]
pub(super) struct SparsePartition {
    index: Index,
    slabs: Slabs,
    created: u64,
}

impl SparsePartition {
    pub(super) fn new(
        shape: Shape,
        seed: (u64, u64),
        max_depth: u32,
        blocks: &mut Blocks,
        budget: &mut Budget,
    ) -> Result<SparsePartition, Short> {
        let index = Index::new(shape, seed, max_depth, blocks, budget)?;
        Ok(SparsePartition { index, slabs: Slabs::new(shape), created: 0 })
    }

    pub(super) fn release(&mut self, blocks: &mut Blocks, budget: &mut Budget) {
        self.index.release(blocks, budget);
        self.slabs.release(blocks, budget);
    }

    pub(super) fn len(&self) -> u64 {
        self.index.rows
    }

    pub(super) fn generation(&self) -> u64 {
        self.index.moves
    }

    pub(super) fn created(&self) -> u64 {
        self.created
    }

    /// Slots of keys, `MISSING` where there is no row; gives how many are missing.
    pub(super) fn resolve(
        &self,
        maker: &RowMaker,
        blocks: &Blocks,
        keys: &[u64],
        slots: &mut [u32],
    ) -> usize {
        self.index.resolve(maker.isa, blocks.arena.words(), keys, slots)
    }

    /// Makes the rows of all keys whose slot is `MISSING`, all or, on an error, none.
    pub(super) fn create_missing(
        &mut self,
        maker: &mut RowMaker,
        keys: &[u64],
        slots: &mut [u32],
        scratch: &mut Scratch,
        blocks: &mut Blocks,
        budget: &mut Budget,
    ) -> Result<(), Short> {
        let shape = self.index.shape;
        let missing = keys.iter().zip(slots.iter()).filter(|(_, slot)| **slot == MISSING);
        scratch.hashes.clear();
        scratch.hashes.extend(missing.map(|(key, _)| self.index.hash(*key)));
        let generation = self.index.moves;
        let room = self.index.reserve(&scratch.hashes, &mut scratch.touched, blocks, budget);
        let room = room.and_then(|()| match shape.inline {
            true => Ok(()),
            false => self.slabs.reserve(scratch.hashes.len(), blocks, budget),
        });
        if self.index.moves != generation && slots.iter().any(|slot| *slot != MISSING) {
            self.index.resolve(maker.isa, blocks.arena.words(), keys, slots);
        }
        room?;
        let memory = blocks.arena.words_mut();
        let mut hashes = scratch.hashes.iter();
        let mut batches = scratch.hashes.chunks(PREFETCH_KEYS);
        let mut left = 0;
        if let Some(first) = batches.next() {
            self.index.prefetch(memory, first);
        }
        for (key, slot) in keys.iter().zip(slots) {
            if *slot != MISSING {
                continue;
            }
            if left == 0 {
                left = PREFETCH_KEYS;
                if let Some(following) = batches.next() {
                    self.index.prefetch(memory, following);
                }
            }
            left -= 1;
            let Some(hash) = hashes.next() else { break };
            *slot = match self.index.find(memory, *key, *hash) {
                // The key came twice in one list (imports may); its row was made a moment ago.
                Ok(place) => self.index.slot_at(memory, self.index.payload_word(place)),
                Err(place) => {
                    let word = self.index.insert(memory, place, *key);
                    let slot = if shape.inline { word as u32 } else { self.slabs.take() };
                    if !shape.inline {
                        memory[word] = slot;
                    }
                    let first = slot as usize * shape.unit;
                    maker.fresh(*key, &mut memory[first..first + shape.row_words]);
                    self.created += 1;
                    slot
                }
            };
        }
        Ok(())
    }

    /// Removes rows; gives how many there were.
    pub(super) fn erase(&mut self, keys: &[u64], blocks: &mut Blocks, budget: &mut Budget) -> u64 {
        let mut erased = 0;
        for key in keys {
            let hash = self.index.hash(*key);
            let Ok(place) = self.index.find(blocks.arena.words(), *key, hash) else { continue };
            let slot = self.index.slot_at(blocks.arena.words(), self.index.payload_word(place));
            self.index.remove(blocks.arena.words_mut(), place);
            if !self.index.shape.inline {
                self.slabs.give(slot, blocks, budget);
            }
            self.index.shrink(place.segment, blocks, budget);
            erased += 1;
        }
        erased
    }

    /// Copies rows out in hash order; see [`Index::scan`].
    pub(super) fn export(
        &self,
        blocks: &Blocks,
        from: u64,
        max_rows: usize,
        keys: &mut Vec<u64>,
        rows: &mut Vec<u32>,
    ) -> Option<u64> {
        let memory = blocks.arena.words();
        let shape = self.index.shape;
        self.index.scan(memory, from, max_rows, |key, word| {
            let first = self.index.slot_at(memory, word) as usize * shape.unit;
            keys.push(key);
            rows.extend_from_slice(&memory[first..first + shape.row_words]);
        })
    }
}
