//! How the cluster stands, from what servers report and what the coordinator knows.

use std::collections::BTreeMap;

use super::Coordinator;
use super::servers::{Life, Server};
use crate::cluster::message::ServerReport;
use crate::cluster::{
    ChainStatus, PartitionStatus, ServerState, ServerStatus, Status, TableStatus, WorkerStatus,
};
use crate::wire::ids::{Clock, PartitionId, SessionId, ShardId};

impl Coordinator {
    fn state_of(&self, server: &Server) -> ServerState {
        match server.life {
            Life::Gone => ServerState::Gone,
            Life::Away => ServerState::Silent,
            Life::Here(_) if !self.is_heard(server) => ServerState::Silent,
            Life::Here(_) if !server.is_up_to_date() || !self.chains.are_placed() => ServerState::Joining,
            Life::Here(_) if server.record.draining => ServerState::Draining,
            Life::Here(_) if !self.chains.holds(server.record.server) => ServerState::Spare,
            Life::Here(_) => ServerState::Serving,
        }
    }

    /// The status, with the figures of those who reported.
    pub(super) fn compose(&self, reports: &[ServerReport]) -> Status {
        let mut partitions: Vec<_> = reports.iter().flat_map(|r| r.partitions.iter().cloned()).collect();
        partitions.sort_by_key(|replica| (replica.partition, replica.shard));
        let mut shards: Vec<_> = reports.iter().flat_map(|r| r.shards.iter().cloned()).collect();
        shards.sort_by_key(|shard| shard.shard);
        let mut clocks: BTreeMap<SessionId, Clock> = BTreeMap::new();
        for reported in reports.iter().flat_map(|r| &r.clocks) {
            let lowest = clocks.entry(reported.session).or_insert(reported.clock);
            *lowest = reported.clock.min(*lowest);
        }
        let tables = self.catalog.tables().map(|(table, schema)| TableStatus {
            table,
            name: schema.name.clone(),
            rows: reports.iter().flat_map(|r| &r.tables).filter(|(id, _)| *id == table).map(|(_, n)| n).sum(),
        });
        let workers = self.sessions.iter().map(|(session, client)| WorkerStatus {
            session: *session,
            process: self.clients.get(client).map_or_else(String::new, |client| client.process.clone()),
            clock: clocks.get(session).copied(),
        });
        let servers = self.servers.values().map(|server| ServerStatus {
            server: server.record.server,
            address: server.record.address.clone(),
            state: self.state_of(server),
            shards: server.shard_ids().collect(),
        });
        let reported: BTreeMap<(PartitionId, ShardId), &PartitionStatus> =
            partitions.iter().map(|replica| ((replica.partition, replica.shard), replica)).collect();
        let chains = self.chains.map().partitions.iter().enumerate().map(|(at, chain)| {
            let partition = PartitionId(at as u32);
            let servers = chain.members.iter().filter_map(|shard| self.chains.server_of(*shard));
            let members = servers.filter_map(|server| self.servers.get(&server));
            let head = chain.members.first().and_then(|head| reported.get(&(partition, *head)));
            ChainStatus {
                partition,
                chain: members.map(|server| server.record.address.clone()).collect(),
                epoch: chain.epoch,
                lsn: head.map(|head| head.lsn),
                lag: head.map(|head| head.lsn.0.saturating_sub(head.acked_lsn.0)),
                available: !self.is_lost(chain),
            }
        });
        let incomplete = self.incomplete();
        Status {
            cluster_id: self.cluster,
            term: self.term,
            map_version: self.chains.map().version,
            replicas: self.replicas,
            complete: incomplete.is_none(),
            incomplete,
            coordinators: self.addresses.clone(),
            servers: servers.collect(),
            chains: chains.collect(),
            tables: tables.collect(),
            workers: workers.collect(),
            jobs: self.job_statuses(),
            partitions,
            shards,
        }
    }
}
