//! Which shard holds which partition.

use core::net::SocketAddr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::place::place_chains;
use crate::wire::ids::{Epoch, PartitionId, ShardId};

/// The chain of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionChain {
    /// Version of this chain; changes only when this chain does.
    pub epoch: Epoch,
    /// Head first, tail last; never empty.
    pub members: Vec<ShardId>,
    /// Gets state, rows and batches from the tail, and is no member yet.
    #[serde(default)]
    pub joiner: Option<ShardId>,
    /// The tail has joined under this epoch and has not reported yet that it has all that its predecessor had: it is no
    /// survivor (C7).
    #[serde(default)]
    pub unsynced: bool,
    /// The epoch under which the partition was last placed anew, with nothing in it: a replica that is held under an
    /// older one is of no use to this chain, and its member begins empty like the others.
    #[serde(default)]
    pub began: Epoch,
}

impl PartitionChain {
    /// A chain that begins under this epoch: its members have nothing, and that is everything.
    #[must_use]
    pub fn of(epoch: Epoch, members: Vec<ShardId>) -> Self {
        Self { epoch, members, joiner: None, unsynced: false, began: epoch }
    }

    /// Members that have everything; an unsynced tail is none of them.
    #[must_use]
    pub fn synced(&self) -> &[ShardId] {
        &self.members[..self.members.len() - usize::from(self.unsynced)]
    }

    /// Members, then the joiner.
    pub fn everyone(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.members.iter().copied().chain(self.joiner)
    }
}

/// One partition of a server thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// Which.
    pub partition: PartitionId,
    /// Its chain.
    pub chain: PartitionChain,
}

/// One pinned server thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardInfo {
    /// Its number in the cluster.
    pub shard: ShardId,
    /// Where it takes tcp lanes, when it does.
    pub address: Option<SocketAddr>,
}

/// The cluster as clients see it. A map that is out of date is never wrong for long: servers answer by epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Map {
    /// Rises with every change; a hint, never a reason to refuse.
    pub version: u64,
    /// Random name of the cluster; lanes of another one are refused.
    pub cluster_id: u64,
    /// Chains by [`PartitionId`].
    pub partitions: Vec<PartitionChain>,
    /// Servers by [`ShardId`].
    pub shards: Vec<ShardInfo>,
}

/// Why no map can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MapError {
    /// Partitions need a shard.
    #[error("a cluster of no server threads holds nothing; start at least one")]
    NoShards,
    /// A cluster has at least one partition and no more than tables may have.
    #[error("{partitions} partitions; choose 1 to 65536")]
    Partitions {
        /// The number asked for.
        partitions: u32,
    },
    /// A server holds one copy of a partition at most.
    #[error(
        "{replicas} copies of each partition on {servers} servers; choose 1 to as many copies as servers"
    )]
    Copies {
        /// The number asked for.
        replicas: u32,
        /// Servers there are.
        servers: usize,
    },
}

impl Map {
    /// Places one copy of each of `partitions` on `shards`, by rendezvous hashing with bounded load: shares differ by one
    /// at most.
    ///
    /// # Errors
    /// No shards, or a number of partitions out of range.
    pub fn place(cluster_id: u64, partitions: u32, shards: Vec<ShardInfo>) -> Result<Self, MapError> {
        let alone: Vec<Vec<ShardId>> = shards.iter().map(|info| vec![info.shard]).collect();
        let chains = place_chains(cluster_id, partitions, 1, &alone)?;
        let partitions = chains.into_iter().map(|members| PartitionChain::of(Epoch(1), members)).collect();
        Ok(Self { version: 1, cluster_id, partitions, shards })
    }

    /// Number of partitions, fixed for the life of the cluster.
    #[must_use]
    pub fn partition_count(&self) -> u32 {
        self.partitions.len() as u32
    }

    /// The shard that takes a partition's pushes; none for a partition that does not exist.
    #[must_use]
    pub fn head_of(&self, partition: PartitionId) -> Option<ShardId> {
        self.partitions.get(partition.0 as usize)?.members.first().copied()
    }

    /// What a shard has to do with partitions, as a member of their chains or as a joiner; rising.
    #[must_use]
    pub fn roles_of(&self, shard: ShardId) -> Vec<Role> {
        let chains = (0..).map(PartitionId).zip(&self.partitions);
        let own = chains.filter(|(_, chain)| chain.everyone().any(|other| other == shard));
        own.map(|(partition, chain)| Role { partition, chain: chain.clone() }).collect()
    }

    /// The partitions a shard has a replica of, rising.
    pub fn partitions_of(&self, shard: ShardId) -> impl Iterator<Item = PartitionId> + '_ {
        self.partitions
            .iter()
            .enumerate()
            .filter(move |(_, chain)| chain.members.contains(&shard))
            .map(|(index, _)| PartitionId(index as u32))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shards(count: u32) -> Vec<ShardInfo> {
        (0..count).map(|shard| ShardInfo { shard: ShardId(shard), address: None }).collect()
    }

    #[test]
    fn a_map_without_shards_or_partitions_is_refused() {
        assert_eq!(Map::place(1, 1, Vec::new()), Err(MapError::NoShards));
        assert_eq!(Map::place(1, 0, shards(1)), Err(MapError::Partitions { partitions: 0 }));
        assert_eq!(Map::place(1, 65_537, shards(1)), Err(MapError::Partitions { partitions: 65_537 }));
    }

    proptest! {
        #[test]
        fn shares_differ_by_at_most_one(id in any::<u64>(), partitions in 1u32..200, count in 1u32..20) {
            let map = Map::place(id, partitions, shards(count)).unwrap();
            let loads: Vec<usize> = (0..count).map(|shard| map.partitions_of(ShardId(shard)).count()).collect();
            prop_assert_eq!(loads.iter().sum::<usize>(), partitions as usize);
            prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{:?}", loads);
            prop_assert_eq!(&map, &Map::place(id, partitions, shards(count)).unwrap());
        }

        #[test]
        fn every_partition_has_a_head_that_names_it(id in any::<u64>(), partitions in 1u32..64, count in 1u32..9) {
            let map = Map::place(id, partitions, shards(count)).unwrap();
            for partition in (0..partitions).map(PartitionId) {
                let head = map.head_of(partition).unwrap();
                prop_assert!(map.partitions_of(head).any(|other| other == partition));
            }
            prop_assert_eq!(map.head_of(PartitionId(partitions)), None);
        }
    }
}
