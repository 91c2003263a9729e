//! A push: admitted by its header, copied once into the log, validated there, applied, made an entry.

use std::time::Instant;

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::Shard;
use super::keys::Naming;
use super::links::SLOW;
use super::rows::Rows;
use super::rows::Values;
use crate::chain::{Admission, BATCH_HEADER_BYTES, ENTRY_HEADER_BYTES, EntryFlags, LogSlot, PushHead};
use crate::lane::Fabric;
use crate::store::Digest;
use crate::wire::ids::{Sequence, TableId};
use crate::wire::{Encoding, HEADER_BYTES, Header, KeyForm, Level, PushBody, PushOp, RefusalCode, RetryCode};

/// Why a push that was admitted is no entry with keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Final (C3).
    Refused(RefusalCode),
    /// The list its digest names is not here; the client sends it along next time.
    KeysMissing,
}

/// A list is named that is not kept here.
struct KeysMissing;

impl<F: Fabric> Shard<F> {
    pub(super) fn on_push(&mut self, at: usize, header: &Header, now: Instant) {
        let lane = self.lanes[at].id;
        let live = self.note_route(header.session, at);
        let Some(place) = self.place_of(header.partition) else {
            self.fabric.consume(lane);
            self.retry(at, header, RetryCode::WrongHead, None, now);
            return;
        };
        if let Some(code) = self.held[place].turns_away(live) {
            self.fabric.consume(lane);
            self.retry(at, header, code, Some(place), now);
            return;
        }
        // What the order needs of the body is loaded here; everything else is read from the log's copy, which no
        // peer can change any more.
        let mut body = PushBody::new_zeroed();
        let known = PushBody::BYTES.min(header.length as usize);
        self.fabric.copy_payload(lane, 0, &mut body.as_mut_bytes()[..known]);
        let named = match self.bytes_of_named(place, header, &body) {
            Ok(bytes) => bytes,
            Err(KeysMissing) => {
                self.fabric.consume(lane);
                self.retry(at, header, RetryCode::KeysMissing, Some(place), now);
                return;
            }
        };
        let head = PushHead {
            session: header.session,
            sequence: header.sequence,
            epoch: header.epoch,
            resolved: Sequence(body.resolved.get()),
            table: header.table,
            clock: header.clock,
            level: Level::from_wire(body.level).unwrap_or(Level::Replicated),
            // What no batch can carry on is refused like what no log takes: in its turn, for good.
            bytes: match header.length as usize + named {
                bytes if bytes > self.most_carried(place) => usize::MAX,
                bytes => bytes,
            },
        };
        let code = match self.admit(place, head) {
            Admission::Order(slot) => {
                self.order(at, place, header, slot, named, now);
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

    /// Bytes of keys that a push adds in the log: those of a list it names, when somebody follows who may not have it.
    fn bytes_of_named(&self, place: usize, header: &Header, body: &PushBody) -> Result<usize, KeysMissing> {
        let named = KeyForm::from_wire(body.key_form) == Some(KeyForm::Named);
        // One that is shorter than its body is refused as such.
        if !named || !self.held[place].forwards() || (header.length as usize) < PushBody::BYTES {
            return Ok(0);
        }
        let digest = Digest(super::keys::digest_of(&body.digest));
        let keys = self.rows.named_keys(header.table, header.partition, header.session, digest);
        keys.map(size_of_val).ok_or(KeysMissing)
    }

    /// Bytes of the largest payload that a batch can carry on from here.
    fn most_carried(&self, place: usize) -> usize {
        let Some(down) = &self.held[place].down else { return usize::MAX };
        // All servers of a cluster have the same rings; a log is two of them, a record a quarter of one.
        let record = down.lane.map_or(self.log_bytes / 8, |lane| self.fabric.max_record(lane));
        record.saturating_sub(HEADER_BYTES + BATCH_HEADER_BYTES + ENTRY_HEADER_BYTES)
    }

    /// Asks the replica; a full log is settled first, which in a chain of one empties it.
    fn admit(&mut self, place: usize, head: PushHead) -> Admission {
        let held = &mut self.held[place];
        match held.replica.admit(head) {
            Admission::Retry(crate::chain::RetryReason::LogFull) => {
                held.settle();
                match held.replica.admit(head) {
                    Admission::Retry(crate::chain::RetryReason::LogFull) if held.down.is_some() => {
                        self.give_up_joiner(place, SLOW);
                        self.held[place].replica.admit(head)
                    }
                    admission => admission,
                }
            }
            admission => admission,
        }
    }

    /// The record has its place in the order: copy, apply, commit.
    fn order(&mut self, at: usize, place: usize, header: &Header, slot: LogSlot, named: usize, now: Instant) {
        let lane = self.lanes[at].id;
        let held = &mut self.held[place];
        let payload = held.replica.log_mut(&slot);
        // The one copy.
        let applied = if named == 0 {
            self.fabric.copy_payload(lane, 0, payload);
            apply(&mut self.rows, header, payload)
        } else {
            // What follows the body moves up behind the keys that are written out between them.
            let (body, rest) = payload.split_at_mut(PushBody::BYTES);
            let (keys, values) = rest.split_at_mut(named);
            self.fabric.copy_payload(lane, 0, body);
            self.fabric.copy_payload(lane, PushBody::BYTES, values);
            write_out(&mut self.rows, header, body, keys, values)
        };
        self.fabric.consume(lane);
        match applied {
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

/// Writes the keys of a named list out and applies the push by its name. What follows in the chain needs no list.
fn write_out(
    rows: &mut Rows,
    header: &Header,
    body: &mut [u8],
    keys: &mut [u8],
    values: &[u8],
) -> Result<EntryFlags, Fault> {
    let named = PushBody::read_from_bytes(body).map_err(|_| MALFORMED)?;
    let digest = Digest(super::keys::digest_of(&named.digest));
    let list = rows.named_keys(header.table, header.partition, header.session, digest);
    let list = list.ok_or(Fault::KeysMissing)?.as_bytes();
    if list.len() != keys.len() {
        return Err(MALFORMED);
    }
    keys.copy_from_slice(list);
    let flags = apply_parts(rows, header, &named, values)?;
    let form = std::mem::offset_of!(PushBody, key_form);
    body[form] = KeyForm::Inline.to_wire();
    Ok(flags)
}

const MALFORMED: Fault = Fault::Refused(RefusalCode::Malformed);

/// Applies a payload whole, or says why not and has changed nothing.
fn apply(rows: &mut Rows, header: &Header, payload: &[u8]) -> Result<EntryFlags, Fault> {
    let (body, rest) = PushBody::split(payload).map_err(|_| MALFORMED)?;
    apply_parts(rows, header, body, rest)
}

fn apply_parts(rows: &mut Rows, header: &Header, body: &PushBody, rest: &[u8]) -> Result<EntryFlags, Fault> {
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

/// A push as a follower reads it from a batch.
pub(super) struct EntryPush<'a> {
    pub(super) keys: &'a [u64],
    pub(super) values: Values<'a>,
    /// Values or words a key.
    pub(super) width: usize,
}

/// Reads a push out of a batch. The head has checked it, and wrote its keys out.
///
/// # Errors
/// It is none that a head orders: this replica and the head do not agree.
pub(super) fn entry_push<'a>(
    rows: &Rows,
    table: TableId,
    payload: &'a [u8],
) -> Result<EntryPush<'a>, String> {
    const WRONG: &str = "a batch holds a push that no head orders";
    let wrong = || WRONG.to_owned();
    let (body, rest) = PushBody::split(payload).map_err(|_| wrong())?;
    let op = PushOp::from_wire(body.op).ok_or_else(wrong)?;
    let (count, width) = (body.keys.get() as usize, body.dim.get() as usize);
    let (naming, rest) = Naming::split(body.key_form, &body.digest, count, rest).ok_or_else(wrong)?;
    let keys = naming.keys().ok_or_else(wrong)?;
    let whole = count.checked_mul(width).and_then(|words| words.checked_mul(4)) == Some(rest.len());
    if !whole || rows.width(table, op) != Some(width) {
        return Err(wrong());
    }
    let floats = || <[f32]>::ref_from_bytes(rest).map_err(|_| wrong());
    let values = match op {
        PushOp::Update => Values::Gradients(floats()?),
        PushOp::Assign => Values::Assign(floats()?),
        PushOp::Erase => Values::Erase,
        PushOp::Import => Values::Import(<[u32]>::ref_from_bytes(rest).map_err(|_| wrong())?),
    };
    Ok(EntryPush { keys, values, width })
}

fn floats(bytes: &[u8]) -> Result<&[f32], Fault> {
    <[f32]>::ref_from_bytes(bytes).map_err(|_| Fault::Refused(RefusalCode::Malformed))
}
