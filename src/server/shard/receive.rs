//! The receive step: records off the lanes, each lane within its bound.

use std::time::Instant;

use super::{Shard, TURN_BYTES, TURN_RECORDS};
use crate::lane::Fabric;
use crate::wire::{Header, Kind};

impl<F: Fabric> Shard<F> {
    /// Takes records from every lane that may have some, up to the bounds of a turn. False when there was nothing.
    pub(super) fn receive(&mut self, now: Instant) -> bool {
        let mut any = false;
        for at in 0..self.lanes.len() {
            any |= self.receive_from(at, now);
        }
        any
    }

    fn receive_from(&mut self, at: usize, now: Instant) -> bool {
        let mut bytes = 0;
        let mut records = 0;
        while self.lanes[at].readable() && bytes < TURN_BYTES && records < TURN_RECORDS {
            let lane = self.lanes[at].id;
            let Some(header) = self.fabric.peek(lane) else {
                self.lanes[at].ready = false;
                break;
            };
            bytes += header.record_bytes();
            records += 1;
            self.dispatch(at, &header, now);
        }
        self.counts.records += records as u64;
        records > 0
    }

    /// Handles the peeked record. Each branch consumes it, or cuts the lane.
    fn dispatch(&mut self, at: usize, header: &Header, now: Instant) {
        match header.kind {
            Kind::Push => self.on_push(at, header, now),
            Kind::Clock => self.on_clock(at, header, now),
            Kind::Pull => self.on_pull(at, header, now),
            Kind::Count => self.on_count(at, header, now),
            Kind::Export => self.on_export(at, header, now),
            // The lane's own, and answers to requests a server never makes.
            Kind::State
            | Kind::Hello
            | Kind::Welcome
            | Kind::Reject
            | Kind::Place
            | Kind::Read
            | Kind::ReadReply
            | Kind::Outcome
            | Kind::Retry
            | Kind::PullReply
            | Kind::CountReply
            | Kind::ExportReply
            | Kind::Link
            | Kind::Linked
            | Kind::Batch
            | Kind::Meta
            | Kind::Chunk
            | Kind::Copied => self.cut(at),
        }
    }

    /// Copies a small payload out of the ring into `out` and consumes the record. False, and nothing is consumed,
    /// when the payload does not have exactly that size.
    pub(super) fn take_body(&mut self, at: usize, header: &Header, out: &mut [u8]) -> bool {
        if header.length as usize != out.len() {
            return false;
        }
        let lane = self.lanes[at].id;
        self.fabric.copy_payload(lane, 0, out);
        self.fabric.consume(lane);
        true
    }
}
