//! Chains of shards in one thread: batches, handshakes, joins and deaths, over real lanes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use proptest::prelude::*;

use super::harness::{HERE, SESSION, TABLE, TestPull, TestPush, config, pull, push, schema};
use super::{Command, Holds, Notice, Peer, Shard, ShardConfig};
use crate::cluster::{PartitionChain, Role};
use crate::lane::{Event, Fabric, LaneId, Port, WriteError, shm};
use crate::wire::ids::{Epoch, RequestId, Sequence, SessionId, ShardId, TableId};
use crate::wire::{Header, KeyForm, Kind, OutcomeBody, PULL_STRONG, PullReplyBody, PullStatus, padded};

const RING: usize = 256 << 10;
const WATCHDOG: Duration = Duration::from_secs(60);

struct Node {
    shard: Shard<Port>,
    mailbox: Sender<Command>,
    notices: Receiver<Notice>,
    /// The client's lane to it.
    lane: LaneId,
}

/// Shards, the coordinator's part of their chain, and one client.
struct World {
    nodes: BTreeMap<u32, Node>,
    chain: PartitionChain,
    client: Port,
    synced: Vec<(ShardId, Epoch)>,
    left: Vec<(ShardId, Epoch, String)>,
    /// Sent and not known to be replicated, in order.
    open: Vec<TestPush>,
    acked: u64,
    refused_elsewhere: usize,
    next: u64,
    /// What the acknowledged and open pushes add up to.
    sums: BTreeMap<u64, f32>,
}

impl World {
    fn new(members: &[u32]) -> Self {
        let chain = PartitionChain::of(Epoch(1), members.iter().copied().map(ShardId).collect());
        let mut world = Self {
            nodes: BTreeMap::new(),
            chain,
            client: Port::new().unwrap(),
            synced: Vec::new(),
            left: Vec::new(),
            open: Vec::new(),
            acked: 0,
            refused_elsewhere: 0,
            next: 1,
            sums: BTreeMap::new(),
        };
        members.iter().for_each(|member| world.start(*member));
        // Placed while there was nothing; then table and session come.
        let first = world.holds(false);
        world.hold_all(&first);
        for member in members {
            let (schema, reply) = (Arc::new(schema(2, 1)), bounded(1));
            world.tell(*member, Command::CreateTable { table: TABLE, schema, reply: reply.0 });
            world.tell(*member, Command::BeginSession { session: SESSION, reply: bounded(1).0 });
        }
        world.settle();
        world
    }

    fn start(&mut self, number: u32) {
        let (mailbox, commands) = unbounded();
        let (notify, notices) = unbounded();
        let nobody = Holds { roles: Vec::new(), ..super::harness::holds(1) };
        let config = ShardConfig {
            shard: ShardId(number),
            holds: nobody,
            notices: notify,
            index_seed: 77 + u64::from(number),
            ..config()
        };
        let mut shard = Shard::new(&config, Port::new().unwrap(), commands).unwrap();
        let (ours, theirs) = shm::pair(RING).unwrap();
        mailbox.send(Command::Adopt { end: theirs, peer: Peer::Client, reply: bounded(1).0 }).unwrap();
        shard.turn(Instant::now());
        let lane = self.client.adopt(ours).unwrap();
        self.nodes.insert(number, Node { shard, mailbox, notices, lane });
    }

    fn tell(&mut self, number: u32, command: Command) {
        if let Some(node) = self.nodes.get_mut(&number) {
            node.mailbox.send(command).unwrap();
            node.shard.turn(Instant::now());
        }
    }

    fn holds(&self, with_data: bool) -> Holds {
        let roles = vec![Role { partition: HERE, chain: self.chain.clone() }];
        let nothing = Holds { roles, ..super::harness::holds(1) };
        match with_data {
            false => nothing,
            true => Holds {
                tables: Arc::new([(TABLE, Arc::new(schema(2, 1)))]),
                last_table: TableId(TABLE.0),
                sessions: Arc::new([SESSION]),
                last_session: SessionId(SESSION.0),
                ..nothing
            },
        }
    }

