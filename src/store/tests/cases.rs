//! Refusals, budgets, dense tables, initial values.

use super::*;

#[test]
fn a_bad_request_is_refused_and_changes_nothing() {
    let mut store = store_with(sparse(2, Rule::Add), 8 << 20);
    store.push(TABLE, PARTITION, &[0, 7], &[1.0; 4]).expect("a push");
    let before = export_all(&mut store, 10);
    for keys in [[1, 1, 2], [3, 2, 1], [u64::MAX, 0, 1]] {
        assert_eq!(store.push(TABLE, PARTITION, &keys, &[1.0; 6]), Err(Refusal::Unsorted { index: 1 }));
        assert_eq!(store.erase(TABLE, PARTITION, &keys), Err(Refusal::Unsorted { index: 1 }));
        assert_eq!(
            store.learn_keys(SessionId(1), TABLE, PARTITION, &keys),
            Err(Refusal::Unsorted { index: 1 })
        );
    }
    let reserved = [7, u64::MAX];
    assert_eq!(store.push(TABLE, PARTITION, &reserved, &[1.0; 4]), Err(Refusal::ReservedKey));
    assert_eq!(store.assign(TABLE, PARTITION, &reserved, &[1.0; 4]), Err(Refusal::ReservedKey));
    assert_eq!(store.import(TABLE, PARTITION, &[u64::MAX, 1], &[0; 4]), Err(Refusal::ReservedKey));
    assert_eq!(store.pull(TABLE, PARTITION, &reserved, &mut [0.0; 4], &mut [0]), Err(Refusal::ReservedKey));
    assert_eq!(store.erase(TABLE, PARTITION, &reserved), Err(Refusal::ReservedKey));
    assert_eq!(store.contains(TABLE, PARTITION, u64::MAX), Ok(false));
    assert_eq!(
        store.push(TABLE, PARTITION, &[7, 8], &[1.0; 3]),
        Err(Refusal::Shape { what: "gradients", expected: 4, actual: 3 })
    );
    assert!(matches!(
        store.pull(TABLE, PARTITION, &[7], &mut [0.0; 2], &mut []),
        Err(Refusal::Shape { expected: 1, actual: 0, .. })
    ));
    let nowhere = PartitionId(1);
    assert_eq!(
        store.push(TABLE, nowhere, &[1], &[1.0; 2]),
        Err(Refusal::UnknownPartition { table: TABLE, partition: nowhere })
    );
    assert_eq!(
        store.push(TableId(9), PARTITION, &[1], &[1.0; 2]),
        Err(Refusal::UnknownTable { table: TableId(9) })
    );
    assert_eq!(export_all(&mut store, 10), before);
    assert_eq!(store.contains(TABLE, PARTITION, 0), Ok(true));
}

#[test]
fn new_rows_past_the_budget_are_refused_whole_while_old_ones_live_on() {
    for dim in [1_usize, 24] {
        let mut store = store_with(sparse(dim as u32, Rule::Add), 300_000);
        let mut random = Random(2);
        let mut kept: Vec<u64> = Vec::new();
        let refused = loop {
            let keys = random.keys(500, u64::MAX);
            match store.push(TABLE, PARTITION, &keys, &vec![1.0; keys.len() * dim]) {
                Ok(()) => kept.extend(&keys),
                Err(refusal) => {
                    assert!(matches!(
                        refusal,
                        Refusal::Memory { table: TABLE, budget: 300_000, needed: 1.. }
                    ));
                    break keys;
                }
            }
        };
        assert!(kept.len() >= 1_000 && store.bytes_used() <= 300_000);
        assert_eq!(store.len(TABLE, PARTITION), Ok(kept.len() as u64));
        assert!(pull(&mut store, &refused, dim).1.iter().all(|found| !found), "none of them was made");
        kept.sort_unstable();
        // A push of old keys and one new that fits nowhere changes no old row either.
        let mut mixed = kept.clone();
        mixed.extend(&refused);
        mixed.sort_unstable();
        assert!(store.push(TABLE, PARTITION, &mixed, &vec![1.0; mixed.len() * dim]).is_err());
        assert!(pull(&mut store, &kept, dim).0.iter().all(|value| *value == 1.0));
        store.push(TABLE, PARTITION, &kept, &vec![1.0; kept.len() * dim]).expect("rows that are there");
        assert!(pull(&mut store, &kept, dim).0.iter().all(|value| *value == 2.0));
        store.erase(TABLE, PARTITION, &kept[..kept.len() - 10]).expect("an erase");
        store.push(TABLE, PARTITION, &refused, &vec![1.0; refused.len() * dim]).expect("room again");
    }
}

