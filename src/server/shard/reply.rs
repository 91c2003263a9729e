//! What a shard says back: outcomes, retries, small replies; and what waits when a lane has no credit.

use std::time::Instant;

use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::U16;

use super::{ANSWER_PATIENCE, Shard};
use crate::chain::Outcome;
use crate::lane::{Fabric, LaneId, WriteError};
use crate::wire::ids::PartitionId;
use crate::wire::{HEADER_BYTES, Header, Kind, OutcomeBody, RefusedEntry, RetryBody, RetryCode, padded};

/// Refusals named by one outcome; a client hears of the rest once it has resolved these. 16 bytes each, so that an
/// outcome fits the smallest ring's largest record.
const REFUSALS_TOLD: usize = 256;

/// What fills a record up to the 8 bytes the next one starts at.
const PADDING: [u8; 8] = [0; 8];

impl<F: Fabric> Shard<F> {
    /// Tells the outcomes of this turn's pushes. False when there was nothing to tell.
    pub(super) fn reply(&mut self, now: Instant) -> bool {
        let Self { touched, held, sessions, fabric, lanes, .. } = self;
        let any = !touched.is_empty();
        touched.retain(|&place| {
            let held = &mut held[place as usize];
            let (partition, epoch) = (held.partition, held.replica.epoch());
            held.replica.outcomes(|outcome| {
                // Without a lane the outcome is as good as told: the session's resend asks for it again.
                let Some(Some(lane)) = sessions.get(&outcome.session) else { return true };
                let header = Header { epoch, ..outcome_header(&outcome, partition) };
                match write_outcome(fabric, *lane, &header, &outcome) {
                    Ok(()) | Err(WriteError::Down | WriteError::TooLarge { .. }) => true,
                    Err(WriteError::Full) => {
                        if let Some(seat) = lanes.iter_mut().find(|seat| seat.id == *lane) {
                            seat.stuck_since.get_or_insert(now);
                        }
                        false
                    }
                }
            });
            held.touched = held.replica.has_outcomes();
            held.touched
        });
        any && self.touched.is_empty()
    }

    /// Tells a client to send a record again.
    pub(super) fn retry(
        &mut self,
        at: usize,
        to: &Header,
        code: RetryCode,
        place: Option<usize>,
        now: Instant,
    ) {
        self.counts.retries += 1;
        let replica = place.map(|place| &self.held[place].replica);
        let epoch = replica.map_or(to.epoch, |replica| replica.epoch());
        let expected = replica.and_then(|replica| replica.expected(to.session)).unwrap_or_default();
        let body = RetryBody {
            expected: expected.0.into(),
            epoch: epoch.0.into(),
            code: code.to_wire().into(),
            reserved: [0; 6],
        };
        self.answer(at, &reply_to(to, Kind::Retry), &[body.as_bytes()], now);
    }

    /// Writes one reply record, its payload given in parts, or keeps it until there is credit.
    pub(super) fn answer(&mut self, at: usize, header: &Header, payload: &[&[u8]], now: Instant) {
        if self.lanes[at].down {
            return;
        }
        let bytes: usize = payload.iter().map(|part| part.len()).sum();
        let head = Header { length: bytes as u32, ..*header }.to_bytes();
        let padding = &PADDING[..padded(bytes) - bytes];
        let mut parts: [&[u8]; 6] = [&head, &[], &[], &[], &[], padding];
        assert!(payload.len() <= 4, "a reply of {} parts", payload.len());
        parts[1..=payload.len()].copy_from_slice(payload);
        let lane = self.lanes[at].id;
        if self.lanes[at].backlog.is_empty() {
            match self.fabric.write(lane, &parts, true) {
                Ok(()) => return,
                // The event comes, and with it the end of the lane.
                Err(WriteError::Down) => return,
                Err(WriteError::TooLarge { .. }) => return self.cut(at),
                Err(WriteError::Full) => {}
            }
        }
        self.stuck(at, now);
        for part in parts {
            self.lanes[at].backlog.extend_from_slice(part);
        }
    }