    fn hold_all(&mut self, holds: &Holds) {
        for number in self.nodes.keys().copied().collect::<Vec<_>>() {
            let shard = ShardId(number);
            let concerned = self.chain.members.contains(&shard) || self.chain.joiner == Some(shard);
            let roles = if concerned { holds.roles.clone() } else { Vec::new() };
            let (reply, answer) = bounded(1);
            self.tell(number, Command::Hold { holds: Holds { roles, ..holds.clone() }, reply });
            answer.try_recv().unwrap().unwrap();
        }
    }

    /// A new version of the chain; the client goes to its head and sends everything open again.
    fn change(&mut self, members: &[u32], joiner: Option<u32>, unsynced: bool) {
        self.chain = PartitionChain {
            epoch: self.chain.epoch.next(),
            members: members.iter().copied().map(ShardId).collect(),
            joiner: joiner.map(ShardId),
            unsynced,
            ..self.chain.clone()
        };
        let holds = self.holds(true);
        self.hold_all(&holds);
        self.resend();
    }

    fn kill(&mut self, number: u32) {
        let node = self.nodes.remove(&number).unwrap();
        let _fenced = self.client.fence(node.lane);
        drop(node);
    }

    fn head(&self) -> u32 {
        self.chain.members[0].0
    }

    fn resend(&mut self) {
        let open = self.open.clone();
        for push in &open {
            self.send(push);
        }
    }

    fn send(&mut self, push: &TestPush) {
        let header = Header { epoch: self.chain.epoch, ..push.header };
        let lane = self.nodes[&self.head()].lane;
        self.write(lane, header, &push.payload());
    }

    fn write(&mut self, lane: LaneId, header: Header, payload: &[u8]) {
        let header = Header { length: payload.len() as u32, ..header };
        let padding = vec![0; padded(payload.len()) - payload.len()];
        let watchdog = Instant::now() + WATCHDOG;
        while let Err(error) = self.client.write(lane, &[&header.to_bytes(), payload, &padding], true) {
            assert_eq!(error, WriteError::Full);
            assert!(Instant::now() < watchdog, "the head takes nothing");
            self.turn();
        }
        self.client.flush();
    }

    fn push(&mut self, keys: &[u64], form: KeyForm) {
        let sequence = self.next;
        self.next += 1;
        let values: Vec<f32> = keys.iter().flat_map(|key| [1.0, (key + sequence) as f32 % 8.0]).collect();
        for (key, value) in keys.iter().zip(values.chunks(2)) {
            *self.sums.entry(2 * key).or_default() += value[0];
            *self.sums.entry(2 * key + 1).or_default() += value[1];
        }
        let push = TestPush { form, ..push(sequence, keys, &values) };
        self.send(&push);
        self.open.push(push);
    }

    /// One turn of everybody.
    fn turn(&mut self) {
        let now = Instant::now();
        for number in self.nodes.keys().copied().collect::<Vec<_>>() {
            let Some(node) = self.nodes.get_mut(&number) else { continue };
            node.shard.turn(now);
            let said: Vec<Notice> = node.notices.try_iter().collect();
            for notice in said {
                match notice {
                    Notice::LinkWanted { from, to } => self.link(from, to),
                    Notice::Synced { epoch, shard, .. } => self.synced.push((shard, epoch)),
                    Notice::Leave { epoch, shard, reason, .. } => self.left.push((shard, epoch, reason)),
                }
            }
        }
        let mut events: Vec<Event> = Vec::new();
        self.client.poll(&mut events);
        self.listen();
    }

    fn link(&mut self, from: ShardId, to: ShardId) {
        if !self.nodes.contains_key(&to.0) {
            return self.tell(from.0, Command::LinkFailed { to });
        }
        let (ours, theirs) = shm::pair(RING).unwrap();
        let adopt = |end, peer| Command::Adopt { end, peer, reply: bounded(1).0 };
        self.tell(to.0, adopt(theirs, Peer::Predecessor(from)));
        self.tell(from.0, adopt(ours, Peer::Successor(to)));
    }

