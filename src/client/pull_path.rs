//! Pulls: asking, taking in pieces, and finding their places.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use zerocopy::IntoBytes;

use super::engine::{Engine, Outgoing};
use super::error::Error;
use super::plan::{KeyPlan, Part};
use super::push_path::{digest_words, key_form};
use super::slots::SlotId;
use super::strong_pull::WaitingPull;
use crate::lane::{Fabric, LaneId};
use crate::store::TableSchema;
use crate::wire::ids::{Clock, PartitionId, RequestId, TableId};
use crate::wire::{
    Encoding, HEADER_BYTES, Header, KeyForm, Kind, NO_CLOCK, PULL_STRONG, PullBody, PullReplyBody, PullStatus,
};

/// Payload of a reply's piece at most (L3); servers cut at it.
const PIECE_BYTES: usize = 64 << 10;
/// Pulls whose memory is kept for later ones.
const SPARE_PARTS: usize = 64;
/// Header and body of a pull.
const HEAD_BYTES: usize = HEADER_BYTES + PullBody::BYTES;

/// One part of a pull under way.
#[derive(Clone, Copy, Default)]
pub(super) struct Progress {
    /// Rows that came.
    received: u32,
    /// Which sending this is; answers to earlier ones are old.
    attempt: u32,
    /// The flow's attempt when it was sent.
    flow_attempt: u32,
    /// Pushes it was sent behind are on their way again, so its rows may lack them.
    stale: bool,
    /// Sent in this attempt, its reply space reserved.
    sent: bool,
    done: bool,
}

impl Progress {
    /// Asks anew: what came so far is forgotten, answers to the earlier sending are old.
    fn restart(&mut self, part: &Part, missing: &mut [u64]) {
        for index in 0..self.received as usize {
            let position = part.position(index);
            if let Some(word) = missing.get_mut(position / 64) {
                *word &= !(1 << (position % 64));
            }
        }
        self.attempt = self.attempt.wrapping_add(1);
        self.received = 0;
    }
}

/// A pull over all its parts.
pub(super) struct PullState {
    pub(super) schema: Arc<TableSchema>,
    table: TableId,
    plan: Option<Arc<KeyPlan>>,
    pub(super) rows: Vec<f32>,
    /// Bit per key, set when it has no row; empty while every key has one.
    pub(super) missing: Vec<u64>,
    parts: Vec<Progress>,
    left: usize,
    pub(super) failed: Option<(PartitionId, PullStatus)>,
    /// Lowest clock of the live workers over all parts.
    pub(super) clock: u64,
    /// The session's own clock when it asked.
    pub(super) asked_at: Clock,
    options: PullOptions,
    /// Whether a ticket exists.
    pub(super) held: bool,
}

#[derive(Clone, Copy)]
pub(super) struct PullOptions {
    pub(super) strong: bool,
    /// [`NO_CLOCK`] for at once.
    pub(super) at_least: u64,
    pub(super) patience_ms: u32,
}

impl PullState {
    pub(super) fn done(&self) -> bool {
        self.left == 0
    }

    pub(super) fn strong(&self) -> bool {
        self.options.strong
    }

    pub(super) fn part_count(&self) -> u32 {
        self.parts.len() as u32
    }

    pub(super) fn partition(&self, part: u32) -> Option<PartitionId> {
        self.plan.as_ref()?.parts.get(part as usize).map(|keys| keys.partition)
    }

    pub(super) fn is_done(&self, part: u32) -> bool {
        self.parts[part as usize].done
    }

    pub(super) fn is_sent(&self, part: u32) -> bool {
        self.parts[part as usize].sent
    }

    /// Forgets what came of a part, which is to be asked anew. Gives the reply space it held, if it was sent.
    pub(super) fn restart(&mut self, part: u32) -> Option<usize> {
        let keys = self.plan.as_ref()?.parts.get(part as usize)?;
        let progress = &mut self.parts[part as usize];
        progress.restart(keys, &mut self.missing);
        let sent = std::mem::replace(&mut progress.sent, false);
        sent.then(|| reply_bytes(keys.keys.len(), self.schema.dim as usize))
    }
}

/// What a piece of a reply did to its part.
enum Piece {
    /// It answers an earlier sending, or a pull that is over.
    Old,
    More,
    Done {
        reply_bytes: usize,
    },
    /// The part is to be asked again, with its keys.
    Again {
        part: u32,
        reply_bytes: usize,
    },
    /// The server may not answer now; the part is to be asked again.
    Later {
        part: u32,
        reply_bytes: usize,
    },
}

