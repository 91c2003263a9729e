//! Logistic regression as one process of a job: blocks come under leases, models stay in the cluster.
//!
//! One thread leases blocks and reads them ahead, so that workers never wait for a disk or for the coordinator. Blocks
//! are learnt from many at a time, their rows mixed; they are done when everything that any worker pushed for them is
//! replicated. Whoever is told to prepares (restores the model to
//! go on from) or evaluates; every process ends when the job does, with the same report.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::worker::{Pace, Worker};
use super::{LrConfig, LrError, Tally, open, restore};
use crate::app::model::Model;
use crate::app::progress::Progress;
use crate::client::{Assignment, Cluster, Job, JobId, Lease, Totals};
use crate::data::{Block, Blocks, DataError, Examples, Mix, Pieces};

/// Most blocks leased at once; the coordinator gives no more than a fair share.
const MOST_BLOCKS: u32 = 256;
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

/// Blocks that the workers of this process learn from together.
struct Group {
    rows: GroupRows,
    /// What is left to tell the coordinator, once every worker is through.
    open: Mutex<Open>,
}

enum GroupRows {
    Mixed(Mix),
    /// One block, larger than memory allows.
    InPieces(Mutex<Box<Pieces>>),
}

struct Open {
    leases: Vec<Lease>,
    /// Workers that may still have rows of it in flight.
    workers: usize,
    tally: Tally,
}

impl Group {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next minibatch, for any worker. False at the end, and when all of it is another process's by now.
    fn next_into(&self, rows: usize, out: &mut Examples) -> Result<bool, DataError> {
        let open = self.open();
        if open.leases.iter().all(Lease::is_lost) {
            return Ok(false);
        }
        open.leases.iter().for_each(Lease::touch);
        drop(open);
        match &self.rows {
            GroupRows::Mixed(mix) => Ok(mix.next_into(rows, out)),
            GroupRows::InPieces(pieces) => {
                pieces.lock().unwrap_or_else(PoisonError::into_inner).next_into(rows, out)
            }
        }
    }

    /// A worker is through, and everything it pushed is replicated. The last one gets what to tell the coordinator.
    fn leave(&self, tally: Tally) -> Option<Vec<(Lease, u64, f64)>> {
        let mut open = self.open();
        open.tally.examples += tally.examples;
        open.tally.loss += tally.loss;
        open.workers -= 1;
        if open.workers > 0 {
            return None;
        }
        let (leases, tally) = (std::mem::take(&mut open.leases), open.tally);
        let rows: Vec<u64> = match &self.rows {
            GroupRows::Mixed(mix) => mix.rows().map(|rows| rows as u64).collect(),
            GroupRows::InPieces(_) => vec![tally.examples],
        };
        // Less than all rows: the rest is learnt from where the blocks are now.
        if leases.iter().all(Lease::is_lost) {
            return None;
        }
        // Losses are summed over minibatches of mixed rows; each block gets the share of its rows.
        let each = tally.mean().unwrap_or(0.0);
        Some(leases.into_iter().zip(rows).map(|(lease, rows)| (lease, rows, each * rows as f64)).collect())
    }
}

