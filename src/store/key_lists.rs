//! The key-list cache: a client names a list of keys by its digest and sends values alone.
//!
//! A list belongs to one (session, table, partition), so no session can name or push out another's lists beyond its own
//! share. It keeps the keys and the slots they had, with the counters of the partition at that time; when those have
//! moved on, the slots are found again from the keys and the list stays a hit. A digest that is not here is a miss that
//! the caller reports; nothing fails. The least recently used list goes first, of the session when its share is full, of
//! all when the whole is.
//!
//! The digest is computed here, from keys that were received and checked: a client can't name keys it never sent. It
//! can make two of its own lists collide, and harms itself.

use std::collections::BTreeMap;

use zerocopy::IntoBytes;

use super::budget::Budget;
use crate::wire::ids::{PartitionId, SessionId, TableId};

/// Name of a key list: xxh3 (128 bits) of its keys, little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub u128);

impl Digest {
    /// The digest of a list of keys, as client and server compute it.
    pub fn of(keys: &[u64]) -> Digest {
        const { assert!(cfg!(target_endian = "little"), "keys are hashed as they lie in memory") };
        Digest(xxhash_rust::xxh3::xxh3_128(keys.as_bytes()))
    }
}

/// Where a list belongs, and its name; that first, because comparing it mostly settles the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ListId {
    pub(super) digest: Digest,
    pub(super) session: SessionId,
    pub(super) table: TableId,
    pub(super) partition: PartitionId,
}

/// A list and what is known of its rows.
#[derive(Debug, Default)]
pub(super) struct KeyList {
    pub(super) keys: Vec<u64>,
    /// As many as keys, once resolved.
    pub(super) slots: Vec<u32>,
    pub(super) missing: usize,
    /// Generation and creations of the partition when the slots were found; `None` before.
    pub(super) resolved_at: Option<(u64, u64)>,
}

/// No neighbour in a chain.
const NONE: u32 = u32::MAX;
/// Chain of all lists, and chain of a session's.
const ALL: usize = 0;
const OWN: usize = 1;
/// Rough cost of an entry beyond its keys and slots.
const ENTRY_BYTES: u64 = 192;

#[derive(Debug)]
struct Entry {
    id: ListId,
    list: KeyList,
    bytes: u64,
    newer: [u32; 2],
    older: [u32; 2],
}

/// Both ends of a chain from the newest to the oldest.
#[derive(Clone, Copy, Debug)]
struct Chain {
    newest: u32,
    oldest: u32,
    bytes: u64,
}

impl Chain {
    const EMPTY: Chain = Chain { newest: NONE, oldest: NONE, bytes: 0 };

    fn put_first(&mut self, which: usize, number: u32, entries: &mut [Entry]) {
        let entry = &mut entries[number as usize];
        entry.newer[which] = NONE;
        entry.older[which] = self.newest;
        match self.newest {
            NONE => self.oldest = number,
            newest => entries[newest as usize].newer[which] = number,
        }
        self.newest = number;
    }

    fn take_out(&mut self, which: usize, number: u32, entries: &mut [Entry]) {
        let Entry { newer, older, .. } = &entries[number as usize];
        let (newer, older) = (newer[which], older[which]);
        match newer {
            NONE => self.newest = older,
            newer => entries[newer as usize].older[which] = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => entries[older as usize].newer[which] = newer,
        }
    }
}

/// All lists of a store.
#[derive(Debug)]
pub(super) struct KeyLists {
    entries: Vec<Entry>,
    vacant: Vec<u32>,
    by_id: BTreeMap<ListId, u32>,
    all: Chain,
    sessions: BTreeMap<SessionId, Chain>,
    total_bytes: u64,
    session_bytes: u64,
}

impl KeyLists {
    pub(super) fn new(total_bytes: u64, session_bytes: u64) -> KeyLists {
        KeyLists {
            entries: Vec::new(),
            vacant: Vec::new(),
            by_id: BTreeMap::new(),
            all: Chain::EMPTY,
            sessions: BTreeMap::new(),
            total_bytes,
            session_bytes,
        }
    }

    /// Bytes of all lists.
    pub(super) fn bytes(&self) -> u64 {
        self.all.bytes
    }

    /// How many keys a list has, if it is here.
    pub(super) fn keys_of(&self, id: &ListId) -> Option<usize> {
        self.by_id.get(id).map(|number| self.entries[*number as usize].list.keys.len())
    }

    /// The keys of a list, if it is here.
    pub(super) fn list(&self, id: &ListId) -> Option<&[u64]> {
        self.by_id.get(id).map(|number| self.entries[*number as usize].list.keys.as_slice())
    }