/// Rows of a piece that its bitmap does not have. Whole words of found rows are the common case.
fn missing_rows(bitmap: &[u64], rows: usize) -> impl Iterator<Item = usize> + '_ {
    bitmap.iter().enumerate().flat_map(move |(index, &word)| {
        let first = index * 64;
        let valid = u64::MAX >> (64 - (rows - first).min(64));
        let mut absent = !word & valid;
        std::iter::from_fn(move || {
            let bit = absent.trailing_zeros() as usize;
            absent &= absent.wrapping_sub(1);
            (bit < 64).then_some(first + bit)
        })
    })
}

/// Space that the answer to `keys` rows of `dim` takes in the inbox.
fn reply_bytes(keys: usize, dim: usize) -> usize {
    let row_bytes = dim * 4;
    let rows_a_piece = ((PIECE_BYTES - PullReplyBody::BYTES) / (row_bytes + 1)).max(1);
    let pieces = keys.div_ceil(rows_a_piece).max(1);
    pieces * (HEADER_BYTES + PullReplyBody::BYTES + 24) + keys * row_bytes + keys.div_ceil(8)
}

impl<F: Fabric> Engine<F> {
    pub(super) fn start_pull(
        &mut self,
        table: TableId,
        schema: &Arc<TableSchema>,
        plan: Arc<KeyPlan>,
        mut rows: Vec<f32>,
        options: PullOptions,
    ) -> SlotId {
        rows.resize(plan.keys * schema.dim as usize, 0.0);
        let left = plan.parts.len();
        let mut parts = self.spare_parts.pop().unwrap_or_default();
        parts.resize(left, Progress::default());
        let pull = self.pulls.insert(PullState {
            schema: Arc::clone(schema),
            table,
            plan: None,
            rows,
            missing: Vec::new(),
            parts,
            left,
            failed: None,
            clock: u64::MAX,
            asked_at: self.clock,
            options,
            held: true,
        });
        for (part, keys) in plan.parts.iter().enumerate() {
            self.queue_pull(pull, part as u32, keys.partition, options.strong);
        }
        self.give_plan_back(pull, plan);
        self.send_queued();
        pull
    }

    /// Ends the loan of a pull's plan.
    fn give_plan_back(&mut self, pull: SlotId, plan: Arc<KeyPlan>) {
        if let Some(state) = self.pulls.get_mut(pull) {
            state.plan = Some(plan);
        }
    }

    pub(super) fn transmit_pull(&mut self, index: usize, lane: LaneId, pull: SlotId, part: u32) -> bool {
        let Some(state) = self.pulls.get_mut(pull) else {
            self.links[index].queue.pop_front();
            return true;
        };
        let progress = state.parts[part as usize];
        if progress.sent || progress.done || !state.held {
            self.links[index].queue.pop_front();
            self.abandon_part(pull, part);
            return true;
        }
        // Lent out for the length of this call.
        let Some(plan) = state.plan.take() else { return false };
        let moved = self.write_pull(index, lane, pull, part, &plan);
        self.give_plan_back(pull, plan);
        moved
    }

