//! What comes from the thread before this one: links and batches. A follower never decides and never refuses (C0); one
//! that can't apply leaves its chain.

use std::time::Instant;

use zerocopy::{FromZeros, IntoBytes};

use super::lanes::Peer;
use super::links::{EarlyLink, SLOW, link_header};
use super::push::entry_push;
use super::{Notice, Shard};
use crate::chain::{Entry, EntryKind, Received};
use crate::cluster::decode_schema;
use crate::lane::Fabric;
use crate::wire::ids::{Lsn, PartitionId};
use crate::wire::{Header, Kind, LinkBody, LinkedBody, WANT_BATCHES, WANT_EVERYTHING};

/// Why a follower can't go on, in words for whoever runs the cluster.
pub(super) type Stop = String;

impl<F: Fabric> Shard<F> {
    /// A neighbour opens a partition's link.
    pub(super) fn on_link(&mut self, at: usize, header: &Header, now: Instant) {
        let mut body = LinkBody::new_zeroed();
        if !self.take_body(at, header, body.as_mut_bytes()) {
            return self.cut(at);
        }
        let link = EarlyLink {
            partition: header.partition,
            epoch: header.epoch,
            lane: self.lanes[at].id,
            ordered: Lsn(body.ordered.get()),
        };
        self.on_early_link(link, now);
    }

    /// Answers a link of the epoch in force; keeps one of a newer epoch until that is in force here too.
    pub(super) fn on_early_link(&mut self, link: EarlyLink, now: Instant) {
        let Some(at) = self.seat_of(link.lane) else { return };
        let ours = self.place_of(link.partition).map(|place| self.held[place].chain.epoch);
        if ours.is_none_or(|ours| link.epoch > ours) {
            self.early.retain(|early| early.partition != link.partition || early.epoch > link.epoch);
            self.early.push(link);
            return;
        }
        let (Some(place), Peer::Predecessor(from)) = (self.place_of(link.partition), self.lanes[at].peer)
        else {
            return;
        };
        // C4: an older epoch is over.
        if ours != Some(link.epoch) || self.held[place].predecessor(self.shard) != Some(from) {
            return;
        }
        if self.held[place].left {
            return;
        }
        let joins = self.held[place].joining.is_some();
        if joins {
            // The sender begins at the beginning, and so does this side.
            self.begin_joining(place);
        }
        let held = &mut self.held[place];
        (held.up, held.told, held.gap_told, held.full) = (Some(link.lane), None, false, false);
        held.owed = Some(link.ordered);
        let want = if joins { WANT_EVERYTHING } else { WANT_BATCHES };
        self.say_linked(at, place, want, now);
        self.report_if_caught_up(place);
        self.touch(place);
    }

    fn say_linked(&mut self, at: usize, place: usize, want: u16, now: Instant) {
        let held = &self.held[place];
        let body = LinkedBody { applied: held.replica.lsn().0.into(), want: want.into(), reserved: [0; 6] };
        let header = link_header(held, Kind::Linked);
        self.answer(at, &header, &[body.as_bytes()], now);
    }

    /// The place of a partition whose link is this lane under this epoch; what came for any other is passed over (C4).
    pub(super) fn place_of_link(&self, at: usize, header: &Header) -> Option<usize> {
        let place = self.place_of(header.partition)?;
        let held = &self.held[place];
        let ours = held.up == Some(self.lanes[at].id) && held.chain.epoch == header.epoch && !held.left;
        ours.then_some(place)
    }

    pub(super) fn on_batch(&mut self, at: usize, header: &Header, now: Instant) {
        let Some(place) = self.place_of_link(at, header) else {
            return self.fabric.consume(self.lanes[at].id);
        };
        let payload = self.take_payload(at, header);
        self.follow(at, place, &payload.as_bytes()[..header.length as usize], now);
        self.keep_payload(payload);
    }

