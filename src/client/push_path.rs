//! Pushes and clocks: encoding, sending, and what their outcomes resolve.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use zerocopy::{FromBytes, IntoBytes};

use super::engine::{Delayed, Engine, Failure, Outgoing, Unclaimed};
use super::error::Error;
use super::flow::{Reaction, Resolution};
use super::plan::{KeyPlan, Part};
use super::slots::SlotId;
use super::strong_pull::SERVING_DELAY;
use crate::lane::{Fabric, LaneId};
use crate::store::TableSchema;
use crate::wire::ids::{Clock, Epoch, PartitionId, RequestId, Sequence, TableId};
use crate::wire::{
    ClockEntry, Encoding, HEADER_BYTES, Header, KeyForm, Kind, Level, OutcomeBody, PushBody, PushOp,
    RefusalCode, RefusedEntry, RetryBody, RetryCode,
};

/// Reply space of one push: two outcomes, or a retry, with a refusal each.
pub(super) const PUSH_REPLY_BYTES: usize = 256;
/// Pushes written to a lane at once.
const BATCH: usize = 16;
/// Header and body of a push.
const HEAD_BYTES: usize = HEADER_BYTES + PushBody::BYTES;
/// Wait before pushes are sent again that a server had no room for.
const ROOM_DELAY: Duration = Duration::from_millis(1);
/// Value buffers kept for use again.
const SPARE_BUFFERS: usize = 256;

/// What is kept of a push to one partition until it is replicated.
pub(super) enum Sent {
    Push {
        plan: Arc<KeyPlan>,
        part: u32,
        /// The part's rows, padded to an even number of words.
        values: Vec<u32>,
        /// Bytes of the rows.
        value_bytes: u32,
        push: SlotId,
        table: TableId,
        op: PushOp,
        dim: u32,
        level: Level,
    },
    Clock(Clock),
}

/// A push over all its partitions.
pub(super) struct PushState {
    pub(super) table: Arc<TableSchema>,
    level: Level,
    /// Parts that have not reached the level.
    waiting: u32,
    /// Parts that are not replicated.
    kept: u32,
    pub(super) refused: Option<(PartitionId, RefusalCode)>,
    /// Whether the ticket's holder was told of the refusal.
    pub(super) told: bool,
    /// Whether a ticket exists.
    pub(super) held: bool,
}

impl PushState {
    pub(super) fn done(&self) -> bool {
        self.waiting == 0
    }
}

/// What a push is made of.
pub(super) struct PushRequest<'a> {
    pub(super) table: TableId,
    pub(super) schema: &'a Arc<TableSchema>,
    pub(super) plan: Arc<KeyPlan>,
    pub(super) op: PushOp,
    /// Words a row of `rows`; 0 for an erase.
    pub(super) width: usize,
    pub(super) rows: &'a [u32],
    pub(super) level: Level,
}

impl<F: Fabric> Engine<F> {
    /// Whether the window has room for a push over these partitions.
    pub(super) fn has_room(&self, plan: &KeyPlan) -> bool {
        self.kept_bytes < self.limits.window_bytes
            && plan
                .parts
                .iter()
                .all(|part| self.routes[part.partition.0 as usize].flow.unresolved() < self.limits.window)
    }

    pub(super) fn has_clock_room(&self) -> bool {
        self.routes.iter().all(|route| route.flow.unresolved() < self.limits.window)
    }

