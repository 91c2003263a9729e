//! The client thread: requests in flight for a while, their rates and times.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::lists::{KeyLists, Named};
use super::{Histogram, Measured, SLICES};
use crate::app::progress::Progress;
use crate::cli::failure::Failure;
use crate::client::{Error, Pull, PullTicket, SparseTable, Ticket};

/// Rows made by one request before timing starts.
pub(super) const MAKE_ROWS: u64 = 10_000;

/// One client, its lists and its requests in flight.
pub(super) struct Client<'a> {
    table: &'a SparseTable,
    lists: KeyLists,
    inflight: usize,
    fresh: bool,
    /// Gradient of every push. Small, so that no row of any optimizer leaves the range of floats.
    gradient: Vec<f32>,
    dim: usize,
}

impl<'a> Client<'a> {
    pub(super) fn new(table: &'a SparseTable, lists: KeyLists, inflight: usize, fresh: bool) -> Self {
        let dim = table.schema().dim as usize;
        let gradient = vec![1e-3; lists.batch() * dim];
        Self { table, lists, inflight, fresh, gradient, dim }
    }

    /// Makes the rows that the run touches: of every list, or of the whole key space for fresh lists.
    pub(super) fn make_rows(&mut self, key_space: u64, progress: &Progress) -> Result<(), Failure> {
        if !self.fresh {
            progress.begin("making rows", "lists", Some(self.lists.all().len() as u64));
            for list in self.lists.all() {
                self.push_once(list)?.wait()?;
                // Servers remember a list that is pulled apart from one that is pushed.
                self.pull_once(list, Vec::new())?.wait()?;
                progress.add(1);
            }
            return Ok(());
        }
        progress.begin("making rows", "rows", Some(key_space));
        let mut under_way: VecDeque<Ticket> = VecDeque::new();
        for first in (0..key_space).step_by(MAKE_ROWS as usize) {
            let keys: Vec<u64> = (first..key_space.min(first + MAKE_ROWS)).collect();
            let zeros = vec![0.0; keys.len() * self.dim];
            under_way.push_back(self.table.push(&keys, &zeros)?);
            if under_way.len() > self.inflight
                && let Some(oldest) = under_way.pop_front()
            {
                oldest.wait()?;
            }
            progress.add(keys.len() as u64);
        }
        Ok(under_way.iter().try_for_each(Ticket::wait)?)
    }

    /// Pushes for a while.
    pub(super) fn push(&mut self, duration: Duration, progress: &Progress) -> Result<Measured, Failure> {
        self.run(duration, progress, (), |client, list, ()| client.push_once(list), |ticket| ticket.wait())
    }

    /// Pulls for a while, into memory that is used again.
    pub(super) fn pull(&mut self, duration: Duration, progress: &Progress) -> Result<Measured, Failure> {
        self.run(
            duration,
            progress,
            Vec::new(),
            |client, list, buffer| client.pull_once(list, buffer),
            |ticket| Ok(ticket.wait()?.into_values()),
        )
    }

    /// Keeps requests in flight until `duration` is over; a request's memory `B` goes from its answer to the next one.
    fn run<T, B: Clone>(
        &mut self,
        duration: Duration,
        progress: &Progress,
        first_memory: B,
        send: impl Fn(&Self, &Named, B) -> Result<T, Error>,
        answer: impl Fn(T) -> Result<B, Error>,
    ) -> Result<Measured, Failure> {
        let mut measured = Measured { rates: Vec::new(), times: Histogram::new() };
        let mut under_way: VecDeque<(T, Instant)> = VecDeque::with_capacity(self.inflight);
        let mut spare = vec![first_memory.clone(); self.inflight];
        let slice = duration / SLICES;
        let began = Instant::now();
        let (mut slice_began, mut slice_keys, mut turn) = (began, 0_u64, 0_usize);
        loop {
            let memory = spare.pop().unwrap_or_else(|| first_memory.clone());
            let sent = Instant::now();
            let ticket = if self.fresh {
                let list = self.lists.fresh()?;
                send(self, &list, memory)?
            } else {
                let lists = self.lists.all();
                let ticket = send(self, &lists[turn], memory)?;
                turn = if turn + 1 == lists.len() { 0 } else { turn + 1 };
                ticket
            };
            under_way.push_back((ticket, sent));
            if under_way.len() < self.inflight {
                continue;
            }
            let Some((oldest, sent)) = under_way.pop_front() else { continue };
            spare.push(answer(oldest)?);
            let now = Instant::now();
            measured.times.record(u64::try_from((now - sent).as_nanos()).unwrap_or(u64::MAX));
            slice_keys += self.lists.batch() as u64;
            let in_slice = now - slice_began;
            if in_slice >= slice {
                measured.rates.push(slice_keys as f64 / in_slice.as_secs_f64());
                progress.add(slice_keys);
                (slice_began, slice_keys) = (now, 0);
                if now - began >= duration {
                    break;
                }
            }
        }
        // Answers that come after the end are not counted, only waited for.
        under_way.into_iter().try_for_each(|(ticket, _)| answer(ticket).map(drop))?;
        Ok(measured)
    }

    fn push_once(&self, list: &Named) -> Result<Ticket, Error> {
        match list {
            Named::Slice(keys) => self.table.push(keys, &self.gradient),
            Named::List(keys) => self.table.push(keys, &self.gradient),
        }
    }

    fn pull_once(&self, list: &Named, buffer: Vec<f32>) -> Result<PullTicket, Error> {
        let pull = Pull { buffer, ..Pull::default() };
        match list {
            Named::Slice(keys) => self.table.pull_with(keys, pull),
            Named::List(keys) => self.table.pull_with(keys, pull),
        }
    }
}
