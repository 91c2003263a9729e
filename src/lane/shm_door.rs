//! Where processes of one host get lanes over shared memory: a Unix socket with an abstract name. The visitor says which
//! shard of which cluster it wants; the answer is an offer with its descriptors, or a reason. Blocking, with deadlines.
//!
//! The name is no secret; as over tcp, who names this cluster's id is let in.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::{Duration, Instant};

use gradwire_ffi::socket::wait_readable;

use super::shm::{PEER, accept, offer};
use super::tcp::{Hello, LinkHello, RejectReason};
use super::{LaneConfig, LaneEnd, SetupError};
use crate::wire::ids::ShardId;

/// Opens what a visitor says; the last byte is its version.
const KNOCK_MAGIC: u64 = u64::from_le_bytes(*b"GRWKNCK1");
/// Opens a refusal, in the place of an offer.
pub(super) const REJECT_MAGIC: u64 = u64::from_le_bytes(*b"GRWREJC1");
/// Magic, cluster, shard, ring bytes, and the two words of a link.
const KNOCK_BYTES: usize = 48;

pub(super) fn reject_reason(number: u64) -> RejectReason {
    RejectReason::from_wire(number)
}

fn io(error: std::io::Error) -> SetupError {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, TimedOut, UnexpectedEof, WouldBlock};
    let peer = PEER.to_owned();
    match error.kind() {
        WouldBlock | TimedOut => SetupError::Deadline { peer },
        UnexpectedEof | ConnectionReset | BrokenPipe => SetupError::Closed { peer },
        _ => SetupError::Io { peer, error },
    }
}

fn patience(deadline: Instant) -> Result<Duration, SetupError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(SetupError::Deadline { peer: PEER.to_owned() }) } else { Ok(left) }
}

/// The socket that visitors come to.
#[derive(Debug)]
pub struct Door {
    socket: UnixListener,
    name: String,
}

impl Door {
    /// Opens a door under an abstract name: no file, gone with the process.
    ///
    /// # Errors
    /// [`SetupError::Address`]: the name is taken or too long.
    pub fn open(name: &str) -> Result<Self, SetupError> {
        let failed = |error| SetupError::Address { address: format!("@{name}"), error };
        let address = SocketAddr::from_abstract_name(name).map_err(failed)?;
        let socket = UnixListener::bind_addr(&address).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(Self { socket, name: name.to_owned() })
    }

    /// The name it was opened under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next visitor; none when none came in `patience`.
    ///
    /// # Errors
    /// [`SetupError`]: descriptors ran out, or the socket failed.
    pub fn accept(&self, patience: Duration) -> Result<Option<Visitor>, SetupError> {
        if !wait_readable(&self.socket, patience)? {
            return Ok(None);
        }
        match self.socket.accept() {
            Ok((socket, _)) => {
                socket.set_nonblocking(false).map_err(io)?;
                Ok(Some(Visitor { socket }))
            }
            Err(error) => match error.kind() {
                // It came and went.
                std::io::ErrorKind::WouldBlock
                | std::io::ErrorKind::ConnectionAborted
                | std::io::ErrorKind::Interrupted => Ok(None),
                _ => Err(SetupError::Address { address: format!("@{}", self.name), error }),
            },
        }
    }
}

/// Someone at the door who has said nothing yet.
#[derive(Debug)]
pub struct Visitor {
    socket: UnixStream,
}

impl Visitor {
    /// Waits for what it wants.
    ///
    /// # Errors
    /// [`SetupError`]: not in time, not this protocol, gone.
    pub fn hello(self, deadline: Instant) -> Result<Known, SetupError> {
        let mut words = [0; KNOCK_BYTES];
        let mut filled = 0;
        let word = |words: &[u8; KNOCK_BYTES], at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&words[at..at + 8]);
            u64::from_le_bytes(word)
        };
        while filled < KNOCK_BYTES {
            self.socket.set_read_timeout(Some(patience(deadline)?)).map_err(io)?;
            match (&self.socket).read(&mut words[filled..]) {
                Ok(0) => return Err(SetupError::Closed { peer: PEER.to_owned() }),
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io(error)),
            }
            if filled >= 8 && word(&words, 0) != KNOCK_MAGIC {
                let found = "bytes that ask for no lane".to_owned();
                return Err(SetupError::Unexpected { peer: PEER.to_owned(), found });
            }
        }
        let word = |at: usize| word(&words, at);
        let hello = Hello {
            cluster: word(8),
            shard: ShardId(u32::try_from(word(16)).unwrap_or(u32::MAX)),
            ring_bytes: usize::try_from(word(24)).unwrap_or(usize::MAX),
            flags: 0,
            link: LinkHello::from_words([word(32), word(40)]),
        };
        Ok(Known { socket: self.socket, hello })
    }
}

/// A visitor that said what it wants and waits for the answer.
#[derive(Debug)]
pub struct Known {
    socket: UnixStream,
    hello: Hello,
}

impl Known {
    /// What it said.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Makes the lane's memory and sends it. Both rings have the size asked for, up to `largest`.
    ///
    /// # Errors
    /// [`SetupError`]: a ring size that is not allowed (the visitor is told), no memory or descriptors, gone.
    pub fn welcome(self, largest: LaneConfig) -> Result<LaneEnd, SetupError> {
        let asked = LaneConfig { ring_bytes: self.hello.ring_bytes };
        if asked.check().is_err() || asked.ring_bytes > largest.ring_bytes {
            return Err(self.reject(RejectReason::Ring));
        }
        offer(self.socket, asked)
    }

