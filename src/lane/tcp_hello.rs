//! The first two records of a TCP lane: hello, and welcome or a reasoned rejection. Blocking, with deadlines.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use thiserror::Error;
use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{LaneConfig, SetupError};
use crate::wire::ids::ShardId;
use crate::wire::{HEADER_BYTES, Header, Kind, WireError};

/// What a connecting side says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The cluster it belongs to.
    pub cluster: u64,
    /// The shard it wants a lane to.
    pub shard: ShardId,
    /// Bytes of its own inbox ring, as [`LaneConfig::ring_bytes`].
    pub ring_bytes: usize,
    /// Optional abilities; unknown ones are ignored.
    pub flags: u64,
    /// Of a server of the cluster: the lane is a link of chains.
    pub link: Option<LinkHello>,
}

/// What a server says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkHello {
    /// What the coordinator told servers, and nobody else; never 0.
    pub key: u64,
    /// The shard at this end.
    pub from: ShardId,
}

impl LinkHello {
    /// As two words; zeros stand for none.
    pub(super) fn to_words(link: Option<Self>) -> [u64; 2] {
        link.map_or([0, 0], |link| [link.key, u64::from(link.from.0)])
    }

    pub(super) fn from_words([key, from]: [u64; 2]) -> Option<Self> {
        let from = ShardId(u32::try_from(from).ok()?);
        (key != 0).then_some(Self { key, from })
    }
}

/// Why a lane was refused. The number travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[repr(u64)]
pub enum RejectReason {
    /// Wire versions too far apart.
    #[error("wire versions differ; upgrade the older side")]
    Version = 1,
    /// Another cluster.
    #[error("the cluster id differs; check the address of the cluster")]
    Cluster = 2,
    /// No such shard here.
    #[error("no such shard there; fetch the map again")]
    Shard = 3,
    /// Ring size not allowed.
    #[error("the ring size is not allowed there; use a smaller one")]
    Ring = 4,
    /// Too many lanes.
    #[error("too many lanes there; close some, or try again later")]
    Busy = 5,
    /// It names itself a server, but not as the coordinator's servers do.
    #[error("it does not name the key of this cluster's servers; start it anew, with their coordinator")]
    Stranger = 7,
    /// A reason this build does not know.
    #[error("a reason this build does not know; upgrade this side")]
    Unknown = 6,
}

impl RejectReason {
    pub(super) fn from_wire(number: u64) -> Self {
        match number {
            1 => Self::Version,
            2 => Self::Cluster,
            3 => Self::Shard,
            4 => Self::Ring,
            5 => Self::Busy,
            7 => Self::Stranger,
            _ => Self::Unknown,
        }
    }
}

/// The payload of all three records; a rejection uses `reason`, the others the rest.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHello {
    cluster: U64,
    ring_bytes: U64,
    flags: U64,
    reason: U64,
    link: [U64; 2],
}

const HELLO_BYTES: usize = size_of::<RawHello>();
const RECORD_BYTES: usize = HEADER_BYTES + HELLO_BYTES;

fn encode(kind: Kind, shard: ShardId, body: &RawHello) -> [u8; RECORD_BYTES] {
    let header = Header { shard, ..Header::new(kind, HELLO_BYTES as u32) };
    let mut record = [0; RECORD_BYTES];
    record[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    record[HEADER_BYTES..].copy_from_slice(body.as_bytes());
    record
}

/// A connection being set up, and whom to name in errors.
pub(super) struct Greeting<'a> {
    pub(super) stream: &'a TcpStream,
    pub(super) peer: &'a str,
    pub(super) deadline: Instant,
}

