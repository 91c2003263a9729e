//! One session's machine: lanes to shards, what is queued for them, what is under way, and the turn that moves it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::Error;
use super::flow::Flow;
use super::link::{Dialer, Link};
use super::plan::{KeyPlan, PlanCache};
use super::pull_path::{Progress, PullState};
use super::push_path::{PushState, Sent};
use super::slots::{SlotId, Slots};
use super::strong_pull::WaitingPull;
use crate::client::ask_path::AskState;
use crate::cluster::Map;
use crate::control::ControlPlane;
use crate::lane::{Event, Fabric, LaneId, WriteError};
use crate::store::TableSchema;
use crate::wire::ids::{Clock, PartitionId, Sequence, SessionId};
use crate::wire::{Header, Kind, RefusalCode};

/// A push whose outcome is not heard of for so long is sent again: whatever lost the answer, the next one heals it.
const RESEND_AFTER: Duration = Duration::from_secs(2);
/// How often that is looked at.
const RESEND_LOOK: Duration = Duration::from_millis(100);

/// What a session is bounded by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) deadline: Duration,
    /// Unresolved pushes a partition.
    pub(super) window: usize,
    /// Bytes of values kept for unresolved pushes.
    pub(super) window_bytes: usize,
    /// Bytes of this side's inbox ring, and of the servers'.
    pub(super) ring_bytes: usize,
    /// How long a wait polls before it blocks.
    pub(super) spin: Duration,
}

impl Limits {
    /// Largest payload of a record: a quarter of a ring, less its header and body, and less those of a batch, as which it
    /// goes on from server to server.
    pub(super) fn payload_bytes(&self) -> usize {
        (self.ring_bytes / 4).saturating_sub(crate::wire::HEADER_BYTES + 48 + 128)
    }

    /// Reply space that pulls and questions may promise: half of the inbox. A quarter is for pushes and clocks, which
    /// so never wait for the answer of a pull that waits for them; and credit for a quarter may be on its way back.
    fn reply_bytes(&self) -> usize {
        self.ring_bytes / 2
    }

    /// Pushes and clocks, each partition's counted, that may await their outcomes on a link.
    pub(super) fn pushes_out(&self) -> usize {
        self.ring_bytes / 4 / super::push_path::PUSH_REPLY_BYTES
    }
}

/// Something to be written to a lane, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    Push(PartitionId, Sequence),
    Pull { pull: SlotId, part: u32 },
    Ask(SlotId),
}

/// A partition's flow and the links its chain is reached by.
pub(super) struct Route {
    pub(super) flow: Flow<Sent>,
    /// Of the head: pushes and relaxed pulls.
    pub(super) link: usize,
    /// Of the tail: strong pulls.
    pub(super) tail_link: usize,
    /// When its server was last heard of it, or the first push was sent that awaits an outcome.
    pub(super) heard: Instant,
}

/// Pushes of a partition that wait a little before they are sent again.
pub(super) struct Delayed {
    pub(super) at: Instant,
    pub(super) partition: PartitionId,
    pub(super) from: Sequence,
    pub(super) until: Sequence,
}

/// What ends a session.
#[derive(Clone, Copy, Debug)]
pub(super) enum Failure {
    Ended,
    StateLost(PartitionId),
}

/// A refusal nobody holds a ticket for.
pub(super) struct Unclaimed {
    pub(super) table: Arc<TableSchema>,
    pub(super) partition: PartitionId,
    pub(super) code: RefusalCode,
}

pub(super) struct Engine<F> {
    pub(super) session: SessionId,
    pub(super) control: Arc<dyn ControlPlane>,
    pub(super) map: Arc<Map>,
    pub(super) fabric: F,
    pub(super) limits: Limits,
    pub(super) links: Vec<Link>,
    pub(super) routes: Vec<Route>,
    pub(super) pushes: Slots<PushState>,
    pub(super) pulls: Slots<PullState>,
    pub(super) asks: Slots<AskState>,
    pub(super) plans: PlanCache,
    pub(super) delayed: Vec<Delayed>,
    pub(super) waiting_pulls: Vec<WaitingPull>,
    pub(super) dialer: Dialer,
    /// A chain changed: lanes may be of no use any more.
    pub(super) rerouted: bool,
    pub(super) unclaimed: Option<Unclaimed>,
    pub(super) failure: Option<Failure>,
    pub(super) clock: Clock,
    pub(super) staleness: Option<u64>,
    /// Bytes of values kept for unresolved pushes.
    pub(super) kept_bytes: usize,
    pub(super) spare_words: Vec<Vec<u32>>,
    pub(super) scratch: Vec<u8>,
    pub(super) rows: Vec<f32>,
    /// Which rows of a piece there are.
    pub(super) bitmap: Vec<u64>,
    /// Memory of ended pulls, to be used again.
    pub(super) spare_parts: Vec<Vec<Progress>>,
    next_look: Instant,
    events: Vec<Event>,
}

