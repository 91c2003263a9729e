//! Rings of this process alone, and pieces of them lent to the kernel.
//!
//! # Soundness
//! The memory of a [`PrivateRing`] is a memfd whose descriptor never leaves the function that maps it, so only
//! this process and operations it posted can touch it; therefore slices of it may exist. A posted operation
//! outlives the call that posted it: it owns a [`Loan`], which holds the mapping (no unmapping under the kernel's
//! hands, whoever drops the ring first) and marks its bytes in the ring: while it is out, no slice that
//! meets bytes the kernel may write, and no exclusive slice that meets bytes it may read, can be made. A loan is
//! not `Clone` and has no access to its bytes but by the modules of this crate that post operations; one that is lost leaves
//! its bytes marked for ever, which is safe. The tests that slice lent bytes would notice a missing mark.

use std::sync::Arc;
use std::sync::atomic::{Ordering, compiler_fence};

use crate::MachineError;
use crate::mapping::Mapping;
use crate::shared::{PAGE_BYTES, SharedMemory};

/// A ring of this process alone, mapped twice in a row: the kernel receives into it and sends from it.
#[derive(Debug)]
pub struct PrivateRing {
    mapping: Arc<Mapping>,
    ring_bytes: usize,
    /// First byte of the ring that is lent.
    lent_at: usize,
    /// Bytes that are lent; zero when none are.
    lent_bytes: usize,
    /// The kernel may write them.
    lent_for_writing: bool,
}

/// Bytes of a [`PrivateRing`] in the hands of the kernel.
#[derive(Debug)]
#[must_use = "a loan that is dropped leaves its bytes unusable"]
pub struct Loan {
    mapping: Arc<Mapping>,
    at: usize,
    bytes: usize,
    for_writing: bool,
}

impl Loan {
    /// First byte; `bytes` are mapped from there while the loan lives.
    pub(crate) fn start(&self) -> *mut u8 {
        // SAFETY: `at` is below the ring's length and the mapping holds two rings in a row, so both the first
        // byte and the `bytes` (at most one ring) after it lie inside it.
        unsafe { self.mapping.base().as_ptr().add(self.at) }
    }

    /// Bytes lent.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether they may be written.
    pub(crate) fn for_writing(&self) -> bool {
        self.for_writing
    }
}

impl PrivateRing {
    /// A zeroed ring of `ring_bytes`, a power of two of at least [`PAGE_BYTES`].
    ///
    /// # Errors
    /// [`MachineError`]: descriptors, memory or address space ran out.
    ///
    /// # Panics
    /// When `ring_bytes` is not such a number.
    pub fn create(ring_bytes: usize) -> Result<Self, MachineError> {
        assert!(ring_bytes.is_power_of_two() && ring_bytes >= PAGE_BYTES);
        let memory = SharedMemory::create(ring_bytes)?;
        let mapping = Arc::new(Mapping::file(memory.fd(), 0, ring_bytes, 2, true)?);
        Ok(Self { mapping, ring_bytes, lent_at: 0, lent_bytes: 0, lent_for_writing: false })
    }

    /// Bytes of the ring.
    #[must_use]
    pub fn ring_bytes(&self) -> usize {
        self.ring_bytes
    }

    /// Whether a loan is out.
    #[must_use]
    pub fn is_lent(&self) -> bool {
        self.lent_bytes > 0
    }

    fn offset(&self, position: u64) -> usize {
        position as usize & (self.ring_bytes - 1)
    }

    /// Whether `bytes` from `at` share none with those lent.
    #[inline]
    fn is_apart(&self, at: usize, bytes: usize) -> bool {
        let from_lent = at.wrapping_sub(self.lent_at) & (self.ring_bytes - 1);
        bytes == 0 || (from_lent >= self.lent_bytes && from_lent + bytes <= self.ring_bytes)
    }

    fn start(&self, at: usize, bytes: usize) -> *mut u8 {
        assert!(bytes <= self.ring_bytes, "a piece of a ring is no longer than the ring");
        compiler_fence(Ordering::SeqCst);
        // SAFETY: `at < ring_bytes` (`offset`) and the mapping holds two rings in a row.
        unsafe { self.mapping.base().as_ptr().add(at) }
    }

    /// `bytes` from the absolute `position`.
    ///
    /// # Panics
    /// When `bytes` exceeds the ring, or the kernel may be writing some of them.
    #[inline]
    #[must_use]
    pub fn slice(&self, position: u64, bytes: usize) -> &[u8] {
        let at = self.offset(position);
        assert!(
            !self.lent_for_writing || self.is_apart(at, bytes),
            "bytes the kernel may write are not read"
        );
        // SAFETY: `start` leaves at least `bytes <= ring_bytes` mapped, initialised bytes; the memory is this
        // value's alone (its descriptor is closed) but for a loan, which does not write these bytes (checked
        // above), and cannot begin while `&self` is borrowed; a slice no longer than the ring does not meet its own mirror.
        unsafe { std::slice::from_raw_parts(self.start(at, bytes), bytes) }
    }

