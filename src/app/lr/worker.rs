//! One worker of logistic regression: minibatches in flight over a session of its own.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{LrConfig, LrError, Tally};
use crate::app::metrics::logistic;
use crate::app::progress::Progress;
use crate::client::{Clock, KeyList, Pull, PullTicket, Session, SparseTable};
use crate::data::{DataError, Examples, Minibatches};
use crate::linalg::{Localized, Localizer};

/// How far the furthest worker is, in minibatches asked for.
///
/// A pass deals unequal numbers of minibatches, and a staleness bound counts clocks: a worker that has no more
/// minibatches ticks on to the furthest, or others would wait for it in vain. Each worker announces a minibatch before
/// it asks for one; the lock that deals them orders that before any later worker sees the end. A worker whose data is
/// in memory deals to itself, where the numbers differ by one at most, which the announcement covers, since all start
/// a pass on one clock.
#[derive(Debug, Default)]
pub(super) struct Pace {
    furthest: AtomicU64,
}

impl Pace {
    /// The furthest clock that was announced. Between passes, when no worker runs: where the next one starts.
    pub(super) fn furthest(&self) -> u64 {
        self.furthest.load(Ordering::Relaxed)
    }
}

/// A worker and the memory that it uses again for each minibatch.
pub(super) struct Worker<'a> {
    config: &'a LrConfig,
    pace: &'a Pace,
    session: Session,
    table: SparseTable,
    localizer: Localizer,
    /// Minibatches whose weights were asked for, oldest first.
    flights: VecDeque<Flight>,
    /// Memory of flights that have landed.
    landed: Vec<Minibatch>,
    margins: Vec<f32>,
    gradient: Vec<f32>,
    /// Minibatches asked for since the worker began.
    launched: u64,
    /// Its clock: those pushed, and those skipped to keep up.
    ticked: u64,
}

/// Memory of one minibatch.
#[derive(Default)]
struct Minibatch {
    examples: Examples,
    batch: Localized,
    weights: Vec<f32>,
}

struct Flight {
    memory: Minibatch,
    keys: KeyList,
    pull: PullTicket,
}

impl<'a> Worker<'a> {
    pub(super) fn new(config: &'a LrConfig, pace: &'a Pace, session: Session, table: SparseTable) -> Self {
        Self {
            config,
            pace,
            session,
            table,
            localizer: Localizer::new(),
            flights: VecDeque::new(),
            landed: Vec::new(),
            margins: Vec::new(),
            gradient: Vec::new(),
            launched: 0,
            ticked: 0,
        }
    }

    /// Learns from every minibatch of one pass and returns its progressive loss, when every push is replicated. Ends
    /// early when `stop` is raised.
    ///
    /// The order of pulls and pushes depends on nothing but the data: `in_flight` pulls, then push and pull in turn.
    /// Lanes keep that order, so one worker alone computes the same bits in every run.
    pub(super) fn pass(
        &mut self,
        start: u64,
        mut minibatches: Minibatches,
        progress: &Progress,
        stop: &AtomicBool,
    ) -> Result<Tally, LrError> {
        // Workers start a pass on one clock, however late their threads begin: the furthest of the last pass.
        self.keep_up(start)?;
        self.launched = start;
        let tally = self.learn(|examples| minibatches.next_into(examples), progress, stop)?;
        self.keep_up(self.pace.furthest())?;
        self.session.flush()?;
        Ok(tally)
    }

    /// Learns from one block of a job and returns its progressive loss, when every push is replicated.
    ///
    /// A worker between blocks has no minibatch in flight, and ends its session when it has to wait for one: nobody
    /// waits for its clock. A session that begins takes the lowest clock of the live ones, so clocks go on from there.
    pub(super) fn block(
        &mut self,
        next: impl FnMut(&mut Examples) -> Result<bool, DataError>,
        progress: &Progress,
        stop: &AtomicBool,
    ) -> Result<Tally, LrError> {
        if self.ticked == 0 {
            // A tick tells the clock that the session joined at.
            self.tick()?;
            self.launched = self.ticked;
        }
        let tally = self.learn(next, progress, stop)?;
        self.session.flush()?;
        Ok(tally)
    }

