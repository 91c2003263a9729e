//! A file cut into chunks of whole records, so that several threads can parse it.
//!
//! A chunk ends where a line does, but not inside a quoted csv cell, which may hold line ends of its own. Where it ends
//! depends on the text alone, never on the sizes in which bytes arrive. A record longer than [`LONGEST_LINE`] is handed
//! over cut: whoever parses it refuses it.

use std::io::{self, Read};

/// A longer line is not data but a mistake, such as a binary file.
pub(super) const LONGEST_LINE: usize = 16 << 20;

/// Text of a chunk when no record is longer: large enough that handing it over costs nothing, small enough that it and
/// its examples stay in a second-level cache.
pub(super) const CHUNK: usize = 256 << 10;

/// Bytes after the text, so that a parser may load whole words from anywhere in a line.
pub(super) const PADDING: usize = 64;

/// Whole records.
#[derive(Default)]
pub(super) struct Chunk {
    /// The text, a `\n`, and at least [`PADDING`] bytes of whatever.
    pub(super) bytes: Vec<u8>,
    /// Bytes of text.
    pub(super) length: usize,
}

/// What cuts.
pub(super) struct Cutter<R> {
    pub(super) input: R,
    /// The delimiter, where cells may be quoted.
    delimiter: Option<u8>,
    /// Text of a chunk when no record is longer.
    chunk: usize,
    /// What the last chunk left: the start of a record.
    held: Vec<u8>,
    ended: bool,
    /// Met after text that is still to be handed over.
    fault: Option<io::Error>,
}

impl<R: Read> Cutter<R> {
    pub(super) fn new(input: R, delimiter: Option<u8>, chunk: usize) -> Self {
        Self { input, delimiter, chunk, held: Vec::new(), ended: false, fault: None }
    }

    /// The next chunk, in `memory`; `None` at the end. Text before a fault comes first.
    pub(super) fn next(&mut self, memory: Vec<u8>) -> io::Result<Option<Chunk>> {
        let mut bytes = memory;
        let mut filled = self.held.len();
        let mut wanted = self.chunk.max(filled * 2);
        reserve(&mut bytes, wanted);
        bytes[..filled].copy_from_slice(&self.held);
        self.held.clear();
        let cut = loop {
            self.fill(&mut bytes[..wanted], &mut filled);
            if self.ended && self.fault.is_none() {
                break filled;
            }
            if let Some(end) = records_end(&bytes[..filled], self.delimiter) {
                break end;
            }
            if let Some(fault) = self.fault.take() {
                return Err(fault);
            }
            if filled > LONGEST_LINE + 1 {
                break filled;
            }
            wanted *= 2;
            reserve(&mut bytes, wanted);
        };
        if cut == 0 {
            return Ok(None);
        }
        self.held.extend_from_slice(&bytes[cut..filled]);
        bytes[cut] = b'\n';
        Ok(Some(Chunk { bytes, length: cut }))
    }

    /// Reads until `buffer` is full, the input ends or fails.
    fn fill(&mut self, buffer: &mut [u8], filled: &mut usize) {
        while !self.ended && *filled < buffer.len() {
            match self.input.read(&mut buffer[*filled..]) {
                Ok(0) => self.ended = true,
                Ok(count) => *filled += count,
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                Err(fault) => {
                    self.fault = Some(fault);
                    self.ended = true;
                }
            }
        }
    }
}

fn reserve(bytes: &mut Vec<u8>, text: usize) {
    if bytes.len() < text + 1 + PADDING {
        bytes.resize(text + 1 + PADDING, 0);
    }
}