    /// Goes on with the answers that found no credit. False when none moved.
    pub(super) fn serve_answers(&mut self, now: Instant) -> bool {
        let mut any = false;
        for at in 0..self.lanes.len() {
            if self.lanes[at].owes() && !self.lanes[at].cut {
                any |= self.serve_backlog(at);
                while self.lanes[at].backlog.is_empty() && !self.lanes[at].cut {
                    let Some(mut answer) = self.lanes[at].answers.pop_front() else { break };
                    let before = answer.position();
                    let done = self.serve(at, &mut answer, now);
                    any |= done || answer.position() != before;
                    if !done {
                        self.lanes[at].answers.push_front(answer);
                        break;
                    }
                    self.keep_spare(answer.into_buffer());
                }
            }
            self.judge_stuck(at, now);
        }
        any
    }

    /// Ends a wait for credit that is over, and cuts a lane whose wait was too long.
    fn judge_stuck(&mut self, at: usize, now: Instant) {
        let Some(since) = self.lanes[at].stuck_since else { return };
        let lane = self.lanes[at].id;
        let owes = self.lanes[at].owes() || self.owes_outcomes(lane);
        if !owes {
            self.lanes[at].stuck_since = None;
        } else if now.saturating_duration_since(since) > ANSWER_PATIENCE {
            self.cut(at);
        }
    }

    /// Whether an outcome for a session of this lane could not be told.
    fn owes_outcomes(&self, lane: LaneId) -> bool {
        !self.touched.is_empty() && self.sessions.values().any(|route| *route == Some(lane))
    }

    /// Sends the records that were kept, as many as fit, whole ones only.
    fn serve_backlog(&mut self, at: usize) -> bool {
        let seat = &mut self.lanes[at];
        let mut sent = 0;
        while let Some(record) = next_record(&seat.backlog[sent..]) {
            match self.fabric.write(seat.id, &[record], true) {
                Ok(()) => sent += record.len(),
                Err(WriteError::Full) => break,
                Err(WriteError::Down | WriteError::TooLarge { .. }) => {
                    self.cut(at);
                    return true;
                }
            }
        }
        seat.backlog.drain(..sent);
        sent > 0
    }
}

/// The first record of our own bytes.
fn next_record(bytes: &[u8]) -> Option<&[u8]> {
    let head: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
    let header = Header::read(head);
    assert!(header.is_ok(), "a kept record lost its header: {header:?}");
    bytes.get(..header.ok()?.record_bytes())
}

/// A header that answers `to`.
pub(super) fn reply_to(to: &Header, kind: Kind) -> Header {
    Header {
        session: to.session,
        flow: to.flow,
        request: to.request,
        sequence: to.sequence,
        epoch: to.epoch,
        shard: to.shard,
        table: to.table,
        partition: to.partition,
        ..Header::new(kind, 0)
    }
}

fn outcome_header(outcome: &Outcome<'_>, partition: PartitionId) -> Header {
    let told = outcome.refused.len().min(REFUSALS_TOLD);
    let bytes = OutcomeBody::BYTES + told * RefusedEntry::BYTES;
    Header { session: outcome.session, partition, ..Header::new(Kind::Outcome, bytes as u32) }
}

fn write_outcome<F: Fabric>(
    fabric: &mut F,
    lane: LaneId,
    header: &Header,
    outcome: &Outcome<'_>,
) -> Result<(), WriteError> {
    let refused = &outcome.refused[..outcome.refused.len().min(REFUSALS_TOLD)];
    // Past the refusals that are told, nothing may look acknowledged.
    let horizon = outcome.refused.get(refused.len()).map_or(u64::MAX, |(sequence, _)| sequence.0 - 1);
    let body = OutcomeBody {
        applied: outcome.applied.0.min(horizon).into(),
        replicated: outcome.replicated.0.min(horizon).into(),
        refused: (refused.len() as u32).into(),
        reserved: 0.into(),
    };
    let head = header.to_bytes();
    if refused.is_empty() {
        return fabric.write(lane, &[&head, body.as_bytes()], true);
    }
    let mut entries = [RefusedEntry { sequence: 0.into(), code: U16::ZERO, reserved: [0; 6] }; REFUSALS_TOLD];
    for (entry, (sequence, code)) in entries.iter_mut().zip(refused) {
        entry.sequence = sequence.0.into();
        entry.code = code.to_wire().into();
    }
    fabric.write(lane, &[&head, body.as_bytes(), entries[..refused.len()].as_bytes()], true)
}
