//! Replication of one partition: order, exactly-once, log, batches, acknowledgement, clocks.
//!
//! Problem: a push must change the model once, on every replica, although it is resent, the lane that carried it
//! is replaced and servers die. Idea: the head puts pushes, clock records and events of one partition in one
//! order; batches of that order are the only thing that changes replicated state (C0), and what an acknowledgement
//! means is a number: the lsn up to which every replica has applied.
//!
//! Invariants. C0: session state (`sessions.rs`) changes only through entries of batches. C1: the head applies
//! an entry to its store *before* it commits it, so an entry in a batch always applies, and the last sealed lsn is
//! applied here. C2: nothing is told as replicated before `acked`. C3: per session the sequence is contiguous;
//! *refused* is an entry and uses up its sequence, *retry* changes nothing. A payload is copied once, into the log.
//!
//! The turn of a shard's loop, per push: [`Replica::admit`], copy into [`Replica::log_mut`], push to the store,
//! [`Replica::commit`] or [`Replica::refuse`] or [`Replica::abandon`]; at its end: [`Replica::seal`],
//! [`Replica::acked`] if this is the tail, [`Replica::outcomes`]. A successor, per batch: [`Replica::receive`], rows to
//! the store, [`Replica::accept`]; its log is the copy that is forwarded on. When the chain changes:
//! [`Replica::reconfigure`]; for who joins behind the tail: [`Replica::snapshot`], [`Replica::keep_after`].
//!
//! Absent on purpose: links and their handshakes, time, sockets, threads, random numbers, the rows themselves, and any choice of which pushes
//! are valid: the caller decides that and says so. One thread owns a replica; nothing here waits or locks.

mod admission;
mod batch;
mod decode;
mod id_ranges;
mod log;
mod receive;
mod reconfigure;
mod replica;
mod sessions;
mod snapshot;

#[cfg(test)]
mod decode_test;
#[cfg(test)]
mod model_client;
#[cfg(test)]
mod model_test;
#[cfg(test)]
mod replica_test;
#[cfg(test)]
mod successor_test;

pub use admission::{AckError, Admission, ControlEntry, Outcome, PushHead, RetryReason, Verdict};
pub use batch::{
    BATCH_HEADER_BYTES, BATCH_VERSION, BatchHead, ENTRY_HEADER_BYTES, EntryFlags, EntryHead, EntryKind,
};
pub use decode::{Batch, BatchError, Entries, Entry};
pub use receive::{AcceptError, Received};
pub use replica::{ConfigError, LogSlot, Position, Replica, ReplicaConfig, SEAL_BYTES};
pub use sessions::{Divergence, REFUSALS_KEPT, SessionStatus};
pub use snapshot::{SNAPSHOT_VERSION, SnapshotError};
