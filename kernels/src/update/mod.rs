//! Applying pushed gradients to rows, in place.
//!
//! Problem: a push touches thousands of rows at random places; each update must leave the same bits on every
//! replica. Idea: a rule is a [`Formula`] over vectors, written once; three loops bring rows to it. [`rows`] walks
//! long rows sixteen values at a time; [`packed`] gathers several short rows into one vector; [`single`] is for
//! one-value rows without state. All bounds are checked once per call, before anything changes. Values are stored with
//! every NaN as 0x7fc00000; denormals are kept. Absent on purpose: fused multiply-add, skipping of zero gradients.
//! Called by the shard thread that owns the memory.
//!
//! Soundness: [`Job`] is made only by [`update_rows`], which proves that every row and gradient it names lies within
//! the two slices it borrows; the loops stay within `row_words` of a row's start. Notice: `tests/bits`
//! surrounds rows with guard words; `rows_past_the_end_are_refused`.

use crate::MISSING;
use crate::isa::Isa;
use crate::layout::RowLayout;
use crate::rule::{Dtype, Rule};
use crate::vector::{Vector, Work, run};

mod adagrad;
mod adam;
mod descent;
pub(crate) mod ftrl;
mod merge;
pub(crate) mod packed;
mod rows;
mod single;
pub(crate) mod storage;

use rows::Rows;
use storage::{Bf16, F32};

/// One rule's arithmetic. A row is `PLANES` planes of `dim` numbers (values or ftrl's z, then state), then scalars.
pub(crate) trait Formula: Copy {
    /// 1 to 3.
    const PLANES: usize;
    /// Whether rows have scalars after the planes, so that several can't share a vector.
    const SCALARS: bool = false;

    /// Updates the scalars of a row and returns what [`Formula::step`] needs of them.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; the layout's scalars are at `scalars`, `dim` floats at `gradient`.
    #[inline(always)]
    unsafe fn enter<V: Vector>(&self, scalars: *mut u32, gradient: *const f32, dim: usize) -> [f32; 2] {
        let _ = (scalars, gradient, dim);
        [0.0; 2]
    }

    /// New planes from old ones and a gradient, lane by lane; planes past `PLANES` are ignored. The caller
    /// canonicalises what it stores.
    fn step<V: Vector>(&self, factors: [f32; 2], planes: [V; 3], gradient: V) -> [V; 3];
}

/// Checked work of one call. `dim >= 1`; row i starts at word `offsets[i] * unit` of `memory` and has `row_words`
/// words, its gradient at `i * dim` of `gradients`.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    memory: *mut u32,
    unit: usize,
    offsets: &'a [u32],
    gradients: *const f32,
    dim: usize,
    /// Words from a row's start to its second plane (or its scalars, if it has one plane).
    second_plane: usize,
    row_words: usize,
}

