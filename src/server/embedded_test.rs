//! The assembled cluster, with its real threads.

use std::net::TcpStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use gradwire_kernels::{Dtype, Rule};
use zerocopy::IntoBytes;

use super::{Embedded, EmbeddedConfig};
use crate::control::{ControlError, ControlPlane};
use crate::lane::{Fabric, FabricKind, LaneId, Port};
use crate::store::{Init, TableKind, TableSchema};
use crate::wire::ids::{Epoch, PartitionId, RequestId, Sequence, SessionId, ShardId, TableId};
use crate::wire::{Header, Kind, PushBody, padded};

const WATCHDOG: Duration = Duration::from_secs(30);

fn config(fabric: FabricKind) -> EmbeddedConfig {
    EmbeddedConfig {
        shards: 3,
        partitions: 3,
        fabric,
        memory_bytes: 64 << 20,
        ring_bytes: 256 << 10,
        log_bytes: 1 << 20,
        ..EmbeddedConfig::default()
    }
}

fn schema(name: &str, dim: u32, partitions: u32) -> TableSchema {
    TableSchema {
        name: name.into(),
        kind: TableKind::Sparse,
        dim,
        dtype: Dtype::F32,
        rule: Rule::Add,
        init: Init::Zero,
        seed: 5,
        partitions,
    }
}

/// Runs a body that could hang on a thread of its own.
fn watched<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, outcome) = mpsc::channel();
    let thread = std::thread::spawn(move || done.send(body()));
    match outcome.recv_timeout(WATCHDOG) {
        Ok(outcome) => outcome,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("the test hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(thread.join().expect_err("it said nothing"))
        }
    }
}

/// Sends one push of one key and waits for the record that answers it.
fn push_and_wait(
    port: &mut Port,
    lane: LaneId,
    session: SessionId,
    table: TableId,
    partition: PartitionId,
    key: u64,
) -> Kind {
    let body = PushBody {
        resolved: 0.into(),
        digest: [0.into(), 0.into()],
        keys: 1.into(),
        dim: 1.into(),
        op: 0,
        key_form: 0,
        encoding: 0,
        level: 1,
        reserved: [0; 12],
    };
    let mut payload = body.as_bytes().to_vec();
    payload.extend_from_slice(&key.to_le_bytes());
    payload.extend_from_slice(&1.0f32.to_le_bytes());
    let header = Header {
        session,
        table,
        partition,
        epoch: Epoch(1),
        sequence: Sequence(1),
        request: RequestId(1),
        ..Header::new(Kind::Push, payload.len() as u32)
    };
    payload.resize(padded(payload.len()), 0);
    port.write(lane, &[&header.to_bytes(), &payload], true).unwrap();
    port.flush();
    let mut events = Vec::new();
    loop {
        if let Some(header) = port.peek(lane) {
            port.consume(lane);
            return header.kind;
        }
        port.wait(Duration::from_millis(100));
        port.poll(&mut events);
        assert!(!events.iter().any(|event| matches!(event, crate::lane::Event::Down { .. })), "{events:?}");
    }
}

#[test]
fn every_partition_takes_pushes_over_either_fabric() {
    for fabric in [FabricKind::Shm, FabricKind::Tcp] {
        watched(move || {
            let cluster = Embedded::start(config(fabric)).unwrap();
            let (table, schema) = cluster.open_table(&schema("w", 1, 3)).unwrap();
            let (session, _) = cluster.begin_session().unwrap();
            let mut port = Port::new().unwrap();
            for partition in (0..3).map(PartitionId) {
                let shard = cluster.map().head_of(partition).unwrap();
                let lane = port.adopt(cluster.connect(session, shard).unwrap()).unwrap();
                assert_eq!(port.kind(lane), Some(fabric));
                let key = (0..).find(|&key| schema.partition_of(key) == partition).unwrap();
                assert_eq!(push_and_wait(&mut port, lane, session, table, partition, key), Kind::Outcome);
            }
            let status = cluster.status().unwrap();
            assert_eq!(status.tables[0].rows, 3);
            assert!(
                status.partitions.iter().all(|at| at.rows == 1 && at.sessions == 1 && at.lsn == at.acked_lsn)
            );
            assert_eq!(status.shards.iter().map(|shard| shard.pushes).sum::<u64>(), 3);
            cluster.end_session(session);
            assert_eq!(cluster.status().unwrap().partitions[0].sessions, 0);
            cluster.shutdown().unwrap();
        });
    }
}

