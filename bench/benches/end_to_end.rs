//! Claim: through the whole path (client, lane, server thread, log, store, acknowledgement) pushes and pulls of 10,000
//! keys run at a good share of what the store does alone, far above a map behind a channel.
//!
//! Unit: keys a second; 10,000 sorted random keys of a million a request, 16 requests in turn, 8 in flight, one f32 each,
//! `add`; every key has a row. `KeyList` sends a list's digest once the server knows it, a slice sends all keys. Baseline:
//! a thread that owns a `HashMap`, fed through standard channels with the same lists (shared, not copied), 8 in
//! flight. Bound: the store alone in the calling thread, with cached lists. Then one key in one request at a time, as p50, p99
//! and p99.9, with the default waiting. Client and server are two threads of this process: shm is real shared memory,
//! tcp is loopback and no network. Chains of one replica; needs two free cores.
#![allow(clippy::expect_used, reason = "a bench without its cluster has nothing to measure: it stops")]

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use criterion::Criterion;
use gradwire::store::{Digest, Init, Store, StoreConfig, TableKind, TableSchema};
use gradwire::wire::ids::{PartitionId, SessionId, TableId};
use gradwire::{
    Add, Cluster, ClusterConfig, Dtype, FabricChoice, KeyList, Keys, Pull, PullTicket, Rule, SparseTable,
    Ticket,
};
use gradwire_bench::{Claim, Random, Turn, Work, criterion, lists_covering, lists_of};

const SPACE: u64 = 1_000_000;
const KEYS: usize = 10_000;
const LISTS: usize = 16;
const IN_FLIGHT: usize = 8;

/// The store without a path to it.
struct Alone {
    store: Store,
    digests: Vec<Digest>,
}

const TABLE: TableId = TableId(1);
const PARTITION: PartitionId = PartitionId(0);
const SESSION: SessionId = SessionId(1);

impl Alone {
    fn new(load: &Load) -> Self {
        let schema = TableSchema {
            name: "w".to_owned(),
            kind: TableKind::Sparse,
            dim: 1,
            dtype: Dtype::F32,
            rule: Rule::Add,
            init: Init::Zero,
            seed: 0,
            partitions: 1,
        };
        let mut store = Store::new(StoreConfig::new(4 << 30, 1));
        store.create_table(TABLE, schema, &[PARTITION]).expect("a good schema");
        for keys in &load.all {
            store.push(TABLE, PARTITION, keys, &load.gradient[..keys.len()]).expect("room for the rows");
        }
        let learn = |keys: &Vec<u64>| store.learn_keys(SESSION, TABLE, PARTITION, keys).expect("good keys");
        Self { digests: load.lists.iter().map(learn).collect(), store }
    }
}

/// What all claims send.
struct Load {
    /// Every key once.
    all: Vec<Vec<u64>>,
    lists: Vec<Vec<u64>>,
    gradient: Vec<f32>,
}

impl Load {
    fn new() -> Self {
        let mut random = Random(1);
        Self {
            all: lists_covering(&mut random, KEYS, SPACE),
            lists: lists_of(&mut random, LISTS, KEYS, SPACE),
            gradient: random.floats(KEYS),
        }
    }
}

/// What a request asks of the naive server.
enum Ask {
    Push(Arc<[u64]>, Vec<f32>),
    Pull(Arc<[u64]>, Vec<f32>),
}

/// A map behind a channel. Buffers travel back and are used again.
struct Naive {
    asks: mpsc::SyncSender<Ask>,
    answers: mpsc::Receiver<Vec<f32>>,
    thread: JoinHandle<()>,
    lists: Vec<Arc<[u64]>>,
}

impl Naive {
    fn start(load: &Load) -> Self {
        let (asks, asked) = mpsc::sync_channel(IN_FLIGHT);
        let (answer, answers) = mpsc::sync_channel(IN_FLIGHT);
        let mut map: HashMap<u64, f32> = (0..SPACE).map(|key| (key, 0.0)).collect();
        let thread = std::thread::spawn(move || {
            while let Ok(ask) = asked.recv() {
                let buffer = match ask {
                    Ask::Push(keys, gradient) => {
                        for (key, gradient) in keys.iter().zip(&gradient) {
                            *map.entry(*key).or_default() += gradient;
                        }
                        gradient
                    }
                    Ask::Pull(keys, mut rows) => {
                        for (key, row) in keys.iter().zip(&mut rows) {
                            *row = map.get(key).copied().unwrap_or_default();
                        }
                        rows
                    }
                };
                if answer.send(buffer).is_err() {
                    return;
                }
            }
        });
        Self { asks, answers, thread, lists: load.lists.iter().map(|keys| Arc::from(&keys[..])).collect() }
    }

    /// Keeps eight requests made by `ask` in flight, `calls` in all.
    fn run(&self, turn: &mut Turn<'_, Arc<[u64]>>, calls: u64, ask: impl Fn(Arc<[u64]>, Vec<f32>) -> Ask) {
        let mut spare: Vec<Vec<f32>> = (0..IN_FLIGHT).map(|_| vec![0.5; KEYS]).collect();
        for _ in 0..calls {
            let buffer =
                spare.pop().unwrap_or_else(|| self.answers.recv().expect("the naive server answers"));
            self.asks.send(ask(Arc::clone(turn.step()), buffer)).expect("the naive server listens");
        }
        while spare.len() < IN_FLIGHT {
            spare.push(self.answers.recv().expect("the naive server answers"));
        }
    }

    fn stop(self) {
        drop(self.asks);
        self.thread.join().expect("the naive server");
    }
}

