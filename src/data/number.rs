//! Decimal numbers from bytes, correctly rounded.
//!
//! One scan gives sign, digits and exponent. A mantissa below 2^53 with a power of ten up to 22 makes one exact
//! division or product in f64 (Clinger 1990), which covers nearly every number in a data file; the rest goes to the
//! standard library. Refused on purpose: `nan`, `inf`, hexadecimal, thousands separators.

/// A scanned number, not yet rounded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decimal<'a> {
    negative: bool,
    mantissa: u64,
    exponent: i32,
    /// Whether `mantissa` and `exponent` are the whole truth.
    exact: bool,
    text: &'a [u8],
}

const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// Powers of ten in 64 bits: a table, as a product for each is slow.
pub(super) const TENS: [u64; 20] = {
    let mut tens = [1; 20];
    let mut at = 1;
    while at < tens.len() {
        tens[at] = tens[at - 1] * 10;
        at += 1;
    }
    tens
};

/// Scans the number at the start of `text`. Gives it and its length, or the offset of the byte that is not a number's.
#[inline]
pub(super) fn scan(text: &[u8]) -> Result<(Decimal<'_>, usize), usize> {
    let mut at = 0;
    let negative = text.first() == Some(&b'-');
    if matches!(text.first(), Some(b'-' | b'+')) {
        at = 1;
    }
    let first = at;
    let (mut mantissa, mut digits) = digits(&text[at..]);
    at += digits;
    let mut exponent = 0i32;
    if text.get(at) == Some(&b'.') {
        let (fraction, length) = self::digits(&text[at + 1..]);
        // Wraps, and is not used, when there are more than 19 digits.
        let power = TENS.get(length).copied().unwrap_or(0);
        mantissa = mantissa.wrapping_mul(power).wrapping_add(fraction);
        at += 1 + length;
        digits += length;
        exponent = -(length.min(1 << 20) as i32);
    }
    if digits == 0 {
        return Err(first);
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        at += 1;
        let down = text.get(at) == Some(&b'-');
        if matches!(text.get(at), Some(b'-' | b'+')) {
            at += 1;
        }
        let first = at;
        let mut power = 0i32;
        while let Some(digit) = digit(text, at) {
            power = (power * 10 + digit as i32).min(1 << 20);
            at += 1;
        }
        if at == first {
            return Err(at);
        }
        exponent += if down { -power } else { power };
    }
    // 19 digits cannot overflow 64 bits.
    Ok((Decimal { negative, mantissa, exponent, exact: digits <= 19, text: &text[..at] }, at))
}

#[inline]
fn digit(text: &[u8], at: usize) -> Option<u64> {
    let digit = text.get(at)?.wrapping_sub(b'0');
    (digit < 10).then_some(u64::from(digit))
}

impl Decimal<'_> {
    /// The nearest f64; `None` when that is infinite.
    #[inline]
    pub(super) fn to_f64(self) -> Option<f64> {
        if self.exact && self.mantissa < 1 << 53 && self.exponent.unsigned_abs() <= 22 {
            let power = POWERS[self.exponent.unsigned_abs() as usize];
            let mantissa = self.mantissa as f64;
            let value = if self.exponent < 0 { mantissa / power } else { mantissa * power };
            return Some(if self.negative { -value } else { value });
        }
        self.parse::<f64>().filter(|value| value.is_finite())
    }

    /// The nearest f32; `None` when that is infinite.
    #[inline]
    pub(super) fn to_f32(self) -> Option<f32> {
        if self.exact && self.mantissa < 1 << 53 && self.exponent.unsigned_abs() <= 22 {
            let wide = self.to_f64()?;
            // Rounding twice is wrong only where the first rounding may have made a tie of f32 (29 bits dropped), or
            // where f32 has fewer bits than usual.
            const DROPPED: u64 = (1 << 29) - 1;
            if wide.to_bits() & DROPPED != 1 << 28
                && (wide == 0.0 || wide.abs() >= f64::from(f32::MIN_POSITIVE))
            {
                return Some(wide as f32);
            }
        }
        self.parse::<f32>().filter(|value| value.is_finite())
    }

    #[cold]
    fn parse<T: std::str::FromStr>(self) -> Option<T> {
        std::str::from_utf8(self.text).ok()?.parse().ok()
    }
}

/// A number of at most seven digits, as nearly every one is: found in one word, without a branch on where it ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Short {
    negative: bool,
    /// Below 10^7, hence exact in f32.
    mantissa: u32,
    /// Digits after the dot; the power of ten is exact in f32 too, so that one division rounds once.
    fraction: usize,
    /// Bytes of the number.
    pub(super) length: usize,
}

