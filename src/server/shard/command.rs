//! What the control plane asks of a shard, and the shard's answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Sender, TryRecvError};

use super::event::Event;
use super::{HoldError, Holds, Peer, Shard};
use crate::cluster::{PartitionStatus, ShardStatus, WorkerClock, encode_schema};
use crate::lane::{AdoptError, Fabric, LaneEnd};
use crate::store::{TableError, TableSchema};
use crate::wire::ids::{Clock, Epoch, PartitionId, SessionId, ShardId, TableId};

/// Turns between two looks for whether anybody is left who could send a command.
const MAILBOX_TURNS: u64 = 256;

/// One request; the answer goes to `reply`, and nobody is missed who has stopped waiting for it.
pub(crate) enum Command {
    /// Own this end of a lane.
    Adopt { end: LaneEnd, peer: Peer, reply: Sender<Result<(), AdoptError>> },
    /// No lane to this thread could be opened for now.
    LinkFailed { to: ShardId },
    /// Hold these partitions and no others.
    Hold { holds: Holds, reply: Sender<Result<(), HoldError>> },
    /// Refuse pushes, or take them again: the coordinator has been away for too long, or is back.
    Orphan(bool),
    /// Make a table's partitions here, empty.
    CreateTable { table: TableId, schema: Arc<TableSchema>, reply: Sender<Result<(), TableError>> },
    /// Drop them.
    DropTable { table: TableId, reply: Sender<()> },
    /// A session begins in every partition here.
    BeginSession { session: SessionId, reply: Sender<Clock> },
    /// A session ends; its id is refused from now on (C3).
    EndSession { session: SessionId, reply: Sender<()> },
    /// Say how things stand.
    Status { reply: Sender<Report> },
    /// End the thread.
    Stop,
    /// End it by a bug, to see what callers are told.
    #[cfg(test)]
    Fail,
}

/// What a shard wants of others, and cannot wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// A lane to another thread.
    LinkWanted { from: ShardId, to: ShardId },
    /// To tell the coordinator that a replica has everything (C7).
    Synced { partition: PartitionId, epoch: Epoch, shard: ShardId },
    /// To tell it that a replica cannot go on.
    Leave { partition: PartitionId, epoch: Epoch, shard: ShardId, reason: String },
}

/// How a shard stands.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) shard: ShardStatus,
    pub(crate) partitions: Vec<PartitionStatus>,
    pub(crate) tables: Vec<(TableId, u64)>,
    pub(crate) clocks: Vec<WorkerClock>,
}

impl<F: Fabric> Shard<F> {
    /// Carries out what the mailbox holds. Gives whether there was anything, and whether to stop.
    pub(super) fn control(&mut self, now: Instant) -> (bool, bool) {
        let mut any = false;
        // Taking costs a full fence even when there is nothing; asking whether there is, two loads. It does not tell that nobody
        // is left who could send: that is looked for after every sleep, and now and then.
        let look = std::mem::take(&mut self.slept) || self.counts.turns.is_multiple_of(MAILBOX_TURNS);
        if self.commands.is_empty() && !look {
            return (any, false);
        }
        loop {
            match self.commands.try_recv() {
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return (any, true),
                Ok(command) => self.carry_out(command, now),
                Err(TryRecvError::Empty) => return (any, false),
            }
            any = true;
        }
    }

