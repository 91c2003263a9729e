//! The client: sessions that push and pull asynchronously, exactly once, over lanes to every shard.
//!
//! A [`Session`] is one worker. It keeps, for each partition, a `flow`: pushes in sequence, kept until
//! they are replicated (C3), resent in order after a retry or on a new lane. Answers are absolute, so a lost one
//! is healed by the next. Reply space is set aside before a request is sent: replies never wait for credit (L3).
//!
//! Files: `flow` decides (sans-IO), `plan` splits key lists, `engine` moves records, `push_path`, `pull_path`
//! and `ask_path` are its actions, `link` opens and closes lanes, `reroute` follows the map, `session`, `table` and `ticket` are what users hold.
//!
//! Absent on purpose: an IO thread. The worker's own calls drive its lanes; that is what makes a round trip short.
//! A session may be shared between threads: its calls take turns.

mod ask_path;
#[cfg(test)]
mod chains;
mod cluster;
mod connect;
mod embedded;
mod engine;
mod error;
mod flow;
mod job;
mod keys;
mod link;
mod optimizers;
mod plan;
mod pull_path;
mod push_path;
mod remote;
mod reroute;
#[cfg(test)]
mod reroute_test;
#[cfg(test)]
mod resend_test;
mod session;
mod slots;
mod strong_pull;
mod table;
mod ticket;

pub use crate::cluster::job::{JobError, JobId, JobPlan, JobSpec, MAX_BLOCKS, Part, Totals};
pub use crate::wire::ids::Clock;
pub use cluster::{Cluster, ClusterConfig, FabricChoice};
pub use connect::ConnectConfig;
pub use error::Error;
pub use job::{Assignment, Job, JobEntry, Joined, Lease};
pub use keys::{KeyList, Keys, KeysError};
pub use optimizers::{Adagrad, Adam, Add, Assign, Ftrl, Max, Momentum, Nesterov, RowAdagrad, Sgd};
pub use session::Session;
pub use table::{DenseTable, Exported, SparseTable, TableOptions};
pub use ticket::{Ack, Pull, PullTicket, Push, Rows, Ticket};