#[test]
fn a_table_is_opened_again_by_its_schema_and_by_no_other() {
    watched(|| {
        let cluster = Embedded::start(config(FabricKind::Shm)).unwrap();
        let (first, _) = cluster.open_table(&schema("w", 1, 3)).unwrap();
        assert_eq!(cluster.open_table(&schema("w", 1, 3)).unwrap().0, first);
        let error = cluster.open_table(&schema("w", 2, 3)).unwrap_err();
        assert!(matches!(&error, ControlError::SchemaMismatch { name, .. } if name == "w"), "{error}");
        assert!(matches!(cluster.open_table(&schema("v", 1, 2)), Err(ControlError::Catalog(_))));
        cluster.drop_table("w").unwrap();
        assert!(matches!(cluster.drop_table("w"), Err(ControlError::NoTable { .. })));
        assert!(cluster.open_table(&schema("w", 2, 3)).unwrap().0 > first);
    });
}

#[test]
fn a_table_that_one_shard_can_not_make_is_on_none() {
    watched(|| {
        let cluster =
            Embedded::start(EmbeddedConfig { memory_bytes: 8 << 20, ..config(FabricKind::Shm) }).unwrap();
        let huge = TableSchema { kind: TableKind::Dense { rows: 1 << 24 }, ..schema("huge", 64, 3) };
        let error = cluster.open_table(&huge).unwrap_err();
        assert!(matches!(error, ControlError::Table { .. }), "{error}");
        assert!(cluster.status().unwrap().tables.is_empty());
        cluster.open_table(&schema("huge", 1, 3)).unwrap();
    });
}

#[test]
fn sessions_that_open_one_table_at_once_get_one_table() {
    watched(|| {
        let cluster = Embedded::start(config(FabricKind::Shm)).unwrap();
        let ids: Vec<TableId> = std::thread::scope(|scope| {
            let open = || cluster.open_table(&schema("w", 1, 3)).unwrap().0;
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]));
        assert_eq!(cluster.status().unwrap().tables.len(), 1);
    });
}

#[test]
fn a_barrier_lets_all_go_at_once_and_nobody_wait_for_ever() {
    watched(|| {
        let cluster = Embedded::start(config(FabricKind::Shm)).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..50 {
                        cluster.barrier(&format!("b{}", round % 2), 4, WATCHDOG).unwrap();
                    }
                });
            }
        });
        let alone = cluster.barrier("alone", 2, Duration::from_millis(20));
        assert!(matches!(alone, Err(ControlError::Deadline { .. })), "{alone:?}");
        assert!(matches!(cluster.barrier("none", 0, WATCHDOG), Err(ControlError::Barrier(_))));
    });
}

