//! Rows as they are: assigned, erased, copied out and in.

use super::{Refusal, Store, check_count, check_keys};
use crate::wire::ids::{PartitionId, TableId};

/// How far an export has come. The default is the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScanCursor(pub u64);

/// The order in which an export visits the keys of a partition; cursors are places in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanOrder {
    /// By their hashes under this seed.
    Hashed(u64, u64),
    /// By their distance from this one.
    Rising(u64),
}

impl ScanOrder {
    /// Whether an export that stands at `cursor` has passed the key.
    #[must_use]
    pub fn has_passed(self, cursor: ScanCursor, key: u64) -> bool {
        let place = match self {
            Self::Hashed(first, second) => gradwire_kernels::hash_key((first, second), key),
            Self::Rising(start) => key.saturating_sub(start),
        };
        place < cursor.0
    }
}

impl Store {
    /// The order of [`Store::export`]; none when the partition is not here.
    #[must_use]
    pub fn scan_order(&self, table: TableId, partition: PartitionId) -> Option<ScanOrder> {
        self.tables.get(&table)?.scan_order(partition)
    }

    /// Sets the values of rows and clears their optimizer state, making those that are not there.
    ///
    /// Shapes: `values` is `[keys.len(), dim]`; keys rise strictly. Errors: as a push.
    pub fn assign(
        &mut self,
        table: TableId,
        partition: PartitionId,
        keys: &[u64],
        values: &[f32],
    ) -> Result<(), Refusal> {
        let isa = self.isa;
        let (table, mut means, slots) = self.parts(table)?;
        let dim = table.maker.dim();
        check_count("values", keys.len() * dim, values.len())?;
        check_keys(isa, keys)?;
        slots.resize(keys.len(), 0);
        if table.resolve(partition, keys, slots, means.scratch)? > 0 {
            table.create_missing(partition, keys, slots, &mut means)?;
        }
        let (memory, unit, maker) = table.memory(partition)?;
        for (slot, values) in slots.iter().zip(values.chunks_exact(dim)) {
            let first = *slot as usize * unit;
            maker.assign(&mut memory[first..first + maker.row_words()], values);
        }
        Ok(())
    }

    /// Removes rows and gives how many there were. A later push makes them anew, from their initial values.
    ///
    /// Errors: keys as a push; [`Refusal::Dense`], since dense rows live as long as their table.
    pub fn erase(&mut self, table: TableId, partition: PartitionId, keys: &[u64]) -> Result<u64, Refusal> {
        let isa = self.isa;
        let (table, means, _) = self.parts(table)?;
        check_keys(isa, keys)?;
        table.erase(partition, keys, means.budget)
    }

    /// Copies rows out in one bounded step: about `max_rows`, and at least one bucket of the index. `sink` gets keys and
    /// their rows, `[keys, row_words]`, values and state as they lie in memory. Gives the cursor of the next step, `None`
    /// after the last.
    ///
    /// Ordering: any, but fixed by the keys. A row that is there throughout is seen exactly once, whatever is pushed or
    /// erased between the steps; its words are those at its step.
    pub fn export(
        &mut self,
        table: TableId,
        partition: PartitionId,
        cursor: ScanCursor,
        max_rows: usize,
        sink: &mut dyn FnMut(&[u64], &[u32]),
    ) -> Result<Option<ScanCursor>, Refusal> {
        self.export_keys.clear();
        self.export_rows.clear();
        let found = self.tables.get_mut(&table).ok_or(Refusal::UnknownTable { table })?;
        let next =
            found.export(partition, cursor.0, max_rows, &mut self.export_keys, &mut self.export_rows)?;
        if !self.export_keys.is_empty() {
            sink(&self.export_keys, &self.export_rows);
        }
        Ok(next.map(ScanCursor))
    }

    /// Writes rows as an export gave them, values and state, making those that are not there. Of a key that comes twice
    /// the last row stays.
    ///
    /// Shapes: `rows` is `[keys.len(), row_words]`; keys in any order. Errors: as a push. Any words are accepted: what
    /// they mean is for the reader of the checkpoint to have checked.
    pub fn import(
        &mut self,
        table: TableId,
        partition: PartitionId,
        keys: &[u64],
        rows: &[u32],
    ) -> Result<(), Refusal> {
        let (table, mut means, slots) = self.parts(table)?;
        let row_words = table.maker.row_words();
        check_count("row words", keys.len() * row_words, rows.len())?;
        if keys.contains(&u64::MAX) {
            return Err(Refusal::ReservedKey);
        }
        slots.resize(keys.len(), 0);
        if table.resolve(partition, keys, slots, means.scratch)? > 0 {
            table.create_missing(partition, keys, slots, &mut means)?;
        }
        let (memory, unit, _) = table.memory(partition)?;
        for (slot, row) in slots.iter().zip(rows.chunks_exact(row_words)) {
            let first = *slot as usize * unit;
            memory[first..first + row_words].copy_from_slice(row);
        }
        Ok(())
    }
}
