//! Files in, examples out: what reads and parses ahead of whoever trains.
//!
//! Blocks come through bounded queues, so the threads behind a stream ([`parse`](super::parse)) are a few blocks ahead at
//! most; used blocks may come back through [`Stream::recycle`]. The end and an error are messages of their own: a queue that
//! closes without one means that a thread died, which is an error and never a short file. Dropping the stream closes the
//! queues; the threads notice at their next read or send. They are not joined, because a read of a terminal or pipe cannot
//! be interrupted.

use std::convert::Infallible;
use std::io::Read;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::chunk::CHUNK;
use super::parse::{Opener, Parsed, Reader, Step, parse};
use super::{DataError, Examples, FeatureSpec, Source};

/// Parser threads at most when nobody says how many: their consumer is one thread, which copies.
const PARSERS: usize = 4;

/// Chunks ahead for each parser: one being parsed, one waiting. With their examples, about 1 MB each.
const AHEAD: usize = 2;

/// How the text becomes examples.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// `label index:value …`.
    Libsvm,
    /// The same for data to predict: the label may be missing, and is not looked at.
    LibsvmMaybeLabelled,
    /// Delimited text with a header; columns become hashed features.
    Csv(FeatureSpec),
}

/// How far the reading is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read as stored (compressed where the files are).
    pub bytes_read: u64,
    /// Bytes of all sources as stored, when known.
    pub bytes_total: Option<u64>,
    /// Examples parsed.
    pub rows: u64,
    /// Rows left out because their label is missing.
    pub skipped_rows: u64,
}

/// Examples in blocks, in the order of the sources; after an error or the end, nothing more.
pub struct Stream {
    steps: Receiver<Step>,
    blocks: Sender<Examples>,
    /// Never used to send: the reader sees that it is gone.
    _running: Sender<Infallible>,
    progress: Progress,
    /// The file whose chunks come now.
    file: FileSoFar,
    /// Found after the block that was given last.
    failed: Option<DataError>,
    ended: bool,
}

/// What is known of the file being read.
#[derive(Default)]
struct FileSoFar {
    name: String,
    lines: u64,
    rows: u64,
    skipped_rows: u64,
}