    /// Gives the push its sequences, keeps it and sends what can be sent now.
    pub(super) fn start_push(&mut self, request: &PushRequest<'_>) -> SlotId {
        let parts = request.plan.parts.len() as u32;
        let push = self.pushes.insert(PushState {
            table: Arc::clone(request.schema),
            level: request.level,
            waiting: parts,
            kept: parts,
            refused: None,
            told: false,
            held: true,
        });
        for (index, part) in request.plan.parts.iter().enumerate() {
            let mut values = self.spare_words.pop().unwrap_or_default();
            part.gather(request.width, request.rows, &mut values);
            let value_bytes = (values.len() * 4) as u32;
            if values.len() % 2 == 1 {
                values.push(0);
            }
            self.kept_bytes += values.len() * 4;
            let sent = Sent::Push {
                plan: Arc::clone(&request.plan),
                part: index as u32,
                values,
                value_bytes,
                push,
                table: request.table,
                op: request.op,
                dim: request.width as u32,
                level: request.level,
            };
            let route = &mut self.routes[part.partition.0 as usize];
            let sequence = route.flow.append(sent);
            self.links[route.link].queue.push_back(Outgoing::Push(part.partition, sequence));
        }
        self.send_queued();
        push
    }

    /// The push's ticket is gone: a refusal goes to the session, the state goes once nothing is kept.
    pub(super) fn release_push(&mut self, push: SlotId) {
        let Some(state) = self.pushes.get_mut(push) else { return };
        state.held = false;
        if let Some((partition, code)) = state.refused
            && !state.told
        {
            let table = Arc::clone(&state.table);
            self.unclaimed.get_or_insert(Unclaimed { table, partition, code });
        }
        if state.kept == 0 {
            self.pushes.remove(push);
        }
    }

    /// Ends this session's iteration: a record in every partition's order.
    pub(super) fn start_clock(&mut self) -> Clock {
        self.clock = self.clock.next();
        for partition in 0..self.routes.len() {
            let route = &mut self.routes[partition];
            let sequence = route.flow.append(Sent::Clock(self.clock));
            self.links[route.link].queue.push_back(Outgoing::Push(PartitionId(partition as u32), sequence));
        }
        self.send_queued();
        self.clock
    }

    pub(super) fn send_queued(&mut self) {
        if self.dialer.under_way > 0 {
            self.take_dialed();
        }
        for link in 0..self.links.len() {
            if !self.links[link].queue.is_empty() {
                self.transmit(link);
            }
        }
        self.fabric.flush();
    }

    /// Sends the run of pushes or clocks at the front of the queue; false when it must wait.
    pub(super) fn transmit_pushes(
        &mut self,
        index: usize,
        lane: LaneId,
        partition: PartitionId,
        sequence: Sequence,
    ) -> bool {
        let flow = &self.routes[partition.0 as usize].flow;
        let Some(entry) = flow.entry(sequence) else {
            self.links[index].queue.pop_front();
            return true;
        };
        match entry.body {
            Sent::Clock(clock) => self.transmit_clocks(index, lane, clock),
            Sent::Push { .. } => self.transmit_push_run(index, lane),
        }
    }

