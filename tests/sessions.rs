//! Sessions against a cluster, embedded and of other processes, over every fabric: what is acknowledged is there, once, and nothing else is.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use gradwire::cluster::message::Timing;
use gradwire::server::coordinator::{CoordinatorConfig, CoordinatorProcess, CoordinatorStop};
use gradwire::server::{ServerConfig, ServerProcess, ServerStop};
use gradwire::{
    Ack, Adagrad, Add, Assign, Clock, Cluster, ClusterConfig, ConnectConfig, Dtype, Error, FabricChoice,
    Init, KeyList, Pull, Push, RefusalCode, Sgd, TableOptions,
};

/// A small deterministic source of numbers for the tests.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn keys(&mut self, most: u64, space: u64) -> Vec<u64> {
        let mut keys: Vec<u64> = (0..1 + self.below(most)).map(|_| self.below(space)).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

fn config(fabric: FabricChoice) -> ClusterConfig {
    // Small rings wrap and fill up often.
    ClusterConfig { fabric, ring_bytes: 64 << 10, partitions: Some(3), ..ClusterConfig::default() }
}

/// A coordinator and a server as their processes run them, on threads of this one: for `Cluster::connect`.
struct Apart {
    coordinator: CoordinatorStop,
    server: ServerStop,
    threads: Vec<std::thread::JoinHandle<()>>,
    address: String,
    _store: tempfile::TempDir,
}

impl Apart {
    fn start() -> Self {
        let store = tempfile::tempdir().unwrap();
        let coordinator = CoordinatorProcess::start(&CoordinatorConfig {
            listen: "127.0.0.1:0".into(),
            store: store.path().to_owned(),
            partitions: Some(3),
            replicas: 1,
            // Nobody is given up on a machine that is busy with other tests.
            timing: Timing { lease_ms: 60_000, client_lease_ms: 60_000, ..Timing::default() },
        })
        .unwrap();
        let address = coordinator.address().to_string();
        let server = ServerProcess::start(ServerConfig {
            coordinators: vec![address.clone()],
            listen: "127.0.0.1:0".into(),
            shards: 2,
            cores: Vec::new(),
            shm: true,
            memory_bytes: 8 << 30,
            ring_bytes: 4 << 20,
            spin: Duration::from_micros(50),
            connect_timeout: Duration::from_secs(60),
        })
        .unwrap();
        let (stop, server_stop) = (coordinator.stopper(), server.stopper());
        let threads = vec![
            std::thread::spawn(move || coordinator.run(|_| {}).unwrap()),
            std::thread::spawn(move || server.run(|_| {}).unwrap()),
        ];
        Self { coordinator: stop, server: server_stop, threads, address, _store: store }
    }

    fn connect(&self, fabric: FabricChoice) -> Cluster {
        let ring_bytes = config(fabric).ring_bytes;
        let cluster = Cluster::connect_with(
            &self.address,
            ConnectConfig { fabric, ring_bytes, ..ConnectConfig::default() },
        )
        .unwrap();
        assert_eq!((cluster.fabric(), cluster.fabric_reason()), (fabric_name(fabric), "asked for"));
        cluster
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        self.server.stop();
        self.coordinator.stop();
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a server or its coordinator failed");
        }
    }
}

fn fabric_name(fabric: FabricChoice) -> &'static str {
    if fabric == FabricChoice::Tcp { "tcp" } else { "shm" }
}

/// In one process, and in several, over each fabric.
fn on_each_fabric(test: impl Fn(Cluster)) {
    for fabric in [FabricChoice::Shm, FabricChoice::Tcp] {
        test(Cluster::embedded(config(fabric)).unwrap());
        let apart = Apart::start();
        test(apart.connect(fabric));
    }
}

