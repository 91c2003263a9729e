//! Placing partitions anew, telling servers and clients who holds what, and what is missing.

use std::sync::Arc;

use super::operation::Kind;
use super::servers::{Life, Server};
use super::{Coordinator, Output};
use crate::cluster::message::{Ask, FromCoordinator, Holding, SchemaText, ServerEntry};
use crate::cluster::place::place_chains;
use crate::cluster::{Map, PartitionChain, ShardInfo};
use crate::wire::ids::{PartitionId, ServerId, SessionId, ShardId, TableId};

/// A server that has been silent for so many leases gets no partitions; fewer would move them at every hiccup.
const PATIENCE_LEASES: u32 = 10;

impl Coordinator {
    /// Places all partitions anew when the servers have changed and there is nothing to move: no table, no session,
    /// none of either in the making.
    pub(super) fn place(&mut self) {
        if !self.is_empty() {
            return;
        }
        let waits =
            self.placed_on.iter().any(|id| self.servers.get(id).is_some_and(|s| s.life == Life::Away));
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
            if self.chains.are_placed() && self.present().is_empty() {
                self.chains.clear();
                self.placed_on.clear();
                self.forget_the_gone();
                self.changed = true;
            }
            return;
        }
        let shards: Vec<Vec<ShardId>> =
            live.iter().map(|id| self.servers[id].shard_ids().collect()).collect();
        let Ok(placed) = place_chains(self.cluster, self.partitions, self.replicas, &shards) else {
            // The number of partitions was checked with the record, and there are servers enough.
            return;
        };
        self.chains.place_anew(placed);
        self.placed_on = live;
        self.changed = true;
        // Those that are gone held nothing that anybody misses.
        self.forget_the_gone();
    }

    /// Whether there is nothing to lose: no table, no session, none of either in the making or ending.
    fn is_empty(&self) -> bool {
        self.catalog.is_without_tables() && self.sessions.is_empty() && !self.session_ends_under_way()
    }

    /// Here, and heard of: one that was stopped gets nothing new to hold.
    fn answers(&self, server: &Server) -> bool {
        server.connection().is_some() && self.clock < server.heard + PATIENCE_LEASES * self.lease()
    }

    /// Whether partitions may be placed on it.
    fn is_well(&self, server: &Server) -> bool {
        self.answers(server) && !server.record.draining
    }

    /// Tells those whose roles changed, and those who came, what they hold. What they are asked later comes behind it.
    pub(super) fn tell_roles(&mut self) {
        let concerned = self.chains.take_concerned();
        let mut to_tell = std::mem::take(&mut self.returned);
        if !concerned.is_empty() {
            self.placement += 1;
            self.changed = true;
            self.excuse(&concerned);
        }
        to_tell.extend(concerned);
        if to_tell.is_empty() {
            return;
        }
        let tables: Vec<(TableId, SchemaText)> = self.tables_to_hold();
        let sessions: Vec<SessionId> = self.catalog.sessions().collect();
        for server in to_tell {
            self.ask_to_hold(server, &tables, &sessions);
        }
    }

    /// Tells a server what it holds, if it is here.
    fn ask_to_hold(&mut self, server: ServerId, tables: &[(TableId, SchemaText)], sessions: &[SessionId]) {
        let placement = self.placement;
        let Some(known) = self.servers.get_mut(&server).filter(|known| known.connection().is_some()) else {
            return;
        };
        (known.told, known.confirmed) = (Some(placement), None);
        let holdings: Vec<Holding> = known.shard_ids().map(|shard| self.chains.holding(shard)).collect();
        let peers = self.chains.peers(&holdings, server);
        let peers = peers.iter().filter_map(|peer| self.servers.get(peer)).map(Server::entry).collect();
        // One without a role keeps nothing.
        let (tables, sessions) = match self.chains.holds(server) {
            true => (tables.to_vec(), sessions.to_vec()),
            false => (Vec::new(), Vec::new()),
        };
        let ask = Ask::Hold {
            partition_count: self.partitions,
            holdings,
            peers,
            tables,
            last_table: self.catalog.last_table(),
            sessions,
            last_session: self.catalog.last_session(),
        };
        self.launch(Kind::Hold { placement }, ask, None, vec![server], self.lease_of_tidying());
    }

    /// Whether requests can begin: partitions are placed, and every server with a role that is here has taken it.
    pub(super) fn is_settled(&self) -> bool {
        self.chains.are_placed()
            && self.chains.holders().all(|id| {
                let server = &self.servers[&id];
                server.life == Life::Gone || server.is_up_to_date()
            })
    }

    /// Whether clients may hear of the newest map: those who are heard of know it. Nobody waits for the others.
    fn is_told(&self) -> bool {
        let late = |id| {
            let server: &Server = &self.servers[&id];
            self.is_heard(server) && !server.is_up_to_date()
        };
        !self.chains.holders().any(late)
    }

    /// Whether no server is left that has all of a partition.
    pub(super) fn is_lost(&self, chain: &PartitionChain) -> bool {
        chain.synced().iter().all(|shard| {
            let server = self.chains.server_of(*shard).and_then(|server| self.servers.get(&server));
            server.is_none_or(|server| server.life == Life::Gone)
        })
    }

    /// One line on the first partition that is lost, for those who wanted it.
    pub(super) fn loss(&self) -> Option<String> {
        let gone = self.servers.values().filter(|server| server.life == Life::Gone);
        let mut lost =
            gone.flat_map(|server| server.shard_ids()).flat_map(|shard| self.chains.held_by(shard));
        let lost =
            lost.find(|partition| self.chains.of(*partition).is_some_and(|chain| self.is_lost(chain)))?;
        let chain = self.chains.of(lost)?;
        let names =
            chain.synced().iter().filter_map(|shard| self.servers.get(&self.chains.server_of(*shard)?));
        let names: Vec<String> = names.map(Server::name).collect();
        let had = match names.len() {
            1 => "is gone and had the only copy",
            _ => "are gone and had the only copies",
        };
        Some(format!(
            "{} {had} of partition {lost} (C7); it is back when one of them is, as the same process; otherwise its rows \
             are gone: drop the tables",
            names.join(" and ")
        ))
    }

    /// What is missing before the cluster is whole, in one line.
    pub(super) fn incomplete(&self) -> Option<String> {
        if let Some(loss) = self.loss() {
            return Some(loss);
        }
        let here = self.servers.values().filter(|server| server.connection().is_some()).count();
        if !self.chains.are_placed() {
            return Some(format!("{here} servers have joined, {} are needed", self.replicas));
        }
        let mut holders = self.chains.holders().map(|id| &self.servers[&id]);
        let missing = holders.find(|server| !self.answers(server) || !server.is_up_to_date());
        if let Some(server) = missing {
            let what = "does not answer or has not yet confirmed its partitions";
            return Some(format!("{} {what}", server.name()));
        }
        let replicas = self.replicas as usize;
        let short = |partition: &&PartitionId| {
            self.chains.of(**partition).is_some_and(|chain| chain.synced().len() < replicas)
        };
        let short = self.chains.unfinished().iter().filter(short).count();
        (short > 0).then(|| {
            let enough = match here < replicas {
                true => format!("{here} servers are here, start {} more", replicas - here),
                false => "they are being copied".to_owned(),
            };
            format!("{short} partitions have fewer than {replicas} whole copies; {enough}")
        })
    }

    /// The map as clients get it.
    fn published_map(&self) -> (Arc<Map>, Vec<ServerEntry>) {
        let mut map = self.chains.map().clone();
        let mut servers = Vec::new();
        for server in self.servers.values().filter(|server| self.chains.holds(server.record.server)) {
            let address = server.record.address.parse().ok();
            map.shards.extend(server.shard_ids().map(|shard| ShardInfo { shard, address }));
            servers.push(server.entry());
        }
        (Arc::new(map), servers)
    }

    /// Tells all clients the newest map, when they have another and it can be used.
    pub(super) fn publish(&mut self) {
        let version = self.chains.map().version;
        if self.published == Some(version) || !self.chains.are_placed() {
            return;
        }
        // The first one waits for all; a later one comes as soon as it can be used, and is no secret for long.
        let since = *self.unpublished.get_or_insert(self.clock);
        let ready = match self.published {
            None => self.is_settled(),
            Some(_) => self.is_told() || self.clock >= since + self.lease(),
        };
        if !ready {
            return;
        }
        (self.published, self.unpublished) = (Some(version), None);
        let (map, servers) = self.published_map();
        self.newest = Some((Arc::clone(&map), servers.clone()));
        for client in self.clients.values() {
            if let Some(connection) = client.connection {
                let message = FromCoordinator::Map { map: Arc::clone(&map), servers: servers.clone() };
                self.outputs.push(Output::Send(connection, message));
            }
        }
    }

    /// The map for one client that just came; it gets the next one otherwise.
    pub(super) fn publish_to(&mut self, connection: super::ConnectionId) {
        if self.published == Some(self.chains.map().version)
            && let Some((map, servers)) = self.newest.clone()
        {
            self.send(connection, FromCoordinator::Map { map, servers });
        }
    }
}
