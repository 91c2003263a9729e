//! One shard: the partitions, rows and lanes that one thread owns, and the turn of its loop.

mod answer;
mod chain;
mod clock;
mod command;
mod copy;
mod event;
mod follow;
mod forward;
mod hold;
mod join;
mod keys;
mod lanes;
pub(crate) mod lease;
mod links;
mod piece;
mod pull;
mod push;
mod receive;
mod reply;
mod rows;
mod scan;
mod timers;

#[cfg(test)]
mod chain_test;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod hostile_test;
#[cfg(test)]
mod pull_test;
#[cfg(test)]
mod push_test;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

pub(crate) use command::{Command, Notice, Report};
pub(crate) use hold::{HoldError, Holds};
pub(crate) use lanes::Peer;

use self::answer::Answer;
use self::chain::Held;
use self::hold::Waiting;
use self::lanes::Seat;
use self::lease::Lease;
use self::links::{EarlyLink, Outbound};
use self::piece::Piece;
use self::pull::Parked;
use self::rows::Rows;
use crate::lane::{Event, Fabric, LaneId, Waker};
use crate::store::{Store, StoreConfig};
use crate::wire::ids::{PartitionId, SessionId, ShardId};

/// Most bytes of records taken from one lane in a turn: at the slowest measured rate (random rows from memory) well
/// under a millisecond of work, and more than any one push.
pub(crate) const TURN_BYTES: usize = 256 << 10;
/// Most records taken from one lane in a turn; the bound that matters for requests of one key.
const TURN_RECORDS: usize = 128;
/// Pulls of one lane and partition that may wait for a clock at a time. A client has a handful, each of a part for
/// each partition; past it the answer is "not now".
const PARKED_PER_LANE: usize = 64;
/// How long a peer may leave its answers lying before its lane is cut.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// How often a shard looks again at a lane that has no credit: credits ring no bell.
const CREDIT_POLL: Duration = Duration::from_millis(1);
/// Turns between two looks at the floating-point control word.
const CONTROL_WORD_TURNS: u64 = 1 << 16;

/// What a shard is made from.
#[derive(Clone, Debug)]
pub(crate) struct ShardConfig {
    /// Its number.
    pub(crate) shard: ShardId,
    /// What it holds at first.
    pub(crate) holds: Holds,
    /// Bytes of rows, indexes and key lists it may hold.
    pub(crate) memory_bytes: u64,
    /// Bytes of log a partition may hold: a power of two.
    pub(crate) log_bytes: usize,
    /// Seed of the index's own hash: nobody outside knows it.
    pub(crate) index_seed: u64,
    /// Until when the coordinator counts on this server.
    pub(crate) lease: Lease,
    /// Where it says what it wants of others.
    pub(crate) notices: Sender<Notice>,
}

/// What a turn found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    /// Something was done; there may be more.
    pub(crate) busy: bool,
    /// When there is something to do even if nothing arrives.
    pub(crate) timer: Option<Instant>,
    /// Stop was asked for.
    pub(crate) stop: bool,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    records: u64,
    pushes: u64,
    refused: u64,
    retries: u64,
    pulls: u64,
    turns: u64,
    idle_waits: u64,
    cut_lanes: u64,
    batches_sent: u64,
    batches_applied: u64,
}

/// See [`super`].
pub(crate) struct Shard<F: Fabric> {
    shard: ShardId,
    fabric: F,
    commands: Receiver<Command>,
    rows: Rows,
    log_bytes: usize,
    lease: Lease,
    notices: Sender<Notice>,
    held: Vec<Held>,
    /// By partition of the cluster: its place in `held`, or [`NOT_HERE`].
    places: Vec<u32>,
    /// Places in `held` of the partitions with something to seal, acknowledge or tell.
    touched: Vec<u32>,
    /// Places in `held` of the partitions with something for the next thread.
    unsent: Vec<u32>,
    /// Lanes to the threads behind this one.
    outbound: BTreeMap<ShardId, Outbound>,
    /// Links of epochs that are not in force here yet.
    early: Vec<EarlyLink>,
    /// An order that waits for heads to finish.
    waiting: Option<Waiting>,
    /// The last record from the thread before this one.
    inbound: Vec<u64>,
    lanes: Vec<Seat>,
    /// Live sessions and the lane each used last.
    sessions: BTreeMap<SessionId, Option<LaneId>>,
    parked: Vec<Parked>,
    /// Buffers of answered pulls, to be used again.
    spare: Vec<Vec<u64>>,
    /// Rows on their way from the store to a lane.
    piece: Piece,
    events: Vec<Event>,
    counts: Counts,
    /// Since the mailbox was last tried.
    slept: bool,
    /// After the last turn nothing was left to be done, looked at or timed but what the mailbox or the fabric bring.
    quiet: bool,
}

