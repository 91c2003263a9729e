//! Gradient descent, plain and with momentum. Each product and sum is rounded, in the order written:
//! ```text
//! sgd        w = w - lr*g
//! momentum   v = momentum*v + g;   w = w - lr*v
//! nesterov   v = momentum*v + g;   w = w - lr*(g + momentum*v)
//! ```
//! Cost: 2, 4 and 6 operations a value; bound by memory.

use super::Formula;
use crate::vector::Vector;

#[derive(Clone, Copy)]
pub(super) struct Sgd {
    pub(super) lr: f32,
}

impl Formula for Sgd {
    const PLANES: usize = 1;

    #[inline(always)]
    fn step<V: Vector>(&self, _: [f32; 2], [w, a, b]: [V; 3], g: V) -> [V; 3] {
        [w - g.like(self.lr) * g, a, b]
    }
}

#[derive(Clone, Copy)]
pub(super) struct Momentum {
    pub(super) lr: f32,
    pub(super) momentum: f32,
}

impl Formula for Momentum {
    const PLANES: usize = 2;

    #[inline(always)]
    fn step<V: Vector>(&self, _: [f32; 2], [w, v, b]: [V; 3], g: V) -> [V; 3] {
        let v = g.like(self.momentum) * v + g;
        [w - g.like(self.lr) * v, v, b]
    }
}

#[derive(Clone, Copy)]
pub(super) struct Nesterov {
    pub(super) lr: f32,
    pub(super) momentum: f32,
}

impl Formula for Nesterov {
    const PLANES: usize = 2;

    #[inline(always)]
    fn step<V: Vector>(&self, _: [f32; 2], [w, v, b]: [V; 3], g: V) -> [V; 3] {
        let momentum = g.like(self.momentum);
        let v = momentum * v + g;
        [w - g.like(self.lr) * (g + momentum * v), v, b]
    }
}
