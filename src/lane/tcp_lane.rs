//! One end of a TCP lane: receives into its ring, sends from where records lie, credits in state records.

use gradwire_ffi::private_ring::PrivateRing;
use gradwire_ffi::socket::{Moved, shutdown};

use super::credit::{Allowance, limit_of};
use super::deframe::Inbox;
use super::driver::{Driver, Flow};
use super::grant::{Grants, PeerGrant};
use super::measure::Measure;
use super::outbox::{Outbox, Sent};
use super::state::{DirtyEntries, MAX_STATE_RECORD, decode};
use super::tcp::TcpEnd;
use super::{
    AdoptError, DownReason, Event, GrantId, LaneId, MAX_PLACE_BYTES, PlaceError, StateEntry, WriteError,
    max_record_bytes,
};
use crate::wire::ids::{RequestId, Sequence};
use crate::wire::{HEADER_BYTES, Header, Kind, WireError, padded};

/// From so many bytes on, a write is sent at once and not copied; below, writes of one turn go together.
const SEND_AT_ONCE: usize = 16 << 10;
/// Room in the outbox beyond the peer's credit, for bulk.
const BULK_ROOM: usize = 256 << 10;
/// Reads of snapshots that a peer may have waiting here.
const MAX_READS: usize = 64;

/// Largest bulk piece into a ring of this size.
fn piece_limit(ring_bytes: usize) -> usize {
    MAX_PLACE_BYTES.min(ring_bytes / 4)
}

/// Ring bytes that no credit is given for, so that lane records always find room.
fn reserve(ring_bytes: usize) -> usize {
    lane_record_limit(ring_bytes) + HEADER_BYTES
}

fn lane_record_limit(ring_bytes: usize) -> usize {
    (HEADER_BYTES + piece_limit(ring_bytes)).max(MAX_STATE_RECORD)
}

/// A peer's read of an own snapshot, waiting for room.
#[derive(Clone, Copy, Debug)]
struct ReadJob {
    grant: u64,
    offset: u64,
    bytes: usize,
    into: u64,
    into_offset: u64,
}

#[derive(Debug)]
pub(super) struct TcpLane {
    end: TcpEnd,
    flow: Flow,
    inbox: Inbox,
    outbox: Outbox,
    allowance: Allowance,
    dirty: DirtyEntries,
    /// Credit is to be told.
    credit_due: bool,
    /// A write asked to be sent.
    send_due: bool,
    /// The socket took no more; retried with the next readiness or paced poll.
    blocked: bool,
    /// There may be something to receive.
    readable: bool,
    /// The driver is to be told where to receive.
    unarmed: bool,
    /// The kernel reported the end: receiving goes on until it is reached.
    ending: bool,
    /// Sending failed; told when everything received before is read.
    broken: Option<DownReason>,
    pub(super) grants: Grants,
    reads: Vec<ReadJob>,
    asked: usize,
    fault: Option<DownReason>,
    down: bool,
}

impl TcpLane {
    pub(super) fn new(end: TcpEnd, driver: &mut dyn Driver, token: u64) -> Result<Self, AdoptError> {
        let (own, peer) = (end.own_ring_bytes, end.peer_ring_bytes);
        let inbox = PrivateRing::create(own)?;
        let outbox = PrivateRing::create((peer + BULK_ROOM).next_power_of_two())?;
        let flow = driver.attach(end.stream.clone(), token)?;
        Ok(Self {
            flow,
            inbox: Inbox::new(inbox, limit_of(own - reserve(own)), lane_record_limit(own)),
            outbox: Outbox::new(outbox),
            allowance: Allowance::new(limit_of(peer - reserve(peer))),
            end,
            dirty: DirtyEntries::default(),
            credit_due: false,
            send_due: false,
            blocked: false,
            readable: true,
            unarmed: true,
            ending: false,
            broken: None,
            grants: Grants::default(),
            reads: Vec::new(),
            asked: 0,
            fault: None,
            down: false,
        })
    }

    pub(super) fn flow(&self) -> Flow {
        self.flow
    }

