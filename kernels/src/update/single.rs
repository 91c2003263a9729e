//! One-value f32 rows without state. Where scatter is an instruction, sixteen rows go together, so that their misses
//! overlap: a loop over rows has each store wait for its line in turn. Elsewhere that loop is the fastest, since
//! gathering rows into vectors by hand costs more than the one operation they need.

use super::{Formula, Job};
use crate::rule::Dtype;
use crate::vector::{CANONICAL_NAN, LANES, Vector, Work};

/// Whether [`Single`] can do this job: its offsets are words.
pub(super) fn fits(dtype: Dtype, job: Job<'_>) -> bool {
    dtype == Dtype::F32 && job.row_words == 1 && job.unit == 1
}

/// Replaces the word of each row by `one(value, gradient)`; `many` is the same for vectors.
pub(super) struct Single<'a, M, O> {
    pub(super) job: Job<'a>,
    pub(super) many: M,
    pub(super) one: O,
}

impl<M: Formula, O: Fn(f32, f32) -> f32> Work for Single<'_, M, O> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Single { job, many, one } = self;
        assert!(job.row_words == 1 && job.unit == 1);
        if !V::SCATTERS {
            // SAFETY: all offsets are of the job.
            return unsafe { each(job, job.offsets, 0, one) };
        }
        let (blocks, tail) = job.offsets.as_chunks::<LANES>();
        for (block, offsets) in blocks.iter().enumerate() {
            // SAFETY: `Job` proves rows and gradients; instructions by contract; a scatter's rows do not repeat.
            unsafe {
                if V::repeats(offsets) {
                    each(job, offsets, block * LANES, &one);
                    continue;
                }
                let g = V::load(job.gradients.add(block * LANES));
                let w = V::gather(job.memory, offsets);
                many.step([0.0; 2], [w, g, g], g)[0].canonical().scatter(job.memory, offsets);
            }
        }
        // SAFETY: the tail is the job's too.
        unsafe { each(job, tail, blocks.len() * LANES, one) }
    }
}

/// The rows of `offsets`, which are the job's from `first` on, one after another.
///
/// # Safety
/// They are.
#[inline(always)]
unsafe fn each(job: Job<'_>, offsets: &[u32], first: usize, one: impl Fn(f32, f32) -> f32) {
    for (i, &offset) in offsets.iter().enumerate() {
        // SAFETY: `Job` proves that row and gradient exist; the row has one word, and offsets are words.
        unsafe {
            let word = job.memory.add(offset as usize);
            let value = one(f32::from_bits(*word), *job.gradients.add(first + i));
            *word = if value.is_nan() { CANONICAL_NAN.to_bits() } else { value.to_bits() };
        }
    }
}