impl<F: Fabric> Engine<F> {
    pub(super) fn new(
        (session, clock): (SessionId, Clock),
        control: Arc<dyn ControlPlane>,
        fabric: F,
        limits: Limits,
    ) -> Self {
        let map = control.map();
        let links = map.shards.iter().map(|shard| Link::new(shard.shard)).collect();
        let mut engine = Self {
            session,
            control,
            map: Arc::clone(&map),
            fabric,
            limits,
            links,
            routes: Vec::new(),
            pushes: Slots::new(),
            pulls: Slots::new(),
            asks: Slots::new(),
            plans: PlanCache::new(),
            delayed: Vec::new(),
            waiting_pulls: Vec::new(),
            dialer: Dialer::new(),
            rerouted: false,
            unclaimed: None,
            failure: None,
            clock,
            staleness: None,
            kept_bytes: 0,
            spare_words: Vec::new(),
            scratch: Vec::new(),
            rows: Vec::new(),
            bitmap: Vec::new(),
            spare_parts: Vec::new(),
            next_look: Instant::now(),
            events: Vec::new(),
        };
        for chain in &map.partitions {
            let (Some(&head), Some(&tail)) = (chain.members.first(), chain.members.last()) else {
                unreachable!("every chain has a head");
            };
            let (link, tail_link) = (engine.link_of(head), engine.link_of(tail));
            engine.routes.push(Route {
                flow: Flow::new(chain.epoch),
                link,
                tail_link,
                heard: Instant::now(),
            });
        }
        engine
    }

    pub(super) fn route(&mut self, partition: PartitionId) -> &mut Route {
        &mut self.routes[partition.0 as usize]
    }

    /// One turn: takes in what came, opens what is needed, sends what fits. Never waits. False when nothing came
    /// and nothing was to be sent, so that nothing can have changed.
    pub(super) fn turn(&mut self) -> bool {
        if self.control.map_version() != self.map.version {
            self.follow_map();
        }
        let mut events = std::mem::take(&mut self.events);
        self.fabric.poll(&mut events);
        let came = !events.is_empty();
        for event in events.drain(..) {
            match event {
                Event::Arrived(lane) => self.receive(lane),
                Event::Down { lane, reason } => {
                    // What came whole before still counts.
                    self.receive(lane);
                    self.close(lane, &reason.to_string());
                }
                // Entries and grants are between servers; a client reads outcomes and replies.
                Event::Entry { .. } | Event::ReadDone { .. } => {}
            }
        }
        self.events = events;
        if self.rerouted {
            self.rerouted = false;
            self.close_unused();
        }
        if !self.delayed.is_empty() {
            self.requeue_delayed(Instant::now());
        }
        if !self.waiting_pulls.is_empty() {
            self.queue_waiting_pulls(Instant::now());
        }
        if self.dialer.under_way > 0 {
            self.take_dialed();
        }
        let changed = came || self.links.iter().any(|link| !link.queue.is_empty());
        // Polling has flushed what was due before.
        if changed {
            self.send_queued();
        }
        changed
    }

    /// Sends again what was sent long ago and never heard of.
    pub(super) fn resend_overdue(&mut self, now: Instant) {
        if now < self.next_look {
            return;
        }
        self.next_look = now + RESEND_LOOK;
        for partition in 0..self.routes.len() {
            let route = &mut self.routes[partition];
            let overdue = route.flow.awaits_outcome() && now.duration_since(route.heard) >= RESEND_AFTER;
            if !overdue || self.links[route.link].lane.is_none() {
                continue;
            }
            route.heard = now;
            let (link, sent) = (route.link, route.flow.rewind());
            self.release_pushes(link, (sent.end - sent.start) as usize);
            self.requeue_front(PartitionId(partition as u32), Sequence(sent.start), Sequence(sent.end));
        }
    }

    fn receive(&mut self, lane: LaneId) {
        let Some(link) = self.links.iter().position(|link| link.lane == Some(lane)) else { return };
        while let Some(header) = self.fabric.peek(lane) {
            let taken = match header.kind {
                Kind::Outcome => self.on_outcome(lane, &header),
                Kind::Retry => self.on_retry(lane, link, &header),
                Kind::PullReply => self.on_pull_reply(lane, link, &header),
                Kind::CountReply | Kind::ExportReply => self.on_answer(lane, link, &header),
                other => Err(Error::Protocol(format!("{other:?} is not for clients"))),
            };
            self.fabric.consume(lane);
            if let Err(error) = taken {
                // A server that breaks the protocol is cut; a new lane starts over.
                self.close(lane, &error.to_string());
                return;
            }
        }
    }

    /// The payload of the peeked record, in `self.scratch`.
    pub(super) fn take_payload(&mut self, lane: LaneId, header: &Header) {
        self.scratch.resize(header.length as usize, 0);
        self.fabric.copy_payload(lane, 0, &mut self.scratch);
    }

