//! Chains that change under a session: every push is applied once and in order, and pulls see the pushes before them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gradwire_kernels::{Dtype, Rule};
use proptest::prelude::*;

use super::chains::{Chains, RING};
use super::engine::{Engine, Failure, Limits};
use super::pull_path::PullOptions;
use super::push_path::PushRequest;
use super::slots::SlotId;
use crate::control::ControlPlane;
use crate::lane::Port;
use crate::store::{Init, TableKind, TableSchema};
use crate::wire::ids::{Clock, Epoch, PartitionId, RequestId, Sequence, SessionId, ShardId, TableId};
use crate::wire::{Header, Kind, Level, NO_CLOCK, PushOp, RetryCode};

const WATCHDOG: Duration = Duration::from_secs(20);

struct Rig {
    chains: Chains,
    engine: Engine<Port>,
    schema: Arc<TableSchema>,
    /// A key of each partition.
    keys: Vec<u64>,
    /// Pushes begun, each to every partition.
    pushes: u32,
    /// Pulls under way and the pushes begun before them.
    pulls: Vec<(SlotId, u32)>,
}

impl Rig {
    fn new(partitions: u32, servers: u32) -> Self {
        let chains = Chains::new(partitions, servers);
        let schema = TableSchema {
            name: "t".to_owned(),
            kind: TableKind::Sparse,
            dim: 1,
            dtype: Dtype::F32,
            rule: Rule::Add,
            init: Init::Zero,
            seed: 1,
            partitions,
        };
        let limits = Limits {
            deadline: WATCHDOG,
            window: 64,
            window_bytes: 1 << 20,
            ring_bytes: RING,
            spin: Duration::ZERO,
        };
        let control: Arc<dyn ControlPlane> = Arc::clone(&chains.plane) as _;
        let engine = Engine::new((SessionId(1), Clock(0)), control, Port::new().unwrap(), limits);
        let key = |partition| (0..).find(|key| schema.partition_of(*key) == PartitionId(partition)).unwrap();
        let mut keys: Vec<u64> = (0..partitions).map(key).collect();
        keys.sort_unstable();
        Self { chains, engine, keys, schema: Arc::new(schema), pushes: 0, pulls: Vec::new() }
    }

    fn push(&mut self) -> SlotId {
        self.pushes += 1;
        let plan = self.engine.plan(TableId(1), &self.schema, &self.keys, None, 4).unwrap();
        let rows = vec![(self.pushes as f32).to_bits(); self.keys.len()];
        self.engine.start_push(&PushRequest {
            table: TableId(1),
            schema: &self.schema,
            plan,
            op: PushOp::Update,
            width: 1,
            rows: &rows,
            level: Level::Replicated,
        })
    }

    fn pull(&mut self, strong: bool) {
        let plan = self.engine.plan(TableId(1), &self.schema, &self.keys, None, 4).unwrap();
        let options = PullOptions { strong, at_least: NO_CLOCK, patience_ms: 0 };
        let pull = self.engine.start_pull(TableId(1), &self.schema, plan, Vec::new(), options);
        self.pulls.push((pull, self.pushes));
    }

    /// A turn of the session, and of each thread that opens a lane to a server which answers.
    fn turn(&mut self) {
        self.engine.turn();
        for (index, link) in self.engine.links.iter().enumerate() {
            let of = |route: &&super::engine::Route| route.link == index;
            let sent: usize = self.engine.routes.iter().filter(of).map(|route| route.flow.sent()).sum();
            assert_eq!(link.pushes_out, sent, "link {index}");
        }
        let Self { engine, pulls, pushes, .. } = self;
        pulls.retain(|(pull, before)| {
            if !engine.pulls.get(*pull).unwrap().done() {
                return true;
            }
            let state = engine.take_pull(*pull).unwrap();
            assert_eq!(state.failed, None);
            let fits = |row: &f32| (*before as f32..=*pushes as f32).contains(row);
            assert!(state.rows.iter().all(fits), "{:?} for {before}..={pushes}", state.rows);
            false
        });
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let began = Instant::now();
        while !done(self) {
            assert!(began.elapsed() < WATCHDOG, "{what}: {:?}", self.engine.cause());
            self.turn();
            std::thread::yield_now();
        }
    }