    /// What the kernel reported.
    pub(super) fn on_ready(&mut self, readable: bool, writable: bool, hung_up: bool) {
        self.readable |= readable || hung_up;
        self.ending |= hung_up;
        self.blocked &= !writable;
    }

    /// Receives if something may be there, sends what is due. True when bytes came.
    pub(super) fn poll(
        &mut self,
        id: LaneId,
        driver: &mut dyn Driver,
        try_now: bool,
        events: &mut Vec<Event>,
    ) -> bool {
        if self.down {
            return false;
        }
        let mut came = false;
        if (self.readable || try_now) && self.fault.is_none() {
            came = self.receive(id, driver, events);
        }
        self.blocked &= !try_now;
        self.flush(driver);
        if let Some(reason) = self.fault.take() {
            self.down = true;
            events.push(Event::Down { lane: id, reason });
        }
        came
    }

    /// Tells the driver where to receive, if it receives by itself and was not told since the last time. Best when
    /// everything that came is consumed: then it lands where the cache is warm.
    #[inline]
    pub(super) fn arm(&mut self, driver: &mut dyn Driver) {
        if self.unarmed && !self.down && self.fault.is_none() {
            self.unarmed = false;
            let (ring, at, room) = self.inbox.room();
            driver.arm(self.flow, ring, at, room);
        }
    }

    /// Whether [`TcpLane::arm`] is due.
    #[inline]
    pub(super) fn is_unarmed(&self) -> bool {
        self.unarmed && !self.down
    }

    fn receive(&mut self, id: LaneId, driver: &mut dyn Driver, events: &mut Vec<Event>) -> bool {
        let (ring, at, wanted) = self.inbox.room();
        let Some(moved) = driver.receive(self.flow, ring, at, wanted) else {
            self.readable = false;
            return false;
        };
        self.unarmed = true;
        match moved {
            Moved::Bytes(bytes) => {
                self.readable = bytes == wanted || self.ending || self.broken.is_some();
                let Self { inbox, allowance, grants, reads, asked, .. } = self;
                let received = inbox.on_received(bytes, |header, payload| {
                    on_lane_record(id, header, payload, allowance, grants, reads, asked, events)
                });
                match received {
                    Ok(true) => events.push(Event::Arrived(id)),
                    Ok(false) => {}
                    Err(reason) => {
                        // Records that became whole before the bad one can be read.
                        events.push(Event::Arrived(id));
                        self.fail(reason);
                    }
                }
                true
            }
            Moved::WouldBlock => {
                self.readable = false;
                if let Some(reason) = self.broken.take() {
                    self.fail(reason);
                }
                false
            }
            Moved::End => {
                let reason = self.broken.take().unwrap_or(DownReason::PeerClosed);
                self.fail(reason);
                false
            }
            Moved::Failed(errno) => {
                self.fail(failure(errno));
                false
            }
        }
    }

    /// Sends what is due.
    #[inline]
    pub(super) fn flush(&mut self, driver: &mut dyn Driver) {
        if self.blocked || self.down || self.fault.is_some() || !self.has_due() {
            return;
        }
        self.send_due(driver);
    }

    pub(super) fn has_due(&self) -> bool {
        self.send_due
            || self.credit_due
            || !self.dirty.is_empty()
            || !self.reads.is_empty()
            || !self.outbox.ahead_is_free()
    }

    fn send_due(&mut self, driver: &mut dyn Driver) {
        loop {
            self.answer_reads();
            if (self.credit_due || !self.dirty.is_empty()) && self.outbox.ahead_is_free() {
                let consumed = self.inbox.intake.advertise();
                let dirty = &mut self.dirty;
                self.outbox.put_ahead(|out| dirty.encode(consumed, out));
                self.credit_due = false;
            }
            let sent = self.outbox.send(driver, self.flow);
            self.on_sent(sent);
            if sent != Sent::All || !self.has_due() {
                return;
            }
        }
    }

    fn on_sent(&mut self, sent: Sent) {
        match sent {
            Sent::All => self.send_due = false,
            Sent::Blocked => {
                self.blocked = true;
                self.send_due = true;
            }
            Sent::Failed(errno) => {
                // What the peer sent before it died may still lie in the socket: read it first, up to the end.
                self.cut();
                self.blocked = true;
                self.readable = true;
                self.broken.get_or_insert(failure(errno));
            }
        }
    }