impl Stream {
    /// Starts reading `sources`. Fails at once when a file is missing or the specification contradicts itself.
    ///
    /// ```
    /// use gradwire::data::{Format, Source, Stream};
    /// let source = Source::Memory { name: "two lines", bytes: b"1 3:1 5:0.5\n-1 4:1\n" };
    /// let mut rows = 0;
    /// for block in Stream::open(vec![source], &Format::Libsvm)? {
    ///     rows += block?.len();
    /// }
    /// assert_eq!(rows, 2);
    /// # Ok::<(), gradwire::data::DataError>(())
    /// ```
    pub fn open(sources: Vec<Source>, format: &Format) -> Result<Self, DataError> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self::open_with(sources, format, cores.min(PARSERS))
    }

    /// As [`open`](Self::open), parsed by `parsers` threads (at least one); one more reads and decompresses. The examples
    /// are the same for any number.
    pub fn open_with(sources: Vec<Source>, format: &Format, parsers: usize) -> Result<Self, DataError> {
        let total = sources.iter().map(Source::stored_bytes).sum();
        let mut inputs: Vec<(String, Opener)> = Vec::with_capacity(sources.len());
        for source in sources {
            // Opened later, one by one: a thousand files need not be open at once.
            source.probe()?;
            inputs.push((source.name(), Box::new(move || source.open())));
        }
        Self::start(inputs, format, total, parsers)
    }

    /// Starts reading `reader`, which messages call `name`.
    pub fn from_reader(
        name: &str,
        reader: impl Read + Send + 'static,
        format: &Format,
    ) -> Result<Self, DataError> {
        Self::start(vec![(name.to_owned(), Box::new(move || Ok(Box::new(reader))))], format, None, 1)
    }

    /// How far the blocks returned so far reach.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Gives a used block back, so that its memory is used again.
    pub fn recycle(&self, block: Examples) {
        // A full or closed channel means nobody needs it.
        let _ = self.blocks.try_send(block);
    }

    fn start(
        inputs: Vec<(String, Opener)>,
        format: &Format,
        total: Option<u64>,
        parsers: usize,
    ) -> Result<Self, DataError> {
        if let Format::Csv(spec) = format {
            spec.check()?;
        }
        let parsers = parsers.max(1);
        let ahead = AHEAD * parsers;
        let (steps_out, steps) = bounded(ahead);
        let (jobs_out, jobs) = bounded(parsers);
        let (blocks, blocks_in) = bounded(ahead);
        let (chunks, chunks_in) = bounded(ahead);
        let (running, stop) = bounded(0);
        let name = inputs.first().map_or_else(String::new, |(name, _)| name.clone());
        let failed =
            |cause: std::io::Error| DataError::Thread { file: name.clone(), cause: cause.to_string() };
        for _ in 0..parsers {
            let (jobs, chunks) = (jobs.clone(), chunks.clone());
            let thread = thread::Builder::new().name("gradwire-parse".to_owned());
            thread.spawn(move || parse(&jobs, &chunks)).map_err(failed)?;
        }
        let reader = Reader {
            steps: steps_out,
            jobs: jobs_out,
            blocks: blocks_in,
            chunks: chunks_in,
            chunk: CHUNK,
            stop,
        };
        let format = format.clone();
        let thread = thread::Builder::new().name("gradwire-read".to_owned());
        thread.spawn(move || reader.run(inputs, &format)).map_err(failed)?;
        let progress = Progress { bytes_total: total, ..Progress::default() };
        let file = FileSoFar { name, ..FileSoFar::default() };
        Ok(Self { steps, blocks, _running: running, progress, file, failed: None, ended: false })
    }

    /// Reads and parses all of `bytes` now, on the calling thread, in chunks of `chunk` bytes: for checks of the parsers.
    pub(super) fn at_once(bytes: &[u8], format: &Format, chunk: usize) -> Result<Self, DataError> {
        if let Format::Csv(spec) = format {
            spec.check()?;
        }
        let (steps_out, steps) = unbounded();
        let (jobs_out, jobs) = unbounded();
        let (blocks, blocks_in) = unbounded();
        let (chunks, chunks_in) = unbounded();
        let (running, stop) = bounded(0);
        let reader =
            Reader { steps: steps_out, jobs: jobs_out, blocks: blocks_in, chunks: chunks_in, chunk, stop };
        let text = bytes.to_vec();
        let open: Opener = Box::new(move || Ok(Box::new(std::io::Cursor::new(text))));
        reader.run(vec![("data".to_owned(), open)], format);
        parse(&jobs, &chunks);
        let (progress, file) = (Progress::default(), FileSoFar::default());
        Ok(Self { steps, blocks, _running: running, progress, file, failed: None, ended: false })
    }

    /// Takes a chunk's examples, if it has any; notes what was wrong after them.
    fn take(&mut self, parsed: Parsed) -> Option<Examples> {
        let Parsed { block, skipped_rows, lines, result } = parsed;
        self.failed = result.err().map(|fault| fault.after_lines(self.file.lines).in_file(&self.file.name));
        self.file.lines += lines;
        self.file.rows += block.len() as u64;
        self.file.skipped_rows += skipped_rows;
        self.progress.rows += block.len() as u64;
        self.progress.skipped_rows += skipped_rows;
        if block.is_empty() {
            self.recycle(block);
            return None;
        }
        Some(block)
    }

    /// What is wrong with a file that was read to its end.
    fn unusable(&self, empty: bool) -> Option<DataError> {
        let file = self.file.name.clone();
        if empty {
            Some(DataError::Empty { file })
        } else if self.file.rows == 0 {
            Some(DataError::NoExamples { file, skipped_rows: self.file.skipped_rows })
        } else {
            None
        }
    }

    fn died(&self) -> DataError {
        let cause = "it ended without a result".to_owned();
        DataError::Thread { file: self.file.name.clone(), cause }
    }
}

impl Iterator for Stream {
    type Item = Result<Examples, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended && self.failed.is_none() {
            match self.steps.recv() {
                Ok(Step::File(name)) => self.file = FileSoFar { name, ..FileSoFar::default() },
                Ok(Step::Chunk { parsed, bytes_read }) => match parsed.recv() {
                    Ok(parsed) => {
                        self.progress.bytes_read = bytes_read;
                        if let Some(block) = self.take(parsed) {
                            return Some(Ok(block));
                        }
                    }
                    Err(_) => self.failed = Some(self.died()),
                },
                Ok(Step::FileEnd { empty, bytes_read }) => {
                    self.progress.bytes_read = bytes_read;
                    self.failed = self.unusable(empty);
                }
                Ok(Step::End(result)) => {
                    self.failed = result.err();
                    self.ended = true;
                }
                Err(_) => self.failed = Some(self.died()),
            }
        }
        self.ended = true;
        self.failed.take().map(Err)
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