    /// Learns from what `next` gives, until it gives no more or `stop` is raised. Nothing is in flight afterwards.
    fn learn(
        &mut self,
        mut next: impl FnMut(&mut Examples) -> Result<bool, DataError>,
        progress: &Progress,
        stop: &AtomicBool,
    ) -> Result<Tally, LrError> {
        let mut tally = Tally::default();
        while !stop.load(Ordering::Relaxed) {
            // Relaxed: whoever must see it is behind the lock that deals minibatches, or reads it a pass later.
            self.pace.furthest.fetch_max(self.launched + 1, Ordering::Relaxed);
            let mut memory = self.landed.pop().unwrap_or_default();
            if !next(&mut memory.examples)? {
                self.landed.push(memory);
                break;
            }
            self.launch(memory)?;
            if self.flights.len() == self.config.effective_in_flight() {
                self.land(&mut tally, progress)?;
            }
        }
        while !self.flights.is_empty() {
            self.land(&mut tally, progress)?;
        }
        Ok(tally)
    }

    /// Ticks to `clock`, so that nobody waits in vain for a worker without work.
    fn keep_up(&mut self, clock: u64) -> Result<(), LrError> {
        while self.ticked < clock {
            self.tick()?;
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), LrError> {
        self.ticked = self.session.clock()?.0;
        Ok(())
    }

    /// Asks for the weights of a minibatch.
    fn launch(&mut self, mut memory: Minibatch) -> Result<(), LrError> {
        self.localizer.localize_into(&memory.examples.rows, &mut memory.batch);
        let keys = KeyList::new(memory.batch.keys.as_slice())?;
        // SSP: the weights of minibatch m hold every update up to clock m - s of every live worker.
        let at_least = self.config.staleness.and_then(|s| self.launched.checked_sub(s)).map(Clock);
        let buffer = std::mem::take(&mut memory.weights);
        let pull = self.table.pull_with(&keys, Pull { at_least, buffer, ..Pull::default() })?;
        self.launched += 1;
        self.flights.push_back(Flight { memory, keys, pull });
        Ok(())
    }

    /// Takes the oldest minibatch's weights, learns from it and pushes its gradient.
    fn land(&mut self, tally: &mut Tally, progress: &Progress) -> Result<(), LrError> {
        let Some(Flight { mut memory, keys, pull }) = self.flights.pop_front() else { return Ok(()) };
        let weights = pull.wait()?.into_values();
        let labels = &memory.examples.labels;
        let rows = labels.len();
        self.margins.resize(rows, 0.0);
        memory.batch.x.times_into(&weights, &mut self.margins);

        let scale = self.config.solver.slope_scale(rows);
        let mut loss = 0.0;
        for (margin, label) in self.margins.iter_mut().zip(labels) {
            let example = logistic(*margin, *label);
            loss += example.loss;
            *margin = example.slope * scale;
        }
        if !loss.is_finite() {
            return Err(LrError::Diverged { solver: self.config.solver.name() });
        }

        self.gradient.resize(keys.len(), 0.0);
        memory.batch.x.trans_times_into(&self.margins, &mut self.gradient);
        let l2 = self.config.solver.lazy_l2();
        if l2 > 0.0 {
            for (slope, weight) in self.gradient.iter_mut().zip(&weights) {
                *slope += l2 * weight;
            }
        }
        // The ticket is dropped: a refusal comes out of the next clock or of the flush at the end.
        self.table.push(&keys, &self.gradient)?;
        self.tick()?;

        tally.examples += rows as u64;
        tally.loss += loss;
        progress.add(rows as u64);
        progress.note_loss(loss / rows as f64);
        memory.weights = weights;
        self.landed.push(memory);
        Ok(())
    }
}
