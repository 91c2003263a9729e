//! Reading weights out of rows: a copy for f32, widening for bf16, the derived weight for ftrl.
//!
//! Soundness: [`read_rows`] proves, before anything is read, that every row that is not missing lies within `memory`
//! and that `out` has `dim` floats for each; the loops read `dim` values (ftrl: two planes) of a row.
//! Notice: `tests/bits`, `rows_past_the_end_are_refused`.

use crate::MISSING;
use crate::codec::half::bf16_to_f32_bits;
use crate::isa::Isa;
use crate::layout::RowLayout;
use crate::prefetch::prefetch_row;
use crate::rule::{Dtype, Rule};
use crate::update::ftrl::Ftrl;
use crate::update::storage::{Bf16, F32, Storage};
use crate::update::{Highest, row_fits};
use crate::vector::{LANES, Vector, Work, run};

/// Rows ahead that are prefetched when rows are longer than a bucket's.
const ROWS_AHEAD: usize = 16;
const INLINE_WORDS: usize = 4;

#[derive(Clone, Copy)]
struct Job<'a> {
    memory: *const u32,
    unit: usize,
    offsets: &'a [u32],
    dim: usize,
    row_words: usize,
    value_words: usize,
    out: *mut f32,
}

impl Job<'_> {
    /// Calls `read(row, out)` for each row that exists.
    #[inline(always)]
    fn each(self, mut read: impl FnMut(*const u32, *mut f32)) {
        for (i, &offset) in self.offsets.iter().enumerate() {
            if self.row_words > INLINE_WORDS
                && let Some(&next) = self.offsets.get(i + ROWS_AHEAD)
                && next != MISSING
            {
                prefetch_row(self.memory.wrapping_add(next as usize * self.unit), self.value_words);
            }
            if offset != MISSING {
                // SAFETY: `read_rows` proved that row i and its output exist.
                unsafe { read(self.memory.add(offset as usize * self.unit), self.out.add(i * self.dim)) }
            }
        }
    }
}

/// Rows of few f32 values: a copy of known length.
struct Short<'a, const D: usize>(Job<'a>);

impl<const D: usize> Work for Short<'_, D> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        assert!(self.0.dim == D);
        self.0.each(|row, out| {
            // SAFETY: row and output have `dim == D` words, both aligned as such.
            unsafe { *out.cast::<[u32; D]>() = *row.cast::<[u32; D]>() }
        });
    }
}

/// Rows of one f32 value at word offsets.
struct Words<'a>(Job<'a>);

impl Work for Words<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let job = self.0;
        assert!(job.dim == 1 && job.unit == 1);
        // SAFETY: the caller's contract is that of the callees; the blocks' outputs are the job's.
        unsafe {
            if !V::SCATTERS {
                return Short::<1>(job).run::<V>();
            }
            let (blocks, tail) = job.offsets.as_chunks::<LANES>();
            for (block, offsets) in blocks.iter().enumerate() {
                V::copy_words(job.memory, offsets, job.out.add(block * LANES));
            }
            let out = job.out.add(blocks.len() * LANES);
            Short::<1>(Job { offsets: tail, out, ..job }).run::<V>();
        }
    }
}

/// Rows of few bf16 values.
struct ShortBf16<'a, const D: usize>(Job<'a>);

impl<const D: usize> Work for ShortBf16<'_, D> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        assert!(self.0.dim == D);
        self.0.each(|row, out| {
            // SAFETY: the row has `dim == D` halves of words, the output as many words.
            unsafe {
                let halves = row.cast::<[u16; D]>().read_unaligned();
                *out.cast::<[u32; D]>() = halves.map(bf16_to_f32_bits);
            }
        });
    }
}

/// Rows of stored values.
struct Stored<'a, S>(Job<'a>, S);

impl<S: Storage> Work for Stored<'_, S> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Stored(job, _) = self;
        job.each(|row, out| {
            let mut at = 0;
            // SAFETY: row and output have `dim` values; blocks and tail stay below it.
            unsafe {
                while at + LANES <= job.dim {
                    S::load::<V>(row, at).store(out.add(at));
                    at += LANES;
                }
                if at < job.dim {
                    S::load_part::<V>(row, at, job.dim - at).store_part(out.add(at), job.dim - at);
                }
            }
        });
    }
}

/// Rows of (z, n).
struct Derived<'a>(Job<'a>, Ftrl);

