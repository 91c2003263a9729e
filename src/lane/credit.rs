//! Credit arithmetic, the same for every fabric (L3): absolute counters of bytes and records at both ends.
//!
//! A record takes one notification at most, so the record credit bounds notifications: it is what receive
//! queues are sized by. Credit goes back when a quarter is owed: the sender is never short of more than that
//! of what is free, and a write may be half of the whole, so a sender that waits is always served by a receiver that drains.

use gradwire_ffi::sync::Tally;

use super::DownReason;

/// Bytes and records that may be unconsumed at the receiver.
pub(super) fn limit_of(credit_bytes: usize) -> Tally {
    Tally { bytes: credit_bytes as u64, records: credit_bytes as u64 / 128 }
}

/// The sender's side.
#[derive(Debug)]
pub(super) struct Allowance {
    limit: Tally,
    written: Tally,
    consumed: Tally,
}

impl Allowance {
    pub(super) fn new(limit: Tally) -> Self {
        Self { limit, written: Tally::default(), consumed: Tally::default() }
    }

    /// Everything ever written.
    pub(super) fn written(&self) -> Tally {
        self.written
    }

    /// The peer's counters as last noted.
    pub(super) fn consumed(&self) -> Tally {
        self.consumed
    }

    /// Bytes and records that may be written now.
    pub(super) fn left(&self) -> Tally {
        Tally {
            bytes: self.limit.bytes - (self.written.bytes - self.consumed.bytes),
            records: self.limit.records - (self.written.records - self.consumed.records),
        }
    }

    /// Largest single write, in bytes: what a draining receiver can always make room for.
    pub(super) fn largest_write(&self) -> u64 {
        self.limit.bytes / 2
    }

    /// Largest single write, in records.
    pub(super) fn largest_count(&self) -> u64 {
        self.limit.records / 2
    }

    /// Whether less than half is left, so that a sleeper wants to hear of more.
    pub(super) fn is_short(&self) -> bool {
        let left = self.left();
        left.bytes < self.limit.bytes / 2 || left.records < self.limit.records / 2
    }

    /// Takes what a write needs, or nothing.
    pub(super) fn take(&mut self, need: Tally) -> bool {
        let left = self.left();
        if need.bytes > left.bytes || need.records > left.records {
            return false;
        }
        self.written.bytes += need.bytes;
        self.written.records += need.records;
        true
    }

    /// Notes the peer's absolute counters; a lost earlier update is healed by this one.
    pub(super) fn on_consumed(&mut self, consumed: Tally) -> Result<(), DownReason> {
        // Records may be counted a little ahead of bytes: the two are separate words.
        let possible = |old: u64, new: u64, most: u64| new >= old && new <= most;
        if !possible(self.consumed.bytes, consumed.bytes, self.written.bytes)
            || !possible(self.consumed.records, consumed.records, self.written.records)
        {
            return Err(DownReason::Impossible { what: "count of consumed bytes or records" });
        }
        self.consumed = consumed;
        Ok(())
    }
}

/// The receiver's side.
#[derive(Debug)]
pub(super) struct Intake {
    limit: Tally,
    consumed: Tally,
    advertised: Tally,
}

impl Intake {
    pub(super) fn new(limit: Tally) -> Self {
        Self { limit, consumed: Tally::default(), advertised: Tally::default() }
    }

    /// Checks the sender's absolute counters against the credit it was told of.
    pub(super) fn check(&self, arrived: Tally) -> Result<(), DownReason> {
        if arrived.bytes.wrapping_sub(self.advertised.bytes) > self.limit.bytes {
            return Err(DownReason::CreditExceeded { unit: "bytes" });
        }
        if arrived.records.wrapping_sub(self.advertised.records) > self.limit.records {
            return Err(DownReason::CreditExceeded { unit: "records" });
        }
        Ok(())
    }

    /// Everything ever consumed.
    pub(super) fn consumed(&self) -> Tally {
        self.consumed
    }

    /// Notes a consumed record; true when enough is owed to be told.
    pub(super) fn consume(&mut self, record_bytes: u64) -> bool {
        self.consumed.bytes += record_bytes;
        self.consumed.records += 1;
        self.consumed.bytes - self.advertised.bytes >= self.limit.bytes / 4
            || self.consumed.records - self.advertised.records >= self.limit.records / 4
    }

    /// Whether anything is owed.
    pub(super) fn owes(&self) -> bool {
        self.consumed != self.advertised
    }

    /// What to tell the sender now.
    pub(super) fn advertise(&mut self) -> Tally {
        self.advertised = self.consumed;
        self.consumed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(bytes: u64, records: u64) -> Tally {
        Tally { bytes, records }
    }

    #[test]
    fn a_write_takes_all_it_needs_or_nothing() {
        let mut allowance = Allowance::new(tally(1024, 8));
        assert!(allowance.take(tally(1000, 1)));
        assert!(!allowance.take(tally(32, 1)));
        assert!(allowance.take(tally(24, 1)));
        assert_eq!(allowance.left(), tally(0, 6));
        allowance.on_consumed(tally(1000, 1)).unwrap();
        assert_eq!(allowance.left(), tally(1000, 7));
        assert!(!allowance.take(tally(80, 8)));
    }

    #[test]
    fn a_peer_cannot_have_consumed_what_was_not_written_or_take_it_back() {
        let mut allowance = Allowance::new(tally(1024, 8));
        assert!(allowance.take(tally(160, 2)));
        assert!(allowance.on_consumed(tally(161, 2)).is_err());
        assert!(allowance.on_consumed(tally(160, 3)).is_err());
        allowance.on_consumed(tally(160, 2)).unwrap();
        assert!(allowance.on_consumed(tally(80, 2)).is_err());
    }

    #[test]
    fn a_later_advertisement_heals_a_lost_one() {
        let mut allowance = Allowance::new(tally(1024, 8));
        let mut intake = Intake::new(tally(1024, 8));
        assert!(allowance.take(tally(512, 2)));
        assert!(intake.consume(256));
        let _lost = intake.advertise();
        assert!(intake.consume(256));
        allowance.on_consumed(intake.advertise()).unwrap();
        assert_eq!(allowance.left(), tally(1024, 8));
    }

    #[test]
    fn exceeding_either_credit_is_noticed() {
        let intake = Intake::new(tally(1024, 8));
        assert_eq!(intake.check(tally(1024, 8)), Ok(()));
        assert!(matches!(intake.check(tally(1025, 8)), Err(DownReason::CreditExceeded { unit: "bytes" })));
        assert!(matches!(intake.check(tally(8, 9)), Err(DownReason::CreditExceeded { unit: "records" })));
        assert!(intake.check(tally(u64::MAX, 0)).is_err());
    }
}
