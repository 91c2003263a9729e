//! The machine against simulated servers and clients, whose messages arrive when a test says so.

use std::collections::{BTreeMap, BTreeSet};

use gradwire_kernels::{Dtype, Rule};
use proptest::prelude::*;

use super::*;
use crate::cluster::message::{
    Ask, ClientHello, Done, HostIdentity, SchemaText, ServerEntry, ServerHello, ServerReport,
};
use crate::cluster::{PartitionChain, Role, ServerState};
use crate::store::{Init, TableKind, TableSchema};
use crate::wire::ids::{Clock, Epoch, PartitionId, ShardId, TableId};

const CLUSTER: u64 = 0xc1;
/// What servers name to each other.
const LINK_KEY: u64 = 11;
const PARTITIONS: u32 = 4;

fn schema(name: &str) -> TableSchema {
    TableSchema {
        name: name.into(),
        kind: TableKind::Sparse,
        dim: 1,
        dtype: Dtype::F32,
        rule: Rule::Add,
        init: Init::Zero,
        seed: 0,
        partitions: PARTITIONS,
    }
}

/// A server process: what it was told, whether or not a coordinator remembers.
#[derive(Clone, Debug, Default)]
struct Server {
    incarnation: u64,
    identity: Option<(ServerId, ShardId)>,
    connection: Option<ConnectionId>,
    held: BTreeMap<PartitionId, Epoch>,
    tables: BTreeSet<TableId>,
    sessions: BTreeSet<SessionId>,
    asks: Vec<(u64, Ask)>,
    /// Refuses to make tables.
    full: bool,
    /// Stopped: it neither says nor does anything, and its connection stands.
    stopped: bool,
    /// Killed: this process never comes back.
    dead: bool,
    replicas: BTreeMap<PartitionId, Replica>,
}

/// A partition at a server: how many pushes it has applied, of those that were ever ordered.
#[derive(Clone, Debug, PartialEq)]
struct Replica {
    shard: ShardId,
    chain: PartitionChain,
    applied: u64,
}

impl Server {
    /// Takes up its roles as a server does: a joiner starts empty under each epoch, a member goes on with what it has.
    fn hold(&mut self, roles: Vec<(ShardId, Role)>) {
        let mut replicas = BTreeMap::new();
        for (shard, Role { partition, chain }) in roles {
            let old = self
                .replicas
                .get(&partition)
                .filter(|old| old.shard == shard && old.chain.epoch >= chain.began);
            let same = old.is_some_and(|old| old.chain.epoch == chain.epoch);
            let kept = same || chain.joiner != Some(shard);
            let applied = old.filter(|_| kept).map_or(0, |old| old.applied);
            assert!(chain.everyone().any(|one| one == shard));
            assert!(
                replicas.insert(partition, Replica { shard, chain, applied }).is_none(),
                "two copies here"
            );
        }
        self.held = replicas.iter().map(|(partition, replica)| (*partition, replica.chain.epoch)).collect();
        self.replicas = replicas;
    }
}

/// A coordinator, its store, and everything that connects to it.
struct World {
    machine: Coordinator,
    stored: Record,
    now: Duration,
    last_connection: u64,
    servers: Vec<Server>,
    clients: BTreeMap<u64, ConnectionId>,
    /// To clients: answers by (connection, request), the newest map, and who was refused.
    answers: BTreeMap<(ConnectionId, u64), Result<Reply, Failure>>,
    maps: BTreeMap<ConnectionId, Map>,
    refused: BTreeMap<ConnectionId, String>,
    requests: u64,
    /// Pushes that clients were told are kept, by partition and the epoch it began under.
    acked: BTreeMap<(PartitionId, Epoch), u64>,
}

impl World {
    fn new(servers: usize) -> Self {
        Self::with_copies(servers, 1)
    }

    fn with_copies(servers: usize, replicas: u32) -> Self {
        let mut world = Self::of(Record::new(CLUSTER, LINK_KEY, PARTITIONS, replicas));
        for _ in 0..servers {
            world.add_server();
        }
        world.run();
        world
    }

    fn of(record: Record) -> Self {
        let mut machine = Coordinator::start(record, Timing::default(), vec!["here:1".to_owned()]);
        let stored = machine.take_record().expect("a term begins with a record");
        Self {
            machine,
            stored,
            now: Duration::ZERO,
            last_connection: 10,
            servers: Vec::new(),
            clients: BTreeMap::new(),
            answers: BTreeMap::new(),
            maps: BTreeMap::new(),
            refused: BTreeMap::new(),
            requests: 0,
            acked: BTreeMap::new(),
        }
    }