#[test]
fn a_shard_that_a_bug_ended_is_an_error_and_not_a_hang() {
    watched(|| {
        let cluster = Embedded::start(config(FabricKind::Shm)).unwrap();
        let (session, _) = cluster.begin_session().unwrap();
        let mut port = Port::new().unwrap();
        let lane = port.adopt(cluster.connect(session, ShardId(1)).unwrap()).unwrap();
        cluster.group.shard(ShardId(1)).unwrap().fail();
        assert!(matches!(cluster.status(), Err(ControlError::ShardGone { shard: ShardId(1) })));
        assert!(matches!(cluster.begin_session(), Err(ControlError::ShardGone { shard: ShardId(1) })));
        assert!(matches!(cluster.connect(session, ShardId(1)), Err(ControlError::ShardGone { .. })));
        assert!(matches!(cluster.open_table(&schema("w", 1, 3)), Err(ControlError::ShardGone { .. })));
        // Its lanes are down, not silent.
        let mut events = Vec::new();
        while !events
            .iter()
            .any(|event| matches!(event, crate::lane::Event::Down { lane: down, .. } if *down == lane))
        {
            port.wait(Duration::from_millis(50));
            port.poll(&mut events);
        }
        assert!(matches!(cluster.shutdown(), Err(ControlError::ShardGone { shard: ShardId(1) })));
    });
}

#[test]
fn silent_and_foreign_connections_do_not_keep_others_out() {
    watched(|| {
        use std::io::Write;
        let cluster = Embedded::start(config(FabricKind::Tcp)).unwrap();
        let address = cluster.map().shards[0].address.unwrap();
        let silent: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut foreign = TcpStream::connect(address).unwrap();
        foreign.write_all(b"GET / HTTP/1.1\r\nHost: gradwire\r\n\r\n").unwrap();
        let (session, _) = cluster.begin_session().unwrap();
        let mut port = Port::new().unwrap();
        port.adopt(cluster.connect(session, ShardId(0)).unwrap()).unwrap();
        assert!(matches!(cluster.connect(session, ShardId(9)), Err(ControlError::NoShard { .. })));
        drop(silent);
        cluster.shutdown().unwrap();
    });
}

#[test]
fn settings_out_of_range_are_named() {
    let wrong = EmbeddedConfig { shards: 0, ..config(FabricKind::Shm) };
    assert!(matches!(Embedded::start(wrong), Err(ControlError::Setting { setting: "servers", .. })));
    let wrong = EmbeddedConfig { partitions: 0, ..config(FabricKind::Shm) };
    assert!(matches!(Embedded::start(wrong), Err(ControlError::Map(_))));
    let wrong = EmbeddedConfig { log_bytes: 1000, ..config(FabricKind::Shm) };
    assert!(matches!(Embedded::start(wrong), Err(ControlError::Machine { .. })));
    let cluster = Embedded::start(EmbeddedConfig { ring_bytes: 1000, ..config(FabricKind::Shm) }).unwrap();
    let (session, _) = cluster.begin_session().unwrap();
    assert!(matches!(cluster.connect(session, ShardId(0)), Err(ControlError::Lane(_))));
}

/// An idle thread's CPU time, as the scheduler counted it; the span is what the measurement is over.
#[test]
fn an_idle_server_thread_uses_under_a_hundredth_of_a_core() {
    watched(|| {
        for fabric in [FabricKind::Shm, FabricKind::Tcp] {
            let cluster = Embedded::start(config(fabric)).unwrap();
            let (session, _) = cluster.begin_session().unwrap();
            let mut port = Port::new().unwrap();
            for shard in (0..3).map(ShardId) {
                port.adopt(cluster.connect(session, shard).unwrap()).unwrap();
            }
            let cpu = || {
                let shards = cluster.status().unwrap().shards;
                shards.iter().map(|shard| shard.cpu_ns.unwrap()).collect::<Vec<u64>>()
            };
            let (before, start) = (cpu(), Instant::now());
            port.wait(Duration::from_millis(1500));
            while start.elapsed() < Duration::from_secs(1) {
                port.wait(Duration::from_millis(100));
            }
            let spent = start.elapsed();
            for (after, before) in cpu().iter().zip(before) {
                let share = (after - before) as f64 / spent.as_nanos() as f64;
                println!("an idle server thread over {}: {:.3} % of a core", fabric.name(), share * 100.0);
                assert!(share < 0.01);
            }
            cluster.shutdown().unwrap();
        }
    });
}
