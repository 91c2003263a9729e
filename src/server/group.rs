//! The server threads of one process, asked together. An embedded cluster and a server process are both one of these.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::shard::lease::Lease;
use super::shard::{Command, Holds, Notice, Report, ShardConfig};
use super::thread::{ShardHandle, ShardThread, ThreadConfig};
use crate::cluster::message::Holding;
use crate::control::ControlError;
use crate::store::TableSchema;
use crate::wire::ids::{Clock, SessionId, ShardId, TableId};

/// How long the end of the server threads may take; a turn is under a millisecond, freeing a large table is not.
pub(super) const SHUTDOWN: Duration = Duration::from_secs(30);

/// What all threads of a group are made from.
#[derive(Clone, Debug)]
pub(super) struct GroupConfig {
    /// Bytes of rows, indexes and key lists, for each thread.
    pub(super) memory_bytes: u64,
    /// Most bytes of log for each partition: a power of two.
    pub(super) log_bytes: usize,
    /// How long an idle thread looks for work before it sleeps.
    pub(super) spin: Duration,
    /// The usable cores that the threads stay on, in turn; none to let them move.
    pub(super) cores: Vec<usize>,
    /// How long a thread may take to answer.
    pub(super) deadline: Duration,
    /// A bug in a thread ends the process.
    pub(super) fatal: bool,
    /// Until when the coordinator counts on the threads.
    pub(super) lease: Lease,
    /// Where they say what they want of others.
    pub(super) notices: Sender<Notice>,
}

/// What all threads of a group are to hold.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) partition_count: u32,
    pub(super) holdings: Vec<Holding>,
    pub(super) tables: Arc<[(TableId, Arc<TableSchema>)]>,
    pub(super) last_table: TableId,
    pub(super) sessions: Arc<[SessionId]>,
    pub(super) last_session: SessionId,
}

impl Order {
    /// Of a cluster without tables and sessions.
    pub(super) fn first(partition_count: u32, holdings: Vec<Holding>) -> Self {
        let (tables, sessions) = (Arc::new([]), Arc::new([]));
        let (last_table, last_session) = (TableId(0), SessionId(0));
        Self { partition_count, holdings, tables, last_table, sessions, last_session }
    }

    fn by_shard(self) -> impl Iterator<Item = (ShardId, Holds)> {
        let Self { partition_count, holdings, tables, last_table, sessions, last_session } = self;
        holdings.into_iter().map(move |Holding { shard, partitions }| {
            let (tables, sessions) = (Arc::clone(&tables), Arc::clone(&sessions));
            let roles = partitions;
            (shard, Holds { partition_count, roles, tables, last_table, sessions, last_session })
        })
    }
}

/// Running shards. Dropping it ends them.
pub(super) struct Group {
    shards: Vec<ShardThread>,
    deadline: Duration,
}

impl Group {
    /// Starts a thread for each holding and returns once they run.
    ///
    /// # Errors
    /// What the machine refused: a thread, or the descriptors of its port.
    pub(super) fn start(config: &GroupConfig, order: Order) -> Result<Self, ControlError> {
        let mut group = Self { shards: Vec::with_capacity(order.holdings.len()), deadline: config.deadline };
        for (at, (shard, holds)) in order.by_shard().enumerate() {
            let shard = ShardConfig {
                shard,
                holds,
                memory_bytes: config.memory_bytes,
                log_bytes: config.log_bytes,
                index_seed: crate::control::random(),
                lease: config.lease.clone(),
                notices: config.notices.clone(),
            };
            let core = (!config.cores.is_empty()).then(|| config.cores[at % config.cores.len()]);
            group.shards.push(ShardThread::start(
                shard,
                ThreadConfig { spin: config.spin, core, fatal: config.fatal },
            )?);
        }
        Ok(group)
    }

    /// What asks things of the shards.
    pub(super) fn handles(&self) -> Vec<ShardHandle> {
        self.shards.iter().map(|shard| shard.handle().clone()).collect()
    }

    /// One shard.
    ///
    /// # Errors
    /// It is not of this group.
    pub(super) fn shard(&self, shard: ShardId) -> Result<&ShardHandle, ControlError> {
        let mut handles = self.shards.iter().map(ShardThread::handle);
        handles.find(|handle| handle.shard() == shard).ok_or(ControlError::NoShard { shard })
    }

