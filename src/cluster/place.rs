//! Which threads hold the copies of which partition.
//!
//! Weighted rendezvous hashing with bounded load: every partition ranks all threads by a hash of both and takes the best
//! of as many servers as it has copies, each server at most once and none beyond its share. A server ranks by its best
//! thread, so one with more threads is liked more often. Shares follow from the threads and are met exactly: a server
//! whose share is as large as the number of partitions still to be placed has to take all of them, and is taken first;
//! there are never more of those than copies, and always enough others with room.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::MapError;
use crate::wire::ids::{PartitionId, ShardId};

/// Most partitions of a cluster.
pub(super) const MAX_PARTITIONS: u32 = 1 << 16;

/// How much a partition likes a thread.
pub(super) fn score(cluster_id: u64, partition: PartitionId, shard: ShardId) -> u64 {
    let mut pair = [0; 8];
    pair[..4].copy_from_slice(&partition.0.to_le_bytes());
    pair[4..].copy_from_slice(&shard.0.to_le_bytes());
    xxh3_64_with_seed(&pair, cluster_id)
}

/// One server that partitions are placed on.
struct Room<'a> {
    shards: &'a [ShardId],
    load: Vec<usize>,
    /// Copies it still takes.
    left: usize,
    /// What each thread takes, and how many of them one more.
    share: usize,
    extras: usize,
}

impl<'a> Room<'a> {
    fn new(shards: &'a [ShardId], left: usize) -> Self {
        let threads = shards.len();
        Self { shards, load: vec![0; threads], left, share: left / threads, extras: left % threads }
    }

    /// Its thread with room that the partition likes best.
    fn best(&self, cluster_id: u64, partition: PartitionId) -> Option<(u64, usize)> {
        let open =
            |at: &usize| self.load[*at] < self.share || (self.load[*at] == self.share && self.extras > 0);
        let scored = (0..self.shards.len()).filter(open);
        scored.map(|at| (score(cluster_id, partition, self.shards[at]), at)).max()
    }

    fn take(&mut self, at: usize) -> ShardId {
        self.left -= 1;
        self.extras -= usize::from(self.load[at] == self.share);
        self.load[at] += 1;
        self.shards[at]
    }
}

/// Members of the chains of all partitions, head first, on distinct servers; no thread heads two more than another that
/// could take one over.
///
/// # Errors
/// No server, fewer servers than copies, or a number of partitions out of range.
pub(super) fn place_chains(
    cluster_id: u64,
    partitions: u32,
    replicas: u32,
    servers: &[Vec<ShardId>],
) -> Result<Vec<Vec<ShardId>>, MapError> {
    if servers.is_empty() || servers.iter().any(Vec::is_empty) {
        return Err(MapError::NoShards);
    }
    if partitions == 0 || partitions > MAX_PARTITIONS {
        return Err(MapError::Partitions { partitions });
    }
    let copies = replicas as usize;
    if copies == 0 || copies > servers.len() {
        return Err(MapError::Copies { replicas, servers: servers.len() });
    }
    let threads: Vec<usize> = servers.iter().map(Vec::len).collect();
    let shares = shares(partitions as usize, copies, &threads);
    let mut rooms: Vec<Room<'_>> =
        servers.iter().zip(shares).map(|(shards, share)| Room::new(shards, share)).collect();
    let mut chains = Vec::with_capacity(partitions as usize);
    // Those taken for one partition: whether they must be, how much it likes them, server, thread; best first.
    let mut taken: Vec<(bool, u64, usize, usize)> = Vec::with_capacity(copies + 1);
    for partition in 0..partitions {
        let remaining = (partitions - partition) as usize;
        taken.clear();
        for (server, room) in rooms.iter().enumerate().filter(|(_, room)| room.left > 0) {
            let Some((score, at)) = room.best(cluster_id, PartitionId(partition)) else { continue };
            let entry = (room.left == remaining, score, server, at);
            let rank = taken.partition_point(|better| *better > entry);
            if rank < copies {
                taken.truncate(copies - 1);
                taken.insert(rank, entry);
            }
        }
        assert!(taken.len() == copies, "shares leave room for every copy");
        taken.sort_unstable_by_key(|(_, score, ..)| core::cmp::Reverse(*score));
        chains.push(taken.iter().map(|&(_, _, server, at)| rooms[server].take(at)).collect());
    }
    balance_heads(&mut chains);
    Ok(chains)
}

