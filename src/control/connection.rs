//! The far end's side of a control connection: connecting to one of several coordinators, messages in and out.
//! Blocking with deadlines; one thread reads, any may write.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use gradwire_ffi::socket::{bound_silence, shutdown};
use thiserror::Error;

use super::protocol::{self, ProtocolError, Received};
use crate::cluster::message::{FromCoordinator, ToCoordinator};
use crate::wire::control_frame::FRAME_BYTES;

/// How long the other side may leave a message lying in its socket.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);
/// Longest silence of a host that owes the kernel an answer: one that lost power closes nothing.
const SILENCE: Duration = Duration::from_secs(5);
/// Read at a time.
const ROOM: usize = 64 << 10;

/// Why a connection is over.
#[derive(Debug, Error)]
pub enum ConnectionError {
    /// The other side ended it, or its process did.
    #[error("the connection was closed")]
    Closed,
    /// It speaks something else.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// It refused us.
    #[error("{reason}")]
    Refused {
        /// Its reason.
        reason: String,
    },
    /// It is of another cluster, or of an earlier term than one we know.
    #[error("{reason}")]
    Stranger {
        /// What differs.
        reason: String,
    },
    /// Nothing came in time.
    #[error("no answer in time")]
    Deadline,
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// One control connection, of a client or a server.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    peer: String,
    writing: Mutex<()>,
}

/// The reading half's memory.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    /// Read and done with.
    used: usize,
}

impl Connection {
    /// Connects to the first of `addresses` (HOST:PORT) that takes the connection before `deadline`.
    ///
    /// # Errors
    /// What the last one tried said.
    pub fn open(addresses: &[String], deadline: Instant) -> Result<Self, ConnectionError> {
        let mut last = ConnectionError::Deadline;
        for (at, address) in addresses.iter().enumerate() {
            let resolved: Vec<SocketAddr> = match address.to_socket_addrs() {
                Ok(resolved) => resolved.collect(),
                Err(error) => {
                    last = error.into();
                    continue;
                }
            };
            for candidate in resolved {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(last);
                }
                // One that swallows connections leaves time for the others.
                let share = left / (addresses.len() - at) as u32;
                match TcpStream::connect_timeout(&candidate, share.max(Duration::from_millis(1))) {
                    Ok(stream) => {
                        stream.set_nodelay(true)?;
                        stream.set_write_timeout(Some(WRITE_PATIENCE))?;
                        bound_silence(&stream, SILENCE);
                        return Ok(Self { stream, peer: address.clone(), writing: Mutex::new(()) });
                    }
                    Err(error) => last = error.into(),
                }
            }
        }
        Err(last)
    }

    /// The address connected to, as it was given.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// This side's address: where the coordinator sees us, if nothing stands between.
    ///
    /// # Errors
    /// The socket is of no use.
    pub fn local(&self) -> Result<SocketAddr, ConnectionError> {
        Ok(self.stream.local_addr()?)
    }

    /// Sends a message. After an error the connection is over.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub fn send(&self, cluster: u64, term: u64, message: &ToCoordinator) -> Result<(), ConnectionError> {
        let frame = protocol::encode(cluster, term, message)?;
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let written = (&self.stream).write_all(&frame);
        if written.is_err() {
            // Half a frame may be out: the reader ends too.
            self.close();
        }
        Ok(written?)
    }

    /// The next message; none when none was whole in `patience`.
    ///
    /// # Errors
    /// [`ConnectionError`]: the connection is over.
    pub fn receive(
        &self,
        inbox: &mut Inbox,
        patience: Duration,
    ) -> Result<Option<Received<FromCoordinator>>, ConnectionError> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(received) = protocol::decode::<FromCoordinator>(&inbox.bytes[inbox.used..])? {
                inbox.used += received.bytes;
                return Ok(Some(received));
            }
            inbox.bytes.drain(..inbox.used);
            inbox.used = 0;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let before = inbox.bytes.len();
            inbox.bytes.resize(before + ROOM.max(FRAME_BYTES), 0);
            let read = (&self.stream).read(&mut inbox.bytes[before..]);
            inbox.bytes.truncate(before + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Err(ConnectionError::Closed),
                Ok(_) => {}
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Ok(None),
                    ErrorKind::Interrupted => {}
                    ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => {
                        return Err(ConnectionError::Closed);
                    }
                    _ => return Err(error.into()),
                },
            }
        }
    }

    /// Ends the connection; whoever reads it hears so.
    pub fn close(&self) {
        shutdown(&self.stream);
    }
}

/// Whom a process belongs to, once it knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allegiance {
    /// The cluster; 0 while unknown.
    pub cluster: u64,
    /// The highest term seen.
    pub term: u64,
}

impl Allegiance {
    /// Accepts a coordinator's message, or says why it is a stranger's.
    ///
    /// # Errors
    /// [`ConnectionError::Stranger`]: another cluster, or a term that is over.
    pub fn admit(&mut self, cluster: u64, term: u64) -> Result<(), ConnectionError> {
        if self.cluster != 0 && cluster != self.cluster {
            let reason = format!(
                "the coordinator is of cluster {cluster:016x}, this process belongs to {:016x}; point it to its own \
                 coordinator",
                self.cluster
            );
            return Err(ConnectionError::Stranger { reason });
        }
        if term < self.term {
            let reason = format!(
                "the coordinator is of term {term}, {} has begun; stop the older coordinator",
                self.term
            );
            return Err(ConnectionError::Stranger { reason });
        }
        *self = Self { cluster, term };
        Ok(())
    }
}