/// Where the last whole record of `text`, which starts with a record, ends; `None` when there is none.
pub(super) fn records_end(text: &[u8], delimiter: Option<u8>) -> Option<usize> {
    let newline = |from: usize, to: usize| memchr::memrchr(b'\n', &text[from..to]).map(|at| from + at + 1);
    let Some(delimiter) = delimiter else { return newline(0, text.len()) };
    // From the last closing quote to here there is no cell in quotes.
    let (mut plain, mut at) = (0, 0);
    let mut end = None;
    while let Some(found) = memchr::memchr(b'"', &text[at..]) {
        let quote = at + found;
        at = quote + 1;
        // A quote counts at the start of a cell only.
        if quote == 0 || text[quote - 1] == delimiter || text[quote - 1] == b'\n' {
            end = newline(plain, quote).or(end);
            let Some(close) = closing_quote(text, at) else { return end };
            at = close + 1;
            plain = at;
        }
    }
    newline(plain, text.len()).or(end)
}

/// The quote that ends the cell whose text starts at `at`; one of two in a row is text. At the very end of what is known a
/// quote may be the first of two, and is no end yet.
fn closing_quote(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let quote = at + memchr::memchr(b'"', &text[at..])?;
        if *text.get(quote + 1)? != b'"' {
            return Some(quote);
        }
        at = quote + 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::Pieces;

    fn cut(text: &[u8], delimiter: Option<u8>, sizes: &[usize]) -> Vec<Vec<u8>> {
        let mut cutter = Cutter::new(Pieces::new(text, sizes), delimiter, CHUNK);
        let mut chunks = Vec::new();
        while let Some(chunk) = cutter.next(Vec::new()).unwrap() {
            assert_eq!(chunk.bytes[chunk.length], b'\n');
            assert!(chunk.bytes.len() > chunk.length + PADDING);
            chunks.push(chunk.bytes[..chunk.length].to_vec());
        }
        chunks
    }

    #[test]
    fn chunks_are_the_file_and_end_with_lines_however_the_bytes_arrive() {
        let mut text = Vec::new();
        (0..90_000).for_each(|row| text.extend(format!("1 {row}:1\n").bytes()));
        text.extend(b"no line end");
        let chunks = cut(&text, None, &[1 << 20]);
        assert!(chunks.len() > 2 && chunks.iter().all(|chunk| chunk.len() <= CHUNK));
        assert!(chunks[..chunks.len() - 1].iter().all(|chunk| chunk.ends_with(b"\n")));
        assert_eq!(chunks.concat(), text);
        assert_eq!(cut(&text, None, &[1, 4093, 17]), chunks);
    }

    #[test]
    fn no_chunk_ends_inside_a_quoted_cell() {
        let record = b"a,\"line one\nline \"\"two\"\"\n\",5\" wide\n";
        let text = record.repeat(30_000);
        let chunks = cut(&text, Some(b','), &[1 << 16]);
        assert!(chunks.len() > 2 && chunks.iter().all(|chunk| chunk.len() % record.len() == 0));
        assert_eq!(chunks.concat(), text);
    }

    #[test]
    fn an_open_quote_holds_the_record_back() {
        let end = |text: &str| records_end(text.as_bytes(), Some(b','));
        assert_eq!(end("a,b\nc,\"d\n"), Some(4));
        assert_eq!(end("a,b\nc,\"d\"\n"), Some(10));
        assert_eq!(end("a,b\nc,\"d\""), Some(4));
        assert_eq!(end("\"a\n\"\"\n"), None);
        assert_eq!(end("a\"b\n"), Some(4));
        assert_eq!(records_end(b"\"a\nb", None), Some(3));
        assert_eq!(records_end(b"", None), None);
    }

    #[test]
    fn text_before_a_fault_comes_before_it() {
        struct Failing(u32);
        impl Read for Failing {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0 += 1;
                if self.0 > 1 {
                    return Err(io::Error::other("gone"));
                }
                buffer[..6].copy_from_slice(b"1 1:1\n");
                Ok(6)
            }
        }
        let mut cutter = Cutter::new(Failing(0), None, CHUNK);
        assert_eq!(cutter.next(Vec::new()).unwrap().unwrap().length, 6);
        assert_eq!(cutter.next(Vec::new()).err().unwrap().to_string(), "gone");
    }
}
