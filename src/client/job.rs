//! A process's part in a job: tasks under leases that a thread renews while they make progress.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::cluster::Cluster;
use super::error::Error;
use crate::cluster::job::{
    BlockTally, JobAnswer, JobError, JobId, JobPlan, JobRequest, JobSpec, LeaseId, MemberId, Part, Task,
    Totals,
};
use crate::control::{ControlError, ControlPlane, random};

/// A job without any sign of life for this many leases waits for somebody who is not there.
const SILENT_LEASES: u32 = 12;

/// How a process takes part.
#[derive(Clone, Debug)]
pub struct JobEntry {
    /// The job's name; none for a new job.
    pub name: Option<String>,
    /// What it trains; every process must be given the same.
    pub spec: JobSpec,
    /// How to cut the data, if the job is new.
    pub plan: JobPlan,
    /// Worker threads of this process.
    pub threads: u32,
    /// The fixed share of this process; none to take what comes.
    pub part: Option<Part>,
}

/// What became of joining.
#[derive(Debug)]
pub enum Joined {
    /// This process takes part.
    Running(Job),
    /// The job was over already.
    Over {
        /// Its id.
        id: JobId,
        /// Its name.
        name: String,
        /// Its figures.
        report: String,
    },
}

/// What to do next.
#[derive(Debug)]
pub enum Assignment {
    /// What comes before the first block.
    Prepare(Lease),
    /// Learn from blocks.
    Blocks {
        /// Which pass, from 0.
        epoch: u32,
        /// Leases, and the blocks they are for, from 0.
        blocks: Vec<(Lease, u32)>,
    },
    /// Score the model and report.
    Evaluate(Lease, Totals),
    /// Nothing now; ask again soon.
    Wait,
    /// The job is over, with these figures.
    Finished(String),
}

/// One process of a job. Dropping it gives back what it has not done.
#[derive(Debug)]
pub struct Job {
    shared: Arc<Shared>,
    /// The name, as it was given or made.
    name: String,
    plan: JobPlan,
    silence: Mutex<Silence>,
    stop: Option<Sender<()>>,
    beat: Option<JoinHandle<()>>,
}

/// How long the job as a whole has shown no sign of life.
#[derive(Debug)]
struct Silence {
    signs: u64,
    since: Instant,
    patience: Duration,
}