/// Scans eight bytes of text, the lowest first; `None` when the number at their start is not plainly a short one.
///
/// The number may end where the word does: the caller looks at what follows.
#[inline]
pub(super) fn short(chunk: u64) -> Option<Short> {
    let negative = chunk as u8 == b'-';
    // Zero bytes come in at the top, and are no digits.
    let nibbles = (chunk >> (8 * u32::from(negative))) ^ ZEROS;
    let others = not_digits(nibbles);
    if others == 0 {
        return None;
    }
    let first = others.trailing_zeros() & !7;
    let dot = (nibbles >> first) as u8 == b'.' ^ b'0';
    // A dot gives no carry, so the byte after the fraction is found exactly.
    let second = (others & (others - 1)).trailing_zeros() & !7;
    let end = if dot { second } else { first };
    let fraction = if dot { (second - first) as usize / 8 - 1 } else { 0 };
    let digits = end - 8 * u32::from(dot);
    if digits == 0 {
        return None;
    }
    // Without the dot. Where there is none, the bytes this moves are shifted out again.
    let before = (1 << first) - 1;
    let joined = nibbles & before | (nibbles >> 8) & !before;
    let mantissa = eight_nibbles(joined << (64 - digits)) as u32;
    Some(Short { negative, mantissa, fraction, length: end as usize / 8 + usize::from(negative) })
}

impl Short {
    /// The nearest f32.
    #[inline]
    pub(super) fn to_f32(self) -> f32 {
        const POWERS: [f32; 8] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7];
        let value = self.mantissa as f32 / POWERS[self.fraction & 7];
        if self.negative { -value } else { value }
    }
}

/// The eight bytes of `text` from `at` on, the lowest first.
#[inline(always)]
pub(super) fn word(text: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*text.get(at..)?.first_chunk()?))
}

/// The digits at the start of `text`, and how many there are. The value is right up to 19 digits; with more it has wrapped.
#[inline]
pub(super) fn digits(text: &[u8]) -> (u64, usize) {
    let (mut value, mut count) = (0u64, 0);
    loop {
        let rest = &text[count..];
        let chunk = rest.first_chunk::<8>().copied().unwrap_or_else(|| {
            let mut chunk = [0; 8];
            chunk[..rest.len()].copy_from_slice(rest);
            chunk
        });
        let (part, length) = eight_digits(u64::from_le_bytes(chunk));
        value = value.wrapping_mul(TENS[length]).wrapping_add(part);
        count += length;
        if length < 8 {
            return (value, count);
        }
    }
}

/// Eight characters `0`.
const ZEROS: u64 = 0x3030_3030_3030_3030;

/// The high bit of each byte that is no digit's value; a carry, which only bytes that are no ASCII give, disturbs nothing
/// but what is after the first of those.
#[inline(always)]
fn not_digits(nibbles: u64) -> u64 {
    (nibbles.wrapping_add(0x7676_7676_7676_7676) | nibbles) & 0x8080_8080_8080_8080
}

/// Up to eight digits from the lowest byte on, and how many: arithmetic instead of a branch for each byte, whose number
/// no processor can predict.
#[inline]
fn eight_digits(chunk: u64) -> (u64, usize) {
    let nibbles = chunk ^ ZEROS;
    let count = not_digits(nibbles).trailing_zeros() as usize / 8;
    if count == 0 {
        return (0, 0);
    }
    // Zeros in front make it eight digits.
    (eight_nibbles(nibbles << (64 - 8 * count)), count)
}

/// Bytes of a word.
pub(super) const WORD: u32 = 8;

/// The eight bytes of `text` before `at`, the lowest first.
#[inline(always)]
pub(super) fn word_before(text: &[u8], at: usize) -> Option<u64> {
    word(text, at.wrapping_sub(WORD as usize))
}

/// What the last `count` bytes of a word make as digits, and 0 if `count` is from 1 to 8 and they all are digits.
#[inline(always)]
pub(super) fn last_digits(word: u64, count: u32) -> (u64, u64) {
    let nibbles = last_nibbles(word, count);
    (eight_nibbles(nibbles), not_digits(nibbles) | u64::from(count.wrapping_sub(1) >= WORD))
}

/// The values of the last `count` digits of a word, 1 to 8 of them, with zeros before.
#[inline(always)]
fn last_nibbles(word: u64, count: u32) -> u64 {
    let unused = 64u32.wrapping_sub(count.wrapping_mul(8));
    (word ^ ZEROS).wrapping_shr(unused).wrapping_shl(unused)
}