impl Work for Derived<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Derived(job, ftrl) = self;
        if job.dim == 1 {
            // SAFETY: the caller's contract is that of the callee.
            return unsafe { derive_single::<V>(job, ftrl) };
        }
        job.each(|row, out| {
            let (z, n) = (row.cast::<f32>(), row.wrapping_add(job.dim).cast::<f32>());
            let mut at = 0;
            // SAFETY: the row has two planes of `dim`, the output `dim` floats; blocks and tail stay below it.
            unsafe {
                while at + LANES <= job.dim {
                    let weight = ftrl.weight(V::load(z.add(at)), V::load(n.add(at)).sqrt());
                    weight.canonical().store(out.add(at));
                    at += LANES;
                }
                let rest = job.dim - at;
                if rest > 0 {
                    let root = V::load_part(n.add(at), rest).sqrt();
                    let weight = ftrl.weight(V::load_part(z.add(at), rest), root);
                    weight.canonical().store_part(out.add(at), rest);
                }
            }
        });
    }
}

/// Rows of one (z, n): sixteen of them share a vector. A missing row counts as fresh and is not written.
///
/// # Safety
/// The CPU has the instructions of `V`; `job` was checked and has `dim` 1.
#[inline(always)]
unsafe fn derive_single<V: Vector>(job: Job<'_>, ftrl: Ftrl) {
    for (group, offsets) in job.offsets.chunks(LANES).enumerate() {
        let (mut z, mut n) = ([0.0; LANES], [0.0; LANES]);
        for ((&offset, z), n) in offsets.iter().zip(&mut z).zip(&mut n) {
            if offset != MISSING {
                // SAFETY: a checked row of two words.
                unsafe {
                    let row = job.memory.add(offset as usize * job.unit).cast::<f32>();
                    (*z, *n) = (*row, *row.add(1));
                }
            }
        }
        // SAFETY: instructions by contract; the arrays have 16 floats.
        let weights = unsafe {
            let (z, n) = (V::load(z.as_ptr()), V::load(n.as_ptr()));
            ftrl.weight(z, n.sqrt()).canonical().to_array()
        };
        for (lane, (&offset, weight)) in offsets.iter().zip(weights).enumerate() {
            if offset != MISSING {
                // SAFETY: `out` has one float for each offset.
                unsafe { *job.out.add(group * LANES + lane) = weight };
            }
        }
    }
}

/// Reads the weights of one row per offset as f32: row i, at word `offsets[i] * unit` of `memory`, to
/// `out[i * dim..]`. An offset of [`MISSING`] leaves its part of `out` alone.
///
/// Panics if another row lies outside `memory`, if `out` is not `offsets.len() * dim` long, or if `layout` is not
/// that of `rule`.
pub fn read_rows(
    isa: Isa,
    rule: &Rule,
    layout: &RowLayout,
    memory: &[u32],
    unit: usize,
    offsets: &[u32],
    out: &mut [f32],
) {
    assert_eq!(*layout, RowLayout::new(rule, layout.dim(), layout.dtype()), "layout of another rule");
    assert_eq!(Some(out.len()), offsets.len().checked_mul(layout.dim()), "one output row per offset");
    // One more than the highest offset; a missing row wraps to 0 and so never is the highest.
    // SAFETY: the work holds no pointer but a slice.
    let past_highest = unsafe { run(isa, Highest { offsets, plus: 1 }) };
    assert!(
        past_highest == 0 || row_fits(past_highest - 1, unit, layout.words(), memory.len()),
        "row outside its memory"
    );
    let job = Job {
        memory: memory.as_ptr(),
        unit,
        offsets,
        dim: layout.dim(),
        row_words: layout.words(),
        value_words: layout.value_words().max(1),
        out: out.as_mut_ptr(),
    };
    // SAFETY: rows and outputs were checked above; the short copies are chosen by their dim.
    unsafe {
        match (*rule, layout.dtype(), layout.dim()) {
            (Rule::Ftrl { alpha, beta, l1, l2 }, _, _) => {
                let whole = Job { value_words: job.row_words, ..job };
                run(isa, Derived(whole, Ftrl::new(alpha, beta, l1, l2)));
            }
            (_, Dtype::F32, 1) if unit == 1 => run(isa, Words(job)),
            (_, Dtype::F32, 1) => run(isa, Short::<1>(job)),
            (_, Dtype::F32, 2) => run(isa, Short::<2>(job)),
            (_, Dtype::F32, 4) => run(isa, Short::<4>(job)),
            (_, Dtype::F32, 8) => run(isa, Short::<8>(job)),
            (_, Dtype::F32, _) => run(isa, Stored(job, F32)),
            (_, Dtype::Bf16, 1) => run(isa, ShortBf16::<1>(job)),
            (_, Dtype::Bf16, 2) => run(isa, ShortBf16::<2>(job)),
            (_, Dtype::Bf16, 4) => run(isa, ShortBf16::<4>(job)),
            (_, Dtype::Bf16, 8) => run(isa, ShortBf16::<8>(job)),
            (_, Dtype::Bf16, _) => run(isa, Stored(job, Bf16)),
        }
    }
}
