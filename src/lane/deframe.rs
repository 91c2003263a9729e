//! Takes a TCP stream apart where it landed.
//!
//! ```text
//!   head            kept                 landed
//!    | owner records | partial or new ... |  room for recv ...
//! ```
//! Owner records stay in the ring and count against credit. The lane's own records are handled and taken out:
//! what follows moves down over them, each byte once per receive. So the ring holds at most the credit plus one
//! partial lane record, which the reserve has room for, and a receiver always receives (L3).

use gradwire_ffi::private_ring::PrivateRing;
use gradwire_ffi::sync::Tally;

use super::credit::Intake;
use super::shm_lane::FIRST_OWNER_KIND;
use super::{DownReason, max_record_bytes};
use crate::wire::{HEADER_BYTES, Header};

/// The inbox of a TCP lane.
#[derive(Debug)]
pub(super) struct Inbox {
    ring: PrivateRing,
    pub(super) intake: Intake,
    /// Owner records that are whole in the ring.
    accepted: Tally,
    /// Ring position up to which the stream was taken apart.
    kept: u64,
    /// Ring position up to which bytes came.
    landed: u64,
    /// Ring position of the first unconsumed owner record.
    head: u64,
    /// Nothing new can be known before `landed` is here.
    wanted: u64,
    /// Largest lane record.
    lane_record_limit: usize,
}

impl Inbox {
    pub(super) fn new(ring: PrivateRing, credit: Tally, lane_record_limit: usize) -> Self {
        Self {
            ring,
            intake: Intake::new(credit),
            accepted: Tally::default(),
            kept: 0,
            landed: 0,
            head: 0,
            wanted: HEADER_BYTES as u64,
            lane_record_limit,
        }
    }

    /// Where the next bytes go: ring, position, and how many fit.
    pub(super) fn room(&mut self) -> (&mut PrivateRing, u64, usize) {
        let free = self.ring.ring_bytes() - (self.landed - self.head) as usize;
        (&mut self.ring, self.landed, free)
    }

    /// Notes `bytes` received into the room, and takes them apart; `own` handles the lane's own records.
    /// True when an owner record became whole.
    pub(super) fn on_received(
        &mut self,
        bytes: usize,
        mut own: impl FnMut(&Header, &[u8]) -> Result<(), DownReason>,
    ) -> Result<bool, DownReason> {
        self.landed += bytes as u64;
        if self.landed < self.wanted {
            return Ok(false);
        }
        let before = self.accepted.records;
        let mut from = self.kept;
        let result = loop {
            let rest = self.landed - from;
            if rest < HEADER_BYTES as u64 {
                break Ok(HEADER_BYTES as u64);
            }
            let (header, record) = match self.check_header(from) {
                Ok(found) => found,
                Err(reason) => break Err(reason),
            };
            if rest < record as u64 {
                break Ok(record as u64);
            }
            if (header.kind as u16) < FIRST_OWNER_KIND {
                let payload = self.ring.slice(from + HEADER_BYTES as u64, header.length as usize);
                if let Err(reason) = own(&header, payload) {
                    break Err(reason);
                }
            } else {
                if from != self.kept {
                    self.ring.move_down(from, self.kept, record);
                }
                self.kept += record as u64;
                self.accepted.bytes += record as u64;
                self.accepted.records += 1;
            }
            from += record as u64;
        };
        if from != self.kept {
            let rest = (self.landed - from) as usize;
            self.ring.move_down(from, self.kept, rest);
            self.landed = self.kept + rest as u64;
        }
        self.wanted = self.kept + result?;
        Ok(self.accepted.records != before)
    }

    /// The header at `from`, and its record's bytes, within every limit.
    fn check_header(&self, from: u64) -> Result<(Header, usize), DownReason> {
        let mut bytes = [0; HEADER_BYTES];
        bytes.copy_from_slice(self.ring.slice(from, HEADER_BYTES));
        let header = Header::read(&bytes).map_err(DownReason::BadRecord)?;
        let record = header.record_bytes();
        let owner = (header.kind as u16) >= FIRST_OWNER_KIND;
        let limit = if owner { max_record_bytes(self.ring.ring_bytes()) } else { self.lane_record_limit };
        if record > limit {
            return Err(DownReason::RecordTooLarge { bytes: record as u64, limit });
        }
        if owner {
            self.intake.check(Tally {
                bytes: self.accepted.bytes + record as u64,
                records: self.accepted.records + 1,
            })?;
        }
        Ok((header, record))
    }

    /// The record at the head. It was checked when it came and nobody else can write here.
    pub(super) fn peek(&self) -> Result<Option<Header>, DownReason> {
        if self.head == self.kept {
            return Ok(None);
        }
        let mut bytes = [0; HEADER_BYTES];
        bytes.copy_from_slice(self.ring.slice(self.head, HEADER_BYTES));
        Header::read(&bytes).map(Some).map_err(DownReason::BadRecord)
    }