    /// The process of a thread that lives.
    fn at(&self, shard: ShardId) -> Option<usize> {
        let own = |server: &Server| {
            server.identity.is_some_and(|(_, first)| (first.0..first.0 + 2).contains(&shard.0))
        };
        (0..self.servers.len()).find(|at| own(&self.servers[*at]) && !self.servers[*at].dead)
    }

    /// The replica of a thread under an epoch, if its process runs.
    fn replica(&mut self, partition: PartitionId, shard: ShardId, epoch: Epoch) -> Option<&mut Replica> {
        let at = self.at(shard).filter(|at| !self.servers[*at].stopped)?;
        let replica = self.servers[at].replicas.get_mut(&partition)?;
        Some(replica).filter(|replica| replica.chain.epoch == epoch && replica.shard == shard)
    }

    /// Chains as their heads see them.
    fn headed(&self) -> Vec<(PartitionId, PartitionChain)> {
        let replicas = self.servers.iter().filter(|server| !server.dead).flat_map(|server| &server.replicas);
        let heads = replicas.filter(|(_, replica)| replica.chain.members[0] == replica.shard);
        heads.map(|(partition, replica)| (*partition, replica.chain.clone())).collect()
    }

    /// Links do their work: who has confirmed an epoch gets what its predecessor has, and says so. With `push`, heads
    /// order one more, which is kept once every member has it.
    fn replicate(&mut self, push: bool) {
        for (partition, chain) in self.headed() {
            let mut above = None;
            let mut whole = true;
            for shard in chain.everyone().collect::<Vec<_>>() {
                let Some(replica) = self.replica(partition, shard, chain.epoch) else {
                    whole &= chain.joiner == Some(shard);
                    break;
                };
                match above {
                    None => replica.applied += u64::from(push),
                    Some(applied) => replica.applied = replica.applied.max(applied),
                }
                above = Some(replica.applied);
                let news =
                    (chain.joiner == Some(shard)) || (chain.unsynced && chain.members.last() == Some(&shard));
                let connection = self.at(shard).and_then(|at| self.servers[at].connection);
                if let (true, Some(connection)) = (news, connection) {
                    self.say(connection, ToCoordinator::Synced { partition, epoch: chain.epoch, shard });
                }
            }
            if let (true, Some(applied)) = (whole, above) {
                let acked = self.acked.entry((partition, chain.began)).or_default();
                *acked = applied.max(*acked);
            }
        }
    }

    /// C2, C7: whoever counts as a copy and lives has everything that was acknowledged.
    fn check_copies(&self) {
        for (at, chain) in self.machine.chains.map().partitions.iter().enumerate() {
            let partition = PartitionId(at as u32);
            let acked = self.acked.get(&(partition, chain.began)).copied().unwrap_or(0);
            for shard in chain.synced() {
                let Some(server) = self.at(*shard).map(|at| &self.servers[at]) else { continue };
                let replica = server.replicas.get(&partition).filter(|old| old.chain.epoch >= chain.began);
                let has = replica.map_or(0, |replica| replica.applied);
                assert!(
                    has >= acked,
                    "partition {at}: {shard} counts in {chain:?} with {has} of {acked}: {replica:?}"
                );
            }
        }
    }

    fn kill(&mut self, at: usize) {
        self.servers[at].dead = true;
        self.servers[at].replicas.clear();
        self.disconnect_server(at);
    }

    /// Partitions of which no copy is left.
    fn lost(&self) -> usize {
        let chains = self.machine.chains.map().partitions.iter();
        chains.filter(|chain| chain.synced().iter().all(|shard| self.at(*shard).is_none())).count()
    }

    /// Everybody has exactly what the map says.
    fn check_agreement(&self) {
        for server in self.servers.iter().filter(|server| !server.dead && server.connection.is_some()) {
            let (_, first) = server.identity.unwrap();
            let roles = [first, ShardId(first.0 + 1)].map(|shard| self.machine.chains.holding(shard));
            let roles: BTreeMap<PartitionId, (ShardId, Epoch)> = roles
                .iter()
                .flat_map(|own| {
                    own.partitions.iter().map(|role| (role.partition, (own.shard, role.chain.epoch)))
                })
                .collect();
            let has: BTreeMap<PartitionId, (ShardId, Epoch)> = server
                .replicas
                .iter()
                .map(|(id, replica)| (*id, (replica.shard, replica.chain.epoch)))
                .collect();
            assert_eq!(has, roles);
        }
    }

