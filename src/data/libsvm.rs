//! The libsvm text format: `label index:value index:value … # comment`, one example a line.
//!
//! A label above 0 is class 1, any other number class 0. An index is any u64 but the largest, in any order; values are
//! finite. A line costs one pass; rows out of order are sorted afterwards, and a repeated index is looked for only then.

use std::io::Read;

use super::error::{Fault, shown};
use super::lines::Lines;
use super::{Examples, number};

/// Scratch of the parser.
#[derive(Default)]
pub(super) struct Libsvm {
    unsorted: Vec<(u64, f32)>,
}

/// Offset and description of what is wrong with a line.
type LineFault = (usize, String);

impl Libsvm {
    /// Adds lines to `out` until it is a full block; false at the end of the file.
    pub(super) fn read_block<R: Read>(
        &mut self,
        lines: &mut Lines<R>,
        out: &mut Examples,
    ) -> Result<bool, Fault> {
        while !out.is_full_block() {
            if !lines.advance()? {
                return Ok(false);
            }
            if let Err((at, what)) = self.parse(lines.line(), out) {
                out.rows.abandon_row();
                return Err(Fault::at(lines.number(), at, what));
            }
        }
        Ok(true)
    }

    /// Adds the line's example to `out`, if it has one.
    fn parse(&mut self, line: &[u8], out: &mut Examples) -> Result<(), LineFault> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut at = skip_blanks(line, 0);
        if ends(line, at) {
            return Ok(());
        }
        let (label, next) = value(line, at, "a label; write -1, 0 or 1")?;
        at = next;
        let mut sorted = true;
        // Above every index so far, as u64::MAX is never one.
        let mut lowest_next = 0u64;
        loop {
            at = skip_blanks(line, at);
            if ends(line, at) {
                break;
            }
            let (index, colon) = index(line, at)?;
            sorted &= index >= lowest_next;
            lowest_next = index + 1;
            let start = colon + 1;
            if line.get(start) == Some(&b'1') && line.get(start + 1).is_none_or(|&byte| is_blank(byte)) {
                out.rows.push(index, 1.0);
                at = start + 1;
            } else {
                let (value, next) = value(line, start, "a finite number; write index:value, such as 12:0.5")?;
                out.rows.push(index, value);
                at = next;
            }
        }
        if !sorted && let Some(repeated) = out.rows.sort_open_row(&mut self.unsorted) {
            let what =
                format!("found index {repeated} again in one example; add the values up, or remove one");
            return Err((second_place(line, repeated), what));
        }
        out.rows.end_row();
        out.labels.push(if label > 0.0 { 1.0 } else { 0.0 });
        Ok(())
    }
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
