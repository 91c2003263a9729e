//! What a coordinator remembers beyond its life.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Coordinator;
use super::chains::Chains;
use crate::cluster::job::Jobs;
use crate::cluster::message::HostIdentity;
use crate::cluster::{CatalogRecord, Map, PartitionChain};
use crate::store::MAX_PARTITIONS;
use crate::wire::ids::{ServerId, SessionId, ShardId};

/// Version of the record's form.
const FORM: u32 = 1;

/// One server, as recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServerRecord {
    /// Its id.
    pub(super) server: ServerId,
    /// Which start of its process.
    pub(super) incarnation: u64,
    /// Where it takes tcp lanes.
    pub(super) address: String,
    /// Where it runs.
    pub(super) host: HostIdentity,
    /// Where its host's processes get lanes over shared memory.
    pub(super) door: Option<String>,
    /// Bytes of a lane's ring.
    pub(super) ring_bytes: u64,
    /// Its threads.
    pub(super) first_shard: ShardId,
    /// How many.
    pub(super) shards: u32,
    /// Its partitions are to go to others.
    #[serde(default)]
    pub(super) draining: bool,
}

/// The whole record. Whatever is not in it, a coordinator learns anew from those who connect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    form: u32,
    /// Random name of the cluster.
    pub cluster: u64,
    /// Starts of its coordinator so far.
    pub term: u64,
    /// Random; what servers name when they open lanes to each other. Not 0.
    pub(super) link_key: u64,
    /// Partitions, fixed for the cluster's life.
    pub partitions: u32,
    /// Copies of each.
    pub replicas: u32,
    pub(super) map_version: u64,
    pub(super) chains: Vec<PartitionChain>,
    pub(super) placed_on: Vec<ServerId>,
    pub(super) placement: u64,
    pub(super) last_epoch: u64,
    pub(super) servers: Vec<ServerRecord>,
    pub(super) last_server: u32,
    pub(super) next_shard: u32,
    pub(super) catalog: CatalogRecord,
    pub(super) sessions: Vec<(SessionId, u64)>,
    #[serde(default)]
    pub(super) jobs: Jobs,
}

/// Why a record is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Written by another version.
    #[error("its form is {found}, this build reads {FORM}; use the build that wrote it")]
    Form {
        /// The form found.
        found: u32,
    },
    /// Parts of it contradict each other.
    #[error("its {what} cannot be; it was changed by something else")]
    Contradiction {
        /// Which part.
        what: &'static str,
    },
}

impl Record {
    /// Of a new cluster. `cluster` and `link_key` are random and not 0.
    #[must_use]
    pub fn new(cluster: u64, link_key: u64, partitions: u32, replicas: u32) -> Self {
        Self {
            form: FORM,
            cluster,
            link_key,
            term: 0,
            partitions,
            replicas,
            map_version: 0,
            chains: Vec::new(),
            placed_on: Vec::new(),
            placement: 0,
            last_epoch: 0,
            servers: Vec::new(),
            last_server: 0,
            next_shard: 0,
            catalog: CatalogRecord::default(),
            sessions: Vec::new(),
            jobs: Jobs::default(),
        }
    }

    /// Checks what a reader of the bytes cannot.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn check(&self) -> Result<(), RecordError> {
        if self.form != FORM {
            return Err(RecordError::Form { found: self.form });
        }
        let wrong = |what| Err(RecordError::Contradiction { what });
        if self.cluster == 0
            || self.link_key == 0
            || self.partitions == 0
            || self.replicas == 0
            || self.partitions > MAX_PARTITIONS
        {
            return wrong("cluster");
        }
        let owners: BTreeMap<u32, u32> =
            self.servers.iter().map(|server| (server.first_shard.0, server.shards)).collect();
        let known = |shard: ShardId| {
            let below = owners.range(..=shard.0).next_back();
            below.is_some_and(|(first, count)| shard.0 - first < *count)
        };
        let chained = self.chains.iter().all(|chain| {
            let members = chain.members.len();
            let distinct = chain.everyone().collect::<BTreeSet<_>>().len() == chain.everyone().count();
            let joined = members > 1 && chain.joiner.is_none();
            members > 0 && distinct && chain.everyone().all(known) && (!chain.unsynced || joined)
        });
        let all = self.chains.is_empty() || self.chains.len() == self.partitions as usize;
        let newest = self.chains.iter().map(|chain| chain.epoch.0).max().unwrap_or(0);
        if !chained || !all || newest > self.last_epoch {
            return wrong("map");
        }
        if !self.placed_on.iter().all(|placed| self.servers.iter().any(|server| server.server == *placed)) {
            return wrong("list of servers");
        }
        if !self.catalog.tables.iter().all(|(_, schema)| schema.0.partitions == self.partitions) {
            return wrong("list of tables");
        }
        if !self.sessions.iter().map(|(session, _)| session).eq(self.catalog.sessions.iter()) {
            return wrong("list of sessions");
        }
        Ok(())
    }

    /// The chains it holds; none when none were placed.
    pub(super) fn chains(&self) -> Chains {
        let map = Map {
            version: self.map_version,
            cluster_id: self.cluster,
            partitions: self.chains.clone(),
            shards: Vec::new(),
        };
        let owners = self.servers.iter().map(|server| (server.server, server.first_shard, server.shards));
        Chains::restore(map, self.replicas, self.last_epoch, owners)
    }
}

impl Coordinator {
    /// The record as it should be now.
    pub(super) fn record(&self) -> Record {
        Record {
            form: FORM,
            cluster: self.cluster,
            term: self.term,
            link_key: self.link_key,
            partitions: self.partitions,
            replicas: self.replicas,
            map_version: self.chains.map().version,
            chains: self.chains.map().partitions.clone(),
            placed_on: self.placed_on.clone(),
            placement: self.placement,
            last_epoch: self.chains.last_epoch(),
            servers: self.servers.values().map(|server| server.record.clone()).collect(),
            last_server: self.last_server,
            next_shard: self.next_shard,
            catalog: self.catalog.record(),
            sessions: self.sessions.iter().map(|(session, client)| (*session, *client)).collect(),
            jobs: self.recorded_jobs(),
        }
    }
}
