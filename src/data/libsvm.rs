//! The libsvm text format: `label index:value index:value … # comment`, one example a line.
//!
//! A label is 1 (class 1), 0 or -1 (class 0): labels 1 and 2, say, are refused, as nobody knows which is which. Data to
//! predict needs none. An index is any u64 but the largest, in any order; values are
//! finite. A line costs one pass; rows out of order are sorted afterwards, and a repeated index is looked for only then.
//!
//! Entries in the usual form take a short way, in whole words; at any other the parser takes the long way for one entry,
//! which also finds out what is wrong. The short way must accept only what the long way does, with the same result.

use super::error::{Fault, shown};
use super::lines::Lines;
use super::{Examples, number};

/// Plain entries gathered before they join the row.
const GATHERED: usize = 32;

/// Scratch of the parser.
#[derive(Default)]
pub(super) struct Libsvm {
    unsorted: Vec<(u64, f32)>,
    indices: [u64; GATHERED],
    values: [f32; GATHERED],
}

/// What is asked of labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Labels {
    /// Every line has one, and it is 1, 0 or -1.
    Needed,
    /// A line may have one; it is a number.
    Ignored,
}

/// What the indices of a row are known to be.
struct Order {
    sorted: bool,
    /// Above every index so far, as u64::MAX is never one.
    lowest_next: u64,
}

impl Order {
    #[inline]
    fn add(&mut self, index: u64) {
        self.sorted &= index >= self.lowest_next;
        self.lowest_next = index + 1;
    }
}

/// Offset and description of what is wrong with a line.
type LineFault = (usize, String);

impl Libsvm {
    /// Adds the lines that are left of a chunk to `out`.
    pub(super) fn read(
        &mut self,
        labels: Labels,
        lines: &mut Lines<'_>,
        out: &mut Examples,
    ) -> Result<(), Fault> {
        while lines.advance()? {
            self.parse(labels, lines.line(), lines.padded_line(), out)
                .map_err(|(at, what)| Fault::at(lines.number(), at, what))?;
        }
        Ok(())
    }

    /// Adds the line's example to `out`, if it has one.
    ///
    /// `padded` goes on after the line, with a `\n` and some bytes that are not looked at for what they say.
    #[inline]
    fn parse(
        &mut self,
        labels: Labels,
        line: &[u8],
        padded: &[u8],
        out: &mut Examples,
    ) -> Result<(), LineFault> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (label, mut at) = match plain_label(padded) {
            Some(plain) => plain,
            None => {
                let at = skip_blanks(line, 0);
                if ends(line, at) {
                    return Ok(());
                }
                label(labels, line, at)?
            }
        };
        let mut order = Order { sorted: true, lowest_next: 0 };
        loop {
            at = self.plain_entries(padded, at, &mut order, out);
            at = skip_blanks(line, at);
            if ends(line, at) {
                break;
            }
            let (index, colon) = index(line, at)?;
            order.add(index);
            let (value, next) = value(line, colon + 1, "a finite number; write index:value, such as 12:0.5")?;
            out.rows.push(index, value);
            at = next;
        }
        if !order.sorted
            && let Some(repeated) = out.rows.sort_open_row(&mut self.unsorted)
        {
            let what =
                format!("found index {repeated} again in one example; add the values up, or remove one");
            return Err((second_place(line, repeated), what));
        }
        out.rows.end_row();
        out.labels.push(if label > 0.0 { 1.0 } else { 0.0 });
        Ok(())
    }

    /// Adds the plain entries that start at the blank at `at`; the offset after them.
    #[inline]
    fn plain_entries(&mut self, text: &[u8], mut at: usize, order: &mut Order, out: &mut Examples) -> usize {
        // In registers: through the reference each entry would wait for the last one's stores.
        let Order { mut sorted, mut lowest_next } = *order;
        loop {
            let (mut count, mut ones) = (0, true);
            for (index_out, value_out) in self.indices.iter_mut().zip(&mut self.values) {
                let Some((index, value, next)) = plain_entry(text, at) else { break };
                sorted &= index >= lowest_next;
                lowest_next = index + 1;
                ones &= value == 1.0;
                (*index_out, *value_out) = (index, value);
                count += 1;
                at = next;
            }
            out.rows.push_entries(&self.indices[..count], &self.values[..count], ones);
            if count < GATHERED {
                *order = Order { sorted, lowest_next };
                return at;
            }
        }
    }
}

