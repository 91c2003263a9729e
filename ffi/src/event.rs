//! Descriptors that wake a thread: eventfd and epoll. No unsafe.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};

use crate::MachineError;

/// A counter that a writer rings and an [`Epoll`] reports once per ring.
#[derive(Debug)]
pub struct EventFd {
    fd: OwnedFd,
}

impl EventFd {
    /// A new one, at zero.
    ///
    /// # Errors
    /// [`MachineError`]: descriptors ran out.
    pub fn create() -> Result<Self, MachineError> {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map(|fd| Self { fd })
            .map_err(|errno| MachineError::new("eventfd", "a doorbell", errno))
    }

    /// Takes one that a peer sent. Whatever it is, only single 8-byte writes are made to it and the outcome is ignored; it
    /// is made non-blocking so that a pipe in its place cannot stop the caller.
    ///
    /// # Errors
    /// [`MachineError`]: the descriptor cannot be made non-blocking.
    pub fn from_peer(fd: OwnedFd) -> Result<Self, MachineError> {
        let flags = rustix::fs::fcntl_getfl(&fd)
            .and_then(|flags| rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK));
        flags.map_err(|errno| MachineError::new("fcntl", "a peer's doorbell", errno))?;
        Ok(Self { fd })
    }

    /// Wakes who waits. A full counter has woken it already, so the outcome does not matter.
    pub fn ring(&self) {
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a descriptor reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The number it was added with.
    pub token: u64,
    /// There is something to read, or the end.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
    /// The other side is gone or has failed.
    pub hung_up: bool,
}

/// Waits for many descriptors. Reports edges: once per change, not while a state lasts.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
}

/// Reports taken by one call; more come with the next.
const BATCH: usize = 64;

impl Epoll {
    /// An empty set.
    ///
    /// # Errors
    /// [`MachineError`]: descriptors ran out.
    pub fn create() -> Result<Self, MachineError> {
        epoll::create(epoll::CreateFlags::CLOEXEC)
            .map(|fd| Self { fd })
            .map_err(|errno| MachineError::new("epoll_create1", "a port", errno))
    }

    /// Adds a descriptor, for reading, hang-ups and, if asked, writing.
    ///
    /// # Errors
    /// [`MachineError`]: memory or watches ran out.
    pub fn add(&self, source: impl AsFd, token: u64, write_too: bool) -> Result<(), MachineError> {
        let mut flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        flags.set(epoll::EventFlags::OUT, write_too);
        epoll::add(&self.fd, source, epoll::EventData::new_u64(token), flags)
            .map_err(|errno| MachineError::new("epoll_ctl", "a lane's descriptor", errno))
    }

    /// Removes a descriptor; reports already taken may still name it.
    pub fn remove(&self, source: impl AsFd) {
        // It fails only when the descriptor is not in the set, which is what was asked for.
        let _ = epoll::delete(&self.fd, source);
    }

    /// Appends what happened to `ready`; waits up to `timeout` for the first report, zero never waits.
    /// An interrupted wait reports nothing.
    pub fn wait(&mut self, timeout: Duration, ready: &mut Vec<Ready>) {
        let timeout = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 });
        let mut space = [const { MaybeUninit::uninit() }; BATCH];
        // The only failure with valid arguments is EINTR.
        let Ok((events, _)) = epoll::wait(&self.fd, &mut space, Some(&timeout)) else { return };
        for event in events {
            let flags = event.flags;
            ready.push(Ready {
                token: event.data.u64(),
                readable: flags.contains(epoll::EventFlags::IN),
                writable: flags.contains(epoll::EventFlags::OUT),
                hung_up: flags
                    .intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR | epoll::EventFlags::RDHUP),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn every_ring_is_reported_once_without_reading_the_counter() {
        let mut epoll = Epoll::create().unwrap();
        let bell = EventFd::create().unwrap();
        epoll.add(&bell, 7, false).unwrap();
        for _ in 0..3 {
            let mut ready = Vec::new();
            epoll.wait(Duration::ZERO, &mut ready);
            assert!(ready.is_empty());
            bell.ring();
            epoll.wait(Duration::from_secs(5), &mut ready);
            assert_eq!(ready.len(), 1);
            assert!(ready[0].token == 7 && ready[0].readable);
        }
    }

    #[test]
    fn a_closed_socket_is_reported_as_hung_up() {
        let mut epoll = Epoll::create().unwrap();
        let (here, there) = UnixStream::pair().unwrap();
        epoll.add(&here, 1, false).unwrap();
        drop(there);
        let mut ready = Vec::new();
        epoll.wait(Duration::from_secs(5), &mut ready);
        assert!(ready[0].hung_up);
    }
}
