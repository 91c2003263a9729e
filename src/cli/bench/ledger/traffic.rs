//! Pushes in flight, until they are resolved, and the rows read back.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::book::{Book, LARGEST_RANDOM, Verdict};
use super::{EXACT, Histogram};
use crate::app::progress::Progress;
use crate::cli::bench::lists::{Named, Random};
use crate::cli::failure::Failure;
use crate::client::{Error, Pull, SparseTable, Ticket};

/// Lists that servers may remember and that come again; every other push names its keys in full.
const REMEMBERED: usize = 16;
/// Keys read back by one pull.
const READ: u64 = 10_000;

/// What is to be sent.
pub(super) struct Plan {
    pub(super) keys: u64,
    pub(super) batch: u64,
    pub(super) inflight: usize,
    /// So many, or as many as `duration` allows.
    pub(super) pushes: Option<u64>,
    pub(super) duration: Duration,
    /// How long after its first send a push without outcome counts as unknown.
    pub(super) patience: Duration,
    pub(super) trace: bool,
}

/// What came of the pushes.
pub(super) struct Sent {
    pub(super) sent: u64,
    pub(super) acked: u64,
    pub(super) keys_acked: u64,
    pub(super) seconds: f64,
    pub(super) longest_stall: Duration,
    /// First send to acknowledgement, in nanoseconds.
    pub(super) times: Histogram,
    /// The same for each push, when asked for.
    pub(super) trace: Vec<(Instant, Option<Instant>)>,
    /// What ended the sending early.
    pub(super) error: Option<Error>,
}

impl Sent {
    fn nothing() -> Self {
        Self {
            sent: 0,
            acked: 0,
            keys_acked: 0,
            seconds: 0.0,
            longest_stall: Duration::ZERO,
            times: Histogram::new(),
            trace: Vec::new(),
            error: None,
        }
    }
}

struct Open {
    ticket: Ticket,
    push: u64,
    list: Named,
    random: u64,
    first_send: Instant,
}

/// The ledger's client.
pub(super) struct Traffic<'a> {
    plan: &'a Plan,
    book: Book,
    /// The keys of each partition.
    groups: Vec<Vec<u64>>,
    remembered: Vec<Named>,
    random: Random,
}

impl<'a> Traffic<'a> {
    /// Divides the key space over the table's partitions.
    ///
    /// # Errors
    /// A batch or a key space that cannot cover every partition.
    pub(super) fn new(table: &SparseTable, plan: &'a Plan) -> Result<Self, Failure> {
        let partitions = u64::from(table.schema().partitions);
        if plan.batch < partitions {
            return Err(Failure::usage(format!(
                "--batch {} keys do not cover the cluster's {partitions} partitions; give at least as many",
                plan.batch
            )));
        }
        let mut groups = vec![Vec::new(); partitions as usize];
        for key in 0..plan.keys {
            groups[table.schema().partition_of(key).0 as usize].push(key);
        }
        if groups.iter().any(Vec::is_empty) {
            return Err(Failure::usage(format!(
                "none of --keys {} keys falls into one of the cluster's {partitions} partitions; give more",
                plan.keys
            )));
        }
        let mut traffic = Self {
            plan,
            book: Book::new(plan.keys),
            groups,
            remembered: Vec::new(),
            random: Random::new(11),
        };
        for _ in 0..REMEMBERED {
            let list = Named::new(traffic.draw(), true)?;
            traffic.remembered.push(list);
        }
        Ok(traffic)
    }

    /// About `batch` keys, some of every partition: a run of each one's, from a random place on.
    fn draw(&mut self) -> Vec<u64> {
        let (share, more) =
            (self.plan.batch as usize / self.groups.len(), self.plan.batch as usize % self.groups.len());
        let mut keys = Vec::with_capacity(self.plan.batch as usize);
        for (at, group) in self.groups.iter().enumerate() {
            let start = self.random.below(group.len() as u64) as usize;
            let count = (share + usize::from(at < more)).min(group.len());
            keys.extend(group.iter().cycle().skip(start).take(count));
        }
        keys.sort_unstable();
        keys
    }

