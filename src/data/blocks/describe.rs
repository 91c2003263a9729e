//! What a source is, told so briefly that processes can compare it.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};

use xxhash_rust::xxh3::Xxh3Default;

use super::cut::open_seekable;
use crate::data::{DataError, Source};

/// Bytes at each end that are summed up: enough to tell two files of one length apart, little enough to cost nothing.
const END_BYTES: u64 = 64 << 10;
/// Blocks an epoch aimed at: many enough that random blocks mix well and that the last one is soon done.
const AIMED_BLOCKS: u64 = 128;
/// Smaller blocks would cost more to lease than to learn from.
const LEAST_BLOCK_BYTES: u64 = 32 << 10;
/// Larger ones take seconds, which is how long a lease runs.
const MOST_BLOCK_BYTES: u64 = 8 << 20;

/// Length and a checksum of both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceShape {
    /// Stored bytes.
    pub bytes: u64,
    /// XXH3 of the first and the last 64 KiB.
    pub ends: u64,
}

impl fmt::Display for SourceShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes with checksum {:016x}", self.bytes, self.ends)
    }
}

/// Looks at a source.
///
/// # Errors
/// [`DataError`] when it is missing, empty, or no file.
pub fn describe(source: &Source) -> Result<SourceShape, DataError> {
    let fault = |cause: io::Error| DataError::Read { file: source.name(), cause };
    let (mut reader, bytes) = open_seekable(source)?;
    if bytes == 0 {
        return Err(DataError::Empty { file: source.name() });
    }
    let mut digest = Xxh3Default::new();
    let mut buffer = Vec::new();
    for start in [0, bytes.saturating_sub(END_BYTES)] {
        buffer.clear();
        reader.seek(SeekFrom::Start(start)).map_err(fault)?;
        reader.by_ref().take(END_BYTES).read_to_end(&mut buffer).map_err(fault)?;
        digest.update(&buffer);
    }
    Ok(SourceShape { bytes, ends: digest.digest() })
}

/// A size for blocks of `total_bytes` in `sources` sources, of which there are to be `most` at most.
#[must_use]
pub fn block_bytes_for(total_bytes: u64, sources: usize, most: u32) -> u64 {
    let bytes = (total_bytes / AIMED_BLOCKS).clamp(LEAST_BLOCK_BYTES, MOST_BLOCK_BYTES);
    // Each source rounds up to one block more.
    let room = u64::from(most).saturating_sub(sources as u64).max(1);
    bytes.max(total_bytes.div_ceil(room))
}
