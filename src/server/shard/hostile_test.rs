//! Whatever bytes come, the shard lives on and answers the next good request.

use proptest::prelude::*;
use zerocopy::FromBytes;

use super::harness::{Rig, SESSION, TABLE, over_each_fabric, pull, push, schema};
use crate::lane::{Fabric, FabricKind};
use crate::wire::ids::{Clock, Epoch, PartitionId, RequestId, Sequence, SessionId, TableId};
use crate::wire::{Header, Kind, OutcomeBody, PullReplyBody, PullStatus};

const KINDS: [Kind; 17] = [
    Kind::Push,
    Kind::Push,
    Kind::Push,
    Kind::Pull,
    Kind::Pull,
    Kind::Clock,
    Kind::Count,
    Kind::Export,
    Kind::Outcome,
    Kind::Retry,
    Kind::PullReply,
    Kind::CountReply,
    Kind::ExportReply,
    Kind::State,
    Kind::Hello,
    Kind::Place,
    Kind::ReadReply,
];

/// One record that no client of ours sends, or one that is nearly good.
#[derive(Clone, Debug)]
struct Hostile {
    kind: usize,
    ids: [u8; 5],
    good_body: bool,
    edits: Vec<(usize, u8)>,
    cut: usize,
    noise: Vec<u8>,
}

fn hostile() -> impl Strategy<Value = Hostile> {
    (
        0..KINDS.len(),
        any::<[u8; 5]>(),
        any::<bool>(),
        prop::collection::vec((0usize..200, any::<u8>()), 0..4),
        0usize..300,
        prop::collection::vec(any::<u8>(), 0..200),
    )
        .prop_map(|(kind, ids, good_body, edits, cut, noise)| Hostile {
            kind,
            ids,
            good_body,
            edits,
            cut,
            noise,
        })
}

impl Hostile {
    /// Its header and payload; `sequence` is the one the shard expects.
    fn record(&self, sequence: u64) -> (Header, Vec<u8>) {
        let kind = KINDS[self.kind];
        let pick = |at: usize, good: u64| if self.ids[at] < 200 { good } else { u64::from(self.ids[at]) };
        let header = Header {
            session: SessionId(pick(0, SESSION.0)),
            table: TableId(pick(1, 1) as u32),
            partition: PartitionId(pick(2, 0) as u32),
            epoch: Epoch(pick(3, 1)),
            sequence: Sequence(pick(4, sequence)),
            request: RequestId(77),
            clock: Clock(pick(0, 1)),
            ..Header::new(kind, 0)
        };
        let mut payload = match (self.good_body, kind) {
            (true, Kind::Push) => push(1, &[1, 2, 3], &[1.0; 6]).payload(),
            (true, Kind::Pull) => pull(1, &[1, 2, 3]).payload(),
            _ => self.noise.clone(),
        };
        for &(at, byte) in &self.edits {
            if let Some(place) = payload.get_mut(at) {
                *place = byte;
            }
        }
        payload.truncate(self.cut);
        (header, payload)
    }
}

/// Asks something good, on a new lane when this one was cut, until it is answered.
fn answers(rig: &mut Rig) {
    let good = pull(123_456, &[1]);
    loop {
        let lane = rig.lane;
        let mut next = None;
        if rig.try_send_on(lane, good.header, &good.payload()) {
            next = rig.try_next_on(lane);
            // What comes before are answers to the hostile records; none of those had this request id.
            while next.as_ref().is_some_and(|(header, _)| header.request != good.header.request) {
                next = rig.try_next_on(lane);
            }
        }
        if let Some((header, _)) = next {
            assert_eq!(header.kind, Kind::PullReply);
            return;
        }
        rig.client.fence(lane).ok();
        rig.lane = rig.connect();
    }
}

fn survives(fabric: FabricKind, records: &[Hostile]) {
    let mut rig = Rig::new(fabric);
    for record in records {
        let sequence = rig.shard.held[0].replica.expected(SESSION).unwrap().0;
        let (header, payload) = record.record(sequence);
        // The lane's own kinds end the lane by themselves.
        rig.send_on(rig.lane, header, &payload);
        answers(&mut rig);
    }
    let sequence = rig.shard.held[0].replica.expected(SESSION).unwrap().0;
    let mut good = push(sequence, &[9_999_999], &[4.0, 2.0]);
    good.resolved = sequence;
    rig.push(&good);
    // What hostile records still had coming may come first: outcomes, and answers to pulls that waited for a clock.
    let mut applied = 0;
    while applied != sequence {
        let (_, payload) = await_header(&mut rig, |header| header.kind == Kind::Outcome);
        applied = OutcomeBody::split(&payload).unwrap().0.applied.get();
    }
    let check = pull(654_321, &[9_999_999]);
    rig.pull(&check);
    let (_, payload) = await_header(&mut rig, |header| header.request == check.header.request);
    let (body, rest) = PullReplyBody::split(&payload).unwrap();
    assert_eq!(PullStatus::from_wire(body.status.get()), Some(PullStatus::Rows));
    let (found, values) = rest.split_at(8);
    assert_eq!((found[0], <[f32]>::ref_from_bytes(values).unwrap()), (1, &[4.0, 2.0][..]));
}

