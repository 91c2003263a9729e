//! The end of a worker's iteration, for the partitions a record names.

use std::time::Instant;

use zerocopy::{FromZeros, IntoBytes};

use super::Shard;
use super::links::SLOW;
use crate::chain::{RetryReason, Verdict};
use crate::lane::Fabric;
use crate::wire::ids::{Epoch, PartitionId, RequestId, Sequence};
use crate::wire::{ClockEntry, Header, RetryCode};

impl<F: Fabric> Shard<F> {
    pub(super) fn on_clock(&mut self, at: usize, header: &Header, now: Instant) {
        let lane = self.lanes[at].id;
        let bytes = header.length as usize;
        if bytes == 0 || !bytes.is_multiple_of(ClockEntry::BYTES) {
            // No entry can be told from another, so none can be answered.
            self.cut(at);
            return;
        }
        let live = self.note_route(header.session, at);
        for offset in (0..bytes).step_by(ClockEntry::BYTES) {
            let mut entry = ClockEntry::new_zeroed();
            self.fabric.copy_payload(lane, offset, entry.as_mut_bytes());
            self.on_clock_entry(at, header, &entry, live, now);
        }
        self.fabric.consume(lane);
    }

    fn on_clock_entry(&mut self, at: usize, header: &Header, entry: &ClockEntry, live: bool, now: Instant) {
        let partition = PartitionId(entry.partition.get());
        // A retry names the partition and the sending, which for a clock only the entry knows.
        let named = Header {
            partition,
            sequence: Sequence(entry.sequence.get()),
            request: RequestId(u64::from(entry.attempt.get())),
            ..*header
        };
        let Some(place) = self.place_of(partition) else {
            self.retry(at, &named, RetryCode::WrongHead, None, now);
            return;
        };
        if let Some(code) = self.held[place].turns_away(live) {
            self.retry(at, &named, code, Some(place), now);
            return;
        }
        match self.order_clock(place, header, entry) {
            Verdict::Ordered | Verdict::Duplicate => self.touch(place),
            Verdict::Retry(reason) => self.retry(at, &named, reason.code(), Some(place), now),
            Verdict::Ended => self.retry(at, &named, RetryCode::Ended, Some(place), now),
        }
    }

    fn order_clock(&mut self, place: usize, header: &Header, entry: &ClockEntry) -> Verdict {
        let (sequence, epoch) = (Sequence(entry.sequence.get()), Epoch(entry.epoch.get()));
        let resolved = Sequence(entry.resolved.get());
        let held = &mut self.held[place];
        let verdict = held.replica.clock(header.session, sequence, epoch, resolved, header.clock);
        if verdict != Verdict::Retry(RetryReason::LogFull) {
            return verdict;
        }
        held.settle();
        let verdict = held.replica.clock(header.session, sequence, epoch, resolved, header.clock);
        if verdict != Verdict::Retry(RetryReason::LogFull) {
            return verdict;
        }
        self.give_up_joiner(place, SLOW);
        self.held[place].replica.clock(header.session, sequence, epoch, resolved, header.clock)
    }
}
