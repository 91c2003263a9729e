//! What a push or a pull leaves in the caller's hand.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use super::error::Error;
use super::pull_path::PullState;
use super::session::Shared;
use super::slots::SlotId;
use crate::wire::ids::Clock;

/// When a push's ticket is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ack {
    /// When the head has applied it. The loss window: should the head die before its successors have it, the client
    /// sends it again, so only the death of both loses it.
    Applied,
    /// When every replica has it: it survives while one of them does.
    #[default]
    Replicated,
}

/// How to push; `Push::default()` waits for nothing and is acknowledged when replicated.
///
/// # Example
/// ```
/// # use gradwire::{Ack, Add, Cluster, ClusterConfig, Push};
/// # let cluster = Cluster::embedded(ClusterConfig::default())?;
/// # let session = cluster.session()?;
/// # let counts = session.sparse("counts", 1, Add)?;
/// let first = counts.push(&[1, 2], &[1.0, 1.0])?;
/// let second = counts.push_with(&[2], &[5.0], Push { after: &[&first], ack: Ack::Applied, ..Push::default() })?;
/// second.wait()?;
/// # Ok::<(), gradwire::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Push<'a> {
    /// Pushes that must be acknowledged before this one is sent.
    pub after: &'a [&'a Ticket],
    /// When the ticket is done.
    pub ack: Ack,
    /// How long to wait for room in the window and for `after`; the cluster's deadline when absent.
    pub deadline: Option<Duration>,
}

/// How to pull; `Pull::default()` asks any replica and waits for no clock.
///
/// # Example
/// ```
/// # use gradwire::{Add, Cluster, ClusterConfig, Pull};
/// # let cluster = Cluster::embedded(ClusterConfig::default())?;
/// # let session = cluster.session()?;
/// # let counts = session.sparse("counts", 1, Add)?;
/// let buffer = Vec::with_capacity(2);
/// let rows = counts.pull_with(&[1, 2], Pull { strong: true, buffer, ..Pull::default() })?.wait()?;
/// assert_eq!(&rows[..], [0.0, 0.0]);
/// # Ok::<(), gradwire::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Pull {
    /// Only the tail of the chain may answer: linearizable.
    pub strong: bool,
    /// Wait until every live worker's clock is at least this; the session's staleness bound when absent.
    pub at_least: Option<Clock>,
    /// Memory for the rows, used again.
    pub buffer: Vec<f32>,
    /// How long the servers may wait for `at_least`, and [`PullTicket::wait`] for the rows.
    pub deadline: Option<Duration>,
}

/// A push under way. Dropping it is fine: the push goes on, and a refusal comes out of the session's next `flush`,
/// `clock` or `push`.
#[derive(Debug)]
pub struct Ticket {
    pub(super) shared: Arc<Shared>,
    pub(super) push: SlotId,
}

impl Ticket {
    /// Waits until the push is acknowledged at the level it asked for.
    ///
    /// # Errors
    /// [`Error::Refused`] when a server refused it for good; [`Error::Deadline`] when the wait ended first: the push
    /// goes on, its outcome is unknown, and waiting again is possible.
    pub fn wait(&self) -> Result<(), Error> {
        self.wait_for(self.shared.deadline())
    }

    /// As [`Ticket::wait`], for at most `patience`.
    ///
    /// # Errors
    /// As [`Ticket::wait`].
    pub fn wait_for(&self, patience: Duration) -> Result<(), Error> {
        self.shared.wait_push(self.push, patience)
    }

    /// Whether [`Ticket::wait`] would return at once.
    #[must_use]
    pub fn done(&self) -> bool {
        self.shared.push_done(self.push)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.shared.release_push(self.push);
    }
}

/// A pull under way.
#[derive(Debug)]
pub struct PullTicket {
    pub(super) shared: Arc<Shared>,
    pub(super) pull: Option<SlotId>,
    pub(super) patience: Duration,
}

impl PullTicket {
    /// Waits for the rows.
    ///
    /// # Errors
    /// [`Error::Pull`] when a server could not answer, [`Error::Deadline`] when none did in time.
    pub fn wait(self) -> Result<Rows, Error> {
        let patience = self.patience;
        self.wait_for(patience)
    }

    /// As [`PullTicket::wait`], for at most `patience`.
    ///
    /// # Errors
    /// As [`PullTicket::wait`].
    pub fn wait_for(mut self, patience: Duration) -> Result<Rows, Error> {
        match self.pull {
            Some(pull) => {
                let rows = self.shared.wait_pull(pull, patience)?;
                self.pull = None;
                Ok(rows)
            }
            None => Ok(Rows::empty()),
        }
    }

    /// Whether [`PullTicket::wait`] would return at once.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.pull.is_none_or(|pull| self.shared.pull_ready(pull))
    }
}

impl Drop for PullTicket {
    fn drop(&mut self) {
        if let Some(pull) = self.pull {
            self.shared.release_pull(pull);
        }
    }
}

/// Rows that a pull brought: `[keys, dim]` values, row after row.
///
/// # Example
/// ```
/// # use gradwire::{Add, Cluster, ClusterConfig};
/// # let cluster = Cluster::embedded(ClusterConfig::default())?;
/// # let session = cluster.session()?;
/// # let counts = session.sparse("counts", 1, Add)?;
/// counts.push(&[7], &[3.0])?.wait()?;
/// let rows = counts.pull(&[6, 7])?.wait()?;
/// assert_eq!(&rows[..], [0.0, 3.0]);
/// assert!(!rows.found(0) && rows.found(1));
/// # Ok::<(), gradwire::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Rows {
    values: Vec<f32>,
    missing: Vec<u64>,
    clock: Option<Clock>,
    asked_at: Clock,
}

impl Rows {
    fn empty() -> Self {
        Self { values: Vec::new(), missing: Vec::new(), clock: None, asked_at: Clock(0) }
    }

    pub(super) fn new(state: PullState) -> Self {
        Self {
            values: state.rows,
            missing: state.missing,
            clock: (state.clock != u64::MAX).then_some(Clock(state.clock)),
            asked_at: state.asked_at,
        }
    }

    /// Whether the key at `index` has a row; where it has none the values are those a new row would start with.
    #[must_use]
    pub fn found(&self, index: usize) -> bool {
        self.missing.get(index / 64).is_none_or(|word| word >> (index % 64) & 1 == 0)
    }

    /// Lowest clock of the live workers that the rows reflect; none before any worker's first clock.
    #[must_use]
    pub fn clock(&self) -> Option<Clock> {
        self.clock
    }

    /// How many clocks the slowest worker in these rows is behind this session.
    #[must_use]
    pub fn staleness(&self) -> Option<u64> {
        self.clock.map(|clock| self.asked_at.0.saturating_sub(clock.0))
    }

    /// The values alone, their memory with them.
    #[must_use]
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }
}

impl Deref for Rows {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values
    }
}
