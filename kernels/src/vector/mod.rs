//! Sixteen f32 lanes, four ways.
//!
//! Problem: replicas of a chain apply the same updates on different CPUs and must agree in every bit. Idea: each
//! formula is written once, over the trait [`Vector`], whose operations are the ones IEEE 754 defines to the last
//! bit (add, subtract, multiply, divide, square root, compare, bit operations). A vector always has 16 lanes: one
//! AVX-512 register, two AVX2 ones, an array. Every reduction then has the same tree everywhere, and a tail is the
//! same arithmetic with fewer lanes stored. Absent on purpose: fused multiply-add, reciprocal estimates, min and max
//! instructions (their NaN rules differ), anything that depends on the number of lanes.
//!
//! Soundness. A value of an AVX type proves that the CPU has its instructions: values come only from other values
//! or from the `unsafe` constructors, whose contract is that the features were detected; the only caller that
//! starts without a value is [`run`], which asserts it. So arithmetic on existing values is safe. Loads and stores
//! are `unsafe` for their pointers. The test that would notice a wrong lane or mask: `tests/bits`.

use std::ops::{Add, Div, Mul, Sub};

use crate::MISSING;
use crate::bucket::Line;
use crate::isa::Isa;
use crate::text::{self, Positions};
use crate::walk::{self, BLOCK, CHUNK, Walk};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
mod scalar;

pub(crate) use scalar::Scalar;

/// Lanes of every vector.
pub(crate) const LANES: usize = 16;

/// The one NaN that is ever stored.
pub(crate) const CANONICAL_NAN: f32 = f32::from_bits(0x7fc0_0000);

/// Sixteen f32 lanes. All methods are `#[inline(always)]`: they become code of the function that [`run`] enters.
pub(crate) trait Vector:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// Outcome of a comparison, one truth per lane.
    type Mask: Copy;

    /// # Safety
    /// The CPU has this type's instructions.
    unsafe fn splat(x: f32) -> Self;
    /// # Safety
    /// As [`Vector::splat`], and 16 floats are readable at `p` (any alignment).
    unsafe fn load(p: *const f32) -> Self;
    /// The first `count` lanes from memory, +0 in the others.
    /// # Safety
    /// As [`Vector::splat`], and `count <= 16` floats are readable at `p`.
    unsafe fn load_part(p: *const f32, count: usize) -> Self;
    /// # Safety
    /// 16 floats are writable at `p` (any alignment).
    unsafe fn store(self, p: *mut f32);
    /// Writes the first `count` lanes only.
    /// # Safety
    /// `count <= 16` floats are writable at `p`.
    unsafe fn store_part(self, p: *mut f32, count: usize);

    /// `x` in every lane; `self` only proves that the instructions exist.
    fn like(self, x: f32) -> Self;
    fn sqrt(self) -> Self;
    fn abs(self) -> Self;
    /// The magnitude of `self` with the sign of `sign`.
    fn copysign(self, sign: Self) -> Self;
    /// Bitwise and.
    fn and(self, other: Self) -> Self;
    /// False where either is NaN.
    fn gt(self, other: Self) -> Self::Mask;
    /// False where either is NaN.
    fn le(self, other: Self) -> Self::Mask;
    /// False where either is NaN.
    fn eq(self, other: Self) -> Self::Mask;
    /// True where either is NaN.
    fn unordered(self, other: Self) -> Self::Mask;
    /// `yes` where the mask is true, else `no`.
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;

    /// Every NaN becomes [`CANONICAL_NAN`]: which payload an operation yields depends on its encoding.
    #[inline(always)]
    fn canonical(self) -> Self {
        Self::select(self.unordered(self), self.like(CANONICAL_NAN), self)
    }

    #[inline(always)]
    fn to_array(self) -> [f32; LANES] {
        let mut array = [0.0; LANES];
        // SAFETY: the array has 16 floats.
        unsafe { self.store(array.as_mut_ptr()) };
        array
    }

    /// The sum of all lanes by the one tree of this project: lane l plus lane l + 8, then + 4, + 2, + 1.
    #[inline(always)]
    fn tree_sum(self) -> f32 {
        let mut lanes = self.to_array();
        let mut half = LANES / 2;
        while half > 0 {
            for lane in 0..half {
                lanes[lane] += lanes[lane + half];
            }
            half /= 2;
        }
        lanes[0]
    }

    /// Whether [`Vector::gather`] and [`Vector::scatter`] are instructions; where not, plain loops over rows are faster.
    const SCATTERS: bool = false;

    /// Lane l is the word at `memory + offsets[l]`.
    /// # Safety
    /// As [`Vector::splat`]; `memory` has a word for each offset.
    #[inline(always)]
    unsafe fn gather(memory: *const u32, offsets: &[u32; LANES]) -> Self {
        // SAFETY: the caller vouches for the words and the instructions; the array has 16 floats.
        unsafe { Self::load(offsets.map(|offset| f32::from_bits(*memory.add(offset as usize))).as_ptr()) }
    }

    /// Copies the word at `memory + offsets[l]` to `out[l]` where that offset is not [`MISSING`]; the rest of `out` is
    /// left alone.
    /// # Safety
    /// As [`Vector::splat`]; `memory` has a word for each offset that is not missing, 16 floats are writable at `out`.
    #[inline(always)]
    unsafe fn copy_words(memory: *const u32, offsets: &[u32; LANES], out: *mut f32) {
        for (lane, &offset) in offsets.iter().enumerate() {
            if offset != MISSING {
                // SAFETY: the caller vouches for the word and for the output.
                unsafe { *out.add(lane) = f32::from_bits(*memory.add(offset as usize)) };
            }
        }
    }

    /// Writes lane l to the word at `memory + offsets[l]`.
    /// # Safety
    /// `memory` has a word for each offset, and no two offsets are equal.
    #[inline(always)]
    unsafe fn scatter(self, memory: *mut u32, offsets: &[u32; LANES]) {
        for (lane, &offset) in self.to_array().iter().zip(offsets) {
            // SAFETY: the caller vouches for the word.
            unsafe { *memory.add(offset as usize) = lane.to_bits() };
        }
    }

    /// Whether two offsets are equal.
    /// # Safety
    /// As [`Vector::splat`].
    #[inline(always)]
    unsafe fn repeats(offsets: &[u32; LANES]) -> bool {
        (1..LANES).any(|lane| offsets[..lane].contains(&offsets[lane]))
    }

    /// Bit mask of the lanes, of the first `LANES <= 8`, whose u64 is `stored`.
    /// # Safety
    /// As [`Vector::splat`].
    #[inline(always)]
    unsafe fn lanes_with<const LANES: usize>(line: &Line, stored: u64) -> u32 {
        let mut lanes = 0;
        for lane in 0..LANES {
            let key = u64::from(line[2 * lane]) | u64::from(line[2 * lane + 1]) << 32;
            lanes |= u32::from(key == stored) << lane;
        }
        lanes
    }

    /// Bit mask of the bytes that are `byte`.
    /// # Safety
    /// As [`Vector::splat`].
    #[inline(always)]
    unsafe fn equal(bytes: &[u8; 64], byte: u8) -> u64 {
        text::in_words(bytes, byte)
    }

    /// Writes `base` + i for each bit i of `mask`, in order, from the start of `out`; anything may be after those.
    /// # Safety
    /// As [`Vector::splat`].
    #[inline(always)]
    unsafe fn positions(mask: u64, base: u32, out: &mut Positions) {
        text::positions(mask, base, out);
    }

    /// The first line of each key's bucket.
    /// # Safety
    /// As [`Vector::splat`].
    #[inline(always)]
    unsafe fn locate(walk: &Walk<'_>, keys: &[u64; CHUNK], lines_shift: u32, at: &mut [u32; CHUNK]) {
        walk::locate(walk, keys, lines_shift, at);
    }

    /// For each key the lanes of the bucket at its line that hold it.
    /// # Safety
    /// As [`Vector::splat`].
    #[inline(always)]
    unsafe fn hits<const LANES: usize>(
        lines: &[Line],
        at: &[u32; BLOCK],
        keys: &[u64; BLOCK],
        hits: &mut [u8; BLOCK],
    ) {
        // SAFETY: the caller's contract is that of the callee.
        unsafe { walk::hits::<Self, LANES>(lines, at, keys, hits) }
    }

    /// Turns lines and lanes into payloads; see [`crate::Prober::payloads`].
    /// # Safety
    /// As [`Vector::splat`].
    #[inline(always)]
    unsafe fn payloads<const LANES: usize, const PAYLOAD: usize, const READ: bool>(
        lines: &[Line],
        hits: &[u8; CHUNK],
        at: &mut [u32; CHUNK],
    ) {
        walk::payloads::<LANES, PAYLOAD, READ>(lines, hits, at);
    }
}