/// The first record on the rig's lane that `wanted` names; those before it are let go.
fn await_header(rig: &mut Rig, wanted: impl Fn(&Header) -> bool) -> (Header, Vec<u8>) {
    loop {
        let record = rig.next_on(rig.lane);
        if wanted(&record.0) {
            return record;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_shard_survives_any_records_over_shm(records in prop::collection::vec(hostile(), 1..24)) {
        survives(FabricKind::Shm, &records);
    }

    #[test]
    fn a_shard_survives_any_records_over_tcp(records in prop::collection::vec(hostile(), 1..12)) {
        survives(FabricKind::Tcp, &records);
    }
}

#[test]
fn a_record_that_only_servers_send_costs_the_lane() {
    over_each_fabric(|fabric| {
        let mut rig = Rig::new(fabric);
        let lane = rig.connect();
        rig.send_on(lane, Header { session: SESSION, ..Header::new(Kind::Outcome, 0) }, &[0; 24]);
        rig.await_down(lane);
        assert_eq!(rig.report().shard.cut_lanes, 1);
        assert_eq!(rig.pulled(&pull(1, &[1])).status, PullStatus::Rows);
    });
}

#[test]
fn a_clock_record_of_half_an_entry_costs_the_lane() {
    let mut rig = Rig::new(FabricKind::Shm);
    let lane = rig.connect();
    rig.send_on(lane, Header { session: SESSION, ..Header::new(Kind::Clock, 0) }, &[0; 40]);
    rig.await_down(lane);
}

#[test]
fn a_lane_that_dies_behind_a_push_leaves_the_push() {
    over_each_fabric(|fabric| {
        let mut rig = Rig::new(fabric);
        let lane = rig.connect();
        let case = push(1, &[3], &[1.0, 1.0]);
        rig.send_on(lane, case.header, &case.payload());
        rig.client.fence(lane).unwrap();
        rig.await_lanes(1);
        let rows = rig.pulled(&pull(1, &[3]));
        assert_eq!(rows.found, [true]);
        // The client finds out by sending it again.
        rig.push(&case);
        assert_eq!(rig.outcome(), (SESSION, 1, 1, vec![]));
    });
}

#[test]
fn many_lanes_with_a_session_each_are_all_served() {
    over_each_fabric(|fabric| {
        let mut rig = Rig::new(fabric);
        let lanes: Vec<_> = (0..20u64)
            .map(|at| {
                rig.begin(SessionId(100 + at));
                (SessionId(100 + at), rig.connect())
            })
            .collect();
        for round in 1..=5 {
            for (session, lane) in &lanes {
                let mut case = push(round, &[1, 2], &[1.0, 0.5, 2.0, 0.25]);
                case.header.session = *session;
                rig.send_on(*lane, case.header, &case.payload());
            }
        }
        for (session, lane) in &lanes {
            let mut applied = 0;
            while applied < 5 {
                rig.lane = *lane;
                let outcome = rig.outcome();
                assert_eq!(outcome.0, *session);
                assert!(outcome.1 > applied);
                applied = outcome.1;
            }
        }
        assert_eq!(rig.pulled(&pull(1, &[1, 2])).values, [100.0, 50.0, 200.0, 25.0]);
    });
}

#[test]
fn a_dropped_table_is_gone_for_pushes_and_pulls() {
    let mut rig = Rig::new(FabricKind::Shm);
    rig.push(&push(1, &[3], &[1.0, 1.0]));
    rig.outcome();
    rig.ask(|reply| super::Command::DropTable { table: TABLE, reply });
    assert_eq!(rig.pulled(&pull(1, &[3])).status, PullStatus::NoTable);
    rig.create_table(TableId(2), schema(2, 1)).unwrap();
    let mut other = pull(2, &[3]);
    other.header.table = TableId(2);
    assert_eq!(rig.pulled(&other).found, [false]);
    assert_eq!(rig.report().tables, [(TableId(2), 0)]);
}