    fn connection(&mut self) -> ConnectionId {
        self.last_connection += 1;
        ConnectionId(self.last_connection)
    }

    /// Stores what is to be stored, then hands out what is to be sent.
    fn act(&mut self) {
        if let Some(record) = self.machine.take_record() {
            record.check().expect("the machine records what it accepts");
            let bytes = serde_json::to_vec(&record).unwrap();
            self.stored = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(self.stored, record, "a record reads back");
        }
        for output in self.machine.take_outputs() {
            match output {
                Output::Send(to, FromCoordinator::Ask { id, ask }) => {
                    for server in self.servers.iter_mut().filter(|server| server.connection == Some(to)) {
                        server.asks.push((id, ask.clone()));
                    }
                }
                Output::Send(to, FromCoordinator::Welcome(welcome)) => {
                    for server in self.servers.iter_mut().filter(|server| server.connection == Some(to)) {
                        let known = *server.identity.get_or_insert(welcome.server.unwrap());
                        assert_eq!(Some(known), welcome.server, "a server's numbers never change");
                    }
                }
                Output::Send(to, FromCoordinator::Answer { id, result }) => {
                    assert!(self.answers.insert((to, id), result).is_none(), "answered twice");
                }
                Output::Send(_, FromCoordinator::Renewed { .. }) => {}
                Output::Send(to, FromCoordinator::Map { map, .. }) => {
                    drop(self.maps.insert(to, (*map).clone()))
                }
                Output::Send(to, FromCoordinator::Refused { reason }) => {
                    drop(self.refused.insert(to, reason))
                }
                Output::Close(connection) => {
                    for server in self.servers.iter_mut().filter(|s| s.connection == Some(connection)) {
                        server.connection = None;
                    }
                    self.clients.retain(|_, open| *open != connection);
                }
            }
        }
    }

    fn say(&mut self, from: ConnectionId, message: ToCoordinator) {
        self.machine.on_message(self.now, from, (CLUSTER, self.machine.term()), message);
        self.act();
    }

    fn add_server(&mut self) -> usize {
        let incarnation = 100 + self.servers.len() as u64;
        self.servers.push(Server { incarnation, ..Server::default() });
        self.connect_server(self.servers.len() - 1);
        self.servers.len() - 1
    }

    fn connect_server(&mut self, at: usize) -> ConnectionId {
        let connection = self.connection();
        let server = &mut self.servers[at];
        server.connection = Some(connection);
        server.asks.clear();
        let hello = ServerHello {
            incarnation: server.incarnation,
            server: server.identity,
            address: format!("host:{}", server.incarnation),
            host: HostIdentity::default(),
            door: None,
            shards: 2,
            ring_bytes: 1 << 20,
            tables: server.tables.iter().copied().collect(),
            sessions: server.sessions.iter().copied().collect(),
        };
        self.say(connection, ToCoordinator::Server(hello));
        connection
    }

    fn disconnect_server(&mut self, at: usize) {
        if let Some(connection) = self.servers[at].connection.take() {
            self.machine.on_closed(self.now, connection);
            self.act();
        }
    }

