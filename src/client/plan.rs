//! How a key list divides over partitions, and the cache of such divisions.
//!
//! A part is one record's worth of keys of one partition. Splitting costs a hash and a move a key, so lists that
//! come again ([`super::KeyList`]) are split once per table and kept; lists that do not are split into buffers that
//! are used again.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::store::TableSchema;
use crate::wire::ids::{PartitionId, TableId};
use crate::wire::key_digest;

/// Keys that go in one record.
#[derive(Default)]
pub(super) struct Part {
    pub(super) partition: PartitionId,
    pub(super) keys: Vec<u64>,
    /// Index of each key in the whole list; empty when the part is the list from `first` on.
    pub(super) positions: Vec<u32>,
    /// Index of the first key, where `positions` is empty.
    pub(super) first: u32,
    /// Its name at servers; 0 unless the list is to be remembered.
    pub(super) digest: u128,
    /// Whether the server was sent the list. Only a guess: it may have dropped it, and then says so.
    pub(super) known: AtomicBool,
}

impl Part {
    /// Copies this part's rows of `dim` out of the whole list's, as words.
    pub(super) fn gather(&self, dim: usize, rows: &[u32], out: &mut Vec<u32>) {
        out.clear();
        if self.positions.is_empty() {
            let start = self.first as usize * dim;
            out.extend_from_slice(&rows[start..start + self.keys.len() * dim]);
            return;
        }
        out.reserve(self.keys.len() * dim);
        if dim == 1 {
            out.extend(self.positions.iter().map(|&position| rows[position as usize]));
            return;
        }
        for &position in &self.positions {
            let start = position as usize * dim;
            out.extend_from_slice(&rows[start..start + dim]);
        }
    }

    /// Index in the whole list of this part's key `index`.
    pub(super) fn position(&self, index: usize) -> usize {
        self.positions.get(index).map_or(self.first as usize + index, |&position| position as usize)
    }

    /// Copies `rows` (from the part's key `first` on) to their places in the whole list's.
    pub(super) fn scatter(&self, dim: usize, first: usize, rows: &[f32], out: &mut [f32]) {
        let positions = &self.positions[first..first + rows.len() / dim];
        if dim == 1 {
            for (&position, &row) in positions.iter().zip(rows) {
                out[position as usize] = row;
            }
            return;
        }
        for (&position, row) in positions.iter().zip(rows.chunks_exact(dim)) {
            let start = position as usize * dim;
            out[start..start + dim].copy_from_slice(row);
        }
    }
}

/// A list's division for one table.
#[derive(Default)]
pub(super) struct KeyPlan {
    pub(super) parts: Vec<Part>,
    /// Keys of the whole list.
    pub(super) keys: usize,
    /// Whether servers may remember its parts.
    pub(super) remembered: bool,
}

impl KeyPlan {
    /// What keeping it costs, in keys of 16 bytes.
    fn cost(&self) -> usize {
        self.keys + 16 + 16 * self.parts.len()
    }
}

/// Which list, for which table, in parts of at most how many keys.
type PlanKey = (u64, TableId, usize);

/// Hashes numbers that this process gave out itself, so that nobody can choose them to collide.
#[derive(Default)]
struct OwnNumbers(u64);

