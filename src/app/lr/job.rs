//! Logistic regression as one process of a job: blocks come under leases, models stay in the cluster.
//!
//! One thread leases blocks and reads them ahead, so that workers never wait for a disk or for the coordinator; a worker
//! gives a block back when everything it pushed for it is replicated. Whoever is told to prepares (restores the model to
//! go on from) or evaluates; every process ends when the job does, with the same report.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::worker::{Pace, Worker};
use super::{LrConfig, LrError, open, restore};
use crate::app::model::Model;
use crate::app::progress::Progress;
use crate::client::{Assignment, Cluster, Job, JobId, Lease, Totals};
use crate::data::{BlockRows, Blocks, DataError};

/// How long a worker that has no block keeps its session: others may wait for its clock meanwhile.
const IDLE: Duration = Duration::from_millis(50);
/// Pauses between two questions of a process that has nothing to do.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// The table of a job's weights. Ids are never used twice, so a new job finds none of an old one's rows.
#[must_use]
pub fn table_of(job: JobId) -> String {
    job.table(super::TABLE)
}

/// A process's part in a job.
pub struct JobTraining<'a> {
    /// Where the weights are.
    pub cluster: &'a Cluster,
    /// The job.
    pub job: &'a Job,
    /// How to train.
    pub config: &'a LrConfig,
    /// The data, cut as the job has it.
    pub blocks: &'a Blocks,
    /// The model to go on from.
    pub start: Option<&'a Model>,
    /// Shown to the user.
    pub progress: &'a Progress,
}

/// A block on its way to a worker.
struct Work {
    lease: Lease,
    rows: BlockRows,
}

impl JobTraining<'_> {
    /// Trains until the job ends, and returns its report. `evaluate` makes it, if this process is told to.
    ///
    /// # Errors
    /// [`LrError`]: the first that this process met. What another process would meet too ends the job for all.
    pub fn run(&self, evaluate: impl Fn(Totals) -> Result<String, LrError>) -> Result<String, LrError> {
        let stop = AtomicBool::new(false);
        let result = thread::scope(|scope| {
            let (give, take) = bounded(1);
            let mut workers = Vec::with_capacity(self.config.workers);
            for index in 0..self.config.workers {
                let (take, stop) = (take.clone(), &stop);
                let run = move || self.work(&take, stop).inspect_err(|_| stop.store(true, Ordering::Relaxed));
                let spawned = thread::Builder::new().name(format!("worker-{index}")).spawn_scoped(scope, run);
                workers.push(spawned.map_err(LrError::Thread)?);
            }
            drop(take);
            let fed = self.feed(&give, &stop, &evaluate).inspect_err(|_| stop.store(true, Ordering::Relaxed));
            drop(give);
            let worked = workers
                .into_iter()
                .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect::<Result<Vec<()>, LrError>>();
            // A worker's fault stops the feeding, which then has nothing to say.
            worked.and(fed)
        });
        let result = result.and_then(|report| report.ok_or(LrError::Stopped));
        if let Err(error) = &result
            && is_everybodys(error)
        {
            // If the coordinator cannot be told, the others find out on their own.
            let _ = self.job.fail(error.to_string());
        }
        result
    }

    /// Does what the coordinator says; blocks go to the workers. No report when `stop` was raised.
    fn feed(
        &self,
        give: &Sender<Work>,
        stop: &AtomicBool,
        evaluate: &impl Fn(Totals) -> Result<String, LrError>,
    ) -> Result<Option<String>, LrError> {
        let mut pause = FIRST_PAUSE;
        let mut shown = None;
        while !stop.load(Ordering::Relaxed) {
            let assignment = self.job.next()?;
            if !matches!(assignment, Assignment::Wait) {
                pause = FIRST_PAUSE;
            }
            match assignment {
                Assignment::Block { lease, epoch, block } => {
                    if shown < Some(epoch) {
                        let name = format!("epoch {}/{}", epoch + 1, self.config.epochs);
                        self.progress.begin(name, "examples", None);
                        shown = Some(epoch);
                    }
                    let rows = self.blocks.open(block, epoch, &|| lease.touch())?;
                    lease.keep();
                    if give.send(Work { lease, rows }).is_err() {
                        return Ok(None);
                    }
                }
                Assignment::Prepare(lease) => {
                    if let Some(model) = self.start {
                        let (session, table) =
                            open(self.cluster, &table_of(self.job.id()), &self.config.solver)?;
                        restore(&session, &table, model)?;
                    }
                    lease.done(0, 0.0)?;
                }
                Assignment::Evaluate(lease, totals) => lease.report(evaluate(totals)?)?,
                Assignment::Finished(report) => return Ok(Some(report)),
                Assignment::Wait => {
                    thread::sleep(pause);
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
            }
        }
        Ok(None)
    }

    /// Learns from blocks until there are no more.
    fn work(&self, take: &Receiver<Work>, stop: &AtomicBool) -> Result<(), LrError> {
        let pace = Pace::default();
        let mut worker = None;
        loop {
            let patience = if worker.is_some() { IDLE } else { Duration::MAX };
            let Work { lease, mut rows } = match take.recv_timeout(patience) {
                Ok(work) => work,
                Err(RecvTimeoutError::Timeout) => {
                    // Ends its session, and with it the others' waiting for its clock.
                    worker = None;
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            let worker = match &mut worker {
                Some(worker) => worker,
                none => {
                    let (session, table) = open(self.cluster, &table_of(self.job.id()), &self.config.solver)?;
                    none.insert(Worker::new(self.config, &pace, session, table))
                }
            };
            let next = |examples: &mut _| {
                lease.touch();
                // Another has the block by now: the rest is learnt from there.
                if lease.is_lost() { Ok(false) } else { rows.next_into(self.config.minibatch, examples) }
            };
            let tally = worker.block(next, self.progress, stop)?;
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            if !lease.is_lost() {
                lease.done(tally.examples, tally.loss)?;
            }
        }
    }
}

/// Whether every process would meet the same: the data is the same for all, and so are the rates.
fn is_everybodys(error: &LrError) -> bool {
    match error {
        LrError::Diverged { .. } | LrError::NoExamples | LrError::Keys(_) => true,
        LrError::Data(error) => !matches!(
            error,
            DataError::Open { .. }
                | DataError::Read { .. }
                | DataError::Thread { .. }
                | DataError::NoFile { .. }
        ),
        _ => false,
    }
}
