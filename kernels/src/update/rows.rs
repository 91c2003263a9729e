//! The loop for rows of any length: one row after another, sixteen values at a time, a masked tail.
//!
//! Tables exceed caches, so the rows ahead are prefetched: 16 of them (FBGEMM's figure), fewer when
//! rows are long, since the core tracks only a few dozen lines in flight.

use super::storage::Storage;
use super::{Formula, Job};
use crate::prefetch::prefetch_row;
use crate::vector::{LANES, Vector, Work};

/// Rows ahead that are prefetched, and lines in all rows ahead together.
const ROWS_AHEAD: usize = 16;
const LINES_AHEAD: usize = 64;

pub(super) struct Rows<'a, F, S> {
    pub(super) job: Job<'a>,
    pub(super) formula: F,
    pub(super) storage: S,
}

impl<F: Formula, S: Storage> Work for Rows<'_, F, S> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Job { memory, unit, offsets, gradients, dim, second_plane, row_words } = self.job;
        let _ = self.storage;
        let lines = row_words.div_ceil(16);
        let ahead = (LINES_AHEAD / lines).clamp(2, ROWS_AHEAD);
        for (i, &offset) in offsets.iter().enumerate() {
            if let Some(&next) = offsets.get(i + ahead) {
                prefetch_row(memory.wrapping_add(next as usize * unit), row_words);
            }
            // SAFETY: `Job` proves that row i has `row_words` words and gradient i `dim` floats; planes and scalars
            // lie within a row by its layout; every block and tail below stays under `dim`.
            unsafe {
                let row = memory.add(offset as usize * unit);
                let gradient = gradients.add(i * dim);
                let second = row.add(second_plane);
                let third = second.wrapping_add(dim);
                let factors = self.formula.enter::<V>(second.add((F::PLANES - 1) * dim), gradient, dim);
                let mut at = 0;
                while at + LANES <= dim {
                    let g = V::load(gradient.add(at));
                    let mut planes = [S::load::<V>(row, at), g, g];
                    if F::PLANES > 1 {
                        planes[1] = V::load(second.add(at).cast());
                    }
                    if F::PLANES > 2 {
                        planes[2] = V::load(third.add(at).cast());
                    }
                    let planes = self.formula.step(factors, planes, g);
                    S::store(row, at, planes[0].canonical());
                    if F::PLANES > 1 {
                        planes[1].canonical().store(second.add(at).cast());
                    }
                    if F::PLANES > 2 {
                        planes[2].canonical().store(third.add(at).cast());
                    }
                    at += LANES;
                }
                let rest = dim - at;
                if rest > 0 {
                    let g = V::load_part(gradient.add(at), rest);
                    let mut planes = [S::load_part::<V>(row, at, rest), g, g];
                    if F::PLANES > 1 {
                        planes[1] = V::load_part(second.add(at).cast(), rest);
                    }
                    if F::PLANES > 2 {
                        planes[2] = V::load_part(third.add(at).cast(), rest);
                    }
                    let planes = self.formula.step(factors, planes, g);
                    S::store_part(row, at, rest, planes[0].canonical());
                    if F::PLANES > 1 {
                        planes[1].canonical().store_part(second.add(at).cast(), rest);
                    }
                    if F::PLANES > 2 {
                        planes[2].canonical().store_part(third.add(at).cast(), rest);
                    }
                }
            }
        }
    }
}