    /// A server carries out its first ask and answers.
    fn carry_out(&mut self, at: usize) -> bool {
        let server = &mut self.servers[at];
        if server.stopped {
            return false;
        }
        let Some(connection) = server.connection.filter(|_| !server.asks.is_empty()) else { return false };
        let (id, ask) = server.asks.remove(0);
        let result = match ask {
            Ask::Hold { partition_count, holdings, peers, tables, sessions, .. } => {
                assert_eq!(partition_count, PARTITIONS);
                let roles = holdings
                    .into_iter()
                    .flat_map(|own| own.partitions.into_iter().map(move |role| (own.shard, role)));
                let roles: Vec<(ShardId, Role)> = roles.collect();
                let own = server.identity.unwrap().1;
                let known = |shard: ShardId| {
                    let entry = |peer: &ServerEntry| peer.first_shard == ShardId(shard.0 & !1);
                    own == ShardId(shard.0 & !1) || peers.iter().any(entry)
                };
                assert!(
                    roles.iter().flat_map(|(_, role)| role.chain.everyone()).all(known),
                    "a peer is missing"
                );
                server.tables.retain(|table| tables.iter().any(|(id, _)| id == table));
                if !roles.is_empty() {
                    server.tables.extend(tables.iter().map(|(id, _)| *id));
                    server.sessions = sessions.into_iter().collect();
                }
                server.hold(roles);
                Ok(Done::Done)
            }
            Ask::CreateTable { table, .. } if !server.full => {
                server.tables.insert(table);
                Ok(Done::Done)
            }
            Ask::CreateTable { .. } => Err("no memory".to_owned()),
            Ask::DropTable { table } => {
                server.tables.remove(&table);
                Ok(Done::Done)
            }
            Ask::BeginSession { session } => {
                server.sessions.insert(session);
                Ok(Done::Began(Clock(3)))
            }
            Ask::EndSession { session } => {
                server.sessions.remove(&session);
                Ok(Done::Done)
            }
            Ask::Report => Ok(Done::Report(ServerReport::default())),
        };
        self.say(connection, ToCoordinator::Answer { id, result });
        true
    }

    /// Everybody does what was asked until nothing is left.
    fn run(&mut self) {
        while (0..self.servers.len()).any(|at| self.carry_out(at)) {}
    }

    fn connect_client(&mut self, client: u64, sessions: &[SessionId]) -> ConnectionId {
        let connection = self.connection();
        self.clients.insert(client, connection);
        let process = format!("process {client}");
        self.say(
            connection,
            ToCoordinator::Client(ClientHello { client, process, sessions: sessions.to_vec() }),
        );
        connection
    }

    fn request(&mut self, from: ConnectionId, request: Request) -> (ConnectionId, u64) {
        self.requests += 1;
        let id = self.requests;
        self.say(from, ToCoordinator::Request { id, deadline_ms: 1000, request });
        (from, id)
    }

    fn asked(&mut self, from: ConnectionId, request: Request) -> Result<Reply, Failure> {
        let asked = self.request(from, request);
        self.run();
        self.answers.remove(&asked).expect("it is answered once the servers have done their part")
    }

    fn begin(&mut self, from: ConnectionId) -> SessionId {
        match self.asked(from, Request::BeginSession) {
            Ok(Reply::Session { session, clock: Clock(3) }) => session,
            other => panic!("no session: {other:?}"),
        }
    }

    fn open(&mut self, from: ConnectionId, name: &str) -> Result<TableId, Failure> {
        let schema = SchemaText(std::sync::Arc::new(schema(name)));
        match self.asked(from, Request::OpenTable { schema })? {
            Reply::Table { table, .. } => Ok(table),
            other => panic!("no table: {other:?}"),
        }
    }

    fn status(&mut self, from: ConnectionId) -> crate::cluster::Status {
        match self.asked(from, Request::Status) {
            Ok(Reply::Status(status)) => *status,
            other => panic!("no status: {other:?}"),
        }
    }

    /// How each server stands, of those that answer.
    fn status_of_all(&mut self, from: ConnectionId) -> Vec<ServerState> {
        let asked = self.request(from, Request::Status);
        self.pass(Duration::from_secs(2), &[]);
        match self.answers.remove(&asked) {
            Some(Ok(Reply::Status(status))) => status.servers.iter().map(|server| server.state).collect(),
            other => panic!("no status: {other:?}"),
        }
    }

    /// Time passes in steps as small as a loop's; everybody connected and not in `mute` heartbeats.
    fn pass(&mut self, time: Duration, mute: &[ConnectionId]) {
        let until = self.now + time;
        while self.now < until {
            self.now += Duration::from_millis(20);
            let servers = self.servers.iter().filter(|server| !server.stopped);
            let servers = servers.filter_map(|server| server.connection);
            let renewals = servers.map(|connection| (connection, ToCoordinator::Renew { sent_us: 0 }));
            let beats = self.clients.values().map(|connection| (*connection, ToCoordinator::Heartbeat));
            let all: Vec<(ConnectionId, ToCoordinator)> = renewals.chain(beats).collect();
            for (connection, message) in all.into_iter().filter(|(connection, _)| !mute.contains(connection))
            {
                self.say(connection, message);
            }
            self.machine.tick(self.now);
            self.act();
            self.run();
            self.replicate(true);
            self.run();
            self.check_copies();
        }
    }

