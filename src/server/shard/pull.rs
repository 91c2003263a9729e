//! A pull: copied out of the ring, checked whole, then answered, parked until a clock comes, or told why not.

use std::time::{Duration, Instant};

use zerocopy::IntoBytes;

use super::answer::Answer;
use super::keys::Naming;
use super::reply::reply_to;
use super::{PARKED_PER_LANE, Shard};
use crate::lane::{Fabric, LaneId};
use crate::wire::ids::Clock;
use crate::wire::{
    Encoding, Header, Kind, NO_CLOCK, PULL_STRONG, PullBody, PullReplyBody, PullStatus, PushOp,
};

/// A pull that waits for a clock.
pub(super) struct Parked {
    pub(super) lane: LaneId,
    pub(super) place: usize,
    pub(super) at_least: Clock,
    pub(super) deadline: Instant,
    pub(super) answer: Answer,
}

/// What a checked pull still wants before it is answered.
struct Wish {
    place: usize,
    at_least: Option<Clock>,
    patience: Duration,
}

impl<F: Fabric> Shard<F> {
    pub(super) fn on_pull(&mut self, at: usize, header: &Header, now: Instant) {
        let lane = self.lanes[at].id;
        let live = self.note_route(header.session, at);
        let length = header.length as usize;
        let mut buffer = self.spare.pop().unwrap_or_default();
        // Only growth is filled: what an earlier request left behind the payload is never looked at.
        let words = length.div_ceil(8);
        if buffer.len() < words {
            buffer.resize(words, 0);
        }
        self.fabric.copy_payload(lane, 0, &mut buffer.as_mut_bytes()[..length]);
        self.fabric.consume(lane);
        let answer = Answer::new(header, buffer);
        match self.check_pull(&answer, live, now) {
            Ok(wish) => match wish.at_least {
                Some(at_least) if self.min_clock(wish.place).is_some_and(|clock| clock < at_least) => {
                    self.park(at, wish.place, at_least, now.checked_add(wish.patience), answer, now);
                }
                _ => self.serve_or_keep(at, answer, now),
            },
            Err(status) => self.end_pull(at, answer, status, now),
        }
    }

    /// Checks everything that can be checked before the answer. Nothing is changed but the key lists kept.
    fn check_pull(&mut self, answer: &Answer, live: bool, now: Instant) -> Result<Wish, PullStatus> {
        let request = answer.request();
        let place = self.place_of(request.partition).ok_or(PullStatus::NotServing)?;
        let held = &self.held[place];
        // A joiner's rows are not whole, and who left may have any.
        if !live || held.joining.is_some() || held.left {
            return Err(PullStatus::NotServing);
        }
        let (body, rest) = PullBody::split(answer.payload()).map_err(|_| PullStatus::Malformed)?;
        if Encoding::from_wire(body.encoding) != Some(Encoding::F32) || body.flags & !PULL_STRONG != 0 {
            return Err(PullStatus::Malformed);
        }
        let count = body.keys.get() as usize;
        let (naming, rest) =
            Naming::split(body.key_form, &body.digest, count, rest).ok_or(PullStatus::Malformed)?;
        if !rest.is_empty() {
            return Err(PullStatus::Malformed);
        }
        let dim = self.rows.width(request.table, PushOp::Update).ok_or(PullStatus::NoTable)?;
        if dim != body.dim.get() as usize {
            return Err(PullStatus::Shape);
        }
        let held = &self.held[place];
        // C4, C5: a strong read is the tail's to answer, under its lease, and only under the epoch the client knows.
        let strong = body.flags & PULL_STRONG != 0;
        let answers = held.answers_strongly() && self.lease.holds(now);
        if strong && (request.epoch != held.chain.epoch || !answers) {
            return Err(PullStatus::NotServing);
        }
        self.rows.check_list(request.table, request.partition, request.session, naming)?;
        let at_least = Some(body.at_least.get()).filter(|&clock| clock != NO_CLOCK).map(Clock);
        let patience = Duration::from_millis(u64::from(body.patience_ms.get()));
        Ok(Wish { place, at_least, patience })
    }

    fn park(
        &mut self,
        at: usize,
        place: usize,
        at_least: Clock,
        deadline: Option<Instant>,
        answer: Answer,
        now: Instant,
    ) {
        let seat = &mut self.lanes[at];
        let (Some(deadline), true) = (deadline, seat.parked < PARKED_PER_LANE * self.held.len()) else {
            self.end_pull(at, answer, PullStatus::NotServing, now);
            return;
        };
        seat.parked += 1;
        self.parked.push(Parked { lane: seat.id, place, at_least, deadline, answer });
    }

    /// Lowest clock of a partition's live workers.
    pub(super) fn min_clock(&self, place: usize) -> Option<Clock> {
        self.held[place].replica.min_clock()
    }

    /// Answers a pull without rows.
    pub(super) fn end_pull(&mut self, at: usize, answer: Answer, status: PullStatus, now: Instant) {
        self.counts.pulls += 1;
        let place = self.place_of(answer.request().partition);
        let replica = place.map(|place| &self.held[place].replica);
        let body = PullReplyBody {
            lsn: replica.map_or(0, |replica| replica.lsn().0).into(),
            clock: replica.and_then(|replica| replica.min_clock()).map_or(NO_CLOCK, |clock| clock.0).into(),
            first: 0.into(),
            rows: 0.into(),
            total: 0.into(),
            dim: 0.into(),
            status: status.to_wire().into(),
            reserved: [0; 6],
        };
        let epoch = replica.map_or(answer.request().epoch, |replica| replica.epoch());
        let header = Header { epoch, ..reply_to(answer.request(), Kind::PullReply) };
        self.answer(at, &header, &[body.as_bytes()], now);
        self.keep_spare(answer.into_buffer());
    }
}
