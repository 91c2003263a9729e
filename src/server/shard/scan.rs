//! Requests that go over a table rather than name keys: how many rows, and the next of them.

use std::time::Instant;

use zerocopy::{FromZeros, IntoBytes};

use super::Shard;
use super::answer::PIECE_BYTES;
use super::reply::reply_to;
use crate::lane::Fabric;
use crate::wire::{
    CountBody, CountReplyBody, ExportBody, ExportReplyBody, HEADER_BYTES, Header, Kind, NO_CLOCK, PullStatus,
};

impl<F: Fabric> Shard<F> {
    pub(super) fn on_count(&mut self, at: usize, header: &Header, now: Instant) {
        let mut body = CountBody::new_zeroed();
        let mut status = PullStatus::Rows;
        if !self.take_body(at, header, body.as_mut_bytes()) {
            self.fabric.consume(self.lanes[at].id);
            status = PullStatus::Malformed;
        }
        let counted = match self.place_of(header.partition) {
            _ if status != PullStatus::Rows => Err(status),
            Some(_) => self.rows.count(header.table, header.partition),
            None => Err(PullStatus::NotServing),
        };
        let reply = CountReplyBody {
            rows: counted.unwrap_or(0).into(),
            status: counted.err().unwrap_or(PullStatus::Rows).to_wire().into(),
            reserved: [0; 6],
        };
        self.answer(at, &reply_to(header, Kind::CountReply), &[reply.as_bytes()], now);
    }

    pub(super) fn on_export(&mut self, at: usize, header: &Header, now: Instant) {
        let mut body = ExportBody::new_zeroed();
        let whole = self.take_body(at, header, body.as_mut_bytes());
        if !whole {
            self.fabric.consume(self.lanes[at].id);
        }
        let place = self.place_of(header.partition);
        let limit = self.fabric.max_record(self.lanes[at].id);
        let mut reply = ExportReplyBody {
            cursor: NO_CLOCK.into(),
            lsn: 0.into(),
            rows: 0.into(),
            words: 0.into(),
            status: PullStatus::Rows.to_wire().into(),
            reserved: [0; 6],
        };
        let asked = match (whole, place) {
            (false, _) => Err(PullStatus::Malformed),
            (true, None) => Err(PullStatus::NotServing),
            (true, Some(place)) => {
                self.held[place].settle();
                self.touch(place);
                reply.lsn = self.held[place].replica.lsn().0.into();
                self.rows.row_words(header.table).ok_or(PullStatus::NoTable)
            }
        };
        let scanned = asked.and_then(|words| {
            let most = export_rows(words, limit).ok_or(PullStatus::Shape)?.min(body.rows.get() as usize);
            reply.words = (words as u32).into();
            self.rows.export(header.table, header.partition, body.cursor.get(), most)
        });
        match scanned {
            Ok(next) => reply.cursor = next.unwrap_or(NO_CLOCK).into(),
            Err(status) => reply.status = status.to_wire().into(),
        }
        let (keys, words) = self.rows.take_exported();
        reply.rows = (keys.len() as u32).into();
        let header = reply_to(header, Kind::ExportReply);
        self.answer(at, &header, &[reply.as_bytes(), keys.as_bytes(), words.as_bytes()], now);
        self.rows.give_back(keys, words);
    }
}

/// Rows of an export piece; none when not even one fits a record.
fn export_rows(words: usize, max_record: usize) -> Option<usize> {
    let fixed = HEADER_BYTES + ExportReplyBody::BYTES + 8;
    let row = 8 + 4 * words;
    let piece = (HEADER_BYTES + PIECE_BYTES).min(max_record).checked_sub(fixed)? / row;
    if piece > 0 { Some(piece) } else { (fixed + row <= max_record).then_some(1) }
}
