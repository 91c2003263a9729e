//! All jobs of a cluster.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::JobError;
use super::message::{BlockTally, JobAnswer, JobId, JobRequest, JobStatus, LeaseId, MemberId, Task};
use super::run::{Joining, Run};
use super::spec::{JobPlan, JobSpec, check_name, malformed};

/// Most jobs that are not over.
const MAX_RUNNING: usize = 256;
/// Most bytes of a report or a reason.
const MAX_REPORT_BYTES: usize = 64 << 10;
/// Ids that a start from an old state passes over: more than were ever given out between two saves (J5).
const IDS_PER_START: u64 = 1 << 32;

/// How jobs are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobsConfig {
    /// A lease runs this long without renewal, and a process is lost when it was silent for longer.
    pub lease_ms: u64,
    /// Processes are told to renew this often.
    pub heartbeat_ms: u64,
    /// Jobs that are over and still remembered, the newest.
    pub keep: usize,
}

impl Default for JobsConfig {
    /// The leases of section 7 of the design; a hundred reports are a few hundred kB.
    fn default() -> Self {
        Self { lease_ms: 5000, heartbeat_ms: 1000, keep: 100 }
    }
}

/// Whether a change must outlive the coordinator before its answer is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Nothing changed.
    None,
    /// Save it within a second or so: if it is lost, some blocks are learnt from again, which is allowed (J2).
    Soon,
    /// Save it, then answer.
    First,
}

/// All jobs of a cluster. Times are of one clock, in milliseconds, that never goes back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Jobs {
    jobs: BTreeMap<JobId, Run>,
    /// Jobs that are over, the oldest first.
    over: Vec<JobId>,
    /// The last number given to any job, member or lease.
    last_id: u64,
    #[serde(skip)]
    config: JobsConfig,
    #[serde(skip)]
    forgotten: Vec<JobId>,
}

impl Jobs {
    /// No jobs yet.
    #[must_use]
    pub fn new(config: JobsConfig) -> Self {
        Self { config, ..Self::default() }
    }

    /// Goes on from a saved state. Save again before anything is answered: ids given since the saved state was made are
    /// passed over, once for each start.
    #[must_use]
    pub fn restored(mut self, config: JobsConfig, now_ms: u64) -> Self {
        self.config = config;
        self.last_id = self.last_id.saturating_add(IDS_PER_START);
        for run in self.jobs.values_mut() {
            run.rebase(now_ms, config.lease_ms);
        }
        self
    }

    /// Jobs forgotten since the last call: their tables may be dropped.
    pub fn take_forgotten(&mut self) -> Vec<JobId> {
        std::mem::take(&mut self.forgotten)
    }

    /// Whether there is any job, over or not.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Every job as it stands.
    #[must_use]
    pub fn statuses(&self, now_ms: u64) -> Vec<JobStatus> {
        self.jobs.iter().map(|(id, run)| run.status(*id, now_ms, self.config.lease_ms)).collect()
    }

    /// Answers a request. Any request is allowed, in any order.
    pub fn on_request(&mut self, request: JobRequest, now_ms: u64) -> (JobAnswer, Durability) {
        self.answer(request, now_ms).unwrap_or_else(|error| (JobAnswer::Refused(error), Durability::None))
    }

    fn answer(&mut self, request: JobRequest, now_ms: u64) -> Result<(JobAnswer, Durability), JobError> {
        let lease_ms = self.config.lease_ms;
        let until_ms = now_ms.saturating_add(lease_ms);
        Ok(match request {
            JobRequest::Join { job, spec, plan, threads, part, token } => {
                let joining = Joining { threads, part, token };
                (self.join(job, spec, plan, joining, now_ms)?, Durability::First)
            }
            JobRequest::Next { job, member, most } => {
                let first = LeaseId(self.last_id + 1);
                let task = self.run(job, member, now_ms)?.next(member, first, most, until_ms);
                let given = match &task {
                    Task::Prepare { .. } | Task::Evaluate { .. } => 1,
                    Task::Blocks { blocks, .. } => blocks.len() as u64,
                    Task::Wait { .. } | Task::Finished { .. } | Task::Failed { .. } => 0,
                };
                self.last_id += given;
                (JobAnswer::Task(task), if given > 0 { Durability::Soon } else { Durability::None })
            }
            JobRequest::Renew { job, member, leases } => {
                let run = self.run(job, member, now_ms)?;
                let lost = leases.into_iter().filter(|&lease| !run.renew(member, lease, until_ms)).collect();
                (JobAnswer::Renewed { lost }, Durability::None)
            }
            JobRequest::Done { job, member, done } => {
                let run = self.run(job, member, now_ms)?;
                check_tallies(&done)?;
                let counted = done.into_iter().filter(|(lease, tally)| run.done(*lease, *tally, now_ms));
                let counted = counted.count() as u32;
                (JobAnswer::Noted { counted }, if counted > 0 { Durability::Soon } else { Durability::None })
            }
            JobRequest::Report { job, member, lease, report } => {
                check_length(&report)?;
                let counted = self.run(job, member, now_ms)?.report(lease, report);
                self.noted_over(job, counted)
            }
            JobRequest::Fail { job, member, reason } => {
                check_length(&reason)?;
                let counted = self.run(job, member, now_ms)?.fail(reason);
                self.noted_over(job, counted)
            }
            JobRequest::Leave { job, member } => {
                self.run(job, member, now_ms)?.leave(member);
                (JobAnswer::Noted { counted: 1 }, Durability::Soon)
            }
        })
    }

