//! Pushes and clocks, record by record.

use super::harness::{EPOCH, HERE, Rig, SESSION, TABLE, config, holds, over_each_fabric, pull, push, schema};
use crate::lane::{Fabric, FabricKind};
use crate::wire::ids::{Epoch, PartitionId, RequestId, SessionId, TableId};
use crate::wire::{KeyForm, PullStatus, PushOp, RefusalCode, RetryCode};

#[test]
fn a_push_is_applied_acknowledged_and_pulled_back() {
    over_each_fabric(|fabric| {
        let mut rig = Rig::new(fabric);
        rig.push(&push(1, &[3, 5], &[1.0, 2.0, 3.0, 4.0]));
        assert_eq!(rig.outcome(), (SESSION, 1, 1, vec![]));
        rig.push(&push(2, &[5, 9], &[10.0, 20.0, 5.0, 6.0]));
        assert_eq!(rig.outcome(), (SESSION, 2, 2, vec![]));
        let rows = rig.pulled(&pull(1, &[3, 4, 5, 9]));
        assert_eq!(rows.status, PullStatus::Rows);
        assert_eq!(rows.values, [1.0, 2.0, 0.0, 0.0, 13.0, 24.0, 5.0, 6.0]);
        assert_eq!(rows.found, [true, false, true, true]);
        assert_eq!(rows.clock, 0);
        let report = rig.report();
        assert_eq!((report.shard.pushes, report.shard.pulls, report.partitions[0].rows), (2, 1, 3));
        assert_eq!(report.partitions[0].lsn, report.partitions[0].acked_lsn);
    });
}

#[test]
fn a_resent_push_is_acknowledged_again_and_applied_once() {
    let mut rig = Rig::new(FabricKind::Shm);
    for _ in 0..3 {
        rig.push(&push(1, &[3], &[1.0, 1.0]));
        assert_eq!(rig.outcome(), (SESSION, 1, 1, vec![]));
    }
    assert_eq!(rig.pulled(&pull(1, &[3])).values, [1.0, 1.0]);
}

#[test]
fn a_push_ahead_of_its_turn_is_sent_back_with_the_sequence_expected() {
    let mut rig = Rig::new(FabricKind::Shm);
    rig.push(&push(3, &[3], &[1.0, 1.0]));
    let (header, code, expected) = rig.retried();
    assert_eq!((code, expected), (RetryCode::SequenceGap, 1));
    assert_eq!((header.request, header.sequence.0, header.partition), (RequestId(1003), 3, HERE));
    assert_eq!(rig.pulled(&pull(1, &[3])).found, [false]);
}

#[test]
fn another_epoch_and_another_partition_are_sent_back_with_what_is_true_here() {
    let mut rig = Rig::new(FabricKind::Shm);
    let mut wrong = push(1, &[3], &[1.0, 1.0]);
    wrong.header.epoch = Epoch(9);
    rig.push(&wrong);
    let (header, code, _) = rig.retried();
    assert_eq!((header.epoch, code), (wrong.header.epoch, RetryCode::UnknownEpoch));
    wrong = push(1, &[3], &[1.0, 1.0]);
    wrong.header.partition = PartitionId(77);
    rig.push(&wrong);
    assert_eq!(rig.retried().1, RetryCode::WrongHead);
    rig.push(&push(1, &[3], &[1.0, 1.0]));
    assert_eq!(rig.outcome(), (SESSION, 1, 1, vec![]));
}

