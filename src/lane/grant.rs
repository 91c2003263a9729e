//! Granted memory (L4): what a peer may fill or read, and what this side may of the peer's.
//!
//! Never live parameters: a grant is memory made for it, and its owner copies out of it. Over shared memory a
//! grant is a memfd of its own, sent over the lane's socket and mapped by the peer; over TCP it is private and
//! the receiving lane copies into it, bounds checked, while it takes the stream apart. A number is never used twice, so a
//! late piece for a released grant goes nowhere; released shared memory is dropped, never used again.

use std::collections::HashMap;
use std::os::unix::net::UnixStream;

use gradwire_ffi::shared::{ReadOnlyBytes, RingBytes, SharedMemory};
use gradwire_ffi::socket::{receive_fds, send_fds};

use super::{DownReason, GrantError, PlaceError};

/// Grants one lane holds at once, each way.
pub(super) const MAX_GRANTS: usize = 1024;

/// An own grant on a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantId(pub(super) u64);

/// A peer's grant, as a record tells of it. The numbers are the peer's: what they claim is checked on use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerGrant {
    /// Its number at the peer.
    pub id: u64,
    /// Its length.
    pub bytes: u64,
}

#[derive(Debug)]
enum Memory {
    /// TCP, filled by the lane.
    Private(Vec<u8>),
    /// TCP, a snapshot.
    Frozen(Vec<u8>),
    /// Shared memory, filled by the peer.
    Shared(RingBytes),
    /// Shared memory, sealed against writing.
    SharedFrozen(ReadOnlyBytes),
}

impl Memory {
    fn bytes(&self) -> usize {
        match self {
            Self::Private(bytes) | Self::Frozen(bytes) => bytes.len(),
            Self::Shared(bytes) => bytes.mapped_bytes(),
            Self::SharedFrozen(bytes) => bytes.mapped_bytes(),
        }
    }
}

/// Whether `bytes` from `offset` lie inside `granted`.
fn inside(offset: u64, bytes: usize, granted: usize) -> bool {
    offset.checked_add(bytes as u64).is_some_and(|end| end <= granted as u64)
}

/// This side's grants.
#[derive(Debug, Default)]
pub(super) struct Grants {
    own: HashMap<u64, Memory>,
    made: u64,
}

impl Grants {
    fn add(&mut self, memory: Memory) -> GrantId {
        self.made += 1;
        self.own.insert(self.made, memory);
        GrantId(self.made)
    }

    fn room(&self) -> Result<(), GrantError> {
        if self.own.len() >= MAX_GRANTS { Err(GrantError::TooMany { limit: MAX_GRANTS }) } else { Ok(()) }
    }

    /// Memory that the receiving lane fills (tcp).
    pub(super) fn private(&mut self, bytes: usize) -> Result<GrantId, GrantError> {
        self.room()?;
        Ok(self.add(Memory::Private(vec![0; bytes])))
    }

    /// A snapshot that the lane reads from (tcp).
    pub(super) fn frozen(&mut self, snapshot: &[u8]) -> Result<GrantId, GrantError> {
        self.room()?;
        Ok(self.add(Memory::Frozen(snapshot.to_vec())))
    }

    /// Memory that the peer maps and fills (shm).
    pub(super) fn shared(&mut self, bytes: usize, socket: &UnixStream) -> Result<GrantId, GrantError> {
        self.room()?;
        let memory = SharedMemory::create(bytes)?;
        let view = memory.flat()?;
        self.announce(socket, Announcement::Fill, &memory)?;
        Ok(self.add(Memory::Shared(view)))
    }

    /// A snapshot that the peer maps and reads (shm).
    pub(super) fn shared_frozen(
        &mut self,
        snapshot: &[u8],
        socket: &UnixStream,
    ) -> Result<GrantId, GrantError> {
        self.room()?;
        let memory = SharedMemory::snapshot(snapshot)?;
        let view = memory.flat_read_only()?;
        self.announce(socket, Announcement::Read, &memory)?;
        Ok(self.add(Memory::SharedFrozen(view)))
    }

    fn announce(
        &self,
        socket: &UnixStream,
        what: Announcement,
        memory: &SharedMemory,
    ) -> Result<(), GrantError> {
        let message = encode(what, self.made + 1, memory.bytes() as u64);
        Ok(send_fds(socket, &message, &[memory.fd()])?)
    }