    /// Takes in what the shards say to the client.
    fn listen(&mut self) {
        let mut again = false;
        for number in self.nodes.keys().copied().collect::<Vec<_>>() {
            let lane = self.nodes[&number].lane;
            // Answers to pulls are for who pulled.
            while let Some(header) = self.client.peek(lane).filter(|header| header.kind != Kind::PullReply) {
                let mut payload = vec![0; header.length as usize];
                self.client.copy_payload(lane, 0, &mut payload);
                self.client.consume(lane);
                match header.kind {
                    Kind::Outcome => {
                        let (body, rest) = OutcomeBody::split(&payload).unwrap();
                        assert!(rest.is_empty(), "nothing here is refused");
                        self.acked = self.acked.max(body.replicated.get());
                        let acked = Sequence(self.acked);
                        self.open.retain(|push| push.header.sequence > acked);
                    }
                    // Of a former head, or a list that the new one does not have.
                    Kind::Retry => {
                        self.refused_elsewhere += 1;
                        again |= number == self.head() && header.epoch == self.chain.epoch;
                        self.open.iter_mut().for_each(|push| {
                            if push.form == KeyForm::Named {
                                push.form = KeyForm::Remember;
                            }
                        });
                    }
                    other => panic!("a {other:?} out of turn"),
                }
            }
        }
        if again {
            self.resend();
        }
    }

    /// Turns until every push is acknowledged, or `done`.
    fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let watchdog = Instant::now() + WATCHDOG;
        while !done(self) {
            assert!(Instant::now() < watchdog, "{what}: {:?}, left: {:?}", self.chain, self.left);
            self.turn();
        }
    }

    fn settle(&mut self) {
        self.until("every push is acknowledged", |world| world.open.is_empty());
    }

    /// A strong pull of the tail, as bits.
    fn pull_strongly(&mut self, keys: &[u64]) -> Vec<f32> {
        let tail = self.chain.members[self.chain.members.len() - 1].0;
        let request = TestPull { flags: PULL_STRONG, ..pull(9, keys) };
        let lane = self.nodes[&tail].lane;
        let watchdog = Instant::now() + WATCHDOG;
        loop {
            let header = Header { epoch: self.chain.epoch, request: RequestId(9), ..request.header };
            self.write(lane, header, &request.payload());
            let reply = loop {
                for node in self.nodes.values_mut() {
                    node.shard.turn(Instant::now());
                }
                self.client.poll(&mut Vec::new());
                if self.client.peek(lane).is_some_and(|header| header.kind == Kind::PullReply) {
                    let header = self.client.peek(lane).unwrap();
                    let mut payload = vec![0; header.length as usize];
                    self.client.copy_payload(lane, 0, &mut payload);
                    self.client.consume(lane);
                    break payload;
                }
                self.listen_but_for(lane);
                assert!(Instant::now() < watchdog, "the tail does not answer");
            };
            let (body, rest) = PullReplyBody::split(&reply).unwrap();
            if PullStatus::from_wire(body.status.get()) == Some(PullStatus::NotServing) {
                self.turn();
                assert!(Instant::now() < watchdog, "the tail does not serve");
                continue;
            }
            assert_eq!(PullStatus::from_wire(body.status.get()), Some(PullStatus::Rows));
            let words = keys.len().div_ceil(64) * 8;
            return rest[words..words + keys.len() * 8]
                .chunks_exact(4)
                .map(|value| f32::from_le_bytes(value.try_into().unwrap()))
                .collect();
        }
    }

    fn listen_but_for(&mut self, lane: LaneId) {
        if self.client.peek(lane).is_some_and(|header| header.kind != Kind::PullReply) {
            self.listen();
        }
    }

    /// What was pushed is there, once.
    fn check_sums(&mut self) {
        self.settle();
        let keys: Vec<u64> = self
            .sums
            .keys()
            .map(|cell| cell / 2)
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect();
        for some in keys.chunks(512) {
            let values = self.pull_strongly(some);
            for (key, row) in some.iter().zip(values.chunks(2)) {
                assert_eq!(row, [self.sums[&(2 * key)], self.sums[&(2 * key + 1)]], "key {key}");
            }
        }
        assert!(self.left.is_empty(), "{:?}", self.left);
    }

    /// Brings a new replica in behind the tail.
    fn join(&mut self, number: u32) {
        self.start(number);
        let members: Vec<u32> = self.chain.members.iter().map(|member| member.0).collect();
        self.change(&members, Some(number), false);
        let synced = |world: &Self| world.synced.contains(&(ShardId(number), world.chain.epoch));
        self.until("a copy is complete", synced);
        // Acknowledged by the old members, while the joiner lacks it: the new epoch finds it there.
        self.push(&[1, 2, 3], KeyForm::Inline);
        for member in &members {
            self.nodes.get_mut(member).unwrap().shard.turn(Instant::now());
        }
        let members: Vec<u32> = members.into_iter().chain([number]).collect();
        self.change(&members, None, true);
        self.until("a new tail has everything", synced);
        self.chain.unsynced = false;
    }
}