    /// Refuses the lane and gives the error to report.
    #[must_use]
    pub fn reject(self, reason: RejectReason) -> SetupError {
        let mut message = [0; 16];
        message[..8].copy_from_slice(&REJECT_MAGIC.to_le_bytes());
        message[8..].copy_from_slice(&(reason as u64).to_le_bytes());
        match (&self.socket).write_all(&message) {
            Ok(()) => SetupError::Refused { peer: PEER.to_owned(), reason },
            Err(error) => io(error),
        }
    }
}

/// Asks for a lane at the door of a process of this host. Both its rings have `hello.ring_bytes`.
///
/// # Errors
/// [`SetupError`]: nobody is there, no answer in time, or refused with a reason.
pub fn connect(name: &str, hello: &Hello, deadline: Instant) -> Result<LaneEnd, SetupError> {
    let config = LaneConfig { ring_bytes: hello.ring_bytes }.check()?;
    let failed = |error| SetupError::Connect { address: format!("@{name}"), error };
    let address = SocketAddr::from_abstract_name(name).map_err(failed)?;
    let socket = UnixStream::connect_addr(&address).map_err(failed)?;
    let mut knock = Vec::with_capacity(KNOCK_BYTES);
    let [key, from] = LinkHello::to_words(hello.link);
    for word in [KNOCK_MAGIC, hello.cluster, u64::from(hello.shard.0), hello.ring_bytes as u64, key, from] {
        knock.extend_from_slice(&word.to_le_bytes());
    }
    (&socket).write_all(&knock).map_err(io)?;
    accept(socket, config, patience(deadline)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn door(name: &str) -> Door {
        Door::open(&format!("gradwire-test-{}-{name}", std::process::id())).unwrap()
    }

    fn hello(ring_bytes: usize) -> Hello {
        Hello { cluster: 7, shard: ShardId(3), ring_bytes, flags: 0, link: None }
    }

    fn visitor(door: &Door) -> Visitor {
        door.accept(PATIENCE).unwrap().expect("someone knocks")
    }

    #[test]
    fn a_visitor_is_known_by_what_it_wants_and_gets_a_lane() {
        let door = door("lane");
        let name = door.name().to_owned();
        let asking = std::thread::spawn(move || connect(&name, &hello(64 << 10), Instant::now() + PATIENCE));
        let known = visitor(&door).hello(Instant::now() + PATIENCE).unwrap();
        assert_eq!(*known.hello(), hello(64 << 10));
        known.welcome(LaneConfig { ring_bytes: 128 << 10 }).unwrap();
        asking.join().unwrap().unwrap();
    }

    #[test]
    fn a_refusal_says_why() {
        let door = door("refusal");
        for (ring_bytes, reason) in [(64 << 10, RejectReason::Cluster), (256 << 10, RejectReason::Ring)] {
            let name = door.name().to_owned();
            let asking =
                std::thread::spawn(move || connect(&name, &hello(ring_bytes), Instant::now() + PATIENCE));
            let known = visitor(&door).hello(Instant::now() + PATIENCE).unwrap();
            let refused = match reason {
                RejectReason::Ring => known.welcome(LaneConfig { ring_bytes: 128 << 10 }).unwrap_err(),
                reason => known.reject(reason),
            };
            assert!(matches!(refused, SetupError::Refused { reason: told, .. } if told == reason));
            let heard = asking.join().unwrap().unwrap_err();
            assert!(matches!(heard, SetupError::Rejected { reason: told, .. } if told == reason), "{heard}");
        }
    }

    #[test]
    fn silence_half_a_knock_and_other_words_end_in_time() {
        let door = door("hostile");
        let knock = || {
            let address = SocketAddr::from_abstract_name(door.name()).unwrap();
            UnixStream::connect_addr(&address).unwrap()
        };
        let soon = || Instant::now() + Duration::from_millis(50);
        let silent = knock();
        assert!(matches!(visitor(&door).hello(soon()), Err(SetupError::Deadline { .. })));
        (&silent).write_all(&KNOCK_MAGIC.to_le_bytes()).ok();
        let half = knock();
        (&half).write_all(&KNOCK_MAGIC.to_le_bytes()).unwrap();
        assert!(matches!(visitor(&door).hello(soon()), Err(SetupError::Deadline { .. })));
        let other = knock();
        (&other).write_all(b"GET / HTTP/1.1\r\nHost: somewhere\r\n").unwrap();
        assert!(matches!(
            visitor(&door).hello(Instant::now() + PATIENCE),
            Err(SetupError::Unexpected { .. })
        ));
        drop(knock());
        assert!(matches!(visitor(&door).hello(Instant::now() + PATIENCE), Err(SetupError::Closed { .. })));
    }

    #[test]
    fn nobody_behind_the_door_is_named() {
        let error = connect("gradwire-test-nobody", &hello(64 << 10), Instant::now() + PATIENCE).unwrap_err();
        assert!(error.to_string().contains("@gradwire-test-nobody"), "{error}");
    }
}