    pub(super) fn describe(&self, grant: GrantId) -> Option<PeerGrant> {
        self.own.get(&grant.0).map(|memory| PeerGrant { id: grant.0, bytes: memory.bytes() as u64 })
    }

    /// Ends a grant; true when a peer that maps it should hear of it.
    pub(super) fn release(&mut self, grant: GrantId) -> bool {
        matches!(self.own.remove(&grant.0), Some(Memory::Shared(_) | Memory::SharedFrozen(_)))
    }

    /// A peer's piece for a grant (tcp). One for a released grant goes nowhere.
    pub(super) fn on_place(&mut self, id: u64, offset: u64, piece: &[u8]) -> Result<(), DownReason> {
        if id == 0 || id > self.made {
            return Err(DownReason::Impossible { what: "grant number" });
        }
        match self.own.get_mut(&id) {
            None => Ok(()),
            Some(Memory::Private(memory)) if inside(offset, piece.len(), memory.len()) => {
                let start = offset as usize;
                memory[start..start + piece.len()].copy_from_slice(piece);
                Ok(())
            }
            Some(_) => Err(DownReason::Impossible { what: "place in a grant" }),
        }
    }

    /// What a peer asks of a snapshot (tcp); none when it was released.
    pub(super) fn on_read(&self, id: u64, offset: u64, bytes: usize) -> Result<Option<&[u8]>, DownReason> {
        if id == 0 || id > self.made {
            return Err(DownReason::Impossible { what: "grant number" });
        }
        match self.own.get(&id) {
            None => Ok(None),
            Some(Memory::Frozen(memory)) if inside(offset, bytes, memory.len()) => {
                let start = offset as usize;
                Ok(Some(&memory[start..start + bytes]))
            }
            Some(_) => Err(DownReason::Impossible { what: "read of a grant" }),
        }
    }

    /// Whether an own grant can take bytes there.
    pub(super) fn check(&self, grant: GrantId, offset: usize, bytes: usize) -> Result<(), PlaceError> {
        let memory = self.own.get(&grant.0).ok_or(PlaceError::Unknown { grant: grant.0 })?;
        let granted = memory.bytes();
        match memory {
            Memory::Private(_) | Memory::Shared(_) if inside(offset as u64, bytes, granted) => Ok(()),
            _ => Err(PlaceError::OutOfBounds { offset, bytes, granted: granted as u64 }),
        }
    }

    pub(super) fn copy_out(&self, grant: GrantId, offset: usize, out: &mut [u8]) -> Result<(), GrantError> {
        let memory = self.own.get(&grant.0).ok_or(GrantError::Unknown)?;
        let granted = memory.bytes();
        if !inside(offset as u64, out.len(), granted) {
            return Err(GrantError::OutOfBounds { offset, bytes: out.len(), granted });
        }
        match memory {
            Memory::Private(bytes) | Memory::Frozen(bytes) => {
                out.copy_from_slice(&bytes[offset..offset + out.len()]);
            }
            Memory::Shared(bytes) => bytes.copy_out(offset, out),
            Memory::SharedFrozen(bytes) => bytes.copy_out(offset, out),
        }
        Ok(())
    }
}

/// What one message on a shared-memory lane's socket says of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
enum Announcement {
    Fill = 1,
    Read = 2,
    Release = 3,
}

const MESSAGE_BYTES: usize = 24;

