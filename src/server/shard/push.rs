//! A push: admitted by its header, copied once into the log, validated there, applied, made an entry.

use std::time::Instant;

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::keys::Naming;
use super::rows::Values;
use super::{Shard, settle};
use crate::chain::{Admission, EntryFlags, LogSlot, PushHead};
use crate::lane::Fabric;
use crate::wire::ids::Sequence;
use crate::wire::{Encoding, Header, Level, PushBody, PushOp, RefusalCode, RetryCode};

/// Why a push that was admitted is no entry with keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Final (C3).
    Refused(RefusalCode),
    /// The list its digest names is not here; the client sends it along next time.
    KeysMissing,
}

impl<F: Fabric> Shard<F> {
    pub(super) fn on_push(&mut self, at: usize, header: &Header, now: Instant) {
        let lane = self.lanes[at].id;
        let live = self.note_route(header.session, at);
        let Some(place) = self.place_of(header.partition) else {
            self.fabric.consume(lane);
            self.retry(at, header, RetryCode::WrongHead, None, now);
            return;
        };
        if !live {
            self.fabric.consume(lane);
            self.retry(at, header, RetryCode::Ended, Some(place), now);
            return;
        }
        // What the order needs of the body is loaded here; everything else is read from the log's copy, which no
        // peer can change any more.
        let mut body = PushBody::new_zeroed();
        let known = PushBody::BYTES.min(header.length as usize);
        self.fabric.copy_payload(lane, 0, &mut body.as_mut_bytes()[..known]);
        let head = PushHead {
            session: header.session,
            sequence: header.sequence,
            epoch: header.epoch,
            resolved: Sequence(body.resolved.get()),
            table: header.table,
            clock: header.clock,
            level: Level::from_wire(body.level).unwrap_or(Level::Replicated),
            bytes: header.length as usize,
        };
        let code = match self.admit(place, head) {
            Admission::Order(slot) => {
                self.order(at, place, header, slot, now);
                return;
            }
            Admission::Refused => {
                self.counts.refused += 1;
                None
            }
            Admission::Duplicate => None,
            Admission::Retry(reason) => Some(reason.code()),
            Admission::Ended => Some(RetryCode::Ended),
        };
        self.fabric.consume(lane);
        match code {
            None => self.touch(place),
            Some(code) => self.retry(at, header, code, Some(place), now),
        }
    }

    /// Asks the replica; a full log is settled first, which in a chain of one empties it.
    fn admit(&mut self, place: usize, head: PushHead) -> Admission {
        let held = &mut self.held[place];
        match held.replica.admit(head) {
            Admission::Retry(crate::chain::RetryReason::LogFull) => {
                settle(held);
                held.replica.admit(head)
            }
            admission => admission,
        }
    }

    /// The record has its place in the order: copy, apply, commit.
    fn order(&mut self, at: usize, place: usize, header: &Header, slot: LogSlot, now: Instant) {
        let lane = self.lanes[at].id;
        let held = &mut self.held[place];
        let payload = held.replica.log_mut(&slot);
        // The one copy.
        self.fabric.copy_payload(lane, 0, payload);
        self.fabric.consume(lane);
        match apply(&mut self.rows, header, payload) {
            Ok(flags) => {
                held.replica.commit(slot, flags);
                self.counts.pushes += 1;
                self.touch(place);
            }
            Err(Fault::Refused(code)) => {
                held.replica.refuse(slot, code);
                self.counts.refused += 1;
                self.touch(place);
            }
            Err(Fault::KeysMissing) => {
                held.replica.abandon(slot);
                self.retry(at, header, RetryCode::KeysMissing, Some(place), now);
            }
        }
    }
}

/// Applies a payload whole, or says why not and has changed nothing.
fn apply(rows: &mut super::Rows, header: &Header, payload: &[u8]) -> Result<EntryFlags, Fault> {
    const MALFORMED: Fault = Fault::Refused(RefusalCode::Malformed);
    let (body, rest) = PushBody::split(payload).map_err(|_| MALFORMED)?;
    let op = PushOp::from_wire(body.op).ok_or(MALFORMED)?;
    let (Some(Encoding::F32), Some(_)) = (Encoding::from_wire(body.encoding), Level::from_wire(body.level))
    else {
        return Err(MALFORMED);
    };
    let (count, dim) = (body.keys.get() as usize, body.dim.get() as usize);
    let (naming, rest) = Naming::split(body.key_form, &body.digest, count, rest).ok_or(MALFORMED)?;
    let words = count.checked_mul(dim).ok_or(MALFORMED)?;
    if words.checked_mul(size_of::<u32>()) != Some(rest.len()) {
        return Err(MALFORMED);
    }
    let expected = rows.width(header.table, op).ok_or(Fault::Refused(RefusalCode::NoTable))?;
    if dim != expected {
        return Err(Fault::Refused(RefusalCode::Shape));
    }
    let values = match op {
        PushOp::Update => Values::Gradients(floats(rest)?),
        PushOp::Assign => Values::Assign(floats(rest)?),
        PushOp::Erase => Values::Erase,
        PushOp::Import => Values::Import(<[u32]>::ref_from_bytes(rest).map_err(|_| MALFORMED)?),
    };
    rows.push(header.table, header.partition, header.session, naming, values)
}

fn floats(bytes: &[u8]) -> Result<&[f32], Fault> {
    <[f32]>::ref_from_bytes(bytes).map_err(|_| Fault::Refused(RefusalCode::Malformed))
}