    /// The process ends, another starts with what was stored; nobody is connected.
    fn restart(&mut self) {
        let mut after = Self::of(self.stored.clone());
        after.servers = std::mem::take(&mut self.servers);
        for server in &mut after.servers {
            server.connection = None;
            server.asks.clear();
        }
        after.last_connection = self.last_connection;
        after.requests = self.requests;
        after.acked = std::mem::take(&mut self.acked);
        *self = after;
    }
}

#[test]
fn a_session_waits_until_a_server_has_joined_and_holds_its_partitions() {
    let mut world = World::new(0);
    let client = world.connect_client(1, &[]);
    let asked = world.request(client, Request::BeginSession);
    assert!(!world.maps.contains_key(&client));
    let server = world.add_server();
    assert!(!world.answers.contains_key(&asked), "the server has not confirmed");
    world.run();
    assert!(matches!(world.answers[&asked], Ok(Reply::Session { .. })));
    assert_eq!(world.maps[&client].partition_count(), PARTITIONS);
    assert_eq!(world.servers[server].held.len(), PARTITIONS as usize);
}

#[test]
fn a_session_that_no_server_comes_for_is_told_what_is_missing() {
    let mut world = World::new(0);
    let client = world.connect_client(1, &[]);
    let asked = world.request(client, Request::BeginSession);
    world.pass(Duration::from_secs(2), &[]);
    let Some(Err(Failure::Deadline { what })) = world.answers.remove(&asked) else { panic!("no deadline") };
    assert!(what.contains("0 servers"), "{what}");
}

#[test]
fn partitions_are_placed_anew_until_there_is_something_to_lose() {
    let mut world = World::new(1);
    let client = world.connect_client(1, &[]);
    let first = world.maps[&client].clone();
    let second = world.add_server();
    world.run();
    let map = world.maps[&client].clone();
    assert!(map.version > first.version);
    assert_eq!(world.servers[second].held.len(), PARTITIONS as usize / 2);
    for (before, after) in first.partitions.iter().zip(&map.partitions) {
        assert_eq!(before.members == after.members, before.epoch == after.epoch, "an epoch is its chain's");
    }

    let session = world.begin(client);
    let third = world.add_server();
    world.run();
    assert!(world.servers[third].held.is_empty());
    let status = world.status(client);
    assert!(status.complete, "{status:?}");
    assert_eq!(status.servers[2].state, ServerState::Spare);
    assert_eq!(status.workers[0].session, session);

    world.asked(client, Request::EndSession { session }).unwrap();
    assert!(!world.servers[third].held.is_empty(), "nothing is there any more");
}

#[test]
fn a_server_that_dies_with_data_is_told_of_and_never_replaced_by_an_empty_one() {
    let mut world = World::new(2);
    let client = world.connect_client(1, &[]);
    let session = world.begin(client);
    world.open(client, "w").unwrap();
    let held = world.servers[0].held.clone();
    world.disconnect_server(0);
    world.pass(Duration::from_millis(200), &[]);
    let status = world.status(client);
    assert!(!status.complete && status.incomplete.as_ref().is_some_and(|line| line.contains("host:100")));
    assert_eq!(status.servers[0].state, ServerState::Gone);
    let lost = status.chains.iter().filter(|chain| !chain.available).map(|chain| chain.partition);
    assert!(lost.eq(held.keys().copied()));
    assert!(
        matches!(world.asked(client, Request::BeginSession), Err(Failure::Other { message }) if message.contains("C7"))
    );
    assert!(matches!(world.open(client, "v"), Err(Failure::Other { .. })));

    // Another one is no help; the same process is.
    world.add_server();
    world.run();
    assert!(!world.status(client).complete);
    world.connect_server(0);
    world.run();
    assert!(world.status(client).complete);
    assert_eq!(world.servers[0].held, held);
    world.asked(client, Request::EndSession { session }).unwrap();
}

#[test]
fn a_cluster_that_lost_data_can_drop_it_and_go_on() {
    let mut world = World::new(2);
    let client = world.connect_client(1, &[]);
    let session = world.begin(client);
    world.open(client, "w").unwrap();
    world.disconnect_server(0);
    world.pass(Duration::from_millis(200), &[]);
    world.asked(client, Request::DropTable { name: "w".into() }).unwrap();
    world.asked(client, Request::EndSession { session }).unwrap();
    assert_eq!(world.servers[1].held.len(), PARTITIONS as usize);
    assert!(world.status(client).complete);
    world.begin(client);
}

