//! A large cluster: what a death costs its coordinator, and whom it bothers.

use std::time::Instant;

use super::*;

const SERVERS: u32 = 1000;
const CLIENTS: u64 = 10_000;
/// As many as a cluster may have.
const MOST_PARTITIONS: u32 = 1 << 16;

/// A coordinator of a large cluster, all of whose servers and clients are here and know what they hold.
fn large() -> (Coordinator, Duration) {
    let mut record = Record::new(CLUSTER, LINK_KEY, MOST_PARTITIONS, 2);
    let shards: Vec<Vec<ShardId>> = (0..SERVERS).map(|server| vec![ShardId(server)]).collect();
    let placed = crate::cluster::place::place_chains(CLUSTER, MOST_PARTITIONS, 2, &shards).unwrap();
    record.chains = placed.into_iter().map(|members| PartitionChain::of(Epoch(1), members)).collect();
    (record.last_epoch, record.map_version) = (1, 1);
    for server in 1..=SERVERS {
        let first_shard = ShardId(server - 1);
        record.servers.push(super::super::record::ServerRecord {
            server: ServerId(server),
            incarnation: u64::from(server),
            address: format!("10.0.{}.{}:7000", server / 256, server % 256),
            host: HostIdentity::default(),
            door: None,
            ring_bytes: 1 << 20,
            first_shard,
            shards: 1,
            draining: false,
        });
        record.placed_on.push(ServerId(server));
    }
    (record.last_server, record.next_shard) = (SERVERS, SERVERS);
    record.catalog.last_session = CLIENTS;
    record.catalog.sessions = (1..=CLIENTS).map(SessionId).collect();
    record.sessions = (1..=CLIENTS).map(|client| (SessionId(client), client)).collect();
    record.check().unwrap();
    let mut machine = Coordinator::start(record.clone(), Timing::default(), Vec::new());
    machine.take_record();
    let now = Duration::from_millis(1);
    for server in &record.servers {
        let hello = ServerHello {
            incarnation: server.incarnation,
            server: Some((server.server, server.first_shard)),
            address: server.address.clone(),
            host: HostIdentity::default(),
            door: None,
            shards: 1,
            ring_bytes: 1 << 20,
            tables: Vec::new(),
            sessions: Vec::new(),
        };
        let connection = ConnectionId(u64::from(server.server.0));
        machine.on_message(now, connection, (CLUSTER, 0), ToCoordinator::Server(hello));
    }
    for client in 1..=CLIENTS {
        let hello = ClientHello { client, process: String::new(), sessions: vec![SessionId(client)] };
        machine.on_message(now, ConnectionId(100_000 + client), (CLUSTER, 0), ToCoordinator::Client(hello));
    }
    machine.take_complaints();
    let asked: Vec<(ConnectionId, u64)> = machine.take_outputs().into_iter().filter_map(asked).collect();
    for (connection, id) in asked {
        let answer = ToCoordinator::Answer { id, result: Ok(Done::Done) };
        machine.on_message(now, connection, (CLUSTER, 1), answer);
    }
    machine.take_outputs();
    machine.take_record();
    (machine, now)
}

fn asked(output: Output) -> Option<(ConnectionId, u64)> {
    match output {
        Output::Send(connection, FromCoordinator::Ask { id, ask: Ask::Hold { .. } }) => {
            Some((connection, id))
        }
        _ => None,
    }
}

mod slow {
    use super::*;

    /// 1,000 servers, 10,000 clients, 65,536 partitions of two copies.
    #[test]
    fn a_death_in_a_large_cluster_concerns_few_and_is_decided_soon() {
        let (mut machine, start) = large();
        let died = ConnectionId(17);
        let shard = ShardId(16);
        let concerned: BTreeSet<ShardId> = machine
            .chains
            .held_by(shard)
            .flat_map(|partition| machine.chains.of(partition).unwrap().members.clone())
            .filter(|member| *member != shard)
            .collect();
        machine.on_closed(start, died);
        let mut now = start;
        for _ in 0..5 {
            now += Duration::from_millis(20);
            for server in (1..=u64::from(SERVERS)).filter(|server| *server != died.0) {
                let renew = ToCoordinator::Renew { sent_us: 0 };
                machine.on_message(now, ConnectionId(server), (CLUSTER, 1), renew);
            }
        }
        machine.take_outputs();
        now += Duration::from_millis(20);
        let began = Instant::now();
        machine.tick(now);
        let record = machine.take_record().expect("it is decided");
        let outputs = machine.take_outputs();
        let decided = began.elapsed();
        let bytes: usize = outputs
            .iter()
            .filter_map(|output| match output {
                Output::Send(_, message) => Some(serde_json::to_vec(message).unwrap().len()),
                Output::Close(_) => None,
            })
            .sum();
        let stored = serde_json::to_vec(&record).unwrap().len();
        let made = began.elapsed();
        let told: BTreeSet<ShardId> = outputs
            .into_iter()
            .filter_map(asked)
            .map(|(connection, _)| ShardId(connection.0 as u32 - 1))
            .collect();
        println!(
            "decided in {decided:?}; with {bytes} bytes of messages to {} servers and a record of {stored} bytes in \
             {made:?}",
            told.len()
        );
        // Those of its chains; and, of those that take its copies over, at most two for each thread that sends.
        assert!(told.is_superset(&concerned) && told.len() < 3 * concerned.len(), "{} told", told.len());
        // Seconds mean that somebody looks at everything for each of something; a figure is no test's business.
        assert!(made < Duration::from_secs(20), "{made:?}");
    }
}