    /// `bytes` from the absolute `position`, to be written.
    ///
    /// # Panics
    /// When `bytes` exceeds the ring, or some of them are lent.
    #[inline]
    pub fn slice_mut(&mut self, position: u64, bytes: usize) -> &mut [u8] {
        let at = self.offset(position);
        assert!(self.lent_bytes == 0 || self.is_apart(at, bytes), "bytes the kernel uses are not written");
        // SAFETY: as in `slice`; `&mut self` excludes other slices, and no loan holds any of these bytes.
        unsafe { std::slice::from_raw_parts_mut(self.start(at, bytes), bytes) }
    }

    /// Moves `bytes` from one absolute position to a lower one; both ranges lie within one ring's length.
    ///
    /// # Panics
    /// When they do not, or some of them are lent.
    pub fn move_down(&mut self, from: u64, to: u64, bytes: usize) {
        assert!(to <= from);
        let span = usize::try_from(from - to).unwrap_or(usize::MAX).saturating_add(bytes);
        let shift = span - bytes;
        self.slice_mut(to, span).copy_within(shift.., 0);
    }

    /// Lends `bytes` from the absolute `position`, for the kernel to write or to read.
    ///
    /// # Panics
    /// When a loan is out already, or `bytes` is zero or exceeds the ring.
    pub fn lend(&mut self, position: u64, bytes: usize, for_writing: bool) -> Loan {
        assert!(self.lent_bytes == 0, "one loan of a ring at a time");
        assert!(bytes > 0 && bytes <= self.ring_bytes, "a piece of a ring is no longer than the ring");
        let at = self.offset(position);
        (self.lent_at, self.lent_bytes, self.lent_for_writing) = (at, bytes, for_writing);
        Loan { mapping: Arc::clone(&self.mapping), at, bytes, for_writing }
    }

    /// Takes the loan back: no operation uses it any more, since only the modules that post them could, and they gave it up.
    ///
    /// # Panics
    /// When it is of another ring.
    pub fn take_back(&mut self, loan: Loan) {
        assert!(Arc::ptr_eq(&self.mapping, &loan.mapping), "a loan goes back to its own ring");
        drop(loan);
        compiler_fence(Ordering::SeqCst);
        self.lent_bytes = 0;
        self.lent_for_writing = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: u64 = PAGE_BYTES as u64;

    #[test]
    fn a_private_ring_moves_bytes_down_across_its_end() {
        let mut ring = PrivateRing::create(PAGE_BYTES).unwrap();
        ring.slice_mut(END - 4, 12).copy_from_slice(b"dropKEEPTHIS");
        ring.move_down(END, END - 4, 8);
        assert_eq!(ring.slice(2 * END - 4, 8), b"KEEPTHIS");
    }

    #[test]
    fn a_ring_of_huge_pages_starts_on_one() {
        let ring = PrivateRing::create(4 << 20).unwrap();
        assert_eq!(ring.slice(0, 1).as_ptr().align_offset(2 << 20), 0);
    }

    #[test]
    fn bytes_beside_a_loan_can_be_used_across_the_end_of_the_ring() {
        let mut ring = PrivateRing::create(PAGE_BYTES).unwrap();
        let loan = ring.lend(END - 8, 16, true);
        assert_eq!((ring.is_lent(), loan.bytes()), (true, 16));
        // From the end of the loan all round to its beginning, and nothing inside it.
        assert_eq!(ring.slice_mut(END + 8, PAGE_BYTES - 16).len(), PAGE_BYTES - 16);
        assert!(ring.slice(END, 0).is_empty());
        ring.take_back(loan);
        assert_eq!(ring.slice_mut(0, PAGE_BYTES).len(), PAGE_BYTES);
    }

    fn slices_with_a_loan(for_writing: bool, use_it: impl Fn(&mut PrivateRing, u64, usize)) -> usize {
        let mut stopped = 0;
        for (position, bytes) in [(END - 9, 2), (END - 1, 1), (7, 2), (0, PAGE_BYTES), (8, PAGE_BYTES - 15)] {
            let mut ring = PrivateRing::create(PAGE_BYTES).unwrap();
            let loan = ring.lend(2 * END - 8, 16, for_writing);
            let used = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                use_it(&mut ring, position, bytes);
            }));
            stopped += usize::from(used.is_err());
            drop(loan);
        }
        stopped
    }

    #[test]
    fn bytes_the_kernel_may_write_cannot_be_sliced_and_those_it_reads_not_written() {
        let read = |ring: &mut PrivateRing, position, bytes| drop(ring.slice(position, bytes).to_vec());
        let write = |ring: &mut PrivateRing, position, bytes| ring.slice_mut(position, bytes).fill(1);
        assert_eq!(slices_with_a_loan(true, read), 5);
        assert_eq!(slices_with_a_loan(true, write), 5);
        assert_eq!(slices_with_a_loan(false, read), 0);
        assert_eq!(slices_with_a_loan(false, write), 5);
    }

    #[test]
    fn a_loan_outlives_its_ring() {
        let mut ring = PrivateRing::create(PAGE_BYTES).unwrap();
        let loan = ring.lend(0, 8, true);
        drop(ring);
        // SAFETY: the loan holds the mapping, and nothing else uses these bytes.
        unsafe { loan.start().write(7) };
    }

    #[test]
    #[should_panic(expected = "its own ring")]
    fn a_loan_does_not_go_back_to_another_ring() {
        let mut ring = PrivateRing::create(PAGE_BYTES).unwrap();
        let loan = ring.lend(0, 8, true);
        PrivateRing::create(PAGE_BYTES).unwrap().take_back(loan);
    }
}
