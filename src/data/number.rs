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

/// Scans the number at the start of `text`. Gives it and its length, or the offset of the byte that is not a number's.
#[inline]
pub(super) fn scan(text: &[u8]) -> Result<(Decimal<'_>, usize), usize> {
    let mut at = 0;
    let negative = text.first() == Some(&b'-');
    if matches!(text.first(), Some(b'-' | b'+')) {
        at = 1;
    }
    let mut mantissa = 0u64;
    let first = at;
    while let Some(digit) = digit(text, at) {
        mantissa = mantissa.wrapping_mul(10).wrapping_add(digit);
        at += 1;
    }
    let mut digits = at - first;
    let mut exponent = 0i32;
    if text.get(at) == Some(&b'.') {
        at += 1;
        let point = at;
        while let Some(digit) = digit(text, at) {
            mantissa = mantissa.wrapping_mul(10).wrapping_add(digit);
            at += 1;
        }
        digits += at - point;
        exponent = -((at - point).min(1 << 20) as i32);
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
        fn every_f32_reads_back(bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            prop_assume!(value.is_finite());
            for text in [value.to_string(), format!("{value:e}")] {
                prop_assert_eq!(whole_f32(text.as_bytes()).map(f32::to_bits), Some(bits));
            }
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