/// Work that is written once over [`Vector`] and compiled for each instruction set by [`run`].
pub(crate) trait Work {
    type Output;
    /// Implementations are `#[inline(always)]`, or they would be compiled without the instructions.
    /// # Safety
    /// The CPU has the instructions of `V`; whatever pointers `self` carries are valid for this work.
    unsafe fn run<V: Vector>(self) -> Self::Output;
}

/// Runs `work` with the instructions of `isa`.
///
/// # Safety
/// The pointers in `work` are valid for it. (That the CPU supports `isa` is asserted here.)
#[inline]
pub(crate) unsafe fn run<W: Work>(isa: Isa, work: W) -> W::Output {
    assert!(isa.is_supported(), "this CPU has no {isa}");
    // SAFETY: the assertion above proves the instructions; the caller vouches for the pointers.
    unsafe {
        match isa {
            Isa::Scalar => work.run::<Scalar>(),
            Isa::Portable => work.run::<portable::Portable>(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::enter(work),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::enter(work),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => work.run::<Scalar>(),
        }
    }
}

/// Declares `+ - * /` of a vector type from four functions.
macro_rules! arithmetic {
    ($vector:ty, $add:expr, $sub:expr, $mul:expr, $div:expr) => {
        impl std::ops::Add for $vector {
            type Output = Self;
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                $add(self, other)
            }
        }
        impl std::ops::Sub for $vector {
            type Output = Self;
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                $sub(self, other)
            }
        }
        impl std::ops::Mul for $vector {
            type Output = Self;
            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                $mul(self, other)
            }
        }
        impl std::ops::Div for $vector {
            type Output = Self;
            #[inline(always)]
            fn div(self, other: Self) -> Self {
                $div(self, other)
            }
        }
    };
}
pub(crate) use arithmetic;
