use gradwire_kernels::{
    Isa, bf16_to_f32, crc32c, f16_to_f32, f32_to_bf16, f32_to_f16, f32_to_int8, int8_to_f32,
};
use proptest::prelude::*;

use crate::isas;
use crate::numbers::{AWKWARD, Random, bits};

const ALL: std::ops::RangeInclusive<u16> = 0..=u16::MAX;

type Narrow = fn(Isa, &[f32], &mut [u16]);
type Widen = fn(Isa, &[u16], &mut [f32]);

fn widened(isa: Isa, widen: Widen) -> Vec<f32> {
    let all: Vec<u16> = ALL.collect();
    let mut out = vec![0.0; all.len()];
    widen(isa, &all, &mut out);
    out
}

fn narrowed(isa: Isa, narrow: Narrow, from: &[f32]) -> Vec<u16> {
    let mut out = vec![0; from.len()];
    narrow(isa, from, &mut out);
    out
}

/// The meaning of an f16, from the standard's definition.
fn f16_value(half: u16) -> f64 {
    let sign = if half >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(half >> 10 & 31), f64::from(half & 1023));
    match exponent {
        0 => sign * fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => sign * f64::INFINITY,
        31 => f64::NAN,
        _ => sign * (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
    }
}

#[test]
fn every_f16_widens_to_its_value_and_narrows_back() {
    for isa in isas() {
        let wide = widened(isa, f16_to_f32);
        let back = narrowed(isa, f32_to_f16, &wide);
        for half in ALL {
            let (x, value) = (wide[usize::from(half)], f16_value(half));
            if value.is_nan() {
                assert!(x.is_nan());
                assert_eq!(back[usize::from(half)], 0x7e00);
            } else {
                assert_eq!(f64::from(x), value, "{half:#x}");
                assert_eq!(x.is_sign_negative(), half >> 15 == 1);
                assert_eq!(back[usize::from(half)], half);
            }
        }
    }
}

#[test]
fn every_bf16_widens_to_its_upper_half_and_narrows_back() {
    for isa in isas() {
        let wide = widened(isa, bf16_to_f32);
        let back = narrowed(isa, f32_to_bf16, &wide);
        for half in ALL {
            let x = wide[usize::from(half)];
            assert_eq!(x.to_bits(), u32::from(half) << 16);
            assert_eq!(back[usize::from(half)], if x.is_nan() { 0x7fc0 } else { half });
        }
    }
}

/// Between each two neighbours: the middle goes to the even one, its neighbours to the nearer one.
fn rounds_to_nearest_even(narrow: Narrow, widen: Widen, infinity: u16) {
    for isa in isas() {
        let wide = widened(isa, widen);
        for sign in [0u16, 0x8000] {
            let (mut inputs, mut expected) = (Vec::new(), Vec::new());
            // The last step goes from the largest number to where the next one would be: infinity.
            for low in 0..infinity {
                let high = low + 1;
                let (a, b) = (f64::from(wide[usize::from(low)]), f64::from(wide[usize::from(high)]));
                let b = if high == infinity { 2.0 * a - f64::from(wide[usize::from(low - 1)]) } else { b };
                let middle = ((a + b) / 2.0) as f32;
                let even = if low % 2 == 0 { low } else { high };
                for (x, to) in [(middle.next_down(), low), (middle, even), (middle.next_up(), high)] {
                    inputs.push(if sign == 0 { x } else { -x });
                    expected.push(to | sign);
                }
            }
            let got = narrowed(isa, narrow, &inputs);
            for i in 0..got.len() {
                assert_eq!(got[i], expected[i], "{isa} {:e}", inputs[i]);
            }
        }
    }
}

#[test]
fn f16_rounds_to_nearest_even_everywhere() {
    rounds_to_nearest_even(f32_to_f16, f16_to_f32, 0x7c00);
}

#[test]
fn bf16_rounds_to_nearest_even_everywhere() {
    rounds_to_nearest_even(f32_to_bf16, bf16_to_f32, 0x7f80);
}

#[test]
fn narrowing_of_any_bits_agrees_on_every_instruction_set() {
    let mut random = Random(5);
    let any: Vec<f32> =
        AWKWARD.into_iter().chain((0..5000).map(|_| random.next() as u32)).map(f32::from_bits).collect();
    for start in 0..5 {
        for len in (0..=67).chain([any.len() - start]) {
            let from = &any[start..start + len];
            for isa in isas() {
                for narrow in [f32_to_bf16 as Narrow, f32_to_f16] {
                    assert_eq!(
                        narrowed(isa, narrow, from),
                        narrowed(Isa::Scalar, narrow, from),
                        "{isa} {len}"
                    );
                }
            }
        }
    }
}

#[test]
fn int8_keeps_values_within_half_a_scale() {
    for len in 1..=67 {
        let mut random = Random(len as u64);
        let magnitude = [1.0, 1e-20, 1e30][len % 3];
        let from: Vec<f32> = (0..len).map(|_| random.unit() * magnitude).collect();
        let (mut first, mut first_scale) = (Vec::new(), None);
        for isa in isas() {
            let mut q = vec![0; len];
            let scale = f32_to_int8(isa, &from, &mut q);
            assert_eq!(*first_scale.get_or_insert(scale.to_bits()), scale.to_bits());
            if first.is_empty() {
                first.clone_from(&q);
            }
            assert_eq!(q, first, "{isa}");
            assert!(q.iter().any(|q| q.unsigned_abs() == 127), "the largest value uses the whole range");
            let mut back = vec![0.0; len];
            int8_to_f32(isa, &q, scale, &mut back);
            for (x, back) in from.iter().zip(&back) {
                assert!((x - back).abs() <= 0.5001 * scale, "{isa}: {x} became {back}, scale {scale}");
            }
        }
    }
}

#[test]
fn int8_is_defined_for_rows_it_cannot_express() {
    for isa in isas() {
        for (row, scale) in [
            (vec![], 0.0),
            (vec![0.0, -0.0, 0.0], 0.0),
            (vec![f32::from_bits(5), -f32::from_bits(9)], 0.0),
            (vec![1.0, f32::NAN, 2.0], f32::NAN),
            (vec![1.0, f32::NEG_INFINITY], f32::NAN),
        ] {
            let mut q = vec![55; row.len()];
            let got = f32_to_int8(isa, &row, &mut q);
            assert_eq!(bits(&[got]), bits(&[scale]), "{isa} {row:?}");
            assert!(q.iter().all(|&q| q == 0));
            let mut back = vec![1.0; row.len()];
            int8_to_f32(isa, &q, got, &mut back);
            assert!(back.iter().all(|x| x.to_bits() == scale.to_bits()), "{isa} {back:?}");
        }
    }
}

#[test]
fn int8_rounds_ties_to_even() {
    // Scale 1, as the largest value is 127.
    let from = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49, -126.6];
    for isa in isas() {
        let mut q = [0; 9];
        assert_eq!(f32_to_int8(isa, &from, &mut q), 1.0);
        assert_eq!(q, [127, 0, 2, 2, 0, -2, -2, 0, -127]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn checksums_agree_and_can_be_continued(
        bytes in proptest::collection::vec(any::<u8>(), 0..20_000),
        seed: u32,
        cut: prop::sample::Index,
    ) {
        let expected = crc32c(Isa::Scalar, seed, &bytes);
        let (head, tail) = bytes.split_at(cut.index(bytes.len() + 1));
        for isa in isas() {
            prop_assert_eq!(crc32c(isa, seed, &bytes), expected);
            prop_assert_eq!(crc32c(isa, crc32c(isa, seed, head), tail), expected);
        }
    }
}
