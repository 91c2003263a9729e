//! What a process asks about jobs, and a coordinator of jobs in this process.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::ControlError;
use crate::cluster::job::{self, JobAnswer, JobRequest, JobStatus, JobsConfig};

/// Jobs as a process sees them: in this process, or at the end of a connection.
pub trait Jobs: Send + Sync {
    /// Asks, and waits for the answer. A request that was sent again on the way is answered as one.
    ///
    /// # Errors
    /// [`ControlError`] when the coordinator does not answer in time; a refusal is an answer.
    fn on_job(&self, request: JobRequest) -> Result<JobAnswer, ControlError>;
}

/// Jobs of an embedded cluster; its memory is their store.
pub struct LocalJobs {
    jobs: Mutex<job::Jobs>,
    began: Instant,
}

impl LocalJobs {
    /// No jobs yet.
    #[must_use]
    pub fn new(config: JobsConfig) -> Self {
        Self { jobs: Mutex::new(job::Jobs::new(config)), began: Instant::now() }
    }
}

impl LocalJobs {
    /// Every job as it stands.
    #[must_use]
    pub fn statuses(&self) -> Vec<JobStatus> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.statuses(self.began.elapsed().as_millis() as u64)
    }
}

impl Default for LocalJobs {
    fn default() -> Self {
        Self::new(JobsConfig::default())
    }
}

impl Jobs for LocalJobs {
    fn on_job(&self, request: JobRequest) -> Result<JobAnswer, ControlError> {
        // A panic elsewhere leaves it whole: it changes within one call that does not fail half way.
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock, so that time never goes back.
        let now_ms = self.began.elapsed().as_millis() as u64;
        Ok(jobs.on_request(request, now_ms).0)
    }
}