#[test]
fn every_push_of_every_worker_counts_once() {
    on_each_fabric(|cluster| {
        let totals = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..3)
                .map(|worker| {
                    let cluster = cluster.clone();
                    scope.spawn(move || {
                        let session = cluster.session().unwrap();
                        let table = session.sparse("counts", 2, Add).unwrap();
                        let mut numbers = Numbers(worker);
                        let mut sums: BTreeMap<u64, u64> = BTreeMap::new();
                        let mut lists: Vec<KeyList> = Vec::new();
                        for round in 0..400 {
                            let keys = if round % 3 == 0 && !lists.is_empty() {
                                lists[numbers.below(lists.len() as u64) as usize].clone()
                            } else {
                                lists.push(KeyList::new(numbers.keys(300, 5000)).unwrap());
                                lists[lists.len() - 1].clone()
                            };
                            let amount = 1 + numbers.below(5);
                            let gradient: Vec<f32> = keys.iter().flat_map(|_| [amount as f32, 1.0]).collect();
                            if numbers.below(2) == 0 {
                                table.push(&keys, &gradient).unwrap();
                            } else {
                                table.push(&keys[..], &gradient).unwrap();
                            }
                            keys.iter().for_each(|key| *sums.entry(*key).or_default() += amount);
                        }
                        session.flush().unwrap();
                        sums
                    })
                })
                .collect();
            let mut totals: BTreeMap<u64, u64> = BTreeMap::new();
            for worker in workers {
                for (key, sum) in worker.join().unwrap() {
                    *totals.entry(key).or_default() += sum;
                }
            }
            totals
        });
        let all = cluster.session().unwrap().sparse("counts", 2, Add).unwrap().export().unwrap();
        assert_eq!(all.keys, totals.keys().copied().collect::<Vec<_>>());
        let sums: Vec<u64> = all.values.chunks_exact(2).map(|row| row[0] as u64).collect();
        assert_eq!(sums, totals.into_values().collect::<Vec<_>>());
    });
}

#[test]
fn a_pull_sees_the_pushes_its_session_made_before() {
    on_each_fabric(|cluster| {
        let session = cluster.session().unwrap();
        let table = session.sparse("w", 1, Add).unwrap();
        let keys = KeyList::new((0..200).collect::<Vec<u64>>()).unwrap();
        for round in 1..=50 {
            table.push(&keys, &[1.0; 200]).unwrap();
            let rows = table.pull(&keys).unwrap().wait().unwrap();
            assert!(rows.iter().all(|value| *value == round as f32));
        }
    });
}

#[test]
fn a_request_larger_than_a_ring_is_split() {
    on_each_fabric(|cluster| {
        let session = cluster.session().unwrap();
        let options = TableOptions { init: Init::Uniform { scale: 0.5 }, ..TableOptions::default() };
        let table = session.sparse_with("wide", 16, Sgd { lr: 1.0 }, options).unwrap();
        let keys: Vec<u64> = (0..20_000).map(|key| key * 7).collect();
        let before = table.pull(&keys).unwrap().wait().unwrap();
        assert!((0..keys.len()).all(|index| !before.found(index)));
        table.push(&keys, &vec![1.0; keys.len() * 16]).unwrap().wait().unwrap();
        let after = table.pull(&keys).unwrap().wait().unwrap();
        assert!((0..keys.len()).all(|index| after.found(index)));
        assert!(before.iter().zip(after.iter()).all(|(before, after)| before - 1.0 == *after));
    });
}

#[test]
fn a_row_that_fits_no_record_says_which_ring_would_do() {
    let cluster = Cluster::embedded(config(FabricChoice::Shm)).unwrap();
    let session = cluster.session().unwrap();
    let table = session.sparse("w", 8192, Add).unwrap();
    let error = table.push(&[1], &[0.0; 8192]).unwrap_err();
    assert!(matches!(error, Error::RowTooLarge { .. }), "{error}");
}