/// The number that the last `length` bytes of a word are, and 0 if they are one: digits, with or without a dot, at most one
/// `-` before them, one to eight bytes together.
#[inline(always)]
pub(super) fn last_number(word: u64, length: u32) -> (f32, u64) {
    /// Exact in f32; the last one is for no dot.
    const POWERS: [f32; 9] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e0];
    let first = word.wrapping_shr(64u32.wrapping_sub(length.wrapping_mul(8))) as u8;
    let negative = u32::from(first == b'-');
    let count = length.wrapping_sub(negative);
    let nibbles = last_nibbles(word, count);
    let others = not_digits(nibbles);
    // The low bit of the byte of the dot; nothing when there is none.
    let dot = others >> 7;
    let before = dot.wrapping_sub(u64::from(dot != 0));
    let dot_byte = dot.wrapping_mul(0xFF);
    let digits = count.wrapping_sub(u32::from(dot != 0));
    let wrong = others & others.wrapping_sub(1)
        | (nibbles & dot_byte) ^ dot.wrapping_mul(u64::from(b'.' ^ b'0'))
        | u64::from(count.wrapping_sub(1) >= WORD || digits == 0);
    // Without the dot: what is before it moves up.
    let joined = nibbles & !(before | dot_byte) | (nibbles & before) << 8;
    // Eight digits without a dot are rounded here; with one they are seven at most, exact in f32 as is their power of ten,
    // so that the division is what rounds.
    let mantissa = eight_nibbles(joined) as i32 as f32;
    let value = mantissa / POWERS[others.leading_zeros() as usize / 8];
    (f32::from_bits(value.to_bits() | negative << 31), wrong)
}

/// The number that fills `text`, unless that is u64::MAX or more; `None` for anything but digits.
pub(super) fn whole_index(text: &[u8]) -> Option<u64> {
    let (index, count) = digits(text);
    if count == 0 || count < text.len() {
        return None;
    }
    // Nineteen digits cannot overflow.
    if count <= 19 { Some(index) } else { long_index(text) }
}

/// The number that `digits` make, unless that is u64::MAX or more.
pub(super) fn long_index(digits: &[u8]) -> Option<u64> {
    let append = |index: u64, &digit: &u8| index.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
    digits.iter().try_fold(0, append).filter(|&index| index < u64::MAX)
}

/// The number that eight digits' values make: pairs, then fours, then all. Of other bytes it makes anything.
#[inline(always)]
fn eight_nibbles(eight: u64) -> u64 {
    let pairs = eight.wrapping_mul(10).wrapping_add(eight >> 8) & 0x00FF_00FF_00FF_00FF;
    let fours = pairs.wrapping_mul(100).wrapping_add(pairs >> 16) & 0x0000_FFFF_0000_FFFF;
    fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xFFFF_FFFF
}

/// A number that fills `text` but for blanks around it; `None` for anything else, infinity included.
#[inline]
pub(super) fn whole_f64(text: &[u8]) -> Option<f64> {
    let text = text.trim_ascii();
    let (number, length) = scan(text).ok()?;
    if length == text.len() { number.to_f64() } else { None }
}

