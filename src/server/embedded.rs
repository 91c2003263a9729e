//! A whole cluster in this process: server threads and a coordinator that is a mutex around the state machines.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::acceptor::Acceptor;
use super::shard::{Command, ShardConfig};
use super::thread::{ShardHandle, ShardThread, ThreadConfig};
use crate::cluster::{Arrival, Barriers, Catalog, Map, Opening, ShardInfo, Status, TableStatus};
use crate::control::{ControlError, ControlPlane, Jobs, LocalJobs};
use crate::lane::{FabricKind, LaneEnd, shm};
use crate::store::TableSchema;
use crate::wire::ids::{Clock, SessionId, ShardId, TableId};

/// Most server threads of one process.
const MAX_SHARDS: u32 = 1024;
/// How long the end of the server threads may take; a turn is under a millisecond, freeing a large table is not.
const SHUTDOWN: Duration = Duration::from_secs(30);

/// How an embedded cluster is made.
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// Server threads, 1 to 1024.
    pub shards: u32,
    /// Partitions of the cluster, 1 to 65,536.
    pub partitions: u32,
    /// What carries the lanes: memory, or real connections over the loopback address.
    pub fabric: FabricKind,
    /// Bytes of rows, indexes and key lists, for each server thread.
    pub memory_bytes: u64,
    /// Bytes of a lane's ring in each direction: a power of two.
    pub ring_bytes: usize,
    /// Most bytes of log for each partition: a power of two. A push takes at most a quarter of it.
    pub log_bytes: usize,
    /// How long an idle server thread looks for work before it sleeps.
    pub spin: Duration,
    /// Whether server thread `i` stays on the `i`-th usable core.
    pub pin: bool,
    /// How long the control plane waits for a server thread.
    pub deadline: Duration,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            shards: 2,
            partitions: 2,
            fabric: FabricKind::Shm,
            memory_bytes: 4 << 30,
            ring_bytes: 4 << 20,
            // A record is at most a quarter of a ring; four of the largest fit the log.
            log_bytes: 8 << 20,
            spin: Duration::from_micros(50),
            pin: false,
            deadline: Duration::from_secs(30),
        }
    }
}

/// Server threads and coordinator of a cluster in this process. Dropping it ends the threads.
pub struct Embedded {
    config: EmbeddedConfig,
    map: Arc<Map>,
    shards: Vec<ShardThread>,
    /// Takes tcp lanes; ends before the shards do.
    acceptor: Option<Acceptor>,
    catalog: Mutex<Catalog>,
    /// Held while a table is made or dropped, so that one is done before the next begins.
    tables: Mutex<()>,
    barriers: Mutex<Barriers>,
    gathered: Condvar,
    jobs: LocalJobs,
}

impl Embedded {
    /// Starts the server threads, and over tcp the listener, and returns once they run.
    ///
    /// # Errors
    /// A setting out of range, or what the machine refused.
    pub fn start(config: EmbeddedConfig) -> Result<Self, ControlError> {
        if config.shards == 0 || config.shards > MAX_SHARDS {
            let found = config.shards.to_string();
            return Err(ControlError::Setting { setting: "servers", found, allowed: "choose 1 to 1024" });
        }
        let cluster_id = random();
        let places = (0..config.shards).map(|shard| ShardInfo { shard: ShardId(shard), address: None });
        let mut map = Map::place(cluster_id, config.partitions, places.collect())?;
        let mut shards = Vec::with_capacity(config.shards as usize);
        for shard in (0..config.shards).map(ShardId) {
            shards.push(start_shard(&config, &map, shard)?);
        }
        let acceptor = match config.fabric {
            FabricKind::Shm => None,
            FabricKind::Tcp => {
                let handles = shards.iter().map(|shard| shard.handle().clone()).collect();
                Some(Acceptor::start(cluster_id, config.ring_bytes, config.deadline, handles)?)
            }
        };
        for info in &mut map.shards {
            info.address = acceptor.as_ref().map(Acceptor::address);
        }
        Ok(Self {
            catalog: Mutex::new(Catalog::new(config.partitions)),
            config,
            map: Arc::new(map),
            shards,
            acceptor,
            tables: Mutex::new(()),
            barriers: Mutex::new(Barriers::default()),
            gathered: Condvar::new(),
            jobs: LocalJobs::default(),
        })
    }

    /// Ends the server threads and waits for them. Sessions that are still open see their lanes go down.
    ///
    /// # Errors
    /// A thread that did not end in time, or that a bug had ended before.
    pub fn shutdown(mut self) -> Result<(), ControlError> {
        self.stop()
    }

    fn stop(&mut self) -> Result<(), ControlError> {
        let deadline = Instant::now() + SHUTDOWN;
        let mut outcome = self.acceptor.take().map_or(Ok(()), |acceptor| acceptor.stop(deadline));
        for shard in &self.shards {
            shard.handle().stop();
        }
        for shard in self.shards.drain(..) {
            outcome = outcome.and(shard.join(deadline));
        }
        outcome
    }

    fn shard(&self, shard: ShardId) -> Result<&ShardHandle, ControlError> {
        self.shards.get(shard.0 as usize).map(ShardThread::handle).ok_or(ControlError::NoShard { shard })
    }

    /// Makes a table on every shard, or on none.
    fn create_everywhere(&self, table: TableId, schema: &Arc<TableSchema>) -> Result<(), ControlError> {
        for (index, shard) in self.shards.iter().enumerate() {
            let made = shard
                .handle()
                .ask("making a table", self.config.deadline, |reply| Command::CreateTable {
                    table,
                    schema: Arc::clone(schema),
                    reply,
                })
                .and_then(|made| {
                    let shard = ShardId(index as u32);
                    made.map_err(|source| ControlError::Table { shard, name: schema.name.clone(), source })
                });
            if let Err(error) = made {
                // This one too: it may have made the table after the deadline.
                self.drop_everywhere(table, index + 1).ok();
                return Err(error);
            }
        }
        Ok(())
    }