#[test]
fn past_the_memory_budget_new_rows_are_refused_and_the_rest_goes_on() {
    let config = ClusterConfig { servers: 1, memory_bytes: 8 << 20, ..ClusterConfig::default() };
    let cluster = Cluster::embedded(config).unwrap();
    let session = cluster.session().unwrap();
    let table = session.sparse("w", 64, Add).unwrap();
    table.push(&[1, 2], &[1.0; 128]).unwrap().wait().unwrap();
    let many: Vec<u64> = (100..60_000).collect();
    let ticket = table.push(&many, &vec![1.0; many.len() * 64]).unwrap();
    let error = ticket.wait().unwrap_err();
    assert!(matches!(error, Error::Refused { code: RefusalCode::Memory, .. }), "{error}");
    drop(ticket);
    session.flush().expect("the holder of the ticket was told already");
    table.push(&[1, 2], &[1.0; 128]).unwrap().wait().unwrap();
    assert_eq!(table.pull(&[1]).unwrap().wait().unwrap()[0], 2.0);
}

#[test]
fn a_refusal_whose_ticket_was_dropped_comes_out_of_the_next_flush() {
    let config = ClusterConfig { servers: 1, memory_bytes: 8 << 20, ..ClusterConfig::default() };
    let cluster = Cluster::embedded(config).unwrap();
    let session = cluster.session().unwrap();
    let table = session.sparse("w", 64, Add).unwrap();
    let many: Vec<u64> = (100..60_000).collect();
    drop(table.push(&many, &vec![1.0; many.len() * 64]).unwrap());
    let error = session.flush().unwrap_err();
    assert!(matches!(error, Error::Refused { code: RefusalCode::Memory, .. }), "{error}");
    session.flush().unwrap();
}

#[test]
fn a_table_opens_again_with_its_schema_and_with_no_other() {
    let cluster = Cluster::embedded(ClusterConfig::default()).unwrap();
    let first = cluster.session().unwrap();
    first.sparse("w", 4, Adagrad::default()).unwrap().push(&[9], &[1.0; 4]).unwrap().wait().unwrap();
    let second = cluster.session().unwrap();
    assert!(second.sparse("w", 4, Adagrad::default()).unwrap().contains(9).unwrap());
    let error = second.sparse("w", 5, Adagrad::default()).unwrap_err().to_string();
    assert!(error.contains('w') && error.contains('5') && error.contains('4'), "{error}");
    assert!(second.sparse("", 1, Add).is_err());
    assert!(second.sparse("zero", 0, Add).is_err());
    assert!(second.sparse("negative", 1, Sgd { lr: -1.0 }).is_err());
}

#[test]
fn a_dropped_table_is_gone_for_everyone() {
    let cluster = Cluster::embedded(ClusterConfig::default()).unwrap();
    let session = cluster.session().unwrap();
    let table = session.sparse("w", 1, Add).unwrap();
    table.push(&[1], &[1.0]).unwrap().wait().unwrap();
    session.drop_table("w").unwrap();
    assert!(matches!(table.pull(&[1]).unwrap().wait(), Err(Error::Pull { .. })));
    let error = table.push(&[1], &[1.0]).unwrap().wait().unwrap_err();
    assert!(matches!(error, Error::Refused { code: RefusalCode::NoTable, .. }), "{error}");
    assert!(session.drop_table("w").is_err());
    let anew = session.sparse("w", 1, Add).unwrap();
    assert!(!anew.contains(1).unwrap());
}

