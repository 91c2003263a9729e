//! The reference: sixteen floats in an array, one after another.

use super::{LANES, Vector, arithmetic};

/// Sixteen lanes as an array.
#[derive(Clone, Copy)]
pub(crate) struct Scalar([f32; LANES]);

impl Scalar {
    #[inline(always)]
    fn zip<T: Copy + Default>(self, other: Self, f: impl Fn(f32, f32) -> T) -> [T; LANES] {
        let mut out = [T::default(); LANES];
        for ((out, &x), &y) in out.iter_mut().zip(&self.0).zip(&other.0) {
            *out = f(x, y);
        }
        out
    }
}

arithmetic!(
    Scalar,
    |a: Scalar, b: Scalar| Scalar(a.zip(b, |x, y| x + y)),
    |a: Scalar, b: Scalar| Scalar(a.zip(b, |x, y| x - y)),
    |a: Scalar, b: Scalar| Scalar(a.zip(b, |x, y| x * y)),
    |a: Scalar, b: Scalar| Scalar(a.zip(b, |x, y| x / y))
);

impl Vector for Scalar {
    type Mask = [bool; LANES];

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Scalar([x; LANES])
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller vouches for 16 floats; read_unaligned needs no alignment.
        Scalar(unsafe { p.cast::<[f32; LANES]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_part(p: *const f32, count: usize) -> Self {
        let mut lanes = [0.0; LANES];
        for (lane, out) in lanes.iter_mut().enumerate().take(count) {
            // SAFETY: `lane < count`, for which the caller vouches.
            *out = unsafe { p.add(lane).read_unaligned() };
        }
        Scalar(lanes)
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller vouches for 16 floats; write_unaligned needs no alignment.
        unsafe { p.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, count: usize) {
        for (lane, &x) in self.0.iter().enumerate().take(count) {
            // SAFETY: `lane < count`, for which the caller vouches.
            unsafe { p.add(lane).write_unaligned(x) };
        }
    }

    #[inline(always)]
    fn like(self, x: f32) -> Self {
        Scalar([x; LANES])
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        Scalar(self.0.map(f32::sqrt))
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Scalar(self.0.map(f32::abs))
    }

    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        Scalar(self.zip(sign, f32::copysign))
    }

    #[inline(always)]
    fn and(self, other: Self) -> Self {
        Scalar(self.zip(other, |x, y| f32::from_bits(x.to_bits() & y.to_bits())))
    }

    #[inline(always)]
    fn gt(self, other: Self) -> Self::Mask {
        self.zip(other, |x, y| x > y)
    }

    #[inline(always)]
    fn le(self, other: Self) -> Self::Mask {
        self.zip(other, |x, y| x <= y)
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Self::Mask {
        self.zip(other, |x, y| x == y)
    }

    #[inline(always)]
    fn unordered(self, other: Self) -> Self::Mask {
        self.zip(other, |x, y| x.is_nan() || y.is_nan())
    }

    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        let mut out = no.0;
        for lane in 0..LANES {
            if mask[lane] {
                out[lane] = yes.0[lane];
            }
        }
        Scalar(out)
    }
}