    pub(super) fn peek(&self) -> Result<Option<Header>, DownReason> {
        self.inbox.peek()
    }

    pub(super) fn payload(&self, offset: usize, bytes: usize) -> &[u8] {
        self.inbox.payload(offset, bytes)
    }

    #[inline]
    pub(super) fn consume(&mut self, record_bytes: usize) {
        self.credit_due |= self.inbox.consume(record_bytes);
    }

    pub(super) fn max_record(&self) -> usize {
        max_record_bytes(self.end.peer_ring_bytes)
    }

    pub(super) fn credit(&self) -> usize {
        if self.is_over() { 0 } else { self.allowance.left().bytes as usize }
    }

    pub(super) fn write(
        &mut self,
        driver: &mut dyn Driver,
        parts: &[&[u8]],
        measure: Measure,
        notify: bool,
    ) -> Result<(), WriteError> {
        if self.is_over() {
            return Err(WriteError::Down);
        }
        let limit = self.max_record();
        if measure.largest > limit {
            return Err(WriteError::TooLarge { limit });
        }
        if measure.tally.bytes > self.allowance.largest_write()
            || measure.tally.records > self.allowance.largest_count()
        {
            return Err(WriteError::TooLarge { limit: self.allowance.largest_write() as usize });
        }
        if !self.allowance.take(measure.tally) {
            return Err(WriteError::Full);
        }
        let at_once = self.outbox.pending() + measure.tally.bytes as usize >= SEND_AT_ONCE;
        if at_once && notify && !self.blocked {
            let sent = self.outbox.send_with(driver, self.flow, parts);
            self.on_sent(sent);
        } else {
            self.outbox.append(parts);
            self.send_due |= notify;
        }
        Ok(())
    }

    pub(super) fn publish(&mut self, entry: StateEntry) {
        if !self.is_over() {
            self.dirty.put(entry);
        }
    }

    /// Appends a bulk record if all remaining credit still fits beside it.
    fn bulk(&mut self, header: &Header, parts: &[&[u8]]) -> Result<(), PlaceError> {
        let need = header.record_bytes() as u64 + self.allowance.left().bytes;
        if (self.outbox.free() as u64) < need {
            return Err(PlaceError::Full);
        }
        self.outbox.append(&[&header.to_bytes()]);
        self.outbox.append(parts);
        let length = header.length as usize;
        self.outbox.append(&[&[0; 8][..padded(length) - length]]);
        self.send_due = true;
        Ok(())
    }

    pub(super) fn place(
        &mut self,
        grant: PeerGrant,
        offset: usize,
        parts: &[&[u8]],
    ) -> Result<(), PlaceError> {
        let bytes = parts.iter().map(|part| part.len()).sum();
        self.check_piece(grant, offset, bytes, piece_limit(self.end.peer_ring_bytes))?;
        let header = Header {
            request: RequestId(grant.id),
            sequence: Sequence(offset as u64),
            ..Header::new(Kind::Place, bytes as u32)
        };
        self.bulk(&header, parts)
    }

    fn check_piece(
        &self,
        grant: PeerGrant,
        offset: usize,
        bytes: usize,
        limit: usize,
    ) -> Result<(), PlaceError> {
        if self.is_over() {
            return Err(PlaceError::Down);
        }
        if bytes > limit {
            return Err(PlaceError::TooLarge { bytes, limit });
        }
        if offset.checked_add(bytes).is_none_or(|end| end as u64 > grant.bytes) {
            return Err(PlaceError::OutOfBounds { offset, bytes, granted: grant.bytes });
        }
        Ok(())
    }

