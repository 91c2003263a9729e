//! Dense vectors: products, norms, gathered rows.
//!
//! A sum has 16 partial sums, lane l adding elements l, l + 16, … in order from +0, joined by one tree (l with l + 8,
//! l + 4, l + 2, l + 1); absent elements of the tail add +0, which changes no partial sum. Each product is rounded,
//! then added. The price of one result on every CPU: a chain of additions, 16 elements in the latency of one.
//! A NaN result is 0x7fc00000.
//!
//! Soundness: pointers are made from slices whose lengths are asserted equal; blocks and tails stay below that length.

use crate::codec::largest_magnitude;
use crate::isa::Isa;
use crate::vector::{CANONICAL_NAN, LANES, Vector, Work, run};

/// A term of a sum from one element of each vector.
trait Term: Copy {
    fn of<V: Vector>(self, x: V, y: V) -> V;
}

#[derive(Clone, Copy)]
struct Product;
impl Term for Product {
    #[inline(always)]
    fn of<V: Vector>(self, x: V, y: V) -> V {
        x * y
    }
}

#[derive(Clone, Copy)]
struct Magnitude;
impl Term for Magnitude {
    #[inline(always)]
    fn of<V: Vector>(self, x: V, _: V) -> V {
        x.abs()
    }
}

struct Sum<'a, T> {
    x: &'a [f32],
    y: &'a [f32],
    term: T,
}

impl<T: Term> Work for Sum<'_, T> {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> f32 {
        let len = self.x.len();
        assert!(len == self.y.len());
        let (x, y) = (self.x.as_ptr(), self.y.as_ptr());
        let mut at = 0;
        // SAFETY: instructions by the contract of `run`; blocks and tail stay below the common length.
        let sum = unsafe {
            let mut sum = V::splat(0.0);
            while at + LANES <= len {
                sum = sum + self.term.of(V::load(x.add(at)), V::load(y.add(at)));
                at += LANES;
            }
            if at < len {
                let rest = len - at;
                sum = sum + self.term.of(V::load_part(x.add(at), rest), V::load_part(y.add(at), rest));
            }
            sum.tree_sum()
        };
        if sum.is_nan() { CANONICAL_NAN } else { sum }
    }
}

fn sum<T: Term>(isa: Isa, x: &[f32], y: &[f32], term: T) -> f32 {
    // SAFETY: `Sum` holds slices only.
    unsafe { run(isa, Sum { x, y, term }) }
}

/// The inner product of `x` and `y`.
///
/// Panics if the lengths differ.
pub fn dot(isa: Isa, x: &[f32], y: &[f32]) -> f32 {
    assert_eq!(x.len(), y.len(), "inner product of different lengths");
    sum(isa, x, y, Product)
}

/// The sum of `|x|`.
pub fn norm1(isa: Isa, x: &[f32]) -> f32 {
    sum(isa, x, x, Magnitude)
}

/// The sum of `x^2`.
pub fn norm2_squared(isa: Isa, x: &[f32]) -> f32 {
    sum(isa, x, x, Product)
}

/// The largest `|x|`; 0 for no elements, NaN if one is.
pub fn norm_inf(isa: Isa, x: &[f32]) -> f32 {
    let largest = f32::from_bits(largest_magnitude(isa, x));
    if largest.is_nan() { CANONICAL_NAN } else { largest }
}

struct Axpy<'a> {
    a: f32,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Work for Axpy<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let len = self.x.len();
        assert!(len == self.y.len());
        let (x, y) = (self.x.as_ptr(), self.y.as_mut_ptr());
        let mut at = 0;
        // SAFETY: instructions by the contract of `run`; blocks and tail stay below the common length.
        unsafe {
            let a = V::splat(self.a);
            while at + LANES <= len {
                let sum = V::load(y.add(at)) + a * V::load(x.add(at));
                sum.canonical().store(y.add(at));
                at += LANES;
            }
            if at < len {
                let rest = len - at;
                let sum = V::load_part(y.add(at), rest) + a * V::load_part(x.add(at), rest);
                sum.canonical().store_part(y.add(at), rest);
            }
        }
    }
}

/// `y = y + a x`.
///
/// Panics if the lengths differ.
pub fn axpy(isa: Isa, a: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "sum of different lengths");
    // SAFETY: `Axpy` holds slices only.
    unsafe { run(isa, Axpy { a, x, y }) }
}

struct Gather<'a> {
    source: &'a [f32],
    index: &'a [u32],
    dim: usize,
    out: &'a mut [f32],
}

impl Work for Gather<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let dim = self.dim;
        for (i, &row) in self.index.iter().enumerate() {
            // SAFETY: `gather` checked that every row lies within the source and that the output has one for each.
            unsafe {
                let from = self.source.as_ptr().add(row as usize * dim);
                let to = self.out.as_mut_ptr().add(i * dim);
                if dim == 1 {
                    *to = *from;
                    continue;
                }
                let mut at = 0;
                while at + LANES <= dim {
                    V::load(from.add(at)).store(to.add(at));
                    at += LANES;
                }
                if at < dim {
                    V::load_part(from.add(at), dim - at).store_part(to.add(at), dim - at);
                }
            }
        }
    }
}

/// Copies rows of `dim` floats: row `index[i]` of `source` becomes row i of `out`.
///
/// Panics if a row lies outside `source` or `out` is not `index.len() * dim` long.
pub fn gather(isa: Isa, source: &[f32], index: &[u32], dim: usize, out: &mut [f32]) {
    assert!(dim > 0, "a row has at least one value");
    assert_eq!(Some(out.len()), index.len().checked_mul(dim), "one output row per index");
    let rows = source.len() / dim;
    assert!(index.iter().copied().max().is_none_or(|row| (row as usize) < rows), "row outside its source");
    // SAFETY: rows and outputs were checked above.
    unsafe { run(isa, Gather { source, index, dim, out }) }
}
