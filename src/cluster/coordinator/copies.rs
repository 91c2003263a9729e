//! As many copies as there should be, where they should be: joins, moves, drains, and who heads.
//!
//! All of it is read off the chains each time, so a coordinator that starts goes on where the last one was. A chain with
//! too few copies gets a joiner behind its tail; one with too many, each with everything, loses a member: one whose server
//! is drained, or the busiest. A move is the one and then the other, so a partition never has fewer copies for it. At most
//! [`MOST_JOINS`] copies are sent by a server and as many received at a time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::operation::Kind;
use super::servers::{Life, Server};
use super::{Asker, Coordinator};
use crate::cluster::PartitionChain;
use crate::cluster::message::{Ask, Failure, Reply, ServerReport};
use crate::cluster::place::score;
use crate::wire::ids::{PartitionId, ServerId, ShardId};

/// Copies that a server sends, and copies that it receives, at a time: one moves bytes while the other waits
/// for the round trips at its begin and end; more would only make each take longer.
const MOST_JOINS: usize = 2;
/// How long a server that left a chain does not join it again: what made it leave may still be so.
const PAUSE_AFTER_LEAVING: Duration = Duration::from_secs(1);
/// A joiner that has got no row for so long is given up, and for so long not tried again.
const PATIENCE_WITH_JOINERS: Duration = Duration::from_secs(60);
/// How often it looks for copies to make when no chain has changed: servers may have been heard of.
const AGAIN: Duration = Duration::from_millis(100);
/// Between two looks at how far joiners are.
const LOOK: Duration = Duration::from_secs(10);
/// How long an old head has to finish before the others are told of the new one.
const HANDOVER: Duration = Duration::from_millis(150);

/// Somebody joins a chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Join {
    shard: ShardId,
    /// When it last got further.
    moved: Duration,
    rows: u64,
}

/// Somebody waits until a server holds nothing.
#[derive(Clone, Debug)]
pub(super) struct Drain {
    asker: Asker,
    server: ServerId,
    until: Duration,
}

/// A head that was told to be none any more; the others hear of it when it has finished.
#[derive(Clone, Debug)]
pub(super) struct Handover {
    from: ServerId,
    others: BTreeSet<ServerId>,
    until: Duration,
}

/// A server that can take copies, and how many it has for its threads; the emptiest first.
#[derive(Clone, Copy, Debug)]
struct Taker {
    server: ServerId,
    copies: usize,
    threads: usize,
}

impl Coordinator {
    /// Begins and ends what is to be done about copies.
    pub(super) fn tend_copies(&mut self) {
        self.end_handover();
        if !self.chains.are_placed() {
            return self.end_drains();
        }
        let (now, version) = (self.clock, self.chains.map().version);
        if self.tended.is_none_or(|(seen, at)| seen != version || now >= at + AGAIN) {
            self.barred.retain(|_, until| now < *until);
            self.watch_joins();
            self.end_moves();
            self.begin_joins();
            self.tended = Some((version, now));
        }
        self.end_drains();
        self.balance_heads();
    }

    fn is_draining(&self, shard: ShardId) -> bool {
        let server = self.chains.server_of(shard).and_then(|server| self.servers.get(&server));
        server.is_some_and(|server| server.record.draining)
    }

    fn threads_of(&self, server: ServerId) -> usize {
        self.servers.get(&server).map_or(1, |server| server.record.shards as usize)
    }

    /// Whether a chain has, or will have once those who join have everything, all the copies that stay.
    fn is_short(&self, chain: &PartitionChain) -> bool {
        chain.everyone().filter(|shard| !self.is_draining(*shard)).count() < self.replicas as usize
    }

    /// Who leaves a chain that has a copy too many: one that is drained, or whose server has most to do.
    fn surplus(&self, chain: &PartitionChain) -> Option<ShardId> {
        let busy = |shard: ShardId| {
            let server = self.chains.server_of(shard)?;
            Some(self.chains.roles(server) * 1000 / self.threads_of(server))
        };
        let members = chain.members.iter().enumerate();
        let victim =
            members.max_by_key(|(at, shard)| (self.is_draining(**shard), busy(**shard), Reverse(*at)));
        victim.map(|(_, shard)| *shard)
    }

