use std::panic::catch_unwind;

use gradwire_kernels::{axpy, dot, gather, norm_inf, norm1, norm2_squared};

use crate::isas;
use crate::numbers::{Random, bits, canonical};
use crate::oracle::tree_sum;

#[test]
fn sums_of_all_lengths_and_starts_agree_in_every_bit() {
    for rarity in [3, 30, 100_000] {
        for start in 0..17 {
            for len in 0..=67 {
                let mut random = Random((start * 100 + len) as u64);
                let x: Vec<f32> = (0..start + len).map(|_| random.float(rarity)).collect();
                let y: Vec<f32> = (0..start + len).map(|_| random.float(rarity)).collect();
                let (x, y) = (&x[start..], &y[start..]);
                let expected = [
                    tree_sum(x.iter().zip(y).map(|(x, y)| x * y)),
                    tree_sum(x.iter().map(|x| x.abs())),
                    tree_sum(x.iter().map(|x| x * x)),
                    x.iter().fold(
                        0.0,
                        |a: f32, x| if a.is_nan() || x.is_nan() { f32::NAN } else { a.max(x.abs()) },
                    ),
                ]
                .map(canonical);
                for isa in isas() {
                    let got = [dot(isa, x, y), norm1(isa, x), norm2_squared(isa, x), norm_inf(isa, x)];
                    assert_eq!(bits(&got), bits(&expected), "{isa} {start} {len}");
                }
            }
        }
    }
}

#[test]
fn axpy_adds_the_rounded_product_and_stops_at_the_end() {
    for a in [0.37, -0.0, f32::INFINITY, f32::from_bits(1)] {
        for start in 0..5 {
            for len in 0..=67 {
                let mut random = Random((start * 100 + len) as u64);
                let x: Vec<f32> = (0..start + len).map(|_| random.float(5)).collect();
                let before: Vec<f32> = (0..start + len + 20).map(|_| random.float(5)).collect();
                let mut expected = before.clone();
                for i in start..start + len {
                    expected[i] = canonical(before[i] + a * x[i]);
                }
                for isa in isas() {
                    let mut y = before.clone();
                    axpy(isa, a, &x[start..], &mut y[start..start + len]);
                    assert_eq!(bits(&y), bits(&expected), "{isa} {start} {len}");
                }
            }
        }
    }
}

#[test]
fn gathered_rows_are_copies() {
    for dim in 1..=67 {
        let mut random = Random(dim as u64);
        let source: Vec<f32> = (0..40 * dim + dim / 2).map(|_| random.float(4)).collect();
        let index: Vec<u32> = (0..33).map(|_| random.below(40) as u32).collect();
        let expected: Vec<f32> =
            index.iter().flat_map(|&row| source[row as usize * dim..][..dim].to_vec()).collect();
        for isa in isas() {
            let mut out = vec![0.0; index.len() * dim];
            gather(isa, &source, &index, dim, &mut out);
            assert_eq!(bits(&out), bits(&expected), "{isa} {dim}");
        }
    }
}

#[test]
fn mismatched_lengths_and_rows_outside_are_refused() {
    for isa in isas() {
        assert!(catch_unwind(|| dot(isa, &[1.0; 3], &[1.0; 4])).is_err());
        assert!(catch_unwind(|| axpy(isa, 1.0, &[1.0; 3], &mut [1.0; 2])).is_err());
        for (index, out, dim) in [(2, 2, 2), (0, 3, 2), (0, 0, 0), (u32::MAX, 2, 2)] {
            let gathered = catch_unwind(|| gather(isa, &[1.0; 5], &[index], dim, &mut vec![0.0; out]));
            assert!(gathered.is_err(), "{isa} {index} {out} {dim}");
        }
    }
}