struct Shared {
    control: Arc<dyn ControlPlane>,
    id: JobId,
    member: MemberId,
    /// Leases that are held.
    held: Mutex<Vec<Arc<Held>>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("id", &self.id).field("member", &self.member).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Held {
    lease: LeaseId,
    /// One of the constants below. Relaxed: a renewal more or less does not matter.
    state: AtomicU8,
    lost: AtomicBool,
}

/// Renewed as long as the process lives.
const KEPT: u8 = 0;
/// Showed progress since the last renewal.
const TOUCHED: u8 = 1;
/// Showed none: runs out unless it does.
const QUIET: u8 = 2;

/// A task that this process has. Dropped before it is done, it runs out and goes to another.
#[derive(Debug)]
pub struct Lease {
    held: Arc<Held>,
    shared: Arc<Shared>,
}

impl Cluster {
    /// Takes part in a job, or hears how it ended.
    ///
    /// # Errors
    /// [`Error::Job`] when the job trains something else, [`Error::Control`] when the coordinator does not answer.
    ///
    /// # Example
    /// ```
    /// use gradwire::client::{Assignment, JobEntry, JobPlan, JobSpec, Joined};
    /// use gradwire::{Cluster, ClusterConfig};
    /// let cluster = Cluster::embedded(ClusterConfig::default())?;
    /// let spec = JobSpec { epochs: 1, seed: None, prepare: false, fields: vec![] };
    /// let plan = JobPlan { block_bytes: 1 << 20, blocks: 3, parts: 0 };
    /// let entry = JobEntry { name: None, spec, plan, threads: 1, part: None };
    /// let Joined::Running(job) = cluster.join_job(entry)? else { panic!("a new job is not over") };
    /// let mut learnt = Vec::new();
    /// let figures = loop {
    ///     match job.next(1)? {
    ///         Assignment::Blocks { blocks, .. } => {
    ///             learnt.extend(blocks.iter().map(|(_, block)| *block));
    ///             job.done(blocks.into_iter().map(|(lease, _)| (lease, 1000, 450.0)).collect())?;
    ///         }
    ///         Assignment::Evaluate(lease, totals) => lease.report(format!("{}", totals.all.examples))?,
    ///         Assignment::Finished(figures) => break figures,
    ///         _ => {}
    ///     }
    /// };
    /// assert_eq!((learnt, figures.as_str()), (vec![0, 1, 2], "3000"));
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn join_job(&self, entry: JobEntry) -> Result<Joined, Error> {
        let JobEntry { name, spec, plan, threads, part } = entry;
        let control = Arc::clone(self.control());
        let token = random();
        let request = JobRequest::Join { job: name, spec, plan, threads, part, token };
        match ask(&control, request)? {
            JobAnswer::Joined { job: id, name, member, plan, lease_ms, heartbeat_ms } => {
                let shared = Arc::new(Shared { control, id, member, held: Mutex::default() });
                let patience = Duration::from_millis(lease_ms) * SILENT_LEASES;
                let silence = Mutex::new(Silence { signs: 0, since: Instant::now(), patience });
                let mut job = Job { shared, name, plan, silence, stop: None, beat: None };
                job.begin_to_renew(Duration::from_millis(heartbeat_ms.max(1)))?;
                Ok(Joined::Running(job))
            }
            JobAnswer::Over { job: id, name, report } => Ok(Joined::Over { id, name, report }),
            other => Err(unexpected(&other)),
        }
    }
}

fn ask(control: &Arc<dyn ControlPlane>, request: JobRequest) -> Result<JobAnswer, Error> {
    match control.jobs().on_job(request)? {
        JobAnswer::Refused(error) => Err(error.into()),
        answer => Ok(answer),
    }
}

fn unexpected(answer: &JobAnswer) -> Error {
    let what = format!("the answer {answer:?}");
    JobError::Malformed { what }.into()
}

impl Job {
    /// Its id, never used again: tables of the job may carry it.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.shared.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How its data is cut.
    #[must_use]
    pub fn plan(&self) -> JobPlan {
        self.plan
    }

    /// Asks what to do; blocks come at most `most` at once.
    ///
    /// # Errors
    /// [`Error::JobFailed`] when the job failed, here or elsewhere, [`Error::JobStalled`] when it waits for a process
    /// that is not there, [`Error::Control`] when the coordinator does not answer.
    pub fn next(&self, most: u32) -> Result<Assignment, Error> {
        let Shared { id: job, member, .. } = *self.shared;
        let task = match self.shared.ask(JobRequest::Next { job, member, most })? {
            JobAnswer::Task(task) => task,
            other => return Err(unexpected(&other)),
        };
        Ok(match task {
            Task::Prepare { lease } => Assignment::Prepare(self.hold(lease)),
            Task::Blocks { epoch, blocks } => {
                let held = blocks.into_iter().map(|(lease, block)| (self.hold(lease), block));
                Assignment::Blocks { epoch, blocks: held.collect() }
            }
            Task::Evaluate { lease, totals } => Assignment::Evaluate(self.hold(lease), totals),
            Task::Finished { report } => Assignment::Finished(report),
            Task::Failed { reason } => return Err(Error::JobFailed { job: self.name.clone(), reason }),
            Task::Wait { signs, missing } => {
                self.check_silence(signs, missing)?;
                Assignment::Wait
            }
        })
    }

    /// Blocks are done: for each the examples that were learnt from and the sum of their losses. Every push for them is
    /// replicated. What was lost meanwhile does not count.
    ///
    /// # Errors
    /// [`Error::Control`] when the coordinator does not answer.
    pub fn done(&self, blocks: Vec<(Lease, u64, f64)>) -> Result<(), Error> {
        let Shared { id: job, member, .. } = *self.shared;
        let tally = |(lease, examples, loss): &(Lease, u64, f64)| {
            (lease.held.lease, BlockTally { examples: *examples, loss: *loss })
        };
        let done = blocks.iter().map(tally).collect();
        self.shared.ask(JobRequest::Done { job, member, done }).map(drop)
    }

    /// Ends the job for everybody: nobody can do it.
    ///
    /// # Errors
    /// [`Error::Control`] when the coordinator does not answer.
    pub fn fail(&self, reason: String) -> Result<(), Error> {
        let Shared { id: job, member, .. } = *self.shared;
        self.shared.ask(JobRequest::Fail { job, member, reason }).map(drop)
    }

