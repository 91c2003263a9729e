//! Sixteen lanes as two 256-bit registers.
//!
//! Soundness: see the facade; a value of [`Avx2`] proves that the CPU has AVX2, which `exact!` relies on.

use std::arch::x86_64::*;

use super::{LANES, Vector, Work, arithmetic};
use crate::bucket::Line;

/// Two registers: lanes 0..8 and 8..16.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256, __m256);

/// Compiles `work` with these instructions.
///
/// # Safety
/// The CPU has the features named below; the pointers in `work` are valid for it.
#[target_feature(enable = "avx2,sse4.2,pclmulqdq,popcnt,bmi1,bmi2,lzcnt")]
pub(super) unsafe fn enter<W: Work>(work: W) -> W::Output {
    // SAFETY: both are this function's own contract.
    unsafe { work.run::<Avx2>() }
}

/// Register arithmetic of values that exist.
macro_rules! exact {
    ($expression:expr) => {{
        // SAFETY: operands of type `Avx2` exist only where AVX2 was detected (facade).
        unsafe { $expression }
    }};
}

arithmetic!(
    Avx2,
    |a: Avx2, b: Avx2| exact!(Avx2(_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1))),
    |a: Avx2, b: Avx2| exact!(Avx2(_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1))),
    |a: Avx2, b: Avx2| exact!(Avx2(_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1))),
    |a: Avx2, b: Avx2| exact!(Avx2(_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)))
);

/// A window over ones, then zeros: starting at `16 - count`, the first `count` entries are ones.
static PART: [i32; 2 * LANES] = {
    let mut table = [0; 2 * LANES];
    let mut lane = 0;
    while lane < LANES {
        table[lane] = -1;
        lane += 1;
    }
    table
};

/// Lane masks of the first `count` lanes.
///
/// # Safety
/// The CPU has AVX2; `count <= 16`.
#[inline(always)]
unsafe fn part(count: usize) -> (__m256i, __m256i) {
    // SAFETY: 16 entries from `16 - count` on lie within the 32 of the table because `count <= 16`.
    unsafe {
        let start = PART.as_ptr().add(LANES - count);
        (_mm256_loadu_si256(start.cast()), _mm256_loadu_si256(start.add(8).cast()))
    }
}

impl Avx2 {
    #[inline(always)]
    fn compare<const PREDICATE: i32>(self, other: Self) -> Self {
        exact!(Avx2(_mm256_cmp_ps::<PREDICATE>(self.0, other.0), _mm256_cmp_ps::<PREDICATE>(self.1, other.1)))
    }
}

impl Vector for Avx2 {
    type Mask = Avx2;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller vouches for AVX2.
        let half = unsafe { _mm256_set1_ps(x) };
        Avx2(half, half)
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller vouches for AVX2 and 16 floats; the loads need no alignment.
        unsafe { Avx2(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
    }

    #[inline(always)]
    unsafe fn load_part(p: *const f32, count: usize) -> Self {
        // SAFETY: AVX2 and `count` floats by contract; masked-off lanes are not touched, so the address of the upper
        // half (formed by wrapping_add) may lie outside the object.
        unsafe {
            let (low, high) = part(count);
            Avx2(_mm256_maskload_ps(p, low), _mm256_maskload_ps(p.wrapping_add(8), high))
        }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: AVX2 by the existence of `self`; 16 floats by contract.
        unsafe {
            _mm256_storeu_ps(p, self.0);
            _mm256_storeu_ps(p.add(8), self.1);
        }
    }

    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, count: usize) {
        // SAFETY: as in `load_part`.
        unsafe {
            let (low, high) = part(count);
            _mm256_maskstore_ps(p, low, self.0);
            _mm256_maskstore_ps(p.wrapping_add(8), high, self.1);
        }
    }

    #[inline(always)]
    fn like(self, x: f32) -> Self {
        // SAFETY: AVX2 by the existence of `self`.
        unsafe { Self::splat(x) }
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        exact!(Avx2(_mm256_sqrt_ps(self.0), _mm256_sqrt_ps(self.1)))
    }

    #[inline(always)]
    fn abs(self) -> Self {
        self.and(self.like(f32::from_bits(0x7fff_ffff)))
    }

    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        let (magnitude, sign) = (self.abs(), sign.and(self.like(-0.0)));
        exact!(Avx2(_mm256_or_ps(magnitude.0, sign.0), _mm256_or_ps(magnitude.1, sign.1)))
    }

    #[inline(always)]
    fn and(self, other: Self) -> Self {
        exact!(Avx2(_mm256_and_ps(self.0, other.0), _mm256_and_ps(self.1, other.1)))
    }

    #[inline(always)]
    fn gt(self, other: Self) -> Self::Mask {
        self.compare::<_CMP_GT_OQ>(other)
    }

    #[inline(always)]
    fn le(self, other: Self) -> Self::Mask {
        self.compare::<_CMP_LE_OQ>(other)
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Self::Mask {
        self.compare::<_CMP_EQ_OQ>(other)
    }

    #[inline(always)]
    fn unordered(self, other: Self) -> Self::Mask {
        self.compare::<_CMP_UNORD_Q>(other)
    }

    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        exact!(Avx2(_mm256_blendv_ps(no.0, yes.0, mask.0), _mm256_blendv_ps(no.1, yes.1, mask.1)))
    }

    #[inline(always)]
    fn tree_sum(self) -> f32 {
        exact!({
            let eight = _mm256_add_ps(self.0, self.1);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        })
    }

    #[inline(always)]
    unsafe fn lanes_with<const LANES: usize>(line: &Line, stored: u64) -> u32 {
        // SAFETY: AVX2 by contract; a line has 64 bytes.
        unsafe {
            let key = _mm256_set1_epi64x(stored.cast_signed());
            let equal = |half: *const u32| {
                let equal = _mm256_cmpeq_epi64(_mm256_loadu_si256(half.cast()), key);
                _mm256_movemask_pd(_mm256_castsi256_pd(equal)).cast_unsigned()
            };
            let low = equal(line.as_ptr());
            let lanes = if LANES > 4 { low | equal(line.as_ptr().add(8)) << 4 } else { low };
            lanes & ((1 << LANES) - 1)
        }
    }

    #[inline(always)]
    unsafe fn equal(bytes: &[u8; 64], byte: u8) -> u64 {
        // SAFETY: AVX2 by contract; 64 bytes are there.
        unsafe {
            let wanted = _mm256_set1_epi8(byte.cast_signed());
            let equal = |half: *const u8| {
                let equal = _mm256_cmpeq_epi8(_mm256_loadu_si256(half.cast()), wanted);
                u64::from(_mm256_movemask_epi8(equal).cast_unsigned())
            };
            equal(bytes.as_ptr()) | equal(bytes.as_ptr().add(32)) << 32
        }
    }
}