impl Greeting<'_> {
    fn io(&self, error: std::io::Error) -> SetupError {
        use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof, WouldBlock};
        let peer = self.peer.to_owned();
        match error.kind() {
            WouldBlock | TimedOut => SetupError::Deadline { peer },
            UnexpectedEof | ConnectionReset | ConnectionAborted => SetupError::Closed { peer },
            _ => SetupError::Io { peer, error },
        }
    }

    fn send(&self, record: &[u8]) -> Result<(), SetupError> {
        let patience = self.patience()?;
        self.stream.set_write_timeout(Some(patience)).map_err(|error| self.io(error))?;
        let mut stream = self.stream;
        stream.write_all(record).map_err(|error| self.io(error))
    }

    fn patience(&self) -> Result<Duration, SetupError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(SetupError::Deadline { peer: self.peer.to_owned() });
        }
        Ok(left)
    }

    /// Reads exactly the first record: what follows belongs to the lane. A peer that drips bytes meets the deadline too.
    fn receive(&self) -> Result<(Header, RawHello), SetupError> {
        let mut header = [0; HEADER_BYTES];
        self.fill(&mut header)?;
        let header = Header::read(&header)
            .map_err(|error| SetupError::Protocol { peer: self.peer.to_owned(), error })?;
        if header.length as usize != HELLO_BYTES {
            return Err(self.unexpected(&header));
        }
        let mut body = [0; HELLO_BYTES];
        self.fill(&mut body)?;
        Ok((header, zerocopy::transmute!(body)))
    }

    fn unexpected(&self, header: &Header) -> SetupError {
        let found = format!("a {:?} record of {} bytes", header.kind, header.length);
        SetupError::Unexpected { peer: self.peer.to_owned(), found }
    }

    fn fill(&self, mut room: &mut [u8]) -> Result<(), SetupError> {
        let mut stream = self.stream;
        while !room.is_empty() {
            let patience = self.patience()?;
            stream.set_read_timeout(Some(patience)).map_err(|error| self.io(error))?;
            match stream.read(room) {
                Ok(0) => return Err(SetupError::Closed { peer: self.peer.to_owned() }),
                Ok(bytes) => room = &mut room[bytes..],
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.io(error)),
            }
        }
        Ok(())
    }

    /// The connecting side: says hello; gives the peer's ring size.
    pub(super) fn introduce(&self, hello: &Hello) -> Result<usize, SetupError> {
        let body = RawHello {
            cluster: hello.cluster.into(),
            ring_bytes: (hello.ring_bytes as u64).into(),
            flags: hello.flags.into(),
            reason: 0.into(),
            link: LinkHello::to_words(hello.link).map(U64::new),
        };
        self.send(&encode(Kind::Hello, hello.shard, &body))?;
        let (header, body) = self.receive()?;
        match header.kind {
            Kind::Welcome => {
                let ring_bytes = usize::try_from(body.ring_bytes.get()).unwrap_or(usize::MAX);
                Ok(LaneConfig { ring_bytes }.check()?.ring_bytes)
            }
            Kind::Reject => Err(SetupError::Rejected {
                peer: self.peer.to_owned(),
                reason: RejectReason::from_wire(body.reason.get()),
            }),
            _ => Err(self.unexpected(&header)),
        }
    }

    /// The accepting side: reads the hello.
    pub(super) fn listen(&self) -> Result<Hello, SetupError> {
        let (header, body) = match self.receive() {
            Err(SetupError::Protocol { peer, error: error @ WireError::Version { .. } }) => {
                // It speaks the protocol: tell it. Whether it hears does not change our answer.
                let _ = self.reject(RejectReason::Version);
                return Err(SetupError::Protocol { peer, error });
            }
            received => received?,
        };
        if header.kind != Kind::Hello {
            return Err(self.unexpected(&header));
        }
        Ok(Hello {
            cluster: body.cluster.get(),
            shard: header.shard,
            ring_bytes: usize::try_from(body.ring_bytes.get()).unwrap_or(usize::MAX),
            flags: body.flags.get(),
            link: LinkHello::from_words(body.link.map(U64::get)),
        })
    }

    pub(super) fn welcome(&self, hello: &Hello, own_ring_bytes: usize) -> Result<(), SetupError> {
        let body = RawHello {
            cluster: hello.cluster.into(),
            ring_bytes: (own_ring_bytes as u64).into(),
            flags: 0.into(),
            reason: 0.into(),
            link: [U64::ZERO; 2],
        };
        self.send(&encode(Kind::Welcome, hello.shard, &body))
    }

    pub(super) fn reject(&self, reason: RejectReason) -> Result<(), SetupError> {
        let zero = U64::new(0);
        let reason = U64::new(reason as u64);
        let body = RawHello { cluster: zero, ring_bytes: zero, flags: zero, reason, link: [zero; 2] };
        self.send(&encode(Kind::Reject, ShardId(0), &body))
    }
}
