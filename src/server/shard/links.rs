//! Lanes to the threads behind this one: asked for, opened under every epoch with a handshake (C4), given up.

use std::time::{Duration, Instant};

use zerocopy::{FromZeros, IntoBytes};

use super::chain::Held;
use super::copy::Copying;
use super::lanes::Peer;
use super::{Notice, Shard};
use crate::lane::{Fabric, LaneId};
use crate::wire::ids::{Epoch, Lsn, PartitionId, ShardId};
use crate::wire::{
    Header, Kind, LINK_JOINER, LINK_SUCCESSOR, LinkBody, LinkedBody, WANT_BATCHES, WANT_EVERYTHING,
};

/// Why a joiner is given up for whom the log has filled.
pub(super) const SLOW: &str = "its copy is slower than the pushes that go on";
/// Pause before a lane to a neighbour is asked for again.
const LINK_PAUSE: Duration = Duration::from_millis(5);

/// The lane to one thread behind this one; all partitions share it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outbound {
    pub(super) lane: Option<LaneId>,
    /// When to ask for one; none while one is being opened.
    pub(super) ask_at: Option<Instant>,
}

/// A link of an epoch that is not in force here yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct EarlyLink {
    pub(super) partition: PartitionId,
    pub(super) epoch: Epoch,
    pub(super) lane: LaneId,
    pub(super) ordered: Lsn,
}

impl<F: Fabric> Shard<F> {
    /// Asks for the lanes that are missing, and opens the links of partitions that have none under their epochs.
    pub(super) fn open_links(&mut self, now: Instant) {
        for place in 0..self.held.len() {
            let Some(down) = self.held[place].down.as_ref().filter(|down| down.lane.is_none()) else {
                continue;
            };
            let to = down.shard;
            let outbound = self.outbound.entry(to).or_insert(Outbound { lane: None, ask_at: Some(now) });
            match outbound.lane {
                Some(lane) => self.open_link(place, lane, now),
                None if outbound.ask_at.is_some_and(|at| at <= now) => {
                    outbound.ask_at = None;
                    self.notify(Notice::LinkWanted { from: self.shard, to });
                }
                None => {}
            }
        }
        // Lanes that nothing goes over any more.
        let wanted = |to: &ShardId| self.held.iter().any(|h| h.down.as_ref().is_some_and(|d| d.shard == *to));
        let idle: Vec<ShardId> = self.outbound.keys().copied().filter(|to| !wanted(to)).collect();
        for to in idle {
            if let Some(Outbound { lane: Some(lane), .. }) = self.outbound.remove(&to)
                && let Some(at) = self.seat_of(lane)
            {
                self.cut(at);
            }
        }
    }

    /// When a lane is to be asked for.
    pub(super) fn next_link(&self) -> Option<Instant> {
        self.outbound.values().filter(|outbound| outbound.lane.is_none()).filter_map(|o| o.ask_at).min()
    }

    /// A lane that was wanted is here.
    pub(super) fn link_opened(&mut self, to: ShardId, lane: LaneId, now: Instant) {
        if self.outbound.get(&to).is_some_and(|outbound| outbound.lane.is_some()) {
            // Wanted, not wanted, and wanted again: one is enough.
            if let Some(at) = self.seat_of(lane) {
                self.cut(at);
            }
            return;
        }
        self.outbound.insert(to, Outbound { lane: Some(lane), ask_at: None });
        self.open_links(now);
    }

    /// A lane that was wanted could not be opened.
    pub(super) fn link_failed(&mut self, to: ShardId, now: Instant) {
        if let Some(outbound) = self.outbound.get_mut(&to).filter(|outbound| outbound.lane.is_none()) {
            outbound.ask_at = Some(now + LINK_PAUSE);
        }
    }

    /// A lane to a neighbour is gone: another is asked for after a pause. One from a neighbour is its to open again.
    pub(super) fn link_lost(&mut self, lane: LaneId, peer: Peer, now: Instant) {
        match peer {
            Peer::Client => {}
            Peer::Predecessor(_) => {
                for held in self.held.iter_mut().filter(|held| held.up == Some(lane)) {
                    held.up = None;
                }
                self.early.retain(|early| early.lane != lane);
            }
            Peer::Successor(to) => {
                if self.outbound.get(&to).is_some_and(|outbound| outbound.lane == Some(lane)) {
                    self.outbound.insert(to, Outbound { lane: None, ask_at: Some(now + LINK_PAUSE) });
                }
                for held in &mut self.held {
                    if let Some(down) = held.down.as_mut().filter(|down| down.lane == Some(lane)) {
                        (down.lane, down.next, down.copy) = (None, None, None);
                        if down.joiner {
                            // It begins again at the next link.
                            held.replica.keep_after(None);
                        }
                    }
                }
            }
        }
    }

