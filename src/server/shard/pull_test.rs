//! Pulls, counts and exports, record by record.

use std::time::Duration;

use zerocopy::{FromBytes, IntoBytes};

use super::harness::{HERE, RING, Rig, SESSION, TABLE, over_each_fabric, pull, push, schema};
use crate::lane::FabricKind;
use crate::wire::ids::{Epoch, RequestId, SessionId, TableId};
use crate::wire::{
    CountReplyBody, ExportBody, ExportReplyBody, Header, KeyForm, Kind, NO_CLOCK, PULL_STRONG, PullStatus,
};

/// A table of dim 5 beside the one of the rig.
const WIDE: TableId = TableId(2);

fn fill(rig: &mut Rig, table: TableId, dim: usize, keys: &[u64]) {
    let first = rig.shard.held[0].replica.expected(SESSION).unwrap().0;
    for (sequence, keys) in (first..).zip(keys.chunks(1000)) {
        let values: Vec<f32> =
            keys.iter().flat_map(|&key| (0..dim).map(move |at| key as f32 + at as f32 / 8.0)).collect();
        let mut case = push(sequence, keys, &values);
        (case.header.table, case.dim) = (table, dim as u32);
        rig.push(&case);
        assert_eq!(rig.outcome().3, []);
    }
}

#[test]
fn a_long_pull_comes_in_pieces_inline_remembered_and_named() {
    over_each_fabric(|fabric| {
        let mut rig = Rig::new(fabric);
        rig.create_table(WIDE, schema(5, 1)).unwrap();
        let stored: Vec<u64> = (0..6000).filter(|key| key % 3 != 0).collect();
        fill(&mut rig, WIDE, 5, &stored);
        let keys: Vec<u64> = (0..6000).collect();
        for (request, form) in [(1, KeyForm::Inline), (2, KeyForm::Remember), (3, KeyForm::Named)] {
            let mut wide = pull(request, &keys);
            (wide.header.table, wide.dim, wide.form) = (WIDE, 5, form);
            let rows = rig.pulled(&wide);
            assert_eq!((rows.status, rows.found.len()), (PullStatus::Rows, 6000));
            assert!(rows.pieces >= 2, "{} pieces", rows.pieces);
            for (key, found) in rows.found.iter().enumerate() {
                let expected = if *found { key as f32 + 0.5 } else { 0.0 };
                assert_eq!(
                    (*found, rows.values[key * 5 + 4]),
                    (key % 3 != 0, expected),
                    "key {key} {form:?}"
                );
            }
        }
    });
}

#[test]
fn answers_larger_than_the_ring_wait_for_credit_and_arrive_whole() {
    over_each_fabric(|fabric| {
        let mut rig = Rig::new(fabric);
        let keys: Vec<u64> = (0..8000).collect();
        fill(&mut rig, TABLE, 2, &keys);
        // Each answer takes 64 KB of a ring of 256 KB that nobody reads meanwhile.
        let requests = 12u64;
        for request in 0..requests {
            let mut wish = pull(request, &keys[..7900]);
            wish.form = match request {
                0 => KeyForm::Remember,
                1 => KeyForm::Inline,
                _ => KeyForm::Named,
            };
            rig.pull(&wish);
            for _ in 0..3 {
                rig.shard.turn(rig.now);
            }
        }
        const { assert!(12 * 7900 * 8 > 2 * RING) };
        for request in 0..requests {
            let rows = rig.answered(request);
            assert_eq!(rows.values.len(), 15800);
            assert!(rows.values.chunks(2).enumerate().all(|(key, row)| row[0] == key as f32));
        }
    });
}

#[test]
fn a_client_that_takes_no_answers_loses_its_lane_and_nothing_else() {
    over_each_fabric(|fabric| {
        let mut rig = Rig::new(fabric);
        let keys: Vec<u64> = (0..8000).collect();
        fill(&mut rig, TABLE, 2, &keys);
        for request in 0..60 {
            let wish = pull(request, &keys[..100]);
            rig.pull(&wish);
        }
        for request in 0..5 {
            rig.pull(&pull(request, &keys[..7900]));
            // Not a look at what arrives: credit runs out.
            for _ in 0..3 {
                rig.shard.turn(rig.now);
            }
        }
        assert_eq!(rig.report().shard.lanes, 1);
        rig.now += Duration::from_secs(11);
        rig.turn();
        rig.turn();
        assert_eq!((rig.report().shard.lanes, rig.report().shard.cut_lanes), (0, 1));
        rig.lane = rig.connect();
        assert_eq!(rig.pulled(&pull(1, &[5])).values, [5.0, 5.125]);
    });
}

#[test]
fn a_wrong_pull_is_told_what_is_wrong() {
    let mut rig = Rig::new(FabricKind::Shm);
    let mut other_table = pull(1, &[1]);
    other_table.header.table = TableId(9);
    let mut other_dim = pull(2, &[1]);
    other_dim.dim = 3;
    let mut other_partition = pull(3, &[1]);
    other_partition.header.partition.0 = 5;
    let mut stranger = pull(4, &[1]);
    stranger.header.session = SessionId(99);
    let mut named = pull(5, &[1]);
    named.form = KeyForm::Named;
    let mut strong = pull(6, &[1]);
    (strong.flags, strong.header.epoch) = (PULL_STRONG, Epoch(9));
    let mut strange_flag = pull(7, &[1]);
    strange_flag.flags = 64;
    let cases = [
        (other_table, PullStatus::NoTable),
        (other_dim, PullStatus::Shape),
        (other_partition, PullStatus::NotServing),
        (stranger, PullStatus::NotServing),
        (named, PullStatus::KeysMissing),
        (strong, PullStatus::NotServing),
        (strange_flag, PullStatus::Malformed),
        (pull(8, &[2, 1]), PullStatus::Keys),
        (pull(9, &[2, u64::MAX]), PullStatus::Keys),
    ];
    for (case, status) in cases {
        assert_eq!(rig.pulled(&case).status, status, "request {}", case.header.request);
    }
    let mut strong = pull(10, &[1]);
    strong.flags = PULL_STRONG;
    assert_eq!(rig.pulled(&strong).status, PullStatus::Rows);
    assert_eq!(rig.pulled(&pull(11, &[])).status, PullStatus::Rows);
}