    /// Gives up joiners that get no further, and asks now and then how far they are.
    fn watch_joins(&mut self) {
        let now = self.clock;
        let mut open: BTreeMap<PartitionId, Join> = BTreeMap::new();
        for partition in self.chains.unfinished() {
            let Some(chain) = self.chains.of(*partition) else { continue };
            let joins = chain.joiner.or(chain.members.last().copied().filter(|_| chain.unsynced));
            let Some(shard) = joins else { continue };
            let known = self.joins.get(partition).copied().filter(|join| join.shard == shard);
            open.insert(*partition, known.unwrap_or(Join { shard, moved: now, rows: 0 }));
        }
        self.joins = open;
        let stuck = self.joins.iter().filter(|(_, join)| now >= join.moved + PATIENCE_WITH_JOINERS);
        let stuck: Vec<(PartitionId, ShardId)> =
            stuck.map(|(partition, join)| (*partition, join.shard)).collect();
        for (partition, shard) in stuck {
            let (Some(chain), Some(server)) =
                (self.chains.of(partition).cloned(), self.chains.server_of(shard))
            else {
                continue;
            };
            let name = self.servers.get(&server).map(Server::name).unwrap_or_default();
            self.complaints.push(format!(
                "{name} joined partition {partition} and got nothing for {PATIENCE_WITH_JOINERS:?}; another is tried"
            ));
            self.barred.insert((partition, server), now + PATIENCE_WITH_JOINERS);
            self.joins.remove(&partition);
            self.without(partition, &chain, |_, one| one == shard);
        }
        if now < self.looked + LOOK {
            return;
        }
        self.looked = now;
        let late = self.joins.values().filter(|join| now >= join.moved + LOOK);
        let servers: BTreeSet<ServerId> = late.filter_map(|join| self.chains.server_of(join.shard)).collect();
        if !servers.is_empty() {
            let kind = Kind::Progress { reports: Vec::new() };
            self.launch(kind, Ask::Report, None, servers.into_iter().collect(), now + LOOK);
        }
    }

    /// Servers told how far their joins are.
    pub(super) fn on_progress(&mut self, reports: &[ServerReport]) {
        let now = self.clock;
        for replica in reports.iter().flat_map(|report| &report.partitions) {
            let join = self.joins.get_mut(&replica.partition).filter(|join| join.shard == replica.shard);
            if let Some(join) = join.filter(|join| join.rows != replica.rows) {
                (join.rows, join.moved) = (replica.rows, now);
            }
        }
    }

    /// Chains with a copy too many lose one, when all of them have everything and are heard of.
    fn end_moves(&mut self) {
        let replicas = self.replicas as usize;
        let full = self.chains.unfinished().iter().copied().filter(|partition| {
            self.chains.of(*partition).is_some_and(|chain| {
                chain.joiner.is_none()
                    && !chain.unsynced
                    && chain.members.len() > replicas
                    && chain.members.iter().all(|member| self.is_heard_shard(*member))
            })
        });
        for partition in full.collect::<Vec<_>>() {
            let Some(chain) = self.chains.of(partition).cloned() else { continue };
            if let Some(victim) = self.surplus(&chain) {
                self.without(partition, &chain, |_, one| one == victim);
            }
        }
    }

    /// Servers that can take copies, emptiest first.
    fn takers(&self) -> Vec<Taker> {
        let well = self
            .servers
            .values()
            .filter(|server| self.is_heard(server) && server.is_up_to_date() && !server.record.draining);
        let mut takers: Vec<Taker> = well
            .map(|server| Taker {
                server: server.record.server,
                copies: self.chains.roles(server.record.server),
                threads: server.record.shards as usize,
            })
            .collect();
        takers.sort_by(|a, b| {
            (a.copies * b.threads).cmp(&(b.copies * a.threads)).then(a.server.cmp(&b.server))
        });
        takers
    }

