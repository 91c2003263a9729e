//! Tables as users hold them.

use std::sync::Arc;

use gradwire_kernels::{self as kernels, Dtype, Isa, RowLayout};
use zerocopy::{FromBytes, IntoBytes};

use super::error::Error;
use super::keys::Keys;
use super::pull_path::{PullOptions, at_least};
use super::push_path::PushRequest;
use super::session::Shared;
use super::ticket::{Ack, Pull, PullTicket, Push, Ticket};
use crate::store::{Init, TableSchema};
use crate::wire::ids::{PartitionId, TableId};
use crate::wire::{CountBody, CountReplyBody, ExportBody, ExportReplyBody, Kind, Level, NO_CLOCK, PushOp};

/// Rows asked for at a time by an export; servers cut at 64 KiB.
const EXPORT_ROWS: u32 = 4096;

/// What a table is made of beyond its dimension and optimizer.
///
/// # Example
/// ```
/// use gradwire::{Dtype, Init, TableOptions};
/// let options = TableOptions { init: Init::Uniform { scale: 0.01 }, seed: 7, ..TableOptions::default() };
/// assert_eq!(options.dtype, Dtype::F32);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct TableOptions {
    /// How values are stored; pulls and pushes are f32 whatever this is.
    pub dtype: Dtype,
    /// Values of a row before its first push.
    pub init: Init,
    /// Seed of initial values.
    pub seed: u64,
}

impl Default for TableOptions {
    fn default() -> Self {
        Self { dtype: Dtype::F32, init: Init::Zero, seed: 0 }
    }
}

/// Everything in a table, sorted by key.
///
/// # Example
/// ```
/// # use gradwire::{Cluster, ClusterConfig, Ftrl};
/// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
/// let w = session.sparse("w", 1, Ftrl::default())?;
/// w.push(&[5], &[1.0])?.wait()?;
/// let all = w.export()?;
/// assert_eq!((all.keys.len(), all.values.len(), all.words), (1, 1, 2)); // ftrl keeps z and n
/// # Ok::<(), gradwire::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exported {
    /// Keys, increasing.
    pub keys: Vec<u64>,
    /// Values, `[keys, dim]`.
    pub values: Vec<f32>,
    /// Rows as stored, values and optimizer state, `[keys, words]` 32-bit words.
    pub rows: Vec<u32>,
    /// Words a row.
    pub words: usize,
}

/// A table of rows by u64 key, of which each is made by the first push to it. Cheap to clone; a clone belongs to the
/// same session.
///
/// # Example
/// ```
/// # use gradwire::{Adagrad, Cluster, ClusterConfig};
/// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
/// let embedding = session.sparse("embedding", 4, Adagrad { lr: 0.5, epsilon: 1e-8 })?;
/// let ids = [12, 90]; // any u64 but the largest, strictly increasing
/// let before = embedding.pull(&ids)?.wait()?;
/// embedding.push(&ids, &[1.0; 8])?;
/// let after = embedding.pull(&ids)?.wait()?;
/// assert!(before.iter().zip(after.iter()).all(|(before, after)| after < before));
/// # Ok::<(), gradwire::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct SparseTable {
    shared: Arc<Shared>,
    id: TableId,
    schema: Arc<TableSchema>,
    layout: RowLayout,
}

impl SparseTable {
    pub(super) fn new(shared: Arc<Shared>, id: TableId, schema: Arc<TableSchema>) -> Self {
        let layout = RowLayout::new(&schema.rule, schema.dim as usize, schema.dtype);
        Self { shared, id, schema, layout }
    }

