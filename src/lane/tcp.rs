//! Setting up a lane over TCP: listening, connecting, the handshake. Blocking calls with deadlines, for control
//! threads; the lane itself never blocks.

use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gradwire_ffi::socket::{bound_silence, tune_tcp, wait_readable};

use super::tcp_hello::Greeting;
pub use super::tcp_hello::{Hello, LinkHello, RejectReason};
use super::{End, LaneConfig, LaneEnd, SetupError};

/// How long a peer may stay silent while it owes the kernel an answer; processes that die are noticed at once, hosts
/// that vanish by this.
const SILENCE: Duration = Duration::from_secs(5);
/// Kernel buffers each way: fixed ones avoid the cost of automatic sizing, and 4 MiB is the most a ring uses.
const MAX_SOCKET_BUFFER: usize = 4 << 20;

/// A connected, greeted socket.
#[derive(Debug)]
pub(super) struct TcpEnd {
    /// Shared with the driver's operations.
    pub(super) stream: Arc<TcpStream>,
    pub(super) own_ring_bytes: usize,
    pub(super) peer_ring_bytes: usize,
}

fn lane_end(stream: TcpStream, own: usize, peer: usize) -> Result<LaneEnd, SetupError> {
    tune_tcp(&stream, own.max(peer).min(MAX_SOCKET_BUFFER))?;
    bound_silence(&stream, SILENCE);
    let stream = Arc::new(stream);
    Ok(LaneEnd(End::Tcp(Box::new(TcpEnd { stream, own_ring_bytes: own, peer_ring_bytes: peer }))))
}

/// A port of this host where peers ask for lanes.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens on HOST:PORT; port 0 picks a free one.
    ///
    /// # Errors
    /// [`SetupError::Address`]: it does not resolve, or is in use.
    pub fn bind(address: &str) -> Result<Self, SetupError> {
        let failed = |error| SetupError::Address { address: address.to_owned(), error };
        let socket = TcpListener::bind(address).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self { socket, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection; none when none came in `patience`. It has said nothing yet, so a caller that serves many
    /// gives it to another thread or a short deadline.
    ///
    /// # Errors
    /// [`SetupError`]: descriptors ran out, or the socket failed.
    pub fn accept(&self, patience: Duration) -> Result<Option<Incoming>, SetupError> {
        if !wait_readable(&self.socket, patience)? {
            return Ok(None);
        }
        match self.socket.accept() {
            Ok((stream, from)) => {
                let peer = from.to_string();
                match stream.set_nonblocking(false) {
                    Ok(()) => Ok(Some(Incoming { stream, peer })),
                    Err(error) => Err(SetupError::Io { peer, error }),
                }
            }
            Err(error) => match error.kind() {
                // It came and went.
                std::io::ErrorKind::WouldBlock
                | std::io::ErrorKind::ConnectionAborted
                | std::io::ErrorKind::Interrupted => Ok(None),
                _ => Err(SetupError::Address { address: self.address.to_string(), error }),
            },
        }
    }
}

/// A connection that has not said hello.
#[derive(Debug)]
pub struct Incoming {
    stream: TcpStream,
    peer: String,
}

impl Incoming {
    /// The peer's address.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Waits for its hello.
    ///
    /// # Errors
    /// [`SetupError`]: not in time, not this protocol or version, gone.
    pub fn hello(self, deadline: Instant) -> Result<Greeted, SetupError> {
        let hello = Greeting { stream: &self.stream, peer: &self.peer, deadline }.listen()?;
        Ok(Greeted { stream: self.stream, peer: self.peer, hello, deadline })
    }

    /// Waits for its hello, and welcomes it if it names this cluster and an allowed ring size.
    ///
    /// # Errors
    /// As for [`Incoming::hello`]; [`SetupError::Refused`] when it was told a reason.
    pub fn welcome(
        self,
        cluster: u64,
        config: LaneConfig,
        deadline: Instant,
    ) -> Result<(LaneEnd, Hello), SetupError> {
        let greeted = self.hello(deadline)?;
        if greeted.hello.cluster != cluster {
            return Err(greeted.reject(RejectReason::Cluster));
        }
        let hello = greeted.hello;
        greeted.welcome(config).map(|end| (end, hello))
    }
}

/// A connection that said hello and waits for the answer.
#[derive(Debug)]
pub struct Greeted {
    stream: TcpStream,
    peer: String,
    hello: Hello,
    deadline: Instant,
}

impl Greeted {
    /// What it said.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    fn greeting(&self) -> Greeting<'_> {
        Greeting { stream: &self.stream, peer: &self.peer, deadline: self.deadline }
    }

    /// Opens the lane.
    ///
    /// # Errors
    /// [`SetupError`]: a ring size that is not allowed (the peer is told), or the connection failed.
    pub fn welcome(self, config: LaneConfig) -> Result<LaneEnd, SetupError> {
        let own = config.check()?.ring_bytes;
        let Ok(peer) = (LaneConfig { ring_bytes: self.hello.ring_bytes }).check() else {
            return Err(self.reject(RejectReason::Ring));
        };
        self.greeting().welcome(&self.hello, own)?;
        lane_end(self.stream, own, peer.ring_bytes)
    }

    /// Refuses the lane and gives the error to report.
    #[must_use]
    pub fn reject(self, reason: RejectReason) -> SetupError {
        match self.greeting().reject(reason) {
            Ok(()) => SetupError::Refused { peer: self.peer, reason },
            Err(error) => error,
        }
    }
}

/// Connects to a listener and opens a lane. Every resolved address is tried while the deadline allows.
///
/// # Errors
/// [`SetupError`]: nobody listens, no answer in time, another protocol or version, or refused with a reason.
pub fn connect(address: &str, hello: &Hello, deadline: Instant) -> Result<LaneEnd, SetupError> {
    LaneConfig { ring_bytes: hello.ring_bytes }.check()?;
    let failed = |error| SetupError::Connect { address: address.to_owned(), error };
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for candidate in address.to_socket_addrs().map_err(failed)? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(SetupError::Deadline { peer: address.to_owned() });
        }
        match TcpStream::connect_timeout(&candidate, left) {
            Ok(stream) => {
                let peer_ring = Greeting { stream: &stream, peer: address, deadline }.introduce(hello)?;
                return lane_end(stream, hello.ring_bytes, peer_ring);
            }
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}
