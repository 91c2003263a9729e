//! Adam (Kingma 2015, algorithm 1), lazy: t counts the pushes of this row. Each operation is rounded, in the order
//! written; p and q are one minus the powers of beta1 and beta2 (0 in a fresh row), so no power is ever computed:
//! ```text
//! p = (1 - beta1) + beta1*p          m = beta1*m + (1 - beta1)*g
//! q = (1 - beta2) + beta2*q          s = beta2*s + (1 - beta2)*(g*g)
//! w = w - ((lr/p)*m) / (sqrt(s*(1/q)) + epsilon)
//! ```
//! `lr/p` and `1/q` are computed once a row. Cost: a square root and a division a value, two divisions a row.

use super::Formula;
use crate::vector::{CANONICAL_NAN, Vector};

#[derive(Clone, Copy)]
pub(super) struct Adam {
    pub(super) lr: f32,
    pub(super) beta1: f32,
    pub(super) beta2: f32,
    pub(super) epsilon: f32,
}

/// One minus the next power of `beta`.
#[inline(always)]
fn next(beta: f32, complement: f32) -> f32 {
    let next = (1.0 - beta) + beta * complement;
    if next.is_nan() { CANONICAL_NAN } else { next }
}

impl Formula for Adam {
    const PLANES: usize = 3;
    const SCALARS: bool = true;

    #[inline(always)]
    unsafe fn enter<V: Vector>(&self, scalars: *mut u32, _: *const f32, _: usize) -> [f32; 2] {
        // SAFETY: the caller vouches for the two words of this layout at `scalars`.
        let (p, q) = unsafe {
            let p = next(self.beta1, f32::from_bits(*scalars));
            let q = next(self.beta2, f32::from_bits(*scalars.add(1)));
            *scalars = p.to_bits();
            *scalars.add(1) = q.to_bits();
            (p, q)
        };
        [self.lr / p, 1.0 / q]
    }

    #[inline(always)]
    fn step<V: Vector>(&self, [rate, scale]: [f32; 2], [w, m, s]: [V; 3], g: V) -> [V; 3] {
        let m = g.like(self.beta1) * m + g.like(1.0 - self.beta1) * g;
        let s = g.like(self.beta2) * s + g.like(1.0 - self.beta2) * (g * g);
        let divisor = (s * g.like(scale)).sqrt() + g.like(self.epsilon);
        [w - (g.like(rate) * m) / divisor, m, s]
    }
}
