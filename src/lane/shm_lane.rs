//! One end of a shared-memory lane: records straight into the peer's ring, counters beside it.
//!
//! The peer may write anything at any time. Its counters are checked against what it was allowed before they are
//! used; records are copied out header by header, payload by payload, and only the copies are looked at.

use std::collections::HashMap;

use gradwire_ffi::sync::{Arm, ReceiverLine, SenderLine, StateSlot, Tally};
use std::sync::atomic::{AtomicU64, Ordering};

use super::credit::{Allowance, Intake, limit_of};
use super::driver::Source;
use super::grant::{Grants, PeerMaps, announce_release};
use super::measure::Measure;
use super::shm::{DIRTY_WORDS, ShmEnd};
use super::state::STATE_ENTRIES;
use super::{
    DownReason, Event, GrantId, LaneId, MAX_PLACE_BYTES, PeerGrant, PlaceError, StateEntry, WriteError,
    max_record_bytes,
};
use crate::wire::ids::PartitionId;
use crate::wire::{HEADER_BYTES, Header, Kind, WireError};

/// Kinds below this belong to lanes; in a ring of shared memory none of them is right.
pub(super) const FIRST_OWNER_KIND: u16 = Kind::Push as u16;

/// Bytes that a request of a few keys and its answer take at most: so many are prefetched, by the writer before it has anything
/// to write, by the reader as soon as it sees that there is something.
const SMALL_RECORD: u64 = 256;

#[derive(Debug)]
pub(super) struct ShmLane {
    pub(super) end: ShmEnd,
    allowance: Allowance,
    intake: Intake,
    /// Checked copy of the peer's counters.
    seen: Tally,
    /// Last announced count of the peer's state changes.
    seen_changes: u64,
    /// Dirty bits taken but not read yet because the entry was torn.
    torn: [u64; DIRTY_WORDS],
    any_torn: bool,
    /// Where each partition's entry lies, and the versions written.
    places: HashMap<PartitionId, usize>,
    versions: Vec<u64>,
    changes: u64,
    /// Bytes written when the peer was last told.
    told: u64,
    /// What was done since the last look at the peer's doorbell.
    arrivals_unrung: bool,
    credit_unrung: bool,
    pub(super) grants: Grants,
    pub(super) peer_maps: PeerMaps,
    /// Found, but not told yet; told after a last look at the counters.
    fault: Option<DownReason>,
    /// Told.
    down: bool,
}

impl ShmLane {
    pub(super) fn new(end: ShmEnd) -> Self {
        let limit = limit_of(end.ring_bytes);
        Self {
            end,
            allowance: Allowance::new(limit),
            intake: Intake::new(limit),
            seen: Tally::default(),
            seen_changes: 0,
            torn: [0; DIRTY_WORDS],
            any_torn: false,
            places: HashMap::new(),
            versions: Vec::new(),
            changes: 0,
            told: 0,
            arrivals_unrung: false,
            credit_unrung: false,
            grants: Grants::default(),
            peer_maps: PeerMaps::default(),
            fault: None,
            down: false,
        }
    }

    fn own_sender(&self) -> &SenderLine {
        &self.end.senders[self.end.side]
    }

    fn peer_sender(&self) -> &SenderLine {
        &self.end.senders[1 - self.end.side]
    }

    /// Where this side says what it consumed, and whether it sleeps.
    fn own_receiver(&self) -> &ReceiverLine {
        &self.end.receivers[1 - self.end.side]
    }

    fn peer_receiver(&self) -> &ReceiverLine {
        &self.end.receivers[self.end.side]
    }

    fn offset(&self, position: u64) -> usize {
        (position & (self.end.ring_bytes as u64 - 1)) as usize
    }

