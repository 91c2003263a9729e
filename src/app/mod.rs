//! Applications: what users train, each one readable file or folder on the public API of the client.
//!
//! An application streams examples, keeps its parameters in tables, and gives back figures, never text: the `cli`
//! decides what is shown and where. Long work reports through [`progress::Progress`]; results reach the disk through
//! [`publish`] only, so a file under a result's name is whole.
//!
//! Any thread may call; each call starts the worker threads that it needs and ends them before it returns. Absent on
//! purpose: reading flags, printing, exit codes.

pub mod build;
pub mod lr;
pub mod metrics;
pub mod model;
mod predict;
pub mod progress;
mod publish;
pub mod report;

pub use predict::{PredictError, predict};
pub use publish::{PublishError, discard_and_exit, probe, publish};