#[test]
fn a_pull_of_an_absent_key_gives_what_its_row_will_be_and_makes_nothing() {
    for (dtype, rule) in [(Dtype::F32, Rule::Add), (Dtype::Bf16, Rule::Add), (Dtype::F32, FTRL)] {
        let schema = TableSchema { dtype, init: Init::Uniform { scale: 0.25 }, ..sparse(3, rule) };
        let mut store = store_with(schema.clone(), 8 << 20);
        let keys: Vec<u64> = (0..100).map(|key| key * key * 77).collect();
        let (values, found) = pull(&mut store, &keys, 3);
        assert!(found.iter().all(|found| !found));
        assert_eq!(store.len(TABLE, PARTITION), Ok(0));
        assert!(values.iter().all(|value| value.abs() <= 0.25) && values.iter().any(|value| *value < -0.1));
        // Another shard, with another index seed, agrees.
        let mut other = Store::new(StoreConfig::new(8 << 20, 123_456));
        other.create_table(TABLE, schema, &[PARTITION]).expect("a table");
        assert_eq!(pull(&mut other, &keys, 3).0, values);
        if rule == Rule::Add {
            store.push(TABLE, PARTITION, &keys, &[0.0; 300]).expect("a push of zeros");
            assert_eq!(pull(&mut store, &keys, 3), (values, vec![true; 100]));
        }
    }
}

#[test]
fn a_dense_table_has_all_its_rows_and_no_other() {
    for dim in [1_u32, 33] {
        let width = dim as usize;
        let schema = TableSchema { init: Init::Uniform { scale: 1.0 }, ..dense(10_000, dim, Rule::Add, 3) };
        let mut store = Store::new(StoreConfig::new(64 << 20, 1));
        let last = PartitionId(2);
        store.create_table(TABLE, schema.clone(), &[PARTITION, last]).expect("a table");
        assert_eq!(store.len(TABLE, PARTITION), Ok(3_334));
        assert_eq!(store.len(TABLE, last), Ok(10_000 - 2 * 3_334));
        assert_eq!(schema.partition_of(3_333), PARTITION);
        assert_eq!(schema.partition_of(9_999), last);
        let keys = [0, 5, 3_333];
        let (before, found) = pull(&mut store, &keys, width);
        assert_eq!(found, [true; 3]);
        store.push(TABLE, PARTITION, &keys, &vec![0.0; 3 * width]).expect("a push");
        assert_eq!(pull(&mut store, &keys, width).0, before);
        let all = export_all(&mut store, 1_000);
        assert!(all.keys().copied().eq(0..3_334));
        assert_eq!(all[&5], before[width..2 * width].iter().map(|v| v.to_bits()).collect::<Vec<_>>());
        assert_eq!(
            store.push(TABLE, PARTITION, &[3, 3_334], &vec![1.0; 2 * width]),
            Err(Refusal::RowOutOfRange { row: 3_334, first: 0, end: 3_334 })
        );
        assert_eq!(
            pull(&mut store, &[3], width).0,
            all[&3].iter().map(|v| f32::from_bits(*v)).collect::<Vec<_>>()
        );
        assert_eq!(store.contains(TABLE, last, 9_999), Ok(true));
        assert_eq!(store.contains(TABLE, last, 10_000), Ok(false));
        assert_eq!(store.erase(TABLE, PARTITION, &[1]), Err(Refusal::Dense { table: TABLE }));
        store.assign(TABLE, last, &[9_999], &vec![4.0; width]).expect("an assignment");
        let digest = store.learn_keys(SessionId(1), TABLE, last, &[9_000, 9_999]).expect("good keys");
        store.push_cached(TABLE, last, SessionId(1), digest, &vec![1.0; 2 * width]).expect("a hit");
        let (mut out, mut bits) = (vec![0.0; width], [0]);
        store.pull(TABLE, last, &[9_999], &mut out, &mut bits).expect("a pull");
        assert_eq!((out, bits), (vec![5.0; width], [1]));
        assert!(store.drop_table(TABLE));
        assert_eq!(store.bytes_used(), 0);
    }
}

