//! Lanes: ordered connections between two pinned threads, over shared memory or TCP.
//!
//! Problem: shards and clients exchange records at memory speed, and neither may wait for, trust, or outlive the
//! other. Idea: each end has an inbox ring that only the other end fills, absolute counters say how far, and one
//! [`Port`] per thread turns rings, sockets and doorbells into events. Invariants (design, section 4):
//! L1 bytes arrive in order, and [`Event::Arrived`] comes after them; L2 an accepted write is no receipt; L3 a
//! write is accepted only within the peer's credit, a receiver always receives, who exceeds its credit is cut,
//! and state entries flow outside credit; L4 placed bytes land only in granted memory; L5 after
//! [`Fabric::fence`] nothing remote lands any more; L6 a dead peer becomes one [`Event::Down`], after everything
//! it sent whole. Absent on purpose: retries, sessions, meaning of records; a dropped lane is the owner's business.
//! A [`LaneEnd`] may be sent to any thread; the [`Port`] that adopts it belongs to one thread from then on,
//! and only its [`Waker`] may be used from others.

mod credit;
mod deframe;
mod driver;
mod error;
mod grant;
mod measure;
mod outbox;
mod port;
pub mod shm;
mod shm_door;
mod shm_lane;
mod state;
pub mod tcp;
mod tcp_driver;
mod tcp_hello;
mod tcp_lane;
mod uring_driver;
mod waiting;

use std::time::Duration;

pub use error::{
    AdoptError, ConfigError, DownReason, FenceError, GrantError, PlaceError, PortError, SetupError,
    WriteError,
};
pub use grant::{GrantId, PeerGrant};
pub use port::{Port, Waker};
pub use state::StateEntry;
pub use tcp_driver::{TCP_VARIABLE, TcpDriver, check_tcp_variable, on_tcp_fallback};
pub use waiting::{Backoff, Waiting, YIELD_AFTER};

use crate::wire::Header;

/// Smallest ring; also the step of ring layouts.
pub const MIN_RING_BYTES: usize = 64 << 10;
/// Largest ring a peer may ask for.
pub const MAX_RING_BYTES: usize = 64 << 20;
/// Bulk bytes go in pieces of at most this, or a quarter of the ring where that is less.
pub const MAX_PLACE_BYTES: usize = 64 << 10;

/// What both ends of a lane agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneConfig {
    /// Bytes of each inbox ring: a power of two from [`MIN_RING_BYTES`] to [`MAX_RING_BYTES`]. The default of
    /// 4 MiB keeps eight requests of 10,000 keys in flight; lanes that grow from small rings come later.
    pub ring_bytes: usize,
}

impl Default for LaneConfig {
    fn default() -> Self {
        Self { ring_bytes: 4 << 20 }
    }
}

impl LaneConfig {
    fn check(self) -> Result<Self, ConfigError> {
        let allowed =
            self.ring_bytes.is_power_of_two() && (MIN_RING_BYTES..=MAX_RING_BYTES).contains(&self.ring_bytes);
        if allowed { Ok(self) } else { Err(ConfigError { ring_bytes: self.ring_bytes }) }
    }
}

/// Largest record of a lane whose rings have `ring_bytes`: a quarter of a ring, header and padding included.
#[must_use]
pub const fn max_record_bytes(ring_bytes: usize) -> usize {
    ring_bytes / 4
}

/// One end of a lane that no thread owns yet; [`Fabric::adopt`] gives it to one.
#[derive(Debug)]
pub struct LaneEnd(End);

#[derive(Debug)]
enum End {
    Shm(Box<shm::ShmEnd>),
    Tcp(Box<tcp::TcpEnd>),
}

/// A lane of one [`Port`]. The number of a closed lane is not given out again: the generation differs.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub struct LaneId {
    index: u32,
    generation: u32,
}

/// What a [`Port`] tells its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Records came since the lane was last drained; more events than records are possible, fewer wake-ups
    /// than needed are not. The owner peeks until there is none, now or later.
    Arrived(LaneId),
    /// A partition's state at the peer; the newest only.
    Entry {
        /// Where it came from.
        lane: LaneId,
        /// The state.
        entry: StateEntry,
    },
    /// Bytes asked for with [`Fabric::read`] are in the grant.
    ReadDone {
        /// Where they came from.
        lane: LaneId,
        /// Where they are.
        into: GrantId,
        /// From this byte of it.
        offset: usize,
        /// That many.
        bytes: usize,
    },
    /// The lane is over; said once. What came whole before can still be peeked; then the owner closes it with
    /// [`Fabric::fence`].
    Down {
        /// Which.
        lane: LaneId,
        /// Why.
        reason: DownReason,
    },
}

impl Event {
    /// The lane it is about.
    #[must_use]
    pub fn lane(&self) -> LaneId {
        match self {
            Self::Arrived(lane)
            | Self::Entry { lane, .. }
            | Self::ReadDone { lane, .. }
            | Self::Down { lane, .. } => *lane,
        }
    }
}

/// What carries a lane.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub enum FabricKind {
    /// Memory of one host.
    Shm,
    /// A TCP connection.
    Tcp,
}

impl FabricKind {
    /// Its name in flags, reports and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shm => "shm",
            Self::Tcp => "tcp",
        }
    }
}

