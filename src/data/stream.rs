//! A thread that reads and parses ahead of whoever trains.
//!
//! Blocks travel through a bounded channel, so the parser is at most [`AHEAD`] blocks ahead; used blocks may come back
//! through [`Stream::recycle`]. The end and an error are messages of their own: a channel that closes without one means
//! that the thread died, which is an error and never a short file. Dropping the stream closes both channels; the
//! thread notices at its next read or send. It is not joined, because a read of a terminal or pipe cannot be interrupted.

use std::convert::Infallible;
use std::io::{self, Read};
use std::thread;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

use super::csv::CsvRows;
use super::error::Fault;
use super::libsvm::Libsvm;
use super::lines::Lines;
use super::source::Input;
use super::{DataError, Examples, FeatureSpec, Source};

/// Blocks parsed ahead: enough to ride over a slow minibatch, small enough not to matter in memory (about 1 MB each).
const AHEAD: usize = 4;

/// How the text becomes examples.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// `label index:value …`.
    Libsvm,
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
    name: String,
    blocks: Receiver<Message>,
    used: Sender<Examples>,
    /// Never used to send: the parser sees that it is gone.
    _running: Sender<Infallible>,
    progress: Progress,
    ended: bool,
}

enum Message {
    Block(Examples, Progress),
    End(Result<(), DataError>, Progress),
}

type Opener = Box<dyn FnOnce() -> Result<Box<dyn Read + Send>, DataError> + Send>;

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
        let total = sources.iter().map(Source::stored_bytes).sum();
        let mut inputs: Vec<(String, Opener)> = Vec::with_capacity(sources.len());
        for source in sources {
            // Opened later, one by one: a thousand files need not be open at once.
            source.probe()?;
            inputs.push((source.name(), Box::new(move || source.open())));
        }
        Self::start(inputs, format, total)
    }

    /// Starts reading `reader`, which messages call `name`.
    pub fn from_reader(
        name: &str,
        reader: impl Read + Send + 'static,
        format: &Format,
    ) -> Result<Self, DataError> {
        Self::start(vec![(name.to_owned(), Box::new(move || Ok(Box::new(reader))))], format, None)
    }

    /// How far the blocks returned so far reach.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Gives a used block back, so that its memory is used again.
    pub fn recycle(&self, mut block: Examples) {
        block.clear();
        // A full or closed channel means nobody needs it.
        let _ = self.used.try_send(block);
    }

    fn start(inputs: Vec<(String, Opener)>, format: &Format, total: Option<u64>) -> Result<Self, DataError> {
        if let Format::Csv(spec) = format {
            spec.check()?;
        }
        let (block_out, blocks) = bounded(AHEAD);
        let (used, used_in) = bounded(AHEAD);
        let (running, stop) = bounded(0);
        let name = inputs.first().map_or_else(String::new, |(name, _)| name.clone());
        let progress = Progress { bytes_total: total, ..Progress::default() };
        let reader = Reader { blocks: block_out, used: used_in, stop, progress, block: Examples::default() };
        let format = format.clone();
        thread::Builder::new()
            .name("gradwire-parse".to_owned())
            .spawn(move || reader.run(inputs, &format))
            .map_err(|cause| DataError::Thread { file: name.clone(), cause: cause.to_string() })?;
        Ok(Self { name, blocks, used, _running: running, progress, ended: false })
    }
}

impl Iterator for Stream {
    type Item = Result<Examples, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match self.blocks.recv() {
            Ok(Message::Block(block, progress)) => {
                self.progress = progress;
                Some(Ok(block))
            }
            Ok(Message::End(result, progress)) => {
                self.progress = progress;
                self.ended = true;
                result.err().map(Err)
            }
            Err(_) => {
                self.ended = true;
                let cause = "it ended without a result".to_owned();
                Some(Err(DataError::Thread { file: self.name.clone(), cause }))
            }
        }
    }
}

/// The parser thread's side.
struct Reader {
    blocks: Sender<Message>,
    used: Receiver<Examples>,
    stop: Receiver<Infallible>,
    progress: Progress,
    block: Examples,
}

/// The parser of one file.
enum Parser {
    Libsvm(Box<Libsvm>),
    Csv(Box<CsvRows>),
}

impl Reader {
    fn run(mut self, inputs: Vec<(String, Opener)>, format: &Format) {
        let mut result = Ok(());
        for (name, open) in inputs {
            result = open().and_then(|reader| self.read_file(&name, reader, format));
            if result.is_err() {
                break;
            }
        }
        // The good rows before an error come first. A closed channel: the stream was dropped, nobody asks.
        let _ = self.flush();
        let _ = self.blocks.send(Message::End(result, self.progress));
    }

    fn read_file(
        &mut self,
        name: &str,
        reader: Box<dyn Read + Send>,
        format: &Format,
    ) -> Result<(), DataError> {
        let fault = |fault: Fault| fault.in_file(name);
        let reader = Stoppable { reader, stop: self.stop.clone() };
        let input = Input::new(Box::new(reader)).map_err(|cause| fault(Fault::Io(cause)))?;
        let mut lines = Lines::new(input);
        let bytes_before = self.progress.bytes_read;
        let (rows_before, skipped_before) = (self.progress.rows, self.progress.skipped_rows);
        let mut parser = match format {
            Format::Libsvm => Parser::Libsvm(Box::default()),
            Format::Csv(spec) => match CsvRows::open(spec, &mut lines).map_err(fault)? {
                Some(rows) => Parser::Csv(Box::new(rows)),
                None => return Err(DataError::Empty { file: name.to_owned() }),
            },
        };
        let mut more = true;
        while more {
            let held = self.block.len();
            let outcome = match &mut parser {
                Parser::Libsvm(parser) => parser.read_block(&mut lines, &mut self.block),
                Parser::Csv(parser) => {
                    let outcome = parser.read_block(&mut lines, &mut self.block);
                    self.progress.skipped_rows = skipped_before + parser.skipped_rows();
                    outcome
                }
            };
            self.progress.rows += (self.block.len() - held) as u64;
            self.progress.bytes_read = bytes_before + lines.input.stored_bytes_read();
            more = outcome.map_err(fault)?;
            if more && self.flush().is_err() {
                return Ok(());
            }
        }
        if lines.number() == 0 {
            return Err(DataError::Empty { file: name.to_owned() });
        }
        if self.progress.rows == rows_before {
            let skipped_rows = self.progress.skipped_rows - skipped_before;
            return Err(DataError::NoExamples { file: name.to_owned(), skipped_rows });
        }
        Ok(())
    }

    /// Sends the block, if it has rows; an error means that the stream was dropped.
    fn flush(&mut self) -> Result<(), ()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let block = std::mem::replace(&mut self.block, self.used.try_recv().unwrap_or_default());
        self.blocks.send(Message::Block(block, self.progress)).map_err(|_| ())
    }
}

/// Fails reads once the stream was dropped.
struct Stoppable<R> {
    reader: R,
    stop: Receiver<Infallible>,
}

impl<R: Read> Read for Stoppable<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.stop.try_recv() {
            Err(TryRecvError::Disconnected) => Err(io::Error::other("the stream was dropped")),
            _ => self.reader.read(buffer),
        }
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
