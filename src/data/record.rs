//! Cells out of delimited lines, RFC 4180 quotes included.
//!
//! Nearly every line has no quote: its cells are the stretches between delimiters, in place. A line with one is copied cell
//! by cell, unescaped, and may go on over several lines. A quote counts only at the start of a cell; elsewhere it is text.

use std::io::Read;

use super::error::{Fault, shown};
use super::lines::{LONGEST_LINE, Lines, PADDING};
use super::number::{self, Short};

/// The cells of one record.
#[derive(Default)]
pub(super) struct Record {
    /// Where each cell starts, and one past the byte after the last one: cell `i` is `starts[i]..starts[i + 1] - 1`.
    starts: Vec<usize>,
    /// The unescaped cells of a record with quotes, a delimiter after each.
    text: Vec<u8>,
    /// Line and byte offset of each cell, for a record with quotes.
    places: Vec<(u64, usize)>,
    quoted: bool,
}

/// The cells where they are.
#[derive(Clone, Copy)]
pub(super) struct Cells<'a> {
    /// It may go on after the last cell.
    text: &'a [u8],
    starts: &'a [usize],
}

impl<'a> Cells<'a> {
    #[inline]
    pub(super) fn cell(self, at: usize) -> &'a [u8] {
        &self.text[self.starts[at]..self.starts[at + 1] - 1]
    }

    /// Cell `at` as a word, zeros above, when it is at most eight bytes long. No two cells make the same word, as no
    /// cell holds a NUL.
    #[inline]
    pub(super) fn word(self, at: usize) -> Option<u64> {
        let (start, end) = (self.starts[at], self.starts[at + 1] - 1);
        let unused = 8usize.checked_sub(end - start)?;
        let word = number::word(self.text, start)?;
        Some(if unused == 8 { 0 } else { word << (8 * unused) >> (8 * unused) })
    }

    /// The number that fills cell `at`, when it is plainly a short one.
    #[inline]
    pub(super) fn short_number(self, at: usize) -> Option<Short> {
        let length = self.starts[at + 1] - 1 - self.starts[at];
        number::short(self.word(at)?).filter(|short| short.length == length)
    }
}

impl Record {
    /// Reads the next record that is not a blank line; false at the end.
    #[inline]
    pub(super) fn read<R: Read>(&mut self, lines: &mut Lines<R>, delimiter: u8) -> Result<bool, Fault> {
        loop {
            if !lines.advance()? {
                return Ok(false);
            }
            let line = trim(lines.line());
            if !line.is_empty() {
                break;
            }
        }
        if let Some(at) = lines.quote_or_nul() {
            if lines.line()[at] == b'"' {
                return self.read_quoted(lines, delimiter);
            }
            return Err(nul(lines.number(), at));
        }
        self.quoted = false;
        split(lines.padded_line(), trim(lines.line()).len(), delimiter, &mut self.starts);
        Ok(true)
    }

    /// The number of cells.
    pub(super) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// The cells; `lines` must still stand where `read` left it.
    #[inline]
    pub(super) fn cells<'a, R: Read>(&'a self, lines: &'a Lines<R>) -> Cells<'a> {
        let text = if self.quoted { &self.text } else { lines.padded_line() };
        Cells { text, starts: &self.starts }
    }

    /// Line (from 1) and byte offset (from 0) of cell `at`.
    pub(super) fn place<R: Read>(&self, lines: &Lines<R>, at: usize) -> (u64, usize) {
        if self.quoted { self.places[at] } else { (lines.number(), self.starts[at]) }
    }