fn cluster(fabric: FabricChoice) -> Cluster {
    let config = ClusterConfig { servers: 1, fabric, ..ClusterConfig::default() };
    Cluster::embedded(config).expect("a cluster in this process")
}

/// A table of which every key has a row.
fn table(cluster: &Cluster, load: &Load) -> SparseTable {
    let session = cluster.session().expect("a session");
    let table = session.sparse("w", 1, Add).expect("a table");
    for keys in &load.all {
        drop(table.push(keys, &load.gradient[..keys.len()]).expect("a push of good keys"));
    }
    session.flush().expect("every row is made");
    table
}

fn pushes<K: Keys>(table: &SparseTable, turn: &mut Turn<'_, K>, gradient: &[f32], calls: u64) {
    let mut in_flight: VecDeque<Ticket> = VecDeque::with_capacity(IN_FLIGHT);
    for _ in 0..calls {
        if in_flight.len() == IN_FLIGHT
            && let Some(oldest) = in_flight.pop_front()
        {
            oldest.wait().expect("an acknowledged push");
        }
        in_flight.push_back(table.push(turn.step(), gradient).expect("a push of good keys"));
    }
    for ticket in in_flight {
        ticket.wait().expect("an acknowledged push");
    }
}

fn pulls<K: Keys>(table: &SparseTable, turn: &mut Turn<'_, K>, spare: &mut Vec<Vec<f32>>, calls: u64) {
    let mut in_flight: VecDeque<PullTicket> = VecDeque::with_capacity(IN_FLIGHT);
    let finish = |ticket: PullTicket, spare: &mut Vec<Vec<f32>>| {
        let rows = ticket.wait().expect("an answered pull");
        assert_eq!(rows.len(), KEYS, "a row for each key");
        spare.push(rows.into_values());
    };
    for _ in 0..calls {
        if in_flight.len() == IN_FLIGHT
            && let Some(oldest) = in_flight.pop_front()
        {
            finish(oldest, spare);
        }
        let pull = Pull { buffer: spare.pop().unwrap_or_default(), ..Pull::default() };
        in_flight.push_back(table.pull_with(turn.step(), pull).expect("a pull of good keys"));
    }
    for ticket in in_flight {
        finish(ticket, spare);
    }
}

fn through_a_fabric(
    criterion: &mut Criterion,
    load: &Load,
    alone: &mut Alone,
    fabric: FabricChoice,
    name: &str,
) {
    let cluster = cluster(fabric);
    let table = table(&cluster, load);
    let key_lists: Vec<KeyList> =
        load.lists.iter().map(|keys| KeyList::new(keys.clone()).expect("good keys")).collect();
    let naive = Naive::start(load);
    let work = Work::Count(KEYS as u64, "keys");

    let mut claim = Claim::new(criterion, format!("end to end/push/{name}"), work);
    let mut turn = Turn::new(&naive.lists);
    claim.baseline_many("HashMap behind a channel", |calls| naive.run(&mut turn, calls, Ask::Push));
    let mut turn = Turn::new(&load.lists);
    claim.case_many("slices", |calls| pushes(&table, &mut turn, &load.gradient, calls));
    let mut turn = Turn::new(&key_lists);
    claim.case_many("key lists", |calls| pushes(&table, &mut turn, &load.gradient, calls));
    let mut turn = Turn::new(&alone.digests);
    claim.bound("store alone", || {
        let pushed = alone.store.push_cached(TABLE, PARTITION, SESSION, *turn.step(), &load.gradient);
        pushed.expect("a list that is kept");
    });
    claim.finish();

    let mut claim = Claim::new(criterion, format!("end to end/pull/{name}"), work);
    let mut turn = Turn::new(&naive.lists);
    claim.baseline_many("HashMap behind a channel", |calls| naive.run(&mut turn, calls, Ask::Pull));
    let mut spare = Vec::new();
    let mut turn = Turn::new(&load.lists);
    claim.case_many("slices", |calls| pulls(&table, &mut turn, &mut spare, calls));
    let mut turn = Turn::new(&key_lists);
    claim.case_many("key lists", |calls| pulls(&table, &mut turn, &mut spare, calls));
    let mut turn = Turn::new(&alone.digests);
    let (mut out, mut found) = (vec![0.0; KEYS], vec![0; KEYS.div_ceil(64)]);
    claim.bound("store alone", || {
        let digest = *turn.step();
        let pulled = alone.store.pull_cached(TABLE, PARTITION, SESSION, digest, &mut out, &mut found);
        pulled.expect("a list that is kept");
    });
    claim.finish();
    naive.stop();

    let mut claim =
        Claim::new(criterion, format!("end to end/one key/{name}"), Work::Count(1, "round trips"));
    let mut key = Random(2);
    let mut row = Vec::with_capacity(1);
    claim.latency("pull", || table.pull_into(&[key.below(SPACE)], &mut row).expect("a pull of a good key"));
    claim.latency("push", || {
        let pushed = table.push(&[key.below(SPACE)], &[0.5]).expect("a push of a good key");
        pushed.wait().expect("an acknowledged push");
    });
    claim.finish();
}

fn main() {
    let mut criterion = criterion(Duration::from_secs(1));
    let load = Load::new();
    let mut alone = Alone::new(&load);
    for (fabric, name) in [(FabricChoice::Shm, "shm"), (FabricChoice::Tcp, "tcp loopback")] {
        through_a_fabric(&mut criterion, &load, &mut alone, fabric, name);
    }
    criterion.final_summary();
}