#[test]
fn a_bounded_pull_waits_for_the_slowest_worker_and_tells_who_is_late() {
    on_each_fabric(|cluster| {
        let fast = cluster.session().unwrap();
        let slow = cluster.session().unwrap();
        let fast_table = fast.sparse("w", 1, Add).unwrap();
        let slow_table = slow.sparse("w", 1, Add).unwrap();
        for _ in 0..3 {
            fast.clock().unwrap();
        }
        slow.clock().unwrap();
        slow.flush().unwrap();
        fast.set_staleness(Some(1));
        // The slow worker is at 1, the bound asks for 2: a short deadline must pass.
        let short = Pull { deadline: Some(Duration::from_millis(200)), ..Pull::default() };
        let error = fast_table.pull_with(&[1], short).unwrap().wait().unwrap_err();
        assert!(matches!(error, Error::Pull { .. } | Error::Deadline { .. }), "{error}");
        let pull = fast_table.pull(&[1]).unwrap();
        slow_table.push(&[1], &[5.0]).unwrap();
        slow.clock().unwrap();
        slow.flush().unwrap();
        let rows = pull.wait().unwrap();
        assert_eq!(rows[0], 5.0, "what was pushed before the clock is in it");
        assert_eq!(rows.staleness(), Some(1));
    });
}

#[test]
fn a_worker_that_ends_does_not_hold_the_others_back() {
    let cluster = Cluster::embedded(config(FabricChoice::Shm)).unwrap();
    let stays = cluster.session().unwrap();
    let goes = cluster.session().unwrap();
    goes.clock().unwrap();
    let table = stays.sparse("w", 1, Add).unwrap();
    stays.set_staleness(Some(0));
    (0..5).for_each(|_| assert!(stays.clock().is_ok()));
    let pull = table.pull(&[1]).unwrap();
    drop(goes);
    pull.wait().unwrap();
}

#[test]
fn a_push_can_wait_for_another() {
    let cluster = Cluster::embedded(config(FabricChoice::Shm)).unwrap();
    let session = cluster.session().unwrap();
    let table = session.sparse("w", 1, Add).unwrap();
    let first = table.push(&[1], &[1.0]).unwrap();
    let applied = Push { after: &[&first], ack: Ack::Applied, ..Push::default() };
    let second = table.push_with(&[2], &[1.0], applied).unwrap();
    assert!(first.done());
    second.wait().unwrap();
}

#[test]
fn dense_tables_have_all_their_rows_and_no_others() {
    on_each_fabric(|cluster| {
        let session = cluster.session().unwrap();
        let table = session.dense("V", 1000, 3, Add).unwrap();
        let rows: Vec<u64> = (0..1000).step_by(3).collect();
        table.push(&rows, &vec![2.0; rows.len() * 3]).unwrap().wait().unwrap();
        let all = table.pull_all().unwrap().wait().unwrap();
        for (row, values) in all.chunks_exact(3).enumerate() {
            assert_eq!(values, if row % 3 == 0 { [2.0; 3] } else { [0.0; 3] }, "row {row}");
        }
        let error = table.push(&[1000], &[0.0; 3]).unwrap().wait().unwrap_err();
        assert!(matches!(error, Error::Refused { code: RefusalCode::RowOutOfRange, .. }), "{error}");
    });
}

#[test]
fn one_session_can_be_shared_between_threads() {
    let cluster = Cluster::embedded(config(FabricChoice::Shm)).unwrap();
    let session = cluster.session().unwrap();
    let table = session.sparse("w", 1, Add).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let table = table.clone();
            scope.spawn(move || {
                for round in 0..100 {
                    table.push(&[thread, 100 + round], &[1.0, 1.0]).unwrap();
                    table.pull(&[thread]).unwrap().wait().unwrap();
                }
            });
        }
    });
    session.flush().unwrap();
    let all = table.export().unwrap();
    assert_eq!(&all.values[..4], [100.0; 4]);
    assert!(all.values[4..].iter().all(|value| *value == 4.0));
}

