//! What a port needs of the kernel: moving bytes of TCP lanes, and sleeping until a descriptor stirs.
//!
//! Two drivers, one contract: bytes are received into ring space and sent from it, and what cannot be done now
//! is told of by [`Driver::wait`] later. epoll tells when to try; io_uring ([`super::uring_driver`]) does it
//! and tells the outcome. A driver decides nothing about lanes.

use std::io::IoSlice;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use gradwire_ffi::MachineError;
use gradwire_ffi::event::{Epoll, Ready};
use gradwire_ffi::private_ring::PrivateRing;
use gradwire_ffi::socket::{Moved, receive, send_gather};

/// A descriptor that a driver holds on to as long as it needs it.
pub(super) type Source = Arc<dyn AsFd + Send + Sync>;

/// A descriptor in the care of a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flow(pub(super) u32);

/// Bytes to be sent: a piece of a ring, and others to go in between.
#[derive(Debug)]
pub(super) struct Outgoing<'a> {
    pub(super) ring: &'a mut PrivateRing,
    /// Absolute position in the ring.
    pub(super) from: u64,
    pub(super) bytes: usize,
    pub(super) inserted: &'a [u8],
    /// Bytes of the ring that go before those inserted.
    pub(super) before: usize,
}

/// What trying to send came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// It is over. After a posted send: what became of that one.
    Done(Moved),
    /// The kernel has so many bytes of the ring, and [`Driver::wait`] reports `writable` when it is done; asking
    /// before is allowed.
    Posted(usize),
}

/// The kernel's side of a port. Every [`Ready`] carries the token its descriptor was given with.
pub(super) trait Driver {
    /// Watches a descriptor for something to read and for hang-ups.
    fn watch(&mut self, source: Source, token: u64) -> Result<Flow, MachineError>;
    /// Takes a connected socket in its care.
    fn attach(&mut self, socket: Source, token: u64) -> Result<Flow, MachineError>;
    /// Ends that (L5): cancels what is in flight and reads its completion. No report follows, and memory that the kernel
    /// might still use is never used again.
    fn detach(&mut self, flow: Flow);
    /// Has the kernel receive up to `room` bytes at `at` of the ring, from now or the next submission on, if it does so by itself.
    fn arm(&mut self, flow: Flow, ring: &mut PrivateRing, at: u64, room: usize);
    /// What was received at `at` of the ring, or what trying that now came to; none while the kernel does so. Afterwards
    /// [`Driver::arm`] is due.
    fn receive(&mut self, flow: Flow, ring: &mut PrivateRing, at: u64, room: usize) -> Option<Moved>;
    /// Sends from a ring, never waiting, one piece at a time.
    fn send(&mut self, flow: Flow, outgoing: Outgoing<'_>) -> Sending;
    /// Sends from anywhere, never waiting and leaving nothing with the kernel; nothing goes while a posted send is not over.
    fn send_now(&mut self, flow: Flow, parts: &[IoSlice<'_>]) -> Moved;
    /// Whether it receives by itself once armed; otherwise sockets must be tried or waited for.
    fn receives_by_itself(&self) -> bool;
    /// Has sends tried by a call of their own before they are left to the kernel: with few sockets, whose owner also tries to
    /// receive while it polls, that is a microsecond sooner each way. Only a matter of speed.
    fn set_direct(&mut self, _direct: bool) {}
    /// Whether [`Driver::wait`] without patience would find or do something; cheap. Always true of a driver that cannot tell.
    fn has_news(&mut self) -> bool;
    /// Whether something waits to be submitted.
    fn has_queued(&self) -> bool;
    /// Submits what was asked for, in one system call; appends what stirred; waits up to `timeout` for the first.
    fn wait(&mut self, timeout: Duration, ready: &mut Vec<Ready>);
}

/// Driver over epoll and plain socket calls.
pub(super) struct EpollDriver {
    epoll: Epoll,
    sources: Vec<Option<Source>>,
    free: Vec<u32>,
}

impl EpollDriver {
    pub(super) fn create() -> Result<Self, MachineError> {
        Ok(Self { epoll: Epoll::create()?, sources: Vec::new(), free: Vec::new() })
    }

    fn add(&mut self, source: Source, token: u64, write_too: bool) -> Result<Flow, MachineError> {
        self.epoll.add(source.as_fd(), token, write_too)?;
        let index = self.free.pop().unwrap_or_else(|| {
            self.sources.push(None);
            self.sources.len() as u32 - 1
        });
        self.sources[index as usize] = Some(source);
        Ok(Flow(index))
    }

    fn source(&self, flow: Flow) -> Option<&Source> {
        self.sources[flow.0 as usize].as_ref()
    }
}

impl Driver for EpollDriver {
    fn watch(&mut self, source: Source, token: u64) -> Result<Flow, MachineError> {
        self.add(source, token, false)
    }

    fn attach(&mut self, socket: Source, token: u64) -> Result<Flow, MachineError> {
        self.add(socket, token, true)
    }

    fn detach(&mut self, flow: Flow) {
        // No operation is under way; after this none begins.
        if let Some(source) = self.sources[flow.0 as usize].take() {
            self.epoll.remove(source.as_fd());
            self.free.push(flow.0);
        }
    }

    fn arm(&mut self, _: Flow, _: &mut PrivateRing, _: u64, _: usize) {}

    #[inline]
    fn receive(&mut self, flow: Flow, ring: &mut PrivateRing, at: u64, room: usize) -> Option<Moved> {
        Some(self.source(flow).map_or(Moved::End, |socket| receive(socket.as_fd(), ring.slice_mut(at, room))))
    }

    #[inline]
    fn send(&mut self, flow: Flow, outgoing: Outgoing<'_>) -> Sending {
        let Outgoing { ring, from, bytes, inserted, before } = outgoing;
        Sending::Done(if inserted.is_empty() {
            self.send_now(flow, &[IoSlice::new(ring.slice(from, bytes))])
        } else {
            let (first, second) = ring.slice(from, bytes).split_at(before);
            self.send_now(flow, &[IoSlice::new(first), IoSlice::new(inserted), IoSlice::new(second)])
        })
    }

    #[inline]
    fn send_now(&mut self, flow: Flow, parts: &[IoSlice<'_>]) -> Moved {
        self.source(flow).map_or(Moved::End, |socket| send_gather(socket.as_fd(), parts))
    }

    fn receives_by_itself(&self) -> bool {
        false
    }

    fn has_news(&mut self) -> bool {
        true
    }

    fn has_queued(&self) -> bool {
        false
    }

    fn wait(&mut self, timeout: Duration, ready: &mut Vec<Ready>) {
        self.epoll.wait(timeout, ready);
    }
}
