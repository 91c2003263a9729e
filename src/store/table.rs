//! A table on this shard: its schema, its rows, and the steps that all requests share.

use std::collections::BTreeMap;

use gradwire_kernels::{Isa, hash_key};

use super::blocks::Blocks;
use super::budget::{Budget, Short};
use super::dense::DensePartition;
use super::index;
use super::key_lists::KeyLists;
use super::refusal::{Refusal, TableError};
use super::row_maker::RowMaker;
use super::rows::ScanOrder;
use super::schema::{TableKind, TableSchema};
use super::shape::Shape;
use super::sparse::{Scratch, SparsePartition};
use crate::wire::ids::{PartitionId, TableId};

#[derive(Debug)]
enum Rows {
    Sparse { blocks: Box<Blocks>, partitions: BTreeMap<PartitionId, SparsePartition> },
    Dense { partitions: BTreeMap<PartitionId, DensePartition> },
}

/// A table and the partitions of it that this shard holds.
#[derive(Debug)]
pub(super) struct Table {
    id: TableId,
    pub(super) schema: TableSchema,
    pub(super) maker: RowMaker,
    shape: Shape,
    rows: Rows,
}

/// What a creation of rows may use up.
pub(super) struct Means<'a> {
    pub(super) budget: &'a mut Budget,
    pub(super) lists: &'a mut KeyLists,
    pub(super) scratch: &'a mut Scratch,
}

impl Table {
    pub(super) fn new(
        id: TableId,
        schema: TableSchema,
        isa: Isa,
        budget: &Budget,
    ) -> Result<Table, TableError> {
        schema.validate()?;
        let maker = RowMaker::new(isa, &schema);
        let shape = Shape::of(maker.row_words());
        let rows = match schema.kind {
            TableKind::Sparse => Rows::Sparse {
                blocks: Box::new(Blocks::reserve(budget.limit(), shape.addressable_words())?),
                partitions: BTreeMap::new(),
            },
            TableKind::Dense { .. } => Rows::Dense { partitions: BTreeMap::new() },
        };
        Ok(Table { id, schema, maker, shape, rows })
    }

    pub(super) fn add_partition(
        &mut self,
        partition: PartitionId,
        index_seed: u64,
        budget: &mut Budget,
    ) -> Result<(), TableError> {
        let (table, limit) = (self.id, budget.limit());
        if partition.0 >= self.schema.partitions {
            return Err(TableError::NoSuchPartition { table, partition, partitions: self.schema.partitions });
        }
        let exists = match &self.rows {
            Rows::Sparse { partitions, .. } => partitions.contains_key(&partition),
            Rows::Dense { partitions } => partitions.contains_key(&partition),
        };
        if exists {
            return Err(TableError::PartitionExists { table, partition });
        }
        match &mut self.rows {
            Rows::Sparse { blocks, partitions } => {
                // Apart for every partition: a flood found for one is none for the next. Mixed, so that no choice of
                // table seeds brings it near the hash that made the partition.
                let place = (u64::from(table.0) << 32) | u64::from(partition.0);
                let first = hash_key((index_seed, 0), place);
                let seed = (first, hash_key((first, index_seed), place));
                let made = SparsePartition::new(self.shape, seed, index::MAX_DEPTH, blocks, budget);
                let made = made.map_err(|short| match short {
                    Short::Budget(needed) | Short::Arena(needed) => {
                        TableError::Memory { table, needed, budget: limit }
                    }
                    Short::Depth => TableError::Memory { table, needed: 0, budget: limit },
                })?;
                partitions.insert(partition, made);
            }
            Rows::Dense { partitions } => {
                let rows = self.schema.dense_rows_of(partition);
                let needed = DensePartition::bytes(&self.shape, &rows);
                budget.charge(needed).map_err(|_| TableError::Memory { table, needed, budget: limit })?;
                match DensePartition::new(&self.shape, rows, &self.maker) {
                    Ok(made) => partitions.insert(partition, made),
                    Err(error) => {
                        budget.release(needed);
                        return Err(error.into());
                    }
                };
            }
        }
        Ok(())
    }

    /// Drops a partition and its rows; false when it was not here.
    pub(super) fn drop_partition(&mut self, partition: PartitionId, budget: &mut Budget) -> bool {
        match &mut self.rows {
            Rows::Sparse { blocks, partitions } => match partitions.remove(&partition) {
                Some(mut gone) => {
                    gone.release(blocks, budget);
                    true
                }
                None => false,
            },
            Rows::Dense { partitions } => match partitions.remove(&partition) {
                Some(gone) => {
                    budget.release(DensePartition::bytes(&self.shape, &gone.rows));
                    true
                }
                None => false,
            },
        }
    }

    pub(super) fn partitions(&self) -> Vec<PartitionId> {
        match &self.rows {
            Rows::Sparse { partitions, .. } => partitions.keys().copied().collect(),
            Rows::Dense { partitions } => partitions.keys().copied().collect(),
        }
    }

    /// Bytes that stay resident for the rows of this table.
    pub(super) fn resident_bytes(&self) -> u64 {
        match &self.rows {
            Rows::Sparse { blocks, .. } => blocks.resident_bytes(),
            Rows::Dense { partitions } => {
                partitions.values().map(|dense| DensePartition::bytes(&self.shape, &dense.rows)).sum()
            }
        }
    }

    fn unknown(&self, partition: PartitionId) -> Refusal {
        Refusal::UnknownPartition { table: self.id, partition }
    }

