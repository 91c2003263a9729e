//! One shard: the partitions, rows and lanes that one thread owns, and the turn of its loop.

mod answer;
mod clock;
mod command;
mod keys;
mod lanes;
mod piece;
mod pull;
mod push;
mod receive;
mod reply;
mod rows;
mod scan;
mod timers;

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

use crossbeam_channel::Receiver;
use thiserror::Error;

pub(crate) use command::{Command, Report};

use self::answer::Answer;
use self::lanes::Seat;
use self::piece::Piece;
use self::pull::Parked;
use self::rows::Rows;
use crate::chain::{ConfigError, Position, Replica, ReplicaConfig};
use crate::cluster::Role;
use crate::lane::{Event, Fabric, LaneId, Waker};
use crate::store::{Store, StoreConfig};
use crate::wire::ids::{Epoch, PartitionId, SessionId, ShardId, TableId};

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
    /// The partitions it holds, and their chains.
    pub(crate) partitions: Vec<Role>,
    /// Partitions of the cluster.
    pub(crate) partition_count: u32,
    /// Bytes of rows, indexes and key lists it may hold.
    pub(crate) memory_bytes: u64,
    /// Bytes of log a partition may hold: a power of two.
    pub(crate) log_bytes: usize,
    /// Seed of the index's own hash: nobody outside knows it.
    pub(crate) index_seed: u64,
}

/// Why a shard does not hold what it was told to.
#[derive(Debug, Error)]
pub(crate) enum HoldError {
    /// It has rows of other partitions.
    #[error(
        "server thread {shard} has rows of table {table}; partitions are placed anew only without tables"
    )]
    Tables { shard: ShardId, table: TableId },
    /// Beyond the cluster, or named twice.
    #[error("partition {partition} of {partition_count} was given twice or does not exist")]
    Partition { partition: PartitionId, partition_count: u32 },
    /// A log size that is not allowed.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// One partition held here.
struct Held {
    partition: PartitionId,
    replica: Replica,
    /// In [`Shard::touched`] already.
    touched: bool,
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
}

/// See [`super`].
pub(crate) struct Shard<F: Fabric> {
    shard: ShardId,
    fabric: F,
    commands: Receiver<Command>,
    rows: Rows,
    log_bytes: usize,
    held: Vec<Held>,
    /// By partition of the cluster: its place in `held`, or [`NOT_HERE`].
    places: Vec<u32>,
    /// Places in `held` of the partitions with something to seal, acknowledge or tell.
    touched: Vec<u32>,
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
    /// A shard that holds its partitions empty, heading each of them.
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
            rows: Rows::new(store, Vec::new()),
            log_bytes: config.log_bytes,
            held: Vec::new(),
            places: Vec::new(),
            touched: Vec::new(),
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
        shard.hold(config.partition_count, &config.partitions)?;
        Ok(shard)
    }

    /// Holds these partitions and no others. One that is held under the same epoch stays as it is, the others begin
    /// empty.
    ///
    /// # Errors
    /// There are rows here, which nobody has moved; nothing changed. Or a log size that is not allowed.
    fn hold(&mut self, partition_count: u32, roles: &[Role]) -> Result<(), HoldError> {
        let partitions: Vec<(PartitionId, Epoch)> =
            roles.iter().map(|role| (role.partition, role.chain.epoch)).collect();
        let partitions = partitions.as_slice();
        let now = self.held.iter().map(|held| (held.partition, held.replica.epoch()));
        if self.places.len() == partition_count as usize && now.eq(partitions.iter().copied()) {
            return Ok(());
        }
        if let Some((table, _)) = self.rows.rows_of_tables().first() {
            return Err(HoldError::Tables { shard: self.shard, table: *table });
        }
        let mut places = vec![NOT_HERE; partition_count as usize];
        for (place, &(partition, _)) in partitions.iter().enumerate() {
            let known = places.get_mut(partition.0 as usize).filter(|known| **known == NOT_HERE);
            *known.ok_or(HoldError::Partition { partition, partition_count })? = place as u32;
        }
        let mut before: BTreeMap<(PartitionId, Epoch), Held> =
            self.held.drain(..).map(|held| ((held.partition, held.replica.epoch()), held)).collect();
        self.touched.clear();
        for &(partition, epoch) in partitions {
            let mut held = match before.remove(&(partition, epoch)) {
                Some(held) => held,
                None => {
                    let (position, log_bytes) = (Position::Only, self.log_bytes);
                    let config = ReplicaConfig { partition, epoch, position, log_bytes };
                    Held { partition, replica: Replica::new(config)?, touched: false }
                }
            };
            held.touched = true;
            self.touched.push(self.held.len() as u32);
            self.held.push(held);
        }
        self.places = places;
        self.rows.hold(partitions.iter().map(|&(partition, _)| partition).collect());
        Ok(())
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
        let (commanded, stop) = self.control();
        let arrived = self.poll_fabric();
        if self.quiet && !commanded && !arrived {
            return Progress { busy: false, timer: None, stop };
        }
        let answered = self.serve_answers(now);
        // A push is applied as it is received: it must have been before it is an entry (C1).
        let received = self.receive(now) || arrived;
        self.forward();
        let told = self.reply(now);
        self.fabric.flush();
        let expired = self.timers(now);
        self.drop_cut_lanes();
        let busy = commanded || answered || received || told || expired;
        self.quiet = !busy && self.is_quiet();
        Progress { busy, timer: self.next_timer(now), stop }
    }

    /// Whether the steps of a turn would find nothing, unless the mailbox or the fabric bring it.
    fn is_quiet(&self) -> bool {
        self.touched.is_empty() && self.parked.is_empty() && self.lanes.iter().all(Seat::is_quiet)
    }

    /// Sleeps until something may have happened, or `timeout` is over.
    pub(crate) fn wait(&mut self, timeout: Duration) {
        self.counts.idle_waits += 1;
        self.slept = true;
        self.fabric.wait(timeout);
    }

    /// Seals what the turn put in order. A chain of one has no successor to send it to.
    fn forward(&mut self) {
        for &place in &self.touched {
            settle(&mut self.held[place as usize]);
        }
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

/// Closes the open batch. On the tail what is applied here is applied everywhere, so it is acknowledged at once.
fn settle(held: &mut Held) {
    held.replica.seal();
    if held.replica.position().tails() {
        let acked = held.replica.acked(held.replica.lsn());
        assert!(acked.is_ok(), "partition {}: its own lsn is ahead of it: {acked:?}", held.partition);
    }
}