    fn serve_all(&mut self) {
        for shard in 0..self.engine.links.len() as u32 {
            self.chains.serve(ShardId(shard));
        }
    }

    fn resolved(&self, partition: usize) -> bool {
        self.engine.routes[partition].flow.unresolved() == 0
    }

    /// Everybody hears of everything, and the session comes to rest.
    fn settle(&mut self) {
        (0..self.engine.links.len() as u32).for_each(|shard| self.chains.tell(ShardId(shard)));
        self.chains.publish();
        self.until("the session comes to rest", |rig| {
            rig.serve_all();
            rig.pulls.is_empty() && (0..rig.engine.routes.len()).all(|partition| rig.resolved(partition))
        });
        for book in &self.chains.books {
            let all: Vec<f32> = (1..=self.pushes).map(|push| push as f32).collect();
            assert_eq!(book.applied, all);
        }
        for link in &self.engine.links {
            assert_eq!((link.reserved, link.pushes_out, link.queue.len()), (0, 0, 0));
        }
    }
}

#[test]
fn pushes_that_a_stopped_head_never_answers_go_to_the_next_head() {
    let mut rig = Rig::new(1, 2);
    rig.chains.change(0, &[0, 1]);
    rig.settle();
    let tickets: Vec<SlotId> = (0..10).map(|_| rig.push()).collect();
    rig.pull(false);
    rig.pull(true);
    rig.until("a lane to the head", |rig| {
        rig.engine.links[0].lane.is_some() && rig.engine.routes[0].flow.sent() == 10
    });
    rig.chains.change(0, &[1]);
    rig.chains.tell(ShardId(1));
    rig.chains.publish();
    rig.until("the next head answers", |rig| {
        rig.chains.serve(ShardId(1));
        rig.resolved(0) && rig.pulls.is_empty()
    });
    assert!(tickets.iter().all(|ticket| rig.engine.pushes.get(*ticket).unwrap().done()));
    assert_eq!(rig.engine.links[0].lane, None, "nothing is reached by the former head's lane");
    rig.settle();
}

#[test]
fn a_server_that_opens_no_lane_holds_nobody_else_up() {
    let mut rig = Rig::new(2, 2);
    rig.chains.plane.stop(ShardId(0), true);
    rig.push();
    rig.until("the other partition", |rig| {
        rig.serve_all();
        rig.resolved(1)
    });
    assert!(!rig.resolved(0));
    rig.chains.plane.stop(ShardId(0), false);
    rig.settle();
}

#[test]
fn only_the_head_of_the_newest_epoch_ends_a_session() {
    let mut rig = Rig::new(1, 2);
    rig.push();
    rig.settle();
    rig.chains.change(0, &[1, 0]);
    rig.settle();
    rig.push();
    rig.settle();
    let lanes = [rig.chains.lane(ShardId(0)), rig.chains.lane(ShardId(1))];
    let to = |attempt| Header {
        session: SessionId(1),
        sequence: Sequence(2),
        request: RequestId(attempt),
        ..Header::new(Kind::Push, 0)
    };
    rig.pull(true); // Opens a lane to the tail, which headed it before.
    rig.settle();
    let heard = |rig: &mut Rig| (0..100).for_each(|_| rig.turn());
    rig.chains.retry(lanes[0], &to(1), RetryCode::Ended, 0, Epoch(1));
    rig.chains.retry(lanes[1], &to(1), RetryCode::Ended, 0, Epoch(1));
    heard(&mut rig);
    assert!(rig.engine.failure.is_none(), "{:?}", rig.engine.failure);
    rig.chains.retry(lanes[1], &to(1), RetryCode::Ended, 0, Epoch(2));
    heard(&mut rig);
    assert!(matches!(rig.engine.failure, Some(Failure::Ended)));
}

