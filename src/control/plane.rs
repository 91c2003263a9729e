//! What a client asks of the control plane; never on the data path.

use std::sync::Arc;
use std::time::Duration;

use super::{ControlError, Jobs};
use crate::cluster::{Map, Status};
use crate::lane::{FabricKind, LaneEnd, Waker};
use crate::store::TableSchema;
use crate::wire::ids::{Clock, SessionId, ShardId, TableId};

/// The coordinator as a client sees it: in this process, or at the end of a connection.
pub trait ControlPlane: Send + Sync {
    /// Version of the newest map known here: cheap enough to ask in every turn of a loop.
    fn map_version(&self) -> u64;

    /// The newest map known here.
    fn map(&self) -> Arc<Map>;

    /// Wakes a session's thread whenever the map changes, until the session ends. Nothing to do where it never does.
    fn watch_map(&self, _session: SessionId, _waker: Waker) {}

    /// A new session id, and the clock its worker joins at: that of the slowest live one. When this returns, every
    /// partition's log holds its `client began`.
    ///
    /// # Errors
    /// [`ControlError`] when a shard cannot be reached in time.
    fn begin_session(&self) -> Result<(SessionId, Clock), ControlError>;

    /// Ends a session: its id is refused from now on, by every server (C3).
    fn end_session(&self, session: SessionId);

    /// Creates a table, or opens it when its schema is the same. When this returns every shard has it.
    ///
    /// # Errors
    /// [`ControlError`] when the schema is wrong or another one has the name.
    fn open_table(&self, schema: &TableSchema) -> Result<(TableId, Arc<TableSchema>), ControlError>;

    /// Drops a table and its rows.
    ///
    /// # Errors
    /// [`ControlError`] when there is none of that name.
    fn drop_table(&self, name: &str) -> Result<(), ControlError>;

    /// One end of a new lane to a shard.
    ///
    /// # Errors
    /// [`ControlError`] when the shard is gone or the machine refuses.
    fn connect(&self, session: SessionId, shard: ShardId) -> Result<LaneEnd, ControlError>;

    /// Waits until `count` callers are here under the same name.
    ///
    /// # Errors
    /// [`ControlError`] when they are not in time.
    fn barrier(&self, name: &str, count: usize, deadline: Duration) -> Result<(), ControlError>;

    /// Every partition, shard and table as it stands.
    ///
    /// # Errors
    /// [`ControlError`] when a shard does not answer in time.
    fn status(&self) -> Result<Status, ControlError>;

    /// The jobs of the cluster.
    fn jobs(&self) -> &dyn Jobs;

    /// What carries the lanes.
    fn fabric(&self) -> FabricKind;
}
