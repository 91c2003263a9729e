//! What the cluster says about itself.

use crate::wire::ids::{Epoch, Lsn, PartitionId, ShardId, TableId};

/// One partition replica.
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
    pub tcp_driver: &'static str,
    /// Why it is `epoll` although io_uring was to be used.
    pub tcp_fallback: Option<String>,
    /// CPU time of the thread, when the system tells.
    pub cpu_ns: Option<u64>,
}

/// One table, over all partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableStatus {
    /// The table.
    pub table: TableId,
    /// Its name.
    pub name: String,
    /// Its rows.
    pub rows: u64,
}

/// The whole cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// By partition.
    pub partitions: Vec<PartitionStatus>,
    /// By shard.
    pub shards: Vec<ShardStatus>,
    /// By name.
    pub tables: Vec<TableStatus>,
}