    #[cold]
    fn read_quoted<R: Read>(&mut self, lines: &mut Lines<R>, delimiter: u8) -> Result<bool, Fault> {
        self.quoted = true;
        self.starts.clear();
        self.starts.push(0);
        self.text.clear();
        self.places.clear();
        let mut at = 0;
        loop {
            let start = self.text.len();
            let place = (lines.number(), at);
            if trim(lines.line()).get(at) == Some(&b'"') {
                at = self.quoted_cell(lines, delimiter, place)?;
            } else {
                let line = trim(lines.line());
                let length = memchr::memchr(delimiter, &line[at..]).unwrap_or(line.len() - at);
                self.text.extend_from_slice(&line[at..at + length]);
                at += length;
            }
            if let Some(zero) = memchr::memchr(0, &self.text[start..]) {
                return Err(nul(place.0, place.1 + zero));
            }
            self.text.push(delimiter);
            self.starts.push(self.text.len());
            self.places.push(place);
            if at == trim(lines.line()).len() {
                return Ok(true);
            }
            // Past the delimiter, which is what the cell ended at.
            at += 1;
        }
    }

    /// Copies the cell whose opening quote is at `place`; gives the offset after its closing quote.
    fn quoted_cell<R: Read>(
        &mut self,
        lines: &mut Lines<R>,
        delimiter: u8,
        place: (u64, usize),
    ) -> Result<usize, Fault> {
        let mut at = place.1 + 1;
        loop {
            // Inside quotes a `\r` is text.
            let line = lines.line();
            let Some(length) = memchr::memchr(b'"', &line[at..]) else {
                self.text.extend_from_slice(&line[at..]);
                self.text.push(b'\n');
                at = 0;
                if self.text.len() > LONGEST_LINE || !lines.advance()? {
                    let what = "found a quote that is never closed; close it, or double a quote that is text";
                    return Err(Fault::at(place.0, place.1, what));
                }
                continue;
            };
            self.text.extend_from_slice(&line[at..at + length]);
            at += length + 1;
            match trim(line).get(at) {
                Some(b'"') => {
                    self.text.push(b'"');
                    at += 1;
                }
                None => return Ok(at),
                Some(&byte) if byte == delimiter => return Ok(at),
                Some(_) => {
                    let found = shown(&trim(line)[at..]);
                    let what = format!("found {found} after a closing quote; double a quote that is text");
                    return Err(Fault::at(lines.number(), at, what));
                }
            }
        }
    }
}

/// Fills `starts` with where the cells of the first `length` bytes of `text` start, and where one more would. Cells are a
/// few bytes long: one bit for each byte of a stretch, then a walk over the bits, beats a search for each.
#[inline]
fn split(text: &[u8], length: usize, delimiter: u8, starts: &mut Vec<usize>) {
    starts.clear();
    starts.push(0);
    let mut base = 0;
    while base < length {
        let mut found = match text.get(base..).and_then(<[u8]>::first_chunk) {
            Some(stretch) => matches(stretch, delimiter),
            None => {
                let mut stretch = [0; STRETCH];
                stretch[..length - base].copy_from_slice(&text[base..length]);
                matches(&stretch, delimiter)
            }
        };
        if length - base < STRETCH {
            found &= (1 << (length - base)) - 1;
        }
        while found != 0 {
            starts.push(base + found.trailing_zeros() as usize + 1);
            found &= found - 1;
        }
        base += STRETCH;
    }
    starts.push(length + 1);
}

/// Bytes looked at together: as many as a line is padded with.
const STRETCH: usize = 32;
const _: () = assert!(STRETCH <= PADDING);

/// A bit for each byte of `stretch` that is `wanted`, the lowest for the first.
#[inline]
fn matches(stretch: &[u8; STRETCH], wanted: u8) -> u64 {
    const LOW: u64 = 0x7F7F_7F7F_7F7F_7F7F;
    // Moves the low bit of byte i to bit 56 + i: no two products meet, so nothing carries.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    let pattern = u64::from_ne_bytes([wanted; 8]);
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

/// Without the `\r` of a `\r\n`.
#[inline]
fn trim(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn nul(line: u64, at: usize) -> Fault {
    Fault::at(line, at, "found a NUL byte; is this a text file?")
}
