//! bf16: the upper half of an f32. Narrowing rounds to nearest, ties to even, by adding 0x7fff plus the lowest kept
//! bit before the cut; overflow becomes infinity by the carry. NaN becomes 0x7fc0.

use super::convert;
use crate::isa::Isa;

#[inline(always)]
pub(crate) fn f32_to_bf16_bits(bits: u32) -> u16 {
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let narrow = if bits & 0x7fff_ffff > 0x7f80_0000 { 0x7fc0 } else { rounded };
    narrow as u16
}

#[inline(always)]
pub(crate) fn bf16_to_f32_bits(narrow: u16) -> u32 {
    u32::from(narrow) << 16
}

/// Narrows `from` to bf16, rounding to nearest even; every NaN becomes 0x7fc0.
///
/// Panics if the lengths differ.
pub fn f32_to_bf16(isa: Isa, from: &[f32], to: &mut [u16]) {
    convert(isa, from, to, |x: f32| f32_to_bf16_bits(x.to_bits()));
}

/// Widens bf16, exactly: NaN payloads are kept.
///
/// Panics if the lengths differ.
pub fn bf16_to_f32(isa: Isa, from: &[u16], to: &mut [f32]) {
    convert(isa, from, to, |x: u16| f32::from_bits(bf16_to_f32_bits(x)));
}