impl Hasher for OwnNumbers {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }
    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }
    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }
    fn write_u64(&mut self, number: u64) {
        // An odd multiplier carries low bits up, the turn brings them down to where a table looks.
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// Makes plans and keeps those of lists with an identity.
pub(super) struct PlanCache {
    kept: HashMap<PlanKey, Arc<KeyPlan>, BuildHasherDefault<OwnNumbers>>,
    order: VecDeque<PlanKey>,
    kept_keys: usize,
    spare: Vec<KeyPlan>,
    partitions: Vec<PartitionId>,
    counts: Vec<u32>,
}

/// Keys in kept plans before the oldest go: 16 bytes each, so at most 64 MiB.
const KEPT_KEYS: usize = 4 << 20;
/// Plans kept for their buffers.
const SPARE_PLANS: usize = 64;

impl PlanCache {
    pub(super) fn new() -> Self {
        Self {
            kept: HashMap::default(),
            order: VecDeque::new(),
            kept_keys: 0,
            spare: Vec::new(),
            partitions: Vec::new(),
            counts: Vec::new(),
        }
    }

    /// The division of `keys`; no part has more than `part_keys`.
    pub(super) fn plan(
        &mut self,
        table: TableId,
        schema: &TableSchema,
        keys: &[u64],
        identity: Option<u64>,
        part_keys: usize,
    ) -> Arc<KeyPlan> {
        let Some(identity) = identity.filter(|_| !keys.is_empty()) else {
            return Arc::new(self.split(schema, keys, part_keys));
        };
        if let Some(plan) = self.kept.get(&(identity, table, part_keys)) {
            return Arc::clone(plan);
        }
        let mut plan = self.split(schema, keys, part_keys);
        plan.remembered = true;
        for part in &mut plan.parts {
            part.digest = key_digest(&part.keys);
        }
        let plan = Arc::new(plan);
        self.kept_keys += plan.cost();
        self.order.push_back((identity, table, part_keys));
        self.kept.insert((identity, table, part_keys), Arc::clone(&plan));
        while self.kept_keys > KEPT_KEYS && self.order.len() > 1 {
            let oldest = self.order.pop_front().and_then(|oldest| self.kept.remove(&oldest));
            if let Some(oldest) = oldest {
                self.kept_keys -= oldest.cost();
                self.recycle(oldest);
            }
        }
        plan
    }

    /// Takes back a plan nobody uses any more, for its buffers.
    pub(super) fn recycle(&mut self, plan: Arc<KeyPlan>) {
        // A kept plan is shared, and asking is cheaper than trying to have it alone.
        if self.spare.len() < SPARE_PLANS
            && Arc::strong_count(&plan) == 1
            && let Ok(plan) = Arc::try_unwrap(plan)
        {
            self.spare.push(plan);
        }
    }

    fn split(&mut self, schema: &TableSchema, keys: &[u64], part_keys: usize) -> KeyPlan {
        let mut plan = self.spare.pop().unwrap_or_default();
        plan.keys = keys.len();
        plan.remembered = false;
        let mut spare = std::mem::take(&mut plan.parts);
        let mut part = |partition, first: usize, room: usize| {
            let mut part = spare.pop().unwrap_or_default();
            part.keys.clear();
            part.positions.clear();
            part.keys.reserve(room);
            part.digest = 0;
            *part.known.get_mut() = false;
            part.partition = partition;
            part.first = first as u32;
            part
        };
        if schema.partitions == 1 {
            for (index, chunk) in keys.chunks(part_keys).enumerate() {
                let mut whole = part(PartitionId(0), index * part_keys, chunk.len());
                whole.keys.extend_from_slice(chunk);
                plan.parts.push(whole);
            }
            return plan;
        }
        self.partitions.clear();
        self.partitions.resize(keys.len(), PartitionId(0));
        schema.partition_of_keys(keys, &mut self.partitions);
        self.counts.clear();
        self.counts.resize(schema.partitions as usize, 0);
        for partition in &self.partitions {
            self.counts[partition.0 as usize] += 1;
        }
        // Where each partition's present part stands in `plan.parts`; parts of a partition follow its keys' order.
        let mut open: Vec<Option<usize>> = vec![None; schema.partitions as usize];
        for (position, (&key, &partition)) in keys.iter().zip(&self.partitions).enumerate() {
            let slot = &mut open[partition.0 as usize];
            let index = match *slot {
                Some(index) if plan.parts[index].keys.len() < part_keys => index,
                _ => {
                    let room = (self.counts[partition.0 as usize] as usize).min(part_keys);
                    plan.parts.push(part(partition, 0, room));
                    *slot.insert(plan.parts.len() - 1)
                }
            };
            let part = &mut plan.parts[index];
            part.keys.push(key);
            part.positions.push(position as u32);
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Init, TableKind};
    use gradwire_kernels::{Dtype, Rule};
    use proptest::prelude::*;

    fn schema(partitions: u32) -> TableSchema {
        TableSchema {
            name: "t".into(),
            kind: TableKind::Sparse,
            dim: 1,
            dtype: Dtype::F32,
            rule: Rule::Add,
            init: Init::Zero,
            seed: 3,
            partitions,
        }
    }

    proptest! {
        #[test]
        fn parts_cover_each_key_once_in_order_within_their_size(
            keys in prop::collection::btree_set(0u64..5000, 0..400), partitions in 1u32..7, part_keys in 1usize..90, dim in 1usize..4
        ) {
            let keys: Vec<u64> = keys.into_iter().collect();
            let schema = schema(partitions);
            let mut cache = PlanCache::new();
            let plan = cache.plan(TableId(1), &schema, &keys, Some(1), part_keys);
            let rows: Vec<u32> = (0..keys.len() * dim).map(|i| i as u32).collect();
            let mut back = vec![-1.0f32; rows.len()];
            for part in &plan.parts {
                prop_assert!(part.keys.len() <= part_keys && !part.keys.is_empty());
                prop_assert!(part.keys.is_sorted());
                prop_assert!(part.keys.iter().all(|&key| schema.partition_of(key) == part.partition));
                let mut gathered = Vec::new();
                part.gather(dim, &rows, &mut gathered);
                let values: Vec<f32> = gathered.iter().map(|&word| word as f32).collect();
                if part.positions.is_empty() {
                    let start = part.first as usize * dim;
                    back[start..start + values.len()].copy_from_slice(&values);
                } else {
                    part.scatter(dim, 0, &values, &mut back);
                }
            }
            let expected: Vec<f32> = rows.iter().map(|&word| word as f32).collect();
            prop_assert_eq!(back, expected);
        }
    }

    #[test]
    fn a_list_with_an_identity_is_split_once() {
        let mut cache = PlanCache::new();
        let schema = schema(3);
        let first = cache.plan(TableId(1), &schema, &[1, 2, 3], Some(9), 10);
        let again = cache.plan(TableId(1), &schema, &[1, 2, 3], Some(9), 10);
        assert!(Arc::ptr_eq(&first, &again));
        let other_table = cache.plan(TableId(2), &schema, &[1, 2, 3], Some(9), 10);
        assert!(!Arc::ptr_eq(&first, &other_table));
        assert_eq!(first.parts[0].digest, key_digest(&first.parts[0].keys));
    }
}