#[test]
fn a_refused_push_uses_up_its_sequence_and_stays_refused_when_resent() {
    over_each_fabric(|fabric| {
        let mut rig = Rig::new(fabric);
        let good = push(1, &[3], &[1.0, 1.0]);
        let cases = [
            (RefusalCode::Shape, {
                let mut p = good.clone();
                p.dim = 1;
                p.values.pop();
                p
            }),
            (RefusalCode::Unsorted, push(1, &[5, 3], &[0.0; 4])),
            (RefusalCode::Unsorted, push(1, &[3, 3], &[0.0; 4])),
            (RefusalCode::ReservedKey, push(1, &[u64::MAX], &[0.0; 2])),
            (RefusalCode::Malformed, {
                let mut p = good.clone();
                p.values.push(0);
                p
            }),
            (RefusalCode::Malformed, {
                let mut p = good.clone();
                p.values.clear();
                p
            }),
            (RefusalCode::NoTable, {
                let mut p = good.clone();
                p.header.table = TableId(99);
                p
            }),
            (RefusalCode::Shape, {
                let mut p = good.clone();
                p.op = PushOp::Erase;
                p
            }),
            (RefusalCode::Shape, {
                let mut p = good.clone();
                p.op = PushOp::Import;
                p.dim = 7;
                p.values = vec![0; 7];
                p
            }),
        ];
        let mut refused = Vec::new();
        for (at, (code, case)) in cases.iter().enumerate() {
            let sequence = at as u64 + 1;
            let mut case = case.clone();
            case.header.sequence.0 = sequence;
            refused.push((sequence, *code));
            for _ in 0..2 {
                rig.push(&case);
                assert_eq!(rig.outcome(), (SESSION, sequence, sequence, refused.clone()), "case {at}");
            }
        }
        // Resolved refusals are forgotten, and the next push in order is welcome.
        let sequence = cases.len() as u64 + 1;
        let mut good = push(sequence, &[3], &[1.0, 1.0]);
        good.resolved = sequence;
        rig.push(&good);
        assert_eq!(rig.outcome(), (SESSION, sequence, sequence, vec![]));
        assert_eq!(rig.report().shard.refused, cases.len() as u64);
        assert_eq!(rig.pulled(&pull(1, &[3])).values, [1.0, 1.0]);
    });
}

#[test]
fn a_push_past_the_memory_budget_is_refused_and_pulls_still_work() {
    let mut rig = Rig::with(FabricKind::Shm, &super::ShardConfig { memory_bytes: 6 << 20, ..config() });
    let (mut sequence, mut first) = (0, 0u64);
    let refused = loop {
        sequence += 1;
        let keys: Vec<u64> = (first..first + 2000).collect();
        let mut case = push(sequence, &keys, &vec![1.0; 4000]);
        case.resolved = sequence;
        rig.push(&case);
        let (_, applied, _, refused) = rig.outcome();
        assert_eq!(applied, sequence);
        if !refused.is_empty() {
            break refused;
        }
        first += 2000;
        assert!(first < 10_000_000, "no budget holds this");
    };
    assert_eq!(refused, [(sequence, RefusalCode::Memory)]);
    assert!(first > 0, "not one push fit");
    let rows = rig.pulled(&pull(1, &[0, first]));
    assert_eq!((rows.values, rows.found), (vec![1.0, 1.0, 0.0, 0.0], vec![true, false]));
    rig.push(&push(sequence + 1, &[0], &[1.0, 1.0]));
    assert_eq!(rig.outcome().3, refused);
    assert_eq!(rig.pulled(&pull(2, &[0])).values, [2.0, 2.0]);
}

#[test]
fn keys_of_another_partition_are_refused() {
    let parts = super::ShardConfig { holds: holds(2), ..config() };
    let mut rig = Rig::with(FabricKind::Shm, &parts);
    let (mine, other): (Vec<u64>, Vec<u64>) =
        (0..100).partition(|&key| schema(2, 2).partition_of(key) == HERE);
    assert!(!mine.is_empty() && !other.is_empty());
    rig.push(&push(1, &[other[0]], &[1.0, 1.0]));
    assert_eq!(rig.outcome().3, [(1, RefusalCode::WrongPartition)]);
    rig.push(&push(2, &mine, &vec![1.0; mine.len() * 2]));
    assert_eq!(rig.outcome().1, 2);
    assert_eq!(rig.pulled(&pull(1, &other)).status, PullStatus::Keys);
}

#[test]
fn a_named_list_is_asked_for_once_and_then_its_name_is_enough() {
    over_each_fabric(|fabric| {
        let mut rig = Rig::new(fabric);
        let keys: Vec<u64> = (0..500).map(|key| key * 3).collect();
        let mut case = push(1, &keys, &vec![1.0; 1000]);
        case.form = KeyForm::Named;
        rig.push(&case);
        assert_eq!((rig.retried().1, rig.report().shard.pushes), (RetryCode::KeysMissing, 0));
        case.form = KeyForm::Remember;
        rig.push(&case);
        assert_eq!(rig.outcome(), (SESSION, 1, 1, vec![]));
        case.form = KeyForm::Named;
        case.header.sequence.0 = 2;
        rig.push(&case);
        assert_eq!(rig.outcome(), (SESSION, 2, 2, vec![]));
        let mut named = pull(1, &keys);
        named.form = KeyForm::Named;
        let rows = rig.pulled(&named);
        assert_eq!(rows.values, vec![2.0; 1000]);
        // A name is the session's own.
        rig.begin(SessionId(8));
        named.header.session = SessionId(8);
        assert_eq!(rig.pulled(&named).status, PullStatus::KeysMissing);
    });
}