    /// The thread of a server that takes a copy: its emptiest, of those the one the partition likes best.
    fn thread_for(&self, partition: PartitionId, server: ServerId) -> Option<ShardId> {
        let threads = self.servers.get(&server)?.shard_ids();
        threads
            .min_by_key(|shard| (self.chains.copies(*shard), Reverse(score(self.cluster, partition, *shard))))
    }

    /// Finds joiners for chains that are short, and once there is none, for copies that would be better elsewhere.
    fn begin_joins(&mut self) {
        let (mut sends, mut receives): (BTreeMap<ServerId, usize>, BTreeMap<ServerId, usize>) =
            Default::default();
        let mut short: Vec<PartitionId> = Vec::new();
        // Copies that will go once their chain's joiner has everything.
        let mut leaving: BTreeMap<ServerId, usize> = BTreeMap::new();
        let drained = self.servers.values().filter(|server| server.record.draining);
        let drained = drained.flat_map(Server::shard_ids).flat_map(|shard| self.chains.held_by(shard));
        let drained = drained.filter(|partition| !self.chains.unfinished().contains(partition));
        for partition in self.chains.unfinished().iter().copied().chain(drained) {
            let Some(chain) = self.chains.of(partition) else { continue };
            let tail = chain.members.last().copied();
            let pair = match (chain.joiner, chain.unsynced) {
                (Some(joiner), _) => Some((tail, joiner)),
                (None, true) => tail.map(|tail| (chain.synced().last().copied(), tail)),
                (None, false) => None,
            };
            if let Some((from, to)) = pair {
                for (counts, shard) in [(&mut sends, from), (&mut receives, Some(to))] {
                    if let Some(server) = shard.and_then(|shard| self.chains.server_of(shard)) {
                        *counts.entry(server).or_default() += 1;
                    }
                }
            } else if self.is_short(chain) {
                short.push(partition);
            }
            if chain.everyone().count() > self.replicas as usize
                && let Some(server) = self.surplus(chain).and_then(|shard| self.chains.server_of(shard))
            {
                *leaving.entry(server).or_default() += 1;
            }
        }
        let mut takers = self.takers();
        if short.is_empty() {
            return self.begin_moves(&takers, (&mut sends, &mut receives), &leaving);
        }
        for partition in short {
            takers.retain(|taker| receives.get(&taker.server).is_none_or(|count| *count < MOST_JOINS));
            if takers.is_empty() {
                return;
            }
            let Some(chain) = self.chains.of(partition) else { continue };
            let Some(tail) = self.sender(chain, &sends) else { continue };
            // The share of each thread, rounded up: who has it already is taken only when nobody else is left.
            let threads: usize = takers.iter().map(|taker| taker.threads).sum();
            let share = (self.partitions as usize * self.replicas as usize).div_ceil(threads.max(1));
            let free = takers.iter().filter(|taker| {
                !chain.everyone().any(|shard| self.chains.server_of(shard) == Some(taker.server))
                    && !self.barred.contains_key(&(partition, taker.server))
            });
            let rated = free.filter_map(|taker| {
                let shard = self.thread_for(partition, taker.server)?;
                let full = taker.copies >= share * taker.threads;
                let rank = match full {
                    true => u64::MAX - taker.copies as u64 / taker.threads as u64,
                    false => score(self.cluster, partition, shard),
                };
                Some((!full, rank, taker.server, shard))
            });
            if let Some((.., server, shard)) = rated.max() {
                *sends.entry(tail).or_default() += 1;
                *receives.entry(server).or_default() += 1;
                self.join(partition, shard);
            }
        }
    }

