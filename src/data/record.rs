//! Cells out of delimited lines, RFC 4180 quotes included.
//!
//! Nearly every line has no quote: its cells are the stretches between delimiters, in place. A line with one is copied cell
//! by cell, unescaped, and may go on over several lines. A quote counts only at the start of a cell; elsewhere it is text.

use std::io::Read;
use std::ops::Range;

use super::error::{Fault, shown};
use super::lines::{LONGEST_LINE, Lines};

/// The cells of one record.
#[derive(Default)]
pub(super) struct Record {
    cells: Vec<Range<usize>>,
    /// The unescaped cells of a record with quotes.
    text: Vec<u8>,
    /// Line and byte offset of each cell, for a record with quotes.
    places: Vec<(u64, usize)>,
    quoted: bool,
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
        let line = trim(lines.line());
        if let Some(at) = memchr::memchr2(b'"', 0, line) {
            if line[at] == b'"' {
                return self.read_quoted(lines, delimiter);
            }
            return Err(nul(lines.number(), at));
        }
        self.quoted = false;
        self.cells.clear();
        split(line, delimiter, &mut self.cells);
        Ok(true)
    }

    /// The number of cells.
    pub(super) fn len(&self) -> usize {
        self.cells.len()
    }

    /// Cell `at`; `lines` must still stand where `read` left it.
    #[inline]
    pub(super) fn cell<'a, R: Read>(&'a self, lines: &'a Lines<R>, at: usize) -> &'a [u8] {
        let text = if self.quoted { &self.text[..] } else { lines.line() };
        &text[self.cells[at].clone()]
    }

    /// Line (from 1) and byte offset (from 0) of cell `at`.
    pub(super) fn place<R: Read>(&self, lines: &Lines<R>, at: usize) -> (u64, usize) {
        if self.quoted { self.places[at] } else { (lines.number(), self.cells[at].start) }
    }

    #[cold]
    fn read_quoted<R: Read>(&mut self, lines: &mut Lines<R>, delimiter: u8) -> Result<bool, Fault> {
        self.quoted = true;
        self.cells.clear();
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
            self.cells.push(start..self.text.len());
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

/// The stretches between delimiters. Cells are a few bytes long: looking at eight bytes at once beats a search for each.
#[inline]
fn split(line: &[u8], delimiter: u8, cells: &mut Vec<Range<usize>>) {
    const LOW: u64 = 0x7F7F_7F7F_7F7F_7F7F;
    let pattern = u64::from_ne_bytes([delimiter; 8]);
    let mut start = 0;
    let mut base = 0;
    let (chunks, tail) = line.as_chunks::<8>();
    for chunk in chunks {
        let differing = u64::from_le_bytes(*chunk) ^ pattern;
        // The high bit of each byte that is zero, exactly: no carry leaves a byte.
        let mut found = !(((differing & LOW) + LOW) | differing | LOW);
        while found != 0 {
            let end = base + found.trailing_zeros() as usize / 8;
            cells.push(start..end);
            start = end + 1;
            found &= found - 1;
        }
        base += 8;
    }
    for (at, &byte) in tail.iter().enumerate() {
        if byte == delimiter {
            cells.push(start..base + at);
            start = base + at + 1;
        }
    }
    cells.push(start..line.len());
}

/// Without the `\r` of a `\r\n`.
#[inline]
fn trim(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn nul(line: u64, at: usize) -> Fault {
    Fault::at(line, at, "found a NUL byte; is this a text file?")
}