#[test]
fn what_a_partition_waits_for_is_named() {
    let mut rig = Rig::new(2, 2);
    rig.chains.plane.refusing.lock().unwrap().insert(ShardId(1));
    rig.push();
    rig.until("the refusal", |rig| {
        rig.serve_all();
        rig.resolved(0) && rig.engine.links[1].last_error.is_some()
    });
    let cause = rig.engine.cause().unwrap();
    assert!(cause.starts_with("partition 1 waits for server thread 1"), "{cause}");
}

/// A pull that its only server could not answer used to be asked again at once wherever the tail was by then, ahead of
/// the pushes before it, which were still on their way to another server.
#[test]
fn a_strong_pull_that_is_asked_again_still_sees_the_pushes_before_it() {
    let mut rig = Rig::new(1, 2);
    rig.push();
    rig.settle();
    rig.chains.change(0, &[0]);
    rig.chains.tell(ShardId(0));
    rig.push();
    rig.pull(true);
    rig.until("the server says that it does not serve this epoch", |rig| {
        rig.chains.serve(ShardId(0));
        !rig.engine.waiting_pulls.is_empty()
    });
    rig.chains.change(0, &[1, 0]);
    rig.chains.tell(ShardId(0));
    rig.chains.publish();
    let due = rig.engine.waiting_pulls[0].at;
    rig.until("the wait is over", |_| Instant::now() >= due);
    for _ in 0..100 {
        rig.turn();
        rig.chains.serve(ShardId(0));
    }
    assert_eq!(rig.pulls.len(), 1, "its push is not at the head yet");
    rig.settle();
}

#[derive(Clone, Debug)]
enum Step {
    Push,
    Clock,
    Pull { strong: bool },
    Turn,
    Serve(u32),
    Change { partition: usize, members: Vec<u32> },
    Tell(u32),
    Publish,
    Cut(usize),
    Refuse { shard: u32, refuses: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let members = (1usize..=3, Just(vec![0u32, 1, 2]).prop_shuffle())
        .prop_map(|(count, shards)| shards[..count].to_vec());
    let step = prop_oneof![
        6 => Just(Step::Push),
        1 => Just(Step::Clock),
        3 => any::<bool>().prop_map(|strong| Step::Pull { strong }),
        8 => Just(Step::Turn),
        8 => (0u32..3).prop_map(Step::Serve),
        2 => (0usize..2, members).prop_map(|(partition, members)| Step::Change { partition, members }),
        2 => (0u32..3).prop_map(Step::Tell),
        2 => Just(Step::Publish),
        1 => (0usize..3).prop_map(Step::Cut),
        1 => (0u32..3, any::<bool>()).prop_map(|(shard, refuses)| Step::Refuse { shard, refuses }),
    ];
    prop::collection::vec(step, 1..150)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_push_is_applied_once_and_pulls_see_it_whatever_becomes_of_the_chains(steps in steps()) {
        let mut rig = Rig::new(2, 3);
        for step in steps {
            let room = rig.engine.has_clock_room();
            match step {
                Step::Push if room => drop(rig.push()),
                Step::Clock if room => drop(rig.engine.start_clock()),
                Step::Push | Step::Clock | Step::Turn => rig.turn(),
                Step::Pull { strong } => rig.pull(strong),
                Step::Serve(shard) => drop(rig.chains.serve(ShardId(shard))),
                Step::Change { partition, members } => rig.chains.change(partition, &members),
                Step::Tell(shard) => rig.chains.tell(ShardId(shard)),
                Step::Publish => rig.chains.publish(),
                Step::Cut(link) => {
                    if let Some(lane) = rig.engine.links[link].lane {
                        rig.engine.close(lane, "cut by a test");
                    }
                }
                Step::Refuse { shard, refuses } => {
                    let mut refusing = rig.chains.plane.refusing.lock().unwrap();
                    if refuses { refusing.insert(ShardId(shard)) } else { refusing.remove(&ShardId(shard)) };
                }
            }
        }
        rig.chains.plane.refusing.lock().unwrap().clear();
        rig.settle();
    }
}
