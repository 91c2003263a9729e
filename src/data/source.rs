//! Where bytes come from: a file, standard input, memory; plain, gzip or zstd, told apart by their first bytes.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::path::PathBuf;

use flate2::read::MultiGzDecoder;

use super::DataError;

/// A place to read examples from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Standard input, which can be read once.
    Stdin,
    /// A file.
    File(PathBuf),
    /// Bytes of the program itself.
    Memory {
        /// What messages call it.
        name: &'static str,
        /// The bytes, compressed or not.
        bytes: &'static [u8],
    },
}

impl Source {
    /// Reads `PATH[,PATH…]`, where `-` is standard input.
    ///
    /// ```
    /// use gradwire::data::Source;
    /// let sources = Source::list("a.svm,b.svm.gz")?;
    /// assert_eq!(sources[1], Source::File("b.svm.gz".into()));
    /// assert!(Source::list("a.svm,,b.svm").is_err());
    /// # Ok::<(), gradwire::data::DataError>(())
    /// ```
    pub fn list(list: &str) -> Result<Vec<Self>, DataError> {
        let fault = |what| Err(DataError::Sources { list: list.to_owned(), what });
        let mut sources = Vec::new();
        for path in list.split(',') {
            let source = if path == "-" { Self::Stdin } else { Self::File(path.into()) };
            if path.is_empty() {
                return fault("a name is empty; write PATH or PATH,PATH");
            }
            if source == Self::Stdin && sources.contains(&source) {
                return fault("standard input can be read once; name it once");
            }
            sources.push(source);
        }
        Ok(sources)
    }

    /// What messages call it.
    pub fn name(&self) -> String {
        match self {
            Self::Stdin => "standard input".to_owned(),
            Self::File(path) => path.display().to_string(),
            Self::Memory { name, .. } => (*name).to_owned(),
        }
    }

    /// Bytes as stored, when that is known before reading.
    pub(super) fn stored_bytes(&self) -> Option<u64> {
        match self {
            Self::Stdin => None,
            Self::File(path) => path.metadata().ok().filter(|meta| meta.is_file()).map(|meta| meta.len()),
            Self::Memory { bytes, .. } => Some(bytes.len() as u64),
        }
    }

    /// Finds out early what `open` would refuse. A pipe is not opened: that would take its only reader's place.
    pub(super) fn probe(&self) -> Result<(), DataError> {
        let Self::File(path) = self else { return Ok(()) };
        let fault = |cause| DataError::Open { file: self.name(), cause };
        let meta = path.metadata().map_err(fault)?;
        if meta.is_dir() {
            return Err(fault(io::ErrorKind::IsADirectory.into()));
        }
        if meta.is_file() {
            File::open(path).map_err(fault)?;
        }
        Ok(())
    }

    pub(super) fn open(&self) -> Result<Box<dyn Read + Send>, DataError> {
        match self {
            Self::Stdin => Ok(Box::new(io::stdin())),
            Self::Memory { bytes, .. } => Ok(Box::new(*bytes)),
            Self::File(path) => {
                let file = File::open(path).map_err(|cause| DataError::Open { file: self.name(), cause })?;
                Ok(Box::new(file))
            }
        }
    }
}

/// Counts the stored bytes that were taken, for progress.
pub(super) struct Counting<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes += count as u64;
        Ok(count)
    }
}

pub(super) type Raw = Counting<io::Chain<Cursor<Vec<u8>>, Box<dyn Read + Send>>>;

/// An open source: decompressed bytes out, stored bytes counted.
pub(super) enum Input {
    Plain(Raw),
    // Boxed: the decoders' state is large, and one of them exists at a time.
    Gzip(Box<MultiGzDecoder<Raw>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<Raw>>>),
}

impl Input {
    /// Looks at the first bytes and chooses the decoder.
    pub(super) fn new(mut reader: Box<dyn Read + Send>) -> io::Result<Self> {
        let mut head = Vec::with_capacity(4);
        reader.by_ref().take(4).read_to_end(&mut head)?;
        let gzip = head.starts_with(&[0x1F, 0x8B]);
        let zstd = match head[..] {
            [0x28, 0xB5, 0x2F, 0xFD] => true,
            // A skippable frame may come first.
            [first, 0x2A, 0x4D, 0x18] => first >> 4 == 5,
            _ => false,
        };
        let raw = Counting { inner: Cursor::new(head).chain(reader), bytes: 0 };
        Ok(if gzip {
            Self::Gzip(Box::new(MultiGzDecoder::new(raw)))
        } else if zstd {
            Self::Zstd(Box::new(zstd::stream::read::Decoder::new(raw)?))
        } else {
            Self::Plain(raw)
        })
    }

    /// Stored bytes taken so far.
    pub(super) fn stored_bytes_read(&self) -> u64 {
        match self {
            Self::Plain(raw) => raw.bytes,
            Self::Gzip(decoder) => decoder.get_ref().bytes,
            Self::Zstd(decoder) => decoder.get_ref().get_ref().bytes,
        }
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(raw) => raw.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}