    /// Rows of a partition.
    pub(super) fn len(&self, partition: PartitionId) -> Result<u64, Refusal> {
        let len = match &self.rows {
            Rows::Sparse { partitions, .. } => partitions.get(&partition).map(SparsePartition::len),
            Rows::Dense { partitions } => {
                partitions.get(&partition).map(|dense| dense.rows.end - dense.rows.start)
            }
        };
        len.ok_or(self.unknown(partition))
    }

    /// The order in which exports visit its keys.
    pub(super) fn scan_order(&self, partition: PartitionId) -> Option<ScanOrder> {
        match &self.rows {
            Rows::Sparse { partitions, .. } => {
                let (first, second) = partitions.get(&partition)?.seed();
                Some(ScanOrder::Hashed(first, second))
            }
            Rows::Dense { partitions } => {
                partitions.get(&partition).map(|dense| ScanOrder::Rising(dense.rows.start))
            }
        }
    }

    /// Generation of a partition's slots, and its count of created rows. A dense partition has neither.
    pub(super) fn counters(&self, partition: PartitionId) -> Result<(u64, u64), Refusal> {
        match &self.rows {
            Rows::Sparse { partitions, .. } => {
                partitions.get(&partition).map(|sparse| (sparse.generation(), sparse.created()))
            }
            Rows::Dense { partitions } => partitions.get(&partition).map(|_| (0, 0)),
        }
        .ok_or(self.unknown(partition))
    }

    /// Writes the slots of checked keys and gives how many have no row.
    pub(super) fn resolve(
        &mut self,
        partition: PartitionId,
        keys: &[u64],
        slots: &mut [u32],
        scratch: &mut Scratch,
    ) -> Result<usize, Refusal> {
        let unknown = self.unknown(partition);
        match &mut self.rows {
            Rows::Sparse { blocks, partitions } => {
                let sparse = partitions.get(&partition).ok_or(unknown)?;
                Ok(sparse.resolve(&self.maker, blocks, keys, slots, scratch))
            }
            Rows::Dense { partitions } => {
                let dense = partitions.get_mut(&partition).ok_or(unknown)?;
                let (first, end) = (dense.rows.start, dense.rows.end);
                dense.resolve(&mut self.maker, keys, slots).map_err(|row| Refusal::RowOutOfRange {
                    row,
                    first,
                    end,
                })?;
                Ok(0)
            }
        }
    }

    /// Makes the rows of all keys that the lookup just before missed. Where the budget is short, cached key lists go first.
    pub(super) fn create_missing(
        &mut self,
        partition: PartitionId,
        keys: &[u64],
        slots: &mut [u32],
        means: &mut Means<'_>,
    ) -> Result<(), Refusal> {
        let (table, unknown) = (self.id, self.unknown(partition));
        // Dense rows are always there.
        let Rows::Sparse { blocks, partitions } = &mut self.rows else { return Ok(()) };
        let sparse = partitions.get_mut(&partition).ok_or(unknown)?;
        loop {
            let created =
                sparse.create_missing(&mut self.maker, keys, slots, means.scratch, blocks, means.budget);
            let budget = means.budget.limit();
            return match created {
                Ok(()) => Ok(()),
                Err(Short::Budget(_)) if means.lists.evict_oldest(means.budget) => continue,
                Err(Short::Budget(needed) | Short::Arena(needed)) => {
                    Err(Refusal::Memory { table, needed, budget })
                }
                Err(Short::Depth) => Err(Refusal::HashFlood { table, partition }),
            };
        }
    }

    /// Removes the rows of checked keys.
    pub(super) fn erase(
        &mut self,
        partition: PartitionId,
        keys: &[u64],
        budget: &mut Budget,
    ) -> Result<u64, Refusal> {
        let (table, unknown) = (self.id, self.unknown(partition));
        let Rows::Sparse { blocks, partitions } = &mut self.rows else {
            return Err(Refusal::Dense { table });
        };
        let sparse = partitions.get_mut(&partition).ok_or(unknown)?;
        Ok(sparse.erase(&self.maker, keys, blocks, budget))
    }

    /// Copies rows out, about `max_rows`, from a cursor on; gives the next cursor.
    pub(super) fn export(
        &mut self,
        partition: PartitionId,
        from: u64,
        max_rows: usize,
        keys: &mut Vec<u64>,
        rows: &mut Vec<u32>,
    ) -> Result<Option<u64>, Refusal> {
        let unknown = self.unknown(partition);
        match &mut self.rows {
            Rows::Sparse { blocks, partitions } => {
                let sparse = partitions.get(&partition).ok_or(unknown)?;
                Ok(sparse.export(blocks, from, max_rows, keys, rows))
            }
            Rows::Dense { partitions } => {
                let dense = partitions.get_mut(&partition).ok_or(unknown)?;
                Ok(dense.export(&mut self.maker, from, max_rows, keys, rows))
            }
        }
    }

    /// All memory that slots of a partition point into, and the words a slot counts.
    pub(super) fn memory(
        &mut self,
        partition: PartitionId,
    ) -> Result<(&mut [u32], usize, &mut RowMaker), Refusal> {
        let unknown = self.unknown(partition);
        match &mut self.rows {
            Rows::Sparse { blocks, .. } => Ok((blocks.arena.words_mut(), self.shape.unit, &mut self.maker)),
            Rows::Dense { partitions } => {
                let dense = partitions.get_mut(&partition).ok_or(unknown)?;
                Ok((dense.arena.words_mut(), dense.stride, &mut self.maker))
            }
        }
    }
}

impl Table {
    /// Gives every charged byte back before the table is dropped.
    pub(super) fn release(mut self, budget: &mut Budget) {
        for partition in self.partitions() {
            self.drop_partition(partition, budget);
        }
    }
}
