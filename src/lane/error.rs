//! What can go wrong with lanes: whose fault, which object, what next.

use gradwire_ffi::MachineError;
use thiserror::Error;

use crate::wire::WireError;

/// Why a lane is over.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DownReason {
    /// The peer closed it, or its process ended.
    #[error("the peer closed the lane or its process ended; reconnect")]
    PeerClosed,
    /// The connection was reset under way.
    #[error("the connection was reset by the peer or its host; reconnect")]
    PeerReset,
    /// More was sent than there is credit for.
    #[error("the peer sent more {unit} than its credit allows; it is not this program, or it is damaged")]
    CreditExceeded {
        /// Bytes or records.
        unit: &'static str,
    },
    /// Bytes that are no record.
    #[error("the peer sent bytes that are no record: {0}; reconnect")]
    BadRecord(WireError),
    /// A record above the limit.
    #[error(
        "the peer sent a record of {bytes} bytes, the lane's limit is {limit}; give both ends the same ring size"
    )]
    RecordTooLarge {
        /// Its bytes, header and padding included.
        bytes: u64,
        /// The limit.
        limit: usize,
    },
    /// A shared counter or a lane record that no correct peer writes.
    #[error("the peer's {what} cannot be; it is not this program, or it is damaged")]
    Impossible {
        /// What.
        what: &'static str,
    },
    /// State of more partitions than a lane carries.
    #[error("state of more than {limit} partitions on one lane; open another lane")]
    StateFull {
        /// The limit.
        limit: usize,
    },
    /// The socket failed.
    #[error("the lane's socket failed: {}; reconnect", std::io::Error::from_raw_os_error(*errno))]
    Io {
        /// The kernel's answer.
        errno: i32,
    },
}

/// Why a write was not accepted. Nothing of it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WriteError {
    /// The peer's ring has no room for all of it now.
    #[error("the peer's ring is full; wait for credit")]
    Full,
    /// It would never fit.
    #[error("a record or write is larger than the lane's limit of {limit} bytes; split it")]
    TooLarge {
        /// The limit that was exceeded: of one record, or of one write.
        limit: usize,
    },
    /// The lane is over.
    #[error("the lane is down; reconnect")]
    Down,
}

/// Why a port could not be made.
#[derive(Debug, Error)]
pub enum PortError {
    /// The environment names a driver that there is not.
    #[error("GRADWIRE_TCP={value} names no driver of tcp lanes; say uring or epoll, or leave it unset")]
    Driver {
        /// What it names.
        value: String,
    },
    /// The kernel refused descriptors or memory.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

/// Why an end could not be adopted.
#[derive(Debug, Error)]
pub enum AdoptError {
    /// The kernel refused descriptors or memory.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

/// Why a fence did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FenceError {
    /// The lane was closed before; nothing remote can land.
    #[error("the lane is closed already; nothing is left to fence")]
    Closed,
}

/// Why memory could not be granted, or a grant not be used.
#[derive(Debug, Error)]
pub enum GrantError {
    /// No such lane, or it is down.
    #[error("the lane is down; reconnect")]
    Down,
    /// No such grant.
    #[error("the grant was released or never made; grant anew")]
    Unknown,
    /// The bytes are not all inside the grant.
    #[error("{bytes} bytes at {offset} leave a grant of {granted}; stay inside, or grant more")]
    OutOfBounds {
        /// First byte meant.
        offset: usize,
        /// Bytes meant.
        bytes: usize,
        /// Bytes granted.
        granted: usize,
    },
    /// Too many grants or bytes at once.
    #[error("a lane holds at most {limit} grants; release one")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The kernel refused memory or descriptors.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

/// Why bulk bytes were not placed or asked for.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum PlaceError {
    /// The lane is over.
    #[error("the lane is down; reconnect")]
    Down,
    /// The grant is not, or no longer, known.
    #[error("the peer's grant {grant} is not known here; it was released, or is of another lane")]
    Unknown {
        /// Its number.
        grant: u64,
    },
    /// The bytes are not all inside the grant.
    #[error("{bytes} bytes at {offset} leave a grant of {granted}; stay inside, or grant more")]
    OutOfBounds {
        /// First byte meant.
        offset: usize,
        /// Bytes meant.
        bytes: usize,
        /// Bytes granted.
        granted: u64,
    },
    /// More than one piece may hold.
    #[error("{bytes} bytes in one piece, the limit is {limit}; split them")]
    TooLarge {
        /// Bytes meant.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Too much is under way to this peer.
    #[error("too many bulk bytes are under way to the peer; try again after a wait")]
    Full,
}

/// A ring size that is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a ring of {ring_bytes} bytes: take a power of two from 65536 to 67108864")]
pub struct ConfigError {
    /// The size asked for.
    pub ring_bytes: usize,
}

/// Why a lane could not be set up.
#[derive(Debug, Error)]
pub enum SetupError {
    /// A wrong size was asked for.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The kernel refused.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The peer's shared memory is not to be used.
    #[error(transparent)]
    Open(#[from] gradwire_ffi::shared::OpenError),
    /// The address cannot be used.
    #[error("cannot use {address}: {error}; check the address and that nothing else uses the port")]
    Address {
        /// The address.
        address: String,
        /// The kernel's answer.
        error: std::io::Error,
    },
    /// Nobody answered.
    #[error("cannot connect to {address}: {error}; check that a server listens there")]
    Connect {
        /// The address.
        address: String,
        /// The kernel's answer.
        error: std::io::Error,
    },
    /// The peer did not say everything in time.
    #[error(
        "{peer} did not finish its handshake in time; check that it is a gradwire process and not overloaded"
    )]
    Deadline {
        /// Who.
        peer: String,
    },
    /// The peer went away under way.
    #[error("{peer} closed the connection during the handshake; look at its log")]
    Closed {
        /// Who.
        peer: String,
    },
    /// The peer does not speak this protocol or version.
    #[error("{peer} does not speak this protocol: {error}")]
    Protocol {
        /// Who.
        peer: String,
        /// What is wrong.
        error: WireError,
    },
    /// The peer speaks it, but out of turn.
    #[error("{peer} sent {found} during the handshake; it is not this program, or it is damaged")]
    Unexpected {
        /// Who.
        peer: String,
        /// What it sent.
        found: String,
    },
    /// The peer refused us.
    #[error("{peer} refused the lane: {reason}")]
    Rejected {
        /// Who.
        peer: String,
        /// Its reason.
        reason: super::tcp::RejectReason,
    },
    /// We refused the peer.
    #[error("refused {peer}: {reason}")]
    Refused {
        /// Who.
        peer: String,
        /// The reason it was told.
        reason: super::tcp::RejectReason,
    },
    /// The socket failed.
    #[error("the connection to {peer} failed: {error}; try again")]
    Io {
        /// Who.
        peer: String,
        /// The kernel's answer.
        error: std::io::Error,
    },
}