fn encode(what: Announcement, id: u64, bytes: u64) -> [u8; MESSAGE_BYTES] {
    let mut message = [0; MESSAGE_BYTES];
    for (at, word) in [what as u64, id, bytes].into_iter().enumerate() {
        message[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
    }
    message
}

/// Tells the peer that a shared grant is over, so that it drops its mapping.
pub(super) fn announce_release(socket: &UnixStream, grant: GrantId) {
    // A full or closed socket: the peer keeps a mapping of memory that nobody uses, until the lane closes.
    let _ = send_fds(socket, &encode(Announcement::Release, grant.0, 0), &[]);
}

#[derive(Debug)]
enum PeerMemory {
    Fill(RingBytes),
    Read(ReadOnlyBytes),
}

/// The peer's shared grants, mapped here.
#[derive(Debug, Default)]
pub(super) struct PeerMaps {
    maps: HashMap<u64, PeerMemory>,
    last: u64,
}

impl PeerMaps {
    /// Takes all announcements that wait in the socket.
    pub(super) fn receive(&mut self, socket: &UnixStream) -> Result<(), DownReason> {
        let bad = || DownReason::Impossible { what: "announcement of a grant" };
        loop {
            let mut message = [0; MESSAGE_BYTES];
            let (bytes, mut fds) = match receive_fds(socket, &mut message) {
                Ok(received) => received,
                Err(error) => {
                    return match std::io::Error::from_raw_os_error(error.errno).kind() {
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted => Ok(()),
                        std::io::ErrorKind::ConnectionReset => Err(DownReason::PeerReset),
                        _ => Err(DownReason::Io { errno: error.errno }),
                    };
                }
            };
            if bytes == 0 {
                return Err(DownReason::PeerClosed);
            }
            if bytes != MESSAGE_BYTES {
                return Err(bad());
            }
            let [what, id, length] = [0, 8, 16].map(|at| {
                let mut word = [0; 8];
                word.copy_from_slice(&message[at..at + 8]);
                u64::from_le_bytes(word)
            });
            if what == Announcement::Release as u64 {
                self.maps.remove(&id);
                continue;
            }
            if id != self.last + 1 || self.maps.len() >= MAX_GRANTS {
                return Err(bad());
            }
            self.last = id;
            let (Some(fd), Ok(length)) = (fds.pop(), usize::try_from(length)) else { return Err(bad()) };
            let memory = SharedMemory::open(fd, length).map_err(|_| bad())?;
            let map = if what == Announcement::Fill as u64 {
                PeerMemory::Fill(memory.flat().map_err(|error| DownReason::Io { errno: error.errno })?)
            } else if what == Announcement::Read as u64 {
                PeerMemory::Read(
                    memory.flat_read_only().map_err(|error| DownReason::Io { errno: error.errno })?,
                )
            } else {
                return Err(bad());
            };
            self.maps.insert(id, map);
        }
    }

    /// Whether the peer's announcement was taken.
    pub(super) fn knows(&self, grant: PeerGrant) -> bool {
        self.maps.contains_key(&grant.id)
    }

    /// Writes into a peer's grant.
    pub(super) fn place(&self, grant: PeerGrant, offset: usize, parts: &[&[u8]]) -> Result<(), PlaceError> {
        let Some(PeerMemory::Fill(memory)) = self.maps.get(&grant.id) else {
            return Err(PlaceError::Unknown { grant: grant.id });
        };
        let bytes = parts.iter().map(|part| part.len()).sum();
        let granted = memory.mapped_bytes();
        if !inside(offset as u64, bytes, granted) {
            return Err(PlaceError::OutOfBounds { offset, bytes, granted: granted as u64 });
        }
        let mut at = offset;
        for part in parts {
            memory.copy_in(at, part);
            at += part.len();
        }
        Ok(())
    }

    /// Copies from a peer's snapshot into an own grant that was checked to have the room.
    pub(super) fn read(
        &self,
        grants: &Grants,
        from: PeerGrant,
        from_offset: usize,
        into: GrantId,
        into_offset: usize,
        bytes: usize,
    ) -> Result<(), PlaceError> {
        let Some(PeerMemory::Read(memory)) = self.maps.get(&from.id) else {
            return Err(PlaceError::Unknown { grant: from.id });
        };
        let granted = memory.mapped_bytes();
        if !inside(from_offset as u64, bytes, granted) {
            return Err(PlaceError::OutOfBounds { offset: from_offset, bytes, granted: granted as u64 });
        }
        let Some(Memory::Shared(target)) = grants.own.get(&into.0) else {
            return Err(PlaceError::Unknown { grant: into.0 });
        };
        let mut chunk = [0; 4096];
        let mut done = 0;
        while done < bytes {
            let step = chunk.len().min(bytes - done);
            memory.copy_out(from_offset + done, &mut chunk[..step]);
            target.copy_in(into_offset + done, &chunk[..step]);
            done += step;
        }
        Ok(())
    }
}
