//! Everything replicated of a partition that is not rows, as bytes for a joiner.
//!
//! ```text
//! header 40 B | session 40 B, its refusals 16 B each | … | range of ended ids 16 B | …
//! ```
//! What is ordered counts as replicated: the sender is the tail of its chain. All fields little-endian; the checksum stands first and covers everything after it. Sessions and ranges ascend.

use thiserror::Error;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::id_ranges::IdRanges;
use super::replica::{ConfigError, Replica, ReplicaConfig};
use super::sessions::{REFUSALS_KEPT, Session, Sessions};
use crate::wire::RefusalCode;
use crate::wire::ids::{Clock, Lsn, PartitionId, Sequence, SessionId};

/// "GRWS".
const SNAPSHOT_MAGIC: u32 = u32::from_le_bytes(*b"GRWS");
/// Version of this layout.
pub const SNAPSHOT_VERSION: u16 = 1;
/// Where the checksummed bytes begin.
const CHECKED_FROM: usize = size_of::<U32>();

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    crc: U32,
    magic: U32,
    version: U16,
    flags: U16,
    partition: U32,
    lsn: U64,
    sessions: U64,
    ranges: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSession {
    session: U64,
    ordered: U64,
    lsn: U64,
    clock: U64,
    refusals: U32,
    worker: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRefusal {
    sequence: U64,
    code: U16,
    reserved: [u8; 6],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRange {
    first: U64,
    last: U64,
}

const _: () = assert!(size_of::<RawHeader>() == 40 && size_of::<RawSession>() == 40);
const _: () = assert!(size_of::<RawRefusal>() == 16 && size_of::<RawRange>() == 16);

/// Why bytes are not a snapshot. The joiner asks for everything anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// The joiner's own settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Not a snapshot, or another layout.
    #[error(
        "magic {magic:#010x}, version {version} is no snapshot of version {SNAPSHOT_VERSION}; upgrade the older server"
    )]
    Form {
        /// The four bytes found.
        magic: u32,
        /// The version found.
        version: u16,
    },
    /// Bytes were changed on the way.
    #[error("snapshot checksum {found:#010x}, its bytes give {computed:#010x}; it was damaged on the way")]
    Crc {
        /// The checksum it carries.
        found: u32,
        /// The checksum of its bytes.
        computed: u32,
    },
    /// Another partition's.
    #[error("a snapshot of partition {found} came for partition {expected}")]
    Partition {
        /// The partition meant.
        expected: PartitionId,
        /// The snapshot's.
        found: PartitionId,
    },
    /// Fewer or more bytes than it says.
    #[error("a snapshot of {found} bytes ends in the middle or after its last field")]
    Length {
        /// Bytes there are.
        found: usize,
    },
    /// No replica could be in that state.
    #[error("the snapshot's {what} contradict each other")]
    Contradiction {
        /// What of it.
        what: &'static str,
    },
}

