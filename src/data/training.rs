//! The examples of a training run, in memory or streamed again each epoch, dealt to workers as minibatches.
//!
//! In memory, an epoch is one permutation of the rows, cut into minibatches; worker `i` of `n` takes minibatches `i`,
//! `i + n`, … Larger data is read again each epoch, files in random order, through a pool: when the pool is full it is
//! permuted and its first half is dealt; the other half waits for new company. Streamed minibatches go to whichever
//! worker asks first, so only one worker's run is repeatable there.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};

use super::shuffle::{Rng, fill_order};
use super::{DataError, Dataset, Examples, Format, Progress, Source, Stream};

/// How to hold and order the examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of examples to hold at most; larger data is streamed.
    pub memory_bytes: usize,
    /// Random order, a new one each epoch; otherwise file order, streamed.
    pub shuffle: bool,
    /// Seed of the orders.
    pub seed: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory_bytes: quarter_of_memory(), shuffle: true, seed: 1 }
    }
}

/// A quarter of this machine's memory in bytes; 1 GiB when the system does not say.
pub fn quarter_of_memory() -> usize {
    let total_kib = |text: String| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        line.split_ascii_whitespace().nth(1)?.parse::<usize>().ok()
    };
    let kib = fs::read_to_string("/proc/meminfo").ok().and_then(total_kib);
    kib.map_or(1 << 30, |kib| kib.saturating_mul(256))
}

/// The examples of a run.
pub struct Training {
    held: Held,
    limits: Limits,
}

enum Held {
    Memory(Arc<Dataset>),
    Streamed { sources: Vec<Source>, format: Format },
}

impl Training {
    /// Loads `sources` when they are to be shuffled and fit; otherwise only notes them. Standard input is never loaded.
    /// `on_progress` is called after each block that is loaded.
    pub fn open(
        sources: Vec<Source>,
        format: Format,
        limits: Limits,
        mut on_progress: impl FnMut(Progress),
    ) -> Result<Self, DataError> {
        if limits.shuffle && !sources.contains(&Source::Stdin) {
            let mut stream = Stream::open(sources.clone(), &format)?;
            let mut dataset = Dataset::default();
            while let Some(block) = stream.next() {
                let block = block?;
                dataset.append(&block)?;
                stream.recycle(block);
                on_progress(stream.progress());
                if dataset.bytes() > limits.memory_bytes {
                    return Ok(Self { held: Held::Streamed { sources, format }, limits });
                }
            }
            return Ok(Self::from_dataset(dataset, limits));
        }
        sources.iter().try_for_each(Source::probe)?;
        Ok(Self { held: Held::Streamed { sources, format }, limits })
    }

    /// Examples that are in memory already.
    ///
    /// ```
    /// use gradwire::data::{Examples, Limits, Training, flights};
    /// let (train, _test) = flights()?;
    /// let training = Training::from_dataset(train, Limits { seed: 7, ..Limits::default() });
    /// let epoch = training.epoch(0, 1000, 2)?;
    /// let mut minibatch = Examples::default();
    /// let mut rows = 0;
    /// for worker in 0..2 {
    ///     let mut minibatches = epoch.worker(worker);
    ///     while minibatches.next_into(&mut minibatch)? {
    ///         rows += minibatch.len();
    ///     }
    /// }
    /// assert_eq!(rows, 294_611);
    /// # Ok::<(), gradwire::data::DataError>(())
    /// ```
    pub fn from_dataset(dataset: Dataset, limits: Limits) -> Self {
        Self { held: Held::Memory(Arc::new(dataset)), limits }
    }

    /// The number of examples, when they are in memory.
    pub fn rows(&self) -> Option<usize> {
        match &self.held {
            Held::Memory(dataset) => Some(dataset.len()),
            Held::Streamed { .. } => None,
        }
    }

    /// Refuses more epochs than the sources can be read.
    pub fn check_epochs(&self, epochs: u64) -> Result<(), DataError> {
        match &self.held {
            Held::Streamed { sources, .. } if epochs > 1 && sources.contains(&Source::Stdin) => {
                Err(DataError::StdinTwice)
            }
            _ => Ok(()),
        }
    }

    /// Starts epoch `epoch`, from 0, in minibatches of `minibatch_rows` (the last may be shorter) for `workers` workers.
    ///
    /// Panics when `minibatch_rows` or `workers` is 0.
    pub fn epoch(&self, epoch: u64, minibatch_rows: usize, workers: usize) -> Result<Epoch, DataError> {
        assert!(minibatch_rows > 0 && workers > 0, "an epoch needs rows in a minibatch, and workers");
        self.check_epochs(epoch + 1)?;
        let mut rng = Rng::new(self.limits.seed, epoch);
        let deal = match &self.held {
            Held::Memory(dataset) => {
                let mut order = Vec::new();
                fill_order(&mut order, dataset.len() as u32, self.limits.shuffle.then_some(&mut rng));
                Deal::Memory { dataset: Arc::clone(dataset), order: order.into() }
            }
            Held::Streamed { sources, format } => {
                let shuffle = self.limits.shuffle && !sources.contains(&Source::Stdin);
                let mut sources = sources.clone();
                if shuffle {
                    rng.shuffle(&mut sources);
                }
                let stream = Stream::open(sources, format)?;
                // Half for the pool, and up to half of that again while it is compacted.
                let pool = Pool::new(stream, self.limits.memory_bytes / 2, shuffle.then_some(rng));
                Deal::Streamed(Arc::new(Mutex::new(pool)))
            }
        };
        Ok(Epoch { deal, minibatch_rows, workers })
    }
}

