//! Which shard holds which partition.

use core::net::SocketAddr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64_with_seed;

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
}

impl PartitionChain {
    /// A chain whose members all have everything.
    #[must_use]
    pub fn of(epoch: Epoch, members: Vec<ShardId>) -> Self {
        Self { epoch, members, joiner: None, unsynced: false }
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
}

/// Most partitions of a cluster.
const MAX_PARTITIONS: u32 = 1 << 16;

impl Map {
    /// Places `partitions` on `shards`, by rendezvous hashing with bounded load.
    ///
    /// Every partition ranks the shards by a hash of both and takes the first that is not full, where full means one
    /// more would make the shares differ by more than one. With as many partitions as shards each gets one.
    ///
    /// # Errors
    /// No shards, or a number of partitions out of range.
    pub fn place(cluster_id: u64, partitions: u32, shards: Vec<ShardInfo>) -> Result<Self, MapError> {
        if shards.is_empty() {
            return Err(MapError::NoShards);
        }
        if partitions == 0 || partitions > MAX_PARTITIONS {
            return Err(MapError::Partitions { partitions });
        }
        let share = partitions as usize / shards.len();
        let mut extras = partitions as usize % shards.len();
        let mut load = vec![0usize; shards.len()];
        let mut chains = Vec::with_capacity(partitions as usize);
        for partition in 0..partitions {
            let open = |at: usize| load[at] < share || (load[at] == share && extras > 0);
            let best = (0..shards.len())
                .filter(|&at| open(at))
                .max_by_key(|&at| (score(cluster_id, PartitionId(partition), shards[at].shard), at));
            let Some(at) = best else { unreachable!("shares add up to the partitions") };
            if load[at] == share {
                extras -= 1;
            }
            load[at] += 1;
            chains.push(PartitionChain::of(Epoch(1), vec![shards[at].shard]));
        }
        Ok(Self { version: 1, cluster_id, partitions: chains, shards })
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
        let own = chains.filter(|(_, chain)| chain.members.contains(&shard) || chain.joiner == Some(shard));
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

/// How much a partition likes a shard.
fn score(cluster_id: u64, partition: PartitionId, shard: ShardId) -> u64 {
    let mut pair = [0; 8];
    pair[..4].copy_from_slice(&partition.0.to_le_bytes());
    pair[4..].copy_from_slice(&shard.0.to_le_bytes());
    xxh3_64_with_seed(&pair, cluster_id)
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
