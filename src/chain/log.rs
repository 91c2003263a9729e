//! The bytes of a partition's batches, from the first copy of a payload until every replica has applied it.
//!
//! One ring per partition. A batch is contiguous, so that it is forwarded by one gather: where the ring's end is too
//! near, the next batch starts at offset 0 and the bytes between lie idle until then. The ring takes nothing until
//! it is used, doubles up to its limit (live batches move to the front of the new one), and starts again at offset
//! 0 whenever it is empty: a partition whose batches are acknowledged at once stays in the cache.
//!
//! ```text
//! |.......| batch 7 | batch 8 | open: header, entries | free ....|      linear
//! | batch 9 | open ....| free |.......| batch 7 | batch 8 | idle |      wrapped
//! ```
//! [`Log::fit`] only finds room, [`Log::commit`] takes it: what is never committed leaves no hole.

use std::collections::VecDeque;

use zerocopy::IntoBytes;

use super::batch::{BATCH_HEADER_BYTES, BatchHead, check_in};
use crate::wire::ids::{Epoch, Lsn, PartitionId};

/// The first ring is one page.
pub(super) const FIRST_BYTES: usize = 4096;

/// A sealed batch in the ring.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: usize,
    bytes: usize,
    lsn: Lsn,
    checked: bool,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    start: usize,
    entries: u32,
}

/// Where an entry may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// At this offset, as the next entry of the open batch, or as the first of a new one.
    At(usize),
    /// In a new batch: seal the open one and ask again.
    AfterSeal,
    /// Nowhere until a batch is released.
    Full,
}

/// See the module. Offsets are in bytes, multiples of 8.
#[derive(Clone, Debug)]
pub(super) struct Log {
    /// u64 so that batches are 8-aligned.
    words: Box<[u64]>,
    limit: usize,
    seal_bytes: usize,
    places: VecDeque<Place>,
    open: Option<Open>,
    /// End of what is committed.
    tail: usize,
    /// Bytes of the sealed batches.
    sealed: usize,
}

impl Log {
    /// `limit` is a power of two of at least [`FIRST_BYTES`]; a batch of more than one entry is at most
    /// `seal_bytes` long.
    pub(super) fn new(limit: usize, seal_bytes: usize) -> Self {
        assert!(limit.is_power_of_two() && limit >= FIRST_BYTES, "log limit {limit}");
        Self {
            words: Box::default(),
            limit,
            seal_bytes,
            places: VecDeque::new(),
            open: None,
            tail: 0,
            sealed: 0,
        }
    }

    fn capacity(&self) -> usize {
        self.words.len() * 8
    }

    /// Offset of the oldest live byte, or none when nothing is live.
    fn first(&self) -> Option<usize> {
        self.places.front().map(|place| place.start).or(self.open.map(|open| open.start))
    }

    /// Free bytes from the tail on and, while the ring is linear, from its start.
    fn room(&self) -> (usize, usize) {
        match self.first() {
            None => (self.capacity(), 0),
            Some(first) if first < self.tail => (self.capacity() - self.tail, first),
            Some(first) => (first - self.tail, 0),
        }
    }

    /// Most bytes of the ring while it takes batches of a predecessor. They are at most `limit` bytes in all, because
    /// the head has them in a log of that size; but they wrap at other places here. Twice the limit is enough for any
    /// order, as no batch is longer than a quarter of it: while the ring is linear, no room before nor behind what is
    /// live means that more than 2 - 1/4 - 1/4 limits are live; once it has wrapped, at most a quarter lies idle.
    fn foreign_limit(&self) -> usize {
        2 * self.limit
    }

