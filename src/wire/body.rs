//! The fixed bodies that open payloads, and the checks that make them safe to use.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Kind, WireError};

/// `bytes` rounded up to the 8 that records and arrays are aligned to.
#[must_use]
pub const fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(8)
}

/// A clock field that asks for nothing.
pub const NO_CLOCK: u64 = u64::MAX;
/// [`PullBody::flags`]: only the tail, under its lease, may answer.
pub const PULL_STRONG: u8 = 1;

macro_rules! wire_enum {
    ($(#[$doc:meta])* $name:ident: $repr:ty { $($(#[$vdoc:meta])* $variant:ident = $value:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr($repr)]
        pub enum $name { $($(#[$vdoc])* $variant = $value,)* }

        impl $name {
            /// The value a peer's number stands for, or none.
            #[must_use]
            pub fn from_wire(number: $repr) -> Option<Self> {
                match number { $($value => Some(Self::$variant),)* _ => None }
            }

            /// Its number on the wire.
            #[must_use]
            pub fn to_wire(self) -> $repr { self as $repr }
        }
    };
}

wire_enum! {
    /// How keys are named.
    KeyForm: u8 {
        /// The list follows the body.
        Inline = 0,
        /// The list follows; the server may keep it under its digest.
        Remember = 1,
        /// Only the digest is sent; the server looks the list up.
        Named = 2,
    }
}

wire_enum! {
    /// What a push does to its rows.
    PushOp: u8 {
        /// Values are gradients; the table's optimizer applies them.
        Update = 0,
        /// Values replace the rows' values; optimizer state starts anew.
        Assign = 1,
        /// Rows are removed; there are no values.
        Erase = 2,
        /// Values are whole rows in their stored form, state included.
        Import = 3,
    }
}

wire_enum! {
    /// When a push counts as acknowledged for its ticket.
    Level: u8 {
        /// The head has applied it.
        Applied = 0,
        /// Every replica has.
        Replicated = 1,
    }
}

wire_enum! {
    /// Form of values.
    Encoding: u8 {
        /// 32-bit floats.
        F32 = 0,
    }
}

wire_enum! {
    /// Why a push was refused for good. It used up its sequence as an empty entry (C3).
    ///
    /// # Example
    /// ```
    /// use gradwire::{Add, Cluster, ClusterConfig, Error, RefusalCode};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// let table = session.dense("V", 10, 1, Add)?;
    /// let refused = table.push(&[10], &[1.0])?.wait();
    /// assert!(matches!(refused, Err(Error::Refused { code: RefusalCode::RowOutOfRange, .. })));
    /// # Ok::<(), Error>(())
    /// ```
    RefusalCode: u16 {
        /// The table does not exist.
        NoTable = 1,
        /// The values do not match the table's dimension or the number of keys.
        Shape = 2,
        /// Keys are not strictly increasing.
        Unsorted = 3,
        /// The key 2^64-1 is reserved.
        ReservedKey = 4,
        /// The server's memory budget has no room for the new rows.
        Memory = 5,
        /// Too many keys share their hash.
        HashFlood = 6,
        /// A dense table has no such row.
        RowOutOfRange = 7,
        /// The table cannot do this operation.
        Unsupported = 8,
        /// A key belongs to another partition.
        WrongPartition = 9,
        /// The payload does not hold what its body says.
        Malformed = 10,
    }
}

wire_enum! {
    /// Why a push changed nothing and should be sent again, in order.
    RetryCode: u16 {
        /// This server does not head the partition.
        WrongHead = 1,
        /// The epoch is not the partition's.
        UnknownEpoch = 2,
        /// An earlier sequence is missing.
        SequenceGap = 3,
        /// The partition's log is full.
        LogFull = 4,
        /// The server lost its coordinator for too long.
        Orphan = 5,
        /// The named key list is not kept here; send the list.
        KeysMissing = 6,
        /// The session has ended, or never began here; its pushes are over.
        Ended = 7,
    }
}

wire_enum! {
    /// How a pull ended.
    PullStatus: u16 {
        /// Rows follow.
        Rows = 0,
        /// The named key list is not kept here; send the list.
        KeysMissing = 1,
        /// The clock asked for did not come before the deadline.
        ClockDeadline = 2,
        /// The table does not exist.
        NoTable = 3,
        /// The request's dimension is not the table's.
        Shape = 4,
        /// Keys are not strictly increasing, reserved, or out of range.
        Keys = 5,
        /// This server may not answer now; ask again.
        NotServing = 6,
        /// The payload does not hold what its body says.
        Malformed = 7,
    }
}

macro_rules! body {
    ($(#[$doc:meta])* $name:ident, $kind:ident, $bytes:literal { $($(#[$fdoc:meta])* $field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty,)* }

        const _: () = assert!(size_of::<$name>() == $bytes);

        impl $name {
            /// Bytes of the body; a multiple of 8.
            pub const BYTES: usize = $bytes;

            /// Splits a payload into its body and what follows.
            ///
            /// # Errors
            /// [`WireError::Length`] when the payload is shorter than the body.
            pub fn split(payload: &[u8]) -> Result<(&Self, &[u8]), WireError> {
                Self::ref_from_prefix(payload).map_err(|_| WireError::Length {
                    kind: Kind::$kind,
                    expected: $bytes,
                    found: payload.len() as u64,
                })
            }
        }
    };
}

/// Digest of a key list: its name while a server keeps it. Both sides compute it from the keys themselves.
#[must_use]
pub fn key_digest(keys: &[u64]) -> u128 {
    xxhash_rust::xxh3::xxh3_128(keys.as_bytes())
}

body! {
    /// Opens a push: then `keys` u64 unless named, then the values.
    PushBody, Push, 48 {
        /// Every sequence below is resolved at the client: the server forgets their refusals.
        resolved: U64,
        /// Digest of the key list, when it is to be remembered or is named.
        digest: [U64; 2],
        /// Keys of the list.
        keys: U32,
        /// Values a key; 0 for an erase.
        dim: U32,
        /// A [`PushOp`].
        op: u8,
        /// A [`KeyForm`].
        key_form: u8,
        /// An [`Encoding`].
        encoding: u8,
        /// A [`Level`].
        level: u8,
        /// Zero.
        reserved: [u8; 12],
    }
}

body! {
    /// Opens a pull: then `keys` u64 unless named.
    PullBody, Pull, 48 {
        /// Digest of the key list, when it is to be remembered or is named.
        digest: [U64; 2],
        /// Answer once every live worker's clock is here; [`NO_CLOCK`] for at once.
        at_least: U64,
        /// Keys of the list.
        keys: U32,
        /// Values a key that the client expects.
        dim: U32,
        /// Milliseconds that a wait for `at_least` may last.
        patience_ms: U32,
        /// A [`KeyForm`].
        key_form: u8,
        /// An [`Encoding`].
        encoding: u8,
        /// [`PULL_STRONG`] or 0.
        flags: u8,
        /// Zero.
        reserved: [u8; 9],
    }
}

body! {
    /// Opens a piece of an answer to a pull: then a bitmap of found rows in u64 words, then the values.
    PullReplyBody, PullReply, 40 {
        /// The state the rows reflect.
        lsn: U64,
        /// Lowest clock of the live workers in that state.
        clock: U64,
        /// Index of the piece's first key in the list.
        first: U32,
        /// Rows in the piece.
        rows: U32,
        /// Keys of the whole list.
        total: U32,
        /// Values a row.
        dim: U32,
        /// A [`PullStatus`].
        status: U16,
        /// Zero.
        reserved: [u8; 6],
    }
}

body! {
    /// One partition of a clock record.
    ClockEntry, Clock, 32 {
        /// The record's place in this partition's order.
        sequence: U64,
        /// As [`PushBody::resolved`].
        resolved: U64,
        /// The chain version the client knows.
        epoch: U64,
        /// The partition.
        partition: U32,
        /// Which sending this is; a retry repeats it as its `request`.
        attempt: U32,
    }
}

body! {
    /// Outcomes of a session's pushes in one partition, all absolute, so that a later one heals a lost one;
    /// then `refused` entries.
    OutcomeBody, Outcome, 24 {
        /// Every sequence up to here that is not listed as refused is applied by the head.
        applied: U64,
        /// Every sequence up to here that is not listed as refused is replicated.
        replicated: U64,
        /// Number of [`RefusedEntry`] that follow.
        refused: U32,
        /// Zero.
        reserved: U32,
    }
}

body! {
    /// A refused push.
    RefusedEntry, Outcome, 16 {
        /// Its sequence.
        sequence: U64,
        /// A [`RefusalCode`].
        code: U16,
        /// Zero.
        reserved: [u8; 6],
    }
}

body! {
    /// Why a push is to be sent again.
    RetryBody, Retry, 24 {
        /// The sequence the partition waits for.
        expected: U64,
        /// The partition's epoch here.
        epoch: U64,
        /// A [`RetryCode`].
        code: U16,
        /// Zero.
        reserved: [u8; 6],
    }
}

body! {
    /// Asks for the number of rows.
    CountBody, Count, 8 {
        /// Zero.
        reserved: U64,
    }
}

body! {
    /// The number of rows of a table in a partition.
    CountReplyBody, CountReply, 16 {
        /// Rows.
        rows: U64,
        /// A [`PullStatus`].
        status: U16,
        /// Zero.
        reserved: [u8; 6],
    }
}

body! {
    /// Asks for the rows after a place in the partition's own order.
    ExportBody, Export, 16 {
        /// Place to go on from; 0 is the start.
        cursor: U64,
        /// Most rows wanted.
        rows: U32,
        /// Zero.
        reserved: U32,
    }
}

body! {
    /// Rows in their stored form: then `rows` u64 keys, then `rows` times `words` 32-bit words.
    ExportReplyBody, ExportReply, 32 {
        /// Place to go on from; [`NO_CLOCK`] when this was the last piece.
        cursor: U64,
        /// The state the rows reflect.
        lsn: U64,
        /// Rows in the piece.
        rows: U32,
        /// 32-bit words a row.
        words: U32,
        /// A [`PullStatus`].
        status: U16,
        /// Zero.
        reserved: [u8; 6],
    }
}

/// [`LinkBody::role`]: the receiver is the next member of the chain.
pub const LINK_SUCCESSOR: u16 = 0;
/// [`LinkBody::role`]: the receiver joins: it gets state and rows first, and nobody waits for what it applies.
pub const LINK_JOINER: u16 = 1;
/// [`LinkedBody::want`]: batches after `applied`.
pub const WANT_BATCHES: u16 = 0;
/// [`LinkedBody::want`]: state and rows; the sender has nothing of the partition.
pub const WANT_EVERYTHING: u16 = 1;

body! {
    /// Opens a partition's link.
    LinkBody, Link, 16 {
        /// The last batch that the predecessor had ordered or applied when it confirmed the epoch (C7).
        ordered: U64,
        /// [`LINK_SUCCESSOR`] or [`LINK_JOINER`].
        role: U16,
        /// Zero.
        reserved: [u8; 6],
    }
}

body! {
    /// Answers a link.
    LinkedBody, Linked, 16 {
        /// The last batch applied here.
        applied: U64,
        /// [`WANT_BATCHES`] or [`WANT_EVERYTHING`].
        want: U16,
        /// Zero.
        reserved: [u8; 6],
    }
}

body! {
    /// Opens a piece of a partition's state; then its bytes.
    MetaBody, Meta, 16 {
        /// The state is that after this batch.
        lsn: U64,
        /// Which piece, from 0.
        piece: U32,
        /// How many there are.
        pieces: U32,
    }
}

body! {
    /// Opens rows in their stored form: then `rows` u64 keys, then `rows` times `words` 32-bit words. From here on every
    /// key of the table that comes before `until` in the sender's order is the joiner's to keep up to date.
    ChunkBody, Chunk, 40 {
        /// Seeds of the sender's order of keys.
        seed: [U64; 2],
        /// Keys from this place on have not been sent; [`NO_CLOCK`] when all have.
        until: U64,
        /// Rows in the piece.
        rows: U32,
        /// 32-bit words a row.
        words: U32,
        /// Zero.
        reserved: U64,
    }
}

body! {
    /// Ends a copy.
    CopiedBody, Copied, 16 {
        /// The state the copy reflects.
        lsn: U64,
        /// Rows of all tables in it.
        rows: U64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_shorter_than_its_body_is_an_error_that_says_so() {
        let error = PushBody::split(&[0; 47]).map(|_| ()).unwrap_err();
        assert_eq!(error, WireError::Length { kind: Kind::Push, expected: 48, found: 47 });
        let payload = [0u8; 56];
        assert_eq!(PushBody::split(&payload).unwrap().1.len(), 8);
    }

    #[test]
    fn bodies_keep_what_follows_them_aligned() {
        let sizes = [
            PushBody::BYTES,
            PullBody::BYTES,
            PullReplyBody::BYTES,
            ClockEntry::BYTES,
            OutcomeBody::BYTES,
            RefusedEntry::BYTES,
            RetryBody::BYTES,
            CountBody::BYTES,
            CountReplyBody::BYTES,
            ExportBody::BYTES,
            ExportReplyBody::BYTES,
            LinkBody::BYTES,
            LinkedBody::BYTES,
            MetaBody::BYTES,
            ChunkBody::BYTES,
            CopiedBody::BYTES,
        ];
        assert!(sizes.iter().all(|bytes| bytes % 8 == 0), "{sizes:?}");
    }

    #[test]
    fn numbers_of_the_wire_read_back_and_unknown_ones_are_none() {
        for number in 0..=u16::MAX {
            if let Some(code) = RefusalCode::from_wire(number) {
                assert_eq!(code.to_wire(), number);
            }
        }
        assert_eq!(RetryCode::from_wire(0), None);
        assert_eq!(KeyForm::from_wire(3), None);
        assert_eq!(PushOp::from_wire(3), Some(PushOp::Import));
    }
}
