//! The header every record opens with.

use thiserror::Error;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ids::{Clock, Epoch, PartitionId, RequestId, Sequence, SessionId, ShardId, TableId};

/// "GRWR": a peer that speaks another protocol is known by its first four bytes.
pub const MAGIC: u32 = u32::from_le_bytes(*b"GRWR");
/// Version of the layouts in this module. A peer of one version less is still understood.
pub const WIRE_VERSION: u16 = 1;
/// Bytes of a header; a multiple of 16 so that payloads keep their alignment.
pub const HEADER_BYTES: usize = 80;
/// Flags in the high half must be understood; the low half may be skipped.
const REQUIRED_FLAGS: u32 = 0xffff_0000;
/// No required flag exists in this version.
const KNOWN_REQUIRED: u32 = 0;

/// What a record is. Numbers below 16 belong to the lane and never reach its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Kind {
    /// Credits and state entries; needs no credit (tcp).
    State = 1,
    /// First record on a connection.
    Hello = 2,
    /// The answer that opens the lane.
    Welcome = 3,
    /// The answer that refuses it, with a reason.
    Reject = 4,
    /// Bulk bytes for a granted buffer (tcp).
    Place = 5,
    /// Asks for bytes of a granted snapshot (tcp).
    Read = 6,
    /// Those bytes (tcp).
    ReadReply = 7,
    /// A push for one partition.
    Push = 16,
    /// End of an iteration, for the partitions it names.
    Clock = 17,
    /// Absolute outcomes of a session's pushes in one partition.
    Outcome = 18,
    /// A push changed nothing and is to be sent again in order.
    Retry = 19,
    /// Asks for rows.
    Pull = 24,
    /// Rows, or why there are none.
    PullReply = 25,
    /// Asks for the number of rows of a partition.
    Count = 26,
    /// That number.
    CountReply = 27,
    /// Asks for the next rows of a partition, keys and state.
    Export = 28,
    /// Those rows.
    ExportReply = 29,
    /// Opens a partition's link under an epoch, predecessor to successor or to a joiner (C4).
    Link = 40,
    /// The answer: what the successor has applied. Said again later, it asks for everything after that anew.
    Linked = 41,
    /// A batch of the partition's order.
    Batch = 42,
    /// A piece of the replicated state that is not rows, for a joiner.
    Meta = 43,
    /// Rows for a joiner, in the partition's order between two batches.
    Chunk = 44,
    /// Every row has been sent to the joiner.
    Copied = 45,
}

impl Kind {
    pub(super) fn from_wire(kind: u16) -> Option<Self> {
        Some(match kind {
            1 => Self::State,
            2 => Self::Hello,
            3 => Self::Welcome,
            4 => Self::Reject,
            5 => Self::Place,
            6 => Self::Read,
            7 => Self::ReadReply,
            16 => Self::Push,
            17 => Self::Clock,
            18 => Self::Outcome,
            19 => Self::Retry,
            24 => Self::Pull,
            25 => Self::PullReply,
            26 => Self::Count,
            27 => Self::CountReply,
            28 => Self::Export,
            29 => Self::ExportReply,
            40 => Self::Link,
            41 => Self::Linked,
            42 => Self::Batch,
            43 => Self::Meta,
            44 => Self::Chunk,
            45 => Self::Copied,
            _ => return None,
        })
    }
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// The peer speaks another protocol, or the stream lost its place.
    #[error("magic {found:#010x} is not a gradwire record's; the peer speaks another protocol")]
    Magic {
        /// The four bytes found.
        found: u32,
    },
    /// A version this build does not know.
    #[error("wire version {found}, this build speaks {WIRE_VERSION}; upgrade the older side")]
    Version {
        /// The version found.
        found: u16,
    },
    /// Bytes were changed on the way.
    #[error("header crc {found:#010x}, its bytes give {computed:#010x}; the record was damaged")]
    Crc {
        /// The crc in the header.
        found: u32,
        /// The crc of its bytes.
        computed: u32,
    },
    /// A kind this build does not know.
    #[error("record kind {found} is unknown; upgrade this side")]
    Kind {
        /// The kind found.
        found: u16,
    },
    /// A required flag this build does not know.
    #[error("required flags {found:#010x} are unknown; upgrade this side")]
    Flags {
        /// The unknown flags.
        found: u32,
    },
    /// The payload does not hold what its body says.
    #[error("a {kind:?} record's payload of {found} bytes does not hold the {expected} its body names")]
    Length {
        /// The record's kind.
        kind: Kind,
        /// Bytes the body names.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// A field outside its range.
    #[error("a {kind:?} record's field `{field}` has the value {found}, which is not allowed")]
    Field {
        /// The record's kind.
        kind: Kind,
        /// The field.
        field: &'static str,
        /// Its value.
        found: u64,
    },
}

/// A header in the machine's own types. [`Header::new`] zeroes what a kind does not use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the record is.
    pub kind: Kind,
    /// Low half optional, high half required.
    pub flags: u32,
    /// Bytes of payload, without padding.
    pub length: u32,
    /// Who sends, or who is answered.
    pub session: SessionId,
    /// Groups requests for scheduling and traces; free to the session.
    pub flow: u64,
    /// Names the request among its session's.
    pub request: RequestId,
    /// Place in the (session, partition) order.
    pub sequence: Sequence,
    /// The chain version the sender knows.
    pub epoch: Epoch,
    /// The sender's clock, or the clock an answer reflects.
    pub clock: Clock,
    /// The thread that is to handle the record.
    pub shard: ShardId,
    /// The table meant.
    pub table: TableId,
    /// The partition meant.
    pub partition: PartitionId,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: U32,
    version: U16,
    kind: U16,
    flags: U32,
    length: U32,
    session: U64,
    flow: U64,
    request: U64,
    sequence: U64,
    epoch: U64,
    clock: U64,
    shard: U32,
    table: U32,
    partition: U32,
    crc: U32,
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);
const CRC_OFFSET: usize = HEADER_BYTES - size_of::<U32>();

