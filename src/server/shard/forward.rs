//! What is ordered here goes on to the next thread, and what is acknowledged goes back.
//!
//! Nothing waits: what finds no credit stays in the log and is sent in a later turn, in order.

use std::time::Instant;

use super::lanes::Peer;
use super::links::link_header;
use super::{Notice, Shard, TURN_BYTES};
use crate::lane::{Fabric, LaneId, StateEntry, WriteError};
use crate::wire::{Header, Kind, padded};

/// What fills a record up to the 8 bytes the next one starts at.
const PADDING: [u8; 8] = [0; 8];

impl<F: Fabric> Shard<F> {
    /// Seals what the turn put in order, sends it on and acknowledges it. True when something moved that had waited.
    pub(super) fn forward(&mut self) -> bool {
        for at in 0..self.touched.len() {
            let place = self.touched[at] as usize;
            let held = &mut self.held[place];
            if held.heads() {
                held.order_events();
            }
            held.settle();
            if held.forwards() {
                self.send_later(place);
            }
            self.acknowledge(place);
        }
        let mut any = false;
        let mut unsent = std::mem::take(&mut self.unsent);
        unsent.retain(|&place| {
            let (moved, over) = self.send_on(place as usize);
            any |= moved;
            self.held[place as usize].unsent = !over;
            !over
        });
        self.unsent.append(&mut unsent);
        // None of those who wait for credit is always the first to get it.
        if self.unsent.len() > 1 {
            self.unsent.rotate_left(1);
        }
        any
    }

    /// Remembers that a partition has something for the next thread.
    pub(super) fn send_later(&mut self, place: usize) {
        if !std::mem::replace(&mut self.held[place].unsent, true) {
            self.unsent.push(place as u32);
        }
    }

    /// Sends a partition's batches on, and then more of a copy. Gives whether anything moved, and whether nothing is
    /// left to send now.
    fn send_on(&mut self, place: usize) -> (bool, bool) {
        let Self { held, fabric, lanes, .. } = self;
        let held = &mut held[place];
        let header = link_header(held, Kind::Batch);
        let Some(down) = held.down.as_mut() else { return (false, true) };
        // Before it has answered there is nothing to send it; its answer brings this partition back.
        let (Some(lane), Some(mut next)) = (down.lane, down.next) else { return (false, true) };
        let Some(seat) = lanes.iter().find(|seat| seat.id == lane) else { return (false, true) };
        if !seat.backlog.is_empty() || down.copy.as_ref().is_some_and(|copy| copy.is_before_batches()) {
            return match down.copy.is_some() && seat.backlog.is_empty() {
                true => self.copy_on(place),
                false => (false, false),
            };
        }
        let began = next;
        let mut lost = None;
        let mut bytes = 0;
        while next <= held.replica.lsn() && bytes < TURN_BYTES {
            let Some(batch) = held.replica.batch(next) else {
                lost = Some("it lacks batches that are no longer kept");
                break;
            };
            let padding = &PADDING[..padded(batch.len()) - batch.len()];
            let head = Header { length: batch.len() as u32, shard: down.shard, ..header }.to_bytes();
            match fabric.write(lane, &[&head, batch, padding], true) {
                Ok(()) => {
                    next = next.next();
                    bytes += batch.len();
                }
                // The end of the lane comes as an event.
                Err(WriteError::Full | WriteError::Down) => break,
                Err(WriteError::TooLarge { .. }) => {
                    lost = Some("a batch is larger than its lane takes; give all servers rings of one size");
                    break;
                }
            }
        }
        down.next = Some(next);
        self.counts.batches_sent += next.0 - began.0;
        let copying = down.copy.is_some();
        if let Some(reason) = lost {
            // It would never catch up: out of the chain, and back by joining.
            (down.next, down.copy) = (None, None);
            let (partition, epoch, shard) = (held.partition, held.chain.epoch, down.shard);
            let reason = format!("its predecessor says: {reason}");
            self.notify(Notice::Leave { partition, epoch, shard, reason });
            return (true, true);
        }
        let all = next > self.held[place].replica.lsn();
        if all && copying {
            let (moved, over) = self.copy_on(place);
            return (moved || next > began, over);
        }
        (next > began, all)
    }

    /// Tells the predecessor how far this partition is acknowledged, if that is news.
    pub(super) fn acknowledge(&mut self, place: usize) {
        let Self { held, fabric, .. } = self;
        let held = &mut held[place];
        let (Some(lane), acked) = (held.up, held.replica.acked_lsn()) else { return };
        if held.left || held.told.is_some_and(|told| told >= acked) {
            return;
        }
        held.told = Some(acked);
        let (partition, epoch) = (held.partition, held.chain.epoch);
        fabric.publish(lane, StateEntry { partition, epoch, acked_lsn: acked, confirmed_epoch: epoch });
    }

    /// The next thread has acknowledged.
    pub(super) fn on_entry(&mut self, lane: LaneId, entry: StateEntry, now: Instant) {
        let Some(at) = self.seat_of(lane) else { return };
        let (Peer::Successor(_), Some(place)) = (self.lanes[at].peer, self.place_of(entry.partition)) else {
            return;
        };
        let held = &mut self.held[place];
        let Some(down) = held.down.as_mut().filter(|down| down.lane == Some(lane)) else { return };
        // C4: of another epoch it says nothing here.
        if entry.epoch != held.chain.epoch {
            return;
        }
        // An entry overtakes the records of its lane: this one may come before the answer to our link, and once only.
        let answered = down.next.is_some();
        if down.joiner {
            // Nobody waits for it, but what it has is kept no longer.
            if answered && (down.kept..=held.replica.lsn()).contains(&entry.acked_lsn) {
                down.kept = entry.acked_lsn;
                held.replica.keep_after(Some(entry.acked_lsn));
            }
        } else if held.replica.acked(entry.acked_lsn).is_err() {
            // One that is ahead says so in its answer too, and is made to leave then.
            if answered {
                self.cut(at);
            }
            return;
        }
        self.ask_for_dropped(place, now);
        self.touch(place);
    }
}
