//! Push: gradients into rows, by keys or by the name of a cached list.

use gradwire_kernels as kernels;

use super::key_lists::{KeyList, ListId};
use super::sparse::Scratch;
use super::table::{Means, Table};
use super::{Digest, Refusal, Store, check_count, check_keys};
use crate::wire::ids::{PartitionId, SessionId, TableId};

impl Store {
    /// Applies the table's rule to the rows of `keys`, making those that are not there.
    ///
    /// Shapes: `gradients` is `[keys.len(), dim]`; keys rise strictly.
    /// Errors: the push is refused whole and no row has changed; see [`Refusal`] for what the sender can do.
    pub fn push(
        &mut self,
        table: TableId,
        partition: PartitionId,
        keys: &[u64],
        gradients: &[f32],
    ) -> Result<(), Refusal> {
        let isa = self.isa;
        let (table, mut means, slots) = self.parts(table)?;
        check_count("gradients", keys.len() * table.maker.dim(), gradients.len())?;
        check_keys(isa, keys)?;
        slots.resize(keys.len(), 0);
        if table.resolve(partition, keys, slots, means.scratch)? > 0 {
            table.create_missing(partition, keys, slots, &mut means)?;
        }
        apply(table, partition, slots, gradients)
    }

    /// `push` to the keys of a list that this session taught with `learn_keys`.
    ///
    /// Errors: [`Refusal::UnknownKeyList`] when the list was never sent or has been dropped; the sender sends the keys.
    pub fn push_cached(
        &mut self,
        table: TableId,
        partition: PartitionId,
        session: SessionId,
        digest: Digest,
        gradients: &[f32],
    ) -> Result<(), Refusal> {
        let id = ListId { session, table, partition, digest };
        let (table, mut means, _) = self.parts(table)?;
        let (number, mut list) = means.lists.take(&id).ok_or(Refusal::UnknownKeyList)?;
        let outcome = push_list(table, partition, &mut list, gradients, &mut means);
        means.lists.put_back(number, list);
        outcome
    }

    /// Keeps a list of keys under its digest, for this session and partition, until its room is needed.
    ///
    /// Errors: as for the keys of a push. Creates no rows.
    pub fn learn_keys(
        &mut self,
        session: SessionId,
        table: TableId,
        partition: PartitionId,
        keys: &[u64],
    ) -> Result<Digest, Refusal> {
        let isa = self.isa;
        let (found, means, _) = self.parts(table)?;
        found.counters(partition)?;
        check_keys(isa, keys)?;
        let digest = Digest::of(keys);
        means.lists.learn(ListId { session, table, partition, digest }, keys, means.budget);
        Ok(digest)
    }
}

fn push_list(
    table: &mut Table,
    partition: PartitionId,
    list: &mut KeyList,
    gradients: &[f32],
    means: &mut Means<'_>,
) -> Result<(), Refusal> {
    check_count("gradients", list.keys.len() * table.maker.dim(), gradients.len())?;
    let resolved = refresh(table, partition, list, means.scratch)?;
    if list.missing > 0 {
        // Until the slots are whole again they stand for nothing.
        list.resolved_at = None;
        if !resolved {
            table.resolve(partition, &list.keys, &mut list.slots, means.scratch)?;
        }
        table.create_missing(partition, &list.keys, &mut list.slots, means)?;
        list.missing = 0;
        list.resolved_at = Some(table.counters(partition)?);
    }
    apply(table, partition, &list.slots, gradients)
}

/// Finds the slots of a list again if rows may have moved or, where some were missing, may have been made. S4. Says
/// whether it did.
pub(super) fn refresh(
    table: &mut Table,
    partition: PartitionId,
    list: &mut KeyList,
    scratch: &mut Scratch,
) -> Result<bool, Refusal> {
    let now = table.counters(partition)?;
    let current = list
        .resolved_at
        .is_some_and(|(generation, created)| generation == now.0 && (list.missing == 0 || created == now.1));
    if !current {
        list.resolved_at = None;
        list.missing = table.resolve(partition, &list.keys, &mut list.slots, scratch)?;
        list.resolved_at = Some(now);
    }
    Ok(!current)
}

fn apply(table: &mut Table, partition: PartitionId, slots: &[u32], gradients: &[f32]) -> Result<(), Refusal> {
    let (memory, unit, maker) = table.memory(partition)?;
    kernels::update_rows(maker.isa, &maker.rule, &maker.layout, memory, unit, slots, gradients);
    Ok(())
}
