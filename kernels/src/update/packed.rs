//! The loop for rows of 1, 2, 4 or 8 values: several rows share a vector.
//!
//! The planes of up to 64 values (64 rows of one, 8 rows of eight) are copied to arrays on the stack, the formula
//! runs over these, and they are copied back. Copies of 64 values before the first vector load leave the store
//! buffer time to drain, so loads do not wait for narrower stores. Gather and scatter instructions were refused:
//! no faster than scalar copies for a pair of words, and a scatter loses one of two updates of a repeated row.
//!
//! Rows repeated within a group must see each other. They are found exactly, without comparing pairs: after the
//! group is copied, each row's first word is overwritten with its number in the group; a row that no longer holds
//! its own number was named twice. Then the words are put back and the group is applied row by row.

use super::{Formula, Job};
use crate::codec::half::{bf16_to_f32_bits, f32_to_bf16_bits};
use crate::prefetch::prefetch_row;
use crate::rule::Dtype;
use crate::vector::{LANES, Vector, Work};

/// Values of a group.
pub(crate) const GROUP: usize = 64;

/// Rows this short are packed.
pub(crate) fn is_short(dim: usize) -> bool {
    matches!(dim, 1 | 2 | 4 | 8)
}

/// Values of a group of rows, row after row.
pub(crate) type Plane = [f32; GROUP];

pub(super) struct Packed<'a, F> {
    pub(super) job: Job<'a>,
    pub(super) formula: F,
    pub(super) dtype: Dtype,
}

/// Rows up to this many words live in the index bucket that was just probed; prefetching them is wasted.
const INLINE_WORDS: usize = 4;

impl<F: Formula> Work for Packed<'_, F> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        assert!(F::PLANES <= 2 && !F::SCALARS, "rows with scalars are not packed");
        let job = self.job;
        let rows = GROUP / job.dim;
        let mut planes = [[0.0; GROUP]; 2];
        let mut done = 0;
        for group in job.offsets.chunks(rows) {
            if job.row_words > INLINE_WORDS {
                for &next in job.offsets.iter().skip(done + rows).take(rows) {
                    prefetch_row(job.memory.wrapping_add(next as usize * job.unit), job.row_words);
                }
            }
            // SAFETY: `Job` proves rows and gradients; `group.len() * dim <= 64` by the choice of `rows`.
            unsafe {
                let gradient = job.gradients.add(done * job.dim);
                copy_in(job, group, self.dtype, F::PLANES, &mut planes);
                if mark_repeats(job, group) {
                    unmark(job, group, self.dtype, &planes);
                    for (i, row) in group.chunks(1).enumerate() {
                        copy_in(job, row, self.dtype, F::PLANES, &mut planes);
                        self.step::<V>(job.dim, gradient.add(i * job.dim), &mut planes);
                        copy_out(job, row, self.dtype, F::PLANES, &planes);
                    }
                } else {
                    self.step::<V>(group.len() * job.dim, gradient, &mut planes);
                    copy_out(job, group, self.dtype, F::PLANES, &planes);
                }
            }
            done += group.len();
        }
    }
}

impl<F: Formula> Packed<'_, F> {
    /// Runs the formula over the first `values` lanes of the planes.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; `values <= 64` floats are at `gradient`.
    #[inline(always)]
    unsafe fn step<V: Vector>(&self, values: usize, gradient: *const f32, planes: &mut [Plane; 2]) {
        let [first, second] = planes;
        let mut at = 0;
        while at < values {
            // SAFETY: `at < values <= 64` and `at` is a multiple of 16, so planes have 16 floats from `at` on and
            // the gradient `values - at`.
            unsafe {
                let g = match values - at {
                    LANES.. => V::load(gradient.add(at)),
                    rest => V::load_part(gradient.add(at), rest),
                };
                let (a, b) = (first.as_mut_ptr().add(at), second.as_mut_ptr().add(at));
                let new = self.formula.step([0.0; 2], [V::load(a), V::load(b), g], g);
                new[0].canonical().store(a);
                if F::PLANES > 1 {
                    new[1].canonical().store(b);
                }
            }
            at += LANES;
        }
    }
}

/// Writes each row's number within its group into its first word and tells whether one was overwritten. The numbers
/// fit the low half of a word, so the unused half of a bf16 row of one stays 0.
///
/// # Safety
/// The rows of `group` are rows of the job.
#[inline(always)]
unsafe fn mark_repeats(job: Job<'_>, group: &[u32]) -> bool {
    let mut repeats = false;
    // SAFETY: rows of the job have at least one word.
    unsafe {
        for (i, &offset) in group.iter().enumerate() {
            *job.memory.add(offset as usize * job.unit) = i as u32;
        }
        for (i, &offset) in group.iter().enumerate() {
            repeats |= *job.memory.add(offset as usize * job.unit) != i as u32;
        }
    }
    repeats
}

