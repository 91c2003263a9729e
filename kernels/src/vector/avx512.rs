//! Sixteen lanes as one 512-bit register, tails by mask registers.
//!
//! Soundness: see the facade; a value of [`Avx512`] proves that the CPU has the features of [`enter`], which
//! `exact!` relies on. Refused: `vrcp14ps`/`vrsqrt14ps` (estimates), `vcvtneps2bf16` (flushes denormals). A scatter is
//! wrong for repeated rows, so its caller asks `repeats` first; one conflict detection hides behind sixteen misses.

use std::arch::x86_64::*;

use super::{LANES, Vector, Work, arithmetic};
use crate::MISSING;
use crate::bucket::{LINE_WORDS, Line, MAX_LANES};
use crate::text::Positions;
use crate::walk::{BLOCK, CHUNK, MAX_SEGMENT, Walk};

/// One register.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(__m512);

/// Compiles `work` with these instructions.
///
/// # Safety
/// The CPU has the features named below; the pointers in `work` are valid for it.
#[target_feature(
    enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,sse4.2,pclmulqdq,popcnt,bmi1,bmi2,lzcnt"
)]
pub(super) unsafe fn enter<W: Work>(work: W) -> W::Output {
    // SAFETY: both are this function's own contract.
    unsafe { work.run::<Avx512>() }
}

/// Register arithmetic of values that exist.
macro_rules! exact {
    ($expression:expr) => {{
        // SAFETY: operands of type `Avx512` exist only where AVX-512 was detected (facade).
        unsafe { $expression }
    }};
}

arithmetic!(
    Avx512,
    |a: Avx512, b: Avx512| exact!(Avx512(_mm512_add_ps(a.0, b.0))),
    |a: Avx512, b: Avx512| exact!(Avx512(_mm512_sub_ps(a.0, b.0))),
    |a: Avx512, b: Avx512| exact!(Avx512(_mm512_mul_ps(a.0, b.0))),
    |a: Avx512, b: Avx512| exact!(Avx512(_mm512_div_ps(a.0, b.0)))
);

/// The mask of the first `count <= 16` lanes.
#[inline(always)]
fn part(count: usize) -> __mmask16 {
    ((1u32 << count) - 1) as __mmask16
}

/// The instructions take signed 32-bit indices. Offsets are unsigned: with the top bit flipped they count from a base
/// that lies as much later.
const SIGN_BIT: usize = 1 << 31;

#[inline(always)]
fn load_offsets(offsets: &[u32; LANES]) -> __m512i {
    exact!(_mm512_loadu_si512(offsets.as_ptr().cast()))
}

#[inline(always)]
fn signed(offsets: __m512i) -> __m512i {
    exact!(_mm512_xor_si512(offsets, _mm512_set1_epi32(i32::MIN)))
}

impl Vector for Avx512 {
    type Mask = __mmask16;
    const SCATTERS: bool = true;

    #[inline(always)]
    unsafe fn gather(memory: *const u32, offsets: &[u32; LANES]) -> Self {
        let base = memory.wrapping_add(SIGN_BIT).cast();
        // SAFETY: AVX-512 by contract; base plus index is `memory` plus offset, where the caller vouches for a word.
        unsafe { Avx512(_mm512_i32gather_ps::<4>(signed(load_offsets(offsets)), base)) }
    }

    #[inline(always)]
    unsafe fn copy_words(memory: *const u32, offsets: &[u32; LANES], out: *mut f32) {
        let base = memory.wrapping_add(SIGN_BIT).cast();
        // SAFETY: as in `gather`; masked-off lanes are neither read nor written.
        unsafe {
            let offsets = load_offsets(offsets);
            let there = _mm512_cmpneq_epi32_mask(offsets, _mm512_set1_epi32(MISSING.cast_signed()));
            let words = _mm512_mask_i32gather_ps::<4>(_mm512_setzero_ps(), there, signed(offsets), base);
            _mm512_mask_storeu_ps(out, there, words);
        }
    }

