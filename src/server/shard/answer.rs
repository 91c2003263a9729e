//! Rows to a client, in pieces, each as its lane has credit for it.

use std::time::Instant;

use zerocopy::IntoBytes;

use super::Shard;
use super::keys::Naming;
use super::reply::reply_to;
use crate::lane::{Fabric, WriteError};
use crate::wire::{HEADER_BYTES, Header, Kind, NO_CLOCK, PullBody, PullReplyBody, PullStatus, padded};

/// Most bytes of payload in a piece (design, section 4): a reply never keeps a lane to itself for long.
pub(super) const PIECE_BYTES: usize = 64 << 10;
/// Buffers of requests kept for the next ones.
const SPARE_BUFFERS: usize = 16;
/// A buffer larger than this is given back: one huge request must not hold memory for ever.
const SPARE_BYTES: usize = 1 << 20;

/// A pull whose rows are going out.
pub(super) struct Answer {
    request: Header,
    /// The request's payload, 8-aligned.
    buffer: Vec<u64>,
    /// Rows sent.
    next: usize,
}

impl Answer {
    /// An answer of which nothing was sent. `buffer` holds the request's payload.
    pub(super) fn new(request: &Header, buffer: Vec<u64>) -> Self {
        assert!(buffer.len() * 8 >= request.length as usize, "a request of {} bytes was cut", request.length);
        Self { request: *request, buffer, next: 0 }
    }

    pub(super) fn request(&self) -> &Header {
        &self.request
    }

    pub(super) fn payload(&self) -> &[u8] {
        &self.buffer.as_bytes()[..self.request.length as usize]
    }

    pub(super) fn position(&self) -> usize {
        self.next
    }

    pub(super) fn into_buffer(self) -> Vec<u64> {
        self.buffer
    }
}

impl<F: Fabric> Shard<F> {
    /// Answers a checked pull, now as far as there is credit and later the rest.
    pub(super) fn serve_or_keep(&mut self, at: usize, mut answer: Answer, now: Instant) {
        if !self.lanes[at].owes() && self.serve(at, &mut answer, now) {
            self.keep_spare(answer.into_buffer());
        } else {
            self.lanes[at].answers.push_back(answer);
        }
    }

    /// Sends the next pieces. True when the answer is complete, false when credit ran out.
    pub(super) fn serve(&mut self, at: usize, answer: &mut Answer, now: Instant) -> bool {
        if self.lanes[at].down {
            return true;
        }
        let Answer { request, buffer, next } = answer;
        let payload = &buffer.as_bytes()[..request.length as usize];
        let (Some(place), Some((naming, total))) = (self.place_of(request.partition), keys_of(payload))
        else {
            unreachable!("an answer is made of a checked request")
        };
        // Rows show what has been applied; with the batch closed, its number says so exactly.
        self.held[place].settle();
        if self.held[place].replica.has_outcomes() {
            self.touch(place);
        }
        let Self { rows, fabric, lanes, held, piece, counts, .. } = self;
        let (lane, replica) = (lanes[at].id, &held[place].replica);
        let mut body = PullReplyBody {
            lsn: replica.lsn().0.into(),
            clock: replica.min_clock().map_or(NO_CLOCK, |clock| clock.0).into(),
            first: 0.into(),
            rows: 0.into(),
            total: (total as u32).into(),
            dim: 0.into(),
            status: PullStatus::Rows.to_wire().into(),
            reserved: [0; 6],
        };
        let header = Header { epoch: replica.epoch(), ..reply_to(request, Kind::PullReply) };
        // The table may have been dropped while the answer waited.
        let dim = rows.dim(request.table).unwrap_or(0);
        body.dim = (dim as u32).into();
        let most = match rows_per_piece(dim, fabric.max_record(lane)) {
            _ if dim == 0 => Err(PullStatus::NoTable),
            None => Err(PullStatus::Shape),
            Some(most) => Ok(most),
        };
        piece.empty();
        loop {
            let first = *next;
            let count = most.map_or(0, |most| most.min(total - first));
            if fabric.credit(lane) < piece_record_bytes(count, dim) {
                lanes[at].stuck_since.get_or_insert(now);
                return false;
            }
            let read = most.and_then(|_| piece.load(rows, request, naming, first, count, total, dim));
            let (count, last) = match read {
                Ok(()) => (count, first + count == total),
                Err(status) => {
                    body.status = status.to_wire().into();
                    (0, true)
                }
            };
            body.first = (first as u32).into();
            body.rows = (count as u32).into();
            let (found, values) = piece.part(first, count, dim);
            let bytes = PullReplyBody::BYTES + found.len() + values.len();
            let head = Header { length: bytes as u32, ..header }.to_bytes();
            let padding = &[0u8; 8][..padded(bytes) - bytes];
            match fabric.write(lane, &[&head, body.as_bytes(), found, values, padding], last) {
                Ok(()) => *next += count,
                Err(WriteError::Full) => {
                    lanes[at].stuck_since.get_or_insert(now);
                    return false;
                }
                // Nobody is left to answer.
                Err(WriteError::Down | WriteError::TooLarge { .. }) => return true,
            }
            if last {
                counts.pulls += 1;
                return true;
            }
        }
    }

