//! Where blocks begin and end, and the bytes between.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek, SeekFrom};
use std::sync::Arc;

use crate::data::chunk::{LONGEST_LINE, records_end};
use crate::data::source::Input;
use crate::data::{DataError, Format, Source, Stream};

/// Bytes read at once when a line's end is looked for.
const SEARCH_BYTES: usize = 64 << 10;

/// What the reader of blocks asks of a source.
pub(super) trait ReadSeek: Read + Seek + Send {}
impl<T: Read + Seek + Send> ReadSeek for T {}

/// A block: the lines of a source whose first byte is in `start..end`.
#[derive(Clone, Debug)]
pub(super) struct Range {
    source: Arc<Source>,
    start: u64,
    end: u64,
    /// The source is this block alone, and is read as any other.
    whole: bool,
    /// Stored bytes of the source.
    total: u64,
}

/// Opens a source at its start, with its length.
pub(super) fn open_seekable(source: &Source) -> Result<(Box<dyn ReadSeek>, u64), DataError> {
    match source {
        Source::Stdin => Err(DataError::NoFile { file: source.name() }),
        Source::Memory { bytes, .. } => Ok((Box::new(Cursor::new(*bytes)), bytes.len() as u64)),
        Source::File(path) => {
            source.probe()?;
            let fault = |cause| DataError::Open { file: source.name(), cause };
            let meta = path.metadata().map_err(fault)?;
            if !meta.is_file() {
                return Err(DataError::NoFile { file: source.name() });
            }
            Ok((Box::new(File::open(path).map_err(fault)?), meta.len()))
        }
    }
}

/// Adds the blocks of `source` to `out`.
pub(super) fn source(source: &Source, block_bytes: u64, out: &mut Vec<Range>) -> Result<(), DataError> {
    let (reader, total) = open_seekable(source)?;
    let plain = match Input::new(Box::new(reader)) {
        Ok(input) => matches!(input, Input::Plain(_)),
        Err(cause) => return Err(DataError::Read { file: source.name(), cause }),
    };
    let source = Arc::new(source.clone());
    let count = if plain { total.div_ceil(block_bytes).max(1) } else { 1 };
    let stride = total.div_ceil(count).max(1);
    for block in 0..count {
        let (start, end) = ((block * stride).min(total), ((block + 1) * stride).min(total));
        out.push(Range { source: Arc::clone(&source), start, end, whole: count == 1, total });
    }
    Ok(())
}

/// Bytes of one block, ready to be parsed.
pub(super) struct Bytes {
    /// A csv header that the block itself does not have.
    header: Vec<u8>,
    start: u64,
    end: u64,
}

impl Range {
    pub(super) fn name(&self) -> String {
        self.source.name()
    }

    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Starts to parse; `None` for a block without lines.
    pub(super) fn stream(&self, format: &Format) -> Result<Option<Stream>, DataError> {
        if self.whole {
            return Stream::open(vec![(*self.source).clone()], format).map(Some);
        }
        let fault = |cause| DataError::Read { file: self.name(), cause };
        let (mut reader, _) = open_seekable(&self.source)?;
        let bytes = self.bytes(reader.as_mut(), format).map_err(fault)?;
        if bytes.start == bytes.end {
            return Ok(None);
        }
        reader.seek(SeekFrom::Start(bytes.start)).map_err(fault)?;
        let text = Cursor::new(bytes.header).chain(reader.take(bytes.end - bytes.start));
        Stream::from_reader(&self.name(), text, format).map(Some)
    }

    fn bytes(&self, reader: &mut dyn ReadSeek, format: &Format) -> io::Result<Bytes> {
        let header = match format {
            Format::Libsvm | Format::LibsvmMaybeLabelled => Vec::new(),
            Format::Csv(spec) => header(reader, spec.delimiter as u8)?,
        };
        // No line of the header is one of the rows, however small the blocks are.
        let least = header.len() as u64;
        let end = line_start(reader, self.end, self.total)?.max(least);
        if self.start == 0 {
            return Ok(Bytes { header: Vec::new(), start: 0, end });
        }
        let start = line_start(reader, self.start, self.total)?.max(least);
        Ok(Bytes { header, start, end })
    }

    /// A fault as reading the whole file would have told it (B4). Costs a pass over what comes before the block.
    pub(super) fn located(&self, error: DataError, format: &Format) -> DataError {
        let DataError::Syntax { file, line, column, mut what } = error else { return error };
        if self.whole {
            return DataError::Syntax { file, line, column, what };
        }
        let found = open_seekable(&self.source).and_then(|(mut reader, _)| {
            let fault = |cause| DataError::Read { file: file.clone(), cause };
            let bytes = self.bytes(reader.as_mut(), format).map_err(fault)?;
            let before = count_lines(reader.as_mut(), bytes.start).map_err(fault)?;
            Ok((memchr::memchr_iter(b'\n', &bytes.header).count() as u64, before, bytes.end))
        });
        let (header, before, end) = match found {
            Ok(found) => found,
            Err(error) => return error,
        };
        if end < self.total && what.contains("never closed") {
            what.push_str(
                "; a cell must not go over a line end where a block ends: compress the file, which makes it one \
                 block, or train without --cluster",
            );
        }
        let line = if line > header { line - header + before } else { line };
        DataError::Syntax { file, line, column, what }
    }
}

/// The first byte of the first line that starts at `at` or later; `total` when there is none.
fn line_start(reader: &mut dyn ReadSeek, at: u64, total: u64) -> io::Result<u64> {
    if at == 0 || at >= total {
        return Ok(at.min(total));
    }
    // The byte before it may end a line.
    let mut place = at - 1;
    reader.seek(SeekFrom::Start(place))?;
    let mut buffer = vec![0; SEARCH_BYTES];
    loop {
        let count = match reader.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count?,
        };
        if count == 0 {
            return Ok(total);
        }
        if let Some(found) = memchr::memchr(b'\n', &buffer[..count]) {
            return Ok((place + found as u64 + 1).min(total));
        }
        place += count as u64;
    }
}

/// The lines up to the end of the first record that is not blank, as the parser ends it: a cell in quotes may hold line
/// ends, a quote inside a cell is text.
fn header(reader: &mut dyn ReadSeek, delimiter: u8) -> io::Result<Vec<u8>> {
    reader.seek(SeekFrom::Start(0))?;
    let mut reader = BufReader::new(reader).take(LONGEST_LINE as u64);
    let (mut text, mut start) = (Vec::new(), 0);
    loop {
        if reader.read_until(b'\n', &mut text)? == 0 {
            return match text.len() < LONGEST_LINE {
                true => Ok(text),
                false => Err(io::Error::other("the header is longer than 16 MiB; is this a csv file?")),
            };
        }
        if start == 0 && text.starts_with(b"\xEF\xBB\xBF") {
            start = 3;
        }
        if text[start..].iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
            start = text.len();
        } else if records_end(&text[start..], Some(delimiter)).is_some() {
            return Ok(text);
        }
    }
}

fn count_lines(reader: &mut dyn ReadSeek, before: u64) -> io::Result<u64> {
    reader.seek(SeekFrom::Start(0))?;
    let mut reader = BufReader::with_capacity(SEARCH_BYTES, reader).take(before);
    let mut lines = 0;
    loop {
        let text = reader.fill_buf()?;
        if text.is_empty() {
            return Ok(lines);
        }
        lines += memchr::memchr_iter(b'\n', text).count() as u64;
        let count = text.len();
        reader.consume(count);
    }
}
