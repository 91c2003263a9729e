//! The lanes of a shard: what each still has to be told, and what becomes of one that is lost or misbehaves.

use std::collections::VecDeque;
use std::time::Instant;

use super::{Answer, Shard};
use crate::lane::{AdoptError, Event, Fabric, LaneEnd, LaneId};
use crate::wire::ids::{SessionId, ShardId};

/// Who is at the other end of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A client.
    Client,
    /// A thread that sends batches here.
    Predecessor(ShardId),
    /// A thread that gets batches from here.
    Successor(ShardId),
}

/// One lane.
pub(super) struct Seat {
    pub(super) id: LaneId,
    pub(super) peer: Peer,
    /// Records may lie in its ring.
    pub(super) ready: bool,
    /// Whole records that found no credit. While there are any, nothing more is read from the lane.
    pub(super) backlog: Vec<u8>,
    /// Pulls whose pieces found no credit; as above.
    pub(super) answers: VecDeque<Answer>,
    /// Pulls of this lane that wait for a clock.
    pub(super) parked: usize,
    /// Since when answers found no credit.
    pub(super) stuck_since: Option<Instant>,
    /// The peer is gone: what it sent whole is still read, nobody is answered.
    pub(super) down: bool,
    /// It is to be closed at the end of the turn.
    pub(super) cut: bool,
}

impl Seat {
    fn new(id: LaneId, peer: Peer) -> Self {
        Self {
            id,
            peer,
            ready: true,
            backlog: Vec::new(),
            answers: VecDeque::new(),
            parked: 0,
            stuck_since: None,
            down: false,
            cut: false,
        }
    }

    /// Whether records may be taken from it now.
    pub(super) fn readable(&self) -> bool {
        self.ready && !self.cut && !self.owes()
    }

    /// Whether nothing is to be read from it, told to it, or done about it.
    pub(super) fn is_quiet(&self) -> bool {
        !self.ready && !self.owes() && self.stuck_since.is_none() && !self.down && !self.cut
    }

    /// Whether answers wait for credit.
    pub(super) fn owes(&self) -> bool {
        !self.backlog.is_empty() || !self.answers.is_empty()
    }
}

impl<F: Fabric> Shard<F> {
    /// Takes over one end of a lane.
    ///
    /// # Errors
    /// What the fabric says.
    pub(super) fn adopt(&mut self, end: LaneEnd, peer: Peer, now: Instant) -> Result<(), AdoptError> {
        let id = self.fabric.adopt(end)?;
        self.lanes.push(Seat::new(id, peer));
        if let Peer::Successor(to) = peer {
            self.link_opened(to, id, now);
        }
        Ok(())
    }

    /// Asks the fabric what happened.
    pub(super) fn poll_fabric(&mut self, now: Instant) -> bool {
        self.fabric.poll(&mut self.events);
        let any = !self.events.is_empty();
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            match event {
                Event::Arrived(lane) => {
                    if let Some(at) = self.seat_of(lane) {
                        self.lanes[at].ready = true;
                    }
                }
                Event::Entry { lane, entry } => self.on_entry(lane, entry, now),
                Event::ReadDone { .. } => {}
                Event::Down { lane, .. } => {
                    if let Some(at) = self.seat_of(lane) {
                        self.on_down(at, now);
                    }
                }
            }
        }
        self.events = events;
        any
    }

    /// The place of a lane in `lanes`.
    pub(super) fn seat_of(&self, lane: LaneId) -> Option<usize> {
        self.lanes.iter().position(|seat| seat.id == lane)
    }

    /// A session was heard on the lane at `at`: its outcomes go there from now on. What a dead lane still holds does
    /// not call them back. False when the session is not live.
    pub(super) fn note_route(&mut self, session: SessionId, at: usize) -> bool {
        let seat = &self.lanes[at];
        let Some(route) = self.sessions.get_mut(&session) else { return false };
        if !seat.down {
            *route = Some(seat.id);
        }
        true
    }

    /// Notes that a lane's answers find no credit.
    pub(super) fn stuck(&mut self, at: usize, now: Instant) {
        self.lanes[at].stuck_since.get_or_insert(now);
    }

    /// The peer broke the protocol, or takes no answers: the lane is closed at the end of the turn. Its sessions live
    /// on and may come back on another lane.
    pub(super) fn cut(&mut self, at: usize) {
        if !std::mem::replace(&mut self.lanes[at].cut, true) {
            self.counts.cut_lanes += 1;
        }
    }

    /// Closes the lanes that were cut.
    pub(super) fn drop_cut_lanes(&mut self, now: Instant) {
        for at in (0..self.lanes.len()).rev() {
            let seat = &self.lanes[at];
            if seat.cut || (seat.down && !seat.ready) {
                // A lane that can't be fenced in time is as closed as it gets: its memory is not used again.
                let _fenced = self.fabric.fence(self.lanes[at].id);
                self.forget(at, now);
            }
        }
    }

    /// The peer is gone. Nothing waits for credit any more; once its last records are read the lane is closed.
    fn on_down(&mut self, at: usize, now: Instant) {
        let (lane, peer) = (self.lanes[at].id, self.lanes[at].peer);
        if let Peer::Successor(_) = peer {
            self.link_lost(lane, peer, now);
        }
        let seat = &mut self.lanes[at];
        seat.down = true;
        seat.ready = true;
        seat.backlog.clear();
        for answer in std::mem::take(&mut seat.answers) {
            self.keep_spare(answer.into_buffer());
        }
    }

    /// Forgets a closed lane: its waiting pulls, and that sessions used it.
    fn forget(&mut self, at: usize, now: Instant) {
        let seat = self.lanes.swap_remove(at);
        self.link_lost(seat.id, seat.peer, now);
        for answer in seat.answers {
            self.keep_spare(answer.into_buffer());
        }
        let mut parked = 0;
        while parked < self.parked.len() {
            if self.parked[parked].lane == seat.id {
                let answer = self.parked.swap_remove(parked).answer;
                self.keep_spare(answer.into_buffer());
            } else {
                parked += 1;
            }
        }
        for route in self.sessions.values_mut().filter(|route| **route == Some(seat.id)) {
            *route = None;
        }
    }
}