/// One pass over the examples, shared by the workers.
#[derive(Clone)]
pub struct Epoch {
    deal: Deal,
    minibatch_rows: usize,
    workers: usize,
}

#[derive(Clone)]
enum Deal {
    Memory { dataset: Arc<Dataset>, order: Arc<[u32]> },
    Streamed(Arc<Mutex<Pool>>),
}

impl Epoch {
    /// The minibatches of worker `index`. Ask once for each worker. Panics when there are not so many workers.
    pub fn worker(&self, index: usize) -> Minibatches {
        assert!(index < self.workers, "worker {index} of {}", self.workers);
        Minibatches { epoch: self.clone(), next: index }
    }

    /// How far the reading is, when this epoch reads.
    pub fn progress(&self) -> Option<Progress> {
        match &self.deal {
            Deal::Memory { .. } => None,
            Deal::Streamed(pool) => {
                Some(pool.lock().unwrap_or_else(PoisonError::into_inner).stream.progress())
            }
        }
    }
}

/// The minibatches of one worker in one epoch.
pub struct Minibatches {
    epoch: Epoch,
    /// Number of the next minibatch, in memory.
    next: usize,
}

impl Minibatches {
    /// Replaces `out` by the next minibatch, reusing its memory; false at the end. After an error, the other workers'
    /// epochs end too, without one.
    pub fn next_into(&mut self, out: &mut Examples) -> Result<bool, DataError> {
        let rows = self.epoch.minibatch_rows;
        match &self.epoch.deal {
            Deal::Memory { dataset, order } => {
                let start = self.next.saturating_mul(rows).min(order.len());
                self.next += self.epoch.workers;
                dataset.gather(&order[start..order.len().min(start.saturating_add(rows))], out);
                Ok(!out.is_empty())
            }
            // A worker that panicked left the pool whole: it changes only between rows.
            Deal::Streamed(pool) => pool.lock().unwrap_or_else(PoisonError::into_inner).next_into(rows, out),
        }
    }
}

/// The shuffle buffer.
struct Pool {
    stream: Stream,
    /// Bytes to collect before dealing.
    bytes: usize,
    rng: Option<Rng>,
    held: Examples,
    /// The order of `held`; rows before `dealt` are gone, those from `release` on wait for the next filling.
    order: Vec<u32>,
    dealt: usize,
    release: usize,
    spare: Examples,
    ended: bool,
}

impl Pool {
    fn new(stream: Stream, bytes: usize, rng: Option<Rng>) -> Self {
        let (held, spare) = (Examples::default(), Examples::default());
        Self { stream, bytes, rng, held, order: Vec::new(), dealt: 0, release: 0, spare, ended: false }
    }

    fn next_into(&mut self, rows: usize, out: &mut Examples) -> Result<bool, DataError> {
        out.clear();
        while out.len() < rows {
            if self.dealt == self.release {
                self.refill().inspect_err(|_| self.close())?;
                if self.release == 0 {
                    break;
                }
            }
            let end = self.release.min(self.dealt + rows - out.len());
            for &row in &self.order[self.dealt..end] {
                out.push_from(&self.held, row as usize);
            }
            self.dealt = end;
        }
        Ok(!out.is_empty())
    }

    fn refill(&mut self) -> Result<(), DataError> {
        self.spare.clear();
        for &row in &self.order[self.dealt..] {
            self.spare.push_from(&self.held, row as usize);
        }
        std::mem::swap(&mut self.held, &mut self.spare);
        let bytes = if self.rng.is_some() { self.bytes } else { 0 };
        while !self.ended && (self.held.is_empty() || self.held.bytes() < bytes) {
            match self.stream.next() {
                None => self.ended = true,
                Some(block) => {
                    let block = block?;
                    self.held.append(&block);
                    self.stream.recycle(block);
                }
            }
        }
        let rows = self.held.len();
        let countable = u32::try_from(rows).map_err(|_| DataError::TooManyRows { rows })?;
        fill_order(&mut self.order, countable, self.rng.as_mut());
        self.dealt = 0;
        self.release = if self.ended || self.rng.is_none() { rows } else { rows.div_ceil(2) };
        Ok(())
    }

    /// After an error there is nothing more.
    fn close(&mut self) {
        self.ended = true;
        self.held.clear();
        self.order.clear();
        (self.dealt, self.release) = (0, 0);
    }
}

#[cfg(test)]
#[path = "training_tests.rs"]
mod tests;