/// One thread's lanes. Calls with a lane that is closed do nothing and say so where they can.
pub trait Fabric {
    /// Appends what happened; never waits, and is cheap enough to spin on. Sends what [`Fabric::flush`] would.
    fn poll(&mut self, events: &mut Vec<Event>);

    /// Blocks until something may have happened, a [`Waker`] was used, or `timeout` is over; never misses a wake-up.
    /// [`Fabric::poll`] then tells what it was, possibly nothing.
    fn wait(&mut self, timeout: Duration);

    /// The next whole record's header, copied out of the ring and checked. A malformed one takes the lane down.
    fn peek(&mut self, lane: LaneId) -> Option<Header>;

    /// Copies payload bytes of the peeked record, from `offset` in it.
    ///
    /// # Panics
    /// When no record is peeked or the bytes leave its payload.
    fn copy_payload(&self, lane: LaneId, offset: usize, out: &mut [u8]);

    /// The peeked record's payload, where nobody else can write the ring that holds it (tcp); none where the
    /// peer can (shm), and [`Fabric::copy_payload`] is to be used.
    fn borrow_payload(&self, lane: LaneId) -> Option<&[u8]>;

    /// Frees the peeked record's ring space. Credit goes back in batches.
    ///
    /// # Panics
    /// When no record is peeked.
    fn consume(&mut self, lane: LaneId);

    /// Bytes that [`Fabric::write`] would accept now, in records of at most [`Fabric::max_record`].
    fn credit(&self, lane: LaneId) -> usize;

    /// Largest record the lane carries, header and padding included.
    fn max_record(&self, lane: LaneId) -> usize;

    /// Appends whole records (header, payload, padding) gathered from `parts` to the peer's ring, all or none.
    /// Without `notify` they may stay here until a later write that notifies. A header is never split over parts.
    ///
    /// # Errors
    /// [`WriteError::Full`]: try again after [`Fabric::wait`]; [`WriteError::TooLarge`]: split;
    /// [`WriteError::Down`].
    ///
    /// # Panics
    /// When `parts` are not whole records.
    fn write(&mut self, lane: LaneId, parts: &[&[u8]], notify: bool) -> Result<(), WriteError>;

    /// Sends and rings what was batched; called at the end of a loop turn.
    fn flush(&mut self);

    /// Sets this side's state of a partition; needs no credit, the newest wins, on the way too.
    fn publish(&mut self, lane: LaneId, entry: StateEntry);

    /// Sets `bytes` aside that the peer may fill with [`Fabric::place`].
    ///
    /// # Errors
    /// [`GrantError`]: no lane, no memory, or too many grants.
    fn grant(&mut self, lane: LaneId, bytes: usize) -> Result<GrantId, GrantError>;

    /// Sets a copy of `snapshot` aside that the peer may read with [`Fabric::read`] and never write.
    ///
    /// # Errors
    /// As for [`Fabric::grant`].
    fn share(&mut self, lane: LaneId, snapshot: &[u8]) -> Result<GrantId, GrantError>;

    /// What the peer needs to know of a grant, to be sent in a record.
    fn describe(&self, lane: LaneId, grant: GrantId) -> Option<PeerGrant>;

    /// Writes into the peer's grant; visible there before anything written to the lane afterwards. Needs no credit.
    ///
    /// # Errors
    /// [`PlaceError`]; nothing was placed.
    fn place(
        &mut self,
        lane: LaneId,
        grant: PeerGrant,
        offset: usize,
        parts: &[&[u8]],
    ) -> Result<(), PlaceError>;

    /// Asks for bytes of the peer's snapshot to be put into an own grant; [`Event::ReadDone`] follows.
    ///
    /// # Errors
    /// [`PlaceError`]; nothing was asked.
    fn read(
        &mut self,
        lane: LaneId,
        from: PeerGrant,
        from_offset: usize,
        into: GrantId,
        into_offset: usize,
        bytes: usize,
    ) -> Result<(), PlaceError>;

    /// Copies bytes out of an own grant.
    ///
    /// # Errors
    /// [`GrantError`]: no such grant, or not so many bytes.
    fn read_granted(
        &self,
        lane: LaneId,
        grant: GrantId,
        offset: usize,
        out: &mut [u8],
    ) -> Result<(), GrantError>;

    /// Ends a grant. Its memory is not used for anything else before no late write can reach it.
    fn release_grant(&mut self, lane: LaneId, grant: GrantId);

    /// Closes the lane; when it returns, no later remote write lands in memory that is used again (L5).
    ///
    /// # Errors
    /// [`FenceError::Closed`] when there is no such lane any more.
    fn fence(&mut self, lane: LaneId) -> Result<(), FenceError>;

    /// Makes the calling thread the owner of an end.
    ///
    /// # Errors
    /// [`AdoptError`]; the end is closed.
    fn adopt(&mut self, end: LaneEnd) -> Result<LaneId, AdoptError>;

    /// What carries the lane, while it is open.
    fn kind(&self, lane: LaneId) -> Option<FabricKind>;

    /// What moves the bytes of its TCP lanes.
    fn tcp_driver(&self) -> &TcpDriver;

    /// Wakes this thread out of [`Fabric::wait`] from any other.
    fn waker(&self) -> Waker;
}
