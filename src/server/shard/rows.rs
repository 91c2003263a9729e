//! The store as requests see it: keys checked for their partition, refusals in the words of the wire.

use gradwire_kernels as kernels;

use super::keys::Naming;
use super::push::Fault;
use crate::chain::EntryFlags;
use crate::store::{Digest, Refusal, ScanCursor, ScanOrder, Store, TableError, TableSchema};
use crate::wire::ids::{PartitionId, SessionId, TableId};
use crate::wire::{Header, PullStatus, PushOp, RefusalCode};

/// A named list is read as a whole, in one step; one with more values than this is not kept, so that its reads go in
/// pieces like those of any list. 4 MiB of values.
const NAMED_VALUES: usize = 1 << 20;

/// What a push does to its rows, with what it needs for that.
#[derive(Clone, Copy, Debug)]
pub(super) enum Values<'a> {
    /// The table's rule applies gradients, `[keys, dim]`.
    Gradients(&'a [f32]),
    /// Values take the rows' place, `[keys, dim]`.
    Assign(&'a [f32]),
    /// The rows go.
    Erase,
    /// Whole rows in their stored form, `[keys, row words]`.
    Import(&'a [u32]),
}

/// The rows of a shard.
pub(super) struct Rows {
    store: Store,
    /// Partitions of the keys at hand.
    places: Vec<PartitionId>,
    /// Of the export step at hand.
    keys: Vec<u64>,
    words: Vec<u32>,
}

impl Rows {
    pub(super) fn new(store: Store) -> Self {
        Self { store, places: Vec::new(), keys: Vec::new(), words: Vec::new() }
    }

    /// Makes a table in a partition. False when it is there already.
    pub(super) fn create(
        &mut self,
        table: TableId,
        schema: &TableSchema,
        partition: PartitionId,
    ) -> Result<bool, TableError> {
        if self.store.schema(table).is_none() {
            return self.store.create_table(table, schema.clone(), &[partition]).map(|()| true);
        }
        if self.store.has_partition(table, partition) {
            return Ok(false);
        }
        self.store.add_partition(table, partition).map(|()| true)
    }

    /// Drops a table in a partition, and the table with its last one. False when it was not there.
    pub(super) fn drop(&mut self, table: TableId, partition: PartitionId) -> bool {
        let gone = self.store.drop_partition(table, partition);
        if gone && self.store.partitions(table).is_empty() {
            self.store.drop_table(table);
        }
        gone
    }

    /// Drops a partition of every table.
    pub(super) fn drop_partition(&mut self, partition: PartitionId) {
        for table in self.tables_of(partition) {
            self.drop(table, partition);
        }
    }

    /// Tables that have the partition.
    pub(super) fn tables_of(&self, partition: PartitionId) -> Vec<TableId> {
        let tables = self.store.tables().map(|(table, _)| table);
        tables.filter(|table| self.store.has_partition(*table, partition)).collect()
    }

    pub(super) fn schema(&self, table: TableId) -> Option<&TableSchema> {
        self.store.schema(table)
    }

    /// The order in which exports of a partition visit its keys.
    pub(super) fn scan_order(&self, table: TableId, partition: PartitionId) -> Option<ScanOrder> {
        self.store.scan_order(table, partition)
    }

    /// The keys of a kept list.
    pub(super) fn named_keys(
        &self,
        table: TableId,
        partition: PartitionId,
        session: SessionId,
        digest: Digest,
    ) -> Option<&[u64]> {
        self.store.listed_keys(table, partition, session, digest)
    }

    /// Applies what the head of the chain has applied: it decided, and nothing is refused here (C0).
    pub(super) fn follow(
        &mut self,
        table: TableId,
        partition: PartitionId,
        keys: &[u64],
        values: Values<'_>,
    ) -> Result<(), String> {
        let applied = match values {
            Values::Gradients(gradients) => self.store.push(table, partition, keys, gradients),
            Values::Assign(values) => self.store.assign(table, partition, keys, values),
            Values::Erase => self.store.erase(table, partition, keys).map(|_| ()),
            Values::Import(rows) => self.store.import(table, partition, keys, rows),
        };
        applied.map_err(|refusal| refusal.to_string())
    }

    pub(super) fn end_session(&mut self, session: SessionId) {
        self.store.end_session(session);
    }

    pub(super) fn bytes_used(&self) -> u64 {
        self.store.bytes_used()
    }

    /// Values a row of the table.
    pub(super) fn dim(&self, table: TableId) -> Option<usize> {
        self.store.schema(table).map(|schema| schema.dim as usize)
    }

    /// Values or words a key that a push of this kind carries; none when there is no such table.
    pub(super) fn width(&self, table: TableId, op: PushOp) -> Option<usize> {
        match op {
            PushOp::Update | PushOp::Assign => self.dim(table),
            PushOp::Erase => self.dim(table).map(|_| 0),
            PushOp::Import => self.row_words(table),
        }
    }

    /// 32-bit words of a stored row.
    pub(super) fn row_words(&self, table: TableId) -> Option<usize> {
        self.store.row_words(table)
    }

    /// Applies a push whole, or gives the reason why nothing has changed.
    pub(super) fn push(
        &mut self,
        table: TableId,
        partition: PartitionId,
        session: SessionId,
        naming: Naming<'_>,
        values: Values<'_>,
    ) -> Result<EntryFlags, Fault> {
        let cached = match naming {
            Naming::Inline(keys) => {
                self.check_partition(table, partition, keys)?;
                None
            }
            Naming::Remember { digest, keys } => {
                self.learn(table, partition, session, digest, keys)?;
                let kept = self.store.cached_keys(table, partition, session, Digest(digest)).is_some();
                kept.then_some(digest)
            }
            Naming::Named { digest, count } => {
                self.check_named(table, partition, session, digest, count)?;
                Some(digest)
            }
        };
        let pushed = match (values, cached, naming.keys()) {
            (Values::Gradients(gradients), Some(digest), _) => {
                self.store.push_cached(table, partition, session, Digest(digest), gradients)
            }
            // Lists are kept for gradients; for anything rarer the client sends the keys.
            (_, _, None) => return Err(Fault::KeysMissing),
            (Values::Gradients(gradients), None, Some(keys)) => {
                self.store.push(table, partition, keys, gradients)
            }
            (Values::Assign(values), _, Some(keys)) => self.store.assign(table, partition, keys, values),
            (Values::Erase, _, Some(keys)) => self.store.erase(table, partition, keys).map(|_| ()),
            (Values::Import(rows), _, Some(keys)) => self.store.import(table, partition, keys, rows),
        };
        pushed.map(|()| EntryFlags::CREATES).map_err(|refusal| fault_of(&refusal))
    }

    /// Checks the keys of a pull before anything is read, and keeps a list that is to be kept.
    pub(super) fn check_list(
        &mut self,
        table: TableId,
        partition: PartitionId,
        session: SessionId,
        naming: Naming<'_>,
    ) -> Result<(), PullStatus> {
        match naming {
            Naming::Inline(keys) => {
                let checked = self.check_partition(table, partition, keys);
                let unsorted = kernels::first_unsorted(kernels::Isa::active(), keys).is_some();
                if unsorted || keys.last() == Some(&u64::MAX) {
                    Err(PullStatus::Keys)
                } else {
                    checked.map_err(status_of)
                }
            }
            Naming::Remember { digest, keys } => {
                self.learn(table, partition, session, digest, keys).map_err(status_of)
            }
            Naming::Named { digest, count } => {
                self.check_named(table, partition, session, digest, count).map_err(status_of)
            }
        }
    }

    /// Whether the list of a checked request is kept here: its rows are then read all at once. Reading finds out whether one
    /// that comes by name alone still is.
    pub(super) fn keeps(&self, request: &Header, naming: Naming<'_>) -> bool {
        if matches!(naming, Naming::Named { .. }) {
            return true;
        }
        naming.digest().is_some_and(|digest| {
            let (table, partition, session) = (request.table, request.partition, request.session);
            self.store.cached_keys(table, partition, session, Digest(digest)).is_some()
        })
    }

    /// Reads all rows of a kept list.
    pub(super) fn read_kept(
        &mut self,
        request: &Header,
        naming: Naming<'_>,
        out: &mut [f32],
        found: &mut [u64],
    ) -> Result<(), PullStatus> {
        let digest = Digest(naming.digest().ok_or(PullStatus::KeysMissing)?);
        let (table, partition, session) = (request.table, request.partition, request.session);
        let read = self.store.pull_cached(table, partition, session, digest, out, found);
        read.map_err(|refusal| status_of(fault_of(&refusal)))
    }

    /// Reads the rows of `count` keys of a checked list, from its key `first` on.
    pub(super) fn read(
        &mut self,
        request: &Header,
        naming: Naming<'_>,
        first: usize,
        count: usize,
        out: &mut [f32],
        found: &mut [u64],
    ) -> Result<(), PullStatus> {
        let keys = naming.keys().ok_or(PullStatus::KeysMissing)?;
        let read = self.store.pull(request.table, request.partition, &keys[first..first + count], out, found);
        read.map_err(|refusal| status_of(fault_of(&refusal)))
    }

    /// Rows of a table in a partition.
    pub(super) fn count(&self, table: TableId, partition: PartitionId) -> Result<u64, PullStatus> {
        self.store.len(table, partition).map_err(|refusal| status_of(fault_of(&refusal)))
    }

    /// Copies out about `most` rows; [`Rows::take_exported`] has them. Gives the next cursor, none at the end.
    pub(super) fn export(
        &mut self,
        table: TableId,
        partition: PartitionId,
        cursor: u64,
        most: usize,
    ) -> Result<Option<u64>, PullStatus> {
        let Self { store, keys, words, .. } = self;
        store
            .export(table, partition, ScanCursor(cursor), most, &mut |some, rows| {
                keys.extend_from_slice(some);
                words.extend_from_slice(rows);
            })
            .map(|next| next.map(|cursor| cursor.0))
            .map_err(|refusal| status_of(fault_of(&refusal)))
    }

    /// The keys and words of the last export step, to be given back.
    pub(super) fn take_exported(&mut self) -> (Vec<u64>, Vec<u32>) {
        (std::mem::take(&mut self.keys), std::mem::take(&mut self.words))
    }

    /// Gives the buffers of [`Rows::take_exported`] back.
    pub(super) fn give_back(&mut self, mut keys: Vec<u64>, mut words: Vec<u32>) {
        keys.clear();
        words.clear();
        (self.keys, self.words) = (keys, words);
    }

    /// Rows of all tables in a partition.
    pub(super) fn rows_of_partition(&self, partition: PartitionId) -> u64 {
        self.store.tables().filter_map(|(table, _)| self.store.len(table, partition).ok()).sum()
    }

    /// Rows of each table in all partitions here.
    pub(super) fn rows_of_tables(&self) -> Vec<(TableId, u64)> {
        let rows = |table| {
            let partitions = self.store.partitions(table).into_iter();
            partitions.filter_map(|at| self.store.len(table, at).ok()).sum()
        };
        self.store.tables().map(|(table, _)| (table, rows(table))).collect()
    }

    /// Keys that belong elsewhere would make rows that no client ever sees.
    fn check_partition(&mut self, table: TableId, partition: PartitionId, keys: &[u64]) -> Result<(), Fault> {
        let schema = self.store.schema(table).ok_or(Fault::Refused(RefusalCode::NoTable))?;
        if schema.partitions <= 1 {
            return Ok(());
        }
        self.places.resize(keys.len(), PartitionId(0));
        schema.partition_of_keys(keys, &mut self.places);
        let strays = self.places.iter().filter(|&&place| place != partition).count();
        if strays == 0 { Ok(()) } else { Err(Fault::Refused(RefusalCode::WrongPartition)) }
    }

    /// Checks a list and keeps it under its digest, unless it is so large that its reads must go in pieces.
    fn learn(
        &mut self,
        table: TableId,
        partition: PartitionId,
        session: SessionId,
        digest: u128,
        keys: &[u64],
    ) -> Result<(), Fault> {
        self.check_partition(table, partition, keys)?;
        if Digest::of(keys).0 != digest {
            return Err(Fault::Refused(RefusalCode::Malformed));
        }
        let dim = self.dim(table).ok_or(Fault::Refused(RefusalCode::NoTable))?;
        if keys.len().saturating_mul(dim) > NAMED_VALUES {
            return match kernels::first_unsorted(kernels::Isa::active(), keys) {
                Some(_) => Err(Fault::Refused(RefusalCode::Unsorted)),
                None if keys.last() == Some(&u64::MAX) => Err(Fault::Refused(RefusalCode::ReservedKey)),
                None => Ok(()),
            };
        }
        let learned = self.store.learn_keys(session, table, partition, keys);
        learned.map(|_| ()).map_err(|refusal| fault_of(&refusal))
    }

    /// A named list must be here, and have the number of keys that the request says.
    fn check_named(
        &self,
        table: TableId,
        partition: PartitionId,
        session: SessionId,
        digest: u128,
        count: usize,
    ) -> Result<(), Fault> {
        match self.store.cached_keys(table, partition, session, Digest(digest)) {
            None => Err(Fault::KeysMissing),
            Some(keys) if keys != count => Err(Fault::Refused(RefusalCode::Malformed)),
            Some(_) => Ok(()),
        }
    }
}

fn fault_of(refusal: &Refusal) -> Fault {
    Fault::Refused(match refusal {
        Refusal::UnknownKeyList => return Fault::KeysMissing,
        Refusal::UnknownTable { .. } => RefusalCode::NoTable,
        Refusal::UnknownPartition { .. } => RefusalCode::WrongPartition,
        Refusal::Unsorted { .. } => RefusalCode::Unsorted,
        Refusal::ReservedKey => RefusalCode::ReservedKey,
        Refusal::Shape { .. } => RefusalCode::Shape,
        Refusal::RowOutOfRange { .. } => RefusalCode::RowOutOfRange,
        Refusal::Memory { .. } => RefusalCode::Memory,
        Refusal::HashFlood { .. } => RefusalCode::HashFlood,
        Refusal::Dense { .. } => RefusalCode::Unsupported,
    })
}

fn status_of(fault: Fault) -> PullStatus {
    match fault {
        Fault::KeysMissing => PullStatus::KeysMissing,
        Fault::Refused(RefusalCode::NoTable) => PullStatus::NoTable,
        Fault::Refused(RefusalCode::Shape) => PullStatus::Shape,
        Fault::Refused(
            RefusalCode::Unsorted
            | RefusalCode::ReservedKey
            | RefusalCode::RowOutOfRange
            | RefusalCode::WrongPartition,
        ) => PullStatus::Keys,
        // A pull makes no rows, so the rest can't come of one.
        Fault::Refused(
            RefusalCode::Memory | RefusalCode::HashFlood | RefusalCode::Unsupported | RefusalCode::Malformed,
        ) => PullStatus::Malformed,
    }
}
