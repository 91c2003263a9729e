//! CRC-32C (Castagnoli, reflected polynomial 0x82f63b78), as iSCSI and the SSE4.2 instruction have it.
//!
//! Scalar and portable: eight bytes a step through eight tables. AVX2 and AVX-512: the instruction takes 8 bytes a
//! cycle but has a latency of 3, so three neighbouring blocks run side by side; their sums are joined by moving the
//! first two past the bytes that follow them. Moving a sum past n bytes multiplies it by x^(8n) modulo the
//! polynomial: a carry-less product with a constant, then the instruction itself reduces it.

use crate::isa::Isa;

const POLYNOMIAL: u32 = 0x82f6_3b78;

/// `TABLES[k][b]`: the sum of byte `b` followed by `k` zero bytes.
static TABLES: [[u32; 256]; 8] = {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            sum = (sum >> 1) ^ if sum & 1 == 1 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        tables[0][byte] = sum;
        byte += 1;
    }
    let mut zeros = 1;
    while zeros < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before: u32 = tables[zeros - 1][byte];
            tables[zeros][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        zeros += 1;
    }
    tables
};

/// CRC-32C of `bytes`. `seed` is 0, or the result for the bytes before them: the sum of a whole can be computed in
/// parts.
pub fn crc32c(isa: Isa, seed: u32, bytes: &[u8]) -> u32 {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 => {
            assert!(hardware::is_there(), "this CPU has no {isa}");
            // SAFETY: `is_there` says that this CPU has SSE4.2 and PCLMULQDQ.
            unsafe { hardware::sum(seed, bytes) }
        }
        _ => by_tables(seed, bytes),
    }
}

fn by_tables(seed: u32, bytes: &[u8]) -> u32 {
    let mut sum = !seed;
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let word = u64::from_le_bytes(*word) ^ u64::from(sum);
        sum = 0;
        for (i, byte) in word.to_le_bytes().into_iter().enumerate() {
            sum ^= TABLES[7 - i][usize::from(byte)];
        }
    }
    for &byte in rest {
        sum = (sum >> 8) ^ TABLES[0][((sum ^ u32::from(byte)) & 0xff) as usize];
    }
    !sum
}

#[cfg(target_arch = "x86_64")]
mod hardware {
    //! Soundness: everything here needs SSE4.2 and PCLMULQDQ, which `crc32c` asserts; bytes are read through slices.
    //! Headers of records are summed twice on every way: hence only these two are asked for, and no byte is taken alone
    //! where four can be.

    use std::arch::x86_64::*;

    use super::POLYNOMIAL;

    /// Words of each of the three blocks: large ones for bulk, small ones for records and what is left.
    const LARGE: usize = 512;
    const SMALL: usize = 32;

    /// x^`power` modulo the polynomial, reflected.
    const fn power_of_x(power: usize) -> u32 {
        let mut value = 1 << 31;
        let mut done = 0;
        while done < power {
            value = (value >> 1) ^ if value & 1 == 1 { POLYNOMIAL } else { 0 };
            done += 1;
        }
        value
    }

    /// The constant that moves a sum past `words` words. A reflected product is one bit short and the reduction
    /// multiplies by x^32: together 33 powers less.
    const fn mover(words: usize) -> i64 {
        power_of_x(64 * words - 33) as i64
    }

    /// The sum `state` moved past the bytes that `mover` stands for.
    #[inline]
    #[target_feature(enable = "sse4.2,pclmulqdq")]
    fn moved(state: u64, mover: i64) -> u64 {
        let product =
            _mm_clmulepi64_si128::<0>(_mm_cvtsi64_si128(state.cast_signed()), _mm_cvtsi64_si128(mover));
        _mm_crc32_u64(0, _mm_cvtsi128_si64(product).cast_unsigned())
    }

    /// Takes as many groups of three blocks of `BLOCK` words from `words` as there are.
    #[inline]
    #[target_feature(enable = "sse4.2,pclmulqdq")]
    fn blocks<'a, const BLOCK: usize>(mut state: u64, mut words: &'a [[u8; 8]]) -> (u64, &'a [[u8; 8]]) {
        while words.len() >= 3 * BLOCK {
            let (first, rest) = words.split_at(BLOCK);
            let (second, rest) = rest.split_at(BLOCK);
            let (third, rest) = rest.split_at(BLOCK);
            let (mut b, mut c) = (0, 0);
            for i in 0..BLOCK {
                state = _mm_crc32_u64(state, u64::from_le_bytes(first[i]));
                b = _mm_crc32_u64(b, u64::from_le_bytes(second[i]));
                c = _mm_crc32_u64(c, u64::from_le_bytes(third[i]));
            }
            state = moved(state, const { mover(2 * BLOCK) }) ^ moved(b, const { mover(BLOCK) }) ^ c;
            words = rest;
        }
        (state, words)
    }

    /// Whether this CPU has what everything here needs.
    #[inline]
    pub(super) fn is_there() -> bool {
        std::arch::is_x86_feature_detected!("sse4.2") && std::arch::is_x86_feature_detected!("pclmulqdq")
    }

    #[target_feature(enable = "sse4.2,pclmulqdq")]
    pub(super) fn sum(seed: u32, bytes: &[u8]) -> u32 {
        let (words, rest) = bytes.as_chunks::<8>();
        let (state, words) = blocks::<LARGE>(u64::from(!seed), words);
        let (mut state, words) = blocks::<SMALL>(state, words);
        for word in words {
            state = _mm_crc32_u64(state, u64::from_le_bytes(*word));
        }
        let mut state = state as u32;
        let (half, rest) = rest.as_chunks::<4>();
        for half in half {
            state = _mm_crc32_u32(state, u32::from_le_bytes(*half));
        }
        for &byte in rest {
            state = _mm_crc32_u8(state, byte);
        }
        !state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_vectors_hold_on_every_instruction_set() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_supported()) {
            assert_eq!(crc32c(isa, 0, b""), 0);
            assert_eq!(crc32c(isa, 0, b"123456789"), 0xe306_9283);
            // RFC 3720, appendix B.4.
            assert_eq!(crc32c(isa, 0, &[0; 32]), 0x8a91_36aa);
            assert_eq!(crc32c(isa, 0, &[0xff; 32]), 0x62a8_ab43);
            let rising: [u8; 32] = std::array::from_fn(|i| i as u8);
            assert_eq!(crc32c(isa, 0, &rising), 0x46dd_794e);
        }
    }

    #[test]
    fn every_length_and_split_gives_the_sum_of_the_whole() {
        let bytes: Vec<u8> = (0..30_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_supported()) {
            for len in (0..900).chain([3 * 8 * 512 - 1, 3 * 8 * 512, 3 * 8 * 512 + 9, 25_001]) {
                let bytes = &bytes[len % 7..len % 7 + len];
                let whole = bitwise(bytes);
                assert_eq!(crc32c(isa, 0, bytes), whole, "{isa} {len}");
                let (a, b) = bytes.split_at(len / 3);
                assert_eq!(crc32c(isa, crc32c(isa, 0, a), b), whole, "{isa} {len}");
            }
        }
    }

    /// The definition, one bit at a time.
    fn bitwise(bytes: &[u8]) -> u32 {
        let mut sum = !0u32;
        for &byte in bytes {
            sum ^= u32::from(byte);
            for _ in 0..8 {
                sum = (sum >> 1) ^ if sum & 1 == 1 { POLYNOMIAL } else { 0 };
            }
        }
        !sum
    }
}