/// One blank, an index, a colon and a short number, after which a blank or the end of the line is: nearly every entry of
/// nearly every file, in a few words of text whose lengths cost no branch. `None` for any other, right or wrong.
#[inline]
fn plain_entry(text: &[u8], at: usize) -> Option<(u64, f32, usize)> {
    let start = text.get(at..)?.first_chunk::<9>()?;
    let [blank, first @ ..] = *start;
    if blank != b' ' {
        return None;
    }
    let first = u64::from_le_bytes(first);
    let (index, digits) = match number::digits_before(first, b':') {
        Some(found) => found,
        None => {
            let (index, colon) = long_plain_index(text, at + 1)?;
            return plain_value(text, colon).map(|(value, next)| (index, value, next));
        }
    };
    // With up to five digits, what most entries end with is in the same word.
    let end = (first >> (8 * digits)) as u32 & 0x00FF_FFFF;
    if end == COLON_ONE || end == COLON_LAST_ONE {
        return Some((index, 1.0, at + digits + 3));
    }
    plain_value(text, at + 1 + digits).map(|(value, next)| (index, value, next))
}

/// The value after the colon, and where it ends.
#[inline]
fn plain_value(text: &[u8], colon: usize) -> Option<(f32, usize)> {
    let chunk = number::word(text, colon + 1)?;
    if chunk as u16 == ONE || chunk as u16 == LAST_ONE {
        return Some((1.0, colon + 2));
    }
    let number = number::short(chunk)?;
    let next = colon + 1 + number.length;
    matches!(*text.get(next)?, b' ' | b'\n').then(|| (number.to_f32(), next))
}

/// The value of most files, and what ends it.
const ONE: u16 = u16::from_le_bytes(*b"1 ");
const LAST_ONE: u16 = u16::from_le_bytes(*b"1\n");
const COLON_ONE: u32 = u32::from_le_bytes(*b":1 \0");
const COLON_LAST_ONE: u32 = u32::from_le_bytes(*b":1\n\0");

/// The index of 8 to 23 digits at `at`, and where its colon is; `None` unless there is one.
#[inline]
fn long_plain_index(text: &[u8], at: usize) -> Option<(u64, usize)> {
    let (first, 8) = number::eight_digits(number::word(text, at)?) else { return None };
    let (second, count) = number::eight_digits(number::word(text, at + 8)?);
    // 16 digits: no overflow.
    let mut index = first * number::TENS[count] + second;
    let mut colon = at + 8 + count;
    if count == 8 {
        let (third, count) = number::eight_digits(number::word(text, at + 16)?);
        index = index.checked_mul(number::TENS[count])?.checked_add(third)?;
        colon += count;
    }
    (*text.get(colon)? == b':' && index < u64::MAX).then_some((index, colon))
}

/// The label and the offset after it when the line starts in one of the usual ways: `0 `, `1 `, `-1 `, `+1 `.
#[inline]
fn plain_label(text: &[u8]) -> Option<(f32, usize)> {
    match *text.first_chunk::<3>()? {
        [digit @ (b'0' | b'1'), b' ', _] => Some((f32::from(digit - b'0'), 1)),
        [b'-', b'1', b' '] => Some((0.0, 2)),
        [b'+', b'1', b' '] => Some((1.0, 2)),
        _ => None,
    }
}

