//! A session: one worker's place in the cluster, and the waits of all its handles.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gradwire_kernels::Rule;

use super::cluster::ClusterConfig;
use super::engine::{Engine, Limits};
use super::error::Error;
use super::plan::KeyPlan;
use super::push_path::PushRequest;
use super::slots::SlotId;
use super::table::{DenseTable, SparseTable, TableOptions};
use super::ticket::{Rows, Ticket};
use crate::control::ControlPlane;
use crate::lane::{Fabric, Port, Waker, YIELD_AFTER};
use crate::store::{TableKind, TableSchema};
use crate::wire::ids::{Clock, SessionId};

/// Longest sleep between two looks at the lanes: bounds how late a due resend can be.
const MAX_SLEEP: Duration = Duration::from_millis(100);
/// Most unresolved pushes a partition.
const MAX_WINDOW: usize = 256;
/// Longest a wait may be asked to last, so that it can be added to any instant.
pub(super) const MAX_DEADLINE: Duration = Duration::from_secs(24 * 3600);
/// Bytes of values that unresolved pushes may keep.
const WINDOW_BYTES: usize = 64 << 20;
/// Polls of a wait between two looks at the clock. Sockets are paced by their port.
const POLLS_A_LOOK: u32 = 16;

/// How long a call waits for a server's first lane: far longer than one takes to open, once a server.
const FIRST_LANE: Duration = Duration::from_millis(50);

/// The engine and what its handles need without it.
pub(super) struct Shared {
    engine: Mutex<Engine<Port>>,
    /// Threads that want the engine while another waits in it.
    callers: AtomicUsize,
    waker: Waker,
    limits: Limits,
    id: SessionId,
    control: Arc<dyn ControlPlane>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Shared {
    fn open(control: Arc<dyn ControlPlane>, config: &ClusterConfig) -> Result<Self, Error> {
        let limits = Limits {
            deadline: config.deadline.min(MAX_DEADLINE),
            // An outcome names at most 256 refusals; more pushes than that never wait for one.
            window: config.window.clamp(1, MAX_WINDOW),
            window_bytes: WINDOW_BYTES,
            ring_bytes: config.ring_bytes,
            spin: config.spin,
        };
        let port = Port::new()?;
        let waker = port.waker();
        let (id, clock) = control.begin_session()?;
        control.watch_map(id, waker.clone());
        let engine = Mutex::new(Engine::new((id, clock), Arc::clone(&control), port, limits));
        Ok(Self { engine, callers: AtomicUsize::new(0), waker, limits, id, control })
    }

    pub(super) fn deadline(&self) -> Duration {
        self.limits.deadline
    }

    pub(super) fn control(&self) -> &Arc<dyn ControlPlane> {
        &self.control
    }

    /// The engine, for a moment. A panic elsewhere leaves it consistent: it only ever fails between turns.
    pub(super) fn engine(&self) -> MutexGuard<'_, Engine<Port>> {
        if let Ok(engine) = self.engine.try_lock() {
            return engine;
        }
        // Relaxed: the count only hints; the lock orders everything.
        self.callers.fetch_add(1, Ordering::Relaxed);
        self.waker.wake();
        let engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        self.callers.fetch_sub(1, Ordering::Relaxed);
        engine
    }

    /// Turns the engine until `ready` gives something, at most for `patience`.
    pub(super) fn wait<T>(
        &self,
        what: &'static str,
        patience: Duration,
        mut ready: impl FnMut(&mut Engine<Port>) -> Option<Result<T, Error>>,
    ) -> Result<T, Error> {
        let mut engine = self.engine();
        if let Some(result) = ready(&mut engine) {
            return result;
        }
        let start = Instant::now();
        let mut polls = 0_u32;
        let mut changed = true;
        loop {
            // What is waited for comes by a turn that does something, or by other callers while they hold the engine.
            if engine.turn() || changed {
                changed = false;
                if let Some(result) = ready(&mut engine) {
                    return result;
                }
                engine.check_alive()?;
            }
            polls = polls.wrapping_add(1);
            let spins = !self.limits.spin.is_zero() && self.callers.load(Ordering::Relaxed) == 0;
            if spins && !polls.is_multiple_of(POLLS_A_LOOK) {
                std::hint::spin_loop();
                continue;
            }
            let now = Instant::now();
            engine.resend_overdue(now);
            let waited = now - start;
            if waited >= patience {
                return Err(Error::Deadline { what, after: patience, cause: engine.cause() });
            }
            if self.callers.load(Ordering::Relaxed) > 0 {
                drop(engine);
                std::thread::yield_now();
                engine = self.engine();
                changed = true;
                continue;
            }
            if waited < self.limits.spin {
                if waited > YIELD_AFTER {
                    std::thread::yield_now();
                }
                continue;
            }
            let due = engine.next_due().map_or(MAX_SLEEP, |due| due.saturating_duration_since(now));
            let sleep = due.min(patience - waited).min(MAX_SLEEP);
            engine.fabric.wait(sleep);
        }
    }