    /// Finds room for an entry of `bytes`, growing the ring if that is what it takes.
    pub(super) fn fit(&mut self, bytes: usize) -> Fit {
        // A ring that grew for a predecessor's batches has more room than a head may fill.
        let header = if self.open.is_some() { 0 } else { BATCH_HEADER_BYTES };
        if self.live_bytes() + header + bytes > self.limit {
            return Fit::Full;
        }
        if let Some(open) = self.open {
            if self.tail - open.start + bytes > self.seal_bytes {
                return Fit::AfterSeal;
            }
            let (here, start) = self.room();
            if bytes <= here {
                return Fit::At(self.tail);
            }
            if BATCH_HEADER_BYTES + bytes <= start {
                return Fit::AfterSeal;
            }
            return if self.grow(bytes, self.limit) { Fit::At(self.tail) } else { Fit::Full };
        }
        match self.start_of(BATCH_HEADER_BYTES + bytes, self.limit) {
            Some(start) => Fit::At(start + BATCH_HEADER_BYTES),
            None => Fit::Full,
        }
    }

    /// Where a new batch of `needed` bytes begins, in a ring of at most `limit`; none is open.
    fn start_of(&mut self, needed: usize, limit: usize) -> Option<usize> {
        if self.first().is_none() {
            self.tail = 0;
        }
        let (here, start) = self.room();
        if needed <= here {
            Some(self.tail)
        } else if needed <= start {
            Some(0)
        } else {
            self.grow(needed, limit).then_some(self.tail)
        }
    }

    /// Most bytes of a predecessor's batch.
    pub(super) fn longest_foreign(&self) -> usize {
        self.limit
    }

    /// Whether [`Log::put`] would find room.
    pub(super) fn can_put(&self, bytes: usize) -> bool {
        let (here, start) = self.room();
        let limit = self.foreign_limit();
        bytes <= here || bytes <= start || self.capacity() < limit && self.live_bytes() + bytes <= limit
    }

    /// Keeps a predecessor's batch, whose checksum is right. False when there is no room; nothing has changed then.
    pub(super) fn put(&mut self, batch: &[u8], lsn: Lsn) -> bool {
        assert!(self.open.is_none(), "batch {lsn} comes from a predecessor while one is open here");
        self.check_next(lsn);
        let Some(start) = self.start_of(batch.len(), self.foreign_limit()) else { return false };
        self.bytes_mut(start, batch.len()).copy_from_slice(batch);
        self.keep(Place { start, bytes: batch.len(), lsn, checked: true });
        true
    }

    fn check_next(&self, lsn: Lsn) {
        assert!(
            self.places.back().is_none_or(|last| last.lsn.next() == lsn),
            "batch {lsn} does not follow the last one"
        );
    }

    fn keep(&mut self, place: Place) {
        self.sealed += place.bytes;
        self.tail = place.start + place.bytes;
        self.places.push_back(place);
    }

    /// Doubles until `needed` more bytes fit behind what is live. False past `limit`. Costs a copy of what is
    /// live, at most half the new ring.
    fn grow(&mut self, needed: usize, limit: usize) -> bool {
        let live = self.live_bytes();
        let mut capacity = self.capacity().max(FIRST_BYTES / 2);
        loop {
            capacity *= 2;
            if capacity > limit {
                return false;
            }
            if live + needed <= capacity {
                break;
            }
        }
        let mut words = vec![0u64; capacity / 8].into_boxed_slice();
        let mut end = 0;
        let mut carry = |start: usize, bytes: usize| {
            let at = end;
            words[at / 8..(at + bytes) / 8].copy_from_slice(&self.words[start / 8..(start + bytes) / 8]);
            end += bytes;
            at
        };
        for place in &mut self.places {
            place.start = carry(place.start, place.bytes);
        }
        if let Some(open) = &mut self.open {
            let bytes = self.tail - open.start;
            open.start = carry(open.start, bytes);
        }
        self.tail = end;
        self.words = words;
        true
    }

    /// Takes the room that `fit` found: the entry at `at` of `bytes` belongs to the open batch now. It may be
    /// shorter than what `fit` was asked for.
    pub(super) fn commit(&mut self, at: usize, bytes: usize) {
        let open = self.open.get_or_insert(Open { start: at - BATCH_HEADER_BYTES, entries: 0 });
        assert!(open.entries == 0 || at == self.tail, "an entry at {at} leaves a hole after {}", self.tail);
        open.entries += 1;
        self.tail = at + bytes;
    }

