//! Memory shared by two processes: a sealed memfd and typed views of it.
//!
//! # Soundness
//! Another process may write this memory at any time, whatever the protocol says. So no reference to its
//! bytes ever exists: bytes are copied in and out through raw pointers ([`RingBytes`]), words are atomics
//! ([`SharedArray`]). A racing writer can make a copy hold any bytes, and any bytes are valid for `u8` and
//! for integers; a copy is fenced against the compiler, so that it is read once and what was checked is what
//! is used. Every access is bounded by the mapping's length, which the peer cannot change: the memfd is
//! sealed against shrinking and growing before it is sent, and [`SharedMemory::open`] refuses one that is
//! not, or that is smaller than the layout needs (touching pages beyond the end of a file would be SIGBUS).
//! A mapping is writable or its type has no `copy_in` ([`ReadOnlyBytes`]).

use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering, compiler_fence};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use thiserror::Error;

use crate::MachineError;
use crate::mapping::Mapping;
use crate::sync::{ReceiverLine, SenderLine, StateSlot};

/// Layouts are cut at multiples of this, the largest base page of the supported machines.
pub const PAGE_BYTES: usize = 64 << 10;

/// A cache line of the supported machines; where lines are longer, some are asked for twice.
const LINE_BYTES: usize = 64;

