//! The loop for rows of 1, 2, 4 or 8 values: several rows share a vector.
//!
//! The planes of up to 256 values (256 rows of one, 32 rows of eight) are copied to arrays on the stack, the formula
//! runs over these, and they are copied back. A group is that large because a vector load
//! waits for narrower stores still in the store buffer: with 64 values rows of eight were slower than one by one,
//! with 256 a third faster (adagrad). Scatter instructions were refused: they lose one of two updates of a repeated
//! row.
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
pub(crate) const GROUP: usize = 256;

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

/// Rows up to this many words come sixteen or so at a time, their misses overlapping, or lie in a bucket that was just
/// probed: prefetching them is wasted.
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
            // SAFETY: `Job` proves rows and gradients; `group.len() * dim <= GROUP` by the choice of `rows`.
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
    /// The CPU has the instructions of `V`; `values <= GROUP` floats are at `gradient`.
    #[inline(always)]
    unsafe fn step<V: Vector>(&self, values: usize, gradient: *const f32, planes: &mut [Plane; 2]) {
        let [first, second] = planes;
        let mut at = 0;
        while at < values {
            // SAFETY: `at < values <= GROUP` and `at` is a multiple of 16, so planes have 16 floats from `at` on and
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

/// Calls a copy for the dim, format and number of planes of a job, so that its loop has none of these branches.
macro_rules! specialised {
    ($copy:ident, $job:expr, $group:expr, $dtype:expr, $count:expr, $planes:expr) => {{
        macro_rules! dims {
            ($bf16:literal, $two:literal) => {
                match $job.dim {
                    1 => $copy::<1, $bf16, $two>($job, $group, $planes),
                    2 => $copy::<2, $bf16, $two>($job, $group, $planes),
                    4 => $copy::<4, $bf16, $two>($job, $group, $planes),
                    _ => $copy::<8, $bf16, $two>($job, $group, $planes),
                }
            };
        }
        match ($dtype, $count) {
            (Dtype::F32, 1) => dims!(false, false),
            (Dtype::F32, _) => dims!(false, true),
            (Dtype::Bf16, 1) => dims!(true, false),
            (Dtype::Bf16, _) => dims!(true, true),
        }
    }};
}

/// Copies the rows of `group` to `planes`, bf16 values widened.
///
/// # Safety
/// The rows of `group` are rows of the job with at least `count` planes, and `group.len() * dim <= GROUP`.
unsafe fn copy_in(job: Job<'_>, group: &[u32], dtype: Dtype, count: usize, planes: &mut [Plane; 2]) {
    // SAFETY: the caller's contract is that of the callees.
    unsafe { specialised!(copy_in_rows, job, group, dtype, count, planes) }
}

/// # Safety
/// As [`copy_in`], with `D` equal to the job's `dim`.
#[inline(always)]
unsafe fn copy_in_rows<const D: usize, const BF16: bool, const TWO: bool>(
    job: Job<'_>,
    group: &[u32],
    planes: &mut [Plane; 2],
) {
    assert!(job.dim == D && group.len() * D <= GROUP);
    let [first, second] = planes;
    for (i, &offset) in group.iter().enumerate() {
        // SAFETY: row i has its value words and, if `TWO`, `D` words after them; `i * D + D <= GROUP`.
        unsafe {
            let row = job.memory.add(offset as usize * job.unit);
            *first.as_mut_ptr().add(i * D).cast::<[f32; D]>() = if BF16 {
                let halves = row.cast::<[u16; D]>().read_unaligned();
                halves.map(|half| f32::from_bits(bf16_to_f32_bits(half)))
            } else {
                *row.cast::<[f32; D]>()
            };
            if TWO {
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
    unsafe { specialised!(copy_out_rows, job, group, dtype, count, planes) }
}

/// # Safety
/// As [`copy_in_rows`].
#[inline(always)]
unsafe fn copy_out_rows<const D: usize, const BF16: bool, const TWO: bool>(
    job: Job<'_>,
    group: &[u32],
    planes: &[Plane; 2],
) {
    assert!(job.dim == D && group.len() * D <= GROUP);
    let [first, second] = planes;
    for (i, &offset) in group.iter().enumerate() {
        // SAFETY: as in `copy_in_rows`.
        unsafe {
            let row = job.memory.add(offset as usize * job.unit);
            let from = *first.as_ptr().add(i * D).cast::<[f32; D]>();
            if BF16 {
                row.cast::<[u16; D]>().write_unaligned(from.map(|value| f32_to_bf16_bits(value.to_bits())));
            } else {
                *row.cast::<[f32; D]>() = from;
            }
            if TWO {
                *row.add(job.second_plane).cast::<[f32; D]>() =
                    *second.as_ptr().add(i * D).cast::<[f32; D]>();
            }
        }
    }
}
