//! Events of the cluster in the order of a partition: tables and sessions that come and go (C0).

use std::sync::Arc;

use super::Shard;
use super::chain::Held;
use crate::chain::{ControlEntry, Verdict};
use crate::lane::Fabric;
use crate::wire::ids::{SessionId, TableId};

/// An event that waits for room in a partition's log. The store has it already.
#[derive(Clone, Debug)]
pub(super) enum Event {
    ClientBegan(SessionId),
    ClientEnded(SessionId),
    TableCreated(TableId, Arc<[u8]>),
    TableDropped(TableId),
}

impl Event {
    fn entry(&self) -> ControlEntry<'_> {
        match self {
            // Every session may bring its clock forward.
            Self::ClientBegan(session) => ControlEntry::ClientBegan { session: *session, worker: true },
            Self::ClientEnded(session) => ControlEntry::ClientEnded { session: *session },
            Self::TableCreated(table, schema) => ControlEntry::TableCreated { table: *table, schema },
            Self::TableDropped(table) => ControlEntry::TableDropped { table: *table },
        }
    }
}

impl Held {
    /// Orders the events that wait, as many as there is room for. False when some still wait.
    pub(super) fn order_events(&mut self) -> bool {
        while let Some(event) = self.events.front() {
            self.replica.seal();
            match self.replica.control(event.entry()) {
                Verdict::Ordered | Verdict::Duplicate | Verdict::Ended => drop(self.events.pop_front()),
                Verdict::Retry(_) => return false,
            }
        }
        true
    }
}

impl<F: Fabric> Shard<F> {
    /// Puts an event into the order of a partition headed here: now, or as soon as its log has room.
    pub(super) fn order_event(&mut self, place: usize, event: Event) {
        let held = &mut self.held[place];
        held.events.push_back(event);
        held.order_events();
        held.settle();
        self.touch(place);
    }

    /// The same for every partition headed here.
    pub(super) fn order_everywhere(&mut self, event: &Event) {
        for place in 0..self.held.len() {
            if self.held[place].heads() {
                self.order_event(place, event.clone());
            }
        }
    }
}
