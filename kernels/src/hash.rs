//! A seeded 64-bit mix of keys.
//!
//! Two rounds of xor-shift and odd multiplication, with a half of the seed before each: every input bit reaches the
//! high and the low bits of the result, so both may choose places. For one seed it is a bijection: different keys
//! never share all 64 bits. The multiplications are 64-bit low products, which AVX-512 has and the compiler builds
//! from 32-bit ones elsewhere; a folded 128-bit product has no vector form.
//! It is no cryptographic hash: what it guards (bucket overflow) has a limit of its own.

use crate::isa::Isa;
use crate::vector::{Vector, Work, run};

/// Mixes one key.
#[inline(always)]
pub const fn hash_key(seed: (u64, u64), key: u64) -> u64 {
    // The multipliers of SplitMix64's finaliser (Steele 2014, Stafford's variant 13).
    let mut hash = key ^ seed.0;
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27) ^ seed.1).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

struct Hash<'a> {
    seed: (u64, u64),
    keys: &'a [u64],
    out: &'a mut [u64],
}

impl Work for Hash<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for (out, &key) in self.out.iter_mut().zip(self.keys) {
            *out = hash_key(self.seed, key);
        }
    }
}

/// [`hash_key`] of each key.
///
/// Panics if the lengths differ.
pub fn hash_keys(isa: Isa, seed: (u64, u64), keys: &[u64], out: &mut [u64]) {
    assert_eq!(keys.len(), out.len(), "one hash a key");
    // SAFETY: `Hash` holds slices only.
    unsafe { run(isa, Hash { seed, keys, out }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEDS: [(u64, u64); 4] = [(0, 0), (1, 0), (0, 1), (0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210)];

    /// Chi-square of `count` hashes over 1024 places chosen by `place`.
    fn chi_square(seed: (u64, u64), keys: impl Iterator<Item = u64>, place: impl Fn(u64) -> u64) -> f64 {
        let mut counts = [0u32; 1024];
        let mut total = 0u32;
        for key in keys {
            counts[place(hash_key(seed, key)) as usize] += 1;
            total += 1;
        }
        let expected = f64::from(total) / 1024.0;
        counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum()
    }

    #[test]
    fn patterned_keys_spread_over_high_middle_and_low_bits() {
        // 1023 degrees of freedom: mean 1023, deviation 45; beyond 7 deviations is no chance. A bijection may
        // also be too even on full ranges, which is welcome: only the upper side is bounded.
        let limit = 1023.0 + 7.0 * 45.3;
        const KEYS: u64 = 1 << 15;
        type Pattern = fn(u64) -> u64;
        let patterns: [(&str, Pattern); 9] = [
            ("sequential", |i| i),
            ("stride 64", |i| i * 64),
            ("stride 2^20", |i| i << 20),
            ("high bits only", |i| i << 49),
            ("stride 1000003", |i| i * 1_000_003),
            ("two fields", |i| (i >> 7) << 32 | (i & 127)),
            ("sparse bits", |i| (i & 0xff) | (i & 0xff00) << 24 | (i & 0x7f_0000) << 40),
            ("descending from the top", |i| u64::MAX - 1 - i),
            ("multiples of a multiplier", |i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        ];
        for seed in SEEDS {
            for (name, pattern) in patterns {
                for shift in [0, 10, 27, 44, 54] {
                    let got = chi_square(seed, (0..KEYS).map(pattern), |hash| hash >> shift & 1023);
                    assert!(got < limit, "{name}, bits from {shift}, seed {seed:?}: {got}");
                }
            }
        }
    }

    #[test]
    fn one_flipped_key_bit_flips_half_of_the_hash() {
        for seed in SEEDS {
            for bit in 0..64 {
                let flipped: u32 = (0..4096u64)
                    .map(|i| {
                        let key = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                        (hash_key(seed, key) ^ hash_key(seed, key ^ (1 << bit))).count_ones()
                    })
                    .sum();
                let mean = f64::from(flipped) / 4096.0;
                assert!((28.0..36.0).contains(&mean), "key bit {bit}: {mean} of 64 bits flip");
            }
        }
    }

    #[test]
    fn both_halves_of_the_seed_matter() {
        let hashes = SEEDS.map(|seed| hash_key(seed, 12345));
        for (i, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..i].contains(hash));
        }
    }

    #[test]
    fn a_batch_gives_the_hashes_of_its_keys_on_every_instruction_set() {
        let keys: Vec<u64> = (0..200u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_supported()) {
            for len in (0..70).chain([200]) {
                let mut out = vec![0; len];
                hash_keys(isa, SEEDS[3], &keys[..len], &mut out);
                let expected: Vec<u64> = keys[..len].iter().map(|&key| hash_key(SEEDS[3], key)).collect();
                assert_eq!(out, expected, "{isa}");
            }
        }
    }
}
