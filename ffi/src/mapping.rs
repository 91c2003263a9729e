//! Address space that is given back when dropped.
//!
//! # Soundness
//! A [`Mapping`] owns `bytes` of address space from `base`: it was returned by `mmap` for this length, nothing
//! else unmaps or remaps it, and it is unmapped once, in `drop`. Fixed mappings go only into a reservation
//! that the same function made. Safe code never gets the pointer; the modules beside this one hand out
//! accesses that are bounded by `bytes` and borrow the owner. The test that maps one file twice would notice a wrong
//! second half.

use std::ffi::c_void;
use std::os::fd::BorrowedFd;
use std::ptr::{NonNull, null_mut};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use crate::MachineError;

/// Size of a huge page on x86-64 and on aarch64 with 4 KiB pages.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// An owned piece of address space.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    /// What `mmap` gave, which is larger when `base` was aligned inside it.
    reserved_base: NonNull<u8>,
    reserved_bytes: usize,
}

// SAFETY: a mapping belongs to the process, not to the thread that made it; the pointer is only an address.
unsafe impl Send for Mapping {}
// SAFETY: `&Mapping` gives out only the address and the length, both immutable.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` of `fd` from `offset`, `copies` times in a row, shared with other mappings of the file.
    pub(crate) fn file(
        fd: BorrowedFd<'_>,
        offset: u64,
        bytes: usize,
        copies: usize,
        writable: bool,
    ) -> Result<Self, MachineError> {
        let object = || format!("{copies} x {bytes} bytes of shared memory");
        let total = bytes.checked_mul(copies).filter(|total| *total > 0);
        let Some(total) = total else {
            return Err(MachineError::new("mmap", object(), rustix::io::Errno::INVAL));
        };
        let huge = bytes.is_multiple_of(HUGE_PAGE_BYTES) && offset.is_multiple_of(HUGE_PAGE_BYTES as u64);
        let slack = if huge { HUGE_PAGE_BYTES } else { 0 };
        let mapping =
            Self::reserve(total, slack).map_err(|errno| MachineError::new("mmap", object(), errno))?;
        let protection = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        for copy in 0..copies {
            // SAFETY: `copy < copies` and the reservation holds `bytes * copies` from `base`, so the target
            // lies inside address space that `mapping` owns and that nothing else uses yet.
            let at = unsafe { mapping.base.as_ptr().add(copy * bytes) };
            // SAFETY: MAP_FIXED replaces pages of our own fresh reservation only; the file is kept alive by
            // the mapping itself.
            unsafe {
                mmap(at.cast::<c_void>(), bytes, protection, MapFlags::SHARED | MapFlags::FIXED, fd, offset)
            }
            .map_err(|errno| MachineError::new("mmap", object(), errno))?;
        }
        if huge {
            // A hint: without huge pages the mapping works the same, slower.
            // SAFETY: the range is exactly the one mapped above, and the advice changes no content.
            let _ = unsafe { madvise(mapping.base.as_ptr().cast(), total, Advice::LinuxHugepage) };
        }
        Ok(mapping)
    }

    /// Address space without memory; `slack` extra bytes let the base be aligned to that power of two.
    fn reserve(bytes: usize, slack: usize) -> rustix::io::Result<Self> {
        let reserved_bytes = bytes + slack;
        // SAFETY: a null hint without MAP_FIXED: the kernel picks free address space, nothing is replaced.
        let start = unsafe {
            mmap_anonymous(
                null_mut(),
                reserved_bytes,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let reserved_base = NonNull::new(start.cast::<u8>()).ok_or(rustix::io::Errno::NOMEM)?;
        let shift = if slack > 0 { reserved_base.as_ptr().align_offset(slack) } else { 0 };
        assert!(shift <= slack);
        // SAFETY: `shift <= slack`, so the aligned base and `bytes` after it stay inside the reservation.
        let base = unsafe { reserved_base.add(shift) };
        Ok(Self { base, bytes, reserved_base, reserved_bytes })
    }

    /// First byte.
    #[inline]
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes mapped, copies included.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the reservation came from mmap with this length and is unmapped only here; borrows of it
        // ended with the owner. A failure would leak address space, which harms nothing.
        let _ = unsafe { munmap(self.reserved_base.as_ptr().cast(), self.reserved_bytes) };
    }
}
