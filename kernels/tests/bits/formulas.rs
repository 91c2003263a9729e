//! The oracles above share their formulas with the documentation; these tests hold both against f64 arithmetic in
//! the textbook form, so that a wrong formula shows even where all implementations agree.

use gradwire_kernels::{Dtype, Isa, RowLayout, Rule, read_rows, update_rows};

use crate::numbers::Random;

const STEPS: usize = 50;

/// Weights after 50 pushes of one value by the kernels.
fn trained(rule: &Rule, gradients: &[f32]) -> f32 {
    let layout = RowLayout::new(rule, 1, Dtype::F32);
    let mut row = vec![0; layout.words()];
    for &gradient in gradients {
        update_rows(Isa::active(), rule, &layout, &mut row, 1, &[0], &[gradient]);
    }
    let mut weight = [0.0];
    read_rows(Isa::active(), rule, &layout, &row, 1, &[0], &mut weight);
    weight[0]
}

fn check(rule: Rule, textbook: impl Fn(&[f64]) -> f64) {
    for seed in 0..20 {
        let mut random = Random(seed);
        let gradients: Vec<f32> = (0..STEPS).map(|_| random.unit() + 0.2).collect();
        let wide: Vec<f64> = gradients.iter().map(|&g| f64::from(g)).collect();
        let (got, expected) = (f64::from(trained(&rule, &gradients)), textbook(&wide));
        assert!((got - expected).abs() <= 1e-5 + 1e-4 * expected.abs(), "{rule:?}: {got}, not {expected}");
    }
}

#[test]
fn sgd_momentum_and_nesterov_follow_their_recurrences() {
    check(Rule::Sgd { lr: 0.1 }, |g| -0.1 * g.iter().sum::<f64>());
    check(Rule::Momentum { lr: 0.1, momentum: 0.9 }, |gradients| {
        let (mut w, mut v) = (0.0, 0.0);
        for g in gradients {
            v = 0.9 * v + g;
            w -= 0.1 * v;
        }
        w
    });
    check(Rule::Nesterov { lr: 0.1, momentum: 0.9 }, |gradients| {
        let (mut w, mut v) = (0.0, 0.0);
        for g in gradients {
            v = 0.9 * v + g;
            w -= 0.1 * (g + 0.9 * v);
        }
        w
    });
}

#[test]
fn adagrad_divides_by_the_root_of_summed_squares() {
    for rule in [Rule::Adagrad { lr: 0.1, epsilon: 1e-6 }, Rule::RowAdagrad { lr: 0.1, epsilon: 1e-6 }] {
        check(rule, |gradients| {
            let (mut w, mut s) = (0.0, 0.0);
            for g in gradients {
                s += g * g;
                w -= 0.1 * g / (s.sqrt() + 1e-6);
            }
            w
        });
    }
}

#[test]
fn row_adagrad_uses_the_mean_square_of_the_row() {
    let rule = Rule::RowAdagrad { lr: 0.1, epsilon: 1e-6 };
    let layout = RowLayout::new(&rule, 4, Dtype::F32);
    let mut row = vec![0; layout.words()];
    update_rows(Isa::active(), &rule, &layout, &mut row, 1, &[0], &[1.0, 2.0, 3.0, 4.0]);
    let rate = 0.1 / (30.0f64 / 4.0).sqrt();
    for (i, word) in row[..4].iter().enumerate() {
        let expected = -rate * (i + 1) as f64;
        assert!((f64::from(f32::from_bits(*word)) - expected).abs() < 1e-6);
    }
}

#[test]
fn adam_corrects_its_moments_by_powers_of_the_decays() {
    check(Rule::Adam { lr: 0.01, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }, |gradients| {
        let (mut w, mut m, mut v) = (0.0, 0.0, 0.0);
        for (t, g) in gradients.iter().enumerate() {
            let t = t as i32 + 1;
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            let m_hat = m / (1.0 - 0.9f64.powi(t));
            let v_hat = v / (1.0 - 0.999f64.powi(t));
            w -= 0.01 * m_hat / (v_hat.sqrt() + 1e-8);
        }
        w
    });
}

#[test]
fn ftrl_matches_the_paper() {
    for (alpha, beta, l1, l2) in [(0.1, 1.0, 0.0, 1.0), (0.3, 0.5, 1.5, 0.1), (0.05, 1.0, 100.0, 0.0)] {
        let rule = Rule::Ftrl { alpha: alpha as f32, beta: beta as f32, l1: l1 as f32, l2: l2 as f32 };
        check(rule, |gradients| {
            let weight = |z: f64, n: f64| {
                if z.abs() <= l1 { 0.0 } else { -(z - z.signum() * l1) / ((beta + n.sqrt()) / alpha + l2) }
            };
            let (mut z, mut n) = (0.0f64, 0.0f64);
            for g in gradients {
                let w = weight(z, n);
                let sigma = ((n + g * g).sqrt() - n.sqrt()) / alpha;
                z += g - sigma * w;
                n += g * g;
            }
            weight(z, n)
        });
    }
}
