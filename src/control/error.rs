//! What the control plane answers when it can't do what was asked.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::cluster::{BarrierError, CatalogError, MapError};
use crate::lane::SetupError;
use crate::store::{TableError, TableSchema};
use crate::wire::ids::ShardId;

/// Why the control plane refused, or did not answer.
///
/// # Example
/// ```
/// use gradwire::{Add, Cluster, ClusterConfig, ControlError, Error};
/// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
/// session.sparse("w", 1, Add)?;
/// let other = session.sparse("w", 2, Add);
/// assert!(matches!(other, Err(Error::Control(ControlError::SchemaMismatch { .. }))));
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Error)]
pub enum ControlError {
    /// The name stands for another schema.
    #[error(
        "table {name:?} exists as {theirs:?}, asked for was {ours:?}; open it with its own schema, or under another name"
    )]
    SchemaMismatch {
        /// The table.
        name: String,
        /// The schema of the table.
        theirs: Arc<TableSchema>,
        /// The schema asked for.
        ours: Box<TableSchema>,
    },
    /// The table cannot be opened as asked.
    #[error(transparent)]
    Catalog(CatalogError),
    /// There is no such table.
    #[error("there is no table {name:?} to drop; check the name")]
    NoTable {
        /// The name asked for.
        name: String,
    },
    /// A shard could not make the table; it is on no shard now.
    #[error("server thread {shard} could not make table {name:?}: {source}")]
    Table {
        /// The shard.
        shard: ShardId,
        /// The table.
        name: String,
        /// What it said.
        source: TableError,
    },
    /// A server thread has ended.
    #[error("server thread {shard} is gone; what it held is lost, start the cluster again")]
    ShardGone {
        /// The shard.
        shard: ShardId,
    },
    /// There is no such shard.
    #[error("there is no server thread {shard}; fetch the map again")]
    NoShard {
        /// The shard asked for.
        shard: ShardId,
    },
    /// An answer did not come in time.
    #[error("{what} was not done after {after:?}; see whether the servers live, or set a longer deadline")]
    Deadline {
        /// What was waited for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// The barrier did not count this caller.
    #[error(transparent)]
    Barrier(#[from] BarrierError),
    /// The cluster cannot be laid out so.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The machine refused a thread, a socket or memory.
    #[error("{what} failed: {cause}; see the limits of this machine")]
    Machine {
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        cause: String,
    },
    /// A setting is out of its range.
    #[error("{setting} is {found}; {allowed}")]
    Setting {
        /// The setting.
        setting: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// The coordinator or a server refused; it said why, in one line.
    #[error("{message}")]
    Remote {
        /// The line.
        message: String,
    },
    /// The coordinator has no servers.
    #[error(
        "too few servers joined the cluster in {after:?}; start `gradwire server`, and see `gradwire status`"
    )]
    NoServers {
        /// How long they were waited for.
        after: Duration,
    },
    /// The coordinator waited in vain.
    #[error(
        "the deadline passed while the coordinator waited for: {what}; see `gradwire status`, or set a longer deadline"
    )]
    Late {
        /// What it waited for.
        what: String,
    },
    /// A server's process has ended.
    #[error(
        "the server at {address} is gone, and with it the only copy of its partitions (C7); restore a checkpoint into a new cluster"
    )]
    ServerGone {
        /// Where it was.
        address: String,
    },
    /// No coordinator answered.
    #[error("no coordinator at {addresses}: {cause}; check the address and that `gradwire coordinator` runs")]
    NoCoordinator {
        /// Where it was looked for.
        addresses: String,
        /// What happened at the last one tried.
        cause: String,
    },
    /// No lane to the shard.
    #[error(transparent)]
    Lane(#[from] SetupError),
}

impl From<CatalogError> for ControlError {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::Mismatch { theirs, ours } => {
                Self::SchemaMismatch { name: ours.name.clone(), theirs, ours }
            }
            other => Self::Catalog(other),
        }
    }
}