/// Without these a peer could make our loads fault.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Why memory received from a peer is not used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The peer could still change its length.
    #[error(
        "shared memory from the peer is not sealed (seals {found:#x}); refuse the peer, it is not this program"
    )]
    NotSealed {
        /// Seals found.
        found: u32,
    },
    /// Its length is not what was agreed.
    #[error("shared memory from the peer has {found} bytes, {expected} were agreed; refuse the peer")]
    Size {
        /// Bytes agreed.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// The kernel refused to look.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

/// A sealed memfd.
#[derive(Debug)]
pub struct SharedMemory {
    fd: OwnedFd,
    bytes: usize,
}

impl SharedMemory {
    /// Makes zeroed memory of `bytes` and seals its length.
    ///
    /// # Errors
    /// [`MachineError`]: descriptors or memory ran out, or memfds are not permitted.
    pub fn create(bytes: usize) -> Result<Self, MachineError> {
        let object = || format!("{bytes} bytes of shared memory");
        let fd = memfd_create("gradwire", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(|errno| MachineError::new("memfd_create", object(), errno))?;
        ftruncate(&fd, bytes as u64).map_err(|errno| MachineError::new("ftruncate", object(), errno))?;
        fcntl_add_seals(&fd, SEALS)
            .map_err(|errno| MachineError::new("fcntl(F_ADD_SEALS)", object(), errno))?;
        Ok(Self { fd, bytes })
    }

    /// Makes memory that holds a copy of `content` and that nobody can write any more.
    ///
    /// # Errors
    /// As for [`SharedMemory::create`].
    pub fn snapshot(content: &[u8]) -> Result<Self, MachineError> {
        let object = || format!("a snapshot of {} bytes", content.len());
        let fd = memfd_create("gradwire", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(|errno| MachineError::new("memfd_create", object(), errno))?;
        let mut rest = content;
        while !rest.is_empty() {
            let written =
                rustix::io::write(&fd, rest).map_err(|errno| MachineError::new("write", object(), errno))?;
            rest = &rest[written..];
        }
        fcntl_add_seals(&fd, SEALS | SealFlags::WRITE)
            .map_err(|errno| MachineError::new("fcntl(F_ADD_SEALS)", object(), errno))?;
        Ok(Self { fd, bytes: content.len() })
    }

    /// Takes memory that a peer sent, after checking that its length is `bytes` and cannot change.
    ///
    /// # Errors
    /// [`OpenError`]; the peer is to be refused.
    pub fn open(fd: OwnedFd, bytes: usize) -> Result<Self, OpenError> {
        let object = || "shared memory from the peer".to_owned();
        let seals =
            fcntl_get_seals(&fd).map_err(|errno| MachineError::new("fcntl(F_GET_SEALS)", object(), errno))?;
        if !seals.contains(SEALS) {
            return Err(OpenError::NotSealed { found: seals.bits() });
        }
        let stat = fstat(&fd).map_err(|errno| MachineError::new("fstat", object(), errno))?;
        let found = u64::try_from(stat.st_size).unwrap_or(0);
        if found != bytes as u64 {
            return Err(OpenError::Size { expected: bytes as u64, found });
        }
        Ok(Self { fd, bytes })
    }

    /// The descriptor, to be sent to the peer.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Its length.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn check(&self, offset: usize, bytes: usize) {
        assert!(offset.is_multiple_of(PAGE_BYTES), "a view starts on a page");
        assert!(offset.checked_add(bytes).is_some_and(|end| end <= self.bytes), "a view lies in its memory");
    }

    /// A view of `bytes` from `offset`, mapped twice in a row so that nothing in the ring is ever split.
    ///
    /// # Errors
    /// [`MachineError`]: address space ran out.
    ///
    /// # Panics
    /// When the view is not inside the memory or not cut at [`PAGE_BYTES`].
    pub fn ring(&self, offset: usize, bytes: usize) -> Result<RingBytes, MachineError> {
        self.check(offset, bytes);
        assert!(bytes.is_multiple_of(PAGE_BYTES), "a ring is whole pages");
        Ok(RingBytes { mapping: Mapping::file(self.fd(), offset as u64, bytes, 2, true)? })
    }

    /// A plain view of the whole memory.
    ///
    /// # Errors
    /// [`MachineError`]: address space ran out, or the memory is empty or a snapshot.
    pub fn flat(&self) -> Result<RingBytes, MachineError> {
        Ok(RingBytes { mapping: Mapping::file(self.fd(), 0, self.bytes, 1, true)? })
    }

    /// A plain view of the whole memory that can only be read.
    ///
    /// # Errors
    /// [`MachineError`]: address space ran out, or the memory is empty.
    pub fn flat_read_only(&self) -> Result<ReadOnlyBytes, MachineError> {
        let mapping = Mapping::file(self.fd(), 0, self.bytes, 1, false)?;
        Ok(ReadOnlyBytes { bytes: RingBytes { mapping } })
    }

    /// `count` values of `T` from `offset`.
    ///
    /// # Errors
    /// [`MachineError`]: address space ran out.
    ///
    /// # Panics
    /// When the view is not inside the memory or does not start on a page.
    pub fn array<T: SharedLayout>(
        &self,
        offset: usize,
        count: usize,
    ) -> Result<SharedArray<T>, MachineError> {
        let bytes = count * size_of::<T>();
        self.check(offset, bytes);
        let mapping = Mapping::file(self.fd(), offset as u64, bytes, 1, true)?;
        assert!(mapping.base().cast::<T>().is_aligned());
        Ok(SharedArray { mapping, count, marker: PhantomData })
    }
}

/// Types that may lie in memory a peer writes.
///
/// # Safety
/// Every bit pattern is a value, zeroes too; every field is an atomic, so that concurrent writes are not data races of
/// ours; there is no pointer and no drop glue.
pub unsafe trait SharedLayout {}

// SAFETY: one atomic integer.
unsafe impl SharedLayout for AtomicU64 {}
// SAFETY: repr(C), atomic integers and padding only (loom's stand-ins are never mapped).
unsafe impl SharedLayout for SenderLine {}
// SAFETY: repr(C), atomic integers and padding only (loom's stand-ins are never mapped).
unsafe impl SharedLayout for ReceiverLine {}
// SAFETY: repr(C), atomic integers and padding only (loom's stand-ins are never mapped).
unsafe impl SharedLayout for StateSlot {}

/// Values of `T` in shared memory.
#[derive(Debug)]
pub struct SharedArray<T> {
    mapping: Mapping,
    count: usize,
    marker: PhantomData<T>,
}

impl<T: SharedLayout> Deref for SharedArray<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the mapping holds `count` values from an aligned base (asserted when it was made) and lives
        // as long as the borrow; every bit pattern is a `T` and every field an atomic (SharedLayout).
        unsafe { std::slice::from_raw_parts(self.mapping.base().cast::<T>().as_ptr(), self.count) }
    }
}

/// Bytes that a peer may write at any time; copied in and out, never borrowed.
#[derive(Debug)]
pub struct RingBytes {
    mapping: Mapping,
}