    /// Keeps a request's buffer for a later one, unless there are enough or it is huge.
    pub(super) fn keep_spare(&mut self, buffer: Vec<u64>) {
        if self.spare.len() < SPARE_BUFFERS && buffer.capacity() * 8 <= SPARE_BYTES {
            self.spare.push(buffer);
        }
    }
}

/// The keys and their number, of a payload that was checked.
fn keys_of(payload: &[u8]) -> Option<(Naming<'_>, usize)> {
    let (body, rest) = PullBody::split(payload).ok()?;
    let count = body.keys.get() as usize;
    let (naming, _) = Naming::split(body.key_form, &body.digest, count, rest)?;
    Some((naming, count))
}

/// Bytes a piece takes in a ring.
fn piece_record_bytes(rows: usize, dim: usize) -> usize {
    HEADER_BYTES + padded(PullReplyBody::BYTES + rows.div_ceil(64) * 8 + rows * dim * 4)
}

/// Rows of a full piece: as many as fit [`PIECE_BYTES`] and the lane's largest record, or one row that is larger.
/// None when not even one fits a record.
fn rows_per_piece(dim: usize, max_record: usize) -> Option<usize> {
    let limit = (HEADER_BYTES + PIECE_BYTES).min(max_record);
    let room = limit.checked_sub(HEADER_BYTES + PullReplyBody::BYTES + 16)?;
    // A row takes 32 bits a value and one in the bitmap, whose last word may be nearly empty.
    let rows = room * 8 / (32 * dim + 1);
    if rows >= 64 {
        // Whole words of the bitmap, so that a piece of one that is read at once needs no shifting.
        return Some(rows / 64 * 64);
    }
    if rows > 0 {
        return Some(rows);
    }
    (piece_record_bytes(1, dim) <= max_record).then_some(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_keep_their_bounds_for_every_dim() {
        for max_record in [16 << 10, 64 << 10, 1 << 20] {
            for dim in (1..300).chain([1 << 12, 16_000, 16_384, 1 << 16]) {
                let Some(rows) = rows_per_piece(dim, max_record) else {
                    assert!(piece_record_bytes(1, dim) > max_record, "dim {dim}");
                    continue;
                };
                let bytes = piece_record_bytes(rows, dim);
                assert!(bytes <= max_record, "dim {dim}: {bytes}");
                assert!(rows == 1 || bytes <= HEADER_BYTES + PIECE_BYTES, "dim {dim}: {bytes}");
                assert!(rows == 1 || 2 * bytes > max_record.min(PIECE_BYTES), "dim {dim} wastes");
            }
        }
    }
}