    /// Payload of the record at the head.
    pub(super) fn payload(&self, offset: usize, bytes: usize) -> &[u8] {
        self.ring.slice(self.head + (HEADER_BYTES + offset) as u64, bytes)
    }

    /// Drops the record at the head; true when enough credit is owed to tell.
    pub(super) fn consume(&mut self, record_bytes: usize) -> bool {
        self.head += record_bytes as u64;
        let owed = self.intake.consume(record_bytes as u64);
        // While the kernel receives, it does so behind what landed.
        if self.head == self.landed && !self.ring.is_lent() {
            self.rewind();
        }
        owed
    }

    /// An empty ring starts again at its beginning, which is still in the cache.
    fn rewind(&mut self) {
        self.wanted -= self.landed;
        self.head = 0;
        self.kept = 0;
        self.landed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::credit::limit_of;
    use crate::wire::Kind;
    use proptest::prelude::*;

    const RING: usize = 64 << 10;

    fn record(kind: Kind, fill: u8, length: usize) -> Vec<u8> {
        let header = Header::new(kind, length as u32);
        let mut bytes = header.to_bytes().to_vec();
        bytes.resize(header.record_bytes(), fill);
        bytes
    }

    fn inbox() -> Inbox {
        Inbox::new(PrivateRing::create(RING).unwrap(), limit_of(RING - 20_480), 20_480)
    }

    fn receive(inbox: &mut Inbox, bytes: &[u8], own: &mut Vec<u8>) -> Result<bool, DownReason> {
        let (ring, at, _) = inbox.room();
        ring.slice_mut(at, bytes.len()).copy_from_slice(bytes);
        inbox.on_received(bytes.len(), |_, payload| {
            own.push(payload[0]);
            Ok(())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn however_the_stream_is_cut_owner_records_stay_and_lane_records_leave(
            records in prop::collection::vec((any::<bool>(), 1u8..255, 1usize..3000), 1..120),
            cuts in prop::collection::vec(1usize..9000, 1..50),
        ) {
            let mut stream = Vec::new();
            let (mut owners, mut lanes) = (Vec::new(), Vec::new());
            for &(own, fill, length) in &records {
                if own { lanes.push(fill) } else { owners.push((fill, length)) }
                stream.extend(record(if own { Kind::Place } else { Kind::Push }, fill, length));
            }
            let mut inbox = inbox();
            let (mut got, mut own, mut at) = (Vec::new(), Vec::new(), 0);
            for cut in cuts.iter().cycle() {
                if at == stream.len() { break; }
                let step = (*cut).min(stream.len() - at).min(inbox.room().2);
                receive(&mut inbox, &stream[at..at + step], &mut own).unwrap();
                at += step;
                // Leave something behind now and then, so that the ring wraps.
                while let Some(header) = inbox.peek().unwrap() {
                    if step % 3 == 0 && at < stream.len() && inbox.room().2 > RING / 2 { break; }
                    let payload = inbox.payload(0, header.length as usize);
                    prop_assert!(payload.iter().all(|byte| *byte == payload[0]));
                    got.push((payload[0], header.length as usize));
                    inbox.consume(header.record_bytes());
                    // Told at once: this sender looks at the room alone, and the bound above keeps it within that credit.
                    inbox.intake.advertise();
                }
            }
            prop_assert_eq!(got, owners);
            prop_assert_eq!(own, lanes);
        }
    }

    #[test]
    fn a_sender_beyond_its_credit_is_cut_and_what_it_sent_before_is_kept() {
        let mut inbox = inbox();
        let (mut own, mut sent) = (Vec::new(), 0);
        let cut = loop {
            match receive(&mut inbox, &record(Kind::Push, 1, 1000), &mut own) {
                Ok(whole) => assert!(whole),
                Err(reason) => break reason,
            }
            sent += 1;
        };
        assert_eq!(cut, DownReason::CreditExceeded { unit: "bytes" });
        assert_eq!(sent, (RING - 20_480) / 1080);
        for _ in 0..sent {
            assert!(inbox.peek().unwrap().is_some());
            inbox.consume(1080);
        }
        assert_eq!(inbox.peek(), Ok(None));
    }

    #[test]
    fn lane_records_pass_while_the_ring_is_full() {
        let mut inbox = inbox();
        let mut own = Vec::new();
        for _ in 0..(RING - 20_480) / 4096 {
            receive(&mut inbox, &record(Kind::Push, 1, 4016), &mut own).unwrap();
        }
        for fill in 0..100 {
            receive(&mut inbox, &record(Kind::State, fill, 4000), &mut own).unwrap();
        }
        assert_eq!(own, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_record_above_the_limit_is_refused_by_its_header_alone() {
        let mut inbox = inbox();
        let header = Header::new(Kind::Push, u32::MAX).to_bytes();
        let reason = receive(&mut inbox, &header, &mut Vec::new()).unwrap_err();
        assert!(matches!(reason, DownReason::RecordTooLarge { limit: 16_384, .. }));
    }
}