#[test]
fn a_table_is_made_on_every_server_or_on_none_and_its_id_is_used_up() {
    let mut world = World::new(2);
    let client = world.connect_client(1, &[]);
    let first = world.open(client, "w").unwrap();
    world.servers[1].full = true;
    assert!(
        matches!(world.open(client, "v"), Err(Failure::Other { message }) if message.contains("no memory"))
    );
    assert!(world.servers.iter().all(|server| server.tables == BTreeSet::from([first])));
    world.servers[1].full = false;
    let second = world.open(client, "v").unwrap();
    assert!(second.0 > first.0 + 1);
    assert_eq!(world.open(client, "v"), Ok(second));
    let other = SchemaText(std::sync::Arc::new(TableSchema { dim: 2, ..schema("v") }));
    assert!(matches!(
        world.asked(client, Request::OpenTable { schema: other }),
        Err(Failure::Mismatch { theirs }) if theirs.0.dim == 1
    ));
}

#[test]
fn two_who_open_a_table_at_once_get_the_same() {
    let mut world = World::new(2);
    let (one, two) = (world.connect_client(1, &[]), world.connect_client(2, &[]));
    let open = || Request::OpenTable { schema: SchemaText(std::sync::Arc::new(schema("w"))) };
    let (first, second) = (world.request(one, open()), world.request(two, open()));
    world.run();
    assert_eq!(world.answers[&first], world.answers[&second]);
    assert!(world.answers[&first].is_ok());
}

#[test]
fn a_restart_keeps_cluster_servers_tables_and_sessions() {
    let mut world = World::new(2);
    let client = world.connect_client(7, &[]);
    let session = world.begin(client);
    let table = world.open(client, "w").unwrap();
    let before = world.servers.clone();
    let term = world.machine.term();
    world.restart();
    assert_eq!(world.machine.term(), term + 1);
    for at in 0..2 {
        world.connect_server(at);
    }
    let client = world.connect_client(7, &[session]);
    world.run();
    for (before, after) in before.iter().zip(&world.servers) {
        assert_eq!(
            (&before.held, &before.tables, &before.sessions),
            (&after.held, &after.tables, &after.sessions)
        );
    }
    assert_eq!(world.open(client, "w"), Ok(table));
    assert!(world.begin(client) > session);
    assert!(world.status(client).complete);
}

#[test]
fn a_coordinator_that_starts_gives_up_nobody_for_one_lease() {
    let mut world = World::new(1);
    let client = world.connect_client(7, &[]);
    world.begin(client);
    world.restart();
    let client = world.connect_client(8, &[]);
    world.pass(Duration::from_millis(80), &[]);
    assert_ne!(world.status(client).servers[0].state, ServerState::Gone);
    world.pass(Duration::from_millis(80), &[]);
    assert_eq!(world.status(client).servers[0].state, ServerState::Gone);
}

#[test]
fn strangers_are_refused_with_the_reason() {
    let mut world = World::new(1);
    let hello =
        || ToCoordinator::Client(ClientHello { client: 1, process: String::new(), sessions: Vec::new() });
    let cases: [(u64, u64, ToCoordinator, &str); 4] = [
        (CLUSTER + 1, 1, hello(), "cluster"),
        (CLUSTER, 99, hello(), "term 1"),
        (0, 0, ToCoordinator::Heartbeat, "who you are"),
        (0, 0, ToCoordinator::Request { id: 1, deadline_ms: 1, request: Request::Status }, "who you are"),
    ];
    for (cluster, term, message, word) in cases {
        let connection = world.connection();
        world.machine.on_message(world.now, connection, (cluster, term), message);
        world.act();
        assert!(world.refused[&connection].contains(word), "{}", world.refused[&connection]);
    }
}

#[test]
fn an_empty_store_refuses_a_server_that_holds_data() {
    let mut world = World::new(0);
    world.servers.push(Server { incarnation: 5, tables: BTreeSet::from([TableId(1)]), ..Server::default() });
    let connection = world.connect_server(0);
    assert!(world.refused[&connection].contains("store"), "{}", world.refused[&connection]);
}