impl JobTraining<'_> {
    /// Trains until the job ends, and returns its report. `evaluate` makes it, if this process is told to.
    ///
    /// # Errors
    /// [`LrError`]: the first that this process met. What another process would meet too ends the job for all.
    pub fn run(&self, evaluate: impl Fn(Totals) -> Result<String, LrError>) -> Result<String, LrError> {
        let stop = AtomicBool::new(false);
        let result = thread::scope(|scope| {
            let mut workers = Vec::with_capacity(self.config.workers);
            let mut gives = Vec::with_capacity(self.config.workers);
            for index in 0..self.config.workers {
                let (give, take) = bounded(1);
                let stop = &stop;
                let run = move || self.work(&take, stop).inspect_err(|_| stop.store(true, Ordering::Relaxed));
                let spawned = thread::Builder::new().name(format!("worker-{index}")).spawn_scoped(scope, run);
                workers.push(spawned.map_err(LrError::Thread)?);
                gives.push(give);
            }
            let fed =
                self.feed(&gives, &stop, &evaluate).inspect_err(|_| stop.store(true, Ordering::Relaxed));
            drop(gives);
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
        gives: &[Sender<Arc<Group>>],
        stop: &AtomicBool,
        evaluate: &impl Fn(Totals) -> Result<String, LrError>,
    ) -> Result<Option<String>, LrError> {
        let mut pause = FIRST_PAUSE;
        let mut shown = None;
        while !stop.load(Ordering::Relaxed) {
            let assignment = self.job.next(MOST_BLOCKS)?;
            if !matches!(assignment, Assignment::Wait) {
                pause = FIRST_PAUSE;
            }
            match assignment {
                Assignment::Blocks { epoch, blocks } => {
                    if shown < Some(epoch) {
                        let name = format!("epoch {}/{}", epoch + 1, self.config.epochs);
                        self.progress.begin(name, "examples", None);
                        shown = Some(epoch);
                    }
                    if !self.give(gives, epoch, blocks)? {
                        return Ok(None);
                    }
                }
                Assignment::Prepare(lease) => {
                    if let Some(model) = self.start {
                        let (session, table) =
                            open(self.cluster, &table_of(self.job.id()), &self.config.solver)?;
                        restore(&session, &table, model)?;
                    }
                    lease.prepared()?;
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

    /// Reads blocks and gives them to the workers, as many together as memory allows; false when no worker takes any.
    fn give(
        &self,
        gives: &[Sender<Arc<Group>>],
        epoch: u32,
        blocks: Vec<(Lease, u32)>,
    ) -> Result<bool, LrError> {
        let (mut leases, mut parts, mut bytes, mut first) = (Vec::new(), Vec::new(), 0, None);
        let send = |rows, leases| {
            let open = Mutex::new(Open { leases, workers: gives.len(), tally: Tally::default() });
            let group = Arc::new(Group { rows, open });
            gives.iter().all(|give| give.send(Arc::clone(&group)).is_ok())
        };
        for (lease, block) in blocks {
            let opened = self.blocks.open(block, epoch, &|| lease.touch())?;
            // Until its turn comes.
            lease.keep();
            match opened {
                Block::Whole(rows) => {
                    bytes += rows.bytes();
                    first = first.or(Some(block));
                    leases.push(lease);
                    parts.push(rows);
                }
                Block::Pieces(pieces) => {
                    if !send(GroupRows::InPieces(Mutex::new(pieces)), vec![lease]) {
                        return Ok(false);
                    }
                }
            }
            if bytes > self.blocks.mix_bytes() {
                let mix =
                    self.blocks.mix(std::mem::take(&mut parts), epoch, first.take().unwrap_or(block))?;
                bytes = 0;
                if !send(GroupRows::Mixed(mix), std::mem::take(&mut leases)) {
                    return Ok(false);
                }
            }
        }
        let Some(first) = first else { return Ok(true) };
        let mix = self.blocks.mix(parts, epoch, first)?;
        Ok(send(GroupRows::Mixed(mix), leases))
    }

    /// Learns from groups of blocks until there are no more.
    fn work(&self, take: &Receiver<Arc<Group>>, stop: &AtomicBool) -> Result<(), LrError> {
        let pace = Pace::default();
        let mut worker = None;
        loop {
            let patience = if worker.is_some() { IDLE } else { Duration::MAX };
            let group = match take.recv_timeout(patience) {
                Ok(group) => group,
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
            let next = |examples: &mut _| group.next_into(self.config.minibatch, examples);
            let tally = worker.block(next, self.progress, stop)?;
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            if let Some(done) = group.leave(tally) {
                self.job.done(done)?;
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