    fn hold(&self, lease: LeaseId) -> Lease {
        let held = Arc::new(Held { lease, state: AtomicU8::new(KEPT), lost: AtomicBool::new(false) });
        self.shared.held().push(Arc::clone(&held));
        Lease { held, shared: Arc::clone(&self.shared) }
    }

    fn check_silence(&self, signs: u64, missing: Option<Part>) -> Result<(), Error> {
        let mut silence = self.silence.lock().unwrap_or_else(PoisonError::into_inner);
        if silence.signs != signs {
            (silence.signs, silence.since) = (signs, Instant::now());
        }
        let after = silence.since.elapsed();
        if after < silence.patience {
            return Ok(());
        }
        let whom = missing.map_or_else(
            || "a process that makes no progress; see whether the others live".to_owned(),
            |part| format!("part {part}, which no process trains; start one with --part {part}"),
        );
        Err(Error::JobStalled { job: self.name.clone(), after: silence.patience, whom })
    }

    fn begin_to_renew(&mut self, every: Duration) -> Result<(), Error> {
        let (stop, stopped) = bounded::<()>(0);
        let shared = Arc::clone(&self.shared);
        let beat = thread::Builder::new()
            .name("job-leases".to_owned())
            .spawn(move || {
                while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                    shared.renew();
                }
            })
            .map_err(|cause| ControlError::Machine {
                what: "starting the thread that renews leases",
                cause: cause.to_string(),
            })?;
        (self.stop, self.beat) = (Some(stop), Some(beat));
        Ok(())
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(beat) = self.beat.take() {
            let _ = beat.join();
        }
        // If it cannot be told, the leases run out.
        let Shared { id: job, member, .. } = *self.shared;
        let _ = self.shared.ask(JobRequest::Leave { job, member });
    }
}

impl Shared {
    fn ask(&self, request: JobRequest) -> Result<JobAnswer, Error> {
        ask(&self.control, request)
    }

    fn held(&self) -> MutexGuard<'_, Vec<Arc<Held>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that this process lives, and renews what makes progress.
    fn renew(&self) {
        let due: Vec<Arc<Held>> = self
            .held()
            .iter()
            .filter(|held| !held.lost.load(Ordering::Relaxed))
            .filter(|held| match held.state.load(Ordering::Relaxed) {
                KEPT => true,
                state => {
                    held.state.store(QUIET, Ordering::Relaxed);
                    state == TOUCHED
                }
            })
            .cloned()
            .collect();
        let leases = due.iter().map(|held| held.lease).collect();
        let Self { id: job, member, .. } = *self;
        // An error: the next one may get through; if none does, the leases run out.
        if let Ok(JobAnswer::Renewed { lost }) = self.ask(JobRequest::Renew { job, member, leases }) {
            for held in due.iter().filter(|held| lost.contains(&held.lease)) {
                held.lost.store(true, Ordering::Relaxed);
            }
        }
    }
}

impl Lease {
    /// Renewed from now on for as long as this process lives: while the task waits for its turn.
    pub fn keep(&self) {
        self.held.state.store(KEPT, Ordering::Relaxed);
    }

    /// Shows progress. From the first time on, the lease runs out when there is none.
    pub fn touch(&self) {
        self.held.state.store(TOUCHED, Ordering::Relaxed);
    }

    /// Whether the task is another's by now: what is done for it will not count.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.held.lost.load(Ordering::Relaxed)
    }

    /// What comes before the first block is done, and every push for it is replicated.
    ///
    /// # Errors
    /// [`Error::Control`] when the coordinator does not answer.
    pub fn prepared(self) -> Result<(), Error> {
        let Shared { id: job, member, .. } = *self.shared;
        let done = vec![(self.held.lease, BlockTally::default())];
        self.shared.ask(JobRequest::Done { job, member, done }).map(drop)
    }

    /// Ends the job with its figures, in the application's own format.
    ///
    /// # Errors
    /// [`Error::Control`] when the coordinator does not answer.
    pub fn report(self, report: String) -> Result<(), Error> {
        let Shared { id: job, member, .. } = *self.shared;
        self.shared.ask(JobRequest::Report { job, member, lease: self.held.lease, report }).map(drop)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.held().retain(|held| held.lease != self.held.lease);
    }
}
