//! Tests of the store as a whole; those of its parts are beside them.

mod cases;
mod growth;
mod lists;
mod model;

use gradwire_kernels::{Dtype, Isa, Rule};

use super::*;

const TABLE: TableId = TableId(3);
const PARTITION: PartitionId = PartitionId(0);

const FTRL: Rule = Rule::Ftrl { alpha: 0.1, beta: 1.0, l1: 0.01, l2: 1.0 };

fn sparse(dim: u32, rule: Rule) -> TableSchema {
    TableSchema {
        name: "w".to_owned(),
        kind: TableKind::Sparse,
        dim,
        dtype: Dtype::F32,
        rule,
        init: Init::Zero,
        seed: 11,
        partitions: 1,
    }
}

fn dense(rows: u64, dim: u32, rule: Rule, partitions: u32) -> TableSchema {
    TableSchema { kind: TableKind::Dense { rows }, partitions, ..sparse(dim, rule) }
}

fn store_with(schema: TableSchema, memory_budget: u64) -> Store {
    let mut store = Store::new(StoreConfig::new(memory_budget, 5));
    store.create_table(TABLE, schema, &[PARTITION]).expect("a valid table");
    store
}

/// A small deterministic generator (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Sorted distinct keys below `space`.
    fn keys(&mut self, count: usize, space: u64) -> Vec<u64> {
        let mut keys: Vec<u64> = (0..count).map(|_| self.next() % space).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Values in [-1, 1), a few of them special.
    fn values(&mut self, count: usize) -> Vec<f32> {
        let value = |bits: u64| match bits % 97 {
            0 => f32::NAN,
            1 => -0.0,
            2 => f32::from_bits(1),
            _ => (bits >> 40) as f32 / (1 << 23) as f32 - 1.0,
        };
        (0..count).map(|_| value(self.next())).collect()
    }
}

fn pull(store: &mut Store, keys: &[u64], dim: usize) -> (Vec<f32>, Vec<bool>) {
    let mut out = vec![f32::NAN; keys.len() * dim];
    let mut found = vec![0; keys.len().div_ceil(64)];
    store.pull(TABLE, PARTITION, keys, &mut out, &mut found).expect("a pull");
    (out, (0..keys.len()).map(|i| found[i / 64] >> (i % 64) & 1 == 1).collect())
}

fn export_all(store: &mut Store, max_rows: usize) -> BTreeMap<u64, Vec<u32>> {
    let words = store.row_words(TABLE).expect("the table");
    let mut all = BTreeMap::new();
    let mut cursor = Some(ScanCursor::default());
    while let Some(from) = cursor {
        cursor = store
            .export(TABLE, PARTITION, from, max_rows, &mut |keys, rows| {
                for (key, row) in keys.iter().zip(rows.chunks_exact(words)) {
                    assert!(all.insert(*key, row.to_vec()).is_none(), "key {key} came twice");
                }
            })
            .expect("an export");
    }
    all
}

fn isas() -> Vec<Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_supported()).collect()
}
