//! One partition of a sparse table: its index and, for longer rows, its slabs.
//!
//! Two counters tell holders of resolved slots when to look again: `generation` rises when a row may have moved or gone,
//! `created` when a missing key may have got a row.

use gradwire_kernels as kernels;

use super::blocks::Blocks;
use super::budget::{Budget, Short};
use super::grow::Moved;
use super::index::Index;
use super::resolve_datapath::Absent;
use super::row_maker::RowMaker;
use super::shape::Shape;
use super::slabs::Slabs;

/// Moved segments beyond which all keys are looked up again, and not only those whose row may have moved.
const FEW_MOVED: usize = 4;

/// Lists that requests need; kept by the store so that they do not allocate.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// The keys that the last lookup missed.
    absent: Vec<Absent>,
    /// Some keys of a list, with their hashes, slots and numbers.
    keys: Vec<u64>,
    hashes: Vec<u64>,
    slots: Vec<u32>,
    numbers: Vec<u32>,
    again: Vec<Absent>,
    touched: Vec<u32>,
    moved: Vec<Moved>,
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

    pub(super) fn seed(&self) -> (u64, u64) {
        self.index.seed()
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

    /// Slots of keys, `MISSING` where there is no row; gives how many are missing, and lists them in `scratch`.
    pub(super) fn resolve(
        &self,
        maker: &RowMaker,
        blocks: &Blocks,
        keys: &[u64],
        slots: &mut [u32],
        scratch: &mut Scratch,
    ) -> usize {
        scratch.absent.resize(keys.len(), Absent::default());
        let missing = self.index.resolve(maker.isa, blocks.arena.words(), keys, slots, &mut scratch.absent);
        scratch.absent.truncate(missing);
        missing
    }

    /// Makes the rows of all keys that the lookup just before missed, all or, on an error, none.
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
        scratch.keys.clear();
        scratch.keys.extend(scratch.absent.iter().map(|absent| keys[absent.key as usize]));
        scratch.hashes.resize(scratch.keys.len(), 0);
        kernels::hash_keys(maker.isa, self.index.seed, &scratch.keys, &mut scratch.hashes);
        scratch.moved.clear();
        let Scratch { touched, moved, hashes, .. } = scratch;
        let room = self.index.reserve(maker.isa, hashes, touched, moved, blocks, budget);
        let room = room.and_then(|()| match shape.inline {
            true => Ok(()),
            false => self.slabs.reserve(scratch.hashes.len(), blocks, budget),
        });
        if !scratch.moved.is_empty() {
            let homes = scratch.absent.iter_mut().zip(&scratch.hashes);
            for (absent, hash) in
                homes.filter(|(_, hash)| scratch.moved.iter().any(|moved| moved.has(**hash)))
            {
                absent.line = self.index.walk().line(*hash, shape.lines_shift);
            }
            if shape.inline && scratch.absent.len() < keys.len() {
                self.resolve_moved(maker, blocks, keys, slots, scratch);
            }
        }
        room?;
        let memory = blocks.arena.words_mut();
        let take = || self.slabs.take();
        self.created += self.index.insert_all(maker.isa, memory, keys, &scratch.absent, slots, take);
        self.index.assert_room(&scratch.touched);
        if !shape.inline || maker.fills_rows() {
            for absent in &scratch.absent {
                let first = slots[absent.key as usize] as usize * shape.unit;
                maker.fresh(keys[absent.key as usize], &mut memory[first..first + shape.row_words]);
            }
        }
        Ok(())
    }

    /// Looks up again what may have moved.
    fn resolve_moved(
        &self,
        maker: &RowMaker,
        blocks: &Blocks,
        keys: &[u64],
        slots: &mut [u32],
        scratch: &mut Scratch,
    ) {
        let Scratch { keys: some, slots: found, numbers, again, moved, .. } = scratch;
        numbers.clear();
        some.clear();
        for (number, key) in (0..).zip(keys) {
            let hash = self.index.hash(*key);
            if moved.len() > FEW_MOVED || moved.iter().any(|moved| moved.has(hash)) {
                numbers.push(number);
                some.push(*key);
            }
        }
        found.resize(some.len(), 0);
        again.resize(some.len(), Absent::default());
        self.index.resolve(maker.isa, blocks.arena.words(), some, found, again);
        for (number, slot) in numbers.iter().zip(found) {
            slots[*number as usize] = *slot;
        }
    }

    /// Removes rows; gives how many there were.
    pub(super) fn erase(
        &mut self,
        maker: &RowMaker,
        keys: &[u64],
        blocks: &mut Blocks,
        budget: &mut Budget,
    ) -> u64 {
        let mut erased = 0;
        for key in keys {
            let hash = self.index.hash(*key);
            let Ok(place) = self.index.find(blocks.arena.words(), *key, hash) else { continue };
            let slot = self.index.slot_at(blocks.arena.words(), self.index.payload_word(place));
            self.index.remove(blocks.arena.words_mut(), place);
            if !self.index.shape.inline {
                self.slabs.give(slot, blocks, budget);
            }
            self.index.shrink(maker.isa, place.segment, blocks, budget);
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
