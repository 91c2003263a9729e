//! How tables grow: bytes a key, hostile keys, exports meanwhile.

use std::collections::BTreeSet;

use super::*;
use crate::store::blocks::Blocks;
use crate::store::budget::Short;
use crate::store::row_maker::RowMaker;
use crate::store::shape::Shape;
use crate::store::sparse::SparsePartition;

/// ftrl of dim 1: 16 bytes of key and row.
#[test]
fn a_key_of_sixteen_bytes_costs_26_on_average_and_never_32_through_growth() {
    let partitions: Vec<PartitionId> = (0..4).map(PartitionId).collect();
    let schema = TableSchema { partitions: 4, ..sparse(1, FTRL) };
    let mut store = Store::new(StoreConfig::new(1 << 30, 7));
    store.create_table(TABLE, schema.clone(), &partitions).expect("a table");
    let (mut keys_in, mut shares, mut sum, mut worst, mut most_rebuilt) = (0_u64, 0_u64, 0.0, 0.0_f64, 0);
    let mut random = Random(1);
    let mut parts = vec![Vec::new(); 4];
    while keys_in < 1_000_000 {
        parts.iter_mut().for_each(Vec::clear);
        for key in random.keys(10_000, u64::MAX) {
            parts[schema.partition_of(key).0 as usize].push(key);
        }
        for (partition, keys) in partitions.iter().zip(&parts) {
            let before = store.generation(TABLE, *partition).expect("the partition");
            store.push(TABLE, *partition, keys, &vec![0.5; keys.len()]).expect("a push");
            let rebuilt = store.generation(TABLE, *partition).expect("the partition") - before;
            keys_in += keys.len() as u64;
            if keys_in < 200_000 {
                continue;
            }
            most_rebuilt = most_rebuilt.max(rebuilt);
            let bytes = store.bytes_used() as f64 / keys_in as f64;
            sum += bytes;
            worst = worst.max(bytes);
            shares += 1;
            assert!(store.bytes_peak() as f64 <= 1.25 * store.bytes_used() as f64, "at {keys_in} keys");
            // Whole huge pages: the rows' and at most a few that are partly free.
            assert!(store.bytes_resident() <= store.bytes_used() * 11 / 10 + (6 << 20), "at {keys_in} keys");
        }
    }
    let mean = sum / shares as f64;
    // A partition has some 30 segments in the end; one push must not rebuild them all.
    assert!(most_rebuilt <= 6, "{most_rebuilt} segments in one push");
    assert!(mean <= 26.0 && worst <= 32.0, "mean {mean:.2}, worst {worst:.2} bytes a key");
}

#[test]
fn a_push_of_old_and_new_keys_finds_the_old_ones_where_growth_has_put_them() {
    for dim in [1, 2, 3, 4, 9] {
        let mut store = store_with(sparse(dim, Rule::Add), 256 << 20);
        let width = dim as usize;
        let mut random = Random(8);
        let mut counts = BTreeMap::new();
        let mut moves = 0;
        for round in 0..60_u64 {
            // Nine in ten are there already; each push is as long as many pushes of a tenth are apart.
            let mut keys = random.keys(900, 1 + 130 * round);
            keys.extend(130 * round..130 * (round + 1));
            let keys: Vec<u64> = keys.into_iter().collect::<BTreeSet<u64>>().into_iter().collect();
            store.push(TABLE, PARTITION, &keys, &vec![1.0; keys.len() * width]).expect("a push");
            keys.iter().for_each(|key| *counts.entry(*key).or_insert(0_u32) += 1);
            moves = store.generation(TABLE, PARTITION).expect("the partition");
        }
        // Rows of two to four words live in the index and move with it.
        let inline = (2..=4).contains(&dim);
        assert!(if inline { moves > 5 } else { moves == 0 }, "rows of {dim} moved {moves} times");
        let keys: Vec<u64> = counts.keys().copied().collect();
        let (values, found) = pull(&mut store, &keys, width);
        assert!(found.iter().all(|found| *found));
        for (row, count) in values.chunks_exact(width).zip(counts.values()) {
            assert!(row.iter().all(|value| *value == *count as f32), "{row:?} after {count} pushes");
        }
    }
}

#[test]
fn a_small_table_stays_small_and_an_emptied_one_shrinks() {
    let mut store = store_with(sparse(1, FTRL), 64 << 20);
    assert!(store.bytes_used() < 512, "{} bytes for nothing", store.bytes_used());
    let keys: Vec<u64> = (0..100_000).collect();
    store.push(TABLE, PARTITION, &keys, &vec![1.0; keys.len()]).expect("a push");
    let full = store.bytes_used();
    assert_eq!(store.erase(TABLE, PARTITION, &keys), Ok(100_000));
    assert!(store.bytes_used() < full / 20, "{} of {full} bytes stay", store.bytes_used());
}

