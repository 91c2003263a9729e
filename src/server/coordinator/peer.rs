//! One connection of a coordinator: bytes in, messages out, and when it is to be cut.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use gradwire_ffi::event::Epoll;
use gradwire_ffi::socket::bound_silence;
use thiserror::Error;

use crate::cluster::message::ToCoordinator;
use crate::control::protocol::{ProtocolError, Received, decode};

/// For a hello, and for the rest of a message that has begun.
const PATIENCE: Duration = Duration::from_secs(2);
/// A host that vanished is noticed by this.
const SILENCE: Duration = Duration::from_secs(5);
/// Read at a time.
const ROOM: usize = 64 << 10;
/// What a peer may leave lying; a map of 65,536 partitions is 2 MiB.
const MOST_QUEUED: usize = 64 << 20;
/// Read in one turn of the loop: the others' messages are not to wait for one that never ends.
const MOST_READ: usize = 1 << 20;
/// Of a peer that has not said hello: the largest names the tables and sessions of a server.
const MOST_UNGREETED: usize = 1 << 20;
/// Larger buffers are given back when they are empty.
const KEPT: usize = 256 << 10;

/// Why a connection ends.
#[derive(Debug, Error)]
pub(super) enum Cut {
    /// All was said.
    #[error("done")]
    Finished,
    /// The peer ended it.
    #[error("closed by the peer")]
    Closed,
    /// It speaks something else.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// It says nothing, or not the rest.
    #[error("{0} did not come in two seconds")]
    Late(&'static str),
    /// Too much before its hello.
    #[error("its hello has more than {MOST_UNGREETED} bytes")]
    LongHello,
    /// It does not read.
    #[error("it does not take its messages")]
    Stuck,
    /// The socket failed.
    #[error("{0}")]
    Io(std::io::Error),
}

impl Cut {
    pub(super) fn is_usual(&self) -> bool {
        matches!(self, Self::Finished | Self::Closed)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Peer {
    stream: TcpStream,
    from: SocketAddr,
    inbox: Vec<u8>,
    outbox: VecDeque<u8>,
    /// Since when a message is due: the hello from the start, later the rest of one that began.
    due_since: Option<Instant>,
    greeted: bool,
    finishing: bool,
}

impl Peer {
    pub(super) fn new(
        stream: TcpStream,
        from: SocketAddr,
        epoll: &Epoll,
        token: u64,
    ) -> Result<Self, std::io::Error> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        bound_silence(&stream, SILENCE);
        epoll.add(&stream, token, true).map_err(|error| std::io::Error::from_raw_os_error(error.errno))?;
        let due_since = Some(Instant::now());
        let (inbox, outbox) = (Vec::new(), VecDeque::new());
        Ok(Self { stream, from, inbox, outbox, due_since, greeted: false, finishing: false })
    }

    pub(super) fn from(&self) -> SocketAddr {
        self.from
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Takes what lies in the socket; whole messages go to `received`, also when it ends with an error. Gives whether
    /// there may be more.
    pub(super) fn read(&mut self, received: &mut Vec<Received<ToCoordinator>>) -> Result<bool, Cut> {
        let outcome = self.take(received);
        if !received.is_empty() {
            self.greeted = true;
            self.due_since = None;
        }
        if self.inbox.is_empty() {
            if self.greeted {
                self.due_since = None;
            }
            if self.inbox.capacity() > KEPT {
                self.inbox = Vec::new();
            }
        } else {
            self.due_since.get_or_insert_with(Instant::now);
        }
        if !self.greeted && self.inbox.len() > MOST_UNGREETED {
            return Err(Cut::LongHello);
        }
        outcome
    }

    fn take(&mut self, received: &mut Vec<Received<ToCoordinator>>) -> Result<bool, Cut> {
        let mut room = [0; ROOM];
        for _ in 0..MOST_READ / ROOM {
            match (&self.stream).read(&mut room) {
                Ok(0) => return Err(Cut::Closed),
                Ok(bytes) => self.inbox.extend_from_slice(&room[..bytes]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(false),
                    ErrorKind::Interrupted => continue,
                    ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => return Err(Cut::Closed),
                    _ => return Err(Cut::Io(error)),
                },
            }
            let mut used = 0;
            let parsed = loop {
                match decode::<ToCoordinator>(&self.inbox[used..]) {
                    Ok(Some(message)) => {
                        used += message.bytes;
                        received.push(message);
                    }
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(Cut::Protocol(error)),
                }
            };
            self.inbox.drain(..used);
            parsed?;
        }
        Ok(true)
    }

    /// Queues a message's bytes.
    pub(super) fn queue(&mut self, bytes: Vec<u8>) {
        if !self.finishing {
            self.outbox.extend(bytes);
        }
    }

    /// Nothing more is queued; what is queued goes out, within the patience.
    pub(super) fn finish(&mut self) {
        self.finishing = true;
        self.due_since = Some(Instant::now());
    }

    /// Whether it has said all it was to say.
    pub(super) fn is_finished(&self) -> bool {
        self.finishing && self.outbox.is_empty()
    }

    /// Sends what goes.
    pub(super) fn write(&mut self) -> Result<(), Cut> {
        while !self.outbox.is_empty() {
            let (front, back) = self.outbox.as_slices();
            match (&self.stream).write_vectored(&[IoSlice::new(front), IoSlice::new(back)]) {
                Ok(0) => return Err(Cut::Closed),
                Ok(bytes) => drop(self.outbox.drain(..bytes)),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock if self.outbox.len() > MOST_QUEUED => return Err(Cut::Stuck),
                    ErrorKind::WouldBlock => return Ok(()),
                    ErrorKind::Interrupted => {}
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => return Err(Cut::Closed),
                    _ => return Err(Cut::Io(error)),
                },
            }
        }
        if self.outbox.capacity() > KEPT {
            self.outbox = VecDeque::new();
        }
        Ok(())
    }

    /// Why it has to be cut now, if it has.
    pub(super) fn lateness(&self, now: Instant) -> Option<Cut> {
        let late = self.due_since.is_some_and(|since| now.duration_since(since) >= PATIENCE);
        let what = if self.greeted { "the rest of a message" } else { "a hello" };
        late.then_some(if self.finishing { Cut::Finished } else { Cut::Late(what) })
    }
}