#[test]
fn a_forgotten_server_comes_back_with_its_numbers() {
    let mut world = World::new(2);
    world.disconnect_server(1);
    // Nothing is on it: the map is placed without it, and it is forgotten.
    world.pass(Duration::from_millis(300), &[]);
    assert_eq!(world.servers[0].held.len(), PARTITIONS as usize);
    world.connect_server(1);
    world.run();
    assert_eq!(world.servers[0].held.len(), PARTITIONS as usize / 2);
}

/// A table was half made when the coordinator was killed; the next one gave up the servers, for which nothing was
/// recorded, before they came back, and refused the one that had the table for ever.
#[test]
fn a_forgotten_server_with_a_half_made_table_comes_back_and_drops_it() {
    let mut world = World::new(2);
    let client = world.connect_client(1, &[]);
    let schema = SchemaText(std::sync::Arc::new(schema("w")));
    world.request(client, Request::OpenTable { schema });
    assert!(world.carry_out(0));
    assert_eq!(world.servers[0].tables.len(), 1);
    world.restart();
    world.pass(Duration::from_millis(200), &[]);
    for at in 0..2 {
        let connection = world.connect_server(at);
        assert!(!world.refused.contains_key(&connection), "{:?}", world.refused);
    }
    world.run();
    assert!(world.servers[0].tables.is_empty());
    let client = world.connect_client(1, &[]);
    assert!(world.status(client).complete);
    assert!(world.open(client, "w").unwrap() > TableId(1));
}

/// A server was given up and came back while its table was being dropped by the others: the drop did not ask it, and
/// it kept the table.
#[test]
fn a_server_that_comes_back_during_a_drop_drops_the_table_too() {
    let mut world = World::new(2);
    let client = world.connect_client(1, &[]);
    world.open(client, "w").unwrap();
    world.disconnect_server(1);
    world.pass(Duration::from_millis(200), &[]);
    let dropped = world.request(client, Request::DropTable { name: "w".into() });
    assert!(!world.answers.contains_key(&dropped), "the other server has not answered");
    world.connect_server(1);
    world.run();
    assert_eq!(world.answers[&dropped], Ok(Reply::Done));
    assert!(world.servers.iter().all(|server| server.tables.is_empty()));
}

#[test]
fn the_sessions_of_a_silent_client_end_and_a_pause_of_our_own_blames_nobody() {
    let mut world = World::new(1);
    let (one, two) = (world.connect_client(1, &[]), world.connect_client(2, &[]));
    let (first, second) = (world.begin(one), world.begin(two));
    // This process was stopped for an hour.
    world.now += Duration::from_secs(3600);
    world.machine.tick(world.now);
    world.act();
    world.run();
    assert_eq!(world.servers[0].sessions, BTreeSet::from([first, second]));
    world.pass(Duration::from_secs(6), &[two]);
    assert_eq!(world.servers[0].sessions, BTreeSet::from([first]));
    assert!(world.refused.contains_key(&two));
}

#[test]
fn a_barrier_counts_those_who_are_still_there() {
    let mut world = World::new(1);
    let clients: Vec<ConnectionId> = (1..=3).map(|client| world.connect_client(client, &[])).collect();
    let arrive = |caller| Request::Barrier { name: "b".into(), count: 2, caller };
    world.request(clients[0], arrive(0));
    world.machine.on_closed(world.now, clients[0]);
    let second = world.request(clients[1], arrive(1));
    assert!(!world.answers.contains_key(&second), "the first has left");
    let third = world.request(clients[2], arrive(2));
    assert_eq!((&world.answers[&second], &world.answers[&third]), (&Ok(Reply::Done), &Ok(Reply::Done)));
}

