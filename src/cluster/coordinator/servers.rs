//! Servers: how they join, come back, fall silent and are given up.

use std::collections::BTreeSet;
use std::time::Duration;

use super::operation::Kind;
use super::record::ServerRecord;
use super::{ConnectionId, Coordinator, Output, Peer};
use crate::cluster::message::{Ask, FromCoordinator, ServerEntry, ServerHello, Welcome};
use crate::wire::ids::{ServerId, ShardId};

/// Most threads of one server.
const MAX_SHARDS: u32 = 1024;
/// Most server threads that a cluster gives numbers to in its life.
const MAX_SHARD_NUMBERS: u32 = 1 << 30;

/// How a server's life stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// Connected.
    Here(ConnectionId),
    /// Its connection ended.
    Away,
    /// Its process has ended, for all that can be known.
    Gone,
}

/// A server, as recorded and as known in this term.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) record: ServerRecord,
    pub(super) life: Life,
    pub(super) heard: Duration,
    /// Taken for stopped, until it is heard of again: it is out of the chains that can do without it.
    pub(super) suspected: bool,
    /// The placement by which it was last told its roles, on this connection.
    pub(super) told: Option<u64>,
    /// The one it has confirmed.
    pub(super) confirmed: Option<u64>,
}

impl Server {
    /// One from the record: it has a lease to come back.
    pub(super) fn recorded(record: ServerRecord) -> Self {
        Self::new(record, Life::Away, Duration::ZERO)
    }

    fn new(record: ServerRecord, life: Life, heard: Duration) -> Self {
        Self { record, life, heard, suspected: false, told: None, confirmed: None }
    }

    /// Whether it is here and has taken the roles it was told last.
    pub(super) fn is_up_to_date(&self) -> bool {
        self.connection().is_some() && self.told.is_some() && self.confirmed == self.told
    }

    pub(super) fn connection(&self) -> Option<ConnectionId> {
        match self.life {
            Life::Here(connection) => Some(connection),
            Life::Away | Life::Gone => None,
        }
    }

    pub(super) fn shard_ids(&self) -> impl Iterator<Item = ShardId> + use<> {
        let first = self.record.first_shard.0;
        (first..first + self.record.shards).map(ShardId)
    }

    pub(super) fn entry(&self) -> ServerEntry {
        let ServerRecord { server, address, host, door, ring_bytes, first_shard, shards, .. } =
            self.record.clone();
        let available = self.life != Life::Gone;
        ServerEntry { server, address, host, door, ring_bytes, first_shard, shards, available }
    }

    /// For people.
    pub(super) fn name(&self) -> String {
        format!("server {} at {}", self.record.server, self.record.address)
    }
}

impl Coordinator {
    pub(super) fn lease(&self) -> Duration {
        Duration::from_millis(self.timing.lease_ms)
    }