/// The label at `at`, if there is one, and the offset after it.
#[cold]
fn label(labels: Labels, line: &[u8], at: usize) -> Result<(f32, usize), LineFault> {
    if labels == Labels::Ignored && token(line, at).contains(&b':') {
        return Ok((0.0, at));
    }
    let (label, next) = value(line, at, "a label; write -1, 0 or 1")?;
    if labels == Labels::Needed && !(label == 1.0 || label == 0.0 || label == -1.0) {
        let found = shown(token(line, at));
        return Err((at, format!("found the label {found}; write 1 for one class, 0 or -1 for the other")));
    }
    Ok((label, next))
}

/// The number at `at` and the offset after it, where a blank or the end must be.
#[inline]
fn value(line: &[u8], at: usize, wanted: &str) -> Result<(f32, usize), LineFault> {
    let (number, length) =
        number::scan(&line[at..]).map_err(|offset| (at + offset, not(token(line, at), wanted)))?;
    let next = at + length;
    if !(ends(line, next) || is_blank(line[next])) {
        return Err((next, not(token(line, at), wanted)));
    }
    let value = number.to_f32().ok_or_else(|| {
        let found = shown(token(line, at));
        (at, format!("found {found}, which is too large for 32-bit floating point; scale the values"))
    })?;
    Ok((value, next))
}

/// The index at `at` and the offset of the colon after it.
#[inline]
fn index(line: &[u8], at: usize) -> Result<(u64, usize), LineFault> {
    let (mut index, digits) = number::digits(&line[at..]);
    let next = at + digits;
    // Nineteen digits cannot overflow.
    if digits > 19 {
        index = long_index(&line[at..next]).ok_or_else(|| {
            let found = shown(token(line, at));
            (at, format!("found {found}; an index is at most 18446744073709551614"))
        })?;
    }
    if next > at && line.get(next) == Some(&b':') {
        return Ok((index, next));
    }
    Err(bad_index(line, at, next))
}

/// The number that `digits` make, unless that is u64::MAX or more.
fn long_index(digits: &[u8]) -> Option<u64> {
    let append = |index: u64, &digit: &u8| index.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
    digits.iter().try_fold(0, append).filter(|&index| index < u64::MAX)
}

#[cold]
fn bad_index(line: &[u8], at: usize, next: usize) -> LineFault {
    let token = token(line, at);
    let found = shown(token);
    if token.starts_with(b"qid:") {
        return (at, format!("found {found}; qid (ranking) is not supported; remove it"));
    }
    if token[0] == b'-' {
        return (at, format!("found the negative index {found}; an index is a whole number from 0 on"));
    }
    if next > at && next == at + token.len() {
        return (next, format!("found {found} without a value; write {}:1", token.escape_ascii()));
    }
    (next, not(token, "index:value, such as 12:0.5"))
}

fn not(found: &[u8], wanted: &str) -> String {
    format!("found {} instead of {wanted}", shown(found))
}

#[inline]
fn skip_blanks(line: &[u8], mut at: usize) -> usize {
    while line.get(at).copied().is_some_and(is_blank) {
        at += 1;
    }
    at
}

#[inline]
fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// Whether the example ends at `at`: the line does, or a comment starts.
#[inline]
fn ends(line: &[u8], at: usize) -> bool {
    line.get(at).is_none_or(|&byte| byte == b'#')
}

/// From `at` to the next blank.
fn token(line: &[u8], at: usize) -> &[u8] {
    let rest = &line[at..];
    &rest[..rest.iter().position(|&byte| is_blank(byte)).unwrap_or(rest.len())]
}

/// Where `repeated` occurs the second time in a line that parsed.
fn second_place(line: &[u8], repeated: u64) -> usize {
    let mut at = skip_blanks(line, 0);
    at = skip_blanks(line, at + token(line, at).len());
    let mut seen = 0;
    while !ends(line, at) {
        seen += usize::from(index(line, at).is_ok_and(|(index, _)| index == repeated));
        if seen == 2 {
            break;
        }
        at = skip_blanks(line, at + token(line, at).len());
    }
    at
}

#[cfg(test)]
#[path = "libsvm_tests.rs"]
mod tests;