/// Copies for each server: by its threads, at most one of each partition, all together `partitions * copies`.
fn shares(partitions: usize, copies: usize, threads: &[usize]) -> Vec<usize> {
    let mut shares = vec![0; threads.len()];
    let mut open: Vec<usize> = (0..threads.len()).collect();
    let mut total = partitions * copies;
    loop {
        let weight: usize = open.iter().map(|&at| threads[at]).sum();
        let full: Vec<usize> =
            open.iter().copied().filter(|&at| total * threads[at] > partitions * weight).collect();
        if full.is_empty() {
            // What rounding down leaves goes to those it took most from.
            let mut rests: Vec<(usize, usize)> = Vec::with_capacity(open.len());
            let mut left = total;
            for &at in &open {
                shares[at] = total * threads[at] / weight;
                left -= shares[at];
                rests.push((total * threads[at] % weight, at));
            }
            rests.sort_unstable_by_key(|&(rest, at)| (core::cmp::Reverse(rest), at));
            for (_, at) in rests.into_iter().take(left) {
                shares[at] += 1;
            }
            return shares;
        }
        for at in full {
            shares[at] = partitions;
            total -= partitions;
            open.retain(|&other| other != at);
        }
    }
}

/// Gives chains other heads until none would be better off with another member as its head.
fn balance_heads(chains: &mut [Vec<ShardId>]) {
    let last = chains.iter().flatten().map(|shard| shard.0 as usize).max().unwrap_or(0);
    let mut heads = vec![0usize; last + 1];
    for chain in chains.iter() {
        heads[chain[0].0 as usize] += 1;
    }
    let mut changed = true;
    while changed {
        changed = false;
        for chain in chains.iter_mut() {
            let least = (0..chain.len()).min_by_key(|&at| heads[chain[at].0 as usize]).unwrap_or(0);
            let (old, new) = (chain[0].0 as usize, chain[least].0 as usize);
            if heads[new] + 1 < heads[old] {
                heads[old] -= 1;
                heads[new] += 1;
                chain[..=least].rotate_right(1);
                changed = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn servers(threads: &[usize]) -> Vec<Vec<ShardId>> {
        let mut next = 0..;
        threads.iter().map(|count| next.by_ref().take(*count).map(ShardId).collect()).collect()
    }

    #[test]
    fn more_copies_than_servers_are_refused() {
        assert_eq!(
            place_chains(1, 4, 3, &servers(&[2, 2])),
            Err(MapError::Copies { replicas: 3, servers: 2 })
        );
    }

    #[test]
    fn a_server_that_joins_takes_its_share_and_hardly_anything_else_moves() {
        let before = place_chains(7, 1000, 2, &servers(&[1; 9])).unwrap();
        let after = place_chains(7, 1000, 2, &servers(&[1; 10])).unwrap();
        let moved = |(old, new): (&Vec<ShardId>, &Vec<ShardId>)| {
            new.iter().filter(|shard| !old.contains(shard)).count()
        };
        let moved: usize = before.iter().zip(&after).map(moved).sum();
        assert!((200..320).contains(&moved), "{moved} of 2000 copies moved, 200 had to");
    }

    proptest! {
        #[test]
        fn copies_are_on_distinct_servers_and_shares_follow_the_threads(
            id in any::<u64>(), partitions in 1u32..150, threads in prop::collection::vec(1usize..5, 1..10), copies in 1u32..4,
        ) {
            let servers = servers(&threads);
            prop_assume!(copies as usize <= servers.len());
            let chains = place_chains(id, partitions, copies, &servers).unwrap();
            prop_assert_eq!(&chains, &place_chains(id, partitions, copies, &servers).unwrap());
            let owner: BTreeMap<ShardId, usize> =
                servers.iter().enumerate().flat_map(|(at, own)| own.iter().map(move |shard| (*shard, at))).collect();
            let mut load = vec![0usize; servers.len()];
            let mut by_thread: BTreeMap<ShardId, usize> = BTreeMap::new();
            for chain in &chains {
                let on: BTreeSet<usize> = chain.iter().map(|shard| owner[shard]).collect();
                prop_assert_eq!(on.len(), copies as usize);
                on.iter().for_each(|at| load[*at] += 1);
                chain.iter().for_each(|shard| *by_thread.entry(*shard).or_default() += 1);
            }
            prop_assert_eq!(&load, &shares(partitions as usize, copies as usize, &threads));
            for own in &servers {
                let loads = own.iter().map(|shard| by_thread.get(shard).copied().unwrap_or(0));
                prop_assert!(loads.clone().max().unwrap() - loads.min().unwrap() <= 1);
            }
            if threads.iter().all(|count| *count == threads[0]) {
                prop_assert!(load.iter().max().unwrap() - load.iter().min().unwrap() <= 1);
            }
            let mut heads: BTreeMap<ShardId, usize> = BTreeMap::new();
            chains.iter().for_each(|chain| *heads.entry(chain[0]).or_default() += 1);
            let heads_of = |shard: &ShardId| heads.get(shard).copied().unwrap_or(0);
            for chain in &chains {
                prop_assert!(chain.iter().all(|other| heads_of(other) + 1 >= heads_of(&chain[0])));
            }
        }
    }
}
