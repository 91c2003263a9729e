//! Logistic regression on a parameter server.
//!
//! The weights are one sparse table, `w`: a key for each feature, a value a row, no bias term. Each worker is a
//! thread with a session. For a minibatch it finds the distinct keys, pulls their weights, computes margins, loss and
//! gradient, and pushes the gradient under the same key list, of which by then only the digest travels. The pulls of
//! several minibatches are under way while one is computed ([`LrConfig::in_flight`]): that hides the round trip and
//! costs a delay, since a minibatch does not see the pushes of those in flight before it.
//!
//! Invariants: a worker ticks its clock once a minibatch; with a staleness of `s` no minibatch `m` is computed on
//! weights that lack an update of clock `m - s` or earlier; one worker alone gives the same bits in every run.
//!
//! Absent on purpose: a bias (add a constant feature), momentum, and a schedule of rates: ftrl and adagrad have
//! their own for each key.

mod evaluate;
mod job;
mod solver;
mod worker;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

pub use evaluate::evaluate;
pub use job::{JobTraining, table_of};
pub use solver::{Solver, SolverError};

use super::model::{Model, ModelTable};
use super::progress::Progress;
use crate::client::{self, Cluster, KeysError, Session, SparseTable};
use crate::data::{DataError, FeatureSpec, Training};
use worker::{Pace, Worker};

/// The weights' table, where nobody else has one.
pub const TABLE: &str = "w";
/// Rows restored by one request.
const IMPORT_ROWS: usize = 1 << 14;

/// How to train.
#[derive(Clone, Debug)]
pub struct LrConfig {
    /// Optimizer and rates.
    pub solver: Solver,
    /// Worker threads.
    pub workers: usize,
    /// Examples whose gradients are pushed together.
    pub minibatch: usize,
    /// Passes over the data.
    pub epochs: usize,
    /// Minibatches of a worker whose weights were asked for and whose gradient is not pushed yet.
    pub in_flight: usize,
    /// Bound on the clocks that a minibatch may lag behind; none for no bound.
    pub staleness: Option<u64>,
}

impl LrConfig {
    /// A worker does not see its own pushes in flight, so the staleness bounds them too.
    fn effective_in_flight(&self) -> usize {
        let bound =
            self.staleness.map_or(usize::MAX, |s| usize::try_from(s).unwrap_or(usize::MAX).saturating_add(1));
        self.in_flight.clamp(1, bound)
    }
}

/// Why training or evaluation stopped.
#[derive(Debug, thiserror::Error)]
pub enum LrError {
    /// The data is wrong.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The parameter server refused or is gone.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// A feature has the one key that is reserved.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The loss is no longer a number.
    #[error(
        "training with {solver} diverged: the loss is not finite; lower its rate, or scale large feature values"
    )]
    Diverged {
        /// The solver.
        solver: &'static str,
    },
    /// No block has an example.
    #[error("the training data has no examples; check the files and --label")]
    NoExamples,
    /// Another thread of this process failed and said why.
    #[error("training was stopped; see the line above")]
    Stopped,
    /// A thread could not be started.
    #[error("cannot start a worker thread: {0}; use fewer --workers or raise the limit on processes")]
    Thread(std::io::Error),
}

/// Sum of losses over some examples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// How many.
    pub examples: u64,
    /// Sum of their losses, each before it was learnt from.
    pub loss: f64,
}

impl Tally {
    /// Mean loss; none without examples.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.examples > 0).then(|| self.loss / self.examples as f64)
    }
}

