//! What can go wrong, told to the user: cause, object, next step.

use std::time::Duration;

use super::keys::KeysError;
use crate::cluster::job::JobError;
use crate::control::ControlError;
use crate::lane::AdoptError;
use crate::wire::ids::PartitionId;
use crate::wire::{PullStatus, RefusalCode};

/// Why an operation failed. No error leaves a table half changed.
///
/// # Example
/// ```
/// use gradwire::{Add, Cluster, ClusterConfig, Error};
/// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
/// # let w = session.sparse("w", 2, Add)?;
/// match w.push(&[1], &[1.0, 2.0, 3.0]) {
///     Err(Error::Shape { expected: 2, found: 3, .. }) => {}
///     other => panic!("one row of two values was asked for, not {other:?}"),
/// }
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The control plane refused or did not answer.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The coordinator refused what was asked about a job.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The job failed for every process.
    #[error("job {job:?} failed: {reason}")]
    JobFailed {
        /// The job.
        job: String,
        /// What a process of it said.
        reason: String,
    },
    /// Nobody does what the job waits for.
    #[error("job {job:?} has stood still for {after:?}: it waits for {whom}")]
    JobStalled {
        /// The job.
        job: String,
        /// How long.
        after: Duration,
        /// For whom, and what to do.
        whom: String,
    },
    /// The keys given are not a list of keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// A slice does not have the length its keys call for.
    #[error(
        "{what} for table {table:?} has {found} values, its keys call for {expected}; give a row of values for each key"
    )]
    Shape {
        /// The table.
        table: String,
        /// Which argument.
        what: &'static str,
        /// Values it should have.
        expected: usize,
        /// Values it has.
        found: usize,
    },
    /// A server refused a push for good; nothing of it was applied in that partition.
    #[error("a push to table {table:?} was refused by partition {partition}: {}", refusal_text(*.code))]
    Refused {
        /// The table.
        table: String,
        /// The partition that refused.
        partition: PartitionId,
        /// Why.
        code: RefusalCode,
    },
    /// A server could not answer a pull.
    #[error("a pull from table {table:?} failed at partition {partition}: {}", status_text(*.status))]
    Pull {
        /// The table.
        table: String,
        /// The partition that answered.
        partition: PartitionId,
        /// Why.
        status: PullStatus,
    },
    /// The wait ended before the answer came. A push goes on and its outcome stays unknown until it is resolved.
    #[error("{what} was not done after {after:?}{}; see whether its servers live, or set a longer deadline", cause_text(.cause))]
    Deadline {
        /// What was waited for.
        what: &'static str,
        /// How long.
        after: Duration,
        /// The last thing that went wrong on the way.
        cause: Option<String>,
    },
    /// One row does not fit a record.
    #[error(
        "a row of {row_bytes} bytes does not fit a record of {limit}; raise the cluster's ring_bytes to {needed}"
    )]
    RowTooLarge {
        /// Bytes of the row.
        row_bytes: usize,
        /// Bytes a record may have.
        limit: usize,
        /// Ring size that would do.
        needed: usize,
    },
    /// The session is over: the coordinator ended it, its unresolved pushes are not applied any more.
    #[error("session {0} has ended at the servers; open a new session and repeat what was not acknowledged")]
    Ended(u64),
    /// A partition forgot updates it had acknowledged as replicated: no replica of its last chain is left (C7).
    #[error(
        "partition {partition} lost acknowledged updates, no replica of its chain is left; restore a checkpoint and train on from it"
    )]
    StateLost {
        /// The partition.
        partition: PartitionId,
    },
    /// The machine could not give this thread its port.
    #[error(transparent)]
    Port(#[from] crate::lane::PortError),
    /// The machine could not take a new lane.
    #[error(transparent)]
    Lane(#[from] AdoptError),
    /// A server sent something that is no answer to what was asked.
    #[error("a server's answer does not fit the request: {0}; client and server builds may differ")]
    Protocol(String),
}

fn refusal_text(code: RefusalCode) -> &'static str {
    match code {
        RefusalCode::NoTable => "the table was dropped; open it again",
        RefusalCode::Shape => {
            "the values do not match the table's dimension; open the table again with its own"
        }
        RefusalCode::Unsorted => "its keys are not strictly increasing; sort them and drop repeats",
        RefusalCode::ReservedKey => "the key 18446744073709551615 is reserved; use another",
        RefusalCode::Memory => {
            "the server's memory budget has no room for its new rows; raise memory_bytes or add servers"
        }
        RefusalCode::HashFlood => "too many of its keys share their hash; use another table seed",
        RefusalCode::RowOutOfRange => {
            "a row index is beyond the table's rows; use indices below them, or a table with more"
        }
        RefusalCode::Unsupported => {
            "this kind of table cannot do that; rows of dense tables are never erased"
        }
        RefusalCode::WrongPartition => {
            "a key belongs to another partition; client and server disagree about the table"
        }
        RefusalCode::Malformed => {
            "its record does not hold what it names; client and server builds may differ"
        }
    }
}

fn status_text(status: PullStatus) -> &'static str {
    match status {
        PullStatus::Rows => "rows came",
        PullStatus::KeysMissing => "the key list was not kept",
        PullStatus::ClockDeadline => {
            "the other workers' clocks did not come in time; see whether they live, or allow more staleness"
        }
        PullStatus::NoTable => "the table was dropped; open it again",
        PullStatus::Shape => "the dimension asked for is not the table's; open the table again",
        PullStatus::Keys => {
            "its keys are not strictly increasing, reserved, or beyond the table's rows; sort them and drop what is outside"
        }
        PullStatus::NotServing => "the server may not answer now; try again",
        PullStatus::Malformed => {
            "its record does not hold what it names; client and server builds may differ"
        }
    }
}

fn cause_text(cause: &Option<String>) -> String {
    cause.as_ref().map_or(String::new(), |cause| format!(" ({cause})"))
}
