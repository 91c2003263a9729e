//! Jobs: one model trained by any number of processes, and the blocks of its data.
//!
//! The problem: processes come, go, stall and return, and the data must still be learnt from as often as was asked, by
//! whoever is there. The idea: a job is a list of tasks (prepare, every block of every epoch, evaluate), each given out
//! under a lease; a task whose lease ran out or whose process is lost goes to the next that asks. [`Jobs`] takes a
//! [`JobRequest`] and a time and gives a [`JobAnswer`]; it never waits, so who has nothing to do asks again.
//!
//! - J1 no task is under two unexpired leases.
//! - J2 a task counts once: the first `done` under its newest lease; any other is dropped. Its data may have been learnt
//!   from more than once (at-least-once).
//! - J3 a block of epoch `e + 1` is given out only when the asker may have no block of epoch `e`, and never before
//!   epoch `e - 1` is done: a lost block is learnt from at most an epoch late.
//! - J4 a job ends once, and whoever asks is told the same report.
//! - J5 ids of leases and members are never used twice, also by a coordinator that starts again from an old state.
//!
//! Everything here is serialisable; what must be durable before it is answered says so ([`Durability`]). Absent on
//! purpose: clocks, connections (a process is lost when it has not asked for a lease's time), data, models.

mod error;
mod jobs;
mod message;
mod run;
mod spec;
#[cfg(test)]
mod tests;

pub use error::JobError;
pub use jobs::{Durability, Jobs, JobsConfig};
pub use message::{
    BlockTally, JobAnswer, JobId, JobPhase, JobRequest, JobStatus, LeaseId, MemberId, Task, Totals,
};
pub use spec::{JobPlan, JobSpec, MAX_BLOCKS, Part};
