//! State entries: what a server tells of a partition outside the stream of records.

use std::collections::HashMap;

use gradwire_ffi::sync::{STATE_WORDS, Tally};
use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::DownReason;
use crate::wire::ids::{Epoch, Lsn, PartitionId};
use crate::wire::{HEADER_BYTES, Header, Kind};

/// One partition's state at the sender. A receiver ignores an entry of another epoch than its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateEntry {
    /// The partition.
    pub partition: PartitionId,
    /// The chain version the entry belongs to.
    pub epoch: Epoch,
    /// Every batch up to here is acknowledged.
    pub acked_lsn: Lsn,
    /// The newest epoch the sender has confirmed.
    pub confirmed_epoch: Epoch,
}

impl StateEntry {
    pub(super) fn to_words(self) -> [u64; STATE_WORDS] {
        [u64::from(self.partition.0), self.epoch.0, self.acked_lsn.0, self.confirmed_epoch.0]
    }

    pub(super) fn from_words(words: [u64; STATE_WORDS]) -> Result<Self, DownReason> {
        let partition = u32::try_from(words[0])
            .map_err(|_| DownReason::Impossible { what: "state entry's partition" })?;
        Ok(Self {
            partition: PartitionId(partition),
            epoch: Epoch(words[1]),
            acked_lsn: Lsn(words[2]),
            confirmed_epoch: Epoch(words[3]),
        })
    }
}

/// Partitions one lane can carry state of.
pub(super) const STATE_ENTRIES: usize = 4096;
/// Entries of one state record, so that it stays within [`MAX_STATE_RECORD`].
pub(super) const ENTRIES_A_RECORD: usize = 120;
/// Bytes of the largest state record.
pub(super) const MAX_STATE_RECORD: usize = 4096;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawCredit {
    bytes: U64,
    records: U64,
}

const ENTRY_BYTES: usize = STATE_WORDS * 8;
const _: () =
    assert!(HEADER_BYTES + size_of::<RawCredit>() + ENTRIES_A_RECORD * ENTRY_BYTES <= MAX_STATE_RECORD);

/// Entries waiting to be sent in records, the newest of each partition.
#[derive(Debug, Default)]
pub(super) struct DirtyEntries {
    entries: Vec<StateEntry>,
    place: HashMap<PartitionId, usize>,
}

impl DirtyEntries {
    /// Adds an entry, or replaces the partition's older one.
    pub(super) fn put(&mut self, entry: StateEntry) {
        match self.place.get(&entry.partition) {
            Some(&at) => self.entries[at] = entry,
            None => {
                self.place.insert(entry.partition, self.entries.len());
                self.entries.push(entry);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Writes a state record into `out`, with as many entries as fit.
    pub(super) fn encode(&mut self, consumed: Tally, out: &mut Vec<u8>) {
        out.clear();
        let count = self.entries.len().min(ENTRIES_A_RECORD);
        let length = size_of::<RawCredit>() + count * ENTRY_BYTES;
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        out.extend_from_slice(&Header::new(Kind::State, length).to_bytes());
        let credit = RawCredit { bytes: consumed.bytes.into(), records: consumed.records.into() };
        out.extend_from_slice(credit.as_bytes());
        for _ in 0..count {
            let Some(entry) = self.entries.pop() else { break };
            self.place.remove(&entry.partition);
            for word in entry.to_words() {
                out.extend_from_slice(&word.to_le_bytes());
            }
        }
    }
}

/// Reads a state record's payload; calls `entry` for each entry.
pub(super) fn decode(payload: &[u8], mut entry: impl FnMut(StateEntry)) -> Result<Tally, DownReason> {
    let bad = DownReason::Impossible { what: "state record" };
    let (credit, entries) = RawCredit::ref_from_prefix(payload).map_err(|_| bad.clone())?;
    let entries = <[[U64; STATE_WORDS]]>::ref_from_bytes(entries).map_err(|_| bad)?;
    for words in entries {
        entry(StateEntry::from_words(words.map(U64::get))?);
    }
    Ok(Tally { bytes: credit.bytes.get(), records: credit.records.get() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(partition: u32, lsn: u64) -> StateEntry {
        StateEntry {
            partition: PartitionId(partition),
            epoch: Epoch(3),
            acked_lsn: Lsn(lsn),
            confirmed_epoch: Epoch(2),
        }
    }

    #[test]
    fn the_newest_entry_of_each_partition_travels_and_the_rest_follows_in_later_records() {
        let mut dirty = DirtyEntries::default();
        for lsn in 1..=2u64 {
            for partition in 0..300 {
                dirty.put(entry(partition, lsn));
            }
        }
        let (mut record, mut seen, mut records) = (Vec::new(), Vec::new(), 0);
        while !dirty.is_empty() {
            dirty.encode(Tally { bytes: 9, records: 1 }, &mut record);
            assert!(record.len() <= MAX_STATE_RECORD);
            let consumed = decode(&record[HEADER_BYTES..], |entry| seen.push(entry)).unwrap();
            assert_eq!(consumed, Tally { bytes: 9, records: 1 });
            records += 1;
        }
        seen.sort_by_key(|entry| entry.partition);
        assert_eq!(records, 3);
        assert_eq!(seen, (0..300).map(|partition| entry(partition, 2)).collect::<Vec<_>>());
    }

    #[test]
    fn a_state_record_of_any_other_length_is_refused() {
        for length in (0..100).filter(|length| *length != 16 && *length != 48 && *length != 80) {
            assert!(decode(&vec![0; length], |_| ()).is_err(), "{length}");
        }
        let mut payload = vec![0; 48];
        payload[20] = 1;
        assert!(decode(&payload, |_| ()).is_err());
    }
}
