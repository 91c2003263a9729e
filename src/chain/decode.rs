//! A total parser for batches: whatever the bytes, the answer is a batch or a [`BatchError`].

use thiserror::Error;

use super::batch::{
    BATCH_HEADER_BYTES, BATCH_VERSION, BatchHead, ENTRY_HEADER_BYTES, EntryHead, EntryKind, carried_checksum,
    checksum,
};
use crate::wire::ids::{Epoch, PartitionId};

/// Why bytes are not a batch. Whoever sent them is not a replica of this version: its lane is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    /// Fewer or more bytes than the header names.
    #[error("a batch of {expected} bytes came as {found}")]
    Length {
        /// Bytes named.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// No batch at all.
    #[error("magic {found:#010x} is not a batch's")]
    Magic {
        /// The four bytes found.
        found: u32,
    },
    /// Another layout.
    #[error("batch version {found}, this build reads {BATCH_VERSION}; upgrade the older server")]
    Version {
        /// The version found.
        found: u16,
    },
    /// Bytes were changed on the way.
    #[error("batch checksum {found:#010x}, its bytes give {computed:#010x}; it was damaged on the way")]
    Crc {
        /// The checksum it carries.
        found: u32,
        /// The checksum of its bytes.
        computed: u32,
    },
    /// Flags this build does not know.
    #[error("batch or entry flags {found:#x} are unknown; upgrade this server")]
    Flags {
        /// The flags found.
        found: u32,
    },
    /// A batch without entries.
    #[error("a batch without entries is never sealed")]
    Empty,
    /// An entry this build does not know.
    #[error("entry kind {found} is unknown; upgrade this server")]
    Kind {
        /// The kind found.
        found: u16,
    },
    /// An entry that reaches past its batch.
    #[error("entry {index} needs {needed} bytes, {left} are left in its batch")]
    Entry {
        /// Which entry.
        index: u32,
        /// Bytes it needs.
        needed: u64,
        /// Bytes left.
        left: u64,
    },
    /// Padding that is not zero: a batch has one form only, so that replicas can compare bytes.
    #[error("entry {index} is not padded with zeros")]
    Padding {
        /// Which entry.
        index: u32,
    },
    /// Bytes after the last entry.
    #[error("{bytes} bytes follow the batch's last entry")]
    Trailing {
        /// How many.
        bytes: u64,
    },
    /// Another partition's batch.
    #[error("a batch of partition {found} came on the link of partition {expected}")]
    Partition {
        /// The partition meant.
        expected: PartitionId,
        /// The batch's.
        found: PartitionId,
    },
    /// A batch that was sealed under a version of the chain that is not there yet.
    #[error("a batch sealed under epoch {found} came under epoch {ours}")]
    Epoch {
        /// The version here.
        ours: Epoch,
        /// The batch's.
        found: Epoch,
    },
    /// A batch from a predecessor to a replica that has none under this epoch.
    #[error("a batch came to the head of partition {partition}, which has no predecessor")]
    Head {
        /// Which partition.
        partition: PartitionId,
    },
    /// A batch that no log here could keep.
    #[error(
        "a batch of {found} bytes: at most {most} fit this server's log; give all servers the same log size"
    )]
    Oversize {
        /// Its bytes.
        found: usize,
        /// Most bytes.
        most: usize,
    },
    /// A field that its kind does not allow.
    #[error("a {kind:?} entry's field `{field}` has the value {found}, which is not allowed")]
    Field {
        /// The entry's kind.
        kind: EntryKind,
        /// The field.
        field: &'static str,
        /// Its value.
        found: u64,
    },
}

/// A whole, checked batch, borrowed from where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    /// Its header.
    pub head: BatchHead,
    body: &'a [u8],
}

/// An entry, borrowed from its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its header.
    pub head: EntryHead,
    /// Its payload, without padding; 8-aligned if the batch is.
    pub payload: &'a [u8],
}

impl<'a> Batch<'a> {
    /// Checks everything: lengths, version, checksum, every entry. Costs one pass for the checksum and one over the
    /// entry headers.
    ///
    /// # Errors
    /// Any [`BatchError`]; nothing of the batch may be used then.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BatchError> {
        Self::check(bytes, true)
    }

    /// Checks everything but the checksum: of bytes that were parsed before, but lie where a peer can write.
    pub(super) fn parse_again(bytes: &'a [u8]) -> Result<Self, BatchError> {
        Self::check(bytes, false)
    }

    fn check(bytes: &'a [u8], with_checksum: bool) -> Result<Self, BatchError> {
        let length =
            |expected: usize| BatchError::Length { expected: expected as u64, found: bytes.len() as u64 };
        let (header, body) =
            bytes.split_first_chunk::<BATCH_HEADER_BYTES>().ok_or(length(BATCH_HEADER_BYTES))?;
        let head = BatchHead::read(header)?;
        if head.bytes as usize != body.len() {
            return Err(length(head.batch_bytes()));
        }
        if with_checksum {
            let (found, computed) = (carried_checksum(bytes), checksum(bytes));
            if found != computed {
                return Err(BatchError::Crc { found, computed });
            }
        }
        let mut rest = body;
        for index in 0..head.entries {
            rest = read_entry(rest, index)?.1;
        }
        if !rest.is_empty() {
            return Err(BatchError::Trailing { bytes: rest.len() as u64 });
        }
        Ok(Self { head, body })
    }

    /// Its entries, in order.
    pub fn entries(&self) -> Entries<'a> {
        Entries { rest: self.body, index: 0 }
    }
}

/// Iterates over the entries of a checked batch.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    rest: &'a [u8],
    index: u32,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        // `parse` has read all of it once; an error would have come from there.
        let (entry, rest) = read_entry(self.rest, self.index).ok()?;
        self.rest = rest;
        self.index += 1;
        Some(entry)
    }
}

fn read_entry(rest: &[u8], index: u32) -> Result<(Entry<'_>, &[u8]), BatchError> {
    let short = |needed: usize| BatchError::Entry { index, needed: needed as u64, left: rest.len() as u64 };
    let (header, after) = rest.split_first_chunk::<ENTRY_HEADER_BYTES>().ok_or(short(ENTRY_HEADER_BYTES))?;
    let head = EntryHead::read(header)?;
    let padded = head.entry_bytes() - ENTRY_HEADER_BYTES;
    let (payload, after) = after.split_at_checked(padded).ok_or(short(head.entry_bytes()))?;
    let (payload, padding) = payload.split_at(head.bytes as usize);
    if padding.iter().any(|&byte| byte != 0) {
        return Err(BatchError::Padding { index });
    }
    Ok((Entry { head, payload }, after))
}