    fn follow(&mut self, at: usize, place: usize, bytes: &[u8], now: Instant) {
        let batch = match self.held[place].replica.receive(bytes) {
            Ok(Received::Old) => return,
            _ if self.held[place].full => return,
            Ok(Received::Gap { .. }) => {
                if !std::mem::replace(&mut self.held[place].gap_told, true) {
                    self.say_linked(at, place, WANT_BATCHES, now);
                }
                return;
            }
            Ok(Received::Full) => {
                // Nobody waits for a joiner; what others hold up comes again once they have acknowledged more.
                if self.held[place].down.as_ref().is_some_and(|down| down.joiner && down.next.is_some()) {
                    self.give_up_joiner(place, SLOW);
                    return self.follow(at, place, bytes, now);
                }
                self.held[place].full = true;
                return;
            }
            Ok(Received::Next(batch)) => batch,
            // Damaged, or no batch: the lane is not to be trusted any more, and the next one begins with a handshake.
            Err(_) => return self.cut(at),
        };
        self.held[place].gap_told = false;
        let partition = self.held[place].partition;
        for entry in batch.entries() {
            if let Err(stop) = self.apply_entry(place, partition, &entry) {
                return self.stop_following(place, &stop);
            }
        }
        if let Err(error) = self.held[place].replica.accept(bytes) {
            return self.stop_following(place, &error.to_string());
        }
        self.counts.batches_applied += 1;
        self.report_if_caught_up(place);
        self.touch(place);
    }

    fn apply_entry(&mut self, place: usize, partition: PartitionId, entry: &Entry<'_>) -> Result<(), Stop> {
        let head = &entry.head;
        match head.kind {
            EntryKind::Push => {
                let push = entry_push(&self.rows, head.table, entry.payload)?;
                let join = self.held[place].joining.as_mut();
                match join {
                    Some(joining) => joining.apply(&mut self.rows, head.table, partition, push),
                    None => self.rows.follow(head.table, partition, push.keys, push.values),
                }
            }
            EntryKind::Clock | EntryKind::Refused => Ok(()),
            EntryKind::ClientBegan => {
                self.sessions.entry(head.session).or_insert(None);
                Ok(())
            }
            EntryKind::ClientEnded => {
                self.sessions.remove(&head.session);
                self.rows.end_session(head.session);
                Ok(())
            }
            EntryKind::TableCreated => {
                let schema = decode_schema(entry.payload).map_err(|error| error.to_string())?;
                let made =
                    self.rows.create(head.table, &schema, partition).map_err(|error| error.to_string())?;
                if let (true, Some(joining)) = (made, self.held[place].joining.as_mut()) {
                    // Nothing of it was there to be copied.
                    joining.own_whole(head.table);
                }
                Ok(())
            }
            EntryKind::TableDropped => {
                self.rows.drop(head.table, partition);
                Ok(())
            }
        }
    }

    /// This replica is of no use any more: it says so and keeps still.
    pub(super) fn stop_following(&mut self, place: usize, stop: &str) {
        let Self { held, notices, shard, .. } = self;
        held[place].leave(*shard, notices, stop);
    }

    /// Those behind have acknowledged: what had no room is asked for again.
    pub(super) fn ask_for_dropped(&mut self, place: usize, now: Instant) {
        let held = &mut self.held[place];
        if let (true, Some(lane)) = (std::mem::take(&mut held.full), held.up)
            && let Some(at) = self.seat_of(lane)
        {
            self.say_linked(at, place, WANT_BATCHES, now);
        }
    }

    /// C7: a new tail says when it has all that its predecessor had ordered when that took up this epoch; a joiner, when
    /// its copy is complete.
    pub(super) fn report_if_caught_up(&mut self, place: usize) {
        let held = &mut self.held[place];
        let whole = match &held.joining {
            Some(joining) => joining.is_complete(),
            None => held.chain.unsynced,
        };
        let caught_up = held.owed.is_some_and(|owed| held.replica.lsn() >= owed);
        if whole && caught_up && !std::mem::replace(&mut held.reported, true) {
            let (partition, epoch, shard) = (held.partition, held.chain.epoch, self.shard);
            self.notify(Notice::Synced { partition, epoch, shard });
        }
    }
}