    fn transmit_push_run(&mut self, index: usize, lane: LaneId) -> bool {
        let mut heads = [[0u8; HEAD_BYTES]; BATCH];
        let mut run = [(PartitionId(0), Sequence(0)); BATCH];
        let mut count = 0;
        let mut bytes = 0;
        let credit = self.fabric.credit(lane);
        let limit = self.limits.ring_bytes / 4;
        let mut taken = 0;
        while count < BATCH
            && let Some(&Outgoing::Push(partition, sequence)) = self.links[index].queue.get(taken)
        {
            let flow = &self.routes[partition.0 as usize].flow;
            let ahead = run[..count].iter().filter(|(other, _)| *other == partition).count();
            let Some(entry) = flow.entry(sequence) else {
                taken += 1;
                continue;
            };
            if !flow.is_to_send(sequence, ahead) {
                if flow.is_sent(sequence) {
                    taken += 1;
                    continue;
                }
                break; // Earlier ones wait for their delay.
            }
            let Sent::Push { plan, part, values, .. } = &entry.body else { break };
            let inline_bytes = plan.parts[*part as usize].keys.len() * 8;
            let record = HEAD_BYTES + inline_bytes + values.len() * 4;
            if bytes + record > credit.min(limit) && (count > 0 || record > credit) {
                break;
            }
            bytes += record;
            heads[count] = self.push_head(partition, sequence, &entry.body);
            run[count] = (partition, sequence);
            count += 1;
            taken += 1;
        }
        if count == 0 {
            self.links[index].queue.drain(..taken);
            return taken > 0;
        }
        let mut slices: [&[u8]; 3 * BATCH] = [&[]; 3 * BATCH];
        for (i, (partition, sequence)) in run[..count].iter().enumerate() {
            slices[3 * i] = &heads[i];
            let Some(entry) = self.routes[partition.0 as usize].flow.entry(*sequence) else { continue };
            if let Sent::Push { plan, part, values, .. } = &entry.body {
                if heads[i][HEADER_BYTES + KEY_FORM_OFFSET] != KeyForm::Named.to_wire() {
                    slices[3 * i + 1] = plan.parts[*part as usize].keys.as_bytes();
                }
                slices[3 * i + 2] = values.as_bytes();
            }
        }
        let link = &mut self.links[index];
        if link.pushes_out > 0 && link.pushes_out + count > self.limits.pushes_out() {
            return false;
        }
        if self.fabric.write(lane, &slices[..3 * count], true).is_err() {
            return false;
        }
        link.pushes_out += count;
        link.queue.drain(..taken);
        for (i, (partition, sequence)) in run[..count].iter().enumerate() {
            let flow = &mut self.routes[partition.0 as usize].flow;
            if heads[i][HEADER_BYTES + KEY_FORM_OFFSET] == KeyForm::Remember.to_wire()
                && let Some(entry) = flow.entry(*sequence)
                && let Sent::Push { plan, part, .. } = &entry.body
            {
                plan.parts[*part as usize].known.store(true, Ordering::Relaxed);
            }
            self.note_sent(*partition);
        }
        true
    }

    fn note_sent(&mut self, partition: PartitionId) {
        let route = self.route(partition);
        if !route.flow.awaits_outcome() {
            route.heard = Instant::now();
        }
        route.flow.mark_sent();
    }

    fn push_head(&self, partition: PartitionId, sequence: Sequence, sent: &Sent) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        let Sent::Push { plan, part, value_bytes, table, op, dim, level, push, .. } = sent else {
            return head;
        };
        let route = &self.routes[partition.0 as usize];
        let part = &plan.parts[*part as usize];
        let form = key_form(plan, part);
        let key_bytes = if form == KeyForm::Named { 0 } else { part.keys.len() * 8 };
        let length = PushBody::BYTES + key_bytes + *value_bytes as usize;
        let header = Header {
            session: self.session,
            flow: push.to_wire(),
            request: RequestId(u64::from(route.flow.attempt())),
            sequence,
            epoch: route.flow.epoch,
            clock: self.clock,
            shard: self.links[route.link].shard,
            table: *table,
            partition,
            ..Header::new(Kind::Push, length as u32)
        };
        let body = PushBody {
            resolved: route.flow.resolved().0.into(),
            digest: digest_words(part.digest),
            keys: (part.keys.len() as u32).into(),
            dim: (*dim).into(),
            op: op.to_wire(),
            key_form: form.to_wire(),
            encoding: Encoding::F32.to_wire(),
            level: level.to_wire(),
            reserved: [0; 12],
        };
        head[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
        head[HEADER_BYTES..].copy_from_slice(body.as_bytes());
        head
    }