    /// Keeps a list, and lets older ones go to make room. One that is too large for its share is not kept: it will be a
    /// miss, and its keys will be sent each time.
    pub(super) fn learn(&mut self, id: ListId, keys: &[u64], budget: &mut Budget) {
        if let Some(entry) = self.by_id.get(&id).copied() {
            if self.entries[entry as usize].list.keys == keys {
                self.touch(entry);
                return;
            }
            self.remove(entry, budget);
        }
        let bytes = ENTRY_BYTES + keys.len() as u64 * (size_of::<u64>() + size_of::<u32>()) as u64;
        if bytes > self.session_bytes.min(self.total_bytes) {
            return;
        }
        while let Some(own) = self.sessions.get(&id.session).copied()
            && own.bytes + bytes > self.session_bytes
        {
            self.remove(own.oldest, budget);
        }
        while self.all.bytes + bytes > self.total_bytes {
            self.remove(self.all.oldest, budget);
        }
        while budget.charge(bytes).is_err() {
            if self.all.oldest == NONE {
                return;
            }
            self.remove(self.all.oldest, budget);
        }
        let list = KeyList { keys: keys.to_vec(), slots: vec![0; keys.len()], missing: 0, resolved_at: None };
        let entry = Entry { id, list, bytes, newer: [NONE; 2], older: [NONE; 2] };
        let number = match self.vacant.pop() {
            Some(number) => {
                self.entries[number as usize] = entry;
                number
            }
            None => {
                self.entries.push(entry);
                self.entries.len() as u32 - 1
            }
        };
        self.by_id.insert(id, number);
        self.link(number);
    }

    /// Takes a list to use it, as the newest; `put_back` returns it.
    pub(super) fn take(&mut self, id: &ListId) -> Option<(u32, KeyList)> {
        let number = self.by_id.get(id).copied()?;
        self.touch(number);
        Some((number, std::mem::take(&mut self.entries[number as usize].list)))
    }

    /// Returns a list that `take` gave. Nothing but `evict_oldest` may have come between.
    pub(super) fn put_back(&mut self, number: u32, list: KeyList) {
        self.entries[number as usize].list = list;
    }

    /// Lets the oldest list go, but never the newest, which may be in use. False when there is none to let go.
    pub(super) fn evict_oldest(&mut self, budget: &mut Budget) -> bool {
        if self.all.oldest == self.all.newest {
            return false;
        }
        self.remove(self.all.oldest, budget);
        true
    }

    /// Drops the lists of a session.
    pub(super) fn end_session(&mut self, session: SessionId, budget: &mut Budget) {
        while let Some(chain) = self.sessions.get(&session).copied() {
            self.remove(chain.oldest, budget);
        }
    }

    /// Drops the lists of a table, or of one of its partitions.
    pub(super) fn forget(&mut self, table: TableId, partition: Option<PartitionId>, budget: &mut Budget) {
        let of =
            |id: &ListId| id.table == table && partition.is_none_or(|partition| id.partition == partition);
        let gone: Vec<u32> = self.by_id.iter().filter(|(id, _)| of(id)).map(|(_, number)| *number).collect();
        for number in gone {
            self.remove(number, budget);
        }
    }

    fn remove(&mut self, number: u32, budget: &mut Budget) {
        self.unlink(number);
        let entry = &mut self.entries[number as usize];
        budget.release(entry.bytes);
        entry.list = KeyList::default();
        let id = entry.id;
        self.by_id.remove(&id);
        self.vacant.push(number);
    }

    /// Makes a list the newest of all and of its session.
    fn touch(&mut self, number: u32) {
        if self.all.newest == number {
            return;
        }
        let Some(own) = self.sessions.get_mut(&self.entries[number as usize].id.session) else { return };
        for (which, chain) in [(ALL, &mut self.all), (OWN, own)] {
            if chain.newest != number {
                chain.take_out(which, number, &mut self.entries);
                chain.put_first(which, number, &mut self.entries);
            }
        }
    }

    fn link(&mut self, number: u32) {
        let Entry { id, bytes, .. } = &self.entries[number as usize];
        let (session, bytes) = (id.session, *bytes);
        let own = self.sessions.entry(session).or_insert(Chain::EMPTY);
        for (which, chain) in [(ALL, &mut self.all), (OWN, own)] {
            chain.put_first(which, number, &mut self.entries);
            chain.bytes += bytes;
        }
    }

    fn unlink(&mut self, number: u32) {
        let Entry { id, bytes, .. } = &self.entries[number as usize];
        let (session, bytes) = (id.session, *bytes);
        let own = self.sessions.entry(session).or_insert(Chain::EMPTY);
        for (which, chain) in [(ALL, &mut self.all), (OWN, &mut *own)] {
            chain.take_out(which, number, &mut self.entries);
            chain.bytes -= bytes;
        }
        if own.newest == NONE {
            self.sessions.remove(&session);
        }
    }
}
