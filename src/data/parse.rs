//! The threads behind a stream: one reads, decompresses and cuts, some parse.
//!
//! The reader sends each chunk to whichever parser is free and, in the order of the file, the place where its examples
//! will be to the stream: so blocks arrive in file order whoever was faster. Both queues are bounded, and with them the
//! memory. A file's header is read by the reader, before any parser needs it. Every thread ends when the side it works for
//! is gone: the reader at its next read or send, the parsers when the reader is.

use std::convert::Infallible;
use std::io::{self, Read};
use std::sync::Arc;

use gradwire_kernels::Isa;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

use super::chunk::{Chunk, Cutter};
use super::csv::{CsvRows, Plan};
use super::error::Fault;
use super::libsvm::{Labels, Libsvm};
use super::lines::Lines;
use super::source::Input;
use super::{DataError, Examples, Format};

pub(super) type Opener = Box<dyn FnOnce() -> Result<Box<dyn Read + Send>, DataError> + Send>;

/// What the stream hears of, in order.
pub(super) enum Step {
    /// The next chunks are of this file.
    File(String),
    /// A chunk; `bytes_read` stored bytes of all sources were taken when it was cut.
    Chunk { parsed: Receiver<Parsed>, bytes_read: u64 },
    /// The file is at its end; whether there was nothing in it.
    FileEnd { empty: bool, bytes_read: u64 },
    /// There is nothing more.
    End(Result<(), DataError>),
}

/// A chunk to parse.
pub(super) struct Job {
    chunk: Chunk,
    /// Byte and number of lines at which the examples start: after the header.
    start: (usize, u64),
    rows: Rows,
    block: Examples,
    out: Sender<Parsed>,
}

/// How a file's chunks are parsed.
#[derive(Clone)]
enum Rows {
    Libsvm(Labels),
    Csv(Arc<Plan>),
}

/// What became of a chunk.
pub(super) struct Parsed {
    /// The good rows before the fault, or all.
    pub(super) block: Examples,
    pub(super) skipped_rows: u64,
    pub(super) lines: u64,
    pub(super) result: Result<(), Fault>,
}

/// The reader's side of its queues.
pub(super) struct Reader {
    pub(super) steps: Sender<Step>,
    pub(super) jobs: Sender<Job>,
    /// Blocks to use again.
    pub(super) blocks: Receiver<Examples>,
    /// Memory of chunks to use again.
    pub(super) chunks: Receiver<Vec<u8>>,
    /// Bytes of a chunk.
    pub(super) chunk: usize,
    /// Disconnected when the stream is gone.
    pub(super) stop: Receiver<Infallible>,
}

/// The stream was dropped, or a parser died: nothing more to do.
struct Gone;

/// Why reading a file ended early.
enum Early {
    Gone,
    Wrong(DataError),
}

impl From<Gone> for Early {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl Reader {
    /// Reads every input, until something is wrong.
    pub(super) fn run(self, inputs: Vec<(String, Opener)>, format: &Format) {
        let mut bytes_before = 0;
        for (name, open) in inputs {
            match self.read_file(&name, open, format, bytes_before) {
                Ok(bytes) => bytes_before = bytes,
                Err(Early::Gone) => return,
                Err(Early::Wrong(error)) => {
                    let _ = self.send(Step::End(Err(error)));
                    return;
                }
            }
        }
        let _ = self.send(Step::End(Ok(())));
    }

    /// Sends the chunks of one file; the stored bytes of all files so far.
    fn read_file(&self, name: &str, open: Opener, format: &Format, before: u64) -> Result<u64, Early> {
        self.send(Step::File(name.to_owned()))?;
        let wrong = |fault: Fault| Early::Wrong(fault.in_file(name));
        let reader = Stoppable { reader: open().map_err(Early::Wrong)?, stop: self.stop.clone() };
        let input = Input::new(Box::new(reader)).map_err(|cause| wrong(Fault::Io(cause)))?;
        let (delimiter, mut rows) = match format {
            Format::Libsvm => (None, Some(Rows::Libsvm(Labels::Needed))),
            Format::LibsvmMaybeLabelled => (None, Some(Rows::Libsvm(Labels::Ignored))),
            // `FeatureSpec::check` made sure that it is ASCII.
            Format::Csv(spec) => (Some(spec.delimiter as u8), None),
        };
        let mut cutter = Cutter::new(input, delimiter, self.chunk);
        let mut first = true;
        // Of chunks before the header's: all blank.
        let mut blank_lines = 0;
        loop {
            let memory = self.chunks.try_recv().unwrap_or_default();
            let Some(chunk) = cutter.next(memory).map_err(|cause| wrong(Fault::Io(cause)))? else { break };
            let mut start = (0, blank_lines);
            if std::mem::take(&mut first) && chunk.bytes[..chunk.length].starts_with(BYTE_ORDER_MARK) {
                start.0 = BYTE_ORDER_MARK.len();
            }
            if let (None, Format::Csv(spec)) = (&rows, format) {
                let mut lines = Lines::new(&chunk, start.0, start.1);
                match Plan::read(spec, &mut lines).map_err(wrong)? {
                    Some(plan) => rows = Some(Rows::Csv(Arc::new(plan))),
                    None => blank_lines = lines.number(),
                }
                start = (lines.rest().start, lines.number());
            }
            let Some(rows) = &rows else { continue };
            blank_lines = 0;
            let (out, parsed) = bounded(1);
            let block = self.blocks.try_recv().unwrap_or_default();
            self.jobs.send(Job { chunk, start, rows: rows.clone(), block, out }).map_err(|_| Gone)?;
            self.send(Step::Chunk { parsed, bytes_read: before + cutter.input.stored_bytes_read() })?;
        }
        let bytes_read = before + cutter.input.stored_bytes_read();
        self.send(Step::FileEnd { empty: rows.is_none() || first, bytes_read })?;
        Ok(bytes_read)
    }

    fn send(&self, step: Step) -> Result<(), Gone> {
        self.steps.send(step).map_err(|_| Gone)
    }
}

/// UTF-8's, which some programs write at the start of a file.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Parses until the reader is gone.
pub(super) fn parse(jobs: &Receiver<Job>, chunks: &Sender<Vec<u8>>) {
    let mut libsvm = Libsvm::new(Isa::active());
    let mut csv: Option<CsvRows> = None;
    for Job { chunk, start, rows, mut block, out } in jobs {
        block.clear();
        let mut lines = Lines::new(&chunk, start.0, start.1);
        let (result, skipped_rows) = match &rows {
            Rows::Libsvm(labels) => (libsvm.read(*labels, &mut lines, &mut block), 0),
            Rows::Csv(plan) => {
                let mut rows = csv
                    .take()
                    .filter(|rows| rows.follows(plan))
                    .unwrap_or_else(|| CsvRows::new(Arc::clone(plan)));
                let result = rows.read(&mut lines, &mut block);
                let skipped_rows = rows.take_skipped_rows();
                csv = Some(rows);
                (result, skipped_rows)
            }
        };
        if result.is_err() {
            block.rows.abandon_row();
        }
        // A stream that was dropped does not ask; nobody needs more memory than is kept.
        let _ = out.send(Parsed { block, skipped_rows, lines: lines.number(), result });
        let _ = chunks.try_send(chunk.bytes);
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
