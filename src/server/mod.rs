//! The server: pinned threads that each own a shard, and their assembly: a cluster in one process, a server process
//! with its link to a coordinator, and the coordinator as a process.
//!
//! The problem: take records from many lanes, keep every partition's order, apply it at the speed of memory, and
//! never trust a byte that a peer wrote. The idea: one thread owns a shard whole (its lanes, its rows, its
//! partitions' logs), so that nothing on the data path is shared; a turn of its loop is one pass over fixed steps.
//!
//! Invariants: a push is copied once, out of the ring into the log, and validated there (design, section 6); an
//! entry in a batch has been applied here (C1); refused is final, retry changes nothing (C3); no turn takes more than
//! `TURN_BYTES` from one lane; a lane whose owner takes no answers is not read, and cut in the end.
//!
//! Absent on purpose: locks, allocation, system calls and log lines per record; replication to successors (the
//! forward step has nobody to send to in a chain of one).
//! [`Embedded`], [`ServerProcess`] and [`coordinator::CoordinatorProcess`] may be called from any thread; everything in `shard` belongs to the shard's own.

mod acceptor;
pub mod coordinator;
mod embedded;
mod group;
mod linker;
mod process;
mod shard;
mod thread;

pub use embedded::{Embedded, EmbeddedConfig};
pub use process::{ServerConfig, ServerError, ServerProcess, ServerStop};
