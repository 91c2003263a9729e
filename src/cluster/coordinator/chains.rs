//! The chains, and what follows from them: who holds what, who heads how much, whom a change concerns.
//!
//! All changes of chains pass through here, so that each has an epoch of its own, and so that nobody has to look at
//! every partition to find those of one server.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::message::Holding;
use crate::cluster::{Map, PartitionChain, Role};
use crate::wire::ids::{Epoch, PartitionId, ServerId, ShardId};

/// See the module.
#[derive(Debug)]
pub(super) struct Chains {
    map: Map,
    replicas: usize,
    /// The newest epoch of any chain; none is given twice.
    last_epoch: u64,
    /// Threads, by the first of each server.
    owners: BTreeMap<ShardId, (u32, ServerId)>,
    /// Roles by thread; no thread without one.
    held: BTreeMap<ShardId, BTreeSet<PartitionId>>,
    heads: BTreeMap<ShardId, usize>,
    /// Partitions by server, as members or joiners; no server without one.
    holders: BTreeMap<ServerId, usize>,
    /// Chains that have not all their copies, or too many.
    unfinished: BTreeSet<PartitionId>,
    /// Servers whose roles changed since it was last asked.
    concerned: BTreeSet<ServerId>,
}

impl Chains {
    /// As recorded; `owners` are the threads of all servers in them.
    pub(super) fn restore(
        map: Map,
        replicas: u32,
        last_epoch: u64,
        owners: impl Iterator<Item = (ServerId, ShardId, u32)>,
    ) -> Self {
        let mut chains = Self {
            map,
            replicas: replicas as usize,
            last_epoch,
            owners: owners.map(|(server, first, count)| (first, (count, server))).collect(),
            held: BTreeMap::new(),
            heads: BTreeMap::new(),
            holders: BTreeMap::new(),
            unfinished: BTreeSet::new(),
            concerned: BTreeSet::new(),
        };
        for at in 0..chains.map.partitions.len() {
            chains.enter(PartitionId(at as u32));
        }
        chains
    }

    pub(super) fn map(&self) -> &Map {
        &self.map
    }

    pub(super) fn last_epoch(&self) -> u64 {
        self.last_epoch
    }

    /// Something else that clients know of the servers changed.
    pub(super) fn raise_version(&mut self) {
        self.map.version += 1;
    }

    /// Whether partitions have been placed.
    pub(super) fn are_placed(&self) -> bool {
        !self.map.partitions.is_empty()
    }

    pub(super) fn of(&self, partition: PartitionId) -> Option<&PartitionChain> {
        self.map.partitions.get(partition.0 as usize)
    }

    /// A server and its threads.
    pub(super) fn know(&mut self, server: ServerId, first: ShardId, count: u32) {
        self.owners.insert(first, (count, server));
    }

    /// A server is forgotten; it has no role.
    pub(super) fn forget(&mut self, server: ServerId, first: ShardId) {
        assert!(!self.holds(server), "server {server} is forgotten with roles");
        self.owners.remove(&first);
    }

    /// The server that a thread belongs to.
    pub(super) fn server_of(&self, shard: ShardId) -> Option<ServerId> {
        let (first, (count, server)) = self.owners.range(..=shard).next_back()?;
        (shard.0 - first.0 < *count).then_some(*server)
    }

    /// Whether a server is a member of a chain, or joins one.
    pub(super) fn holds(&self, server: ServerId) -> bool {
        self.holders.contains_key(&server)
    }

    /// Roles of a server.
    pub(super) fn roles(&self, server: ServerId) -> usize {
        self.holders.get(&server).copied().unwrap_or(0)
    }

