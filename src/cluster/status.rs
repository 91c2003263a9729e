//! What the cluster says about itself.

use serde::{Deserialize, Serialize};

use super::job::JobStatus;
use crate::wire::ids::{Clock, Epoch, Lsn, PartitionId, ServerId, SessionId, ShardId, TableId};

mod hexadecimal {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{number:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        u64::from_str_radix(&String::deserialize(from)?, 16).map_err(D::Error::custom)
    }
}

/// One partition replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// The partition.
    pub partition: PartitionId,
    /// The shard that holds it.
    pub shard: ShardId,
    /// Version of its chain.
    pub epoch: Epoch,
    /// Last batch in order.
    pub lsn: Lsn,
    /// Last batch that every replica has applied.
    pub acked_lsn: Lsn,
    /// Rows of all tables.
    pub rows: u64,
    /// Bytes its log holds.
    pub log_bytes: u64,
    /// Live sessions.
    pub sessions: u64,
}

/// One server thread. Counts are since it started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardStatus {
    /// The shard.
    pub shard: ShardId,
    /// Bytes of rows, indexes and key lists.
    pub bytes_used: u64,
    /// Open lanes.
    pub lanes: u64,
    /// Records taken from lanes.
    pub records: u64,
    /// Pushes applied.
    pub pushes: u64,
    /// Pushes refused.
    pub refused: u64,
    /// Pushes sent back to be sent again.
    pub retries: u64,
    /// Pulls answered.
    pub pulls: u64,
    /// Pulls that wait for a clock now.
    pub parked: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Times it slept.
    pub idle_waits: u64,
    /// Lanes cut for what came on them, or for not taking their answers.
    pub cut_lanes: u64,
    /// What moves the bytes of its TCP lanes: `uring` or `epoll`.
    pub tcp_driver: String,
    /// Why it is `epoll` although io_uring was to be used.
    pub tcp_fallback: Option<String>,
    /// CPU time of the thread, when the system tells.
    pub cpu_ns: Option<u64>,
}

/// One table, over all partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatus {
    /// The table.
    pub table: TableId,
    /// Its name.
    pub name: String,
    /// Its rows.
    pub rows: u64,
}

/// A worker's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerClock {
    /// Its session.
    pub session: SessionId,
    /// The lowest over the partitions asked.
    pub clock: Clock,
}

/// How a server is known to the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    /// It joined and has not yet confirmed what it holds.
    Joining,
    /// It serves.
    Serving,
    /// It lives and holds no partition yet, or no more.
    Spare,
    /// Its partitions go to others; it can be stopped once it is in no chain.
    Draining,
    /// It has not been heard of for a lease.
    Silent,
    /// Its process has ended; what only it held is unavailable (C7).
    Gone,
}

/// One server process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Which.
    pub server: ServerId,
    /// Where it takes tcp lanes, as HOST:PORT; empty when it takes none.
    pub address: String,
    /// How it is known.
    pub state: ServerState,
    /// Its threads.
    pub shards: Vec<ShardId>,
}

/// One partition's chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainStatus {
    /// The partition.
    pub partition: PartitionId,
    /// Addresses of its servers, head first.
    pub chain: Vec<String>,
    /// Version of the chain.
    pub epoch: Epoch,
    /// Last batch in the head's order; absent when the head does not answer.
    pub lsn: Option<Lsn>,
    /// Batches that not every replica has applied.
    pub lag: Option<u64>,
    /// Whether a server of it is left.
    pub available: bool,
}

/// One worker: a session of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its session.
    pub session: SessionId,
    /// The process it runs in.
    pub process: String,
    /// Iterations it has finished; absent when no server tells.
    pub clock: Option<Clock>,
}

/// The whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Random name of the cluster; sixteen hexadecimal digits in JSON, whose readers often know no 64-bit integers.
    #[serde(with = "hexadecimal")]
    pub cluster_id: u64,
    /// Starts of its coordinator.
    pub term: u64,
    /// Version of the map.
    pub map_version: u64,
    /// Copies each partition is to have.
    pub replicas: u32,
    /// Whether enough servers have joined and every chain has its replicas.
    pub complete: bool,
    /// What is missing, in one line.
    pub incomplete: Option<String>,
    /// The coordinator's addresses, as HOST:PORT; none when it is in this process.
    pub coordinators: Vec<String>,
    /// By server.
    pub servers: Vec<ServerStatus>,
    /// By partition.
    #[serde(rename = "partitions")]
    pub chains: Vec<ChainStatus>,
    /// Each partition at each of its servers.
    #[serde(rename = "replica_states")]
    pub partitions: Vec<PartitionStatus>,
    /// By shard.
    pub shards: Vec<ShardStatus>,
    /// By name.
    pub tables: Vec<TableStatus>,
    /// By session.
    pub workers: Vec<WorkerStatus>,
    /// Jobs, over or not.
    pub jobs: Vec<JobStatus>,
}
