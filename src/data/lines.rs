//! Lines of a chunk, in place.

use std::ops::Range;

use super::chunk::{Chunk, LONGEST_LINE};
use super::error::{Fault, shown};

/// Lines without their `\n`; a `\r` before it is kept, since a quoted csv cell may own it.
#[derive(Clone)]
pub(super) struct Lines<'a> {
    /// The text, a `\n`, and padding.
    bytes: &'a [u8],
    /// Bytes of text.
    length: usize,
    /// The current line.
    line: Range<usize>,
    /// Start of the next line.
    next: usize,
    number: u64,
}

impl<'a> Lines<'a> {
    /// The lines of `chunk` from byte `start` on, which is where line `before + 1` of the chunk starts.
    pub(super) fn new(chunk: &'a Chunk, start: usize, before: u64) -> Self {
        Self { bytes: &chunk.bytes, length: chunk.length, line: 0..0, next: start, number: before }
    }

    /// Goes to the next line; false at the end.
    #[inline]
    pub(super) fn advance(&mut self) -> Result<bool, Fault> {
        let rest = &self.bytes[self.next..self.length];
        if rest.is_empty() {
            return Ok(false);
        }
        let length = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        if length > LONGEST_LINE {
            return self.too_long();
        }
        self.line = self.next..self.next + length;
        self.next = self.length.min(self.line.end + 1);
        self.number += 1;
        Ok(true)
    }

    /// The current line.
    #[inline]
    pub(super) fn line(&self) -> &'a [u8] {
        &self.bytes[self.line.clone()]
    }

    /// The current line's number in the chunk, from 1; 0 before the first.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// All of the chunk and its padding.
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The bytes of the lines that are still to come, as a range of [`bytes`](Self::bytes).
    pub(super) fn rest(&self) -> Range<usize> {
        self.next..self.length
    }

    /// Where the bytes of the lines that are still to come end, when each of them ends with a `\n`: the chunk has one after
    /// its text.
    pub(super) fn rest_with_end(&self) -> usize {
        self.length + usize::from(self.bytes[..self.length].last() != Some(&b'\n'))
    }

    /// Goes on after `lines` lines, which end at byte `end` of the chunk.
    pub(super) fn skip(&mut self, lines: u64, end: usize) {
        self.next = end.min(self.length);
        self.number += lines;
    }

    #[cold]
    fn too_long(&self) -> Result<bool, Fault> {
        let start = shown(&self.bytes[self.next..self.length]);
        let what = format!(
            "found a line longer than 16 MiB that starts with {start}; is this a text file of examples?"
        );
        Err(Fault::at(self.number + 1, 0, what))
    }
}
