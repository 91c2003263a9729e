//! Rules without a learning rate: a row merges what arrives.
//! ```text
//! add     w = w + g
//! assign  w = g
//! max     w = NaN if either is, else the larger; of +0 and -0 the first, so that order never matters
//! ```
//! Cost: one to six operations a value; bound by memory. The max instructions are not used: they return their second
//! operand for a NaN or a pair of zeros.

use super::Formula;
use crate::vector::{CANONICAL_NAN, Vector};

#[derive(Clone, Copy)]
pub(super) struct Add;

impl Formula for Add {
    const PLANES: usize = 1;

    #[inline(always)]
    fn step<V: Vector>(&self, _: [f32; 2], [w, a, b]: [V; 3], g: V) -> [V; 3] {
        [w + g, a, b]
    }
}

#[derive(Clone, Copy)]
pub(super) struct Assign;

impl Formula for Assign {
    const PLANES: usize = 1;

    #[inline(always)]
    fn step<V: Vector>(&self, _: [f32; 2], [_, a, b]: [V; 3], g: V) -> [V; 3] {
        [g, a, b]
    }
}

#[derive(Clone, Copy)]
pub(super) struct Max;

impl Formula for Max {
    const PLANES: usize = 1;

    #[inline(always)]
    fn step<V: Vector>(&self, _: [f32; 2], [w, a, b]: [V; 3], g: V) -> [V; 3] {
        // Equal numbers have equal bits but for zeros, of which `and` keeps +0.
        let larger = V::select(w.gt(g), w, g);
        let larger = V::select(w.eq(g), w.and(g), larger);
        [V::select(w.unordered(g), w.like(CANONICAL_NAN), larger), a, b]
    }
}

/// [`Max`] for one value.
#[inline(always)]
pub(super) fn max_of(w: f32, g: f32) -> f32 {
    if w.is_nan() || g.is_nan() {
        CANONICAL_NAN
    } else if w == g {
        f32::from_bits(w.to_bits() & g.to_bits())
    } else if w > g {
        w
    } else {
        g
    }
}
