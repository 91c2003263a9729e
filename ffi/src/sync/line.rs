//! The two cache lines of one direction of a lane.

use super::Arm;
use crate::primitive::{AtomicU32, AtomicU64, Ordering, fence};

/// An absolute count of ring bytes and of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes since the lane began.
    pub bytes: u64,
    /// Records since the lane began.
    pub records: u64,
}

/// Written by the sender of a direction only. 128 bytes: adjacent lines are fetched in pairs.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub struct SenderLine {
    published_bytes: AtomicU64,
    published_records: AtomicU64,
    state_changes: AtomicU64,
}

/// Written by the receiver of a direction; the sender only disarms the doorbell it rings.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub struct ReceiverLine {
    consumed_bytes: AtomicU64,
    consumed_records: AtomicU64,
    armed: AtomicU32,
}

#[cfg(not(all(test, loom)))]
const _: () = assert!(size_of::<SenderLine>() == 128 && size_of::<ReceiverLine>() == 128);

impl SenderLine {
    /// Makes all bytes written before this call visible up to `tally`.
    #[inline]
    pub fn publish(&self, tally: Tally) {
        self.published_records.store(tally.records, Ordering::Relaxed);
        // Partner: the acquire load in `published`; ring bytes and the record count are ordered before it.
        self.published_bytes.store(tally.bytes, Ordering::Release);
    }

    /// What the sender has published; records may already count the next publication.
    #[inline]
    #[must_use]
    pub fn published(&self) -> Tally {
        let bytes = self.published_bytes.load(Ordering::Acquire);
        Tally { bytes, records: self.published_records.load(Ordering::Relaxed) }
    }

    /// The bytes of [`SenderLine::published`] alone, to see whether there is anything new; orders nothing.
    #[inline]
    #[must_use]
    pub fn published_bytes(&self) -> u64 {
        self.published_bytes.load(Ordering::Relaxed)
    }

    /// Tells the receiver that state entries changed; `count` differs from the last one.
    #[inline]
    pub fn announce_state(&self, count: u64) {
        // Partner: the acquire load in `state_changes`; dirty bits and entries are ordered before it.
        self.state_changes.store(count, Ordering::Release);
    }

    /// The last announced count.
    #[inline]
    #[must_use]
    pub fn state_changes(&self) -> u64 {
        self.state_changes.load(Ordering::Acquire)
    }
}

impl ReceiverLine {
    /// Gives ring space back: the receiver reads nothing below `tally` any more.
    #[inline]
    pub fn release(&self, tally: Tally) {
        self.consumed_records.store(tally.records, Ordering::Relaxed);
        // Partner: the acquire load in `consumed`; the receiver's copies out of the ring are ordered before it.
        self.consumed_bytes.store(tally.bytes, Ordering::Release);
    }

    /// What the receiver has given back.
    #[inline]
    #[must_use]
    pub fn consumed(&self) -> Tally {
        let bytes = self.consumed_bytes.load(Ordering::Acquire);
        Tally { bytes, records: self.consumed_records.load(Ordering::Relaxed) }
    }

    /// Asks for a doorbell. The caller then calls [`order_before_doorbells`] and looks once more before it sleeps.
    #[inline]
    pub fn arm(&self, arm: Arm) {
        self.armed.store(arm as u32, Ordering::Relaxed);
    }

    /// Takes the request back; a doorbell may still come.
    #[inline]
    pub fn disarm(&self) {
        self.armed.store(0, Ordering::Relaxed);
    }

    /// Whether the other side must be woken for what was just published; true at most once per arming.
    /// [`order_before_doorbells`] comes between the publication and this.
    #[inline]
    #[must_use]
    pub fn take_doorbell(&self, what: Arm) -> bool {
        // Any value but the two arms is a peer's nonsense and counts as the widest request: a needless wake.
        let armed = self.armed.load(Ordering::Relaxed);
        armed >= what as u32 && armed != 0 && self.armed.swap(0, Ordering::Relaxed) != 0
    }
}

/// The full fence between a publication and the look at the other side's doorbell, and between arming and the last look
/// at its publications. One side of the two sees the other (Dekker).
#[inline]
pub fn order_before_doorbells() {
    fence(Ordering::SeqCst);
}
