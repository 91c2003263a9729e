//! gradwire: a parameter server.
//!
//! Servers hold the shared parameters of a model in sparse and dense tables; workers push gradients and pull
//! parameters asynchronously. A [`Cluster`] is where the servers are, a [`Session`] is one worker, a
//! [`SparseTable`] or [`DenseTable`] is what it works on.
//!
//! ```
//! use gradwire::{Cluster, ClusterConfig, Ftrl};
//! let cluster = Cluster::embedded(ClusterConfig::default())?;
//! let session = cluster.session()?;
//! let w = session.sparse("w", 1, Ftrl { alpha: 0.1, beta: 1.0, l1: 0.0, l2: 1.0 })?;
//! let keys = [3, 17, 29];
//! let weights = w.pull(&keys)?.wait()?;
//! let gradient: Vec<f32> = weights.iter().map(|weight| weight - 1.0).collect();
//! w.push(&keys, &gradient)?.wait()?;
//! session.clock()?;
//! # Ok::<(), gradwire::Error>(())
//! ```
//!
//! The layers, each of which knows only those below it: `app` and `cli` on `client`; `server` on `chain` and `store`;
//! all on `lane` and `wire`. The machine is the crate `gradwire-ffi`, the arithmetic `gradwire-kernels`; here is no
//! unsafe code. `docs/design.md` is the contract between them.
#![forbid(unsafe_code)]

#[cfg(not(all(target_os = "linux", target_endian = "little")))]
compile_error!("gradwire runs on little-endian Linux: its records and rings are used in place");

pub mod app;
pub mod chain;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod control;
pub mod data;
pub mod lane;
pub mod linalg;
pub mod server;
pub mod store;
pub mod wire;

pub use client::{
    Ack, Adagrad, Adam, Add, Assign, Clock, Cluster, ClusterConfig, ConnectConfig, DenseTable, Error,
    Exported, FabricChoice, Ftrl, KeyList, Keys, KeysError, Max, Momentum, Nesterov, Pull, PullTicket, Push,
    RowAdagrad, Rows, Session, Sgd, SparseTable, TableOptions, Ticket,
};
pub use cluster::Status;
pub use control::ControlError;
pub use gradwire_kernels::{Dtype, Rule};
pub use linalg::Localized;
pub use store::{Init, TableKind, TableSchema};
pub use wire::ids::{PartitionId, SessionId};
pub use wire::{PullStatus, RefusalCode};

/// Compiles and runs the README's first program.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