    /// Lets first lanes open, so that what was queued leaves with the call that queued it, whatever the caller does next.
    pub(super) fn settle(&self, engine: MutexGuard<'_, Engine<Port>>) {
        if !engine.dialer.opens_first() {
            return;
        }
        drop(engine);
        let open = |engine: &mut Engine<Port>| (!engine.dialer.opens_first()).then_some(Ok(()));
        if self.wait("a lane", FIRST_LANE, open).is_err() {
            self.engine().dialer.forget_first();
        }
    }

    pub(super) fn push_done(&self, push: SlotId) -> bool {
        let mut engine = self.engine();
        engine.turn();
        engine.pushes.get(push).is_none_or(|state| state.done())
    }

    pub(super) fn wait_push(&self, push: SlotId, patience: Duration) -> Result<(), Error> {
        self.wait("a push", patience, |engine| {
            let state = engine.pushes.get_mut(push)?;
            if !state.done() {
                return None;
            }
            state.told = true;
            Some(match state.refused {
                None => Ok(()),
                Some((partition, code)) => {
                    Err(Error::Refused { table: state.table.name.clone(), partition, code })
                }
            })
        })
    }

    /// The ticket is gone. A refusal that it was not asked for is kept for the session's next call.
    pub(super) fn release_push(&self, push: SlotId) {
        self.engine().release_push(push);
    }

    pub(super) fn pull_ready(&self, pull: SlotId) -> bool {
        let mut engine = self.engine();
        engine.turn();
        engine.pulls.get(pull).is_none_or(|state| state.done())
    }

    pub(super) fn wait_pull(&self, pull: SlotId, patience: Duration) -> Result<Rows, Error> {
        self.wait("a pull", patience, |engine| {
            if !engine.pulls.get(pull)?.done() {
                return None;
            }
            let state = engine.take_pull(pull)?;
            Some(match state.failed {
                None => Ok(Rows::new(state)),
                Some((partition, status)) => {
                    Err(Error::Pull { table: state.schema.name.clone(), partition, status })
                }
            })
        })
    }

    pub(super) fn release_pull(&self, pull: SlotId) {
        self.engine().release_pull(pull);
    }

    /// Waits for room in the window, then starts the push.
    pub(super) fn push(
        self: &Arc<Self>,
        request: &PushRequest<'_>,
        patience: Duration,
    ) -> Result<Ticket, Error> {
        self.raise_unclaimed()?;
        self.wait("room in the window of pushes", patience, |engine| {
            engine.has_room(&request.plan).then_some(Ok(()))
        })?;
        let mut engine = self.engine();
        engine.check_alive()?;
        let push = engine.start_push(request);
        self.settle(engine);
        Ok(Ticket { shared: Arc::clone(self), push })
    }

    fn raise_unclaimed(&self) -> Result<(), Error> {
        match self.engine().unclaimed.take() {
            None => Ok(()),
            Some(refused) => Err(Error::Refused {
                table: refused.table.name.clone(),
                partition: refused.partition,
                code: refused.code,
            }),
        }
    }

    fn flush(&self) -> Result<(), Error> {
        self.wait("the replication of all pushes", self.limits.deadline, |engine| {
            engine.routes.iter().all(|route| route.flow.unresolved() == 0).then_some(Ok(()))
        })?;
        self.raise_unclaimed()
    }

    pub(super) fn plan(
        &self,
        table: crate::wire::ids::TableId,
        schema: &TableSchema,
        keys: &(impl super::keys::Keys + ?Sized),
        row_bytes: usize,
    ) -> Result<Arc<KeyPlan>, Error> {
        check_keys(keys)?;
        self.engine().plan(table, schema, keys.as_slice(), keys.identity(), row_bytes)
    }
}

/// Checks keys that were not checked when their list was made.
pub(super) fn check_keys(keys: &(impl super::keys::Keys + ?Sized)) -> Result<(), Error> {
    if keys.identity().is_none() {
        super::keys::check(keys.as_slice())?;
    }
    Ok(())
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            tracing::warn!(session = self.id.0, %error, "a session ended with pushes that are not replicated");
        }
        self.control.end_session(self.id);
    }
}

