//! The bytes of a batch, the same in the log, on the way to a successor and in its log.
//!
//! ```text
//! BatchHeader 40 B | EntryHeader 48 B | payload, zero-padded to 8 | EntryHeader | payload | …
//! ```
//! All fields little-endian. A batch starts 8-aligned, so every payload does. The checksum stands first and covers
//! everything after it, body included: one pass, no hole. It guards the way between servers, hence it is computed
//! when a batch is first read out, and a chain of one never pays for it.
//!
//! A push's payload is the wire's push payload as the client sent it ([`crate::wire::PushBody`], key list or
//! digest, values); the entry header adds what the head knew or decided: identity, order, whether rows may be
//! created. A clock, a refusal and a client event have no payload. A table's creation carries its schema.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::decode::BatchError;
use crate::wire::RefusalCode;
use crate::wire::ids::{Clock, Epoch, Lsn, PartitionId, Sequence, SessionId, TableId};

/// "GRWB".
pub(super) const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"GRWB");
/// Version of this layout.
pub const BATCH_VERSION: u16 = 1;
/// Bytes of a batch's header.
pub const BATCH_HEADER_BYTES: usize = 40;
/// Bytes of an entry's header.
pub const ENTRY_HEADER_BYTES: usize = 48;
/// Where the checksummed bytes begin.
const CHECKED_FROM: usize = size_of::<U32>();

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawBatch {
    crc: U32,
    magic: U32,
    version: U16,
    flags: U16,
    partition: U32,
    epoch: U64,
    lsn: U64,
    entries: U32,
    bytes: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawEntry {
    bytes: U32,
    kind: U16,
    code: U16,
    table: U32,
    flags: U32,
    session: U64,
    sequence: U64,
    resolved: U64,
    clock: U64,
}

const _: () = assert!(size_of::<RawBatch>() == BATCH_HEADER_BYTES);
const _: () = assert!(size_of::<RawEntry>() == ENTRY_HEADER_BYTES);
const _: () = assert!(BATCH_HEADER_BYTES.is_multiple_of(8) && ENTRY_HEADER_BYTES.is_multiple_of(8));

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum EntryKind {
    /// Rows change.
    Push = 1,
    /// A session's clock.
    Clock = 2,
    /// A push that used up its sequence and changed nothing (C3).
    Refused = 3,
    /// A session begins, at the clock in the entry.
    ClientBegan = 4,
    /// A session ends.
    ClientEnded = 5,
    /// A table exists; the payload is its schema.
    TableCreated = 6,
    /// A table is gone.
    TableDropped = 7,
}

impl EntryKind {
    fn from_wire(kind: u16) -> Option<Self> {
        Some(match kind {
            1 => Self::Push,
            2 => Self::Clock,
            3 => Self::Refused,
            4 => Self::ClientBegan,
            5 => Self::ClientEnded,
            6 => Self::TableCreated,
            7 => Self::TableDropped,
            _ => return None,
        })
    }

    /// Whether the entry uses up a sequence of its session.
    #[must_use]
    pub fn is_sequenced(self) -> bool {
        matches!(self, Self::Push | Self::Clock | Self::Refused)
    }

    fn has_payload(self) -> bool {
        matches!(self, Self::Push | Self::TableCreated)
    }
}

/// What the head decided about an entry; successors obey.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryFlags(u32);

impl EntryFlags {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Of a push: its absent keys become rows. Without it they are passed over.
    pub const CREATES: Self = Self(1);
    /// Of a client's begin: its clock counts.
    pub const WORKER: Self = Self(2);
    const KNOWN: u32 = 3;

    /// Whether all of `other` is set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A batch's header in the machine's own types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHead {
    /// The partition it orders.
    pub partition: PartitionId,
    /// The chain version under which the head sealed it.
    pub epoch: Epoch,
    /// Its number; the first is 1.
    pub lsn: Lsn,
    /// Entries in it, at least one.
    pub entries: u32,
    /// Bytes of all entries.
    pub bytes: u32,
}

impl BatchHead {
    /// Bytes of the whole batch.
    #[must_use]
    pub fn batch_bytes(&self) -> usize {
        BATCH_HEADER_BYTES + self.bytes as usize
    }

    /// Its bytes, with a checksum of zero: [`check_in`] fills it.
    pub(super) fn to_bytes(self) -> [u8; BATCH_HEADER_BYTES] {
        zerocopy::transmute!(RawBatch {
            crc: 0.into(),
            magic: BATCH_MAGIC.into(),
            version: BATCH_VERSION.into(),
            flags: 0.into(),
            partition: self.partition.0.into(),
            epoch: self.epoch.0.into(),
            lsn: self.lsn.0.into(),
            entries: self.entries.into(),
            bytes: self.bytes.into(),
        })
    }

    /// Reads a header that was copied out of memory a peer can write. The checksum is not looked at: it covers the
    /// body as well ([`super::Batch::parse`]).
    ///
    /// # Errors
    /// `Magic`, `Version`, `Flags` or `Empty`: the lane that carried it is cut.
    pub fn read(bytes: &[u8; BATCH_HEADER_BYTES]) -> Result<Self, BatchError> {
        let raw: &RawBatch = zerocopy::transmute_ref!(bytes);
        if raw.magic.get() != BATCH_MAGIC {
            return Err(BatchError::Magic { found: raw.magic.get() });
        }
        if raw.version.get() != BATCH_VERSION {
            return Err(BatchError::Version { found: raw.version.get() });
        }
        if raw.flags.get() != 0 {
            return Err(BatchError::Flags { found: raw.flags.get().into() });
        }
        if raw.entries.get() == 0 {
            return Err(BatchError::Empty);
        }
        Ok(Self {
            partition: PartitionId(raw.partition.get()),
            epoch: Epoch(raw.epoch.get()),
            lsn: Lsn(raw.lsn.get()),
            entries: raw.entries.get(),
            bytes: raw.bytes.get(),
        })
    }
}

/// An entry's header in the machine's own types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHead {
    /// What it is.
    pub kind: EntryKind,
    /// Why, when it is a refusal.
    pub refusal: Option<RefusalCode>,
    /// What the head decided.
    pub flags: EntryFlags,
    /// Bytes of payload, without padding.
    pub bytes: u32,
    /// The table meant, or 0.
    pub table: TableId,
    /// Whose, or 0.
    pub session: SessionId,
    /// Place in the (session, partition) order, or 0.
    pub sequence: Sequence,
    /// The client's `resolved` at that push: refusals below are forgotten by every replica at this entry.
    pub resolved: Sequence,
    /// The clock.
    pub clock: Clock,
}

