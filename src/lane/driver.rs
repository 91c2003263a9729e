//! What a port needs of the kernel: moving bytes of TCP lanes, and sleeping until a descriptor stirs.
//!
//! epoll today; io_uring takes its place behind the same trait. A driver decides nothing about lanes.

use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use gradwire_ffi::MachineError;
use gradwire_ffi::event::{Epoll, Ready};
use gradwire_ffi::socket::{Moved, receive, send_gather};

/// The kernel's side of a port.
pub(super) trait Driver {
    /// Watches a descriptor; `write_too` also for room to write.
    fn add(&mut self, source: BorrowedFd<'_>, token: u64, write_too: bool) -> Result<(), MachineError>;
    /// Stops watching it. No completion for it comes afterwards.
    fn remove(&mut self, source: BorrowedFd<'_>);
    /// Receives into `room`, never waiting.
    fn receive(&mut self, socket: BorrowedFd<'_>, room: &mut [u8]) -> Moved;
    /// Sends what goes, never waiting.
    fn send(&mut self, socket: BorrowedFd<'_>, parts: &[IoSlice<'_>]) -> Moved;
    /// Appends what stirred; waits up to `timeout` for the first.
    fn wait(&mut self, timeout: Duration, ready: &mut Vec<Ready>);
}

/// Driver over epoll and plain socket calls.
#[derive(Debug)]
pub(super) struct EpollDriver {
    epoll: Epoll,
}

impl EpollDriver {
    pub(super) fn create() -> Result<Self, MachineError> {
        Ok(Self { epoll: Epoll::create()? })
    }
}

impl Driver for EpollDriver {
    fn add(&mut self, source: BorrowedFd<'_>, token: u64, write_too: bool) -> Result<(), MachineError> {
        self.epoll.add(source, token, write_too)
    }

    fn remove(&mut self, source: BorrowedFd<'_>) {
        self.epoll.remove(source);
    }

    fn receive(&mut self, socket: BorrowedFd<'_>, room: &mut [u8]) -> Moved {
        receive(socket, room)
    }

    fn send(&mut self, socket: BorrowedFd<'_>, parts: &[IoSlice<'_>]) -> Moved {
        send_gather(socket, parts)
    }

    fn wait(&mut self, timeout: Duration, ready: &mut Vec<Ready>) {
        self.epoll.wait(timeout, ready);
    }
}
