//! The memory budget: a count of bytes that every allocation of the store passes.

/// Why a piece of the store could not grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Short {
    /// The budget has no room for so many bytes.
    Budget(u64),
    /// The reservation of the table has no room for so many bytes.
    Arena(u64),
    /// A segment of the index can't be split further.
    Depth,
}

/// Bytes in use and their limit.
#[derive(Debug)]
pub(super) struct Budget {
    limit: u64,
    used: u64,
    peak: u64,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Budget {
        Budget { limit, used: 0, peak: 0 }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn used(&self) -> u64 {
        self.used
    }

    pub(super) fn peak(&self) -> u64 {
        self.peak
    }

    pub(super) fn charge(&mut self, bytes: u64) -> Result<(), Short> {
        if bytes > self.limit.saturating_sub(self.used) {
            return Err(Short::Budget(bytes));
        }
        self.used += bytes;
        self.peak = self.peak.max(self.used);
        Ok(())
    }

    pub(super) fn release(&mut self, bytes: u64) {
        assert!(bytes <= self.used, "released {bytes} bytes of {} in use", self.used);
        self.used -= bytes;
    }
}
