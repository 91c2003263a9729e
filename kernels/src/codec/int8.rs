//! int8 with one scale a row: `scale = max|x| / 127`, `q = round_to_even(x / scale)` in -127..=127, `x' = q * scale`.
//!
//! The error of a value is at most half a scale (plus a rounding). Rows that this can't express are defined:
//! all zero (or so small that the scale would be denormal): scale 0, all q 0. Containing an infinity or NaN: scale is
//! NaN (0x7fc00000), all q 0, so that the receiver sees NaN rather than a plausible number.
//! The quotient is a true division, rounding is by adding and subtracting 1.5 * 2^23, exact for |x| <= 127.

use super::convert;
use crate::isa::Isa;
use crate::vector::{CANONICAL_NAN, Vector, Work, run};

/// 1.5 * 2^23: near it, consecutive floats are one apart, so a sum with it is rounded to an integer.
const ROUNDING: f32 = 12_582_912.0;

struct Largest<'a>(&'a [f32]);

impl Work for Largest<'_> {
    type Output = u32;

    /// The largest magnitude as bits; they order like the numbers, infinity and NaN on top.
    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> u32 {
        self.0.iter().fold(0, |largest, x| largest.max(x.to_bits() & 0x7fff_ffff))
    }
}

/// The largest magnitude in `values` as f32 bits; above 0x7f800000 if there is a NaN.
pub(crate) fn largest_magnitude(isa: Isa, values: &[f32]) -> u32 {
    // SAFETY: `Largest` holds a slice only.
    unsafe { run(isa, Largest(values)) }
}

/// Quantises one row and returns its scale: 0 for a row of zeros, NaN for one with a NaN or infinity.
///
/// Panics if the lengths differ.
pub fn f32_to_int8(isa: Isa, from: &[f32], to: &mut [i8]) -> f32 {
    let largest = largest_magnitude(isa, from);
    let scale = f32::from_bits(largest) / 127.0;
    let scale = match largest {
        0x7f80_0000.. => CANONICAL_NAN,
        _ if scale.is_normal() => scale,
        _ => 0.0,
    };
    if scale.is_normal() {
        convert(isa, from, to, |x: f32| (((x / scale) + ROUNDING) - ROUNDING) as i8);
    } else {
        assert_eq!(from.len(), to.len(), "conversion between slices of different length");
        to.fill(0);
    }
    scale
}

/// Restores one row: `q * scale`, canonical NaN if the scale is NaN.
///
/// Panics if the lengths differ.
pub fn int8_to_f32(isa: Isa, from: &[i8], scale: f32, to: &mut [f32]) {
    if scale.is_finite() {
        convert(isa, from, to, |q: i8| f32::from(q) * scale);
    } else {
        assert_eq!(from.len(), to.len(), "conversion between slices of different length");
        to.fill(CANONICAL_NAN);
    }
}