    /// Looks at the peer's counters; one cache line when nothing happened.
    #[inline]
    pub(super) fn poll(&mut self, id: LaneId, events: &mut Vec<Event>) {
        let sender = self.peer_sender();
        let still =
            sender.published_bytes() == self.seen.bytes && sender.state_changes() == self.seen_changes;
        if self.down || still && !self.any_torn && self.fault.is_none() {
            return;
        }
        // A hang-up was noticed before this look at the counters: what was published before it is seen.
        let fault = self.fault.take();
        if let Some(reason) = self.look(id, events).err().or(fault) {
            self.down = true;
            events.push(Event::Down { lane: id, reason });
        }
    }

    /// The lane is over; the next poll says so. The first reason counts.
    pub(super) fn fail(&mut self, reason: DownReason) {
        if !self.down {
            self.fault.get_or_insert(reason);
        }
    }

    #[inline]
    fn look(&mut self, id: LaneId, events: &mut Vec<Event>) -> Result<(), DownReason> {
        let published = self.peer_sender().published();
        if published.bytes != self.seen.bytes {
            self.intake.check(published)?;
            if published.bytes < self.seen.bytes || published.records < self.seen.records {
                return Err(DownReason::Impossible { what: "count of published bytes or records" });
            }
            let new = published.bytes.wrapping_sub(self.intake.consumed().bytes).min(SMALL_RECORD);
            self.end.inbox.expect_copy_out(self.offset(self.intake.consumed().bytes), new as usize);
            self.seen = published;
            events.push(Event::Arrived(id));
        }
        let changes = self.peer_sender().state_changes();
        if changes != self.seen_changes || self.any_torn {
            self.seen_changes = changes;
            self.collect_state(id, events)?;
        }
        Ok(())
    }

    #[cold]
    fn collect_state(&mut self, id: LaneId, events: &mut Vec<Event>) -> Result<(), DownReason> {
        self.any_torn = false;
        let direction = 1 - self.end.side;
        for word in 0..DIRTY_WORDS {
            let shared: &AtomicU64 = &self.end.dirty[direction * DIRTY_WORDS + word];
            let mut bits = self.torn[word];
            if shared.load(Ordering::Relaxed) != 0 {
                // Partner: the fetch_or in `publish`: the entry behind a bit is visible.
                bits |= shared.swap(0, Ordering::Acquire);
            }
            self.torn[word] = 0;
            while bits != 0 {
                let bit = bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let slot: &StateSlot = &self.end.slots[direction * STATE_ENTRIES + word * 64 + bit];
                match slot.read() {
                    Ok((_, words)) => {
                        events.push(Event::Entry { lane: id, entry: StateEntry::from_words(words)? });
                    }
                    Err(_) => {
                        self.torn[word] |= 1 << bit;
                        self.any_torn = true;
                    }
                }
            }
        }
        Ok(())
    }

    /// The record at the head of the inbox.
    #[inline]
    pub(super) fn peek(&mut self) -> Result<Option<Header>, DownReason> {
        let head = self.intake.consumed();
        let there = self.seen.bytes - head.bytes;
        if there == 0 {
            return Ok(None);
        }
        if there < HEADER_BYTES as u64 || !there.is_multiple_of(8) {
            return Err(DownReason::Impossible { what: "count of published bytes or records" });
        }
        let mut bytes = [0; HEADER_BYTES];
        self.end.inbox.copy_out(self.offset(head.bytes), &mut bytes);
        let header = Header::read(&bytes).map_err(DownReason::BadRecord)?;
        if (header.kind as u16) < FIRST_OWNER_KIND {
            return Err(DownReason::BadRecord(WireError::Kind { found: header.kind as u16 }));
        }
        let limit = max_record_bytes(self.end.ring_bytes);
        // Padding is at most 7 bytes and the length 32 bits: no overflow.
        let record = header.record_bytes();
        if record > limit {
            return Err(DownReason::RecordTooLarge { bytes: record as u64, limit });
        }
        if record as u64 > there {
            return Err(DownReason::Impossible { what: "count of published bytes or records" });
        }
        if head.records >= self.seen.records {
            return Err(DownReason::CreditExceeded { unit: "records" });
        }
        Ok(Some(header))
    }