    fn open_link(&mut self, place: usize, lane: LaneId, now: Instant) {
        let Some(at) = self.seat_of(lane) else { return };
        let held = &mut self.held[place];
        // What is ordered here is in a batch, so that it has a number.
        held.settle();
        let Some(down) = held.down.as_mut() else { return };
        (down.lane, down.next, down.copy) = (Some(lane), None, None);
        let role = if down.joiner { LINK_JOINER } else { LINK_SUCCESSOR };
        let body = LinkBody { ordered: held.replica.lsn().0.into(), role: role.into(), reserved: [0; 6] };
        let header = Header { shard: down.shard, ..link_header(held, Kind::Link) };
        self.answer(at, &header, &[body.as_bytes()], now);
    }

    /// The thread behind this one says what it has.
    pub(super) fn on_linked(&mut self, at: usize, header: &Header) {
        let lane = self.lanes[at].id;
        let mut body = LinkedBody::new_zeroed();
        let Peer::Successor(from) = self.lanes[at].peer else { return self.cut(at) };
        if !self.take_body(at, header, body.as_mut_bytes()) {
            return self.cut(at);
        }
        let Some(place) = self.place_of(header.partition) else { return };
        let Self { held, rows, .. } = self;
        let held = &mut held[place];
        let (partition, epoch, ours) = (held.partition, held.chain.epoch, held.replica.lsn());
        let Some(down) = held.down.as_mut().filter(|down| down.lane == Some(lane)) else { return };
        if header.epoch != epoch {
            return;
        }
        let applied = Lsn(body.applied.get());
        let trouble = match body.want.get() {
            WANT_BATCHES if applied > ours => Some("it has applied what its predecessor never ordered"),
            WANT_BATCHES if !held.replica.can_resend_after(applied) => {
                Some("it lacks batches that are acknowledged and no longer kept")
            }
            WANT_BATCHES => {
                down.next = Some(applied.next());
                None
            }
            WANT_EVERYTHING if down.joiner => {
                held.replica.seal();
                let lsn = held.replica.lsn();
                down.copy = Some(Copying::new(rows, partition, &held.replica.snapshot(), lsn));
                held.replica.keep_after(Some(lsn));
                down.kept = lsn;
                down.next = Some(lsn.next());
                None
            }
            WANT_EVERYTHING => Some("it has nothing of the partition"),
            _ => return self.cut(at),
        };
        match trouble {
            None => self.send_later(place),
            Some(reason) => {
                // It would never catch up: out of the chain, and back by joining.
                let reason = format!("its predecessor says: {reason}");
                self.notify(Notice::Leave { partition, epoch, shard: from, reason });
            }
        }
    }

    /// Nobody waits for a joiner: one for whom the log fills up begins again later.
    pub(super) fn give_up_joiner(&mut self, place: usize, reason: &str) {
        let held = &mut self.held[place];
        let Some(down) = held.down.as_mut().filter(|down| down.joiner && down.next.is_some()) else { return };
        (down.next, down.copy) = (None, None);
        let (partition, epoch, shard) = (held.partition, held.chain.epoch, down.shard);
        held.replica.keep_after(None);
        let reason = reason.to_owned();
        self.notify(Notice::Leave { partition, epoch, shard, reason });
    }

    /// Says that a replica here cannot go on.
    pub(super) fn leave(&self, held: &mut Held, reason: &str) {
        held.leave(self.shard, &self.notices, reason);
    }

    /// Tells the process; one that ends has nobody listening.
    pub(super) fn notify(&self, notice: Notice) {
        self.notices.send(notice).ok();
    }
}

/// The header of a record about a partition's link.
pub(super) fn link_header(held: &Held, kind: Kind) -> Header {
    Header { partition: held.partition, epoch: held.chain.epoch, ..Header::new(kind, 0) }
}
