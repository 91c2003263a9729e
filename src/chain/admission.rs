//! What comes into a replica and what it answers.

use thiserror::Error;

use super::replica::LogSlot;
use crate::wire::ids::{Clock, Epoch, Lsn, Sequence, SessionId, TableId};
use crate::wire::{Level, RefusalCode, RetryCode};

/// What a push's header says, before a byte of its payload is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PushHead {
    /// Who pushes.
    pub session: SessionId,
    /// Place in the (session, partition) order; the first is 1.
    pub sequence: Sequence,
    /// The chain version the client knows.
    pub epoch: Epoch,
    /// The client knows how every sequence below this one ended.
    pub resolved: Sequence,
    /// The table pushed to.
    pub table: TableId,
    /// The iteration the push belongs to; a fact for the store, it does not move the clock table.
    pub clock: Clock,
    /// What its ticket waits for: `Applied` makes an outcome due as soon as it is committed.
    pub level: Level,
    /// Bytes of payload that follow.
    pub bytes: usize,
}

/// The answer to a push's header.
#[derive(Debug)]
#[must_use = "a slot that is neither committed nor refused leaves the push unanswered"]
pub enum Admission {
    /// Its turn: copy the payload into the slot, apply it, then commit, refuse or abandon.
    Order(LogSlot),
    /// Ordered before. The next [`Outcome`] of the session says how it ended or stands; nothing else to do.
    Duplicate,
    /// Final, and ordered as an empty entry already: larger than any log may take. An outcome follows.
    Refused,
    /// Nothing changed; the client resends in order.
    Retry(RetryReason),
    /// The session has ended, or never began in this chain.
    Ended,
}

/// The answer to a record without payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a retry has changed nothing and has to be told or done again"]
pub enum Verdict {
    /// It is an entry of the open batch.
    Ordered,
    /// It was ordered before.
    Duplicate,
    /// Nothing changed; do it again later.
    Retry(RetryReason),
    /// The session has ended, or never began in this chain.
    Ended,
}

/// Why a record changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryReason {
    /// The chain is at another version.
    UnknownEpoch {
        /// The version here.
        ours: Epoch,
    },
    /// This replica is not the head of its chain.
    WrongHead,
    /// An earlier sequence is missing.
    SequenceGap {
        /// The sequence that may come next.
        expected: Sequence,
    },
    /// The log has no room until more is acknowledged.
    LogFull,
    /// The server lost its coordinator for too long.
    Orphan,
    /// The session has too many refusals that it has not resolved; its next `resolved` makes room.
    RefusalsFull,
}

impl RetryReason {
    /// Its number on the wire. A client treats `RefusalsFull` as it does a full log.
    #[must_use]
    pub fn code(self) -> RetryCode {
        match self {
            Self::UnknownEpoch { .. } => RetryCode::UnknownEpoch,
            Self::WrongHead => RetryCode::WrongHead,
            Self::SequenceGap { .. } => RetryCode::SequenceGap,
            Self::LogFull | Self::RefusalsFull => RetryCode::LogFull,
            Self::Orphan => RetryCode::Orphan,
        }
    }
}

/// An event that goes through the batches although no session sequences it (C0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlEntry<'a> {
    /// A session begins: the only way to an entry for it.
    ClientBegan {
        /// Its id, never used before.
        session: SessionId,
        /// Whether its clock counts: a session that only looks must not hold the workers back.
        worker: bool,
    },
    /// A session ends; the coordinator has made that durable already (C3).
    ClientEnded {
        /// Its id.
        session: SessionId,
    },
    /// A table exists from here on.
    TableCreated {
        /// Its id.
        table: TableId,
        /// The schema as the store encodes it.
        schema: &'a [u8],
    },
    /// A table is gone from here on.
    TableDropped {
        /// Its id.
        table: TableId,
    },
}

/// How a session's pushes stand in one partition. Absolute: a later one heals a lost one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome<'a> {
    /// Whose.
    pub session: SessionId,
    /// Every sequence up to here that is not in `refused` is applied by the head.
    pub applied: Sequence,
    /// Every sequence up to here that is not in `refused` is applied by every replica.
    pub replicated: Sequence,
    /// Every refusal the client has not resolved, ascending; final once `replicated` has reached it.
    pub refused: &'a [(Sequence, RefusalCode)],
}

/// An acknowledgement that can't be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AckError {
    /// The peer acknowledged what was never ordered.
    #[error(
        "the tail acknowledged lsn {acked}, but only {sealed} was ordered; drop the lane and shake hands anew"
    )]
    Ahead {
        /// What it said.
        acked: Lsn,
        /// What was sealed here.
        sealed: Lsn,
    },
}
