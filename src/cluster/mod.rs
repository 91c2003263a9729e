//! What the cluster agrees on: who holds which partition, which tables exist, which sessions live.
//!
//! The problem: every thread of every process must give the same answer to "where is this key, what is that
//! table, is this client alive". The idea: one coordinator owns these facts as state machines without IO
//! ([`Map`], [`Catalog`], [`Barriers`], [`job::Jobs`]); inputs are calls, outputs are return values that
//! the caller carries out before it calls again. Pushes and pulls never come here.
//!
//! Invariants: a table id and a session id are never used twice, also after a failure (C3); a name stands for at
//! most one schema; a partition always has a chain; the map's version rises with every change and is a hint only,
//! the epoch of a partition's chain is what decides (C4).
//!
//! [`coordinator`] joins them into the machine of a coordinator process, [`message`] is what it and the others say to
//! each other. Absent on purpose: clocks, sockets, threads, and, but for [`store_file`], files; the embedded coordinator
//! keeps the machines behind a mutex and its memory is the store. Any thread that holds that mutex may call.

mod barrier;
mod catalog;
pub mod coordinator;
pub mod job;
mod map;
pub mod message;
mod place;
mod schema_bytes;
mod status;
pub mod store_file;

pub use barrier::{Arrival, BarrierError, Barriers};
pub use catalog::{Catalog, CatalogError, CatalogRecord, Opening};
pub use map::{Map, MapError, PartitionChain, Role, ShardInfo};
pub use schema_bytes::{SchemaBytesError, decode_schema, encode_schema};
pub use status::{
    ChainStatus, PartitionStatus, ServerState, ServerStatus, ShardStatus, Status, TableStatus, WorkerClock,
    WorkerStatus,
};
