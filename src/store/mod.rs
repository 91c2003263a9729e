//! Tables of one shard: rows in place, their index, and the optimizers that change them.
//!
//! Problem: apply millions of small updates a second to rows that are scattered over memory, while tables grow, within a
//! budget, and never pause for more than a millisecond. Idea: a batch of keys becomes a batch of slots (hash, prefetch,
//! compare), a kernel then works on the slots; the index grows in segments; short rows live beside their keys.
//!
//! Invariants. S1: a request is checked whole before it changes anything; a refusal changes no row. S2: results depend on
//! requests, schema and `index_seed` only, and values not even on that one. S3: every byte of rows, index and cache is
//! charged to the budget first. S4: a slot held across requests is used only while generation and creations stand.
//!
//! Absent on purpose: locks (one thread owns a `Store`), clocks and randomness (seeds are arguments), logging,
//! replication (`chain` decides the order of what is applied here), checking that a key belongs to the partition it is
//! sent to (a wrong route makes a row that no other client sees), merging of index segments.
//! Called by the shard loop on its thread. All memory comes from `gradwire_ffi::arena`.

mod blocks;
mod budget;
mod dense;
mod grow;
mod index;
mod initial;
mod insert_datapath;
mod key_lists;
mod pull;
mod push;
mod rebuild_datapath;
mod refusal;
mod resolve_datapath;
mod row_maker;
mod rows;
mod schema;
mod segment;
mod shape;
mod slabs;
mod sparse;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use gradwire_kernels::Isa;

use self::budget::Budget;
use self::key_lists::KeyLists;
use self::sparse::Scratch;
use self::table::{Means, Table};
use crate::wire::ids::{PartitionId, SessionId, TableId};

pub use self::key_lists::Digest;
pub use self::refusal::{Refusal, TableError};
pub use self::rows::{ScanCursor, ScanOrder};
pub use self::schema::{Init, MAX_DIM, MAX_NAME_BYTES, MAX_PARTITIONS, SchemaError, TableKind, TableSchema};

/// Limits and seeds of a store.
#[derive(Clone, Copy, Debug)]
pub struct StoreConfig {
    /// Bytes that rows, index and caches may take together.
    pub memory_budget: u64,
    /// Bytes of them that cached key lists may take; they give way to rows.
    pub key_list_bytes: u64,
    /// Bytes of cached key lists for each session.
    pub key_list_session_bytes: u64,
    /// Private seed of the index hashes. Random where peers are not trusted; no result depends on it.
    pub index_seed: u64,
    /// Instruction set of the kernels.
    pub isa: Isa,
}

impl StoreConfig {
    /// A budget with an eighth for key lists, a quarter of that for each session.
    pub fn new(memory_budget: u64, index_seed: u64) -> StoreConfig {
        let key_list_bytes = memory_budget / 8;
        let key_list_session_bytes = key_list_bytes / 4;
        StoreConfig { memory_budget, key_list_bytes, key_list_session_bytes, index_seed, isa: Isa::active() }
    }
}

/// All tables of one shard.
#[derive(Debug)]
pub struct Store {
    tables: BTreeMap<TableId, Table>,
    budget: Budget,
    lists: KeyLists,
    scratch: Scratch,
    /// Slots of the request at hand.
    slots: Vec<u32>,
    /// Rows of the export step at hand.
    export_keys: Vec<u64>,
    export_rows: Vec<u32>,
    index_seed: u64,
    isa: Isa,
}

impl Store {
    /// An empty store.
    pub fn new(config: StoreConfig) -> Store {
        Store {
            tables: BTreeMap::new(),
            budget: Budget::new(config.memory_budget),
            lists: KeyLists::new(config.key_list_bytes, config.key_list_session_bytes),
            scratch: Scratch::default(),
            slots: Vec::new(),
            export_keys: Vec::new(),
            export_rows: Vec::new(),
            index_seed: config.index_seed,
            isa: config.isa,
        }
    }

    /// Makes a table with those of its partitions that this shard holds.
    ///
    /// Errors leave the store as it was.
    pub fn create_table(
        &mut self,
        table: TableId,
        schema: TableSchema,
        partitions: &[PartitionId],
    ) -> Result<(), TableError> {
        if self.tables.contains_key(&table) {
            return Err(TableError::Exists { table });
        }
        let mut made = Table::new(table, schema, self.isa, &self.budget)?;
        for partition in partitions {
            if let Err(error) = made.add_partition(*partition, self.index_seed, &mut self.budget) {
                made.release(&mut self.budget);
                return Err(error);
            }
        }
        self.tables.insert(table, made);
        Ok(())
    }

