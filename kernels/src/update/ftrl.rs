//! FTRL-proximal (McMahan 2013, algorithm 1). Each operation is rounded, in the order written; `a` is `1/alpha`,
//! rounded once, so that two of the four divisions are products:
//! ```text
//! weight(z, n)  = +0                                                        if |z| <= l1
//!                 (copysign(l1, z) - z) / ((beta + sqrt(n))*a + l2)         otherwise, also for NaN
//! w  = weight(z, n)                       of the old z and n
//! n' = n + g*g
//! z' = z + (g - ((sqrt(n') - sqrt(n))*a)*w)
//! ```
//! Cost: two square roots and a division a value.

use super::Formula;
use crate::vector::{CANONICAL_NAN, Vector};

#[derive(Clone, Copy)]
pub(crate) struct Ftrl {
    inverse_alpha: f32,
    beta: f32,
    l1: f32,
    l2: f32,
}

impl Ftrl {
    pub(crate) fn new(alpha: f32, beta: f32, l1: f32, l2: f32) -> Ftrl {
        Ftrl { inverse_alpha: 1.0 / alpha, beta, l1, l2 }
    }

    /// The weight, NaN not yet canonical.
    #[inline(always)]
    pub(crate) fn weight<V: Vector>(&self, z: V, sqrt_n: V) -> V {
        let l1 = z.like(self.l1);
        let divisor = (z.like(self.beta) + sqrt_n) * z.like(self.inverse_alpha) + z.like(self.l2);
        let weight = (l1.copysign(z) - z) / divisor;
        V::select(z.abs().le(l1), z.like(0.0), weight)
    }

    /// The z that gives `weight` while n is 0: exact for 0, else as near as two roundings allow; a weight so small
    /// that l1 absorbs it becomes 0.
    pub(crate) fn z_of(&self, weight: f32) -> f32 {
        if weight == 0.0 {
            return 0.0;
        }
        let divisor = self.beta * self.inverse_alpha + self.l2;
        let z = -(weight * divisor + self.l1.copysign(weight));
        if z.is_nan() { CANONICAL_NAN } else { z }
    }
}

impl Formula for Ftrl {
    const PLANES: usize = 2;

    #[inline(always)]
    fn step<V: Vector>(&self, _: [f32; 2], [z, n, b]: [V; 3], g: V) -> [V; 3] {
        let old_root = n.sqrt();
        let w = self.weight(z, old_root);
        let n = n + g * g;
        let sigma = (n.sqrt() - old_root) * g.like(self.inverse_alpha);
        [z + (g - sigma * w), n, b]
    }
}