    /// Servers with roles, rising.
    pub(super) fn holders(&self) -> impl Iterator<Item = ServerId> + '_ {
        self.holders.keys().copied()
    }

    /// Partitions of a thread, as member or joiner, rising.
    pub(super) fn held_by(&self, shard: ShardId) -> impl Iterator<Item = PartitionId> + '_ {
        self.held.get(&shard).into_iter().flatten().copied()
    }

    /// Copies a thread has or is getting.
    pub(super) fn copies(&self, shard: ShardId) -> usize {
        self.held.get(&shard).map_or(0, BTreeSet::len)
    }

    /// Chains it heads.
    pub(super) fn heads(&self, shard: ShardId) -> usize {
        self.heads.get(&shard).copied().unwrap_or(0)
    }

    /// Whether roles changed of which nobody was told yet.
    pub(super) fn is_anybody_concerned(&self) -> bool {
        !self.concerned.is_empty()
    }

    /// Chains that have not exactly the copies they should have, each with everything, or that somebody joins.
    pub(super) fn unfinished(&self) -> &BTreeSet<PartitionId> {
        &self.unfinished
    }

    /// What a thread is to hold.
    pub(super) fn holding(&self, shard: ShardId) -> Holding {
        let role = |partition: PartitionId| {
            let chain = self.map.partitions[partition.0 as usize].clone();
            Role { partition, chain }
        };
        Holding { shard, partitions: self.held_by(shard).map(role).collect() }
    }

    /// Servers named in the roles of a server, but for itself.
    pub(super) fn peers(&self, holdings: &[Holding], own: ServerId) -> BTreeSet<ServerId> {
        let shards = holdings.iter().flat_map(|holding| &holding.partitions);
        let shards: BTreeSet<ShardId> = shards.flat_map(|role| role.chain.everyone()).collect();
        shards.into_iter().filter_map(|shard| self.server_of(shard)).filter(|peer| *peer != own).collect()
    }

    /// Servers whose roles changed since this was last asked.
    pub(super) fn take_concerned(&mut self) -> BTreeSet<ServerId> {
        std::mem::take(&mut self.concerned)
    }

    /// What others know of this server changed: everybody with a link to it is told.
    pub(super) fn introduce(&mut self, shards: impl Iterator<Item = ShardId>) {
        for shard in shards {
            let partitions: Vec<PartitionId> = self.held_by(shard).collect();
            for partition in partitions {
                self.concern(partition);
            }
        }
    }

    /// A new chain for a partition, under an epoch of its own.
    pub(super) fn change(
        &mut self,
        partition: PartitionId,
        members: Vec<ShardId>,
        joiner: Option<ShardId>,
        unsynced: bool,
    ) {
        assert!(!members.is_empty(), "partition {partition} without a member");
        assert!(!unsynced || (members.len() > 1 && joiner.is_none()), "who joined last follows another");
        self.last_epoch += 1;
        let began = self.map.partitions[partition.0 as usize].began;
        let chain = PartitionChain { epoch: Epoch(self.last_epoch), members, joiner, unsynced, began };
        self.concern(partition);
        self.leave(partition);
        self.map.partitions[partition.0 as usize] = chain;
        self.enter(partition);
        self.concern(partition);
        self.map.version += 1;
    }

    /// The tail has everything: it counts from now on. The epoch stays, nobody has to be told.
    pub(super) fn tail_is_synced(&mut self, partition: PartitionId) {
        let chain = &mut self.map.partitions[partition.0 as usize];
        assert!(std::mem::take(&mut chain.unsynced), "the tail of partition {partition} was synced already");
        self.map.version += 1;
        self.note_whether_finished(partition);
    }

    /// Places all partitions anew, with nothing in them; chains that stay as they are keep their epoch.
    pub(super) fn place_anew(&mut self, placed: Vec<Vec<ShardId>>) {
        self.last_epoch += 1;
        let epoch = Epoch(self.last_epoch);
        for at in 0..self.map.partitions.len() {
            let partition = PartitionId(at as u32);
            let before = &self.map.partitions[at];
            if placed.get(at) != Some(&before.members) || before.joiner.is_some() || before.unsynced {
                self.concern(partition);
            }
            self.leave(partition);
        }
        let before = std::mem::take(&mut self.map.partitions);
        for (at, members) in placed.into_iter().enumerate() {
            let kept =
                before.get(at).filter(|old| old.members == members && old.joiner.is_none() && !old.unsynced);
            let chain = kept.cloned().unwrap_or_else(|| PartitionChain::of(epoch, members));
            let changed = kept.is_none();
            let partition = PartitionId(at as u32);
            self.map.partitions.push(chain);
            self.enter(partition);
            if changed {
                self.concern(partition);
            }
        }
        self.map.version += 1;
    }

    /// There is no server left, and there was nothing in the partitions.
    pub(super) fn clear(&mut self) {
        self.place_anew(Vec::new());
    }

    fn servers_of(&self, partition: PartitionId) -> Vec<ServerId> {
        let chain = &self.map.partitions[partition.0 as usize];
        let server = |shard| match self.server_of(shard) {
            Some(server) => server,
            None => unreachable!("the record is checked and members are known"),
        };
        chain.everyone().map(server).collect()
    }

    fn concern(&mut self, partition: PartitionId) {
        let servers = self.servers_of(partition);
        self.concerned.extend(servers);
    }

    fn enter(&mut self, partition: PartitionId) {
        let chain = &self.map.partitions[partition.0 as usize];
        *self.heads.entry(chain.members[0]).or_default() += 1;
        for shard in chain.everyone() {
            self.held.entry(shard).or_default().insert(partition);
        }
        for server in self.servers_of(partition) {
            *self.holders.entry(server).or_default() += 1;
        }
        self.note_whether_finished(partition);
    }

    fn leave(&mut self, partition: PartitionId) {
        let chain = &self.map.partitions[partition.0 as usize];
        let (head, everyone): (ShardId, Vec<ShardId>) = (chain.members[0], chain.everyone().collect());
        less_one(&mut self.heads, head);
        for shard in everyone {
            if let Some(held) = self.held.get_mut(&shard) {
                held.remove(&partition);
                if held.is_empty() {
                    self.held.remove(&shard);
                }
            }
        }
        for server in self.servers_of(partition) {
            less_one(&mut self.holders, server);
        }
        self.unfinished.remove(&partition);
    }

    fn note_whether_finished(&mut self, partition: PartitionId) {
        let chain = &self.map.partitions[partition.0 as usize];
        if chain.joiner.is_none() && !chain.unsynced && chain.members.len() == self.replicas {
            self.unfinished.remove(&partition);
        } else {
            self.unfinished.insert(partition);
        }
    }
}

fn less_one<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}
