//! Who holds what: the only place where the map changes.

use super::operation::Kind;
use super::servers::Life;
use super::{Coordinator, Output};
use crate::cluster::message::{Ask, FromCoordinator, Holding, ServerEntry};
use crate::cluster::{Map, ShardInfo};
use crate::wire::ids::{Epoch, ServerId, SessionId, ShardId, TableId};

/// A server that has been silent for so many leases gets no partitions, and the cluster is not complete with it; fewer
/// would move them at every hiccup. Silence alone never takes the last copy from it.
const PATIENCE_LEASES: u32 = 10;

impl Coordinator {
    /// Places all partitions anew when the servers have changed and there is nothing to move: no table, no session,
    /// none of either in the making.
    pub(super) fn place(&mut self) {
        if !self.is_empty() {
            return;
        }
        let waits = self.placed_on.iter().any(|id| matches!(self.servers[id].life, Life::Away(_)));
        if waits {
            return;
        }
        let live: Vec<ServerId> =
            self.servers.values().filter(|server| self.is_well(server)).map(|s| s.record.server).collect();
        if live == self.placed_on {
            return;
        }
        if live.len() < self.replicas as usize {
            // What is gone held nothing: there is no map until others come.
            if !self.placed_on.is_empty() && self.lost().len() == self.placed_on.len() {
                self.map.partitions.clear();
                self.placed_on.clear();
                self.servers.retain(|_, server| server.life != Life::Gone);
                self.changed = true;
            }
            return;
        }
        let shards = live.iter().flat_map(|id| self.servers[id].shard_ids());
        let shards = shards.map(|shard| ShardInfo { shard, address: None }).collect();
        let Ok(mut map) = Map::place(self.cluster, self.partitions, shards) else {
            // The number of partitions was checked with the record, and there is a shard.
            return;
        };
        self.last_epoch += 1;
        for (at, chain) in map.partitions.iter_mut().enumerate() {
            let before = self.map.partitions.get(at).filter(|before| before.members == chain.members);
            chain.epoch = before.map_or(Epoch(self.last_epoch), |before| before.epoch);
        }
        map.version = self.map.version + 1;
        map.shards = Vec::new();
        self.map = map;
        self.placed_on = live;
        self.placement += 1;
        self.changed = true;
        // Those that are gone held nothing that anybody misses.
        let placed_on = &self.placed_on;
        self.servers.retain(|id, server| server.life != Life::Gone || placed_on.contains(id));
        for server in self.servers.keys().copied().collect::<Vec<_>>() {
            self.ask_to_hold(server);
        }
    }

    /// Whether there is nothing to lose: no table, no session, none of either in the making or ending.
    fn is_empty(&self) -> bool {
        self.catalog.is_without_tables() && self.sessions.is_empty() && !self.session_ends_under_way()
    }

    /// Here, and heard of: one that was stopped gets nothing new to hold.
    fn is_well(&self, server: &super::servers::Server) -> bool {
        server.connection().is_some() && self.clock < server.heard + PATIENCE_LEASES * self.lease()
    }

    /// Tells a server what it holds, if it is here.
    pub(super) fn ask_to_hold(&mut self, server: ServerId) {
        let Some(known) = self.servers.get_mut(&server).filter(|known| known.connection().is_some()) else {
            return;
        };
        known.confirmed = None;
        let holdings: Vec<Holding> =
            known.shard_ids().map(|shard| Holding { shard, partitions: self.map.roles_of(shard) }).collect();
        let ask = Ask::Hold {
            partition_count: self.partitions,
            holdings,
            peers: Vec::new(),
            tables: Vec::new(),
            last_table: TableId(0),
            sessions: Vec::new(),
            last_session: SessionId(0),
        };
        let kind = Kind::Hold { placement: self.placement };
        let until = self.lease_of_tidying();
        self.launch(kind, ask, None, vec![server], until);
    }

    /// Whether requests can begin: enough servers, and each holds what the map says or is known to be gone.
    pub(super) fn is_settled(&self) -> bool {
        !self.placed_on.is_empty()
            && self.placed_on.iter().all(|id| {
                let server = &self.servers[id];
                server.life == Life::Gone || server.confirmed == Some(self.placement)
            })
    }

    /// Servers of the map that are gone.
    pub(super) fn lost(&self) -> Vec<ServerId> {
        self.placed_on.iter().copied().filter(|id| self.servers[id].life == Life::Gone).collect()
    }

    /// One line on the first of them, for those who wanted it.
    pub(super) fn loss(&self) -> Option<String> {
        let first = self.lost().into_iter().next()?;
        Some(format!(
            "{} is gone and held the only copy of its partitions (C7); restore them from a checkpoint into a new \
             cluster, or drop the tables",
            self.servers[&first].name()
        ))
    }

    /// What is missing before the cluster is whole, in one line.
    pub(super) fn incomplete(&self) -> Option<String> {
        if let Some(loss) = self.loss() {
            return Some(loss);
        }
        let here = self.servers.values().filter(|server| server.connection().is_some()).count();
        if self.placed_on.is_empty() {
            return Some(format!("{here} servers have joined, {} are needed", self.replicas));
        }
        let missing = self
            .placed_on
            .iter()
            .map(|id| &self.servers[id])
            .find(|server| !self.is_well(server) || server.confirmed != Some(self.placement));
        missing.map(|server| {
            format!("{} does not answer or has not yet confirmed its partitions", server.name())
        })
    }

    /// The map as clients get it.
    fn published_map(&self) -> (Map, Vec<ServerEntry>) {
        let mut map = self.map.clone();
        let mut servers = Vec::new();
        for server in self.servers.values().filter(|server| self.placed_on.contains(&server.record.server)) {
            let address = server.record.address.parse().ok();
            map.shards.extend(server.shard_ids().map(|shard| ShardInfo { shard, address }));
            servers.push(server.entry());
        }
        (map, servers)
    }

    /// Tells all clients the newest map, when they have another and it can be used.
    pub(super) fn publish(&mut self) {
        if self.published == Some(self.map.version) || !self.is_settled() {
            return;
        }
        self.published = Some(self.map.version);
        let (map, servers) = self.published_map();
        for client in self.clients.values() {
            if let Some(connection) = client.connection {
                let message = FromCoordinator::Map { map: map.clone(), servers: servers.clone() };
                self.outputs.push(Output::Send(connection, message));
            }
        }
    }

    /// The map for one client that just came; it gets the next one otherwise.
    pub(super) fn publish_to(&mut self, connection: super::ConnectionId) {
        if self.published == Some(self.map.version) {
            let (map, servers) = self.published_map();
            self.send(connection, FromCoordinator::Map { map, servers });
        }
    }

    /// The server that a shard belongs to.
    pub(super) fn server_of(&self, shard: ShardId) -> Option<ServerId> {
        let server = self.servers.values().find(|server| server.shard_ids().any(|own| own == shard))?;
        Some(server.record.server)
    }
}