impl Replica {
    /// The state after [`Replica::lsn`], for a joiner behind this replica; seals what is open.
    pub fn snapshot(&mut self) -> Vec<u8> {
        self.seal();
        let sessions = self.sessions.live();
        let ended = self.sessions.ended().iter();
        let header = RawHeader {
            crc: 0.into(),
            magic: SNAPSHOT_MAGIC.into(),
            version: SNAPSHOT_VERSION.into(),
            flags: 0.into(),
            partition: self.partition.0.into(),
            lsn: self.lsn.0.into(),
            sessions: (sessions.len() as u64).into(),
            ranges: (ended.len() as u64).into(),
        };
        let bytes = size_of::<RawHeader>() + sessions.len() * size_of::<RawSession>() + 16 * ended.len();
        let mut out = Vec::with_capacity(bytes);
        out.extend_from_slice(header.as_bytes());
        for (&session, state) in sessions {
            write_session(&mut out, session, state);
        }
        for (first, last) in ended {
            out.extend_from_slice(RawRange { first: first.into(), last: last.into() }.as_bytes());
        }
        let crc = checksum(&out);
        out[..CHECKED_FROM].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// A joiner's replica: in the state of the snapshot, with nothing in its log. A joiner's position is
    /// [`super::Position::Tail`]; nobody waits for what it acknowledges until it is a member.
    ///
    /// # Errors
    /// Any [`SnapshotError`].
    pub fn restore(config: ReplicaConfig, snapshot: &[u8]) -> Result<Self, SnapshotError> {
        let mut replica = Self::new(config)?;
        let mut rest = snapshot;
        let mut reader = Reader { rest: &mut rest, whole: snapshot.len() };
        let header: RawHeader = reader.take()?;
        let (magic, version) = (header.magic.get(), header.version.get());
        if magic != SNAPSHOT_MAGIC || version != SNAPSHOT_VERSION || header.flags.get() != 0 {
            return Err(SnapshotError::Form { magic, version });
        }
        let (found, computed) = (header.crc.get(), checksum(snapshot));
        if found != computed {
            return Err(SnapshotError::Crc { found, computed });
        }
        let found = PartitionId(header.partition.get());
        if found != config.partition {
            return Err(SnapshotError::Partition { expected: config.partition, found });
        }
        let lsn = Lsn(header.lsn.get());
        // Not with a capacity from outside: what is claimed may not be there.
        let mut live: Vec<(SessionId, Session)> = Vec::new();
        for _ in 0..header.sessions.get() {
            let (session, state) = reader.session(lsn)?;
            if live.last().is_some_and(|&(before, _)| before >= session) {
                return Err(SnapshotError::Contradiction { what: "sessions" });
            }
            live.push((session, state));
        }
        let mut ranges = Vec::new();
        for _ in 0..header.ranges.get() {
            let range: RawRange = reader.take()?;
            ranges.push((range.first.get(), range.last.get()));
        }
        if !rest.is_empty() {
            return Err(SnapshotError::Length { found: snapshot.len() });
        }
        let ended =
            IdRanges::from_ranges(ranges).ok_or(SnapshotError::Contradiction { what: "ended ids" })?;
        if live.iter().any(|&(session, _)| ended.contains(session.0)) {
            return Err(SnapshotError::Contradiction { what: "live and ended ids" });
        }
        replica.lsn = lsn;
        replica.acked = lsn;
        replica.sessions = Sessions::restore(live, ended);
        Ok(replica)
    }
}

fn checksum(snapshot: &[u8]) -> u32 {
    gradwire_kernels::crc32c(gradwire_kernels::Isa::active(), 0, &snapshot[CHECKED_FROM..])
}

fn write_session(out: &mut Vec<u8>, session: SessionId, state: &Session) {
    let Ok(refusals) = u32::try_from(state.refused.len()) else { unreachable!("at most {REFUSALS_KEPT}") };
    let raw = RawSession {
        session: session.0.into(),
        ordered: state.ordered.0.into(),
        lsn: state.lsn.0.into(),
        clock: state.clock.0.into(),
        refusals: refusals.into(),
        worker: u32::from(state.worker).into(),
    };
    out.extend_from_slice(raw.as_bytes());
    for &(sequence, code) in &state.refused {
        let (sequence, code) = (sequence.0.into(), code.to_wire().into());
        out.extend_from_slice(RawRefusal { sequence, code, reserved: [0; 6] }.as_bytes());
    }
}

struct Reader<'r, 'a> {
    rest: &'r mut &'a [u8],
    whole: usize,
}

impl Reader<'_, '_> {
    fn take<T: FromBytes + KnownLayout + Immutable + Unaligned>(&mut self) -> Result<T, SnapshotError> {
        let Ok((value, rest)) = T::read_from_prefix(self.rest) else {
            return Err(SnapshotError::Length { found: self.whole });
        };
        *self.rest = rest;
        Ok(value)
    }

    fn session(&mut self, snapshot_lsn: Lsn) -> Result<(SessionId, Session), SnapshotError> {
        let wrong = |what| Err(SnapshotError::Contradiction { what });
        let raw: RawSession = self.take()?;
        let (ordered, lsn) = (Sequence(raw.ordered.get()), Lsn(raw.lsn.get()));
        if lsn > snapshot_lsn || raw.worker.get() > 1 {
            return wrong("fields of a session");
        }
        if raw.refusals.get() as usize > REFUSALS_KEPT {
            return wrong("refusals of a session");
        }
        let mut refused: Vec<(Sequence, RefusalCode)> = Vec::new();
        for _ in 0..raw.refusals.get() {
            let refusal: RawRefusal = self.take()?;
            let sequence = Sequence(refusal.sequence.get());
            let after = refused.last().map_or(Sequence(0), |&(before, _)| before);
            let code = RefusalCode::from_wire(refusal.code.get());
            let Some(code) = code.filter(|_| after < sequence && sequence <= ordered) else {
                return wrong("refusals of a session");
            };
            refused.push((sequence, code));
        }
        let (clock, worker) = (Clock(raw.clock.get()), raw.worker.get() == 1);
        Ok((SessionId(raw.session.get()), Session::restored(ordered, lsn, clock, worker, refused)))
    }
}