    fn carry_out(&mut self, command: Command, now: Instant) {
        // A caller that gave up waiting has dropped its receiver; there is nobody to tell.
        match command {
            Command::Adopt { end, peer, reply } => {
                reply.send(self.adopt(end, peer, now)).ok();
            }
            Command::LinkFailed { to } => self.link_failed(to, now),
            Command::Hold { holds, reply } => self.begin_hold(holds, reply, now),
            Command::Orphan(orphan) => self.held.iter_mut().for_each(|held| held.replica.set_orphan(orphan)),
            Command::CreateTable { table, schema, reply } => {
                reply.send(self.create_table(table, &schema)).ok();
            }
            Command::DropTable { table, reply } => {
                for place in (0..self.held.len()).filter(|at| self.held[*at].heads()).collect::<Vec<_>>() {
                    if self.rows.drop(table, self.held[place].partition) {
                        self.order_event(place, Event::TableDropped(table));
                    }
                }
                reply.send(()).ok();
            }
            Command::BeginSession { session, reply } => {
                self.sessions.entry(session).or_insert(None);
                self.order_everywhere(&Event::ClientBegan(session));
                // It stands where the slowest live worker does; where partitions differ, at the furthest of those.
                let clock = self.held.iter().filter_map(|held| held.replica.min_clock()).max();
                reply.send(clock.unwrap_or_default()).ok();
            }
            Command::EndSession { session, reply } => {
                self.sessions.remove(&session);
                self.rows.end_session(session);
                self.order_everywhere(&Event::ClientEnded(session));
                reply.send(()).ok();
            }
            Command::Status { reply } => {
                reply.send(self.report()).ok();
            }
            Command::Stop => unreachable!("stop is seen before it is carried out"),
            #[cfg(test)]
            Command::Fail => panic!("shard {} was told to fail", self.shard),
        }
    }

    /// Makes a table in every partition headed here, or in none.
    fn create_table(&mut self, table: TableId, schema: &TableSchema) -> Result<(), TableError> {
        let headed: Vec<usize> = (0..self.held.len()).filter(|place| self.held[*place].heads()).collect();
        let mut made = Vec::new();
        for place in headed {
            let partition = self.held[place].partition;
            match self.rows.create(table, schema, partition) {
                Ok(true) => made.push(place),
                Ok(false) => {}
                Err(error) => {
                    for place in made {
                        self.rows.drop(table, self.held[place].partition);
                    }
                    return Err(error);
                }
            }
        }
        let encoded: Arc<[u8]> = encode_schema(schema).into();
        for place in made {
            self.order_event(place, Event::TableCreated(table, Arc::clone(&encoded)));
        }
        Ok(())
    }

    fn report(&self) -> Report {
        let counts = &self.counts;
        let shard = ShardStatus {
            shard: self.shard,
            bytes_used: self.rows.bytes_used(),
            lanes: self.lanes.len() as u64,
            records: counts.records,
            pushes: counts.pushes,
            refused: counts.refused,
            retries: counts.retries,
            pulls: counts.pulls,
            parked: self.parked.len() as u64,
            turns: counts.turns,
            idle_waits: counts.idle_waits,
            cut_lanes: counts.cut_lanes,
            tcp_driver: self.fabric.tcp_driver().name.to_owned(),
            tcp_fallback: self.fabric.tcp_driver().fallback.clone(),
            cpu_ns: thread_cpu_ns(),
        };
        let partitions = self.held.iter().map(|held| PartitionStatus {
            partition: held.partition,
            shard: self.shard,
            epoch: held.replica.epoch(),
            lsn: held.replica.lsn(),
            acked_lsn: held.replica.acked_lsn(),
            rows: self.rows.rows_of_partition(held.partition),
            log_bytes: held.replica.log_bytes() as u64,
            sessions: held.replica.sessions().count() as u64,
        });
        let mut clocks: BTreeMap<SessionId, Clock> = BTreeMap::new();
        for session in self.held.iter().flat_map(|held| held.replica.sessions()).filter(|s| s.worker) {
            let lowest = clocks.entry(session.session).or_insert(session.clock);
            *lowest = session.clock.min(*lowest);
        }
        let clocks = clocks.into_iter().map(|(session, clock)| WorkerClock { session, clock });
        Report {
            shard,
            partitions: partitions.collect(),
            tables: self.rows.rows_of_tables(),
            clocks: clocks.collect(),
        }
    }
}

/// CPU time of the calling thread as the kernel's scheduler counts it; none where the kernel does not say.
fn thread_cpu_ns() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_ascii_whitespace().next()?.parse().ok()
}
