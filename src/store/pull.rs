//! Pull: values out of rows. Makes nothing: an absent key gives its initial values and is marked as not found.

use gradwire_kernels as kernels;

use super::key_lists::ListId;
use super::push::refresh;
use super::shape::MISSING;
use super::table::Table;
use super::{Digest, Refusal, Store, check_count, check_keys};
use crate::wire::ids::{PartitionId, SessionId, TableId};

impl Store {
    /// Reads the values of `keys` into `out`; bit `i` of `found` says whether key `i` has a row.
    ///
    /// Shapes: `out` is `[keys.len(), dim]`, `found` has a word for every 64 keys; keys rise strictly.
    pub fn pull(
        &mut self,
        table: TableId,
        partition: PartitionId,
        keys: &[u64],
        out: &mut [f32],
        found: &mut [u64],
    ) -> Result<(), Refusal> {
        let isa = self.isa;
        let (table, means, slots) = self.parts(table)?;
        check_output(table, keys, out, found)?;
        check_keys(isa, keys)?;
        slots.resize(keys.len(), 0);
        let missing = table.resolve(partition, keys, slots, means.scratch)?;
        read(table, partition, keys, slots, missing, out, found)
    }

    /// `pull` of a list that this session taught with `learn_keys`.
    ///
    /// Errors: [`Refusal::UnknownKeyList`] when the list was never sent or has been dropped; the sender sends the keys.
    pub fn pull_cached(
        &mut self,
        table: TableId,
        partition: PartitionId,
        session: SessionId,
        digest: Digest,
        out: &mut [f32],
        found: &mut [u64],
    ) -> Result<(), Refusal> {
        let id = ListId { session, table, partition, digest };
        let (table, means, _) = self.parts(table)?;
        let (number, mut list) = means.lists.take(&id).ok_or(Refusal::UnknownKeyList)?;
        let outcome = check_output(table, &list.keys, out, found)
            .and_then(|()| refresh(table, partition, &mut list, means.scratch))
            .and_then(|_| read(table, partition, &list.keys, &list.slots, list.missing, out, found));
        means.lists.put_back(number, list);
        outcome
    }

    /// Keys of a cached list, to size the buffers of a `pull_cached`. A session's miss is `None`.
    pub fn cached_keys(
        &self,
        table: TableId,
        partition: PartitionId,
        session: SessionId,
        digest: Digest,
    ) -> Option<usize> {
        self.lists.keys_of(&ListId { session, table, partition, digest })
    }

    /// The keys of a cached list.
    #[must_use]
    pub fn listed_keys(
        &self,
        table: TableId,
        partition: PartitionId,
        session: SessionId,
        digest: Digest,
    ) -> Option<&[u64]> {
        self.lists.list(&ListId { session, table, partition, digest })
    }

    /// Whether a key has a row.
    pub fn contains(&mut self, table: TableId, partition: PartitionId, key: u64) -> Result<bool, Refusal> {
        let (table, means, _) = self.parts(table)?;
        if key == u64::MAX {
            return Ok(false);
        }
        match table.resolve(partition, &[key], &mut [0], means.scratch) {
            Ok(missing) => Ok(missing == 0),
            Err(Refusal::RowOutOfRange { .. }) => Ok(false),
            Err(refusal) => Err(refusal),
        }
    }
}

fn check_output(table: &Table, keys: &[u64], out: &[f32], found: &[u64]) -> Result<(), Refusal> {
    check_count("output values", keys.len() * table.maker.dim(), out.len())?;
    check_count("words of found bits", keys.len().div_ceil(64), found.len())
}

fn read(
    table: &mut Table,
    partition: PartitionId,
    keys: &[u64],
    slots: &[u32],
    missing: usize,
    out: &mut [f32],
    found: &mut [u64],
) -> Result<(), Refusal> {
    let (memory, unit, maker) = table.memory(partition)?;
    kernels::read_rows(maker.isa, &maker.rule, &maker.layout, memory, unit, slots, out);
    found.fill(u64::MAX);
    if let (Some(last), 1..) = (found.last_mut(), keys.len() % 64) {
        *last = (1 << (keys.len() % 64)) - 1;
    }
    if missing > 0 {
        let dim = maker.dim();
        for (i, slot) in slots.iter().enumerate() {
            if *slot == MISSING {
                found[i / 64] &= !(1 << (i % 64));
                maker.initial_values(keys[i], &mut out[i * dim..(i + 1) * dim]);
            }
        }
    }
    Ok(())
}