const NOT_HERE: u32 = u32::MAX;

impl<F: Fabric> Shard<F> {
    /// A shard that holds its partitions, empty.
    ///
    /// # Errors
    /// A log size that is not allowed, or partitions that cannot be.
    pub(crate) fn new(
        config: &ShardConfig,
        fabric: F,
        commands: Receiver<Command>,
    ) -> Result<Self, HoldError> {
        let store = Store::new(StoreConfig::new(config.memory_bytes, config.index_seed));
        let mut shard = Self {
            shard: config.shard,
            fabric,
            commands,
            rows: Rows::new(store),
            log_bytes: config.log_bytes,
            lease: config.lease.clone(),
            notices: config.notices.clone(),
            held: Vec::new(),
            places: Vec::new(),
            touched: Vec::new(),
            unsent: Vec::new(),
            outbound: BTreeMap::new(),
            early: Vec::new(),
            waiting: None,
            inbound: Vec::new(),
            lanes: Vec::new(),
            sessions: BTreeMap::new(),
            parked: Vec::new(),
            spare: Vec::new(),
            piece: Piece::default(),
            events: Vec::new(),
            counts: Counts::default(),
            slept: true,
            quiet: false,
        };
        shard.hold(&config.holds, Instant::now())?;
        Ok(shard)
    }

    /// What wakes this shard out of [`Shard::wait`].
    pub(crate) fn waker(&self) -> Waker {
        self.fabric.waker()
    }

    /// One pass over the steps, in the order of the design. `now` is the only clock a shard has.
    pub(crate) fn turn(&mut self, now: Instant) -> Progress {
        self.counts.turns += 1;
        if self.counts.turns.is_multiple_of(CONTROL_WORD_TURNS) {
            gradwire_kernels::assert_float_control();
        }
        let (commanded, stop) = self.control(now);
        let arrived = self.poll_fabric(now);
        if self.quiet && !commanded && !arrived {
            return Progress { busy: false, timer: None, stop };
        }
        let answered = self.serve_answers(now);
        // A push is applied as it is received: it must have been before it is an entry (C1).
        let received = self.receive(now) || arrived;
        let sent = self.forward();
        let sent = self.end_wait(now) || sent;
        let told = self.reply(now);
        self.fabric.flush();
        let expired = self.timers(now);
        self.drop_cut_lanes(now);
        let busy = commanded || answered || received || sent || told || expired;
        self.quiet = !busy && self.is_quiet();
        Progress { busy, timer: self.next_timer(now), stop }
    }

    /// Whether the steps of a turn would find nothing, unless the mailbox or the fabric bring it.
    fn is_quiet(&self) -> bool {
        let linked = self.unsent.is_empty()
            && self.waiting.is_none()
            && self.outbound.values().all(|outbound| outbound.ask_at.is_none());
        linked && self.touched.is_empty() && self.parked.is_empty() && self.lanes.iter().all(Seat::is_quiet)
    }

    /// Sleeps until something may have happened, or `timeout` is over.
    pub(crate) fn wait(&mut self, timeout: Duration) {
        self.counts.idle_waits += 1;
        self.slept = true;
        self.fabric.wait(timeout);
    }

    /// Where a partition is held here.
    fn place_of(&self, partition: PartitionId) -> Option<usize> {
        let place = *self.places.get(partition.0 as usize)?;
        (place != NOT_HERE).then_some(place as usize)
    }

    /// Remembers to settle a partition and to tell its outcomes in this turn.
    fn touch(&mut self, place: usize) {
        let held = &mut self.held[place];
        if !held.touched {
            held.touched = true;
            self.touched.push(place as u32);
        }
    }
}