    /// Copies payload of the record at the head.
    #[inline]
    pub(super) fn copy_payload(&self, offset: usize, out: &mut [u8]) {
        let start = self.offset(self.intake.consumed().bytes) + HEADER_BYTES + offset;
        self.end.inbox.copy_out(start, out);
    }

    #[inline]
    pub(super) fn consume(&mut self, record_bytes: usize) {
        if self.intake.consume(record_bytes as u64) {
            self.return_credit();
        }
    }

    fn return_credit(&mut self) {
        let consumed = self.intake.advertise();
        self.own_receiver().release(consumed);
        self.credit_unrung = true;
    }

    pub(super) fn credit(&self) -> usize {
        if self.down {
            return 0;
        }
        let written = self.allowance.written();
        let consumed = self.peer_receiver().consumed();
        let held = written.bytes.wrapping_sub(consumed.bytes);
        (self.end.ring_bytes as u64).saturating_sub(held) as usize
    }

    #[inline]
    pub(super) fn write(
        &mut self,
        parts: &[&[u8]],
        measure: Measure,
        notify: bool,
    ) -> Result<(), WriteError> {
        if self.down || self.fault.is_some() {
            return Err(WriteError::Down);
        }
        let limit = max_record_bytes(self.end.ring_bytes);
        if measure.largest > limit {
            return Err(WriteError::TooLarge { limit });
        }
        if measure.tally.bytes > self.allowance.largest_write()
            || measure.tally.records > self.allowance.largest_count()
        {
            return Err(WriteError::TooLarge { limit: self.allowance.largest_write() as usize });
        }
        let start = self.allowance.written().bytes;
        if !self.allowance.take(measure.tally) {
            self.refresh_credit()?;
            if !self.allowance.take(measure.tally) {
                return Err(WriteError::Full);
            }
        }
        let mut offset = self.offset(start);
        for part in parts {
            self.end.outbox.copy_in(offset, part);
            offset += part.len();
        }
        if notify {
            self.own_sender().publish(self.allowance.written());
            self.arrivals_unrung = true;
            let written = self.allowance.written().bytes;
            if written - self.told <= SMALL_RECORD {
                self.end.outbox.hand_over(self.offset(self.told), (written - self.told) as usize);
            }
            self.told = written;
            // The next record's lines, last touched a ring ago.
            self.end.outbox.expect_copy_in(self.offset(written), SMALL_RECORD as usize);
        }
        Ok(())
    }

    /// Looks at the peer's consumption; what cannot be takes the lane down with the next poll.
    fn refresh_credit(&mut self) -> Result<(), WriteError> {
        let consumed = self.peer_receiver().consumed();
        self.allowance.on_consumed(consumed).map_err(|reason| {
            self.fail(reason);
            WriteError::Down
        })
    }

    pub(super) fn publish(&mut self, entry: StateEntry) {
        let free = self.places.len();
        let place = *self.places.entry(entry.partition).or_insert(free);
        if place >= STATE_ENTRIES {
            self.fail(DownReason::StateFull { limit: STATE_ENTRIES });
            return;
        }
        if place >= self.versions.len() {
            self.versions.push(0);
        }
        self.versions[place] += 1;
        let direction = self.end.side;
        self.end.slots[direction * STATE_ENTRIES + place].write(self.versions[place], &entry.to_words());
        // Partner: the swap in `collect_state`.
        self.end.dirty[direction * DIRTY_WORDS + place / 64].fetch_or(1 << (place % 64), Ordering::Release);
        self.changes += 1;
        self.own_sender().announce_state(self.changes);
        self.arrivals_unrung = true;
    }

    /// Whether the peer's doorbell must be looked at before the turn ends.
    pub(super) fn needs_bell(&self) -> bool {
        self.arrivals_unrung || self.credit_unrung
    }