    /// What the table is.
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Add, Cluster, ClusterConfig};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// assert_eq!(session.sparse("w", 3, Add)?.schema().dim, 3);
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    #[must_use]
    pub fn schema(&self) -> &TableSchema {
        &self.schema
    }

    fn dim(&self) -> usize {
        self.schema.dim as usize
    }

    /// Asks for the rows of `keys`, `[keys, dim]` f32. Makes no rows: a key without one gives its initial values.
    ///
    /// Ordering: after this session's earlier pushes to the same partitions.
    ///
    /// # Errors
    /// [`Error::Keys`] when the keys are not strictly increasing.
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Add, Cluster, ClusterConfig};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// let w = session.sparse("w", 2, Add)?;
    /// let pull = w.pull(&[1, 5])?; // goes on while we compute
    /// assert_eq!(&pull.wait()?[..], [0.0; 4]);
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn pull(&self, keys: &(impl Keys + ?Sized)) -> Result<PullTicket, Error> {
        self.pull_with(keys, Pull::default())
    }

    /// As [`SparseTable::pull`], choosing consistency, memory and deadline.
    ///
    /// # Errors
    /// As [`SparseTable::pull`].
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Add, Cluster, ClusterConfig, Pull};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// # let w = session.sparse("w", 1, Add)?;
    /// w.pull_with(&[1], Pull { strong: true, ..Pull::default() })?.wait()?;
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn pull_with(&self, keys: &(impl Keys + ?Sized), pull: Pull) -> Result<PullTicket, Error> {
        let patience = pull.deadline.unwrap_or(self.shared.deadline());
        super::session::check_keys(keys)?;
        let mut engine = self.shared.engine();
        let plan = engine.plan(self.id, &self.schema, keys.as_slice(), keys.identity(), self.dim() * 4)?;
        if plan.parts.is_empty() {
            return Ok(PullTicket { shared: Arc::clone(&self.shared), pull: None, patience });
        }
        engine.check_alive()?;
        let options = PullOptions {
            strong: pull.strong,
            at_least: pull.at_least.map_or(at_least(engine.staleness, engine.clock), |clock| clock.0),
            patience_ms: u32::try_from(patience.as_millis()).unwrap_or(u32::MAX),
        };
        let pull = engine.start_pull(self.id, &self.schema, plan, pull.buffer, options);
        self.shared.settle(engine);
        Ok(PullTicket { shared: Arc::clone(&self.shared), pull: Some(pull), patience })
    }

    /// Pulls into `out` and waits. Cost: no allocation once `out` has room for `keys.len() * dim`.
    ///
    /// # Errors
    /// As [`PullTicket::wait`]; `out` is then empty.
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Add, Cluster, ClusterConfig};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// # let w = session.sparse("w", 1, Add)?;
    /// let mut out = Vec::new();
    /// w.pull_into(&[1, 2, 3], &mut out)?;
    /// assert_eq!(out, [0.0; 3]);
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn pull_into(&self, keys: &(impl Keys + ?Sized), out: &mut Vec<f32>) -> Result<(), Error> {
        let buffer = std::mem::take(out);
        *out = self.pull_with(keys, Pull { buffer, ..Pull::default() })?.wait()?.into_values();
        Ok(())
    }

    /// Sends gradients, `[keys, dim]`, for the table's optimizer to apply; makes the rows that do not exist.
    /// Asynchronous: returns once the push is kept and its window has room.
    ///
    /// # Errors
    /// [`Error::Keys`], [`Error::Shape`]; [`Error::Deadline`] when the window stays full; [`Error::Refused`] for an
    /// earlier push whose ticket was dropped. Nothing is sent on an error.
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Cluster, ClusterConfig, Sgd};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// let w = session.sparse("w", 2, Sgd { lr: 0.5 })?;
    /// w.push(&[7, 9], &[1.0, 2.0, 3.0, 4.0])?.wait()?;
    /// assert_eq!(&w.pull(&[9])?.wait()?[..], [-1.5, -2.0]);
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn push(&self, keys: &(impl Keys + ?Sized), gradient: &[f32]) -> Result<Ticket, Error> {
        self.push_with(keys, gradient, Push::default())
    }

    /// As [`SparseTable::push`], choosing dependencies, acknowledgement and deadline.
    ///
    /// # Errors
    /// As [`SparseTable::push`]; an error of a push in `after` comes out here and nothing is sent.
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Ack, Add, Cluster, ClusterConfig, Push};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// # let w = session.sparse("w", 1, Add)?;
    /// let ticket = w.push(&[1], &[1.0])?;
    /// w.push_with(&[2], &[1.0], Push { after: &[&ticket], ack: Ack::Applied, ..Push::default() })?.wait()?;
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn push_with(
        &self,
        keys: &(impl Keys + ?Sized),
        gradient: &[f32],
        push: Push<'_>,
    ) -> Result<Ticket, Error> {
        self.send(keys, words(gradient), self.dim(), "the gradient", PushOp::Update, push)
    }

    /// Pushes, then pulls the same keys: the rows reflect this push.
    ///
    /// # Errors
    /// As [`SparseTable::push`]. A refusal comes out of the session's next call.
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Add, Cluster, ClusterConfig};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// # let w = session.sparse("w", 1, Add)?;
    /// assert_eq!(&w.push_pull(&[4], &[2.5])?.wait()?[..], [2.5]);
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn push_pull(&self, keys: &(impl Keys + ?Sized), gradient: &[f32]) -> Result<PullTicket, Error> {
        drop(self.push(keys, gradient)?);
        self.pull(keys)
    }

    /// Sets values, `[keys, dim]`, and starts the rows' optimizer state anew.
    ///
    /// # Errors
    /// As [`SparseTable::push`].
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Adagrad, Cluster, ClusterConfig};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// let w = session.sparse("w", 1, Adagrad::default())?;
    /// w.assign(&[1], &[0.75])?.wait()?;
    /// assert_eq!(&w.pull(&[1])?.wait()?[..], [0.75]);
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn assign(&self, keys: &(impl Keys + ?Sized), values: &[f32]) -> Result<Ticket, Error> {
        self.send(keys, words(values), self.dim(), "the assignment", PushOp::Assign, Push::default())
    }

    /// Removes rows; keys without one are passed over.
    ///
    /// # Errors
    /// As [`SparseTable::push`].
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Add, Cluster, ClusterConfig};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// let w = session.sparse("w", 1, Add)?;
    /// w.push(&[1, 2], &[1.0, 1.0])?;
    /// w.erase(&[1])?.wait()?;
    /// assert!(!w.contains(1)? && w.contains(2)?);
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn erase(&self, keys: &(impl Keys + ?Sized)) -> Result<Ticket, Error> {
        self.send(keys, &[], 0, "the erasure", PushOp::Erase, Push::default())
    }

    /// Puts whole rows back, as an export gave them, optimizer state included.
    ///
    /// # Errors
    /// As [`SparseTable::push`].
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Cluster, ClusterConfig, Ftrl};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// let w = session.sparse("w", 1, Ftrl::default())?;
    /// w.push(&[1, 2], &[0.5, -0.5])?.wait()?;
    /// let all = w.export()?;
    /// let copy = session.sparse("copy", 1, Ftrl::default())?;
    /// copy.import(&all.keys, &all.rows)?.wait()?;
    /// assert_eq!(copy.export()?, all);
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn import(&self, keys: &(impl Keys + ?Sized), rows: &[u32]) -> Result<Ticket, Error> {
        self.send(keys, rows, self.layout.words(), "the import", PushOp::Import, Push::default())
    }

    fn send(
        &self,
        keys: &(impl Keys + ?Sized),
        rows: &[u32],
        width: usize,
        what: &'static str,
        op: PushOp,
        push: Push<'_>,
    ) -> Result<Ticket, Error> {
        let expected = keys.as_slice().len() * width;
        if rows.len() != expected {
            let table = self.schema.name.clone();
            return Err(Error::Shape { table, what, expected, found: rows.len() });
        }
        let patience = push.deadline.unwrap_or(self.shared.deadline());
        // A pull of the same list must find the same parts, so that a server knows them by the same digests.
        let row_bytes = if op == PushOp::Import { width * 4 } else { self.dim() * 4 };
        let plan = self.shared.plan(self.id, &self.schema, keys, row_bytes)?;
        for ticket in push.after {
            ticket.wait_for(patience)?;
        }
        let level = match push.ack {
            Ack::Applied => Level::Applied,
            Ack::Replicated => Level::Replicated,
        };
        let request = PushRequest { table: self.id, schema: &self.schema, plan, op, width, rows, level };
        self.shared.push(&request, patience)
    }

    /// Whether a key has a row.
    ///
    /// # Errors
    /// As [`PullTicket::wait`].
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Add, Cluster, ClusterConfig};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// assert!(!session.sparse("w", 1, Add)?.contains(12)?);
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn contains(&self, key: u64) -> Result<bool, Error> {
        Ok(self.pull(&[key])?.wait()?.found(0))
    }

    /// Number of rows, over all partitions. Each partition is counted at its own moment.
    ///
    /// # Errors
    /// [`Error::Deadline`], or [`Error::Pull`] when the table was dropped.
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Add, Cluster, ClusterConfig};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// let w = session.sparse("w", 1, Add)?;
    /// w.push(&[10, 20], &[1.0, 1.0])?;
    /// assert_eq!(w.len()?, 2);
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn len(&self) -> Result<u64, Error> {
        let mut rows = 0;
        for partition in (0..self.schema.partitions).map(PartitionId) {
            let answer = self.ask(Kind::Count, partition, CountBody { reserved: 0.into() }.as_bytes())?;
            let (body, _) =
                CountReplyBody::split(&answer).map_err(|error| Error::Protocol(error.to_string()))?;
            self.check_status(partition, body.status.get())?;
            rows += body.rows.get();
        }
        Ok(rows)
    }

    /// Whether there is no row; as [`SparseTable::len`].
    ///
    /// # Errors
    /// As [`SparseTable::len`].
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Add, Cluster, ClusterConfig};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// assert!(session.sparse("w", 1, Add)?.is_empty()?);
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn is_empty(&self) -> Result<bool, Error> {
        Ok(self.len()? == 0)
    }

    /// Every row, sorted by key. Rows pushed meanwhile may or may not be in it; quiesce first for an exact state.
    ///
    /// # Errors
    /// As [`SparseTable::len`].
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Add, Cluster, ClusterConfig};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// let w = session.sparse("w", 1, Add)?;
    /// w.push(&[2, 9], &[0.5, 1.5])?.wait()?;
    /// let all = w.export()?;
    /// assert_eq!((all.keys, all.values), (vec![2, 9], vec![0.5, 1.5]));
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn export(&self) -> Result<Exported, Error> {
        let words = self.layout.words();
        let mut found: Vec<(u64, u32)> = Vec::new();
        let mut pieces: Vec<u32> = Vec::new();
        for partition in (0..self.schema.partitions).map(PartitionId) {
            let mut cursor = 0;
            while cursor != NO_CLOCK {
                let body = ExportBody { cursor: cursor.into(), rows: EXPORT_ROWS.into(), reserved: 0.into() };
                let answer = self.ask(Kind::Export, partition, body.as_bytes())?;
                cursor = self.take_export(partition, &answer, &mut found, &mut pieces)?;
            }
        }
        found.sort_unstable();
        let mut out = Exported { words, ..Exported::default() };
        out.rows.reserve_exact(found.len() * words);
        for (key, place) in found {
            let start = place as usize * words;
            // An index grown in the middle of an export may show a row twice.
            if out.keys.last() == Some(&key) {
                continue;
            }
            out.keys.push(key);
            out.rows.extend_from_slice(&pieces[start..start + words]);
        }
        let offsets: Vec<u32> = (0..out.keys.len() as u32).collect();
        out.values.resize(out.keys.len() * self.dim(), 0.0);
        kernels::read_rows(
            Isa::active(),
            &self.schema.rule,
            &self.layout,
            &out.rows,
            words,
            &offsets,
            &mut out.values,
        );
        Ok(out)
    }

    fn take_export(
        &self,
        partition: PartitionId,
        answer: &[u8],
        found: &mut Vec<(u64, u32)>,
        pieces: &mut Vec<u32>,
    ) -> Result<u64, Error> {
        let bad = || Error::Protocol("an export that does not hold what it names".into());
        let (body, rest) =
            ExportReplyBody::split(answer).map_err(|error| Error::Protocol(error.to_string()))?;
        self.check_status(partition, body.status.get())?;
        let (rows, words) = (body.rows.get() as usize, body.words.get() as usize);
        if words != self.layout.words() || rest.len() != rows * 8 + rows * words * 4 {
            return Err(bad());
        }
        let (keys, values) = rest.split_at(rows * 8);
        for key in keys.chunks_exact(8) {
            let key = u64::read_from_bytes(key).map_err(|_| bad())?;
            let place = u32::try_from(found.len()).map_err(|_| bad())?;
            found.push((key, place));
        }
        let start = pieces.len();
        pieces.resize(start + rows * words, 0);
        pieces[start..].as_mut_bytes().copy_from_slice(values);
        Ok(body.cursor.get())
    }

    fn check_status(&self, partition: PartitionId, status: u16) -> Result<(), Error> {
        use crate::wire::PullStatus;
        match PullStatus::from_wire(status) {
            Some(PullStatus::Rows) => Ok(()),
            Some(status) => Err(Error::Pull { table: self.schema.name.clone(), partition, status }),
            None => Err(Error::Protocol(format!("unknown status {status}"))),
        }
    }

    fn ask(&self, kind: Kind, partition: PartitionId, body: &[u8]) -> Result<Vec<u8>, Error> {
        let ask = self.shared.engine().start_ask(kind, self.id, partition, body);
        let answer = self.shared.wait("an answer of a server", self.shared.deadline(), |engine| {
            engine.asks.get_mut(ask)?.answer.take().map(Ok)
        });
        self.shared.engine().asks.remove(ask);
        answer
    }
}

