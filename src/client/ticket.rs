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
///
/// # Example
/// ```
/// # use gradwire::{Ack, Add, Cluster, ClusterConfig, Push};
/// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
/// # let w = session.sparse("w", 1, Add)?;
/// w.push_with(&[1], &[1.0], Push { ack: Ack::Applied, ..Push::default() })?.wait()?; // soonest
/// session.flush()?; // and now replicated too
/// # Ok::<(), gradwire::Error>(())
/// ```
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
///
/// # Example
/// ```
/// # use gradwire::{Add, Cluster, ClusterConfig};
/// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
/// # let w = session.sparse("w", 1, Add)?;
/// let tickets: Vec<_> = (0..10).map(|key| w.push(&[key], &[1.0])).collect::<Result<_, _>>()?;
/// tickets.iter().try_for_each(|ticket| ticket.wait())?;
/// assert!(tickets.iter().all(|ticket| ticket.done()));
/// # Ok::<(), gradwire::Error>(())
/// ```
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
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Add, Cluster, ClusterConfig};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// # let w = session.sparse("w", 1, Add)?;
    /// w.push(&[1], &[1.0])?.wait()?;
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn wait(&self) -> Result<(), Error> {
        self.wait_for(self.shared.deadline())
    }

    /// As [`Ticket::wait`], for at most `patience`.
    ///
    /// # Errors
    /// As [`Ticket::wait`].
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Add, Cluster, ClusterConfig};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// # let w = session.sparse("w", 1, Add)?;
    /// w.push(&[1], &[1.0])?.wait_for(std::time::Duration::from_secs(5))?;
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn wait_for(&self, patience: Duration) -> Result<(), Error> {
        self.shared.wait_push(self.push, patience)
    }

    /// Whether [`Ticket::wait`] would return at once.
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Add, Cluster, ClusterConfig};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// # let w = session.sparse("w", 1, Add)?;
    /// let ticket = w.push(&[1], &[1.0])?;
    /// while !ticket.done() {
    ///     std::thread::yield_now(); // compute something
    /// }
    /// # Ok::<(), gradwire::Error>(())
    /// ```
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

/// A pull under way. Dropping it is fine: its rows are thrown away when they come.
///
/// # Example
/// ```
/// # use gradwire::{Add, Cluster, ClusterConfig};
/// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
/// # let w = session.sparse("w", 1, Add)?;
/// let next = w.pull(&[4, 5])?; // asked for while this batch is worked on
/// let rows = next.wait()?;
/// assert_eq!(rows.len(), 2);
/// # Ok::<(), gradwire::Error>(())
/// ```
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
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Add, Cluster, ClusterConfig};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// # let w = session.sparse("w", 1, Add)?;
    /// assert_eq!(&w.pull(&[1, 2])?.wait()?[..], [0.0, 0.0]);
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn wait(self) -> Result<Rows, Error> {
        let patience = self.patience;
        self.wait_for(patience)
    }

    /// As [`PullTicket::wait`], for at most `patience`.
    ///
    /// # Errors
    /// As [`PullTicket::wait`].
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Add, Cluster, ClusterConfig};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// # let w = session.sparse("w", 1, Add)?;
    /// w.pull(&[1])?.wait_for(std::time::Duration::from_secs(5))?;
    /// # Ok::<(), gradwire::Error>(())
    /// ```
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
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Add, Cluster, ClusterConfig};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// # let w = session.sparse("w", 1, Add)?;
    /// let pull = w.pull(&[1])?;
    /// while !pull.ready() {
    ///     std::thread::yield_now(); // compute something
    /// }
    /// # Ok::<(), gradwire::Error>(())
    /// ```
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
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Add, Cluster, ClusterConfig};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// # let w = session.sparse("w", 1, Add)?;
    /// w.push(&[2], &[0.0])?;
    /// let rows = w.pull(&[1, 2])?.wait()?;
    /// assert!(!rows.found(0) && rows.found(1));
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    #[must_use]
    pub fn found(&self, index: usize) -> bool {
        self.missing.get(index / 64).is_none_or(|word| word >> (index % 64) & 1 == 0)
    }

    /// Lowest clock of the live workers that the rows reflect; none when no worker is live.
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Add, Cluster, ClusterConfig};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// # let w = session.sparse("w", 1, Add)?;
    /// session.clock()?;
    /// assert_eq!(w.pull(&[1])?.wait()?.clock().map(|clock| clock.0), Some(1));
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    #[must_use]
    pub fn clock(&self) -> Option<Clock> {
        self.clock
    }

    /// How many clocks the slowest worker in these rows is behind this session.
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Add, Cluster, ClusterConfig};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// # let w = session.sparse("w", 1, Add)?;
    /// assert_eq!(w.pull(&[1])?.wait()?.staleness(), Some(0)); // alone, nobody is late
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    #[must_use]
    pub fn staleness(&self) -> Option<u64> {
        self.clock.map(|clock| self.asked_at.0.saturating_sub(clock.0))
    }

    /// The values alone, their memory with them.
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Add, Cluster, ClusterConfig};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// # let w = session.sparse("w", 1, Add)?;
    /// let values: Vec<f32> = w.pull(&[1, 2])?.wait()?.into_values();
    /// assert_eq!(values, [0.0, 0.0]);
    /// # Ok::<(), gradwire::Error>(())
    /// ```
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

impl AsRef<[f32]> for Rows {
    fn as_ref(&self) -> &[f32] {
        self
    }
}