impl RingBytes {
    /// Bytes that offsets may reach: a ring's are counted twice.
    #[must_use]
    pub fn mapped_bytes(&self) -> usize {
        self.mapping.bytes()
    }

    #[inline]
    fn check(&self, offset: usize, bytes: usize) {
        assert!(
            offset.checked_add(bytes).is_some_and(|end| end <= self.mapping.bytes()),
            "an access of {bytes} bytes at {offset} leaves a mapping of {}",
            self.mapping.bytes()
        );
    }

    /// Copies `data` to `offset`.
    ///
    /// # Panics
    /// When it would leave the mapping.
    #[inline]
    pub fn copy_in(&self, offset: usize, data: &[u8]) {
        self.check(offset, data.len());
        // SAFETY: `check` bounds the target; `data` is a live slice; no reference to ring memory exists, so
        // `data` cannot overlap it.
        unsafe {
            let to = self.mapping.base().as_ptr().add(offset);
            std::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len());
        }
        // The other view of the ring is another address to the compiler: keep the order of accesses.
        compiler_fence(Ordering::SeqCst);
    }

    /// Copies from `offset` into `out`.
    ///
    /// # Panics
    /// When it would leave the mapping.
    #[inline]
    pub fn copy_out(&self, offset: usize, out: &mut [u8]) {
        self.check(offset, out.len());
        compiler_fence(Ordering::SeqCst);
        // SAFETY: `check` bounds the source; `out` is an exclusive live slice that cannot overlap ring memory.
        unsafe {
            let from = self.mapping.base().as_ptr().add(offset);
            std::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), out.len());
        }
        // Reads of `out` must not be turned back into reads of the ring.
        compiler_fence(Ordering::SeqCst);
    }

    /// Has the lines of `bytes` from `offset` brought here for writing, so that the next [`RingBytes::copy_in`] there does not
    /// wait for them; no byte changes. What lies beyond the mapping is left out.
    #[inline]
    pub fn expect_copy_in(&self, offset: usize, bytes: usize) {
        self.each_line(offset, bytes, |line| {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a prefetch reads and writes no memory that the program sees, and faults at no address.
            unsafe {
                std::arch::asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags, readonly));
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = line;
        });
    }

    /// Has the lines of `bytes` from `offset` moved to the cache that cores share, where another core finds them sooner than
    /// in this one's own: for small records that the peer waits for. A hint that older processors take for nothing.
    #[inline]
    pub fn hand_over(&self, offset: usize, bytes: usize) {
        self.each_line(offset, bytes, |line| {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `cldemote` moves a line between caches and changes no byte; at a bad address, or where a processor lacks
            // it, it does nothing.
            unsafe {
                std::arch::asm!("cldemote [{}]", in(reg) line, options(nostack, preserves_flags, readonly));
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = line;
        });
    }

    /// Has the lines of `bytes` from `offset` brought here, all at once, for the [`RingBytes::copy_out`]s that follow.
    #[inline]
    pub fn expect_copy_out(&self, offset: usize, bytes: usize) {
        self.each_line(offset, bytes, |line| {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            unsafe {
                std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.cast());
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = line;
        });
    }

    /// Calls `line` with an address in each cache line of `bytes` from `offset`.
    #[inline]
    fn each_line(&self, offset: usize, bytes: usize, line: impl Fn(*const u8)) {
        let end = offset.saturating_add(bytes).min(self.mapping.bytes());
        let mut at = offset & !(LINE_BYTES - 1);
        while at < end {
            line(self.mapping.base().as_ptr().wrapping_add(at));
            at += LINE_BYTES;
        }
    }

    /// The little-endian word at `offset`, read once.
    ///
    /// # Panics
    /// When it would leave the mapping.
    #[inline]
    #[must_use]
    pub fn load_u64(&self, offset: usize) -> u64 {
        let mut bytes = [0; 8];
        self.copy_out(offset, &mut bytes);
        u64::from_le_bytes(bytes)
    }
}

/// Bytes mapped for reading only.
#[derive(Debug)]
pub struct ReadOnlyBytes {
    bytes: RingBytes,
}

impl ReadOnlyBytes {
    /// Bytes mapped.
    #[must_use]
    pub fn mapped_bytes(&self) -> usize {
        self.bytes.mapped_bytes()
    }

