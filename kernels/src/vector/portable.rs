//! Sixteen lanes of the `wide` crate, which picks instructions when it is compiled: SSE2 on x86-64, NEON on aarch64.
//!
//! Only operations of `wide` that are exact are used: `+ - * /`, `sqrt`, comparisons, selection and bit operations.
//! Its `mul_add`, `min` and `max` are avoided (rounding and NaN rules depend on the target). Bucket probing keeps
//! the scalar loop of the trait: SSE2 has no 64-bit comparison.

use wide::f32x16;

use super::{LANES, Vector, arithmetic};
use crate::text;

/// Sixteen lanes of `wide`.
#[derive(Clone, Copy)]
pub(crate) struct Portable(f32x16);

arithmetic!(
    Portable,
    |a: Portable, b: Portable| Portable(a.0 + b.0),
    |a: Portable, b: Portable| Portable(a.0 - b.0),
    |a: Portable, b: Portable| Portable(a.0 * b.0),
    |a: Portable, b: Portable| Portable(a.0 / b.0)
);

const SIGN: f32 = -0.0;

impl Vector for Portable {
    type Mask = f32x16;

    #[inline(always)]
    unsafe fn equal(bytes: &[u8; 64], byte: u8) -> u64 {
        text::equal_bytes(bytes, byte)
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Portable(f32x16::splat(x))
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller vouches for 16 floats; read_unaligned needs no alignment.
        Portable(f32x16::new(unsafe { p.cast::<[f32; LANES]>().read_unaligned() }))
    }

    #[inline(always)]
    unsafe fn load_part(p: *const f32, count: usize) -> Self {
        let mut lanes = [0.0; LANES];
        for (lane, out) in lanes.iter_mut().enumerate().take(count) {
            // SAFETY: `lane < count`, for which the caller vouches.
            *out = unsafe { p.add(lane).read_unaligned() };
        }
        Portable(f32x16::new(lanes))
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller vouches for 16 floats; write_unaligned needs no alignment.
        unsafe { p.cast::<[f32; LANES]>().write_unaligned(self.0.to_array()) }
    }

    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, count: usize) {
        for (lane, x) in self.0.to_array().into_iter().enumerate().take(count) {
            // SAFETY: `lane < count`, for which the caller vouches.
            unsafe { p.add(lane).write_unaligned(x) };
        }
    }

    #[inline(always)]
    fn like(self, x: f32) -> Self {
        Portable(f32x16::splat(x))
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        Portable(self.0.sqrt())
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Portable(self.0 & f32x16::splat(f32::from_bits(!SIGN.to_bits())))
    }

    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        Portable(self.abs().0 | (sign.0 & f32x16::splat(SIGN)))
    }

    #[inline(always)]
    fn and(self, other: Self) -> Self {
        Portable(self.0 & other.0)
    }

    #[inline(always)]
    fn gt(self, other: Self) -> Self::Mask {
        self.0.simd_gt(other.0)
    }

    #[inline(always)]
    fn le(self, other: Self) -> Self::Mask {
        self.0.simd_le(other.0)
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Self::Mask {
        self.0.simd_eq(other.0)
    }

    #[inline(always)]
    fn unordered(self, other: Self) -> Self::Mask {
        !(self.0.simd_eq(self.0) & other.0.simd_eq(other.0))
    }

    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        Portable((mask & yes.0) | (!mask & no.0))
    }
}
