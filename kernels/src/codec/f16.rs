//! IEEE binary16. Narrowing rounds to nearest even and yields correct denormals: a normal result is the f32 bits with
//! the exponent rebiased and 13 bits rounded off; a denormal one is the significand shifted right by the missing
//! exponent with the same rounding. Too large becomes infinity, NaN becomes 0x7e00 (the sign is dropped).

use super::convert;
use crate::isa::Isa;

/// f32 bits of 65536: from here on the result is infinite whatever the rounding.
const TOO_LARGE: u32 = 143 << 23;
/// f32 bits of 2^-14, the smallest normal f16.
const SMALLEST_NORMAL: u32 = 113 << 23;

#[inline(always)]
fn narrow(bits: u32) -> u16 {
    let sign = (bits >> 16) & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    // Normal: exponent bias 127 becomes 15; a carry out of the significand rises into the exponent, up to infinity.
    let rebiased = magnitude.wrapping_sub((127 - 15) << 23);
    let normal = rebiased.wrapping_add(0xfff + ((magnitude >> 13) & 1)) >> 13;
    // Denormal: units of 2^-24; the shift is 14 at 2^-15 and grows as the number shrinks; at 31 nothing is left.
    let shift = (126u32.wrapping_sub(magnitude >> 23)).min(31);
    let significand = (magnitude & 0x7f_ffff) | 0x80_0000;
    let quotient = significand.wrapping_shr(shift);
    let rest = significand.wrapping_sub(quotient.wrapping_shl(shift));
    let halfway = 1u32.wrapping_shl(shift.wrapping_sub(1));
    let up = (rest > halfway) | ((rest == halfway) & (quotient & 1 == 1));
    let denormal = quotient + u32::from(up);
    let finite = if magnitude < SMALLEST_NORMAL { denormal } else { normal };
    let value = if magnitude >= TOO_LARGE { 0x7c00 } else { finite } | sign;
    (if magnitude > 0x7f80_0000 { 0x7e00 } else { value }) as u16
}

#[inline(always)]
fn widen(half: u16) -> u32 {
    let half = u32::from(half);
    let sign = (half & 0x8000) << 16;
    let magnitude = half & 0x7fff;
    let normal = (magnitude << 13) + ((127 - 15) << 23);
    // Infinity and NaN: the exponent must be 255; it is 31 + 112 so far.
    let special = normal + ((255 - 143) << 23);
    // A denormal is an integer below 1024 in units of 2^-24: the conversion is exact, and so is the product.
    let denormal = (magnitude as f32 * f32::from_bits((127 - 24) << 23)).to_bits();
    let value = if magnitude >= 0x7c00 { special } else { normal };
    sign | if magnitude < 0x0400 { denormal } else { value }
}

/// Narrows `from` to f16, rounding to nearest even, denormals included; every NaN becomes 0x7e00.
///
/// Panics if the lengths differ.
pub fn f32_to_f16(isa: Isa, from: &[f32], to: &mut [u16]) {
    convert(isa, from, to, |x: f32| narrow(x.to_bits()));
}

/// Widens f16, exactly: NaN payloads are kept.
///
/// Panics if the lengths differ.
pub fn f16_to_f32(isa: Isa, from: &[u16], to: &mut [f32]) {
    convert(isa, from, to, |x: u16| f32::from_bits(widen(x)));
}