fn words(values: &[f32]) -> &[u32] {
    // Same size and alignment, every bit pattern valid: never an error.
    <[u32]>::ref_from_bytes(values.as_bytes()).unwrap_or(&[])
}

/// A table of `rows` rows, all of which exist; a key is a row's index.
///
/// # Example
/// ```
/// # use gradwire::{Cluster, ClusterConfig, Sgd};
/// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
/// let bias = session.dense("bias", 10, 1, Sgd { lr: 0.1 })?;
/// bias.push(&[0, 9], &[1.0, 1.0])?;
/// assert_eq!(bias.pull_all()?.wait()?.iter().filter(|value| **value != 0.0).count(), 2);
/// # Ok::<(), gradwire::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct DenseTable {
    table: SparseTable,
    rows: u64,
}

impl DenseTable {
    pub(super) fn new(table: SparseTable, rows: u64) -> Self {
        Self { table, rows }
    }

    /// Rows of the table.
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Add, Cluster, ClusterConfig};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// assert_eq!(session.dense("V", 12, 2, Add)?.rows(), 12);
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Pulls every row, in order.
    ///
    /// # Errors
    /// As [`SparseTable::pull`].
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Add, Cluster, ClusterConfig};
    /// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
    /// let v = session.dense("V", 3, 1, Add)?;
    /// v.push(&[1], &[5.0])?;
    /// assert_eq!(&v.pull_all()?.wait()?[..], [0.0, 5.0, 0.0]);
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn pull_all(&self) -> Result<PullTicket, Error> {
        self.table.pull(&(0..self.rows).collect::<Vec<u64>>())
    }
}

impl std::ops::Deref for DenseTable {
    type Target = SparseTable;

    fn deref(&self) -> &SparseTable {
        &self.table
    }
}
