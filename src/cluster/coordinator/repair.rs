//! Who is dead, and what becomes of the chains it was in (design, sections 6 and 7).
//!
//! A closed connection and a lapsed lease are a certain death; a server that is connected and says nothing for as long
//! is suspected, at most a third of them in any ten seconds. Either way it leaves every chain in which another member
//! that has everything is heard of; where there is none, the recorded chain stays as it is (C7).

use std::time::Duration;

use super::Coordinator;
use super::servers::{Life, Server};
use crate::cluster::PartitionChain;
use crate::wire::ids::{Epoch, PartitionId, ServerId, ShardId};

/// Suspicions are counted over so long.
const SUSPICION_SPAN: Duration = Duration::from_secs(10);

impl Coordinator {
    /// How long silence is no sign of death: the holder counts its lease from when it sent the renewal, so it has ended
    /// for it by then.
    pub(super) fn patience(&self) -> Duration {
        self.lease() + self.lease() / 10
    }

    /// Whether a server is connected and was heard of within its lease.
    pub(super) fn is_heard(&self, server: &Server) -> bool {
        server.connection().is_some() && !server.suspected && self.clock < server.heard + self.patience()
    }

    pub(super) fn is_heard_shard(&self, shard: ShardId) -> bool {
        let server = self.chains.server_of(shard).and_then(|server| self.servers.get(&server));
        server.is_some_and(|server| self.is_heard(server))
    }

    /// Out of its chains: its process has ended, or it is taken for stopped.
    fn is_out(&self, shard: ShardId) -> bool {
        let server = self.chains.server_of(shard).and_then(|server| self.servers.get(&server));
        server.is_none_or(|server| server.life == Life::Gone || server.suspected)
    }

    /// Judges servers by what was heard of them.
    pub(super) fn judge_servers(&mut self) {
        let (now, patience) = (self.clock, self.patience());
        let lapsed = |server: &Server| now >= server.heard + patience;
        let judged = |life: fn(&Life) -> bool| {
            let late = self.servers.iter().filter(|(_, server)| life(&server.life) && lapsed(server));
            late.map(|(id, _)| *id).collect::<Vec<ServerId>>()
        };
        let gone = judged(|life| *life == Life::Away);
        let silent = judged(|life| matches!(life, Life::Here(_)));
        for id in &gone {
            if let Some(server) = self.servers.get_mut(id) {
                server.life = Life::Gone;
                self.complaints.push(format!("{} is gone", server.name()));
            }
            self.chains.raise_version();
            self.changed = true;
        }
        for id in silent {
            self.suspect(id, "is silent");
        }
        self.repair();
        for id in gone {
            self.give_up_on(id);
        }
        self.forget_the_gone();
    }

    /// A server that is connected does not do its part: it leaves its chains, if not too many are suspected already.
    pub(super) fn suspect(&mut self, id: ServerId, why: &str) {
        let now = self.clock;
        while self.suspicions.front().is_some_and(|since| now >= *since + SUSPICION_SPAN) {
            self.suspicions.pop_front();
        }
        let servers = self.servers.values().filter(|server| server.life != Life::Gone).count();
        let Some(server) = self.servers.get_mut(&id).filter(|server| !server.suspected) else { return };
        // One without a role has nothing to leave, and costs nobody a suspicion.
        let counts = self.chains.holds(id);
        if counts && self.suspicions.len() >= servers.div_ceil(3) {
            return;
        }
        server.suspected = true;
        if counts {
            self.suspicions.push_back(now);
            self.complaints
                .push(format!("{} {why}; it leaves its chains where others remain", server.name()));
        }
    }

    /// Takes those who are out from the chains that can do without them.
    pub(super) fn repair(&mut self) {
        let out = self.servers.values().filter(|server| server.life == Life::Gone || server.suspected);
        let shards: Vec<ShardId> = out.flat_map(Server::shard_ids).collect();
        for shard in shards {
            let partitions: Vec<PartitionId> = self.chains.held_by(shard).collect();
            for partition in partitions {
                let Some(chain) = self.chains.of(partition).cloned() else { continue };
                if !chain.synced().iter().any(|member| self.is_heard_shard(*member)) {
                    continue;
                }
                self.without(partition, &chain, Self::is_out);
            }
        }
    }

    /// Gives a partition its chain without some, of whom at least one member that has everything is none. Who joins starts
    /// over when the tail is another: it sends.
    pub(super) fn without(
        &mut self,
        partition: PartitionId,
        chain: &PartitionChain,
        leaves: impl Fn(&Self, ShardId) -> bool,
    ) {
        let stay: Vec<ShardId> =
            chain.members.iter().copied().filter(|member| !leaves(self, *member)).collect();
        let same_tail = stay.last() == chain.members.last();
        let joiner = chain.joiner.filter(|joiner| same_tail && !leaves(self, *joiner));
        if stay.len() == chain.members.len() && joiner == chain.joiner {
            return;
        }
        self.chains.change(partition, stay, joiner, chain.unsynced && same_tail);
        self.changed = true;
    }

    /// Those that are gone and have no role are nobody any more; they get their numbers back when they return.
    pub(super) fn forget_the_gone(&mut self) {
        let gone = self.servers.values().filter(|server| server.life == Life::Gone);
        let gone = gone.map(|server| (server.record.server, server.record.first_shard));
        let gone: Vec<_> = gone.filter(|(id, _)| !self.chains.holds(*id)).collect();
        for (id, first) in gone {
            self.servers.remove(&id);
            self.chains.forget(id, first);
            self.placed_on.retain(|placed| *placed != id);
            self.changed = true;
        }
    }

    /// A joiner has everything, or a tail that joined has reported.
    pub(super) fn on_synced(
        &mut self,
        server: ServerId,
        partition: PartitionId,
        epoch: Epoch,
        shard: ShardId,
    ) {
        if self.chains.server_of(shard) != Some(server) {
            return;
        }
        let Some(chain) = self.chains.of(partition).filter(|chain| chain.epoch == epoch) else { return };
        if chain.joiner == Some(shard) {
            let members = chain.everyone().collect();
            self.chains.change(partition, members, None, true);
        } else if chain.unsynced && chain.members.last() == Some(&shard) {
            self.chains.tail_is_synced(partition);
        } else {
            return;
        }
        self.changed = true;
    }

    /// A replica can't go on (C0). The last one that has everything stays, whatever it says.
    pub(super) fn on_leave(
        &mut self,
        server: ServerId,
        (partition, epoch, shard): (PartitionId, Epoch, ShardId),
        reason: &str,
    ) {
        if self.chains.server_of(shard) != Some(server) {
            return;
        }
        let chain = self.chains.of(partition).filter(|chain| chain.epoch == epoch);
        let Some(chain) = chain.filter(|chain| chain.everyone().any(|one| one == shard)).cloned() else {
            return;
        };
        let name = self.servers.get(&server).map(Server::name).unwrap_or_default();
        let others = |one: &ShardId| *one != shard && self.is_heard_shard(*one);
        if chain.synced().contains(&shard) && !chain.synced().iter().any(others) {
            self.complaints.push(format!(
                "{name} wants to leave partition {partition} and has the only copy ({reason}); it stays"
            ));
            return;
        }
        self.complaints.push(format!("{name} leaves partition {partition}: {reason}"));
        self.without(partition, &chain, |_, one| one == shard);
        self.bar(partition, server);
    }
}