#[test]
fn a_pull_waits_for_the_slowest_worker_or_its_patience() {
    over_each_fabric(|fabric| {
        let mut rig = Rig::new(fabric);
        let slow = SessionId(8);
        rig.begin(slow);
        let mut wish = pull(1, &[1]);
        (wish.at_least, wish.patience_ms) = (2, 500);
        rig.pull(&wish);
        rig.clock(SESSION, 1, 2, 0);
        assert_eq!(rig.outcome().1, 1);
        assert_eq!(rig.report().shard.parked, 1);
        rig.clock(slow, 1, 1, 0);
        assert_eq!(rig.outcome().0, slow);
        assert_eq!(rig.report().shard.parked, 1);
        // The record that ends the wait is answered first; the pull sees the state after it.
        rig.clock(slow, 2, 2, 0);
        assert_eq!(rig.outcome().1, 2);
        let rows = rig.answered(1);
        assert_eq!((rows.status, rows.clock), (PullStatus::Rows, 2));
        // And one that nobody fulfils.
        let mut late = pull(2, &[1]);
        (late.at_least, late.patience_ms) = (3, 500);
        rig.pull(&late);
        rig.turn();
        rig.now += Duration::from_millis(499);
        rig.turn();
        while rig.report().shard.parked == 0 {
            rig.turn();
        }
        rig.now += Duration::from_millis(501);
        assert_eq!(rig.answered(2).status, PullStatus::ClockDeadline);
        // A worker that ends holds nobody back.
        let mut last = pull(3, &[1]);
        (last.at_least, last.patience_ms) = (9, 60_000);
        rig.pull(&last);
        rig.clock(SESSION, 2, 9, 0);
        assert_eq!(rig.outcome().1, 2);
        rig.end(slow);
        assert_eq!(rig.answered(3).clock, 9);
    });
}

#[test]
fn waiting_pulls_of_a_lane_are_bounded_and_leave_with_it() {
    let mut rig = Rig::new(FabricKind::Shm);
    for request in 0..65 {
        let mut wish = pull(request, &[1]);
        (wish.at_least, wish.patience_ms) = (1, 60_000);
        rig.pull(&wish);
    }
    assert_eq!(rig.answered(64).status, PullStatus::NotServing);
    assert_eq!(rig.report().shard.parked, 64);
    let second = rig.connect();
    crate::lane::Fabric::fence(&mut rig.client, rig.lane).unwrap();
    rig.lane = second;
    rig.await_lanes(1);
    assert_eq!(rig.report().shard.parked, 0);
}

#[test]
fn a_table_is_counted_and_exported_row_by_row() {
    over_each_fabric(|fabric| {
        let mut rig = Rig::new(fabric);
        let keys: Vec<u64> = (0..20_000).map(|key| key * 7).collect();
        fill(&mut rig, TABLE, 2, &keys);
        let header = Header {
            session: SESSION,
            table: TABLE,
            partition: HERE,
            request: RequestId(5),
            ..Header::new(Kind::Count, 0)
        };
        rig.send_on(rig.lane, header, &[0; 8]);
        let (reply, payload) = rig.next_on(rig.lane);
        assert_eq!((reply.kind, reply.request), (Kind::CountReply, RequestId(5)));
        assert_eq!(CountReplyBody::split(&payload).unwrap().0.rows.get(), 20_000);

        let (mut exported, mut cursor, mut pieces) = (Vec::new(), 0, 0);
        while cursor != NO_CLOCK {
            let ask = ExportBody { cursor: cursor.into(), rows: 100_000.into(), reserved: 0.into() };
            rig.send_on(rig.lane, Header { kind: Kind::Export, ..header }, ask.as_bytes());
            let (reply, payload) = rig.next_on(rig.lane);
            assert_eq!(reply.kind, Kind::ExportReply);
            assert!(payload.len() <= 66 << 10, "a piece of {} bytes", payload.len());
            let (body, rest) = ExportReplyBody::split(&payload).unwrap();
            assert_eq!((body.status.get(), body.words.get()), (PullStatus::Rows.to_wire(), 2));
            let (keys, words) = <[u64]>::ref_from_prefix_with_elems(rest, body.rows.get() as usize).unwrap();
            let words = <[u32]>::ref_from_bytes(words).unwrap();
            exported
                .extend(keys.iter().zip(words.chunks(2)).map(|(key, row)| (*key, f32::from_bits(row[1]))));
            cursor = body.cursor.get();
            pieces += 1;
            assert!(pieces < 10_000, "no end");
        }
        exported.sort_by_key(|(key, _)| *key);
        assert!(exported.iter().map(|row| row.0).eq(keys.iter().copied()));
        assert!(exported.iter().all(|&(key, value)| value == key as f32 + 0.125));
        let nowhere = Header { table: TableId(44), kind: Kind::Export, ..header };
        rig.send_on(rig.lane, nowhere, &[0; 16]);
        let (_, payload) = rig.next_on(rig.lane);
        assert_eq!(ExportReplyBody::split(&payload).unwrap().0.status.get(), PullStatus::NoTable.to_wire());
    });
}