    /// Copies from `offset` into `out`.
    ///
    /// # Panics
    /// When it would leave the mapping.
    pub fn copy_out(&self, offset: usize, out: &mut [u8]) {
        self.bytes.copy_out(offset, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_crosses_the_end_of_a_ring_is_in_one_piece() {
        let memory = SharedMemory::create(PAGE_BYTES).unwrap();
        let ring = memory.ring(0, PAGE_BYTES).unwrap();
        let text = b"across the end";
        ring.copy_in(PAGE_BYTES - 5, text);
        let mut front = [0; 9];
        ring.copy_out(0, &mut front);
        assert_eq!(&front, &text[5..]);
        let mut whole = [0; 14];
        ring.copy_out(PAGE_BYTES - 5, &mut whole);
        assert_eq!(&whole, text);
    }

    #[test]
    fn both_mappings_of_one_memory_see_the_same_bytes() {
        let memory = SharedMemory::create(2 * PAGE_BYTES).unwrap();
        let other = SharedMemory::open(memory.fd().try_clone_to_owned().unwrap(), 2 * PAGE_BYTES).unwrap();
        let (here, there) = (memory.flat().unwrap(), other.flat().unwrap());
        here.copy_in(PAGE_BYTES + 8, &7u64.to_le_bytes());
        assert_eq!(there.load_u64(PAGE_BYTES + 8), 7);
        let words = other.array::<AtomicU64>(PAGE_BYTES, 2).unwrap();
        assert_eq!(words[1].load(Ordering::Relaxed).to_le(), 7);
    }

    #[test]
    fn hints_about_lines_change_no_byte_and_end_with_the_mapping() {
        let memory = SharedMemory::create(PAGE_BYTES).unwrap();
        let ring = memory.ring(0, PAGE_BYTES).unwrap();
        ring.copy_in(PAGE_BYTES - 3, b"edges");
        for (offset, bytes) in [(0, 0), (PAGE_BYTES - 3, 5), (2 * PAGE_BYTES - 1, 4096), (usize::MAX, 1)] {
            ring.expect_copy_in(offset, bytes);
            ring.expect_copy_out(offset, bytes);
            ring.hand_over(offset, bytes);
        }
        let mut edges = [0; 5];
        ring.copy_out(PAGE_BYTES - 3, &mut edges);
        assert_eq!(&edges, b"edges");
    }

    #[test]
    #[should_panic(expected = "leaves a mapping")]
    fn an_access_beyond_the_mapping_is_stopped() {
        let memory = SharedMemory::create(PAGE_BYTES).unwrap();
        memory.ring(0, PAGE_BYTES).unwrap().copy_in(2 * PAGE_BYTES - 3, b"four");
    }

    #[test]
    fn memory_that_its_sender_could_shrink_is_refused() {
        let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&fd, PAGE_BYTES as u64).unwrap();
        assert!(matches!(SharedMemory::open(fd, PAGE_BYTES), Err(OpenError::NotSealed { .. })));
        let memory = SharedMemory::create(PAGE_BYTES).unwrap();
        let copy = memory.fd().try_clone_to_owned().unwrap();
        assert!(matches!(SharedMemory::open(copy, 2 * PAGE_BYTES), Err(OpenError::Size { .. })));
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(matches!(SharedMemory::open(socket.into(), PAGE_BYTES), Err(OpenError::Machine(_))));
    }

    #[test]
    fn sealed_memory_can_be_neither_shrunk_nor_grown() {
        let memory = SharedMemory::create(PAGE_BYTES).unwrap();
        assert!(ftruncate(memory.fd(), 0).is_err());
        assert!(ftruncate(memory.fd(), 2 * PAGE_BYTES as u64).is_err());
    }

    #[test]
    fn a_snapshot_can_be_read_and_never_written() {
        let memory = SharedMemory::snapshot(b"frozen").unwrap();
        let mut out = [0; 6];
        memory.flat_read_only().unwrap().copy_out(0, &mut out);
        assert_eq!(&out, b"frozen");
        assert!(memory.flat().is_err());
        let sent = memory.fd().try_clone_to_owned().unwrap();
        assert!(rustix::io::pwrite(&sent, b"x", 0).is_err());
        assert!(SharedMemory::open(sent, 6).unwrap().flat_read_only().is_ok());
    }
}