    fn drop_everywhere(&self, table: TableId, shards: usize) -> Result<(), ControlError> {
        let mut outcome = Ok(());
        for shard in &self.shards[..shards] {
            let dropped = shard
                .handle()
                .ask("dropping a table", self.config.deadline, |reply| Command::DropTable { table, reply });
            outcome = outcome.and(dropped);
        }
        outcome
    }
}

impl ControlPlane for Embedded {
    fn map(&self) -> Arc<Map> {
        Arc::clone(&self.map)
    }

    fn begin_session(&self) -> Result<(SessionId, Clock), ControlError> {
        let session = lock(&self.catalog).begin_session();
        let mut joined = Clock(0);
        for shard in &self.shards {
            let begun = shard.handle().ask("beginning a session", self.config.deadline, |reply| {
                Command::BeginSession { session, reply }
            });
            match begun {
                Ok(clock) => joined = joined.max(clock),
                Err(error) => {
                    self.end_session(session);
                    return Err(error);
                }
            }
        }
        Ok((session, joined))
    }

    fn end_session(&self, session: SessionId) {
        if !lock(&self.catalog).end_session(session) {
            return;
        }
        for shard in &self.shards {
            // A shard that is gone holds no session; one that is slow finds the end in its mailbox, in order.
            shard
                .handle()
                .ask("ending a session", self.config.deadline, |reply| Command::EndSession { session, reply })
                .ok();
        }
    }

    fn open_table(&self, schema: &TableSchema) -> Result<(TableId, Arc<TableSchema>), ControlError> {
        let _one_at_a_time = lock(&self.tables);
        let opening = lock(&self.catalog).open(schema)?;
        let (table, schema) = match opening {
            Opening::Exists(table, schema) => return Ok((table, schema)),
            Opening::Create(table, schema) => (table, schema),
        };
        if let Err(error) = self.create_everywhere(table, &schema) {
            lock(&self.catalog).abandoned(table);
            return Err(error);
        }
        lock(&self.catalog).created(table);
        Ok((table, schema))
    }

    fn drop_table(&self, name: &str) -> Result<(), ControlError> {
        let _one_at_a_time = lock(&self.tables);
        let table = lock(&self.catalog).drop_table(name);
        let table = table.ok_or_else(|| ControlError::NoTable { name: name.to_owned() })?;
        let dropped = self.drop_everywhere(table, self.shards.len());
        lock(&self.catalog).abandoned(table);
        dropped
    }

    fn connect(&self, _session: SessionId, shard: ShardId) -> Result<LaneEnd, ControlError> {
        let thread = self.shard(shard)?;
        if let Some(acceptor) = &self.acceptor {
            return acceptor.connect(shard);
        }
        let (ours, theirs) = shm::pair(self.config.ring_bytes)?;
        let adopted = thread
            .ask("adopting a lane", self.config.deadline, |reply| Command::Adopt { end: theirs, reply })?;
        adopted
            .map_err(|error| ControlError::Machine { what: "adopting a lane", cause: error.to_string() })?;
        Ok(ours)
    }

    fn barrier(&self, name: &str, count: usize, deadline: Duration) -> Result<(), ControlError> {
        let mut barriers = lock(&self.barriers);
        let Arrival::Wait { round } = barriers.arrive(name, count)? else {
            self.gathered.notify_all();
            return Ok(());
        };
        let waited =
            self.gathered.wait_timeout_while(barriers, deadline, |barriers| !barriers.released(name, round));
        let (mut barriers, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            barriers.leave(name, round);
            return Err(ControlError::Deadline { what: "the others' arrival at a barrier", after: deadline });
        }
        Ok(())
    }

    fn status(&self) -> Result<Status, ControlError> {
        let mut status = Status { partitions: Vec::new(), shards: Vec::new(), tables: Vec::new() };
        for (table, schema) in lock(&self.catalog).tables() {
            status.tables.push(TableStatus { table, name: schema.name.clone(), rows: 0 });
        }
        for shard in &self.shards {
            let report = shard
                .handle()
                .ask("a status report", self.config.deadline, |reply| Command::Status { reply })?;
            status.shards.push(report.shard);
            status.partitions.extend(report.partitions);
            for (table, rows) in report.tables {
                for known in status.tables.iter_mut().filter(|known| known.table == table) {
                    known.rows += rows;
                }
            }
        }
        status.partitions.sort_by_key(|partition| partition.partition);
        Ok(status)
    }

    fn jobs(&self) -> &dyn Jobs {
        &self.jobs
    }

    fn fabric(&self) -> FabricKind {
        self.config.fabric
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        // Whoever wants to know how it ended calls `shutdown`.
        self.stop().ok();
    }
}

fn start_shard(config: &EmbeddedConfig, map: &Map, shard: ShardId) -> Result<ShardThread, ControlError> {
    let partitions =
        map.partitions_of(shard).map(|partition| (partition, map.partitions[partition.0 as usize].epoch));
    let shard_config = ShardConfig {
        shard,
        partitions: partitions.collect(),
        partition_count: map.partition_count(),
        memory_bytes: config.memory_bytes,
        log_bytes: config.log_bytes,
        index_seed: random(),
    };
    let core = config.pin.then_some(shard.0 as usize);
    ShardThread::start(shard_config, ThreadConfig { spin: config.spin, core })
}

/// The state machines are never left half changed, so a caller's panic does not spoil them for others.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number nobody outside can guess: the standard library seeds its hash maps from the system.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
#[path = "embedded_test.rs"]
mod tests;
