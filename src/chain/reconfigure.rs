//! A replica in a chain that changes: its new place, and what its log keeps for those who join behind it.

use super::replica::{Position, Replica};
use crate::wire::ids::{Epoch, Lsn};

impl Replica {
    /// Takes up a new version of the chain. Rows, sessions and log stay; what was ordered under the old version is
    /// sealed under it and forwarded under the new one.
    ///
    /// A replica that becomes head orders from here on, and has an outcome due for every session: what it knows as
    /// replicated is all that was ever told. One that becomes tail: the caller says [`Replica::acked`] with
    /// [`Replica::lsn`]. One behind which nobody joins any more: the caller says [`Replica::keep_after`] with none.
    ///
    /// # Panics
    /// When the epoch is not newer: an older one is refused where messages come in (C4).
    pub fn reconfigure(&mut self, epoch: Epoch, position: Position) {
        assert!(
            epoch > self.epoch,
            "partition {}: epoch {epoch} does not follow {}",
            self.partition,
            self.epoch
        );
        self.seal();
        if position.heads() != self.position.heads() {
            self.sessions.restate_all(position.heads());
        }
        self.epoch = epoch;
        self.position = position;
        self.serial += 1;
    }

    /// Batches above `lsn` are kept although every replica has them, for a joiner whose copy reflects `lsn`; none ends
    /// that. Later calls may raise `lsn` as the joiner proceeds. Once the joiner is a member, its acknowledgements raise
    /// it and end it. A log that is full of batches kept for a joiner is full: pushes wait (C0).
    pub fn keep_after(&mut self, lsn: Option<Lsn>) {
        self.kept_after = lsn;
        self.release();
    }

    /// Whether a successor that has applied everything up to `applied` can be brought up from the log. If not, it is
    /// ahead of this replica (C4), or lags behind what is kept: it leaves the chain and joins empty.
    #[must_use]
    pub fn can_resend_after(&mut self, applied: Lsn) -> bool {
        let kept_from = self.log.first_lsn().unwrap_or(self.lsn.next());
        applied <= self.lsn && kept_from <= applied.next()
    }

    /// Lets go of what nobody needs.
    pub(super) fn release(&mut self) {
        self.log.release(self.kept_after.map_or(self.acked, |kept| kept.min(self.acked)));
    }
}
