//! One record of delimited text cell by cell, RFC 4180 quotes included.
//!
//! The way for the header and for lines with a quote, which are rare: cells are copied, unescaped, and may go on over
//! several lines. A quote counts only at the start of a cell; elsewhere it is text. Other lines are marked many at a
//! time, in place ([`Marks`](super::scan::Marks)); both ways end in [`Cells`].

use super::chunk::{LONGEST_LINE, PADDING};
use super::error::{Fault, shown};
use super::lines::Lines;
use super::number::{self, Short};

/// The cells of one record, where they are.
#[derive(Clone, Copy)]
pub(super) struct Cells<'a> {
    /// Cell `i` is `bounds[i]..bounds[i + 1] - 1` of it, but for the `\r` of the last one. It goes on after the last cell.
    text: &'a [u8],
    bounds: &'a [u32],
    /// 1 when the last cell is followed by a `\r`.
    carriage: usize,
}

impl<'a> Cells<'a> {
    /// The cells of a line of `text` with these bounds; `None` when the line is blank.
    #[inline]
    pub(super) fn new(text: &'a [u8], bounds: &'a [u32]) -> Option<Self> {
        let (&first, &after) = (bounds.first()?, bounds.last()?);
        let line = text.get(first as usize..after as usize - 1)?;
        let carriage = usize::from(line.last() == Some(&b'\r'));
        (line.len() > carriage).then_some(Self { text, bounds, carriage })
    }

    #[inline]
    pub(super) fn len(self) -> usize {
        self.bounds.len() - 1
    }

    #[inline]
    fn range(self, at: usize) -> (usize, usize) {
        let last = usize::from(at + 2 == self.bounds.len());
        (self.bounds[at] as usize, self.bounds[at + 1] as usize - 1 - (last & self.carriage))
    }

    #[inline]
    pub(super) fn cell(self, at: usize) -> &'a [u8] {
        let (start, end) = self.range(at);
        &self.text[start..end]
    }

    /// Cell `at` as a word, zeros above, when it is at most eight bytes long. No two cells make the same word, as no
    /// cell holds a NUL.
    #[inline]
    pub(super) fn word(self, at: usize) -> Option<u64> {
        let (start, end) = self.range(at);
        let unused = 8usize.checked_sub(end - start)?;
        let word = number::word(self.text, start)?;
        Some(if unused == 8 { 0 } else { word << (8 * unused) >> (8 * unused) })
    }

    /// The number that fills cell `at`, when it is plainly a short one.
    #[inline]
    pub(super) fn short_number(self, at: usize) -> Option<Short> {
        let (start, end) = self.range(at);
        number::short(self.word(at)?).filter(|short| short.length == end - start)
    }

    /// Bytes from the start of the first cell to that of cell `at`.
    pub(super) fn offset(self, at: usize) -> usize {
        (self.bounds[at] - self.bounds[0]) as usize
    }
}

/// A record that was read cell by cell.
#[derive(Default)]
pub(super) struct Record {
    /// The unescaped cells, a byte after each, and padding.
    text: Vec<u8>,
    /// Where each cell starts, and one past the byte after the last.
    bounds: Vec<u32>,
    /// Line and byte offset of each cell.
    places: Vec<(u64, usize)>,
}

impl Record {
    /// Reads the record that starts with the current line.
    pub(super) fn read(&mut self, lines: &mut Lines<'_>, delimiter: u8) -> Result<(), Fault> {
        self.text.clear();
        self.bounds.clear();
        self.bounds.push(0);
        self.places.clear();
        let mut at = 0;
        loop {
            let start = self.text.len();
            let place = (lines.number(), at);
            let line = trim(lines.line());
            if line.get(at) == Some(&b'"') {
                at = self.quoted_cell(lines, delimiter, place)?;
            } else {
                let length = memchr::memchr(delimiter, &line[at..]).unwrap_or(line.len() - at);
                self.text.extend_from_slice(&line[at..at + length]);
                at += length;
            }
            if let Some(zero) = memchr::memchr(0, &self.text[start..]) {
                return Err(nul(place.0, place.1 + zero));
            }
            self.text.push(delimiter);
            self.bounds.push(self.text.len() as u32);
            self.places.push(place);
            if at == trim(lines.line()).len() {
                self.text.resize(self.text.len() + PADDING, 0);
                return Ok(());
            }
            // Past the delimiter, which is what the cell ended at.
            at += 1;
        }
    }

    /// The number of cells.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// The cells.
    pub(super) fn cells(&self) -> Cells<'_> {
        Cells { text: &self.text, bounds: &self.bounds, carriage: 0 }
    }

    /// Line (from 1, in the chunk) and byte offset (from 0) of cell `at`.
    pub(super) fn place(&self, at: usize) -> (u64, usize) {
        self.places[at]
    }

    /// Copies the cell whose opening quote is at `place`; gives the offset after its closing quote.
    fn quoted_cell(
        &mut self,
        lines: &mut Lines<'_>,
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

/// Without the `\r` of a `\r\n`.
#[inline]
pub(super) fn trim(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

pub(super) fn nul(line: u64, at: usize) -> Fault {
    Fault::at(line, at, "found a NUL byte; is this a text file?")
}
