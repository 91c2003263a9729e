//! Lines out of a byte stream, in place, whatever the sizes in which bytes arrive.

use std::io::{self, Read};

use super::error::{Fault, shown};

/// A longer line is not data but a mistake, such as a binary file.
pub(super) const LONGEST_LINE: usize = 16 << 20;
/// Bytes asked of the reader at once: large enough that the call costs nothing, small enough for a second-level cache.
const FIRST_BUFFER: usize = 256 << 10;

/// Bytes after the last one read, so that a parser may load whole words from anywhere in a line.
pub(super) const PADDING: usize = 64;

/// Lines without their `\n`; a `\r` before it is kept, since a quoted csv cell may own it.
pub(super) struct Lines<R> {
    pub(super) input: R,
    buffer: Vec<u8>,
    /// The current line.
    line: std::ops::Range<usize>,
    /// Bytes after the current line and its `\n`: `next..filled`.
    next: usize,
    filled: usize,
    /// From the current line to here no byte is one that `special` was asked for.
    plain_until: usize,
    ended: bool,
    number: u64,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            buffer: vec![0; FIRST_BUFFER],
            line: 0..0,
            next: 0,
            filled: 0,
            plain_until: 0,
            ended: false,
            number: 0,
        }
    }

    /// Goes to the next line; false at the end.
    #[inline]
    pub(super) fn advance(&mut self) -> Result<bool, Fault> {
        // Bytes of this line that are known to hold no `\n`.
        let mut searched = 0;
        loop {
            let fresh = &self.buffer[self.next + searched..self.filled];
            if let Some(found) = memchr::memchr(b'\n', fresh) {
                return self.take(searched + found, 1);
            }
            searched += fresh.len();
            if self.ended {
                return if searched == 0 { Ok(false) } else { self.take(searched, 0) };
            }
            if searched > LONGEST_LINE {
                return self.too_long();
            }
            self.fill().map_err(Fault::Io)?;
        }
    }

    /// The current line.
    #[inline]
    pub(super) fn line(&self) -> &[u8] {
        &self.buffer[self.line.clone()]
    }

    /// The current line and what follows it in the buffer: a `\n`, then [`PADDING`] bytes of whatever at least.
    #[inline]
    pub(super) fn padded_line(&self) -> &[u8] {
        &self.buffer[self.line.start..]
    }

    /// Where in the current line the first quote or NUL is, which is searched for in all that is read at once.
    #[inline]
    pub(super) fn quote_or_nul(&mut self) -> Option<usize> {
        if self.line.end <= self.plain_until { None } else { self.find_quote_or_nul() }
    }

    fn find_quote_or_nul(&mut self) -> Option<usize> {
        let start = self.plain_until.max(self.line.start);
        let found = memchr::memchr2(b'"', 0, &self.buffer[start..self.filled]);
        self.plain_until = found.map_or(self.filled, |at| start + at);
        (self.plain_until < self.line.end).then(|| self.plain_until - self.line.start)
    }

    /// The current line's number, from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    fn take(&mut self, length: usize, newline: usize) -> Result<bool, Fault> {
        if length > LONGEST_LINE {
            return self.too_long();
        }
        self.line = self.next..self.next + length;
        self.next = self.line.end + newline;
        self.number += 1;
        if self.number == 1 && self.line().starts_with(b"\xEF\xBB\xBF") {
            self.line.start += 3;
        }
        Ok(true)
    }

    fn too_long(&self) -> Result<bool, Fault> {
        let start = shown(&self.buffer[self.next..self.filled]);
        let what = format!(
            "found a line longer than 16 MiB that starts with {start}; is this a text file of examples?"
        );
        Err(Fault::at(self.number + 1, 0, what))
    }

    fn fill(&mut self) -> io::Result<()> {
        if self.next > 0 {
            self.buffer.copy_within(self.next..self.filled, 0);
            self.filled -= self.next;
            self.plain_until = self.plain_until.saturating_sub(self.next);
            self.next = 0;
        }
        if self.filled == self.buffer.len() - PADDING - 1 {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let end = self.buffer.len() - PADDING - 1;
        let count = loop {
            match self.input.read(&mut self.buffer[self.filled..end]) {
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                done => break done?,
            }
        };
        self.filled += count;
        self.ended = count == 0;
        // What an earlier fill left there must not go on where the last line ends.
        self.buffer[self.filled] = b'\n';
        Ok(())
    }
}