#[test]
fn longer_rows_stay_where_they_are_when_the_index_grows() {
    let mut store = store_with(sparse(16, Rule::Add), 256 << 20);
    let mut random = Random(3);
    for _ in 0..40 {
        let keys = random.keys(1_000, u64::MAX);
        store.push(TABLE, PARTITION, &keys, &vec![1.0; keys.len() * 16]).expect("a push");
    }
    assert_eq!(store.generation(TABLE, PARTITION), Ok(0));
    let keys = random.keys(1, u64::MAX);
    store.push(TABLE, PARTITION, &keys, &[1.0; 16]).expect("a push");
    store.erase(TABLE, PARTITION, &keys).expect("an erase");
    assert_eq!(store.generation(TABLE, PARTITION), Ok(1));
}

#[test]
fn an_export_sees_every_old_row_once_while_the_table_grows_and_shrinks() {
    for dim in [1, 9] {
        let mut store = store_with(sparse(dim, Rule::Add), 256 << 20);
        let width = dim as usize;
        let old: Vec<u64> = (0..5_000).map(|key| key * 2).collect();
        store.push(TABLE, PARTITION, &old, &vec![1.0; old.len() * width]).expect("a push");
        let mut seen = BTreeMap::new();
        let mut cursor = Some(ScanCursor::default());
        let mut random = Random(4);
        while let Some(from) = cursor {
            cursor = store
                .export(TABLE, PARTITION, from, 64, &mut |keys, _| {
                    for key in keys {
                        *seen.entry(*key).or_insert(0) += 1;
                    }
                })
                .expect("an export");
            let new: Vec<u64> = random.keys(400, 1 << 40).into_iter().map(|key| key * 2 + 1).collect();
            store.push(TABLE, PARTITION, &new, &vec![1.0; new.len() * width]).expect("a push");
            store.erase(TABLE, PARTITION, &new[..300]).expect("an erase");
        }
        assert!(seen.values().all(|count| *count == 1));
        assert!(old.iter().all(|key| seen.contains_key(key)));
    }
}

/// A partition whose index may not be split.
struct Flat {
    partition: SparsePartition,
    blocks: Blocks,
    budget: Budget,
    maker: RowMaker,
    scratch: Scratch,
}

impl Flat {
    fn new(max_depth: u32) -> Flat {
        let maker = RowMaker::new(Isa::active(), &sparse(1, FTRL));
        let shape = Shape::of(maker.row_words());
        let mut budget = Budget::new(64 << 20);
        let mut blocks = Blocks::reserve(64 << 20, shape.addressable_words()).expect("address space");
        let partition =
            SparsePartition::new(shape, SEED, max_depth, &mut blocks, &mut budget).expect("a partition");
        Flat { partition, blocks, budget, maker, scratch: Scratch::default() }
    }

    fn make(&mut self, keys: &[u64]) -> Result<(), Short> {
        let mut slots = vec![0; keys.len()];
        self.partition.resolve(&self.maker, &self.blocks, keys, &mut slots, &mut self.scratch);
        let (blocks, budget) = (&mut self.blocks, &mut self.budget);
        self.partition.create_missing(&mut self.maker, keys, &mut slots, &mut self.scratch, blocks, budget)
    }

    fn missing(&self, keys: &[u64]) -> usize {
        let (mut slots, mut scratch) = (vec![0; keys.len()], Scratch::default());
        self.partition.resolve(&self.maker, &self.blocks, keys, &mut slots, &mut scratch)
    }
}

const SEED: (u64, u64) = (1, 2);

#[test]
fn keys_that_no_split_can_part_are_refused_and_the_others_stay() {
    for max_depth in [0, 3] {
        let mut flat = Flat::new(max_depth);
        let mut kept = Vec::new();
        let mut random = Random(5);
        let short = loop {
            let keys = random.keys(700, u64::MAX);
            match flat.make(&keys) {
                Ok(()) => kept.extend(keys),
                Err(short) => {
                    assert_eq!(flat.missing(&keys), keys.len(), "none of a refused list is made");
                    break short;
                }
            }
        };
        assert_eq!(short, Short::Depth);
        assert!(kept.len() >= 10_000 << max_depth, "{} keys", kept.len());
        assert_eq!(flat.missing(&kept), 0);
    }
}

#[test]
fn keys_that_share_a_home_bucket_overflow_and_can_be_erased_in_any_order() {
    let mut flat = Flat::new(20);
    let share = |key: &u64| gradwire_kernels::hash_key(SEED, *key) >> 54 == 3;
    let hostile: Vec<u64> = (0..400_000_u64).filter(share).collect();
    assert!(hostile.len() > 200);
    let others: Vec<u64> = (1_000_000..1_000_500).collect();
    flat.make(&hostile).expect("room");
    flat.make(&others).expect("room");
    let mut left = hostile.clone();
    let mut random = Random(6);
    while !left.is_empty() {
        let key = left.swap_remove((random.next() % left.len() as u64) as usize);
        let erased = flat.partition.erase(&flat.maker, &[key], &mut flat.blocks, &mut flat.budget);
        assert_eq!((erased, flat.missing(&[key])), (1, 1));
        assert_eq!((flat.missing(&left), flat.missing(&others)), (0, 0));
    }
}