    #[inline(always)]
    unsafe fn scatter(self, memory: *mut u32, offsets: &[u32; LANES]) {
        let base = memory.wrapping_add(SIGN_BIT).cast();
        // SAFETY: as in `gather`; no two lanes write one word, by contract.
        unsafe { _mm512_i32scatter_ps::<4>(base, signed(load_offsets(offsets)), self.0) }
    }

    #[inline(always)]
    unsafe fn repeats(offsets: &[u32; LANES]) -> bool {
        // SAFETY: AVX-512 by contract.
        unsafe {
            let conflicts = _mm512_conflict_epi32(load_offsets(offsets));
            _mm512_test_epi32_mask(conflicts, conflicts) != 0
        }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller vouches for AVX-512.
        Avx512(unsafe { _mm512_set1_ps(x) })
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller vouches for AVX-512 and 16 floats; the load needs no alignment.
        Avx512(unsafe { _mm512_loadu_ps(p) })
    }

    #[inline(always)]
    unsafe fn load_part(p: *const f32, count: usize) -> Self {
        // SAFETY: AVX-512 and `count` floats by contract; masked-off lanes are not touched.
        Avx512(unsafe { _mm512_maskz_loadu_ps(part(count), p) })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: AVX-512 by the existence of `self`; 16 floats by contract.
        unsafe { _mm512_storeu_ps(p, self.0) }
    }

    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, count: usize) {
        // SAFETY: as in `load_part`.
        unsafe { _mm512_mask_storeu_ps(p, part(count), self.0) }
    }

    #[inline(always)]
    fn like(self, x: f32) -> Self {
        // SAFETY: AVX-512 by the existence of `self`.
        unsafe { Self::splat(x) }
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        exact!(Avx512(_mm512_sqrt_ps(self.0)))
    }

    #[inline(always)]
    fn abs(self) -> Self {
        self.and(self.like(f32::from_bits(0x7fff_ffff)))
    }

    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        let (magnitude, sign) = (self.abs(), sign.and(self.like(-0.0)));
        exact!(Avx512(_mm512_or_ps(magnitude.0, sign.0)))
    }

    #[inline(always)]
    fn and(self, other: Self) -> Self {
        exact!(Avx512(_mm512_and_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn gt(self, other: Self) -> Self::Mask {
        exact!(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, other.0))
    }

    #[inline(always)]
    fn le(self, other: Self) -> Self::Mask {
        exact!(_mm512_cmp_ps_mask::<_CMP_LE_OQ>(self.0, other.0))
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Self::Mask {
        exact!(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, other.0))
    }

    #[inline(always)]
    fn unordered(self, other: Self) -> Self::Mask {
        exact!(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, other.0))
    }

    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        exact!(Avx512(_mm512_mask_blend_ps(mask, no.0, yes.0)))
    }

    #[inline(always)]
    fn tree_sum(self) -> f32 {
        exact!({
            let eight = _mm256_add_ps(_mm512_castps512_ps256(self.0), _mm512_extractf32x8_ps::<1>(self.0));
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        })
    }

    #[inline(always)]
    unsafe fn lanes_with<const LANES: usize>(line: &Line, stored: u64) -> u32 {
        // SAFETY: AVX-512 by contract; a line has 64 bytes.
        unsafe {
            let bucket = _mm512_loadu_si512(line.as_ptr().cast());
            let key = _mm512_set1_epi64(stored.cast_signed());
            u32::from(_mm512_mask_cmpeq_epi64_mask(part(LANES) as __mmask8, bucket, key))
        }
    }

    #[inline(always)]
    unsafe fn equal(bytes: &[u8; 64], byte: u8) -> u64 {
        // SAFETY: AVX-512 by contract; 64 bytes are there.
        unsafe {
            let bytes = _mm512_loadu_si512(bytes.as_ptr().cast());
            _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(byte.cast_signed()))
        }
    }

    #[inline(always)]
    unsafe fn positions(mask: u64, base: u32, out: &mut Positions) {
        let mut count = 0;
        for part in 0..4 {
            // SAFETY: AVX-512 by contract. At most 16 positions a part come before, so 16 words from `count` on are within
            // the 64; what is stored beyond a part's positions is written over by the next.
            unsafe {
                let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
                let first = base.wrapping_add(16 * part).cast_signed();
                let bits = (mask >> (16 * part)) as __mmask16;
                let found =
                    _mm512_maskz_compress_epi32(bits, _mm512_add_epi32(lanes, _mm512_set1_epi32(first)));
                _mm512_storeu_si512(out.as_mut_ptr().add(count).cast(), found);
                count += bits.count_ones() as usize;
            }
        }
    }

    #[inline(always)]
    unsafe fn locate(walk: &Walk<'_>, keys: &[u64; CHUNK], lines_shift: u32, at: &mut [u32; CHUNK]) {
        // SAFETY: AVX-512 by contract. An entry's number has `depth` bits and `Walk::new` proved that the directory has
        // `2^depth` entries; a page's number is compared with the table's length and only lanes within are read; both
        // gathers read whole elements of their slices; loads and stores are of eight numbers.
        unsafe {
            // Each step for all keys before the next one, so that no gather waits for the one it depends on.
            let (mut below, mut spots) =
                ([_mm512_setzero_si512(); CHUNK / 8], [_mm512_setzero_si512(); CHUNK / 8]);
            let depth = _mm_cvtsi32_si128(64 - walk.depth.cast_signed());
            for ((keys, hash), spot) in keys.as_chunks::<8>().0.iter().zip(&mut below).zip(&mut spots) {
                *hash = _mm512_loadu_si512(hash_keys(walk, keys).as_ptr().cast());
                *spot =
                    _mm512_i64gather_epi64::<8>(_mm512_srl_epi64(*hash, depth), walk.spots.as_ptr().cast());
            }
            let pages = _mm512_set1_epi64(walk.pages.len().cast_signed() as i64);
            let segment = _mm512_set1_epi64(i64::from(MAX_SEGMENT) << 3);
            let lines_shift = _mm_cvtsi32_si128(lines_shift.cast_signed());
            let mut all_inside = 0xff;
            for ((at, hash), &spot) in at.as_chunks_mut::<8>().0.iter_mut().zip(&below).zip(&spots) {
                let below = _mm512_srli_epi64::<32>(_mm512_sllv_epi64(*hash, _mm512_srli_epi64::<58>(spot)));
                let bucket = _mm512_srli_epi64::<32>(_mm512_mul_epu32(below, spot));
                let shift = _mm512_and_si512(_mm512_srli_epi64::<54>(spot), _mm512_set1_epi64(15));
                let first = _mm512_and_si512(_mm512_srli_epi64::<29>(spot), segment);
                let page = _mm512_add_epi64(first, _mm512_srlv_epi64(bucket, shift));
                let inside = _mm512_cmplt_epu64_mask(page, pages);
                all_inside &= inside;
                let none = _mm256_setzero_si256();
                let line = _mm512_mask_i64gather_epi32::<4>(none, inside, page, walk.pages.as_ptr().cast());
                let beyond = _mm512_sllv_epi64(_mm512_set1_epi64(-1), shift);
                let within = _mm512_cvtepi64_epi32(_mm512_andnot_si512(beyond, bucket));
                let within = _mm256_sll_epi32(within, lines_shift);
                _mm256_storeu_si256(at.as_mut_ptr().cast(), _mm256_add_epi32(line, within));
            }
            assert!(all_inside == 0xff, "a page that is not in the table");
        }
    }

    #[inline(always)]
    unsafe fn hits<const LANES: usize>(
        lines: &[Line],
        at: &[u32; BLOCK],
        keys: &[u64; BLOCK],
        hits: &mut [u8; BLOCK],
    ) {
        let stored = keys.map(|key| !key);
        // SAFETY: AVX-512 by contract. All sixteen lines are proved to be among `lines` before one is read.
        unsafe {
            let count = u32::try_from(lines.len()).unwrap_or(u32::MAX);
            let outside = _mm512_cmpge_epu32_mask(
                _mm512_loadu_si512(at.as_ptr().cast()),
                _mm512_set1_epi32(count.cast_signed()),
            );
            assert!(outside == 0, "a bucket outside its memory");
            for i in 0..BLOCK {
                let bucket = _mm512_loadu_si512(lines.as_ptr().add(at[i] as usize).cast());
                let key = _mm512_set1_epi64(stored[i].cast_signed());
                hits[i] = _mm512_mask_cmpeq_epi64_mask(part(LANES) as __mmask8, bucket, key);
            }
        }
    }

    #[inline(always)]
    unsafe fn payloads<const LANES: usize, const PAYLOAD: usize, const READ: bool>(
        lines: &[Line],
        hits: &[u8; CHUNK],
        at: &mut [u32; CHUNK],
    ) {
        const { assert!(LANES >= 1 && LANES <= MAX_LANES && (!READ || LANES * 3 <= LINE_WORDS)) };
        for (hits, at) in hits.as_chunks::<BLOCK>().0.iter().zip(at.as_chunks_mut::<BLOCK>().0) {
            // SAFETY: AVX-512 by contract. Lines are proved to be among `lines` before one is read, and a word of a line is
            // below three times the lanes. The base is moved as in `gather`.
            unsafe {
                let line = _mm512_loadu_si512(at.as_ptr().cast());
                let hit = _mm512_cvtepu8_epi32(_mm_loadu_si128(hits.as_ptr().cast()));
                let hit = _mm512_and_si512(hit, _mm512_set1_epi32((1 << LANES) - 1));
                let hit = _mm512_or_si512(hit, _mm512_set1_epi32(1));
                let lane = _mm512_sub_epi32(_mm512_set1_epi32(31), _mm512_lzcnt_epi32(hit));
                let word = match PAYLOAD {
                    1 => lane,
                    2 => _mm512_slli_epi32::<1>(lane),
                    _ => _mm512_mullo_epi32(lane, _mm512_set1_epi32(PAYLOAD as i32)),
                };
                let word = _mm512_add_epi32(word, _mm512_set1_epi32(2 * LANES as i32));
                let word = _mm512_add_epi32(_mm512_slli_epi32::<4>(line), word);
                let payload = match READ {
                    true => {
                        let count = u32::try_from(lines.len()).unwrap_or(u32::MAX).min(1 << 28);
                        let outside = _mm512_cmpge_epu32_mask(line, _mm512_set1_epi32(count.cast_signed()));
                        assert!(outside == 0, "a bucket outside its memory");
                        let base: *const u32 = lines.as_ptr().cast();
                        _mm512_i32gather_epi32::<4>(signed(word), base.wrapping_add(SIGN_BIT).cast())
                    }
                    false => word,
                };
                _mm512_storeu_si512(at.as_mut_ptr().cast(), payload);
            }
        }
    }
}