    /// The job, up to date, for a member that lives since it asks.
    fn run(&mut self, job: JobId, member: MemberId, now_ms: u64) -> Result<&mut Run, JobError> {
        let run = self.jobs.get_mut(&job).ok_or(JobError::NoJob { job })?;
        run.expire(now_ms, self.config.lease_ms);
        run.seen(job, member, now_ms)?;
        Ok(run)
    }

    fn join(
        &mut self,
        name: Option<String>,
        spec: JobSpec,
        plan: JobPlan,
        joining: Joining,
        now_ms: u64,
    ) -> Result<JobAnswer, JobError> {
        spec.check()?;
        plan.check(joining.part)?;
        let config = self.config;
        let known = match &name {
            Some(name) => {
                check_name(name)?;
                self.jobs.iter().find(|(_, run)| run.name == *name && !run.is_failed()).map(|(id, _)| *id)
            }
            None => None,
        };
        let job = match known {
            Some(job) => job,
            None => self.create(name, spec.clone(), plan, now_ms)?,
        };
        let member = MemberId(self.last_id + 1);
        let run = self.jobs.get_mut(&job).ok_or(JobError::NoJob { job })?;
        run.check_same(&spec, &plan)?;
        if let Some(report) = run.finished() {
            return Ok(JobAnswer::Over { job, name: run.name.clone(), report: report.to_owned() });
        }
        run.expire(now_ms, config.lease_ms);
        let member = run.join(member, joining, now_ms)?;
        self.last_id = self.last_id.max(member.0);
        Ok(JobAnswer::Joined {
            job,
            name: run.name.clone(),
            member,
            plan: run.plan,
            lease_ms: config.lease_ms,
            heartbeat_ms: config.heartbeat_ms,
        })
    }

    fn create(
        &mut self,
        name: Option<String>,
        spec: JobSpec,
        plan: JobPlan,
        now_ms: u64,
    ) -> Result<JobId, JobError> {
        let lease_ms = self.config.lease_ms;
        self.jobs.values_mut().for_each(|run| run.expire(now_ms, lease_ms));
        if self.jobs.len() - self.over.len() >= MAX_RUNNING {
            let abandoned = self.jobs.iter().find(|(_, run)| !run.is_over() && run.is_abandoned());
            let oldest = abandoned.map(|(id, _)| *id);
            let full = || JobError::TooMany { what: "running jobs".to_owned(), most: MAX_RUNNING };
            self.forget(oldest.ok_or_else(full)?);
        }
        let name = name.unwrap_or_else(|| {
            // A user may have taken the name.
            while self.jobs.values().any(|run| run.name == format!("job-{}", self.last_id + 1)) {
                self.last_id += 1;
            }
            format!("job-{}", self.last_id + 1)
        });
        self.last_id += 1;
        let job = JobId(self.last_id);
        self.jobs.insert(job, Run::new(name, spec, plan, now_ms));
        Ok(job)
    }

    fn noted_over(&mut self, job: JobId, counted: bool) -> (JobAnswer, Durability) {
        if counted {
            self.over.push(job);
            while self.over.len() > self.config.keep {
                self.forget(self.over[0]);
            }
        }
        let durability = if counted { Durability::First } else { Durability::None };
        (JobAnswer::Noted { counted: u32::from(counted) }, durability)
    }

    fn forget(&mut self, job: JobId) {
        self.jobs.remove(&job);
        self.over.retain(|over| *over != job);
        self.forgotten.push(job);
    }
}

fn check_tallies(done: &[(LeaseId, BlockTally)]) -> Result<(), JobError> {
    // Far above any data, and sums of them stay exact and finite.
    let wrong = |tally: &BlockTally| tally.examples > 1 << 48 || !(0.0..=1e18).contains(&tally.loss);
    if done.iter().any(|(_, tally)| wrong(tally)) {
        return Err(malformed("a tally that no block can have"));
    }
    Ok(())
}

fn check_length(text: &str) -> Result<(), JobError> {
    if text.len() > MAX_REPORT_BYTES {
        return Err(malformed(format!("a text of {} bytes; at most {MAX_REPORT_BYTES}", text.len())));
    }
    Ok(())
}
