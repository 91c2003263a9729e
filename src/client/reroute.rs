//! What a new map changes: a partition whose chain changed is reached by another way, or under another epoch.
//!
//! Everything unresolved goes again, in order, to the head of the new chain (C3); servers drop what they have. What a
//! former head still says of pushes stays true: an acknowledged push is in every replica of the chain it names.
//! Retries of a former head are old, since the flow's attempt rose.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::engine::{Engine, Outgoing};
use super::link::Link;
use super::push_path::Sent;
use crate::cluster::PartitionChain;
use crate::lane::Fabric;
use crate::wire::ids::{PartitionId, ShardId};

impl<F: Fabric> Engine<F> {
    /// Takes the newest map, and every chain in it that is newer than the one in use.
    pub(super) fn follow_map(&mut self) {
        let map = self.control.map();
        for (partition, chain) in map.partitions.iter().enumerate().take(self.routes.len()) {
            if chain.epoch > self.routes[partition].flow.epoch {
                self.reroute(PartitionId(partition as u32), chain);
                self.rerouted = true;
            }
        }
        self.map = map;
    }

    /// The link of a shard, made if there is none.
    pub(super) fn link_of(&mut self, shard: ShardId) -> usize {
        self.links.iter().position(|link| link.shard == shard).unwrap_or_else(|| {
            self.links.push(Link::new(shard));
            self.links.len() - 1
        })
    }

    fn reroute(&mut self, partition: PartitionId, chain: &PartitionChain) {
        let (Some(&head), Some(&tail)) = (chain.members.first(), chain.members.last()) else { return };
        let (head, tail) = (self.link_of(head), self.link_of(tail));
        let index = partition.0 as usize;
        let former = (self.routes[index].link, self.routes[index].tail_link);
        self.unqueue(partition, former.0);
        self.unqueue(partition, former.1);
        self.delayed.retain(|delayed| delayed.partition != partition);
        let route = &mut self.routes[index];
        let sent = route.flow.sent();
        route.flow.rewind();
        route.flow.epoch = chain.epoch;
        (route.link, route.tail_link, route.heard) = (head, tail, Instant::now());
        if head != former.0 {
            // The new head was sent no list of this session's; others than these are found out one by one.
            for sent in route.flow.bodies() {
                if let Sent::Push { plan, part, .. } = sent {
                    plan.parts[*part as usize].known.store(false, Ordering::Relaxed);
                }
            }
        }
        self.release_pushes(former.0, sent);
        self.requeue_all(partition);
        self.move_pulls(partition, former);
        self.move_asks(partition, former.0);
        for link in [head, tail] {
            if self.links[link].lane.is_none() {
                self.links[link].hurry();
            }
        }
    }

    /// Takes everything of a partition out of a link's queue, and what nobody waits for any more.
    fn unqueue(&mut self, partition: PartitionId, link: usize) {
        let Self { links, pulls, asks, .. } = self;
        links[link].queue.retain(|out| match *out {
            Outgoing::Push(of, _) => of != partition,
            Outgoing::Pull { pull, part } => {
                pulls.get(pull).is_some_and(|state| state.partition(part) != Some(partition))
            }
            Outgoing::Ask(ask) => asks.get(ask).is_some_and(|state| state.partition != partition),
        });
    }

    /// Closes the lanes that no partition is reached by. One to a server that is stopped never ends by itself.
    pub(super) fn close_unused(&mut self) {
        let mut used = vec![false; self.links.len()];
        for route in &self.routes {
            used[route.link] = true;
            used[route.tail_link] = true;
        }
        for index in (0..used.len()).filter(|&index| !used[index]) {
            assert!(
                self.links[index].queue.is_empty(),
                "what is queued for a link is for a partition behind it"
            );
            self.hang_up(index);
        }
    }
}
