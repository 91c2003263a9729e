//! Bytes of text as bit masks, for readers that split it: bit i is set where byte i of 64 is the one looked for.
//!
//! The form over whole words is the reference, and what CPUs without vectors of bytes get. On x86-64 the baseline has SSE2:
//! four comparisons of 16 bytes. The wider ones are beside the other operations of their instruction sets.
//!
//! Soundness: SSE2 is part of x86-64, and no pointer is made. The tests that would notice a wrong bit: below, and
//! `a_prober_names_the_bytes_of_a_stretch_on_every_instruction_set`.

/// A bit for each byte of `stretch` that is `byte`; the lowest for the first. With SSE2.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn equal_bytes(stretch: &[u8; 64], byte: u8) -> u64 {
    use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi8};
    let (words, _) = stretch.as_chunks::<8>();
    let mut bits = 0;
    for at in 0..4 {
        let (low, high) = (i64::from_le_bytes(words[2 * at]), i64::from_le_bytes(words[2 * at + 1]));
        // SAFETY: SSE2 is part of x86-64.
        let equal = unsafe {
            _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_set_epi64x(high, low), _mm_set1_epi8(byte as i8)))
        };
        bits |= (equal as u64) << (16 * at);
    }
    bits
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use in_words as equal_bytes;

/// A bit for each byte of `stretch` that is `byte`; the lowest for the first. With words.
#[inline(always)]
pub(crate) fn in_words(stretch: &[u8; 64], byte: u8) -> u64 {
    const LOW: u64 = 0x7F7F_7F7F_7F7F_7F7F;
    // Moves the low bit of byte i to bit 56 + i: no two products meet, so nothing carries.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    let pattern = u64::from_ne_bytes([byte; 8]);
    let (words, _) = stretch.as_chunks::<8>();
    let mut bits = 0;
    for (at, word) in words.iter().enumerate() {
        let differing = u64::from_le_bytes(*word) ^ pattern;
        // The high bit of each byte that is zero, exactly: no carry leaves a byte.
        let zero = !(((differing & LOW) + LOW) | differing | LOW);
        bits |= ((zero >> 7).wrapping_mul(GATHER) >> 56) << (8 * at);
    }
    bits
}

/// Room for the positions of a mask.
pub type Positions = [u32; 64];

/// Eight at a time, so that nothing branches on the count but every eighth.
#[inline(always)]
pub(crate) fn positions(mask: u64, base: u32, out: &mut Positions) {
    let mut rest = mask;
    for eight in out.as_chunks_mut::<8>().0 {
        for place in eight {
            *place = base.wrapping_add(rest.trailing_zeros());
            rest &= rest.wrapping_sub(1);
        }
        if rest == 0 {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_compared_at_every_place() {
        for byte in 0..=255u8 {
            for place in 0..64 {
                let mut stretch = [byte; 64];
                for other in [byte ^ 1, byte ^ 0x80, !byte] {
                    stretch[place] = other;
                    assert_eq!(equal_bytes(&stretch, byte), !(1 << place));
                    assert_eq!(equal_bytes(&stretch, other), 1 << place);
                    assert_eq!(in_words(&stretch, byte), !(1 << place));
                    assert_eq!(in_words(&stretch, other), 1 << place);
                }
            }
        }
    }
}
