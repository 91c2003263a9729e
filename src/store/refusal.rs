//! Why the store says no. A refusal changes nothing that a pull can see.

use gradwire_ffi::arena::ArenaError;

use super::schema::SchemaError;
use crate::wire::ids::{PartitionId, TableId};

/// Why a request was refused, whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such table here.
    #[error("table {} is not on this shard; create it first, or refresh the map", .table.0)]
    UnknownTable {
        /// The table asked for.
        table: TableId,
    },
    /// The table is here, the partition is not.
    #[error("partition {} of table {} is not on this shard; refresh the map", .partition.0, .table.0)]
    UnknownPartition {
        /// The table asked for.
        table: TableId,
        /// The partition asked for.
        partition: PartitionId,
    },
    /// Keys must rise strictly.
    #[error("key {index} of the list is not above the one before it; sort the keys and drop repeats")]
    Unsorted {
        /// Position of the first key that does not rise.
        index: usize,
    },
    /// `u64::MAX` marks an empty place in the index.
    #[error("key 18446744073709551615 is reserved; use any other key")]
    ReservedKey,
    /// Values, output or bitmap do not fit the keys.
    #[error("{actual} {what} came where the keys and the table's dim need {expected}; check dim")]
    Shape {
        /// What was counted.
        what: &'static str,
        /// How many the keys need.
        expected: usize,
        /// How many came.
        actual: usize,
    },
    /// A dense table has no such row in this partition.
    #[error("row {row} is outside rows {first}..{end} of this partition; check the table's rows")]
    RowOutOfRange {
        /// The row asked for.
        row: u64,
        /// First row of the partition.
        first: u64,
        /// One past its last row.
        end: u64,
    },
    /// New rows would not fit the memory budget. Existing rows can still be pushed to and pulled.
    #[error(
        "table {} needs {needed} more bytes for new rows and the memory budget is {budget}; raise memory_bytes, add servers, or erase rows",
        .table.0
    )]
    Memory {
        /// The table that would grow.
        table: TableId,
        /// Bytes of the allocation that did not fit.
        needed: u64,
        /// The budget of this store.
        budget: u64,
    },
    /// So many keys share their hash bits that no split can part them.
    #[error(
        "too many keys of table {} partition {} share a hash; such keys are made by intent, refuse their sender",
        .table.0,
        .partition.0
    )]
    HashFlood {
        /// The table.
        table: TableId,
        /// The partition whose index can't be split further.
        partition: PartitionId,
    },
    /// The digest names no list here: never sent, or evicted. Send the keys, then retry.
    #[error("the key list is not cached; send its keys")]
    UnknownKeyList,
    /// Rows of a dense table exist for as long as the table.
    #[error("table {} is dense: its rows can't be erased; assign them instead", .table.0)]
    Dense {
        /// The table.
        table: TableId,
    },
}

/// Why a table or partition could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The schema is wrong.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The id is taken.
    #[error("table {} is already on this shard; drop it first", .table.0)]
    Exists {
        /// The table.
        table: TableId,
    },
    /// No such table.
    #[error("table {} is not on this shard; create it first", .table.0)]
    Unknown {
        /// The table.
        table: TableId,
    },
    /// The partition is here already.
    #[error("partition {} of table {} is already on this shard; use it as it is", .partition.0, .table.0)]
    PartitionExists {
        /// The table.
        table: TableId,
        /// The partition.
        partition: PartitionId,
    },
    /// A partition number beyond the schema's.
    #[error("table {} has {partitions} partitions, there is no {}; number them from 0", .table.0, .partition.0)]
    NoSuchPartition {
        /// The table.
        table: TableId,
        /// The partition asked for.
        partition: PartitionId,
        /// How many the schema has.
        partitions: u32,
    },
    /// The table does not fit the memory budget.
    #[error(
        "table {} needs {needed} bytes and the memory budget of {budget} is spent; raise memory_bytes or add servers",
        .table.0
    )]
    Memory {
        /// The table.
        table: TableId,
        /// Bytes needed.
        needed: u64,
        /// The budget.
        budget: u64,
    },
    /// The kernel gave no address space.
    #[error(transparent)]
    Arena(#[from] ArenaError),
}