#[test]
fn wrong_arguments_are_told_and_send_nothing() {
    let cluster = Cluster::embedded(config(FabricChoice::Shm)).unwrap();
    let session = cluster.session().unwrap();
    let table = session.sparse("w", 2, Add).unwrap();
    assert!(matches!(table.push(&[2, 1], &[0.0; 4]), Err(Error::Keys(_))));
    assert!(matches!(table.push(&[1, 2], &[0.0; 3]), Err(Error::Shape { expected: 4, found: 3, .. })));
    assert!(matches!(table.pull(&[u64::MAX]), Err(Error::Keys(_))));
    assert!(table.pull(&[0u64; 0]).unwrap().wait().unwrap().is_empty());
    assert_eq!(table.len().unwrap(), 0);
}

#[test]
fn the_same_seed_gives_the_same_rows_in_another_cluster() {
    let run = || {
        let cluster = Cluster::embedded(ClusterConfig::default()).unwrap();
        let session = cluster.session().unwrap();
        let options =
            TableOptions { init: Init::Uniform { scale: 1.0 }, seed: 11, ..TableOptions::default() };
        let table = session.sparse_with("w", 4, Adagrad::default(), options).unwrap();
        let mut numbers = Numbers(5);
        for _ in 0..50 {
            let keys = numbers.keys(100, 1000);
            let gradient: Vec<f32> =
                (0..keys.len() * 4).map(|_| numbers.below(100) as f32 / 50.0 - 1.0).collect();
            table.push(&keys, &gradient).unwrap();
        }
        table.export().unwrap()
    };
    assert_eq!(run(), run());
}

#[test]
fn every_way_to_change_and_read_rows_works_over_every_fabric() {
    on_each_fabric(|cluster| {
        let session = cluster.session().unwrap();
        let options = TableOptions { dtype: Dtype::Bf16, ..TableOptions::default() };
        let table = session.sparse_with("half", 2, Add, options).unwrap();
        let keys: Vec<u64> = (0..100).collect();
        let seen = table.push_pull(&keys, &[1.5; 200]).unwrap().wait().unwrap();
        assert!(seen.iter().all(|value| *value == 1.5), "1.5 has a bf16");
        table.assign(&keys[..50], &[-2.0; 100]).unwrap();
        table.erase(&keys[90..]).unwrap();
        let strong = Pull { strong: true, ..Pull::default() };
        let rows = table.pull_with(&keys, strong).unwrap().wait().unwrap();
        for (key, row) in rows.chunks_exact(2).enumerate() {
            let expected = if key < 50 {
                -2.0
            } else if key < 90 {
                1.5
            } else {
                0.0
            };
            assert_eq!((row, rows.found(key)), (&[expected; 2][..], key < 90), "key {key}");
        }
        assert_eq!(table.len().unwrap(), 90);
        let all = table.export().unwrap();
        let copy = session.sparse_with("copy", 2, Add, options).unwrap();
        copy.import(&all.keys, &all.rows).unwrap();
        assert_eq!(copy.export().unwrap(), all);
        let clock = session.clock().unwrap();
        let waiting = Pull { at_least: Some(clock), ..Pull::default() };
        let rows = table.pull_with(&[1], waiting).unwrap().wait().unwrap();
        assert!(rows.clock() >= Some(clock));
    });
}

#[test]
fn a_pull_sees_the_push_before_it_also_when_that_push_had_to_be_sent_again() {
    on_each_fabric(|cluster| {
        let session = cluster.session().unwrap();
        let table = session.sparse("w", 1, Assign).unwrap();
        let list = KeyList::new((0..50).collect::<Vec<u64>>()).unwrap();
        for round in 1..=50u16 {
            let value = f32::from(round);
            table.push(&list, &[0.0; 50]).unwrap().wait().unwrap();
            // A server takes an assignment by name for a list it does not keep, and turns back what follows it.
            table.assign(&list, &[0.5; 50]).unwrap();
            let rows = table.push_pull(&[2], &[value]).unwrap().wait().unwrap();
            assert_eq!(rows[0], value);
        }
    });
}