    /// Sends the run of equal clocks at the front of the queue as one record.
    fn transmit_clocks(&mut self, index: usize, lane: LaneId, clock: Clock) -> bool {
        let mut entries = std::mem::take(&mut self.scratch);
        entries.clear();
        let mut run: Vec<PartitionId> = Vec::new();
        let mut taken = 0;
        while let Some(&Outgoing::Push(partition, sequence)) = self.links[index].queue.get(taken) {
            let flow = &self.routes[partition.0 as usize].flow;
            let Some(entry) = flow.entry(sequence) else {
                taken += 1;
                continue;
            };
            let same = matches!(entry.body, Sent::Clock(other) if other == clock);
            if !same || run.contains(&partition) {
                break;
            }
            if !flow.is_next_to_send(sequence) {
                if flow.is_sent(sequence) {
                    taken += 1;
                    continue;
                }
                break;
            }
            let entry = ClockEntry {
                sequence: sequence.0.into(),
                resolved: flow.resolved().0.into(),
                epoch: flow.epoch.0.into(),
                partition: partition.0.into(),
                attempt: flow.attempt().into(),
            };
            entries.extend_from_slice(entry.as_bytes());
            run.push(partition);
            taken += 1;
            if entries.len() + ClockEntry::BYTES > self.limits.payload_bytes() {
                break;
            }
        }
        let header = Header {
            session: self.session,
            clock,
            shard: self.links[index].shard,
            ..Header::new(Kind::Clock, entries.len() as u32)
        };
        let moved = if run.is_empty() {
            taken > 0
        } else {
            let out = self.links[index].pushes_out;
            let fits = out == 0 || out + run.len() <= self.limits.pushes_out();
            fits && self.fabric.write(lane, &[&header.to_bytes(), &entries], true).is_ok()
        };
        if moved {
            self.links[index].queue.drain(..taken);
            self.links[index].pushes_out += run.len();
            for partition in &run {
                self.note_sent(*partition);
            }
        }
        self.scratch = entries;
        moved
    }

    pub(super) fn on_outcome(&mut self, lane: LaneId, header: &Header) -> Result<(), Error> {
        self.take_payload(lane, header);
        let scratch = std::mem::take(&mut self.scratch);
        let result = self.outcome(header, &scratch);
        self.scratch = scratch;
        result
    }

    fn outcome(&mut self, header: &Header, payload: &[u8]) -> Result<(), Error> {
        let malformed = |what: &str| Error::Protocol(format!("an outcome {what}"));
        let (body, rest) = OutcomeBody::split(payload).map_err(|error| Error::Protocol(error.to_string()))?;
        let entries = <[RefusedEntry]>::ref_from_bytes(rest).map_err(|_| malformed("with half an entry"))?;
        if entries.len() != body.refused.get() as usize {
            return Err(malformed("whose entries are not as many as it says"));
        }
        let mut refused = Vec::new();
        for entry in entries {
            let code =
                RefusalCode::from_wire(entry.code.get()).ok_or_else(|| malformed("of unknown reason"))?;
            refused.push((Sequence(entry.sequence.get()), code));
        }
        let partition = header.partition;
        let Some(route) = self.routes.get_mut(partition.0 as usize) else {
            return Err(malformed("of a partition that does not exist"));
        };
        let (applied, replicated) = (Sequence(body.applied.get()), Sequence(body.replicated.get()));
        route.heard = Instant::now();
        let mut done = 0;
        let mut broken = false;
        let Self { pushes, spare_words, plans, kept_bytes, unclaimed, .. } = self;
        route.flow.on_outcome(header.epoch, applied, replicated, &refused, |resolution| match resolution {
            Resolution::Applied(Sent::Push { push, .. }) => {
                if let Some(state) = pushes.get_mut(*push)
                    && state.level == Level::Applied
                {
                    state.waiting -= 1;
                }
            }
            Resolution::Replicated { body: Sent::Push { plan, values, push, .. }, was_applied } => {
                done += 1;
                *kept_bytes -= values.len() * 4;
                if spare_words.len() < SPARE_BUFFERS {
                    spare_words.push(values);
                }
                plans.recycle(plan);
                let Some(state) = pushes.get_mut(push) else { return };
                state.kept -= 1;
                if state.level == Level::Replicated || !was_applied {
                    state.waiting -= 1;
                }
                if state.kept == 0 && !state.held {
                    pushes.remove(push);
                }
            }
            Resolution::Refused { body: Sent::Push { plan, values, push, .. }, code, was_applied } => {
                // A push that was applied cannot be refused by the same head; one that says so is cut.
                broken |= was_applied == Some(header.epoch);
                done += 1;
                *kept_bytes -= values.len() * 4;
                spare_words.push(values);
                plans.recycle(plan);
                let Some(state) = pushes.get_mut(push) else { return };
                state.kept -= 1;
                if was_applied.is_none() || state.level == Level::Replicated {
                    state.waiting -= 1;
                }
                state.refused.get_or_insert((partition, code));
                if !state.held && !state.told {
                    unclaimed.get_or_insert(Unclaimed { table: Arc::clone(&state.table), partition, code });
                }
                if state.kept == 0 && !state.held {
                    pushes.remove(push);
                }
            }
            Resolution::Replicated { body: Sent::Clock(_), .. }
            | Resolution::Refused { body: Sent::Clock(_), .. } => {
                done += 1;
            }
            Resolution::Applied(Sent::Clock(_)) => {}
        });
        let link = route.link;
        self.release_pushes(link, done);
        if broken { Err(malformed("that takes back what it said")) } else { Ok(()) }
    }