#[test]
fn a_dense_table_past_the_budget_is_refused_at_its_creation() {
    let mut store = Store::new(StoreConfig::new(1 << 20, 1));
    let error =
        store.create_table(TABLE, dense(1 << 30, 64, Rule::Add, 1), &[PARTITION]).expect_err("256 GiB");
    assert!(matches!(error, TableError::Memory { .. }), "{error}");
    assert_eq!((store.bytes_used(), store.tables().count()), (0, 0));
}

#[test]
fn a_wrong_schema_is_refused_by_name_and_field() {
    let good = sparse(1, Rule::Add);
    let wrong = [
        (TableSchema { name: String::new(), ..good.clone() }, "name"),
        (TableSchema { dim: 0, ..good.clone() }, "dim"),
        (TableSchema { dim: 65_537, ..good.clone() }, "dim"),
        (TableSchema { partitions: 0, ..good.clone() }, "partitions"),
        (TableSchema { init: Init::Uniform { scale: f32::NAN }, ..good.clone() }, "scale"),
        (TableSchema { init: Init::Uniform { scale: -1.0 }, ..good.clone() }, "scale"),
        (TableSchema { kind: TableKind::Dense { rows: 0 }, ..good.clone() }, "rows"),
        (TableSchema { rule: Rule::Sgd { lr: -1.0 }, ..good.clone() }, "lr"),
    ];
    for (schema, field) in wrong {
        let error = schema.validate().expect_err(field);
        assert!(error.to_string().contains(field), "{error}");
    }
    assert_eq!(good.validate(), Ok(()));
}

#[test]
fn tables_and_partitions_come_and_go() {
    let schema = TableSchema { partitions: 4, ..sparse(20, Rule::Add) };
    let mut store = Store::new(StoreConfig::new(8 << 20, 1));
    assert!(matches!(
        store.create_table(TABLE, schema.clone(), &[PARTITION, PartitionId(4)]),
        Err(TableError::NoSuchPartition { partitions: 4, .. })
    ));
    assert_eq!(store.bytes_used(), 0);
    store.create_table(TABLE, schema.clone(), &[PARTITION]).expect("a table");
    assert!(matches!(store.create_table(TABLE, schema, &[]), Err(TableError::Exists { .. })));
    store.add_partition(TABLE, PartitionId(2)).expect("a partition");
    assert!(matches!(store.add_partition(TABLE, PartitionId(2)), Err(TableError::PartitionExists { .. })));
    assert_eq!(store.partitions(TABLE), [PARTITION, PartitionId(2)]);
    let before = store.bytes_used();
    store.push(TABLE, PartitionId(2), &[1, 2, 3], &[1.0; 60]).expect("a push");
    assert!(store.bytes_used() > before);
    assert!(store.drop_partition(TABLE, PartitionId(2)) && !store.drop_partition(TABLE, PartitionId(2)));
    assert!(store.bytes_used() < before);
    assert_eq!(store.partitions(TABLE), [PARTITION]);
}

#[test]
fn keys_are_partitioned_evenly_and_alike_one_by_one_and_in_bulk() {
    let schema = TableSchema { partitions: 7, ..sparse(1, Rule::Add) };
    for step in [1, 64, 1 << 33] {
        let keys: Vec<u64> = (0..7_000).map(|key| key * step).collect();
        let mut bulk = vec![PartitionId(99); keys.len()];
        schema.partition_of_keys(&keys, &mut bulk);
        let mut counts = [0; 7];
        for (key, partition) in keys.iter().zip(&bulk) {
            assert_eq!(schema.partition_of(*key), *partition);
            counts[partition.0 as usize] += 1;
        }
        assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
    }
    let blocks = dense(10, 1, Rule::Add, 4);
    let of = |row| blocks.partition_of(row).0;
    assert_eq!([of(0), of(2), of(3), of(8), of(9), of(u64::MAX)], [0, 0, 1, 2, 3, 3]);
    let mut bulk = vec![PartitionId(0); 3];
    blocks.partition_of_keys(&[2, 3, 9], &mut bulk);
    assert_eq!(bulk, [PartitionId(0), PartitionId(1), PartitionId(3)]);
}
