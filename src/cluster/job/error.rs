//! Why a request about a job was refused.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::message::JobId;
use super::spec::Part;

/// Why a request about a job was refused; nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum JobError {
    /// The job trains something else.
    #[error(
        "job {job:?} runs with {field} {theirs}, this process was given {ours}; give the same, or another --job"
    )]
    Mismatch {
        /// The job.
        job: String,
        /// What differs.
        field: String,
        /// As the job has it.
        theirs: String,
        /// As the asker has it.
        ours: String,
    },
    /// There is no such job; it was forgotten, or never known.
    #[error("there is no job {job} (any more); start it again")]
    NoJob {
        /// The job asked about.
        job: JobId,
    },
    /// The job has no such member.
    #[error("job {job} does not know this process; start it again")]
    NoMember {
        /// The job asked about.
        job: JobId,
    },
    /// Another process trains this part.
    #[error(
        "part {part} of job {job:?} is another process's; give each process its own part, or wait until that one is lost"
    )]
    PartTaken {
        /// The job.
        job: String,
        /// The part asked for.
        part: Part,
    },
    /// The coordinator has no room for another job or process.
    #[error(
        "the coordinator keeps {most} {what} and all of them are in use; end some, or use another cluster"
    )]
    TooMany {
        /// Of what.
        what: String,
        /// How many fit.
        most: usize,
    },
    /// The request does not make sense.
    #[error("a request about a job has {what}; client and coordinator builds may differ")]
    Malformed {
        /// What is wrong.
        what: String,
    },
}
