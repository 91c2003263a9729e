//! What the tests of the readers share.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{DataError, Examples, Format, Stream};

/// Gives bytes in pieces of the given sizes, over and over.
pub(super) struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    sizes: Vec<usize>,
    turn: usize,
}

impl Pieces {
    pub(super) fn new(bytes: impl Into<Vec<u8>>, sizes: &[usize]) -> Self {
        Self { bytes: bytes.into(), at: 0, sizes: sizes.to_vec(), turn: 0 }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.sizes[self.turn % self.sizes.len()];
        self.turn += 1;
        if self.turn.is_multiple_of(5) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let count = size.min(buffer.len()).min(self.bytes.len() - self.at);
        buffer[..count].copy_from_slice(&self.bytes[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Everything a stream gives: the examples, and the error that ended it.
pub(super) fn drain(stream: Stream) -> (Examples, Option<DataError>) {
    let mut all = Examples::default();
    let mut stream = stream.fuse();
    while let Some(block) = stream.next() {
        match block {
            Ok(block) => all.append(&block),
            Err(error) => {
                assert!(stream.next().is_none(), "nothing follows an error");
                return (all, Some(error));
            }
        }
    }
    (all, None)
}

pub(super) fn read(text: impl Into<Vec<u8>>, format: &Format) -> (Examples, Option<DataError>) {
    drain(Stream::from_reader("data", Pieces::new(text, &[1 << 20]), format).unwrap())
}

/// The message of a text that must fail.
pub(super) fn message(text: impl Into<Vec<u8>>, format: &Format) -> String {
    read(text, format).1.expect("the text is wrong, but was read").to_string()
}

/// A file that goes when the test does.
pub(super) struct TempFile(pub(super) PathBuf);

impl TempFile {
    pub(super) fn new(bytes: &[u8]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("gradwire-data-{}-{number}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Runs `body` on a thread and fails when it takes implausibly long.
pub(super) fn watched(body: impl FnOnce() + Send + 'static) {
    let (done, finished) = crossbeam_channel::bounded(1);
    let thread = std::thread::spawn(move || {
        body();
        let _ = done.send(());
    });
    match finished.recv_timeout(Duration::from_secs(60)) {
        Err(crossbeam_channel::RecvTimeoutError::Timeout) => panic!("the test hangs"),
        _ => thread.join().unwrap(),
    }
}
