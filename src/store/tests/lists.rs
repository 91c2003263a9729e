//! The key-list cache.

use super::*;

const SESSION: SessionId = SessionId(8);

#[test]
fn a_digest_that_was_never_sent_is_a_miss_and_changes_nothing() {
    let mut store = store_with(sparse(1, Rule::Add), 8 << 20);
    let digest = Digest::of(&[1, 2]);
    assert_eq!(store.push_cached(TABLE, PARTITION, SESSION, digest, &[1.0; 2]), Err(Refusal::UnknownKeyList));
    assert_eq!(store.learn_keys(SESSION, TABLE, PARTITION, &[1, 2]), Ok(digest));
    let other = SessionId(9);
    assert_eq!(store.push_cached(TABLE, PARTITION, other, digest, &[1.0; 2]), Err(Refusal::UnknownKeyList));
    assert_eq!(store.cached_keys(TABLE, PARTITION, SESSION, digest), Some(2));
    assert_eq!(store.len(TABLE, PARTITION), Ok(0), "learning makes no rows");
    store.push_cached(TABLE, PARTITION, SESSION, digest, &[1.0; 2]).expect("a hit");
    assert_eq!(pull(&mut store, &[1, 2], 1).0, [1.0, 1.0]);
}

#[test]
fn a_list_stays_a_hit_when_its_rows_move_are_erased_or_are_made() {
    // Rows beside the index, which stay where they are, and rows in it, which move when it grows.
    for dim in [1, 2] {
        let mut store = store_with(sparse(dim, Rule::Add), 64 << 20);
        let dim = dim as usize;
        let keys: Vec<u64> = (0..300).map(|key| key * 1_000_003).collect();
        let digest = store.learn_keys(SESSION, TABLE, PARTITION, &keys).expect("good keys");
        let cached = |store: &mut Store| {
            let (mut out, mut found) = (vec![9.0; 300 * dim], vec![0; 5]);
            store.pull_cached(TABLE, PARTITION, SESSION, digest, &mut out, &mut found).expect("a hit");
            let sum = out.iter().sum::<f32>() / dim as f32;
            (sum, found.iter().map(|word: &u64| word.count_ones()).sum::<u32>())
        };
        assert_eq!(cached(&mut store), (0.0, 0));
        store.push(TABLE, PARTITION, &keys[..100], &vec![1.0; 100 * dim]).expect("a push");
        assert_eq!(cached(&mut store), (100.0, 100), "rows made meanwhile are seen");
        store.push_cached(TABLE, PARTITION, SESSION, digest, &vec![1.0; 300 * dim]).expect("a hit");
        let before = store.generation(TABLE, PARTITION).expect("the partition");
        let others: Vec<u64> = (0..50_000).map(|key| key * 7 + 1_000_000_000).collect();
        store.push(TABLE, PARTITION, &others, &vec![5.0; others.len() * dim]).expect("a push");
        let moved = store.generation(TABLE, PARTITION).expect("the partition") > before;
        assert_eq!(moved, dim == 2);
        assert_eq!(cached(&mut store), (400.0, 300), "rows that moved are found");
        store.erase(TABLE, PARTITION, &keys[..50]).expect("an erase");
        assert_eq!(cached(&mut store), (300.0, 250), "rows that went are absent");
        store.push_cached(TABLE, PARTITION, SESSION, digest, &vec![1.0; 300 * dim]).expect("a hit");
        assert_eq!(cached(&mut store), (600.0, 300));
    }
}

#[test]
fn the_oldest_list_goes_when_a_session_or_the_store_has_spent_its_share() {
    let config =
        StoreConfig { key_list_bytes: 6_000, key_list_session_bytes: 3_000, ..StoreConfig::new(1 << 20, 1) };
    let mut store = Store::new(config);
    store.create_table(TABLE, sparse(1, Rule::Add), &[PARTITION]).expect("a table");
    let list = |n: u64| -> Vec<u64> { (n * 100..n * 100 + 50).collect() };
    let learn = |store: &mut Store, session: u64, n: u64| {
        store.learn_keys(SessionId(session), TABLE, PARTITION, &list(n)).expect("good keys")
    };
    let has = |store: &Store, session: u64, n: u64| {
        store.cached_keys(TABLE, PARTITION, SessionId(session), Digest::of(&list(n))).is_some()
    };
    // 792 bytes each: three fit a session, seven the store.
    for n in 0..3 {
        learn(&mut store, 1, n);
    }
    learn(&mut store, 1, 0);
    learn(&mut store, 1, 3);
    assert!(has(&store, 1, 0) && !has(&store, 1, 1) && has(&store, 1, 2) && has(&store, 1, 3));
    for n in 0..3 {
        learn(&mut store, 2, n);
        assert!(has(&store, 1, 2));
    }
    learn(&mut store, 3, 0);
    assert!(has(&store, 1, 2));
    learn(&mut store, 3, 1);
    assert!(!has(&store, 1, 2) && has(&store, 1, 0) && has(&store, 3, 1));
    let before = (store.bytes_used(), store.key_list_bytes());
    store.end_session(SessionId(2));
    assert_eq!(before.0 - store.bytes_used(), before.1 - store.key_list_bytes());
    assert!(!has(&store, 2, 0) && !has(&store, 2, 2) && has(&store, 3, 0));
    let large: Vec<u64> = (0..1_000).collect();
    let digest = store.learn_keys(SessionId(3), TABLE, PARTITION, &large).expect("good keys");
    assert_eq!(store.cached_keys(TABLE, PARTITION, SessionId(3), digest), None, "larger than a share");
    assert!(has(&store, 3, 0), "and it pushes nothing out");
}

#[test]
fn lists_give_way_to_rows() {
    let mut store = store_with(sparse(1, Rule::Add), 200_000);
    let keys: Vec<u64> = (0..300).collect();
    let mut learned = Vec::new();
    for session in 0..5 {
        learned.push(store.learn_keys(SessionId(session), TABLE, PARTITION, &keys).expect("good keys"));
    }
    assert!(store.key_list_bytes() > 15_000);
    let mut key = 0_u64;
    while store.push(TABLE, PARTITION, &[key], &[1.0]).is_ok() {
        key += 1;
    }
    assert!(store.key_list_bytes() < 5_000, "{}", store.key_list_bytes());
    assert!(store.cached_keys(TABLE, PARTITION, SessionId(4), learned[4]).is_some(), "the newest stays");
}

#[test]
fn a_dropped_table_takes_its_lists_along() {
    let mut store = store_with(sparse(1, Rule::Add), 8 << 20);
    let digest = store.learn_keys(SESSION, TABLE, PARTITION, &[4, 5]).expect("good keys");
    assert!(store.drop_table(TABLE) && !store.drop_table(TABLE));
    assert_eq!(store.bytes_used(), 0);
    store.create_table(TABLE, sparse(1, Rule::Add), &[PARTITION]).expect("a table");
    assert_eq!(store.push_cached(TABLE, PARTITION, SESSION, digest, &[1.0; 2]), Err(Refusal::UnknownKeyList));
}
