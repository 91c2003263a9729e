//! What a successor does with its predecessor's batches. It decides nothing (C0): [`Replica::receive`] says whether a
//! batch is the next one, the caller applies its rows, [`Replica::accept`] takes over everything else.

use thiserror::Error;

use super::batch::{BATCH_HEADER_BYTES, BatchHead};
use super::decode::{Batch, BatchError};
use super::replica::Replica;
use super::sessions::Divergence;
use crate::wire::ids::Lsn;

/// What a batch from the predecessor is to this replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a batch that is next has to be applied and accepted"]
pub enum Received<'a> {
    /// Applied before: drop it.
    Old,
    /// The next one: apply the rows of its entries, in order, then [`Replica::accept`] it.
    Next(Batch<'a>),
    /// One before it is missing: say `Linked { applied: have }` again, the predecessor goes back.
    Gap {
        /// The last batch applied here.
        have: Lsn,
    },
    /// The next one, but the log keeps too much for a successor or a joiner. Nothing has changed: leave it where it lies
    /// and ask again after an acknowledgement, or drop it and shake hands anew later.
    Full,
}

/// Why a batch that was received as the next one could not be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AcceptError {
    /// This replica is not a copy of its predecessor.
    #[error(transparent)]
    Divergence(#[from] Divergence),
    /// Its bytes have changed since it was received.
    #[error("a batch changed while it was applied: {0}; leave the chain and rejoin")]
    Changed(BatchError),
    /// There is no room in the log; [`Replica::receive`] would have said so.
    #[error("the log has no room for a batch of {bytes} bytes; ask before its rows are applied")]
    Full {
        /// Its bytes.
        bytes: usize,
    },
}

impl Replica {
    /// Judges a batch that came under this replica's epoch (C4: the record that carried it says which).
    ///
    /// # Errors
    /// Any [`BatchError`]: who sent it is no predecessor of this version, the lane is cut.
    pub fn receive<'a>(&self, bytes: &'a [u8]) -> Result<Received<'a>, BatchError> {
        let Some(header) = bytes.first_chunk::<BATCH_HEADER_BYTES>() else {
            return Err(BatchError::Length {
                expected: BATCH_HEADER_BYTES as u64,
                found: bytes.len() as u64,
            });
        };
        let head = BatchHead::read(header)?;
        if self.position.heads() {
            return Err(BatchError::Head { partition: self.partition });
        }
        if head.partition != self.partition {
            return Err(BatchError::Partition { expected: self.partition, found: head.partition });
        }
        if head.epoch > self.epoch {
            return Err(BatchError::Epoch { ours: self.epoch, found: head.epoch });
        }
        if head.lsn == self.lsn.next() && self.keeps() {
            if bytes.len() > self.log.longest_foreign() {
                return Err(BatchError::Oversize { found: bytes.len(), most: self.log.longest_foreign() });
            }
            // Before the checksum: a batch that waits is looked at again and again.
            if !self.log.can_put(bytes.len()) {
                return Ok(Received::Full);
            }
        }
        let batch = Batch::parse(bytes)?;
        Ok(if head.lsn <= self.lsn {
            Received::Old
        } else if head.lsn > self.lsn.next() {
            Received::Gap { have: self.lsn }
        } else {
            Received::Next(batch)
        })
    }

    /// Takes over what a batch says of sessions and clocks, and its lsn; keeps its bytes unless this is the tail and
    /// nobody joins behind it. `bytes` are those that [`Replica::receive`] called [`Received::Next`], and the caller has
    /// applied every entry's rows. Costs a pass over the entry headers, and a copy where bytes are kept.
    ///
    /// # Errors
    /// Any [`AcceptError`]. Nothing has changed here, but rows have: the replica leaves its chain.
    ///
    /// # Panics
    /// When the batch is not the next one, or this replica heads its chain.
    pub fn accept(&mut self, bytes: &[u8]) -> Result<(), AcceptError> {
        let batch = Batch::parse_again(bytes).map_err(AcceptError::Changed)?;
        let lsn = batch.head.lsn;
        assert!(
            !self.position.heads() && lsn == self.lsn.next(),
            "partition {}: batch {lsn} was not received as the one after {}",
            self.partition,
            self.lsn
        );
        self.sessions.check(&batch)?;
        if self.keeps() && !self.log.put(bytes, lsn) {
            return Err(AcceptError::Full { bytes: bytes.len() });
        }
        for entry in batch.entries() {
            let applied = self.sessions.apply(lsn, &entry.head);
            assert!(applied.is_ok(), "partition {}: checked, yet {applied:?}", self.partition);
        }
        self.lsn = lsn;
        self.serial += 1;
        Ok(())
    }

    /// Whether a predecessor's batch is kept. Also behind one that is: the log has no holes.
    fn keeps(&self) -> bool {
        !self.position.tails() || self.kept_after.is_some() || self.log.first_lsn().is_some()
    }
}
