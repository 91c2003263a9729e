//! Setting up a lane over shared memory: one sealed memfd holds both rings and all counters, two eventfds are
//! the doorbells, a Unix socket carries the descriptors and, by hanging up, tells of a dead peer.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use gradwire_ffi::MachineError;
use gradwire_ffi::event::EventFd;
use gradwire_ffi::shared::{PAGE_BYTES, RingBytes, SharedArray, SharedMemory};
use gradwire_ffi::socket::{receive_fds, send_fds};
use gradwire_ffi::sync::{ReceiverLine, SenderLine, StateSlot};

pub use super::shm_door::{Door, Known, Visitor, connect};
use super::shm_door::{REJECT_MAGIC, reject_reason};
use super::state::STATE_ENTRIES;
use super::{End, LaneConfig, LaneEnd, SetupError};

/// Opens the offer; the last byte is the layout's version.
const OFFER_MAGIC: u64 = u64::from_le_bytes(*b"GRWRSHM1");
/// Magic, ring bytes.
const OFFER_BYTES: usize = 16;
/// How errors name a peer on this host.
pub(super) const PEER: &str = "the process at the other end of the socket";

/// Where things lie in a lane's memory. Direction 0 is written by the side that made the memory.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    ring_bytes: usize,
}

impl Layout {
    /// For rings of this size, which is a multiple of the page.
    #[must_use]
    pub const fn new(ring_bytes: usize) -> Self {
        Self { ring_bytes }
    }

    /// A direction's ring.
    #[must_use]
    pub const fn ring(self, direction: usize) -> usize {
        direction * self.ring_bytes
    }

    /// Both directions' [`SenderLine`].
    #[must_use]
    pub const fn sender_lines(self) -> usize {
        2 * self.ring_bytes
    }

    /// Both directions' [`ReceiverLine`].
    #[must_use]
    pub const fn receiver_lines(self) -> usize {
        self.sender_lines() + PAGE_BYTES
    }

    /// Both directions' dirty bits, one a state entry.
    #[must_use]
    pub const fn dirty_bits(self) -> usize {
        self.receiver_lines() + PAGE_BYTES
    }

    /// Both directions' state entries.
    #[must_use]
    pub const fn state_slots(self) -> usize {
        self.dirty_bits() + PAGE_BYTES
    }

    /// Of the whole memory.
    #[must_use]
    pub const fn bytes(self) -> usize {
        (self.state_slots() + 2 * STATE_ENTRIES * size_of::<StateSlot>()).next_multiple_of(PAGE_BYTES)
    }
}

/// Words of dirty bits of one direction.
pub(super) const DIRTY_WORDS: usize = STATE_ENTRIES / 64;
const _: () = assert!(STATE_ENTRIES.is_multiple_of(64) && 2 * DIRTY_WORDS * 8 <= PAGE_BYTES);

/// One side's views of the memory, and its descriptors.
#[derive(Debug)]
pub(super) struct ShmEnd {
    /// The direction this side writes; it receives the other.
    pub(super) side: usize,
    pub(super) ring_bytes: usize,
    pub(super) outbox: RingBytes,
    pub(super) inbox: RingBytes,
    pub(super) senders: SharedArray<SenderLine>,
    pub(super) receivers: SharedArray<ReceiverLine>,
    pub(super) dirty: SharedArray<AtomicU64>,
    pub(super) slots: SharedArray<StateSlot>,
    pub(super) own_bell: Arc<EventFd>,
    pub(super) peer_bell: EventFd,
    pub(super) socket: Arc<UnixStream>,
}

impl ShmEnd {
    fn map(
        memory: &SharedMemory,
        ring_bytes: usize,
        side: usize,
        bells: (EventFd, EventFd),
        socket: UnixStream,
    ) -> Result<Self, SetupError> {
        let layout = Layout::new(ring_bytes);
        socket.set_nonblocking(true).map_err(|error| SetupError::Io { peer: PEER.to_owned(), error })?;
        Ok(Self {
            side,
            ring_bytes,
            outbox: memory.ring(layout.ring(side), ring_bytes)?,
            inbox: memory.ring(layout.ring(1 - side), ring_bytes)?,
            senders: memory.array(layout.sender_lines(), 2)?,
            receivers: memory.array(layout.receiver_lines(), 2)?,
            dirty: memory.array(layout.dirty_bits(), 2 * DIRTY_WORDS)?,
            slots: memory.array(layout.state_slots(), 2 * STATE_ENTRIES)?,
            own_bell: Arc::new(bells.0),
            peer_bell: bells.1,
            socket: Arc::new(socket),
        })
    }
}

fn lane_end(end: ShmEnd) -> LaneEnd {
    LaneEnd(End::Shm(Box::new(end)))
}