    pub(super) fn on_retry(&mut self, lane: LaneId, link: usize, header: &Header) -> Result<(), Error> {
        self.take_payload(lane, header);
        let (body, _) =
            RetryBody::split(&self.scratch).map_err(|error| Error::Protocol(error.to_string()))?;
        let unknown = || Error::Protocol("a retry of unknown reason or partition".into());
        let code = RetryCode::from_wire(body.code.get()).ok_or_else(unknown)?;
        let (expected, epoch) = (Sequence(body.expected.get()), Epoch(body.epoch.get()));
        let partition = header.partition;
        let route = self.routes.get_mut(partition.0 as usize).ok_or_else(unknown)?;
        let known_epoch = route.flow.epoch;
        // A server that was removed may have dropped sessions that live on; only the head knows.
        if code == RetryCode::Ended && link == route.link && epoch == known_epoch {
            self.failure = Some(Failure::Ended);
            return Ok(());
        }
        if code == RetryCode::KeysMissing
            && let Some(entry) = route.flow.entry(header.sequence)
            && let Sent::Push { plan, part, .. } = &entry.body
        {
            plan.parts[*part as usize].known.store(false, Ordering::Relaxed);
        }
        let attempt = header.request.0 as u32;
        let sent_by = route.link;
        let (from, until) = match route.flow.on_retry(attempt, code, header.sequence, expected) {
            Reaction::Old => return Ok(()),
            Reaction::Lost { .. } => {
                self.failure = Some(Failure::StateLost(partition));
                return Ok(());
            }
            Reaction::Resend { from, until } => (from, until),
        };
        self.release_pushes(sent_by, (until.0 - from.0) as usize);
        let delay = match code {
            RetryCode::KeysMissing | RetryCode::SequenceGap => None,
            RetryCode::LogFull => Some(ROOM_DELAY),
            RetryCode::WrongHead | RetryCode::UnknownEpoch | RetryCode::Orphan | RetryCode::Ended => {
                self.follow_map();
                if self.route(partition).flow.epoch != known_epoch {
                    return Ok(()); // Queued whole, on the new way.
                }
                Some(SERVING_DELAY)
            }
        };
        match delay {
            None => self.requeue_front(partition, from, until),
            Some(delay) => {
                self.delayed.push(Delayed { at: Instant::now() + delay, partition, from, until });
            }
        }
        Ok(())
    }
}

const KEY_FORM_OFFSET: usize = std::mem::offset_of!(PushBody, key_form);

/// How the part's keys are named in the next record.
pub(super) fn key_form(plan: &KeyPlan, part: &Part) -> KeyForm {
    match (plan.remembered, part.known.load(Ordering::Relaxed)) {
        (false, _) => KeyForm::Inline,
        (true, false) => KeyForm::Remember,
        (true, true) => KeyForm::Named,
    }
}

pub(super) fn digest_words(digest: u128) -> [zerocopy::byteorder::little_endian::U64; 2] {
    [(digest as u64).into(), ((digest >> 64) as u64).into()]
}