/// Hashes of eight keys; compiled to vectors where it is inlined.
#[inline(always)]
fn hash_keys(walk: &Walk<'_>, keys: &[u64; 8]) -> [u64; 8] {
    keys.map(|key| walk.hash(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    #[test]
    fn gather_and_scatter_reach_every_word_that_an_offset_can_name() {
        if !Isa::Avx512.is_supported() {
            return;
        }
        for first in [0, (1 << 31) - 8, 1 << 31, u32::MAX - 17] {
            let mut words: Vec<u32> = (100..116).map(|x: u32| (x as f32).to_bits()).collect();
            // Only the words at the offsets are touched, and those are the vector's.
            let memory = words.as_mut_ptr().wrapping_sub(first as usize);
            let offsets: [u32; LANES] = std::array::from_fn(|lane| first + (lane as u32 * 5) % 16);
            // SAFETY: the CPU has the instructions; the sixteen offsets differ and name the words of the vector.
            unsafe {
                assert!(!Avx512::repeats(&offsets));
                let gathered = Avx512::gather(memory, &offsets);
                assert_eq!(gathered.to_array(), std::array::from_fn(|lane| 100.0 + ((lane * 5) % 16) as f32));
                (gathered + Avx512::splat(1.0)).scatter(memory, &offsets);
            }
            assert!(words.iter().zip(101..).all(|(word, x)| f32::from_bits(*word) == x as f32), "{first}");
        }
    }
}