#[test]
fn a_list_under_another_lists_name_is_refused() {
    let mut rig = Rig::new(FabricKind::Shm);
    let mut case = push(1, &[1, 2], &[0.0; 4]);
    case.form = KeyForm::Remember;
    let mut payload = case.payload();
    payload[48] ^= 2;
    rig.send_on(rig.lane, case.header, &payload);
    assert_eq!(rig.outcome().3, [(1, RefusalCode::Malformed)]);
}

#[test]
fn assign_erase_and_import_do_what_they_say() {
    let mut rig = Rig::new(FabricKind::Shm);
    let mut case = push(1, &[1, 2, 3], &[1.0, 1.0, 2.0, 2.0, 3.0, 3.0]);
    case.op = PushOp::Assign;
    rig.push(&case);
    rig.outcome();
    case = push(2, &[2], &[]);
    (case.op, case.dim) = (PushOp::Erase, 0);
    rig.push(&case);
    rig.outcome();
    case = push(3, &[7], &[8.0, 9.0]);
    case.op = PushOp::Import;
    rig.push(&case);
    assert_eq!(rig.outcome(), (SESSION, 3, 3, vec![]));
    let rows = rig.pulled(&pull(1, &[1, 2, 3, 7]));
    assert_eq!(rows.values, [1.0, 1.0, 0.0, 0.0, 3.0, 3.0, 8.0, 9.0]);
    assert_eq!(rows.found, [true, false, true, true]);
}

#[test]
fn a_session_that_never_began_or_has_ended_is_told_so() {
    let mut rig = Rig::new(FabricKind::Shm);
    let mut stranger = push(1, &[1], &[1.0, 1.0]);
    stranger.header.session = SessionId(99);
    rig.push(&stranger);
    assert_eq!(rig.retried().1, RetryCode::Ended);
    rig.push(&push(1, &[1], &[1.0, 1.0]));
    rig.outcome();
    rig.end(SESSION);
    rig.push(&push(2, &[1], &[1.0, 1.0]));
    assert_eq!(rig.retried().1, RetryCode::Ended);
    rig.clock(SESSION, 2, 1, 5);
    let (header, code, _) = rig.retried();
    assert_eq!((header.request, code), (RequestId(5), RetryCode::Ended));
    assert_eq!(rig.report().partitions[0].sessions, 0);
}

#[test]
fn a_clock_is_ordered_as_a_push_and_its_retry_names_the_sending() {
    let mut rig = Rig::new(FabricKind::Shm);
    rig.clock(SESSION, 2, 1, 41);
    let (header, code, expected) = rig.retried();
    assert_eq!((header.request, header.sequence.0, header.partition), (RequestId(41), 2, HERE));
    assert_eq!((code, expected), (RetryCode::SequenceGap, 1));
    rig.clock(SESSION, 1, 1, 42);
    assert_eq!(rig.outcome(), (SESSION, 1, 1, vec![]));
    rig.clock(SESSION, 1, 1, 43);
    assert_eq!(rig.outcome(), (SESSION, 1, 1, vec![]));
    assert_eq!(rig.pulled(&pull(1, &[1])).clock, 1);
}

#[test]
fn a_session_that_comes_back_on_another_lane_is_told_there() {
    over_each_fabric(|fabric| {
        let mut rig = Rig::new(fabric);
        rig.push(&push(1, &[1], &[1.0, 1.0]));
        rig.outcome();
        let second = rig.connect();
        rig.client.fence(rig.lane).unwrap();
        rig.lane = second;
        rig.push(&push(1, &[1], &[1.0, 1.0]));
        assert_eq!(rig.outcome(), (SESSION, 1, 1, vec![]));
        rig.push(&push(2, &[1], &[1.0, 1.0]));
        assert_eq!(rig.outcome(), (SESSION, 2, 2, vec![]));
        assert_eq!(rig.pulled(&pull(1, &[1])).values, [2.0, 2.0]);
        rig.await_lanes(1);
    });
}

#[test]
fn one_outcome_answers_all_pushes_of_a_turn() {
    let mut rig = Rig::new(FabricKind::Shm);
    for sequence in 1..=20 {
        rig.push(&push(sequence, &[1], &[1.0, 0.0]));
    }
    assert_eq!(rig.outcome(), (SESSION, 20, 20, vec![]));
    assert_eq!(rig.pulled(&pull(1, &[1])).values, [20.0, 0.0]);
    assert_eq!(rig.report().partitions[0].epoch, EPOCH);
    assert_eq!(rig.report().tables, [(TABLE, 1)]);
}
