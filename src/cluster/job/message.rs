//! What processes ask about jobs, and what they are told.

use serde::{Deserialize, Serialize};

use super::error::JobError;
use super::spec::{JobPlan, JobSpec, Part};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}
id!(
    /// One job; never used again.
    JobId
);
impl JobId {
    /// The name of the job's own table `name`. No other job ever has one of that name.
    #[must_use]
    pub fn table(self, name: &str) -> String {
        format!("job/{self}/{name}")
    }
}
id!(
    /// One process of a job.
    MemberId
);
id!(
    /// One time that a task was given out; never used again.
    LeaseId
);

/// What a process asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum JobRequest {
    /// Take part in a job, which begins with this if there is none of that name.
    Join {
        /// Its name; none for a new one.
        job: Option<String>,
        /// What it trains.
        spec: JobSpec,
        /// How to cut the data, if the job is new.
        plan: JobPlan,
        /// Worker threads of this process.
        threads: u32,
        /// The fixed share, when the plan has such.
        part: Option<Part>,
        /// Random; who asks again with the same one gets the same answer.
        token: u64,
    },
    /// Ask for a task.
    Next {
        /// The job.
        job: JobId,
        /// Who asks.
        member: MemberId,
        /// Blocks to take at most; it gets no more than a fair share.
        most: u32,
    },
    /// Say that one lives, and which leases make progress.
    Renew {
        /// The job.
        job: JobId,
        /// Who lives.
        member: MemberId,
        /// Leases to go on with.
        leases: Vec<LeaseId>,
    },
    /// Tasks are done, and everything that was pushed for them is replicated.
    Done {
        /// The job.
        job: JobId,
        /// Who did it.
        member: MemberId,
        /// Under which lease, and what the block added up to; nothing for other tasks.
        done: Vec<(LeaseId, BlockTally)>,
    },
    /// The evaluation is done; this ends the job.
    Report {
        /// The job.
        job: JobId,
        /// Who did it.
        member: MemberId,
        /// Under which lease.
        lease: LeaseId,
        /// The figures, in the application's own format.
        report: String,
    },
    /// The job cannot be done by anybody, such as for an error in the data.
    Fail {
        /// The job.
        job: JobId,
        /// Who found out.
        member: MemberId,
        /// One line.
        reason: String,
    },
    /// Take part no longer; leases are free at once.
    Leave {
        /// The job.
        job: JobId,
        /// Who leaves.
        member: MemberId,
    },
}

/// What a block added up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockTally {
    /// Examples learnt from.
    pub examples: u64,
    /// Sum of their losses, each before it was learnt from.
    pub loss: f64,
}

/// What a process is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum JobAnswer {
    /// It takes part.
    Joined {
        /// The job.
        job: JobId,
        /// Its name.
        name: String,
        /// Who the asker is from now on.
        member: MemberId,
        /// How the data is cut.
        plan: JobPlan,
        /// A lease runs this long without renewal.
        lease_ms: u64,
        /// Renewals come this often.
        heartbeat_ms: u64,
    },
    /// The job is over already.
    Over {
        /// The job.
        job: JobId,
        /// Its name.
        name: String,
        /// The figures.
        report: String,
    },
    /// What to do.
    Task(Task),
    /// These leases are no longer the asker's; the others were renewed.
    Renewed {
        /// Leases lost.
        lost: Vec<LeaseId>,
    },
    /// Noted.
    Noted {
        /// How much of it counted: what comes too late does not (J2).
        counted: u32,
    },
    /// Nothing changed.
    Refused(JobError),
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Task {
    /// What comes before the first block.
    Prepare {
        /// The lease.
        lease: LeaseId,
    },
    /// Learn from blocks.
    Blocks {
        /// Which pass, from 0.
        epoch: u32,
        /// Leases, and the blocks they are for, from 0; in the order of the epoch.
        blocks: Vec<(LeaseId, u32)>,
    },
    /// Every block is done: score the model and report.
    Evaluate {
        /// The lease.
        lease: LeaseId,
        /// What the job came to.
        totals: Totals,
    },
    /// Nothing now; ask again.
    Wait {
        /// Rises with every sign of life of the job: one that stands still waits for somebody who is not there.
        signs: u64,
        /// A share that has blocks left and no process.
        missing: Option<Part>,
    },
    /// The job is over.
    Finished {
        /// The figures.
        report: String,
    },
    /// The job is over for everybody.
    Failed {
        /// Why.
        reason: String,
    },
}

/// What a job came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// Over all epochs.
    pub all: BlockTally,
    /// In the last epoch.
    pub last: BlockTally,
    /// From the first join to the last block, in milliseconds.
    pub trained_ms: u64,
    /// Processes that took part.
    pub processes: u32,
    /// Worker threads of all of them.
    pub threads: u32,
    /// Leases that ran out or whose process was lost.
    pub handed_on: u64,
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobStatus {
    /// Its id.
    pub job: JobId,
    /// Its name.
    pub name: String,
    /// What it is at.
    pub phase: JobPhase,
    /// The earliest epoch that is not done, from 0.
    pub epoch: u32,
    /// Epochs in all.
    pub epochs: u32,
    /// Blocks done in that epoch.
    pub blocks_done: u32,
    /// Blocks an epoch.
    pub blocks: u32,
    /// Examples learnt from.
    pub examples: u64,
    /// Processes that live.
    pub processes: u32,
}

/// What a job is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobPhase {
    /// Before the first block.
    Preparing,
    /// Blocks are learnt from.
    Training,
    /// Every block is done.
    Evaluating,
    /// It has a report.
    Finished,
    /// It cannot be done.
    Failed,
}