    /// Has every shard hold what is listed for it.
    ///
    /// # Errors
    /// One that has rows of other partitions, or does not answer.
    pub(super) fn hold(&self, order: Order) -> Result<(), ControlError> {
        for (shard, holds) in order.by_shard() {
            let shard = self.shard(shard)?;
            let held =
                shard.ask("placing partitions", self.deadline, |reply| Command::Hold { holds, reply })?;
            held.map_err(|cause| ControlError::Remote { message: cause.to_string() })?;
        }
        Ok(())
    }

    /// Makes a table on every shard, or on none.
    ///
    /// # Errors
    /// A shard that cannot make it or does not answer.
    pub(super) fn create_table(&self, table: TableId, schema: &Arc<TableSchema>) -> Result<(), ControlError> {
        for (index, thread) in self.shards.iter().enumerate() {
            let handle = thread.handle();
            let made = handle
                .ask("making a table", self.deadline, |reply| Command::CreateTable {
                    table,
                    schema: Arc::clone(schema),
                    reply,
                })
                .and_then(|made| {
                    let (shard, name) = (handle.shard(), schema.name.clone());
                    made.map_err(|source| ControlError::Table { shard, name, source })
                });
            if let Err(error) = made {
                // This one too: it may have made the table after the deadline.
                self.drop_table_of(&self.shards[..=index], table).ok();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Drops a table on every shard; one that has none has nothing to do.
    ///
    /// # Errors
    /// A shard that does not answer.
    pub(super) fn drop_table(&self, table: TableId) -> Result<(), ControlError> {
        self.drop_table_of(&self.shards, table)
    }

    fn drop_table_of(&self, shards: &[ShardThread], table: TableId) -> Result<(), ControlError> {
        let mut outcome = Ok(());
        for shard in shards {
            let dropped = shard
                .handle()
                .ask("dropping a table", self.deadline, |reply| Command::DropTable { table, reply });
            outcome = outcome.and(dropped);
        }
        outcome
    }

    /// Begins a session in every partition here. Gives the clock it joins at, none without partitions.
    ///
    /// # Errors
    /// A shard that does not answer; end the session then.
    pub(super) fn begin_session(&self, session: SessionId) -> Result<Clock, ControlError> {
        let mut joined = Clock(0);
        for shard in &self.shards {
            let clock = shard.handle().ask("beginning a session", self.deadline, |reply| {
                Command::BeginSession { session, reply }
            })?;
            joined = joined.max(clock);
        }
        Ok(joined)
    }

    /// Ends a session everywhere.
    pub(super) fn end_session(&self, session: SessionId) {
        for shard in &self.shards {
            // A shard that is gone holds no session; one that is slow finds the end in its mailbox, in order.
            shard
                .handle()
                .ask("ending a session", self.deadline, |reply| Command::EndSession { session, reply })
                .ok();
        }
    }

    /// Has every shard refuse pushes, or take them again.
    pub(super) fn set_orphan(&self, orphan: bool) {
        for shard in &self.shards {
            shard.handle().tell(Command::Orphan(orphan));
        }
    }

    /// How every shard stands.
    ///
    /// # Errors
    /// One that does not answer.
    pub(super) fn reports(&self) -> Result<Vec<Report>, ControlError> {
        let ask = |shard: &ShardThread| {
            shard.handle().ask("a status report", self.deadline, |reply| Command::Status { reply })
        };
        self.shards.iter().map(ask).collect()
    }

    /// Ends the threads and waits for them.
    ///
    /// # Errors
    /// A thread that did not end in time, or that a bug had ended before.
    pub(super) fn stop(&mut self, deadline: Instant) -> Result<(), ControlError> {
        for shard in &self.shards {
            shard.handle().stop();
        }
        let mut outcome = Ok(());
        for shard in self.shards.drain(..) {
            outcome = outcome.and(shard.join(deadline));
        }
        outcome
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Whoever wants to know how it ended calls `stop`.
        self.stop(Instant::now() + SHUTDOWN).ok();
    }
}