    /// The server that would send a copy, if it may begin another and everybody in the chain is heard of.
    fn sender(&self, chain: &PartitionChain, sends: &BTreeMap<ServerId, usize>) -> Option<ServerId> {
        let tail = chain.members.last().and_then(|tail| self.chains.server_of(*tail))?;
        let idle = sends.get(&tail).is_none_or(|count| *count < MOST_JOINS);
        (idle && chain.members.iter().all(|member| self.is_heard_shard(*member))).then_some(tail)
    }

    fn join(&mut self, partition: PartitionId, shard: ShardId) {
        if let Some(chain) = self.chains.of(partition) {
            let members = chain.members.clone();
            self.chains.change(partition, members, Some(shard), false);
            self.changed = true;
        }
    }

    /// Begins to move copies from servers with more than their share to those with less, while each move makes the two
    /// more alike.
    fn begin_moves(
        &mut self,
        takers: &[Taker],
        (sends, receives): (&mut BTreeMap<ServerId, usize>, &mut BTreeMap<ServerId, usize>),
        leaving: &BTreeMap<ServerId, usize>,
    ) {
        let mut load: BTreeMap<ServerId, usize> = BTreeMap::new();
        for taker in takers {
            let going = leaving.get(&taker.server).copied().unwrap_or(0);
            load.insert(taker.server, taker.copies.saturating_sub(going));
        }
        for to in takers {
            for from in takers.iter().rev() {
                loop {
                    let more = load[&from.server] * to.threads > (load[&to.server] + 1) * from.threads;
                    let may = receives.get(&to.server).is_none_or(|count| *count < MOST_JOINS);
                    if !more || !may {
                        break;
                    }
                    let Some((partition, sender)) = self.movable(from.server, to.server, sends) else {
                        break;
                    };
                    let Some(shard) = self.thread_for(partition, to.server) else { break };
                    self.join(partition, shard);
                    *sends.entry(sender).or_default() += 1;
                    *receives.entry(to.server).or_default() += 1;
                    *load.entry(from.server).or_default() -= 1;
                    *load.entry(to.server).or_default() += 1;
                }
                if load[&from.server] * to.threads <= (load[&to.server] + 1) * from.threads {
                    // The others have less still.
                    break;
                }
            }
            if takers
                .last()
                .is_none_or(|most| load[&most.server] * to.threads <= (load[&to.server] + 1) * most.threads)
            {
                return;
            }
        }
    }

    /// The copy that is best moved from one server to another, and who would send it: of a chain that the server does not
    /// head if there is one, and that likes the other.
    fn movable(
        &self,
        from: ServerId,
        to: ServerId,
        sends: &BTreeMap<ServerId, usize>,
    ) -> Option<(PartitionId, ServerId)> {
        let own = self
            .servers
            .get(&from)?
            .shard_ids()
            .flat_map(|shard| self.chains.held_by(shard).map(move |partition| (partition, shard)));
        let fit = own.filter_map(|(partition, shard)| {
            let chain = self.chains.of(partition)?;
            let there = chain.everyone().any(|other| self.chains.server_of(other) == Some(to));
            if there
                || self.chains.unfinished().contains(&partition)
                || self.barred.contains_key(&(partition, to))
            {
                return None;
            }
            let sender = self.sender(chain, sends)?;
            let liked = score(self.cluster, partition, self.thread_for(partition, to)?);
            Some((chain.members.first() != Some(&shard), liked, partition, sender))
        });
        fit.max().map(|(_, _, partition, sender)| (partition, sender))
    }

    /// A client wants a server emptied.
    pub(super) fn begin_drain(&mut self, asker: Asker, server: ServerId, until: Duration) {
        let others = self.servers.values().filter(|other| {
            other.record.server != server && other.life != Life::Gone && !other.record.draining
        });
        let (others, needed) = (others.count(), self.replicas as usize);
        let Some(known) = self.servers.get_mut(&server).filter(|known| known.life != Life::Gone) else {
            let message = format!("there is no server {server}; see status for those there are");
            return self.answer(asker, Err(Failure::other(message)));
        };
        if others < needed {
            let message = format!(
                "{} cannot be drained: {others} servers would be left for {needed} copies of each partition, and data \
                 would be lost; start another server first",
                known.name()
            );
            return self.answer(asker, Err(Failure::other(message)));
        }
        if !std::mem::replace(&mut known.record.draining, true) {
            self.complaints.push(format!("{} is drained", known.name()));
            self.changed = true;
        }
        self.drains.push(Drain { asker, server, until });
        self.end_drains();
    }