#[test]
fn an_answer_that_is_asked_for_twice_is_done_once() {
    let mut world = World::new(1);
    let client = world.connect_client(1, &[]);
    let asked = world.request(client, Request::BeginSession);
    assert_eq!(world.servers[0].asks.len(), 1);
    // The server's connection breaks with the ask under way.
    world.disconnect_server(0);
    world.connect_server(0);
    world.run();
    let Ok(Reply::Session { session, .. }) = world.answers[&asked].clone() else { panic!("no session") };
    assert_eq!(world.servers[0].sessions, BTreeSet::from([session]));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    AddServer,
    CutServer(usize),
    ReturnServer(usize),
    Work(usize),
    Client(u64),
    CutClient(u64),
    Begin(u64),
    Open(u64, u8),
    Drop(u64, u8),
    Wait(u16),
    Restart,
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::AddServer),
        2 => (0usize..4).prop_map(Step::CutServer),
        4 => (0usize..4).prop_map(Step::ReturnServer),
        12 => (0usize..4).prop_map(Step::Work),
        3 => (1u64..4).prop_map(Step::Client),
        1 => (1u64..4).prop_map(Step::CutClient),
        4 => (1u64..4).prop_map(Step::Begin),
        4 => (1u64..4, 0u8..3).prop_map(|(client, name)| Step::Open(client, name)),
        2 => (1u64..4, 0u8..3).prop_map(|(client, name)| Step::Drop(client, name)),
        3 => (0u16..400).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// Whatever stops when: ids and epochs are never given twice, rows are never moved, and in the end all agree.
    #[test]
    fn ids_are_given_once_and_all_agree_in_the_end(steps in prop::collection::vec(steps(), 1..80)) {
        let mut world = World::new(1);
        let mut sessions: BTreeSet<SessionId> = BTreeSet::new();
        let mut tables: BTreeMap<TableId, String> = BTreeMap::new();
        let mut epochs: BTreeMap<(PartitionId, Epoch), Vec<ShardId>> = BTreeMap::new();
        let mut asked: BTreeMap<(ConnectionId, u64), Option<String>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::AddServer if world.servers.len() < 4 => {
                    world.add_server();
                }
                Step::CutServer(at) if at < world.servers.len() => world.disconnect_server(at),
                Step::ReturnServer(at) if at < world.servers.len() && world.servers[at].connection.is_none() => {
                    world.connect_server(at);
                }
                Step::Work(at) if at < world.servers.len() => {
                    world.carry_out(at);
                }
                Step::Client(client) if !world.clients.contains_key(&client) => {
                    world.connect_client(client, &[]);
                }
                Step::CutClient(client) => {
                    if let Some(connection) = world.clients.remove(&client) {
                        world.machine.on_closed(world.now, connection);
                        world.act();
                    }
                }
                Step::Begin(client) => if let Some(&connection) = world.clients.get(&client) {
                    asked.insert(world.request(connection, Request::BeginSession), None);
                },
                Step::Open(client, name) => if let Some(&connection) = world.clients.get(&client) {
                    let name = format!("t{name}");
                    let schema = SchemaText(std::sync::Arc::new(schema(&name)));
                    asked.insert(world.request(connection, Request::OpenTable { schema }), Some(name));
                },
                Step::Drop(client, name) => if let Some(&connection) = world.clients.get(&client) {
                    world.request(connection, Request::DropTable { name: format!("t{name}") });
                },
                Step::Wait(ms) => {
                    for _ in 0..ms / 20 {
                        world.now += Duration::from_millis(20);
                        world.machine.tick(world.now);
                        world.act();
                    }
                }
                Step::Restart => world.restart(),
                _ => {}
            }
            for (key, answer) in std::mem::take(&mut world.answers) {
                match answer {
                    Ok(Reply::Session { session, .. }) => prop_assert!(sessions.insert(session), "{session} twice"),
                    Ok(Reply::Table { table, .. }) => {
                        let name = asked[&key].clone().unwrap();
                        prop_assert_eq!(tables.entry(table).or_insert_with(|| name.clone()), &name);
                    }
                    _ => {}
                }
            }
            for (at, chain) in world.machine.chains.map().partitions.iter().enumerate() {
                let members = epochs.entry((PartitionId(at as u32), chain.epoch)).or_insert_with(|| chain.members.clone());
                prop_assert_eq!(&*members, &chain.members, "an epoch stands for one chain");
            }
        }
        // Those that are here come back, and everything settles.
        for at in 0..world.servers.len() {
            if world.servers[at].connection.is_none() {
                world.connect_server(at);
            }
        }
        world.pass(Duration::from_secs(8), &[]);
        let client = world.connect_client(99, &[]);
        let status = world.status(client);
        prop_assert!(status.complete, "{:?}", status);
        let known: BTreeSet<TableId> = status.tables.iter().map(|table| table.table).collect();
        let live: BTreeSet<SessionId> = status.workers.iter().map(|worker| worker.session).collect();
        for server in &world.servers {
            prop_assert!(server.held.is_empty() || server.tables == known, "{:?} and {:?}", server.tables, known);
            prop_assert!(server.sessions.is_subset(&live));
        }
        let held: usize = world.servers.iter().map(|server| server.held.len()).sum();
        prop_assert_eq!(held, PARTITIONS as usize);
    }
}

mod chains;
mod large;