    /// Closes the open batch as `lsn`; false when there is none.
    pub(super) fn seal(&mut self, partition: PartitionId, epoch: Epoch, lsn: Lsn) -> bool {
        let Some(open) = self.open.take() else { return false };
        let bytes = self.tail - open.start;
        let body = u32::try_from(bytes - BATCH_HEADER_BYTES);
        let Ok(body) = body else { unreachable!("a batch of {bytes} bytes in a log of {}", self.limit) };
        self.check_next(lsn);
        let head = BatchHead { partition, epoch, lsn, entries: open.entries, bytes: body };
        self.bytes_mut(open.start, BATCH_HEADER_BYTES).copy_from_slice(&head.to_bytes());
        self.keep(Place { start: open.start, bytes, lsn, checked: false });
        true
    }

    /// Forgets every batch up to `lsn`.
    pub(super) fn release(&mut self, lsn: Lsn) {
        while let Some(place) = self.places.front()
            && place.lsn <= lsn
        {
            self.sealed -= place.bytes;
            self.places.pop_front();
        }
    }

    /// The oldest batch kept; none without a sealed one.
    pub(super) fn first_lsn(&self) -> Option<Lsn> {
        self.places.front().map(|place| place.lsn)
    }

    /// Gives the ring's memory back if it is empty.
    pub(super) fn trim(&mut self) {
        if self.first().is_none() {
            self.words = Box::default();
            self.tail = 0;
        }
    }

    /// The bytes of a batch that is still kept. Its first reader pays for the checksum.
    pub(super) fn batch(&mut self, lsn: Lsn) -> Option<&[u8]> {
        let first = self.places.front()?.lsn.0;
        let index = usize::try_from(lsn.0.checked_sub(first)?).ok()?;
        let place = self.places.get_mut(index)?;
        let bytes = &mut self.words.as_mut_bytes()[place.start..place.start + place.bytes];
        if !place.checked {
            check_in(bytes);
            place.checked = true;
        }
        Some(bytes)
    }

    pub(super) fn bytes_mut(&mut self, at: usize, bytes: usize) -> &mut [u8] {
        &mut self.words.as_mut_bytes()[at..at + bytes]
    }

    /// Bytes of all batches kept, the open one included.
    pub(super) fn live_bytes(&self) -> usize {
        self.sealed + self.open.map_or(0, |open| self.tail - open.start)
    }

    /// Bytes of memory the ring takes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.capacity()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chain::{Batch, EntryHead, EntryKind};

    const PARTITION: PartitionId = PartitionId(3);

    /// Orders one push whose payload is `bytes` times its number; false when the log is full.
    fn put(log: &mut Log, lsn: &mut Lsn, number: u8, bytes: usize) -> bool {
        let head = EntryHead {
            bytes: bytes as u32,
            sequence: crate::wire::ids::Sequence(1),
            ..EntryHead::new(EntryKind::Push)
        };
        let mut fit = log.fit(head.entry_bytes());
        if fit == Fit::AfterSeal {
            seal(log, lsn);
            fit = log.fit(head.entry_bytes());
        }
        let Fit::At(at) = fit else { return false };
        let space = log.bytes_mut(at, head.entry_bytes());
        space.fill(0);
        space[..48].copy_from_slice(&head.to_bytes());
        space[48..48 + bytes].fill(number);
        log.commit(at, head.entry_bytes());
        true
    }