fn copy_of(fd: impl AsFd) -> Result<OwnedFd, SetupError> {
    fd.as_fd().try_clone_to_owned().map_err(|error| SetupError::Io { peer: PEER.to_owned(), error })
}

/// A lane between two threads of this process, by the same memory, doorbells and socket as between processes.
///
/// # Errors
/// [`SetupError`]: a wrong ring size, or the kernel has no memory or descriptors.
pub fn pair(ring_bytes: usize) -> Result<(LaneEnd, LaneEnd), SetupError> {
    LaneConfig { ring_bytes }.check()?;
    let (left, right) =
        UnixStream::pair().map_err(|error| SetupError::Io { peer: "a new socket pair".to_owned(), error })?;
    let memory = SharedMemory::create(Layout::new(ring_bytes).bytes())?;
    let bells = (EventFd::create()?, EventFd::create()?);
    let copies = (EventFd::from_peer(copy_of(&bells.0)?)?, EventFd::from_peer(copy_of(&bells.1)?)?);
    let first = ShmEnd::map(&memory, ring_bytes, 0, bells, left)?;
    let second = ShmEnd::map(&memory, ring_bytes, 1, (copies.1, copies.0), right)?;
    Ok((lane_end(first), lane_end(second)))
}

/// Makes a lane's memory and sends it over an authenticated socket, which the lane keeps. Does not wait for the peer: one
/// that refuses hangs up.
///
/// # Errors
/// [`SetupError`]: a wrong ring size, no memory or descriptors, or the peer is gone.
pub fn offer(socket: UnixStream, config: LaneConfig) -> Result<LaneEnd, SetupError> {
    let ring_bytes = config.check()?.ring_bytes;
    let memory = SharedMemory::create(Layout::new(ring_bytes).bytes())?;
    let (own, peer) = (EventFd::create()?, EventFd::create()?);
    let mut message = [0; OFFER_BYTES];
    message[..8].copy_from_slice(&OFFER_MAGIC.to_le_bytes());
    message[8..].copy_from_slice(&(ring_bytes as u64).to_le_bytes());
    send_fds(&socket, &message, &[memory.fd(), own.as_fd(), peer.as_fd()])?;
    Ok(lane_end(ShmEnd::map(&memory, ring_bytes, 0, (own, peer), socket)?))
}

/// Takes an offered lane; its rings are at most `largest.ring_bytes`.
///
/// # Errors
/// [`SetupError`]: nothing came in `patience`, or what came is no offer, or unsafe to map.
pub fn accept(socket: UnixStream, largest: LaneConfig, patience: Duration) -> Result<LaneEnd, SetupError> {
    let io = |error| SetupError::Io { peer: PEER.to_owned(), error };
    socket.set_nonblocking(false).map_err(io)?;
    socket.set_read_timeout(Some(patience.max(Duration::from_millis(1)))).map_err(io)?;
    let mut message = [0; OFFER_BYTES];
    let (bytes, fds) = receive_fds(&socket, &mut message).map_err(|error| {
        if std::io::Error::from_raw_os_error(error.errno).kind() == std::io::ErrorKind::WouldBlock {
            SetupError::Deadline { peer: PEER.to_owned() }
        } else {
            SetupError::Machine(error)
        }
    })?;
    if bytes == 0 {
        return Err(SetupError::Closed { peer: PEER.to_owned() });
    }
    let unexpected = |found: String| SetupError::Unexpected { peer: PEER.to_owned(), found };
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&message[at..at + 8]);
        u64::from_le_bytes(word)
    };
    if bytes == OFFER_BYTES && word(0) == REJECT_MAGIC {
        return Err(SetupError::Rejected { peer: PEER.to_owned(), reason: reject_reason(word(8)) });
    }
    if bytes != OFFER_BYTES || word(0) != OFFER_MAGIC {
        return Err(unexpected(format!("{bytes} bytes that are no offer of a lane")));
    }
    let ring_bytes = usize::try_from(word(8)).unwrap_or(usize::MAX);
    let config = LaneConfig { ring_bytes }.check()?;
    if config.ring_bytes > largest.ring_bytes {
        return Err(unexpected(format!("rings of {ring_bytes} bytes, {} are allowed", largest.ring_bytes)));
    }
    let [memory, peer_bell, own_bell] = <[OwnedFd; 3]>::try_from(fds)
        .map_err(|fds| unexpected(format!("{} descriptors where an offer has 3", fds.len())))?;
    let memory = SharedMemory::open(memory, Layout::new(ring_bytes).bytes())?;
    let bell = |fd| EventFd::from_peer(fd).map_err(|error: MachineError| SetupError::Machine(error));
    let bells = (bell(own_bell)?, bell(peer_bell)?);
    Ok(lane_end(ShmEnd::map(&memory, ring_bytes, 1, bells, socket)?))
}