    /// Answers those whose server holds nothing any more, or whose time is over.
    fn end_drains(&mut self) {
        let now = self.clock;
        for drain in std::mem::take(&mut self.drains) {
            let left = self.chains.roles(drain.server);
            if left == 0 {
                self.answer(drain.asker, Ok(Reply::Done));
            } else if now >= drain.until {
                let what = format!(
                    "{left} partitions of server {}, which are being copied to others; the drain goes on",
                    drain.server
                );
                self.answer(drain.asker, Err(Failure::Deadline { what }));
            } else {
                self.drains.push(drain);
            }
        }
    }

    /// A connection ended: nobody waits there; what it began goes on.
    pub(super) fn forget_drains(&mut self, connection: super::ConnectionId) {
        self.drains.retain(|drain| drain.asker.connection != connection);
    }

    /// Gives one chain another head when a thread heads two more than another member would, and nothing else is under way.
    ///
    /// The epoch that makes it so is told to the old head first: it takes no more pushes, and confirms once what it ordered
    /// is acknowledged, so that no successor is behind it when it becomes one. One that does not finish in time is found
    /// ahead, leaves, and joins again (C4); no acknowledged push is lost by that.
    fn balance_heads(&mut self) {
        let version = self.chains.map().version;
        if self.balanced == Some(version)
            || self.handover.is_some()
            || self.chains.is_anybody_concerned()
            || !self.chains.unfinished().is_empty()
            || !self.is_settled()
            || self.chains.holders().any(|id| !self.is_heard(&self.servers[&id]))
        {
            return;
        }
        let better = self.chains.map().partitions.iter().enumerate().find_map(|(at, chain)| {
            let least = chain.members.iter().copied().min_by_key(|shard| self.chains.heads(*shard))?;
            let head = *chain.members.first()?;
            let worth = self.chains.heads(least) + 1 < self.chains.heads(head);
            worth.then(|| (PartitionId(at as u32), head, least))
        });
        let Some((partition, old, new)) = better else {
            self.balanced = Some(version);
            return;
        };
        let Some(chain) = self.chains.of(partition) else { return };
        let others = chain.members.iter().copied().filter(|member| *member != new);
        let members: Vec<ShardId> = std::iter::once(new).chain(others).collect();
        self.chains.change(partition, members, None, false);
        self.changed = true;
        let Some(from) = self.chains.server_of(old) else { return };
        let mut others = self.chains.take_concerned();
        others.remove(&from);
        self.placement += 1;
        self.returned.insert(from);
        for (id, other) in &mut self.servers {
            if others.contains(id) && other.connection().is_some() {
                // They are told soon; until then the map is not for clients.
                (other.told, other.confirmed) = (Some(self.placement), None);
            }
        }
        self.handover = Some(Handover { from, others, until: self.clock + HANDOVER });
    }

    /// Tells the others of a new head, once the old one has finished or has had its time.
    pub(super) fn end_handover(&mut self) {
        let Some(handover) = &self.handover else { return };
        let finished = self.servers.get(&handover.from).is_none_or(Server::is_up_to_date);
        let waits = self.returned.contains(&handover.from);
        if !waits
            && (finished || self.clock >= handover.until)
            && let Some(handover) = self.handover.take()
        {
            self.returned.extend(handover.others);
        }
    }

    /// A server that left a chain is not asked to join it at once.
    pub(super) fn bar(&mut self, partition: PartitionId, server: ServerId) {
        self.barred.insert((partition, server), self.clock + PAUSE_AFTER_LEAVING);
    }
}
