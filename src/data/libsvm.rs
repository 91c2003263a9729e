//! The libsvm text format: `label index:value index:value … # comment`, one example a line.
//!
//! A label is 1 (class 1), 0 or -1 (class 0): labels 1 and 2, say, are refused, as nobody knows which is which. Data to
//! predict needs none. An index is any u64 but the largest, in any order; values are
//! finite. Rows out of order are sorted afterwards, and a repeated index is looked for only then.
//!
//! Plain lines are read many at a time ([`Separators`]); here any other line is, which includes every wrong one.

use gradwire_kernels::Isa;

use super::error::{Fault, shown};
use super::lines::Lines;
use super::plain::Separators;
use super::{Examples, number};

/// Marks of a longer line would take more memory than they save time: it is read the long way.
const LONGEST_MARKED: usize = 1 << 20;

/// Lines that are not plain, one after the other, after which the next ones probably are not either.
const PATIENCE: usize = 2;

/// The parser, with its scratch.
pub(super) struct Libsvm {
    isa: Isa,
    separators: Separators,
    unsorted: Vec<(u64, f32)>,
}

/// What is asked of labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Labels {
    /// Every line has one, and it is 1, 0 or -1.
    Needed,
    /// A line may have one; it is a number.
    Ignored,
}

/// Offset and description of what is wrong with a line.
type LineFault = (usize, String);

impl Libsvm {
    pub(super) fn new(isa: Isa) -> Self {
        Self { isa, separators: Separators::default(), unsorted: Vec::new() }
    }

    /// Adds the lines that are left of a chunk to `out`.
    pub(super) fn read(
        &mut self,
        labels: Labels,
        lines: &mut Lines<'_>,
        out: &mut Examples,
    ) -> Result<(), Fault> {
        let (text, start) = (lines.bytes(), lines.rest().start);
        self.separators.restart(start);
        while !lines.rest().is_empty() {
            self.separators.advance(self.isa, text, lines.rest_with_end());
            let (count, start) = (self.separators.lines(), lines.rest().start);
            if count == 0 && self.separators.marked() - start > LONGEST_MARKED {
                self.read_line(labels, lines, out)?;
                self.separators.restart(lines.rest().start);
            }
            let (mut line, mut others) = (0, 0);
            while line < count {
                if others < PATIENCE {
                    let place = (line, lines.rest().start);
                    let (read, end) = self.separators.read(self.isa, text, place, out, &mut self.unsorted);
                    lines.skip(read as u64, end);
                    line += read;
                    others = if read == 0 { others } else { 0 };
                }
                if line < count {
                    self.read_line(labels, lines, out)?;
                    line += 1;
                    others += 1;
                }
            }
        }
        Ok(())
    }

    /// Adds the next line the long way.
    fn read_line(&mut self, labels: Labels, lines: &mut Lines<'_>, out: &mut Examples) -> Result<(), Fault> {
        lines.advance()?;
        self.parse(labels, lines.line(), out).map_err(|(at, what)| Fault::at(lines.number(), at, what))
    }

    /// Adds the line's example to `out`, if it has one.
    fn parse(&mut self, labels: Labels, line: &[u8], out: &mut Examples) -> Result<(), LineFault> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let start = skip_blanks(line, 0);
        if ends(line, start) {
            return Ok(());
        }
        let (label, mut at) = label(labels, line, start)?;
        // Above every index so far, as u64::MAX is never one.
        let (mut sorted, mut lowest_next) = (true, 0);
        loop {
            at = skip_blanks(line, at);
            if ends(line, at) {
                break;
            }
            let (index, colon) = index(line, at)?;
            sorted &= index >= lowest_next;
            lowest_next = index + 1;
            let (value, next) = value(line, colon + 1, "a finite number; write index:value, such as 12:0.5")?;
            out.rows.push(index, value);
            at = next;
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

/// The label at `at`, if there is one, and the offset after it.
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
        index = number::long_index(&line[at..next]).ok_or_else(|| {
            let found = shown(token(line, at));
            (at, format!("found {found}; an index is at most 18446744073709551614"))
        })?;
    }
    if next > at && line.get(next) == Some(&b':') {
        return Ok((index, next));
    }
    Err(bad_index(line, at, next))
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