    /// A server says hello: a new one, or one that was here before.
    pub(super) fn join_server(&mut self, connection: ConnectionId, cluster: u64, hello: ServerHello) {
        if hello.shards == 0 || hello.shards > MAX_SHARDS || self.next_shard > MAX_SHARD_NUMBERS {
            return self.refuse(connection, format!("{} server threads; start 1 to 1024", hello.shards));
        }
        let known = self.servers.values().find(|server| server.record.incarnation == hello.incarnation);
        let server = match known.map(|server| server.record.server) {
            Some(server) => {
                if let Some(old) = self.servers[&server].connection() {
                    // It gave that connection up before it made this one.
                    self.forget_connection(old);
                    self.outputs.push(Output::Close(old));
                }
                server
            }
            None => match (self.identity_again(cluster, &hello), hello.server) {
                // What it has was half made, or dropped meanwhile: `reconcile` has it dropped.
                (Some(server), _) => server,
                (None, None) if hello.tables.is_empty() => self.new_server(),
                (None, _) => {
                    let reason = format!(
                        "this server holds {} tables that the coordinator's store does not know, or numbers it did not \
                         give; point the coordinator to the store of their cluster ({cluster:016x}), or start the \
                         server anew",
                        hello.tables.len()
                    );
                    return self.refuse(connection, reason);
                }
            },
        };
        let shards = hello.shards;
        // One that is known keeps its numbers; one that was forgotten brings them; a new one gets the next.
        let told = hello.server.filter(|(told, _)| *told == server).map(|(_, first)| first);
        let recorded = self.servers.get(&server).map(|known| known.record.first_shard);
        let first_shard = recorded.or(told).unwrap_or(ShardId(self.next_shard));
        let record = ServerRecord {
            server,
            incarnation: hello.incarnation,
            address: hello.address,
            host: hello.host,
            door: hello.door,
            ring_bytes: hello.ring_bytes,
            first_shard,
            shards,
            draining: self.servers.get(&server).is_some_and(|known| known.record.draining),
        };
        let before = self.servers.get(&server);
        if before.is_some_and(|before| before.record.shards != shards) {
            return self.refuse(connection, "a server's number of threads never changes".to_owned());
        }
        let was_gone = before.is_some_and(|before| before.life == Life::Gone);
        let introduced = before.is_some_and(|before| before.record != record);
        if before.is_none() || introduced {
            self.changed = true;
        }
        self.next_shard = self.next_shard.max(first_shard.0 + shards);
        if was_gone {
            self.chains.raise_version();
            self.changed = true;
        }
        if before.is_none() || was_gone {
            self.complaints.push(format!("server {server} at {} joined", record.address));
        }
        let life = Life::Here(connection);
        let known = Server::new(record, life, self.clock);
        self.chains.know(server, first_shard, shards);
        if introduced {
            self.chains.introduce(known.shard_ids());
        }
        self.servers.insert(server, known);
        self.connections.insert(connection, Peer::Server(server));
        let (timing, server_told) = (self.timing, Some((server, first_shard)));
        let welcome = Welcome { timing, server: server_told, link_key: self.link_key };
        self.send(connection, FromCoordinator::Welcome(welcome));
        self.reconcile(server, &hello.tables.into_iter().collect(), &hello.sessions.into_iter().collect());
    }

    /// A server that was forgotten while it was away keeps the numbers it was given: its threads carry them. What it holds
    /// others have, or nobody misses: it is told to hold nothing.
    fn identity_again(&self, cluster: u64, hello: &ServerHello) -> Option<ServerId> {
        let (server, first) = hello.server.filter(|_| cluster == self.cluster)?;
        let end = first.0.checked_add(hello.shards)?;
        let given = server.0 <= self.last_server && end <= self.next_shard;
        let taken = self.servers.values().any(|other| {
            let theirs = other.record.first_shard.0..other.record.first_shard.0 + other.record.shards;
            other.record.server == server || (first.0 < theirs.end && theirs.start < end)
        });
        (given && !taken).then_some(server)
    }

    fn new_server(&mut self) -> ServerId {
        self.last_server += 1;
        self.changed = true;
        ServerId(self.last_server)
    }

    /// Brings a server that came to what was decided while it was away.
    fn reconcile(
        &mut self,
        server: ServerId,
        tables: &BTreeSet<crate::wire::ids::TableId>,
        sessions: &BTreeSet<crate::wire::ids::SessionId>,
    ) {
        // What was under way first: it was decided first.
        self.ask_again(server);
        let in_the_making = self.tables_in_the_making();
        for &table in tables {
            let known = self.catalog.tables().any(|(id, _)| id == table);
            if !known && !in_the_making.contains_key(&table) {
                self.launch(
                    Kind::Tidy,
                    Ask::DropTable { table },
                    None,
                    vec![server],
                    self.lease_of_tidying(),
                );
            }
        }
        for &session in sessions {
            if !self.catalog.is_live(session) {
                self.launch(
                    Kind::Tidy,
                    Ask::EndSession { session },
                    None,
                    vec![server],
                    self.lease_of_tidying(),
                );
            }
        }
        self.returned.insert(server);
    }

    /// What nobody waits for has time: as long as anything may.
    pub(super) fn lease_of_tidying(&self) -> Duration {
        self.clock + super::LONGEST_WAIT
    }

    pub(super) fn heard_of_server(&mut self, server: ServerId) {
        if let Some(server) = self.servers.get_mut(&server) {
            server.heard = self.clock;
            server.suspected = false;
        }
    }

    pub(super) fn lost_server(&mut self, server: ServerId, connection: ConnectionId) {
        if let Some(server) = self.servers.get_mut(&server)
            && server.life == Life::Here(connection)
        {
            server.life = Life::Away;
            (server.told, server.confirmed) = (None, None);
        }
    }
}