#[test]
fn a_bounded_pull_over_many_partitions_waits_in_all_of_them() {
    let config = ClusterConfig { servers: 1, partitions: Some(128), ..ClusterConfig::default() };
    let cluster = Cluster::embedded(config).unwrap();
    let (fast, slow) = (cluster.session().unwrap(), cluster.session().unwrap());
    let table = fast.sparse("w", 1, Add).unwrap();
    fast.clock().unwrap();
    fast.set_staleness(Some(0));
    let keys: Vec<u64> = (0..5000).collect();
    let pull = table.pull(&keys).unwrap();
    assert!(!pull.ready());
    slow.clock().unwrap();
    slow.flush().unwrap();
    assert_eq!(pull.wait().unwrap().len(), 5000);
}

#[test]
fn tables_of_wide_rows_export_through_small_rings() {
    on_each_fabric(|cluster| {
        let session = cluster.session().unwrap();
        for (dim, rows) in [(1024, 200u64), (64, 4000)] {
            let table = session.sparse(&format!("dim {dim}"), dim, Add).unwrap();
            let keys: Vec<u64> = (0..rows).collect();
            let values: Vec<f32> = (0..rows as usize * dim).map(|i| (i % 1000) as f32).collect();
            table.push(&keys, &values).unwrap().wait().unwrap();
            let all = table.export().unwrap();
            assert!(all.keys == keys && all.values == values, "dim {dim}");
        }
    });
}

#[test]
fn a_pull_that_waits_for_a_clock_does_not_hold_the_clock_back() {
    let config = ClusterConfig { servers: 1, ..config(FabricChoice::Shm) };
    let session = Cluster::embedded(config).unwrap().session().unwrap();
    let table = session.sparse("w", 1, Add).unwrap();
    let keys: Vec<u64> = (0..60_000).collect();
    // The answer takes several times the space that a ring of 64 KiB has for it.
    let ahead = Pull { at_least: Some(Clock(1)), ..Pull::default() };
    let pull = table.pull_with(&keys, ahead).unwrap();
    table.push(&[1], &[1.0]).unwrap();
    session.clock().unwrap();
    let rows = pull.wait().unwrap();
    assert_eq!((rows.len(), rows[1]), (60_000, 1.0));
}

#[test]
fn a_worker_that_comes_late_stands_where_the_slowest_is() {
    let cluster = Cluster::embedded(config(FabricChoice::Shm)).unwrap();
    let early = cluster.session().unwrap();
    for _ in 0..20 {
        early.clock().unwrap();
    }
    early.flush().unwrap();
    let late = cluster.session().unwrap();
    assert_eq!(late.clock().unwrap(), Clock(21));
    late.flush().unwrap();
    early.set_staleness(Some(0));
    early.clock().unwrap();
    let table = early.sparse("w", 1, Add).unwrap();
    assert_eq!(table.pull(&[1]).unwrap().wait().unwrap().staleness(), Some(0));
}

#[test]
fn more_refusals_than_an_outcome_names_are_all_told() {
    let config = ClusterConfig { servers: 1, window: 1000, ..ClusterConfig::default() };
    let session = Cluster::embedded(config).unwrap().session().unwrap();
    let table = session.sparse("w", 1, Add).unwrap();
    session.drop_table("w").unwrap();
    let tickets: Vec<_> = (0..900).filter_map(|_| table.push(&[1], &[1.0]).ok()).collect();
    for ticket in &tickets {
        let error = ticket.wait().unwrap_err();
        assert!(matches!(error, Error::Refused { code: RefusalCode::NoTable, .. }), "{error}");
    }
    assert_eq!(tickets.len(), 900);
    session.flush().unwrap();
}

#[test]
fn no_deadline_is_too_long() {
    let config = ClusterConfig { deadline: Duration::MAX, ..config(FabricChoice::Tcp) };
    let session = Cluster::embedded(config).unwrap().session().unwrap();
    session.sparse("w", 1, Add).unwrap().push(&[1], &[1.0]).unwrap().wait().unwrap();
}