impl EntryHead {
    /// An entry of `kind` with every other field empty.
    #[must_use]
    pub fn new(kind: EntryKind) -> Self {
        Self {
            kind,
            refusal: None,
            flags: EntryFlags::NONE,
            bytes: 0,
            table: TableId(0),
            session: SessionId(0),
            sequence: Sequence(0),
            resolved: Sequence(0),
            clock: Clock(0),
        }
    }

    /// Bytes the entry takes in a batch: header, payload, padding to 8.
    #[must_use]
    pub fn entry_bytes(&self) -> usize {
        entry_bytes(self.bytes as usize)
    }

    pub(super) fn to_bytes(self) -> [u8; ENTRY_HEADER_BYTES] {
        zerocopy::transmute!(RawEntry {
            bytes: self.bytes.into(),
            kind: (self.kind as u16).into(),
            code: self.refusal.map_or(0, RefusalCode::to_wire).into(),
            table: self.table.0.into(),
            flags: self.flags.0.into(),
            session: self.session.0.into(),
            sequence: self.sequence.0.into(),
            resolved: self.resolved.0.into(),
            clock: self.clock.0.into(),
        })
    }

    /// Reads and checks a header that was copied out of memory a peer can write.
    ///
    /// # Errors
    /// `Kind`, `Flags` or `Field`: the lane that carried it is cut.
    pub fn read(bytes: &[u8; ENTRY_HEADER_BYTES]) -> Result<Self, BatchError> {
        let raw: &RawEntry = zerocopy::transmute_ref!(bytes);
        let kind = EntryKind::from_wire(raw.kind.get()).ok_or(BatchError::Kind { found: raw.kind.get() })?;
        let flags = EntryFlags(raw.flags.get());
        if flags.0 & !EntryFlags::KNOWN != 0 {
            return Err(BatchError::Flags { found: flags.0 });
        }
        let field = |field, found| Err(BatchError::Field { kind, field, found });
        if raw.bytes.get() != 0 && !kind.has_payload() {
            return field("bytes", raw.bytes.get().into());
        }
        if kind.is_sequenced() != (raw.sequence.get() != 0) {
            return field("sequence", raw.sequence.get());
        }
        let refusal = RefusalCode::from_wire(raw.code.get());
        if refusal.is_some() != (kind == EntryKind::Refused) || (refusal.is_none() && raw.code.get() != 0) {
            return field("code", raw.code.get().into());
        }
        Ok(Self {
            kind,
            refusal,
            flags,
            bytes: raw.bytes.get(),
            table: TableId(raw.table.get()),
            session: SessionId(raw.session.get()),
            sequence: Sequence(raw.sequence.get()),
            resolved: Sequence(raw.resolved.get()),
            clock: Clock(raw.clock.get()),
        })
    }
}

/// Bytes an entry with `payload` bytes takes in a batch.
pub(super) const fn entry_bytes(payload: usize) -> usize {
    ENTRY_HEADER_BYTES + payload.next_multiple_of(8)
}

/// Writes the checksum of a whole batch into it.
pub(super) fn check_in(batch: &mut [u8]) {
    let crc = checksum(batch);
    batch[..CHECKED_FROM].copy_from_slice(&crc.to_le_bytes());
}

/// The checksum a whole batch should carry; at least a header long.
pub(super) fn checksum(batch: &[u8]) -> u32 {
    gradwire_kernels::crc32c(gradwire_kernels::Isa::active(), 0, &batch[CHECKED_FROM..])
}

/// The checksum a whole batch does carry.
pub(super) fn carried_checksum(batch: &[u8]) -> u32 {
    let mut crc = [0; CHECKED_FROM];
    crc.copy_from_slice(&batch[..CHECKED_FROM]);
    u32::from_le_bytes(crc)
}