    /// Drops a table with all its rows; false when it was not here.
    pub fn drop_table(&mut self, table: TableId) -> bool {
        let Some(gone) = self.tables.remove(&table) else { return false };
        gone.release(&mut self.budget);
        self.lists.forget(table, None, &mut self.budget);
        true
    }

    /// Adds an empty partition to a table.
    pub fn add_partition(&mut self, table: TableId, partition: PartitionId) -> Result<(), TableError> {
        let found = self.tables.get_mut(&table).ok_or(TableError::Unknown { table })?;
        found.add_partition(partition, self.index_seed, &mut self.budget)
    }

    /// Drops a partition with its rows; false when it was not here.
    pub fn drop_partition(&mut self, table: TableId, partition: PartitionId) -> bool {
        let Some(found) = self.tables.get_mut(&table) else { return false };
        self.lists.forget(table, Some(partition), &mut self.budget);
        found.drop_partition(partition, &mut self.budget)
    }

    /// The tables here.
    pub fn tables(&self) -> impl Iterator<Item = (TableId, &TableSchema)> {
        self.tables.iter().map(|(id, table)| (*id, &table.schema))
    }

    /// The schema of a table.
    pub fn schema(&self, table: TableId) -> Option<&TableSchema> {
        self.tables.get(&table).map(|table| &table.schema)
    }

    /// The partitions of a table that are here, in order.
    pub fn partitions(&self, table: TableId) -> Vec<PartitionId> {
        self.tables.get(&table).map(Table::partitions).unwrap_or_default()
    }

    /// Whether a table has a partition here.
    #[must_use]
    pub fn has_partition(&self, table: TableId, partition: PartitionId) -> bool {
        self.tables.get(&table).is_some_and(|table| table.len(partition).is_ok())
    }

    /// Words of a row in exports and imports.
    pub fn row_words(&self, table: TableId) -> Option<usize> {
        self.tables.get(&table).map(|table| table.maker.row_words())
    }

    /// Rows of a partition. All rows of a dense one count.
    pub fn len(&self, table: TableId, partition: PartitionId) -> Result<u64, Refusal> {
        self.tables.get(&table).ok_or(Refusal::UnknownTable { table })?.len(partition)
    }

    /// Slot generation of a partition: raised when an existing row may have moved or gone.
    pub fn generation(&self, table: TableId, partition: PartitionId) -> Result<u64, Refusal> {
        let found = self.tables.get(&table).ok_or(Refusal::UnknownTable { table })?;
        Ok(found.counters(partition)?.0)
    }

    /// Bytes charged to the budget: rows, index, key lists.
    pub fn bytes_used(&self) -> u64 {
        self.budget.used()
    }

    /// Most bytes that were ever charged, also for an instant inside a request.
    pub fn bytes_peak(&self) -> u64 {
        self.budget.peak()
    }

    /// Bytes that tables keep resident: whole huge pages of which anything is used, so a little above what they charge.
    pub fn bytes_resident(&self) -> u64 {
        self.tables.values().map(Table::resident_bytes).sum()
    }

    /// Bytes of cached key lists.
    pub fn key_list_bytes(&self) -> u64 {
        self.lists.bytes()
    }

    /// Drops the key lists of a session that has ended.
    pub fn end_session(&mut self, session: SessionId) {
        self.lists.end_session(session, &mut self.budget);
    }

    /// The parts of a store that a request works with, borrowed side by side.
    fn parts(&mut self, table: TableId) -> Result<(&mut Table, Means<'_>, &mut Vec<u32>), Refusal> {
        let found = self.tables.get_mut(&table).ok_or(Refusal::UnknownTable { table })?;
        let means = Means { budget: &mut self.budget, lists: &mut self.lists, scratch: &mut self.scratch };
        Ok((found, means, &mut self.slots))
    }
}

/// Refuses a list whose keys do not rise strictly, or that holds the reserved key.
fn check_keys(isa: Isa, keys: &[u64]) -> Result<(), Refusal> {
    if let Some(index) = gradwire_kernels::first_unsorted(isa, keys) {
        return Err(Refusal::Unsorted { index });
    }
    // Only the last of rising keys can be the largest there is.
    if keys.last() == Some(&u64::MAX) {
        return Err(Refusal::ReservedKey);
    }
    Ok(())
}

/// Refuses a count that does not fit.
fn check_count(what: &'static str, expected: usize, actual: usize) -> Result<(), Refusal> {
    if expected == actual { Ok(()) } else { Err(Refusal::Shape { what, expected, actual }) }
}
