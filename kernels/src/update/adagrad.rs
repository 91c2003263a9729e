//! Adagrad (Duchi 2011) per value and per row. Each operation is rounded, in the order written:
//! ```text
//! adagrad      s = s + g*g;             w = w - (lr*g) / (sqrt(s) + epsilon)
//! row-adagrad  s = s + sum(g*g)/dim;    w = w - (lr / (sqrt(s) + epsilon)) * g
//! ```
//! The sum has 16 partial sums, lane l taking values l, l + 16, … in order from +0, joined by the tree of
//! [`Vector::tree_sum`]. Cost: adagrad is bound by one square root and one division a value (in cache AVX-512 is no
//! faster than AVX2, both feed one divider); row-adagrad by memory.

use super::Formula;
use crate::vector::{CANONICAL_NAN, LANES, Vector};

#[derive(Clone, Copy)]
pub(super) struct Adagrad {
    pub(super) lr: f32,
    pub(super) epsilon: f32,
}

impl Formula for Adagrad {
    const PLANES: usize = 2;

    #[inline(always)]
    fn step<V: Vector>(&self, _: [f32; 2], [w, s, b]: [V; 3], g: V) -> [V; 3] {
        let s = s + g * g;
        [w - (g.like(self.lr) * g) / (s.sqrt() + g.like(self.epsilon)), s, b]
    }
}

#[derive(Clone, Copy)]
pub(super) struct RowAdagrad {
    pub(super) lr: f32,
    pub(super) epsilon: f32,
}

impl Formula for RowAdagrad {
    const PLANES: usize = 1;
    const SCALARS: bool = true;

    #[inline(always)]
    unsafe fn enter<V: Vector>(&self, scalars: *mut u32, gradient: *const f32, dim: usize) -> [f32; 2] {
        // SAFETY: the caller vouches for the instructions, `dim` floats at `gradient` and one word at `scalars`.
        let (sum, s) = unsafe {
            let mut sum = V::splat(0.0);
            let mut at = 0;
            while at + LANES <= dim {
                let g = V::load(gradient.add(at));
                sum = sum + g * g;
                at += LANES;
            }
            if at < dim {
                let g = V::load_part(gradient.add(at), dim - at);
                sum = sum + g * g;
            }
            (sum.tree_sum(), f32::from_bits(*scalars))
        };
        let s = s + sum / dim as f32;
        let s = if s.is_nan() { CANONICAL_NAN } else { s };
        // SAFETY: as above.
        unsafe { *scalars = s.to_bits() };
        [self.lr / (s.sqrt() + self.epsilon), 0.0]
    }

    #[inline(always)]
    fn step<V: Vector>(&self, [rate, _]: [f32; 2], [w, a, b]: [V; 3], g: V) -> [V; 3] {
        [w - g.like(rate) * g, a, b]
    }
}