#[test]
fn a_push_is_acknowledged_when_the_tail_has_it() {
    let mut world = World::new(&[0, 1, 2]);
    world.push(&[1, 2, 3], KeyForm::Inline);
    // Head and middle alone acknowledge nothing.
    for _ in 0..50 {
        for number in [0, 1] {
            world.nodes.get_mut(&number).unwrap().shard.turn(Instant::now());
        }
        world.client.poll(&mut Vec::new());
        world.listen();
    }
    assert_eq!(world.acked, 0);
    world.check_sums();
    assert_eq!(world.acked, 1);
}

#[test]
fn a_named_list_reaches_followers_written_out() {
    let mut world = World::new(&[0, 1]);
    let keys: Vec<u64> = (0..300).collect();
    world.push(&keys, KeyForm::Remember);
    world.settle();
    for _ in 0..5 {
        world.push(&keys, KeyForm::Named);
    }
    world.settle();
    world.kill(0);
    world.change(&[1], None, false);
    // The new head was never told of the list by the client: it asks for it, and nothing is lost.
    world.push(&keys, KeyForm::Named);
    world.check_sums();
}

#[test]
fn whoever_dies_nothing_is_lost_and_nothing_counted_twice() {
    for dead in 0..3 {
        let mut world = World::new(&[0, 1, 2]);
        for round in 0..40 {
            world.push(&[round, 100 + round, 200], KeyForm::Inline);
            if round % 3 == 0 {
                world.turn();
            }
        }
        world.kill(dead);
        let rest: Vec<u32> = (0..3).filter(|number| *number != dead).collect();
        world.change(&rest, None, false);
        for round in 0..40 {
            world.push(&[round, 300 + round], KeyForm::Inline);
        }
        world.check_sums();
    }
}

#[test]
fn a_copy_made_while_pushes_go_on_is_the_same_and_takes_over() {
    let mut world = World::new(&[0]);
    let keys: Vec<u64> = (0..20_000).map(|key| key * 7).collect();
    for some in keys.chunks(1000) {
        world.push(some, KeyForm::Inline);
    }
    world.settle();
    world.start(5);
    world.change(&[0], Some(5), false);
    let mut round = 0;
    while !world.synced.contains(&(ShardId(5), world.chain.epoch)) {
        round += 1;
        assert!(round < 100_000, "the copy does not end: {:?}", world.left);
        world.push(&[round, 7 * round, 1 << 40 | round], KeyForm::Inline);
        world.turn();
    }
    world.change(&[0, 5], None, true);
    world.until("the new tail has everything", |world| {
        world.synced.contains(&(ShardId(5), world.chain.epoch))
    });
    world.kill(0);
    world.change(&[5], None, false);
    world.check_sums();
    assert!(world.sums.len() > 40_000);
}

#[test]
fn a_record_of_an_older_epoch_changes_nothing() {
    let mut world = World::new(&[0, 1]);
    world.push(&[1], KeyForm::Inline);
    world.settle();
    // The old head is out and does not know it: it holds its old place.
    let old = world.chain.clone();
    world.chain = PartitionChain { epoch: Epoch(2), members: vec![ShardId(1)], ..old.clone() };
    let holds = world.holds(true);
    let (reply, _answer) = bounded(1);
    world.tell(1, Command::Hold { holds, reply });
    let push = push(2, &[1], &[64.0, 64.0]);
    let lane = world.nodes[&0].lane;
    world.write(lane, Header { epoch: old.epoch, ..push.header }, &push.payload());
    for _ in 0..200 {
        world.turn();
    }
    assert_eq!(world.acked, 1, "nobody acknowledges what only the former head has");
    world.next = 2;
    world.push(&[1], KeyForm::Inline);
    world.check_sums();
}

