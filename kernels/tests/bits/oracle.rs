//! What an update does to one row, one value after another.

use gradwire_kernels::{Dtype, RowLayout, Rule};

use crate::numbers::canonical;

/// Every rule, with parameters that show in the result.
pub(crate) const RULES: [Rule; 12] = [
    Rule::Sgd { lr: 0.1 },
    Rule::Momentum { lr: 0.1, momentum: 0.9 },
    Rule::Nesterov { lr: 0.1, momentum: 0.9 },
    Rule::Adagrad { lr: 0.1, epsilon: 1e-6 },
    Rule::RowAdagrad { lr: 0.1, epsilon: 1e-6 },
    Rule::Adam { lr: 0.01, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 },
    Rule::Adam { lr: 0.01, beta1: 0.0, beta2: 0.0, epsilon: 1e-8 },
    Rule::Ftrl { alpha: 0.1, beta: 1.0, l1: 0.0, l2: 1.0 },
    Rule::Ftrl { alpha: 0.3, beta: 0.0, l1: 0.2, l2: 0.1 },
    Rule::Add,
    Rule::Assign,
    Rule::Max,
];

/// bf16 by arithmetic instead of bit tricks: the nearer of the two neighbours, the even one on a tie.
fn to_bf16(x: f32) -> u16 {
    if x.is_nan() {
        return 0x7fc0;
    }
    let cut = x.to_bits() & 0xffff_0000;
    let rest = x.to_bits() & 0xffff;
    let up = rest > 0x8000 || (rest == 0x8000 && (cut >> 16) & 1 == 1);
    ((cut >> 16) + u32::from(up)) as u16
}

pub(crate) fn value(layout: &RowLayout, row: &[u32], i: usize) -> f32 {
    match layout.dtype() {
        Dtype::F32 => f32::from_bits(row[i]),
        Dtype::Bf16 => f32::from_bits((row[i / 2] >> (16 * (i % 2)) & 0xffff) << 16),
    }
}

fn set_value(layout: &RowLayout, row: &mut [u32], i: usize, x: f32) {
    match layout.dtype() {
        Dtype::F32 => row[i] = canonical(x).to_bits(),
        Dtype::Bf16 => {
            let shift = 16 * (i % 2);
            row[i / 2] = row[i / 2] & !(0xffff << shift) | u32::from(to_bf16(x)) << shift;
        }
    }
}

/// The weight that ftrl derives.
pub(crate) fn ftrl_weight(rule: &Rule, z: f32, n: f32) -> f32 {
    let &Rule::Ftrl { alpha, beta, l1, l2 } = rule else { return f32::NAN };
    if z.abs() <= l1 {
        return 0.0;
    }
    (l1.copysign(z) - z) / ((beta + n.sqrt()) * (1.0 / alpha) + l2)
}

/// The project's sum: 16 partial sums, then halves folded.
pub(crate) fn tree_sum(terms: impl Iterator<Item = f32>) -> f32 {
    let mut lanes = [0.0f32; 16];
    for (i, term) in terms.enumerate() {
        lanes[i % 16] += term;
    }
    let eight: Vec<f32> = (0..8).map(|l| lanes[l] + lanes[l + 8]).collect();
    let four: Vec<f32> = (0..4).map(|l| eight[l] + eight[l + 4]).collect();
    (four[0] + four[2]) + (four[1] + four[3])
}

/// Applies `rule` to one row.
pub(crate) fn update(rule: &Rule, layout: &RowLayout, row: &mut [u32], gradient: &[f32]) {
    let dim = layout.dim();
    let state = layout.value_words();
    let get = |row: &[u32], word: usize| f32::from_bits(row[word]);
    let put = |row: &mut [u32], word: usize, x: f32| row[word] = canonical(x).to_bits();
    let mut row_rate = 0.0;
    let mut adam = (0.0, 0.0);
    match *rule {
        Rule::RowAdagrad { lr, epsilon } => {
            let mean = tree_sum(gradient.iter().map(|g| g * g)) / dim as f32;
            let s = get(row, state) + mean;
            put(row, state, s);
            row_rate = lr / (s.sqrt() + epsilon);
        }
        Rule::Adam { lr, beta1, beta2, .. } => {
            let p = (1.0 - beta1) + beta1 * get(row, state + 2 * dim);
            let q = (1.0 - beta2) + beta2 * get(row, state + 2 * dim + 1);
            put(row, state + 2 * dim, p);
            put(row, state + 2 * dim + 1, q);
            adam = (lr / p, 1.0 / q);
        }
        _ => {}
    }
    for (i, &g) in gradient.iter().enumerate() {
        let first = state + i;
        let second = state + dim + i;
        let w = if layout.value_words() > 0 { value(layout, row, i) } else { 0.0 };
        let new = match *rule {
            Rule::Sgd { lr } => w - lr * g,
            Rule::Momentum { lr, momentum } => {
                let v = momentum * get(row, first) + g;
                put(row, first, v);
                w - lr * v
            }
            Rule::Nesterov { lr, momentum } => {
                let v = momentum * get(row, first) + g;
                put(row, first, v);
                w - lr * (g + momentum * v)
            }
            Rule::Adagrad { lr, epsilon } => {
                let s = get(row, first) + g * g;
                put(row, first, s);
                w - (lr * g) / (s.sqrt() + epsilon)
            }
            Rule::RowAdagrad { .. } => w - row_rate * g,
            Rule::Adam { beta1, beta2, epsilon, .. } => {
                let m = beta1 * get(row, first) + (1.0 - beta1) * g;
                let s = beta2 * get(row, second) + (1.0 - beta2) * (g * g);
                put(row, first, m);
                put(row, second, s);
                w - (adam.0 * m) / ((s * adam.1).sqrt() + epsilon)
            }
            Rule::Ftrl { alpha, .. } => {
                let (z, n) = (get(row, first), get(row, second));
                let weight = ftrl_weight(rule, z, n);
                let new_n = n + g * g;
                let sigma = (new_n.sqrt() - n.sqrt()) * (1.0 / alpha);
                put(row, first, z + (g - sigma * weight));
                put(row, second, new_n);
                continue;
            }
            Rule::Add => w + g,
            Rule::Assign => g,
            Rule::Max if w.is_nan() || g.is_nan() => f32::NAN,
            Rule::Max if w == 0.0 && g == 0.0 => {
                if w.is_sign_positive() || g.is_sign_positive() {
                    0.0
                } else {
                    -0.0
                }
            }
            Rule::Max => w.max(g),
        };
        set_value(layout, row, i, new);
    }
}