    fn seal(log: &mut Log, lsn: &mut Lsn) {
        if log.seal(PARTITION, Epoch(1), lsn.next()) {
            *lsn = lsn.next();
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(usize),
        Reserve(usize),
        Seal,
        Release(u64),
        Read(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            // Few sizes, so that entries often end exactly where something else begins.
            6 => (0usize..8).prop_map(|size| Step::Put(size * 72)),
            1 => (0usize..600).prop_map(Step::Put),
            1 => (600usize..3500).prop_map(Step::Put),
            2 => (0usize..1500).prop_map(Step::Reserve),
            2 => Just(Step::Seal),
            3 => (0u64..4).prop_map(Step::Release),
            1 => (0u64..6).prop_map(Step::Read),
        ]
    }

    /// Whether a kept batch holds exactly these entries, given as (number, bytes).
    fn check(log: &mut Log, lsn: Lsn, expected: &[(u8, usize)]) -> Result<(), TestCaseError> {
        let batch = Batch::parse(log.batch(lsn).unwrap()).unwrap();
        prop_assert_eq!(batch.head.lsn, lsn);
        prop_assert_eq!(batch.head.entries as usize, expected.len());
        for (entry, &(number, bytes)) in batch.entries().zip(expected) {
            prop_assert_eq!(entry.payload.len(), bytes);
            prop_assert!(entry.payload.iter().all(|&byte| byte == number));
            prop_assert_eq!(entry.payload.as_ptr().addr() % 8, 0);
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn every_batch_reads_back_whole_until_it_is_released(
            steps in prop::collection::vec(step(), 1..200),
            limit in prop_oneof![Just(4096), Just(16384)],
        ) {
            let mut log = Log::new(limit, 1500);
            let mut lsn = Lsn(0);
            let mut released = Lsn(0);
            let mut number = 0u8;
            // What each batch must hold; the last is the open one.
            let mut naive: Vec<Vec<(u8, usize)>> = vec![Vec::new()];
            for step in steps {
                let before = lsn;
                match step {
                    Step::Put(bytes) => {
                        number = number.wrapping_add(1);
                        let empty = log.first().is_none();
                        let taken = put(&mut log, &mut lsn, number, bytes);
                        prop_assert!(taken || !empty, "an empty log took no entry of {} bytes", bytes);
                        naive.resize(lsn.0 as usize + 1, Vec::new());
                        if taken {
                            naive[lsn.0 as usize].push((number, bytes));
                        }
                    }
                    Step::Reserve(bytes) => {
                        if let Fit::At(at) = log.fit(48 + bytes.next_multiple_of(8)) {
                            log.bytes_mut(at - BATCH_HEADER_BYTES * usize::from(log.open.is_none()), 48 + bytes).fill(0xee);
                        }
                    }
                    Step::Seal => seal(&mut log, &mut lsn),
                    Step::Release(count) => {
                        released = Lsn((released.0 + count).min(lsn.0));
                        log.release(released);
                    }
                    Step::Read(ahead) => {
                        let wanted = Lsn(released.0 + ahead);
                        let kept = wanted > released && wanted <= lsn;
                        prop_assert_eq!(log.batch(wanted).is_some(), kept);
                        if kept {
                            check(&mut log, wanted, &naive[wanted.0 as usize - 1])?;
                        }
                    }
                }
                if lsn != before {
                    naive.resize(lsn.0 as usize + 1, Vec::new());
                }
                prop_assert!(log.memory_bytes() <= limit && log.live_bytes() <= log.memory_bytes());
            }
            for kept in released.0 + 1..=lsn.0 {
                check(&mut log, Lsn(kept), &naive[kept as usize - 1])?;
            }
        }
    }

    #[test]
    fn a_log_that_empties_starts_again_at_its_beginning_and_never_grows() {
        let mut log = Log::new(1 << 20, 1 << 18);
        let mut lsn = Lsn(0);
        for number in 0..1000u32 {
            assert!(put(&mut log, &mut lsn, number as u8, 3000));
            seal(&mut log, &mut lsn);
            log.release(lsn);
        }
        assert_eq!(log.memory_bytes(), FIRST_BYTES);
    }

    #[test]
    fn a_ring_is_filled_to_its_last_byte_before_it_grows() {
        for (payload, memory) in [(4008, 4096), (4016, 8192)] {
            let mut log = Log::new(8192, 8192);
            let mut lsn = Lsn(0);
            assert!(put(&mut log, &mut lsn, 1, payload));
            assert_eq!(log.memory_bytes(), memory);
            seal(&mut log, &mut lsn);
            check(&mut log, lsn, &[(1, payload)]).unwrap();
        }
    }

    #[test]
    fn an_idle_partition_takes_no_log_memory() {
        assert_eq!(Log::new(1 << 23, 1 << 18).memory_bytes(), 0);
    }
}