/// Trains on `data`, from the rows of `start` if there are any, and returns what each pass added up to.
///
/// The weights stay in `cluster`: [`evaluate`] scores them there, [`export`] takes them out.
///
/// # Errors
/// [`LrError`]: the first that any worker met; the others then stop at their next minibatch.
pub fn train(
    cluster: &Cluster,
    config: &LrConfig,
    data: &Training,
    start: Option<&Model>,
    progress: &Progress,
) -> Result<Vec<Tally>, LrError> {
    let (stop, pace) = (AtomicBool::new(false), Pace::default());
    // Every session exists before the first clock ticks, so that a staleness bound counts all workers from 0.
    let mut workers = Vec::with_capacity(config.workers);
    for index in 0..config.workers {
        let (session, table) = open(cluster, TABLE, &config.solver)?;
        if let (0, Some(model)) = (index, start) {
            restore(&session, &table, model)?;
        }
        workers.push(Worker::new(config, &pace, session, table));
    }
    let mut passes = Vec::with_capacity(config.epochs);
    for epoch in 0..config.epochs {
        let total = data.rows().map(|rows| rows as u64);
        progress.begin(format!("epoch {}/{}", epoch + 1, config.epochs), "examples", total);
        let start = pace.furthest();
        let minibatches = data.epoch(epoch as u64, config.minibatch, config.workers)?;
        // A worker that fails is dropped on its thread: its session ends, and nobody waits for its clock.
        let ended = on_threads("worker", workers.into_iter().enumerate(), &stop, |(index, mut worker)| {
            let tally = worker.pass(start, minibatches.worker(index), progress, &stop)?;
            Ok((worker, tally))
        })?;
        let mut pass = Tally::default();
        workers = Vec::with_capacity(ended.len());
        for (worker, tally) in ended {
            pass.examples += tally.examples;
            pass.loss += tally.loss;
            workers.push(worker);
        }
        passes.push(pass);
    }
    Ok(passes)
}

/// Runs `work` for each item on a thread of its own; the first error raises `stop` and is returned when all ended.
fn on_threads<I: Send, T: Send>(
    name: &str,
    items: impl Iterator<Item = I>,
    stop: &AtomicBool,
    work: impl Fn(I) -> Result<T, LrError> + Sync,
) -> Result<Vec<T>, LrError> {
    let work = &work;
    let run = move |item| work(item).inspect_err(|_| stop.store(true, Ordering::Relaxed));
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (index, item) in items.enumerate() {
            let spawned = thread::Builder::new()
                .name(format!("{name}-{index}"))
                .spawn_scoped(scope, move || run(item))
                .inspect_err(|_| stop.store(true, Ordering::Relaxed));
            threads.push(spawned.map_err(LrError::Thread)?);
        }
        threads.into_iter().map(|t| t.join().unwrap_or_else(|e| std::panic::resume_unwind(e))).collect()
    })
}

/// Takes the trained weights out of table `table` of the cluster.
///
/// # Errors
/// [`LrError::Client`] when a server does not answer.
pub fn export(
    cluster: &Cluster,
    table: &str,
    solver: &Solver,
    features: Option<FeatureSpec>,
) -> Result<Model, LrError> {
    let (_session, table) = open(cluster, table, solver)?;
    let rows = table.export()?;
    Ok(Model {
        table: ModelTable { name: TABLE.to_owned(), dim: 1, dtype: "f32".to_owned(), optimizer: *solver },
        features,
        kernel_version: gradwire_kernels::KERNEL_VERSION,
        keys: rows.keys,
        values: rows.values,
        state: rows.rows,
    })
}

fn open(cluster: &Cluster, table: &str, solver: &Solver) -> Result<(Session, SparseTable), LrError> {
    let session = cluster.session()?;
    let table = session.sparse(table, 1, solver.rule())?;
    Ok((session, table))
}

/// Gives the servers a model's rows, optimizer state included.
fn restore(session: &Session, table: &SparseTable, model: &Model) -> Result<(), LrError> {
    let words = model.state_words();
    for (keys, rows) in model.keys.chunks(IMPORT_ROWS).zip(model.state.chunks(IMPORT_ROWS * words.max(1))) {
        table.import(keys, rows)?;
    }
    Ok(session.flush()?)
}

#[cfg(test)]
mod job_tests;
#[cfg(test)]
mod tests;