/// As [`whole_f64`], rounded once to f32.
#[inline]
pub(super) fn whole_f32(text: &[u8]) -> Option<f32> {
    let text = text.trim_ascii();
    let (number, length) = scan(text).ok()?;
    if length == text.len() { number.to_f32() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn a_number_is_rounded_as_the_standard_library_does(
            text in "[+-]?([0-9]{1,22}(\\.[0-9]{0,12})?|\\.[0-9]{1,10})([eE][+-]?[0-9]{1,2})?",
        ) {
            let wide: f64 = text.parse().unwrap();
            let narrow: f32 = text.parse().unwrap();
            prop_assert_eq!(whole_f64(text.as_bytes()), Some(wide).filter(|v| v.is_finite()));
            prop_assert_eq!(whole_f32(text.as_bytes()), Some(narrow).filter(|v| v.is_finite()));
        }

        #[test]
        fn a_short_number_is_the_number_at_the_start_of_a_word(
            text in prop_oneof!["-?[0-9]{0,8}\\.?[0-9]{0,8}", "[-0-9.e: ]{8}"],
            rest in proptest::collection::vec(any::<u8>(), 8),
        ) {
            let mut bytes = text.into_bytes();
            bytes.extend(rest);
            let Some(number) = short(word(&bytes, 0).unwrap()) else { return Ok(()) };
            let text = std::str::from_utf8(&bytes[..number.length]).unwrap();
            prop_assert_eq!(number.to_f32().to_bits(), text.parse::<f32>().unwrap().to_bits());
            // It ends where the word does, or where a number does.
            prop_assert!(number.length == 8 || !bytes[number.length].is_ascii_digit());
        }

        #[test]
        fn the_number_a_word_ends_with_is_the_one_that_is_written(
            before in any::<[u8; 8]>(),
            text in prop_oneof!["-?[0-9]{0,8}\\.?[0-9]{0,8}", "[-+0-9.e: ]{1,8}"],
        ) {
            prop_assume!(text.len() <= 8);
            let mut bytes = before.to_vec();
            bytes.extend(text.as_bytes());
            let word = word_before(&bytes, bytes.len()).unwrap();
            let plain = |text: &str| text.bytes().all(|byte| matches!(byte, b'-' | b'.' | b'0'..=b'9'));
            let (value, wrong) = last_number(word, text.len() as u32);
            let wanted = text.parse::<f32>().ok().filter(|_| plain(&text));
            prop_assert_eq!((wrong == 0).then_some(value.to_bits()), wanted.map(f32::to_bits));
            let (index, wrong) = last_digits(word, text.len() as u32);
            let wanted = text.parse::<u64>().ok().filter(|_| !text.starts_with('+'));
            prop_assert_eq!((wrong == 0).then_some(index), wanted);
        }

        #[test]
        fn every_byte_in_a_word_is_a_digit_or_is_not(bytes in any::<[u8; 8]>(), count in 0u32..20, digit in 0u8..10) {
            let mut bytes = bytes;
            // Most of it digits, or none of them would be right.
            bytes.iter_mut().filter(|byte| **byte < 230).for_each(|byte| *byte = b'0' + digit);
            let word = u64::from_le_bytes(bytes);
            let wanted = bytes.get(8usize.wrapping_sub(count as usize)..).filter(|last| !last.is_empty());
            let wanted = wanted.and_then(whole_index);
            let (index, wrong) = last_digits(word, count);
            prop_assert_eq!((wrong == 0).then_some(index), wanted);
            let (number, wrong) = last_number(word, count);
            prop_assert_eq!((wrong == 0).then_some(number), wanted.map(|index| index as f32));
        }

        #[test]
        fn every_number_of_six_characters_is_short(text in "-?([0-9]{1,5}|[0-9]{1,2}\\.[0-9]{0,2}|\\.[0-9]{1,4})") {
            let number = short(word(format!("{text} 1234567").as_bytes(), 0).unwrap()).unwrap();
            prop_assert_eq!((number.length, number.to_f32()), (text.len(), text.parse().unwrap()));
        }

        #[test]
        fn every_f32_reads_back(bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            prop_assume!(value.is_finite());
            for text in [value.to_string(), format!("{value:e}")] {
                prop_assert_eq!(whole_f32(text.as_bytes()).map(f32::to_bits), Some(bits));
            }
        }
    }

    proptest! {
        #[test]
        fn digits_are_read_in_pieces_of_eight(text in "[0-9]{0,19}", rest in "([ -/:-~].{0,9})?") {
            let (value, count) = digits(format!("{text}{rest}").as_bytes());
            prop_assert_eq!(count, text.len());
            prop_assert_eq!(value, text.parse().unwrap_or(0));
        }

        #[test]
        fn any_byte_but_a_digit_ends_the_digits(count in 0usize..20, end in any::<u8>(), after in any::<[u8; 8]>()) {
            prop_assume!(!end.is_ascii_digit());
            let mut text = vec![b'7'; count];
            text.push(end);
            text.extend(after);
            prop_assert_eq!(digits(&text).1, count);
        }
    }

    #[test]
    fn ties_of_f32_are_not_rounded_twice() {
        // 1 + 2^-24 is a tie; one unit in the 53rd bit more must round up.
        for text in [
            "1.000000059604644775390625",
            "1.00000005960464478",
            "1.0000000596046448",
            "16777217",
            "16777219",
        ] {
            assert_eq!(whole_f32(text.as_bytes()), text.parse().ok(), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_finite_number_is_refused() {
        for text in
            ["", "+", "-", ".", "e5", "1e", "1e+", "nan", "inf", "-Infinity", "0x10", "1e999", "1_000", "1,5"]
        {
            assert_eq!(whole_f32(text.as_bytes()), None, "{text}");
            assert_eq!(whole_f64(text.as_bytes()), None, "{text}");
        }
        assert_eq!(whole_f32(b"1e39"), None);
        assert_eq!(whole_f64(b"1e39"), Some(1e39));
    }
}