    /// Queues everything unresolved of a partition whose flow went back to its start.
    pub(super) fn requeue_all(&mut self, partition: PartitionId) {
        let Route { flow, link, .. } = &self.routes[partition.0 as usize];
        let first = flow.resolved().0;
        let queue = &mut self.links[*link].queue;
        queue.extend((0..flow.unresolved() as u64).map(|i| Outgoing::Push(partition, Sequence(first + i))));
    }

    fn requeue_delayed(&mut self, now: Instant) {
        let mut index = 0;
        while index < self.delayed.len() {
            if self.delayed[index].at > now {
                index += 1;
                continue;
            }
            let due = self.delayed.swap_remove(index);
            self.requeue_front(due.partition, due.from, due.until);
        }
    }

    /// Puts pushes back before everything that waits on their link.
    pub(super) fn requeue_front(&mut self, partition: PartitionId, from: Sequence, until: Sequence) {
        let link = self.routes[partition.0 as usize].link;
        for sequence in (from.0..until.0).rev() {
            self.links[link].queue.push_front(Outgoing::Push(partition, Sequence(sequence)));
        }
    }

    /// Sends from the front of a link's queue while credit and reply space last.
    pub(super) fn transmit(&mut self, index: usize) {
        let Some(lane) = self.lane(index) else { return };
        while let Some(&front) = self.links[index].queue.front() {
            let moved = match front {
                Outgoing::Push(partition, sequence) => self.transmit_pushes(index, lane, partition, sequence),
                Outgoing::Pull { pull, part } => self.transmit_pull(index, lane, pull, part),
                Outgoing::Ask(ask) => self.transmit_ask(index, lane, ask),
            };
            if !moved && !self.let_a_push_pass(index, front) {
                return;
            }
        }
    }

    /// A pull that waits for reply space may wait for a clock queued behind it: the next push or clock goes first. It
    /// breaks no order, since a pull only promises to see the pushes before it.
    fn let_a_push_pass(&mut self, index: usize, front: Outgoing) -> bool {
        let link = &mut self.links[index];
        if matches!(front, Outgoing::Push(..)) || !link.short_of_space {
            return false;
        }
        let Some(at) = link.queue.iter().position(|out| matches!(out, Outgoing::Push(..))) else {
            return false;
        };
        let Some(push) = link.queue.remove(at) else { return false };
        link.queue.push_front(push);
        let Outgoing::Push(partition, sequence) = push else { return false };
        let Some(lane) = link.lane else { return false };
        self.transmit_pushes(index, lane, partition, sequence)
    }

    /// Writes records and reserves their reply space; false when that must wait, or the lane is down.
    pub(super) fn write(&mut self, index: usize, lane: LaneId, parts: &[&[u8]], reply_bytes: usize) -> bool {
        let link = &mut self.links[index];
        // A reply larger than the space ever is goes alone.
        link.short_of_space = link.reserved > 0 && link.reserved + reply_bytes > self.limits.reply_bytes();
        if link.short_of_space {
            return false;
        }
        match self.fabric.write(lane, parts, true) {
            Ok(()) => {
                link.reserved += reply_bytes;
                true
            }
            // Down comes as an event, with its reason.
            Err(WriteError::Full | WriteError::Down) => false,
            Err(WriteError::TooLarge { limit }) => {
                link.last_error =
                    Some(format!("a record is larger than the {limit} bytes that the lane takes"));
                false
            }
        }
    }

    pub(super) fn release_pushes(&mut self, index: usize, pushes: usize) {
        let link = &mut self.links[index];
        link.pushes_out = link.pushes_out.saturating_sub(pushes);
    }

    pub(super) fn release(&mut self, index: usize, reply_bytes: usize) {
        let link = &mut self.links[index];
        link.reserved = link.reserved.saturating_sub(reply_bytes);
    }

    /// When the next thing is due without anything coming in.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let delayed = self.delayed.iter().map(|delayed| delayed.at).min();
        let connects =
            self.links.iter().filter(|link| !link.queue.is_empty()).filter_map(|link| link.connect_at).min();
        [delayed, connects, self.next_waiting_pull()].into_iter().flatten().min()
    }

    pub(super) fn check_alive(&self) -> Result<(), Error> {
        match self.failure {
            None => Ok(()),
            Some(Failure::Ended) => Err(Error::Ended(self.session.0)),
            Some(Failure::StateLost(partition)) => Err(Error::StateLost { partition }),
        }
    }

    pub(super) fn plan(
        &mut self,
        table: crate::wire::ids::TableId,
        schema: &TableSchema,
        keys: &[u64],
        identity: Option<u64>,
        row_bytes: usize,
    ) -> Result<Arc<KeyPlan>, Error> {
        let limit = self.limits.payload_bytes();
        // A request's row goes with its key of 8 bytes, a reply's with a bit of a bitmap that is padded to a word.
        let part_keys = limit.saturating_sub(8) / (row_bytes + 8 + 1);
        if part_keys == 0 {
            return Err(Error::RowTooLarge {
                row_bytes,
                limit,
                needed: (row_bytes + 256).next_power_of_two() * 4,
            });
        }
        Ok(self.plans.plan(table, schema, keys, identity, part_keys))
    }
}
