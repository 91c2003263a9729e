//! The receive step: records off the lanes, each lane within its bound.

use std::time::Instant;

use zerocopy::IntoBytes;

use super::{Peer, Shard, TURN_BYTES, TURN_RECORDS};
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
        if self.lanes[at].peer != Peer::Client {
            return self.dispatch_link(at, header, now);
        }
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

    /// Handles a record of a neighbour.
    fn dispatch_link(&mut self, at: usize, header: &Header, now: Instant) {
        match (self.lanes[at].peer, header.kind) {
            (Peer::Predecessor(_), Kind::Link) => self.on_link(at, header, now),
            (Peer::Predecessor(_), Kind::Batch) => self.on_batch(at, header, now),
            (Peer::Predecessor(_), Kind::Meta) => self.on_meta(at, header),
            (Peer::Predecessor(_), Kind::Chunk) => self.on_chunk(at, header),
            (Peer::Predecessor(_), Kind::Copied) => self.on_copied(at, header),
            (Peer::Successor(_), Kind::Linked) => self.on_linked(at, header),
            _ => self.cut(at),
        }
    }

    /// Copies a payload out of the ring and consumes the record. The buffer, 8-aligned, goes back by
    /// [`Shard::keep_payload`].
    pub(super) fn take_payload(&mut self, at: usize, header: &Header) -> Vec<u64> {
        let (lane, length) = (self.lanes[at].id, header.length as usize);
        let mut buffer = std::mem::take(&mut self.inbound);
        // Only growth is filled: what an earlier record left behind the payload is never looked at.
        if buffer.len() < length.div_ceil(8) {
            buffer.resize(length.div_ceil(8), 0);
        }
        self.fabric.copy_payload(lane, 0, &mut buffer.as_mut_bytes()[..length]);
        self.fabric.consume(lane);
        buffer
    }

    pub(super) fn keep_payload(&mut self, buffer: Vec<u64>) {
        self.inbound = buffer;
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
