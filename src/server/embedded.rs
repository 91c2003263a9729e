//! A whole cluster in this process: server threads and a coordinator that is a mutex around the state machines.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::unbounded;

use super::acceptor::{Acceptor, Served};
use super::group::{Group, GroupConfig, Order, SHUTDOWN};
use super::shard::lease::Lease;
use super::shard::{Command, Peer};
use crate::cluster::message::Holding;
use crate::cluster::{
    Arrival, Barriers, Catalog, ChainStatus, Map, Opening, ServerState, ServerStatus, ShardInfo, Status,
    TableStatus, WorkerStatus,
};
use crate::control::{ControlError, ControlPlane, Jobs, LocalJobs, random};
use crate::lane::tcp::Listener;
use crate::lane::{FabricKind, LaneConfig, LaneEnd, shm};
use crate::store::TableSchema;
use crate::wire::ids::{Clock, ServerId, SessionId, ShardId, TableId};

/// Most server threads of one process.
const MAX_SHARDS: u32 = 1024;
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
    group: Group,
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
        let holdings =
            (0..config.shards).map(ShardId).map(|shard| Holding { shard, partitions: map.roles_of(shard) });
        let group = Group::start(&config.group(), Order::first(config.partitions, holdings.collect()))?;
        let acceptor = match config.fabric {
            FabricKind::Shm => None,
            FabricKind::Tcp => {
                let served = Served {
                    cluster_id,
                    link_key: 0,
                    config: LaneConfig { ring_bytes: config.ring_bytes },
                    shards: group.handles(),
                    deadline: config.deadline,
                };
                Some(Acceptor::start(Listener::bind("127.0.0.1:0")?.into(), served)?)
            }
        };
        for info in &mut map.shards {
            info.address = acceptor.as_ref().and_then(Acceptor::address);
        }
        Ok(Self {
            catalog: Mutex::new(Catalog::new(config.partitions)),
            config,
            map: Arc::new(map),
            group,
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
        if let Err(error) = self.group.stop(deadline) {
            outcome = outcome.and(Err(error));
        }
        outcome
    }
}

impl ControlPlane for Embedded {
    fn map_version(&self) -> u64 {
        self.map.version
    }

    fn map(&self) -> Arc<Map> {
        Arc::clone(&self.map)
    }

    fn begin_session(&self) -> Result<(SessionId, Clock), ControlError> {
        let session = lock(&self.catalog).begin_session();
        match self.group.begin_session(session) {
            Ok(joined) => Ok((session, joined)),
            Err(error) => {
                self.end_session(session);
                Err(error)
            }
        }
    }

    fn end_session(&self, session: SessionId) {
        if lock(&self.catalog).end_session(session) {
            self.group.end_session(session);
        }
    }

    fn open_table(&self, schema: &TableSchema) -> Result<(TableId, Arc<TableSchema>), ControlError> {
        let _one_at_a_time = lock(&self.tables);
        let opening = lock(&self.catalog).open(schema)?;
        let (table, schema) = match opening {
            Opening::Exists(table, schema) => return Ok((table, schema)),
            Opening::Create(table, schema) => (table, schema),
        };
        if let Err(error) = self.group.create_table(table, &schema) {
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
        let dropped = self.group.drop_table(table);
        lock(&self.catalog).abandoned(table);
        dropped
    }

    fn connect(&self, _session: SessionId, shard: ShardId) -> Result<LaneEnd, ControlError> {
        let thread = self.group.shard(shard)?;
        if let Some(acceptor) = &self.acceptor {
            return acceptor.connect(shard);
        }
        let (ours, theirs) = shm::pair(self.config.ring_bytes)?;
        let adopted = thread.ask("adopting a lane", self.config.deadline, |reply| Command::Adopt {
            end: theirs,
            peer: Peer::Client,
            reply,
        })?;
        adopted
            .map_err(|error| ControlError::Machine { what: "adopting a lane", cause: error.to_string() })?;
        Ok(ours)
    }

    fn barrier(&self, name: &str, count: usize, deadline: Duration) -> Result<(), ControlError> {
        let caller = random();
        let mut barriers = lock(&self.barriers);
        let Arrival::Wait { round } = barriers.arrive(name, count, caller)? else {
            self.gathered.notify_all();
            return Ok(());
        };
        let waited =
            self.gathered.wait_timeout_while(barriers, deadline, |barriers| !barriers.released(name, round));
        let (mut barriers, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            barriers.leave(name, round, caller);
            return Err(ControlError::Deadline { what: "the others' arrival at a barrier", after: deadline });
        }
        Ok(())
    }

    fn status(&self) -> Result<Status, ControlError> {
        let reports = self.group.reports()?;
        let mut tables: Vec<TableStatus> = lock(&self.catalog)
            .tables()
            .map(|(table, schema)| TableStatus { table, name: schema.name.clone(), rows: 0 })
            .collect();
        for (table, rows) in reports.iter().flat_map(|report| &report.tables) {
            for known in tables.iter_mut().filter(|known| known.table == *table) {
                known.rows += rows;
            }
        }
        let mut partitions: Vec<_> =
            reports.iter().flat_map(|report| report.partitions.iter().cloned()).collect();
        partitions.sort_by_key(|partition| partition.partition);
        let address = self.map.shards[0].address.map_or_else(String::new, |address| address.to_string());
        let sessions: Vec<SessionId> = lock(&self.catalog).sessions().collect();
        let workers = sessions.into_iter().map(|session| {
            let clocks = reports.iter().flat_map(|report| &report.clocks).filter(|c| c.session == session);
            let (process, clock) = (format!("process {}", std::process::id()), clocks.map(|c| c.clock).min());
            WorkerStatus { session, process, clock }
        });
        Ok(Status {
            cluster_id: self.map.cluster_id,
            term: 1,
            map_version: self.map.version,
            replicas: 1,
            complete: true,
            incomplete: None,
            coordinators: Vec::new(),
            servers: vec![ServerStatus {
                server: ServerId(1),
                address: address.clone(),
                state: ServerState::Serving,
                shards: self.map.shards.iter().map(|info| info.shard).collect(),
            }],
            chains: partitions
                .iter()
                .map(|held| ChainStatus {
                    partition: held.partition,
                    chain: vec![address.clone()],
                    epoch: held.epoch,
                    lsn: Some(held.lsn),
                    lag: Some(held.lsn.0.saturating_sub(held.acked_lsn.0)),
                    available: true,
                })
                .collect(),
            workers: workers.collect(),
            jobs: self.jobs.statuses(),
            shards: reports.iter().map(|report| report.shard.clone()).collect(),
            partitions,
            tables,
        })
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

impl EmbeddedConfig {
    fn group(&self) -> GroupConfig {
        GroupConfig {
            memory_bytes: self.memory_bytes,
            log_bytes: self.log_bytes,
            spin: self.spin,
            cores: if self.pin { (0..self.shards as usize).collect() } else { Vec::new() },
            deadline: self.deadline,
            fatal: false,
            lease: Lease::unending(),
            // A chain of one wants nothing of others.
            notices: unbounded().0,
        }
    }
}

/// The state machines are never left half changed, so a caller's panic does not spoil them for others.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "embedded_test.rs"]
mod tests;