/// One worker. Open one in each thread: its calls drive its own lanes, so threads do not wait for each other.
/// Sharing one between threads is allowed; its calls then take turns. Dropping the last handle (tables and tickets
/// hold the session too) waits until every push is replicated, at most for the cluster's deadline.
///
/// # Example
/// ```
/// use gradwire::{Cluster, ClusterConfig, Ftrl};
/// let cluster = Cluster::embedded(ClusterConfig::default())?;
/// let session = cluster.session()?;
/// let w = session.sparse("w", 1, Ftrl::default())?;
/// w.push(&[3, 17], &[0.5, -0.25])?;
/// session.clock()?;
/// session.flush()?;
/// assert_eq!(w.len()?, 2);
/// # Ok::<(), gradwire::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Session {
    pub(super) shared: Arc<Shared>,
}

impl Session {
    pub(super) fn open(control: Arc<dyn ControlPlane>, config: &ClusterConfig) -> Result<Self, Error> {
        Ok(Self { shared: Arc::new(Shared::open(control, config)?) })
    }

    /// This session's id; never given twice.
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Cluster, ClusterConfig};
    /// # let cluster = Cluster::embedded(ClusterConfig::default())?;
    /// assert_ne!(cluster.session()?.id(), cluster.session()?.id());
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.shared.id
    }

    /// Creates a sparse table of zeroes, or opens it when it exists with the same schema.
    ///
    /// # Errors
    /// [`Error::Control`] when the schema is wrong, or another one has the name.
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Adagrad, Cluster, ClusterConfig, Sgd};
    /// # let cluster = Cluster::embedded(ClusterConfig::default())?;
    /// # let session = cluster.session()?;
    /// session.sparse("embedding", 16, Adagrad { lr: 0.05, epsilon: 1e-8 })?;
    /// assert!(session.sparse("embedding", 16, Sgd { lr: 0.05 }).is_err());
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn sparse(&self, name: &str, dim: usize, optimizer: impl Into<Rule>) -> Result<SparseTable, Error> {
        self.sparse_with(name, dim, optimizer, TableOptions::default())
    }

    /// As [`Session::sparse`], with stored type, initial values and seed.
    ///
    /// # Errors
    /// As [`Session::sparse`].
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Adagrad, Cluster, ClusterConfig, Dtype, Init, TableOptions};
    /// # let cluster = Cluster::embedded(ClusterConfig::default())?;
    /// # let session = cluster.session()?;
    /// let options = TableOptions { dtype: Dtype::Bf16, init: Init::Uniform { scale: 0.01 }, seed: 7 };
    /// let v = session.sparse_with("V", 8, Adagrad::default(), options)?;
    /// let row = v.pull(&[42])?.wait()?;
    /// assert!(row.iter().all(|value| value.abs() <= 0.0101));
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn sparse_with(
        &self,
        name: &str,
        dim: usize,
        optimizer: impl Into<Rule>,
        options: TableOptions,
    ) -> Result<SparseTable, Error> {
        self.open_table(name, TableKind::Sparse, dim, optimizer.into(), options)
    }

    /// Creates a dense table of `rows` rows of zeroes, or opens it.
    ///
    /// # Errors
    /// As [`Session::sparse`].
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Cluster, ClusterConfig, Sgd};
    /// # let cluster = Cluster::embedded(ClusterConfig::default())?;
    /// # let session = cluster.session()?;
    /// let v = session.dense("V", 100, 4, Sgd { lr: 1.0 })?;
    /// v.push(&[99], &[-1.0; 4])?.wait()?;
    /// assert_eq!(&v.pull(&[98, 99])?.wait()?[..], [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn dense(
        &self,
        name: &str,
        rows: u64,
        dim: usize,
        optimizer: impl Into<Rule>,
    ) -> Result<DenseTable, Error> {
        self.dense_with(name, rows, dim, optimizer, TableOptions::default())
    }

    /// As [`Session::dense`], with stored type, initial values and seed.
    ///
    /// # Errors
    /// As [`Session::sparse`].
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Cluster, ClusterConfig, Init, Sgd, TableOptions};
    /// # let cluster = Cluster::embedded(ClusterConfig::default())?;
    /// # let session = cluster.session()?;
    /// let options = TableOptions { init: Init::Uniform { scale: 0.1 }, ..TableOptions::default() };
    /// let v = session.dense_with("V", 10, 2, Sgd::default(), options)?;
    /// assert!(v.pull(&[0])?.wait()?.iter().any(|value| *value != 0.0));
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn dense_with(
        &self,
        name: &str,
        rows: u64,
        dim: usize,
        optimizer: impl Into<Rule>,
        options: TableOptions,
    ) -> Result<DenseTable, Error> {
        Ok(DenseTable::new(
            self.open_table(name, TableKind::Dense { rows }, dim, optimizer.into(), options)?,
            rows,
        ))
    }

    fn open_table(
        &self,
        name: &str,
        kind: TableKind,
        dim: usize,
        rule: Rule,
        options: TableOptions,
    ) -> Result<SparseTable, Error> {
        let schema = TableSchema {
            name: name.to_owned(),
            kind,
            dim: u32::try_from(dim).unwrap_or(u32::MAX),
            dtype: options.dtype,
            rule,
            init: options.init,
            seed: options.seed,
            partitions: self.shared.control.map().partitions.len() as u32,
        };
        let (id, schema) = self.shared.control.open_table(&schema)?;
        Ok(SparseTable::new(Arc::clone(&self.shared), id, schema))
    }

    /// Ends this worker's iteration: its clock rises by one, in order with its pushes. Does not wait for them.
    ///
    /// # Errors
    /// [`Error::Refused`] for an earlier push whose ticket was dropped, [`Error::Deadline`] when the window stays full.
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Cluster, ClusterConfig};
    /// # let cluster = Cluster::embedded(ClusterConfig::default())?;
    /// let session = cluster.session()?;
    /// assert_eq!(session.clock()?.0, 1);
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn clock(&self) -> Result<Clock, Error> {
        self.shared.raise_unclaimed()?;
        self.shared.wait("room in the window of pushes", self.shared.deadline(), |engine| {
            engine.has_clock_room().then_some(Ok(()))
        })?;
        let mut engine = self.shared.engine();
        let clock = engine.start_clock();
        self.shared.settle(engine);
        Ok(clock)
    }

    /// Bounds how stale later pulls may be, in clocks: each waits until every live worker has come within `bound` of
    /// this session's clock. 0 is bulk-synchronous, `None` (the default) asynchronous. Every live session counts as a
    /// worker, also one that never clocks: drop those that only look before others wait.
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Add, Cluster, ClusterConfig};
    /// # let cluster = Cluster::embedded(ClusterConfig::default())?;
    /// # let session = cluster.session()?;
    /// let w = session.sparse("w", 1, Add)?;
    /// session.set_staleness(Some(2));
    /// (0..3).try_for_each(|_| session.clock().map(drop))?;
    /// assert!(w.pull(&[1])?.wait()?.staleness() <= Some(2));
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn set_staleness(&self, bound: Option<u64>) {
        self.shared.engine().staleness = bound;
    }

    /// Waits until every push of this session is replicated.
    ///
    /// # Errors
    /// [`Error::Refused`] for the first push that was refused and whose ticket was dropped; [`Error::Deadline`].
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Add, Cluster, ClusterConfig};
    /// # let cluster = Cluster::embedded(ClusterConfig::default())?;
    /// # let session = cluster.session()?;
    /// let w = session.sparse("w", 1, Add)?;
    /// for key in 0..100 {
    ///     w.push(&[key], &[1.0])?;
    /// }
    /// session.flush()?;
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn flush(&self) -> Result<(), Error> {
        self.shared.flush()
    }

    /// Waits until `count` sessions have called it under the same name; a name can be used again afterwards.
    ///
    /// # Errors
    /// [`Error::Control`] when they have not within the cluster's deadline.
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Cluster, ClusterConfig};
    /// # let cluster = Cluster::embedded(ClusterConfig::default())?;
    /// let all_passed = std::thread::scope(|scope| {
    ///     let workers: Vec<_> =
    ///         (0..2).map(|_| scope.spawn(|| cluster.session()?.barrier("start", 2))).collect();
    ///     workers.into_iter().all(|worker| worker.join().is_ok_and(|result| result.is_ok()))
    /// });
    /// assert!(all_passed);
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn barrier(&self, name: &str, count: usize) -> Result<(), Error> {
        Ok(self.shared.control.barrier(name, count, self.shared.deadline())?)
    }

    /// Drops a table and its rows, for every session.
    ///
    /// # Errors
    /// [`Error::Control`] when there is none of that name.
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Add, Cluster, ClusterConfig};
    /// # let cluster = Cluster::embedded(ClusterConfig::default())?;
    /// # let session = cluster.session()?;
    /// session.sparse("scratch", 1, Add)?;
    /// session.drop_table("scratch")?;
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn drop_table(&self, name: &str) -> Result<(), Error> {
        Ok(self.shared.control().drop_table(name)?)
    }
}