impl Header {
    /// A header of `kind` with `length` bytes of payload and every other field zero.
    #[must_use]
    pub fn new(kind: Kind, length: u32) -> Self {
        Self {
            kind,
            flags: 0,
            length,
            session: SessionId(0),
            flow: 0,
            request: RequestId(0),
            sequence: Sequence(0),
            epoch: Epoch(0),
            clock: Clock(0),
            shard: ShardId(0),
            table: TableId(0),
            partition: PartitionId(0),
        }
    }

    /// Bytes the whole record takes in a ring: header, payload, padding to 8.
    #[must_use]
    pub fn record_bytes(&self) -> usize {
        HEADER_BYTES + super::padded(self.length as usize)
    }

    /// Its bytes, crc included.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        // Whole words, as `crc` reads them: a read that spans several writes waits until all writes before it are in the
        // cache, those to a ring's lines too, which come from another core. The layout is `RawHeader`'s.
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let words = [
            pair(MAGIC, u32::from(WIRE_VERSION) | (self.kind as u32) << 16),
            pair(self.flags, self.length),
            self.session.0,
            self.flow,
            self.request.0,
            self.sequence.0,
            self.epoch.0,
            self.clock.0,
            pair(self.shard.0, self.table.0),
            pair(self.partition.0, 0),
        ];
        let mut words: [U64; HEADER_BYTES / 8] = words.map(U64::new);
        let sum = crc(words.as_bytes());
        words[HEADER_BYTES / 8 - 1].set(pair(self.partition.0, sum));
        zerocopy::transmute!(words)
    }

    /// Reads and checks a header; the payload is not looked at.
    ///
    /// # Errors
    /// Any [`WireError`] but `Length` and `Field`: the lane that carried such bytes is cut.
    pub fn read(bytes: &[u8; HEADER_BYTES]) -> Result<Self, WireError> {
        let raw: &RawHeader = zerocopy::transmute_ref!(bytes);
        if raw.magic.get() != MAGIC {
            return Err(WireError::Magic { found: raw.magic.get() });
        }
        if raw.version.get() != WIRE_VERSION {
            return Err(WireError::Version { found: raw.version.get() });
        }
        let computed = crc(bytes);
        if raw.crc.get() != computed {
            return Err(WireError::Crc { found: raw.crc.get(), computed });
        }
        let kind = Kind::from_wire(raw.kind.get()).ok_or(WireError::Kind { found: raw.kind.get() })?;
        let unknown = raw.flags.get() & REQUIRED_FLAGS & !KNOWN_REQUIRED;
        if unknown != 0 {
            return Err(WireError::Flags { found: unknown });
        }
        Ok(Self {
            kind,
            flags: raw.flags.get(),
            length: raw.length.get(),
            session: SessionId(raw.session.get()),
            flow: raw.flow.get(),
            request: RequestId(raw.request.get()),
            sequence: Sequence(raw.sequence.get()),
            epoch: Epoch(raw.epoch.get()),
            clock: Clock(raw.clock.get()),
            shard: ShardId(raw.shard.get()),
            table: TableId(raw.table.get()),
            partition: PartitionId(raw.partition.get()),
        })
    }
}

/// The check over all of a header but the check itself.
fn crc(header: &[u8]) -> u32 {
    gradwire_kernels::crc32c(gradwire_kernels::Isa::active(), 0, &header[..CRC_OFFSET])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Header {
        Header {
            flags: 0x3,
            session: SessionId(7),
            flow: 8,
            request: RequestId(9),
            sequence: Sequence(10),
            epoch: Epoch(11),
            clock: Clock(12),
            shard: ShardId(13),
            table: TableId(14),
            partition: PartitionId(15),
            ..Header::new(Kind::Push, 4097)
        }
    }

    #[test]
    fn a_header_reads_back_as_it_was_written() {
        assert_eq!(Header::read(&sample().to_bytes()), Ok(sample()));
        assert_eq!(sample().record_bytes(), 80 + 4104);
    }

    #[test]
    fn the_layout_is_the_one_of_version_1() {
        let fixture = include_bytes!("../../tests/data/header_v1.bin");
        assert_eq!(&sample().to_bytes(), fixture);
    }

    #[test]
    fn every_single_changed_bit_is_noticed() {
        let good = sample().to_bytes();
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::read(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn an_optional_flag_is_skipped_and_a_required_one_refused() {
        let optional = Header { flags: 0x8000, ..sample() };
        assert!(Header::read(&optional.to_bytes()).is_ok());
        let required = Header { flags: 0x1_0000, ..sample() };
        assert_eq!(Header::read(&required.to_bytes()), Err(WireError::Flags { found: 0x1_0000 }));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::array::uniform32(any::<u8>()), tail in prop::collection::vec(any::<u8>(), 48)) {
            let mut all = [0u8; HEADER_BYTES];
            all[..32].copy_from_slice(&bytes);
            all[32..].copy_from_slice(&tail);
            prop_assert!(Header::read(&all).is_err());
        }
    }
}
