//! One partition of a dense table: a block of rows, contiguous, all of them there from the start.
//!
//! Rows whose initial values are not zero are filled a page at a time when the page is first named, so that creating a
//! table of any size takes no time on the shard's thread.

use std::ops::Range;

use gradwire_ffi::arena::{Arena, ArenaError};

use super::row_maker::RowMaker;
use super::shape::Shape;

/// Most rows of a page.
const MAX_PAGE_ROWS: usize = 4096;
/// Most words of a page of more than one row: filling it takes some 100 us.
const MAX_PAGE_WORDS: usize = 1 << 15;

/// Rows of one partition.
#[derive(Debug)]
pub(super) struct DensePartition {
    pub(super) arena: Arena,
    pub(super) rows: Range<u64>,
    pub(super) stride: usize,
    row_words: usize,
    page_shift: u32,
    /// A bit for each page that holds initial values or later ones; empty when zero is the initial value.
    filled: Vec<u64>,
}

impl DensePartition {
    /// Bytes that such a partition is charged.
    pub(super) fn bytes(shape: &Shape, rows: &Range<u64>) -> u64 {
        (rows.end - rows.start).saturating_mul(shape.stride as u64 * size_of::<u32>() as u64)
    }

    pub(super) fn new(
        shape: &Shape,
        rows: Range<u64>,
        maker: &RowMaker,
    ) -> Result<DensePartition, ArenaError> {
        let count = (rows.end - rows.start) as usize;
        let arena = Arena::reserve(count.saturating_mul(shape.stride))?;
        let page_rows = (MAX_PAGE_WORDS / shape.stride).clamp(1, MAX_PAGE_ROWS);
        let page_shift = page_rows.ilog2();
        let pages = if maker.fills_rows() { count.div_ceil(1 << page_shift) } else { 0 };
        let filled = vec![0; pages.div_ceil(64)];
        Ok(DensePartition {
            arena,
            rows,
            stride: shape.stride,
            row_words: shape.row_words,
            page_shift,
            filled,
        })
    }

    /// Slots of rows, which then hold their values. Errors give the first row that is not of this partition.
    pub(super) fn resolve(
        &mut self,
        maker: &mut RowMaker,
        rows: &[u64],
        slots: &mut [u32],
    ) -> Result<(), u64> {
        for (row, slot) in rows.iter().zip(slots.iter_mut()) {
            if !self.rows.contains(row) {
                return Err(*row);
            }
            *slot = (row - self.rows.start) as u32;
        }
        if !self.filled.is_empty() {
            for slot in slots {
                self.fill_page(maker, *slot as usize >> self.page_shift);
            }
        }
        Ok(())
    }

    fn fill_page(&mut self, maker: &mut RowMaker, page: usize) {
        let bit = 1 << (page % 64);
        if self.filled[page / 64] & bit != 0 {
            return;
        }
        self.filled[page / 64] |= bit;
        let count = (self.rows.end - self.rows.start) as usize;
        let first = page << self.page_shift;
        let words = self.arena.words_mut();
        for row in first..(first + (1 << self.page_shift)).min(count) {
            let key = self.rows.start + row as u64;
            maker.fresh(key, &mut words[row * self.stride..][..self.row_words]);
        }
    }

    /// Copies rows out, in order, from the `from`th of the partition on; gives where to go on.
    pub(super) fn export(
        &mut self,
        maker: &mut RowMaker,
        from: u64,
        max_rows: usize,
        keys: &mut Vec<u64>,
        rows: &mut Vec<u32>,
    ) -> Option<u64> {
        let count = self.rows.end - self.rows.start;
        let end = from.saturating_add(max_rows.max(1) as u64).min(count);
        for row in from..end {
            if !self.filled.is_empty() {
                self.fill_page(maker, row as usize >> self.page_shift);
            }
            keys.push(self.rows.start + row);
            rows.extend_from_slice(&self.arena.words()[row as usize * self.stride..][..self.row_words]);
        }
        (end < count).then_some(end)
    }
}
