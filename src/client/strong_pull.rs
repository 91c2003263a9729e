//! Pulls that wait on this side: strong ones behind this session's own pushes, and those a server may not answer now.
//!
//! A relaxed pull goes to the head behind the pushes before it, on one lane. The tail is another server with a lane of
//! its own, so a strong pull is held back until those pushes are replicated: it sees them too.

use std::time::{Duration, Instant};

use super::engine::{Engine, Outgoing};
use super::slots::SlotId;
use crate::lane::Fabric;
use crate::wire::ids::{PartitionId, Sequence};

/// Wait before a server is asked again that could not answer: its lease lapsed, or its epoch is another.
pub(super) const SERVING_DELAY: Duration = Duration::from_millis(5);

/// A part of a pull that is not queued yet.
pub(super) struct WaitingPull {
    pub(super) pull: SlotId,
    pub(super) part: u32,
    pub(super) partition: PartitionId,
    /// Every push below is to be resolved before.
    pub(super) behind: Sequence,
    pub(super) at: Instant,
}

impl<F: Fabric> Engine<F> {
    /// The link that answers a partition's pulls.
    pub(super) fn pull_link(&self, partition: PartitionId, strong: bool) -> usize {
        let route = &self.routes[partition.0 as usize];
        if strong { route.tail_link } else { route.link }
    }

    /// Queues a part of a strong pull, or has it wait for this session's own pushes.
    pub(super) fn queue_strong(&mut self, pull: SlotId, part: u32, partition: PartitionId) {
        let route = &self.routes[partition.0 as usize];
        let behind = route.flow.next();
        if route.link == route.tail_link || route.flow.resolved() >= behind {
            self.links[route.tail_link].queue.push_back(Outgoing::Pull { pull, part });
            return;
        }
        self.waiting_pulls.push(WaitingPull { pull, part, partition, behind, at: Instant::now() });
    }

    /// Has a part that a server could not answer wait before it is asked again. By then the tail may be another server
    /// than the one that also took this session's pushes.
    pub(super) fn ask_later(&mut self, pull: SlotId, part: u32, partition: PartitionId) {
        let strong = self.pulls.get(pull).is_some_and(|state| state.strong());
        let behind = if strong { self.routes[partition.0 as usize].flow.next() } else { Sequence(0) };
        let at = Instant::now() + SERVING_DELAY;
        self.waiting_pulls.push(WaitingPull { pull, part, partition, behind, at });
    }

    /// Queues the pulls whose wait is over.
    pub(super) fn queue_waiting_pulls(&mut self, now: Instant) {
        let mut index = 0;
        while index < self.waiting_pulls.len() {
            let waiting = &self.waiting_pulls[index];
            let wanted = self.pulls.get(waiting.pull).filter(|state| state.held);
            let Some(strong) = wanted.map(|state| state.strong()) else {
                self.waiting_pulls.swap_remove(index);
                continue;
            };
            if waiting.at > now || !self.is_resolved(waiting.partition, waiting.behind) {
                index += 1;
                continue;
            }
            let WaitingPull { pull, part, partition, .. } = self.waiting_pulls.swap_remove(index);
            let link = self.pull_link(partition, strong);
            self.links[link].queue.push_back(Outgoing::Pull { pull, part });
        }
    }

    fn is_resolved(&self, partition: PartitionId, behind: Sequence) -> bool {
        self.routes[partition.0 as usize].flow.resolved() >= behind
    }

    /// When the first pull that waits for a time and nothing else is due.
    pub(super) fn next_waiting_pull(&self) -> Option<Instant> {
        let timed =
            self.waiting_pulls.iter().filter(|waiting| self.is_resolved(waiting.partition, waiting.behind));
        timed.map(|waiting| waiting.at).min()
    }

    /// A partition's chain changed: its pulls are asked anew where the answer now comes from.
    pub(super) fn move_pulls(&mut self, partition: PartitionId, (former_head, former_tail): (usize, usize)) {
        let pulls: Vec<SlotId> = self.pulls.ids().collect();
        for pull in pulls {
            let Some(strong) = self.pulls.get(pull).map(|state| state.strong()) else { continue };
            let former = if strong { former_tail } else { former_head };
            let moved = former != self.pull_link(partition, strong);
            let parts = self.pulls.get(pull).map_or(0, |state| state.part_count());
            for part in 0..parts {
                let waits = |waiting: &WaitingPull| waiting.pull == pull && waiting.part == part;
                let Some(state) = self.pulls.get_mut(pull) else { break };
                if state.partition(part) != Some(partition) || state.is_done(part) {
                    continue;
                }
                if self.waiting_pulls.iter().any(waits) {
                    continue;
                }
                // The answer of a link that stays still comes.
                if !moved && state.is_sent(part) {
                    continue;
                }
                if let Some(reply_bytes) = state.restart(part) {
                    self.release(former, reply_bytes);
                }
                self.queue_pull(pull, part, partition, strong);
            }
        }
    }

    pub(super) fn queue_pull(&mut self, pull: SlotId, part: u32, partition: PartitionId, strong: bool) {
        if strong {
            return self.queue_strong(pull, part, partition);
        }
        let link = self.routes[partition.0 as usize].link;
        self.links[link].queue.push_back(Outgoing::Pull { pull, part });
    }
}