    /// Pushes until the plan is fulfilled and everything is resolved, or nothing can be any more.
    pub(super) fn send(&mut self, table: &SparseTable, progress: &Progress) -> Sent {
        let mut sent = Sent::nothing();
        let began = Instant::now();
        let mut open: VecDeque<Open> = VecDeque::with_capacity(self.plan.inflight);
        while self.wants_more(sent.sent, began) && sent.error.is_none() {
            match self.push(table, sent.sent) {
                Ok(pushed) => {
                    if self.plan.trace {
                        sent.trace.push((pushed.first_send, None));
                    }
                    sent.sent += 1;
                    open.push_back(pushed);
                    progress.add(1);
                }
                Err(error) => sent.error = Some(error),
            }
            if open.len() >= self.plan.inflight
                && let Some(oldest) = open.pop_front()
            {
                self.resolve(oldest, &mut sent);
            }
        }
        sent.seconds = began.elapsed().as_secs_f64();
        for late in open {
            self.resolve(late, &mut sent);
        }
        sent
    }

    fn wants_more(&self, sent: u64, began: Instant) -> bool {
        match self.plan.pushes {
            Some(pushes) => sent < pushes,
            None => began.elapsed() < self.plan.duration && self.book.largest() + LARGEST_RANDOM <= EXACT,
        }
    }

    fn push(&mut self, table: &SparseTable, push: u64) -> Result<Open, Error> {
        let random = self.random.below(LARGEST_RANDOM + 1);
        let list = match push as usize % (2 * REMEMBERED) {
            turn if turn.is_multiple_of(2) => self.remembered[turn / 2].clone(),
            _ => Named::Slice(self.draw()),
        };
        let rows: Vec<f32> = std::iter::repeat_n([1.0, random as f32], list.keys().len()).flatten().collect();
        let first_send = Instant::now();
        let ticket = match &list {
            Named::Slice(keys) => table.push(keys, &rows)?,
            Named::List(keys) => table.push(keys, &rows)?,
        };
        self.book.sent(list.keys(), random);
        Ok(Open { ticket, push, list, random, first_send })
    }

    /// Waits for an outcome, beyond the cluster's deadline if need be. Those in flight lose patience together.
    fn resolve(&mut self, open: Open, sent: &mut Sent) {
        let patience = self.plan.patience.saturating_sub(open.first_send.elapsed());
        match open.ticket.wait_for(patience) {
            Ok(()) => {
                let now = Instant::now();
                let took = now - open.first_send;
                let keys = open.list.keys();
                self.book.acked(keys, open.random);
                sent.acked += 1;
                sent.keys_acked += keys.len() as u64;
                sent.longest_stall = sent.longest_stall.max(took);
                sent.times.record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
                if let Some((_, acked)) = sent.trace.get_mut(open.push as usize) {
                    *acked = Some(now);
                }
            }
            // Unknown: sent and not acknowledged.
            Err(error) => {
                sent.error.get_or_insert(error);
            }
        }
    }

    /// Reads every key where acknowledged pushes must be, and compares.
    pub(super) fn read_back(&self, table: &SparseTable, progress: &Progress) -> Result<Verdict, Failure> {
        let mut verdict = Verdict::default();
        for first in (0..self.plan.keys).step_by(READ as usize) {
            let keys: Vec<u64> = (first..self.plan.keys.min(first + READ)).collect();
            let strong = Pull { strong: true, deadline: Some(self.plan.patience), ..Pull::default() };
            let rows = table.pull_with(&keys, strong)?.wait()?;
            for (key, row) in keys.iter().zip(rows.chunks_exact(2)) {
                let partition = table.schema().partition_of(*key);
                self.book.judge(*key, partition, [row[0], row[1]], &mut verdict);
            }
            progress.add(keys.len() as u64);
        }
        Ok(verdict)
    }
}