/// Applies `rule` to one row per offset: row i is at word `offsets[i] * unit` of `memory`, its gradient at
/// `gradients[i * dim..]`.
///
/// Ordering: rows are updated in the order given; a row named twice sees both updates, one after the other. Two
/// offsets must name the same row or rows that do not overlap.
///
/// Panics if a row lies outside `memory`, if `gradients` is not `offsets.len() * dim` long, or if `layout` is not
/// that of `rule`: all are the caller's to know. Nothing is changed then.
pub fn update_rows(
    isa: Isa,
    rule: &Rule,
    layout: &RowLayout,
    memory: &mut [u32],
    unit: usize,
    offsets: &[u32],
    gradients: &[f32],
) {
    assert_eq!(*layout, RowLayout::new(rule, layout.dim(), layout.dtype()), "layout of another rule");
    assert_eq!(Some(gradients.len()), offsets.len().checked_mul(layout.dim()), "one gradient row per offset");
    // SAFETY: the work holds no pointer but a slice.
    let highest = unsafe { run(isa, Highest { offsets, plus: 0 }) };
    assert!(
        offsets.is_empty() || highest != MISSING && row_fits(highest, unit, layout.words(), memory.len()),
        "row outside its memory"
    );
    let job = Job {
        memory: memory.as_mut_ptr(),
        unit,
        offsets,
        gradients: gradients.as_ptr(),
        dim: layout.dim(),
        second_plane: second_plane(layout),
        row_words: layout.words(),
    };
    let dtype = layout.dtype();
    match *rule {
        Rule::Sgd { lr } => apply(isa, dtype, job, descent::Sgd { lr }),
        Rule::Momentum { lr, momentum } => apply(isa, dtype, job, descent::Momentum { lr, momentum }),
        Rule::Nesterov { lr, momentum } => apply(isa, dtype, job, descent::Nesterov { lr, momentum }),
        Rule::Adagrad { lr, epsilon } => apply(isa, dtype, job, adagrad::Adagrad { lr, epsilon }),
        Rule::RowAdagrad { lr, epsilon } => apply(isa, dtype, job, adagrad::RowAdagrad { lr, epsilon }),
        Rule::Adam { lr, beta1, beta2, epsilon } => {
            apply(isa, dtype, job, adam::Adam { lr, beta1, beta2, epsilon })
        }
        Rule::Ftrl { alpha, beta, l1, l2 } => apply(isa, dtype, job, ftrl::Ftrl::new(alpha, beta, l1, l2)),
        Rule::Add if single::fits(dtype, job) => apply_single(isa, job, merge::Add, |w, g| w + g),
        Rule::Assign if single::fits(dtype, job) => apply_single(isa, job, merge::Assign, |_, g| g),
        Rule::Max if single::fits(dtype, job) => apply_single(isa, job, merge::Max, merge::max_of),
        Rule::Add => apply(isa, dtype, job, merge::Add),
        Rule::Assign => apply(isa, dtype, job, merge::Assign),
        Rule::Max => apply(isa, dtype, job, merge::Max),
    }
}

fn apply_single<M: Formula>(isa: Isa, job: Job<'_>, many: M, one: impl Fn(f32, f32) -> f32) {
    // SAFETY: `job` was checked by `update_rows`, see the facade.
    unsafe { run(isa, single::Single { job, many, one }) }
}

/// The highest of some offsets, each `plus` something (wrapping) before they are compared; 0 for none.
pub(crate) struct Highest<'a> {
    pub(crate) offsets: &'a [u32],
    pub(crate) plus: u32,
}

impl Work for Highest<'_> {
    type Output = u32;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> u32 {
        self.offsets.iter().map(|offset| offset.wrapping_add(self.plus)).max().unwrap_or(0)
    }
}

/// Words of the first plane: the values, or ftrl's z, which is state.
pub(crate) fn second_plane(layout: &RowLayout) -> usize {
    if layout.value_words() == 0 { layout.dim() } else { layout.value_words() }
}

/// Whether the row at `offset` lies within `memory_words`.
#[inline]
pub(crate) fn row_fits(offset: u32, unit: usize, row_words: usize, memory_words: usize) -> bool {
    let end = (offset as usize).checked_mul(unit).and_then(|start| start.checked_add(row_words));
    end.is_some_and(|end| end <= memory_words)
}

/// Chooses the loop. Which one is a matter of speed: a formula works lane by lane.
fn apply<F: Formula>(isa: Isa, dtype: Dtype, job: Job<'_>, formula: F) {
    // SAFETY: `job` was checked by `update_rows`, see the facade.
    unsafe {
        match dtype {
            _ if !F::SCALARS && packed::is_short(job.dim) => {
                run(isa, packed::Packed { job, formula, dtype });
            }
            Dtype::F32 => run(isa, Rows { job, formula, storage: F32 }),
            Dtype::Bf16 => run(isa, Rows { job, formula, storage: Bf16 }),
        }
    }
}
