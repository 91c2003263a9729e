//! What can be wrong with data, said so that a user can mend it.

use std::{fmt, io};

use thiserror::Error;

/// Why examples could not be read. Every message is one line: cause, object, next step.
#[derive(Debug, Error)]
pub enum DataError {
    /// The file cannot be opened.
    #[error("cannot open {file}: {cause}; check the path and its permissions")]
    Open {
        /// The file.
        file: String,
        /// What the system said.
        cause: io::Error,
    },
    /// Reading failed half way; a truncated or damaged compressed file ends here too.
    #[error("cannot read {file}: {cause}; check that the file is whole")]
    Read {
        /// The file.
        file: String,
        /// What the system or the decompressor said.
        cause: io::Error,
    },
    /// Blocks are read from any place, more than once.
    #[error("{file} is no regular file, and a job reads its data in blocks; give it as a file")]
    NoFile {
        /// What it is.
        file: String,
    },
    /// The file has no bytes.
    #[error("{file} is empty; give a file with at least one example")]
    Empty {
        /// The file.
        file: String,
    },
    /// The file has bytes, but no example that can be used.
    #[error(
        "{file} has no examples ({skipped_rows} rows without a label were skipped); check the file and --label"
    )]
    NoExamples {
        /// The file.
        file: String,
        /// Rows skipped because their label is missing.
        skipped_rows: u64,
    },
    /// A place in the text is wrong.
    #[error("{file}:{line}:{column}: {what}")]
    Syntax {
        /// The file.
        file: String,
        /// Line, from 1.
        line: u64,
        /// Byte in the line, from 1.
        column: usize,
        /// What was found, and what to write instead.
        what: String,
    },
    /// A column that the specification names is not in the header.
    #[error(
        "{file}:1: there is no column {column:?}, the header has: {header}; check --label, --categorical, --numeric and --cross"
    )]
    NoColumn {
        /// The file.
        file: String,
        /// The column asked for.
        column: String,
        /// The columns that are there.
        header: String,
    },
    /// The specification of columns contradicts itself.
    #[error("{what}")]
    Spec {
        /// What is wrong and what to write instead.
        what: String,
    },
    /// The list of files is empty, or repeats standard input.
    #[error("{list:?} is not a list of files: {what}")]
    Sources {
        /// The list as given.
        list: String,
        /// What is wrong and what to write instead.
        what: &'static str,
    },
    /// Standard input was asked for a second epoch.
    #[error("standard input can be read once only; use one epoch, or give a file")]
    StdinTwice,
    /// More rows than an order of rows can number.
    #[error(
        "{rows} examples do not fit one process (at most 4294967295 in memory); split the input, or give it as `-` to stream it"
    )]
    TooManyRows {
        /// Rows seen so far.
        rows: usize,
    },
    /// There are no addresses left for examples.
    #[error(
        "cannot reserve {bytes} bytes for examples in memory; raise the limit on address space (ulimit -v), or stream with --no-shuffle"
    )]
    Memory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// The parser thread could not be started or ended without saying how: a bug, or the machine is out of threads.
    #[error("the parser thread for {file} failed: {cause}; report this if it happens again")]
    Thread {
        /// The file being read.
        file: String,
        /// What is known.
        cause: String,
    },
}

/// A fault as the parser of one file sees it, before the file's name is added.
#[derive(Debug)]
pub(super) enum Fault {
    Io(io::Error),
    At { line: u64, column: usize, what: String },
    NoColumn { column: String, header: String },
}

impl Fault {
    /// A fault at byte `at` (from 0) of `line`.
    pub(super) fn at(line: u64, at: usize, what: impl fmt::Display) -> Self {
        Self::At { line, column: at + 1, what: what.to_string() }
    }

    /// The same in a text that has `lines` lines before the one it was found in.
    pub(super) fn after_lines(mut self, lines: u64) -> Self {
        if let Self::At { line, .. } = &mut self {
            *line += lines;
        }
        self
    }

    pub(super) fn in_file(self, file: &str) -> DataError {
        let file = file.to_owned();
        match self {
            Self::Io(cause) => DataError::Read { file, cause },
            Self::At { line, column, what } => DataError::Syntax { file, line, column, what },
            Self::NoColumn { column, header } => DataError::NoColumn { file, column, header },
        }
    }
}

/// Bytes of a file for a message: escaped, and cut after 40.
pub(super) fn shown(bytes: &[u8]) -> String {
    const LONGEST: usize = 40;
    if bytes.is_empty() {
        return "the end of the line".to_owned();
    }
    let more = if bytes.len() > LONGEST { "..." } else { "" };
    format!("\"{}{more}\"", bytes[..bytes.len().min(LONGEST)].escape_ascii())
}