/// Puts back the values that [`mark_repeats`] overwrote; `planes` holds the group as it was copied.
///
/// # Safety
/// As [`copy_out`].
#[cold]
unsafe fn unmark(job: Job<'_>, group: &[u32], dtype: Dtype, planes: &[Plane; 2]) {
    // SAFETY: the caller's contract is that of the callee.
    unsafe { copy_out(job, group, dtype, 1, planes) }
}

/// Copies the rows of `group` to `planes`, bf16 values widened.
///
/// # Safety
/// The rows of `group` are rows of the job with at least `count` planes, and `group.len() * dim <= 64`.
unsafe fn copy_in(job: Job<'_>, group: &[u32], dtype: Dtype, count: usize, planes: &mut [Plane; 2]) {
    // SAFETY: the caller's contract is that of the callees.
    unsafe {
        match job.dim {
            1 => copy_in_rows::<1>(job, group, dtype, count, planes),
            2 => copy_in_rows::<2>(job, group, dtype, count, planes),
            4 => copy_in_rows::<4>(job, group, dtype, count, planes),
            _ => copy_in_rows::<8>(job, group, dtype, count, planes),
        }
    }
}

/// # Safety
/// As [`copy_in`], with `D` equal to the job's `dim`.
#[inline(always)]
unsafe fn copy_in_rows<const D: usize>(
    job: Job<'_>,
    group: &[u32],
    dtype: Dtype,
    count: usize,
    planes: &mut [Plane; 2],
) {
    assert!(job.dim == D && group.len() * D <= GROUP);
    let [first, second] = planes;
    for (i, &offset) in group.iter().enumerate() {
        // SAFETY: row i has its value words and, if `count` is 2, `D` words after them; `i * D + D <= 64`.
        unsafe {
            let row = job.memory.add(offset as usize * job.unit);
            let to = first.as_mut_ptr().add(i * D).cast::<[f32; D]>();
            *to = match dtype {
                Dtype::F32 => *row.cast::<[f32; D]>(),
                Dtype::Bf16 => {
                    let halves = row.cast::<[u16; D]>().read_unaligned();
                    halves.map(|half| f32::from_bits(bf16_to_f32_bits(half)))
                }
            };
            if count > 1 {
                let state = row.add(job.second_plane).cast::<[f32; D]>();
                *second.as_mut_ptr().add(i * D).cast::<[f32; D]>() = *state;
            }
        }
    }
}

/// The reverse of [`copy_in`].
///
/// # Safety
/// As [`copy_in`].
unsafe fn copy_out(job: Job<'_>, group: &[u32], dtype: Dtype, count: usize, planes: &[Plane; 2]) {
    // SAFETY: the caller's contract is that of the callees.
    unsafe {
        match job.dim {
            1 => copy_out_rows::<1>(job, group, dtype, count, planes),
            2 => copy_out_rows::<2>(job, group, dtype, count, planes),
            4 => copy_out_rows::<4>(job, group, dtype, count, planes),
            _ => copy_out_rows::<8>(job, group, dtype, count, planes),
        }
    }
}

/// # Safety
/// As [`copy_in_rows`].
#[inline(always)]
unsafe fn copy_out_rows<const D: usize>(
    job: Job<'_>,
    group: &[u32],
    dtype: Dtype,
    count: usize,
    planes: &[Plane; 2],
) {
    assert!(job.dim == D && group.len() * D <= GROUP);
    let [first, second] = planes;
    for (i, &offset) in group.iter().enumerate() {
        // SAFETY: as in `copy_in_rows`.
        unsafe {
            let row = job.memory.add(offset as usize * job.unit);
            let from = *first.as_ptr().add(i * D).cast::<[f32; D]>();
            match dtype {
                Dtype::F32 => *row.cast::<[f32; D]>() = from,
                Dtype::Bf16 => {
                    let halves = from.map(|value| f32_to_bf16_bits(value.to_bits()));
                    row.cast::<[u16; D]>().write_unaligned(halves);
                }
            }
            if count > 1 {
                *row.add(job.second_plane).cast::<[f32; D]>() =
                    *second.as_ptr().add(i * D).cast::<[f32; D]>();
            }
        }
    }
}