    /// Rings if the peer asked for it. A full fence lies between what was published and this.
    pub(super) fn ring(&mut self) {
        let what = if self.arrivals_unrung { Arm::Arrivals } else { Arm::Credit };
        if self.peer_receiver().take_doorbell(what) {
            self.end.peer_bell.ring();
        }
        self.arrivals_unrung = false;
        self.credit_unrung = false;
    }

    /// Before sleeping: gives back all credit.
    pub(super) fn settle(&mut self) {
        if self.intake.owes() {
            self.return_credit();
        }
    }

    /// Before sleeping: asks for the doorbell. A full fence and `has_news` follow.
    pub(super) fn arm(&self) {
        let arm = if self.allowance.is_short() { Arm::Credit } else { Arm::Arrivals };
        self.own_receiver().arm(arm);
    }

    /// Whether anything came that was not told: records, state, an end, or credit for one who is short of it. Shortness is
    /// judged by the last credit this side acted on, so credit that came since a refused write counts as news, once.
    /// A torn entry is none: whoever finishes writing it announces it and rings.
    pub(super) fn has_news(&mut self) -> bool {
        if self.down {
            return false;
        }
        let sender = self.peer_sender();
        if sender.published().bytes != self.seen.bytes
            || sender.state_changes() != self.seen_changes
            || self.fault.is_some()
        {
            return true;
        }
        let consumed = self.peer_receiver().consumed();
        let more = self.allowance.is_short() && consumed != self.allowance.consumed();
        // What cannot be becomes a fault, which is news as well.
        more && (self.refresh_credit().is_ok() || self.fault.is_some())
    }

    pub(super) fn disarm(&self) {
        self.own_receiver().disarm();
    }

    /// Reads what came over the socket: announcements of grants, or the end.
    pub(super) fn read_socket(&mut self) {
        if let Err(reason) = self.peer_maps.receive(&self.end.socket) {
            self.fail(reason);
        }
    }

    /// Writes into a peer's grant; what was written is visible before anything published afterwards.
    pub(super) fn place(
        &mut self,
        grant: PeerGrant,
        offset: usize,
        parts: &[&[u8]],
    ) -> Result<(), PlaceError> {
        self.check_piece(grant, offset, parts.iter().map(|part| part.len()).sum())?;
        self.peer_maps.place(grant, offset, parts)
    }

    /// Copies from a peer's snapshot into an own grant.
    pub(super) fn read(
        &mut self,
        from: PeerGrant,
        from_offset: usize,
        into: GrantId,
        into_offset: usize,
        bytes: usize,
    ) -> Result<(), PlaceError> {
        self.check_piece(from, from_offset, bytes)?;
        self.grants.check(into, into_offset, bytes)?;
        self.peer_maps.read(&self.grants, from, from_offset, into, into_offset, bytes)
    }

    pub(super) fn release_grant(&mut self, grant: GrantId) {
        if self.grants.release(grant) {
            announce_release(&self.end.socket, grant);
        }
    }

    fn check_piece(&mut self, grant: PeerGrant, offset: usize, bytes: usize) -> Result<(), PlaceError> {
        if !self.peer_maps.knows(grant) {
            self.read_socket();
        }
        if self.down || self.fault.is_some() {
            return Err(PlaceError::Down);
        }
        let limit = MAX_PLACE_BYTES.min(max_record_bytes(self.end.ring_bytes));
        if bytes > limit {
            return Err(PlaceError::TooLarge { bytes, limit });
        }
        if offset.checked_add(bytes).is_none_or(|end| end as u64 > grant.bytes) {
            return Err(PlaceError::OutOfBounds { offset, bytes, granted: grant.bytes });
        }
        Ok(())
    }

    pub(super) fn is_down(&self) -> bool {
        self.down
    }

    /// Descriptors to watch: socket, doorbell.
    pub(super) fn sources(&self) -> [Source; 2] {
        [self.end.socket.clone(), self.end.own_bell.clone()]
    }
}
