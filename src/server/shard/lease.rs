//! Until when the coordinator counts on this server: a tail answers strong pulls only until then (C5).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The end of a lease, set by the thread that renews it, read by every shard.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    base: Instant,
    /// Microseconds from `base`.
    until: Arc<AtomicU64>,
}

impl Lease {
    /// One that has run out.
    pub(crate) fn lapsed() -> Self {
        Self { base: Instant::now(), until: Arc::new(AtomicU64::new(0)) }
    }

    /// One that never does: of a cluster that is one process.
    pub(crate) fn unending() -> Self {
        Self { base: Instant::now(), until: Arc::new(AtomicU64::new(u64::MAX)) }
    }

    /// What a renewal says of its time.
    pub(crate) fn now_us(&self) -> u64 {
        self.base.elapsed().as_micros() as u64
    }

    /// The coordinator has answered the renewal that was sent at `sent_us`.
    pub(crate) fn renewed(&self, sent_us: u64, lasts: Duration) {
        // A peer's number: beyond our own clock it says nothing.
        let sent = sent_us.min(self.now_us());
        self.until.fetch_max(sent.saturating_add(lasts.as_micros() as u64), Ordering::Release);
    }

    /// Whether it still runs.
    pub(crate) fn holds(&self, now: Instant) -> bool {
        // Pairs with the store in `renewed`; a lease that looks shorter than it is does no harm.
        let until = self.until.load(Ordering::Acquire);
        u128::from(until) > now.saturating_duration_since(self.base).as_micros()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_from_when_its_renewal_was_sent_and_never_goes_back() {
        let lease = Lease::lapsed();
        assert!(!lease.holds(Instant::now()));
        lease.renewed(0, Duration::from_secs(1000));
        lease.renewed(0, Duration::from_secs(1));
        let at = |seconds| lease.base + Duration::from_secs(seconds);
        assert!(lease.holds(at(999)) && !lease.holds(at(1000)));
        // A sending of the future is the peer's invention.
        let short = Lease::lapsed();
        short.renewed(u64::MAX, Duration::from_secs(1));
        assert!(!short.holds(short.base + Duration::from_secs(100)));
        assert!(Lease::unending().holds(at(1 << 40)));
    }
}