#[test]
fn a_head_that_becomes_a_follower_has_nothing_that_the_new_head_does_not_have() {
    let mut world = World::new(&[0, 1]);
    for round in 0..50 {
        world.push(&[round % 7, 10 + round], KeyForm::Inline);
    }
    // Ordered, sent on, and not acknowledged: it takes no more and waits.
    let node = world.nodes.get_mut(&0).unwrap();
    node.shard.turn(Instant::now());
    world.chain = PartitionChain { epoch: Epoch(2), members: vec![ShardId(1), ShardId(0)], ..world.chain };
    let (reply, answer) = bounded(1);
    let holds = world.holds(true);
    world.nodes[&0].mailbox.send(Command::Hold { holds: holds.clone(), reply }).unwrap();
    let started = Instant::now();
    while answer.try_recv().is_err() {
        assert!(started.elapsed() < WATCHDOG);
        world.turn();
    }
    world.tell(1, Command::Hold { holds, reply: bounded(1).0 });
    world.resend();
    for round in 0..50 {
        world.push(&[round % 5], KeyForm::Inline);
    }
    world.check_sums();
    world.kill(1);
    world.change(&[0], None, false);
    world.check_sums();
}

#[test]
fn a_head_that_is_not_acknowledged_in_time_leaves_when_another_takes_its_place() {
    let mut world = World::new(&[0, 1]);
    world.push(&[1, 2], KeyForm::Inline);
    let node = world.nodes.get_mut(&0).unwrap();
    // The other takes no turn, so nothing is acknowledged.
    node.shard.turn(Instant::now());
    let chain =
        PartitionChain { epoch: Epoch(2), members: vec![ShardId(1), ShardId(0)], ..world.chain.clone() };
    let roles = vec![Role { partition: HERE, chain }];
    let (reply, answer) = bounded(1);
    let holds = Holds { roles, ..world.holds(true) };
    let node = world.nodes.get_mut(&0).unwrap();
    node.mailbox.send(Command::Hold { holds, reply }).unwrap();
    let now = Instant::now();
    node.shard.turn(now);
    assert!(answer.try_recv().is_err(), "it waits");
    node.shard.turn(now + Duration::from_secs(1));
    answer.try_recv().unwrap().unwrap();
    let said: Vec<Notice> = node.notices.try_iter().collect();
    assert!(said.iter().any(|notice| matches!(notice, Notice::Leave { .. })), "{said:?}");
}

#[derive(Clone, Debug)]
enum Step {
    Push(Vec<u64>),
    Turn(u8),
    Kill(u8),
    Join,
    JoinHalfway,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let keys = prop::collection::btree_set(0u64..400, 1..60).prop_map(|keys| keys.into_iter().collect());
    let step = prop_oneof![
        8 => keys.prop_map(Step::Push),
        4 => (1u8..6).prop_map(Step::Turn),
        1 => (0u8..3).prop_map(Step::Kill),
        1 => Just(Step::Join),
        1 => Just(Step::JoinHalfway),
    ];
    prop::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_schedule_of_deaths_and_joins_keeps_every_push_once(steps in steps()) {
        let mut world = World::new(&[0, 1]);
        let mut next = 2;
        for step in steps {
            match step {
                Step::Push(keys) => world.push(&keys, KeyForm::Inline),
                Step::Turn(turns) => (0..turns).for_each(|_| world.turn()),
                Step::Kill(which) if world.chain.members.len() > 1 => {
                    let mut members: Vec<u32> = world.chain.members.iter().map(|member| member.0).collect();
                    let dead = members.remove(which as usize % members.len());
                    world.kill(dead);
                    world.change(&members, None, false);
                }
                Step::Kill(_) => {}
                Step::Join if world.chain.members.len() < 3 => {
                    world.join(next);
                    next += 1;
                }
                Step::Join => {}
                // The joiner dies before its copy is complete, or is given up.
                Step::JoinHalfway => {
                    world.start(next);
                    let members: Vec<u32> = world.chain.members.iter().map(|member| member.0).collect();
                    world.change(&members, Some(next), false);
                    (0..4).for_each(|_| world.turn());
                    if next % 2 == 0 {
                        world.kill(next);
                    }
                    world.change(&members, None, false);
                    next += 1;
                }
            }
        }
        world.check_sums();
    }
}