    pub(super) fn read(
        &mut self,
        from: PeerGrant,
        from_offset: usize,
        into: GrantId,
        into_offset: usize,
        bytes: usize,
    ) -> Result<(), PlaceError> {
        self.check_piece(from, from_offset, bytes, piece_limit(self.end.own_ring_bytes))?;
        self.grants.check(into, into_offset, bytes)?;
        if self.asked >= MAX_READS {
            return Err(PlaceError::Full);
        }
        let header = Header {
            request: RequestId(from.id),
            sequence: Sequence(from_offset as u64),
            ..Header::new(Kind::Read, READ_BYTES as u32)
        };
        let mut body = [0; READ_BYTES];
        for (word, value) in body.chunks_exact_mut(8).zip([into.0, into_offset as u64, bytes as u64]) {
            word.copy_from_slice(&value.to_le_bytes());
        }
        self.bulk(&header, &[&body])?;
        self.asked += 1;
        Ok(())
    }

    fn answer_reads(&mut self) {
        while let Some(job) = self.reads.first().copied() {
            let piece = match self.grants.on_read(job.grant, job.offset, job.bytes) {
                Ok(piece) => piece.unwrap_or(&[]).to_vec(),
                Err(reason) => {
                    self.reads.clear();
                    return self.fail(reason);
                }
            };
            let header = Header {
                request: RequestId(job.into),
                sequence: Sequence(job.into_offset),
                ..Header::new(Kind::ReadReply, piece.len() as u32)
            };
            if self.bulk(&header, &[&piece]).is_err() {
                return;
            }
            self.reads.remove(0);
        }
    }

    /// Before sleeping: whether there is something to do first.
    pub(super) fn has_news(&self) -> bool {
        !self.down && (self.readable || self.fault.is_some() || (self.has_due() && !self.blocked))
    }

    pub(super) fn fail(&mut self, reason: DownReason) {
        if !self.down {
            self.fault.get_or_insert(reason);
        }
    }

    fn is_over(&self) -> bool {
        self.down || self.fault.is_some() || self.broken.is_some()
    }

    pub(super) fn is_down(&self) -> bool {
        self.down
    }

    /// Ends both directions at once.
    pub(super) fn cut(&self) {
        shutdown(&self.end.stream);
    }
}

/// Target grant, offset in it, bytes.
const READ_BYTES: usize = 24;

fn failure(errno: i32) -> DownReason {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    match std::io::Error::from_raw_os_error(errno).kind() {
        ConnectionReset | BrokenPipe => DownReason::PeerReset,
        _ => DownReason::Io { errno },
    }
}

/// Handles one of the lane's own records while the stream is taken apart.
#[allow(clippy::too_many_arguments, reason = "the parts of one lane, borrowed apart from its inbox")]
fn on_lane_record(
    lane: LaneId,
    header: &Header,
    payload: &[u8],
    allowance: &mut Allowance,
    grants: &mut Grants,
    reads: &mut Vec<ReadJob>,
    asked: &mut usize,
    events: &mut Vec<Event>,
) -> Result<(), DownReason> {
    match header.kind {
        Kind::State => {
            let consumed = decode(payload, |entry| events.push(Event::Entry { lane, entry }))?;
            allowance.on_consumed(consumed)
        }
        Kind::Place => grants.on_place(header.request.0, header.sequence.0, payload),
        Kind::Read => {
            let bad = || DownReason::Impossible { what: "read of a grant" };
            let words: &[u8; READ_BYTES] = payload.try_into().map_err(|_| bad())?;
            let word = |at: usize| {
                let mut word = [0; 8];
                word.copy_from_slice(&words[at..at + 8]);
                u64::from_le_bytes(word)
            };
            let bytes = usize::try_from(word(16)).map_err(|_| bad())?;
            if bytes > MAX_PLACE_BYTES || reads.len() >= MAX_READS {
                return Err(bad());
            }
            reads.push(ReadJob {
                grant: header.request.0,
                offset: header.sequence.0,
                bytes,
                into: word(0),
                into_offset: word(8),
            });
            Ok(())
        }
        Kind::ReadReply => {
            let impossible = DownReason::Impossible { what: "answer to a read" };
            *asked = asked.checked_sub(1).ok_or(impossible)?;
            grants.on_place(header.request.0, header.sequence.0, payload)?;
            events.push(Event::ReadDone {
                lane,
                into: GrantId(header.request.0),
                offset: header.sequence.0 as usize,
                bytes: payload.len(),
            });
            Ok(())
        }
        other => Err(DownReason::BadRecord(WireError::Kind { found: other as u16 })),
    }
}