    /// Writes a part of a pull that was not sent; false when it must wait.
    fn write_pull(&mut self, index: usize, lane: LaneId, pull: SlotId, part: u32, plan: &KeyPlan) -> bool {
        let Some(state) = self.pulls.get(pull) else { return false };
        let progress = state.parts[part as usize];
        let keys = &plan.parts[part as usize];
        // It promises to see the pushes before it, and some of them wait for their delay.
        if self.delayed.iter().any(|delayed| delayed.partition == keys.partition) {
            return false;
        }
        let flow_attempt = self.routes[keys.partition.0 as usize].flow.attempt();
        let form = key_form(plan, keys);
        let key_bytes: &[u8] = if form == KeyForm::Named { &[] } else { keys.keys.as_bytes() };
        let header = Header {
            session: self.session,
            flow: u64::from(progress.attempt) << 32 | u64::from(part),
            request: RequestId(pull.to_wire()),
            epoch: self.routes[keys.partition.0 as usize].flow.epoch,
            clock: self.clock,
            shard: self.links[index].shard,
            table: state.table,
            partition: keys.partition,
            ..Header::new(Kind::Pull, (PullBody::BYTES + key_bytes.len()) as u32)
        };
        let body = PullBody {
            digest: digest_words(keys.digest),
            at_least: state.options.at_least.into(),
            keys: (keys.keys.len() as u32).into(),
            dim: state.schema.dim.into(),
            patience_ms: state.options.patience_ms.into(),
            key_form: form.to_wire(),
            encoding: Encoding::F32.to_wire(),
            flags: if state.options.strong { PULL_STRONG } else { 0 },
            reserved: [0; 9],
        };
        let reply = reply_bytes(keys.keys.len(), state.schema.dim as usize);
        let mut head = [0; HEAD_BYTES];
        head[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
        head[HEADER_BYTES..].copy_from_slice(body.as_bytes());
        if !self.write(index, lane, &[&head, key_bytes], reply) {
            return false;
        }
        if form == KeyForm::Remember {
            keys.known.store(true, Ordering::Relaxed);
        }
        self.links[index].queue.pop_front();
        if let Some(state) = self.pulls.get_mut(pull) {
            let progress = &mut state.parts[part as usize];
            progress.sent = true;
            progress.flow_attempt = flow_attempt;
            progress.stale = false;
        }
        true
    }

    /// A part that is not sent because nobody waits for its pull any more.
    fn abandon_part(&mut self, pull: SlotId, part: u32) {
        let Some(state) = self.pulls.get_mut(pull) else { return };
        let progress = &mut state.parts[part as usize];
        if !progress.sent && !progress.done {
            progress.done = true;
            state.left -= 1;
        }
        self.drop_if_over(pull);
    }

    /// Nobody waits for this pull any more: it goes when its replies are in.
    pub(super) fn release_pull(&mut self, pull: SlotId) {
        let Some(state) = self.pulls.get_mut(pull) else { return };
        state.held = false;
        state.rows = Vec::new();
        let parts = state.parts.len() as u32;
        for part in 0..parts {
            self.abandon_part(pull, part);
        }
        for link in &mut self.links {
            link.queue.retain(|out| !matches!(out, Outgoing::Pull { pull: queued, .. } if *queued == pull));
        }
    }

    fn drop_if_over(&mut self, pull: SlotId) {
        if self.pulls.get(pull).is_some_and(|state| state.done() && !state.held) {
            self.take_pull(pull);
        }
    }

    /// The finished pull, its plan given back.
    pub(super) fn take_pull(&mut self, pull: SlotId) -> Option<PullState> {
        let mut state = self.pulls.remove(pull)?;
        if let Some(plan) = state.plan.take() {
            self.plans.recycle(plan);
        }
        if self.spare_parts.len() < SPARE_PARTS {
            let mut parts = std::mem::take(&mut state.parts);
            parts.clear();
            self.spare_parts.push(parts);
        }
        Some(state)
    }

    pub(super) fn on_pull_reply(&mut self, lane: LaneId, index: usize, header: &Header) -> Result<(), Error> {
        let pull = SlotId::from_wire(header.request.0);
        // The plan is lent out for the length of this call, so that its last holder can give its buffers back.
        let Some(plan) = self.pulls.get_mut(pull).and_then(|state| state.plan.take()) else { return Ok(()) };
        let taken = self.take_piece(lane, header, pull, &plan);
        self.give_plan_back(pull, plan);
        match taken? {
            Piece::Old | Piece::More => return Ok(()),
            Piece::Done { reply_bytes } => self.release(index, reply_bytes),
            Piece::Again { part, reply_bytes } => {
                self.release(index, reply_bytes);
                // Behind the pushes it is to see, which may be on their way again.
                let strong = self.pulls.get(pull).is_some_and(PullState::strong);
                self.queue_pull(pull, part, header.partition, strong);
            }
            Piece::Later { part, reply_bytes } => {
                self.release(index, reply_bytes);
                self.ask_later(pull, part, header.partition);
            }
        }
        self.drop_if_over(pull);
        Ok(())
    }

    fn take_piece(
        &mut self,
        lane: LaneId,
        header: &Header,
        pull: SlotId,
        plan: &KeyPlan,
    ) -> Result<Piece, Error> {
        let bad = |what: &str| Error::Protocol(format!("a pull reply {what}"));
        let (part, attempt) = (header.flow as u32, (header.flow >> 32) as u32);
        if (header.length as usize) < PullReplyBody::BYTES {
            return Err(bad("shorter than its body"));
        }
        let mut body_bytes = [0; PullReplyBody::BYTES];
        self.fabric.copy_payload(lane, 0, &mut body_bytes);
        let (body, _) =
            PullReplyBody::split(&body_bytes).map_err(|error| Error::Protocol(error.to_string()))?;
        let status = PullStatus::from_wire(body.status.get()).ok_or_else(|| bad("of unknown status"))?;
        let Some(state) = self.pulls.get_mut(pull) else { return Ok(Piece::Old) };
        let Some(progress) = state.parts.get_mut(part as usize) else {
            return Err(bad("for a part nobody asked for"));
        };
        if progress.attempt != attempt || progress.done || !progress.sent {
            return Ok(Piece::Old);
        }
        let keys = &plan.parts[part as usize];
        let dim = state.schema.dim as usize;
        let reply_bytes = reply_bytes(keys.keys.len(), dim);
        if status != PullStatus::Rows {
            progress.sent = false;
            if status == PullStatus::KeysMissing && state.held {
                keys.known.store(false, Ordering::Relaxed);
                progress.restart(keys, &mut state.missing);
                return Ok(Piece::Again { part, reply_bytes });
            }
            if status == PullStatus::NotServing && state.held {
                progress.restart(keys, &mut state.missing);
                return Ok(Piece::Later { part, reply_bytes });
            }
            progress.done = true;
            state.left -= 1;
            state.failed.get_or_insert((header.partition, status));
            return Ok(Piece::Done { reply_bytes });
        }
        // A retry comes before the answers behind it: the pushes it turned back are not in these rows.
        if progress.received == 0 {
            progress.stale = self.routes[keys.partition.0 as usize].flow.attempt() != progress.flow_attempt;
        }
        let (first, rows) = (body.first.get() as usize, body.rows.get() as usize);
        let bitmap_words = rows.div_ceil(64);
        let wanted = keys.keys.len() - progress.received as usize;
        if first != progress.received as usize
            || rows > wanted
            || rows == 0
            || body.dim.get() as usize != dim
            || header.length as usize != PullReplyBody::BYTES + bitmap_words * 8 + rows * dim * 4
        {
            return Err(bad("that does not fit what was asked"));
        }
        if bitmap_words > PIECE_BYTES / 256 {
            return Err(bad("with more rows than a piece holds"));
        }
        self.bitmap.resize(bitmap_words, 0);
        let bitmap = &mut self.bitmap[..];
        self.fabric.copy_payload(lane, PullReplyBody::BYTES, bitmap.as_mut_bytes());
        let values_at = PullReplyBody::BYTES + bitmap_words * 8;
        if !state.held {
            // Nobody reads the rows of an abandoned pull.
        } else if keys.positions.is_empty() {
            let start = (keys.first as usize + first) * dim;
            let out = &mut state.rows[start..start + rows * dim];
            self.fabric.copy_payload(lane, values_at, out.as_mut_bytes());
        } else {
            self.rows.resize(rows * dim, 0.0);
            self.fabric.copy_payload(lane, values_at, self.rows.as_mut_bytes());
            keys.scatter(dim, first, &self.rows, &mut state.rows);
        }
        for row in missing_rows(bitmap, rows) {
            let position = keys.position(first + row);
            state.missing.resize(plan.keys.div_ceil(64), 0);
            state.missing[position / 64] |= 1 << (position % 64);
        }
        progress.received += rows as u32;
        state.clock = state.clock.min(body.clock.get());
        if (progress.received as usize) < keys.keys.len() {
            return Ok(Piece::More);
        }
        if progress.stale && state.held {
            progress.restart(keys, &mut state.missing);
            progress.sent = false;
            return Ok(Piece::Again { part, reply_bytes });
        }
        progress.done = true;
        state.left -= 1;
        Ok(Piece::Done { reply_bytes })
    }

    /// The lane of a link is gone: its pulls are asked again.
    pub(super) fn requeue_pulls(&mut self, index: usize) {
        let pulls: Vec<SlotId> = self.pulls.ids().collect();
        for pull in pulls {
            let Some(state) = self.pulls.get_mut(pull) else { continue };
            let (Some(plan), strong) = (state.plan.clone(), state.options.strong) else { continue };
            for (part, keys) in plan.parts.iter().enumerate() {
                let part = part as u32;
                let waits = |waiting: &WaitingPull| waiting.pull == pull && waiting.part == part;
                let here = self.pull_link(keys.partition, strong) == index;
                let Some(state) = self.pulls.get_mut(pull) else { break };
                if !here || state.is_done(part) || self.waiting_pulls.iter().any(waits) {
                    continue;
                }
                // The link's reply space was given back with its lane.
                state.restart(part);
                self.queue_pull(pull, part, keys.partition, strong);
            }
        }
    }
}

/// The smallest clock a pull accepts under a staleness bound.
pub(super) fn at_least(bound: Option<u64>, clock: Clock) -> u64 {
    bound.map_or(NO_CLOCK, |bound| clock.0.saturating_sub(bound))
}
