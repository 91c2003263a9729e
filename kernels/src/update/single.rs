//! One-value f32 rows without state: a plain loop. The processor overlaps its misses by itself, and gathering rows
//! into vectors costs more than the one operation they need.

use super::Job;
use crate::isa::Isa;
use crate::rule::Dtype;
use crate::vector::{CANONICAL_NAN, Vector, Work, run};

/// Whether [`apply`] can do this job.
pub(super) fn fits(dtype: Dtype, job: Job<'_>) -> bool {
    dtype == Dtype::F32 && job.row_words == 1
}

struct Single<'a, F> {
    job: Job<'a>,
    f: F,
}

impl<F: Fn(f32, f32) -> f32> Work for Single<'_, F> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { job, f } = self;
        for (i, &offset) in job.offsets.iter().enumerate() {
            // SAFETY: `Job` proves that row and gradient i exist; the row has one word.
            unsafe {
                let word = job.memory.add(offset as usize * job.unit);
                let value = f(f32::from_bits(*word), *job.gradients.add(i));
                *word = if value.is_nan() { CANONICAL_NAN.to_bits() } else { value.to_bits() };
            }
        }
    }
}

/// Replaces the word of each row by `f(value, gradient)`.
pub(super) fn apply(isa: Isa, job: Job<'_>, f: impl Fn(f32, f32) -> f32) {
    assert!(job.row_words == 1);
    // SAFETY: `job` was checked by `update_rows`, see the facade.
    unsafe { run(isa, Single { job, f }) }
}
